"""Measure upper bounds for a policy in the synthetic shop: readers that know more than any policy can know.

    python -m benchmarks.ceilings [--seeds 0 1 2] [--fast] [--json]

    expert          looks up the aspects that matter, then uses the pattern of this category, or else the profile line
    told            looks up the same; among the lines found, it picks one that states the true value, if there is one
    usual           knows what the person usually wants for each aspect that matters, as from an endless history, but
                    not the exceptions of single categories
    oracle          knows what is wanted here

`told` is an upper bound for readers that only copy lines they were shown, `usual` for memories that only store what a
person usually wants. We report nDCG@10 over the whole pool; the 95 % intervals resample seeds and users.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.common import at_most, document, finish, show

AIM = 0.85  # of the oracle's nDCG@10: our first aim for the policy, which even `told` does not reach


def readers(eval_set) -> dict[str, list]:
    """Return {reader: its rows, one per query}."""
    import numpy as np

    from mrrec_mini.evaluate import episode_rows, play, profile_rows
    from mrrec_mini.rollout import ScriptActor
    from mrrec_mini.scripts import aspect_of, best_line, expert, note_of, run_plan, true_plan
    from mrrec_mini.world import ASPECTS, CATEGORIES, WorldConfig, oracle_profile, preferences

    config = WorldConfig(**eval_set.environment.dataset.meta["world"])
    names, values = list(ASPECTS), [list(words) for words in ASPECTS.values()]
    # {user: (categories, aspects) array with the number of the value that the user prefers}
    wanted = {query.user: preferences(config, int(query.user[1:])) for query in eval_set.queries}

    def told(state):
        stated = {f"{aspect} {value}" for aspect, value in state.query.truth.items()}

        def read(entries, line):
            right = [entry for entry in entries if entry.level != "record" and note_of(entry) in stated]
            about = (entry for entry in right if note_of(entry).startswith(f"{aspect_of(line)} "))
            return next(about, best_line(entries, line))

        return run_plan(eval_set.grammar, true_plan(state), read)

    def usual_profile(query) -> str:
        here = CATEGORIES.index(query.text.split()[0])
        words = [query.text]
        for aspect, value in query.truth.items():
            chosen = wanted[query.user][:, names.index(aspect)]
            assert values[names.index(aspect)][chosen[here]] == value
            words.append(f"{aspect} {values[names.index(aspect)][np.bincount(chosen).argmax()]}")
        return " ".join(words)

    free = [0] * len(eval_set.queries)
    return {
        "expert": episode_rows(eval_set, "expert", "", play(eval_set, ScriptActor(expert(eval_set.grammar)))),
        "told": episode_rows(eval_set, "expert", "", play(eval_set, ScriptActor(told))),
        "usual": profile_rows(eval_set, "oracle", [usual_profile(query) for query in eval_set.queries], free),
        "oracle": profile_rows(eval_set, "oracle", [oracle_profile(query) for query in eval_set.queries], free),
    }


def measure(seeds: Sequence[int], fast: bool) -> dict[str, dict]:
    """Return {part: {reader: mean, interval and share of the oracle}}."""
    import torch

    from mrrec_mini.evaluate import eval_sets, interval, means, ndcg_10
    from mrrec_mini.grammar import Grammar
    from mrrec_mini.recipe import FAST_WORLD, Recipe, make_tokenizer, prepare
    from mrrec_mini.world import WorldConfig, make_world

    torch.set_num_threads(1)
    recipe = Recipe(siblings=0)
    rows: dict[str, dict[str, list]] = {}
    for seed in seeds:
        shop = make_world(replace(FAST_WORLD if fast else WorldConfig(), seed=seed))
        [environment] = prepare(shop, recipe, seed)
        grammar = Grammar(make_tokenizer([environment], recipe.max_words))
        for eval_set in eval_sets(environment, grammar, recipe.train.rules, seed):
            for reader, answered in readers(eval_set).items():
                rows.setdefault(eval_set.part, {}).setdefault(reader, []).extend(answered)
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
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fast", action="store_true", help="tiny shops")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    found = measure(given.seeds, given.fast)
    for part, numbers in found.items():
        rows = [("reader", "nDCG@10", "95 %", "of the oracle")]
        for reader, n in numbers.items():
            low, high = n["interval"]
            rows.append((reader, f"{n['ndcg@10']:.3f}", f"{low:.3f}..{high:.3f}", f"{n['of_oracle']:.0%}"))
        show(part, rows, sys.stderr if given.json else None)
    claims = [
        at_most(f"{part}: share of the oracle that the `told` reader reaches", n["told"]["of_oracle"], AIM)
        for part, n in found.items()
    ]
    return finish(document(claims, seeds=given.seeds, readers=found), given.json)


if __name__ == "__main__":
    sys.exit(main())
