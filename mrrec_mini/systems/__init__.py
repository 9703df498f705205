"""The contract of the recommenders that MR.Rec is compared with: learn from train users, score candidates for a query.

Flow: before `evaluate`, which fits a system (`system_rows`) and turns its scores into the rank of the target. Each file
is one complete system and holds everything that its paper contributes. General parts are imported from the rest of the
package. Systems never import each other.

`fit` may learn from train users and from the items. `rank` may also use what the query's own user did strictly before
the query (`Dataset.history`). It never sees the target: `evaluate` removes it from the query. A system that orders only
a short list gives all other candidates -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class System(Protocol):
    """What `evaluate.system_rows` needs from a recommender."""

    def fit(self, dataset: Dataset, split: Split) -> System:
        """Learn from `split.train`; keep `dataset` for histories and items. Returns itself."""

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) float scores of n item ids: higher is better, -inf is last, no NaN. KeyError for an unknown item.

        On equal scores the earlier candidate wins. `evaluate` passes the whole pool by ascending id, so the order is
        that of `HybridIndex`: score descending, id ascending.
        """
