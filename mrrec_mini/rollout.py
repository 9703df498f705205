"""Play episodes: the policy thinks, searches memory, reads and answers; a mask says who wrote which token.

Flow: after memory and sampler, before reward. `rollout` plays one episode per query, all in parallel, turn by turn:
show the prompt, let the actor write a turn, parse it, answer a search from the user's memory (eq. 8). The actor is the
language model (`LMActor`) or a script (`ScriptActor`). Both get the same prompts, parser, limits and memory.

An episode ends with an answer, at its first malformed turn, at a search beyond `max_calls`, or when a turn does not
stop within `turn_tokens`. In the last three cases it has no answer and its format reward is 0.

Three rules hold: ids are appended, and never decoded and encoded again (token in, token out); only sampled ids are
parsed; retrieved ids have mask 0. Departure: at most 3 searches; the paper limits only the length (768 tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from mrrec_mini.constrain import constraint_of
from mrrec_mini.datatypes import Answer, Call, Episode, MemoryEntry, Query
from mrrec_mini.grammar import REFERENCES, Final, Grammar, Malformed
from mrrec_mini.sampler import Sampler


@dataclass(frozen=True)
class RolloutConfig:
    """The limits of an episode."""

    max_calls: int = 3  # searches; the turn after the last search must answer. 0: no local memory
    memory_k: int = 3  # memories that a search returns (fig. 6: 3 is best)
    global_k: int = 6  # lines of global memory in the prompt. 0: no global memory
    turn_tokens: int = 48  # a longer turn is malformed
    constrained: bool = False  # sample only tokens that the grammar allows next

    def __post_init__(self) -> None:
        if min(self.max_calls, self.global_k) < 0 or min(self.memory_k, self.turn_tokens) < 1:
            raise ValueError("max_calls and global_k must be >= 0, memory_k and turn_tokens >= 1")
        if self.max_calls * self.memory_k > len(REFERENCES):
            raise ValueError(f"max_calls x memory_k must be at most {len(REFERENCES)}: each memory needs a name")


@dataclass
class State:
    """An unfinished episode."""

    query: Query
    global_entries: tuple[MemoryEntry, ...]
    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answer: Answer | None = None
    end: str = ""

    @property
    def shown(self) -> list[MemoryEntry]:
        """The memories shown so far, in order."""
        return [entry for call in self.calls for entry in call.entries]

    def append(self, ids: list[int], logprobs: list[float] | None = None, states: list[int] | None = None) -> None:
        """Append sampled ids with log-probabilities (and states if constrained), or given ids (mask 0) without."""
        self.tokens += ids
        self.mask += [0 if logprobs is None else 1] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)
        self.states += states or [0] * len(ids)

    def episode(self) -> Episode:
        lists = (tuple(part) for part in (self.tokens, self.mask, self.logprobs, self.calls))
        states = tuple(self.states) if any(self.states) else ()
        return Episode(self.query, *lists, self.answer, self.end, self.global_entries, states)


class Searchable(Protocol):
    """A memory to search: the memory of a data set or of a store, or one of the two with some entries hidden."""

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]: ...
    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]: ...


Allowed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # how decoding is constrained: see `Sampler.sample`
Written = tuple[list[list[int]], list[list[float]], list[list[int]]]  # ids, log-probabilities and states of each row


class Actor(Protocol):
    """Writes the turns of a batch of episodes."""

    def start(self, states: list[State]) -> None: ...
    def turn(self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None) -> Written: ...
    def keep(self, rows: Sequence[int]) -> None: ...
    def read(self, blocks: Sequence[Sequence[int]]) -> None: ...


class LMActor:
    """The language model writes the turns. `temperature` 0: greedy."""

    def __init__(self, model, grammar: Grammar, generator: torch.Generator | None = None, temperature: float = 1.0):
        self.model, self.grammar, self.generator, self.temperature = model, grammar, generator, temperature

    def start(self, states: list[State]) -> None:
        self.model.eval()
        self.sampler = Sampler(self.model, [s.tokens for s in states], self.generator, self.temperature)

    def turn(self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None) -> Written:
        ids, logprobs = self.sampler.sample(self.grammar.stop, max_new, forbidden, allowed)
        return ids, logprobs, self.sampler.states

    def keep(self, rows: Sequence[int]) -> None:
        self.sampler.keep(rows)

    def read(self, blocks: Sequence[Sequence[int]]) -> None:
        self.sampler.feed(blocks)


Script = Callable[[State], list[int]]  # an episode so far -> the ids of its next turn


class ScriptActor:
    """Scripts write the turns; `make_script` is called once per episode. Log-probabilities are 0: no sampling."""

    def __init__(self, make_script: Callable[[State], Script]):
        self.make_script = make_script

    def start(self, states: list[State]) -> None:
        self.rows = [(self.make_script(state), state) for state in states]

    def turn(self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None) -> Written:
        turns = [script(state)[:max_new] for script, state in self.rows]
        return turns, [[0.0] * len(ids) for ids in turns], [[] for _ in turns]

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[i] for i in rows]

    def read(self, blocks: Sequence[Sequence[int]]) -> None:
        pass  # a script reads the state itself


def rollout(
    actor: Actor,
    queries: Sequence[Query],
    memory: Searchable,
    grammar: Grammar,
    config: RolloutConfig,
    all_calls: bool = False,
) -> list[Episode]:
    """Play one episode per query; return the episodes in order. Repeat a query to get a group.

    `all_calls` forbids answers until all `max_calls` searches are used; after that it forbids searches. It is for the
    baseline `warm_start_all_calls`, and only for evaluation, since it changes the probabilities.
    """
    if not queries:
        return []
    # 1. each episode starts with its prompt; equal query texts (a group) are looked up and encoded only once
    distinct = {query.text: query for query in queries}
    shared = {text: memory.search_global(text, config.global_k) for text in distinct}
    prompts = {text: grammar.prompt(query.wish, shared[text]) for text, query in distinct.items()}
    states = [State(query, shared[query.text]) for query in queries]
    for state in states:
        state.append(prompts[state.query.text])
    actor.start(states)
    constraint = constraint_of(grammar) if config.constrained else None
    live = list(states)  # episodes that have not ended
    for turn in range(config.max_calls + 1):
        # 2. the actor writes one turn of each live episode
        last = turn == config.max_calls
        forbidden, allowed = grammar.forbidden(last) if all_calls else (), None
        if constraint is not None:
            starts = constraint.start[[len(state.shown) for state in live], int(last)]  # (rows,)
            allowed = starts, constraint.allowed, constraint.after
        written = actor.turn(config.turn_tokens, forbidden, allowed)
        # 3. parse each turn: after a search the episode continues, anything else ends it
        searches: dict[int, str] = {}  # row -> the text of its search
        for row, (state, ids, *noted) in enumerate(zip(live, *written, strict=True)):
            state.append(ids, *noted)
            shown = state.shown
            parsed = grammar.parse(ids, len(shown))
            if isinstance(parsed, Final):
                state.answer = Answer(parsed.profile, tuple(dict.fromkeys(shown[i].id for i in parsed.evidence)))
                state.end = "answer"
            elif isinstance(parsed, Malformed):
                unfinished = not ids or ids[-1] not in grammar.stop
                state.end = "a turn did not stop" if unfinished else parsed.why
            elif last:
                state.end = "one search too many"
            else:
                searches[row] = parsed.text
        if not searches:
            break
        # 4. memory answers the searches, each from its own user's entries; the replies are given tokens: mask 0
        live = [live[row] for row in searches]
        asked = [(state.query, text) for state, text in zip(live, searches.values(), strict=True)]
        found = memory.search_many(asked, config.memory_k)
        replies = []
        for state, (_, text), entries in zip(live, asked, found, strict=True):
            replies.append(grammar.reply(entries, len(state.shown)))
            state.append(replies[-1])
            state.calls.append(Call(text, entries))
        # 5. the actor drops the ended episodes and reads the replies
        actor.keep(list(searches))
        actor.read(replies)
    return [state.episode() for state in states]
