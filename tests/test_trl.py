"""The same numbers as TRL: its loss, its log-probabilities and its advantages on the same batch (slow)."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

import test_learning as learning
import wrong
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.grpo import GRPOConfig, group_advantages, grpo_loss, ratio_log
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.rollout import LMActor
from small import foreign_tokenizer, tiny_model

# searched, not imported: collecting the quick tests should not wait for the import
MISSING = pytest.mark.skipif(find_spec("trl") is None, reason="needs trl: pip install -e '.[trl]', or `make test-all`")
pytestmark = [pytest.mark.slow, MISSING]

V, MAX_TOKENS, T = 40, 24, 0.7
ROWS, GROUP = 8, 4


def trl_trainer(folder, model, reward=None, rollout=None, prompts=("a mug",), **changes):
    """A GRPOTrainer on the CPU, without network or reports. It gets its own copy of the model."""
    import datasets
    import trl

    model = deepcopy(model)
    model.save_pretrained(folder / "start")
    model.config._name_or_path = str(folder / "start")  # it loads its reference from here
    tokenizer = foreign_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}
    sizes = {"temperature": T, "num_generations": GROUP, "max_completion_length": MAX_TOKENS}
    choices = {**quiet, **plain, **sizes, "epsilon": 0.2, "epsilon_high": 0.28, **changes}
    return trl.GRPOTrainer(
        model=model,
        reward_funcs=reward or (lambda completions, **_: [0.0] * len(completions)),
        args=trl.GRPOConfig(output_dir=str(folder), **choices),
        train_dataset=datasets.Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )


# --- one batch, twice: our columns and theirs ---------------------------------------------------------------------


def episodes(seed=0):
    """8 ragged episodes, 2 groups: prompt of 1 to 8 tokens, a turn, a memory of 0 to 6 tokens, a turn."""
    rng = torch.Generator().manual_seed(seed)
    played = []
    for row in range(ROWS):
        mask = [0] * (1 + row) + [1] * (1 + row % 3) + [0] * (6 - row if row < 6 else 0) + [1] * (2 + (5 * row) % 7)
        tokens = torch.randint(0, V, (len(mask),), generator=rng).tolist()
        query = Query(f"q{row // GROUP}", "u", "mug", "i", 0)
        reward = float(torch.rand((), generator=rng))
        played.append(Episode(query, tuple(tokens), tuple(mask), (0.0,) * len(mask), (), None, "", reward=reward))
    return played


def laid_out(rows, values, first, width, left):
    """Each row's `values` from column `first` of it (left=False) or up to it (left=True), padded with 0 to `width`."""
    out = torch.zeros(len(rows), width, dtype=values.dtype)
    for row, start in enumerate(first):
        part = values[row, :start] if left else values[row, start : len(rows[row].tokens)]
        out[row, (width - len(part) if left else 0) : (width if left else len(part))] = part
    return out


def trl_inputs(rows, batch, advantages, old, reference):
    """The batch as TRL packs it: prompts padded on the left, completions (memories in them) on the right."""
    first = [e.mask.index(1) for e in rows]
    prompts, completions = max(first), max(len(e.tokens) - f for e, f in zip(rows, first, strict=True))
    there = (batch.tokens >= 0).long()
    completion = lambda values: laid_out(rows, values, first, completions, left=False)  # noqa: E731
    return {
        "prompt_ids": laid_out(rows, batch.tokens.clamp_min(0), first, prompts, left=True),
        "prompt_mask": laid_out(rows, there, first, prompts, left=True),
        "completion_ids": completion(batch.tokens.clamp_min(0)),
        "completion_mask": completion(there),
        "tool_mask": completion(batch.mask.long()),
        "advantages": advantages,
        "old_per_token_logps": completion(old),
        "ref_per_token_logps": completion(reference),
        "num_items_in_batch": batch.mask.sum(),
    }


