"""Hierarchical memory: behaviour records, preference patterns and a profile for each user, and shared global aspects.

Flow: reads a `Dataset`; `rollout.py` asks it by `search` (eq. 8) and `search_global`; `store.py` keeps its entries.

Equations: M_u = M(H_u) (eq. 1) is `local_entries`; patterns, profile (eq. 4, 5) and global aspects (eq. 6) are written
by the `Summarizer` handed in, from what `local_entries` and `sample_contrasts` prepare; eq. 8 is `Memory.search`.

Departures from the paper: lines are short, lower-case and regular (`mug price luxury`, `overall price midrange`), one
for each (category, aspect), because the policy is a model of 0.1M parameters that has to copy from them. Global memory
is made from what train users bought before their first query, not from the queries: no target can leak into it.
Guessed: similar items are those that share most attributes and title words (Jaccard) among a few random ones of the
category; "unchosen" means not in this user's history; a purchase is contrasted only if it was liked (rating above 3).

Private: every local read names its query, hence its user; caches are keyed by user; the text space, which only counts
words, is fitted on train users. Titles and reviews are untrusted: they enter as plain words, so no tag or control
character survives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

import numpy as np

from mrrec_mini.bm25 import words
from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Interaction, Item, MemoryEntry, Query
from mrrec_mini.dense import Vectors
from mrrec_mini.hybrid import Hit, HybridConfig, HybridIndex, TextSpace

LIKED = 3.0  # ratings above this say that the purchase was right


@dataclass(frozen=True)
class MemoryConfig:
    """What is written, how long a line is, and how much is sampled for the global memory."""

    levels: tuple[str, ...] = ("record", "pattern", "profile")  # levels of local memory in use (Table 2)
    title_words: int = 8  # of a record
    review_words: int = 12  # of a record
    line_words: int = 12  # at most, of a pattern, a profile or a global line
    min_users: int = 3  # a global aspect, and a word's weight, is kept only when so many users stand behind it
    contrasts: int = 400  # purchases sampled for each scenario
    candidates: int = 16  # random items of the scenario, of which ...
    unchosen: int = 6  # ... so many most similar ones are contrasted with the bought item


# --- what memory and its summariser say to each other ---------------------------------------------------------------


@dataclass(frozen=True)
class Purchase:
    """One element of a history, joined with its item; `record` is the id of its behaviour record."""

    record: str
    user: str
    item: Item
    rating: float
    review: str

    @property
    def scenario(self) -> str:
        return self.item.category[-1]


@dataclass(frozen=True)
class Preference:
    """A user prefers `value` of `aspect` in `scenario` ("": everywhere)."""

    scenario: str
    aspect: str
    value: str
    strength: float  # summed evidence, in the summariser's own unit; may be negative
    rests_on: tuple[str, ...]  # ids of the records that speak for it
    firm: bool = True  # False: too weak for a line of its own, but it counts towards the profile


@dataclass(frozen=True)
class Contrast:
    """A bought item i+ and similar unchosen items I- of its scenario (eq. 6)."""

    bought: Purchase
    unchosen: tuple[Item, ...]
    history: tuple[Purchase, ...]  # everything that this user bought, i+ included


@dataclass(frozen=True)
class Aspect:
    """`name` decides in `scenario`, as the purchases of `users` show."""

    scenario: str
    name: str
    users: frozenset[str]
    description: str = ""


class Summarizer(Protocol):
    """f_LLM of eq. 4-6. `summarize.py` has an extractive one and one that asks a language model."""

    def fit(self, purchases: Sequence[Purchase]) -> Summarizer:
        """A summariser that has read the train users' purchases."""

    def patterns(self, purchases: Sequence[Purchase]) -> list[Preference]:
        """Eq. (4): preferences in one category from one user's purchases there."""

    def profile(self, patterns: Sequence[Preference]) -> list[Preference]:
        """Eq. (5): preferences everywhere from all patterns of one user."""

    def aspects(self, contrasts: Sequence[Contrast]) -> list[Aspect]:
        """Eq. (6), prompt A: what decided between the bought and the unchosen items."""

    def merge(self, aspects: Sequence[Aspect]) -> list[Aspect]:
        """Eq. (6), prompt B: one canonical name an aspect, nothing specific to a product or a user."""


