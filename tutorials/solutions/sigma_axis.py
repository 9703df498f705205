"""Exercise sigma_axis: why does an easy query drown the hard ones? Silent bug, 20 minutes.

Notebook 08. `advantages_of` below is meant to be the paper's: (r - mean of the group) / (sigma of the group + 1e-4),
sigma with n - 1. It trains, and badly. Correct it in place, then `make exercise EX=sigma_axis`. The check tells
symptoms.
"""

import torch


def advantages_of(rewards: torch.Tensor) -> torch.Tensor:
    """rewards (Q, G): Q queries, G episodes each -> (Q, G) advantages."""
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
