"""Compute recall@k, nDCG@k, MRR@k and bootstrap intervals from plain arrays.

Flow: evaluation. The functions take ranks and return numbers; they know nothing about users, items or models.

A rank counts from 1, the best item, over the *whole* pool (full ranking). Metrics over sampled negatives can change
which model is better (Krichene and Rendle, KDD 2020). The rank `inf` means "never returned" and scores 0, so a query
without an answer still counts in the mean.

Formulas: with one relevant item (sec. 3.3), nDCG@k = 1 / log2(rank + 1) if rank <= k, else 0. With several
(`ndcg_of_set`; not in the paper), the gain is linear in the grade, as in trec_eval and scikit-learn, and the ideal
ranking holds *all* relevant items, found or not. The paper reports no intervals; ours are percentile bootstraps
(Efron, 1979), over queries or over seeds and users (`hierarchical_interval`).

Guessed: the paper does not say how to rank equal scores. Here the smaller item id ranks better, so a model that gives
all items the same score gains nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MISSING = np.inf  # the rank of an item that was never returned


# --- ranks ---


def target_ranks(scores: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Return each target's rank among all items: scores (Q, N), targets (Q,) column numbers -> (Q,) ints from 1.

    Of two equal scores, the one in the earlier column ranks better. So if the columns are sorted by item id, the
    smaller id wins a tie. Raises ValueError if a score is NaN, IndexError if a target is not a column number.
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
    """Return `ranks` as floats. Raises ValueError if k < 1, or if a rank is neither a whole number >= 1 nor MISSING."""
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
    """Return 1 if rank <= k, else 0. With one relevant item per query, the mean is the hit rate."""
    return (_checked(ranks, k) <= k).astype(float)


def ndcg_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """Return 1 / log2(rank + 1) if rank <= k, else 0 (sec. 3.3). The ideal ranking has the target first: DCG 1."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def mrr_at_k(ranks: ArrayLike, k: int) -> np.ndarray:
    """Return 1 / rank if rank <= k, else 0."""
    ranks = _checked(ranks, k)
    return np.where(ranks <= k, 1 / ranks, 0.0)


# --- several relevant items of one query ---


