"""Exercise clipped_surrogate: how far may one batch move the policy? Fill in a formula, 15 minutes.

Notebook 08. Check yours with `make exercise EX=clipped_surrogate`; run it in the real loop with
`mrrec train --data DIR --run RUN --with answers/clipped_surrogate.py`.
"""

import torch


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, clip: tuple[float, float]) -> torch.Tensor:
    """min(ratio A, clip(ratio, 1 - low, 1 + high) A), the inner part of eq. (11). A is the advantage.

    ratio (b, T) or (b, 1): b rows (episodes) of T tokens. advantages (b,) or (b, T). clip: the pair (low, high).
    Returns a tensor with b rows.

    By hand, with clip (.2, .28). Ratio 1.5, A = 1: min(1.5, 1.28) = 1.28. Ratio 1.5, A = -1: min(-1.5, -1.28) = -1.5.
    Ratio .5, A = 1: min(.5, .8) = .5. Ratio .5, A = -1: min(-.5, -.8) = -.8.

    Hint: compute two products, then take the smaller one, element by element.
    """
    raise NotImplementedError("write this, then run the check again")
