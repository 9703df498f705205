"""The synthetic shop: its data follow its truth, at any size, and knowing the truth helps retrieval."""

import hashlib
import re
from collections import Counter
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.environment import item_text
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.world import (
    ASPECTS,
    CATEGORIES,
    COMPLAINT,
    DAY,
    EASY,
    NAMES,
    PRAISE,
    USES,
    VALUES,
    WorldConfig,
    category_map,
    item_suits,
    iter_items,
    iter_people,
    make_world,
    oracle_profile,
    preferences,
    random_bits,
    random_chance,
    sibling,
    write_world,
)
from small import SHOP

# 500 items per category, all of them compared: every wish can be met
ROOMY = replace(EASY, users=60, items=2500, categories=5, held=1, history=14, queries=3, shown=500)


@pytest.fixture(scope="module")
def shop():
    return make_world(ROOMY)


def user_number(user):
    return int(user[1:])


def broken(config, purchase, item, care):
    """The aspects in which a purchase is not what its buyer wants, according to the truth."""
    category = CATEGORIES.index(item.category[-1])
    wants = preferences(config, user_number(purchase.user))[-1, category]  # in this shop, tastes never change
    return [NAMES[a] for a in care[category] if item.attributes[NAMES[a]] != (VALUES[a][wants[a]],)]


# --- determinism and streams --------------------------------------------------------------------------------------


def test_a_config_fixes_the_shop():
    assert make_world(SHOP) == make_world(SHOP)
    for change in ({"seed": 1}, {"map_seed": 1}):
        other = make_world(replace(SHOP, **change))
        assert other.interactions != make_world(SHOP).interactions and other.queries != make_world(SHOP).queries


def test_the_easy_shop_never_changes():
    """The first notebooks show its numbers. Any change of its items, purchases or queries changes this digest."""
    made = make_world(replace(EASY, users=40, items=600, seed=3))
    parts = (list(made.items.values()), made.interactions, made.queries)
    text = repr(parts).replace(", phrase=None, scenario=None", "")  # fields of queries on real data
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "1719a09beabd8812e1436bca833bacc878bd8fcb3779133c9968412e09f86ddc"


@pytest.mark.parametrize("chunk", [1, 7, 99, 100, 10_000])
def test_the_size_of_a_chunk_does_not_matter(chunk):
    assert list(iter_items(SHOP, chunk)) == list(iter_items(SHOP))


def test_an_item_does_not_depend_on_how_many_there_are():
    few, many = (list(islice(iter_items(replace(SHOP, items=n)), 50)) for n in (50, 5000))
    assert few == many


def test_a_huge_shop_is_never_fully_in_memory():
    """With a thousand million items, the first items and the first person's purchases come at once."""
    huge = replace(SHOP, items=1_000_000_000, users=1_000_000)
    assert [item.id for item in islice(iter_items(huge, chunk=3), 4)] == [
        "i0000000",
        "i0000001",
        "i0000002",
        "i0000003",
    ]
    bought, asked = next(iter_people(huge))
    assert (len(bought), len(asked)) == (SHOP.history + SHOP.queries, SHOP.queries)


def test_a_shop_written_as_a_stream_is_the_same_shop(tmp_path):
    write_world(SHOP, tmp_path / "shop")
    loaded, made = Dataset.load(tmp_path / "shop"), make_world(SHOP)
    assert (loaded.items, loaded.interactions, loaded.queries) == (made.items, made.interactions, made.queries)
    assert {key: loaded.meta[key] for key in made.meta} == made.meta


def splitmix(seed, *keys):
    """An independent version with Python integers: splitmix64 (Steele, Lea and Flood, 2014), each key xored in."""
    two64 = 1 << 64
    state = (seed * 0x9E3779B97F4A7C15 + 1) % two64
    for key in keys:
        state = ((state ^ key) + 0x9E3779B97F4A7C15) % two64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % two64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % two64
        state ^= state >> 31
    return state


