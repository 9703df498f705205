"""Hybrid retrieval: fusion by hand, ranks against a full sort, tiny memories, ties, batches, growth, wrong versions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mrrec_mini.hybrid as hybrid
from mrrec_mini.bm25 import BM25
from mrrec_mini.dense import cosine, embed
from mrrec_mini.hybrid import (
    Hit,
    HybridConfig,
    HybridIndex,
    TextSpace,
    count_rank,
    minmax,
    reciprocal_rank,
    tune_weight,
)

CORPUS = [
    "likes a light citrus scent",
    "fresh lemon and citrus fragrance for summer",
    "thick cream for very dry hands",
    "hand cream, unscented, for dry skin",
    "steel nail clipper with a case",
    "nail file made of glass and steel",
    "sun lotion for hiking in summer",
    "sticky lotion, left a film on the skin",
]
QUERIES = ["citrus scent", "dry skin cream for hiking", "steel", "a summer lotion lotion", "fragrance", "on the and"]
VARIANTS = [
    HybridConfig(dims=4),
    HybridConfig(dims=4, bm25_weight=0.3),
    HybridConfig(dims=4, fusion="rrf", bm25_weight=0.5),
    HybridConfig(dense="none"),
    HybridConfig(dense="none", fusion="rrf"),
    HybridConfig(dims=4, idf="okapi", k1=1.2, b=0.3),
    HybridConfig(dims=4, vectors="int16"),
]
each_variant = pytest.mark.parametrize(
    "config", VARIANTS, ids=lambda c: f"{c.fusion}-{c.dense}-{c.idf}-{c.bm25_weight}-{c.vectors}"
)


def make(texts=CORPUS, ids=None, config=VARIANTS[0], corpus=CORPUS):
    return HybridIndex(ids or [f"m{i}" for i in range(len(texts))], texts, TextSpace.fit(corpus, config))


def synthetic(n, seed=0, longest=9):
    """n texts of few distinct words, some of them equal, so there are many ties. Ids in random order."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(25)], rng.integers(1, longest))) for _ in range(n)]
    return [f"i{j:04d}" for j in rng.permutation(n)], texts


def by_formula(index, texts, query, config):
    """(n,) scores from the two raw lists in plain Python, in the order of `index.ids`."""
    bm25 = BM25(texts, index.space.stats, config.k1, config.b).scores(query).tolist()
    vectors = index.space.vectors(texts)
    cos = cosine(embed(index.space.embedder, [query]), vectors)[0].tolist()
    no_vector = [not row.any() for row in vectors.values]
    if config.fusion == "minmax":
        lowest = min((c for c, missing in zip(cos, no_vector, strict=True) if not missing), default=0.0)
        cos = [lowest if missing else c for c, missing in zip(cos, no_vector, strict=True)]
        parts = [[(s - min(x)) / (max(x) - min(x)) if max(x) > min(x) else 0.0 for s in x] for x in (bm25, cos)]
    else:
        lists = [
            {i: s for i, s in enumerate(bm25) if s},
            {i: s for i, s in enumerate(cos) if not no_vector[i]} if any(cos) else {},
        ]
        parts = []
        for found in lists:
            order = sorted(found, key=lambda i: (-found[i], index.ids[i]))
            parts.append([1 / (config.rrf_k + order.index(i) + 1) if i in found else 0.0 for i in range(len(bm25))])
    w = config.bm25_weight
    return [w * a + (1 - w) * b for a, b in zip(*parts, strict=True)]


def full_order(index, query):
    """Ids by (score desc, id asc): the slow way, which `search` and `ranks` must agree with."""
    score = dict(zip(index.ids, index.scores([query])[0].tolist(), strict=True))
    return sorted(index.ids, key=lambda id: (-score[id], id))


# ---- min-max


def test_minmax_by_hand():
    lists = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [-1.0, 0.0, 1.0]])
    # (1-1)/2, (3-1)/2, (2-1)/2; constant; (-1+1)/2, (0+1)/2, (1+1)/2
    assert minmax(lists).tolist() == [[0, 1, 0.5], [0, 0, 0], [0, 0.5, 1]]
    assert lists[0].tolist() == [1, 3, 2]  # the input is unchanged
    assert minmax(np.array([[7.0]])).tolist() == [[0.0]]  # one row
    assert minmax(np.zeros((2, 0))).shape == (2, 0)
    # row 1 is not present: it counts as the minimum of the others, 2, not as 0
    assert minmax(np.array([[2.0, 0.0, 4.0]]), np.array([True, False, True])).tolist() == [[0, 0, 1]]
    assert minmax(np.array([[2.0, 0.0]]), np.array([False, False])).tolist() == [[0, 0]]


