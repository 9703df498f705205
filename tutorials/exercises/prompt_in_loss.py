"""Exercise prompt_in_loss: why does it recite? Silent bug, 15 minutes.

Notebooks 06, 07 and 12. `loss_weights` below says how much each token counts in the loss. Training runs, the loss falls
faster than ever. Correct it in place, then `make exercise EX=prompt_in_loss`. The check tells symptoms.
"""

import torch


def loss_weights(tokens: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens that the policy wrote: (B, T) weights that sum to 1, 0 for all else.

    tokens (B, T) ids, -1 where a row is padded. written (B, T) bool: True where the policy sampled; False for the
    prompt, for what the memory tool returned, and for padding.
    """
    real = (tokens >= 0).float()
    return real / real.sum()
