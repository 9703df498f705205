"""Exercise baseline: with what is an episode compared? Fill in, 20 minutes.

Notebook 07. Check yours with `make exercise EX=baseline`; run it in the real loop with
`mrrec train --data DIR --run RUN --algo reinforce --with answers/baseline.py`.
"""

import torch


def baseline(rewards: torch.Tensor, groups: torch.Tensor, kind: str) -> torch.Tensor:
    """(B,) the baseline b of each episode.

    rewards (B,) float, groups (B,) the number of each episode's group, in any order.
    kind "none": 0. "group": the mean reward of its group, itself included. "leave_one_out": the mean of the *others* of
    its group; ValueError where a group has one episode. Any other kind: ValueError.

    By hand: rewards (1, 0, 0, 0) of one group. "group": .25 for all. "leave_one_out": 0 for the first (the others
    earned nothing), 1/3 for each of the rest.

    Hint: `groups[:, None] == groups[None, :]` is a (B, B) table of who is in one group with whom.
    """
    # BEGIN SOLUTION
    if kind == "none":
        return torch.zeros_like(rewards)
    same = (groups[:, None] == groups[None, :]).to(rewards.dtype)
    total, count = same @ rewards, same.sum(1)
    if kind == "group":
        return total / count
    if kind != "leave_one_out":
        raise ValueError(f"no baseline is called {kind!r}")
    if (count < 2).any():
        raise ValueError("an episode alone in its group has no others")
    return (total - rewards) / (count - 1)
    # END SOLUTION
