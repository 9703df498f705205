"""Find the memories that changed an answer: play the episode again without them, and compare keywords (Table 3).

Flow: after rollout. `Withheld` wraps a memory and hides (withholds) some entries from the episode of a query; the
wrapped memory does not change. The caller plays the greedy episode again with `Withheld` as its memory. Then `effect`
says what changed: the profile's words, the recommended items, the ranks of the first item and a target, the searches.

Withholding differs from deleting. If an entry is withheld, the entry after it moves up (eq. 8 on the remaining entries)
and all others keep their order. If an entry is deleted, the order of the others may change, because min-max fusion
scales by the smallest and the largest score of all rows. So withholding an entry that no search returned has no effect,
and any effect comes from the text of the entry. Of entries with equal text, a search returns only the first; if
the first entry is withheld, no search returns the text.

Table 3 of the paper asks whether retrieved memory contributed to the profile (MPC) and to the right item (MRC). The
paper uses keyword overlap and an LLM judge. Overlap shows only that two texts share words; playing the episode again
shows whether the memory is their cause. Guessed, since the paper prints no formula: MPC is the share of retrieved
entries that share a keyword with the profile; MRC, with the right item. Words of the query are no keywords, because the
profile and the item may contain them without any memory.

Items are ranked by text alone, as by the reward of every run: `ItemIndex.weights` are 0 there. The prior of a table is
tuned for each arm when the arm is evaluated, and is part of no run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mrrec_mini.bm25 import words
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.hybrid import Hit, HybridIndex
from mrrec_mini.rollout import Searchable
from mrrec_mini.scripts import TIMES

FRAME = frozenset({"bought", "rated", "overall", "lately", "latest", *"12345"})  # words of memory lines, not of values
FUNCTION = frozenset(  # frequent words, which two texts share by chance
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "i", "in", "is", "it", "its"}
    | {"my", "not", "of", "on", "or", "so", "that", "the", "this", "to", "was", "with"}
)


@dataclass(frozen=True)
class Withheld:
    """A memory that hides some entries. Each query of a batch may have its own hidden entries."""

    memory: Searchable
    ids: Mapping[str, Collection[str]]  # id of a query -> ids of the entries hidden from its episode

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, searches: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        hidden = [self.ids.get(query.id, ()) for query, _ in searches]
        more = max(map(len, hidden), default=0)  # with so many more entries, at least k are left after hiding
        replies = self.memory.search_many(searches, k + more)
        return [
            tuple(entry for entry in entries if entry.id not in ids)[:k]
            for entries, ids in zip(replies, hidden, strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """The result of an episode. A place is a rank from 1 that does not count the excluded items."""

    calls: tuple[str, ...]  # the search texts
    profile: str
    items: tuple[str, ...]  # ids of the k best items, best first
    first: str | None  # id of the best item when nothing is withheld
    first_place: int | None  # None if this episode recommends no item
    target: str | None  # id of an item whose place the caller wants to know
    target_place: int | None
    end: str  # "answer", or why there is no answer (then `profile` is the query text)


@dataclass(frozen=True)
class Effect:
    """The outcomes of an episode with and without some entries, and the changes between them."""

    withheld: tuple[str, ...]
    before: Outcome
    after: Outcome

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def words_lost(self) -> tuple[str, ...]:
        return _more(words(self.before.profile), words(self.after.profile))

    @property
    def words_gained(self) -> tuple[str, ...]:
        return _more(words(self.after.profile), words(self.before.profile))

    @property
    def items_out(self) -> tuple[str, ...]:
        return _more(self.before.items, self.after.items)

    @property
    def items_in(self) -> tuple[str, ...]:
        return _more(self.after.items, self.before.items)

    def as_dict(self) -> dict:
        changes = ("changed", "words_lost", "words_gained", "items_out", "items_in")
        return {
            "withheld": list(self.withheld),
            **{name: getattr(self, name) for name in changes},
            "profile_changed": self.before.profile != self.after.profile,
            "calls_changed": self.before.calls != self.after.calls,
            "before": asdict(self.before),
            "after": asdict(self.after),
        }

    def __str__(self) -> str:
        if not self.changed:
            return "nothing changes"
        was, now, parts = self.before, self.after, []
        if was.profile != now.profile:
            parts.append(f"profile {_swaps(self.words_lost, self.words_gained)}")
        if was.items != now.items:
            parts.append(f"list {_swaps(self.items_out, self.items_in)}")
        first = (was.first, was.first_place, now.first_place)
        target = (was.target, was.target_place, now.target_place)
        for item, old, new in dict.fromkeys([first, target]):  # once, if the first item is the target
            if old != new:
                parts.append(f"{item} from place {old} to {new or 'none'}")
        if was.calls != now.calls:
            parts.append(f"searches {'; '.join(now.calls) or 'none'}")
        if was.end != now.end:
            parts.append(f"the episode ends: {now.end}")
        return ", ".join(parts)


def effect(
    items: HybridIndex,
    before: Episode,
    after: Episode,
    withheld: Iterable[str],
    k: int,
    excluded: Collection[str] = (),
    target: str | None = None,
) -> Effect:
    """Compare the episode `before` with the episode `after`, which was played without the entries `withheld`.

    `k` items are recommended, none of them in `excluded`; `target` is an item whose place is reported. Raises
    ValueError for an unknown item.
    """

    def outcome(episode: Episode, first: str | None = None) -> Outcome:
        profile = profile_of(episode)
        fit = tuple(hit.id for hit in best(items, profile, k, excluded))
        first = first or (fit[0] if fit else None)
        return Outcome(
            tuple(call.text for call in episode.calls),
            profile,
            fit,
            first,
            place(items, profile, first, excluded) if first and fit else None,
            target,
            place(items, profile, target, excluded) if target else None,
            episode.end,
        )

    was = outcome(before)
    return Effect(tuple(withheld), was, outcome(after, was.first))


def profile_of(episode: Episode) -> str:
    """Return the text that items are searched with: the policy's profile, after the phrase of the query, if it has one.

    If the policy did not answer, the wish of the query.
    """
    return episode.query.searched(episode.answer.profile) if episode.answer else episode.query.wish


def best(items: HybridIndex, profile: str, k: int, excluded: Collection[str] = ()) -> list[Hit]:
    """Return the k best items for a profile, best first, without the excluded items. Eq. (3)."""
    return [hit for hit in items.search(profile, k + len(excluded)) if hit.id not in excluded][:k]


def place(items: HybridIndex, profile: str, item: str, excluded: Collection[str] = ()) -> int:
    """Return the rank of an item for a profile, from 1. Excluded items do not count, except `item` itself."""
    own, *ranks = items.ranks([profile] * (1 + len(excluded)), [item, *excluded])
    return int(own - sum(rank < own for rank in ranks))


def _swaps(lost: Sequence[str], gained: Sequence[str]) -> str:
    return " ".join([*(f"-{text}" for text in lost), *(f"+{text}" for text in gained)]) or "in another order"


def _more(these: Sequence[str], those: Sequence[str]) -> tuple[str, ...]:
    """Return the texts that `these` contains more often than `those`, in the order of `these`."""
    return tuple((Counter(these) - Counter(those)).elements())


def contribution(entries: Sequence[MemoryEntry], query: str, text: str) -> float | None:
    """Return the share of retrieved entries that share a keyword with `text`, in [0, 1]; None if there are no entries.

    Table 3: the share is MPC if `text` is the profile, and MRC if `text` is the text of the right item.
    """
    wanted = keywords(text, query)
    shared = [bool(keywords(entry.text) & wanted) for entry in entries]
    return sum(shared) / len(shared) if shared else None


def keywords(text: str, query: str = "") -> set[str]:
    """Return the words of a text, except counts (x3), the words in `FUNCTION`, in `FRAME` and in the query."""
    found = set(words(text)) - FRAME - FUNCTION - set(words(query))
    return {word for word in found if not TIMES.fullmatch(word)}
