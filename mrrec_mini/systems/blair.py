"""BLaIR: a text encoder trained to place a review close to the item that it is about (Hou et al., 2024, 2403.03952).

Flow: a baseline that reads the query and uses no history of the query's user; it has the interface in `systems`. `fit`
trains an encoder on pairs (review, metadata of its item) and encodes all items; `rank` computes dot products. For a
batch of B pairs, let r_i be the `<cls>` vector of review i and m_i that of its item's metadata, both of length 1, and
tau = .05:

    L_CL = -1/B sum over i of log( exp(r_i m_i / tau) / sum over j of exp(r_i m_j / tau) )
    L    = L_CL + .1 L_MLM                          L_MLM: predict the masked words (15 %) of all 2B texts
    score(item) = e(query) e(metadata)              e: the `<cls>` vector of length 1

L_CL trains in one direction only: to find a review's item among the B items of the batch, not an item's review.

Departures:

- The encoder is a RoBERTa of .1M parameters with random initial weights, not the pretrained roberta-base. So it learns
  language only from these texts. One token is one word.
- Training takes 600 steps of 64 pairs at a rate of 3e-3, about 16 epochs of the default shop. The original takes one
  epoch of a tenth of 570M reviews, 768 pairs per step, at 5e-5. From random weights, one epoch here teaches nothing.
- If a batch has two reviews of one item, the original (as far as its code is public) counts the item's second copy as a
  negative. With 48M items this hardly ever happens. Here the second copy is left out of the sum over j.
- A text is cut at 64 tokens, also when ranking; the original cuts at 512. An item's text is `item_text`, with category
  and attributes; in the original it is title, features and description. A review has no title.

Decided: BLaIR learns from the reviews that MR.Rec's memory may use: the reviews that train users wrote before their
first query (`train_histories`). None is about a target. The vocabulary comes from these reviews and from the items. As
published, reviews and metadata of at most 30 characters are dropped, and ratings are ignored.

Guessed: no layer on top of `<cls>` in training; SimCSE, on which the authors' code is based, has one.

Measured (`mrrec reproduce table1`, default shop, seeds 0-2, unseen users): nDCG@10 .007, recall@100 .155; BM25 with the
same queries has .027 and .586. Adding memory to the query does not help (.002 with the latest records, .003 with the
profile). An encoder with random initial weights generalises little from a vocabulary of invented words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import normalize

from mrrec_mini.bm25 import words
from mrrec_mini.data import DataError, Dataset, Split
from mrrec_mini.datatypes import Query
from mrrec_mini.dense import Vectors, cosine, unit_rows
from mrrec_mini.environment import item_text
from mrrec_mini.memory import train_histories
from mrrec_mini.models.causal_lm import WordTokenizer
from mrrec_mini.models.text_encoder import (
    CONTROL,
    TextEncoderConfig,
    hidden_states,
    make_text_encoder,
    mask_words,
    masked_word_loss,
    token_rows,
)


@dataclass(frozen=True)
class BlairConfig:
    """The published settings, and our own settings for training."""

    temperature: float = 0.05  # tau
    contrast: float = 1.0  # weight of L_CL; at 0 only L_MLM is trained
    mlm: float = 0.1  # weight of L_MLM
    masked: float = 0.15  # share of the tokens that are masked
    least_characters: int = 31  # minimal length of a review, and of an item's metadata
    encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    max_words: int = 4000  # in the tokenizer's vocabulary
    steps: int = 600
    batch: int = 64  # pairs
    learning_rate: float = 3e-3  # falls linearly to 0, as in the original
    seed: int = 0


class Blair:
    """The recommender. After `fit`, `losses` has (L_CL, L_MLM) of each step."""

    def __init__(self, config: BlairConfig | None = None):
        self.config = config or BlairConfig()

    def fit(self, dataset: Dataset, split: Split) -> Blair:
        """Train the encoder on train users' reviews, then encode all items. DataError for fewer than two pairs."""
        config = self.config
        self.row = {item: row for row, item in enumerate(dataset.items)}
        metadata = [item_text(item) for item in dataset.items.values()]
        pairs = review_pairs(dataset, split, config.least_characters)
        if len(pairs) < 2:
            raise DataError(f"train users wrote {len(pairs)} reviews of {config.least_characters} characters or more")
        reviews, about = [review for review, _ in pairs], torch.tensor([self.row[item] for _, item in pairs])
        self.tokenizer = WordTokenizer.train(map(plain_words, [*reviews, *metadata]), CONTROL, config.max_words)
        generator = torch.Generator().manual_seed(config.seed)
        self.model = make_text_encoder(len(self.tokenizer), config.encoder, generator)
        self.losses = self.learn(self.rows(reviews), self.rows(metadata), about, generator)
        self.items = self.vectors(metadata)
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return cosines with the query for n item ids, (n,); 0 for a query without words. KeyError: unknown item."""
        scores = cosine(self.vectors([query.wish]), self.items)[0]  # (N,)
        return scores[[self.row[item] for item in candidates]]

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(
        self, reviews: torch.Tensor, metadata: torch.Tensor, about: torch.Tensor, generator: torch.Generator
    ) -> list[tuple[float, float]]:
        """Train on the pairs (reviews[i], metadata[about[i]]); return (L_CL, L_MLM) of each step."""
        config, losses, waiting = self.config, [], torch.empty(0, dtype=torch.long)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate, weight_decay=0.0)
        self.model.train()
        size = min(config.batch, len(reviews))
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / config.steps)
            if len(waiting) < size:  # start the next epoch
                waiting = torch.randperm(len(reviews), generator=generator)
            chosen, waiting = waiting[:size], waiting[size:]
            sides = trimmed(reviews[chosen]), trimmed(metadata[about[chosen]])
            contrast = torch.zeros(())
            if config.contrast:
                contrast = contrastive_loss(
                    *(first_vectors(self.model, ids) for ids in sides), about[chosen], config.temperature
                )
            mlm = self.masked_words(sides, generator)
            optimizer.zero_grad(set_to_none=True)
            total_loss(contrast, mlm, config).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            losses.append((contrast.item(), mlm.item()))
        self.model.eval()
        return losses

    def masked_words(self, sides: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """Return L_MLM, the mean loss over all masked words of reviews and metadata together."""
        hidden = [mask_words(ids, self.tokenizer, self.config.masked, generator) for ids in sides]
        counts = [(labels >= 0).sum() for _, labels in hidden]
        losses = [masked_word_loss(self.model, *one) * n for one, n in zip(hidden, counts, strict=True)]
        return sum(losses) / sum(counts).clamp_min(1)

    # --- texts to vectors -------------------------------------------------------------------------------------------

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the token ids of n texts, (n, T)."""
        return token_rows(self.tokenizer, [plain_words(text) for text in texts], self.config.encoder.max_tokens)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], batch: int = 256) -> Vectors:
        """Return a unit vector for each text; zeros for a text without words."""
        ids = self.rows(texts)
        parts = [first_vectors(self.model, trimmed(part)) for part in ids.split(batch)]
        has_words = (ids != 0).sum(1, keepdim=True) > 1  # more tokens than `<cls>`
        return Vectors(unit_rows((torch.cat(parts) * has_words).double().numpy()), "blair")


