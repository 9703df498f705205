"""Hybrid retrieval: the BM25 list and the dense list of the same rows, fused into one ranking.

Flow: `TextSpace.fit` counts a corpus once. A `HybridIndex` over a user's 5 to 100 memory entries answers the policy's
memory calls (`search`, eq. 8); one over the item pool turns an ideal item profile into a rank (`ranks`, for eq. 10).

Equations, for a query q, a row x and w = `bm25_weight`:

    score(q, x) = w f(bm25(q, .))(x) + (1 - w) f(cos(q, .))(x)           with f, on each list alone, one of
    minmax(s)(x) = (s(x) - min s) / (max s - min s), 0 for a constant list (Lee, 1997; over all rows of the index)
    rrf(s)(x) = 1 / (rrf_k + rank of x in s), rank from 1                (Cormack et al., 2009; weighted by w)

The paper retrieves with dense vectors only (`dense=<name>, bm25_weight=0` here). The fusion and its weight are ours:
min-max with 0.5 to 0.7 on BM25 lost least where the two lists differ in strength, and RRF lost much.

Guessed: a row that a list does not hold (BM25: it shares no word; dense: it has no known word, hence no vector) gets
that list's minimum under min-max, nothing under RRF. Under min-max a new row can stretch a list and so reorder others.

Order: score descending, then id ascending (as strings). A query's scores are the same bits alone and in any batch:
BM25 adds in query order, cosines are exact sums (see `dense.py`), the rest goes element by element. So scores are
compared as they are: rounding them first would only move the borders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrrec_mini.bm25 import BM25, IDF, BM25Stats
from mrrec_mini.dense import Embedder, Vectors, cosine, embed, make_embedder, top_k

CELLS = 1 << 17  # scores made at a time, queries x rows: 1 MB a list, so that fusing happens in the cache ...
LEAST = 8  # ... but never fewer queries than this, so that they share one pass over a large pool's vectors


@dataclass(frozen=True)
class HybridConfig:
    """What a text space is made of. ValueError for values out of range."""

    bm25_weight: float = 0.7  # w in [0, 1]
    fusion: str = "minmax"  # or "rrf"
    rrf_k: int = 60  # >= 0; larger: the head of a list counts less
    k1: float = 1.5
    b: float = 0.75
    idf: str = "lucene"  # or "okapi"
    dense: str = "lsa"  # or "static", "none" (BM25 alone), or a path or hub name of an encoder
    dims: int = 128  # of the LSA, at most
    seed: int = 0  # of the LSA's randomised SVD
    device: str = "cpu"  # of the encoder

    def __post_init__(self):
        if not 0 <= self.bm25_weight <= 1:
            raise ValueError(f"bm25_weight must be in [0, 1], not {self.bm25_weight}")
        if self.fusion not in ("minmax", "rrf"):
            raise ValueError(f"fusion must be 'minmax' or 'rrf', not {self.fusion!r}")
        if self.idf not in IDF:
            raise ValueError(f"idf must be one of {sorted(IDF)}, not {self.idf!r}")
        if self.rrf_k < 0 or self.dims < 1:
            raise ValueError(f"rrf_k must be >= 0 and dims >= 1, not {self.rrf_k}, {self.dims}")


@dataclass(frozen=True)
class TextSpace:
    """The fitted statistics that many indexes share, so that a user's few rows are weighed by what all texts say."""

    config: HybridConfig
    stats: BM25Stats
    embedder: Embedder | None  # None: dense="none"

    @classmethod
    def fit(cls, texts: Sequence[str], config: HybridConfig | None = None) -> TextSpace:
        """Idf, mean length and embedder from `texts` (training users and items only: what is fitted here leaks)."""
        config = config or HybridConfig()
        embedder = None
        if config.dense != "none":
            embedder = make_embedder(config.dense, config.dims, config.seed, config.device).fit(texts)
        return cls(config, BM25Stats.fit(texts, config.idf), embedder)


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found: the fused score and the two that it was made from."""

    id: str
    score: float
    bm25: float  # before min-max or RRF
    dense: float  # cosine; 0.0 for dense="none"


class HybridIndex:
    """Rows to be ranked: id and text each, in a given space."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str], space: TextSpace, vectors: Vectors | None = None):
        """n >= 0 rows. `vectors`: those of the texts, in their order, where they are kept; else they are made.

        ids, texts and vectors of different length, or an id given twice: ValueError.
        """
        if len(ids) != len(texts) or (vectors is not None and len(vectors.values) != len(texts)):
            raise ValueError(
                f"{len(ids)} ids for {len(texts)} texts and {len(vectors.values) if vectors else 0} vectors"
            )
        self.ids = tuple(ids)
        by_id = sorted(range(len(ids)), key=self.ids.__getitem__)
        self._sorted = tuple(self.ids[row] for row in by_id)  # rows are held by id: a tie is then settled by position
        for left, right in zip(self._sorted, self._sorted[1:], strict=False):
            if left == right:
                raise ValueError(f"id {left!r} is given twice")
        self._position = {id: position for position, id in enumerate(self._sorted)}
        self.space = space
        texts = [texts[row] for row in by_id]
        self.bm25 = BM25(texts, space.stats, space.config.k1, space.config.b)
        self.vectors = vectors and Vectors(vectors.values[by_id], vectors.embedder_id)
        if self.vectors is None and space.embedder:
            self.vectors = embed(space.embedder, texts)
        self._has_vector = self.vectors.values.any(axis=1) if self.vectors else None  # (n,)

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, query: str, k: int) -> list[Hit]:
        """The k best rows, best first; k > n: all n. Nothing known of the query (every score of both lists 0): []."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """`search` for each of `queries`. k < 0: ValueError."""
        if k < 0:
            raise ValueError(f"k must be >= 0, not {k}")
        if k == 0 or not self.ids:
            return [[] for _ in queries]
        found: dict[str, list[Hit]] = {}
        for query, bm25, dense, score in self._score(queries):
            known = bm25.any() or dense.any()
            found[query] = self._hits(bm25, dense, score, k) if known else []
        return [list(found[query]) for query in queries]

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """(Q, n) float64 fused scores, column j being `ids[j]`. A query with no known word: zeros."""
        given = [self._position[id] for id in self.ids]
        score_of = {query: score[given] for query, _, _, score in self._score(queries)}
        return np.array([score_of[query] for query in queries]).reshape(len(queries), len(self))

    def ranks(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """(Q,) int64: 1-based rank of `targets[i]` among ALL rows for `queries[i]`; counted, not sorted.

        rank = 1 + rows that score higher + rows of equal score and smaller id. A query with no known word scores every
        row 0: the rank is then the place of the id. A target that is no row, or unequal lengths: ValueError.
        """
        if len(queries) != len(targets):
            raise ValueError(f"{len(queries)} queries for {len(targets)} targets")
        unknown = [target for target in targets if target not in self._position]
        if unknown:
            raise ValueError(f"target {unknown[0]!r} is no row of this index")
        asked: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            asked.setdefault(query, []).append(i)
        ranks = np.empty(len(queries), dtype=np.int64)
        for query, _, _, score in self._score(queries):
            for i in asked[query]:
                ranks[i] = count_rank(score, self._position[targets[i]])
        return ranks

    def _score(self, queries: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(query, bm25, cosine, fused), each (n,) by ascending id; every different query once, a chunk at a time."""
        different = list(dict.fromkeys(queries))
        step = max(LEAST, CELLS // max(1, len(self)))
        for start in range(0, len(different), step):
            chunk = different[start : start + step]
            bm25 = np.array([self.bm25.scores(query) for query in chunk])  # (chunk, n)
            if self.vectors is None:
                dense = np.zeros_like(bm25)
            else:
                dense = cosine(embed(self.space.embedder, chunk), self.vectors)
            yield from zip(chunk, bm25, dense, self._fuse(bm25, dense), strict=True)

    def _fuse(self, bm25: np.ndarray, dense: np.ndarray) -> np.ndarray:
        """(Q, n), (Q, n) -> (Q, n): w f(bm25) + (1 - w) f(cosine)."""
        config = self.space.config
        if self.vectors is None:
            return minmax(bm25) if config.fusion == "minmax" else reciprocal_rank(bm25, bm25 != 0, config.rrf_k)
        if config.fusion == "minmax":
            lexical, semantic = minmax(bm25), minmax(dense, self._has_vector)
        else:
            lexical = reciprocal_rank(bm25, bm25 != 0, config.rrf_k)
            semantic = reciprocal_rank(dense, self._has_vector & dense.any(axis=1, keepdims=True), config.rrf_k)
        lexical *= config.bm25_weight
        semantic *= 1 - config.bm25_weight
        lexical += semantic
        return lexical

    def _hits(self, bm25: np.ndarray, dense: np.ndarray, score: np.ndarray, k: int) -> list[Hit]:
        best = top_k(score, k).tolist()
        return [Hit(self._sorted[i], float(score[i]), float(bm25[i]), float(dense[i])) for i in best]


def minmax(scores: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """(s - min s) / (max s - min s) for each list of (Q, n), in [0, 1]; constant lists, one row included, give zeros.

    `present` (n,) bool: rows that the lists really hold; the others count as the minimum. None: all.
    """
    if scores.size == 0:
        return np.zeros_like(scores)
    if present is not None and not present.all():
        if not present.any():
            return np.zeros_like(scores)
        scores = np.where(present, scores, scores[:, present].min(axis=1, keepdims=True))
    low = scores.min(axis=1, keepdims=True)
    span = scores.max(axis=1, keepdims=True) - low
    span[span == 0] = 1.0  # constant: 0 / 1
    out = scores - low
    out /= span
    return out


def reciprocal_rank(scores: np.ndarray, present: np.ndarray, k: int) -> np.ndarray:
    """1 / (k + rank) for each list of (Q, n), rank from 1 by (score desc, position asc); 0 where not `present`."""
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    rank = np.empty(scores.shape)
    np.put_along_axis(rank, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
    return present / (k + rank)


def count_rank(scores: np.ndarray, position: int) -> int:
    """1 + how many of (n,) scores stand before `position`: the higher ones, and equal ones at smaller positions."""
    value = scores[position]
    return 1 + int(np.count_nonzero(scores > value) + np.count_nonzero(scores[:position] == value))
