"""GRPO: each choice of its table by hand, its gradient by differences and enumeration, against tests/wrong.py."""

import math

import pytest
import torch
from torch import distributed
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import wrong
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.grpo import (
    LENGTHS,
    RATIOS,
    SIGMAS,
    GRPOConfig,
    clipped_surrogate,
    group_advantages,
    grpo_loss,
    importance_ratio,
    kl_term,
    length_weights,
)
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.train import TrainConfig, Trainer
from small import environment, taught_model, tiny_model, tokenizer
from test_reinforce import Toy

F64 = torch.float64


def t(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


# --- advantages (sec. 3.3) ----------------------------------------------------------------------------------------


def check_advantages(advantages):
    rewards, groups = t(1, 4, 0, 0, 0, 0), torch.tensor([0, 1, 0, 0, 1, 0])  # 1 0 0 0 and 4 0, interleaved
    # group 0: mean .25; squares .5625 + 3 x .0625 = .75; sigma sqrt(.75 / 3) = .5 or sqrt(.75 / 4) = .4330
    # group 1: mean 2; squares 8; sigma sqrt(8 / 1) = 2.8284 or sqrt(8 / 2) = 2
    expected = {
        "none": [0.75, 2, -0.25, -0.25, -2, -0.25],
        "group": [1.4997, 0.7071, -0.4999, -0.4999, -0.7071, -0.4999],  # .75 / .5001, 2 / 2.8285
        "population": [1.7317, 0.9999, -0.5772, -0.5772, -0.9999, -0.5772],  # .75 / .4331, 2 / 2.0001
    }
    for sigma, values in expected.items():
        got = advantages(rewards, groups, sigma)
        assert_close(got, t(*values), atol=1e-4, rtol=0)
        for g in (0, 1):
            assert abs(float(got[groups == g].sum())) < 1e-6
        noise = advantages(t(0.3, 0.3 + 1e-7, 0.3 - 1e-7, 0.3), torch.zeros(4), sigma)
        assert noise.abs().max() < 0.01  # rounding must not cause a step
    for winners, advantage in ((1, 2.4749), (4, 0.9354)):  # of 8: .875 / sqrt(.875 / 7) = 2.4749; .5 / sqrt(2 / 7)
        got = advantages(t(*[1] * winners, *[0] * (8 - winners)), torch.zeros(8), "group")
        assert float(got[0]) == pytest.approx(advantage, abs=1e-3)


def test_advantages_by_hand():
    check_advantages(group_advantages)


@pytest.mark.parametrize("version", wrong.ADVANTAGES, ids=lambda f: f.__name__)
def test_wrong_advantages_are_rejected(version):
    with pytest.raises(AssertionError):
        check_advantages(version)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_equal_rewards_give_exactly_0(sigma):
    for n in range(2, 40):
        for value in (0.0, 0.1, 0.3, 5.2, 1e-7, 1e7):
            assert group_advantages(torch.full((n,), value), torch.zeros(n), sigma).tolist() == [0.0] * n


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_order_of_the_rows_and_other_groups_do_not_matter(sigma):
    rng = torch.Generator().manual_seed(0)
    rewards, groups = torch.rand(30, generator=rng), torch.arange(30) % 7
    order = torch.randperm(30, generator=rng)
    whole = group_advantages(rewards, groups, sigma)
    assert_close(group_advantages(rewards[order], groups[order], sigma), whole[order])
    assert_close(group_advantages(rewards[groups == 3], groups[groups == 3], sigma), whole[groups == 3])


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least two episodes"):
        group_advantages(t(1, 0, 1), torch.tensor([0, 0, 1]), "none")


# --- ratio and clip, eq. 11 inner part ----------------------------------------------------------------------------


def check_ratio(ratio):
    """pi (.1, .4, .9, .2) and pi_old (.5, .2, .3, .4): ratios .2, 2, 3, .5; the middle two were sampled."""
    logprobs = torch.log(t([0.1, 0.4, 0.9, 0.2], [0.1, 0.4, 0.9, 0.2], dtype=F64)).requires_grad_()
    old = torch.log(t([0.5, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4], dtype=F64))
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    assert_close(ratio(logprobs, old, mask, "token"), t([0.2, 2, 3, 0.5], [0.2, 2, 3, 0.5], dtype=F64))
    got = ratio(logprobs, old, mask, "sequence")
    assert_close(got, t([6**0.5], [2], dtype=F64))  # sqrt(2 x 3); one token: 2
    (slope,) = torch.autograd.grad(got.sum(), logprobs)  # each of n tokens: the ratio / n
    assert_close(slope, t([0, 6**0.5 / 2, 6**0.5 / 2, 0], [0, 2, 0, 0], dtype=F64))


def test_ratio_by_hand():
    check_ratio(importance_ratio)


@pytest.mark.parametrize("version", wrong.RATIOS, ids=lambda f: f.__name__)
def test_wrong_ratios_are_rejected(version):
    with pytest.raises(AssertionError):
        check_ratio(version)


def test_the_ratio_of_an_episode_without_a_sampled_token_is_1():
    assert importance_ratio(t([0.3, 0.4]), t([0.1, 0.2]), torch.zeros(1, 2), "sequence").tolist() == [[1.0]]


def check_surrogate(surrogate):
    """Clip (.2, .28); ratios .5, 1, 1.25, 2 with A = 2 and A = -1."""
    logprobs = torch.log(t([0.5, 1, 1.25, 2], [0.5, 1, 1.25, 2], dtype=F64)).requires_grad_()
    got = surrogate(logprobs.exp(), t(2, -1, dtype=F64), (0.2, 0.28))
    # A = 2: min(1, 1.6) = 1; 2; 2.5 (1.25 lies inside); min(4, 2.56) = 2.56
    # A = -1: min(-.5, -.8) = -.8; -1; -1.25; min(-2, -1.28) = -2
    assert_close(got, t([1, 2, 2.5, 2.56], [-0.8, -1, -1.25, -2], dtype=F64))
    # d/d logprob = ratio x A where not clipped, 0 where the clip is the smaller one
    (slope,) = torch.autograd.grad(got.sum(), logprobs)
    assert_close(slope, t([1, 2, 2.5, 0], [0, -1, -1.25, -2], dtype=F64))
    # .75 lies outside low = .2 and inside high = .28: min(-.75, -.8) = -.8
    inside = surrogate(t([0.75], dtype=F64), t(-1, dtype=F64), (0.2, 0.28))
    assert_close(inside, t([-0.8], dtype=F64))


def test_surrogate_by_hand():
    check_surrogate(clipped_surrogate)


@pytest.mark.parametrize("version", wrong.SURROGATES, ids=lambda f: f.__name__)
def test_wrong_surrogates_are_rejected(version):
    with pytest.raises(AssertionError):
        check_surrogate(version)


@pytest.mark.parametrize("kind", RATIOS)
def test_on_the_first_step_ratio_and_clip_do_nothing(kind):
    """pi = pi_old: the value is A, the gradient is REINFORCE's, exactly (a sequence's: its n tokens share it)."""
    logprobs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    advantages, mask = t(2, -1, 0.5), torch.ones(3, 4)
    ratio = importance_ratio(logprobs, logprobs.detach(), mask, kind)
    got = clipped_surrogate(ratio, advantages, (0.2, 0.28))
    assert torch.equal(ratio, torch.ones_like(ratio))
    assert torch.equal(got, advantages[:, None].expand_as(got))
    (slope,) = torch.autograd.grad(got.sum(), logprobs)
    assert torch.equal(slope, advantages[:, None].expand(3, 4) / (1 if kind == "token" else 4))


def test_without_a_clip_token_and_sequence_ratio_agree_on_the_first_step_only():
    """On policy one gradient; off policy an episode's tokens share one weight, each token has its own."""
    logprobs, old, advantages, mask, _ = batch()
    slopes = {}
    for kind in RATIOS:
        for where, past in (("on", logprobs), ("off", old)):
            leaf = logprobs.clone().requires_grad_()
            loss = grpo_loss(leaf, past, advantages, mask, GRPOConfig(ratio=kind, clip=(1, 9)), 4, int(mask.sum()))
            slopes[kind, where] = torch.autograd.grad(loss, leaf)[0]
    assert_close(slopes["token", "on"], slopes["sequence", "on"], atol=1e-15, rtol=0)
    assert (slopes["token", "off"] - slopes["sequence", "off"]).abs().max() > 1e-3
    own = [row[m] for row, m in zip(slopes["sequence", "off"], mask, strict=True)]
    assert all(torch.allclose(row, row[0]) for row in own)


# --- KL -----------------------------------------------------------------------------------------------------------


def check_kl(kl):
    """Over a categorical of 5: value and exact on-policy gradient are those of KL(pi || ref), the reverse one."""
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(5, generator=rng, dtype=F64, requires_grad=True)
    reference = torch.log_softmax(torch.randn(5, generator=rng, dtype=F64), 0)
    log_pi = torch.log_softmax(theta, 0)
    p, ratio = log_pi.detach().exp(), torch.exp(log_pi - log_pi.detach())
    reverse = (log_pi.exp() * (log_pi - reference)).sum()
    (right,) = torch.autograd.grad(reverse, theta, retain_graph=True)
    mean = (p * kl(log_pi, reference, ratio)).sum()  # weighted by how often pi draws each token
    (got,) = torch.autograd.grad(mean, theta)
    assert_close(mean.detach(), reverse.detach(), atol=1e-10, rtol=0)
    assert_close(got, right, atol=1e-10, rtol=0)
    one = kl(t([math.log(0.5)], dtype=F64), t([math.log(0.25)], dtype=F64), t([1.25], dtype=F64))
    # d = log(.25 / .5) = -log 2: k3 = .5 + .6931 - 1 = .1931; times the ratio 1.25: .2414
    assert_close(one, t([0.24143398], dtype=F64))


def test_kl_by_hand_and_by_enumeration():
    check_kl(kl_term)


@pytest.mark.parametrize("version", wrong.KLS, ids=lambda f: f.__name__)
def test_wrong_kls_are_rejected(version):
    with pytest.raises(AssertionError):
        check_kl(version)


def test_k3_alone_has_the_gradient_of_the_forward_kl():
    """Why `kl_term` has the ratio: without it the loss would pull towards another optimum."""
    theta = t(0.3, -1.0, 0.5, dtype=F64).requires_grad_()
    reference = torch.log_softmax(t(1.0, 0.2, -0.7, dtype=F64), 0)
    log_pi = torch.log_softmax(theta, 0)
    got = torch.autograd.grad((log_pi.detach().exp() * wrong.k3_without_ratio(log_pi, reference, None)).sum(), theta)
    forward = (reference.exp() * (reference - torch.log_softmax(theta, 0))).sum()
    assert_close(got, torch.autograd.grad(forward, theta), atol=1e-10, rtol=0)


def test_kl_of_a_policy_that_is_its_reference_is_exactly_0():
    logprobs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    got = kl_term(logprobs, logprobs.detach(), torch.exp(logprobs - logprobs.detach()))
    (slope,) = torch.autograd.grad(got.sum(), logprobs)
    assert not got.any() and not slope.any()


def check_reference(score):
    """At every temperature the KL of a policy to itself is 0, and to another policy it is not."""
    tokens, mask = torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(0)), torch.ones(4, 12) > 0
    mask[:, :3] = False
    model, other = tiny_model(40), tiny_model(40, seed=1)
    with torch.no_grad():
        for temperature in (0.7, 1.0, 1.3):
            logprobs, _ = token_logprobs(model, tokens, mask, temperature)
            one = torch.ones_like(logprobs)
            assert kl_term(logprobs, score(model, tokens, mask, temperature), one)[mask].sum() <= 1e-6
            assert kl_term(logprobs, score(other, tokens, mask, temperature), one)[mask].sum() > 0.1


