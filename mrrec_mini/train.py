"""Reinforcement learning, one step at a time: rollout -> reward -> advantages -> update -> log.

Flow: joins all stages before it. A `Trainer` gets a warm-started policy and the environments. Its method `step` does:

    1. draw prompts_per_step training queries of one environment (the environments take turns), repeat each G times
    2. play an episode for each with the current policy, sampled at temperature 1          (eq. 7-9)
    3. compute the rewards                                                                 (eq. 10)
    4. compute advantages in each group and the loss, make one optimiser step              (eq. 11, or REINFORCE)
    5. return the numbers to log, named as in TRL

`train` repeats `step` and gives log lines and checkpoints to a `Keeper`, for example a `run.Run`. `Trainer.state`
returns all that a step depends on besides the weights. So training that was stopped and resumed gives the same numbers
as training without a stop (on the same machine, with the same threads and versions).

Departures from the paper: batch 16 x 8 instead of 256 x 5; AdamW at 1e-4 and Muon at 6e-3 (`muon`) for a model of 0.15M
parameters, instead of AdamW at 1e-6 for 3B; a fixed number of steps instead of early stopping.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import zip_longest
from numbers import Real
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.constrain import constraint_of
from mrrec_mini.data import shorten
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.grpo import Formulas, GRPOConfig, ratio_log
from mrrec_mini.hybrid import HybridIndex
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.muon import Optimizers, make_optimizer
from mrrec_mini.reinforce import BASELINES, Batch, per_token, rows_by_length, to_batch
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.signals import undivided
from mrrec_mini.turn_credit import turn_advantages


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run of reinforcement learning."""

    algo: str = "grpo"  # or "reinforce"
    steps: int = 80
    prompts_per_step: int = 16
    group: int = 8  # episodes per query, G
    learning_rate: float = 1e-3
    matrix_rate: float | None = None  # learning rate of Muon, for the weights of linear layers; None: AdamW for all
    warmup: int = 3  # steps in which the learning rate rises
    final_rate: float = 0.05  # the learning rate falls linearly to this share of itself at the last step
    max_grad_norm: float = 1.0
    micro_batches: int = 4  # the batch is split by length, so short episodes are not padded to the longest
    evaluate_every: int = 25
    checkpoint_every: int = 25
    max_skipped: int = 5  # training stops after this many updates in a row whose loss or gradient is not finite
    seed: int = 0
    credit: str = "trajectory"  # one advantage per episode (as in the paper), or "turn": one per decision of an episode
    precision: str = "float32"  # or "bfloat16": matrix products in bf16 (autocast), weights and sums in float32
    baseline: str = "group"  # only for REINFORCE: "none", "group", "leave_one_out"
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    rules: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        precisions, credits = ("float32", "bfloat16"), ("trajectory", "turn")
        choices = {"algo": ("grpo", "reinforce"), "credit": credits, "precision": precisions, "baseline": BASELINES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.group < 2:
            raise ValueError("a group needs at least two episodes: with one there is nothing to compare")
        for name in ("steps", "prompts_per_step", "evaluate_every", "checkpoint_every", "max_skipped"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.micro_batches <= self.prompts_per_step * self.group:
            raise ValueError("micro_batches must be from 1 to prompts_per_step x group, the episodes in a step")


class Trainer:
    """Holds policy, optimiser, random generators and counters. `formulas`: the package's, or a student's versions."""

    def __init__(
        self, model, tokenizer, environments: list[Environment], config: TrainConfig, formulas: Formulas = Formulas()
    ):
        if not environments or not all(env.split.train_queries for env in environments):
            raise ValueError("training needs at least one training query in every environment")
        self.model, self.tokenizer, self.config, self.formulas = model, tokenizer, config, formulas
        self.environments, self.grammar = environments, grammar_of(tokenizer)
        self.table = constraint_of(self.grammar).allowed if config.rules.constrained else None
        self.optimizer = make_optimizer(model, config.learning_rate, config.matrix_rate)
        self.optimizer.zero_grad(set_to_none=True)  # a warm start leaves its last gradient behind
        self.reference = deepcopy(model).eval().requires_grad_(False) if config.grpo.beta else None
        self.rng = np.random.default_rng([config.seed, 77])  # draws the queries
        self.generator = torch.Generator().manual_seed(config.seed)  # draws the tokens
        self.done = 0  # number of finished steps
        self.skipped = 0  # number of the latest updates that were skipped in a row

    def step(self) -> dict[str, float]:
        """Make one training step and return the numbers to log."""
        started = time.perf_counter()
        model, config, formulas = self.model, self.config, self.formulas
        # 1. play a group of episodes per query with the current policy, and compute their rewards
        episodes, groups = self.collect()
        batch = to_batch(episodes, groups, model.device, self.table)
        log = _reward_log(episodes, batch)
        # 2. compute the advantages: how much better was each episode (or decision) than the others of its group?
        advantages = advantages_of(episodes, batch, self.grammar, self.environment.items, config, formulas)
        # 3. set the learning rates of this step
        share = rate_factor(self.done, config)
        self.optimizer.set_share(share)
        # 4. update the policy on the batch: once, or for several epochs of GRPO
        parts = rows_by_length(batch, config.micro_batches)
        for _ in range(config.grpo.epochs if config.algo == "grpo" else 1):
            update = update_policy(model, self.optimizer, batch, advantages, parts, config, formulas, self.reference)
            self.skipped = self.skipped + 1 if update["skipped_updates"] else 0
        self.done += 1
        log |= update | {"learning_rate": share * config.learning_rate, "step_time": time.perf_counter() - started}
        # a skipped update has numbers that are not finite; they are logged as 0, because JSON has no other
        return {"step": self.done, **{name: value if math.isfinite(value) else 0.0 for name, value in log.items()}}

    @property
    def environment(self) -> Environment:
        """Return the environment of the next step. The environments take turns."""
        return self.environments[self.done % len(self.environments)]

    def collect(self) -> tuple[list[Episode], list[int]]:
        """Draw training queries, play and score G episodes for each; return the episodes and their group numbers.

        Raises ValueError if the environment raises one or returns wrong episodes or rewards, RuntimeError if it raises
        another error. The message names the step, the environment's class and the queries.
        """
        config, environment = self.config, self.environment
        # 1. draw queries (with replacement if there are too few), and repeat each: its episodes are a group
        pool = environment.split.train_queries
        chosen = self.rng.choice(len(pool), config.prompts_per_step, replace=len(pool) < config.prompts_per_step)
        queries = [pool[i] for i in chosen for _ in range(config.group)]
        # 2. play and score them
        actor = LMActor(self.model, self.grammar, self.generator, temperature=1.0)
        player = f"step {self.done + 1} is refused: {type(environment).__name__}.play"
        try:
            with autocast(self.model, config):
                episodes = environment.play(actor, queries, self.grammar, config.rules, config.reward)
        except Exception as error:
            names = ", ".join(dict.fromkeys(query.id for query in queries))
            kind = ValueError if isinstance(error, ValueError) else RuntimeError  # RuntimeError: shown with its trace
            raise kind(f"{player} raised {type(error).__name__}: {error}; its queries: {names}") from error
        # 3. check, before the policy changes: one episode per query, in order, each with a finite reward
        for query, episode in zip_longest(queries, episodes):
            asked, played = query and query.id, episode and episode.query.id
            if asked != played:
                what = f"{len(episodes)} episodes for {len(queries)} queries; for query {asked} an episode of {played}"
                raise ValueError(f"{player} returned {what}")
            reward = episode.reward
            # the check is in float32, the type of the batch's rewards: 1e300 is infinite there
            if not isinstance(reward, Real) or not torch.isfinite(torch.tensor(float(reward))):
                what = f"the reward is {shorten(reward)}, not a finite number"
                raise ValueError(f"{player}: episode of query {asked}: {what}")
        return episodes, [i // config.group for i in range(len(queries))]

    def validate(self, queries: Sequence[Query]) -> dict[str, float]:
        """Answer queries of the first environment greedily; return mean nDCG@10 and mean format score, in 0..1."""
        actor = LMActor(self.model, self.grammar, temperature=0.0)
        config = self.config
        with autocast(self.model, config):
            episodes = self.environments[0].play(actor, queries, self.grammar, config.rules, config.reward)
        return {
            "validation/ndcg@10": float(ndcg_at_k([e.rewards["rank"] for e in episodes], 10).mean()),
            "validation/format": float(np.mean([e.rewards["format"] for e in episodes])),
        }

    def state(self) -> dict:
        """Return everything that `restore` needs; the model's weights are saved separately."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "reference": None if self.reference is None else self.reference.state_dict(),  # the policy at the start
        }

    def restore(self, state: dict) -> None:
        """Set this trainer to a state that `state` returned for a trainer of the same model."""
        self.done, self.skipped = state["done"], state["skipped"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def advantages_of(
    episodes: Sequence[Episode],
    batch: Batch,
    grammar: Grammar,
    items: HybridIndex,
    config: TrainConfig,
    formulas: Formulas = Formulas(),
) -> torch.Tensor:
    """Return the advantage of each episode (B,), or of each token (B, T) for turn credit. `batch` packs `episodes`."""
    if config.credit == "turn":
        groups = batch.groups.tolist()
        return turn_advantages(episodes, groups, grammar, items, config.reward).to(batch.rewards.device)
    if config.algo == "grpo":
        return formulas.group_advantages(batch.rewards, batch.groups, config.grpo.sigma)
    return batch.rewards - formulas.baseline(batch.rewards, batch.groups, config.baseline)


def update_policy(
    model,
    optimizer: torch.optim.Optimizer | Optimizers,
    batch: Batch,
    advantages: torch.Tensor,
    parts: Sequence[torch.Tensor],
    config: TrainConfig,
    formulas: Formulas = Formulas(),
    reference=None,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Make one optimiser step on a batch of episodes and return the numbers to log.

    advantages (B,) or (B, T). `parts` holds the row numbers of each micro-batch; their gradients add up. `reference` is
    the frozen model for the KL, `temperature` that of the sampler. If the loss or the gradient is not finite, the
    policy is not changed and `skipped_updates` is 1.
    """
    model.eval()  # no dropout: with it, the log-probabilities would not be those of the policy that sampled
    episodes, tokens = len(batch.rewards), int(batch.mask.sum())
    log = dict.fromkeys(("entropy", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean"), 0.0)
    total, pieces = 0.0, []  # the loss, and what the log of the ratios needs of each micro-batch
    for rows in parts:
        part = batch.rows(rows)
        credit = per_token(advantages)[rows, : part.tokens.shape[1]]  # (b, 1) or (b, T)
        scored = part.tokens, part.mask, temperature, part.allowed
        # 1. log pi of every sampled token (b, T), in the sampler's precision, so that both compute the same policy
        with autocast(model, config):
            logprobs, entropy = formulas.token_logprobs(model, *scored)
        # 2. the loss of this micro-batch, weighted by the counts of the whole batch
        if config.algo == "reinforce":
            loss = formulas.reinforce_loss(logprobs, credit, part.mask, episodes)
        else:
            frozen = None  # log pi of the reference, for the KL
            if reference is not None:
                with torch.no_grad(), autocast(model, config):
                    frozen, _ = formulas.token_logprobs(reference, *scored)
            sampled = logprobs, part.old_logprobs, credit, part.mask
            loss = formulas.grpo_loss(*sampled, config.grpo, episodes, tokens, frozen, **formulas.parts)
            pieces.append((logprobs.detach(), frozen, part, credit))
        log["entropy"] += float(entropy.sum()) / tokens
        # 3. add the gradient of this loss to the gradients of the other micro-batches
        loss.backward()
        total += float(loss.detach())
    log |= ratio_log(pieces, config.grpo, episodes, tokens) if pieces else {}
    # 4. clip the gradient's norm, and make the step unless loss or gradient is not finite
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    finite = math.isfinite(norm + total)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**log, "grad_norm": norm, "skipped_updates": float(not finite)}


def autocast(model, config: TrainConfig) -> torch.autocast:
    """Return the context (bfloat16 or not) in which the model computes, both for sampling and for the update."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of the learning rate at a step, counted from 0. It rises in the warm-up, then falls linearly.

    The fall ends at `config.steps`. So 80 steps that are continued to 100 differ from 100 steps planned at the start.
    """
    fall = 1.0 - (1.0 - config.final_rate) * step / max(1, config.steps - 1)
    return min(1.0, (step + 1) / max(1, config.warmup)) * fall


class Keeper(Protocol):
    """An object that stores the results of training: the log line of each step, and checkpoints of the trainer."""

    def log(self, line: dict) -> None: ...
    def save(self, trainer: Trainer) -> None: ...
    def last_checkpoint(self) -> Path | None: ...


def train(
    trainer: Trainer,
    keeper: Keeper | None = None,
    validation: Sequence[Query] = (),
    report: Callable[[dict], None] = lambda line: None,
) -> list[dict]:
    """Make the remaining steps of `trainer` and return their log lines. `report` is called with each line.

    Ctrl-C (or SIGTERM, see `signals`) takes effect after the current step: a checkpoint is saved, then
    KeyboardInterrupt is raised. Raises ValueError, which names the last good checkpoint, if `max_skipped` updates in a
    row were not finite.
    """
    config = trainer.config
    lines = []
    try:
        while trainer.done < config.steps:
            with undivided():  # a signal must not stop a step halfway: half a step could not be resumed
                line = trainer.step()
                last = trainer.done == config.steps
                # every `evaluate_every` steps and at the end, evaluate greedily on the validation queries
                if validation and (trainer.done % config.evaluate_every == 0 or last):
                    line |= trainer.validate(validation)
                lines.append(line)
                if keeper is not None:
                    keeper.log(line)
                if trainer.skipped >= config.max_skipped:
                    found = keeper and keeper.last_checkpoint()
                    last_good = f"the last good checkpoint is {found}" if found else "there is no checkpoint"
                    what = f"loss or gradient was not finite in {trainer.skipped} updates in a row, so training stops"
                    advice = "train again with a lower learning rate, or look at the rewards"
                    raise ValueError(f"step {trainer.done}: {what}; {last_good}; {advice}")
                if keeper is not None and (trainer.done % config.checkpoint_every == 0 or last):
                    keeper.save(trainer)
            report(line)
    except KeyboardInterrupt:
        if keeper is not None:
            with undivided():  # many send a second signal if a process does not end at once
                keeper.save(trainer)
        raise
    return lines


def _reward_log(episodes: Sequence[Episode], batch: Batch) -> dict[str, float]:
    rewards = batch.rewards
    in_group = torch.stack([rewards[batch.groups == g].std() for g in batch.groups.unique()])
    lengths = batch.mask.sum(1).float()  # (B,) number of tokens that the policy sampled
    terms = [term for term in ("format", "recommendation", "memory", "evidence") if term in episodes[0].rewards]
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_std_in_group": float(in_group.mean()),
        "frac_reward_zero_std": float((in_group < 1e-6).float().mean()),
        **{f"rewards/{term}/mean": float(np.mean([e.rewards[term] for e in episodes])) for term in terms},
        "calls/mean": float(np.mean([len(e.calls) for e in episodes])),
        **{f"completions/{name}_length": float(getattr(lengths, name)()) for name in ("mean", "min", "max")},
        "completions/clipped_ratio": float(np.mean([e.end == "a turn did not stop" for e in episodes])),
        "step_tokens": float(sum(len(e.tokens) for e in episodes)),
    }
