"""The assistant of a trained run: it recommends items, remembers purchases, and explains its answers.

Flow: after training. `Assistant.open` opens a run: its environment, policy and memory store. `recommend` plays one
greedy episode for a query without a target, and searches the items with the profile that the policy wrote (eq. 2, 3).
`remember` adds a purchase. `explain` plays the episode again without each looked-up memory and shows what changes.

An answer says twice why: `because` says from which memory each word of the profile was copied (`evidence.copied_from`),
and `cited` says which memories the policy claims to have used. The two can differ, because citing may be untrained.

A query sees the user's whole history, and items that the user owns are not recommended. If the user is unknown, there
is no local memory. If the policy breaks off, the query text is the profile. `reason` tells both. Equations: none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from mrrec_mini.app.counterfactual import Effect, Withheld, best, effect, profile_of
from mrrec_mini.chat_grammar import ask_model, grammar_of
from mrrec_mini.data import Dataset, shorten
from mrrec_mini.datatypes import Episode, Item, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.evidence import Copied, copied_from
from mrrec_mini.files import locked
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import EntryIndex, Memory, MemoryConfig, OtherPeople, asks_others
from mrrec_mini.prior import Prior
from mrrec_mini.recipe import Recipe, Say, load_chat_model, quiet
from mrrec_mini.rollout import LMActor, Searchable, rollout
from mrrec_mini.run import Run, Warn
from mrrec_mini.store import Store, build_store, require_no_file, require_text
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.summarize_lm import LMSummarizer, Recorded


@dataclass(frozen=True)
class Recommendation:
    """An answer: what the policy wrote, the memories it copied from and cites, and the items that fit the profile."""

    user: str
    query: str
    transcript: tuple[tuple[str, str], ...]  # ("shown" | "policy", text), in order
    because: tuple[Copied, ...]  # the profile's words that the query does not hold, in order, with their sources
    cited: tuple[MemoryEntry, ...]  # the memories that the policy cites
    profile: str
    items: tuple[tuple[Item, float], ...]  # (item, its score in the item index), best first
    reason: str  # says what is missing: memories, an answer, fitting items; "" if nothing is missing

    def because_lines(self) -> list[str]:
        """Return `style classic <- MEMORY` per source, and one line of the words that are not from memory."""
        invented = ", ".join(text for text, entry in self.because if entry is None)
        lines = [f"{text} <- {entry_line(entry)}" for text, entry in self.because if entry]
        return lines + ([f"not from memory: {invented}"] if invented else []) or ["nothing is copied from memory"]

    def cited_lines(self) -> list[str]:
        return [entry_line(entry) for entry in self.cited] or ["nothing"]

    def as_dict(self) -> dict:
        return {
            **vars(self),
            "transcript": [{"by": writer, "text": text} for writer, text in self.transcript],
            "because": [_copied_dict(one) for one in self.because],
            "cited": [_entry_dict(entry) for entry in self.cited],
            "items": [{**asdict(item), "score": score} for item, score in self.items],
        }


@dataclass(frozen=True)
class Reason:
    """One entry of the user's memory, and what changes in the answer without this entry."""

    entry: MemoryEntry
    copied: tuple[str, ...]  # the words of the profile that were copied from the entry
    cited: bool  # whether the policy cites the entry
    without: Effect

    def as_dict(self) -> dict:
        claims = {"copied": list(self.copied), "cited": self.cited}
        return {**_entry_dict(self.entry), **claims, "without": self.without.as_dict()}


@dataclass(frozen=True)
class Explanation:
    """An answer, and how the answer changes without the memories that the policy looked up."""

    answer: Recommendation
    reasons: tuple[Reason, ...]  # one per entry that was looked up, in the order in which the policy saw the entries
    together: Effect | None  # without all these entries; None if nothing was looked up
    control: Reason | None  # an entry that was not looked up, so nothing should change; None: no such entry

    def as_dict(self) -> dict:
        return {
            "answer": self.answer.as_dict(),
            "memories": [reason.as_dict() for reason in self.reasons],
            "together": self.together and self.together.as_dict(),
            "control": self.control and self.control.as_dict(),
        }


