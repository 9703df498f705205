"""Item-item neighbours: items taken by the same people as the items in the user's history (Sarwar et al., WWW 2001).

Flow: a baseline that uses histories and no texts; it follows the contract in `systems`.

With U_i = the train users, without the query's own, who took item i before the query, and H = the items that the
query's user took before it:

    sim(i, j) = |U_i & U_j| / sqrt(|U_i| |U_j|)  .  |U_i & U_j| / (|U_i & U_j| + shrinkage)       0 for i = j
    score(i)  = sum over j in H of sim(i, j)

The first factor is the cosine of two columns of the user-item matrix. The second (Bell and Koren, ICDM 2007) lowers
similarities that rest on few people; shrinkage 0 leaves the cosine as it is.

Departures from the paper: an interaction counts regardless of its rating (the paper's cosine is over ratings), and all
neighbours of an item count, not the nearest k. If nobody else took any item of a history, all scores are 0, and the
order of the ids decides.

Decided, for the reasons in `popularity`: only interactions strictly before the query count, for all users. Items that
the query's user already took are ranked last, unless some train user has taken an item twice by then.

Guessed: shrinkage 0. On the validation queries of MovieLens-100k and Magazine no value in 1..100 was clearly better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class Neighbours:
    """`shrinkage` is a number of people; ValueError if it is negative."""

    def __init__(self, shrinkage: float = 0.0):
        if shrinkage < 0:
            raise ValueError(f"shrinkage must be >= 0, not {shrinkage}")
        self.shrinkage = shrinkage

    def fit(self, dataset: Dataset, split: Split) -> Neighbours:
        """Store when each train user first took each item, and when one of them first took an item again."""
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
        """(n,) scores for n item ids, -inf for items that this user will not take again. KeyError: unknown item."""
        history = sorted({self.column[interaction.item] for interaction in self.dataset.history(query)})  # H
        scores = np.asarray(self.similarity(self.taken(query), history).sum(axis=0)).ravel()  # (N,) of all items
        if query.time <= self.first_repeat:
            scores[history] = -np.inf
        return scores[[self.column[item] for item in candidates]]

    def taken(self, query: Query) -> csr_matrix:
        """(users, N) 1 if the train user took the item before the query; the query's own user is left out."""
        kept = self.times.data < query.time
        if query.user in self.row:
            start, end = self.times.indptr[self.row[query.user] :][:2]
            kept[start:end] = False
        taken = csr_matrix((kept.astype(float), self.times.indices, self.times.indptr), self.times.shape, copy=True)
        taken.eliminate_zeros()
        return taken

    def similarity(self, taken: csr_matrix, items: Sequence[int]) -> coo_matrix:
        """(h, N) sim(j, i) of h items j to all items i; sparse, since it is 0 unless somebody took both."""
        together = (taken[:, items].T @ taken).tocoo()  # (h, N) |U_i & U_j|
        people = np.asarray(taken.sum(axis=0)).ravel()  # (N,) |U_i|
        both, j, i = together.data, np.array(items, dtype=np.int64)[together.row], together.col
        similar = both / np.sqrt(people[i] * people[j]) * both / (both + self.shrinkage)
        similar[i == j] = 0
        return coo_matrix((similar, (together.row, i)), together.shape)
