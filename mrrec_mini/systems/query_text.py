"""Search for items with the unchanged query: by its words (BM25) or by its vector (dense).

Flow: two baselines that use texts and no histories; they have the interface in `systems`. A system that rewrites the
query, or adds memory to the query, should be better than these two.

    score(i) = bm25(q, item_text(i))             `bm25_query`
    score(i) = cos(e(q), e(item_text(i)))        `dense_query`, e = LSA fitted on the item texts

Both use a `HybridIndex` with one of its two rankings switched off. Its texts are those of the item index in
`environment`. It scales scores to 0..1, which keeps their order. Nothing is learned from users.

Decided: BM25 with k1 1.2 and b .75, as in Lucene, the search engine of Rec-R1. So `rec_r1` differs from `bm25_query`
only by its rewriting. Items that the user already took are ranked like all others, since no history is used.

Departure: in the zero-shot rows of the paper's Table 1, a large language model rewrites the query; here nothing does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Query
from mrrec_mini.environment import item_text
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace

BM25_ALONE = HybridConfig(dense="none", k1=1.2, b=0.75)
DENSE_ALONE = HybridConfig(bm25_weight=0.0)


class QueryText:
    """`config` sets how item texts are searched: `BM25_ALONE` or `DENSE_ALONE`."""

    def __init__(self, config: HybridConfig):
        self.config = config

    def fit(self, dataset: Dataset, split: Split) -> QueryText:
        """Index all items."""
        texts = [item_text(item) for item in dataset.items.values()]
        self.index = HybridIndex(list(dataset.items), texts, TextSpace.fit(texts, self.config))
        self.column = {item: column for column, item in enumerate(self.index.ids)}
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return scores in 0..1 for n item ids, (n,); 0 if no word of the query is known. KeyError: unknown item."""
        scores = self.index.scores([query.wish])[0]  # (N,)
        return scores[[self.column[item] for item in candidates]]


def bm25_query() -> QueryText:
    """Return the system that searches by the query's words only."""
    return QueryText(BM25_ALONE)


def dense_query() -> QueryText:
    """Return the system that searches by the query's vector only."""
    return QueryText(DENSE_ALONE)