class StoredMemory:
    """Makes a store the memory of episodes. The entries of a user are read once, at the first search.

    `others` makes what answers look-ups about other people, at the first of them; None: own entries answer these too.
    """

    def __init__(self, store: Store, others: Callable[[], OtherPeople] | None = None):
        self.store = store
        self.others = others and cache(others)
        self._indexes: dict[str | None, EntryIndex] = {}  # by user; None: the global memory

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self._index(None).search(text, k)

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        return [self._search(query, text, k) for query, text in asked]

    def entries(self, user: str) -> tuple[MemoryEntry, ...]:
        """A user's entries, oldest first."""
        return self._index(user).entries

    def _search(self, query: Query, text: str, k: int) -> tuple[MemoryEntry, ...]:
        if self.others and asks_others(text):
            return self.others().answer(query, self.store.for_user(query.user).bought(), text, k)
        return self._index(query.user).search(text, k)

    def _index(self, user: str | None) -> EntryIndex:
        if user not in self._indexes:
            self._indexes[user] = (self.store if user is None else self.store.for_user(user)).entry_index()
        return self._indexes[user]


@dataclass(frozen=True)
class Assistant:
    """A policy, the items it recommends, and the memory store of the users."""

    environment: Environment
    store: Store
    model: object
    grammar: Grammar
    recipe: Recipe

    @classmethod
    def open(cls, folder: Path, store: Path | None = None, warn: Warn = warnings.warn) -> Assistant:
        """Open the assistant of a run folder. `store`: the file of a memory store; None: the run's own store.

        Raises FileNotFoundError if the run, its checkpoint or the store does not exist, DataError if one is damaged.
        """
        run = Run(folder)
        recipe, environment = run.config.recipe, run.environment()
        model, tokenizer = run.policy(warn)
        opened = Store.open(store or run.memory(environment))
        return cls(environment, opened, model, grammar_of(tokenizer), recipe)

    def remember(self, user: str, item: str, rating: float, review: str = "") -> MemoryEntry:
        """Record that this user bought an item, and write the summary of its category and the profile again.

        Raises LookupError for an unknown item, DataError for a rating outside 1 to 5.
        """
        return self.store.for_user(user).remember(self._item(item), rating, review)

    def recommend(self, user: str, text: str, k: int = 5) -> Recommendation:
        """Return the k best items for a query of a user, who may be new. Raises DataError for a blank query or user."""
        query, memory, owned = self._asked(user, text)
        return self._recommendation(self._play(query, memory), memory, owned, k)

    def explain(self, user: str, text: str, k: int = 5, target: str | None = None) -> Explanation:
        """Return the answer of `recommend`, and what changes without each memory that the policy looked up.

        Nothing is written: an entry is hidden from the episode, not deleted (see `counterfactual`). All episodes use
        the memory as it is at the start. `target`: id of an item whose rank is reported too. Raises LookupError if the
        target is unknown, and DataError for a blank query or user.
        """
        query, memory, owned = self._asked(user, text)
        if target is not None:
            self._item(target)
        episode = self._play(query, memory)

        def without(*ids: str) -> Effect:
            # one episode at a time: in a batch, the last digits of one row could depend on the other rows
            other = self._play(query, Withheld(memory, {query.id: ids}))
            return effect(self.environment.items, episode, other, ids, k, owned, target)

        answer = self._recommendation(episode, memory, owned, k)
        looked_up = {entry.id: entry for call in episode.calls for entry in call.entries}
        control = next((entry for entry in memory.entries(query.user) if entry.id not in looked_up), None)

        def reason(entry: MemoryEntry) -> Reason:
            copied = tuple(one.text for one in answer.because if one.entry == entry)
            return Reason(entry, copied, entry in answer.cited, without(entry.id))

        return Explanation(
            answer,
            tuple(map(reason, looked_up.values())),
            without(*looked_up) if looked_up else None,
            control and reason(control),
        )

    def _asked(self, user: str, text: str) -> tuple[Query, StoredMemory, set[str]]:
        """Return the query, the memory to search, and the ids of the items of this data set that the user bought."""
        query = as_of_now(require_text(user, "the user"), require_text(text, "the query"))
        if any(asked.phrase is not None for asked in self.environment.dataset.queries):
            query = replace(query, phrase=text)  # the policy learned that the search adds the phrase itself
        bought = self.store.for_user(user).bought()
        others = self._other_people if self.environment.memory.others else None
        return query, StoredMemory(self.store, others), bought & self.environment.dataset.items.keys()

    def _other_people(self) -> OtherPeople:
        """Return what answers look-ups about other people: it counts what the store has not forgotten or deleted."""
        dataset = self.environment.dataset
        people = self.environment.split.train & self.store.train_users()
        known = {user: self.store.for_user(user).bought() for user in people}
        kept = [one for one in dataset.interactions if one.item in known.get(one.user, ())]
        return self.environment.memory.others.counting(Prior(replace(dataset, interactions=kept), people))

    def _play(self, query: Query, memory: Searchable) -> Episode:
        """Play one greedy episode."""
        actor = LMActor(self.model, self.grammar, temperature=0.0)
        return rollout(actor, [query], memory, self.grammar, self.recipe.train.rules)[0]

    def _recommendation(self, episode: Episode, memory: StoredMemory, owned: set[str], k: int) -> Recommendation:
        user, profile, answer = episode.query.user, profile_of(episode), episode.answer
        seen = {entry.id: entry for call in episode.calls for entry in call.entries}
        hits = best(self.environment.items, profile, k, owned)
        reasons = [
            "" if memory.entries(user) else "nothing is remembered of this user",
            "" if answer else f"the policy broke off ({episode.end}), so the query is the profile",
            "" if hits else "no item shares anything with the profile",
        ]
        return Recommendation(
            user,
            episode.query.text,
            tuple(self.grammar.transcript(episode.tokens, episode.mask)),
            tuple(copied_from(episode, self.grammar)),
            tuple(seen[identity] for identity in answer.evidence) if answer else (),
            profile,
            tuple((self.environment.dataset.items[hit.id], hit.score) for hit in hits),
            "; ".join(filter(None, reasons)),
        )

    def _item(self, identity: str) -> Item:
        if identity not in self.environment.dataset.items:
            raise LookupError(f"no item {shorten(identity)} in this data set; the ids are in items.jsonl")
        return self.environment.dataset.items[identity]


