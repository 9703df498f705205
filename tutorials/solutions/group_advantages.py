"""Exercise group_advantages: how much better than its group was each episode? Fill in a formula, 15 minutes.

Notebook 08. Check yours with `make exercise EX=group_advantages`; run it in the real loop with
`mrrec train --data DIR --run RUN --with answers/group_advantages.py`.
"""

import torch


def group_advantages(rewards: torch.Tensor, groups: torch.Tensor, sigma: str) -> torch.Tensor:
    """A_i = (r_i - mean r) / sigma, taken over the episodes of the same group (sec. 3.3).

    rewards (B,) float: the reward r_i of each of B episodes. groups (B,): the number of each episode's group, in any
    order. Returns (B,).
    sigma "none": do not divide. sigma "group": the sample standard deviation (n - 1). sigma "population": the standard
    deviation with n. Add 1e-4 to what you divide by. Equal rewards in a group give 0. Raise ValueError if a group has
    only one episode, because there is nothing to compare it with.

    By hand: one group with the rewards (1, 0, 0, 0) has mean .25. "none": (.75, -.25, -.25, -.25). The squared
    distances sum to .75 and the sample sigma is sqrt(.75 / 3) = .5, so "group": (1.4997, -.4999, -.4999, -.4999).
    """
    # BEGIN SOLUTION
    same = (groups[:, None] == groups[None, :]).to(rewards.dtype)  # (B, B)
    count = same.sum(1)
    if (count < 2).any():
        raise ValueError("a group needs at least two episodes")
    centred = rewards - same @ rewards / count
    centred = torch.where((rewards[:, None] - rewards[None, :]).mul(same).abs().sum(1) > 0, centred, 0.0)
    if sigma == "none":
        return centred
    freedom = count - 1 if sigma == "group" else count
    return centred / ((same @ centred**2 / freedom).sqrt() + 1e-4)
    # END SOLUTION
