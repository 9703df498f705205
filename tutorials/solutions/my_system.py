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
        # BEGIN SOLUTION
        from mrrec_mini.bm25 import BM25, BM25Stats
        from mrrec_mini.environment import item_text

        self.dataset = dataset
        texts = [item_text(item) for item in dataset.items.values()]
        self.column = {item: n for n, item in enumerate(dataset.items)}
        self.index = BM25(texts, BM25Stats.fit(texts))
        return self
        # END SOLUTION

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) finite scores of n item ids, higher is better. Raise KeyError for an unknown item.

        You may read the query's text and `self.dataset.history(query)`, which is what its user did before.
        `query.target` is "". The score of an item may not depend on the other candidates or on their order.

        Hint: the reference also searches with the words of reviews that this user wrote with four stars or more, at a
        small weight. What somebody praised once is often wanted again.
        """
        # BEGIN SOLUTION
        columns = [self.column[item] for item in candidates]
        praised = " ".join(interaction.review for interaction in self.dataset.history(query) if interaction.rating >= 4)
        scores = self.index.scores(query.text) + 0.05 * self.index.scores(praised)
        return scores[columns]
        # END SOLUTION
