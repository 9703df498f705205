"""BM25: which rows share words with a query, rare words counting more; a term part times an idf part.

Flow: the lexical half of retrieval. `hybrid.py` runs it over a user's memory entries and over the item pool.

Equations (Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009; the paper only names BM25, Fig. 5):

    score(q, d) = sum over the words t of q, repeats included, of  idf(t) * term(tf(t, d), |d|)
    term(tf, |d|) = tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl))
    idf(t) = log(1 + (N - df + 1/2) / (df + 1/2))        "lucene": always > 0
    idf(t) = log(N - df + 1/2) - log(df + 1/2)           "okapi":  < 0 for a word in more than half of the N texts

Ours: N, df and avgdl may come from another, larger corpus than the rows (`BM25Stats`): a user has only 10 to 100 rows.
With "okapi" and the statistics of one row alone the matching row scores below zero, with two rows exactly zero.
"okapi" is kept because it is rank-bm25's BM25Okapi bit for bit, which the tests check; "lucene" is the default.
idf x term is folded once into postings (word -> rows, weights). A query then only adds weights, in its own word order.
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
        self.n = len(texts)
        self.vocabulary: dict[str, int] = {}  # word of some row -> its slice
        tokens, lengths = array("q"), []
        for text in texts:
            row = [self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words(text)]
            tokens.extend(row)
            lengths.append(len(row))
        length = np.array(lengths, dtype=np.int64)  # (n,)
        # One integer per (word, row), sorted by word then row: counting equal ones gives tf, in posting order.
        pairs = np.asarray(tokens) * self.n + np.repeat(np.arange(self.n), length)
        pairs, tf = np.unique(pairs, return_counts=True)
        term, self.rows = np.divmod(pairs, max(self.n, 1))  # (postings,) each; int64, so that no query has to cast
        idf = np.array([stats.idf.get(word, stats.unseen) for word in self.vocabulary])
        self.weights = idf[term] * term_part(tf, length[self.rows], stats.avgdl, k1, b)  # (postings,) float64
        self.starts = np.searchsorted(term, np.arange(len(self.vocabulary) + 1)).tolist()  # of each word's slice

    def scores(self, query: str) -> np.ndarray:
        """(n,) float64; 0 where a row shares no word with `query`. Added in query order, as rank-bm25 does."""
        known = [self.vocabulary[word] for word in words(query) if word in self.vocabulary]
        if not known:
            return np.zeros(self.n)
        slices = [slice(self.starts[term], self.starts[term + 1]) for term in known]
        rows = np.concatenate([self.rows[s] for s in slices])
        weights = np.concatenate([self.weights[s] for s in slices])
        return np.bincount(rows, weights, minlength=self.n)
