"""Batched token-in, token-out sampling from a causal LM, with its KV cache kept across turns.

Flow: inside the rollout. A `Sampler` holds a batch of sequences as one grid of columns. `feed` appends given tokens
(a prompt, a memory), `sample` appends drawn ones until each row has met a stop token, `keep` drops rows that are done.
The rows grow at different speeds. If a row has nothing in a column, the grid has a *hole* there: attention skips it
and the row's position does not move. So nothing is ever moved, re-tokenised or computed twice, and the
log-probabilities are those of the plain sequence (tested against a fresh forward pass and against
`transformers.generate`). Holes take up columns, and a sliding window counts columns: if a model has such a window, the
sampler refuses a grid wider than it.

Three savings change nothing but the last digits of a result: equal prompts (a group's) are computed once and copied;
rows that met their stop token leave the forward passes of the turn as soon as half of the batch has; and the cache is
written in place (`Columns`).

Equation: p(token | past) = softmax(logits / T), drawn by inverting its cumulative sum with numbers from a given
generator; T = 0 takes the largest. A turn draws one uniform number for each row and each of its `max_new` steps before
it starts, so the draws of a row do not depend on when the others stop. The numbers are drawn on the CPU, wherever the
model is: the same seed gives the same numbers on every device, and a run can move to another device between steps.
Paper: T = 1, no top-p, no top-k. We offer neither, since the update would have to undo it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ALL = slice(None)  # as an index: every row, as a view


class Columns(DynamicLayer):
    """One layer's keys and values, each (B, heads, room, d), of which `columns` are written; doubled when full.

    transformers' own layer concatenates, which copies the whole cache for every token. A forward pass may run on some
    of the rows only; the others then get a hole. It is filled with zeros because 0 x nan is nan.
    """

    columns = 0
    rows: slice | torch.Tensor = ALL  # the rows of the next forward pass

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (b, heads, w, d) to the b rows of `rows`; returns all columns of these rows."""
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
        """Append one block of ids to each row (ragged, may be empty)."""
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
        """Draw until a stop token or `max_new` tokens, row by row.

        Returns for each row the drawn ids (stop token included) and their log-probabilities at this temperature (at
        T = 0: the model's own). `forbidden` ids have probability 0; evaluation uses it, training must not, since the
        update does not know of it. `allowed` constrains decoding (`constrain.py`): the first state of each row
        (rows,), a table (S, V) bool of what each state allows, and a table (S, V) of the state after each token.
        `self.states` then holds the state in which each id was drawn; the update scores under the same mask.
        """
        rows = len(self.length)
        stop_ids, never = (torch.tensor(list(i), dtype=torch.long, device=self.device) for i in (stop, forbidden))
        ids: list[list[int]] = [[] for _ in range(rows)]
        scores: list[list[float]] = [[] for _ in range(rows)]
        self.states: list[list[int]] = [[] for _ in range(rows)]  # stay empty in free decoding
        if allowed is not None:
            state, table, after = (part.to(self.device) for part in allowed)  # state (b,): of the rows still drawing
        # all random numbers of the turn at once: a row's draws do not depend on the other rows
        if self.temperature > 0:
            u = torch.rand(max_new, rows, generator=self.generator, dtype=torch.float64).to(self.device)
        still = torch.arange(rows, device=self.device)  # (b,) rows without a stop token
        for step in range(max_new):
            # 1. the next token's logits (b, V), without what must not come
            logits = self.logits[still].float().index_fill(1, never, float("-inf"))
            if allowed is not None:
                logits = logits.masked_fill(~table[state], float("-inf"))
            # 2. draw one token per row, and note it with its log-probability
            logprobs = torch.log_softmax(logits / (self.temperature or 1.0), dim=-1)  # (b, V)
            token = draw(logprobs, u[step, still]) if self.temperature > 0 else logprobs.argmax(-1)  # (b,)
            score = logprobs.gather(1, token[:, None]).squeeze(1)
            for row, i, value in zip(still.tolist(), token.tolist(), score.tolist(), strict=True):
                ids[row].append(i)
                scores[row].append(value)
            # 3. the model reads the tokens, also a stop token: it is context of the next turn
            column = token[:, None]
            self._forward(column, torch.ones_like(column), ALL if len(still) == rows else still)
            # 4. rows that met a stop token are done; the others move to their next state
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
        """Keep only these rows (indices into the present batch); repeat an index to copy a row."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask, self.length, self.logits = self.mask[index], self.length[index], self.logits[index]

    def _forward(self, ids: torch.Tensor, real: torch.Tensor, rows: slice | torch.Tensor = ALL) -> None:
        """Append the columns `ids` (b, w) to `rows`, and holes to the other rows.

        `real` (b, w) is 1 for a token and 0 for a hole; tokens come first.
        """
        columns = self.mask.new_zeros(len(self.mask), ids.shape[1])
        if rows is not ALL and 2 * len(rows) > len(columns):
            # selecting rows copies their cache for every token: while most rows go on, the others get holes instead
            ids, real, rows = columns.index_copy(0, rows, ids), columns.index_copy(0, rows, real), ALL
        columns[rows] = real
        self.mask = torch.cat([self.mask, columns], 1)
        width = self.mask.shape[1]
        if self.window is not None and width > self.window:
            raise ValueError(f"{width} columns do not fit into the model's sliding window of {self.window}")
        # a hole stays at the row's last position: the next one may lie beyond a table of learned positions
        positions = (self.length[rows, None] + real.cumsum(1) - 1).clamp_min(0)
        counts = real.sum(1)
        # logits are as wide as the vocabulary: compute them only in the columns in which some row ends
        ends, end_of_row = (counts - 1).clamp_min(0).unique(return_inverse=True)
        for layer in self.cache.layers:
            layer.rows = rows
        inputs = {"input_ids": ids, "attention_mask": self.mask[rows], "position_ids": positions}
        out = self.model(**inputs, cache=self.cache, logits_to_keep=ends)
        fresh = out.logits[torch.arange(len(ids), device=self.device), end_of_row]  # (b, V) after each row's last token
        self.logits[rows] = torch.where((counts > 0)[:, None], fresh.to(self.logits.dtype), self.logits[rows])
        self.length[rows] += counts


def draw(logprobs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """(b,) ids: per row the first id whose cumulative probability exceeds `u`.

    logprobs (b, V), u (b,) uniform in [0, 1). Summed in float64: in float32 a rare token late in a large vocabulary
    would add nothing.
    """
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return token.clamp_max(logprobs.shape[1] - 1)
