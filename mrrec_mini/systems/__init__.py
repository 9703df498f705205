"""The interface of the recommenders that MR.Rec is compared with: learn from train users, score items for a query.

Flow: before `evaluate`, which fits a system (`system_rows`) and computes the rank of the target from its scores. Each
file in this folder is one complete system, with everything that is special to its paper. A system imports general parts
from the rest of the package, but never another system.

`fit` may learn from train users and from the items. `rank` may also use what the query's own user did strictly before
the query (`Dataset.history`). `rank` never sees the target: `evaluate` removes the target from the query. A system that
ranks only a short list gives all other candidates the score -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class System(Protocol):
    """The methods that `evaluate.system_rows` needs from a recommender."""

    def fit(self, dataset: Dataset, split: Split) -> System:
        """Learn from the users in `split.train`, and keep `dataset` for histories and items. Returns `self`."""

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return float scores of n item ids, (n,): higher is better, -inf is last, no NaN. KeyError for unknown items.

        Among equal scores, the earlier candidate ranks first. `evaluate` passes all items sorted by id, so items are
        ranked as in `HybridIndex`: by descending score, then by ascending id.
        """
