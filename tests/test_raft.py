"""RAFT: which episodes it keeps, that its step is imitation of them, and what it learns that GRPO does not."""

import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch

from house import ROOT
from mrrec_mini.constrain import constraint_of
from mrrec_mini.grpo import Formulas, GRPOConfig, group_advantages, grpo_loss
from mrrec_mini.raft import best_of_group, raft_trainer
from mrrec_mini.reinforce import rows_by_length, to_batch, token_logprobs
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.train import TrainConfig, Trainer, advantages_of, train, update_policy
from small import tiny_model

sys.path.insert(0, str(ROOT / "tutorials"))

import toys

CONFIG = replace(toys.CONFIG, steps=2, prompts_per_step=4, group=4, rules=replace(toys.RULES, constrained=True))
TOK, TASK = toys.TOKENIZER, toys.Task.make(0)


@cache
def _start():
    return toys.warm_policy(TASK, 0, steps=40)


def start():
    """Return a copy of a policy that knows the grammar of the toy game a little."""
    return deepcopy(_start())


# --- which episodes are kept ----------------------------------------------------------------------------------------

CASES = (  # rewards, groups, weights
    (
        [1, 5, 3, 2, 0.5, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 0, 1, 0, 0],
    ),  # group 0 is better
    ([1, 2, 5, 0.5, 3, 1], [4, 9, 4, 9, 4, 9], [0, 1, 1, 0, 0, 0]),  # groups that alternate, of any number
    ([-3, -1, -2, -9], [0, 0, 1, 1], [0, 1, 1, 0]),  # below 0
    ([2, 0, 2, 0, 7, 7], [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0]),  # the first of several best; equal rewards: none
    ([0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]),
    ([0.1, 0.1, 0.1, 5, 5.01, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0]),  # .01 better counts as much as 5
)


def weighs_right(version) -> bool:
    for rewards, groups, weights in CASES:
        given = version(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups), "group")
        if given.tolist() != weights:
            return False
    return True


def test_the_best_of_each_group_weighs_one():
    assert weighs_right(best_of_group)


def per_group(choose):
    """Make a version that calls `choose(rewards of a group)` for the weights of the group."""

    def version(rewards, groups, sigma):
        weights = torch.zeros_like(rewards)
        for group in groups.unique():
            weights[groups == group] = choose(rewards[groups == group])
        return weights

    return version


def one(index, size):
    return torch.nn.functional.one_hot(torch.as_tensor(index), size).float()


def best_of_the_batch(rewards, groups, sigma):
    """Keeps as many episodes as there are groups, but the best of the whole batch."""
    return torch.zeros_like(rewards).index_fill(0, rewards.topk(len(groups.unique())).indices, 1.0)


def groups_by_position(rewards, groups, sigma):
    """Assumes that the rows of a group are adjacent."""
    rows = rewards.reshape(len(groups.unique()), -1)
    differ = (rows.amax(1) > rows.amin(1)).float()[:, None]
    return (torch.nn.functional.one_hot(rows.argmax(1), rows.shape[1]) * differ).reshape(-1)


def last_best(own):
    return one(len(own) - 1 - int(own.flip(0).argmax()), len(own)) * (own.max() > own.min())


