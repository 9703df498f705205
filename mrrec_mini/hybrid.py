"""Hybrid retrieval: fuse the BM25 scores and the dense scores of the same rows into one ranking.

Flow: `TextSpace.fit` counts a corpus once. A `HybridIndex` over a user's 5 to 100 memory entries answers the policy's
memory calls (`search`, eq. 8). An index over the item pool ranks the target item for the ideal item profile that the
policy wrote (`ranks`, for eq. 10). `tune_weight` measures each w on queries with known answers.

Equations, for a query q, a row x and w = `bm25_weight`; a list s holds the BM25 scores or the cosines of all rows:

    score(q, x) = w f(bm25(q, .))(x) + (1 - w) f(cos(q, .))(x)           where f is minmax or rrf
    minmax(s)(x) = (s(x) - min s) / (max s - min s), 0 if s is constant  (Lee, 1997; over all rows of the index)
    rrf(s)(x) = 1 / (rrf_k + rank of x in s), rank from 1                (Cormack et al., 2009; weighted by w)

The paper retrieves with dense vectors only (`dense=<name>, bm25_weight=0` here). The fusion and its weight are ours:
if one list is much better than the other, min-max with w from 0.5 to 0.7 lost least, and RRF lost much.

Guessed: a row without a score in a list (BM25: no shared word; dense: no known word, so no vector) gets the minimum of
this list under min-max, and 0 under RRF. Under min-max, a new row with an extreme score can change the order of others.

Order: by descending score, then ascending id (as strings). A query gets exactly the same scores alone and in any batch,
so we need not round them: BM25 adds in query order, cosines are exact sums (see `dense.py`), and fusion works element
by element.

Growth (`add`, `delete`): new rows form a new segment. A search scores all segments and leaves out the deleted rows.
Segments of similar size are merged, so n rows are in about log n segments. A grown index returns the same scores, to
the last bit, as an index built from all its rows at once in the same space.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from mrrec_mini.bm25 import BM25, IDF, BM25Stats, RankBM25
from mrrec_mini.data import shorten
from mrrec_mini.dense import LSA, NAMED, Embedder, Vectors, cosine, embed, embed_int16, make_embedder, to_int16, top_k
from mrrec_mini.metrics import ndcg_of_set
from mrrec_mini.typed import parse_json, typed

CHUNK_SCORES = 1 << 17  # scores (queries x rows) per chunk: 1 MB per list, so that fusion stays in the cache
MIN_CHUNK = 16  # fewest queries per chunk: one pass over the vectors serves all queries of a chunk


@dataclass(frozen=True)
class HybridConfig:
    """Settings of a text space. Raises ValueError if a value is out of range."""

    bm25_weight: float = 0.7  # w in [0, 1]
    fusion: str = "minmax"  # or "rrf"
    rrf_k: int = 60  # >= 0; the larger, the smaller the advantage of the first ranks
    k1: float = 1.5
    b: float = 0.75
    lexical: str = "bm25"  # or "rank_bm25": the package, which counts each index alone (uses k1 and b, not idf)
    idf: str = "lucene"  # or "okapi"
    dense: str = "lsa"  # or "static", "minilm", "none" (BM25 alone), or the path or hub name of an encoder
    dims: int = 128  # upper bound for the LSA
    seed: int = 0  # of the LSA's randomised SVD
    device: str = "cpu"  # of the encoder
    vectors: str = "float32"  # or "int16": half the memory and faster, for a pool of a million items

    def __post_init__(self):
        if not 0 <= self.bm25_weight <= 1:
            raise ValueError(f"bm25_weight must be in [0, 1], not {self.bm25_weight}")
        allowed = {"fusion": ("minmax", "rrf"), "lexical": ("bm25", "rank_bm25"), "vectors": ("float32", "int16")}
        for name, values in (allowed | {"idf": tuple(IDF)}).items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, not {getattr(self, name)!r}")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 must be >= 0 and b in [0, 1], not k1={self.k1}, b={self.b}")
        if self.rrf_k < 0 or self.dims < 1:
            raise ValueError(f"rrf_k must be >= 0 and dims >= 1, not {self.rrf_k}, {self.dims}")


@dataclass(frozen=True)
class TextSpace:
    """Word statistics and embedder, fitted once and shared, so that a small index uses the statistics of all texts."""

    config: HybridConfig
    stats: BM25Stats
    embedder: Embedder | None  # None: dense="none"

    @classmethod
    def fit(cls, texts: Sequence[str], config: HybridConfig = HybridConfig()) -> TextSpace:
        """Fit a space to `texts`. Pass only texts of training users or of items: other texts would leak test data."""
        embedder = make_embedder(config.dense, config.dims, config.seed, config.device)
        if isinstance(embedder, LSA):
            embedder.fit(texts)
        return cls(config, BM25Stats.fit(texts, config.idf), embedder)

    @property
    def embedder_id(self) -> str:
        return self.embedder.id if self.embedder else "none"

    def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """Return the (n, d) vectors of n texts, float32 or int16 as in `config`; None if there is no embedder."""
        if self.embedder is None:
            return None
        return embed_int16(self.embedder, texts) if self.config.vectors == "int16" else embed(self.embedder, texts)

    def lexical(self, texts: Sequence[str]) -> BM25 | RankBM25:
        """Return a BM25 index over `texts`."""
        k1, b = self.config.k1, self.config.b
        return RankBM25(texts, k1, b) if self.config.lexical == "rank_bm25" else BM25(texts, self.stats, k1, b)

    def pack(self) -> tuple[dict, dict[str, bytes]]:
        """Return what `unpack` needs: {name: small value for JSON} and {name: large value as bytes}.

        Raises ValueError if the embedder is not in `NAMED`.
        """
        _require_named(self.config.dense)
        lsa = self.embedder if isinstance(self.embedder, LSA) else None
        fields = {"config": asdict(self.config), "avgdl": self.stats.avgdl, "unseen": self.stats.unseen}
        fields["dims"] = lsa.table.shape[1] if lsa else None
        parts = {"idf": json.dumps(dict(self.stats.idf)).encode()}
        if lsa:
            parts["vocabulary"] = json.dumps({word: int(row) for word, row in lsa.vocabulary.items()}).encode()
            parts["table"] = lsa.table.tobytes()
        return fields, parts

    @classmethod
    def unpack(cls, fields: Mapping, parts: Mapping[str, bytes]) -> TextSpace:
        """Rebuild the space from the result of `pack`: it gives the same scores. Loads a pretrained embedder again.

        Raises ValueError if the embedder is not in `NAMED`: a saved file must not choose what is loaded or fetched.
        """
        config = typed(HybridConfig, fields["config"])
        _require_named(config.dense)
        about = {"avgdl": fields["avgdl"], "idf": parse_json(parts["idf"]), "unseen": fields["unseen"]}
        stats = typed(BM25Stats, about)
        embedder = make_embedder(config.dense, config.dims, config.seed, config.device)
        if isinstance(embedder, LSA):
            table = np.frombuffer(parts["table"], dtype=np.float32).reshape(-1, typed(int, fields["dims"], "dims"))
            vocabulary = typed(Mapping[str, int], parse_json(parts["vocabulary"]))
            if not all(0 <= row < len(table) for row in vocabulary.values()):
                raise ValueError("a word of the vocabulary has no row in the table")
            embedder.set_table(vocabulary, table)
        return cls(config, stats, embedder)


def _require_named(embedder: str) -> None:
    if embedder not in NAMED:
        raise ValueError(f"a saved text space has one of the embedders {', '.join(NAMED)}, not {shorten(embedder)}")


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search found, its fused score and the two scores behind it."""

    id: str
    score: float
    bm25: float  # before min-max or RRF
    dense: float  # cosine; 0.0 for dense="none"


