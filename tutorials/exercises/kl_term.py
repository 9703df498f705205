"""Exercise kl_term: which estimate of the KL has the right gradient? Fill in a formula, 15 minutes.

Notebook 08. Check yours with `make exercise EX=kl_term`.
"""

import torch


def kl_term(logprobs: torch.Tensor, reference: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """(b, T) for each sampled token (exp(d) - d - 1) x ratio, with d = log pi_ref - log pi.

    logprobs (b, T) of the policy, reference (b, T) of the frozen model, ratio (b, T) = pi / pi_old. Gradients flow
    through `logprobs` and through `ratio`.

    By hand: log pi = log .7, log pi_ref = log .5, ratio 1: d = log (5/7) = -.3365, exp(d) = .7143: .0508.

    Hint: the sign of d; and detach nothing: without the ratio's gradient this is another objective (notebook 08).
    """
    raise NotImplementedError("write this, then run the check again")
