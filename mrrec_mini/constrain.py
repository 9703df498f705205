"""Constrained decoding: which tokens the grammar allows next, as tables for the sampler and for the update.

Flow: between grammar and sampler. `RolloutConfig.constrained` switches it on, and the default recipe does so. A turn
passes through a few states, and each state allows some tokens:

    open -> thinking -> search, empty -> searching -> (</search>)
                     -> answer, empty -> answering -> evidence -> (<end>)

What a turn may write also depends on what came before it: evidence can name only memories that were shown, and the
last turn cannot search. Both facts are known when a turn begins, and together they select its first state. Then the
sampler looks up each next state in the table `after`, and saves the state of each draw (`Episode.states`).

A constrained turn is malformed only if it reaches the token limit before it ends. The constraint turns the model into
another policy: pi(token) = softmax over the allowed logits. The update must apply the same mask. Otherwise the ratio of
new to old probability is not 1 when the weights have not changed. Evaluation uses the same rules as training.

The paper has no constraint: it samples freely and rewards the correct format (.1 format in eq. 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from mrrec_mini.grammar import REFERENCES, Grammar

SEARCH_EMPTY, SEARCHING = 0, 1  # independent of the memories shown; then follow seven states for each number of them
OPEN, LAST_OPEN, THINKING, LAST_THINKING, ANSWER_EMPTY, ANSWERING, EVIDENCE = range(7)


class Constraint(NamedTuple):
    """The grammar of a turn as tables over S states and the V tokens of the vocabulary."""

    start: torch.Tensor  # (25, 2) the first state of a turn; index: [memories shown so far, 1 in the last turn]
    allowed: torch.Tensor  # (S, V) bool: the tokens that may come next
    after: torch.Tensor  # (S, V) int16: the state after a token


@lru_cache(maxsize=4)
def constraint_of(grammar: Grammar) -> Constraint:
    """Return the tables of a grammar; the first call builds them. Raises ValueError for a chat grammar."""
    c = grammar.control
    if "<think>" not in c:
        raise ValueError("constrained decoding needs the grammar of control tokens; a chat model decodes freely")
    words = torch.ones(len(grammar.tokenizer), dtype=torch.bool)
    words[list(c.values())] = False
    counts = range(len(REFERENCES) + 1)
    start = torch.tensor([[state_of(step, shown) for step in (OPEN, LAST_OPEN)] for shown in counts])
    allowed = torch.zeros(state_of(OPEN, len(counts)), len(words), dtype=torch.bool)
    after = torch.zeros(allowed.shape, dtype=torch.int16)

    def edge(state: int, tokens: int | Sequence[int] | torch.Tensor, following: int) -> None:
        allowed[state, tokens], after[state, tokens] = True, following

    edge(SEARCH_EMPTY, words, SEARCHING)
    edge(SEARCHING, words, SEARCHING)
    edge(SEARCHING, c["</search>"], SEARCHING)
    for shown in counts:
        opened, last_opened, thinking, last_thinking, empty, answering, evidence = (
            state_of(i, shown) for i in range(7)
        )
        edge(opened, c["<think>"], thinking)
        edge(last_opened, c["<think>"], last_thinking)
        edge(thinking, words, thinking)
        edge(thinking, c["<search>"], SEARCH_EMPTY)
        edge(thinking, c["<profile>"], empty)
        edge(last_thinking, words, last_thinking)
        edge(last_thinking, c["<profile>"], empty)
        edge(empty, words, answering)
        edge(answering, words, answering)
        edge(answering, c["<evidence>"], evidence)
        edge(evidence, [c["<end>"], *(c[name] for name in REFERENCES[:shown])], evidence)
    return Constraint(start, allowed, after)


def state_of(step: int, shown: int) -> int:
    """Return the number of the state at `step` (OPEN ... EVIDENCE) of a turn that follows `shown` memories."""
    return 2 + 7 * shown + step
