"""Popularity: rank items by how often they were taken before the query.

Flow: a baseline that uses histories and no texts; it has the interface in `systems`.

    score(i) = |{interactions of train users with i before the query's time, without those of the query's own user}|

Every interaction counts, regardless of its age and rating.

Decided about time: only interactions strictly before the query count, for all users. Later interactions would reveal
which items become popular (Ji et al., ACM TOIS 2023). On real data, times are comparable across users. In the synthetic
shop each user starts on a random day, so the rule excludes some interactions of other users. This does no harm, since
no item is popular there.

Decided about repeats: items that the query's user already took are ranked last. But if any train user took an item
twice before the query, these items are scored like all others. So the data decide this, not a setting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class Popularity:
    """The recommender; it has no settings."""

    def fit(self, dataset: Dataset, split: Split) -> Popularity:
        """Store when train users took each item, and when any train user first took an item a second time."""
        self.dataset, self.train = dataset, split.train
        self.times: dict[str, list[int]] = {item: [] for item in dataset.items}
        self.first_repeat = dataset.first_repeat(split.train)
        for user in split.train:
            for interaction in dataset.interactions_of(user):
                self.times[interaction.item].append(interaction.time)
        for times in self.times.values():
            times.sort()
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return counts for n item ids, (n,), -inf for items to rank last. KeyError for an unknown item."""
        scores = {item: float(bisect_left(self.times[item], query.time)) for item in candidates}
        for interaction in self.dataset.history(query):
            if interaction.item in scores and query.time <= self.first_repeat:
                scores[interaction.item] = -np.inf
            elif interaction.item in scores and query.user in self.train:
                scores[interaction.item] -= 1
        return np.array([scores[item] for item in candidates])
