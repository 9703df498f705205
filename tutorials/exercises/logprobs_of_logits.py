"""Exercise logprobs_of_logits: how likely was each sampled token? Fill in, 20 minutes.

Notebook 05. Check yours with `make exercise EX=logprobs_of_logits`. In the package this is the heart of
`reinforce.token_logprobs`, which also saves work for groups.
"""

import torch


def logprobs_of_logits(
    logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, temperature: float
) -> torch.Tensor:
    """log pi(o_t | o_<t) of each sampled token at the sampler's temperature; 0 where the policy sampled nothing.

    logits (B, T, V): in column t the model's output *about column t + 1*. tokens (B, T) ids, -1 where a row is padded.
    mask (B, T) bool: True where the policy sampled; column 0 is never sampled. temperature > 0 -> (B, T).

    By hand: V = 3, tokens (2, 0, 1), mask (no, yes, yes); the logits of column 0 are log (6, 3, 1), of column 1
    log (1, 1, 2). The token 0 in column 1 has log .6 = -.5108, the token 1 in column 2 log .25 = -1.3863, so
    (0, -.5108, -1.3863).

    Hint: log_softmax first, of logits / temperature; then shift; `gather` refuses -1, so put something legal there.
    """
    raise NotImplementedError("write this, then run the check again")
