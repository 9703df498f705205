"""The prior of an item: what can be said for it before anybody reads a text about it, as a second term of its score.

Flow: after `hybrid`, before `item_index`, which adds the prior to the text score of every item. `evaluate` tunes the
weights of each arm with `tune_weights`, so a table can show every arm with and without the prior.

For a query of user u at time t, let U_i be the train users other than u who took item i before t, n_i = |U_i|, and H
what u took before t. All three terms are in [0, 1]:

    popularity(i) = log(1 + n_i) / max over j of log(1 + n_j)
    neighbours(i) = c(i) / max over j of c(j),   c(i) = sum over j in H, j != i, of |U_i & U_j| / sqrt(n_i n_j)
    scenario(i)   = 1 if a name in the category path of i is the category that the query names, else 0
    score(i)      = text(i) + w_p popularity(i) + w_n neighbours(i) + w_s scenario(i)

A term is 0 for all items if its maximum is 0, or if the query names no category. `text` is the fused score of
`hybrid`, in [0, 1] too. c is the similarity of `systems/neighbours` without shrinkage.

Only purchases of train users before the query count, and a train user's own are left out of n and U. So the prior knows
no target. If the times of two people cannot be compared (`Dataset.clock`), all purchases of the others count.

Departure: the paper ranks by text alone. Guessed: the grid of weights. The weights are chosen on validation users, for
each arm by the same function; 0 for all three is one of the choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import csr_matrix

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.metrics import ndcg_at_k

GRID = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # of w_p and w_n
SCENARIO_GRID = (0.0, 0.3, 4.0)  # of w_s; 4 is more than the rest of most scores: only items of the category count


@dataclass(frozen=True)
class Weights:
    """The weights of the three terms, each >= 0."""

    popularity: float = 0.0
    neighbours: float = 0.0
    scenario: float = 0.0

    def array(self) -> np.ndarray:
        """Return the weights in the order of `Prior.terms`, (3,)."""
        return np.array([self.popularity, self.neighbours, self.scenario])


TEXT_ALONE = Weights()
KNOWN = 1024  # queries whose terms are kept: 0.2 GB for 17,000 items


class Prior:
    """What train users took and when. Columns are all items of the data set, sorted by id, as in `HybridIndex`."""

    def __init__(self, dataset: Dataset, users: Iterable[str]):
        """Count the purchases of `users`, which must be train users; the purchases of others would leak targets."""
        self.dataset = dataset
        self.column = {item: column for column, item in enumerate(sorted(dataset.items))}
        self.row = {user: row for row, user in enumerate(sorted(users))}
        first: dict[tuple[int, int], int] = {}  # (user, item) -> when the user took the item for the first time
        for user, row in self.row.items():
            for taken in dataset.interactions_of(user):  # oldest first
                first.setdefault((row, self.column[taken.item]), taken.time)
        rows, columns = np.array(list(first), dtype=np.int64).reshape(-1, 2).T
        times = np.array(list(first.values()), dtype=np.int64)
        shape = (len(self.row), len(self.column))
        self.by_user = csr_matrix((times, (rows, columns)), shape)
        self.by_item = self.by_user.tocsc()
        oldest_first = np.argsort(times, kind="stable")
        self.times, self.columns = times[oldest_first], columns[oldest_first]
        self._known: dict[tuple, np.ndarray] = {}  # (user, time, scenario) of a query -> its terms
        self.scenarios: dict[str, list[int]] = {}  # a name in a category path -> the columns of its items
        for item in sorted(dataset.items):
            for name in set(dataset.items[item].category):
                self.scenarios.setdefault(name, []).append(self.column[item])

    def terms(self, query: Query) -> np.ndarray:
        """Return popularity, neighbours and scenario of all N items, (3, N), each in [0, 1]. Reads no target."""
        key = query.user, query.time, query.scenario
        if key not in self._known:  # every arm asks for the same queries
            counts = self._counts(query)
            terms = np.zeros((3, len(self.column)), dtype=np.float32)
            terms[0] = _to_one(np.log1p(counts))
            terms[1] = _to_one(self._neighbours(query, counts))
            terms[2, self.scenarios.get(query.scenario, [])] = 1
            if len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = terms
        return self._known[key]

    def owned(self, query: Query) -> list[int]:
        """Return the columns of the items that a ranking for `query` puts last (`Dataset.owned`)."""
        return [self.column[item] for item in self.dataset.owned(query)]

    def besides(self, query: Query, taken: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (row of a person, column of an item), (E,) each: what people who share an item took besides.

        These people took one of the items `taken` (ids; unknown ones are ignored) before the query and are not the
        query's user. Each pair stands there once, and none has an item of `taken`. Reads no target.
        """
        own = sorted({self.column[item] for item in taken if item in self.column})
        people, times, _ = _entries(self.by_item, own)
        people = np.unique(people[(times < self._end(query)) & (people != self.row.get(query.user, -1))])
        items, times, place = _entries(self.by_user, people)
        kept = (times < self._end(query)) & ~np.isin(items, own)
        return people[place[kept]], items[kept]

    def _end(self, query: Query) -> int:
        """Return the time from which on purchases of other people do not count."""
        return query.time if self.dataset.clock else np.iinfo(np.int64).max

    def _counts(self, query: Query) -> np.ndarray:
        """Return n of all items, (N,)."""
        before = np.searchsorted(self.times, self._end(query))
        counts = np.bincount(self.columns[:before], minlength=len(self.column)).astype(np.float64)
        if query.user in self.row:
            items, times, _ = _entries(self.by_user, [self.row[query.user]])
            counts[items[times < self._end(query)]] -= 1
        return counts

    def _neighbours(self, query: Query, counts: np.ndarray) -> np.ndarray:
        """Return c of all items, (N,). `counts` is n.

        Goes through the people who took something of H: c(i) = sum over u in U_i of (sum over j in H taken by u of
        1 / sqrt(n_j)) / sqrt(n_i), less the part of i = j, which is 1 for an item of H that anybody took.
        """
        history = sorted({self.column[old.item] for old in self.dataset.history(query)})
        # 1. a weight for each person who took something of H: the sum of 1 / sqrt(n_j)
        people, times, place = _entries(self.by_item, history)
        kept = (times < self._end(query)) & (people != self.row.get(query.user, -1))
        root = np.sqrt(np.maximum(counts, 1))
        weight = np.bincount(people[kept], 1 / root[np.array(history, dtype=np.int64)[place[kept]]], len(self.row))
        # 2. what these people took besides
        chosen = np.flatnonzero(weight)
        items, times, place = _entries(self.by_user, chosen)
        kept = times < self._end(query)
        scores = np.bincount(items[kept], weight[chosen[place[kept]]], len(counts)) / root
        scores[history] -= counts[history] > 0
        return scores


