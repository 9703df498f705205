"""Log-probabilities, baselines and the REINFORCE loss.

Flow: the update. Episodes come in, a loss goes out whose gradient, *on episodes that this very policy sampled*, is an
estimate of the gradient of the expected reward. Its value means nothing; only its gradient does.

    gradient of E[r] = E[ sum over sampled tokens t of (r - b) gradient of log pi(o_t | o_<t) ]      (Williams, 1992)
    b: "none" (0), "group" (mean of the episodes of the same query), "leave_one_out" (mean of the others of that query)

Tokens that the policy did not sample (prompt, retrieved memory) are context: they are attended to and never appear in
the sum (sec. 3.3). Subtracting the group mean keeps the direction and shrinks the step by (G-1)/G against
leave-one-out; both need G >= 2.

The prompt of a group is computed once, in the update as in the sampler (`_shared_prompts`): G (P + C) tokens become
P + G C for a prompt of P and G completions of C tokens, with the same gradient to rounding.

`token_logprobs` is shared with `grpo.py`, whose file differs from this one by the ratio, the clip, sigma, the length
rule and the KL. Paper: trains with GRPO only; REINFORCE is the simpler teacher that stands before it.
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
    """Episodes as tensors. Groups are given by number, not by text: the same query drawn twice makes two groups."""

    tokens: torch.Tensor  # (B, T) right-padded
    mask: torch.Tensor  # (B, T) bool, True: sampled by the policy
    old_logprobs: torch.Tensor  # (B, T) the sampler's
    rewards: torch.Tensor  # (B,)
    groups: torch.Tensor  # (B,) number of the group
    states: torch.Tensor | None = None  # (B, T) under constrained decoding: the state in which a token was sampled
    table: torch.Tensor | None = None  # (S, V) bool: what each state leaves to be sampled

    @property
    def allowed(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What `token_logprobs` has to know of constrained decoding."""
        return None if self.states is None else (self.states, self.table)

    def rows(self, index: torch.Tensor) -> Batch:
        """Some of its rows, cut to the longest of them."""
        lengths = self.tokens.shape[1] - (self.tokens[index] != -1).flip(1).long().argmax(1)
        width = int(lengths.max())
        pick = [t[index, :width] for t in (self.tokens, self.mask, self.old_logprobs)]
        states = None if self.states is None else self.states[index, :width]
        return Batch(*pick, self.rewards[index], self.groups[index], states, self.table)


def to_batch(episodes: Sequence[Episode], groups: Sequence[int], device: torch.device | str = "cpu") -> Batch:
    """Pack episodes. Padding is -1 in `tokens`; it lies to the right, so that no token can see it.

    ValueError where an episode's lists differ in length, a reward is not finite, or there is no episode.
    """
    if not episodes:
        raise ValueError("a batch needs at least one episode")
    for e in episodes:
        if not len(e.tokens) == len(e.mask) == len(e.logprobs):
            raise ValueError(f"episode of query {e.query.id}: tokens, mask and logprobs differ in length")
        if not torch.isfinite(torch.tensor(e.reward)):
            raise ValueError(f"episode of query {e.query.id}: the reward is {e.reward}, not a finite number")
    width = max(len(e.tokens) for e in episodes)
    tokens = torch.full((len(episodes), width), -1, dtype=torch.long)
    mask = torch.zeros(len(episodes), width, dtype=torch.bool)
    logprobs = torch.zeros(len(episodes), width)
    for row, e in enumerate(episodes):
        n = len(e.tokens)
        tokens[row, :n] = torch.tensor(e.tokens)
        mask[row, :n] = torch.tensor(e.mask, dtype=torch.bool)
        logprobs[row, :n] = torch.tensor(e.logprobs)
    rewards = torch.tensor([e.reward for e in episodes], dtype=torch.float32)
    batch = Batch(tokens, mask, logprobs, rewards, torch.tensor(list(groups)))
    return Batch(*(t.to(device) for t in (batch.tokens, batch.mask, batch.old_logprobs, batch.rewards, batch.groups)))