WRONG_MINMAX = {
    "over both lists together": lambda a, b: tuple((x - min(a.min(), b.min())) / max(a.max(), b.max()) for x in (a, b)),
    "by the maximum only": lambda a, b: (a / a.max(1, keepdims=True), b / b.max(1, keepdims=True)),
    "over all queries": lambda a, b: tuple((x - x.min()) / (x.max() - x.min()) for x in (a, b)),
    "not at all": lambda a, b: (a, b),
}


@pytest.mark.parametrize("wrong", WRONG_MINMAX.values(), ids=WRONG_MINMAX.keys())
def test_wrong_minmax_is_rejected(wrong):
    index = make()
    segment = index.merge()
    bm25 = np.stack([segment.lexical.scores(query) for query in QUERIES])
    cos = cosine(embed(index.space.embedder, QUERIES), segment.vectors)
    a, b = wrong(bm25, cos)
    assert not np.allclose(index.scores(QUERIES), 0.7 * a + 0.3 * b, atol=1e-3)
    assert np.allclose(index.scores(QUERIES), 0.7 * minmax(bm25) + 0.3 * minmax(cos))


# ---- reciprocal rank fusion


def test_reciprocal_rank_by_hand():
    scores = np.array([[0.2, 0.9, 0.9, 0.5]])
    present = np.array([[True, True, True, False]])
    # ranks 1 and 2: the two of 0.9, smaller position first; rank 3: 0.2; the last row is not present
    assert reciprocal_rank(scores, present, 60).tolist() == [[1 / 63, 1 / 61, 1 / 62, 0]]


def test_rrf_by_hand():
    config = HybridConfig(fusion="rrf", bm25_weight=0.5, dims=4)
    index = make(["citrus scent", "steel", "citrus cream"], ["a", "b", "c"], config)
    bm25 = {hit.id: hit.bm25 for hit in index.search("citrus scent", 3)}
    dense = {hit.id: hit.dense for hit in index.search("citrus scent", 3)}
    assert bm25["a"] > bm25["c"] > bm25["b"] == 0
    assert dense["a"] > dense["c"] > dense["b"]
    # b shares no word, so it has no BM25 rank: only 1 / (60 + 3) from the dense list
    expected = {"a": 1 / 61, "c": 1 / 62, "b": 0.5 / 63}
    assert {hit.id: hit.score for hit in index.search("citrus scent", 3)} == pytest.approx(expected)
    wrong = {
        "without + k": {"a": 1 / 1, "c": 1 / 2, "b": 0.5 / 3},
        "ranks from 0": {"a": 1 / 60, "c": 1 / 61, "b": 0.5 / 62},
        "b at the end of the BM25 list": {"a": 1 / 61, "c": 1 / 62, "b": 1 / 63},
    }
    for scores in wrong.values():
        assert expected != pytest.approx(scores)


@pytest.mark.parametrize(
    "config", [c for c in VARIANTS if c.dense == "lsa"], ids=lambda c: f"{c.fusion}-{c.bm25_weight}"
)
def test_scores_follow_the_formula_on_random_rows(config):
    ids, texts = synthetic(40)
    texts[3] = "unheard"  # a row without a vector
    index = make(texts, ids, config, corpus=[t for t in texts if t != "unheard"])
    queries = [*synthetic(6, seed=1)[1], "unheard w1", "w2", "zyx"]
    for query, row in zip(queries, index.scores(queries), strict=True):
        assert row == pytest.approx(by_formula(index, texts, query, config), abs=1e-12)


# ---- order, ranks, ties


@each_variant
def test_search_and_ranks_agree_with_a_full_sort(config):
    ids, texts = synthetic(60)
    index = make(texts, ids, config, corpus=texts)
    queries = [*synthetic(5, seed=2)[1], "zyx", ""]
    for query in queries:
        order = full_order(index, query)
        assert index.ranks([query] * 60, order).tolist() == list(range(1, 61))
        if query not in ("zyx", ""):
            assert [hit.id for hit in index.search(query, 60)] == order
            assert [hit.id for hit in index.search(query, 7)] == order[:7]


