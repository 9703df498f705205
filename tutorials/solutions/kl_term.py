"""Exercise kl_term: which estimate of the KL has the right gradient? Fill in a formula, 15 minutes.

Notebook 08. Check yours with `make exercise EX=kl_term`.
"""

import torch


def kl_term(logprobs: torch.Tensor, reference: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """(b, T): (exp(d) - d - 1) x ratio for each sampled token, with d = log pi_ref - log pi.

    logprobs (b, T): log pi, of the policy. reference (b, T): log pi_ref, of the frozen model. ratio (b, T): pi /
    pi_old. Gradients flow through `logprobs` and through `ratio`.

    By hand: log pi = log .7, log pi_ref = log .5, ratio 1. Then d = log (5/7) = -.3365, exp(d) = .7143, and the term is
    .0508.

    Hint: check the sign of d. Detach nothing: without the gradient of the ratio this is another objective (notebook
    08).
    """
    # BEGIN SOLUTION
    d = reference - logprobs
    return (torch.exp(d) - d - 1) * ratio
    # END SOLUTION
