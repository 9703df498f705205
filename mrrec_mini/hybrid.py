"""Hybrid retrieval: the BM25 list and the dense list of the same rows, fused into one ranking.

Flow: `TextSpace.fit` counts a corpus once. A `HybridIndex` over a user's 5 to 100 memory entries answers the policy's
memory calls (`search`, eq. 8); one over the item pool turns an ideal item profile into a rank (`ranks`, for eq. 10).
`tune_weight` chooses w on queries whose answers are known.

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

Rows come and go (`add`, `update`, `delete`): new ones lie in parts of their own beside the first, all scanned, and what
is deleted is left out. Parts of like size are joined, so that n rows are in about log n parts. Given the same space, an
index that has grown answers as one that was built of its rows at once, to the last bit.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from mrrec_mini.bm25 import BM25, IDF, BM25Stats, RankBM25
from mrrec_mini.dense import LSA, Embedder, Vectors, cosine, embed, embed_int16, make_embedder, to_int16, top_k
from mrrec_mini.metrics import ndcg_of_set

CELLS = 1 << 17  # scores made at a time, queries x rows: 1 MB a list, so that fusing happens in the cache ...
LEAST = 16  # ... but never fewer queries than this, so that they share one pass over a large pool's vectors
WEIGHTS = tuple(tenth / 10 for tenth in range(11))


@dataclass(frozen=True)
class HybridConfig:
    """What a text space is made of. ValueError for values out of range."""

    bm25_weight: float = 0.7  # w in [0, 1]
    fusion: str = "minmax"  # or "rrf"
    rrf_k: int = 60  # >= 0; larger: the head of a list counts less
    k1: float = 1.5
    b: float = 0.75
    lexical: str = "bm25"  # or "rank_bm25": that package over the rows of each index alone (k1, b; its own idf)
    idf: str = "lucene"  # or "okapi"
    dense: str = "lsa"  # or "static", "minilm", "none" (BM25 alone), or a path or hub name of an encoder
    dims: int = 128  # of the LSA, at most
    seed: int = 0  # of the LSA's randomised SVD
    device: str = "cpu"  # of the encoder
    vectors: str = "float32"  # or "int16": half the room and exact in float32, for a pool of a million

    def __post_init__(self):
        if not 0 <= self.bm25_weight <= 1:
            raise ValueError(f"bm25_weight must be in [0, 1], not {self.bm25_weight}")
        if self.fusion not in ("minmax", "rrf"):
            raise ValueError(f"fusion must be 'minmax' or 'rrf', not {self.fusion!r}")
        if self.lexical not in ("bm25", "rank_bm25"):
            raise ValueError(f"lexical must be 'bm25' or 'rank_bm25', not {self.lexical!r}")
        if self.vectors not in ("float32", "int16"):
            raise ValueError(f"vectors must be 'float32' or 'int16', not {self.vectors!r}")
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

    @property
    def embedder_id(self) -> str:
        return self.embedder.id if self.embedder else "none"

    def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """Of rows with these texts, as the configuration stores them."""
        if self.embedder is None:
            return None
        return embed_int16(self.embedder, texts) if self.config.vectors == "int16" else embed(self.embedder, texts)

    def lexical(self, texts: Sequence[str]) -> BM25 | RankBM25:
        """The lexical half of an index over these texts."""
        config = self.config
        if config.lexical == "rank_bm25":
            return RankBM25(texts, config.k1, config.b)
        return BM25(texts, self.stats, config.k1, config.b)

    def pack(self) -> tuple[dict, dict[str, bytes]]:
        """What `unpack` makes the same space of: small fields, fit for JSON, and large parts by name."""
        lsa = self.embedder if isinstance(self.embedder, LSA) else None
        fields = {
            "config": asdict(self.config),
            "avgdl": self.stats.avgdl,
            "unseen": self.stats.unseen,
            "dims": lsa.table.shape[1] if lsa else None,
        }
        parts = {"idf": json.dumps(dict(self.stats.idf)).encode()}
        if lsa:
            parts["vocabulary"] = json.dumps({word: int(row) for word, row in lsa.vocabulary.items()}).encode()
            parts["table"] = lsa.table.tobytes()
        return fields, parts

    @classmethod
    def unpack(cls, fields: Mapping, parts: Mapping[str, bytes]) -> TextSpace:
        """The space as it was: the same numbers, hence the same scores. A pretrained embedder is loaded again."""
        config = HybridConfig(**fields["config"])
        stats = BM25Stats(fields["avgdl"], json.loads(parts["idf"]), fields["unseen"])
        if config.dense == "none":
            return cls(config, stats, None)
        if config.dense != "lsa":
            return cls(config, stats, make_embedder(config.dense, config.dims, config.seed, config.device))
        table = np.frombuffer(parts["table"], dtype=np.float32).reshape(-1, fields["dims"])
        return cls(config, stats, LSA.from_parts(json.loads(parts["vocabulary"]), table))


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found: the fused score and the two that it was made from."""

    id: str
    score: float
    bm25: float  # before min-max or RRF
    dense: float  # cosine; 0.0 for dense="none"


