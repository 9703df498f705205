"""Log-probabilities, baselines and the REINFORCE loss.

Flow: the update. It turns episodes into a loss. *On episodes sampled by this very policy*, the gradient of that loss
estimates the gradient of the expected reward. The loss value itself means nothing.

    gradient of E[r] = E[ sum over sampled tokens t of (r - b) gradient of log pi(o_t | o_<t) ]      (Williams, 1992)
    b: "none" (0), "group" (mean of the episodes of the same query), "leave_one_out" (mean of the others of that query)

Tokens that the policy did not sample (prompt, retrieved memory) are context: they are attended to and are not in the
sum (sec. 3.3). Subtracting the group mean keeps the direction and shrinks the step by (G-1)/G against leave-one-out;
both need G >= 2.

The prompt of a group is computed once, in the update as in the sampler (`_shared_prompts`): G (P + C) tokens become
P + G C for a prompt of P and G completions of C tokens, with the same gradient up to rounding.

`grpo.py` uses `token_logprobs` too; it adds the ratio, the clip, sigma, the length rule and the KL. The paper trains
with GRPO only; REINFORCE is simpler and comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache, PreTrainedModel

from mrrec_mini.datatypes import Episode

BASELINES = ("none", "group", "leave_one_out")


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors. Groups are numbers, not texts: a query drawn twice makes two groups."""

    tokens: torch.Tensor  # (B, T) right-padded with -1
    mask: torch.Tensor  # (B, T) bool, True: sampled by the policy
    old_logprobs: torch.Tensor  # (B, T) the sampler's
    rewards: torch.Tensor  # (B,)
    groups: torch.Tensor  # (B,) number of the group
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None  # constrained decoding: see `token_logprobs`

    def rows(self, index: torch.Tensor) -> Batch:
        """Some of its rows, cut to the longest of them."""
        width = int((self.tokens[index] >= 0).sum(1).max())
        pick = [t[index, :width] for t in (self.tokens, self.mask, self.old_logprobs)]
        allowed = self.allowed and (self.allowed[0][index, :width], self.allowed[1])
        return Batch(*pick, self.rewards[index], self.groups[index], allowed)


def to_batch(
    episodes: Sequence[Episode], groups: Sequence[int], device="cpu", table: torch.Tensor | None = None
) -> Batch:
    """Pack episodes. Padding lies to the right, so no token can see it.

    `table` (S, V) bool: the constraint under which the episodes were sampled, if there was one. Raises ValueError if
    there is no episode, the lists of an episode differ in length, or a reward is not finite.
    """
    if not episodes:
        raise ValueError("a batch needs at least one episode")
    for e in episodes:
        if not len(e.tokens) == len(e.mask) == len(e.logprobs):
            raise ValueError(f"episode of query {e.query.id}: tokens, mask and logprobs differ in length")
        if table is not None and len(e.states) != len(e.tokens):
            raise ValueError(f"episode of query {e.query.id}: it has no states, so decoding was not constrained")
        if not torch.isfinite(torch.tensor(e.reward)):
            raise ValueError(f"episode of query {e.query.id}: the reward is {e.reward}, not a finite number")
    width = max(len(e.tokens) for e in episodes)

    def packed(name: str, padding: float, dtype: torch.dtype) -> torch.Tensor:
        rows = [list(getattr(e, name)) for e in episodes]
        padded = [row + [padding] * (width - len(row)) for row in rows]
        return torch.tensor(padded, dtype=dtype, device=device)  # (B, T)

    return Batch(
        packed("tokens", -1, torch.long),
        packed("mask", 0, torch.bool),
        packed("logprobs", 0.0, torch.float32),
        torch.tensor([e.reward for e in episodes], dtype=torch.float32, device=device),
        torch.tensor(list(groups), device=device),
        None if table is None else (packed("states", 0, torch.long), table.to(device)),
    )


def rows_by_length(batch: Batch, parts: int) -> tuple[torch.Tensor, ...]:
    """Split the rows of a batch into parts of similar length, whole groups side by side; returns their row numbers."""
    lengths = (batch.tokens >= 0).sum(1)
    same = batch.groups[:, None] == batch.groups[None, :]  # (B, B)
    longest = (same * lengths).amax(1)  # of the group
    order = torch.argsort(batch.groups, stable=True)
    return torch.tensor_split(order[torch.argsort(longest[order], stable=True)], parts)


