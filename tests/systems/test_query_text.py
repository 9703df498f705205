"""The query alone: the scores by independent code, and that histories and users change nothing."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

import small
from mrrec_mini.bm25 import words
from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.environment import item_text
from mrrec_mini.systems.query_text import bm25_query, dense_query

ITEMS = (
    Item("z", "red mug", ("home", "mug"), {"size": ("tiny",)}, "for tea"),
    Item("b", "blue mug", ("home", "mug"), {"size": ("large",)}, "for tea and tea and tea"),
    Item("a", "lamp", ("home", "lamp"), {"size": ("tiny",)}, "for reading a book about a mug"),
    Item("c", "knife", ("kitchen", "knife")),
)
DATA = Dataset({item.id: item for item in ITEMS}, (Interaction("t", "c", 5, 5.0, "tea mug"),), ())
SPLIT = Split(frozenset("u"), frozenset("v"), frozenset("t"))
TEXTS = [item_text(item) for item in ITEMS]
BOTH = (bm25_query, dense_query)
ASKED = Query("q", "t", "Tea mug, large", "", 100)


def bm25(query: str, texts: list[str], k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    """BM25 by its formula, one word at a time."""
    rows = [words(text) for text in texts]
    mean = np.mean([len(row) for row in rows])
    scores = np.zeros(len(rows))
    for word in words(query):
        df = sum(word in row for row in rows)
        for i, row in enumerate(rows):
            tf = row.count(word)
            part = tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(row) / mean))
            scores[i] += np.log(1 + (len(rows) - df + 0.5) / (df + 0.5)) * part
    return scores


def stretched(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / (scores.max() - scores.min())


def test_bm25_by_the_formula():
    found = bm25_query().fit(DATA, SPLIT).rank(ASKED, "zbac")
    assert found == pytest.approx(stretched(bm25(ASKED.text, TEXTS)))


WRONG = {
    "k1 of the item index": lambda query: bm25(query, TEXTS, k1=1.5),
    "no discount of long texts": lambda query: bm25(query, TEXTS, b=0.0),
    "titles alone": lambda query: bm25(query, [item.title for item in ITEMS]),
    "the user's history is read too": lambda query: bm25(f"{query} knife", TEXTS),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_version_is_refused(wrong):
    found = bm25_query().fit(DATA, SPLIT).rank(ASKED, "zbac")
    assert found != pytest.approx(stretched(wrong(ASKED.text)), abs=1e-3)


def test_dense_by_scikit_learn():
    """Latent semantic analysis of the item texts, and the cosine of the query with each."""
    tfidf = TfidfVectorizer(analyzer=words).fit(TEXTS)
    rows = tfidf.transform(TEXTS)
    svd = TruncatedSVD(len(TEXTS), random_state=0).fit(rows)
    expected = cosine_similarity(svd.transform(tfidf.transform([ASKED.text])), svd.transform(rows))[0]
    assert dense_query().fit(DATA, SPLIT).rank(ASKED, "zbac") == pytest.approx(stretched(expected), abs=1e-5)


@pytest.mark.parametrize("make", BOTH)
def test_scores_follow_the_candidates(make):
    system = make().fit(DATA, SPLIT)
    z, b, a, c = system.rank(ASKED, "zbac")
    assert system.rank(ASKED, ["c", "z"]).tolist() == [c, z] and len({z, b, a, c}) > 2
    assert system.rank(ASKED, []).shape == (0,)
    with pytest.raises(KeyError):
        system.rank(ASKED, ["nothing"])


@pytest.mark.parametrize("make", BOTH)
def test_a_query_of_unknown_words_scores_0_everywhere(make):
    assert make().fit(DATA, SPLIT).rank(replace(ASKED, text="Zeppelin!"), "zbac").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("make", BOTH)
def test_users_and_histories_change_nothing(make):
    """Neither the user, nor the time, nor any interaction matters."""
    data = small.environment().dataset
    split, (query, *_) = data.split(0, 0.6, 0.2, 0.2), data.queries
    pool = sorted(data.items)
    found = make().fit(data, split).rank(query, pool)
    assert (make().fit(data, split).rank(replace(query, user="somebody", time=0), pool) == found).all()
    assert (make().fit(replace(data, interactions=()), split).rank(query, pool) == found).all()
    assert (make().fit(data, split).rank(replace(query, text="lamp"), pool) != found).any()
