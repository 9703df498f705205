"""Exercise my_system: by what would you recommend? Write a fifteenth system, 45 minutes.

Notebooks 09 and 10. Any idea will do that ranks items for a query and is better than popularity: words, histories,
neighbours, all of them. Check yours with `make exercise EX=my_system`; `mrrec_mini/systems/__init__.py` has the
contract, `systems/popularity.py` and `systems/query_text.py` are short examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query


class MySystem:
    """Learns from train users, scores candidates for a query."""

    def fit(self, dataset: Dataset, split: Split) -> MySystem:
        """Learn from `split.train` users and from the items; keep what `rank` needs. Returns itself.

        May be read: `dataset.items`, the histories of train users (`mrrec_mini.memory.train_histories`), the text of
        their queries. Not: anything of other users but what `rank` may read.
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
        """(n,) finite scores of n item ids, higher is better; KeyError for an unknown item.

        May be read: the query's text and `self.dataset.history(query)`, what its user did before. `query.target` is "".
        An item's score may not depend on which other candidates are there, nor in which order.

        Hint: the reference adds to the words of the query those of the reviews that this user wrote with four stars or
        more, at a small weight: what somebody praised once is often wanted again.
        """
        # BEGIN SOLUTION
        columns = [self.column[item] for item in candidates]
        praised = " ".join(met.review for met in self.dataset.history(query) if met.rating >= 4)
        scores = self.index.scores(query.text) + 0.05 * self.index.scores(praised)
        return scores[columns]
        # END SOLUTION
