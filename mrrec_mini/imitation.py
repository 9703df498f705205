"""Imitation before reinforcement: the model practises copying, then is trained on the teacher's episodes (traces).

Flow: after `scripts`, before the first update. A policy that has never seen the grammar gets no reward, so there is
nothing to reinforce. (The paper starts from an instruct model; its fig. 4 shows that a base model never learns to call
memory.) So the model first imitates the teacher's episodes, good and bad, which teach it the grammar.

1. `copy_drill`. A good turn copies an aspect from a global line, and a value from memory. The drill trains only the
   copying of words, on random words, until the model does it reliably. Imitation alone does not teach copying.
2. `warm_start`. Minimise the cross-entropy of the tokens that the teacher wrote. In a share of the traces, `scramble`
   replaces each word by a random word, the same one wherever the word occurs in the trace. The model can predict such
   a word only by copying it. A policy that learns the words themselves fails on categories that it has not seen.

A real shop has many thousands of words, and most of them occur in few traces or in none. Imitation with the settings of
the synthetic shop makes the model forget how to copy them: the probability of the right word falls from .93 to .42.
`for_rare_words` changes two settings, and then it is .95 or more for all words alike (benchmarks/LOG.md):

- In another share of the traces, only the words that were copied from memory are replaced. The words around them, which
  say what to copy and where it ends, stay.
- A step changes the embeddings only of words in its batch. The gradient of all other words is tiny, but not 0, since
  each is a wrong answer; AdamW makes steps of full size of it, so that these words drift away from where they can be
  copied.

Departure: the paper has no such stage, so there are no equations. Sizes and rates were chosen by experiments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from mrrec_mini.data import DataError
from mrrec_mini.datatypes import Episode
from mrrec_mini.reinforce import rows_by_length, to_batch, token_logprobs


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of `copy_drill` (drill_...) and of `warm_start` (all others)."""

    drill_steps: int = 400  # at most; the drill ends earlier if the skill exceeds `drill_goal`
    drill_batch: int = 48
    drill_rate: float = 8e-3
    drill_goal: float = 0.93  # the skill is the mean probability of the right token
    steps: int = 600
    batch: int = 32
    parts: int = 2  # a batch is split into this many parts by length, so short traces are not padded to the longest
    learning_rate: float = 6e-3
    scrambled: float = 0.25  # share of the traces in which `scramble` replaces all words
    renamed: float = 0.0  # share of the traces in which it replaces only the words that were copied from memory
    lazy: bool = False  # a step changes the embeddings only of tokens in its batch

    def for_rare_words(self) -> WarmStartConfig:
        """Return the settings for a vocabulary in which most words are rare: see the module docstring."""
        return replace(self, renamed=self.scrambled, lazy=True)


