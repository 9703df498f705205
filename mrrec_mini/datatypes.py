"""The seven data types that pass between the stages.

Flow: every stage reads some of these types and writes others. `Item`, `Interaction`, `Query` are the data; memory
holds `MemoryEntry`; `Call`, `Answer`, `Episode` record what a policy did. All are frozen (copy: `dataclasses.replace`).

Paper: H_u = [(item, side signal)] (sec. 2) is a list of `Interaction`; M_u (eq. 1) is a list of `MemoryEntry`;
i* (eq. 2) is `Answer.profile`. The token lists of `Episode` are ours: the paper does not say how it stores a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """One thing that can be recommended."""

    id: str
    title: str
    category: tuple[str, ...]  # path from general to special; the last name is the scenario s of eq. 6
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # aspect -> its values
    description: str = ""


@dataclass(frozen=True)
class Interaction:
    """One element of a history H_u: a user bought, rated and reviewed an item."""

    user: str
    item: str
    time: int  # seconds since 1970
    rating: float  # 1 (bad) to 5 (good)
    review: str = ""


@dataclass(frozen=True)
class Query:
    """An underspecified request. `target` is the item that the user then bought; only reward and metrics read it."""

    id: str
    user: str
    text: str
    target: str
    time: int  # seconds since 1970; the user's history is every interaction strictly before it
    truth: Mapping[str, str] | None = None  # aspect that matters -> value that this user wants; None: unknown
    phrase: str | None = None  # the words of `text` to search for; None: all of them, and an answer repeats them itself
    scenario: str | None = None  # the category that `text` names, a name of some `Item.category`; None: it names none

    @property
    def wish(self) -> str:
        """What the user wants, in words to search for: the phrase, or the whole text."""
        return self.text if self.phrase is None else self.phrase

    @property
    def to_repeat(self) -> str:
        """What an answer must repeat of the query: "" if the search adds the phrase itself (`searched`)."""
        return self.text if self.phrase is None else ""

    def searched(self, profile: str) -> str:
        """Return the text that the item search gets for a profile: the phrase, if there is one, and the profile."""
        return profile if self.phrase is None else f"{self.phrase} {profile}".strip()


@dataclass(frozen=True)
class MemoryEntry:
    """One retrievable line of memory."""

    id: str
    user: str | None  # None: global memory, shared by all users, or a line about other people
    level: str  # "record" | "pattern" | "profile" | "global" | "others"
    text: str
    rests_on: tuple[str, ...] = ()  # ids of the records that support it; empty if `user` is None
    scenario: str = ""  # the category that the text is about; "": all categories
    support: int = 0  # number of records, or, if `user` is None, of users that support it


@dataclass(frozen=True)
class Call:
    """One call of the memory tool (eq. 8)."""

    text: str  # what the policy asked for
    entries: tuple[MemoryEntry, ...]  # what memory returned, best first


@dataclass(frozen=True)
class Answer:
    """The final answer (eq. 9)."""

    profile: str  # the ideal item profile i*
    evidence: tuple[str, ...] = ()  # ids of the memory entries the policy says it used


@dataclass(frozen=True)
class Episode:
    """One rollout: what the policy wrote, what memory returned, and the reward.

    `tokens`, `mask`, `logprobs` have the same length. mask 1: the policy sampled the token; 0: the token is part of the
    prompt or of retrieved memory. `logprobs` are the sampler's, at its temperature, and 0.0 where mask is 0. `states`
    is empty if decoding was not constrained.
    """

    query: Query
    tokens: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    calls: tuple[Call, ...]
    answer: Answer | None  # None: the output was malformed
    end: str  # "answer", or why the episode ended without an answer
    global_entries: tuple[MemoryEntry, ...] = ()
    states: tuple[int, ...] = ()  # the state (`constrain.py`) in which each token was sampled; 0 at mask 0
    rewards: Mapping[str, float] = field(default_factory=dict)  # the terms of eq. 10, by name
    reward: float = 0.0  # their weighted sum r
