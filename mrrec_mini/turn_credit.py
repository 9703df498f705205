"""Turn credit: an advantage for each decision of an episode, instead of one for the whole episode.

Flow: between reward and loss. The paper uses trajectory credit (`grpo.group_advantages`): all tokens of an episode get
the same advantage. Turn credit is an alternative. It divides an episode into *decisions*: what to think, whether to
search (and for what) or to answer, what to note of the reply, and so on. V_j is the value of the state just before
decision j: recommendation reward minus cost, if the episode answered then with the notes taken so far.

    V_j = w2 (nDCG@1000 + nDCG@100 of the profile "query + notes before decision j") - the cost of the calls so far
    A_j = (r - V_j) - mean of (r - V_j) over the other episodes of the group that have a decision j

r - V_j is what the episode gained from decision j on; good or bad luck before it does not count. V_j depends only on
what happened before the decision. So subtracting V_j does not change the gradient of E[r], and reduces its variance.
If one episode searches at decision j and another answers, A_j compares them directly. So a policy learns a third call.

Not in the paper. V_j is computed with the target, as the reward is; the policy sees neither target nor V_j.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from mrrec_mini.datatypes import Episode
from mrrec_mini.grammar import Grammar, turns
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.reinforce import group_lead, group_sums
from mrrec_mini.reward import RewardConfig, recommendation_reward, retrieved_tokens, total_reward


class Decision(NamedTuple):
    """The tokens of one decision (a part of a turn), and the state of the episode before it."""

    start: int  # column of its first token
    end: int  # column after its last token
    profile: str  # what an answer just before this decision would say
    spent: float  # the reward for the calls before this decision: minus their cost, at most 0


def decisions(episode: Episode, grammar: Grammar, config: RewardConfig) -> Iterator[Decision]:
    """Yield two decisions per turn, in order: the thought (may be empty), and the search or answer that follows."""
    notes: list[str] = []
    nothing = dict.fromkeys(("format", "recommendation", "memory"), 0.0)
    profile = lambda: " ".join([episode.query.to_repeat, *notes]).strip()  # noqa: E731
    for turn, (start, end) in enumerate(turns(episode.mask)):
        spent = total_reward(nothing, config, turn, retrieved_tokens(episode.mask[:start]))
        length, thought = grammar.thought(episode.tokens[start:end])
        yield Decision(start, start + length, profile(), spent)
        if turn:  # the first thought is a plan and not a note: nothing has been read yet
            notes.append(thought)
        yield Decision(start + length, end, profile(), spent)


def leave_one_out_advantage(after: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return A_j of M decisions, (M,): `after` minus its mean over the other episodes at the same decision.

    `after` (M,) is r - V_j. Equal numbers in `place` (M,) mean the same group and j. A_j is 0 if no other episode has j
    in the group.
    """
    others = group_sums(torch.ones_like(after), place) - 1
    return group_lead(after, place) / others.clamp_min(1)


def turn_advantages(
    episodes: Sequence[Episode], groups: Sequence[int], grammar: Grammar, items: ItemIndex, config: RewardConfig
) -> torch.Tensor:
    """Return for each sampled token the A_j of its decision, (B, T); 0 at all other tokens."""
    # 1. compute r - V_j for every decision; each distinct (profile, query) is ranked only once
    made = [(row, j, d) for row, e in enumerate(episodes) for j, d in enumerate(decisions(e, grammar, config))]
    asked = {(d.profile, episodes[row].query.id): episodes[row].query for row, _, d in made}
    found = items.ranks_for(list(asked.values()), [profile for profile, _ in asked])
    ranks = dict(zip(asked, found, strict=True))
    after = torch.zeros(len(made), dtype=torch.float64)  # r - V_j
    for i, (row, _, decision) in enumerate(made):
        gained = recommendation_reward(float(ranks[decision.profile, episodes[row].query.id]), config)
        after[i] = episodes[row].reward - (config.recommendation * gained + decision.spent)
    # 2. compare each decision with the same decision of the other episodes in the group
    depth = 1 + max(j for _, j, _ in made)
    place = torch.tensor([groups[row] * depth + j for row, j, _ in made])  # a different number for each (group, j)
    advantages = leave_one_out_advantage(after, place)
    # 3. give every token of a decision the advantage of the decision
    out = torch.zeros(len(episodes), max(len(e.tokens) for e in episodes))
    for (row, _, decision), advantage in zip(made, advantages.tolist(), strict=True):
        out[row, decision.start : decision.end] = advantage
    return out