def test_the_hash_is_splitmix64_for_every_shape():
    rows, columns = np.array([0, 5, 10**9]), np.arange(4)
    got = random_bits(7, 11, rows[:, None], columns[None, :])
    assert got.tolist() == [[splitmix(7, 11, int(r), int(c)) for c in columns] for r in rows]
    assert int(random_bits(0, 13, 4)) == splitmix(0, 13, 4)
    chances = random_chance(3, np.arange(20_000))
    assert chances.min() >= 0 and chances.max() < 1 and abs(chances.mean() - 0.5) < 0.01


# --- the map and the people ---------------------------------------------------------------------------------------


def test_some_aspects_matter_in_every_category_and_every_aspect_is_used():
    config = WorldConfig(categories=20)
    care = category_map(config, 3)
    assert care.shape == (20, 3) and all(len(set(row)) == 3 for row in care.tolist())
    counts = np.bincount(care.ravel(), minlength=len(NAMES))  # 60 over 10
    assert counts.min() >= 5 and counts.max() <= 7
    assert not np.array_equal(care, category_map(replace(config, map_seed=1), 3))
    assert np.array_equal(care, category_map(replace(config, seed=9), 3))  # people and items do not change the map


def test_siblings_have_another_map_and_the_same_words():
    other = sibling(SHOP, 2, users=7)
    one, two = make_world(SHOP), make_world(other)
    assert not np.array_equal(category_map(SHOP, 3), category_map(other, 3))
    assert one.meta["held_categories"] == two.meta["held_categories"] == [CATEGORIES[4]]
    assert len(two.users()) == 7 and other.items == SHOP.items
    values = [{item.attributes[name] for item in shop.items.values() for name in NAMES} for shop in (one, two)]
    assert values[0] == values[1] and one.items != two.items


def test_preferences_are_the_same_everywhere_except_for_exceptions():
    config = replace(EASY, categories=20)
    wants = np.stack([preferences(config, user)[-1] for user in range(200)])  # (users, categories, aspects)
    assert wants.min() == 0 and wants.max() == 4
    usual = np.apply_along_axis(lambda v: np.bincount(v, minlength=5).argmax(), 1, wants)
    assert (wants != usual[:, None, :]).mean() == pytest.approx(config.exceptions, abs=0.01)
    steady = preferences(replace(config, exceptions=0.0), 3)
    assert steady.shape == (config.history + 1, 20, len(NAMES)) and (steady == steady[0, 0]).all()


def test_every_combination_of_the_aspects_that_matter_occurs():
    """500 items per category over 5^3 combinations: 4 of each."""
    care = category_map(ROOMY, 3)
    for c in range(5):
        combos = Counter(
            tuple(item.attributes[NAMES[a]][0] for a in care[c]) for item in islice(iter_items(ROOMY), c, None, 5)
        )
        assert set(combos) == set(product(*(VALUES[a] for a in care[c]))) and set(combos.values()) == {4}


# --- purchases, ratings, reviews ----------------------------------------------------------------------------------


def test_times_and_targets(shop):
    seen = set()
    for query in shop.queries:
        history, own = shop.history(query), shop.interactions_of(query.user)
        assert len(history) == ROOMY.history and len(own) == ROOMY.history + ROOMY.queries
        assert query.target not in {purchase.item for purchase in history}
        assert [purchase.time for purchase in own if purchase.item == query.target] == [query.time]
        assert all(purchase.time <= query.time - DAY for purchase in history)
        assert len({purchase.item for purchase in own}) == len(own)  # nobody buys an item twice
        seen.add(query.id)
    assert len(seen) == len(shop.queries) == ROOMY.users * ROOMY.queries


def test_a_query_names_category_and_use_and_nothing_else(shop):
    for query in shop.queries:
        category, use = query.text.split(" for ")
        assert shop.category(query.target) == category and use in USES
    for user in shop.users():
        asked = [q.text.split()[0] for q in shop.queries_of([user])]
        assert len(set(asked)) == len(asked)


