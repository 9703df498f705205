"""RAFT: play a group of episodes per query, and train on the best one as if a teacher had written it.

Flow: beside GRPO, in the same `Trainer`. RAFT (Dong et al., 2023, arXiv 2304.06767) is `filtered` imitation in which
the policy is its own teacher, and which is repeated: play, keep the best, one step of imitation, play again.

    w_i = 1 if episode i is the best of its group (the first, if several are equal), otherwise 0
    J   = mean over sampled tokens of w_i log pi(o_t)

This is supervised learning on the kept episodes. But its gradient is that of eq. 11 with w_i in place of the advantage
A_i, since the ratio is 1. So the whole difference between the learners is one number per episode:

    rewards of a group            0      .2     .2     1.0
    GRPO: reward minus mean      -.35   -.15   -.15    .65
    RAFT: best or not             0      0      0      1

That is all this file needs to replace. Queries, groups, sampling, mask, constraint, optimiser and log are those of
GRPO. With the same `TrainConfig`, both learners play equally many episodes; `step_tokens` in the log counts the tokens.

**Why it works.** Each step moves the policy towards its own best-of-G play. No weight is negative, so the loss cannot
fall by driving a probability to 0. The scale of the rewards does not matter, only their order in a group.

**When it fails.**
- No baseline. A best episode that is .01 better counts as much as one that is 5 better.
- No negative weight. A bad habit becomes rarer only because probabilities sum to 1. One batch teaches from one episode
  in G: the worst episode teaches as little as the second best.
- It learns to gamble. It prefers what is often the best of a group, GRPO what is good on average. Say a look-up always
  earns .6, and a guess earns 1 one time in four. At least one of 8 guesses is right in 90 % of the groups. So RAFT
  learns to guess, and earns .25. GRPO counts the wrong guesses too, and learns to look up (`tests/test_raft.py`).

Departures: Dong et al. fine-tune on a large batch before they sample again; here it is one step per batch, as in GRPO.
They keep the best episode of every group; here a group of equal rewards keeps none, since GRPO learns nothing from it
either. Their loss is a mean over the kept tokens; here it is one over the tokens of all episodes. This only scales the
gradient, and the optimizers are nearly blind to its scale. MR.Rec's paper has no such learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mrrec_mini.environment import Environment
from mrrec_mini.grpo import Formulas, GRPOConfig
from mrrec_mini.train import TrainConfig, Trainer


def best_of_group(rewards: torch.Tensor, groups: torch.Tensor, sigma: str = "none") -> torch.Tensor:
    """Return w, (B,): 1 for the first best episode of each group, else 0; all 0 for a group whose rewards are equal.

    rewards, groups (B,). It takes the place of `group_advantages`; `sigma` has no meaning here and is ignored.
    """
    weights = torch.zeros_like(rewards)
    for group in groups.unique():
        rows = torch.nonzero(groups == group)[:, 0]
        own = rewards[rows]
        if own.max() > own.min():
            weights[rows[own.argmax()]] = 1.0  # argmax returns the first of several equal maxima
    return weights


def raft_trainer(model, tokenizer, environments: Sequence[Environment], config: TrainConfig) -> Trainer:
    """Return a trainer whose steps are those of RAFT; `train` runs it. It draws and samples as GRPO does.

    `config` is the one of GRPO. Of its choices of advantage and loss (`algo`, `credit`, `baseline`, `grpo`), only the
    weight of the KL is used.
    """
    plain = replace(config, algo="grpo", credit="trajectory", grpo=GRPOConfig(beta=config.grpo.beta))
    return Trainer(model, tokenizer, list(environments), plain, Formulas(group_advantages=best_of_group))
