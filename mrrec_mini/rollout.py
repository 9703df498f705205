"""Policy + memory tool -> Episodes: think, search, read, search again, answer; and who wrote which token.

Flow: after memory and sampler, before reward. `rollout` plays one episode for each query, all of them turn by turn
together: show the prompt, let the actor write a turn, parse it, answer a search from this user's memory (eq. 8),
until each episode has ended. An actor is whoever writes the turns: the language model (`LMActor`) or a script
(`ScriptActor`); both meet the same prompts, parser, caps and memory, so that their results can be compared.

An episode ends with an answer, or at its first malformed turn, at a search beyond `max_calls`, or when a turn does
not stop within `turn_tokens`. In the last three cases it has no answer and its format reward is 0.

Three decisions of the house are kept here: token in, token out (ids are appended, never decoded and encoded again);
only sampled ids are parsed; retrieved ids carry mask 0. Departure from the paper: at most 3 searches (the paper gives
no cap but 768 tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from mrrec_mini.constrain import Constraint
from mrrec_mini.datatypes import Answer, Call, Episode, MemoryEntry, Query
from mrrec_mini.grammar import REFERENCES, Final, Grammar, Malformed
from mrrec_mini.sampler import Sampler


@dataclass(frozen=True)
class RolloutConfig:
    """The caps of an episode."""

    max_calls: int = 3  # searches; the turn after the last one has to answer. 0: no local memory
    memory_k: int = 3  # memories a search returns (fig. 6: best at 3)
    global_k: int = 6  # lines of global memory in the prompt. 0: no global memory
    turn_tokens: int = 48  # a turn that has not stopped by then is malformed
    constrained: bool = False  # only tokens that the grammar allows next can be sampled

    def __post_init__(self) -> None:
        if min(self.max_calls, self.global_k) < 0 or min(self.memory_k, self.turn_tokens) < 1:
            raise ValueError("max_calls and global_k must be >= 0, memory_k and turn_tokens >= 1")
        if self.max_calls * self.memory_k > len(REFERENCES):
            raise ValueError(f"max_calls x memory_k memories need a name each, and there are {len(REFERENCES)}")


@dataclass
class State:
    """An episode in the making."""

    query: Query
    global_entries: tuple[MemoryEntry, ...]
    tokens: list[int]
    mask: list[int]
    logprobs: list[float]
    calls: list[Call] = field(default_factory=list)
    answer: Answer | None = None
    end: str = ""

    @property
    def shown(self) -> list[MemoryEntry]:
        return [entry for call in self.calls for entry in call.entries]

    def append(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Sampled ids come with log-probabilities; given ids (prompt, memory) come without and are masked."""
        self.tokens += ids
        self.mask += [0 if logprobs is None else 1] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs

    def episode(self) -> Episode:
        return Episode(
            query=self.query,
            tokens=tuple(self.tokens),
            mask=tuple(self.mask),
            logprobs=tuple(self.logprobs),
            calls=tuple(self.calls),
            answer=self.answer,
            end=self.end,
            global_entries=self.global_entries,
        )


class Searchable(Protocol):
    """What an episode asks: the data set's memory, a store, or one of them with something withheld."""

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]: ...
    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]: ...


Allowed = Callable[[int, Sequence[int]], torch.Tensor]  # row, its ids of this turn -> (V,) True: may come next


class Actor(Protocol):
    """Whoever writes the turns of a batch of episodes."""

    def start(self, states: list[State]) -> None: ...
    def turn(
        self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None
    ) -> tuple[list[list[int]], list[list[float]]]: ...
    def keep(self, rows: Sequence[int]) -> None: ...
    def read(self, blocks: Sequence[Sequence[int]]) -> None: ...


class LMActor:
    """The language model writes. `temperature` 0: greedy."""

    def __init__(self, model, grammar: Grammar, generator: torch.Generator | None = None, temperature: float = 1.0):
        self.model, self.grammar, self.generator, self.temperature = model, grammar, generator, temperature

    def start(self, states: list[State]) -> None:
        self.model.eval()
        self.sampler = Sampler(self.model, [s.tokens for s in states], self.generator, self.temperature)

    def turn(
        self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None
    ) -> tuple[list[list[int]], list[list[float]]]:
        return self.sampler.sample(self.grammar.stop, max_new, forbidden, allowed)

    def keep(self, rows: Sequence[int]) -> None:
        self.sampler.keep(rows)

    def read(self, blocks: Sequence[Sequence[int]]) -> None:
        self.sampler.feed(blocks)


Script = Callable[[State], list[int]]  # an episode so far -> the ids of its next turn


class ScriptActor:
    """Scripts write: `make_script` is called once an episode. Log-probabilities are 0: a script is certain."""

    def __init__(self, make_script: Callable[[State], Script]):
        self.make_script = make_script

    def start(self, states: list[State]) -> None:
        self.rows = [(self.make_script(state), state) for state in states]

    def turn(
        self, max_new: int, forbidden: Sequence[int], allowed: Allowed | None
    ) -> tuple[list[list[int]], list[list[float]]]:
        turns = [script(state)[:max_new] for script, state in self.rows]
        return turns, [[0.0] * len(ids) for ids in turns]

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
    """One episode for each query (repeat a query to get a group), in order.

    `all_calls` forbids to answer before every search is used, and to search after: the honest baseline
    `warm_start_all_calls`. It changes the probabilities, so it is for evaluation only.
    """
    if not queries:
        return []
    texts = dict.fromkeys(query.text for query in queries)  # a group asks the same thing
    globals_of = {text: memory.search_global(text, config.global_k) for text in texts}
    states = []
    for query in queries:
        prompt = grammar.prompt(query.text, globals_of[query.text])
        states.append(State(query, globals_of[query.text], prompt, [0] * len(prompt), [0.0] * len(prompt)))
    actor.start(states)
    live = list(states)
    constraint = Constraint(grammar, config.max_calls) if config.constrained else None

    def legal(row: int, ids: Sequence[int]) -> torch.Tensor:
        return constraint.allowed(ids, len(live[row].shown), last)

    allowed = legal if config.constrained else None
    for turn in range(config.max_calls + 1):
        last = turn == config.max_calls
        forbidden = grammar.forbidden(last) if all_calls else ()
        ids, logprobs = actor.turn(config.turn_tokens, forbidden, allowed)
        searches: dict[int, str] = {}  # row -> what it asks for
        for row, state in enumerate(live):
            state.append(ids[row], logprobs[row])
            parsed = grammar.parse(ids[row], len(state.shown))
            if isinstance(parsed, Final):
                shown = state.shown
                state.answer = Answer(parsed.profile, tuple(dict.fromkeys(shown[i].id for i in parsed.evidence)))
                state.end = "answer"
            elif isinstance(parsed, Malformed):
                unfinished = not ids[row] or ids[row][-1] not in grammar.stop
                state.end = "a turn did not stop" if unfinished else parsed.why
            elif last:
                state.end = "one search too many"
            else:
                searches[row] = parsed.text
        if not searches:
            break
        found = memory.search_many([(live[row].query, text) for row, text in searches.items()], config.memory_k)
        blocks = []
        for (row, text), entries in zip(searches.items(), found, strict=True):
            block = grammar.reply(entries, len(live[row].shown))
            live[row].append(block)
            live[row].calls.append(Call(text, entries))
            blocks.append(block)
        actor.keep(list(searches))
        actor.read(blocks)
        live = [live[row] for row in searches]
    return [state.episode() for state in states]
