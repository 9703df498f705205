"""Score texts with BM25: each word that a text shares with the query adds to the score, and rare words add more.

Flow: the lexical half of retrieval. `hybrid.py` scores a user's memory entries or the item pool with it.

Equations (Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009; the paper only names BM25, Fig. 5):

    score(q, d) = sum over the words t of q, repeats included, of  idf(t) * term(tf(t, d), |d|)
    term(tf, |d|) = tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl))
    idf(t) = log(1 + (N - df + 1/2) / (df + 1/2))        "lucene": always > 0
    idf(t) = log(N - df + 1/2) - log(df + 1/2)           "okapi":  < 0 for a word in more than half of the N texts

tf counts the word t in the text d, |d| all words of d. N is the number of texts, df the number of texts that contain t.
Ours: a row is an indexed text. N, df and avgdl may come from a larger corpus (`BM25Stats`), since a user has only 10 to
100 rows. "okapi" equals rank-bm25's BM25Okapi bit for bit, which the tests check. "lucene" is the default, because
rank-bm25 counts only the rows and fails if they are few. With one row, every word has df = N and a negative idf. With
two rows, a word in one of them has idf log 1.5 - log 1.5 = 0. rank-bm25 replaces a negative idf by a quarter of the
mean idf, but here the mean is negative or zero as well. So the right row scores below zero, or the same as the wrong
row. `RankBM25` wraps this package and is simpler: read it first.

Speed: the index stores idf x term for each posting (a word in a row), so a query only adds stored weights, word by
word. In a large index, a word in more than an eighth of the rows is also stored as a full column, because one pass over
memory adds it; its zeros change no score.

Words (`words`): the paper does not say how it splits text. In ASCII, a word is a run of letters, digits and underscores
in lower case. Beyond ASCII, two spellings of one word become one token (`fold`), and vowel signs belong to their word.
Chinese, Japanese, Thai, Lao, Khmer and Burmese put no spaces between words, so each pair of neighbouring characters is
a token: 羊毛 (wool) is found in 我对羊毛过敏. So a query of one such character finds it only where it stands alone.
Guessed: no accent is removed, since schon and schön are two words; no compound is split; Korean is split at its spaces.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Two character classes. MARKS: accents and vowel signs, which follow a letter and which `\w` does not hold.
# UNSPACED: the scripts without spaces, i.e. Thai, Lao, Burmese, Khmer, Japanese kana and Chinese characters.
MARKS = "".join(map(chr, [*range(0x300, 0x1E00), *range(0xA66F, 0xABEE)]))
MARKS = "".join(char for char in MARKS if unicodedata.category(char).startswith("M"))
UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
ASCII_WORD, WORD, LETTER = re.compile(r"\w+"), re.compile(rf"\w[\w{MARKS}]*"), re.compile(rf"\w[{MARKS}]*")
IS_UNSPACED, RUN = re.compile(f"[{UNSPACED}]"), re.compile(rf"\w(?:(?<=[{UNSPACED}])[{UNSPACED}]*|[^{UNSPACED}]*)")
# NFKC would glue these to the word or number before them: LEGO™ -> LEGOTM, 2½ -> 21⁄2
APART = str.maketrans({**dict.fromkeys("™℠", " "), **{char: f" {char}" for char in "¼½¾⅓⅔⅛⅜⅝⅞"}})
EPSILON = 0.25  # rank-bm25: a negative idf becomes this share of the mean idf
COLUMN_MIN_ROWS = 4096  # an index with fewer rows stores no full columns


def fold(text: str) -> str:
    """Return one spelling for all spellings of a text: NFKC (e + ´ = é, ﬁ = fi, Ｂ = B), then no difference of case.

    Case folding turns ß into ss: STRASSE = straße. It turns İ into i and a dot; we drop the dot: İstanbul = istanbul.
    Without knowing the language, I cannot also become the Turkish ı: ISPARTA is not ısparta. ASCII: only lower case.
    """
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text.translate(APART)).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", folded)  # again, since case folding takes some letters apart


def words(text: str) -> list[str]:
    """Return the words of a text, folded, in order: the tokenizer of BM25 and LSA. `Anti-Frizz 2x` -> anti, frizz, 2x.

    A run of a script without spaces becomes its pairs of neighbours (`羊毛衫` -> 羊毛, 毛衫), or its only character.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return [part for word in WORD.findall(fold(text)) for part in split_unspaced(word)]