class Part:
    """Rows that lie together, by ascending id, so that position settles a tie; not `live`: deleted."""

    def __init__(self, ids: tuple[str, ...], lexical: BM25 | RankBM25, vectors: Vectors | None):
        self.ids, self.lexical, self.vectors = ids, lexical, vectors
        self.live = np.ones(len(ids), dtype=bool)
        self.has_vector = vectors.values.any(axis=1) if vectors else None  # (n,)

    def row(self, id: str) -> int | None:
        """Where `id` is; None where it is not, or no more."""
        row = bisect_left(self.ids, id)
        return row if row < len(self.ids) and self.ids[row] == id and self.live[row] else None

    @classmethod
    def joined(cls, parts: Sequence[Part]) -> Part:
        """One part of the living rows of several."""
        rows = sorted((part.ids[row], n, row) for n, part in enumerate(parts) for row in np.flatnonzero(part.live))
        places = [np.full(len(part.ids), -1) for part in parts]
        for place, (_, n, row) in enumerate(rows):
            places[n][row] = place
        lexical = BM25.merged([(part.lexical, place) for part, place in zip(parts, places, strict=True)], len(rows))
        vectors = None
        if parts[0].vectors:
            values = np.empty((len(rows), parts[0].vectors.values.shape[1]), parts[0].vectors.values.dtype)
            for part, place in zip(parts, places, strict=True):
                values[place[place >= 0]] = part.vectors.values[place >= 0]
            vectors = Vectors(values, parts[0].vectors.embedder_id)
        return cls(tuple(id for id, _, _ in rows), lexical, vectors)


@dataclass(frozen=True)
class Order:
    """The living rows of all parts by ascending id. A position counts through the parts, one after the other."""

    base: np.ndarray  # living rows of the first part
    tail: tuple[str, ...]  # ids of the living rows of the others, ascending
    positions: np.ndarray | None  # (n,) of all of them; None: the first part as it is
    has_vector: np.ndarray | None  # (n,) of all of them; None: there are no vectors

    @classmethod
    def from_parts(cls, parts: Sequence[Part]) -> Order:
        first, *rest = parts
        base = np.flatnonzero(first.live)
        tail, start = [], len(first.ids)
        for part in rest:
            tail += [(part.ids[row], start + row) for row in np.flatnonzero(part.live).tolist()]
            start += len(part.ids)
        tail.sort()
        ids, positions = tuple(id for id, _ in tail), None
        if tail or len(base) < len(first.ids):
            at = np.searchsorted(base, [bisect_left(first.ids, id) for id in ids])
            positions = np.insert(base, at, [position for _, position in tail])
        order = cls(base, ids, positions, None)
        if first.vectors is None:
            return order
        return replace(order, has_vector=order.sort([part.has_vector for part in parts]))

    def sort(self, lists: Sequence[np.ndarray]) -> np.ndarray:
        """(..., rows) of each part -> (..., n)"""
        whole = lists[0] if len(lists) == 1 else np.concatenate(lists, axis=-1)
        return whole if self.positions is None else whole[..., self.positions]

    def position(self, place: int) -> int:
        return place if self.positions is None else int(self.positions[place])

    def smaller(self, id: str, first: Part) -> int:
        """How many ids are smaller."""
        return int(np.searchsorted(self.base, bisect_left(first.ids, id))) + bisect_left(self.tail, id)


