"""BM25: hand-computed scores, rank-bm25 bit for bit, and wrong versions that the numbers reject."""

import itertools
import math
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

import mrrec_mini.bm25 as bm25
from mrrec_mini.bm25 import BM25, BM25Stats, RankBM25, idf_lucene, idf_okapi, term_part, words
from mrrec_mini.memory import plain
from mrrec_mini.world import WorldConfig, make_world

# N = 2, lengths 2 and 4, avgdl = 3
TEXTS = ["red soap", "red red lotion cream"]
ALPHABET = [f"w{i}" for i in range(30)]


def index(texts, **options):
    return BM25(texts, BM25Stats.fit(texts), **options)


def random_texts(rng, n, longest=12):
    p = 1 / np.arange(1, len(ALPHABET) + 1)
    return [" ".join(rng.choice(ALPHABET, rng.integers(1, longest), p=p / p.sum())) for _ in range(n)]


def test_words_are_lower_case_runs():
    assert words("Anti-Frizz SHAMPOO, 2x! Crème_1") == ["anti", "frizz", "shampoo", "2x", "crème_1"]
    assert words(" \n—…") == []


# text -> its words
SPELLINGS = {
    "我对羊毛过敏": ["我对", "对羊", "羊毛", "毛过", "过敏"],
    "羊毛": ["羊毛"],
    "茶": ["茶"],
    "iPhone手机壳": ["iphone", "手机", "机壳"],
    "羊毛のセーター、東京": ["羊毛", "毛の", "のセ", "セー", "ータ", "ター", "東京"],
    "ｱﾚﾙｷﾞｰ": ["アレ", "レル", "ルギ", "ギー"],  # half-width, with a separate voicing mark
    "แพ้ขนสัตว์": ["แพ้", "พ้ข", "ขน", "นสั", "สัต", "ตว์"],  # a vowel sign stays with its letter
    "हिन्दी किताब": ["हिन्दी", "किताब"],
    "cafe\u0301 caf\u00e9 CAFÉ": ["caf\u00e9"] * 3,
    "STRASSE straße": ["strasse"] * 2,
    "İstanbul istanbul ISTANBUL": ["istanbul"] * 3,
    "ısparta": ["ısparta"],
    "schön schon": ["schön", "schon"],
    "Donaudampfschiff": ["donaudampfschiff"],
    "ﬁne Ｂｅｄ": ["fine", "bed"],
    "LEGO™ 2½ m²": ["lego", "2", "1", "2", "m2"],
    "커피를 좋아해": ["커피를", "좋아해"],
    "ok❤️ don’t": ["ok", "don", "t"],
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_words_beyond_ascii(text):
    assert words(text) == SPELLINGS[text]


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


WRONG_WORDS = {
    "as before": lambda text: re.findall(r"\w+", text.lower()),
    "no case folding": lambda text: re.findall(r"\w+", nfkc(text).lower()),
    "no pairs": lambda text: bm25.WORD.findall(bm25.fold(text)),
    "single characters": lambda text: [
        part for word in bm25.WORD.findall(bm25.fold(text)) for part in re.findall(r"[一-鿿]|[^一-鿿]+", word)
    ],
    "no marks": lambda text: [p for w in re.findall(r"\w+", bm25.fold(text)) for p in bm25.split_unspaced(w)],
    "accents removed": lambda text: words("".join(c for c in unicodedata.normalize("NFD", text) if c.isascii())),
    "pairs of everything": lambda text: ["".join(pair) for w in words(text) for pair in itertools.pairwise(w)],
    "a trade mark is two letters": lambda text: words(nfkc(text)),
}


@pytest.mark.parametrize("version", WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_wrong_words_are_rejected(version):
    assert any(version(text) != expected for text, expected in SPELLINGS.items())


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_texts_have_the_words_they_always_had(text):
    assert words(text) == re.findall(r"\w+", text.lower())
    assert plain(text) == " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower()))


ODD = "aI1 _'’茶羊毛がか\u3099ｱﾞー・ิ้แเั\u0301\u0307™½éßİıΣςǰ한हि\u200d\ufe0f❤€"


@settings(deadline=None)
@given(st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=12))
def test_words_of_words_are_the_same_words(text):
    """Words are joined to texts and split again: `common_words`, Rec-R1. A memory is made of the words of `plain`."""
    assert words(" ".join(words(text))) == words(text)
    assert "" not in words(text)
    assert plain(plain(text)) == plain(text)
    assert words(plain(text)) == words(text.replace("_", " "))
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


def test_the_shop_has_no_other_words_than_before():
    shop = make_world(WorldConfig(users=20, items=60))
    texts = [item.title for item in shop.items.values()] + [query.text for query in shop.queries]
    texts += [one.review for one in shop.interactions]
    assert len(texts) > 200 and all(words(text) == re.findall(r"\w+", text.lower()) for text in texts)


def test_idf_by_hand():
    assert idf_lucene(2, 1) == pytest.approx(math.log(2))  # log(1 + 1.5 / 1.5)
    assert idf_lucene(2, 2) == pytest.approx(math.log(1.2))  # log(1 + 0.5 / 2.5)
    assert idf_okapi(2, 1) == 0.0  # log 1.5 - log 1.5
    assert idf_okapi(2, 2) == pytest.approx(math.log(0.2))  # log 0.5 - log 2.5 < 0


def test_term_part_by_hand():
    assert term_part(1, 2, 3.0, 1.5, 0.75) == pytest.approx(2.5 / 2.125)  # 1 + 1.5 (0.25 + 0.75 * 2/3) = 2.125
    assert term_part(2, 4, 3.0, 1.5, 0.75) == pytest.approx(5 / 3.875)  # 2 + 1.5 (0.25 + 0.75 * 4/3) = 3.875
    assert term_part(0, 4, 3.0, 1.5, 0.75) == 0.0


@given(st.integers(1, 10_000), st.data())
def test_lucene_idf_is_positive_and_falls_with_df(n, data):
    df = data.draw(st.integers(0, n - 1))
    assert idf_lucene(n, df) > idf_lucene(n, df + 1) > 0


@given(st.integers(1, 50), st.floats(0.1, 5), st.floats(0, 1), st.integers(1, 100))
def test_term_part_rises_and_saturates(tf, k1, b, length):
    now, more = term_part(tf, length, 20.0, k1, b), term_part(tf + 1, length, 20.0, k1, b)
    assert 0 < now < more < k1 + 1


def test_scores_by_hand():
    soap = 0.693147 * 2.5 / 2.125  # log 2: only row 0 has it
    red = (0.182322 * 2.5 / 2.125, 0.182322 * 5 / 3.875)  # log 1.2: both rows have it
    assert index(TEXTS).scores("Red soap?") == pytest.approx([soap + red[0], red[1]], abs=1e-6)
    assert index(TEXTS).scores("soap SOAP") == pytest.approx([2 * soap, 0], abs=1e-6)


def naive(query, text, texts, idf=idf_lucene, term=term_part, df_of=lambda word, t: word in t, repeats=True):
    """The formula as written, one word at a time."""
    split = [words(t) for t in texts]
    avgdl = sum(map(len, split)) / len(split)
    asked = words(query) if repeats else sorted(set(words(query)))
    score = 0.0
    for word in asked:
        tf = words(text).count(word)
        if tf:
            df = sum(df_of(word, t) for t in split)
            score += idf(len(texts), df) * term(tf, len(words(text)), avgdl, 1.5, 0.75)
    return score


WRONG = {
    "idf missing": {"idf": lambda n, df: 1.0},
    "idf of okapi": {"idf": idf_okapi},
    "idf without the 1 +": {"idf": lambda n, df: math.log((n - df + 0.5) / (df + 0.5))},
    "df counts occurrences": {"df_of": lambda word, t: t.count(word)},
    "b ignored": {"term": lambda tf, length, avgdl, k1, b: term_part(tf, length, avgdl, k1, 0.0)},
    "b taken as 1": {"term": lambda tf, length, avgdl, k1, b: term_part(tf, length, avgdl, k1, 1.0)},
    "length not over avgdl": {"term": lambda tf, length, avgdl, k1, b: term_part(tf, length, 1.0, k1, b)},
    "tf not saturated": {"term": lambda tf, length, avgdl, k1, b: tf / (1 - b + b * length / avgdl)},
    "k1 + 1 missing": {"term": lambda *a: term_part(*a) / 2.5},
    "query repeats dropped": {"repeats": False},
}


def ours_and_naive(**version):
    query = "red red soap"
    texts = [*TEXTS, "red cream cream", "blue soap for dry and red hands"]
    expected = [naive(query, text, texts, **version) for text in texts]
    return index(texts).scores(query), expected


def test_scores_follow_the_formula():
    ours, expected = ours_and_naive()
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("version", WRONG.values(), ids=WRONG.keys())
def test_wrong_versions_are_rejected(version):
    ours, expected = ours_and_naive(**version)
    assert not np.allclose(ours, expected, rtol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_okapi_equals_rank_bm25_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    texts = random_texts(rng, int(rng.integers(3, 200)))
    k1, b = rng.uniform(0.5, 2), rng.uniform(0, 1)
    theirs = BM25Okapi([words(text) for text in texts], k1=k1, b=b)
    stats = BM25Stats.fit(texts, idf="okapi")
    ours = BM25(texts, stats, k1, b)
    lifted = [word for word, value in stats.idf.items() if sum(word in words(t) for t in texts) > len(texts) / 2]
    assert lifted, "the corpus must exercise the negative-idf replacement"
    for _ in range(10):
        query = " ".join(rng.choice([*ALPHABET, "unheard"], rng.integers(1, 15)))
        assert np.array_equal(ours.scores(query), theirs.get_scores(words(query)))


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_memories_find_the_right_row_and_rank_bm25_does_not(n):
    texts = ["likes a light scent", "dislikes sticky cream"][:n]
    assert BM25Okapi([words(text) for text in texts]).get_scores(["scent"])[0] <= 0
    scores = index(texts).scores("scent")
    assert scores[0] > 0
    assert all(scores[1:] == 0)


def test_statistics_come_from_the_corpus_not_the_rows():
    corpus = ["the soap", "the cream", "the lotion", "the jade roller"]
    rows = ["the the comb", "jade comb"]
    scores = BM25(rows, BM25Stats.fit(corpus)).scores
    assert scores("jade")[1] > scores("the")[0]  # counted over the rows alone, both words would have df = 1
    # 9 words / 4 texts = 2.25; comb is not in the corpus: df = 0, log(1 + 4.5 / 0.5) = log 10
    assert scores("comb")[1] == pytest.approx(math.log(10) * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / 2.25)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(ALPHABET[:8]), min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_a_row_that_shares_no_word_changes_no_score(rows, data):
    texts = [" ".join(row) for row in rows]
    query = " ".join(data.draw(st.lists(st.sampled_from(ALPHABET[:8]), min_size=1, max_size=5)))
    stats = BM25Stats.fit(texts)
    alone, joined = BM25(texts, stats).scores(query), BM25([*texts, "wholly foreign words"], stats).scores(query)
    assert np.array_equal(joined, [*alone, 0.0])


@pytest.mark.parametrize("texts", [[], [""], ["", "..."]])
@pytest.mark.parametrize("idf", ["lucene", "okapi"])
def test_texts_without_words_are_no_error(texts, idf):
    stats = BM25Stats.fit(texts, idf)
    assert BM25(texts, stats).scores("soap").tolist() == [0.0] * len(texts)
    assert np.isfinite(BM25(["soap"], stats).scores("soap")).all()
    assert index(TEXTS).scores("").tolist() == [0.0, 0.0]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="idf must be one of"):
        BM25Stats.fit(TEXTS, idf="plus")
    with pytest.raises(ValueError, match="b in"):
        index(TEXTS, b=1.5)


# ---- full columns, merging, rank-bm25 itself


def test_columns_change_no_bit_of_a_score(monkeypatch):
    texts = random_texts(np.random.default_rng(5), 60)
    stats = BM25Stats.fit(texts)
    slow = BM25(texts, stats)
    monkeypatch.setattr(bm25, "COLUMN_MIN_ROWS", 1)
    fast = BM25(texts, stats)
    assert not slow._columns and 5 < len(fast._columns) < len(fast.vocabulary)
    for query in [" ".join(ALPHABET), "w0 w0 w3 w29 unheard w0", "w29 w28", ""]:
        assert np.array_equal(fast.scores(query), slow.scores(query))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.data())