def split_unspaced(word: str) -> list[str]:
    """Return [word], but the pairs of neighbours of each run of letters that belong to a script without spaces."""
    if not IS_UNSPACED.search(word):
        return [word]
    found: list[str] = []
    for run in RUN.findall(word):
        letters = LETTER.findall(run)  # with their vowel signs
        pairs = map("".join, pairwise(letters)) if IS_UNSPACED.match(run) and len(letters) > 1 else [run]
        found.extend(pairs)
    return found


def idf_lucene(n: int, df: int) -> float:
    """Return log(1 + (N - df + 1/2) / (df + 1/2)) for a word that occurs in `df` of N = `n` texts. Always > 0."""
    return math.log(1 + (n - df + 0.5) / (df + 0.5))


def idf_okapi(n: int, df: int) -> float:
    """Return log(N - df + 1/2) - log(df + 1/2): the log odds that a text lacks the word. Negative if df > N / 2."""
    return math.log(n - df + 0.5) - math.log(df + 0.5)


def term_part(tf, length, avgdl: float, k1: float, b: float):
    """Return tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl)), in [0, k1 + 1). `length` is |d|; long texts get less."""
    return tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / avgdl))


IDF = {"lucene": idf_lucene, "okapi": idf_okapi}


@dataclass(frozen=True)
class BM25Stats:
    """Word statistics of a corpus. Scores of two indexes can be compared if both use the same statistics."""

    avgdl: float  # mean number of words per text; 1.0 if the corpus has no words
    idf: Mapping[str, float]  # word -> idf
    unseen: float  # idf of a word that is not in the corpus: df = 0

    @classmethod
    def fit(cls, corpus: Iterable[str], idf: str = "lucene") -> BM25Stats:
        """Count the words of `corpus` (may be empty). Raises ValueError if `idf` is neither "lucene" nor "okapi"."""
        if idf not in IDF:
            raise ValueError(f"idf must be one of {sorted(IDF)}, not {idf!r}")
        df: Counter[str] = Counter()
        n = total = 0
        for text in corpus:
            tokens = words(text)
            n, total = n + 1, total + len(tokens)
            df.update(dict.fromkeys(tokens, 1))  # each word once, in order of first occurrence: see lift_negative
        values = {word: IDF[idf](n, count) for word, count in df.items()}
        values = lift_negative(values) if idf == "okapi" else values
        return cls(avgdl=total / n if total else 1.0, idf=values, unseen=IDF[idf](n, 0))


def lift_negative(idf: Mapping[str, float]) -> dict[str, float]:
    """Replace each negative idf by EPSILON times the mean idf, like rank-bm25. In a tiny corpus the mean can be < 0."""
    total = 0.0
    for value in idf.values():  # same order and rounding as rank-bm25; sum() rounds differently since Python 3.12
        total += value
    floor = EPSILON * (total / len(idf)) if idf else 0.0
    return {word: floor if value < 0 else value for word, value in idf.items()}


