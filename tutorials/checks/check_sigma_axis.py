"""The check of the corrected `advantages_of`; its messages describe symptoms."""

import torch
from adapters import expect


def check(answer) -> None:
    easy_and_hard = torch.tensor([[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 1.0, 0.0]])
    got = answer.advantages_of(easy_and_hard)
    if got.shape != (2, 4):
        raise AssertionError(
            f"two queries with four episodes each need advantages of shape (2, 4), yours is {tuple(got.shape)}"
        )
    if got[0].abs().max() > 1e-3:
        raise AssertionError(
            f"all four episodes of an easy query earned 5, and yet one is preferred: {got[0].tolist()}"
        )
    if (got[1] > 0).sum() != 1 or not got[1, 2] > 0:
        raise AssertionError(
            f"one episode of four found the target (the third), but the advantages are {got[1].tolist()}"
        )
    moved = answer.advantages_of(easy_and_hard + torch.tensor([[0.0], [100.0]]))
    if not torch.allclose(moved, got, atol=1e-3):
        raise AssertionError("the advantages change if all episodes of one query earn 100 more")
    alone = answer.advantages_of(easy_and_hard[1:])
    if not torch.allclose(alone[0], got[1], atol=1e-4):
        raise AssertionError("the advantage of an episode depends on which other query is in the batch")
    because = "(r - .25) / (.5 + 1e-4), sigma with n - 1"
    expect(got[1], [-0.4999, -0.4999, 1.4997, -0.4999], "rewards (0, 0, 1, 0)", because, "")


def _version(mean_dim=1, sigma_dim=1, ddof=1):
    def advantages_of(rewards):
        mean = rewards.mean(mean_dim, keepdim=True) if mean_dim is not None else rewards.mean()
        if sigma_dim is None:
            return (rewards - mean) / (rewards.std(correction=ddof) + 1e-4)
        return (rewards - mean) / (rewards.std(sigma_dim, keepdim=True, correction=ddof).nan_to_num() + 1e-4)

    return {"advantages_of": advantages_of}


WRONG = {
    "as it was": _version(0, 0),
    "only the mean corrected": _version(1, 0),
    "only sigma corrected": _version(0, 1),
    "sigma of the whole batch": _version(1, None),
    "everything over the whole batch": _version(None, None),
    "sigma with n": _version(1, 1, 0),
}