class HybridIndex:
    """Rows to be ranked: id and text each, in a given space."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str], space: TextSpace, vectors: Vectors | None = None):
        """n >= 0 rows. `vectors`: those of the texts, in their order, where they are kept; else they are made.

        ids, texts and vectors of different length, or an id given twice: ValueError.
        """
        self.space = space
        self._given = dict.fromkeys(ids)  # keeps the order
        self._hold([self._part(ids, texts, vectors)])

    @classmethod
    def from_parts(cls, space: TextSpace, part: Part) -> HybridIndex:
        """An index of one part that was made before."""
        index = cls.__new__(cls)
        index.space, index._given = space, dict.fromkeys(part.ids)
        index._hold([part])
        return index

    def __len__(self) -> int:
        return len(self._given)

    @property
    def ids(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self._given)

    # --- rows come and go -------------------------------------------------------------------------------------------

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """More rows, weighed by the statistics of the space as it is. ValueError: an id is there, or given twice."""
        for id in ids:
            if id in self._given:
                raise ValueError(f"id {id!r} is there already; use update")
        self._append(self._part(ids, texts), ids)

    def delete(self, ids: Iterable[str]) -> None:
        """Rows that are found no more. LookupError, and nothing is deleted, where one is not there."""
        gone = dict.fromkeys(ids)
        for id in gone:
            if id not in self._given:
                raise LookupError(f"id {id!r} is no row of this index")
        for id in gone:
            part, row = next((part, row) for part in self._parts if (row := part.row(id)) is not None)
            part.live[row] = False
            del self._given[id]
        self._hold(self._parts)

    def update(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Other texts for rows that are there. LookupError as in `delete`, ValueError as in `add`."""
        fresh = self._part(ids, texts)  # what can fail comes first
        self.delete(ids)
        self._append(fresh, ids)

    def _append(self, fresh: Part, ids: Sequence[str]) -> None:
        if self.space.config.lexical == "rank_bm25":
            raise ValueError("rank_bm25 counts over its rows, so new ones would change every score; build a new index")
        parts = [*self._parts, fresh]
        while len(parts) > 1 and 2 * len(parts[-1].ids) >= len(parts[-2].ids):
            parts[-2:] = [Part.joined(parts[-2:])]
        self._given.update(dict.fromkeys(ids))
        self._hold(parts)

    def joined(self) -> Part:
        """All living rows in one part; what is saved."""
        if len(self._parts) > 1 or not self._parts[0].live.all():
            self._hold([Part.joined(self._parts)])
        return self._parts[0]

    def _part(self, ids: Sequence[str], texts: Sequence[str], vectors: Vectors | None = None) -> Part:
        if len(ids) != len(texts) or (vectors is not None and len(vectors.values) != len(texts)):
            raise ValueError(
                f"{len(ids)} ids for {len(texts)} texts and {len(vectors.values) if vectors else 0} vectors"
            )
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        ordered = tuple(ids[row] for row in by_id)
        for left, right in pairwise(ordered):
            if left == right:
                raise ValueError(f"id {left!r} is given twice")
        texts = [texts[row] for row in by_id]
        vectors = Vectors(vectors.values[by_id], vectors.embedder_id) if vectors else self.space.vectors(texts)
        if vectors and self.space.config.vectors == "int16" and vectors.values.dtype != np.int16:
            vectors = to_int16(vectors)
        return Part(ordered, self.space.lexical(texts), vectors)

    def _hold(self, parts: list[Part]) -> None:
        self._parts, self._found_order = parts, None

    @property
    def _order(self) -> Order:
        """Of the rows as they are now; found when it is asked for, so that many changes in a row cost it once."""
        if self._found_order is None:
            self._found_order = Order.from_parts(self._parts)
        return self._found_order

    def _place(self, id: str) -> int:
        """Where `id` stands among the living rows by ascending id."""
        return self._order.smaller(id, self._parts[0])

    def _id(self, place: int) -> str:
        position = self._order.position(place)
        for part in self._parts:
            if position < len(part.ids):
                return part.ids[position]
            position -= len(part.ids)
        raise IndexError(place)

    # --- asking -----------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int) -> list[Hit]:
        """The k best rows, best first; k > n: all n. Nothing known of the query (every score of both lists 0): []."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """`search` for each of `queries`. k < 0: ValueError."""
        if k < 0:
            raise ValueError(f"k must be >= 0, not {k}")
        if k == 0 or not self._given:
            return [[] for _ in queries]
        found: dict[str, list[Hit]] = {}
        for query, bm25, dense, score in self._score(queries):
            known = bm25.any() or dense.any()
            found[query] = self._hits(bm25, dense, score, k) if known else []
        return [list(found[query]) for query in queries]

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """(Q, n) float64 fused scores, column j being `ids[j]`. A query with no known word: zeros."""
        given = [self._place(id) for id in self._given]
        score_of = {query: score[given] for query, _, _, score in self._score(queries)}
        return np.array([score_of[query] for query in queries]).reshape(len(queries), len(self))

    def ranks(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """(Q,) int64: 1-based rank of `targets[i]` among ALL rows for `queries[i]`; counted, not sorted.

        rank = 1 + rows that score higher + rows of equal score and smaller id. A query with no known word scores every
        row 0: the rank is then the place of the id. A target that is no row, or unequal lengths: ValueError.
        """
        if len(queries) != len(targets):
            raise ValueError(f"{len(queries)} queries for {len(targets)} targets")
        self._known(targets)
        asked: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            asked.setdefault(query, []).append(i)
        ranks = np.empty(len(queries), dtype=np.int64)
        for query, _, _, score in self._score(queries):
            for i in asked[query]:
                ranks[i] = count_rank(score, self._place(targets[i]))
        return ranks

    def _known(self, targets: Iterable[str]) -> None:
        for target in targets:
            if target not in self._given:
                raise ValueError(f"target {target!r} is no row of this index")

    def _score(self, queries: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(query, bm25, cosine, fused), each (n,) by ascending id; every different query once, a chunk at a time."""
        for chunk, bm25, dense in self._lists(queries):
            yield from zip(chunk, bm25, dense, self._fuse(bm25, dense, self.space.config.bm25_weight), strict=True)

    def _lists(self, queries: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """(different queries, their bm25, their cosines), (chunk, n) each by ascending id, before they are fused."""
        different = list(dict.fromkeys(queries))
        step = max(LEAST, CELLS // max(1, len(self)))
        for start in range(0, len(different), step):
            chunk = different[start : start + step]
            bm25 = [np.array([part.lexical.scores(query) for query in chunk]) for part in self._parts]
            bm25 = self._order.sort(bm25)  # (chunk, n)
            if self.space.embedder is None:
                dense = np.zeros_like(bm25)
            else:
                asked = embed(self.space.embedder, chunk)
                dense = self._order.sort([cosine(asked, part.vectors) for part in self._parts])
            yield chunk, bm25, dense

    def _fuse(self, bm25: np.ndarray, dense: np.ndarray, bm25_weight: float) -> np.ndarray:
        """(Q, n), (Q, n) -> (Q, n): w f(bm25) + (1 - w) f(cosine)."""
        config = self.space.config
        if self.space.embedder is None:
            return minmax(bm25) if config.fusion == "minmax" else reciprocal_rank(bm25, bm25 != 0, config.rrf_k)
        if config.fusion == "minmax":
            lexical, semantic = minmax(bm25), minmax(dense, self._order.has_vector)
        else:
            lexical = reciprocal_rank(bm25, bm25 != 0, config.rrf_k)
            semantic = reciprocal_rank(dense, self._order.has_vector & dense.any(axis=1, keepdims=True), config.rrf_k)
        lexical *= bm25_weight
        semantic *= 1 - bm25_weight
        lexical += semantic
        return lexical

    def _hits(self, bm25: np.ndarray, dense: np.ndarray, score: np.ndarray, k: int) -> list[Hit]:
        best = top_k(score, k)
        ids = (self._id(place) for place in best.tolist())
        columns = (ids, score[best].tolist(), bm25[best].tolist(), dense[best].tolist())
        return [Hit(*row) for row in zip(*columns, strict=True)]


def tune_weight(
    judged: Iterable[tuple[HybridIndex, str, Collection[str]]], k: int = 10, weights: Sequence[float] = WEIGHTS
) -> dict[float, float]:
    """{w: mean nDCG@k} over queries of which is known what they should find; use `max(found, key=found.get)`.

    `judged`: for each query the index that it asks, its text, and the ids that are right (all count alike), all of the
    validation part: a weight that was chosen on the queries it is reported on is worth nothing. Without a query, or for
    an id that is no row: ValueError.
    """
    found: dict[float, list[float]] = {weight: [] for weight in weights}
    for index, query, right in judged:
        index._known(right)
        places = [index._place(id) for id in sorted(right)]
        for _, bm25, dense in index._lists([query]):
            for weight in weights:
                [score] = index._fuse(bm25, dense, weight)
                ranks = [count_rank(score, place) for place in places]
                found[weight].append(ndcg_of_set(ranks, [1] * len(ranks), k))
    if not all(found.values()):
        raise ValueError("there is no query to tune the weight on")
    return {weight: sum(values) / len(values) for weight, values in found.items()}


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
    out = np.subtract(scores, low, dtype=np.float64)
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
