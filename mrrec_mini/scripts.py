"""Scripted policies: a mediocre teacher to imitate, and an expert that knows which aspects matter.

Flow: before `imitation`. A script plays an episode in place of the policy: it gets the state of the episode and returns
the tokens of the next turn. Every script first plans its look-ups (memory searches) and then makes one per turn. It
notes one line of each reply. Its answer is the text of the query followed by the notes.

`imitation` trains on the teacher's episodes ("traces"). The teacher is mediocre on purpose, so that reinforcement has
something to improve: how many look-ups it makes, which ones, and which line it notes is partly random. The expert looks
up exactly the aspects that matter. It needs `Query.truth`, which only the synthetic shop has. No policy imitates it.

Equations: none. Departure: the paper has no scripts; it starts from an instruct model. The probabilities were tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import Grammar
from mrrec_mini.memory import plain
from mrrec_mini.rollout import Script, State

QUERY_WORDS = 12  # an answer repeats at most this many words of the query, so that there is room for the notes


@dataclass(frozen=True)
class TeacherConfig:
    """Probabilities that set how good the teacher is, each in 0..1."""

    stop: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)  # probability of 0, 1, 2, 3 look-ups
    on_topic: float = 0.7  # that a look-up asks for a global line of the query's scenario
    believe: float = 0.6  # that the teacher notes the line that answers the look-up; otherwise it notes a random line


def teacher(
    grammar: Grammar, config: TeacherConfig, rng: np.random.Generator, aspects: Sequence[str] = (), max_calls: int = 3
) -> Callable[[State], Script]:
    """Return a function that makes the teacher's script for an episode from the first state of the episode.

    A script makes at most `max_calls` look-ups. If the prompt shows no global memory, it looks up names from `aspects`.
    """
    guesses = [MemoryEntry(f"guess/{name}", None, "global", name) for name in aspects]
    read = partial(believed_line, believe=config.believe, rng=rng)
    return lambda state: run_plan(grammar, plan_lookups(state, guesses, config, rng)[:max_calls], read)


def plan_lookups(
    state: State, guesses: Sequence[MemoryEntry], config: TeacherConfig, rng: np.random.Generator
) -> list[MemoryEntry]:
    """Draw the global lines to look up: with probability `on_topic` a line of the query's scenario, else another line.

    The look-ups are in the order of the lines in the prompt. So a policy that imitates them only needs to continue
    after the line used last; in random order, it would have to remember all lines that were used.
    """
    wanted = rng.choice(len(config.stop), p=config.stop)
    shown = list(state.global_entries or guesses)
    topic = shown[0].scenario if shown else ""  # retrieval puts the best match first
    lines, plan = shown, []
    while lines and len(plan) < wanted:
        on_topic = [line for line in lines if line.scenario == topic]
        others = [line for line in lines if line.scenario != topic]
        pool = on_topic if (on_topic and rng.random() < config.on_topic) or not others else others
        line = pool[rng.integers(len(pool))]
        # one look-up per aspect: two lines of the same aspect would ask the same thing twice
        lines = [other for other in lines if aspect_of(other) != aspect_of(line)]
        plan.append(line)
    return sorted(plan, key=shown.index)


def expert(grammar: Grammar) -> Callable[[State], Script]:
    """Like `teacher`, but the scripts look up exactly the aspects that matter, and note the line that answers."""
    return lambda state: run_plan(grammar, true_plan(state), best_line)


def true_plan(state: State) -> list[MemoryEntry]:
    """Return one look-up per aspect that matters. Raises ValueError if the query has no `truth`."""
    if state.query.truth is None:
        raise ValueError(f"query {state.query.id} has no known truth; the expert needs a synthetic shop")
    head = state.query.text.split(" for ")[0]
    return [MemoryEntry(f"truth/{a}", None, "global", f"{head} {a}", scenario=head) for a in state.query.truth]


def run_plan(
    grammar: Grammar,
    plan: Sequence[MemoryEntry],
    read: Callable[[Sequence[MemoryEntry], MemoryEntry], MemoryEntry | None],
) -> Script:
    """Return a script that carries out `plan`. `read(entries, line)` chooses the entry of a reply to note, or None."""
    noted: list[MemoryEntry] = []

    def script(state: State) -> list[int]:
        # 1. The first thought names the planned aspects; each later thought is the note taken from the last reply.
        think = " ".join(aspect_of(line) for line in plan)
        if done := len(state.calls):
            entry = read(state.calls[-1].entries, plan[done - 1])
            think = note_of(entry) if entry else ""
            if entry:
                noted.append(entry)
        # 2. Make the next look-up of the plan.
        if done < len(plan):
            return grammar.write_search(think, plan[done].text)
        # 3. The plan is done: answer with the query's first words and the notes; the noted entries are the evidence.
        shown = [entry.id for entry in state.shown]
        evidence = sorted({shown.index(entry.id) for entry in noted})
        wish = state.query.text.split()[:QUERY_WORDS]
        return grammar.write_final(think, " ".join([*wish, *map(note_of, noted)]), evidence)

    return script


def aspect_of(line: MemoryEntry) -> str:
    """Return the text of a global line without its scenario: `mug price` -> `price`."""
    return line.text.removeprefix(plain(line.scenario)).strip()


def note_of(entry: MemoryEntry) -> str:
    """Return an entry's text without its scenario (`mug price luxury` -> `price luxury`), or words 2-4 of a record."""
    if entry.level == "record":
        return " ".join(entry.text.split()[1:4])
    return entry.text.removeprefix(plain(entry.scenario) or "overall").strip()


def best_line(entries: Sequence[MemoryEntry], line: MemoryEntry) -> MemoryEntry | None:
    """Return the entry on the aspect of `line`: one of the same category, else one of the user profile, else None."""
    aspect = aspect_of(line)
    about = [e for e in entries if e.level != "record" and note_of(e).startswith(f"{aspect} ")]
    here = [e for e in about if e.scenario and e.scenario == plain(line.scenario)]
    return next(iter(here + [e for e in about if e.level == "profile"]), None)


def believed_line(
    entries: Sequence[MemoryEntry], line: MemoryEntry, believe: float, rng: np.random.Generator
) -> MemoryEntry | None:
    """Return `best_line`, if any, with probability `believe`, otherwise a random entry; None if `entries` is empty."""
    best = best_line(entries, line)
    if not entries or (best is not None and rng.random() < believe):
        return best
    return entries[rng.integers(len(entries))]