def test_a_merged_index_equals_one_built_at_once(seed, data):
    """Posting by posting: the same rows, in the same order, with the same weights."""
    rng = np.random.default_rng(seed)
    texts = random_texts(rng, 12)
    stats = BM25Stats.fit([*texts, "other words"])
    kept = data.draw(st.lists(st.integers(0, 11), unique=True))  # in their new order
    new_row = np.full(12, -1)
    new_row[kept] = np.arange(len(kept))
    parts = [(BM25(texts[:7], stats), new_row[:7]), (BM25(texts[7:], stats), new_row[7:])]
    merged, whole = BM25.merged(parts, len(kept)), BM25([texts[i] for i in kept], stats)
    for word in ALPHABET:
        assert np.array_equal(merged.scores(word), whole.scores(word))
        term, other = merged.vocabulary.get(word), whole.vocabulary.get(word)
        if other is not None:
            assert np.array_equal(merged.rows[merged._slice(term)], whole.rows[whole._slice(other)])


def test_rank_bm25_itself():
    texts = ["red soap", "red red lotion cream", "", "blue soap", "a comb", "a comb of steel"]
    theirs = BM25Okapi([words(text) for text in texts], k1=1.2, b=0.4)
    ours = RankBM25(texts, 1.2, 0.4)
    assert np.array_equal(ours.scores("Red soap red"), theirs.get_scores(["red", "soap", "red"]))
    assert ours.scores("red")[1] > ours.scores("red")[0] > 0
    assert not np.allclose(RankBM25(texts).scores("red"), ours.scores("red"))  # k1 and b are passed on
    for empty in ([], [""], ["", "!"]):  # rank-bm25 divides by zero here
        assert RankBM25(empty).scores("red").tolist() == [0.0] * len(empty)
