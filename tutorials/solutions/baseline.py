"""Exercise baseline: what is an episode compared with? Fill in, 20 minutes.

Notebook 07. Check yours with `make exercise EX=baseline`; run it in the real loop with
`mrrec train --data DIR --run RUN --algo reinforce --with answers/baseline.py`.
"""

import torch


def baseline(rewards: torch.Tensor, groups: torch.Tensor, kind: str) -> torch.Tensor:
    """(B,) the baseline b of each episode. B is the number of episodes.

    rewards (B,) float. groups (B,) the number of each episode's group, in any order.
    kind "none": 0. kind "group": the mean reward of the episode's group, itself included. kind "leave_one_out": the
    mean reward of the *others* in its group; raise ValueError if a group has only one episode. Any other kind:
    ValueError.

    By hand: one group with the rewards (1, 0, 0, 0). "group": .25 for all. "leave_one_out": 0 for the first (the others
    earned nothing) and 1/3 for each of the rest.

    Hint: `groups[:, None] == groups[None, :]` is a (B, B) table that says which episodes are in the same group.
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
        raise ValueError("a group of one episode has no others")
    return (total - rewards) / (count - 1)
    # END SOLUTION
