"""Item-item neighbours: what the people who took this person's things took besides (Sarwar et al., WWW 2001).

Flow: a baseline that knows histories and no texts; the contract is that of `systems`.

With U_i = the train users, the query's own left out, who took item i before the query, and H = the items that the
query's user took before it:

    sim(i, j) = |U_i & U_j| / sqrt(|U_i| |U_j|)  .  |U_i & U_j| / (|U_i & U_j| + shrinkage)       0 for i = j
    score(i)  = sum over j in H of sim(i, j)

The first factor is the cosine of two columns of the user-item matrix. The second (Bell and Koren, ICDM 2007) trusts a
similarity less that rests on few people; 0 leaves the cosine alone.

Departures from the paper: whether somebody took a thing counts, not how it was rated (its cosine is over ratings), and
all neighbours count, not the nearest k of each item. Someone whose things nobody else took gets no answer: all scores
are 0, and ids decide.

Decided, as in `popularity` and for its reasons: only what lies strictly before the query counts, for all users alike;
what the query's user already took is put last, unless some train user had taken a thing twice by then.

Guessed: shrinkage 0. On the validation queries of MovieLens-100k and Magazine nothing from 1 to 100 was clearly better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class Neighbours:
    """`shrinkage` >= 0 is counted in people; ValueError below."""

    def __init__(self, shrinkage: float = 0.0):
        if shrinkage < 0:
            raise ValueError(f"shrinkage must be >= 0, not {shrinkage}")
        self.shrinkage = shrinkage

    def fit(self, dataset: Dataset, split: Split) -> Neighbours:
        """Note when each train user first took each item, and when one of them first took a thing again."""
        self.dataset = dataset
        self.column = {item: column for column, item in enumerate(dataset.items)}
        self.row = {user: row for row, user in enumerate(sorted(split.train))}
        first: dict[tuple[int, int], int] = {}
        self.first_repeat = dataset.first_repeat(split.train)
        for user, row in self.row.items():
            for met in dataset.interactions_of(user):  # oldest first
                first.setdefault((row, self.column[met.item]), met.time)
        rows, columns = np.array(list(first), dtype=np.int64).reshape(-1, 2).T
        self.times = csr_matrix((list(first.values()), (rows, columns)), (len(self.row), len(self.column)))
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) scores for n item ids, -inf for what this user is not going to take again. KeyError: an unknown item."""
        history = sorted({self.column[met.item] for met in self.dataset.history(query)})  # H
        scores = np.asarray(self.similarity(self.taken(query), history).sum(axis=0)).ravel()  # (N,) of all items
        if query.time <= self.first_repeat:
            scores[history] = -np.inf
        return scores[[self.column[item] for item in candidates]]

    def taken(self, query: Query) -> csr_matrix:
        """(users, N) 1 where a train user, not the query's own, took an item before the query."""
        kept = self.times.data < query.time
        if query.user in self.row:
            start, end = self.times.indptr[self.row[query.user] :][:2]
            kept[start:end] = False
        taken = csr_matrix((kept.astype(float), self.times.indices, self.times.indptr), self.times.shape, copy=True)
        taken.eliminate_zeros()
        return taken

    def similarity(self, taken: csr_matrix, items: Sequence[int]) -> coo_matrix:
        """(h, N) sim(j, i) of h items j to all: shrunk cosine. Held only where somebody took both: the rest is 0."""
        together = (taken[:, items].T @ taken).tocoo()  # (h, N) |U_i & U_j|
        people = np.asarray(taken.sum(axis=0)).ravel()  # (N,) |U_i|
        both, j, i = together.data, np.array(items, dtype=np.int64)[together.row], together.col
        similar = both / np.sqrt(people[i] * people[j]) * both / (both + self.shrinkage)
        similar[i == j] = 0
        return coo_matrix((similar, (together.row, i)), together.shape)
