"""Everything an episode needs besides the policy: a data set, its memory and its item index.

Flow: joins the stages so far. `Environment.build` makes the memory and the item index of one data set; `play` lets an
actor write episodes for some queries, and scores them. Training may use several environments, evaluation uses one.

    i* -> top-k of the items by similarity of i* and the item's metadata                        Eq. (3)

is `items`, a `HybridIndex` over `item_text`. Global memory, text statistics and everything else that is learned see
train users only; the item pool is public. As in the paper, but both indexes are hybrid (BM25 + LSA), not dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Episode, Item, Query
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.memory import Memory, MemoryConfig, Summarizer, plain
from mrrec_mini.reward import RewardConfig, score
from mrrec_mini.rollout import Actor, RolloutConfig, rollout


@dataclass(frozen=True)
class Environment:
    """One data set, ready to play."""

    dataset: Dataset
    split: Split
    memory: Memory
    items: HybridIndex

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
        """Build memory from the train users of `split`, and the index of all items."""
        memory, hybrid = memory or MemoryConfig(), hybrid or HybridConfig()
        texts = [item_text(item) for item in dataset.items.values()]
        return cls(
            dataset,
            split,
            Memory.build(dataset, split.train, memory, summarizer, hybrid, rng),
            HybridIndex(list(dataset.items), texts, TextSpace.fit(texts, hybrid)),
        )

    def play(
        self,
        actor: Actor,
        queries: Sequence[Query],
        grammar: Grammar,
        rules: RolloutConfig,
        reward: RewardConfig,
        all_calls: bool = False,
    ) -> list[Episode]:
        """One scored episode per query, in order."""
        return score(rollout(actor, queries, self.memory, grammar, rules, all_calls), self.items, reward)


def item_text(item: Item) -> str:
    """An item's metadata as one text: title, category path, attributes, description."""
    attributes = (f"{aspect} {' '.join(values)}" for aspect, values in item.attributes.items())
    return " ".join([item.title, *item.category, *attributes, item.description])


def aspect_names(dataset: Dataset) -> list[str]:
    """The sorted names of all attributes, spelled as memory spells them."""
    return sorted({plain(name) for item in dataset.items.values() for name in item.attributes})
