"""Find the memories that an answer rests on: play the episode again without them, and compare keywords (Table 3).

Flow: after rollout. `Withheld` wraps a memory and hides some entries of a query's user; the wrapped memory does not
change. Play the greedy episode again with the `Withheld`. Then `effect` says what changed: the words of the profile,
the recommended items, the rank of the first item and of a known target, the searches.

Withholding is not deleting. If an entry is withheld, the next best one moves up (eq. 8 on the remaining entries) and
the others keep their order. If it is deleted, their order may change, because min-max fusion scales scores by the
smallest and the largest score of all rows. So withholding an entry that no search returned has no effect, and any
effect comes from what the entry says. Of several entries with the same text, a search can return only the first; if
that entry is withheld, no search returns the text.

Table 3 of the paper asks whether retrieved memory contributed to the profile (MPC) and to the right item (MRC), by
keyword overlap and by an LLM judge. Overlap shows only that the same words occur in both; the counterfactual shows
whether the memory caused them. Guessed, since the paper prints no formula: MPC and MRC are the share of retrieved
entries that have a keyword in common with the profile or the item. Words of the query do not count as keywords, because
they agree without any memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mrrec_mini.bm25 import words
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.hybrid import Hit, HybridIndex
from mrrec_mini.rollout import Searchable

FRAME = frozenset({"bought", "rated", "overall", *"12345"})  # words of every memory line
FUNCTION = frozenset(  # words that agree by chance
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "i", "in", "is", "it", "its"}
    | {"my", "not", "of", "on", "or", "so", "that", "the", "this", "to", "was", "with"}
)


@dataclass(frozen=True)
class Withheld:
    """A memory that hides some entries, which may differ between the queries of a batch."""

    memory: Searchable
    ids: Mapping[str, Collection[str]]  # id of a query -> ids of the entries hidden from its episode

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, searches: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        hidden = [self.ids.get(query.id, ()) for query, _ in searches]
        more = max(map(len, hidden), default=0)  # so many more entries are enough to fill all k places
        replies = self.memory.search_many(searches, k + more)
        return [
            tuple(entry for entry in entries if entry.id not in ids)[:k]
            for entries, ids in zip(replies, hidden, strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """What an episode leads to. Places count from 1, excluded items left out."""

    calls: tuple[str, ...]  # the search texts
    profile: str
    items: tuple[str, ...]  # ids of the k best items, best first
    first: str | None  # the item recommended first when nothing was withheld
    first_place: int | None  # None if nothing was recommended, before or after
    target: str | None  # an item that the caller watches
    target_place: int | None
    end: str  # "answer", or why the episode ended without one (then the query is the profile)


@dataclass(frozen=True)
class Effect:
    """What changes when some entries are hidden."""

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
    """What withholding these entries changes. `excluded`: items not to recommend; `target`: an item to watch.

    Raises ValueError for an unknown item.
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
    """The profile that the policy wrote, or the query if it did not answer."""
    return episode.answer.profile if episode.answer else episode.query.text


def best(items: HybridIndex, profile: str, k: int, excluded: Collection[str] = ()) -> list[Hit]:
    """Eq. (3) without the excluded items: the k best items for a profile, best first."""
    return [hit for hit in items.search(profile, k + len(excluded)) if hit.id not in excluded][:k]


def place(items: HybridIndex, profile: str, item: str, excluded: Collection[str] = ()) -> int:
    """The rank of an item for a profile, from 1, without the excluded items; the item itself always counts."""
    own, *ranks = items.ranks([profile] * (1 + len(excluded)), [item, *excluded])
    return int(own - sum(rank < own for rank in ranks))


def _swaps(lost: Sequence[str], gained: Sequence[str]) -> str:
    return " ".join([*(f"-{text}" for text in lost), *(f"+{text}" for text in gained)]) or "in another order"


def _more(these: Sequence[str], those: Sequence[str]) -> tuple[str, ...]:
    """What `these` has more often than `those`, in order."""
    return tuple((Counter(these) - Counter(those)).elements())


def contribution(entries: Sequence[MemoryEntry], query: str, text: str) -> float | None:
    """The share of retrieved entries with a keyword in common with `text`, in [0, 1]; None if nothing was retrieved.

    Table 3: it is MPC if the text is the profile, MRC if it is the right item's.
    """
    wanted = keywords(text, query)
    shared = [bool(keywords(entry.text) & wanted) for entry in entries]
    return sum(shared) / len(shared) if shared else None


def keywords(text: str, query: str = "") -> set[str]:
    """The words of a text without function words, words of every memory line, and words of the query."""
    return set(words(text)) - FRAME - FUNCTION - set(words(query))