def test_count_rank_and_its_wrong_versions():
    scores = np.array([0.5, 0.9, 0.5, 0.5, 0.1])
    assert [count_rank(scores, i) for i in range(5)] == [2, 1, 3, 4, 5]
    right = [2, 1, 3, 4, 5]
    assert [int((scores > s).sum()) for s in scores] != right  # ranks from 0
    assert [1 + int((scores > s).sum()) for s in scores] != right  # optimistic: ties are free
    assert [int((scores >= s).sum()) for s in scores] != right  # pessimistic
    assert [
        1 + int((scores > s).sum() + (scores[i + 1 :] == s).sum()) for i, s in enumerate(scores)
    ] != right  # id desc


def test_ties_go_by_id_not_by_position():
    index = make(["citrus", "citrus", "steel", "citrus"], ["m9", "m10", "m1", "m2"])
    assert [hit.id for hit in index.search("citrus", 4)] == ["m10", "m2", "m9", "m1"]  # strings: "m10" < "m2"
    assert index.ranks(["citrus"] * 4, ["m9", "m10", "m1", "m2"]).tolist() == [3, 1, 4, 2]


def test_a_query_with_no_known_word():
    index = make(["citrus", "steel", "cream"], ["b", "c", "a"])
    for query in ("", "  ", "zyx 123", "!?"):
        assert index.search(query, 3) == []
        assert index.scores([query]).tolist() == [[0, 0, 0]]
        assert index.ranks([query] * 3, ["b", "c", "a"]).tolist() == [2, 3, 1]


def test_scores_are_in_the_order_given():
    index = make(["steel", "citrus"], ["z", "a"])
    assert index.ids == ("z", "a")
    assert index.scores(["citrus"]).argmax() == 1 and index.scores(["steel"]).argmax() == 0


# ---- sizes


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("config", [c for c in VARIANTS if c.idf == "lucene"], ids=lambda c: f"{c.fusion}-{c.dense}")
def test_tiny_memories_find_the_right_row(n, config):
    texts = ["likes a light citrus scent", "thick cream for very dry hands"][:n]
    hits = make(texts, ["b", "a"][:n], config).search("citrus", 5)
    assert [hit.id for hit in hits] == ["b", "a"][:n]
    assert hits[0].bm25 > 0
    assert n == 1 or hits[0].score > hits[1].score


def test_a_single_row_scores_zero_under_minmax():
    (hit,) = make(["citrus"], ["a"]).search("citrus", 1)
    assert hit.score == 0.0 and hit.bm25 > 0 and hit.dense > 0


@each_variant
def test_no_rows(config):
    index = make([], [], config)
    assert len(index) == 0
    assert index.search("citrus", 3) == []
    assert index.search_many(["citrus", ""], 3) == [[], []]
    assert index.scores(["citrus"]).shape == (1, 0)
    assert index.ranks([], []).tolist() == []
    with pytest.raises(ValueError, match="not in this index"):
        index.ranks(["citrus"], ["a"])


@each_variant
def test_an_empty_corpus(config):
    index = HybridIndex(["a", "b"], ["soap", ""], TextSpace.fit([], config))
    assert index.scores(["soap", "comb", ""]).shape == (3, 2)
    assert index.ranks(["comb"], ["b"]).tolist() == [2]


def test_k():
    index = make()
    assert index.search("citrus", 0) == []
    assert len(index.search("citrus", 99)) == len(CORPUS)
    with pytest.raises(ValueError, match="k must be"):
        index.search("citrus", -1)
    assert index.search_many([], 3) == []
    assert index.scores([]).shape == (0, len(CORPUS))


def test_a_query_of_a_hundred_thousand_characters_works():
    index = make()
    assert index.search("citrus scent " * 8000, 1)[0].id == "m0"


# ---- batches


