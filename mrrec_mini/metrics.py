"""Recall@k, nDCG@k, MRR@k and bootstrap intervals, on plain arrays.

Flow: evaluation. Nothing here knows users, items or models: ranks go in, numbers come out.

A rank is 1 for the best item of the *whole* pool (full ranking: metrics over sampled negatives can swap winners,
Krichene and Rendle, KDD 2020). `inf` means "never returned" and scores 0: a query without an answer stays in the mean.

Formulas: sec. 3.3 for one relevant item, nDCG@k = 1 / log2(rank + 1) if rank <= k, else 0. With several relevant items
(`ndcg_of_set`; the paper has one) the gain is linear in the grade, as in trec_eval and scikit-learn, and the ideal
ranking holds *all* relevant items, found or not. The paper reports no intervals; ours are percentile bootstraps
(Efron, 1979).

Guessed: ties. The paper has no tie rule. Here the smaller item id wins, so a constant scorer gains nothing by luck.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MISSING = np.inf  # the rank of an item that was never returned


# --- ranks ---


def target_ranks(scores: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Rank of each query's target among all items: scores (Q, N), targets (Q,) column numbers -> (Q,) ints from 1.

    Of two equal scores, the one in the earlier column ranks better. So if the columns are sorted by item id, the items
    with equal scores are too. Raises ValueError if a score is NaN, IndexError if a target is not a column number.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN and cannot be ranked")
    if targets.size and targets.min() < 0:
        raise IndexError(f"target {targets.min()} is not a column of the scores")
    own = scores[np.arange(len(targets)), targets][:, None]  # (Q, 1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]  # (Q, N)
    return 1 + ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def _checked(ranks: ArrayLike, k: int) -> np.ndarray:
    """`ranks` as floats. Raises ValueError if k < 1, or if a rank is neither a whole number >= 1 nor MISSING."""
    ranks = np.asarray(ranks, dtype=float)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if np.isnan(ranks).any():
        raise ValueError("a rank is NaN; use MISSING for an item that was not returned")
    if (ranks < 1).any():
        raise ValueError(f"ranks start at 1, found {ranks.min():g}")
    if (ranks[np.isfinite(ranks)] % 1).any():
        raise ValueError("a rank is not a whole number")
    return ranks


# --- one relevant item per query: ranks (Q,) -> values (Q,) in [0, 1] ---


def recall_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """1 if the target is among the first k, else 0. With one relevant item this equals the hit rate."""
    return (_checked(ranks, k) <= k).astype(float)


def ndcg_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """Sec. 3.3: 1 / log2(rank + 1) if rank <= k, else 0. The ideal DCG is 1: the target comes first."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def mrr_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """1 / rank if rank <= k, else 0."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / ranks, 0.0)


# --- several relevant items of one query ---


def ndcg_of_set(ranks: ArrayLike, grades: ArrayLike, k: int) -> float:
    """DCG@k / ideal DCG@k of one query, in [0, 1]; the gain is the grade.

    ranks (R,): of all relevant items, MISSING if not returned; those count in the ideal too. grades (R,) > 0. Raises
    ValueError if there is no item, if two share a rank, or if a grade is missing, not finite or not above 0.
    """
    ranks, grades = _checked(ranks, k), np.asarray(grades, dtype=float)
    returned = ranks[np.isfinite(ranks)]
    if ranks.ndim != 1 or not ranks.size:
        raise ValueError("give the ranks of one query's relevant items, at least one")
    if len(np.unique(returned)) < len(returned):
        raise ValueError("two relevant items share a rank")
    if grades.shape != ranks.shape or not (np.isfinite(grades) & (grades > 0)).all():
        raise ValueError("every relevant item needs one grade, finite and above 0")
    ideal = np.sort(grades)[::-1][:k]
    return float(grades @ ndcg_at_k(ranks, k) / (ideal @ ndcg_at_k(np.arange(1, len(ideal) + 1), k)))


# --- percentile bootstrap ---


class Interval(NamedTuple):
    """A mean and the bounds within which it would usually fall for other queries from the same source."""

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

    `clusters` (M,) names the independent unit of each row, e.g. the query of each (seed, query) row. Rows of one
    cluster are drawn together: three seeds on one query are not three queries. Default: each row is its own cluster.
    The interval covers the choice of queries, not the spread between training seeds.
    Raises ValueError if a value is NaN or infinite, or if there are fewer than two clusters.
    """
    values = np.asarray(values, dtype=float)
    clusters = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if values.ndim != 1 or clusters.shape != values.shape:
        raise ValueError(f"need one value and one cluster per row, found shapes {values.shape} and {clusters.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and 0 < level < 1, found n = {n}, level = {level}")
    # the mean of a resample is the sum of its clusters' values over the number of their rows
    _, cluster_of_row, sizes = np.unique(clusters, return_inverse=True, return_counts=True)  # (M,), (C,)
    if len(sizes) < 2:
        raise ValueError(f"an interval needs at least two clusters, found {len(sizes)}")
    sums = np.bincount(cluster_of_row, weights=values)  # (C,)
    means = np.concatenate([sums[draw].sum(axis=1) / sizes[draw].sum(axis=1) for draw in _draws(len(sizes), n, rng)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _draws(count: int, n: int, rng: np.random.Generator, cells: int = 1 << 22):
    """Yield n resamples of `count` cluster numbers in blocks (rows, count) of about 32 MB."""
    rows = max(1, cells // count)
    for start in range(0, n, rows):
        yield rng.integers(count, size=(min(rows, n - start), count))


def paired_interval(new: ArrayLike, old: ArrayLike, rng: np.random.Generator, **options) -> Interval:
    """Interval of mean(new - old), row by row on the same queries, so the difficulty of a query cancels out.

    `new`, `old` (M,), aligned. `options`: those of `bootstrap_interval`. `new` is better if the whole interval is above
    0. Raises ValueError if the shapes differ, or as `bootstrap_interval` does.
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    if new.shape != old.shape:
        raise ValueError(f"values are not paired: {new.shape} against {old.shape}")
    return bootstrap_interval(new - old, rng, **options)
