"""Scripted policies: a mediocre teacher to imitate, scripts that are told nothing, and an expert that is told a lot.

Flow: before `imitation`. A script plays an episode in place of the policy: it gets the state of the episode and returns
the tokens of the next turn. Every script first plans its look-ups (memory searches) and then makes one per turn. It
notes one value from each reply, or nothing. Its answer is the text of the query followed by the notes.

Three kinds of scripts:

- The *untold* scripts (`UNTOLD`) read what the policy reads and know nothing else. Each combines a few plain rules:
  which global lines to look up, which line of a reply to read first, and which of its values to note. The best of
  them, chosen on validation users (`best_untold`), is the simple rival of the policy.
- The *teacher* makes the same choices at random, many of them badly. Imitation trains on its episodes ("traces"). It is
  mediocre on purpose, so that reinforcement has something to improve.
- The *expert* is told which aspects matter for the query, and which tastes change. Only the synthetic shop knows this
  (`Query.truth`, `WorldConfig.drifting`). It is not told any value. `told_drift` is told only which tastes change, and
  reads in global memory which aspects matter: a policy can learn no more by reward. No policy imitates these two.

Equations: none. Departure: the paper has no scripts; it starts from an instruct model. The probabilities were tuned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import numpy as np

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.memory import LATELY, OTHERS, OVERALL, TITLE, plain
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, Script, ScriptActor, State
from mrrec_mini.summarize import CERTAINTY

TIMES = re.compile(r"x\d+")  # how memory writes a count where a bare number could belong to the value
QUERY_WORDS = 12  # an answer repeats at most this many words of the query, so that there is room for the notes


@dataclass(frozen=True)
class ScriptConfig:
    """The rules of an untold script."""

    lines: str = "situation"  # global lines to look up: "first", those of the "category", or of category and use
    certain: bool = False  # skip lines that memory marks "maybe"
    open: bool = True  # skip aspects that the query states
    pattern_first: bool = True  # read the category's line before the profile's lines
    value: str = "often"  # which line of the profile to read: "often", "lately", or the latest if "repeated"
    least: int = 1  # note a value only if at least this many records support it


UNTOLD: dict[str, ScriptConfig] = {
    "first lines": ScriptConfig(lines="first", open=False),
    "category": ScriptConfig(lines="category"),
    "situation": ScriptConfig(),
    "situation, said too": ScriptConfig(open=False),
    "situation, profile first": ScriptConfig(pattern_first=False),
    "situation, lately": ScriptConfig(value="lately"),
    "situation, lately, profile first": ScriptConfig(value="lately", pattern_first=False),
    "situation, repeated": ScriptConfig(value="repeated"),
    "situation, repeated, profile first": ScriptConfig(value="repeated", pattern_first=False),
    "certain": ScriptConfig(certain=True),
    "certain, lately": ScriptConfig(certain=True, value="lately"),
    "certain, lately, profile first": ScriptConfig(certain=True, value="lately", pattern_first=False),
    "certain, seen twice": ScriptConfig(certain=True, least=2),
    "certain, lately, seen twice": ScriptConfig(certain=True, value="lately", least=2),
}


@dataclass(frozen=True)
class TeacherConfig:
    """Probabilities that set how good the teacher is, each in 0..1."""

    stop: tuple[float, ...] = (0.05, 0.1, 0.25, 0.6)  # probability of at most 0, 1, 2, 3 look-ups
    on_topic: float = 0.9  # that a look-up asks for a global line of the query's situation
    believe: float = 1.0  # that the teacher reads the line that answers the look-up; otherwise it reads a random line
    lately: float = 0.5  # that it asks for the latest value, not for the most frequent one
    open: float = 0.97  # that it leaves out the aspects that the query states
    silent: float = 0.02  # that it notes nothing
    others: float = 0.5  # that it asks about other people, if it can: half the time after own memory, half in its place


# --- what a line says -------------------------------------------------------------------------------------------------


def aspect_of(line: MemoryEntry) -> str:
    """Return the aspect that a line is about, from the end of its id; "" for a record, which is about several."""
    return "" if line.level == "record" else unquote(line.id.rsplit("/", 1)[1])


def is_about(line: MemoryEntry, query: str) -> bool:
    """Return whether a global line names the query's category, and no use or the query's use."""
    head = line.text.split(":")[0].split()  # the rest is a description
    situation = set(head) - {*CERTAINTY, *aspect_of(line).split()}  # the words of category and use
    return names_category(query, line) and situation <= set(plain(query).split())


def is_latest(line: MemoryEntry) -> bool:
    """Return whether a line of a profile states the latest value, not the most frequent one."""
    return line.text.startswith(f"{LATELY} ")


def names_category(query: str, line: MemoryEntry) -> bool:
    """Return whether the query contains all words of the line's category."""
    return set(plain(line.scenario).split()) <= set(plain(query).split())


