"""Batched token-in, token-out sampling from a causal LM, with its KV cache kept across turns.

Flow: inside the rollout. A `Sampler` holds a batch of sequences as one grid of columns. `feed` appends given tokens
(a prompt, a memory), `sample` draws tokens until each row has a stop token, `keep` drops finished rows. Rows grow at
different speeds. If a row has no token in a column, the grid has a *hole* there: attention ignores the hole, and the
position of the row does not increase. So no token is ever moved, re-tokenised or computed twice, and the
log-probabilities are the same as for the sequence without holes (tested against a fresh forward pass and against
`transformers.generate`). A sliding window counts columns, holes included: if a model has such a window, the sampler
refuses a wider grid.

We save time in three ways, which change only the last digits of a result. Equal prompts (those of a group) are computed
once and copied. Rows with a stop token leave the forward passes of the turn when half of the batch has stopped. The
cache is written in place (`Columns`).

Equation: p(token | past) = softmax(logits / T) at temperature T. A token is drawn by inverting the cumulative sum of p
at a uniform random number; T = 0 takes the most probable token. All uniform numbers of a turn (rows x `max_new`) are
drawn before it starts, so the draws of a row do not depend on when other rows stop. They are drawn on the CPU, wherever
the model is: the same seed gives the same numbers on every device, and a run can move to another device between steps.
Paper: T = 1, no top-p, no top-k. We offer neither, since the update would have to take it into account.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ALL = slice(None)  # as an index: all rows, without a copy


class Columns(DynamicLayer):
    """The cache of one layer: keys and values (B, heads, room, d). `columns` are used; room doubles when full.

    transformers' own layer concatenates, which copies the whole cache for every token. A forward pass may run on only
    some of the rows; the others then get a hole. Such a hole contains zeros: attention weight 0 x nan would be nan.
    """

    columns = 0
    rows: slice | torch.Tensor = ALL  # the rows of the next forward pass

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values (b, heads, w, d) to the b rows in `rows`; return all columns of these rows."""
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = keys[:, :, :0], values[:, :, :0], True
        start, end = self.columns, self.columns + keys.shape[2]
        if end > self.keys.shape[2]:
            more = (0, 0, 0, 2 * end - self.keys.shape[2])
            self.keys, self.values = pad(self.keys, more), pad(self.values, more)
        self.keys[self.rows, :, start:end] = keys
        self.values[self.rows, :, start:end] = values
        self.columns = end
        return self.keys[self.rows, :, :end], self.values[self.rows, :, :end]

    def get_seq_length(self) -> int:
        return self.columns


