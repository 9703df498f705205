"""Log-probabilities, baselines and the REINFORCE loss: by hand, by enumeration, and against tests/wrong.py."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

import wrong
from mrrec_mini import reinforce
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.reinforce import (
    baseline,
    group_lead,
    group_sums,
    reinforce_loss,
    rows_by_length,
    to_batch,
    token_logprobs,
)
from small import fresh_logprobs, tiny_model

V = 40
QUERY = Query("q7", "u", "mug for hiking", "i1", 0)


@pytest.fixture(scope="module")
def model():
    return tiny_model(V)


def episode(tokens, mask, reward=0.0, logprobs=None):
    return Episode(QUERY, tuple(tokens), tuple(mask), tuple(logprobs or [0.0] * len(mask)), (), None, "", reward=reward)


def ragged(seed=0):
    """18 episodes of prompt, turn, memory, turn, with 0 to 17 columns of padding; one of prompt 1 and answer 1."""
    rng = torch.Generator().manual_seed(seed)
    episodes = [episode([3, 4], [0, 1])]
    for n in range(17):
        mask = [0] * (1 + n // 3) + [1] * (1 + n // 4) + [0] * (n // 5) + [1] * (1 + n // 6)
        episodes.append(episode(torch.randint(0, V, (len(mask),), generator=rng).tolist(), mask))
    return episodes


# --- log-probabilities --------------------------------------------------------------------------------------------


def right_logprobs(model, tokens, mask, temperature):
    return token_logprobs(model, tokens, mask, temperature)[0]


def check_logprobs(score, model):
    """Equal to each row alone, without padding, through the whole model; 0 outside the mask."""
    episodes = ragged()
    for temperature in (0.7, 1.0, 1.3):
        batch = to_batch(episodes, range(len(episodes)))
        got = score(model, batch.tokens, batch.mask, temperature).detach()
        for row, e in enumerate(episodes):
            for t in range(batch.tokens.shape[1]):
                sampled = t < len(e.tokens) and e.mask[t]
                expected = float(fresh_logprobs(model, e.tokens, temperature)[t]) if sampled else 0.0
                assert abs(float(got[row, t]) - expected) <= 1e-5, (row, t, temperature)


def test_logprobs_are_those_of_each_row_alone(model):
    check_logprobs(right_logprobs, model)


@pytest.mark.parametrize("version", wrong.LOGPROBS, ids=lambda f: f.__name__)
def test_wrong_logprobs_are_rejected(version, model):
    with pytest.raises(AssertionError):
        check_logprobs(version, model)


def test_one_answer_token_is_scored_by_the_last_prompt_position(model):
    tokens, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[False, False, False, True]])
    got, entropy = token_logprobs(model, tokens, mask)
    log_pi = torch.log_softmax(model(tokens[:, :3]).logits[0, 2], -1)  # the model has not seen the answer
    assert_close(got[0, 3], log_pi[8], atol=1e-5, rtol=0)
    assert_close(entropy[0, 3], -(log_pi.exp() * log_pi).sum(), atol=1e-5, rtol=0)


def test_the_first_token_after_a_memory_is_scored_from_its_last_token(model):
    tokens = torch.tensor([[5, 6, 20, 21, 22, 9]])
    mask = torch.tensor([[0, 1, 0, 0, 0, 1]], dtype=torch.bool)
    log_pi = torch.log_softmax(model(tokens[:, :5]).logits[0, 4], -1)
    assert_close(token_logprobs(model, tokens, mask)[0][0, 5], log_pi[9], atol=1e-5, rtol=0)


def test_retrieved_tokens_are_attended(model):
    mask = torch.tensor([[0, 1, 0, 0, 1, 1]], dtype=torch.bool)
    scores = [token_logprobs(model, torch.tensor([[5, 6, 20, memory, 8, 9]]), mask)[0][0] for memory in (21, 22)]
    assert torch.equal(scores[0][1], scores[1][1])  # before the difference
    assert (scores[0][4:] - scores[1][4:]).abs().max() > 1e-4


def test_padding_and_its_gradient_are_exactly_0(model):
    """A wider batch changes neither the sum nor the gradient of any weight."""
    tokens, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1]], dtype=torch.bool)
    wide = torch.nn.functional.pad(tokens, (0, 9), value=-1), torch.nn.functional.pad(mask, (0, 9))
    grads = []
    for t, m in ((tokens, mask), wide):
        logprobs, _ = token_logprobs(model, t, m)
        assert float(logprobs.detach()[~m].abs().sum()) == 0
        grads.append(torch.autograd.grad(logprobs.sum(), list(model.parameters())))
    for narrow, padded in zip(*grads, strict=True):
        assert_close(narrow, padded, atol=1e-5, rtol=0)


def groups_of_episodes():
    """Four groups of three: prompts of 1 to 7 tokens, turns and memories of many lengths."""
    rng = torch.Generator().manual_seed(3)
    episodes = []
    for group in range(4):
        prompt = torch.randint(0, V, (1 + 2 * group,), generator=rng).tolist()
        for n in range(3):
            mask = [1] * (1 + n) + [0] * (2 * group) + [1] * (2 + group)
            answer = torch.randint(0, V, (len(mask),), generator=rng).tolist()
            episodes.append(episode(prompt + answer, [0] * len(prompt) + mask))
    return episodes


def check_shared_prompts(model):
    """Log-probabilities, and the gradient of a weighted sum of them, equal those of each row alone with its own prompt;
    the gradient to 1e-6 of its largest entry."""
    batch = to_batch(groups_of_episodes(), [n // 3 for n in range(12)])
    weight = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(4))
    shared, _ = token_logprobs(model, batch.tokens, batch.mask)
    rows = [token_logprobs(model, t[None], m[None])[0] for t, m in zip(batch.tokens, batch.mask, strict=True)]
    ordinary = torch.cat(rows)
    assert_close(shared, ordinary, atol=1e-5, rtol=0)
    got, expected = (
        torch.cat([g.flatten() for g in torch.autograd.grad((weight * x).sum(), list(model.parameters()))])
        for x in (shared, ordinary)
    )
    assert float((got - expected).abs().max() / expected.abs().max()) <= 1e-6


def test_a_groups_prompt_computed_once_gives_the_ordinary_gradient(model, monkeypatch):
    check_shared_prompts(model)
    rows = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, **k: rows.append(len(k["input_ids"])) or forward(self, **k)
    )
    batch = to_batch(groups_of_episodes(), range(12))
    token_logprobs(model, batch.tokens, batch.mask)
    # the four prompts without their last token (nothing is left of a one-token prompt), then the twelve episodes
    assert rows == [4, 12]


@pytest.mark.parametrize("version", wrong.SHARED_PROMPTS, ids=lambda f: f.__name__)
def test_wrong_shared_prompts_are_rejected(version, model, monkeypatch):
    monkeypatch.setattr(reinforce, "_shared_prompts", version)
    with pytest.raises(AssertionError):
        check_shared_prompts(model)


def test_groups_stay_together_in_parts_of_like_length():
    batch = to_batch(groups_of_episodes(), [n // 3 for n in range(12)])
    mixed = batch.rows(torch.randperm(12, generator=torch.Generator().manual_seed(0)))
    parts = rows_by_length(mixed, 4)
    assert [len(set(mixed.groups[part].tolist())) for part in parts] == [1, 1, 1, 1]
    longest = [int((mixed.tokens[part] >= 0).sum(1).max()) for part in parts]
    assert longest == sorted(longest)


def test_the_model_is_left_as_it_was(model):
    """The hook on the output layer is removed, even after an error."""
    with pytest.raises(IndexError):
        token_logprobs(model, torch.tensor([[0, V]]), torch.tensor([[False, True]]))  # token V does not exist
    assert model(torch.tensor([[5, 6]])).logits.shape == (1, 2, V)
    assert not model.get_output_embeddings()._forward_pre_hooks


# --- packing ------------------------------------------------------------------------------------------------------


def test_packing_keeps_lists_in_their_columns():
    batch = to_batch([episode([5, 6], [0, 1], 0.5, [0.0, -0.25]), episode([7, 8, 9], [0, 1, 1])], [4, 4])
    assert batch.tokens.tolist() == [[5, 6, -1], [7, 8, 9]]
    assert batch.mask.tolist() == [[False, True, False], [False, True, True]]
    assert batch.old_logprobs.tolist() == [[0.0, -0.25, 0.0], [0.0, 0.0, 0.0]]
    assert batch.rewards.tolist() == [0.5, 0.0] and batch.groups.tolist() == [4, 4]
    part = batch.rows(torch.tensor([0]))
    assert part.tokens.tolist() == [[5, 6]] and part.old_logprobs.shape == part.mask.shape == (1, 2)


def test_parts_hold_rows_of_like_length_and_every_row_once():
    batch = to_batch([episode([5] * n, [0] + [1] * (n - 1)) for n in (4, 2, 9, 2, 3)], range(5))
    parts = rows_by_length(batch, 2)
    assert [part.tolist() for part in parts] == [[1, 3, 4], [0, 2]]  # lengths 2 2 3 | 4 9
    assert [batch.rows(part).tokens.shape for part in parts] == [(3, 3), (2, 9)]


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_is_refused_by_name(reward):
    with pytest.raises(ValueError, match="query q7: the reward is"):
        to_batch([episode([5, 6], [0, 1]), episode([5, 6], [0, 1], reward)], [0, 0])


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        to_batch([], [])
    with pytest.raises(ValueError, match="query q7: tokens, mask and logprobs differ"):
        to_batch([episode([5, 6, 7], [0, 1])], [0])


# --- baselines ----------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([1.0, 5.0, 0.0, 7.0, 2.0, 0.0])
GROUPS = torch.tensor([3, 8, 3, 8, 3, 3])  # interleaved, of 4 and of 2


def check_baseline(b):
    expected = {
        "none": [0, 0, 0, 0, 0, 0],
        "group": [0.75, 6, 0.75, 6, 0.75, 0.75],  # (1 + 0 + 2 + 0) / 4; (5 + 7) / 2
        # the others: (0+2+0)/3, 7, (1+2+0)/3, 5, (1+0+0)/3, (1+0+2)/3
        "leave_one_out": [2 / 3, 7, 1, 5, 1 / 3, 1],
    }
    for kind, values in expected.items():
        assert_close(b(REWARDS, GROUPS, kind), torch.tensor(values, dtype=torch.float32), atol=1e-6, rtol=0)


def test_baselines_by_hand():
    check_baseline(baseline)
    assert group_sums(REWARDS, GROUPS).tolist() == [3, 12, 3, 12, 3, 3]
    assert group_lead(REWARDS, GROUPS).tolist() == [1, -2, -3, 2, 5, -3]  # 4 x 1 - 3, 2 x 5 - 12, ...


@pytest.mark.parametrize("version", wrong.BASELINES, ids=lambda f: f.__name__)
def test_wrong_baselines_are_rejected(version):
    with pytest.raises(AssertionError):
        check_baseline(version)


@pytest.mark.parametrize("kind", ["group", "leave_one_out"])
def test_equal_rewards_leave_exactly_nothing(kind):
    """0.1 is not a binary fraction: the float mean of 3, 5, ... of them is often not 0.1."""
    for n in range(2, 40):
        for value in (0.1, 0.3, 5.2, 1e-7, 1e7):
            rewards = torch.full((n,), value)
            assert (rewards - baseline(rewards, torch.zeros(n), kind)).tolist() == [0.0] * n


def test_groups_are_told_by_number_and_order_does_not_matter():
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    assert_close(baseline(REWARDS[order], GROUPS[order], "group"), baseline(REWARDS, GROUPS, "group")[order])


def test_unknown_baselines_and_lonely_episodes_are_refused():
    with pytest.raises(ValueError, match="baseline must be one of"):
        baseline(REWARDS, GROUPS, "mean")
    with pytest.raises(ValueError, match="at least two episodes"):
        baseline(torch.ones(3), torch.tensor([0, 0, 1]), "leave_one_out")


# --- the loss -----------------------------------------------------------------------------------------------------


def check_reinforce_loss(loss):
    logprobs = torch.tensor([[-9.0, -1.0, -2.0], [-9.0, -0.5, -9.0], [-9.0, -4.0, -9.0]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 0]], dtype=torch.bool)
    advantages = torch.tensor([2.0, -1.0, 0.5])
    # -(2 (-1 - 2) - 1 (-0.5) + 0.5 (-4)) / 3 = -(-6 + 0.5 - 2) / 3 = 2.5
    assert_close(loss(logprobs, advantages, mask, 3), torch.tensor(2.5))
    parts = [loss(logprobs[i], advantages[i], mask[i], 3) for i in (slice(0, 1), slice(1, 3))]
    assert_close(parts[0] + parts[1], torch.tensor(2.5))


def test_loss_by_hand_and_micro_batches_add_up():
    check_reinforce_loss(reinforce_loss)


@pytest.mark.parametrize("version", wrong.REINFORCE, ids=lambda f: f.__name__)
def test_wrong_losses_are_rejected(version):
    with pytest.raises(AssertionError):
        check_reinforce_loss(version)


# --- the truth test -----------------------------------------------------------------------------------------------


class Toy:
    """A policy of 11 numbers and its 8 trajectories: 3 first actions, of which two lead to 3 and to 4 second ones.

    What stands between the two actions (an observation) is in the row and masked, as a memory would be.
    """

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.first = torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True)
        self.second = torch.randn(2, 4, generator=rng, dtype=torch.float64, requires_grad=True)
        self.paths = [(a, b) for a in range(2) for b in range(3 + a)] + [(2, None)]
        self.rewards = torch.randn(len(self.paths), generator=rng, dtype=torch.float64)
        self.mask = torch.tensor([[1, 0, int(b is not None)] for _, b in self.paths], dtype=torch.float64)

    def logprobs(self):
        """(paths, 3): first action, observation, second action; outside the mask, garbage made of the weights."""
        one = torch.log_softmax(self.first, 0)
        two = [torch.log_softmax(self.second[a, : 3 + a], 0) for a in range(2)]
        rubbish = self.first.sum() + self.second.sum()
        return torch.stack(
            [torch.stack([one[a], rubbish, two[a][b] if b is not None else rubbish]) for a, b in self.paths]
        )

    def probabilities(self, logprobs):
        return (logprobs * self.mask).sum(1).exp()

    def gradient(self, value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, [self.first, self.second])])

    def exact(self):
        """The gradient of E[r] = sum over all paths of p(path) r(path)."""
        return self.gradient((self.probabilities(self.logprobs()) * self.rewards).sum())

    def expected_ascent(self, loss_of_group, size):
        """Minus the expectation of a loss's gradient over every group of `size` paths that this policy can draw."""
        logprobs = self.logprobs()
        p = self.probabilities(logprobs).detach()
        total = 0
        for rows in product(range(len(self.paths)), repeat=size):
            index = torch.tensor(rows)
            total = total + p[index].prod() * loss_of_group(logprobs[index], self.rewards[index], self.mask[index])
        return -self.gradient(total)