# --- lines ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65_536)  # values and titles recur
def plain(text: str, words: int | None = None) -> str:
    """The first `words` words, lower-case, no punctuation but inner apostrophes: `<mem> Red-Mug` -> `mem red mug`."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())[:words])


def entry_id(*parts: object) -> str:
    """Parts joined by "/", each percent-encoded, so that no odd user name can take another one's id."""
    return "/".join(quote(str(part), safe="") for part in parts)


def record_entry(purchase: Purchase, config: MemoryConfig) -> MemoryEntry:
    """A behaviour record: `bought vel mug rated 5: love that it is luxury`."""
    text = f"bought {plain(purchase.item.title, config.title_words)} rated {purchase.rating:g}"
    if review := plain(purchase.review, config.review_words):
        text = f"{text}: {review}"
    return MemoryEntry(purchase.record, purchase.user, "record", text, (purchase.record,), purchase.scenario, 1)


def preference_entries(user: str, preferences: Iterable[Preference], config: MemoryConfig) -> list[MemoryEntry]:
    """One short, self-contained line for each (scenario, aspect): `mug price luxury`, `overall price midrange`."""
    chunks: dict[tuple[str, str], list[Preference]] = {}
    for preference in preferences:
        if preference.firm:
            chunks.setdefault((preference.scenario, preference.aspect), []).append(preference)
    entries = []
    for (scenario, aspect), chunk in chunks.items():
        level = "pattern" if scenario else "profile"
        words = [scenario or "overall", aspect, *(preference.value for preference in chunk)]
        rests_on = tuple(dict.fromkeys(record for preference in chunk for record in preference.rests_on))
        identity = entry_id(user, level, scenario, aspect) if scenario else entry_id(user, level, aspect)
        text = plain(" ".join(words), config.line_words)
        entries.append(MemoryEntry(identity, user, level, text, rests_on, scenario, len(rests_on)))
    return entries


def patterns_by_category(purchases: Sequence[Purchase], summarizer: Summarizer) -> dict[str, list[Preference]]:
    """Eq. (4) for each category of one user's history, in the order in which they were first bought from."""
    by_category: dict[str, list[Purchase]] = {}
    for purchase in purchases:
        by_category.setdefault(plain(purchase.scenario), []).append(purchase)
    return {category: summarizer.patterns(history) for category, history in by_category.items()}


def local_entries(purchases: Sequence[Purchase], summarizer: Summarizer, config: MemoryConfig) -> list[MemoryEntry]:
    """Eq. (1): M_u, the entries of one user from H_u (oldest first), coarse levels first, latest record first."""
    if not purchases:
        return []
    patterns = [one for those in patterns_by_category(purchases, summarizer).values() for one in those]
    user = purchases[0].user
    entries = {
        "profile": preference_entries(user, summarizer.profile(patterns), config),
        "pattern": preference_entries(user, patterns, config),
        "record": [record_entry(purchase, config) for purchase in reversed(purchases)],
    }
    return [entry for level, lines in entries.items() if level in config.levels for entry in lines]


def global_line(aspect: Aspect, config: MemoryConfig) -> MemoryEntry:
    """`mug price`; with a description, where the summariser gives one: `mug price: what a buyer is ready to pay`."""
    text = plain(f"{aspect.scenario} {aspect.name}")
    if description := plain(aspect.description, max(config.line_words - len(text.split()), 0)):
        text = f"{text}: {description}"
    identity = "@global/" + entry_id(aspect.scenario, aspect.name)  # an encoded user name holds no "@"
    return MemoryEntry(identity, None, "global", text, (), aspect.scenario, len(aspect.users))


# --- contrasts ------------------------------------------------------------------------------------------------------