def test_the_reference_is_scored_as_the_policy_is():
    check_reference(lambda *args: token_logprobs(*args)[0])


@pytest.mark.parametrize("version", wrong.REFERENCES, ids=lambda f: f.__name__)
def test_wrong_references_are_rejected(version):
    with pytest.raises(AssertionError):
        check_reference(version)


def test_the_reference_stays_what_the_policy_was():
    config = TrainConfig(prompts_per_step=2, group=2, micro_batches=1, grpo=GRPOConfig(beta=0.1, sigma="group"))
    tok = tokenizer()
    it = Trainer(taught_model(), tok, [environment()], config)
    start = [parameter.detach().clone() for parameter in it.model.parameters()]
    lines = [it.step() for _ in range(3)]
    assert all(map(torch.equal, start, it.reference.parameters()))
    assert not any(parameter.requires_grad for parameter in it.reference.parameters())
    assert not all(map(torch.equal, start, it.model.parameters()))
    assert lines[0]["kl"] == 0 < lines[-1]["kl"]


# --- length rules -------------------------------------------------------------------------------------------------

ANSWERS = torch.arange(8)[None, :] < torch.tensor([2, 4, 4, 8])[:, None]  # one group, 18 tokens


def check_lengths(weights):
    """Rewards (1, 0, 0, 0), lengths (2, 4, 4, 8): the weight of a token of each answer in well-known code."""
    table = [  # sigma, rule, constant, weight of a token of each answer
        ("none", "token", 1, (0.042, -0.014, -0.014, -0.014)),  # nanochat: .75 / 18
        ("population", "token", 1, (0.096, -0.032, -0.032, -0.032)),  # GRPO-Zero, nano-aha-moment: 1.732 / 18
        ("group", "constant", 1, (0.375, -0.125, -0.125, -0.125)),  # reasoning-from-scratch: 1.5 / 4
        ("group", "sequence", 1, (0.188, -0.031, -0.031, -0.016)),  # simple_GRPO: 1.5 / 2 / 4, ..., -.5 / 8 / 4
        ("none", "constant", 8, (0.023, -0.008, -0.008, -0.008)),  # Dr. GRPO: .75 / (4 x 8)
    ]
    for sigma, rule, constant, expected in table:
        advantages = group_advantages(t(1, 0, 0, 0), torch.zeros(4), sigma)
        parts = [weights(ANSWERS[rows].float(), rule, 4, 18, constant) for rows in ([0, 3], [1, 2])]  # micro-batches
        got = torch.cat(parts)[[0, 2, 3, 1]] * advantages[:, None]
        for row, value in enumerate(expected):
            assert_close(got[row], value * ANSWERS[row], atol=6e-4, rtol=0)


