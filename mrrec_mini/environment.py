"""Everything an episode needs besides the policy: a data set, its memory and its item index.

Flow: joins the stages so far. `Environment.build` makes the memory and the item index of one data set; `play` lets an
actor write episodes for some queries, and scores them. Training may use several environments, evaluation uses one.

    i* -> the k items whose metadata is most similar to i*                                      Eq. (3)

`items` computes this: it is an `ItemIndex` over the `item_text` of all items. The item pool is public. All that is
learned from people (global memory, the text statistics of memory) uses train users only. As in the paper, except that
the indexes of items and memory are hybrid (BM25 + LSA), not dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Episode, Item, Query
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace, tune_weight
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.memory import Memory, MemoryConfig, Summarizer
from mrrec_mini.others import Others
from mrrec_mini.prior import Prior
from mrrec_mini.reward import RewardConfig, score
from mrrec_mini.rollout import Actor, RolloutConfig, rollout
from mrrec_mini.summarize import ExtractiveConfig, ExtractiveSummarizer
from mrrec_mini.title_words import ItemReader

SLACK = 0.02  # nDCG@10; smaller differences cannot be told apart with a hundred validation queries


@dataclass(frozen=True)
class Environment:
    """One data set, ready to play."""

    dataset: Dataset
    split: Split
    memory: Memory
    items: ItemIndex

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        split: Split,
        summarizer: Summarizer,
        rng: np.random.Generator,
        memory: MemoryConfig | None = None,
        hybrid: HybridConfig | None = None,
    ) -> Environment:
        """Build the memory, learning from the train users of `split` only, and the index of all items.

        `hybrid` None: the default, which suits the synthetic shop; on real data, how much BM25 counts in the item index
        is chosen on validation users.
        """
        texts = [item_text(item) for item in dataset.items.values()]
        index = HybridIndex(list(dataset.items), texts, TextSpace.fit(texts, hybrid or HybridConfig()))
        if hybrid is None and not dataset.synthetic:
            index = with_tuned_weight(index, texts, split.validation_queries)
        memory, hybrid, prior = memory or MemoryConfig(), hybrid or HybridConfig(), Prior(dataset, split.train)
        built = Memory.build(dataset, split.train, memory, summarizer, hybrid, rng)
        built.others = Others.of(prior)
        return cls(dataset, split, built, ItemIndex.over(index, prior))

    @cached_property
    def aspects(self) -> list[str]:
        """All aspects that an item of the data set can have, written as in memory."""
        return aspect_names(self.dataset)

    def play(
        self,
        actor: Actor,
        queries: Sequence[Query],
        grammar: Grammar,
        rules: RolloutConfig,
        reward: RewardConfig,
        all_calls: bool = False,
    ) -> list[Episode]:
        """Let `actor` play one episode per query; return the scored episodes in order."""
        return score(rollout(actor, queries, self.memory, grammar, rules, all_calls), self.items, reward, grammar)


def with_tuned_weight(index: HybridIndex, texts: Sequence[str], queries: Sequence[Query]) -> HybridIndex:
    """Return an index over the same rows with the `bm25_weight` that is best for these queries' wishes.

    If BM25 alone is not worse by more than SLACK, it is preferred, and the index has no vectors: it is four times as
    fast. Without queries, return `index` itself.
    """
    if not queries:
        return index
    means = tune_weight((index, query.wish, [query.target]) for query in queries)
    best = max(means, key=lambda weight: (means[weight] + SLACK * (weight == 1), weight))
    if best == 1:
        space = TextSpace(replace(index.space.config, bm25_weight=1.0, dense="none"), index.space.stats, None)
        return HybridIndex(index.ids, texts, space)
    tuned = copy(index)
    tuned.space = replace(index.space, config=replace(index.space.config, bm25_weight=best))
    return tuned


def memory_settings(dataset: Dataset) -> tuple[Summarizer, MemoryConfig]:
    """Return the writer of a data set's memory and its settings: those of real histories, or of the synthetic shop.

    Real histories are thin: few records per category, ratings without reviews, one aspect that matters. So lines let
    several values compete, every aspect counts, and a parent category is judged by all purchases below it.
    """
    if dataset.synthetic:
        return ExtractiveSummarizer(), MemoryConfig()
    real = ExtractiveConfig(competing=2, attention=False, pooled=True)
    return ExtractiveSummarizer(real), MemoryConfig(times=True, line_words=16)


def item_text(item: Item) -> str:
    """Return an item's metadata as one text: title, category path, attributes, description."""
    attributes = (f"{aspect} {' '.join(values)}" for aspect, values in item.attributes.items())
    return " ".join([item.title, *item.category, *attributes, item.description])


def aspect_names(dataset: Dataset) -> list[str]:
    """Return the sorted names of all aspects, written as memory writes them."""
    items = list(dataset.items.values())
    reader = ItemReader.learn(items)
    return sorted({aspect for item in items for aspect, _ in reader.values_of(item)})