def entry_line(entry: MemoryEntry) -> str:
    """Return a memory as a person sees it: `overall style classic [u000003/profile/style]`."""
    return f"{entry.text} [{entry.id}]"


def _copied_dict(copied: Copied) -> dict:
    entry = copied.entry
    return {"text": copied.text, "id": entry and entry.id, "memory": entry and entry.text}


def _entry_dict(entry: MemoryEntry) -> dict:
    return {"id": entry.id, "text": entry.text, "level": entry.level, "rests_on": list(entry.rests_on)}


def as_of_now(user: str, text: str = "") -> Query:
    """Return a query of this user that sees the user's whole history."""
    return Query("now", user, text, target="", time=2**62)  # later than every interaction


def memory_draws(seed: int) -> np.random.Generator:
    """Return the random generator that builds a memory or rebuilds the global memory."""
    return np.random.default_rng([seed, 1])


def make_store(data: Path, path: Path, seed: int, model: str | None = None, say: Say = quiet) -> dict:
    """Build the memory store `path` of all users of a data-set folder; return counts of what was written.

    Global memory is learned from the train users; `seed` splits the users. `model`: folder or hub name of a chat model
    that writes the summaries (eq. 4-6) instead of the extractive writer. Until the store is complete, the model's
    answers are kept in a file next to the store, so that after an interruption the next build reuses them.
    Raises ValueError if the file exists already, OSError if another process builds this store.
    """
    require_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"is building {path.name}; wait until it ends, or choose another file"
    with locked(path.with_name(f".{path.name}.building"), refusal):
        return _make_store(data, path, seed, model, say)


def _make_store(data: Path, path: Path, seed: int, model: str | None, say: Say) -> dict:
    answers, writer = path.with_name(f"{path.name}.answers.jsonl"), ExtractiveSummarizer()
    if model is not None:
        writer = LMSummarizer(Recorded(ask_model(*load_chat_model(model)), answers))
    dataset = Dataset.load(data)
    users = dataset.split(seed, *Recipe().shares).train
    memory = Memory.build(dataset, users, MemoryConfig(), writer, HybridConfig(), memory_draws(seed))
    counts = build_store(path, dataset, memory, progress=lambda done, total: say("users", done, total, ""))
    found: dict = {"summarizer": model or "extractive", "entries": counts}
    answers.unlink(missing_ok=True)  # the answers are about people, and `forget` would not delete this file
    if model is not None:
        found |= {"calls": writer.generate.calls, "reused": writer.generate.reused, "dropped": dict(writer.dropped)}
    return found


def rebuild_global(path: Path, seed: int, data: Path | None) -> tuple[MemoryEntry, ...]:
    """Build the global memory of a store again; return its entries. `data`: a data-set folder of items on offer."""
    with Store.open(path) as store:
        items = Dataset.load(data).items.values() if data else ()
        return store.rebuild_global(memory_draws(seed), items)
