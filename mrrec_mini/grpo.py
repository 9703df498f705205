"""GRPO: group advantages, ratio, clip, length rule, KL; each choice an argument (eq. 11).

Flow: the update, one step beyond `reinforce.py`.

    A_i = (r_i - mean of the group) / sigma of the group           the same for every token of episode i (sec. 3.3)
    ratio_t = pi(o_t) / pi_old(o_t)                                or one for the whole episode
    J = mean over sampled tokens of min(ratio_t A_i, clip(ratio_t, 1 - low, 1 + high) A_i)
        - beta KL(pi || pi_ref)                                                                     Eq. (11)

Well-known libraries implement different versions of GRPO. Here an argument chooses the version:

    sigma   "none" (default), "group" (n - 1), "population" (n); + 1e-4. The paper divides by sigma; guessed: "group"
    length  "token" (default, the paper's): mean over all tokens of the batch; "sequence": mean over an episode, then
            over episodes; "constant": sum / (B x max_tokens). TRL calls these three dapo, grpo and dr_grpo. TRL's bnpo
            (mean over the tokens of a micro-batch) is left out: its result depends on how the batch is split
    ratio   "token" (default, the paper's); "sequence": geometric mean of an episode's ratios (GSPO: Zheng et al.,
            2025), so that the episode is clipped as a whole or not at all
    clip    (low, high), default (.2, .28); the paper has one epsilon and does not give its value
    beta    weight of the KL to a frozen reference, default 0; the paper does not give it
    epochs  updates per batch of episodes; with 1 (default) the ratio is 1 and nothing is clipped; not in the paper

Departure, and why: sigma "none". After the division, the only success among 8 episodes has 2.6 times the advantage of
each of 4 successes among 8. If all rewards are nearly equal, the division enlarges their noise to a full step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mrrec_mini import reinforce
from mrrec_mini.reinforce import group_lead, group_sums, per_token

SIGMAS = ("none", "group", "population")
LENGTHS = ("token", "sequence", "constant")
RATIOS = ("token", "sequence")


@dataclass(frozen=True)
class GRPOConfig:
    """The choices listed above."""

    sigma: str = "none"
    length: str = "token"
    ratio: str = "token"
    clip: tuple[float, float] = (0.2, 0.28)
    beta: float = 0.0
    epochs: int = 1
    max_tokens: int = 128  # the constant of the length rule "constant"

    def __post_init__(self) -> None:
        for name, choices in (("sigma", SIGMAS), ("length", LENGTHS), ("ratio", RATIOS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.beta < 0 or self.epochs < 1 or min(self.clip) < 0:
            raise ValueError("beta and clip must be >= 0, epochs >= 1")


def group_advantages(rewards: torch.Tensor, groups: torch.Tensor, sigma: str) -> torch.Tensor:
    """Return A_i = (r_i - mean r) / sigma over episode i's group, (B,) (sec. 3.3). Equal rewards give exactly 0.

    Raises ValueError if a group has only one episode: there is nothing to compare it with.
    """
    count = group_sums(torch.ones_like(rewards), groups)
    if (count < 2).any():
        raise ValueError("GRPO needs at least two episodes in each group")
    centred = group_lead(rewards, groups) / count
    if sigma == "none":
        return centred
    freedom = count - 1 if sigma == "group" else count
    return centred / ((group_sums(centred**2, groups) / freedom).sqrt() + 1e-4)


def importance_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor, kind: str) -> torch.Tensor:
    """Return pi / pi_old of each token, (B, T); for "sequence", their geometric mean over an episode's mask, (B, 1).

    Their product could leave the clip range in a long episode, even if each ratio is close to 1.
    """
    log_ratio = logprobs - old_logprobs
    if kind == "token":
        return torch.exp(log_ratio)
    mask = mask.to(logprobs.dtype)
    return torch.exp((log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1))


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, clip: tuple[float, float]) -> torch.Tensor:
    """Return min(ratio A, clip(ratio, 1 - low, 1 + high) A) of each token or episode.   Eq. (11), inner part"""
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    advantages = per_token(advantages)
    return torch.minimum(ratio * advantages, clipped * advantages)


def kl_term(logprobs: torch.Tensor, reference: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Return k3 times the ratio, (B, T): an estimate of KL(pi || pi_ref) for each token.

    k3 = exp(d) - d - 1 with d = log pi_ref - log pi (Schulman, 2020). The gradient of k3 alone is that of the *forward*
    KL(pi_ref || pi), another objective; with the ratio of each token, it is the gradient of KL(pi || pi_ref).
    """
    d = reference - logprobs
    return (torch.exp(d) - d - 1) * ratio