def value_of(entry: MemoryEntry, aspect: str) -> tuple[str, int]:
    """Return the first value that an entry states for an aspect, and the records behind it; ("", 0) if none."""
    if entry.level == "record":
        values = (fact.removeprefix(f"{aspect} ") for fact in stated_facts(entry) if fact.startswith(f"{aspect} "))
        value = next(values, "")
        return value, int(bool(value))
    words = plain(entry.text).split()
    if aspect_of(entry) != aspect:
        return "", 0
    found = words[len((plain(entry.scenario) or OVERALL).split()) + len(aspect.split()) :]  # LATELY is one word too
    # The count ends the value. A value may be a number, or end in one; then memory writes counts as x3.
    end = next((i for i, word in enumerate(found) if TIMES.fullmatch(word)), 0)
    end = end or next((i for i, word in enumerate(found) if i and word.isdigit()), len(found))
    return " ".join(found[:end]), int(found[end].removeprefix("x")) if end < len(found) else 1


def note_of(entry: MemoryEntry, aspect: str = "") -> str:
    """Return "aspect value" as an entry states it; "" if it states nothing. `aspect` "": the first that it is about.

    Of a title, return only the words.
    """
    if not (aspect := aspect or aspect_of(entry)):
        return next(iter(stated_facts(entry)), "")
    value, _ = value_of(entry, aspect)
    return f"{aspect} {value}" if value and aspect != TITLE else value


def stated_facts(record: MemoryEntry) -> list[str]:
    """Return the facts "aspect value" of a record, which stand after its rating, or end in x1 before its title."""
    text = record.text.split(":")[0]
    words = text.partition(" rated ")[2].split()[1:]
    pairs = [" ".join(pair) for pair in zip(words[::2], words[1::2], strict=False)]
    return pairs or text.removeprefix("bought ").split(" x1 ")[:-1]


def best_lines(entries: Sequence[MemoryEntry], aspect: str, scenario: str, config: ScriptConfig) -> list[MemoryEntry]:
    """Return the entries that state a value of `aspect`, in the order in which the rules of `config` read them."""

    def place(entry: MemoryEntry) -> int:
        latest = is_latest(entry)
        trusted = config.value == "lately" or (config.value == "repeated" and value_of(entry, aspect)[1] > 1)
        first = {"pattern": 0 if config.pattern_first else 4, "record": 5}
        return first.get(entry.level, (1 if trusted else 3) if latest else 2)

    usable = [e for e in entries if e.level != "pattern" or e.scenario == plain(scenario)]
    return sorted((e for e in usable if value_of(e, aspect)[0]), key=place)


# --- plans ------------------------------------------------------------------------------------------------------------


def lookup_text(line: MemoryEntry, value: str = "often") -> str:
    """Return what to search for to answer a global line: `likely mug hiking price` -> `mug price overall`.

    The pattern of the category and the wanted line of the profile match two of these words, other lines at most one.
    `value` OTHERS asks about other people: `others price`.
    """
    if value == OTHERS:
        return f"{OTHERS} {aspect_of(line)}"
    heads = {"often": OVERALL, "lately": LATELY, "repeated": f"{LATELY} {OVERALL}"}
    return f"{plain(line.scenario)} {aspect_of(line)} {heads[value]}".strip()


def one_per_aspect(lines: Sequence[MemoryEntry]) -> list[MemoryEntry]:
    """Return the first line about each aspect, in the order of `lines`: the others would ask the same thing again."""
    first: dict[str, MemoryEntry] = {}
    for line in lines:
        first.setdefault(aspect_of(line), line)
    return list(first.values())


def names_aspect(text: str, name: str) -> bool:
    """Return whether `text` contains the words of `name` in a row, as whole words: `sizes` does not contain `size`."""
    return bool(name) and f" {name} " in f" {plain(text)} "


