"""The thing a user holds: a trained run that recommends, and the memory that it looks things up in.

Flow: use. `Assistant.open` makes a run's environment and policy again; `recommend` plays one greedy episode for a
wish that has no target and searches the items with the profile that the policy wrote (eq. 2 and 3).

As of now: a user's whole history is visible, items that were met before are not recommended again. A user nobody
knows gets an answer from the query alone, with the reason beside it; so does a query on which the policy broke off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mrrec_mini.chat import grammar_of
from mrrec_mini.data import DataError, Dataset, shown
from mrrec_mini.environment import Environment
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.prompts import Grammar
from mrrec_mini.recipe import Recipe, prepare, read_config
from mrrec_mini.records import Item, MemoryEntry, Query
from mrrec_mini.rollout import LMActor, rollout
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.train import load_policy

FOREVER = 2**62  # later than every interaction


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
            "memories": [
                {"id": e.id, "text": e.text, "level": e.level, "rests_on": list(e.rests_on)} for e in self.memories
            ],
            "profile": self.profile,
            "items": [{**asdict(item), "score": score} for item, score in self.items],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Assistant:
    """A policy in its environment."""

    environment: Environment
    model: object
    grammar: Grammar
    recipe: Recipe

    @classmethod
    def open(cls, run: Path, warn: Callable[[str], None] = warnings.warn) -> Assistant:
        """The assistant of a run folder; `warn` is told of damaged checkpoints that were passed over.
        FileNotFoundError where there is no run or no checkpoint.
        """
        recipe, seed, dataset = read_config(run)
        model, tokenizer = load_policy(run, warn)
        environment = prepare(dataset, alone(recipe), seed)[0]
        return cls(environment, model, grammar_of(tokenizer), recipe)

    def recommend(self, user: str, text: str, k: int = 5) -> Recommendation:
        """k items for a wish of this user, who may be new. DataError for an empty wish or user name."""
        query = as_of_now(said(user, "the user"), said(text, "the query"))
        actor = LMActor(self.model, self.grammar, temperature=0.0)
        episode = rollout(actor, [query], self.environment.memory, self.grammar, self.recipe.train.rules)[0]
        seen = {entry.id: entry for call in episode.calls for entry in call.entries}
        if episode.answer is None:
            profile, evidence = text, ()
            reason = f"the policy broke off ({episode.end}), so the query is the profile"
        else:
            profile, evidence, reason = episode.answer.profile, episode.answer.evidence, ""
        items = self._best_items(query, profile, k)
        reasons = [
            "" if self.environment.memory.entries(query) else "nothing is remembered of this user",
            reason,
            "" if items else "no item shares anything with the profile",
        ]
        return Recommendation(
            user,
            text,
            tuple(self.grammar.transcript(episode.tokens, episode.mask)),
            tuple(seen[identity] for identity in evidence),
            profile,
            items,
            "; ".join(filter(None, reasons)),
        )

    def _best_items(self, query: Query, profile: str, k: int) -> tuple[tuple[Item, float], ...]:
        met = {interaction.item for interaction in self.environment.dataset.history(query)}
        hits = self.environment.items.search(profile, k + len(met))
        fresh = [(self.environment.dataset.items[hit.id], hit.score) for hit in hits if hit.id not in met]
        return tuple(fresh[:k])


def alone(recipe: Recipe) -> Recipe:
    """The recipe without sibling shops: they are needed for training only."""
    return replace(recipe, siblings=0)


def as_of_now(user: str, text: str = "") -> Query:
    """A wish of this user that sees the whole history."""
    return Query("now", user, text, target="", time=FOREVER)


def said(text: str, what: str) -> str:
    """`text`, unless it is blank: DataError."""
    if not text.strip():
        raise DataError(f"{what} is empty; give at least one word")
    return text


def open_memory(data: Path, seed: int) -> Memory:
    """The memory of a data-set folder, built from the train users of this seed's split."""
    dataset = Dataset.load(data)
    users = dataset.split(seed, *Recipe().shares).train
    rng = np.random.default_rng([seed, 1])
    return Memory.build(dataset, users, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(), rng)


def all_entries(memory: Memory) -> list[MemoryEntry]:
    """Everybody's entries as of now, then the global ones."""
    local = [entry for user in memory.dataset.users() for entry in memory.entries(as_of_now(user))]
    return [*local, *memory.global_entries]


def entries_of(memory: Memory, user: str) -> tuple[MemoryEntry, ...]:
    """One user's entries as of now. LookupError for a user who is not in the data set."""
    return memory.entries(as_of_now(known(memory.dataset, user)))


def search_entries(memory: Memory, user: str, text: str, k: int) -> tuple[MemoryEntry, ...]:
    """The k entries of one user that fit `text` best (eq. 8). LookupError as above; DataError for a blank text."""
    return memory.search(as_of_now(known(memory.dataset, user)), said(text, "the text to look for"), k)


def known(dataset: Dataset, user: str) -> str:
    """`user`, unless nobody of that name bought or asked for anything: LookupError, whoever it is that is asked for."""
    if not dataset.interactions_of(user) and not dataset.queries_of([user]):
        raise LookupError(f"no user {shown(user)} in this data set; the names stand in interactions.jsonl")
    return user
