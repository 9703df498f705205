"""The query alone as the search text: by its words (BM25) or by its vector (dense).

Flow: two baselines that use texts and no histories; they follow the contract in `systems`. A system that rewrites the
query, or adds a person's memory to it, has to beat them.

    score(i) = bm25(q, item_text(i))             `bm25_query`
    score(i) = cos(e(q), e(item_text(i)))        `dense_query`, e = LSA fitted on the item texts

Both are a `HybridIndex` with one half switched off, over the texts of the item index in `environment`. It scales scores
to 0..1, which keeps the order. Nothing is learned from people: only items are indexed.

Decided: BM25 with k1 1.2 and b .75, as in Lucene, the search engine of Rec-R1. So `rec_r1` differs from `bm25_query`
only by its rewriting. Items that the user already took are ranked like all others, since no history is used.

Departure: in the paper's zero-shot rows (its Table 1) a large language model rewrites the query; there is none here.
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
        """(n,) scores in 0..1 for n item ids; all 0 if no word of the query is known. KeyError for an unknown item."""
        scores = self.index.scores([query.text])[0]  # (N,)
        return scores[[self.column[item] for item in candidates]]


def bm25_query() -> QueryText:
    """Search by the query's words only."""
    return QueryText(BM25_ALONE)


def dense_query() -> QueryText:
    """Search by the query's vector only."""
    return QueryText(DENSE_ALONE)