def drill_batch(tokenizer, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask, (size, T). A row has 5 lines of 3 random words, then 8 repeats of randomly drawn lines.

    The mask is True at the last two words of each repeat: only copying can predict them. Raises DataError if the
    tokenizer has fewer than 15 words.
    """
    lines, reads, words = 5, 8, 3
    if (known := len(tokenizer) - tokenizer.first_word) < lines * words:
        what = f"the texts of the train users have {known} words that occur often enough, and the copy drill needs"
        raise DataError(f"{what} {lines * words}; add users, or items with longer texts")
    # no word occurs twice among the 5 lines of a row, so the first word of a line identifies the line
    drawn = np.argsort(rng.random((size, len(tokenizer) - tokenizer.first_word)), axis=1)[:, : lines * words]
    drawn = drawn.reshape(size, lines, words) + tokenizer.first_word
    again = np.take_along_axis(drawn, rng.integers(0, lines, (size, reads))[:, :, None], axis=1)
    shown = np.concatenate([np.full((size, lines, 1), tokenizer.control["<line>"]), drawn], 2).reshape(size, -1)
    asked = np.concatenate([np.full((size, reads, 1), tokenizer.control["<think>"]), again], 2).reshape(size, -1)
    mask = np.concatenate([np.zeros_like(shown), np.tile([0, 0] + [1] * (words - 1), (size, reads))], 1)
    return torch.tensor(np.concatenate([shown, asked], 1)), torch.tensor(mask, dtype=torch.bool)


def copy_drill(model, tokenizer, config: WarmStartConfig, rng: np.random.Generator, progress=lambda *_: None) -> float:
    """Train until the skill exceeds `drill_goal`; return the skill. `progress` is called with (step, skill)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.drill_rate, betas=(0.9, 0.95), weight_decay=0.01)
    skill = 0.0
    for step in range(config.drill_steps):
        set_rate(optimizer, config.drill_rate * min(1.0, (step + 1) / 10))  # ten steps of warm-up
        # 1. Fresh random lines in every step, so there is nothing to memorise.
        tokens, mask = drill_batch(tokenizer, config.drill_batch, rng)
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        # 2. One step of cross-entropy on the copied words.
        logprobs, _ = token_logprobs(model, tokens, mask)  # (size, T)
        optimizer.zero_grad(set_to_none=True)
        (-logprobs.sum() / mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # 3. The skill is a running mean of the probability of the right word. Stop once it is high enough.
        skill = 0.8 * skill + 0.2 * float(logprobs.detach()[mask].exp().mean())
        progress(step + 1, skill)
        if skill > config.drill_goal:
            break
    return skill


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scramble(tokens: Sequence[int], words: Iterable[int], tokenizer, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the trace with each of `words` (ids) replaced by a random word, the same one wherever it occurs."""
    words = sorted(words)
    others = rng.choice(len(tokenizer) - tokenizer.first_word, size=len(words), replace=False) + tokenizer.first_word
    renamed = dict(zip(words, others.tolist(), strict=True))
    return tuple(renamed.get(t, t) for t in tokens)


def words_of(trace: Episode, tokenizer) -> set[int]:
    """Return the ids of all words of a trace."""
    return {t for t in trace.tokens if t >= tokenizer.first_word}


def copied_words(trace: Episode, tokenizer) -> set[int]:
    """Return the ids of the words that the teacher can only have copied from a reply of memory: they occur there first.

    A word of the prompt is not among them, nor a word that the teacher wrote before memory showed it ("overall").
    """
    first_written = trace.mask.index(1)  # here the prompt ends
    known, read, copied = set(trace.tokens[:first_written]), set(), set()
    for token, written in zip(trace.tokens[first_written:], trace.mask[first_written:], strict=True):
        if written and token in read:
            copied.add(token)
        elif written:
            known.add(token)
        elif token not in known:
            read.add(token)
    return {t for t in copied if t >= tokenizer.first_word}


def supervised_loss(model, tokens: torch.Tensor, mask: torch.Tensor, written: int) -> torch.Tensor:
    """Return minus the sum of log pi over the tokens that the teacher wrote, divided by `written`. tokens, mask (b, T).

    `written` is the number of such tokens in the whole batch, so the losses of its parts add up to the loss of the
    batch. The model reads the prompt and the memory, but is not trained to write them.
    """
    return -token_logprobs(model, tokens, mask)[0].sum() / written


@contextmanager
def unchanged_rows(weights: torch.Tensor, tokens: torch.Tensor) -> Iterator[None]:
    """Restore the rows of `weights` (V, d) that are not among `tokens` (any shape, padded with -1) after the block."""
    absent = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    absent[tokens[tokens >= 0]] = False
    before = weights.detach()[absent].clone()
    yield
    with torch.no_grad():
        weights[absent] = before


def warm_start(
    model, tokenizer, traces: Sequence[Episode], config: WarmStartConfig, rng, progress=lambda *_: None
) -> list[float]:
    """Train `model` on the traces. Returns the loss of each step; `progress` is called with (step, loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    embeddings = model.get_input_embeddings().weight  # (V, d), also the output layer of a tiny policy
    warmup, losses = max(1, config.steps // 20), []
    for step in range(config.steps):
        # 1. Set the learning rate: a linear warm-up, times a cosine that falls to 2 % of the full rate.
        cosine = 0.02 + 0.98 * (1 + np.cos(np.pi * step / config.steps)) / 2
        set_rate(optimizer, config.learning_rate * min(1.0, (step + 1) / warmup) * cosine)
        # 2. Draw traces with replacement. Replace all words of some, and the copied words of others.
        chosen = [traces[i] for i in rng.integers(0, len(traces), config.batch)]
        fates = rng.random(config.batch)
        for i in np.flatnonzero(fates < config.scrambled + config.renamed):
            which = words_of if fates[i] < config.scrambled else copied_words
            chosen[i] = replace(
                chosen[i], tokens=scramble(chosen[i].tokens, which(chosen[i], tokenizer), tokenizer, rng)
            )
        # 3. Add up the gradients of the parts of the batch. Each part is padded to its own longest trace.
        batch = to_batch(chosen, range(len(chosen)), model.device)
        written = int(batch.mask.sum())
        losses.append(0.0)
        optimizer.zero_grad(set_to_none=True)
        for rows in rows_by_length(batch, config.parts):
            part = batch.rows(rows)
            part_loss = supervised_loss(model, part.tokens, part.mask, written)
            part_loss.backward()
            losses[-1] += part_loss.item()
        # 4. One step of the optimizer.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with unchanged_rows(embeddings, batch.tokens) if config.lazy else nullcontext():
            optimizer.step()
        progress(step + 1, losses[-1])
    return losses