def ndcg_of_set(ranks: ArrayLike, grades: ArrayLike, k: int) -> float:
    """Return DCG@k / ideal DCG@k of one query, in [0, 1]; the gain is the grade.

    `ranks` (R,) are the ranks of all relevant items. An item that was not returned has rank MISSING and still counts
    in the ideal DCG. `grades` (R,) are above 0. Raises ValueError if there is no item, if two items share a rank, or
    if a grade is missing, not finite or not above 0.
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
    """A mean and its confidence interval, from `low` to `high`."""

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
    """Return the percentile bootstrap interval of the mean of `values` (M,), from n resamples.

    `clusters` (M,) gives the independent unit of each value, e.g. the query if a value belongs to a (seed, query) pair.
    Values of one cluster are drawn together, because three seeds on one query are not three queries. By default, each
    value is its own cluster. The interval reflects the choice of queries, not the spread between training seeds.
    Raises ValueError if a value is NaN or infinite, or if there are fewer than two clusters.
    """
    values = np.asarray(values, dtype=float)
    clusters = np.arange(values.size) if clusters is None else clusters
    return hierarchical_interval(values, np.zeros(values.size), clusters, rng, n, level)


def paired_interval(new: ArrayLike, old: ArrayLike, rng: np.random.Generator, **options) -> Interval:
    """Return the interval of mean(new - old) on the same queries, so that the difficulty of a query cancels out.

    `new` and `old` (M,) hold the same queries in the same order. `options` are passed to `bootstrap_interval`. `new` is
    better if the whole interval is above 0. Raises ValueError if the shapes differ, or as `bootstrap_interval` does.
    """
    new, old = np.asarray(new, dtype=float), np.asarray(old, dtype=float)
    if new.shape != old.shape:
        raise ValueError(f"values are not paired: {new.shape} against {old.shape}")
    return bootstrap_interval(new - old, rng, **options)


# --- two sources of chance: seeds and users ---


def hierarchical_interval(
    values: ArrayLike, seeds: ArrayLike, users: ArrayLike, rng: np.random.Generator, n: int = 2000, level: float = 0.95
) -> Interval:
    """Return the percentile bootstrap interval of the mean of `values` (M,), from n resamples of seeds and of users.

    `seeds` (M,) and `users` (M,) are labels of the rows. One label stands for one person: a person who answers under
    several seeds has the same label there, and people of different data sources have different labels. Each resample
    draws seeds with replacement, if there are at least two, and users with replacement. All rows of a user stay
    together. The mean of a resample is the weighted mean of its rows; a resample without rows is left out.

    - A seed with users of its own (nested): its users are drawn anew each time the seed is drawn. This is the two-stage
      bootstrap (Davison and Hinkley 1997, sec. 3.8).
    - Seeds that share a user, or are linked by other seeds that do (crossed): their users are drawn once for all these
      seeds, and a row counts (times its seed was drawn) x (times its user was drawn). This is the pigeonhole bootstrap
      (Owen 2007).

    With one seed, the interval covers only the choice of users. With 3 to 5 seeds, the bootstrap over seeds is coarse
    and tends to be too narrow if the results of the seeds differ much. If the results of S nested seeds differ only
    because their users do, the interval is too wide, by a factor of about the square root of 2 - 1 / S (1.3 with 5
    seeds), because the choice of users counts in both draws.
    Raises ValueError if a value is NaN or infinite, or if there are fewer than two users.
    """
    values, seeds, users = np.asarray(values, dtype=float), np.asarray(seeds), np.asarray(users)
    if values.ndim != 1 or not values.shape == seeds.shape == users.shape:
        raise ValueError(f"need one label per value, found shapes {values.shape}, {seeds.shape} and {users.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and 0 < level < 1, found n = {n}, level = {level}")
    # 1. the sum and the number of the values of each (seed, user) pair: a resample needs nothing else
    (seed_labels, seeds), (user_labels, users) = (np.unique(labels, return_inverse=True) for labels in (seeds, users))
    if len(user_labels) < 2:
        raise ValueError(f"an interval needs at least two users or clusters, found {len(user_labels)}")
    tables = np.zeros((2, len(seed_labels), len(user_labels)))  # (2, S, U)
    for table, amounts in zip(tables, (values, 1), strict=True):
        np.add.at(table, (seeds, users), amounts)
    # 2. the seeds and users of each source
    sources = _sources(tables[1] > 0)
    # 3. the means of the resamples, in blocks of about 32 MB
    means = []
    rows = max(1, (1 << 22) // len(user_labels))
    for size in (min(rows, n - start) for start in range(0, n, rows)):
        total, count = _resample(tables, sources, size, rng)  # (size,) each
        means.append(total[count > 0] / count[count > 0])
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _resample(
    tables: np.ndarray, sources: list[tuple[np.ndarray, np.ndarray]], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the sums of both `tables` (2, S, U) over each of `size` resamples (2, size)."""
    once = np.ones(size, dtype=int)
    times = _multiplicities(tables.shape[1], once, rng)  # (size, S): how often each seed was drawn
    result = np.zeros((2, size))
    for seeds, users in sources:
        table = tables[:, seeds][:, :, users]  # (2, s, u)
        if len(seeds) == 1:  # nested: each time the seed was drawn, its users are drawn anew
            drawn = _multiplicities(len(users), times[:, seeds[0]], rng)  # (size, u)
            result += table[:, 0] @ drawn.T
        else:  # crossed: one draw of the users serves all seeds
            drawn = _multiplicities(len(users), once, rng)  # (size, u)
            result += ((times[:, seeds] @ table) * drawn).sum(axis=2)
    return result


def _multiplicities(count: int, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of `count` things with replacement, times[i] times for resample i; `times` (R,) are whole numbers.

    Returns how often each thing was drawn in each resample (R, count). A resample with times[i] = 0 draws nothing.
    """
    first = np.repeat(count * np.arange(len(times)), count * times)  # per draw: where its resample starts in the result
    draws = first + rng.integers(count, size=len(first))
    return np.bincount(draws, minlength=len(times) * count).reshape(len(times), count)


def _sources(present: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (seed numbers, user numbers) of each source; `present` (S, U) says which user answers under which seed."""
    linked = present @ present.T  # (S, S): seeds that share a user; both are booleans, so `@` means "any"
    for _ in range(len(linked)):
        linked = linked @ linked  # ... or that are linked by other seeds
    first = linked.argmax(axis=1)  # (S,): the first seed of the source names it
    source_of_user = first[present.argmax(axis=0)]  # (U,)
    return [(np.flatnonzero(first == one), np.flatnonzero(source_of_user == one)) for one in np.unique(first)]
