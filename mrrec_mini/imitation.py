"""Supervised traces from a deliberately mediocre scripted teacher: the policy learns the grammar, not what is good.

Flow: before the first update. A policy that has never seen the grammar earns no reward, so there is nothing to
reinforce (the paper starts from an instruct model, and fig. 4 shows that a base model never learns to call memory).
Here a script plays episodes on training queries, in the same rollout as the policy, and the model learns to continue
them token by token.

The teacher is mediocre on purpose, so that there is something left to learn: how many look-ups it makes, which ones,
and which of the returned lines it believes, is partly chance. `expert` is the script that looks up what matters; it
knows `Query.truth`, so it exists only in the synthetic shop, and nothing is ever trained on it.

Copying comes first: the aspect from the global line, the value from the memory. `copy_drill` trains it alone, on lines
of random words, until it is sure; without it imitation never gets there. Then a share of the traces is *scrambled*:
every word of a trace is replaced by another one, consistently, so that nothing but copying is left to be learned from
it. A policy that has learned words instead fails on categories it has not seen.

Departure from the paper: all of this file. Sizes and rates: measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mrrec_mini.datatypes import Episode
from mrrec_mini.reinforce import rows_by_length, to_batch, token_logprobs


@dataclass(frozen=True)
class WarmStartConfig:
    """First the copy drill, then the traces."""

    drill_steps: int = 400  # at most
    drill_batch: int = 48
    drill_rate: float = 8e-3
    drill_goal: float = 0.93  # mean probability of the right token at which the drill ends
    steps: int = 600
    batch: int = 32
    parts: int = 2  # a batch is cut by length, so that short traces are not padded to long ones
    learning_rate: float = 6e-3
    scrambled: float = 0.25  # share of the traces told in other words


def drill_batch(
    control: Mapping[str, int], first_word: int, vocabulary: int, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lines of three random words, then some of the lines again: what follows a line's first word can only be copied.

    tokens (size, T) and mask (size, T), 1 at the copied words.
    """
    lines, reads, words = 5, 8, 3
    drawn = np.argsort(rng.random((size, vocabulary - first_word)), axis=1)[:, : lines * words] + first_word
    drawn = drawn.reshape(size, lines, words)
    again = np.take_along_axis(drawn, rng.integers(0, lines, (size, reads))[:, :, None], axis=1)
    shown = np.concatenate([np.full((size, lines, 1), control["<line>"]), drawn], 2).reshape(size, -1)
    asked = np.concatenate([np.full((size, reads, 1), control["<think>"]), again], 2).reshape(size, -1)
    mask = np.concatenate([np.zeros_like(shown), np.tile([0, 0] + [1] * (words - 1), (size, reads))], 1)
    return torch.tensor(np.concatenate([shown, asked], 1)), torch.tensor(mask, dtype=torch.bool)


def copy_drill(model, tokenizer, config: WarmStartConfig, rng: np.random.Generator, progress=lambda *_: None) -> float:
    """Train until copying is sure; returns the last mean probability of the right word, in 0..1."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.drill_rate, betas=(0.9, 0.95), weight_decay=0.01)
    skill = 0.0
    for step in range(config.drill_steps):
        set_rate(optimizer, config.drill_rate * min(1.0, (step + 1) / 10))
        tokens, mask = drill_batch(tokenizer.control, tokenizer.first_word, len(tokenizer), config.drill_batch, rng)
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        logprobs, _ = token_logprobs(model, tokens, mask)
        optimizer.zero_grad(set_to_none=True)
        (-logprobs.sum() / mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        skill = 0.8 * skill + 0.2 * float(logprobs.detach()[mask].exp().mean())
        progress(step + 1, skill)
        if skill > config.drill_goal:
            break
    return skill


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scramble(episode_tokens: Sequence[int], first_word: int, vocabulary: int, rng: np.random.Generator) -> list[int]:
    """The same trace in other words: each distinct word token becomes another one, the same wherever it occurs."""
    words = sorted({t for t in episode_tokens if t >= first_word})
    others = rng.choice(vocabulary - first_word, size=len(words), replace=False) + first_word
    renamed = dict(zip(words, others.tolist(), strict=True))
    return [renamed.get(t, t) for t in episode_tokens]


def supervised_loss(model, tokens: torch.Tensor, mask: torch.Tensor, written: int) -> torch.Tensor:
    """Cross-entropy of the tokens that the teacher wrote, over the number `written` of the whole batch.

    Prompt and memory are context. The losses of the parts of a batch add up.
    """
    logprobs, _ = token_logprobs(model, tokens, mask)
    return -logprobs.sum() / written


def warm_start(
    model,
    tokenizer,
    traces: Sequence[Episode],
    config: WarmStartConfig,
    rng: np.random.Generator,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train `model` on the traces; returns the loss of each step. Cosine rate with a short warm-up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, config.steps // 20)
    losses = []
    for step in range(config.steps):
        cosine = 0.02 + 0.98 * (1 + np.cos(np.pi * step / config.steps)) / 2
        set_rate(optimizer, config.learning_rate * min(1.0, (step + 1) / warmup) * cosine)
        chosen = [traces[i] for i in rng.integers(0, len(traces), config.batch)]
        for i in np.flatnonzero(rng.random(config.batch) < config.scrambled):
            tokens = scramble(chosen[i].tokens, tokenizer.first_word, len(tokenizer), rng)
            chosen[i] = replace(chosen[i], tokens=tuple(tokens))
        batch = to_batch(chosen, range(len(chosen)), model.device)
        written = int(batch.mask.sum())
        loss = 0.0
        optimizer.zero_grad(set_to_none=True)
        for rows in rows_by_length(batch, config.parts):
            part = batch.rows(rows)
            part_loss = supervised_loss(model, part.tokens, part.mask, written)
            part_loss.backward()
            loss += part_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss)
        progress(step + 1, losses[-1])
    return losses