@pytest.fixture(scope="module")
def toy():
    return Toy()


def ascent(toy, kind, size=3, b=baseline, loss=reinforce_loss):
    groups = torch.zeros(size)
    return toy.expected_ascent(lambda lp, r, m: loss(lp, r - b(r, groups, kind), m, size), size)


@pytest.mark.parametrize("kind, factor", [("none", 1), ("leave_one_out", 1), ("group", 2 / 3)])
def test_the_expected_gradient_is_the_gradient_of_the_expected_reward(toy, kind, factor):
    """All 512 groups of 3 of the 8 paths. The group mean includes the episode itself: (G - 1)/G of the gradient."""
    assert float(toy.probabilities(toy.logprobs()).sum().detach()) == pytest.approx(1)
    assert_close(ascent(toy, kind), factor * toy.exact(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("version", wrong.REINFORCE, ids=lambda f: f.__name__)
def test_the_truth_rejects_wrong_losses(toy, version):
    got = ascent(toy, "none", 2, loss=version)
    if version is wrong.mean_of_the_micro_batch:  # right if the batch is not cut
        assert_close(got, toy.exact(), atol=1e-10, rtol=0)
    else:
        assert (got - toy.exact()).abs().max() > 1e-3


def test_a_leave_one_out_that_leaves_nothing_out_shrinks_the_gradient(toy):
    got = ascent(toy, "leave_one_out", 3, b=wrong.leave_none_out)
    assert_close(got, 2 / 3 * toy.exact(), atol=1e-10, rtol=0)
