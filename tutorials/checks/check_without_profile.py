"""The check of `known_values` and `what_the_profile_adds`, on a small fixed shop."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from adapters import expect

from mrrec_mini.environment import Environment
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import EASY, make_world


@lru_cache(maxsize=1)
def small():
    shop = make_world(replace(EASY, users=30, items=200, categories=6, held=1, queries=2, seed=3))
    split = shop.split(0, 0.6, 0.1, 0.3)
    return Environment.build(shop, split, ExtractiveSummarizer(), np.random.default_rng(0)), list(split.test_queries)


def stated(environment, query, levels):
    """The same computed another way: choose entries of the full memory by their level."""
    category = environment.dataset.category(query.target)
    lines = [entry.text for entry in environment.memory.entries(query) if entry.level in levels]
    hits = [
        any(line.startswith((f"{category} {aspect} {value} ", f"overall {aspect} {value} ")) for line in lines)
        for aspect, value in query.truth.items()
    ]
    return float(np.mean(hits))


def check(answer) -> None:
    environment, queries = small()
    for levels in (("pattern",), ("profile",), ("pattern", "profile"), ("record",)):
        wanted = [stated(environment, query, levels) for query in queries]
        hint = "Return a share per query, in order. Both kinds of line count, if their level is kept."
        expect(answer.known_values(environment, queries, levels), wanted, f"known_values for levels {levels}", "", hint)
    full = environment.memory.config.levels
    if set(full) != {"record", "pattern", "profile"}:
        raise AssertionError("your function changed the environment's own memory; `replace` makes a new one")
    added = [stated(environment, q, ("pattern", "profile")) - stated(environment, q, ("pattern",)) for q in queries]
    expect(
        answer.what_the_profile_adds(environment, queries),
        added,
        "what_the_profile_adds, query by query",
        "with the profile minus without it",
        "Is the subtraction the right way round?",
    )
    if not np.mean(added) > 0:
        raise AssertionError("the check itself is broken: the profile adds nothing here")


def _levels(environment, queries, levels, lines=("{c} {a} {v}", "overall {a} {v}"), share=True, words=3):
    memory = replace(environment.memory, config=replace(environment.memory.config, levels=levels))
    found = []
    for query in queries:
        category = environment.dataset.category(query.target)
        said = {" ".join(entry.text.split()[:words]) for entry in memory.entries(query)}
        hits = [any(line.format(c=category, a=a, v=v) in said for line in lines) for a, v in query.truth.items()]
        found.append(float(np.mean(hits)) if share else float(any(hits)))
    return found


WRONG = {
    "levels ignored": {"known_values": lambda e, q, levels: _levels(e, q, ("record", "pattern", "profile"))},
    "the whole line is compared": {"known_values": lambda e, q, levels: _levels(e, q, levels, words=None)},
    "patterns alone are read": {"known_values": lambda e, q, levels: _levels(e, q, levels, ("{c} {a} {v}",))},
    "any instead of the share": {"known_values": lambda e, q, levels: _levels(e, q, levels, share=False)},
    "the mean instead of one number per query": {
        "what_the_profile_adds": lambda e, q: [
            float(np.mean(_levels(e, q, ("pattern", "profile"))) - np.mean(_levels(e, q, ("pattern",))))
        ]
    },
    "subtracted the other way": {
        "what_the_profile_adds": lambda e, q: (
            np.array(_levels(e, q, ("pattern",))) - np.array(_levels(e, q, ("pattern", "profile")))
        ).tolist()
    },
}
