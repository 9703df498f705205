"""Exercise sampler_drift: why are there two policies where there should be one? Silent bug, 20 minutes.

Notebooks 05 and 12. `drawn` samples a token, `rescored` says how likely the policy holds it when it is updated. Both
look right, and they do not agree. Correct what has to be corrected, in place, then `make exercise EX=sampler_drift`.
The check tells symptoms.
"""

import torch


def drawn(logits: torch.Tensor, allowed: torch.Tensor, temperature: float, u: float) -> tuple[int, float]:
    """A token drawn at this temperature among the allowed ones, and its log-probability. This function is right.

    logits (V,), allowed (V,) bool, u in [0, 1).
    """
    log_pi = torch.log_softmax(logits.masked_fill(~allowed, float("-inf")) / temperature, -1)
    token = min(int((log_pi.exp().cumsum(0) <= u).sum()), int(torch.nonzero(allowed).max()))
    return token, float(log_pi[token])


def rescored(logits: torch.Tensor, allowed: torch.Tensor, temperature: float, token: int) -> torch.Tensor:
    """The log-probability of that token in the update; a scalar with a gradient in the logits."""
    return torch.log_softmax(logits, -1)[token]
