"""Exercise logits_not_shifted: why is the ratio never 1? Silent bug, 15 minutes.

Notebooks 05 and 12. The function `scored` below computes the log-probability of each token of an episode. Correct it
in place, then run `make exercise EX=logits_not_shifted`. The check describes symptoms.
"""

import torch


def scored(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log pi(o_t | o_<t) for the tokens t = 1 .. T - 1 of one episode.

    logits (T, V): row t is the model's output after it has read the tokens 0 .. t. tokens (T,). Returns (T - 1,).
    """
    log_pi = torch.log_softmax(logits, dim=-1)
    return log_pi[torch.arange(1, len(tokens)), tokens[1:]]


# BEGIN SOLUTION
def scored(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:  # noqa: F811
    """Row t - 1 is about token t."""
    log_pi = torch.log_softmax(logits, dim=-1)
    return log_pi[torch.arange(len(tokens) - 1), tokens[1:]]


# END SOLUTION
