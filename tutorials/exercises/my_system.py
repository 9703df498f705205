"""Exercise my_system: how would you recommend? Write a system, 45 minutes.

Notebooks 09 and 10. Use any idea that ranks items for a query and does better than popularity: words, histories,
neighbours, or all of them. Check yours with `make exercise EX=my_system`. The contract is in
`mrrec_mini/systems/__init__.py`; `systems/popularity.py` and `systems/query_text.py` are short examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class MySystem:
    """A recommender that learns from train users and scores candidates for a query."""

    def fit(self, dataset: Dataset, split: Split) -> MySystem:
        """Learn from the users in `split.train` and from the items, and keep what `rank` needs. Returns itself.

        You may read `dataset.items`, the histories of train users (`mrrec_mini.memory.train_histories`), and the text
        of their queries. About other users, you may read nothing except what `rank` may read.
        """
        raise NotImplementedError("write this, then run the check again")

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) finite scores of n item ids, higher is better. Raise KeyError for an unknown item.

        You may read the query's text and `self.dataset.history(query)`, which is what its user did before.
        `query.target` is "". The score of an item may not depend on the other candidates or on their order.

        Hint: the reference also searches with the words of reviews that this user wrote with four stars or more, at a
        small weight. What somebody praised once is often wanted again.
        """
        raise NotImplementedError("write this, then run the check again")
