"""Exercise sample_token: how does one number draw one token? Fill in, 15 minutes.

Notebook 05. Check yours with `make exercise EX=sample_token`.
"""

import torch


def sample_token(logits: torch.Tensor, allowed: torch.Tensor, temperature: float, u: float) -> tuple[int, float]:
    """Draw one token and say how likely it was: (id, log pi(id)).

    logits (V,). allowed (V,) bool: the tokens that the grammar permits next, at least one. u in [0, 1). The
    probabilities are softmax(logits / temperature) over the allowed tokens; all other tokens have probability 0. The id
    is the first one whose cumulative probability is greater than u. Temperature 0: take the allowed token with the
    largest logit (the first one on a tie), and return its log-probability at temperature 1.

    By hand: logits log (6, 3, 1), all allowed, temperature 1: the cumulative sum is .6, .9, 1. u = .59 draws 0, u = .6
    draws 1 (.6 is not greater than .6), u = .95 draws 2. Without token 0 the probabilities are (0, .75, .25), so u = .6
    draws 1, with log .75.

    Hint: minus infinity before the softmax is probability 0 after it.
    """
    raise NotImplementedError("write this, then run the check again")
