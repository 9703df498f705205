"""BM25: which rows share words with a query, rare words counting more; a term part times an idf part.

Flow: the lexical half of retrieval. `hybrid.py` runs it over a user's memory entries and over the item pool.

Equations (Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009; the paper only names BM25, Fig. 5):

    score(q, d) = sum over the words t of q, repeats included, of  idf(t) * term(tf(t, d), |d|)
    term(tf, |d|) = tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl))
    idf(t) = log(1 + (N - df + 1/2) / (df + 1/2))        "lucene": always > 0
    idf(t) = log(N - df + 1/2) - log(df + 1/2)           "okapi":  < 0 for a word in more than half of the N texts

Ours: N, df and avgdl may come from another, larger corpus than the rows (`BM25Stats`): a user has only 10 to 100 rows.
"okapi" is kept because it is rank-bm25's BM25Okapi bit for bit, which the tests check; "lucene" is the default, for
rank-bm25 breaks the memory of a person who has said little. It counts over the rows alone: with one row every word of
it has df = N and an idf below zero, with two rows a word of one of them has log 1.5 - log 1.5 = 0; the repair of
negative values (a quarter of the mean idf) is then itself negative or zero. So the one right row scores less than
nothing, or as much as the wrong one. `RankBM25` is that package itself, as the first implementation to read.

Fast: idf x term is folded once into postings (word -> rows, weights), a sparse matrix stored by word. A query only adds
weights, in its own word order. A word that stands in more than an eighth of many rows is kept as a whole column as
well: adding it costs a pass over memory instead of a jump for each posting, and adds zeros, which change no score.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"\w+")
EPSILON = 0.25  # rank-bm25: a negative idf becomes this share of the mean idf
MANY = 4096  # rows, from which on frequent words are kept as columns


def words(text: str) -> list[str]:
    """The runs of letters, digits and underscores of `text`, lower case, in order; the one tokenizer of retrieval."""
    return WORD.findall(text.lower())


def idf_lucene(n: int, df: int) -> float:
    """log(1 + (N - df + 1/2) / (df + 1/2)): how surprising a word is that `df` of `n` texts hold. Always > 0."""
    return math.log(1 + (n - df + 0.5) / (df + 0.5))


def idf_okapi(n: int, df: int) -> float:
    """log(N - df + 1/2) - log(df + 1/2): the log odds of not meeting the word. Negative when df > N / 2."""
    return math.log(n - df + 0.5) - math.log(df + 0.5)


def term_part(tf, length, avgdl: float, k1: float, b: float):
    """tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl)), in [0, k1 + 1): repeats saturate, long texts are discounted."""
    return tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / avgdl))


IDF = {"lucene": idf_lucene, "okapi": idf_okapi}


@dataclass(frozen=True)
class BM25Stats:
    """What BM25 knows of a corpus as a whole; shared by every index whose scores are to be comparable."""

    avgdl: float  # mean number of words of a text; 1.0 where the corpus holds no word
    idf: Mapping[str, float]  # word -> idf
    unseen: float  # idf of a word that the corpus never showed: df = 0

    @classmethod
    def fit(cls, corpus: Iterable[str], idf: str = "lucene") -> BM25Stats:
        """Count `corpus` once (may be empty). `idf`: "lucene" or "okapi", anything else is a ValueError."""
        if idf not in IDF:
            raise ValueError(f"idf must be one of {sorted(IDF)}, not {idf!r}")
        df: Counter[str] = Counter()
        n = total = 0
        for text in corpus:
            tokens = words(text)
            n, total = n + 1, total + len(tokens)
            df.update(dict.fromkeys(tokens, 1))  # each word once a text, in order of first sight: see lift_negative
        values = {word: IDF[idf](n, count) for word, count in df.items()}
        if idf == "okapi":
            values = lift_negative(values)
        return cls(avgdl=total / n if total else 1.0, idf=values, unseen=IDF[idf](n, 0))


def lift_negative(idf: Mapping[str, float]) -> dict[str, float]:
    """rank-bm25's repair: a negative idf becomes EPSILON times the mean idf (which tiny corpora make negative)."""
    total = 0.0
    for value in idf.values():  # not sum(): from Python 3.12 on it compensates rounding, and the last bit would differ
        total += value
    floor = EPSILON * (total / len(idf)) if idf else 0.0
    return {word: floor if value < 0 else value for word, value in idf.items()}


