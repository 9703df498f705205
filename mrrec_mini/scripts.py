"""Scripted policies: a mediocre teacher to imitate, and an expert who was told what matters.

TODO-DOC
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import Grammar
from mrrec_mini.memory import plain
from mrrec_mini.rollout import Script, State

QUERY_WORDS = 12  # that a script's profile repeats: a longer wish would leave no room for what was read


@dataclass(frozen=True)
class TeacherConfig:
    """How mediocre the teacher is. Probabilities in 0..1."""

    stop: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)  # chances of 0, 1, 2, 3 look-ups
    on_topic: float = 0.7  # chance that a look-up is taken from a global line of the query's scenario
    believe: float = 0.6  # chance that it reads the line that answers; else any line it was shown


def teacher(
    grammar: Grammar,
    config: TeacherConfig,
    rng: np.random.Generator,
    aspects: Sequence[str] = (),
    max_calls: int = 3,
) -> Callable[[State], Script]:
    """A script a query: plan some look-ups, make them one by one, note what was read, answer with the notes.

    `aspects` (names of attributes) are what it picks from where the prompt shows no global memory.
    """
    guesses = [MemoryEntry(f"guess/{name}", None, "global", name) for name in aspects]

    def make(state: State) -> Script:
        plan = plan_lookups(state, guesses, config, rng)[:max_calls]
        return run_plan(grammar, plan, lambda entries, line: believed(entries, line, config.believe, rng))

    return make


def plan_lookups(
    state: State, guesses: Sequence[MemoryEntry], config: TeacherConfig, rng: np.random.Generator
) -> list[MemoryEntry]:
    """Global lines to look up: on topic with probability `on_topic`, else any other shown line.

    No aspect twice, and in the order in which they are shown: reading on from the last line is easier to imitate than
    remembering what was named before.
    """
    wanted = rng.choice(len(config.stop), p=config.stop)
    lines = list(state.global_entries or guesses)
    topic = topic_of(state)
    plan: list[MemoryEntry] = []
    while lines and len(plan) < wanted:
        on_topic = [line for line in lines if line.scenario == topic]
        others = [line for line in lines if line.scenario != topic]
        pool = on_topic if (on_topic and rng.random() < config.on_topic) or not others else others
        line = pool[rng.integers(len(pool))]
        # one look-up an aspect: two lines of one aspect would ask the same thing twice
        lines = [other for other in lines if aspect_of(other) != aspect_of(line)]
        plan.append(line)
    return sorted(plan, key=list(state.global_entries or guesses).index)


def expert(grammar: Grammar) -> Callable[[State], Script]:
    """Looks up exactly the aspects that matter, reads the line that answers. Needs `Query.truth`."""

    return lambda state: run_plan(grammar, true_plan(state), best_line)


def true_plan(state: State) -> list[MemoryEntry]:
    """A look-up for each aspect that matters. ValueError where nobody knows which do."""
    if state.query.truth is None:
        raise ValueError(f"query {state.query.id} has no known truth: there is no expert for it")
    head = state.query.text.split(" for ")[0]
    return [
        MemoryEntry(f"truth/{aspect}", None, "global", f"{head} {aspect}", scenario=head)
        for aspect in state.query.truth
    ]


def run_plan(
    grammar: Grammar,
    plan: Sequence[MemoryEntry],
    read: Callable[[Sequence[MemoryEntry], MemoryEntry], MemoryEntry | None],
) -> Script:
    """The turns of a planned episode: think = the plan at first, then each time what was just read."""

    notes: list[str] = []
    used: list[MemoryEntry] = []

    def script(state: State) -> list[int]:
        done = len(state.calls)
        think = " ".join(aspect_of(line) for line in plan)
        if done:
            entry = read(state.calls[-1].entries, plan[done - 1])
            think = note_of(entry) if entry is not None else ""
            if entry is not None:
                used.append(entry)
                notes.append(think)
        if done < len(plan):
            return grammar.write_search(think, plan[done].text)
        shown = [entry.id for entry in state.shown]
        evidence = sorted({shown.index(entry.id) for entry in used})
        wish = state.query.text.split()[:QUERY_WORDS]
        return grammar.write_final(think, " ".join([*wish, *notes]), evidence)

    return script


def topic_of(state: State) -> str:
    """The scenario that the query names: that of the first global line (retrieval put the best one first)."""
    return state.global_entries[0].scenario if state.global_entries else ""


def aspect_of(line: MemoryEntry) -> str:
    """`mug price` -> `price`: what a global line says beyond its scenario."""
    return line.text.removeprefix(plain(line.scenario)).strip()


def note_of(entry: MemoryEntry) -> str:
    """`mug price luxury` and `overall price luxury` -> `price luxury`; of a record, the first words of the title."""
    if entry.level == "record":
        return " ".join(entry.text.split()[1:4])
    return entry.text.removeprefix(plain(entry.scenario) or "overall").strip()


def best_line(entries: Sequence[MemoryEntry], line: MemoryEntry) -> MemoryEntry | None:
    """The entry that answers a look-up: this category's pattern, else the profile's line, of that aspect; else none."""
    aspect = aspect_of(line)
    about = [e for e in entries if e.level != "record" and note_of(e).startswith(f"{aspect} ")]
    here = [e for e in about if e.scenario and e.scenario == plain(line.scenario)]
    overall = [e for e in about if e.level == "profile"]
    return (here + overall + [None])[0]


def believed(
    entries: Sequence[MemoryEntry], line: MemoryEntry, believe: float, rng: np.random.Generator
) -> MemoryEntry | None:
    """The teacher's reading: the line that answers with probability `believe`, else any line shown."""
    best = best_line(entries, line)
    if not entries or (best is not None and rng.random() < believe):
        return best
    return entries[rng.integers(len(entries))]