def planned(state: State, config: ScriptConfig) -> list[MemoryEntry]:
    """Return the global lines that an untold script looks up, in the order of the prompt."""
    shown, text = list(state.global_entries), state.query.text
    if config.lines == "category":
        shown = [line for line in shown if names_category(text, line)]
    elif config.lines == "situation":
        shown = [line for line in shown if is_about(line, text)]
    lines = [line for line in shown if not (config.certain and CERTAINTY[0] in line.text.split())]
    return one_per_aspect(
        [line for line in lines if not (config.open and names_aspect(state.query.text, aspect_of(line)))]
    )


def random_plan(
    state: State, guesses: Sequence[MemoryEntry], config: TeacherConfig, rng: np.random.Generator
) -> list[MemoryEntry]:
    """Draw the teacher's look-ups: each is on topic with probability `on_topic`, else it asks for another line.

    The look-ups are in the order of the lines in the prompt. So a policy that imitates them only needs to continue
    after the line used last; in random order, it would have to remember all lines that were used.
    """
    wanted = rng.choice(len(config.stop), p=config.stop)
    shown = list(state.global_entries or guesses)
    skip = rng.random() < config.open
    lines, plan = [line for line in shown if not (skip and names_aspect(state.query.text, aspect_of(line)))], []
    while lines and len(plan) < wanted:
        on_topic = [line for line in lines if is_about(line, state.query.text)]
        others = [line for line in lines if line not in on_topic]
        pool = on_topic if (on_topic and rng.random() < config.on_topic) or not others else others
        line = pool[rng.integers(len(pool))]
        lines = [other for other in lines if aspect_of(other) != aspect_of(line)]
        plan.append(line)
    return sorted(plan, key=shown.index)


def true_plan(state: State) -> list[MemoryEntry]:
    """Return one look-up per aspect that matters. Raises ValueError if the query has no `truth`."""
    if state.query.truth is None:
        raise ValueError(f"query {state.query.id} has no known truth; the expert needs a synthetic shop")
    head = state.query.text.split(" for ")[0]
    return [MemoryEntry(f"truth/{a}", None, "global", f"{head} {a}", scenario=head) for a in state.query.truth]


# --- the scripts ------------------------------------------------------------------------------------------------------

A_TITLE = MemoryEntry(f"guess/{TITLE}", None, "global", TITLE)  # a look-up about it asks for a title

# (reply, global line, line of the profile that was asked for) -> the note and the entry that states it
Read = Callable[[Sequence[MemoryEntry], MemoryEntry, str], tuple[str, MemoryEntry | None]]
Plan = Sequence[tuple[MemoryEntry, str]]  # the lines to look up, and for each which line of the profile to ask for


def teacher(
    grammar: Grammar,
    config: TeacherConfig,
    rng: np.random.Generator,
    aspects: Sequence[str] = (),
    max_calls: int = 3,
    others: bool = False,
) -> Callable[[State], Script]:
    """Return a function that makes the teacher's script for an episode from the first state of the episode.

    A script makes at most `max_calls` look-ups. If the prompt shows no global memory, it looks up names from `aspects`.
    `others`: whether other people can be asked about.
    """
    guesses = [MemoryEntry(f"guess/{name}", None, "global", name) for name in aspects]
    read = partial(read_at_random, config=config, rng=rng)

    def make(state: State) -> Script:
        lines = random_plan(state, guesses, config, rng)[:max_calls]
        values = ["lately" if rng.random() < config.lately else "often" for _ in lines]
        plan = list(zip(lines, values, strict=True))
        if others:
            plan = list(asking_others(plan, config, rng))[:max_calls]
        return run_plan(grammar, plan, read)

    return make


def asking_others(plan: Plan, config: TeacherConfig, rng: np.random.Generator) -> Iterator[tuple[MemoryEntry, str]]:
    """Yield the look-ups of a plan; for some lines one about other people comes instead, for as many it follows.

    It asks for the aspect of the line or, as often, for a title.
    """
    for line, value in plan:
        drawn = rng.random()
        if drawn >= config.others / 2:
            yield line, value
        if drawn < config.others:
            yield (line if rng.random() < 0.5 else A_TITLE), OTHERS


def untold(grammar: Grammar, config: ScriptConfig, max_calls: int = 3) -> Callable[[State], Script]:
    """Like `teacher`, but the scripts follow the rules of `config`."""
    read = partial(read_by_rule, rules=lambda aspect: config)
    return lambda state: run_plan(grammar, [(line, config.value) for line in planned(state, config)[:max_calls]], read)