class Segment:
    """Rows sorted by id, so that in a tie the smaller row number wins. A deleted row stays, but is not `live`."""

    def __init__(self, ids: tuple[str, ...], lexical: BM25 | RankBM25, vectors: Vectors | None):
        """Store `ids` (n,), sorted, with `lexical` and `vectors`, which hold the same rows in the same order."""
        self.ids, self.lexical, self.vectors = ids, lexical, vectors
        self.live = np.ones(len(ids), dtype=bool)
        self.has_vector = vectors.values.any(axis=1) if vectors else None  # (n,)

    def row(self, id: str) -> int | None:
        """Return the row number of `id`; None if the segment has no such row or it was deleted."""
        row = bisect_left(self.ids, id)
        return row if row < len(self.ids) and self.ids[row] == id and self.live[row] else None

    @classmethod
    def merged(cls, segments: Sequence[Segment]) -> Segment:
        """Return one segment with the live rows of all `segments`."""
        # sort the live rows by id; row r of segment i becomes row new_rows[i][r] of the result (-1: deleted)
        rows = sorted((one.ids[row], i, row) for i, one in enumerate(segments) for row in np.flatnonzero(one.live))
        new_rows = [np.full(len(one.ids), -1) for one in segments]
        for new, (_, i, row) in enumerate(rows):
            new_rows[i][row] = new
        # copy postings and vectors to their new rows
        lexical = BM25.merged([(one.lexical, new) for one, new in zip(segments, new_rows, strict=True)], len(rows))
        vectors = None
        if first := segments[0].vectors:
            values = np.empty((len(rows), first.values.shape[1]), first.values.dtype)
            for one, new in zip(segments, new_rows, strict=True):
                values[new[new >= 0]] = one.vectors.values[new >= 0]
            vectors = Vectors(values, first.embedder_id)
        return cls(tuple(id for id, _, _ in rows), lexical, vectors)


