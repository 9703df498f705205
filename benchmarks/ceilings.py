"""Measure what limits a policy in the synthetic shop: readers that know more than a policy does.

    python -m benchmarks.ceilings [--seeds 0 1 2] [--histories 12 24 48] [--fast] [--json]

    best untold     the untold script that is best on validation users; it knows what a policy knows
    aspects told    knows which aspects matter and looks up just these; reads the replies by the rules of `best untold`
    expert          knows which aspects matter, and in which of them tastes drift: there it reads the latest value
    told            looks up the same aspects, and knows which line of a reply is right, if one is. If none is, it reads
                    as the expert does
    told, abstains  as `told`, but leaves an aspect out if no line of the reply is right
    usual           knows what the person now usually wants for each aspect that matters, but no exception of a category
    oracle          knows what is wanted here

What is a bound, and what is not:

- `oracle` bounds everybody: no profile is better on average. (A profile may do better on a single query by luck.)
- `told, abstains` bounds, on average, readers that copy at most one value per look-up from the lines shown, if they
  look up the same aspects in the same words. Other words, or a second look-up of an aspect, may show other lines. A
  reader that combines several lines, or guesses a value that no line states, is not bounded.
- `told` bounds nobody. It writes a value even if no line shown is right, and leaving the aspect out is better.
- `usual` does not bound every memory: a long history shows exceptions too. It bounds a memory that stores one value
  per aspect and no category.
- The readers share this memory, written from histories of this length. `--histories` measures them for other lengths.
  All shops of a seed have the same people with the same tastes, but other purchases and queries. So compare the shares
  of the oracle, not single queries.

We report nDCG@10 over the whole pool; the 95 % intervals resample seeds and users.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.common import claim, document, finish, show
from mrrec_mini.datatypes import MemoryEntry, Query
from mrrec_mini.evaluate import (
    EvalSet,
    Row,
    difference,
    episode_rows,
    eval_sets,
    interval,
    means,
    ndcg_10,
    play,
    ranked_rows,
)
from mrrec_mini.grammar import Grammar
from mrrec_mini.recipe import FAST_WORLD, Recipe, make_tokenizer, prepare
from mrrec_mini.rollout import ScriptActor, State
from mrrec_mini.scripts import (
    UNTOLD,
    Read,
    ScriptConfig,
    aspect_of,
    best_untold,
    expert,
    note_of,
    read_by_rule,
    run_plan,
    true_plan,
    untold,
    value_of,
)
from mrrec_mini.world import CATEGORIES, NAMES, VALUES, WorldConfig, make_world, oracle_profile, preferences


def readers(eval_set: EvalSet, best: str) -> dict[str, list[Row]]:
    """Return {reader: its rows, one per query}. `best` names the untold script that is best on validation users."""
    grammar, queries, free = eval_set.grammar, eval_set.queries, [0] * len(eval_set.queries)
    config = WorldConfig(**eval_set.environment.dataset.meta["world"])
    rules = UNTOLD[best]
    scripts = {
        "best untold": untold(grammar, rules, eval_set.rules.max_calls),
        "aspects told": looks_up_truth(grammar, rules, lambda state: partial(read_by_rule, rules=lambda aspect: rules)),
        "expert": expert(grammar, eval_set.drifting),
        "told": told(grammar, eval_set.drifting, abstains=False),
        "told, abstains": told(grammar, eval_set.drifting, abstains=True),
    }
    # "expert" and "oracle" are only names that `Row` knows
    rows = {name: episode_rows(eval_set, "expert", "", play(eval_set, ScriptActor(s))) for name, s in scripts.items()}
    profiles = {"usual": partial(usual_profile, config), "oracle": oracle_profile}
    ranks = {name: eval_set.environment.items.ranks_for(queries, list(map(p, queries))) for name, p in profiles.items()}
    return rows | {name: ranked_rows(eval_set, "oracle", found, free) for name, found in ranks.items()}


def looks_up_truth(grammar: Grammar, rules: ScriptConfig, reading):
    """Return a maker of scripts that look up the aspects that matter; `reading(state)` returns how to read replies."""
    return lambda state: run_plan(grammar, [(line, rules.value) for line in true_plan(state)], reading(state))


def told(grammar: Grammar, drifting: Sequence[str], abstains: bool):
    """Return a maker of scripts that are told which line is right. They ask for both lines of the profile."""

    def reading(state: State) -> Read:
        wanted = state.query.truth

        def read(entries: Sequence[MemoryEntry], line: MemoryEntry, value: str) -> tuple[str, MemoryEntry | None]:
            aspect = aspect_of(line)
            right = [entry for entry in entries if value_of(entry, aspect)[0] == wanted[aspect]]
            if right:
                return note_of(right[0], aspect), right[0]
            # read as the expert does
            rules = ScriptConfig(value="lately" if aspect in drifting else "often", pattern_first=False)
            return ("", None) if abstains else read_by_rule(entries, line, rules.value, lambda _: rules)

        return read

    return looks_up_truth(grammar, ScriptConfig(value="repeated"), reading)


def usual_profile(config: WorldConfig, query: Query) -> str:
    """Return the query and, for each aspect that matters, the value that its user now wants in most categories."""
    wanted = preferences(config, int(query.user[1:]))[-1]  # (categories, aspects): numbers of values, after all drift
    here = CATEGORIES.index(query.text.split()[0])
    words = [query.text]
    for aspect, value in query.truth.items():
        column = NAMES.index(aspect)
        assert VALUES[column][wanted[here, column]] == value
        words.append(f"{aspect} {VALUES[column][np.bincount(wanted[:, column]).argmax()]}")
    return " ".join(words)


def measure(world: WorldConfig, seeds: Sequence[int]) -> dict[str, dict[str, list[Row]]]:
    """Return {part: {reader: its rows of all seeds}}."""
    recipe = Recipe(siblings=0)
    rows: dict[str, dict[str, list[Row]]] = {}
    for seed in seeds:
        [environment] = prepare(make_world(replace(world, seed=seed)), recipe, seed)
        grammar = Grammar(make_tokenizer([environment], recipe.max_words))
        best, _ = best_untold(environment, grammar, recipe.train.rules)
        for eval_set in eval_sets(environment, grammar, recipe.train.rules, seed):
            for reader, answered in readers(eval_set, best).items():
                rows.setdefault(eval_set.part, {}).setdefault(reader, []).extend(answered)
    return rows


def summarize(rows: dict[str, dict[str, list[Row]]]) -> dict[str, dict[str, dict]]:
    """Return {part: {reader: mean, interval, share of the oracle, and what leaving out gains}}."""
    found: dict[str, dict] = {}
    for part, answered in rows.items():
        best = means(answered["oracle"])["ndcg@10"]
        found[part] = {
            reader: {
                "ndcg@10": (mean := means(answers)["ndcg@10"]),
                "interval": interval([ndcg_10(row) for row in answers], answers, ("mean", reader, part)),
                "of_oracle": mean / best,
                "queries": len(answers),
            }
            for reader, answers in answered.items()
        }
        pair = ("told, abstains", "told")
        found[part][pair[0]]["minus_told"] = difference(*(answered[one] for one in pair), ("difference", *pair, part))
    return found


def claims_of(found: dict[str, dict[str, dict]]) -> list[dict]:
    """Return the claims for one length of history: it is better to leave an aspect out than to write a wrong value."""
    name = "`told, abstains` minus `told`, lower end of the interval"
    return [
        claim(f"{part}: {name}", readers["told, abstains"]["minus_told"]["interval"][0], 0.0)
        for part, readers in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--histories", type=int, nargs="+", help="numbers of purchases; default: the shop's own")
    parser.add_argument("--fast", action="store_true", help="tiny shops")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    world = FAST_WORLD if given.fast else WorldConfig()
    lengths = given.histories or [world.history]
    found = {length: summarize(measure(replace(world, history=length), given.seeds)) for length in lengths}
    for length, parts in found.items():
        for part, numbers in parts.items():
            rows = [("reader", "nDCG@10", "95 %", "of the oracle")]
            for reader, n in numbers.items():
                low, high = n["interval"]
                rows.append((reader, f"{n['ndcg@10']:.3f}", f"{low:.3f}..{high:.3f}", f"{n['of_oracle']:.0%}"))
            show(f"{part}, {length} purchases", rows, sys.stderr if given.json else None)
    claims = [
        {**one, "name": f"{length} purchases, {one['name']}"}
        for length, parts in found.items()
        for one in claims_of(parts)
    ]
    return finish(document(claims, seeds=given.seeds, histories=found), given.json)


if __name__ == "__main__":
    sys.exit(main())
