"""Exercise sampler_drift: why are there two policies where there should be one? Silent bug, 20 minutes.

Notebooks 05 and 12. `drawn` samples a token. In the update, `rescored` computes how likely that token is. Both look
right, but they do not agree. Correct the faulty one in place, then run `make exercise EX=sampler_drift`. The check
describes symptoms.
"""

import torch


def drawn(logits: torch.Tensor, allowed: torch.Tensor, temperature: float, u: float) -> tuple[int, float]:
    """Draw a token at this temperature among the allowed ones; returns (id, log-probability). This function is right.

    logits (V,), allowed (V,) bool, u in [0, 1).
    """
    log_pi = torch.log_softmax(logits.masked_fill(~allowed, float("-inf")) / temperature, -1)
    token = min(int((log_pi.exp().cumsum(0) <= u).sum()), int(torch.nonzero(allowed).max()))
    return token, float(log_pi[token])


def rescored(logits: torch.Tensor, allowed: torch.Tensor, temperature: float, token: int) -> torch.Tensor:
    """The log-probability of that token in the update: a scalar, with a gradient with respect to the logits."""
    return torch.log_softmax(logits, -1)[token]
