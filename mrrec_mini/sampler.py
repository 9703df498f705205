"""Batched token-in, token-out sampling from a causal LM, with its KV cache kept across turns.

Flow: inside the rollout. A `Sampler` holds a batch of sequences as one grid of columns. `feed` appends given tokens
(a prompt, a memory), `sample` appends drawn ones until each row met a stop token, `keep` drops rows that are done.
The rows grow at different speeds; where a row has nothing in a column, the grid has a *hole*: attention is told to
skip it and the row's position does not move. So nothing is ever moved, re-tokenised or computed twice, and the
log-probabilities are those of the plain sequence (tested against a fresh forward pass and against
`transformers.generate`). Holes take up columns, and a sliding window counts columns: a model that has one is refused
as soon as the grid is wider than its window.

Equation: p(token | past) = softmax(logits / T), drawn by the inverse of its cumulative sum from a passed generator; T
= 0 takes the largest. Paper: T = 1, no top-p, no top-k; neither is offered, since the update would have to undo it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel


class Sampler:
    """One batch of growing sequences. `generator` supplies all randomness; `temperature` 0 means greedy."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ):
        if temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {temperature}")
        if temperature > 0 and generator is None:
            raise ValueError("sampling needs a generator; temperature 0 needs none")
        self.model = model
        self.generator = generator
        self.temperature = temperature
        self.device = model.device
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("an empty prompt: there is no distribution before the first token")
        rows = len(prompts)
        self.window = getattr(model.config, "sliding_window", None)
        self.cache = DynamicCache(config=model.config)
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=self.device)  # (B, columns) 1 token, 0 hole
        self.length = torch.zeros(rows, dtype=torch.long, device=self.device)  # (B,) tokens so far = next position
        self.logits = torch.zeros(rows, model.config.vocab_size, device=self.device)  # (B, V) for the next token
        self.feed(prompts)

    @torch.no_grad()
    def feed(self, blocks: Sequence[Sequence[int]]) -> None:
        """Append one block of ids to each row (ragged, may be empty)."""
        widths = torch.tensor([len(block) for block in blocks], device=self.device)
        width = int(widths.max())
        if width == 0:
            return
        ids = torch.zeros(len(blocks), width, dtype=torch.long)
        for row, block in enumerate(blocks):
            ids[row, : len(block)] = torch.tensor(block, dtype=torch.long)
        columns = torch.arange(width, device=self.device)
        self._forward(ids.to(self.device), (columns[None, :] < widths[:, None]).long())

    @torch.no_grad()
    def sample(
        self, stop: Sequence[int], max_new: int, forbidden: Sequence[int] = ()
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Draw until a stop token or `max_new` tokens, row by row.

        Returns the drawn ids (stop token included) and their log-probabilities at this temperature (at T = 0: of the
        model itself). `forbidden` ids have probability 0; evaluation uses it, training must not, since the update
        does not know of it.
        """
        rows = len(self.length)
        stop_ids = torch.tensor(list(stop), device=self.device)
        open_rows = torch.ones(rows, dtype=torch.bool, device=self.device)
        drawn, scores, live = [], [], []
        for _ in range(max_new):
            logits = self.logits.float()
            if forbidden:
                logits = logits.index_fill(1, torch.tensor(list(forbidden), device=self.device), float("-inf"))
            logprobs = torch.log_softmax(logits / (self.temperature or 1.0), dim=-1)  # (B, V)
            if self.temperature == 0:
                token = logprobs.argmax(-1)
            else:
                cumulative = logprobs.double().exp().cumsum(-1)
                u = torch.rand(rows, 1, generator=self.generator, dtype=torch.float64, device=self.device)
                token = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).squeeze(1)
                token = token.clamp_max(logprobs.shape[1] - 1)
            drawn.append(token)
            scores.append(logprobs.gather(1, token[:, None]).squeeze(1))
            live.append(open_rows)
            self._forward(token[:, None], open_rows[:, None].long())
            open_rows = open_rows & ~torch.isin(token, stop_ids)
            if not open_rows.any():
                break
        counts = torch.stack(live, 1).sum(1).tolist()
        ids, values = torch.stack(drawn, 1).tolist(), torch.stack(scores, 1).tolist()
        return [r[:n] for r, n in zip(ids, counts, strict=True)], [r[:n] for r, n in zip(values, counts, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only (indices into the present batch)."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.length, self.logits = self.mask[index], self.length[index], self.logits[index]

    def _forward(self, ids: torch.Tensor, real: torch.Tensor) -> None:
        """Append the columns `ids` (B, w); `real` (B, w) is 1 for a token and 0 for a hole, tokens first."""
        self.mask = torch.cat([self.mask, real], 1)
        if self.window is not None and self.mask.shape[1] > self.window:
            raise ValueError(
                f"{self.mask.shape[1]} columns do not fit into the model's sliding window of {self.window}"
            )
        # a hole stays at the row's last position: one further on may lie beyond a table of learned positions
        positions = (self.length[:, None] + real.cumsum(1) - 1).clamp_min(0)
        counts = real.sum(1)
        width = int(counts.max())
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            logits_to_keep=0 if width > 1 else 1,
        )
        last = (counts - 1).clamp_min(0)
        fresh = out.logits[torch.arange(len(ids), device=self.device), last]  # (B, V) after each row's last token
        self.logits = torch.where((counts > 0)[:, None], fresh, self.logits)
        self.length = self.length + counts
