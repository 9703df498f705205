"""Recall@k, nDCG@k, MRR@k and bootstrap intervals, on plain arrays.

Flow: evaluation; nothing here knows of users, items or models: ranks go in, numbers come out.

A rank is 1 for the best item of the *whole* pool (full ranking: metrics over sampled negatives can swap winners,
Krichene and Rendle, KDD 2020). `inf` stands for "never returned" and is worth 0: a query without an answer stays in
the mean.

Formulas: sec. 3.3 for one relevant item, nDCG@k = 1 / log2(rank + 1) if rank <= k, else 0. With several relevant items
(the `*_of_set` functions; the paper has one) the gain is linear in the grade, as in trec_eval and scikit-learn, and the
ideal ranking holds *all* relevant items, found or not. The paper reports no intervals; ours are percentile bootstraps
(Efron, 1979).

Guessed: ties. The paper does not say who wins one; here the smaller item id does, so a constant scorer earns no luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MISSING = np.inf  # the rank of what was never returned


# --- ranks ---


def target_ranks(scores: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Rank of each query's target among all items: scores (Q, N), targets (Q,) column numbers -> (Q,) ints from 1.

    Of two equal scores the earlier column wins. Keep the columns in the order of item ids: then the rule is score
    descending, id ascending.
    Raises ValueError on NaN, IndexError on a target outside the pool.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place in a ranking")
    if targets.size and targets.min() < 0:
        raise IndexError(f"target {targets.min()} is not a column of the scores")
    own = scores[np.arange(len(targets)), targets][:, None]  # (Q, 1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]  # (Q, N)
    return 1 + ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def align_ranks(found: Mapping[str, float], queries: Sequence[str]) -> np.ndarray:
    """Ranks in the order of `queries`, MISSING where a system gave none: (Q,) floats. By id, never by position.

    Raises ValueError for a rank of a query that was not asked.
    """
    unasked = found.keys() - set(queries)
    if unasked:
        raise ValueError(f"ranks for queries that were not asked: {sorted(unasked)[:3]}")
    return np.array([found.get(query, MISSING) for query in queries], dtype=float)


def _checked(ranks: ArrayLike, k: int) -> np.ndarray:
    ranks = np.asarray(ranks, dtype=float)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if np.isnan(ranks).any():
        raise ValueError("a rank is NaN: use MISSING for an item that was not returned")
    if (ranks < 1).any():
        raise ValueError(f"ranks count from 1, found {ranks.min():g}")
    if (ranks[np.isfinite(ranks)] % 1).any():
        raise ValueError("a rank is not a whole number")
    return ranks


# --- one relevant item a query: ranks (Q,) -> values (Q,) in [0, 1] ---


def recall_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """1 where the target is among the first k, else 0. With one relevant item this is the hit rate too."""
    return (_checked(ranks, k) <= k).astype(float)


def ndcg_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """Sec. 3.3: 1 / log2(rank + 1) if rank <= k, else 0. The ideal ranking has the target first, so it divides by 1."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def mrr_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """1 / rank if rank <= k, else 0."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / ranks, 0.0)


# --- several relevant items, one query: ranks (R,) of all that are relevant -> a number in [0, 1] ---


def _checked_set(ranks: ArrayLike, k: int) -> np.ndarray:
    ranks = _checked(ranks, k)
    returned = ranks[np.isfinite(ranks)]
    if ranks.ndim != 1 or not ranks.size:
        raise ValueError("give the ranks of one query's relevant items, at least one")
    if len(np.unique(returned)) < len(returned):
        raise ValueError("two relevant items share a rank")
    return ranks


def recall_of_set(ranks: ArrayLike, k: int) -> float:
    """Share of *all* relevant items that stand among the first k (the denominator is R, not k)."""
    return float((_checked_set(ranks, k) <= k).mean())


def ndcg_of_set(ranks: ArrayLike, grades: ArrayLike, k: int) -> float:
    """DCG@k / ideal DCG@k, gain = grade. grades (R,) > 0 in the order of `ranks`; MISSING items count in the ideal."""
    ranks, grades = _checked_set(ranks, k), np.asarray(grades, dtype=float)
    if grades.shape != ranks.shape or not (np.isfinite(grades) & (grades > 0)).all():
        raise ValueError("every relevant item needs one grade, finite and above 0")
    ideal = np.sort(grades)[::-1][:k]
    return float(grades @ ndcg_at_k(ranks, k) / (ideal @ ndcg_at_k(np.arange(1, len(ideal) + 1), k)))


def mrr_of_set(ranks: ArrayLike, k: int) -> float:
    """1 / rank of the first relevant item if it is among the first k, else 0."""
    return float(mrr_at_k(_checked_set(ranks, k).min(), k))


# --- how sure: percentile bootstrap ---


class Interval(NamedTuple):
    """A mean and the bounds between which it would mostly fall if other queries had been asked."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (M,), from n resamples.

    `clusters` (M,) names what was drawn independently, e.g. the query of each (seed, query) row: rows of one cluster
    are drawn together, since three seeds on one query are not three queries. Without it every row is its own cluster.
    The interval speaks of other queries from the same source; it does not cover the spread between training seeds.
    Raises ValueError on NaN, on an empty list, and on one cluster alone, whose resamples would all be alike.
    """
    values = np.asarray(values, dtype=float)
    clusters = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if values.ndim != 1 or clusters.shape != values.shape:
        raise ValueError(f"one value and one cluster a row: found shapes {values.shape} and {clusters.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and 0 < level < 1, found n = {n}, level = {level}")
    _, cluster_of_row, sizes = np.unique(clusters, return_inverse=True, return_counts=True)  # (M,), (C,)
    if len(sizes) < 2:
        raise ValueError(f"an interval needs at least two clusters, found {len(sizes)}")
    sums = np.bincount(cluster_of_row, weights=values)  # (C,)
    means = np.concatenate([sums[draw].sum(axis=1) / sizes[draw].sum(axis=1) for draw in _draws(len(sizes), n, rng)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _draws(count: int, n: int, rng: np.random.Generator, cells: int = 1 << 22):
    """n resamples of `count` cluster numbers, (rows, count) at a time: about 32 MB, however many queries there are."""
    rows = max(1, cells // count)
    for start in range(0, n, rows):
        yield rng.integers(count, size=(min(rows, n - start), count))


def paired_interval(
    new: ArrayLike,
    old: ArrayLike,
    rng: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(new - old), row by row on the same queries: what makes a query hard for both cancels out.

    `new`, `old`, `clusters` (M,), aligned. "Better" is an interval that lies above 0. Raises as `bootstrap_interval`.
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    if new.shape != old.shape:
        raise ValueError(f"not paired: {new.shape} values against {old.shape}")
    return bootstrap_interval(new - old, rng, clusters=clusters, n=n, level=level)
