"""The thing a user holds: a trained run that recommends, remembers, explains, and forgets.

Flow: use. `Assistant.open` makes a run's environment and policy again and opens its memory store (`RUN/memory.db`, made
from the run's data set when it is first asked for). `recommend` plays one greedy episode for a wish that has no target
and searches the items with the profile that the policy wrote (eq. 2 and 3); `remember` adds what somebody did;
`explain` plays the episode again without each memory that it looked up and says what is otherwise.

As of now: a user's whole history is visible, items that were met before are not recommended again. A user nobody
knows gets an answer from the query alone, with the reason beside it; so does a query on which the policy broke off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mrrec_mini.app.counterfactual import Effect, Withheld, best, effect, profile_of
from mrrec_mini.chat_grammar import ask_model, grammar_of
from mrrec_mini.data import Dataset, shorten
from mrrec_mini.datatypes import Episode, Item, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import EntryIndex, Memory, MemoryConfig, Summarizer
from mrrec_mini.recipe import Recipe, Say, load_chat_model, prepare, quiet, read_config
from mrrec_mini.rollout import LMActor, Searchable, rollout
from mrrec_mini.store import Store, build_store, require_text
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.summarize_lm import LMSummarizer, Recorded
from mrrec_mini.train import load_policy

FOREVER = 2**62  # later than every interaction
STORE = "memory.db"  # in a run folder


@dataclass(frozen=True)
class Recommendation:
    """What was said, what it rests on, and what fits."""

    user: str
    query: str
    transcript: tuple[tuple[str, str], ...]  # ("shown" | "policy", text), in order
    memories: tuple[MemoryEntry, ...]  # those the policy names as evidence
    profile: str
    items: tuple[tuple[Item, float], ...]  # best first, with the score of the hybrid index
    reason: str  # what is missing: memories, an answer of the policy, items that fit; "" where all is there

    def as_dict(self) -> dict:
        return {
            "user": self.user,
            "query": self.query,
            "transcript": [{"by": who, "text": text} for who, text in self.transcript],
            "memories": [_told(entry) for entry in self.memories],
            "profile": self.profile,
            "items": [{**asdict(item), "score": score} for item, score in self.items],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Reason:
    """An entry of the user's memory, and what is otherwise without it."""

    entry: MemoryEntry
    evidence: bool  # named by the policy, and not only looked up
    without: Effect

    def as_dict(self) -> dict:
        return {**_told(self.entry), "evidence": self.evidence, "without": self.without.as_dict()}


@dataclass(frozen=True)
class Explanation:
    """An answer, and what it rests on."""

    answer: Recommendation
    reasons: tuple[Reason, ...]  # every entry that was looked up, in the order in which the policy saw them
    together: Effect | None  # without all of them; None: nothing was looked up
    control: Reason | None  # an entry that was not looked up, which changes nothing; None: there is no such entry

    def as_dict(self) -> dict:
        return {
            "answer": self.answer.as_dict(),
            "memories": [reason.as_dict() for reason in self.reasons],
            "together": self.together and self.together.as_dict(),
            "control": self.control and self.control.as_dict(),
        }


class StoredMemory:
    """A store as an episode asks it: everything that its user has, as it stood when it was first asked for."""

    def __init__(self, store: Store):
        self.store = store
        self._indexes: dict[str | None, EntryIndex] = {}  # None: the global memory's

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self._index(None).search_many([text], k)[0]

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        return [self._index(query.user).search_many([text], k)[0] for query, text in asked]

    def entries(self, user: str) -> tuple[MemoryEntry, ...]:
        """In the order in which they came."""
        return self._index(user).entries

    def _index(self, user: str | None) -> EntryIndex:
        if user not in self._indexes:
            self._indexes[user] = (self.store if user is None else self.store.for_user(user)).entry_index()
        return self._indexes[user]


