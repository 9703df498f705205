"""Item-item neighbours: items that many users took together with the user's own items (Sarwar et al., WWW 2001).

Flow: a baseline that uses histories and no texts; it has the interface in `systems`.

Let U_i be the train users, other than the query's user, who took item i before the query. Let H be the items that the
query's user took before the query:

    sim(i, j) = |U_i & U_j| / sqrt(|U_i| |U_j|)  .  |U_i & U_j| / (|U_i & U_j| + shrinkage)       0 for i = j
    score(i)  = sum over j in H of sim(i, j)

The first factor is the cosine of two columns of the user-item matrix. The second (Bell and Koren, ICDM 2007) lowers
similarities that are based on few users; with shrinkage 0 it is 1.

Departures from the paper: ratings are ignored (the paper computes the cosine of ratings), and all neighbours of an item
count, not only the nearest k. If nobody else took any item of H, all scores are 0, and items are ranked by id.

Decided, for the reasons in `popularity`: only interactions strictly before the query count, for all users. Items that
the query's user already took are ranked last, unless some train user took an item twice before the query.

Guessed: shrinkage 0. On the validation queries of MovieLens-100k and Magazine no value in 1..100 was clearly better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class Neighbours:
    """The recommender. `shrinkage` is a number of users; raises ValueError if it is negative."""

    def __init__(self, shrinkage: float = 0.0):
        if shrinkage < 0:
            raise ValueError(f"shrinkage must be >= 0, not {shrinkage}")
        self.shrinkage = shrinkage

    def fit(self, dataset: Dataset, split: Split) -> Neighbours:
        """Store when each train user first took each item, and when any train user first took an item a second time."""
        self.dataset = dataset
        self.column = {item: column for column, item in enumerate(dataset.items)}
        self.row = {user: row for row, user in enumerate(sorted(split.train))}
        first: dict[tuple[int, int], int] = {}
        self.first_repeat = dataset.first_repeat(split.train)
        for user, row in self.row.items():
            for interaction in dataset.interactions_of(user):  # oldest first
                first.setdefault((row, self.column[interaction.item]), interaction.time)
        rows, columns = np.array(list(first), dtype=np.int64).reshape(-1, 2).T
        self.times = csr_matrix((list(first.values()), (rows, columns)), (len(self.row), len(self.column)))
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return scores for n item ids, (n,), -inf for items to rank last. KeyError for an unknown item."""
        history = sorted({self.column[interaction.item] for interaction in self.dataset.history(query)})  # H
        scores = np.asarray(self.similarity(self.taken(query), history).sum(axis=0)).ravel()  # (N,) of all items
        if query.time <= self.first_repeat:
            scores[history] = -np.inf
        return scores[[self.column[item] for item in candidates]]

    def taken(self, query: Query) -> csr_matrix:
        """Return a matrix (users, N): 1 if the train user took the item before the query; 0 for the query's user."""
        kept = self.times.data < query.time
        if query.user in self.row:
            start, end = self.times.indptr[self.row[query.user] :][:2]
            kept[start:end] = False
        taken = csr_matrix((kept.astype(float), self.times.indices, self.times.indptr), self.times.shape, copy=True)
        taken.eliminate_zeros()
        return taken

    def similarity(self, taken: csr_matrix, items: Sequence[int]) -> coo_matrix:
        """Return sim(j, i) of h items j and all N items i, (h, N); sparse, since it is 0 if nobody took both items."""
        together = (taken[:, items].T @ taken).tocoo()  # (h, N) |U_i & U_j|
        people = np.asarray(taken.sum(axis=0)).ravel()  # (N,) |U_i|
        both, j, i = together.data, np.array(items, dtype=np.int64)[together.row], together.col
        similar = both / np.sqrt(people[i] * people[j]) * both / (both + self.shrinkage)
        similar[i == j] = 0
        return coo_matrix((similar, (together.row, i)), together.shape)
