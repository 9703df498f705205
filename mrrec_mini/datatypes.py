"""The seven data types that pass between the stages.

Flow: every stage reads some of these and writes others. `Item`, `Interaction`, `Query` are the data; `MemoryEntry` is
what memory holds; `Call`, `Answer`, `Episode` record what a policy did. All are frozen (`dataclasses.replace` copies).

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
    """One element of a history H_u: a user bought, rated and reviewed an item."""

    user: str
    item: str
    time: int  # seconds since 1970
    rating: float  # 1 (bad) to 5 (good)
    review: str = ""


@dataclass(frozen=True)
class Query:
    """An underspecified request. `target` is what the user then bought; only reward and metrics may look at it."""

    id: str
    user: str
    text: str
    target: str
    time: int  # seconds since 1970; the user's history is everything strictly before it
    truth: Mapping[str, str] | None = None  # if known: each aspect that matters -> the value this user wants


@dataclass(frozen=True)
class MemoryEntry:
    """One retrievable line of memory."""

    id: str
    user: str | None  # None: global memory, shared by all users
    level: str  # "record" | "pattern" | "profile" | "global"
    text: str
    rests_on: tuple[str, ...] = ()  # ids of the behaviour records behind it; empty for global entries
    scenario: str = ""  # the category it is about; "": all of them
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
    """One rollout: what the policy wrote, what memory returned, what it was worth.

    `tokens`, `mask`, `logprobs` have the same length. mask 1: sampled by the policy; 0: prompt or retrieved memory.
    logprobs are the sampler's, at its temperature; 0.0 at mask 0. `states` is empty if decoding was free.
    """

    query: Query
    tokens: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    calls: tuple[Call, ...]
    answer: Answer | None  # None: the output was malformed
    end: str  # "answer", or why the episode ended without one
    global_entries: tuple[MemoryEntry, ...] = ()
    states: tuple[int, ...] = ()  # in which each token was sampled (`constrain.py`); 0 at mask 0
    rewards: Mapping[str, float] = field(default_factory=dict)  # the terms of eq. 10, by name
    reward: float = 0.0  # their weighted sum r
