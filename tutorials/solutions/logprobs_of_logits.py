"""Exercise logprobs_of_logits: how likely was each sampled token? Fill in, 20 minutes.

Notebook 05. Check yours with `make exercise EX=logprobs_of_logits`. In the package this is the core of
`reinforce.token_logprobs`, which also saves work for groups.
"""

import torch


def logprobs_of_logits(
    logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """log pi(o_t | o_<t) of each sampled token at the sampler's temperature; 0 if the policy did not sample the token.

    logits (B, T, V): column t holds the model's output *about column t + 1*. tokens (B, T): ids, and -1 for padding.
    mask (B, T) bool: True for the tokens that the policy sampled; column 0 is never sampled. temperature > 0.
    Returns (B, T).

    By hand: V = 3, tokens (2, 0, 1), mask (no, yes, yes). The logits of column 0 are log (6, 3, 1), those of column 1
    are log (1, 1, 2). The token 0 in column 1 has log .6 = -.5108, and the token 1 in column 2 has log .25 = -1.3863.
    So the result is (0, -.5108, -1.3863).

    Hint: apply log_softmax to logits / temperature first, then shift. `gather` refuses -1, so put a legal id there.
    """
    # BEGIN SOLUTION
    log_pi = torch.log_softmax(logits / temperature, -1)[:, :-1]  # (B, T - 1, V), about columns 1..T-1
    chosen = log_pi.gather(2, tokens[:, 1:, None].clamp_min(0)).squeeze(2)
    first = torch.zeros_like(chosen[:, :1])
    return torch.cat([first, torch.where(mask[:, 1:], chosen, 0.0)], 1)
    # END SOLUTION