def test_length_rules_by_hand():
    check_lengths(length_weights)


@pytest.mark.parametrize("version", wrong.LENGTHS, ids=lambda f: f.__name__)
def test_wrong_length_rules_are_rejected(version):
    with pytest.raises(AssertionError):
        check_lengths(version)


def test_under_the_constant_rule_a_token_weighs_the_same_in_any_company():
    short, long = (length_weights(ANSWERS[rows].float(), "constant", 2, 99, 8) for rows in ([0, 1], [0, 3]))
    assert torch.equal(short[0], long[0])
    assert length_weights(ANSWERS.float(), "constant", 4, 18, 8)[ANSWERS].unique().numel() == 1  # and at any own length


@pytest.mark.parametrize("rule", LENGTHS)
def test_only_sampled_tokens_are_counted(rule):
    """A memory of 3 or of 30 masked tokens: the weight of the sampled tokens is the same."""
    short, long = (torch.tensor([[0.0, 1, *[0] * n, 1, 1]]) for n in (3, 30))
    weights = [length_weights(mask, rule, 1, int(mask.sum()), 8) for mask in (short, long)]
    assert torch.equal(*(w[w > 0] for w in weights))


# --- the loss, eq. 11 ---------------------------------------------------------------------------------------------


def batch(seed=0, rows=4, width=9, dtype=F64):
    """Ragged rows with a masked block in the middle; old and reference log-probabilities differ from the policy's."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=dtype)  # noqa: E731
    mask = torch.arange(width)[None, :] < torch.randint(5, width + 1, (rows, 1), generator=rng)
    mask[:, 0], mask[:, 3:5] = False, False
    logprobs = -draw(rows, width).abs() - 0.1
    old, reference = logprobs + 0.3 * draw(rows, width), logprobs + 0.3 * draw(rows, width)
    return logprobs, old, draw(rows), mask, reference


def in_plain_loops(logprobs, old, advantages, mask, config, episodes, tokens, reference):
    """A second implementation of eq. 11: token by token, on floats."""
    total = 0.0
    for row in range(len(logprobs)):
        own = int(mask[row].sum())
        logs = [float(logprobs[row, c] - old[row, c]) for c in range(logprobs.shape[1]) if mask[row, c]]
        for column in range(logprobs.shape[1]):
            if not mask[row, column]:
                continue
            lp, a = float(logprobs[row, column]), float(advantages[row])
            log_ratio = lp - float(old[row, column]) if config.ratio == "token" else sum(logs) / own
            ratio = math.exp(log_ratio)
            objective = min(ratio * a, min(max(ratio, 1 - config.clip[0]), 1 + config.clip[1]) * a)
            if config.beta:
                d = float(reference[row, column]) - lp
                objective -= config.beta * ratio * (math.exp(d) - d - 1)
            divisor = {"token": tokens, "sequence": own * episodes, "constant": episodes * config.max_tokens}
            total -= objective / divisor[config.length]
    return total


CHOICES = [
    GRPOConfig(length=rule, ratio=ratio, beta=beta, max_tokens=7)
    for rule in LENGTHS
    for ratio in RATIOS
    for beta in (0.0, 0.04)
]


@pytest.mark.parametrize("config", CHOICES, ids=lambda c: f"{c.length}-{c.ratio}-{c.beta}")
def test_loss_is_the_sum_over_tokens(config):
    for seed in range(5):
        logprobs, old, advantages, mask, reference = batch(seed)
        counts = len(logprobs), int(mask.sum())
        got = grpo_loss(logprobs, old, advantages, mask, config, *counts, reference)
        expected = in_plain_loops(logprobs, old, advantages, mask, config, *counts, reference)
        assert float(got) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("config", CHOICES, ids=lambda c: f"{c.length}-{c.ratio}-{c.beta}")
def test_micro_batches_add_up(config):
    logprobs, old, advantages, mask, reference = batch()
    counts = len(logprobs), int(mask.sum())
    whole = grpo_loss(logprobs, old, advantages, mask, config, *counts, reference)
    parts = [
        grpo_loss(logprobs[i], old[i], advantages[i], mask[i], config, *counts, reference[i])
        for i in (torch.tensor([2]), torch.tensor([0, 3, 1]))
    ]
    assert_close(sum(parts), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("config", CHOICES, ids=lambda c: f"{c.length}-{c.ratio}-{c.beta}")
def test_gradient_in_the_logits_by_finite_differences(config):
    """Central differences through log-softmax; the seeds keep every ratio off the kinks of the clip."""
    _, _, advantages, mask, _ = batch(1, rows=3, width=7)
    rng = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 7, 4, generator=rng, dtype=F64, requires_grad=True)
    chosen = torch.randint(0, 4, (3, 7, 1), generator=rng)
    start = torch.log_softmax(logits.detach(), -1).gather(2, chosen).squeeze(2)
    old, reference = (start + 0.3 * torch.randn(3, 7, generator=rng, dtype=F64) for _ in range(2))

    def loss(logits):
        logprobs = torch.log_softmax(logits, -1).gather(2, chosen).squeeze(2)
        return grpo_loss(logprobs, old, advantages, mask, config, 3, int(mask.sum()), reference)

    assert torch.autograd.gradcheck(loss, logits, eps=1e-6, atol=1e-8)
    (slope,) = torch.autograd.grad(loss(logits), logits)
    assert not slope[~mask].any() and slope[mask].abs().sum() > 0  # exactly 0 at prompt, memory and padding


@pytest.mark.parametrize("config", CHOICES, ids=lambda c: f"{c.length}-{c.ratio}-{c.beta}")
@pytest.mark.parametrize("rubbish", [3.0, -800.0, 800.0, float("nan"), float("inf"), -float("inf")])
def test_what_stands_outside_the_mask_changes_no_bit(config, rubbish):
    def run(old, reference):
        leaf = logprobs.clone().requires_grad_()
        loss = grpo_loss(leaf, old, advantages, mask, config, 4, int(mask.sum()), reference)
        return loss, *torch.autograd.grad(loss, leaf)

    logprobs, old, advantages, mask, reference = batch(dtype=torch.float32)
    moved = [torch.where(mask, values, torch.tensor(rubbish)) for values in (old, reference)]
    for clean, dirty in zip(run(old, reference), run(*moved), strict=True):
        assert torch.equal(clean, dirty)
    assert not run(old, reference)[1][~mask].any()


def blind_model(vocabulary):
    """A Llama whose attention and feed-forward write zeros, so logits depend on one token only."""
    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    shape.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape).eval()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    return model


def test_logits_of_prompt_memory_and_padding_get_no_gradient():
    """Every token occurs once, so an embedding's gradient is that of its column: 0 unless a sampled token follows."""
    tokens = torch.arange(36).reshape(3, 12)
    mask = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0] * 10 + [1, 1]])
    mask = mask.bool()
    tokens[0, 9:], tokens[1, 8:] = -1, -1
    model = blind_model(40)
    logprobs, _ = token_logprobs(model, tokens, mask)
    old = logprobs.detach() + 0.1
    counts = 3, int(mask.sum())
    config = GRPOConfig(beta=0.1, clip=(1, 9))
    grpo_loss(logprobs, old, t(2, -1, 0.5), mask, config, *counts, old + 0.1).backward()
    touched = model.get_input_embeddings().weight.grad.abs().sum(1) > 0
    before = tokens[:, :-1][mask[:, 1:]]  # the columns that predict a sampled token
    assert sorted(touched.nonzero().flatten().tolist()) == sorted(before.tolist())


