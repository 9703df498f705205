"""The contract of every recommender that MR.Rec is compared with: learn from train users, score candidates for a query.

Flow: before `evaluate`, which fits a system (`system_rows`) and turns its scores into the rank of the target. One file
is one system, and all of it: what a paper contributes stands in its file, what it stands on is a stage or one of
`models/`. Systems never import each other.

`fit` may learn from train users and from the items. `rank` may also see the query's own user strictly before the
query (`Dataset.history`); never the target, which `evaluate` takes out of the query before it asks. A system that can
only order a short list gives -inf to all that is not on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class System(Protocol):
    """What `evaluate.system_rows` asks of a recommender."""

    def fit(self, dataset: Dataset, split: Split) -> System:
        """Learn from `split.train`; `dataset` is kept for histories and items. Returns itself."""

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) float scores of n item ids, higher is better, no NaN; -inf: last. KeyError for an unknown item.

        Of two equal scores the earlier candidate wins. `evaluate` gives the whole pool by ascending id, so the order is
        that of `HybridIndex`: score descending, id ascending.
        """
