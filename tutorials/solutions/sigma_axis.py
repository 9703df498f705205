"""Exercise sigma_axis: why does an easy query drown the hard ones? Silent bug, 20 minutes.

Notebook 08. The function `advantages_of` below is meant to compute the paper's advantages:
(r - mean of the group) / (sigma of the group + 1e-4), where r is a reward and sigma is the standard deviation with
n - 1. It trains, but badly. Correct it in place, then run `make exercise EX=sigma_axis`. The check describes symptoms.
"""

import torch


def advantages_of(rewards: torch.Tensor) -> torch.Tensor:
    """rewards (Q, G): Q queries with G episodes each. Returns (Q, G) advantages."""
    mean = rewards.mean(dim=0, keepdim=True)
    sigma = rewards.std(dim=0, keepdim=True)
    return (rewards - mean) / (sigma + 1e-4)


# BEGIN SOLUTION
def advantages_of(rewards: torch.Tensor) -> torch.Tensor:  # noqa: F811
    """A group is a row: mean and sigma run over its episodes, dim=1."""
    mean = rewards.mean(dim=1, keepdim=True)
    sigma = rewards.std(dim=1, keepdim=True)
    return (rewards - mean) / (sigma + 1e-4)


# END SOLUTION