WRONG = {
    "the worst": per_group(lambda own: one(own.argmin(), len(own)) * (own.max() > own.min())),
    "the last of several best": per_group(last_best),
    "all of several best": per_group(lambda own: (own == own.max()).float() * (own.max() > own.min())),
    "the first of equal rewards": per_group(lambda own: one(own.argmax(), len(own))),
    "all that are above the mean": per_group(lambda own: (own > own.mean()).float()),
    "all episodes": lambda rewards, groups, sigma: torch.ones_like(rewards),
    "weighted by the reward": lambda rewards, groups, sigma: best_of_group(rewards, groups) * rewards,
    "the others pushed down": per_group(lambda own: (2 * one(own.argmax(), len(own)) - 1) * (own.max() > own.min())),
    "only rewards above 0": lambda rewards, groups, sigma: best_of_group(rewards, groups) * (rewards > 0),
    "best of the batch": best_of_the_batch,
    "groups by position": groups_by_position,
    "GRPO": group_advantages,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_are_refused(name):
    assert not weighs_right(WRONG[name])


def test_the_harness_of_the_wrong_weights_is_right():
    assert weighs_right(per_group(lambda own: one(own.argmax(), len(own)) * (own.max() > own.min())))


# --- the step -------------------------------------------------------------------------------------------------------


@cache
def played(constrained: bool):
    """(trainer of RAFT, episodes that it played); the rewards are made up, and equal in the last group."""
    config = replace(CONFIG, rules=replace(CONFIG.rules, constrained=constrained))
    it = raft_trainer(start(), TOK, [TASK], config)
    episodes, groups = it.collect()
    rewards = [float((7 * n) % 5) if group < 3 else 1.0 for n, group in enumerate(groups)]
    return it, [replace(e, reward=r) for e, r in zip(episodes, rewards, strict=True)]


def gradient(it, episodes, formulas, parts=4):
    """Return the gradient of one update, as one vector. Nothing is clipped, and the weights do not move."""
    model = deepcopy(it.model)
    batch = to_batch(episodes, [n // 4 for n in range(len(episodes))], "cpu", it.table)
    config = replace(it.config, max_grad_norm=float("inf"))
    weights = advantages_of(episodes, batch, it.grammar, None, config, formulas)
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    update_policy(model, descent, batch, weights, rows_by_length(batch, parts), config, formulas)
    return before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def imitation_gradient(it, episodes):
    """The same by hand: cross-entropy of what the policy wrote in the best of each group, one episode at a time."""
    model = deepcopy(it.model).eval()
    table = constraint_of(toys.GRAMMAR).allowed
    total, tokens = torch.tensor(0.0), sum(sum(e.mask) for e in episodes)
    for start in range(0, len(episodes), 4):
        group = episodes[start : start + 4]
        rewards = [e.reward for e in group]
        if min(rewards) == max(rewards):
            continue
        kept = group[rewards.index(max(rewards))]
        logits = model(input_ids=torch.tensor([kept.tokens])).logits[0]
        for at in range(1, len(kept.tokens)):
            if kept.mask[at]:
                allowed = table[kept.states[at]] if kept.states else torch.ones(len(TOK), dtype=torch.bool)
                log_pi = torch.log_softmax(logits[at - 1].masked_fill(~allowed, float("-inf")), -1)
                total = total - log_pi[kept.tokens[at]] / tokens
    total.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("constrained", [True, False])
def test_a_step_is_imitation_of_the_kept_episodes(constrained):
    it, episodes = played(constrained)
    byhand = imitation_gradient(it, episodes)
    assert byhand.norm() > 1e-3
    for parts in (1, 4):
        torch.testing.assert_close(gradient(it, episodes, it.formulas, parts), byhand, rtol=0, atol=1e-6)


def free(model, tokens, mask, temperature, allowed):
    """Scores without the constraint under which the tokens were sampled."""
    return token_logprobs(model, tokens, mask, temperature)


def memory_too(model, tokens, mask, temperature, allowed):
    """Trains on every token after the first one that the policy wrote, so on retrieved memory too."""
    return token_logprobs(model, tokens, (mask.cumsum(1) > 0) & (tokens >= 0), temperature)


def prompt_too(model, tokens, mask, temperature, allowed):
    """Trains on the whole text, as a language model is trained."""
    inside = tokens >= 0
    inside[:, 0] = False
    return token_logprobs(model, tokens, inside, temperature)


def without_a_mask(logprobs, old, advantages, mask, *args, **kwargs):
    """A loss that counts every column that has a log-probability."""
    return grpo_loss(logprobs, logprobs.detach(), advantages, logprobs != 0, *args, **kwargs)


def best(**others):
    return Formulas(group_advantages=best_of_group, **others)


@pytest.mark.parametrize(
    ("constrained", "wrong"),
    [
        (True, best(token_logprobs=free)),
        (False, best(token_logprobs=memory_too, grpo_loss=without_a_mask)),
        (False, best(token_logprobs=prompt_too, grpo_loss=without_a_mask)),
        *((False, Formulas(group_advantages=WRONG[name])) for name in ("all episodes", "the first of equal rewards")),
        (False, Formulas()),
    ],
    ids=["free", "memory too", "prompt too", "all episodes", "the first of equal rewards", "GRPO"],
)
def test_wrong_steps_are_refused(constrained, wrong):
    it, episodes = played(constrained)
    byhand = imitation_gradient(it, episodes)
    assert (gradient(it, episodes, wrong) - byhand).norm() > 0.01 * byhand.norm()


def test_the_harness_of_the_wrong_steps_is_right():
    """Without the wrong mask, the loss that ignores its mask is right, so a refusal is due to the mask."""
    it, episodes = played(False)
    formulas = best(grpo_loss=without_a_mask)
    torch.testing.assert_close(gradient(it, episodes, formulas), imitation_gradient(it, episodes), rtol=0, atol=1e-6)


# --- the loop -------------------------------------------------------------------------------------------------------


def first_line(trainer):
    line = trainer.step()
    return {name: line[name] for name in ("reward", "reward_std", "step_tokens", "calls/mean", "learning_rate")}


def test_it_plays_exactly_what_grpo_plays():
    """The same start, queries and draws, so the first step samples equally many tokens."""
    raft, grpo = raft_trainer(start(), TOK, [TASK], CONFIG), Trainer(start(), TOK, [TASK], CONFIG)
    assert first_line(raft) == first_line(grpo)
    ours, theirs = (torch.nn.utils.parameters_to_vector(it.model.parameters()) for it in (raft, grpo))
    assert not torch.equal(ours, theirs)  # but it learns something else


def test_the_choices_of_grpo_are_ignored_but_for_its_kl():
    assert raft_trainer(start(), TOK, [TASK], replace(CONFIG, grpo=GRPOConfig(beta=0.5))).config.grpo.beta == 0.5
    grpo = GRPOConfig(sigma="group", length="sequence", epochs=3)
    changed = replace(CONFIG, algo="reinforce", baseline="none", grpo=grpo)
    trainers = [raft_trainer(start(), TOK, [TASK], config) for config in (CONFIG, changed)]
    lines = [train(it) for it in trainers]
    for one_line, other in zip(*lines, strict=True):
        assert one_line | {"step_time": 0} == other | {"step_time": 0}
    turn = raft_trainer(start(), TOK, [TASK], replace(CONFIG, credit="turn"))
    assert turn.step() | {"step_time": 0} == lines[0][0] | {"step_time": 0}


class Opening(toys.Task):
    """Reward 1 for a turn that opens with <think>, a little less for a token near it (as in `test_train`)."""

    def play(self, *args):
        opening = toys.GRAMMAR.control["<think>"]
        episodes = super().play(*args)
        near = [max(0.0, 1 - abs(e.tokens[e.mask.index(1)] - opening) / len(TOK)) for e in episodes]
        return [replace(e, reward=r) for e, r in zip(episodes, near, strict=True)]


def test_rewarded_behaviour_becomes_more_frequent():
    rules = RolloutConfig(turn_tokens=1, global_k=0, max_calls=0)
    config = TrainConfig(steps=60, prompts_per_step=4, group=8, learning_rate=0.02, micro_batches=1, rules=rules)
    untrained = tiny_model(len(TOK))
    rewards = [line["reward"] for line in train(raft_trainer(untrained, TOK, [Opening.make(0)], config))]
    assert sum(rewards[:3]) / 3 < 0.7 and sum(rewards[-3:]) / 3 > 0.9


# --- what it learns: the best of a group, not the mean ---------------------------------------------------------------


def bandit(advantages, steps=300, groups=16, size=8):
    """Train on a game of one token: 0 looks up and earns .6; 1-4 guess a value, and the right one earns 1.

    Every group has its own right value, and the policy cannot know it. Returns the probability of a look-up.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    numbers = torch.arange(groups).repeat_interleave(size)
    for _ in range(steps):
        right = torch.randint(1, 5, (groups,), generator=generator)[numbers]  # (groups x size,)
        drawn = torch.multinomial(logits.detach().softmax(0), len(numbers), replacement=True, generator=generator)
        rewards = torch.where(drawn == 0, 0.6, (drawn == right).float())
        logprobs = logits.log_softmax(0)[drawn][:, None]  # (groups x size, 1)
        mask, weights = torch.ones_like(logprobs), advantages(rewards, numbers, "none")
        loss = grpo_loss(logprobs, logprobs.detach(), weights, mask, GRPOConfig(), len(drawn), len(drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(logits.detach().softmax(0)[0])


def test_it_gambles_where_grpo_looks_up():
    """A look-up earns .6, a guess 1 with probability 1/4: the mean prefers the look-up, the best of 8 the guess."""
    assert bandit(group_advantages) > 0.9
    assert bandit(best_of_group) < 0.1


@pytest.mark.slow
def test_it_gambles_in_the_real_loop_too():
    """In the toy game GRPO earns .79 (`test_learning`). RAFT stops looking up, and earns what the teacher does."""
    model = toys.warm_policy(TASK, 0)
    train(raft_trainer(model, TOK, [TASK], toys.CONFIG))
    report = toys.report(model, TASK)
    print(f"\n{report}")
    assert report.reward < 0.7 and report.calls_needed < 0.3