def joined_scores(text: np.ndarray, terms: np.ndarray, weights: Weights, last: Sequence[int]) -> np.ndarray:
    """Return text (N,) + the weighted terms (3, N), and -inf in the columns `last`: these items rank last, by id."""
    scores = text + weights.array() @ terms if weights != TEXT_ALONE else text.copy()
    scores[list(last)] = -np.inf
    return scores


def _entries(matrix, lines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (other coordinate, value, position in `lines`) of all entries in these rows (CSR) or columns (CSC)."""
    lines = np.asarray(lines, dtype=np.int64)
    starts, sizes = matrix.indptr[lines], matrix.indptr[lines + 1] - matrix.indptr[lines]
    place = np.repeat(np.arange(len(lines)), sizes)
    at = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(starts, sizes)
    return matrix.indices[at], matrix.data[at], place


def _to_one(values: np.ndarray) -> np.ndarray:
    """Return values >= 0, divided by their maximum; zeros if that is 0."""
    most = values.max(initial=0.0)
    return np.maximum(values, 0) / most if most > 0 else np.zeros_like(values)


def tune_weights(
    judged: Iterable[tuple[np.ndarray, np.ndarray, Sequence[int], int]], neighbours: bool = True
) -> dict[Weights, float]:
    """Return {weights: mean nDCG@10} for all weights of the grid, the smallest first. Choose the best.

    `judged` has one tuple per query: text scores (N,), terms (3, N), the columns to put last, the target's column. Use
    validation queries, never test queries. `neighbours=False` leaves out that term. Raises ValueError without a query.
    """
    grid = [Weights(*choice) for choice in product(GRID, GRID if neighbours else (0.0,), SCENARIO_GRID)]
    arrays = np.array([weights.array() for weights in grid])
    gains = [ndcg_at_k(_ranks_on_grid(*one, arrays), 10) for one in judged]
    if not gains:
        raise ValueError("there is no query to tune the weights on")
    return dict(zip(grid, np.mean(gains, axis=0).tolist(), strict=True))


def _ranks_on_grid(
    text: np.ndarray, terms: np.ndarray, last: Sequence[int], target: int, grid: np.ndarray
) -> np.ndarray:
    """Return the target's rank for each row of weights in `grid` (G, 3), (G,)."""
    if target in last:
        return np.full(len(grid), len(text))
    if terms[2].min() == terms[2].max():  # the third weight changes no order, so rank for each pair of the others once
        pairs, place = np.unique(grid[:, :2], axis=0, return_inverse=True)
        lead = pairs @ (terms[:2] - terms[:2, [target]])
    else:
        lead, place = grid @ (terms - terms[:, [target]]), np.arange(len(grid))
    lead += text - text[target]  # (G, N): by how much each item is better than the target
    lead[:, list(last)] = -np.inf
    ranks = 1 + np.count_nonzero(lead > 0, axis=1) + np.count_nonzero(lead[:, :target] == 0, axis=1)
    return ranks[place.ravel()]