def features(item: Item) -> frozenset[str]:
    """What similarity is measured on: (aspect, value) pairs and title words."""
    pairs = {f"{aspect}={value}" for aspect, values in item.attributes.items() for value in values}
    return frozenset(pairs | set(plain(item.title).split()))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard: shared features / all features, 0 to 1."""
    return len(one & other) / max(len(one | other), 1)


def sample_contrasts(
    histories: Sequence[tuple[Purchase, ...]], items: Iterable[Item], config: MemoryConfig, rng: np.random.Generator
) -> list[Contrast]:
    """For each scenario, liked purchases i+ with the most similar of some random items that the user did not buy, I-.

    Costs contrasts x candidates comparisons for each scenario, however many items it has.
    """
    stock: dict[str, list[Item]] = {}
    for item in items:
        stock.setdefault(item.category[-1], []).append(item)
    liked: dict[str, list[tuple[Purchase, tuple[Purchase, ...]]]] = {}
    for history in histories:
        for purchase in history:
            if purchase.rating > LIKED:
                liked.setdefault(purchase.scenario, []).append((purchase, history))
    known: dict[str, frozenset[str]] = {}  # features by item id

    def seen(item: Item) -> frozenset[str]:
        if item.id not in known:
            known[item.id] = features(item)
        return known[item.id]

    contrasts = []
    for scenario, pool in liked.items():
        chosen = rng.permutation(len(pool))[: config.contrasts]
        shelf = stock[scenario]
        draws = rng.integers(len(shelf), size=(len(chosen), config.candidates))  # (contrasts, candidates)
        for number, drawn in zip(chosen, draws, strict=True):
            purchase, history = pool[number]
            owned = {other.item.id for other in history}
            others = {shelf[i].id: shelf[i] for i in drawn if shelf[i].id not in owned}
            shared = {identity: similarity(seen(purchase.item), seen(item)) for identity, item in others.items()}
            if nearest := sorted(shared, key=shared.__getitem__, reverse=True)[: config.unchosen]:
                contrasts.append(Contrast(purchase, tuple(others[identity] for identity in nearest), history))
    return contrasts


# --- the memory -----------------------------------------------------------------------------------------------------


class EntryIndex:
    """Entries behind one hybrid index. Of entries with equal text only the first can be found: a near-duplicate in the
    top 3 would waste a place."""

    def __init__(self, entries: Sequence[MemoryEntry], space: TextSpace, vectors: Vectors | None = None) -> None:
        """`vectors`: those of the entries, in their order, where they are kept; else they are made."""
        self.entries = tuple(entries)
        first: dict[str, int] = {}
        for place, entry in enumerate(entries):
            first.setdefault(entry.text, place)
        self._by_id = {entries[place].id: entries[place] for place in first.values()}
        if vectors is not None:
            vectors = Vectors(vectors.values[list(first.values())], vectors.embedder_id)
        self.index = HybridIndex(list(self._by_id), list(first), space, vectors) if first else None

    def found_by_text(self, texts: Collection[str]) -> tuple[MemoryEntry, ...]:
        """The entries with these texts that can be found; of equal ones, one."""
        return tuple(entry for entry in self._by_id.values() if entry.text in texts)

    def find_many(self, texts: Sequence[str], k: int) -> list[tuple[tuple[MemoryEntry, Hit], ...]]:
        """For each text its k best entries with their scores, best first; () when nothing is there or asked."""
        asked = [text for text in texts if text.strip()]
        if self.index is None or not asked or k <= 0:
            return [()] * len(texts)
        found = iter(self.index.search_many(asked, k))
        return [tuple((self._by_id[h.id], h) for h in next(found)) if text.strip() else () for text in texts]

    def search_many(self, texts: Sequence[str], k: int) -> list[tuple[MemoryEntry, ...]]:
        """The entries of `find_many`."""
        return [tuple(entry for entry, _ in found) for found in self.find_many(texts, k)]


@dataclass
class Memory:
    """Global memory, and the local memory of whoever asks, as of the time of the query."""

    dataset: Dataset
    config: MemoryConfig
    summarizer: Summarizer
    space: TextSpace
    global_entries: tuple[MemoryEntry, ...]
    train_users: frozenset[str]  # whose behaviour taught the global memory and the text space
    _global: EntryIndex = field(init=False, repr=False)
    _shelves: dict[tuple[str, int], EntryIndex] = field(default_factory=dict, init=False, repr=False)
    _found: dict[tuple, tuple[MemoryEntry, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._global = EntryIndex(self.global_entries, self.space)

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        train_users: Iterable[str],
        config: MemoryConfig,
        summarizer: Summarizer,
        hybrid_config: HybridConfig,
        rng: np.random.Generator,
    ) -> Memory:
        """Global memory and text space from the train users' histories; local memories are made when asked for."""
        train_users = frozenset(train_users)
        histories = train_histories(dataset, train_users)
        summarizer = summarizer.fit([purchase for history in histories for purchase in history])
        contrasts = sample_contrasts(histories, dataset.items.values(), config, rng)
        shared = global_entries(summarizer, contrasts, config)
        said = [[entry.text for entry in local_entries(history, summarizer, config)] for history in histories]
        texts = common_words(said, config.min_users) + [entry.text for entry in shared]
        space = TextSpace.fit(texts, hybrid_config)
        return cls(dataset, config, summarizer, space, shared, train_users)

    def local(self, query: Query) -> EntryIndex:
        """M_u of the query's own user from what lies strictly before the query; () for a new user."""
        history = self.dataset.history(query)
        key = (query.user, len(history))
        if key not in self._shelves:
            purchases = join(self.dataset, history)
            self._shelves[key] = EntryIndex(local_entries(purchases, self.summarizer, self.config), self.space)
        return self._shelves[key]

    def entries(self, query: Query) -> tuple[MemoryEntry, ...]:
        """All that this user's memory holds at the query."""
        return self.local(query).entries

    def search(self, query: Query, text: str, k: int = 3) -> tuple[MemoryEntry, ...]:
        """Eq. (8): the memory tool. The k entries of the query's own user that fit `text` best, best first."""
        return self.search_many([(query, text)], k)[0]

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int = 3) -> list[tuple[MemoryEntry, ...]]:
        """`search` for many at once. Answers are kept, for the G episodes of a group ask the same things."""
        keys = [(query.user, len(self.dataset.history(query)), text, k) for query, text in asked]
        missing: dict[tuple[str, int], dict[str, Query]] = {}
        for key, (query, text) in zip(keys, asked, strict=True):
            if key not in self._found:
                missing.setdefault(key[:2], {})[text] = query
        for owner, texts in missing.items():
            shelf = self.local(next(iter(texts.values())))
            for text, entries in zip(texts, shelf.search_many(list(texts), k), strict=True):
                self._found[(*owner, text, k)] = entries
        return [self._found[key] for key in keys]

    def search_global(self, text: str, k: int = 5) -> tuple[MemoryEntry, ...]:
        """The k global entries that fit `text` best, best first."""
        return tuple(entry for entry, _ in self.find_global(text, k))

    def find_global(self, text: str, k: int) -> tuple[tuple[MemoryEntry, Hit], ...]:
        """The same with their scores."""
        return self._global.find_many([text], k)[0]