@each_variant
def test_a_query_scores_the_same_alone_and_in_any_batch(config, monkeypatch):
    ids, texts = synthetic(300)
    index = make(texts, ids, config, corpus=texts)
    queries = synthetic(50, seed=3)[1]
    together = index.scores(queries + queries[::-1])
    targets = [ids[i % 300] for i in range(50)]
    ranks = index.ranks(queries, targets)
    hits = index.search_many(queries, 5)
    assert np.array_equal(together[:50], together[50:][::-1])
    monkeypatch.setattr(hybrid, "CHUNK_SCORES", 1)
    monkeypatch.setattr(hybrid, "MIN_CHUNK", 3)
    assert np.array_equal(index.scores(queries), together[:50])
    assert np.array_equal(index.ranks(queries, targets), ranks)
    assert index.search_many(queries, 5) == hits
    for i in (0, 17, 49):
        assert np.array_equal(index.scores([queries[i]])[0], together[i])
        assert index.search(queries[i], 5) == hits[i]


def test_equal_queries_are_scored_once(monkeypatch):
    index = make()
    asked = []
    lexical = index.merge().lexical
    score = lexical.scores
    monkeypatch.setattr(lexical, "scores", lambda query: asked.append(query) or score(query))
    queries, targets = ["steel", "citrus", "steel", "steel"], ["m4", "m0", "m5", "m4"]
    ranks = index.ranks(queries, targets).tolist()
    assert sorted(asked) == ["citrus", "steel"]
    assert ranks == [index.ranks([query], [target])[0] for query, target in zip(queries, targets, strict=True)]


# ---- properties


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=8),
    st.data(),
)
def test_a_row_that_shares_no_word_keeps_the_order_of_the_others(texts, data):
    """For BM25 alone with fixed statistics. A fused order may change, because a new row can stretch a list."""
    query = " ".join(data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4)))
    space = TextSpace.fit([*texts, "a b c d e f"], HybridConfig(dense="none"))
    ids = [f"m{i}" for i in range(len(texts))]
    before = [hit.id for hit in HybridIndex(ids, texts, space).search(query, 99)]
    after = [hit.id for hit in HybridIndex([*ids, "foreign"], [*texts, "zyx"], space).search(query, 99)]
    if before:  # [] if no row shares a word
        assert [id for id in after if id != "foreign"] == before
        after_scores = HybridIndex([*ids, "foreign"], [*texts, "zyx"], space).scores([query])[0]
        assert after_scores[-1] == after_scores.min()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(VARIANTS))
def test_hits_are_sorted_and_scores_stay_in_range(seed, config):
    ids, texts = synthetic(12, seed)
    hits = make(texts, ids, config, corpus=texts).search(synthetic(1, seed + 1)[1][0], 12)
    assert all((-a.score, a.id) < (-b.score, b.id) for a, b in pairwise(hits))
    assert all(0 <= hit.score <= 1 + 1e-12 for hit in hits)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_0_or_1_ranks_by_one_list_alone(weight):
    hits = make(config=HybridConfig(bm25_weight=weight, dims=4)).search("dry skin cream", 8)
    raw = [hit.bm25 if weight else hit.dense for hit in hits]
    assert raw == sorted(raw, reverse=True)


def test_dense_finds_a_row_that_shares_no_word():
    texts = ["lemon", "steel"]
    lexical, fused = (make(texts, ["b", "a"], HybridConfig(dense=d, dims=4)) for d in ("none", "lsa"))
    assert lexical.search("citrus", 1) == []
    assert fused.search("citrus", 1)[0].id == "b"


# ---- bad input


def test_bad_rows_and_targets_are_refused():
    space = TextSpace.fit(CORPUS, HybridConfig(dense="none"))
    with pytest.raises(ValueError, match="2 ids for 1 texts"):
        HybridIndex(["a", "b"], ["soap"], space)
    with pytest.raises(ValueError, match="'a' is given twice"):
        HybridIndex(["a", "b", "a"], ["soap"] * 3, space)
    index = HybridIndex(["a"], ["soap"], space)
    with pytest.raises(ValueError, match="target 'q' is not in this index"):
        index.ranks(["soap"], ["q"])
    with pytest.raises(ValueError, match="1 queries for 2 targets"):
        index.ranks(["soap"], ["a", "a"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"bm25_weight": 1.1},
        {"fusion": "sum"},
        {"rrf_k": -1},
        {"idf": "plus"},
        {"lexical": "fts5"},
        {"vectors": "float64"},
        {"dims": 0},
        {"bm25_weight": float("nan")},
    ],
    ids=str,
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HybridConfig(**wrong)


