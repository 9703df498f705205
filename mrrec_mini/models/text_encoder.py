"""A small bidirectional text encoder with random weights, and a masked-word loss to train it.

Flow: for systems that train an encoder (`blair`); pretrained ones are in `dense`. It is a RoBERTa (Liu et al., 2019) of
a few hundred thousand parameters over the tokens of `WordTokenizer`; a text is `<cls>` and its tokens.

    masked words (BERT, Devlin et al., 2019): 15 % of a text's tokens are predicted from the others. Of these, 80 % are
    replaced by `<mask>`, 10 % by a random token, 10 % stay. Loss: mean cross-entropy of the original tokens.

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
    """Size of the encoder."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    feed_forward: int = 128
    max_tokens: int = 64  # per text, including `<cls>`


def make_text_encoder(vocabulary: int, config: TextEncoderConfig, generator: torch.Generator) -> PreTrainedModel:
    """An encoder with random weights. `generator` draws their seed; the global generator is left as it was."""
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
    """(n, T) ids: `<cls>`, the tokens of each text, and padding to the longest."""
    rows = [torch.tensor([tokenizer.control["<cls>"], *tokenizer.encode(text)][:max_tokens]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)


def hidden_states(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """(n, T) ids -> (n, T, width) last hidden states; those at padding are meaningless."""
    return model.base_model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state


def mask_words(
    ids: torch.Tensor, tokenizer: WordTokenizer, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, T) ids with some tokens hidden, and (n, T) labels: their original ids, NOT_ASKED elsewhere."""
    chance = torch.rand(2, *ids.shape, generator=generator)  # which tokens are asked for, and how each is hidden
    asked = (chance[0] < share) & (ids >= len(CONTROL))
    other = torch.randint(len(CONTROL), len(tokenizer), ids.shape, generator=generator)
    hidden = torch.where(chance[1] < 0.8, torch.full_like(ids, tokenizer.control["<mask>"]), ids)
    hidden = torch.where(chance[1] >= 0.9, other, hidden)
    return torch.where(asked, hidden, ids), ids.masked_fill(~asked, NOT_ASKED)


def masked_word_loss(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the hidden tokens; 0 if there are none."""
    asked = labels != NOT_ASKED
    logits = model.lm_head(hidden_states(model, ids)[asked])  # (number asked, V)
    return cross_entropy(logits, labels[asked], reduction="sum") / asked.sum().clamp_min(1)
