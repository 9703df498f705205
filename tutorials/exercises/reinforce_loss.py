"""Exercise reinforce_loss: what is minimised so that the expected reward rises? Fill in, 15 minutes.

Notebook 07. Check yours with `make exercise EX=reinforce_loss`; run it in the real loop with
`mrrec train --data DIR --run RUN --algo reinforce --with answers/reinforce_loss.py`.
"""

import torch


def reinforce_loss(logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """- 1/B sum over episodes i and sampled tokens t of A_i log pi(o_t)   (Williams, 1992): a scalar.

    logprobs (b, T): log pi(o_t). advantages: (b,), one per episode, or (b, T), one per token. mask (b, T): 1 if the
    policy sampled the token. `episodes` = B counts the *whole* batch. The batch may be cut into parts of b rows; the
    losses of the parts then add up.

    By hand: logprobs ((-1, -2), (-.5, -1)), advantages (2, -1), mask ((1, 1), (0, 1)), B = 2:
    -(2 (-1 - 2) + (-1) (-1)) / 2 = -(-6 + 1) / 2 = 2.5.

    Hint: bring advantages to the shape (b, 1) or (b, T) first; masked values must not even reach the sum.
    """
    raise NotImplementedError("write this, then run the check again")