def ratio_log(pieces: Sequence[tuple], config: GRPOConfig, episodes: int, tokens: int) -> dict[str, float]:
    """Return kl and clip_ratio of a batch as TRL defines them. A piece is (logprobs, frozen or None, batch, credit).

    A token (with config.ratio "sequence", an episode) is clipped if the clip changes its term of the loss: its ratio is
    too low and its advantage negative, or the ratio is too high and the advantage positive. kl is the loss's estimate.
    """
    log = dict.fromkeys(("kl", "clip_ratio/low_mean", "clip_ratio/high_mean"), 0.0)
    for logprobs, frozen, part, credit in pieces:  # (b, T), (b, T), b episodes, (b, 1) or (b, T)
        old = torch.where(part.mask, part.old_logprobs, logprobs)
        ratio = importance_ratio(logprobs, old, part.mask, config.ratio)  # (b, T) or (b, 1)
        counted, total = (part.mask, tokens) if ratio.shape[1] > 1 else (torch.ones_like(ratio, dtype=bool), episodes)
        log["clip_ratio/low_mean"] += float(((ratio < 1 - config.clip[0]) & (credit < 0) & counted).sum()) / total
        log["clip_ratio/high_mean"] += float(((ratio > 1 + config.clip[1]) & (credit > 0) & counted).sum()) / total
        if frozen is not None:
            log["kl"] += float(kl_term(logprobs, frozen, ratio)[part.mask].sum()) / tokens
    return log


def length_weights(mask: torch.Tensor, rule: str, episodes: int, tokens: int, max_tokens: int) -> torch.Tensor:
    """Return each token's weight in the loss, (b, T). The batch has `episodes` episodes and `tokens` sampled tokens."""
    if rule == "token":
        return mask / max(tokens, 1)
    if rule == "sequence":
        return mask / mask.sum(1, keepdim=True).clamp_min(1) / episodes
    return mask / (episodes * max_tokens)


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    config: GRPOConfig,
    episodes: int,
    tokens: int,
    reference: torch.Tensor | None = None,
    *,
    importance_ratio: Callable = importance_ratio,
    clipped_surrogate: Callable = clipped_surrogate,
    kl_term: Callable = kl_term,
    length_weights: Callable = length_weights,
) -> torch.Tensor:
    """Return -J for a micro-batch; the losses of the micro-batches add up to the loss of the batch.   Eq. (11)

    logprobs, old_logprobs, mask, reference (b, T); advantages (b,) or (b, T). `episodes` and `tokens` count the whole
    batch. Values outside the mask change neither the loss nor its gradient. The last four arguments are the formulas
    that the loss calls. Raises ValueError if beta > 0 and there is no reference.
    """
    keep = mask.bool()
    old = torch.where(keep, old_logprobs, logprobs.detach())
    ratio = importance_ratio(logprobs, old, keep, config.ratio)
    objective = clipped_surrogate(ratio, advantages, config.clip)
    if config.beta:
        if reference is None:
            raise ValueError("beta > 0 needs the log-probabilities of a reference model")
        frozen = torch.where(keep, reference, logprobs.detach())
        objective = objective - config.beta * kl_term(logprobs, frozen, ratio)
    weights = length_weights(mask.to(logprobs.dtype), config.length, episodes, tokens, config.max_tokens)
    return -(objective * weights).sum()


PARTS = ("importance_ratio", "clipped_surrogate", "kl_term", "length_weights")  # of `grpo_loss`


@dataclass(frozen=True)
class Formulas:
    """The functions that compute an update, in one object, so that a student can replace any of them."""

    token_logprobs: Callable = reinforce.token_logprobs
    baseline: Callable = reinforce.baseline
    reinforce_loss: Callable = reinforce.reinforce_loss
    group_advantages: Callable = group_advantages
    importance_ratio: Callable = importance_ratio
    clipped_surrogate: Callable = clipped_surrogate
    kl_term: Callable = kl_term
    length_weights: Callable = length_weights
    grpo_loss: Callable = grpo_loss

    @property
    def parts(self) -> dict[str, Callable]:
        """Return the formulas to pass to `grpo_loss` as arguments; {} for a student's loss, which calls its own."""
        return {name: getattr(self, name) for name in PARTS} if self.grpo_loss is grpo_loss else {}
