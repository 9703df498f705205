"""The wire: the seven records that pass between the stages.

Flow: every stage reads some of these and writes the next; nothing else crosses from one module to another.
`Item`, `Interaction`, `Query` are the data; `MemoryEntry` is what memory holds; `Call`, `Answer`, `Episode` are what a
policy did. All are frozen: a stage that wants to change one makes a new one (`dataclasses.replace`).

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
    category: tuple[str, ...]  # path, general first; the last name is the scenario s of eq. 6
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # aspect -> its values
    description: str = ""


@dataclass(frozen=True)
class Interaction:
    """One element of a history H_u: a user met an item and said something about it."""

    user: str
    item: str
    time: int  # seconds since 1970
    rating: float  # 1 (bad) to 5 (good)
    review: str = ""


@dataclass(frozen=True)
class Query:
    """An underspecified wish. `target` is what the user then took; only reward and metrics may look at it."""

    id: str
    user: str
    text: str
    target: str
    time: int  # the user's history is what lies strictly before
    truth: Mapping[str, str] | None = None  # where known: aspect that matters -> the value this user wants


@dataclass(frozen=True)
class MemoryEntry:
    """One retrievable line of memory."""

    id: str
    user: str | None  # None: global memory, shared by all users
    level: str  # "record" | "pattern" | "profile" | "global"
    text: str
    rests_on: tuple[str, ...] = ()  # ids of the behaviour records it was made from; empty for global entries
    scenario: str = ""  # the category it speaks of; "" where it speaks of all
    support: int = 0  # records (local) or users (global) behind it


@dataclass(frozen=True)
class Call:
    """One use of the memory tool (eq. 8)."""

    text: str  # what the policy asked for
    entries: tuple[MemoryEntry, ...]  # what came back, best first


@dataclass(frozen=True)
class Answer:
    """The final answer (eq. 9)."""

    profile: str  # the ideal item profile i*
    evidence: tuple[str, ...] = ()  # ids of the memory entries the policy says it used


@dataclass(frozen=True)
class Episode:
    """One rollout: what was said, what came back, what it was worth.

    `tokens`, `mask`, `logprobs` have one length. mask 1: sampled by the policy; 0: prompt or retrieved memory.
    logprobs are the sampler's, at its temperature; 0.0 where mask is 0.
    """

    query: Query
    tokens: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    calls: tuple[Call, ...]
    answer: Answer | None  # None: the output was malformed
    end: str  # "answer", or why the episode ended without one
    global_entries: tuple[MemoryEntry, ...] = ()
    rewards: Mapping[str, float] = field(default_factory=dict)  # the terms of eq. 10, by name
    reward: float = 0.0  # their weighted sum r
