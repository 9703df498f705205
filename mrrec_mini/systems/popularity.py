"""Popularity: what most people took before the moment of the query, the same for everybody who asks then.

Flow: a baseline that knows histories and no texts; the contract is that of `systems`.

    score(i) = |{interactions of train users with i before the query's time, the query's own user left out}|

Every interaction counts, however long ago and whatever its rating.

Decided: time. Only what lies strictly before the query counts, for all users alike: a count that looked ahead would
know what is going to be liked (Ji et al., ACM TOIS 2023). On real data times are comparable across users. In the
synthetic shop everybody's calendar begins on a day drawn at random, so the rule hides part of the others there; nothing
is lost, for nothing is popular.

Decided: what the query's user already took. It is put last, unless some train user had taken a thing twice by then:
from that moment on it is scored like all else. This is read off the data (an importer may have made them so), not set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class Popularity:
    """Nothing to set."""

    def fit(self, dataset: Dataset, split: Split) -> Popularity:
        """Note when train users took each item, and when one of them first took a thing again."""
        self.dataset, self.train = dataset, split.train
        self.times: dict[str, list[int]] = {item: [] for item in dataset.items}
        self.first_repeat = dataset.first_repeat(split.train)
        for user in split.train:
            for met in dataset.interactions_of(user):
                self.times[met.item].append(met.time)
        for times in self.times.values():
            times.sort()
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) counts for n item ids, -inf for what this user is not going to take again. KeyError: an unknown item."""
        scores = {item: float(bisect_left(self.times[item], query.time)) for item in candidates}
        for met in self.dataset.history(query):
            if met.item in scores and query.time <= self.first_repeat:
                scores[met.item] = -np.inf
            elif met.item in scores and query.user in self.train:
                scores[met.item] -= 1
        return np.array([scores[item] for item in candidates])