class BM25:
    """A BM25 index of n rows. It is a sparse matrix of weights, stored word by word: one slice per word."""

    def __init__(self, texts: Sequence[str], stats: BM25Stats, k1: float = 1.5, b: float = 0.75):
        """Index `texts`. `k1` >= 0: how much repeats add; `b` in [0, 1]: how much long texts lose. Else ValueError."""
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 must be >= 0 and b in [0, 1], not k1={k1}, b={b}")
        n = len(texts)
        vocabulary: dict[str, int] = {}  # in order of first occurrence
        tokens, lengths = array("q"), []
        for text in texts:
            row = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
            tokens.extend(row)
            lengths.append(len(row))
        length = np.array(lengths, dtype=np.int64)  # (n,)
        # encode each occurrence (word, row) as one integer: np.unique sorts by word, then row, and counts tf
        pairs = np.asarray(tokens) * n + np.repeat(np.arange(n), length)
        pairs, tf = np.unique(pairs, return_counts=True)
        term, rows = np.divmod(pairs, max(n, 1))  # (postings,) each
        idf = np.array([stats.idf.get(word, stats.unseen) for word in vocabulary])  # (words,)
        weights = idf[term] * term_part(tf, length[rows], stats.avgdl, k1, b)
        starts = np.searchsorted(term, np.arange(len(vocabulary) + 1))
        self._store(n, vocabulary, starts, rows, weights)

    def _store(self, n: int, vocabulary: dict[str, int], starts: np.ndarray, rows: np.ndarray, weights: np.ndarray):
        self.n, self.vocabulary = n, vocabulary  # word -> number of its slice
        self.starts = starts.tolist()  # slice t is starts[t] : starts[t + 1]
        self.rows = rows  # (postings,) int64, so a query converts no types; ascending within a slice
        self.weights = weights  # (postings,) float64
        self._columns: dict[int, np.ndarray] = {}  # slice -> (n,) float64
        if n >= COLUMN_MIN_ROWS:
            for term in np.flatnonzero(np.diff(starts) > n / 8).tolist():
                self._columns[term] = np.bincount(rows[self._slice(term)], weights[self._slice(term)], minlength=n)

    @classmethod
    def from_parts(cls, n: int, vocabulary: dict[str, int], starts, rows, weights) -> BM25:
        """Rebuild an index from its saved parts; the arrays may be memory maps."""
        index = cls.__new__(cls)
        index._store(n, vocabulary, starts, rows, weights)
        return index

    @classmethod
    def merged(cls, parts: Sequence[tuple[BM25, np.ndarray]], n: int) -> BM25:
        """Merge indexes that share one `stats` into one with n rows, which scores like an index built from all texts.

        `parts` holds pairs (index, new_row): row i of the index becomes row new_row[i] of the result; -1 drops it.
        """
        vocabulary: dict[str, int] = {}
        pairs, weights = [], []
        for part, new_row in parts:
            # renumber the words and rows of each posting
            term = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in part.vocabulary], dtype=np.int64)
            term, row = np.repeat(term, np.diff(part.starts)), new_row[part.rows]
            pairs.append(term[row >= 0] * n + row[row >= 0])
            weights.append(part.weights[row >= 0])
        pair = np.concatenate(pairs)
        order = np.argsort(pair)  # by word, then row; no two pairs are equal
        term, rows = np.divmod(pair[order], max(n, 1))
        starts = np.searchsorted(term, np.arange(len(vocabulary) + 1))
        return cls.from_parts(n, vocabulary, starts, rows, np.concatenate(weights)[order])

    def _slice(self, term: int) -> slice:
        return slice(self.starts[term], self.starts[term + 1])

    def scores(self, query: str) -> np.ndarray:
        """Return (n,) float64; 0 for a row without a word of `query`. Adds words in query order, as rank-bm25 does."""
        scores = np.zeros(self.n)
        for word in words(query):
            term = self.vocabulary.get(word)
            if term in self._columns:
                scores += self._columns[term]
            elif term is not None:
                scores[self.rows[self._slice(term)]] += self.weights[self._slice(term)]  # a slice has no row twice
        return scores


class RankBM25:
    """BM25Okapi of the package rank-bm25, which counts only `texts`. It is slow, but simpler: read it first."""

    def __init__(self, texts: Sequence[str], k1: float = 1.5, b: float = 0.75):
        from rank_bm25 import BM25Okapi

        tokens = [words(text) for text in texts]
        self.n = len(texts)
        self._okapi = BM25Okapi(tokens, k1=k1, b=b) if any(tokens) else None  # BM25Okapi divides by 0 without words

    def scores(self, query: str) -> np.ndarray:
        """Return (n,) float64. With one or two rows, even the right row scores <= 0: see the module docstring."""
        return self._okapi.get_scores(words(query)) if self._okapi else np.zeros(self.n)
