"""Log-probabilities, baselines and the REINFORCE loss.

Flow: the update, which turns episodes into a loss. If the current policy sampled the episodes, the negative gradient of
the loss is an estimate of the gradient of the expected reward E[r]. The value of the loss itself has no meaning.

    gradient of E[r] = E[ sum over sampled tokens t of (r - b) gradient of log pi(o_t | o_<t) ]      (Williams, 1992)
    b: "none" (0), "group" (mean reward of the query's G episodes), "leave_one_out" (mean reward of the other G - 1)

The policy did not sample the prompt and the retrieved memory. These tokens are context: the model attends to them, but
they are not in the sum (sec. 3.3). With the group mean, the gradient is (G-1)/G times the gradient with leave-one-out;
both need G >= 2.

The model processes the prompt of a group only once, as the sampler does (`_shared_prompts`). For a prompt of P tokens
and G completions of C tokens, it processes P + G C tokens instead of G (P + C); the gradient is equal up to rounding.

`grpo.py` uses `token_logprobs` too, and adds the ratio, the clip, sigma, the length rule and the KL term. The paper
trains with GRPO only; REINFORCE is simpler and comes first.
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
    """Episodes as tensors. Each group has a number; if the same query is drawn twice, it makes two groups."""

    tokens: torch.Tensor  # (B, T) right-padded with -1
    mask: torch.Tensor  # (B, T) bool, True: sampled by the policy
    old_logprobs: torch.Tensor  # (B, T) log-probabilities that the sampler recorded
    rewards: torch.Tensor  # (B,)
    groups: torch.Tensor  # (B,) the number of each episode's group
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None  # only for constrained decoding: see `token_logprobs`

    def rows(self, index: torch.Tensor) -> Batch:
        """Return a batch of the rows in `index` only, without the columns that are padding in all these rows."""
        width = int((self.tokens[index] >= 0).sum(1).max())
        pick = [t[index, :width] for t in (self.tokens, self.mask, self.old_logprobs)]
        allowed = self.allowed and (self.allowed[0][index, :width], self.allowed[1])
        return Batch(*pick, self.rewards[index], self.groups[index], allowed)


def to_batch(
    episodes: Sequence[Episode], groups: Sequence[int], device="cpu", table: torch.Tensor | None = None
) -> Batch:
    """Put episodes into tensors. The padding is on the right, so no token attends to it.

    Give `table` (S, V) bool if decoding was constrained: it says which tokens each state allows. Raises ValueError if
    there is no episode, an episode's lists differ in length or lack the states, or a reward is not finite.
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
    """Split a batch into `parts`, with the groups in order of their longest episode; return the rows of each part."""
    lengths = (batch.tokens >= 0).sum(1)
    same = batch.groups[:, None] == batch.groups[None, :]  # (B, B)
    longest = (same * lengths).amax(1)  # (B,) length of the longest episode in the row's group
    order = torch.argsort(batch.groups, stable=True)
    return torch.tensor_split(order[torch.argsort(longest[order], stable=True)], parts)


def token_logprobs(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 1.0,
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log pi of each sampled token given all tokens before, and the entropy of its distribution (no gradient).

    tokens (B, T) right-padded with -1, mask (B, T), False in column 0 -> two (B, T) tensors, 0 outside the mask.
    `allowed` is given if decoding was constrained: the state (B, T) in which each token was sampled, and a table (S, V)
    bool of the tokens that each state allows.
    """
    # 1. compute keys and values of each distinct prompt once, without its last token, which starts the rest of the row
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    length = (tokens >= 0).sum(1, keepdim=True)  # (B, 1)
    start = (mask.long().argmax(1, keepdim=True) - 1).clamp_min(0)  # (B, 1) length of the prompt without its last token
    cache, seen, start = _shared_prompts(model, tokens.masked_fill(columns >= start, -1), start)
    columns = columns[: int((length - start).max())]
    place = torch.minimum(start + columns, length - 1)  # (B, C) the columns that follow; padding repeats the last token
    # 2. the logits of column t - 1 score the token in column t. The output layer is expensive, so a hook gives it only
    # the N columns before sampled tokens. We do not call the layer ourselves: some models scale or cap its logits
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
    # 4. pick the log-probability of each sampled token and put it back in its row and column
    chosen = log_pi.gather(1, tokens[at][:, None]).squeeze(1)  # (N,)
    with torch.no_grad():
        entropy = torch.special.entr(log_pi.exp()).sum(-1)
    empty = torch.zeros(mask.shape, device=mask.device)
    return empty.index_put(at, chosen), empty.index_put(at, entropy)


def _shared_prompts(
    model: PreTrainedModel, prompts: torch.Tensor, length: torch.Tensor
) -> tuple[Cache | None, torch.Tensor, torch.Tensor]:
    """Process each distinct prompt once and copy its keys and values to all its rows. Gradients flow through the copy.

    prompts (B, T) right-padded with -1, their length (B, 1) -> the cache of each row's prompt, its attention mask
    (B, P), and the number of cached tokens (B, 1). The result is exact, since a prompt does not attend to later tokens.
    If no two prompts are equal, nothing is cached: one pass is cheaper than two.
    """
    # keep at least one column: `unique` raises an error for an empty tensor
    distinct, row = torch.unique(prompts[:, : max(1, int(length.max()))], dim=0, return_inverse=True)  # (n, P), (B,)
    if len(distinct) == len(prompts) or not length.any():
        return None, prompts[:, :0], torch.zeros_like(length)
    seen = (distinct >= 0).long()
    out = model(input_ids=distinct.clamp_min(0), attention_mask=seen, use_cache=True, logits_to_keep=1)
    out.cache.batch_select_indices(row)
    return out.cache, seen[row], length


def baseline(rewards: torch.Tensor, groups: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the baseline b of each episode (B,): 0, the mean reward of its group, or that of the group's others."""
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
    """Return for each row the sum of `values` (B,) over the rows of its group, (B,)."""
    same = groups[:, None] == groups[None, :]  # (B, B)
    return same.to(values.dtype) @ values


def group_lead(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return for each value (B,) the sum of (this value - other value) over all n values of its group, (B,).

    The sum divided by n is the value minus the group's mean. Divided by n - 1, it is the value minus the mean of the
    others. For equal values the sum is exactly 0; value - mean may not be, because the mean of floats is rounded.
    """
    same = groups[:, None] == groups[None, :]  # (B, B)
    return ((values[:, None] - values[None, :]) * same).sum(1)


def reinforce_loss(logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """Return the loss - 1/B sum over episodes i and sampled tokens t of A_i log pi(o_t).   (Williams, 1992)

    logprobs (b, T), advantages A (b,) or (b, T), mask (b, T). `episodes` is B, the number of episodes in the whole
    batch, so the losses of the micro-batches add up to the loss of the batch.
    """
    return -(per_token(advantages) * logprobs * mask).sum() / episodes


def per_token(advantages: torch.Tensor) -> torch.Tensor:
    """Return advantages per episode (b,) as (b, 1); return advantages per token (b, T) unchanged."""
    return advantages if advantages.dim() == 2 else advantages[:, None]