def rows_by_length(batch: Batch, parts: int) -> tuple[torch.Tensor, ...]:
    """The row numbers of a batch in parts of like length, each padded to its own longest; groups stay together."""
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
    """log pi of each sampled token given all before it, and the entropy where it was drawn.

    tokens (B, T) right-padded with -1, mask (B, T), False in column 0 -> two (B, T) tensors, 0 outside the mask. The
    token in column t is scored by the logits of column t-1. The output layer sees only the columns before sampled
    ones, N of them: it is as wide as the vocabulary. `allowed`, where decoding was constrained: states (B, T) and a
    table (S, V) bool of what each leaves to be sampled. The entropy carries no gradient.
    """
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    length = (tokens >= 0).sum(1, keepdim=True)  # (B, 1)
    start = (mask.long().argmax(1, keepdim=True) - 1).clamp_min(0)  # (B, 1) the prompt without its last token
    cache, seen, start = _shared_prompts(model, tokens.masked_fill(columns >= start, -1), start)
    columns = columns[: int((length - start).max())]
    place = torch.minimum(start + columns, length - 1)  # (B, C) what follows; padding repeats the last token
    scored = (mask.gather(1, place) & (columns < length - start))[:, 1:]  # (B, C - 1)
    # a hook, and not a call of the output layer: some models scale or cap their logits behind it
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, hidden: hidden[0][:, :-1][scored])
    try:
        out = model(
            input_ids=tokens.gather(1, place),
            attention_mask=None if cache is None else torch.cat([seen, torch.ones_like(place)], 1),
            position_ids=place,
            cache=cache,
            use_cache=False,
        )
    finally:
        hook.remove()
    at = torch.nonzero(scored)[:, 0], place[:, 1:][scored]
    logits = out.logits.float() / temperature  # (N, V)
    if allowed is not None:
        states, table = allowed
        logits = logits.masked_fill(~table[states[at]], float("-inf"))
    log_pi = torch.log_softmax(logits, -1)
    chosen = log_pi.gather(1, tokens[at][:, None]).squeeze(1)  # (N,)
    with torch.no_grad():
        entropy = torch.special.entr(log_pi.exp()).sum(-1)
    empty = torch.zeros(mask.shape, device=mask.device)
    return empty.index_put(at, chosen), empty.index_put(at, entropy)


def _shared_prompts(
    model: PreTrainedModel, prompts: torch.Tensor, length: torch.Tensor
) -> tuple[Cache | None, torch.Tensor, torch.Tensor]:
    """Equal prompts, a group's, are computed once, and gradients of all its episodes flow back into that one.

    prompts (B, T) right-padded with -1, their length (B, 1) -> keys and values of each row's prompt, where it has
    tokens (B, P), and how many of them are in the cache (B, 1). Exact, for a prompt cannot see what follows it. Where
    no two are equal nothing is cached: one pass is cheaper than two.
    """
    # at least one column, since there is no unique of nothing
    distinct, row = torch.unique(prompts[:, : max(1, int(length.max()))], dim=0, return_inverse=True)  # (n, P), (B,)
    if len(distinct) == len(prompts) or not length.any():
        return None, prompts[:, :0], torch.zeros_like(length)
    seen = (distinct >= 0).long()
    out = model(input_ids=distinct.clamp_min(0), attention_mask=seen, use_cache=True, logits_to_keep=1)
    out.cache.batch_select_indices(row)
    return out.cache, seen[row], length


def baseline(rewards: torch.Tensor, groups: torch.Tensor, kind: str) -> torch.Tensor:
    """(B,) b of each episode: 0, the mean of its group, or the mean of the others of its group."""
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
    """(B,) for each row the sum of `values` over the rows of its group."""
    same = groups[:, None] == groups[None, :]  # (B, B)
    return same.to(values.dtype) @ values


def group_lead(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(B,) the sum of a value's differences to all values of its group.

    Divided by n it is the distance to the group's mean, divided by n - 1 the distance to the mean of the others.

    Written so, and not as value minus mean, because the mean of equal floats can be off in the last place: equal
    values give exactly 0.
    """
    same = groups[:, None] == groups[None, :]  # (B, B)
    return ((values[:, None] - values[None, :]) * same).sum(1)


def reinforce_loss(logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """- 1/B sum over episodes and sampled tokens of A_i log pi(o_t).   (Williams, 1992)

    logprobs (b, T), advantages (b,) or (b, T), mask (b, T); `episodes` = B, of the whole batch, so that the losses of
    micro-batches add up.
    """
    return -(per_token(advantages) * logprobs * mask).sum() / episodes


def per_token(advantages: torch.Tensor) -> torch.Tensor:
    """One advantage an episode (b,) as (b, 1); one a token (b, T) as it is."""
    return advantages if advantages.dim() == 2 else advantages[:, None]