def test_a_hit_holds_the_raw_scores():
    index = make(config=HybridConfig(dense="none"))
    hit = index.search("citrus", 1)[0]
    assert hit == Hit("m0", 1.0, float(index.merge().lexical.scores("citrus")[0]), 0.0)


# ---- growth


def same_answers(grown, built, queries):
    """Assert that two indexes give the same answers, bit for bit."""
    assert sorted(grown.ids) == sorted(built.ids) and len(grown) == len(built)
    assert grown.search_many(queries, 5) == built.search_many(queries, 5)
    assert grown.search_many(queries, 99) == built.search_many(queries, 99)
    columns = [grown.ids.index(id) for id in built.ids]
    assert np.array_equal(grown.scores(queries)[:, columns], built.scores(queries))
    for id in built.ids:
        assert np.array_equal(grown.ranks(queries, [id] * len(queries)), built.ranks(queries, [id] * len(queries)))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(VARIANTS), st.integers(0, 10_000), st.data())
def test_an_index_that_grew_equals_one_built_from_scratch(config, seed, data):
    """After any sequence of add and delete. A refused call changes nothing."""
    _, words = synthetic(30, seed)
    space = TextSpace.fit(words[:20], config)
    queries = [*synthetic(4, seed + 1)[1], "zyx", ""]
    text = st.sampled_from([*words, "", "zyx"])
    ids = st.lists(st.sampled_from([f"m{i}" for i in range(12)]), unique=True, max_size=5)
    now = {id: data.draw(text) for id in data.draw(ids)}
    index = HybridIndex(list(now), list(now.values()), space)
    for verb in data.draw(st.lists(st.sampled_from(["add", "delete"]), max_size=8)):
        named = data.draw(ids)
        fresh = {id: data.draw(text) for id in named}
        allowed = not now.keys() & named if verb == "add" else now.keys() >= set(named)
        try:
            index.delete(named) if verb == "delete" else index.add(named, list(fresh.values()))
        except (ValueError, LookupError):
            assert not allowed
        else:
            assert allowed
            now = {id: t for id, t in now.items() if id not in named} if verb == "delete" else {**now, **fresh}
        if data.draw(st.booleans()):
            same_answers(index, HybridIndex(list(now), list(now.values()), space), queries)
    same_answers(index, HybridIndex(list(now), list(now.values()), space), queries)
    index.merge()
    same_answers(index, HybridIndex(list(now), list(now.values()), space), queries)


def test_added_rows_are_in_few_segments():
    """n additions of one row make about log n segments, each less than half the size of the one before."""
    index = make()
    ids, texts = synthetic(200)
    for id, text in zip(ids, texts, strict=True):
        index.add([id], [text])
    built = make([*CORPUS, *texts], [*(f"m{i}" for i in range(8)), *ids])
    assert index.search_many(["w1 w2", "citrus w3"], 208) == built.search_many(["w1 w2", "citrus w3"], 208)
    sizes = [len(segment.ids) for segment in index._segments]
    assert sum(sizes) == 208 and len(sizes) <= 9
    assert all(2 * right < left for left, right in pairwise(sizes))


def test_a_deleted_row_does_not_stretch_a_list():
    """With the best and the worst row deleted, min-max runs over the others only."""
    index = make()
    best = index.search("dry skin cream for hiking", 8)
    index.delete([best[0].id, best[-1].id])
    after = index.search("dry skin cream for hiking", 8)
    assert [hit.id for hit in after] == [hit.id for hit in best[1:-1]]
    assert after[0].score > best[1].score + 0.1


@each_variant
def test_a_row_that_came_and_went_is_found_no_more(config):
    """The first segment is complete, and the only row of the second one is deleted."""
    index, built = make(config=config), make(config=config)
    index.add(["new"], ["steel and steel"])
    index.delete(["new"])
    assert len(index._segments) == 2
    same_answers(index, built, QUERIES)


