"""Exercise prompt_in_loss: why does it recite? Silent bug, 15 minutes.

Notebooks 06, 07 and 12. The function `loss_weights` below says how much each token counts in the loss. Training runs,
and the loss falls faster than ever. Correct the function in place, then run `make exercise EX=prompt_in_loss`. The
check describes symptoms.
"""

import torch


def loss_weights(tokens: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens that the policy wrote: (B, T) weights that sum to 1, and are 0 for all other tokens.

    tokens (B, T): ids, and -1 for padding. written (B, T) bool: True for the tokens that the policy sampled; False for
    the prompt, for what the memory tool returned, and for padding.
    """
    real = (tokens >= 0).float()
    return real / real.sum()