def test_under_the_constant_rule_the_expected_gradient_is_the_true_one():
    """On policy, sigma none, by enumeration of all groups of 3 (see test_reinforce.py): (G - 1)/G of the exact one."""
    toy, config = Toy(), GRPOConfig(sigma="none", length="constant", max_tokens=1)

    def ascent(config, sign=1):
        def loss(logprobs, rewards, mask):
            advantages = sign * group_advantages(rewards, torch.zeros(3), config.sigma)
            return grpo_loss(logprobs, logprobs.detach(), advantages, mask, config, 3, int(mask.sum()))

        return toy.expected_ascent(loss, 3)

    assert_close(ascent(config), 2 / 3 * toy.exact(), atol=1e-10, rtol=0)
    assert (ascent(config, -1) - 2 / 3 * toy.exact()).abs().max() > 1e-3
    for biased in (
        GRPOConfig(sigma="group", length="constant", max_tokens=1),
        GRPOConfig(),
        GRPOConfig(length="sequence"),
    ):
        direction = ascent(biased)
        cosine = torch.cosine_similarity(direction, toy.exact(), dim=0)
        assert 0.5 < cosine < 1 - 1e-6  # the other choices climb too, in another direction


# --- two processes ------------------------------------------------------------------------------------------------


def batch_of_64():
    """16 groups of 4 ragged episodes with memories, whose old log-probabilities differ from the policy's."""
    rng = torch.Generator().manual_seed(0)
    episodes = []
    for row in range(64):
        lengths = torch.randint(1, 6, (3,), generator=rng).tolist()
        mask = [0] * (1 + row // 4 % 5) + [1] * lengths[0] + [0] * (lengths[1] - 1) + [1] * lengths[2]
        tokens = torch.randint(0, 40, (len(mask),), generator=rng).tolist()
        old = (-3.7 + 0.3 * torch.randn(len(mask), generator=rng)).tolist()
        reward = float(torch.rand((), generator=rng))
        query = Query("q", "u", "mug", "i", 0)
        episodes.append(Episode(query, tuple(tokens), tuple(mask), tuple(old), (), None, "", reward=reward))
    return to_batch(episodes, [row // 4 for row in range(64)])


def two_steps(rule, rows, parts, total, counted=True):
    """Parameters after two steps of plain SGD on these rows. `total` sums a tensor over all processes.

    With `counted` False each process divides by its own tokens and the mean is taken: TRL's bnpo.
    """
    batch, model = batch_of_64(), tiny_model(40)
    config = GRPOConfig(sigma="group", length=rule, max_tokens=16)
    advantages = group_advantages(batch.rewards[rows], batch.groups[rows], config.sigma)
    episodes, tokens = total(torch.tensor([len(rows), int(batch.mask[rows].sum())])).tolist()
    if not counted:
        tokens = int(batch.mask[rows].sum()) * 64 // len(rows)
    for _ in range(2):
        model.zero_grad()
        for own in torch.arange(len(rows)).tensor_split(parts):
            part = batch.rows(rows[own])
            logprobs, _ = token_logprobs(model, part.tokens, part.mask)
            counts = episodes, tokens
            grpo_loss(logprobs, part.old_logprobs, advantages[own], part.mask, config, *counts).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * total(parameter.grad)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


CASES = [*((rule, True) for rule in LENGTHS), ("token", False)]


def one_of_two(rank, folder):
    """The work of each process: its half of the rows, sums over both."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def total(tensor):
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    rows = torch.arange(64).tensor_split(2)[rank]
    results = [two_steps(rule, rows, 1, total, counted) for rule, counted in CASES]
    torch.save({"world": distributed.get_world_size(), "results": results}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """2 x 32 rows = 1 x 64 = 4 x 16: the losses are sums over counts of the whole batch."""
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["world"] == second["world"] == 2  # a launcher may silently start only one
    start = torch.cat([parameter.detach().flatten() for parameter in tiny_model(40).parameters()])
    for (rule, counted), *both in zip(CASES, first["results"], second["results"], strict=True):
        assert torch.equal(*both)
        whole, quarters = (two_steps(rule, torch.arange(64), parts, lambda alone: alone) for parts in (1, 4))
        assert (whole - start).abs().max() > 1e-3
        assert_close(whole, quarters, atol=1e-6, rtol=0)
        if counted:
            assert_close(both[0], whole, atol=1e-6, rtol=0)
        else:  # so we do not offer the mean over processes of their own means
            assert (both[0] - whole).abs().max() > 1e-5


def test_choices_that_do_not_exist_are_refused():
    for change in (
        {"sigma": "std"},
        {"length": "dapo"},
        {"ratio": "gspo"},
        {"beta": -0.1},
        {"epochs": 0},
        {"clip": (-0.1, 0.2)},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            GRPOConfig(**change)
    with pytest.raises(ValueError, match="needs the log-probabilities of a reference"):
        grpo_loss(*batch()[:4], GRPOConfig(beta=0.1), 4, 9)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_batch_without_a_sampled_token_has_loss_0(length):
    """0 / 0 would make every weight of the model NaN."""
    logprobs = torch.zeros(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3)
    loss = grpo_loss(logprobs, nothing, torch.ones(2), nothing, GRPOConfig(length=length), 2, 0)
    loss.backward()
    assert loss == 0 and (logprobs.grad == 0).all()
