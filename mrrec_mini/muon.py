"""The optimizer of a tiny policy: Muon for the matrices of its layers, AdamW for all other weights.

Flow: `train.Trainer` makes one for its policy; `train.update_policy` makes the steps.

**Why not AdamW alone.** Whether the latest or the most frequent value of a taste is right depends on the aspect: the
color somebody likes may change from year to year, and the size never. But a small model is in nearly the same state
after "mug color" and after "mug size". So one step moves the probability of "lately" for all aspects alike, whatever
the optimizer. The policy easily settles on one rule for all aspects, and then hardly samples the other.

In a matrix of weights, the gradient of a batch is a sum of outer products. What many decisions share has a large
singular value, and what tells them apart a small one. Muon steps along a matrix with the same singular vectors, but
with all singular values 1, so that small differences count as much as what is shared:

    M <- mu M + (1 - mu) G,   U S V' = SVD(mu M + (1 - mu) G),   W <- W - rate 0.2 sqrt(max(rows, columns)) U V'

with mu = .95 (the SVD is of the next M if the gradient stays the same: Nesterov's momentum). The last factor makes the
entries of a step as large as AdamW's. In the shop, Muon tells the aspects apart within 120 steps, and AdamW is half way
there at its best rate (benchmarks/LOG.md). That the singular values are the reason is our guess.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the factor is Moonshot AI's
(arXiv 2502.16982). We use `torch.optim.Muon`, which computes U V' by five Newton-Schulz steps instead of an SVD.
Departure: the paper trains with AdamW.
"""

from __future__ import annotations

import torch
from torch import nn


class Optimizers:
    """Several optimizers, used as one. Each holds its own part of the weights."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        self.full_rates = [group["lr"] for group in self.param_groups]

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def set_share(self, share: float) -> None:
        """Set every learning rate to this share of the one at the start."""
        for group, full in zip(self.param_groups, self.full_rates, strict=True):
            group["lr"] = share * full

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make_optimizer(model, rate: float, matrix_rate: float | None = None) -> Optimizers:
    """Return AdamW with learning rate `rate`, and Muon with `matrix_rate` for the weights of the linear layers.

    AdamW has all other weights: embeddings (also where they are the output layer), biases and norms. If `matrix_rate`
    is None, AdamW has all weights. There is no weight decay.
    """
    if matrix_rate is None:
        return Optimizers(torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0))
    output = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not output]
    matrices = [module.weight for module in linear]
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return Optimizers(
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0),
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