class Case:
    """A batch, a policy that differs from the one that sampled it, and a reference."""

    def __init__(self):
        self.rows = episodes()
        self.batch = to_batch(self.rows, [row // GROUP for row in range(ROWS)])
        self.model, other = tiny_model(V), tiny_model(V, seed=1)
        rng = torch.Generator().manual_seed(7)
        with torch.no_grad():
            now, _ = token_logprobs(self.model, self.batch.tokens, self.batch.mask, T)
            self.reference, _ = token_logprobs(other, self.batch.tokens, self.batch.mask, T)
        self.old = torch.where(self.batch.mask, now + 0.3 * torch.randn(now.shape, generator=rng), 0.0)
        self.advantages = group_advantages(self.batch.rewards, self.batch.groups, "group")

    def ours(self, config, parts, own_tokens=False, loss=grpo_loss):
        """(loss, gradients). `own_tokens`: each micro-batch divided by its own tokens, and the mean of them."""
        model = deepcopy(self.model)
        total = 0.0
        for index in parts:
            part = self.batch.rows(index)
            width = part.tokens.shape[1]
            logprobs, _ = token_logprobs(model, part.tokens, part.mask, T)
            tokens = int(part.mask.sum()) * len(parts) if own_tokens else int(self.batch.mask.sum())
            old, reference = self.old[index, :width], self.reference[index, :width]
            value = loss(logprobs, old, self.advantages[index], part.mask, config, ROWS, tokens, reference)
            value.backward()
            total += float(value.detach())
        return total, {name: p.grad for name, p in model.named_parameters()}

    def theirs(self, trainer, parts):
        trainer.current_gradient_accumulation_steps = len(parts)
        trainer.model.train()
        trainer.model.zero_grad()
        total = 0.0
        inputs = trl_inputs(self.rows, self.batch, self.advantages, self.old, self.reference)
        for index in parts:
            part = {k: v if v.dim() == 0 else v[index] for k, v in inputs.items()}
            value = trainer._compute_loss(trainer.model, part)
            value.backward()
            total += float(value.detach())
        return total, {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.fixture(scope="module")
def case():
    return Case()


def halves(accumulation):
    """Rows that are not adjacent, so that the halves differ in tokens."""
    return [torch.arange(ROWS)] if accumulation == 1 else [torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3, 6, 7])]


def gap(ones, others):
    (loss, slopes), (other, others_slopes) = ones, others
    assert slopes.keys() == others_slopes.keys()
    return abs(loss - other), max(float((slopes[k] - others_slopes[k]).abs().max()) for k in slopes)


RULES = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "constant", "dapo": "token"}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("theirs", RULES)
def test_our_loss_is_theirs(case, tmp_path, theirs, ratio, beta, accumulation):
    """bnpo and dapo are our "token"; with two micro-batches bnpo is the mean of two means."""
    trainer = trl_trainer(
        tmp_path,
        case.model,
        loss_type=theirs,
        importance_sampling_level=ratio,
        beta=beta,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=ROWS // accumulation,
    )
    parts = halves(accumulation)
    config = GRPOConfig(length=RULES[theirs], ratio=ratio, beta=beta, max_tokens=MAX_TOKENS)
    got, wanted = case.ours(config, parts, own_tokens=theirs == "bnpo"), case.theirs(trainer, parts)
    loss, gradient = gap(got, wanted)
    print(f"{theirs} {ratio} {beta} x{accumulation}: loss {wanted[0]:.6f} +- {loss:.1e}, gradient +- {gradient:.1e}")
    assert max(float(g.abs().max()) for g in wanted[1].values()) > 0.01  # the gradients are not all 0
    assert loss <= 1e-6 and gradient <= 1e-5
    if theirs == "bnpo" and accumulation == 2:  # why we do not offer it: the result depends on the cut
        assert gap(case.ours(config, halves(1)), wanted)[1] > 1e-4
    other = GRPOConfig(length=RULES[theirs], ratio={"token": "sequence", "sequence": "token"}[ratio], max_tokens=24)
    assert gap(case.ours(other, parts), wanted)[1] > 1e-4  # the thresholds separate the choices


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_our_log_means_what_theirs_means(case, tmp_path, ratio):
    """The names that both logs have: shares of clipped tokens (or episodes), KL and entropy."""
    trainer = trl_trainer(
        tmp_path,
        case.model,
        loss_type="dapo",
        beta=0.04,
        importance_sampling_level=ratio,
        per_device_train_batch_size=ROWS,
        **{"epsilon": 0.02, "epsilon_high": 0.03},
    )
    case.theirs(trainer, halves(1))
    with torch.no_grad():
        logprobs, entropy = token_logprobs(case.model, case.batch.tokens, case.batch.mask, T)
    batch, config = replace(case.batch, old_logprobs=case.old), GRPOConfig(ratio=ratio, beta=0.04, clip=(0.02, 0.03))
    tokens = int(batch.mask.sum())
    log = ratio_log([(logprobs, case.reference, batch, case.advantages[:, None])], config, ROWS, tokens)
    theirs = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    print(ratio, {name: theirs[name] for name in (*log, "entropy")})
    for name, value in log.items():
        assert value == pytest.approx(theirs[name], abs=1e-5), name
    assert float(entropy.sum()) / tokens == pytest.approx(theirs["entropy"], abs=1e-5)
    assert theirs["clip_ratio/low_mean"] + theirs["clip_ratio/high_mean"] > 0