def review_pairs(dataset: Dataset, split: Split, least: int) -> list[tuple[str, str]]:
    """Return (review, item id) of train users before their first query, if both texts have `least` characters."""
    bought = [p for history in train_histories(dataset, split.train) for p in history]
    return [(p.review, p.item.id) for p in bought if min(len(p.review), len(item_text(p.item))) >= least]


def plain_words(text: str) -> str:
    """Return the words of a text in lower case: the small encoder learns nothing from case and punctuation."""
    return " ".join(words(text))


def trimmed(ids: torch.Tensor) -> torch.Tensor:
    """Return ids (n, T) without the columns that are padding in every row."""
    return ids[:, : int((ids != 0).sum(1).max())]


def first_vectors(model, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden state of `<cls>` for each row of ids (n, T), scaled to length 1, (n, width)."""
    return normalize(hidden_states(model, ids)[:, 0], dim=-1)


def contrastive_loss(
    reviews: torch.Tensor, metadata: torch.Tensor, about: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the contrastive loss. reviews, metadata: unit vectors (B, width); about: item numbers (B,).   L_CL"""
    similar = reviews @ metadata.T / temperature  # (B, B)
    own = torch.eye(len(about), dtype=torch.bool)
    again = (about[:, None] == about[None, :]) & ~own  # another review of the same item is not a negative
    log_shares = torch.log_softmax(similar.masked_fill(again, float("-inf")), dim=1)
    return -log_shares.diagonal().mean()


def total_loss(contrast: torch.Tensor, mlm: torch.Tensor, config: BlairConfig) -> torch.Tensor:
    """Return the weighted sum of both losses: L_CL + .1 L_MLM with the default weights.   L"""
    return config.contrast * contrast + config.mlm * mlm
