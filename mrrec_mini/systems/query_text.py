"""The query alone, searched as it is: by its words (BM25) or by the company its words keep (dense).

Flow: two baselines that read texts and know nobody; the contract is that of `systems`. What a system that rewrites the
query, or adds a person's memory to it, has to beat.

    score(i) = bm25(q, item_text(i))             `bm25_query`
    score(i) = cos(e(q), e(item_text(i)))        `dense_query`, e = LSA fitted on the item texts

Both are `HybridIndex` with the other half switched off, over the same texts as the item index of `environment`; its
scores are stretched to 0..1, which leaves the order alone. Nothing is learned from people: the items are public.

Decided: k1 1.2 and b .75 of BM25, Lucene's, which Rec-R1 searches with: what `rec_r1` adds to `bm25_query` is its
rewriting and nothing else. What the asker already took is ranked like all else, since nobody's past is looked at.

Departure: the paper's zero-shot rows (its Table 1) let a large language model rewrite the query; there is none here.
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
    """`config` says how item texts are searched; `BM25_ALONE` and `DENSE_ALONE` are the two baselines."""

    def __init__(self, config: HybridConfig):
        self.config = config

    def fit(self, dataset: Dataset, split: Split) -> QueryText:
        """Index all items; of people, nothing."""
        texts = [item_text(item) for item in dataset.items.values()]
        self.index = HybridIndex(list(dataset.items), texts, TextSpace.fit(texts, self.config))
        self.column = {item: column for column, item in enumerate(self.index.ids)}
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """(n,) scores in 0..1 for n item ids; all 0 where no word of the query is known. KeyError: an unknown item."""
        scores = self.index.scores([query.text])[0]  # (N,)
        return scores[[self.column[item] for item in candidates]]


def bm25_query() -> QueryText:
    """The query's words, nothing else."""
    return QueryText(BM25_ALONE)


def dense_query() -> QueryText:
    """The query's vector, nothing else."""
    return QueryText(DENSE_ALONE)