def test_a_refused_change_names_the_id_and_changes_nothing():
    index = make()
    before = index.search("citrus", 8)
    with pytest.raises(ValueError, match="'m1' is already in this index"):
        index.add(["new", "m1"], ["soap", "soap"])
    with pytest.raises(ValueError, match="'n' is given twice"):
        index.add(["n", "n"], ["soap", "soap"])
    with pytest.raises(LookupError, match="'n' is not in this index"):
        index.delete(["m1", "n"])
    with pytest.raises(ValueError, match="1 ids for 2 texts"):
        index.add(["n"], ["soap", "soap"])
    assert index.search("citrus", 8) == before


# ---- rank-bm25 as the lexical half


def test_rank_bm25_can_be_chosen():
    """It counts the rows of its index alone, so it cannot grow."""
    from rank_bm25 import BM25Okapi

    from mrrec_mini.bm25 import words

    config = HybridConfig(lexical="rank_bm25", dims=4, k1=1.2, b=0.3)
    index = make(config=config)
    theirs = BM25Okapi([words(text) for text in CORPUS], k1=1.2, b=0.3)
    for query in QUERIES:
        found = {hit.id: hit.bm25 for hit in index.search(query, 8)}
        assert [found[f"m{i}"] for i in range(8)] == theirs.get_scores(words(query)).tolist()
    with pytest.raises(ValueError, match="build a new index"):
        index.add(["new"], ["soap"])
    own = TextSpace.fit(CORPUS, HybridConfig(idf="okapi", dims=4, k1=1.2, b=0.3))  # the same formula, ours
    ours = HybridIndex([f"m{i}" for i in range(8)], CORPUS, own)
    assert np.array_equal(ours.scores(QUERIES), index.scores(QUERIES))


@pytest.mark.parametrize("lexical", ["rank_bm25", "bm25"])
def test_rank_bm25_fails_on_a_memory_of_one_entry(lexical):
    """One entry that contains the query word: ours scores it above zero, rank-bm25 below."""
    space = TextSpace.fit(CORPUS, HybridConfig(lexical=lexical, dense="none"))
    [hit] = HybridIndex(["a"], ["likes a light citrus scent"], space).search("citrus", 1)
    assert (hit.bm25 > 0) == (lexical == "bm25")


# ---- the weight


@pytest.mark.parametrize("k", [1, 3])
def test_the_tuned_weight_is_the_best_of_a_full_search(k):
    index = make(config=HybridConfig(dims=4))
    judged = [("citrus scent", {"m1"}), ("dry skin", {"m2", "m3"}), ("a film of lotion in summer", {"m6"})]
    found = tune_weight([(index, query, right) for query, right in judged], k=k)
    assert list(found) == [i / 10 for i in range(11)]
    for weight, value in found.items():  # the slow way: an index per weight, a full sort, nDCG from its definition
        other = make(config=HybridConfig(dims=4, bm25_weight=weight))
        ndcg = []
        for query, right in judged:
            head = full_order(other, query)[:k]
            gain = sum(1 / np.log2(place + 2) for place, id in enumerate(head) if id in right)
            ndcg.append(gain / sum(1 / np.log2(place + 2) for place in range(min(k, len(right)))))
        assert value == pytest.approx(np.mean(ndcg))
    assert len(set(found.values())) > 1


def test_tuning_needs_queries_and_known_ids():
    with pytest.raises(ValueError, match="no query"):
        tune_weight([])
    with pytest.raises(ValueError, match="target 'q' is not in this index"):
        tune_weight([(make(), "citrus", {"q"})])


def test_pack_and_unpack_keep_every_bit():
    for config in VARIANTS:
        space = TextSpace.fit(CORPUS, config)
        again = TextSpace.unpack(*space.pack())
        assert again.embedder_id == space.embedder_id and again.config == config
        ids, texts = [f"m{i}" for i in range(9)], [*CORPUS, "a word of no text so far: zyx"]
        same_answers(HybridIndex(ids, texts, again), HybridIndex(ids, texts, space), [*QUERIES, "zyx steel"])


def test_stored_vectors_give_the_same_answers_as_computed_ones():
    """A store holds float32 vectors, whatever type the index uses."""
    for config in (HybridConfig(dims=4), HybridConfig(dims=4, vectors="int16")):
        space = TextSpace.fit(CORPUS, config)
        ids = [f"m{i}" for i in range(8)][::-1]
        stored = HybridIndex(ids, CORPUS, space, embed(space.embedder, CORPUS))
        same_answers(stored, HybridIndex(ids, CORPUS, space), QUERIES)