@dataclass(frozen=True)
class Assistant:
    """A policy, the items, and what is remembered of people."""

    environment: Environment
    store: Store
    model: object
    grammar: Grammar
    recipe: Recipe

    @classmethod
    def open(cls, run: Path, store: Path | None = None, warn: Callable[[str], None] = warnings.warn) -> Assistant:
        """The assistant of a run folder, with its own store or another; `warn` is told of damaged checkpoints that
        were passed over. FileNotFoundError where there is no run, no checkpoint, or no such store.
        """
        recipe, seed, dataset = read_config(run)
        model, tokenizer = load_policy(run, warn)
        environment = prepare(dataset, without_siblings(recipe), seed)[0]
        if store is None and not (run / STORE).exists():
            build_store(run / STORE, dataset, environment.memory)
        return cls(environment, Store.open(store or run / STORE), model, grammar_of(tokenizer), recipe)

    def remember(self, user: str, item: str, rating: float, review: str = "") -> MemoryEntry:
        """That this user met an item: its record, and what follows from it for the category and the profile.

        LookupError for an item that is not there; DataError for a rating that is none.
        """
        return self.store.for_user(user).remember(self._item(item), rating, review)

    def recommend(self, user: str, text: str, k: int = 5) -> Recommendation:
        """k items for a wish of this user, who may be new. DataError for an empty wish or user name."""
        query, memory = (
            as_of_now(require_text(user, "the user"), require_text(text, "the query")),
            StoredMemory(self.store),
        )
        return self._recommendation(self._play(query, memory), memory, self._met(user), k)

    def explain(self, user: str, text: str, k: int = 5, target: str | None = None) -> Explanation:
        """What `recommend` answers, and what each memory behind it does: the same episode without it.

        Nothing is written: an entry is withheld from the episode, not deleted (see `counterfactual`). All is played on
        the memory as it is now, whoever writes meanwhile. `target`: an item whose place is watched too. LookupError
        for a target that is not there; DataError as in `recommend`.
        """
        query, memory = (
            as_of_now(require_text(user, "the user"), require_text(text, "the query")),
            StoredMemory(self.store),
        )
        if target is not None:
            self._item(target)
        met, episode = self._met(user), self._play(query, memory)

        def without(*ids: str) -> Effect:
            # one at a time: in a batch the last digits of a row could depend on the others
            other = self._play(query, Withheld(memory, {query.id: ids}))
            return effect(self.environment.items, episode, other, ids, k, met, target)

        answer = self._recommendation(episode, memory, met, k)
        looked_up = {entry.id: entry for call in episode.calls for entry in call.entries}
        named = {entry.id for entry in answer.memories}
        untouched = next((entry for entry in memory.entries(user) if entry.id not in looked_up), None)
        return Explanation(
            answer,
            tuple(Reason(entry, entry.id in named, without(entry.id)) for entry in looked_up.values()),
            without(*looked_up) if looked_up else None,
            untouched and Reason(untouched, False, without(untouched.id)),
        )

    def _play(self, query: Query, memory: Searchable) -> Episode:
        """One greedy episode."""
        actor = LMActor(self.model, self.grammar, temperature=0.0)
        return rollout(actor, [query], memory, self.grammar, self.recipe.train.rules)[0]

    def _recommendation(self, episode: Episode, memory: StoredMemory, met: set[str], k: int) -> Recommendation:
        user, seen = episode.query.user, {entry.id: entry for call in episode.calls for entry in call.entries}
        profile, evidence, broken = profile_of(episode), (), ""
        if episode.answer is None:
            broken = f"the policy broke off ({episode.end}), so the query is the profile"
        else:
            evidence = episode.answer.evidence
        items = self._best_items(met, profile, k)
        reasons = [
            "" if memory.entries(user) else "nothing is remembered of this user",
            broken,
            "" if items else "no item shares anything with the profile",
        ]
        return Recommendation(
            user,
            episode.query.text,
            tuple(self.grammar.transcript(episode.tokens, episode.mask)),
            tuple(seen[identity] for identity in evidence),
            profile,
            items,
            "; ".join(filter(None, reasons)),
        )

    def _met(self, user: str) -> set[str]:
        """Items that this user had, of those that there are: a store may come from another shop."""
        return {one.item.id for one in self.store.for_user(user).purchases()} & self.environment.dataset.items.keys()

    def _item(self, identity: str) -> Item:
        if identity not in self.environment.dataset.items:
            raise LookupError(f"no item {shorten(identity)} in this data set; the ids stand in items.jsonl")
        return self.environment.dataset.items[identity]

    def _best_items(self, met: set[str], profile: str, k: int) -> tuple[tuple[Item, float], ...]:
        hits = best(self.environment.items, profile, k, met)
        return tuple((self.environment.dataset.items[hit.id], hit.score) for hit in hits)


def _told(entry: MemoryEntry) -> dict:
    return {"id": entry.id, "text": entry.text, "level": entry.level, "rests_on": list(entry.rests_on)}


def without_siblings(recipe: Recipe) -> Recipe:
    """The recipe without sibling shops: they are needed for training only."""
    return replace(recipe, siblings=0)


def as_of_now(user: str, text: str = "") -> Query:
    """A wish of this user that sees the whole history."""
    return Query("now", user, text, target="", time=FOREVER)


def open_memory(data: Path, seed: int, summarizer: Summarizer | None = None) -> Memory:
    """The memory of a data-set folder, built from the train users of this seed's split; extractive if not told."""
    dataset = Dataset.load(data)
    users = dataset.split(seed, *Recipe().shares).train
    writer = summarizer or ExtractiveSummarizer()
    return Memory.build(dataset, users, MemoryConfig(), writer, HybridConfig(), memory_draws(seed))


def memory_draws(seed: int) -> np.random.Generator:
    """What a memory is built with, and its global part rebuilt: of one seed the same draws."""
    return np.random.default_rng([seed, 1])


def make_store(data: Path, path: Path, seed: int, model: str | None = None, say: Say = quiet) -> dict:
    """A store of a data-set folder; what it holds and what it cost.

    `model`: a chat model, from a folder or by its hub name, that writes the summaries (eq. 4-6) in place of the
    extractive writer. Its answers are kept beside the store until that is whole, so what was stopped goes on.
    """
    answers, writer = path.with_name(f"{path.name}.answers.jsonl"), None
    if model is not None:
        writer = LMSummarizer(Recorded(ask_model(*load_chat_model(model)), answers))
    memory = open_memory(data, seed, writer)
    counts = build_store(path, memory.dataset, memory, progress=lambda done, total: say("users", done, total, ""))
    found: dict = {"summarizer": model or "extractive", "entries": counts}
    if writer is not None:
        answers.unlink(missing_ok=True)  # they are about people, and forgetting does not reach them
        found |= {"calls": writer.generate.calls, "reused": writer.generate.reused, "dropped": dict(writer.dropped)}
    return found


def rebuild_global(path: Path, seed: int, data: Path | None) -> tuple[MemoryEntry, ...]:
    """The global memory of a store made anew, and what it holds then; unchosen items are those of a data-set folder,
    or, without one, what training users bought."""
    with Store.open(path) as store:
        items = Dataset.load(data).items.values() if data else ()
        return store.rebuild_global(memory_draws(seed), items)