class IdOrder:
    """The live rows of all segments, sorted by id. A position numbers rows segment by segment, a place by id."""

    def __init__(self, segments: Sequence[Segment]):
        first, *others = segments
        self._first_ids, self._first_live = first.ids, np.flatnonzero(first.live)
        # the first segment is large and sorted already, so we sort only the rows of the others and insert them
        rows = [(id, live) for one in others for id, live in zip(one.ids, one.live, strict=True)]
        self._other_ids = tuple(id for id, _ in rows)
        tail = sorted((id, position) for position, (id, live) in enumerate(rows, start=len(first.ids)) if live)
        self._tail_ids = tuple(id for id, _ in tail)
        self._positions = None  # (n,) by ascending id; None: only one segment, no row of it deleted
        if others or len(self._first_live) < len(first.ids):
            at = np.searchsorted(self._first_live, [bisect_left(first.ids, id) for id in self._tail_ids])
            self._positions = np.insert(self._first_live, at, [position for _, position in tail])
        self.has_vector = self.gather([one.has_vector for one in segments]) if first.vectors else None  # (n,)

    def gather(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Join one array (..., rows) per segment to an array (..., n) of the live rows, sorted by id."""
        whole = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=-1)
        return whole if self._positions is None else whole[..., self._positions]

    def place(self, id: str) -> int:
        """Return the place of a live row in the order: the number of live rows with a smaller id."""
        in_first = int(np.searchsorted(self._first_live, bisect_left(self._first_ids, id)))
        return in_first + bisect_left(self._tail_ids, id)

    def id(self, place: int) -> str:
        """Return the id of the row at `place`: the inverse of the method `place`."""
        position = place if self._positions is None else int(self._positions[place])
        in_other = position - len(self._first_ids)
        return self._first_ids[position] if in_other < 0 else self._other_ids[in_other]


class HybridIndex:
    """An index of rows, each with an id and a text, that ranks the rows for a query."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str], space: TextSpace, vectors: Vectors | None = None):
        """Index n >= 0 rows. `vectors` (n, d) are saved vectors of the texts, in the same order; None: compute them.

        Raises ValueError if the lengths differ or an id is given twice.
        """
        self.space = space
        self._rows = dict.fromkeys(ids)  # ids of the live rows, in the order given
        self._set_segments([self._segment(ids, texts, vectors)])

    @classmethod
    def from_parts(cls, space: TextSpace, segment: Segment) -> HybridIndex:
        """Return an index over a saved segment."""
        index = cls.__new__(cls)
        index.space, index._rows = space, dict.fromkeys(segment.ids)
        index._set_segments([segment])
        return index

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all rows, in the order in which they were given (after `from_parts`: sorted)."""
        return tuple(self._rows)

    # --- growth ------------------------------------------------------------------------------------------------------

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Add rows. The statistics of the space do not change.

        Raises ValueError if an id is present or given twice, if the lengths differ, or if the space uses rank_bm25.
        """
        if self.space.config.lexical == "rank_bm25":
            raise ValueError("rank_bm25 counts its own rows, so new ones would change every score; build a new index")
        if present := [id for id in ids if id in self._rows]:
            raise ValueError(f"id {present[0]!r} is already in this index; delete it first")
        segments = [*self._segments, self._segment(ids, texts)]
        while len(segments) > 1 and 2 * len(segments[-1].ids) >= len(segments[-2].ids):
            segments[-2:] = [Segment.merged(segments[-2:])]
        self._rows.update(dict.fromkeys(ids))
        self._set_segments(segments)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete rows. Raises LookupError, and deletes nothing, if an id is not in the index."""
        ids = dict.fromkeys(ids)
        if missing := [id for id in ids if id not in self._rows]:
            raise LookupError(f"id {missing[0]!r} is not in this index")
        for id in ids:
            segment, row = next((one, row) for one in self._segments if (row := one.row(id)) is not None)
            segment.live[row] = False
            del self._rows[id]
        self._set_segments(self._segments)

    def merge(self) -> Segment:
        """Merge all live rows into one segment and return this segment, e.g. to save it."""
        if len(self._segments) > 1 or not self._segments[0].live.all():
            self._set_segments([Segment.merged(self._segments)])
        return self._segments[0]

    def _segment(self, ids: Sequence[str], texts: Sequence[str], vectors: Vectors | None = None) -> Segment:
        """Return a segment of new rows. Raises ValueError as `__init__` does."""
        if len(ids) != len(texts) or (vectors and len(vectors.values) != len(texts)):
            also = f" and {len(vectors.values)} vectors" if vectors else ""
            raise ValueError(f"{len(ids)} ids for {len(texts)} texts{also}")
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        ordered = tuple(ids[row] for row in by_id)
        for left, right in pairwise(ordered):
            if left == right:
                raise ValueError(f"id {left!r} is given twice")
        texts = [texts[row] for row in by_id]
        vectors = Vectors(vectors.values[by_id], vectors.embedder_id) if vectors else self.space.vectors(texts)
        if vectors and self.space.config.vectors == "int16" and vectors.values.dtype != np.int16:
            vectors = to_int16(vectors)
        return Segment(ordered, self.space.lexical(texts), vectors)

    def _set_segments(self, segments: list[Segment]) -> None:
        self._segments = segments
        self.__dict__.pop("_order", None)  # out of date; computed again when needed

    @cached_property
    def _order(self) -> IdOrder:
        """The order of the live rows. Computed at first use, so that several changes in a row need only one sort."""
        return IdOrder(self._segments)

    # --- queries -----------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int) -> list[Hit]:
        """Return the k best rows (all n if k > n), best first; [] if all raw scores are 0: no word is known."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the result of `search` for each query. Raises ValueError if k < 0."""
        if k < 0:
            raise ValueError(f"k must be >= 0, not {k}")
        found: dict[str, list[Hit]] = {}
        for query, bm25, dense, score in self._scored(queries):
            best = top_k(score, k if bm25.any() or dense.any() else 0)
            ids = map(self._order.id, best.tolist())
            found[query] = list(map(Hit, ids, score[best].tolist(), bm25[best].tolist(), dense[best].tolist()))
        return [list(found[query]) for query in queries]

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return (Q, n) float64 fused scores; column j belongs to `ids[j]`. Zeros for a query with no known word."""
        places = [self._order.place(id) for id in self._rows]
        score_of = {query: score[places] for query, _, _, score in self._scored(queries)}
        return np.array([score_of[query] for query in queries]).reshape(len(queries), len(self))

    def ranks(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """Return (Q,) int64: the rank, from 1, of `targets[i]` among ALL rows for `queries[i]`. Counts, does not sort.

        Of equal scores the smaller id ranks first; a query with no known word gives all rows score 0. Raises ValueError
        if a target is not in the index or the lengths differ.
        """
        if len(queries) != len(targets):
            raise ValueError(f"{len(queries)} queries for {len(targets)} targets")
        self._require(targets)
        ranks = np.empty(len(queries), dtype=np.int64)
        for i, score in self.scores_by_id(queries):
            ranks[i] = count_rank(score, self._order.place(targets[i]))
        return ranks

    def scores_by_id(self, queries: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (i, fused scores of `queries[i]`, (n,), by ascending id) for every query; equal queries come together.

        Equal queries get the same array, so do not change it.
        """
        asked: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            asked.setdefault(query, []).append(i)
        for query, _, _, score in self._scored(queries):
            for i in asked[query]:
                yield i, score

    def _require(self, targets: Iterable[str]) -> None:
        if missing := [target for target in targets if target not in self._rows]:
            raise ValueError(f"target {missing[0]!r} is not in this index")

    def _scored(self, queries: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (query, bm25, cosine, fused) for each distinct query; the scores are (n,), sorted by id."""
        for chunk, bm25, dense in self._raw_scores(queries):
            yield from zip(chunk, bm25, dense, self._fuse(bm25, dense, self.space.config.bm25_weight), strict=True)

    def _raw_scores(self, queries: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield (queries, bm25, cosines) for chunks of the distinct queries; scores are (chunk, n), sorted by id."""
        distinct = list(dict.fromkeys(queries))
        step = max(MIN_CHUNK, CHUNK_SCORES // max(1, len(self)))
        for start in range(0, len(distinct), step):
            chunk = distinct[start : start + step]
            columns = [np.array([one.lexical.scores(query) for query in chunk]) for one in self._segments]
            bm25 = self._order.gather(columns)
            if self.space.embedder is None:
                dense = np.zeros_like(bm25)
            else:
                vectors = embed(self.space.embedder, chunk)
                dense = self._order.gather([cosine(vectors, one.vectors) for one in self._segments])
            yield chunk, bm25, dense

    def _fuse(self, bm25: np.ndarray, dense: np.ndarray, bm25_weight: float) -> np.ndarray:
        """Return w f(bm25) + (1 - w) f(cosine), all of shape (Q, n); f(bm25) alone if there is no embedder."""
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


def tune_weight(judged: Iterable[tuple[HybridIndex, str, Collection[str]]], k: int = 10) -> dict[float, float]:
    """Return {w: mean nDCG@k} for w = 0, 0.1, ..., 1, over queries with known answers. Choose the best w.

    `judged` holds (index, query text, relevant ids) for each query; all relevant ids have the same grade. Use only
    validation queries, never test queries. Raises ValueError if there is no query or an id is not in its index.
    """
    found: dict[float, list[float]] = {tenth / 10: [] for tenth in range(11)}
    for index, query, relevant in judged:
        index._require(relevant)
        places = [index._order.place(id) for id in sorted(relevant)]
        for _, bm25, dense in index._raw_scores([query]):
            for weight, values in found.items():
                [score] = index._fuse(bm25, dense, weight)
                ranks = [count_rank(score, place) for place in places]
                values.append(ndcg_of_set(ranks, [1] * len(ranks), k))
    if not all(found.values()):
        raise ValueError("there is no query to tune the weight on")
    return {weight: sum(values) / len(values) for weight, values in found.items()}


def minmax(scores: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """Return (s - min s) / (max s - min s), in [0, 1], for each list s of `scores` (Q, n); zeros for a constant list.

    `present` (n,) bool is True for rows with a score; the other rows get the minimum. None: all rows have a score.
    """
    if scores.size == 0 or (present is not None and not present.any()):
        return np.zeros_like(scores)
    if present is not None and not present.all():
        scores = np.where(present, scores, scores[:, present].min(axis=1, keepdims=True))
    low = scores.min(axis=1, keepdims=True)
    span = scores.max(axis=1, keepdims=True) - low
    span[span == 0] = 1.0  # constant: 0 / 1
    out = np.subtract(scores, low, dtype=np.float64)
    out /= span
    return out


def reciprocal_rank(scores: np.ndarray, present: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / (k + rank) for each list of (Q, n), rank 1 for the best (ties: by position); 0 if not `present`."""
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    rank = np.empty(scores.shape)
    np.put_along_axis(rank, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
    return present / (k + rank)


def count_rank(scores: np.ndarray, position: int) -> int:
    """Return the rank, from 1, of `scores[position]` in (n,) scores. The smaller position wins a tie."""
    value = scores[position]
    return 1 + int(np.count_nonzero(scores > value) + np.count_nonzero(scores[:position] == value))