def test_truth_is_what_the_person_wants(shop):
    care = category_map(ROOMY, 3)
    for query in shop.queries:
        category = CATEGORIES.index(query.text.split()[0])
        wants = preferences(ROOMY, user_number(query.user))[-1, category]
        assert query.truth == {NAMES[a]: VALUES[a][wants[a]] for a in care[category]}


def test_a_query_may_name_wanted_values_and_truth_holds_the_rest(shop):
    """`said` changes only texts and truth: the named values and the new truth together are the old truth."""
    config = replace(ROOMY, said=(0.25, 0.25, 0.0, 0.5))
    talkative = make_world(config)
    assert talkative.interactions == shop.interactions and talkative.items == shop.items
    counts = Counter()
    for silent, said in zip(shop.queries, talkative.queries, strict=True):
        words = said.text.removeprefix(silent.text).split()
        assert said.text.startswith(silent.text) and (said.target, said.time) == (silent.target, silent.time)
        assert dict(zip(words[::2], words[1::2], strict=True)) | dict(said.truth) == dict(silent.truth)
        assert sorted(oracle_profile(said).split()) == sorted(oracle_profile(silent).split())
        counts[len(words) // 2] += 1
    shares = [counts[n] / len(shop.queries) for n in range(4)]
    assert np.allclose(shares, config.said, atol=0.11)  # three standard errors of 180 draws


@pytest.mark.parametrize("said", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (0.2,) * 5])
def test_the_chances_in_said_must_be_probabilities(said):
    with pytest.raises(ValueError, match="said holds the chances of 0 to 3 values"):
        WorldConfig(relevant=3, said=said)


def test_people_follow_their_preferences_as_often_as_configured(shop):
    care = category_map(ROOMY, 3)
    targets = {(q.user, q.target) for q in shop.queries}
    honoured = {True: [], False: []}
    for purchase in shop.interactions:
        n = len(broken(ROOMY, purchase, shop.items[purchase.item], care))
        honoured[(purchase.user, purchase.item) in targets].append(1 - n / ROOMY.relevant)
    assert np.mean(honoured[True]) == pytest.approx(ROOMY.follow_target, abs=0.03)
    assert np.mean(honoured[False]) == pytest.approx(ROOMY.follow, abs=0.03)


def test_what_is_bought_suits_the_use(shop):
    """70 % of the items suit a use; purchases prefer them."""
    index = np.array([int(q.target[1:]) for q in shop.queries])
    uses = [USES.index(q.text.split(" for ")[1]) for q in shop.queries]
    suits = item_suits(ROOMY, index)[np.arange(len(index)), uses]
    assert item_suits(ROOMY, np.arange(2500)).mean() == pytest.approx(ROOMY.suits, abs=0.02)
    assert suits.mean() > 0.95
    for query, fits in zip(shop.queries, suits, strict=True):
        assert (query.text.split(" for ")[1] in shop.items[query.target].description) == fits


def test_ratings_fall_with_each_broken_preference(shop):
    care = category_map(ROOMY, 3)
    kept = []
    for purchase in shop.interactions:
        best = 5 - 2 * len(broken(ROOMY, purchase, shop.items[purchase.item], care))
        assert purchase.rating in {max(1, best), max(1, best - 1)}  # sometimes one star less
        if best > 1:
            kept.append(purchase.rating == best)
    assert np.mean(kept) == pytest.approx(0.8, abs=0.03)