def join(dataset: Dataset, history: Sequence[Interaction]) -> tuple[Purchase, ...]:
    """A history, oldest first, with its items. A record's id is its place in the history: later ones change nothing."""
    return tuple(
        Purchase(entry_id(met.user, "record", place), met.user, dataset.items[met.item], met.rating, met.review)
        for place, met in enumerate(history)
    )


def train_histories(dataset: Dataset, users: Iterable[str]) -> list[tuple[Purchase, ...]]:
    """What each user did before the first of the own queries: no target is in it. Users without any are left out."""
    wanted = frozenset(users)
    first: dict[str, int] = {}
    for query in dataset.queries_of(wanted):
        first[query.user] = min(query.time, first.get(query.user, query.time))
    histories = []
    for user in sorted(wanted):
        visible = [met for met in dataset.interactions_of(user) if user not in first or met.time < first[user]]
        if visible:
            histories.append(join(dataset, visible))
    return histories


def common_words(said: Sequence[Sequence[str]], min_users: int) -> list[str]:
    """All texts of all users, `said` by user, with only those words that at least `min_users` of them use.

    What is fitted on them stays when a user is forgotten, so it must not hold anybody's own words.
    """
    users = Counter(word for texts in said for word in {word for text in texts for word in words(text)})
    return [" ".join(w for w in words(text) if users[w] >= min_users) for texts in said for text in texts]


def global_entries(
    summarizer: Summarizer, contrasts: Sequence[Contrast], config: MemoryConfig
) -> tuple[MemoryEntry, ...]:
    """Eq. (6): the canonical aspects that at least `min_users` users support."""
    merged = summarizer.merge(summarizer.aspects(contrasts)) if contrasts else []
    supported = sorted(
        (aspect for aspect in merged if len(aspect.users) >= config.min_users),
        key=lambda aspect: (aspect.scenario, -len(aspect.users), aspect.name),
    )
    return tuple(global_line(aspect, config) for aspect in supported)
