"""The check of `MySystem`: it keeps the contract and does better than popularity."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from mrrec_mini.datatypes import Interaction
from mrrec_mini.metrics import ndcg_at_k, target_ranks
from mrrec_mini.systems.popularity import Popularity
from mrrec_mini.world import EASY, make_world


@lru_cache(maxsize=1)
def small():
    shop = make_world(replace(EASY, users=40, items=200, categories=6, held=1, queries=3, seed=5))
    return shop, shop.split(0, 0.6, 0.1, 0.3)


def asked(split):
    return [replace(query, target="", truth=None) for query in split.test_queries]


def quality(system, split, pool):
    ranks = target_ranks(
        [system.rank(query, pool) for query in asked(split)], [pool.index(q.target) for q in split.test_queries]
    )
    return float(ndcg_at_k(ranks, 10).mean())


def check(answer) -> None:
    shop, split = small()
    pool = sorted(shop.items)
    system = answer.MySystem().fit(shop, split)
    if system is None or not hasattr(system, "rank"):
        raise AssertionError("fit returned something without a method `rank`; it should end with `return self`")
    query = asked(split)[0]
    scores = np.asarray(system.rank(query, pool), float)
    if scores.shape != (len(pool),):
        raise AssertionError(f"rank(query, {len(pool)} candidates) has shape {scores.shape}, expected ({len(pool)},)")
    if np.isnan(scores).any():
        raise AssertionError("a score is NaN, which cannot be ranked")
    some = pool[40:10:-3]
    few = np.asarray(system.rank(query, some), float)
    if not np.allclose(few, [scores[pool.index(item)] for item in some]):
        raise AssertionError("an item's score depends on which other candidates are there, or on their order")
    if len(np.asarray(system.rank(query, []))):
        raise AssertionError("an empty list of candidates should give an empty array of scores")
    try:
        system.rank(query, ["no such item"])
    except KeyError:
        pass
    else:
        raise AssertionError("an unknown item must raise KeyError, but it got a score")
    again = np.asarray(answer.MySystem().fit(shop, split).rank(query, pool), float)
    if not np.array_equal(scores, again):
        raise AssertionError(
            "two fits on the same data give different scores: use a random generator with a fixed seed"
        )
    _no_peeking(answer, shop, split, pool)
    mine, popular = quality(system, split, pool), quality(Popularity().fit(shop, split), split, pool)
    if not mine > popular + 0.1:
        raise AssertionError(
            f"nDCG@10 is {mine:.3f} on this small shop and popularity has {popular:.3f}; yours must be .1 above it"
        )


def _no_peeking(answer, shop, split, pool) -> None:
    """The same shop, but test users have other targets and other purchases *after* their queries."""
    query = asked(split)[0]
    later = [
        Interaction(q.user, pool[n % len(pool)], q.time + 5, 5.0, "loved it") for n, q in enumerate(split.test_queries)
    ]
    other = [replace(q, target=pool[3]) if q.user in split.test else q for q in shop.queries]
    future = replace(shop, interactions=(*shop.interactions, *later), queries=tuple(other))
    tests = tuple(replace(q, target=pool[3]) for q in split.test_queries)
    changed = replace(split, test_queries=tests, held_queries=())
    one = np.asarray(answer.MySystem().fit(shop, split).rank(query, pool), float)
    two = np.asarray(answer.MySystem().fit(future, changed).rank(query, pool), float)
    if not np.allclose(one, two):
        raise AssertionError("the ranking changes if test users' targets or later purchases change: it has seen them")


def _subclass(**methods):
    def make():
        from adapters import reference

        return type("MySystem", (reference("my_system").MySystem,), methods)

    return make


class _Lazy:
    """A wrong system, made when it is called, because a handout has no reference to import."""

    def __init__(self, **methods):
        self.make = _subclass(**methods)

    def __call__(self):
        return self.make()()


def _base(self, query, candidates):
    return type(self).__mro__[1].rank(self, query, candidates)


def _peeks(self, query, candidates):
    target = next(q.target for q in self.dataset.queries if q.id == query.id)
    return np.array([float(item == target) for item in candidates]) + 0 * _base(self, query, candidates)


WRONG = {
    "knows the target": {"MySystem": _Lazy(rank=_peeks)},
    "rescales the scores by the candidates": {
        "MySystem": _Lazy(rank=lambda s, q, c: _base(s, q, c) / max(_base(s, q, c).max() if len(c) else 1, 1e-9))
    },
    "an unknown item gets 0": {
        "MySystem": _Lazy(rank=lambda s, q, c: np.array([_base(s, q, [i])[0] if i in s.column else 0.0 for i in c]))
    },
    "random scores without a seed": {
        "MySystem": _Lazy(rank=lambda s, q, c: _base(s, q, c) + 0 * len(c) + np.random.default_rng().random() * 1e-3)
    },
    "all scores equal": {"MySystem": _Lazy(rank=lambda s, q, c: 0 * _base(s, q, c))},
    "reads all interactions of the user": {
        "MySystem": _Lazy(
            rank=lambda s, q, c: (
                _base(s, q, c) + np.array([sum(m.item == i for m in s.dataset.interactions_of(q.user)) for i in c])
            )
        )
    },
}