def expert(grammar: Grammar, drifting: Collection[str] = ()) -> Callable[[State], Script]:
    """Like `teacher`, but the scripts look up exactly the aspects that matter.

    They note the latest value of an aspect in `drifting`, and the most frequent value of another.
    """
    return _knowing(grammar, drifting, true_plan)


def told_drift(grammar: Grammar, drifting: Collection[str], max_calls: int = 3) -> Callable[[State], Script]:
    """Like `expert`, but the scripts look up the aspects of global lines about the situation, as `untold` does."""
    return _knowing(grammar, drifting, lambda state: planned(state, ScriptConfig())[:max_calls])


def _knowing(
    grammar: Grammar, drifting: Collection[str], plan: Callable[[State], list[MemoryEntry]]
) -> Callable[[State], Script]:
    def rules(aspect: str) -> ScriptConfig:
        return ScriptConfig(value="lately" if aspect in drifting else "often", pattern_first=False)

    read = partial(read_by_rule, rules=rules)
    return lambda state: run_plan(grammar, [(line, rules(aspect_of(line)).value) for line in plan(state)], read)


def best_untold(environment: Environment, grammar: Grammar, rules: RolloutConfig) -> tuple[str, dict[str, float]]:
    """Play all `UNTOLD` scripts for the validation users; return the name of the best and {name: mean nDCG@10}.

    If no validation user has a query, the queries of train users decide.
    """
    split, scores = environment.split, {}
    queries = split.validation_queries or split.train_queries
    for name, config in UNTOLD.items():
        actor = ScriptActor(untold(grammar, config, rules.max_calls))
        played = environment.play(actor, queries, grammar, rules, RewardConfig())
        scores[name] = float(ndcg_at_k([episode.rewards["rank"] for episode in played], 10).mean())
    return max(scores, key=scores.__getitem__), scores


def run_plan(grammar: Grammar, plan: Plan, read: Read) -> Script:
    """Return a script that carries out `plan`. `read(entries, line)` returns what to note of a reply, and its entry."""
    noted: list[tuple[str, MemoryEntry]] = []

    def script(state: State) -> list[int]:
        # 1. The first thought is empty; each later thought is the note taken from the last reply.
        think = ""
        if done := len(state.calls):
            think, entry = read(state.calls[-1].entries, *plan[done - 1])
            if plan[done - 1][1] == OTHERS and think in [note for note, _ in noted]:
                think, entry = "", None  # a word that stands twice in an answer would count twice in the search
            if entry:
                noted.append((think, entry))
        # 2. Make the next look-up of the plan.
        if done < len(plan):
            return grammar.write_search(think, lookup_text(*plan[done]))
        # 3. The plan is done: answer with the query's first words, unless the search adds the phrase itself, and the
        #    notes; the noted entries are the evidence.
        shown = [entry.id for entry in state.shown]
        evidence = sorted({shown.index(entry.id) for _, entry in noted})
        words = [*state.query.to_repeat.split()[:QUERY_WORDS], *(note for note, _ in noted)]
        return grammar.write_final(think, " ".join(words) or state.query.wish, evidence)  # an answer is not empty

    return script


def read_by_rule(
    entries: Sequence[MemoryEntry], line: MemoryEntry, value: str, rules: Callable[[str], ScriptConfig]
) -> tuple[str, MemoryEntry | None]:
    """Return the note that the rules for the line's aspect take from a reply, and its entry; ("", None) for no note."""
    aspect = aspect_of(line)
    config = rules(aspect)
    for entry in best_lines(entries, aspect, line.scenario, config)[:1]:
        if value_of(entry, aspect)[1] >= config.least:
            return note_of(entry, aspect), entry
    return "", None


def read_at_random(
    entries: Sequence[MemoryEntry], line: MemoryEntry, value: str, config: TeacherConfig, rng: np.random.Generator
) -> tuple[str, MemoryEntry | None]:
    """Return the note that the teacher takes from a reply, and its entry; ("", None) for no note."""
    if not entries or rng.random() < config.silent:
        return "", None
    aspect = aspect_of(line)
    own = ScriptConfig(pattern_first=False, value=value)
    entry = next(iter(best_lines(entries, aspect, line.scenario, own)), None) if rng.random() < config.believe else None
    if entry is None:
        entry, aspect = entries[rng.integers(len(entries))], ""
    note = note_of(entry, aspect)
    return (note, entry) if note else ("", None)
