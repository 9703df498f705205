"""Reward of an episode: the terms format, recommendation and memory, and their weighted sum (eq. 10).

Flow: after rollout, before update. The profile that the policy wrote is the query to the item index (eq. 3). The
recommendation term depends on the rank of the target in the result. The target is used only here, in `turn_credit` and
in `evaluate`. The policy never sees the item pool.

    format          1 if the episode ended with an answer that parses, else 0
    recommendation  nDCG@1000 + nDCG@100 of the target over the whole pool, or `log_rank`
    memory          1 if at least one valid call was made, else 0
    evidence        F1 of the memories that the answer cites against those that its profile was copied from; else 0
    r = .1 format + 5 recommendation + .1 memory                                              Eq. (10)
        + w evidence - call_cost x calls - token_cost x retrieved tokens                     ours; all 0 by default

As in the paper, except for `log_rank` and the last line. nDCG pays about as much for moving the target from rank 2 to 1
as from rank 30 to 2. But in a small shop, luck decides which of several suitable items is first. With `log_rank`, each
halving of the rank pays the same: 2 (1 - log rank / log 1000), at least 0. If searching is free, a policy never learns
when to stop. If citing is not rewarded, what a policy cites need not be what it copied (`evidence`). Guessed: a
malformed episode gets recommendation 0, and keeps its memory reward if it made a call before the malformed turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mrrec_mini.datatypes import Episode
from mrrec_mini.evidence import citations
from mrrec_mini.grammar import Grammar
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.metrics import ndcg_at_k

SHAPES = ("ndcg", "log_rank")


@dataclass(frozen=True)
class RewardConfig:
    """The weights of eq. 10, the two cut-offs, the weight of good citations, and the cost of searching."""

    format: float = 0.1
    recommendation: float = 5.0
    memory: float = 0.1
    k_wide: int = 1000  # covers most of a pool of a few thousand items
    k_narrow: int = 100
    evidence: float = 0.0  # 0, as in the paper: the term is not computed
    call_cost: float = 0.0  # per memory call
    token_cost: float = 0.0  # per token that the memory tool returned

    shape: str = "ndcg"  # of the recommendation term; or "log_rank"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {SHAPES}, got {self.shape!r}")
        if min(self.evidence, self.call_cost, self.token_cost) < 0:
            raise ValueError("evidence, call_cost and token_cost must be >= 0")


def format_reward(episode: Episode) -> float:
    """Return 1 if the final answer parses, else 0 (sec. 3.3)."""
    return float(episode.answer is not None)


def recommendation_reward(rank: float, config: RewardConfig) -> float:
    """Return nDCG@1000 + nDCG@100 (sec. 3.3) of a target at this 1-based rank: in 0..2; 0 at infinity (no profile).

    With the shape "log_rank", 2 (1 - log rank / log k_wide), at least 0 (ours).
    """
    if config.shape == "log_rank":
        return 2 * max(0.0, 1 - math.log(rank) / math.log(config.k_wide))
    return float(ndcg_at_k([rank], config.k_wide)[0] + ndcg_at_k([rank], config.k_narrow)[0])


def memory_reward(episode: Episode) -> float:
    """Return 1 if at least one valid memory call was made, else 0 (sec. 3.3)."""
    return float(len(episode.calls) > 0)


def evidence_reward(episode: Episode, grammar: Grammar) -> float:
    """Return how well the answer cites what it copied from: F1, in 0..1; 0 without an answer. Ours."""
    return citations(episode, grammar).f1 if episode.answer is not None else 0.0


def retrieved_tokens(mask: tuple[int, ...]) -> int:
    """Return the number of tokens that memory returned: the zeros in `mask` after the first 1 (a policy token)."""
    return mask[mask.index(1) :].count(0) if 1 in mask else 0


def total_reward(terms: dict[str, float], config: RewardConfig, calls: int = 0, retrieved: int = 0) -> float:
    """Return r = w1 format + w2 recommendation + w3 memory + w4 evidence - the cost of searching.   Eq. (10)

    `terms` holds evidence only if its weight is not 0.
    """
    return (
        config.format * terms["format"]
        + config.recommendation * terms["recommendation"]
        + config.memory * terms["memory"]
        + config.evidence * terms.get("evidence", 0.0)
        - config.call_cost * calls
        - config.token_cost * retrieved
    )


def score(episodes: Sequence[Episode], items: ItemIndex, config: RewardConfig, grammar: Grammar) -> list[Episode]:
    """Return the episodes with `rewards` (terms, and `rank` of the target: infinity without an answer) and `reward`."""
    # 1. the rank of each target among all items, by similarity to the profile of the answer (eq. 3)
    answered = [e for e in episodes if e.answer is not None]
    ranks = iter(items.ranks_for([e.query for e in answered], [e.answer.profile for e in answered]))
    # 2. the terms of each episode and their weighted sum (eq. 10)
    scored = []
    for episode in episodes:
        rank = float(next(ranks)) if episode.answer is not None else float("inf")
        terms = {
            "format": format_reward(episode),
            "recommendation": recommendation_reward(rank, config),
            "memory": memory_reward(episode),
        }
        if config.evidence:
            terms["evidence"] = evidence_reward(episode, grammar)
        reward = total_reward(terms, config, len(episode.calls), retrieved_tokens(episode.mask))
        scored.append(replace(episode, rewards={**terms, "rank": rank}, reward=reward))
    return scored
