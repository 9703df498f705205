"""Exercise clipped_surrogate: how far may one batch move the policy? Fill in a formula, 15 minutes.

Notebook 08. Check yours with `make exercise EX=clipped_surrogate`; run it in the real loop with
`mrrec train --data DIR --run RUN --with answers/clipped_surrogate.py`.
"""

import torch


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, clip: tuple[float, float]) -> torch.Tensor:
    """min(ratio A, clip(ratio, 1 - low, 1 + high) A), inner part of eq. (11).

    ratio (b, T) or (b, 1), advantages (b,) or (b, T), clip (low, high) -> a tensor of the ratio's rows.

    By hand, clip (.2, .28): ratio 1.5, A = 1: min(1.5, 1.28) = 1.28. A = -1: min(-1.5, -1.28) = -1.5. Ratio .5, A = 1:
    min(.5, .8) = .5; A = -1: min(-.5, -.8) = -.8.

    Hint: two products, then the smaller one, element by element.
    """
    raise NotImplementedError("write this, then run the check again")
