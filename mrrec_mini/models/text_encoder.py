"""A small bidirectional text encoder with random weights, and a masked-word loss to train it.

Flow: for systems that train an encoder (`blair`); `dense` loads pretrained encoders. The model is a RoBERTa (Liu et
al., 2019) of a few hundred thousand parameters. Its input is `<cls>`, then the text's tokens from `WordTokenizer`.

    masked words (BERT, Devlin et al., 2019): the model predicts 15 % of a text's tokens. Of these, 80 % are replaced in
    the input by `<mask>`, 10 % by a random token, and 10 % stay. Loss: mean cross-entropy of the original tokens.

Departures: no end token, no word pieces, no dropout; sizes are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, RobertaConfig, RobertaForMaskedLM

from mrrec_mini.models.causal_lm import WordTokenizer

CONTROL = ("<pad>", "<cls>", "<mask>")
NOT_ASKED = -100  # the label that `cross_entropy` ignores


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the encoder."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    feed_forward: int = 128
    max_tokens: int = 64  # per text, including `<cls>`


def make_text_encoder(vocabulary: int, config: TextEncoderConfig, generator: torch.Generator) -> PreTrainedModel:
    """Make an encoder with random weights, whose seed `generator` draws. The global generator is left unchanged."""
    shape = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=config.max_tokens + 1,  # RoBERTa's positions start at the padding id + 1
        type_vocab_size=1,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return RobertaForMaskedLM(shape)


def token_rows(tokenizer: WordTokenizer, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
    """Return (n, T) ids: each row is `<cls>`, the text's tokens (cut at `max_tokens` ids) and padding."""
    rows = [torch.tensor([tokenizer.control["<cls>"], *tokenizer.encode(text)][:max_tokens]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)


def hidden_states(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states (n, T, width) of (n, T) ids. The states at padding ids have no meaning."""
    return model.base_model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state


def mask_words(
    ids: torch.Tensor, tokenizer: WordTokenizer, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask a `share` of the tokens. Returns (ids, labels), both (n, T). A label is the original id or NOT_ASKED."""
    chance = torch.rand(2, *ids.shape, generator=generator)  # is the token masked, and how?
    asked = (chance[0] < share) & (ids >= len(CONTROL))
    other = torch.randint(len(CONTROL), len(tokenizer), ids.shape, generator=generator)
    hidden = torch.where(chance[1] < 0.8, torch.full_like(ids, tokenizer.control["<mask>"]), ids)
    hidden = torch.where(chance[1] >= 0.9, other, hidden)
    return torch.where(asked, hidden, ids), ids.masked_fill(~asked, NOT_ASKED)


def masked_word_loss(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the tokens with a label; 0 if no token has a label."""
    asked = labels != NOT_ASKED
    logits = model.lm_head(hidden_states(model, ids)[asked])  # (number asked, V)
    return cross_entropy(logits, labels[asked], reduction="sum") / asked.sum().clamp_min(1)
