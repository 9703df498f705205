"""What an answer rests on: the same greedy episode without a memory, and Table 3's overlap of keywords beside it.

Flow: after rollout. `Withheld` stands between an episode and any memory and passes over some entries of a query's user;
play the episode again with it, and `effect` says what is otherwise: the words of the profile, the items of the list,
the place of the first one and of a known target, the searches. The memory itself is never changed.

Withheld is not deleted: the next best entry takes the place (eq. 8 on what is left), and the others keep their order.
In an index that was made anew they would not: min-max scales each list by its extremes over all rows, so a row that
goes away moves the scores of rows that have nothing to do with it. As it is, an entry that no search returned has no
effect at all, and what has one has it by what it says. Of entries with the same text a search returns one; where that
one is withheld, so is the text.

Table 3 of the paper asks of retrieved memory whether it contributed to the profile (MPC) and to the right item (MRC),
by overlap of keywords and by a judge. Overlap says that words agree, not that one came from the other: that is what the
counterfactual is for. Guessed: the share of retrieved entries with a keyword in common, since the paper prints no
formula; words of the query are no keywords, for they agree without any memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mrrec_mini.bm25 import words
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.hybrid import Hit, HybridIndex
from mrrec_mini.rollout import Searchable

FRAME = frozenset({"bought", "rated", "overall", *"12345"})  # stands in memory lines whatever they say
FUNCTION = frozenset(  # words that agree by chance
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "i", "in", "is", "it", "its"}
    | {"my", "not", "of", "on", "or", "so", "that", "the", "this", "to", "was", "with"}
)


@dataclass(frozen=True)
class Withheld:
    """A memory whose tool passes over some entries, each query's own; many variants are one batch of a rollout."""

    memory: Searchable
    ids: Mapping[str, Collection[str]]  # id of a query -> the entries that its episode is not to see

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        gone = [self.ids.get(query.id, ()) for query, _ in asked]
        more = max(map(len, gone), default=0)  # so many places at most become free
        found = self.memory.search_many(asked, k + more)
        return [
            tuple(entry for entry in entries if entry.id not in ids)[:k]
            for entries, ids in zip(found, gone, strict=True)
        ]


# --- what an episode led to, and what is otherwise ------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What an episode led to."""

    calls: tuple[str, ...]  # what the policy searched for
    profile: str
    items: tuple[str, ...]  # ids of the k that fit best and were not met, best first
    first: str | None  # the item that was recommended first before anything was withheld
    first_place: int | None  # from 1, among what was not met; None: nothing fits, now or then
    target: str | None  # an item that the caller watches
    target_place: int | None
    end: str  # "answer", or why the episode ended without one: then the query is the profile


@dataclass(frozen=True)
class Effect:
    """What is otherwise where some entries are withheld."""

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
        """In one line, for people."""
        if not self.changed:
            return "nothing changes"
        was, now = self.before, self.after
        said = []
        if was.profile != now.profile:
            swapped = [f"-{word}" for word in self.words_lost] + [f"+{word}" for word in self.words_gained]
            said.append(f"profile {' '.join(swapped) or 'in another order'}")
        if was.items != now.items:
            swapped = [f"-{item}" for item in self.items_out] + [f"+{item}" for item in self.items_in]
            said.append(f"list {' '.join(swapped) or 'in another order'}")
        for item, old, new in dict.fromkeys(  # the first one may be the target
            [(was.first, was.first_place, now.first_place), (was.target, was.target_place, now.target_place)]
        ):
            if old != new:
                said.append(f"{item} from place {old} to {new or 'none'}")
        if was.calls != now.calls:
            said.append(f"searches {'; '.join(now.calls) or 'none'}")
        if was.end != now.end:
            said.append(f"the episode ends: {now.end}")
        return ", ".join(said)


def effect(
    items: HybridIndex,
    before: Episode,
    after: Episode,
    withheld: Iterable[str],
    k: int,
    met: Collection[str] = (),
    target: str | None = None,
) -> Effect:
    """What came of withholding these entries. `met`: items that are not recommended; `target`: an item to watch."""
    was = outcome(items, before, k, met, target)
    return Effect(tuple(withheld), was, outcome(items, after, k, met, target, was.first))


def outcome(
    items: HybridIndex,
    episode: Episode,
    k: int,
    met: Collection[str] = (),
    target: str | None = None,
    first: str | None = None,
) -> Outcome:
    """`first`: the item to watch; None: the one that this episode recommends first. ValueError for an unknown item."""
    profile = profile_of(episode)
    fit = tuple(hit.id for hit in best(items, profile, k, met))
    first = first or (fit[0] if fit else None)
    return Outcome(
        tuple(call.text for call in episode.calls),
        profile,
        fit,
        first,
        place(items, profile, first, met) if first and fit else None,
        target,
        place(items, profile, target, met) if target else None,
        episode.end,
    )


def profile_of(episode: Episode) -> str:
    """The profile that the policy wrote; where it broke off, the query."""
    return episode.answer.profile if episode.answer else episode.query.text


def best(items: HybridIndex, profile: str, k: int, met: Collection[str] = ()) -> list[Hit]:
    """Eq. (3) without what was met: the k best, best first."""
    return [hit for hit in items.search(profile, k + len(met)) if hit.id not in met][:k]


def place(items: HybridIndex, profile: str, item: str, met: Collection[str] = ()) -> int:
    """Where an item stands for a profile, from 1, among what was not met; the item itself counts in any case."""
    own, *ranks = items.ranks([profile] * (1 + len(met)), [item, *met])
    return int(own - sum(rank < own for rank in ranks))


def _more(these: Sequence[str], those: Sequence[str]) -> tuple[str, ...]:
    """What is in `these` more often than in `those`, in order."""
    return tuple((Counter(these) - Counter(those)).elements())


# --- Table 3 --------------------------------------------------------------------------------------------------------


def profile_contribution(entries: Sequence[MemoryEntry], query: str, profile: str) -> float | None:
    """MPC by keywords: the share of retrieved entries that have one in common with the profile.   Table 3"""
    return _sharing(entries, query, profile)


def item_contribution(entries: Sequence[MemoryEntry], query: str, item_text: str) -> float | None:
    """MRC by keywords: the share of retrieved entries that have one in common with the right item.   Table 3"""
    return _sharing(entries, query, item_text)


def keywords(text: str, query: str = "") -> set[str]:
    """Words that say something, and that the query did not say already."""
    return set(words(text)) - FRAME - FUNCTION - set(words(query))


def _sharing(entries: Sequence[MemoryEntry], query: str, text: str) -> float | None:
    """None where nothing was retrieved: there is nothing that could have contributed."""
    wanted = keywords(text, query)
    shared = [bool(keywords(entry.text) & wanted) for entry in entries]
    return sum(shared) / len(shared) if shared else None
