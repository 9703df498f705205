"""The small text encoder: padding, masked words by hand, and random numbers from its own generator only."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mrrec_mini.models.causal_lm import WordTokenizer
from mrrec_mini.models.text_encoder import (
    CONTROL,
    NOT_ASKED,
    TextEncoderConfig,
    hidden_states,
    make_text_encoder,
    mask_words,
    masked_word_loss,
    token_rows,
)

TINY = TextEncoderConfig(width=16, layers=2, heads=2, feed_forward=24, max_tokens=8)
TOKENIZER = WordTokenizer(CONTROL, [f"w{i}" for i in range(30)])
PAD, CLS, MASK = range(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(*texts: str) -> torch.Tensor:
    return token_rows(TOKENIZER, texts, TINY.max_tokens)


@pytest.fixture(scope="module")
def model():
    """With weights so large that different inputs give clearly different states."""
    made = make_text_encoder(len(TOKENIZER), TINY, generator()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return made


def test_a_text_is_cls_and_its_tokens_cut_and_padded():
    first = TOKENIZER.first_word
    rows = rows_of("w0 w1", "", " ".join(f"w{i}" for i in range(9)))
    assert rows[0].tolist() == [CLS, first, first + 1, PAD, PAD, PAD, PAD, PAD]
    assert rows[1].tolist() == [CLS] + [PAD] * 7
    assert rows[2].tolist() == [CLS, *range(first, first + 7)]


def test_control_names_in_a_text_are_ordinary_text():
    (row,) = rows_of("<mask>")
    assert row[0] == CLS and row[1:].min() >= len(CONTROL)


def test_padding_changes_nothing_but_order_does(model):
    with torch.no_grad():
        short, long = hidden_states(model, rows_of("w0 w1")), hidden_states(model, rows_of("w0 w1", "w2 w3 w4 w5"))
        turned = hidden_states(model, rows_of("w1 w0"))
    assert torch.allclose(short[0], long[0, :3], atol=1e-5)
    assert not torch.allclose(turned[0, 0], short[0, 0], atol=1e-3)


def test_attention_is_bidirectional(model):
    """The state of the first token depends on the last token."""
    with torch.no_grad():
        one, other = hidden_states(model, rows_of("w0 w1 w2", "w0 w1 w3"))[:, 0]
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_longest_text_has_a_position(model):
    assert hidden_states(model, rows_of(" ".join(["w0"] * 50))).shape == (1, 8, 16)


def test_shares_of_masked_tokens():
    """15 % are predicted; of these, 80 % are hidden, 10 % replaced by another token, 10 % kept."""
    ids = torch.full((400, 100), TOKENIZER.first_word)
    ids[:, 0], ids[:, 60:] = CLS, PAD
    hidden, labels = mask_words(ids, TOKENIZER, 0.15, generator())
    asked = labels != NOT_ASKED
    assert not asked[:, 0].any() and not asked[:, 60:].any()
    assert asked[:, 1:60].float().mean() == pytest.approx(0.15, abs=0.01)
    assert (labels[asked] == ids[asked]).all() and (hidden[~asked] == ids[~asked]).all()
    assert (hidden[asked] == MASK).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (hidden[asked] == ids[asked]).float().mean() == pytest.approx(0.1, abs=0.02)
    other = hidden[asked & (hidden != MASK) & (hidden != ids)]
    assert other.min() >= len(CONTROL) and len(other.unique()) > 100


def test_the_loss_is_the_cross_entropy_of_hidden_tokens(model):
    ids = rows_of("w0 w1 w2", "w3 w4 w5 w6")
    labels = torch.full_like(ids, NOT_ASKED)
    for place in ((0, 1), (1, 4), (1, 2)):
        labels[place] = ids[place]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits
        expected = cross_entropy(logits.reshape(-1, len(TOKENIZER)), labels.reshape(-1), ignore_index=NOT_ASKED)
        assert float(masked_word_loss(model, ids, labels)) == pytest.approx(float(expected), abs=1e-4)
        assert float(masked_word_loss(model, ids, torch.full_like(ids, NOT_ASKED))) == 0


def test_a_seed_fixes_the_encoder_and_the_global_generator_is_not_used():
    state = torch.random.get_rng_state()
    one, again, other = (make_text_encoder(len(TOKENIZER), TINY, generator(seed)) for seed in (0, 0, 1))
    mask_words(rows_of("w0 w1"), TOKENIZER, 0.15, generator())
    assert (torch.random.get_rng_state() == state).all()
    weights = [model.base_model.embeddings.word_embeddings.weight for model in (one, again, other)]
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()