def test_their_kl_without_correction_is_another(case, tmp_path):
    """TRL multiplies k3 by the ratio, as we do; without it, k3 alone has the gradient of the forward KL."""
    changes = {"loss_type": "dapo", "beta": 0.5, "per_device_train_batch_size": ROWS}
    whole, config = halves(1), GRPOConfig(beta=0.5)
    ours = case.ours(config, whole)
    for corrected in (True, False):
        trainer = trl_trainer(tmp_path, case.model, use_bias_correction_kl=corrected, **changes)
        wanted = case.theirs(trainer, whole)
        if corrected:
            assert gap(ours, wanted)[0] <= 1e-6 and gap(ours, wanted)[1] <= 1e-5
        else:
            assert gap(ours, wanted)[1] > 1e-2
            loss = partial(grpo_loss, kl_term=wrong.k3_without_ratio)
            assert gap(case.ours(config, whole, loss=loss), wanted)[1] <= 1e-5


def test_masked_tokens_change_neither_loss(case, tmp_path):
    """Old and reference log-probabilities of memories moved by 3: neither loss changes, not by one bit."""
    trainer = trl_trainer(tmp_path, case.model, loss_type="dapo", beta=0.04, per_device_train_batch_size=ROWS)
    moved = deepcopy(case)
    for values in (moved.old, moved.reference):
        values[~case.batch.mask] += 3.0
    config = GRPOConfig(beta=0.04)
    assert case.ours(config, halves(1))[0] == moved.ours(config, halves(1))[0]
    assert case.theirs(trainer, halves(1))[0] == moved.theirs(trainer, halves(1))[0]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_our_log_probabilities_are_theirs(case, tmp_path, temperature):
    """And the entropies. TRL pads prompts on the left and applies the head to all columns; we do neither."""
    trainer = trl_trainer(tmp_path, case.model, temperature=temperature, per_device_train_batch_size=ROWS)
    inputs = trl_inputs(case.rows, case.batch, case.advantages, case.old, case.reference)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        theirs = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, width, compute_entropy=True)
        ours = token_logprobs(case.model, case.batch.tokens, case.batch.mask, temperature)
    first = [e.mask.index(1) for e in case.rows]
    sampled = inputs["tool_mask"].bool()
    for one, other in zip(ours, theirs[:2], strict=True):
        laid = laid_out(case.rows, one, first, width, left=False)
        assert_close(laid[sampled], other[sampled], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", ["group", "none"])
def test_our_advantages_are_theirs(case, tmp_path, sigma):
    """TRL's own path from completions to advantages, with our rewards: spread, equal, and equal up to rounding."""
    rewards = torch.tensor([0.1, 5.2, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3, 1.0, 0.0, 0.0, 0.0])
    groups = torch.arange(12) // GROUP

    def fixed(prompts, trainer):
        empty = [[5, 6]] * len(prompts)
        return {"prompt_ids": empty, "completion_ids": empty, "logprobs": [[0.0, 0.0]] * len(prompts)}

    trainer = trl_trainer(
        tmp_path,
        case.model,
        reward=lambda completions, **_: rewards.tolist(),
        rollout=fixed,
        scale_rewards=sigma,
        per_device_train_batch_size=12,
    )
    theirs = trainer._generate_and_score_completions([{"prompt": f"mug {g}"} for g in groups.tolist()])["advantages"]
    ours = group_advantages(rewards, groups, sigma)
    assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours[4:8].tolist() == [0.0] * 4
    assert (group_advantages(rewards, groups, "population") - theirs).abs().max() > 0.1


# --- learning beside it -------------------------------------------------------------------------------------------


def learned_by_trl(seed, folder):
    """TRL's loss, optimiser and loop on the task of test_learning.py, fed by our rollout: (policy, tokens)."""
    task, start = learning.start(seed)
    config, by_prompt, tokens = learning.CONFIG, {q.id: q for q in task.train_queries}, []
    generator = torch.Generator().manual_seed(seed)

    def play(prompts, trainer):
        actor = LMActor(trainer.model, learning.GRAMMAR, generator)
        played = task.play(actor, [by_prompt[p] for p in prompts], learning.GRAMMAR, config.rules, config.reward)
        trainer.model.train()
        tokens.append(sum(len(e.tokens) for e in played))
        first = [e.mask.index(1) for e in played]
        columns = {"completion_ids": "tokens", "env_mask": "mask", "logprobs": "logprobs"}
        after = {k: [list(getattr(e, v)[f:]) for e, f in zip(played, first, strict=True)] for k, v in columns.items()}
        before = [list(e.tokens[:f]) for e, f in zip(played, first, strict=True)]
        return {**after, "prompt_ids": before, "worth": [e.reward for e in played]}

    trainer = trl_trainer(
        folder,
        start,
        reward=lambda worth, **_: worth,
        rollout=play,
        prompts=by_prompt,
        seed=seed,
        max_steps=config.steps,
        per_device_train_batch_size=config.prompts_per_step * config.group,
        num_generations=config.group,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup,
        max_grad_norm=config.max_grad_norm,
        temperature=1.0,
        loss_type="dapo",
        scale_rewards="none",
        max_completion_length=64,
    )
    trainer.train()
    return trainer.model, sum(tokens)


@pytest.mark.parametrize("seed", learning.SEEDS)
def test_what_trl_learns_from_as_many_episodes(seed, tmp_path):
    """Printed, and only its start is asserted: test_learning.py holds our result to its bounds."""
    before, ours, lines = learning.learned(seed)
    policy, tokens = learned_by_trl(seed, tmp_path)
    theirs = learning.report(policy, learning.start(seed)[0])
    print(f"\nseed {seed}, {learning.CONFIG.steps} steps from {before}")
    print(f"  ours {ours}; {sum(line['step_tokens'] for line in lines):.0f} tokens")
    print(f"  TRL  {theirs}; {tokens} tokens")
    assert ours.reward >= 0.95 * learning.BEST and theirs.reward > before.reward


def test_the_version_is_the_one_that_was_read():
    """`_compute_loss` is not a public name: another minor release may change what it computes."""
    assert version("trl").startswith("1.16."), version("trl")