def token_logprobs(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 1.0,
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi of each sampled token given all tokens before it, and the entropy of its distribution (no gradient).

    tokens (B, T) right-padded with -1, mask (B, T), False in column 0 -> two (B, T) tensors, 0 outside the mask.
    `allowed`, if decoding was constrained: the state (B, T) in which each token was sampled, and a table (S, V) bool
    of the tokens that each state allows.
    """
    # 1. keys and values of the prompts, each different prompt once; what follows a prompt starts at its last token
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    length = (tokens >= 0).sum(1, keepdim=True)  # (B, 1)
    start = (mask.long().argmax(1, keepdim=True) - 1).clamp_min(0)  # (B, 1) the prompt without its last token
    cache, seen, start = _shared_prompts(model, tokens.masked_fill(columns >= start, -1), start)
    columns = columns[: int((length - start).max())]
    place = torch.minimum(start + columns, length - 1)  # (B, C) the columns that follow; padding repeats the last token
    # 2. the token in column t is scored by the logits of column t - 1. The output layer is as wide as the vocabulary,
    # so it sees only the N columns before sampled tokens: by a hook, since some models scale or cap their logits later
    scored = (mask.gather(1, place) & (columns < length - start))[:, 1:]  # (B, C - 1)
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, hidden: hidden[0][:, :-1][scored])
    attention = None if cache is None else torch.cat([seen, torch.ones_like(place)], 1)
    inputs = {"input_ids": tokens.gather(1, place), "attention_mask": attention, "position_ids": place}
    try:
        out = model(**inputs, cache=cache, use_cache=False)
    finally:
        hook.remove()
    # 3. the policy is the softmax at the sampler's temperature, over the tokens that the sampler could draw
    at = torch.nonzero(scored)[:, 0], place[:, 1:][scored]  # row and column of each sampled token
    logits = out.logits.float() / temperature  # (N, V)
    if allowed is not None:
        states, table = allowed
        logits = logits.masked_fill(~table[states[at]], float("-inf"))
    log_pi = torch.log_softmax(logits, -1)
    # 4. one number per sampled token, put back in its place
    chosen = log_pi.gather(1, tokens[at][:, None]).squeeze(1)  # (N,)
    with torch.no_grad():
        entropy = torch.special.entr(log_pi.exp()).sum(-1)
    empty = torch.zeros(mask.shape, device=mask.device)
    return empty.index_put(at, chosen), empty.index_put(at, entropy)


def _shared_prompts(
    model: PreTrainedModel, prompts: torch.Tensor, length: torch.Tensor
) -> tuple[Cache | None, torch.Tensor, torch.Tensor]:
    """Compute equal prompts (a group's) once; the gradients of all their episodes flow back into that one.

    prompts (B, T) right-padded with -1, their length (B, 1) -> the cache of each row's prompt, its attention mask
    (B, P), and the number of cached tokens (B, 1). Exact, since a prompt cannot see what follows it. If no two prompts
    are equal nothing is cached: one pass is cheaper than two.
    """
    # at least one column: `unique` refuses an empty tensor
    distinct, row = torch.unique(prompts[:, : max(1, int(length.max()))], dim=0, return_inverse=True)  # (n, P), (B,)
    if len(distinct) == len(prompts) or not length.any():
        return None, prompts[:, :0], torch.zeros_like(length)
    seen = (distinct >= 0).long()
    out = model(input_ids=distinct.clamp_min(0), attention_mask=seen, use_cache=True, logits_to_keep=1)
    out.cache.batch_select_indices(row)
    return out.cache, seen[row], length


def baseline(rewards: torch.Tensor, groups: torch.Tensor, kind: str) -> torch.Tensor:
    """(B,) b of each episode: 0, the mean of its group, or the mean of the others in its group."""
    if kind == "none":
        return torch.zeros_like(rewards)
    if kind not in BASELINES:
        raise ValueError(f"baseline must be one of {BASELINES}, got {kind!r}")
    lead, count = group_lead(rewards, groups), group_sums(torch.ones_like(rewards), groups)
    if kind == "group":
        return rewards - lead / count
    if (count < 2).any():
        raise ValueError("leave_one_out needs at least two episodes in each group")
    return rewards - lead / (count - 1)


def group_sums(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(B,) for each row, the sum of `values` over its group."""
    same = groups[:, None] == groups[None, :]  # (B, B)
    return same.to(values.dtype) @ values


def group_lead(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(B,) the sum of a value's differences to all n values of its group.

    Divided by n it is the distance to the group's mean, divided by n - 1 the distance to the mean of the others. Unlike
    value minus mean, it is exactly 0 for equal values: the mean of equal floats can be off in the last digit.
    """
    same = groups[:, None] == groups[None, :]  # (B, B)
    return ((values[:, None] - values[None, :]) * same).sum(1)


def reinforce_loss(logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """- 1/B sum over episodes and sampled tokens of A_i log pi(o_t).   (Williams, 1992)

    logprobs (b, T), advantages (b,) or (b, T), mask (b, T). `episodes` is B of the whole batch, so the losses of
    micro-batches add up.
    """
    return -(per_token(advantages) * logprobs * mask).sum() / episodes


def per_token(advantages: torch.Tensor) -> torch.Tensor:
    """Advantages per episode (b,) become (b, 1); advantages per token (b, T) stay as they are."""
    return advantages if advantages.dim() == 2 else advantages[:, None]