class BM25:
    """Postings over `texts` (n rows), weighted by `stats`: a sparse matrix stored by word, one slice each."""

    def __init__(self, texts: Sequence[str], stats: BM25Stats, k1: float = 1.5, b: float = 0.75):
        """`k1` >= 0: how slowly repeats saturate. `b` in [0, 1]: how far length is discounted. Else ValueError."""
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 must be >= 0 and b in [0, 1], not k1={k1}, b={b}")
        n = len(texts)
        vocabulary: dict[str, int] = {}
        tokens, lengths = array("q"), []
        for text in texts:
            row = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
            tokens.extend(row)
            lengths.append(len(row))
        length = np.array(lengths, dtype=np.int64)  # (n,)
        # One integer per (word, row), sorted by word then row: counting equal ones gives tf, in posting order.
        pairs = np.asarray(tokens) * n + np.repeat(np.arange(n), length)
        pairs, tf = np.unique(pairs, return_counts=True)
        term, rows = np.divmod(pairs, max(n, 1))  # (postings,) each
        idf = np.array([stats.idf.get(word, stats.unseen) for word in vocabulary])
        weights = idf[term] * term_part(tf, length[rows], stats.avgdl, k1, b)
        self._hold(n, vocabulary, _starts(term, len(vocabulary)), rows, weights)

    def _hold(self, n: int, vocabulary: dict[str, int], starts: np.ndarray, rows: np.ndarray, weights: np.ndarray):
        self.n = n
        self.vocabulary = vocabulary  # word of some row -> its slice
        self.starts = starts.tolist()  # slice t is starts[t] : starts[t + 1]
        self.rows = rows  # (postings,) int64, so that no query has to cast; ascending within a slice
        self.weights = weights  # (postings,) float64
        self._columns: dict[int, np.ndarray] = {}  # slice -> (n,) float64
        if n >= MANY:
            for term in np.flatnonzero(np.diff(starts) > n / 8).tolist():
                self._columns[term] = np.zeros(n)
                self._columns[term][self._rows_of(term)] = self._weights_of(term)

    @classmethod
    def from_parts(
        cls, n: int, vocabulary: dict[str, int], starts: np.ndarray, rows: np.ndarray, weights: np.ndarray
    ) -> BM25:
        """What `__init__` made, out of the parts that it consists of; arrays may be memory maps."""
        index = cls.__new__(cls)
        index._hold(n, vocabulary, starts, rows, weights)
        return index

    @classmethod
    def merged(cls, parts: Sequence[tuple[BM25, np.ndarray]], n: int) -> BM25:
        """The index that `__init__` would make of the rows of several: each with the new place of each of its rows.

        Place -1: the row is left out. Weights are kept as they are, so all parts must have been made with one `stats`.
        """
        vocabulary: dict[str, int] = {}
        pairs, weights = [], []
        for part, place in parts:
            term = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in part.vocabulary], dtype=np.int64)
            term, row = np.repeat(term, np.diff(part.starts)), place[part.rows]
            pairs.append(term[row >= 0] * n + row[row >= 0])
            weights.append(part.weights[row >= 0])
        pair = np.concatenate(pairs)
        order = np.argsort(pair)  # every pair stands there once
        term, rows = np.divmod(pair[order], max(n, 1))
        return cls.from_parts(n, vocabulary, _starts(term, len(vocabulary)), rows, np.concatenate(weights)[order])

    def _rows_of(self, term: int) -> np.ndarray:
        return self.rows[self.starts[term] : self.starts[term + 1]]

    def _weights_of(self, term: int) -> np.ndarray:
        return self.weights[self.starts[term] : self.starts[term + 1]]

    def scores(self, query: str) -> np.ndarray:
        """(n,) float64; 0 where a row shares no word with `query`. Added in query order, as rank-bm25 does."""
        scores = np.zeros(self.n)
        for word in words(query):
            term = self.vocabulary.get(word)
            if term is None:
                continue
            if term in self._columns:
                scores += self._columns[term]
            else:
                scores[self._rows_of(term)] += self._weights_of(term)  # a row stands in a slice once
        return scores


def _starts(term: np.ndarray, count: int) -> np.ndarray:
    """(postings,) ascending word numbers -> (count + 1,) where the slice of each begins."""
    return np.searchsorted(term, np.arange(count + 1))


class RankBM25:
    """rank-bm25's own BM25Okapi over `texts`, which it counts alone: slow, and the implementation to read first."""

    def __init__(self, texts: Sequence[str], k1: float = 1.5, b: float = 0.75):
        from rank_bm25 import BM25Okapi

        split = [words(text) for text in texts]
        self.n = len(texts)
        self._okapi = BM25Okapi(split, k1=k1, b=b) if any(split) else None  # without a word it divides by zero

    def scores(self, query: str) -> np.ndarray:
        """(n,) float64. What holds for "okapi" above holds here: below zero or zero where there are one or two rows."""
        return self._okapi.get_scores(words(query)) if self._okapi else np.zeros(self.n)