class Sampler:
    """One batch of growing sequences. `generator` (on the CPU) supplies all randomness; `temperature` 0: greedy."""

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
        self.model, self.device, self.generator, self.temperature = model, model.device, generator, temperature
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("an empty prompt: there is no distribution before the first token")
        distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        rows = len(distinct)
        self.window = getattr(model.config, "sliding_window", None)
        self.cache = Cache(layer_class_to_replicate=Columns)
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=self.device)  # (B, columns) 1 token, 0 hole
        self.length = torch.zeros(rows, dtype=torch.long, device=self.device)  # (B,) tokens so far = next position
        self.logits = torch.zeros(rows, model.config.vocab_size, device=self.device)  # (B, V) for the next token
        self.feed(list(distinct))
        self.keep([distinct[tuple(prompt)] for prompt in prompts])

    @torch.no_grad()
    def feed(self, blocks: Sequence[Sequence[int]]) -> None:
        """Append one block of ids to each row. Blocks may have different lengths and may be empty."""
        widths = torch.tensor([len(block) for block in blocks], device=self.device)
        width = int(widths.max())
        if width == 0:
            return
        ids = torch.tensor([[*block, *[0] * (width - len(block))] for block in blocks], device=self.device)
        columns = torch.arange(width, device=self.device)
        self._forward(ids, (columns[None, :] < widths[:, None]).long())

    @torch.no_grad()
    def sample(
        self,
        stop: Sequence[int],
        max_new: int,
        forbidden: Sequence[int] = (),
        allowed: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Draw tokens for each row until a stop token or `max_new` tokens.

        Returns for each row the drawn ids (stop token included) and their log-probabilities at this temperature (at
        T = 0: those at T = 1). Ids in `forbidden` get probability 0. Training must not use it, since the
        update ignores it. `allowed` constrains decoding (`constrain.py`): the first state of each row (rows,), a table
        (S, V) bool of the tokens that each state allows, and a table (S, V) of the state after each token. Then
        `self.states` holds the state in which each id was drawn, so that the update can apply the same mask.
        """
        rows = len(self.length)
        stop_ids, never = (torch.tensor(list(i), dtype=torch.long, device=self.device) for i in (stop, forbidden))
        ids: list[list[int]] = [[] for _ in range(rows)]
        scores: list[list[float]] = [[] for _ in range(rows)]
        self.states: list[list[int]] = [[] for _ in range(rows)]  # stay empty in free decoding
        if allowed is not None:
            state, table, after = (part.to(self.device) for part in allowed)  # state (b,): of rows that still draw
        # all random numbers of the turn at once: a row's draws do not depend on the other rows
        if self.temperature > 0:
            u = torch.rand(max_new, rows, generator=self.generator, dtype=torch.float64).to(self.device)
        still = torch.arange(rows, device=self.device)  # (b,) rows without a stop token
        for step in range(max_new):
            # 1. the next token's logits (b, V): -inf for each token that must not come
            logits = self.logits[still].float().index_fill(1, never, float("-inf"))
            if allowed is not None:
                logits = logits.masked_fill(~table[state], float("-inf"))
            # 2. draw one token per row, and save it with its log-probability
            logprobs = torch.log_softmax(logits / (self.temperature or 1.0), dim=-1)  # (b, V)
            token = draw(logprobs, u[step, still]) if self.temperature > 0 else logprobs.argmax(-1)  # (b,)
            score = logprobs.gather(1, token[:, None]).squeeze(1)
            for row, i, value in zip(still.tolist(), token.tolist(), score.tolist(), strict=True):
                ids[row].append(i)
                scores[row].append(value)
            # 3. the model reads the tokens, also stop tokens: the next turn sees them
            column = token[:, None]
            self._forward(column, torch.ones_like(column), ALL if len(still) == rows else still)
            # 4. rows that drew a stop token are finished; the others move to their next state
            going = ~torch.isin(token, stop_ids)
            if allowed is not None:
                for row, value in zip(still.tolist(), state.tolist(), strict=True):
                    self.states[row].append(value)
                state = after[state, token].long()[going]
            still = still[going]
            if not len(still):
                break
        return ids, scores

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows (indices into the current batch); repeat an index to copy a row."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.length, self.logits = self.mask[index], self.length[index], self.logits[index]

    def _forward(self, ids: torch.Tensor, real: torch.Tensor, rows: slice | torch.Tensor = ALL) -> None:
        """Append the columns `ids` (b, w) to `rows`, and holes to the other rows.

        `real` (b, w) is 1 for a token and 0 for a hole. In each row the tokens come first.
        """
        columns = self.mask.new_zeros(len(self.mask), ids.shape[1])
        if rows is not ALL and 2 * len(rows) > len(columns):
            # selecting rows copies their cache at every step; if most rows still draw, run all, the rest with holes
            ids, real, rows = columns.index_copy(0, rows, ids), columns.index_copy(0, rows, real), ALL
        columns[rows] = real
        self.mask = torch.cat([self.mask, columns], 1)
        width = self.mask.shape[1]
        if self.window is not None and width > self.window:
            raise ValueError(f"{width} columns do not fit into the model's sliding window of {self.window}")
        # a hole gets the row's last position: the next position may be outside a table of learned positions
        positions = (self.length[rows, None] + real.cumsum(1) - 1).clamp_min(0)
        counts = real.sum(1)
        # logits are as wide as the vocabulary: compute them only in columns that hold the last token of a row
        ends, end_of_row = (counts - 1).clamp_min(0).unique(return_inverse=True)
        for layer in self.cache.layers:
            layer.rows = rows
        inputs = {"input_ids": ids, "attention_mask": self.mask[rows], "position_ids": positions}
        out = self.model(**inputs, cache=self.cache, logits_to_keep=ends)
        fresh = out.logits[torch.arange(len(ids), device=self.device), end_of_row]  # (b, V) after each row's last token
        self.logits[rows] = torch.where((counts > 0)[:, None], fresh.to(self.logits.dtype), self.logits[rows])
        self.length[rows] += counts


def draw(logprobs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return ids (b,): for each row the first id whose cumulative probability exceeds `u`.

    logprobs (b, V), u (b,) uniform in [0, 1). The sum is in float64: in float32 a rare token late in a large
    vocabulary would not increase it.
    """
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return token.clamp_max(logprobs.shape[1] - 1)
