"""Turn credit: an advantage for each decision of an episode, instead of one for the whole episode.

Flow: between reward and loss; an alternative to the trajectory credit of the paper (`grpo.group_advantages`), which
gives all tokens of an episode one advantage. An episode is a row of *decisions*: what to think, whether to search (for
what) or to answer, what to note of the reply, and so on. The value of a decision does not depend on it: it is what the
episode would earn if it answered just before, with the notes taken so far.

    V_j = w2 (nDCG@1000 + nDCG@100 of the profile "query + notes before decision j") - the cost of the calls so far
    A_j = (r - V_j) - mean of the same over the other episodes of the group that came to decision j

r - V_j is what the rest of the episode gained, without the luck of what came before. Subtracting V_j keeps the gradient
of E[r] (a baseline may depend on everything before the decision) and reduces its variance. Two episodes at the same
decision, one that searches and one that answers, are compared directly: so a policy learns to make the third call.

Not in the paper. The value looks at the target, as the reward does; the policy sees neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from mrrec_mini.datatypes import Episode
from mrrec_mini.grammar import Grammar, turns
from mrrec_mini.hybrid import HybridIndex
from mrrec_mini.reinforce import group_lead, group_sums
from mrrec_mini.reward import RewardConfig, recommendation_reward, retrieved_tokens, total_reward


class Decision(NamedTuple):
    """A piece of a turn, and the state of the episode before it."""

    start: int  # its first column
    end: int  # one past its last column
    profile: str  # of an answer given just before it
    spent: float  # minus the cost of the calls before it: at most 0


def decisions(episode: Episode, grammar: Grammar, config: RewardConfig) -> Iterator[Decision]:
    """Two per turn, in order: its thought (which may be empty), and the search or answer that follows."""
    notes: list[str] = []
    nothing = dict.fromkeys(("format", "recommendation", "memory"), 0.0)
    for turn, (start, end) in enumerate(turns(episode.mask)):
        spent = total_reward(nothing, config, turn, retrieved_tokens(episode.mask[:start]))
        length, thought = grammar.thought(episode.tokens[start:end])
        yield Decision(start, start + length, " ".join([episode.query.text, *notes]), spent)
        if turn:  # the first thought is a plan: nothing has been read yet
            notes.append(thought)
        yield Decision(start + length, end, " ".join([episode.query.text, *notes]), spent)


def leave_one_out_advantage(after: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(M,) return `after` each decision minus the mean return of the other episodes at the same decision.

    Equal numbers in `place` (M,) mark the same decision of a group. 0 if no other episode came to it.
    """
    others = group_sums(torch.ones_like(after), place) - 1
    return group_lead(after, place) / others.clamp_min(1)


def turn_advantages(
    episodes: Sequence[Episode], groups: Sequence[int], grammar: Grammar, items: HybridIndex, config: RewardConfig
) -> torch.Tensor:
    """(B, T) A_j of the decision that each sampled token belongs to; 0 elsewhere."""
    # 1. the value V_j before every decision; each different (profile, target) is ranked once
    made = [(row, j, d) for row, e in enumerate(episodes) for j, d in enumerate(decisions(e, grammar, config))]
    asked = {(decision.profile, episodes[row].query.target) for row, _, decision in made}
    profiles, targets = zip(*sorted(asked), strict=True)
    ranks = dict(zip(zip(profiles, targets, strict=True), items.ranks(list(profiles), list(targets)), strict=True))
    after = torch.zeros(len(made), dtype=torch.float64)  # r - V_j
    for i, (row, _, decision) in enumerate(made):
        gained = recommendation_reward(float(ranks[decision.profile, episodes[row].query.target]), config)
        after[i] = episodes[row].reward - (config.recommendation * gained + decision.spent)
    # 2. compare with the other episodes of the group at the same decision
    depth = 1 + max(j for _, j, _ in made)
    place = torch.tensor([groups[row] * depth + j for row, j, _ in made])  # a number per group and decision
    advantages = leave_one_out_advantage(after, place)
    # 3. every token of a decision gets its advantage
    out = torch.zeros(len(episodes), max(len(e.tokens) for e in episodes))
    for (row, _, decision), advantage in zip(made, advantages.tolist(), strict=True):
        out[row, decision.start : decision.end] = advantage
    return out