def test_reviews_mention_the_items_values_in_varied_words(shop):
    care = category_map(ROOMY, 3)
    word_of = {
        word: (name, value) for name, values in ASPECTS.items() for value, words in values.items() for word in words
    }
    assert len(word_of) == len(NAMES) * 5 * 3  # no word has two meanings
    praise = [re.compile(frame.replace("{}", "(.+)")) for frame in PRAISE]
    complaint = [re.compile(frame.replace("{}", "(.+)")) for frame in COMPLAINT]
    mentioned, used = {True: [], False: []}, Counter()
    for purchase in shop.interactions:
        item = shop.items[purchase.item]
        bad = broken(ROOMY, purchase, item, care)
        aspects = []
        for sentence in purchase.review.split(". ") if purchase.review != "it does the job" else []:
            complains = [m for frame in complaint if (m := frame.fullmatch(sentence))]
            [found, *_] = complains or [m for frame in praise if (m := frame.fullmatch(sentence))]
            aspect, value = word_of[found[1]]
            assert item.attributes[aspect] == (value,)  # always the item's own value
            assert bool(complains) == (aspect in bad)
            aspects.append(aspect)
            used[found[1] == value] += 1
        assert len(set(aspects)) == len(aspects)
        relevant = {NAMES[a] for a in care[CATEGORIES.index(item.category[-1])]}
        for name in NAMES:
            mentioned[name in relevant].append(name in aspects)
    assert np.mean(mentioned[True]) == pytest.approx(ROOMY.mention, abs=0.03)
    assert np.mean(mentioned[False]) == pytest.approx(ROOMY.chatter, abs=0.02)
    assert used[True] / used.total() == pytest.approx(0.5, abs=0.03)


# --- held categories and the oracle -------------------------------------------------------------------------------


def test_held_categories_occur_in_held_queries_only(shop):
    held = set(shop.meta["held_categories"])
    assert held == {CATEGORIES[4]}
    split = shop.split(0, 0.6, 0.2, 0.2)
    for part in (split.train_queries, split.validation_queries, split.test_queries):
        assert part and not {shop.category(q.target) for q in part} & held
    assert split.held_queries and {shop.category(q.target) for q in split.held_queries} == held
    assert {q.user for q in split.held_queries} <= split.test
    assert {shop.category(purchase.item) for purchase in shop.interactions} >= held  # they are bought nevertheless


def test_oracle_profile_by_hand():
    query = Query("q", "u", "mug for hiking", "i1", 0, {"price": "luxury", "size": "small"})
    assert oracle_profile(query) == "mug for hiking price luxury size small"
    with pytest.raises(ValueError, match="query q has no known truth"):
        oracle_profile(replace(query, truth=None))


def test_the_oracle_beats_the_query_and_each_aspect_helps(shop):
    texts = [item_text(item) for item in shop.items.values()]
    index = HybridIndex(list(shop.items), texts, TextSpace.fit(texts, HybridConfig()))
    targets = [q.target for q in shop.queries]
    known = [replace(q, truth=dict(list(q.truth.items())[:n])) for n in range(4) for q in shop.queries]
    ranks = np.asarray(index.ranks([oracle_profile(q) for q in known], targets * 4))
    means = ndcg_at_k(ranks, 10).reshape(4, -1).mean(1)  # with 0, 1, 2, 3 aspects known
    assert means[3] > 10 * means[0] and 0.4 < means[3] < 0.8  # 4 items share all three values
    assert (np.diff(means) > 0).all()


PROBABILITIES = ("drift", "exceptions", "whims", "follow", "follow_target", "suits", "mention", "named_use", "chatter")

# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *({"categories": n} for n in (0, 41)),
        *({"relevant": n} for n in (0, 11)),
        *({"held": n} for n in (-1, 5)),
        *({"uses": n} for n in (0, 9)),
        *({"by_use": n} for n in (-1, 4)),
        *({"held_pairs": n} for n in (-1, 32)),  # 4 categories are not held, with 8 uses each
        *({"items": 4}, {"users": 0}, {"history": -1}, {"queries": 0}, {"shown": 0}, {"days": 0}),
        {"drifting": ("taste",)},
        *({name: p} for name in PROBABILITIES for p in (-0.1, 1.1, float("nan"))),
    ],
    ids=str,
)
def test_impossible_shops_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SHOP, **change)
