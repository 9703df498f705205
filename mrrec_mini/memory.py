"""Hierarchical memory: records, preference patterns and a profile per user, and global aspects shared by all users.

Flow: `Memory.build` reads a `Dataset`; `rollout.py` queries the result (eq. 8); `store.py` saves its entries.

Equations: M_u = M(H_u) (eq. 1) is `local_entries`. A `Summarizer` derives patterns and profile (eq. 4, 5) from one
user's purchases, and global aspects (eq. 6) from the pairs of `sample_contrasts`. Eq. 8 is `Memory.search`.

Lines, one example per level:

    record     bought vel mug 2021q1 rated 5 price luxury: so lavish
    pattern    mug price luxury 2 2021q1
    profile    overall color red 5 2020q3
    profile    lately color blue 2 2021q1
    global     likely mug hiking price

A record states quarter, rating, the values for which the purchase speaks, and the first words of the review. A pattern
and an "overall" line state the value with the most evidence, the number of records behind it, and the quarter of the
latest of these. A "lately" line does the same for the value for which the latest record speaks. So what a person looks
up decides between the usual and the latest value. A global line states how certain it is, then category, use and
aspect. Without a use, it holds for all uses. Some lines are wrong, most often those with "maybe".

Departures from the paper: lines are short, lower-case and regular, one per category and aspect, because a policy of
0.1M parameters has to copy from them. Global memory is built from what train users bought before their first query, not
from the queries, so no target can leak into it.
Guessed: to find similar unchosen items, we draw random items of the category and keep those that share the most
attributes and title words (Jaccard) with the bought item. "Unchosen" means absent from this user's history. Only liked
purchases (rating above 3) are compared with unchosen items.

Privacy: every method that reads local memory takes a query and reads only the memory of the query's user. The keys of
caches contain the user. The text space only counts words and is fitted on train users. Titles and reviews are
untrusted: only their plain words are kept, so no tag or control character survives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

import numpy as np

from mrrec_mini.bm25 import MARKS, fold, words
from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Interaction, Item, MemoryEntry, Query
from mrrec_mini.dense import Vectors
from mrrec_mini.hybrid import Hit, HybridConfig, HybridIndex, TextSpace

OTHERS = "others"  # first word of a look-up that asks about other people, and of each line of the reply
TITLE = "title"  # names what such a line says if that is no value of an aspect
OVERALL, LATELY = "overall", "lately"  # heads of the lines of a profile: the most frequent, and the latest value
PLAIN_WORD = re.compile(r"L(?:'L)*".replace("L", rf"[^\W_]+(?:[{MARKS}][^\W_]*)*"))  # L: letters with their marks
ANSWERS = 100_000  # most answers that `Memory.search` keeps
# A word, a value or a line that fewer people have stands in no shared table. Of two people who share a word, each would
# know that the other has it. Five would cost the small shop ordinary words ("metal"); three cost it none.
PEOPLE = 3
LIKED = 3.0  # a rating above this means that the user liked the purchase


@dataclass(frozen=True)
class MemoryConfig:
    """Which levels are written, how long an entry is, and how much is sampled for the global memory."""

    levels: tuple[str, ...] = ("record", "pattern", "profile")  # levels of local memory in use (Table 2)
    title_words: int = 8  # most words of the title in a record
    review_words: int = 12  # most words of the review in a record
    line_words: int = 12  # most words in a pattern, profile or global line
    times: bool = False  # end each value with its number of records as x3, since a real value may end in a number
    min_users: int = PEOPLE  # a global aspect, or a word that the text space learns, needs at least this many users
    space_users: int = 2000  # at most so many train users' entries fit the text space: word counts change little then
    contrasts: int = 400  # most purchases sampled per scenario
    candidates: int = 16  # random items of the scenario drawn per purchase
    unchosen: int = 6  # most candidates kept per purchase: those most similar to the bought item


# --- what memory and its summariser exchange ------------------------------------------------------------------------


@dataclass(frozen=True)
class Purchase:
    """One interaction joined with its item."""

    record: str  # id of the memory entry for this purchase
    user: str
    item: Item
    rating: float  # 1 to 5
    review: str
    time: int = 0  # seconds since 1970; 0: unknown

    @property
    def scenario(self) -> str:
        return self.item.category[-1]


@dataclass(frozen=True)
class Preference:
    """A user prefers `value` of `aspect` in `scenario` ("": in all scenarios)."""

    scenario: str
    aspect: str
    value: str
    strength: float  # summed evidence, in the summariser's own unit; may be negative
    rests_on: tuple[str, ...]  # ids of the records that support it
    firm: bool = True  # False: too weak for its own line, but it counts towards the profile
    last: int = 0  # time of the latest of these records, in seconds since 1970; 0: unknown


@dataclass(frozen=True)
class Contrast:
    """A bought item i+ and similar unchosen items I- of its scenario (eq. 6)."""

    bought: Purchase
    unchosen: tuple[Item, ...]
    history: tuple[Purchase, ...]  # all purchases of this user, i+ included


@dataclass(frozen=True)
class Aspect:
    """The aspect `name` decides choices in `scenario`; the purchases of `users` show it."""

    scenario: str
    name: str
    users: frozenset[str]
    description: str = ""
    use: str = ""  # the use for which it decides; "": all uses
    certainty: str = ""  # a word that says how sure the summariser is; "": it does not say


class Summarizer(Protocol):
    """f_LLM of eq. 4-6: `summarize.py` counts, `summarize_lm.py` asks a language model."""

    def fit(self, purchases: Sequence[Purchase], uses: Sequence[str], items: Sequence[Item]) -> Summarizer:
        """Return a summariser that has learned from train users' `purchases` and from all `items`, which are public.

        `uses`: what people buy things for.
        """

    def informed(self, aspects: Sequence[Aspect]) -> Summarizer:
        """Return a summariser that knows which aspects decide in which scenario."""

    def telling(self, purchase: Purchase) -> list[tuple[str, str]]:
        """Return the (aspect, value) pairs of a purchase that its record states."""

    def patterns(self, purchases: Sequence[Purchase]) -> list[Preference]:
        """Eq. (4): return a user's preferences in one category, from the user's purchases in this category."""

    def profile(self, patterns: Sequence[Preference]) -> list[Preference]:
        """Eq. (5): return a user's preferences that hold over all categories, from all the user's patterns."""

    def aspects(self, contrasts: Sequence[Contrast]) -> list[Aspect]:
        """Eq. (6), prompt A: return the aspects that decided between the bought and the unchosen items."""

    def merge(self, aspects: Sequence[Aspect]) -> list[Aspect]:
        """Eq. (6), prompt B: return one aspect per meaning, with a name that is not specific to a product or a user."""


class OtherPeople(Protocol):
    """What other people took: see `others`."""

    def lines(self, query: Query, taken: Iterable[str]) -> list[MemoryEntry]:
        """Return all lines about the other people who took one of the items `taken`, best first."""

    def answer(self, query: Query, taken: Iterable[str], text: str, k: int) -> tuple[MemoryEntry, ...]:
        """Return at most k of these lines: those that match `text` best, best first."""


@lru_cache(maxsize=65_536)  # cached, because values and titles repeat
def plain(text: str, words: int | None = None) -> str:
    """Return the first `words` words, folded, no punctuation (inner ' stays): `<m1> Red-Mug` -> `m1 red mug`."""
    return " ".join(PLAIN_WORD.findall(fold(text))[:words])


def asks_others(text: str) -> bool:
    """Return whether a look-up asks about other people: its first word is `OTHERS`."""
    return plain(text).split()[:1] == [OTHERS]


SEPARATOR = re.compile(r"\s+[-–—|]+\s+|[()\[\]{}|]|[,:;](?:\s|$)")  # ends a segment of a title


def segments(title: str) -> list[str]:
    """Return the parts of a title, which separators divide, as the shop spells them; no part is blank."""
    return [part.strip() for part in SEPARATOR.split(title) if plain(part)]


def short_title(title: str, limit: int) -> str:
    """Return the first segments of a title that have at most `limit` words together; a longer first segment is cut."""
    words: list[str] = []
    for part in segments(title):
        if len(words) + len(more := plain(part).split()) > limit:
            break
        words += more
    return " ".join(words) or plain(title, limit)


def entry_id(*parts: object) -> str:
    """Percent-encode each part and join the parts by "/", so that no user name can produce another user's id."""
    return "/".join(quote(str(part), safe="") for part in parts)


def record_entry(purchase: Purchase, values: Iterable[tuple[str, str]], config: MemoryConfig) -> MemoryEntry:
    """Return the record of a purchase that states `values`: `bought vel mug 2021q1 rated 5 price luxury: so lavish`.

    With `times`, the values stand first, since a long line is cut: `bought price luxury x1 vel mug 2021q1 rated 5`.
    """
    title = [short_title(purchase.item.title, config.title_words), quarter(purchase.time)]
    title += ["rated", f"{purchase.rating:g}"]
    facts = [f"{aspect} {value}" + " x1" * config.times for aspect, value in values]
    text = " ".join(filter(None, ["bought", *(facts + title if config.times else title + facts)]))
    if review := plain(purchase.review, config.review_words):
        text = f"{text}: {review}"
    return MemoryEntry(purchase.record, purchase.user, "record", text, (purchase.record,), purchase.scenario, 1)


def preference_entries(user: str, preferences: Iterable[Preference], config: MemoryConfig) -> list[MemoryEntry]:
    """Return one self-contained entry per (scenario, aspect) with a firm preference, for `config.levels`.

    An entry rests on the records behind all values that it states.
    """
    groups: dict[tuple[str, str], list[Preference]] = {}
    for one in preferences:
        if ("pattern" if one.scenario else "profile") in config.levels:
            groups.setdefault((one.scenario, one.aspect), []).append(one)
    entries = []
    for (scenario, aspect), group in groups.items():
        firm = [one for one in group if one.firm]
        latest = max(group, key=lambda one: one.last)  # of several, the strongest
        if firm and scenario:
            entries.append(preference_entry(user, "pattern", scenario, aspect, firm, latest, config))
        elif firm:
            entries.append(preference_entry(user, "profile", OVERALL, aspect, firm, latest, config))
            entries.append(preference_entry(user, "profile", LATELY, aspect, [latest], latest, config))
    return entries


def preference_entry(
    user: str,
    level: str,
    head: str,
    aspect: str,
    group: Sequence[Preference],
    latest: Preference,
    config: MemoryConfig,
) -> MemoryEntry:
    """Return the entry `mug price luxury 2 2021q1`: the head, the aspect, each value with the number of its records.

    The last word is the quarter of the latest of these records, if it is known. With `times`, and if the line states
    several values, `latest` is marked if it is one of them: `mug price luxury x2 fair x1 latest 2021q1`.
    """
    rests_on = tuple(dict.fromkeys(record for one in group for record in one.rests_on))
    marked = latest if config.times and len(group) > 1 else None
    values = [f"{one.value} {'x' * config.times}{len(one.rests_on)}{' latest' * (one is marked)}" for one in group]
    text = plain(" ".join([head, aspect, *values, quarter(max(one.last for one in group))]), config.line_words)
    identity = entry_id(user, level, aspect) if head == OVERALL else entry_id(user, level, head, aspect)
    scenario = head if level == "pattern" else ""
    return MemoryEntry(identity, user, level, text, rests_on, scenario, len(rests_on))


def quarter(time: int) -> str:
    """Return the quarter of a time as one word, e.g. `2021q1`; "" if the time is 0 (unknown)."""
    day = datetime.fromtimestamp(time, UTC)
    return f"{day.year}q{(day.month + 2) // 3}" if time else ""


def patterns_by_category(purchases: Sequence[Purchase], summarizer: Summarizer) -> dict[str, list[Preference]]:
    """Return {category: its patterns, eq. (4)} for one user's purchases, in the order of the first purchases."""
    by_category: dict[str, list[Purchase]] = {}
    for purchase in purchases:
        by_category.setdefault(plain(purchase.scenario), []).append(purchase)
    return {category: summarizer.patterns(history) for category, history in by_category.items()}


def local_entries(purchases: Sequence[Purchase], summarizer: Summarizer, config: MemoryConfig) -> list[MemoryEntry]:
    """Eq. (1): return M_u from H_u (`purchases`, oldest first): profile lines, patterns, then records, latest first."""
    if not purchases:
        return []
    by_category = patterns_by_category(purchases, summarizer)
    patterns = [pattern for category in by_category.values() for pattern in category]
    entries = preference_entries(purchases[0].user, [*summarizer.profile(patterns), *patterns], config)
    latest_first = reversed(purchases) if "record" in config.levels else ()
    return entries + [record_entry(one, summarizer.telling(one), config) for one in latest_first]


def global_line(aspect: Aspect, config: MemoryConfig) -> MemoryEntry:
    """Return the global entry: `likely mug hiking price`, or `mug price: what a buyer is ready to pay`."""
    text = plain(f"{aspect.certainty} {aspect.scenario} {aspect.use} {aspect.name}")
    if description := plain(aspect.description, max(config.line_words - len(text.split()), 0)):
        text = f"{text}: {description}"
    place = filter(None, (aspect.scenario, aspect.use, aspect.name))
    identity = "@global/" + entry_id(*place)  # an encoded user name holds no "@"
    return MemoryEntry(identity, None, "global", text, (), aspect.scenario, len(aspect.users))


def features(item: Item) -> frozenset[str]:
    """Return the item's `aspect=value` pairs and title words, which `similarity` compares."""
    pairs = {f"{aspect}={value}" for aspect, values in item.attributes.items() for value in values}
    return frozenset(pairs | set(plain(item.title).split()))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard similarity, 0 to 1: shared features / all features of the two items."""
    return len(one & other) / max(len(one | other), 1)


def sample_contrasts(
    histories: Sequence[tuple[Purchase, ...]], items: Iterable[Item], config: MemoryConfig, rng: np.random.Generator
) -> list[Contrast]:
    """Sample liked purchases (i+) in each scenario and pair each with similar items that its user never bought (I-).

    Compares at most `contrasts` x `candidates` pairs of items per scenario, however many items the scenario has.
    """
    # 1. Group all items, and all liked purchases with their user's history, by scenario.
    items_in_stock: dict[str, list[Item]] = {}
    for item in items:
        items_in_stock.setdefault(item.category[-1], []).append(item)
    liked: dict[str, list[tuple[Purchase, tuple[Purchase, ...]]]] = {}
    for history in histories:
        for purchase in history:
            if purchase.rating > LIKED:
                liked.setdefault(purchase.scenario, []).append((purchase, history))
    contrasts = []
    for scenario, pool in liked.items():
        # 2. Draw purchases (without replacement) and candidate items for each (with replacement).
        chosen = rng.permutation(len(pool))[: config.contrasts]
        stock = items_in_stock[scenario]
        draws = rng.integers(len(stock), size=(len(chosen), config.candidates))  # (contrasts, candidates)
        known = {stock[i].id: features(stock[i]) for i in np.unique(draws)}
        for (purchase, history), drawn in zip((pool[number] for number in chosen), draws, strict=True):
            # 3. Drop the candidates that the user bought at any time.
            owned = {other.item.id for other in history}
            others = {stock[i].id: stock[i] for i in drawn if stock[i].id not in owned}
            # 4. Keep the most similar ones. A purchase with no candidate left is skipped.
            bought = features(purchase.item)
            shared = {identity: similarity(bought, known[identity]) for identity in others}
            if nearest := sorted(shared, key=shared.__getitem__, reverse=True)[: config.unchosen]:
                contrasts.append(Contrast(purchase, tuple(map(others.__getitem__, nearest)), history))
    return contrasts


class EntryIndex:
    """Searchable entries. If several have the same text, only the first is found: duplicates would waste results."""

    def __init__(self, entries: Sequence[MemoryEntry], space: TextSpace, vectors: Vectors | None = None) -> None:
        """Index `entries`. `vectors` are their saved vectors, in the same order; None: compute them."""
        self.entries = tuple(entries)
        first: dict[str, int] = {}  # text -> place of its first entry
        for place, entry in enumerate(entries):
            first.setdefault(entry.text, place)
        self._by_id = {entries[place].id: entries[place] for place in first.values()}
        if vectors is not None:
            vectors = Vectors(vectors.values[list(first.values())], vectors.embedder_id)
        self.index = HybridIndex(list(self._by_id), list(first), space, vectors) if first else None

    def find(self, text: str, k: int) -> tuple[tuple[MemoryEntry, Hit], ...]:
        """Return the k entries that match `text` best, with their scores, best first; () for a blank text."""
        if self.index is None or k <= 0 or not text.strip():
            return ()
        return tuple((self._by_id[hit.id], hit) for hit in self.index.search(text, k))

    def search(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        """Return the entries of `find`, without the scores."""
        return tuple(entry for entry, _ in self.find(text, k))


@dataclass
class Memory:
    """The global memory, and the local memory of each query's user at the time of the query."""

    dataset: Dataset
    config: MemoryConfig
    summarizer: Summarizer
    space: TextSpace
    global_entries: tuple[MemoryEntry, ...]
    train_users: frozenset[str]  # the global memory and the text space are learned from these users only
    others: OtherPeople | None = None  # answers look-ups that begin with `OTHERS`; None: own memory answers them too

    def __post_init__(self) -> None:
        self.global_index = EntryIndex(self.global_entries, self.space)
        self._indexes: dict[tuple[str, int], EntryIndex] = {}  # by user and query time
        self._answers: dict[tuple, tuple[MemoryEntry, ...]] = {}  # by user, query time, text, k, wish

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
        """Learn global memory and text space from the train users' histories. Local memories are built when needed."""
        train_users = frozenset(train_users)
        # 1. Take the train users' purchases before their first query; they contain no target.
        histories = train_histories(dataset, train_users)
        # 2. Let the summariser learn how people write.
        purchases = [purchase for history in histories for purchase in history]
        summarizer = summarizer.fit(purchases, dataset.meta.get("uses", ()), list(dataset.items.values()))
        # 3. Eq. 6: find the aspects that decide between bought and unchosen items. Local memory counts only these.
        contrasts = sample_contrasts(histories, dataset.items.values(), config, rng)
        aspects = global_aspects(summarizer, contrasts, config)
        summarizer, shared = summarizer.informed(aspects), tuple(global_line(aspect, config) for aspect in aspects)
        # 4. Eq. 1, 4, 5: write train users' entries; fit the text space to their common words and the global lines.
        sample = histories[:: -(-len(histories) // config.space_users) or 1]
        local = [[entry.text for entry in local_entries(history, summarizer, config)] for history in sample]
        texts = common_words(local, config.min_users) + [entry.text for entry in shared]
        space = TextSpace.fit(texts, hybrid_config)
        return cls(dataset, config, summarizer, space, shared, train_users)

    def local(self, query: Query) -> EntryIndex:
        """Return M_u of the query's user, from interactions strictly before the query; empty for a new user."""
        key = (query.user, query.time)
        if key not in self._indexes:
            purchases = join(self.dataset, self.dataset.history(query))
            self._indexes[key] = EntryIndex(local_entries(purchases, self.summarizer, self.config), self.space)
        return self._indexes[key]

    def entries(self, query: Query) -> tuple[MemoryEntry, ...]:
        """Return all local entries of the query's user at the time of the query."""
        return self.local(query).entries

    def search(self, query: Query, text: str, k: int = 3) -> tuple[MemoryEntry, ...]:
        """Eq. (8), the memory tool: return the k entries of the query's user that match `text` best, best first.

        If `text` begins with the word `OTHERS`, the entries are lines about other people instead. Answers are cached,
        because the G episodes of a group often search for the same text.
        """
        about_others = self.others is not None and asks_others(text)
        key = (query.user, query.time, text, k, query.wish if about_others else None)
        if key not in self._answers:
            if len(self._answers) >= ANSWERS:
                self._answers.clear()
            if about_others:
                self._answers[key] = self.others.answer(query, self._taken(query), text, k)
            else:
                self._answers[key] = self.local(query).search(text, k)
        return self._answers[key]

    def others_lines(self, query: Query) -> list[MemoryEntry]:
        """Return all lines about other people that a look-up of this query can find, best first."""
        return self.others.lines(query, self._taken(query)) if self.others else []

    def _taken(self, query: Query) -> list[str]:
        return [taken.item for taken in self.dataset.history(query)]

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int = 3) -> list[tuple[MemoryEntry, ...]]:
        """Return the result of `search` for each (query, text)."""
        return [self.search(query, text, k) for query, text in asked]

    def search_global(self, text: str, k: int = 5) -> tuple[MemoryEntry, ...]:
        """Return the k global entries that match `text` best, best first."""
        return self.global_index.search(text, k)


def join(dataset: Dataset, history: Sequence[Interaction]) -> tuple[Purchase, ...]:
    """Join each interaction of `history` (oldest first) with its item. A record's id contains its place there."""
    return tuple(
        Purchase(entry_id(who, "record", place), who, dataset.items[one.item], one.rating, one.review, one.time)
        for place, one in enumerate(history)
        for who in [one.user]
    )


def train_histories(dataset: Dataset, users: Iterable[str]) -> list[tuple[Purchase, ...]]:
    """Return each user's purchases before their first query, so without targets. Leaves out users without purchases."""
    first: dict[str, float] = dict.fromkeys(users, np.inf)  # time of each user's first query
    for query in dataset.queries_of(first):
        first[query.user] = min(query.time, first[query.user])
    visible = ([one for one in dataset.interactions_of(user) if one.time < first[user]] for user in sorted(first))
    return [join(dataset, history) for history in visible if history]


def common_words(texts_by_user: Sequence[Sequence[str]], min_users: int) -> list[str]:
    """Return all users' texts with only the words of at least `min_users` users, so that no word belongs to one."""
    users = Counter(word for texts in texts_by_user for word in {word for text in texts for word in words(text)})
    return [" ".join(w for w in words(text) if users[w] >= min_users) for texts in texts_by_user for text in texts]


def global_aspects(summarizer: Summarizer, contrasts: Sequence[Contrast], config: MemoryConfig) -> list[Aspect]:
    """Eq. (6): return the canonical aspects that at least `min_users` users support.

    They are sorted by scenario and use; of one use, the best supported aspect comes first.
    """
    merged = summarizer.merge(summarizer.aspects(contrasts)) if contrasts else []
    supported = [aspect for aspect in merged if len(aspect.users) >= config.min_users]
    return sorted(supported, key=lambda aspect: (aspect.scenario, aspect.use, -len(aspect.users), aspect.name))
