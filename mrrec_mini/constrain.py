"""Constrained decoding: the tokens that the grammar allows next, as one mask for the sampler and for the update.

Flow: between prompts and sampler; an argument of the rollout (`RolloutConfig.constrained`), which the default
recipe switches on. A turn passes through a few states, each of which allows some tokens:

    open -> thinking -> searching, empty -> searching -> (</search>)
                     -> answering, empty -> answering -> evidence -> (<end>)

With the mask a turn can be malformed only by running out of tokens. It makes another policy out of the model: pi(token)
= softmax of the allowed logits. So the update has to score under the same mask (`states_of_episode` finds it again from
the tokens), or the ratio is not 1 where nothing has changed. Evaluation plays by the same rules.

Not in the paper, which samples freely and pays for form (.1 format in eq. 10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mrrec_mini.datatypes import Episode
from mrrec_mini.grammar import REFERENCES, Grammar, turns

OPEN, THINKING, LAST_THINKING, SEARCH_EMPTY, SEARCHING, ANSWER_EMPTY, ANSWERING, EVIDENCE = range(8)


class Constraint:
    """The states of a turn, and what each allows: `table` (S, V) bool. State EVIDENCE + n: n memories were shown."""

    def __init__(self, grammar: Grammar, max_calls: int):
        c = self.control = grammar.control
        if "<think>" not in c:
            raise ValueError("constrained decoding needs the grammar of control tokens; a chat model decodes freely")
        self.max_calls = max_calls
        words = torch.ones(len(grammar.tokenizer), dtype=torch.bool)
        words[list(c.values())] = False
        self.table = torch.zeros(EVIDENCE + len(REFERENCES) + 1, len(words), dtype=torch.bool)
        for state in (THINKING, LAST_THINKING, SEARCH_EMPTY, SEARCHING, ANSWER_EMPTY, ANSWERING):
            self.table[state] = words
        self.table[OPEN, c["<think>"]] = True
        self.table[THINKING, [c["<search>"], c["<profile>"]]] = True
        self.table[LAST_THINKING, c["<profile>"]] = True
        self.table[SEARCHING, c["</search>"]] = True
        self.table[ANSWERING, c["<evidence>"]] = True
        for shown in range(len(REFERENCES) + 1):
            self.table[EVIDENCE + shown, [c["<end>"], *(c[name] for name in REFERENCES[:shown])]] = True

    def after(self, state: int, token: int, shown: int, last: bool) -> int:
        """The state after one more token."""
        c = self.control
        if state == OPEN:
            return LAST_THINKING if last else THINKING
        if state in (THINKING, LAST_THINKING):
            return {c["<search>"]: SEARCH_EMPTY, c["<profile>"]: ANSWER_EMPTY}.get(token, state)
        if state == ANSWERING and token == c["<evidence>"]:
            return EVIDENCE + shown
        return {SEARCH_EMPTY: SEARCHING, ANSWER_EMPTY: ANSWERING}.get(state, state)

    def states(self, ids: Sequence[int], shown: int, last: bool) -> list[int]:
        """The state before each of a turn's ids, and the one after the last: one more than there are ids."""
        states = [OPEN]
        for token in ids:
            states.append(self.after(states[-1], token, shown, last))
        return states

    def allowed(self, ids: Sequence[int], shown: int, last: bool) -> torch.Tensor:
        """(V,) True: may follow these ids of a turn."""
        return self.table[self.states(ids, shown, last)[-1]]

    def states_of_batch(self, episodes: Sequence[Episode]) -> torch.Tensor:
        """(B, T) the state in which each token was sampled."""
        states = torch.zeros(len(episodes), max(len(e.tokens) for e in episodes), dtype=torch.long)
        for row, episode in enumerate(episodes):
            states[row, : len(episode.tokens)] = torch.tensor(self.states_of_episode(episode))
        return states

    def states_of_episode(self, episode: Episode) -> list[int]:
        """The state in which each token was sampled; 0, which means nothing, where it was not."""
        states = [0] * len(episode.tokens)
        shown = 0
        for turn, (start, end) in enumerate(turns(episode.mask)):
            states[start:end] = self.states(episode.tokens[start:end], shown, turn == self.max_calls)[:-1]
            shown += len(episode.calls[turn].entries) if turn < len(episode.calls) else 0
        return states
