"""The loop as a function: rollout -> reward -> update -> log -> checkpoint.

Flow: joins all that stands before it. `train` takes a policy that has been warm-started and environments to play in,
and runs N steps:

    1. draw prompts_per_step training queries of one environment (the environments take turns), repeat each G times
    2. play them with the current policy, sampled at temperature 1                         (eq. 7-9)
    3. score them                                                                          (eq. 10)
    4. advantages within each group, loss over the sampled tokens, one optimiser step      (eq. 11, or REINFORCE)
    5. one line of JSON to metrics.jsonl; now and then greedy nDCG@10 on validation queries, and a checkpoint

A run is a folder. `save_checkpoint` writes policy, optimiser, reference and the states of all generators into a
temporary folder and renames it, so that a run that is stopped at any point goes on from the last one with the same
numbers as if it had not been stopped (same machine, threads and versions). Ctrl-C waits for the end of the step in
hand, since half a step could not be continued.

Departures from the paper: batch 16 x 8 instead of 256 x 5; AdamW at 1e-3 for a model of 0.15M parameters instead of
1e-6 for 3B; a fixed number of steps instead of early stopping. Logged names are TRL's, so that eyes used to them find
their way.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mrrec_mini.data import DataError
from mrrec_mini.environment import Environment
from mrrec_mini.grpo import GRPOConfig, group_advantages, grpo_loss
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.models.causal_lm import load_causal_lm, save_causal_lm
from mrrec_mini.prompts import CONTROL, Grammar
from mrrec_mini.records import Episode, Query
from mrrec_mini.reinforce import BASELINES, Batch, baseline, reinforce_loss, rows_by_length, to_batch, token_logprobs
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import LMActor, RolloutConfig


@dataclass(frozen=True)
class TrainConfig:
    """One run of reinforcement learning."""

    algo: str = "grpo"  # or "reinforce"
    steps: int = 60
    prompts_per_step: int = 16
    group: int = 8  # episodes a query, G
    learning_rate: float = 1e-3
    warmup: int = 3  # steps
    max_grad_norm: float = 1.0
    micro_batches: int = 4  # the batch is cut by length, so that short episodes are not padded to long ones
    evaluate_every: int = 25
    checkpoint_every: int = 25
    seed: int = 0
    precision: str = "float32"  # or "bfloat16": matrix products in bf16 (autocast), weights and sums in float32
    baseline: str = "group"  # of REINFORCE: "none", "group", "leave_one_out"
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    rules: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        if self.algo not in ("grpo", "reinforce"):
            raise ValueError(f"algo must be 'grpo' or 'reinforce', got {self.algo!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")
        if self.group < 2:
            raise ValueError("a group needs at least two episodes: with one there is nothing to compare")
        if self.baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {BASELINES}, got {self.baseline!r}")
        if min(self.steps, self.prompts_per_step, self.evaluate_every, self.checkpoint_every) < 1:
            raise ValueError("steps, prompts_per_step, evaluate_every and checkpoint_every must be at least 1")
        if not 1 <= self.micro_batches <= self.prompts_per_step * self.group:
            raise ValueError("micro_batches must lie between 1 and the episodes of a step, prompts_per_step x group")


class Trainer:
    """The state of a run: policy, optimiser, generators, step. `save_checkpoint` and `resume` make it durable."""

    def __init__(self, model, tokenizer, environments: Sequence[Environment], config: TrainConfig):
        if not environments or not all(env.split.train_queries for env in environments):
            raise ValueError("training needs at least one training query in every environment")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.environments = list(environments)
        self.grammar = Grammar(tokenizer)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
        self.reference = _frozen_copy(model) if config.grpo.beta else None
        self.rng = np.random.default_rng([config.seed, 77])  # which queries
        self.generator = torch.Generator(device=model.device).manual_seed(config.seed)  # which tokens
        self.done = 0  # steps made

    def step(self) -> dict[str, float]:
        """One step; returns what is logged."""
        started = time.perf_counter()
        config = self.config
        episodes, groups = self.collect()
        batch = to_batch(episodes, groups, self.model.device)
        rate = config.learning_rate * min(1.0, (self.done + 1) / max(1, config.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if config.algo == "grpo":
            advantages = group_advantages(batch.rewards, batch.groups, config.grpo.sigma)
        else:
            advantages = batch.rewards - baseline(batch.rewards, batch.groups, config.baseline)
        epochs = config.grpo.epochs if config.algo == "grpo" else 1
        for _ in range(epochs):
            update = self.update(batch, advantages)
        self.done += 1
        return {
            "step": self.done,
            **_reward_log(episodes, batch),
            **update,
            "learning_rate": rate,
            "step_time": time.perf_counter() - started,
        }

    def collect(self) -> tuple[list[Episode], list[int]]:
        """G episodes for each of some training queries of one environment, and the number of each one's group."""
        config = self.config
        environment = self.environments[self.done % len(self.environments)]
        pool = environment.split.train_queries
        chosen = self.rng.choice(len(pool), config.prompts_per_step, replace=len(pool) < config.prompts_per_step)
        queries = [pool[i] for i in chosen for _ in range(config.group)]
        actor = LMActor(self.model, self.grammar, self.generator, temperature=1.0)
        with self.precision():
            episodes = environment.play(actor, queries, self.grammar, config.rules, config.reward)
        return episodes, [i // config.group for i in range(len(queries))]

    def update(self, batch: Batch, advantages: torch.Tensor) -> dict[str, float]:
        """One optimiser step on a batch of episodes. A gradient that is not finite changes nothing and is counted."""
        config = self.config
        self.model.eval()  # dropout would score other tokens than the sampler drew
        episodes, tokens = len(batch.rewards), int(batch.mask.sum())
        log = dict.fromkeys(("entropy", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean"), 0.0)
        for rows in rows_by_length(batch, config.micro_batches):
            part = batch.rows(rows)
            with self.precision():  # the sampler's: it is the same policy only if it rounds alike
                logprobs, entropy = token_logprobs(self.model, part.tokens, part.mask)
            if config.algo == "reinforce":
                loss = reinforce_loss(logprobs, advantages[rows], part.mask, episodes)
            else:
                reference = None
                if self.reference is not None:
                    with torch.no_grad(), self.precision():
                        reference, _ = token_logprobs(self.reference, part.tokens, part.mask)
                    d = (reference - logprobs.detach())[part.mask]
                    log["kl"] += float((torch.exp(d) - d - 1).sum()) / tokens
                loss = grpo_loss(
                    logprobs, part.old_logprobs, advantages[rows], part.mask, config.grpo, episodes, tokens, reference
                )
                ratio = torch.exp(logprobs.detach() - part.old_logprobs)[part.mask]
                log["clip_ratio/low_mean"] += float((ratio < 1 - config.grpo.clip[0]).sum()) / tokens
                log["clip_ratio/high_mean"] += float((ratio > 1 + config.grpo.clip[1]).sum()) / tokens
            log["entropy"] += float(entropy.sum()) / tokens
            loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        skipped = not math.isfinite(norm)
        if not skipped:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**log, "grad_norm": norm if not skipped else 0.0, "skipped_updates": float(skipped)}

    def precision(self) -> torch.autocast:
        """The context in which the model computes."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def validate(self, queries: Sequence[Query]) -> dict[str, float]:
        """Greedy nDCG@10 and format rate on queries of validation users, in the first environment."""
        actor = LMActor(self.model, self.grammar, temperature=0.0)
        config = self.config
        episodes = self.environments[0].play(actor, queries, self.grammar, config.rules, config.reward)
        return {
            "validation/ndcg@10": float(ndcg_at_k([e.rewards["rank"] for e in episodes], 10).mean()),
            "validation/format": float(np.mean([e.rewards["format"] for e in episodes])),
        }

    def state(self) -> dict:
        """All that `restore` needs besides the weights."""
        return {
            "done": self.done,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
            # the policy as it was at the start: after a resume it could not be told from the policy any more
            "reference": self.reference.state_dict() if self.reference is not None else None,
        }

    def restore(self, state: dict) -> None:
        self.done = state["done"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def train(
    trainer: Trainer,
    run: Path | None = None,
    validation: Sequence[Query] = (),
    report: Callable[[dict], None] = lambda line: None,
) -> list[dict]:
    """Make the steps that are left; returns the logged lines. Ctrl-C checkpoints (where there is a run) and is
    raised again.
    """
    config = trainer.config
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    lines = []
    try:
        while trainer.done < config.steps:
            with undivided():
                line = trainer.step()
                last = trainer.done == config.steps
                if validation and (trainer.done % config.evaluate_every == 0 or last):
                    line |= trainer.validate(validation)
                lines.append(line)
                if run is not None:
                    append_line(run / "metrics.jsonl", line)
                    if trainer.done % config.checkpoint_every == 0 or last:
                        save_checkpoint(run, trainer)
            report(line)
    except KeyboardInterrupt:
        if run is not None:
            save_checkpoint(run, trainer)
        raise
    return lines


@contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C inside the block is raised at its end. Only the main thread ever gets it, so elsewhere this does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------ a run on disk


def save_checkpoint(run: Path, trainer: Trainer) -> None:
    """Write policy/ and state.pt into a temporary folder beside it, then swap the names."""
    run.mkdir(parents=True, exist_ok=True)
    fresh, final, old = run / "policy.tmp", run / "policy", run / "policy.old"
    shutil.rmtree(fresh, ignore_errors=True)
    save_causal_lm(fresh, trainer.model, trainer.tokenizer)
    torch.save(trainer.state(), fresh / "state.pt")
    if final.exists():  # else a kill between the two lines below left `old` as the only checkpoint
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
    os.replace(fresh, final)
    shutil.rmtree(old, ignore_errors=True)


def load_policy(run: Path):
    """The model and tokenizer of a run. FileNotFoundError: no checkpoint yet; DataError: it cannot be read."""
    folder = _checkpoint(run)
    with _naming_what_is_spoiled(folder):
        return load_causal_lm(str(folder), CONTROL)


def resume(run: Path, environments: Sequence[Environment], config: TrainConfig) -> Trainer:
    """The trainer as it was at the last checkpoint; log lines written after it are dropped, they will be made again."""
    model, tokenizer = load_policy(run)
    trainer = Trainer(model, tokenizer, environments, config)
    folder = _checkpoint(run)
    with _naming_what_is_spoiled(folder):
        trainer.restore(torch.load(folder / "state.pt", weights_only=True))  # never a pickle that can run code
    log = run / "metrics.jsonl"
    if log.is_file():
        kept = [text for text in log.read_text().splitlines() if _step_of(text) <= trainer.done]
        log.write_text("".join(text + "\n" for text in kept))
    return trainer


def _checkpoint(run: Path) -> Path:
    """policy/, or what a kill between the two renames of a save left of it."""
    folder = run / "policy" if (run / "policy").is_dir() else run / "policy.old"
    if not folder.is_dir():
        raise FileNotFoundError(f"{run} has no checkpoint: there is no folder {run / 'policy'}")
    return folder


@contextmanager
def _naming_what_is_spoiled(folder: Path) -> Iterator[None]:
    """Whatever a reader says of a cut or foreign file becomes one line that names the folder."""
    try:
        yield
    except Exception as error:
        what = (str(error).splitlines() or [""])[0][:120]
        raise DataError(
            f"{folder}: the checkpoint cannot be read ({type(error).__name__}: {what}); train again into another folder"
        ) from error


def append_line(path: Path, line: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _step_of(text: str) -> float:
    """The step of a log line; infinity where a kill cut the line short."""
    try:
        return json.loads(text)["step"]
    except (ValueError, KeyError):
        return math.inf


def _reward_log(episodes: Sequence[Episode], batch: Batch) -> dict[str, float]:
    rewards = batch.rewards
    in_group = torch.stack([rewards[batch.groups == g].std() for g in batch.groups.unique()])
    lengths = batch.mask.sum(1).float()
    terms = ("format", "recommendation", "memory")
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(in_group.mean()),
        "frac_reward_zero_std": float((in_group < 1e-6).float().mean()),
        **{f"rewards/{term}/mean": float(np.mean([e.rewards[term] for e in episodes])) for term in terms},
        "calls/mean": float(np.mean([len(e.calls) for e in episodes])),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean([e.end == "a turn did not stop" for e in episodes])),
        "num_tokens": float(sum(len(e.tokens) for e in episodes)),
    }


def _frozen_copy(model):
    from copy import deepcopy

    return deepcopy(model).eval().requires_grad_(False)
