"""The extractive summariser, checked against counts made by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.datatypes import Item
from mrrec_mini.memory import Aspect, Contrast, Preference, Purchase
from mrrec_mini.summarize import (
    ExtractiveConfig,
    ExtractiveSummarizer,
    Reading,
    agreement_gain,
    canonical_names,
    certainty,
    favourites,
    learn_words,
    lift,
    merge_names,
    parents,
    stances,
    use_of,
)
from mrrec_mini.title_words import ItemReader

CONFIG = ExtractiveConfig()


def item(name="i", category="mug", **attributes):
    values = {aspect: tuple(v.split()) if isinstance(v, str) else v for aspect, v in attributes.items()}
    return Item(name, f"Vel {name}", ("kitchen", category), values)


def bought(one, rating=5.0, review="", user="u", record="r", time=0):
    return Purchase(record, user, one, rating, review, time)


# --- stances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rating, review, price",
    [
        (5, "", 1.0),  # silent: (5 - 3) / 2
        (4, "", 0.5),
        (3, "", 0.0),
        (1, "", -1.0),
        (5, "So LUXURY.", 6.0),  # mentioned: 6 (1 + min(1, 0))
        (3, "really luxury", 6.0),  # a mention in a middling review counts in full
        (2, "luxury", 3.0),  # 6 (1 - 1/2)
        (1, "luxury", 0.0),  # not a complaint about the price, but no evidence for it either
        (5, "too luxury for me. great", -6.0),  # one bad point of a good purchase
        (5, "great price", 6.0),  # the aspect's name refers to the item's value
        (5, "not bad. so luxury", 6.0),  # the complaint is in another sentence
        (5, "luxurious", 1.0),  # another word, not learned
    ],
)
def test_stance_by_hand(rating, review, price):
    said = stances(bought(item(price="luxury", size="small"), rating, review), Reading(), CONFIG)
    assert said["price", "luxury"] == price
    assert said["size", "small"] == (rating - 3) / 2  # the review is silent on it in all cases


def test_stance_uses_learned_words():
    reading = Reading({"lavish": ("price", "luxury")})
    assert stances(bought(item(price="luxury"), 5, "lavish"), reading, CONFIG) == {("price", "luxury"): 6.0}
    # the word stands for luxury, so it does not mention a budget price
    assert stances(bought(item(price="budget"), 5, "lavish"), reading, CONFIG) == {("price", "budget"): 1.0}


USES = ("hiking", "travel")


@pytest.mark.parametrize(
    "review, use",
    [
        ("bought for hiking. so red", "hiking"),
        ("So red. Bought FOR Travel!", "travel"),
        ("too red for me, but good for travel", "travel"),  # `me` is no use of the shop
        ("for hiking and for hiking again", "hiking"),  # one use, named twice
        ("for hiking, not for travel", ""),  # two uses: nobody knows for which it was bought
        ("hiking is fun", ""),  # "for" is missing
        ("bought for hikings", ""),
        ("therefor hiking", ""),  # part of another word
        ("", ""),
    ],
)
def test_the_use_that_a_review_names(review, use):
    assert use_of(bought(item(), review=review), USES) == use
    assert use_of(bought(item(), review=review), ()) == ""


def informed():
    """It knows: for mugs, price decides for all uses, size for hiking, color for travel. It knows nothing of lamps."""
    aspects = [("price", ""), ("size", "hiking"), ("color", "travel")]
    return (
        ExtractiveSummarizer()
        .fit([], USES)
        .informed([Aspect("mug", name, frozenset("abc"), use=use) for name, use in aspects])
    )


@pytest.mark.parametrize(
    "review, counted",
    [
        ("bought for hiking", {"price": 1.0, "size": 1.0}),  # what decides for another use does not count
        ("bought for travel", {"price": 1.0, "color": 1.0}),
        ("it does the job", {"price": 1.0, "size": 1.0, "color": 1.0}),  # for an unknown use
        ("bought for hiking. so red", {"price": 1.0, "size": 1.0, "color": 6.0}),  # a mention counts for any use
        ("bought for hiking. so glass", {"price": 1.0, "size": 1.0}),  # material decides for no use of a mug
        ("bought for hiking. too red", {"price": 1.0, "size": 1.0, "color": -6.0}),
    ],
)
def test_attention_is_0_or_1(review, counted):
    values = {"price": "luxury", "size": "small", "color": "red", "material": "glass"}
    found = stances(bought(item(**values), 5, review), informed().reading, CONFIG)
    assert found == {(aspect, value): counted.get(aspect, 0.0) for aspect, value in values.items()}
    # nothing is known about lamps, so everything counts there
    lamp = stances(bought(item(category="lamp", **values), 5, review), informed().reading, CONFIG)
    assert all(lamp.values()) and lamp["price", "luxury"] == 1.0


def test_a_record_tells_what_counts_and_speaks_for_something_the_strongest_first():
    one = bought(item(price="luxury", size="small", color="red", material="glass"), 5, "bought for hiking. so red")
    assert informed().telling(one) == [("color", "red"), ("price", "luxury"), ("size", "small")]
    assert informed().telling(replace(one, rating=3.0)) == [("color", "red")]  # the others have stance 0
    assert informed().telling(replace(one, review="too red", rating=1.0)) == []


def test_a_packed_summariser_reads_in_the_same_way():
    """Through JSON, and with scenarios in a fixed order, whatever the order of Python's sets."""
    pairs = [(scenario, *one) for scenario in ("pan", "mug") for one in (("size", ""), ("color", "hiking"))]
    told = [Aspect(scenario, name, frozenset("abc"), use=use) for scenario, name, use in pairs]
    summarizer = ExtractiveSummarizer().fit([], USES).informed(told)
    packed = json.loads(json.dumps(summarizer.pack()))
    assert ExtractiveSummarizer.unpack(packed) == summarizer
    assert list(packed["deciding"]) == ["mug", "pan"] and packed["deciding"]["mug"]["hiking"] == ["color", "size"]


def test_words_are_learned_only_if_they_tell_values_apart():
    people = [f"u{n % 3}" for n in range(20)]
    purchases = [bought(item(price="luxury", kind="mug"), 5, "lavish and nice", user) for user in people]
    purchases += [bought(item(price="budget", kind="mug"), 5, "cheap and nice", user) for user in people]
    purchases += [bought(item(price="budget", kind="mug"), 5, "rareword", user) for user in people[:4]]  # fewer than 8
    words = learn_words(purchases, ItemReader(), CONFIG)
    # cheap: 20 of 20 against 24 of 44 is (1 - .545) / sqrt(.545 x .455 / 20) = 4.1 standard errors
    # "nice": half of each; every item is a mug, so no word is evidence for that
    assert words == {"lavish": ("price", "luxury"), "cheap": ("price", "budget")}
    two = [replace(one, user=one.user.replace("u2", "u1")) for one in purchases]
    assert learn_words(two, ItemReader(), CONFIG) == {}  # words of two users only are not learned


# --- eq. 4 and 5 ----------------------------------------------------------------------------------------------------


def history():
    return [
        bought(item(price="luxury", size="small"), 5, "so luxury", record="r0"),  # price 6, size 1
        bought(item(price="budget", size="large"), 5, "", record="r1"),  # price 1, size 1
        bought(item(price="budget", size="small"), 4, "", record="r2"),  # price .5, size .5
        bought(item(price="budget", size="large"), 1, "", record="r3"),  # price -1, size -1
    ]


def test_patterns_eq_4():
    """Eq. (4)"""
    found = {(p.aspect, p.value): p for p in ExtractiveSummarizer().patterns(history())}
    # luxury 6; budget 1 + .5 - 1 = .5; small 1 + .5 = 1.5; large 1 - 1 = 0
    strengths = {key: preference.strength for key, preference in found.items()}
    assert strengths == {("price", "luxury"): 6, ("price", "budget"): 0.5, ("size", "small"): 1.5, ("size", "large"): 0}
    # counting purchases would write `price budget` (3 of 4); ignoring the ratings would tie the sizes
    assert [key for key, preference in found.items() if preference.firm] == [("price", "luxury"), ("size", "small")]
    strict = ExtractiveSummarizer(replace(CONFIG, min_pattern=2.0)).patterns(history())
    assert [(p.aspect, p.value) for p in strict if p.firm] == [("price", "luxury")]  # 1.5 < 2
    assert found["size", "small"].rests_on == ("r0", "r2")  # r3, rated 1, supports nothing
    assert found["size", "large"].rests_on == ("r1",)
    assert all(preference.scenario == "mug" for preference in found.values())


def test_one_liked_purchase_makes_a_pattern():
    assert [p.firm for p in ExtractiveSummarizer().patterns([bought(item(price="luxury"), 4)])] == [True]
    assert [p.firm for p in ExtractiveSummarizer().patterns([bought(item(price="luxury"), 3)])] == [False]


def test_the_time_of_a_preference_is_that_of_its_latest_liked_purchase():
    one, other = item(price="luxury"), item(price="budget")
    purchases = [bought(one, 5, "", record="r0", time=10), bought(other, 5, "", record="r1", time=20)]
    purchases += [bought(one, 4, "", record="r2", time=30), bought(one, 1, "", record="r3", time=40)]
    summarizer = ExtractiveSummarizer()
    found = {p.value: (p.last, p.rests_on) for p in summarizer.patterns(purchases)}
    assert found == {"luxury": (30, ("r0", "r2")), "budget": (20, ("r1",))}  # r3, rated 1, supports nothing
    lamp = bought(item(category="lamp", price="budget"), 5, "", record="r4", time=35)
    patterns = summarizer.patterns(purchases) + summarizer.patterns([lamp])
    profile = {p.value: (p.last, p.rests_on) for p in summarizer.profile(patterns)}
    assert profile == {"luxury": (30, ("r0", "r2")), "budget": (35, ("r1", "r4"))}


def test_profile_eq_5_sums_the_patterns_including_weak_ones():
    """Eq. (5)"""
    patterns = [
        Preference("mug", "price", "luxury", 6.0, ("r0",), True),  # an exception, in one category
        Preference("lamp", "price", "budget", 1.5, ("r1",), False),
        Preference("tent", "price", "budget", 6.0, ("r2",), True),
        Preference("tent", "size", "small", 0.4, ("r2",), False),
    ]
    found = {(p.aspect, p.value): p for p in ExtractiveSummarizer().profile(patterns)}
    assert found["price", "budget"].strength == 7.5 and found["price", "budget"].rests_on == ("r1", "r2")
    assert [key for key, p in found.items() if p.firm] == [("price", "budget")]  # size: .4 < .5
    # wrong versions: only firm patterns would tie 6 : 6; one vote per pattern would ignore the strength
    assert all(p.scenario == "" for p in found.values())


def test_several_values_are_written_only_if_items_have_several():
    films = [bought(item(f"f{n}", "film", genre=("drama", "comedy", "war"), year="old"), 5) for n in range(3)]
    films += [bought(item("g", "film", genre=("drama", "comedy"), year="new"), 5) for _ in range(2)]
    patterns = ExtractiveSummarizer().patterns(films)
    firm = [(p.aspect, p.value) for p in patterns if p.firm]
    # genre: drama 5, comedy 5, war 3: two of them (max_values); year: one, though `new` has 2 as well
    assert firm == [("genre", "comedy"), ("genre", "drama"), ("year", "old")]
    assert [(p.aspect, p.value) for p in ExtractiveSummarizer().profile(patterns) if p.firm] == firm


def test_a_disliked_purchase_writes_nothing():
    summarizer = ExtractiveSummarizer()
    patterns = summarizer.patterns([bought(item(price="luxury"), 1, "too luxury"), bought(item(price="luxury"), 1, "")])
    assert not any(p.firm for p in (*patterns, *summarizer.profile(patterns)))
    assert summarizer.patterns([]) == [] and summarizer.profile([]) == []


# --- eq. 6 ----------------------------------------------------------------------------------------------------------


def test_favourites_ties_and_negatives():
    tally = {("price", "luxury"): 2.0, ("price", "budget"): 2.0, ("size", "small"): -1.0, ("size", "large"): 0.0}
    assert favourites(tally) == {"price": "budget"}  # first in the alphabet; nothing is a favourite without evidence


def test_agreement_gain_eq_6():
    """Eq. (6)"""
    one = bought(item(price="luxury", size="small"))
    unchosen = tuple(item(f"x{n}", price="luxury" if n == 0 else "budget", size="small") for n in range(4))
    contrast = Contrast(one, unchosen, (one,))
    # price: 1 - 1/4; size: 1 - 4/4 (it decided nothing); color: the item has none
    usual = {"price": "luxury", "size": "small", "color": "red"}
    assert agreement_gain(contrast, usual, ItemReader()) == {"price": 0.75, "size": 0.0}
    assert agreement_gain(contrast, {"price": "budget"}, ItemReader()) == {"price": -0.75}  # 0 - 3/4


def test_lift_by_hand():
    mean, error = lift([1.0, 0.5, 0.0])
    assert mean == 0.5 and error == pytest.approx(0.5 / math.sqrt(3))  # sd with n - 1: sqrt(.5/2) = .5
    assert lift([1.0]) == (1.0, math.inf) and lift([]) == (0.0, math.inf)


def test_the_contrasted_purchase_does_not_count_as_its_users_preference():
    one = bought(item("a", price="luxury"), 5, "luxury", record="r0")
    other = bought(item("b", price="budget"), 5, "budget", record="r1")
    contrast = Contrast(one, (item("c", price="budget"),), (one, other))
    # without r0 the user's price is budget: 0 - 1. Wrong version: with r0 there is a tie
    assert ExtractiveSummarizer().lifts([contrast]) == {("mug", "", "price"): {"u": -1.0}}
    alone = Contrast(one, (item("c", price="budget"),), (one,))
    assert ExtractiveSummarizer().lifts([alone]) == {}  # nothing else is known about this user


def test_a_lift_is_measured_for_the_category_and_for_the_use():
    def contrast(user, review, unchosen):
        one = bought(item("a", price="luxury"), 5, review, user, f"{user}0")
        other = bought(item("b", price="luxury"), 5, "", user, f"{user}1")
        return Contrast(one, tuple(item(f"x{n}", price=price) for n, price in enumerate(unchosen)), (one, other))

    contrasts = [contrast("u", "for hiking", ["budget"]), contrast("u", "for travel", ["luxury"])]
    contrasts += [contrast("v", "for hiking", ["budget", "luxury"]), contrast("v", "", ["budget"])]
    # u: 1 for hiking, 0 for travel; v: 1/2 for hiking, 1 for an unknown use
    assert ExtractiveSummarizer().fit([], USES).lifts(contrasts) == {
        ("mug", "", "price"): {"u": 0.5, "v": 0.75},
        ("mug", "hiking", "price"): {"u": 1.0, "v": 0.5},
        ("mug", "travel", "price"): {"u": 0.0},
    }


def test_pooled_patterns_judge_a_parent_by_all_purchases_below_it():
    """One purchase in each of several small categories decides nothing in any of them, but together they do."""

    def contrast(number):
        def made(name, price):
            return Item(name, name, ("kitchen", "games", f"kind{number % 6}"), {"price": (price,)})

        own = [bought(made(f"{n}", "luxury"), user=f"u{number}", record=f"{number}/{n}") for n in "ab"]
        unchosen = tuple(made(f"x{n}", "budget" if n or number % 4 else "luxury") for n in range(3))
        return Contrast(own[0], unchosen, tuple(own))

    contrasts = [contrast(number) for number in range(12)]
    pooled = ExtractiveSummarizer(ExtractiveConfig(pooled=True))
    assert {key[0] for key in pooled.lifts(contrasts)} == {"kitchen", "games", *(f"kind{n}" for n in range(6))}
    assert set(pooled.lifts(contrasts)["games", "", "price"]) == {f"u{n}" for n in range(12)}  # of all kinds
    few = [one for one in contrasts if one.bought.item.category[-1] == "kind0"][:1]
    few += [contrast(number) for number in range(1, 6)]  # one person per kind: no standard error, so no line
    found = {(one.scenario, one.name): one.certainty for one in pooled.aspects(few)}
    assert found == {("kitchen", "price"): "surely", ("games", "price"): "surely"}
    assert ExtractiveSummarizer().aspects(few) == []  # wrong version: a parent needs lines of its categories
    assert all(len(one.users) == 6 for one in pooled.aspects(few))
    twice = [one for one in pooled.aspects(contrasts) if one.scenario == "games"]
    assert len(twice) == 1  # wrong version: `parents` adds the line a second time


def test_certainty_words_by_hand():
    assert [certainty(z, CONFIG) for z in (0.0, 2.9, 3.0, 4.9, 5.0, math.inf)] == [
        *("maybe", "maybe", "likely", "likely", "surely", "surely")
    ]


def decided(given):
    """The aspects that decide in mugs, for given gains: {(use, aspect): {user: gain}}."""

    class Measured(ExtractiveSummarizer):
        def lifts(self, contrasts):
            return {("mug", *key): by_user for key, by_user in given.items()}

    return Measured().decisive([])


def gains(mean, users=12, spread=0.2):
    """{user: gain}: half of the users `spread` above the mean, half below it."""
    return {f"u{n}": mean + (spread if n % 2 else -spread) for n in range(users)}


@pytest.mark.parametrize(
    "by_use, found",
    [
        # large in two of three uses: one line for the category
        ({"": gains(0.5), "hiking": gains(0.6), "travel": gains(0.6), "office": gains(0.0)}, {""}),
        # large in one of three: one line for this use, although the whole category passes the thresholds
        ({"": gains(0.3), "hiking": gains(0.6), "travel": gains(0.0), "office": gains(0.0)}, {"hiking"}),
        ({"": gains(0.3), "hiking": gains(0.6), "travel": gains(0.0)}, {"hiking"}),  # half is not most
        ({"": gains(0.5)}, {""}),  # no review names a use
        ({"": gains(0.5, users=60, spread=0.6)}, {""}),  # half of the users have a gain below 0: they support nothing
        ({"": gains(0.1), "hiking": gains(0.1)}, set()),  # below min_lift
        ({"": gains(0.2, spread=2), "hiking": gains(0.2, spread=2)}, set()),  # not more than chance
        ({"": gains(0.6, users=1)}, set()),  # one user has no standard error
    ],
)
def test_an_aspect_decides_in_the_category_or_for_single_uses(by_use, found):
    aspects = decided({(use, "price"): by_user for use, by_user in by_use.items()})
    assert {aspect.use for aspect in aspects} == found and len(aspects) == len(found)
    for aspect in aspects:
        assert aspect.users == {user for user, gain in by_use[aspect.use].items() if gain > 0}
        mean, error = lift(list(by_use[aspect.use].values()))
        assert aspect.certainty == certainty(mean / error, CONFIG)


def test_a_use_needs_fewer_standard_errors_than_a_category():
    weak = gains(0.4, users=6, spread=0.4)  # z = .4 / (.4 sqrt(6/5) / sqrt(6)) = 2.2
    found = decided({("", "price"): weak, ("hiking", "size"): weak, ("travel", "size"): gains(0.0)})
    assert [(one.name, one.use, one.certainty) for one in found] == [("size", "hiking", "maybe")]
    assert decided({("", "price"): weak}) == decided({("", "price"): weak, ("hiking", "price"): weak}) == []
    sure = decided({("", "price"): gains(0.4), ("hiking", "price"): gains(0.4)})  # z = 6.6
    assert [(one.name, one.use, one.certainty) for one in sure] == [("price", "", "surely")]


def test_the_second_round_counts_only_what_the_first_round_found():
    rounds = []

    class Spy(ExtractiveSummarizer):
        def decisive(self, contrasts):
            rounds.append(self.reading.deciding)
            return [Aspect("mug", "price", frozenset("abc")), Aspect("mug", "size", frozenset("abc"), use="hiking")]

    found = Spy().fit([], USES).aspects([Contrast(bought(item()), (), ())])
    assert rounds[0] == {} and rounds[1] == {
        "mug": {"hiking": {"price", "size"}, "travel": {"price"}, "": {"price", "size"}}
    }
    assert len(rounds) == 2 and [aspect.name for aspect in found] == ["price", "size"]


def tiny_shop(seed, users=40):
    """Mugs are chosen by price, lamps by color, sizes at random. Every user wants one price and one color."""
    rng = np.random.default_rng(seed)
    values = {"price": ("luxury", "budget", "fair"), "color": ("red", "blue", "green"), "size": ("s", "m", "l")}
    decides = {"mug": "price", "lamp": "color"}
    contrasts = []
    for u in range(users):
        wants = {aspect: rng.choice(names) for aspect, names in values.items()}
        purchases = []
        for n in range(8):
            category = ("mug", "lamp")[n % 2]
            drawn = {aspect: rng.choice(names) for aspect, names in values.items()}
            if rng.random() < 0.85:
                drawn[decides[category]] = wants[decides[category]]
            review = f"so {drawn[decides[category]]}" if rng.random() < 0.6 else ""
            purchases.append(bought(item(f"i{u}-{n}", category, **drawn), 5, review, f"u{u}", f"u{u}/{n}"))
        for one in purchases:
            others = tuple(
                item(f"o{n}", one.scenario, **{a: rng.choice(names) for a, names in values.items()}) for n in range(6)
            )
            contrasts.append(Contrast(one, others, tuple(purchases)))
    return contrasts


def test_aspects_recover_a_tiny_shop():
    """Eq. (6)"""
    found = hits = 0
    for seed in range(5):
        contrasts = tiny_shop(seed)
        summarizer = ExtractiveSummarizer().fit([contrast.bought for contrast in contrasts])
        names = {(aspect.scenario, aspect.name) for aspect in summarizer.aspects(contrasts)}
        found, hits = found + len(names), hits + len(names & {("mug", "price"), ("lamp", "color")})
        assert all(aspect.users for aspect in summarizer.aspects(contrasts))
    assert hits == 10  # recall 10 of 10
    assert found <= 11  # precision


def test_merge_joins_spellings():
    assert canonical_names(["Film-Genres", "film genre", "lens", "Batteries", "battery", "boxes", "box"]) == {
        "Film-Genres": "film genre",
        "film genre": "film genre",
        "lens": "lens",  # there is no "len"
        "Batteries": "battery",
        "battery": "battery",
        "boxes": "box",
        "box": "box",
    }
    given = [
        Aspect("mug", "Price", frozenset("a")),
        Aspect("mug", "prices", frozenset("b")),
        Aspect("lamp", "price", frozenset("c")),
    ]
    assert merge_names([*given, Aspect("mug", "?!", frozenset("d"))]) == [
        Aspect("mug", "price", frozenset("ab")),
        Aspect("lamp", "price", frozenset("c")),
    ]


def test_a_parent_category_gets_what_decides_in_most_of_its_scenarios():
    paths = [("kitchen", "mug"), ("kitchen", "pan"), ("kitchen", "pot"), ("garden", "rake")]
    bought = [(user, path) for path in paths for user in path[1]]
    decisive = [Aspect(s, "price", frozenset(s)) for s in ("mug", "pan", "rake")] + [
        Aspect("mug", "size", frozenset("x"))
    ]
    # kitchen: price in 2 of 3, size in 1 of 3; garden has a single scenario, so its line would only repeat
    assert parents(decisive, bought) == [Aspect("kitchen", "price", frozenset("mugpan"))]
    assert parents(decisive, [*bought, ("c", ("kitchen", "cup"))]) == []  # 2 of 4 is not most


def test_only_who_bought_below_a_parent_supports_its_line():
    """Everybody buys mugs and pans, but one person's lie below a parent of their own."""
    decisive = [Aspect(scenario, "price", frozenset("abcd")) for scenario in ("mug", "pan")]
    bought = [(user, ("kitchen", scenario)) for user in "abcd" for scenario in ("mug", "pan")]
    bought += [("a", ("canary", scenario)) for scenario in ("mug", "pan")]
    assert parents(decisive, bought) == [
        Aspect("canary", "price", frozenset("a")),  # too few for the global memory (`min_users`)
        Aspect("kitchen", "price", frozenset("abcd")),
    ]
    assert parents(decisive, [*bought, ("b", ("canary", "pan"))])[0].users == frozenset("ab")


def test_a_word_stands_for_a_value_only_if_several_people_use_it_so():
    """One person writes it of all their red mugs. That others write it of other items does not make red known."""
    red, blue = (Item(color, color, ("mug",), {"color": (color,)}) for color in ("red", "blue"))
    mine = [Purchase(f"a/record/{n}", "a", red, 5.0, "so lush") for n in range(20)]
    others = [Purchase(f"{user}/record/0", user, blue, 5.0, "so lush") for user in "bcde"]
    others += [Purchase(f"{user}/record/{n}", user, blue, 5.0, "so fine") for user in "bcde" for n in range(20)]
    assert "lush" not in learn_words([*mine, *others], ItemReader(), ExtractiveConfig())
    shared = [replace(one, user="abc"[n % 3]) for n, one in enumerate(mine)]
    assert learn_words([*shared, *others], ItemReader(), ExtractiveConfig())["lush"] == ("color", "red")


def test_what_few_people_hold_is_dropped_from_the_reading():
    items = ItemReader({"Sizes": "size", "Moods": "mood"}, {"ps3": "play 3", "play 3": "play 3", "solo": "solo"})
    items = replace(items, places=frozenset({"games", "toys"}))
    words = {"lush": ("color", "red"), "soft": ("color", "red")}
    known = ExtractiveSummarizer(reading=Reading(words, ("hiking",), {"mug": {"": frozenset()}}, items))
    common = Item("1", "A PS3 game - Play 3", ("shop", "games", "mug"), {"Sizes": ("x",), "color": ("red",)})
    rare = Item("2", "Solo - PS3", ("shop", "toys", "mug"), {"Moods": ("y",), "color": ("red",)})
    histories = [[Purchase(f"{u}/record/0", u, common, 5.0, "so lush")] for u in "abc"]
    histories[0] += [Purchase(f"a/record/{n}", "a", rare, 5.0, "so soft") for n in range(1, 9)]
    histories[1] += [Purchase("b/record/1", "b", rare, 5.0, "so soft")]
    left = known.without_rare(histories).reading
    short = [[Purchase(f"{u}/record/0", u, replace(rare, attributes={}), 5.0, "")] for u in "xyz"]
    assert known.without_rare(short).reading.items.labels == {"solo": "solo"}  # three wrote ps3, nobody play 3
    # "A PS3 game" does not end with the label, so only two people hold "ps3"
    assert left == replace(
        known.reading,
        words={"lush": ("color", "red")},
        items=ItemReader({"Sizes": "size"}, {"play 3": "play 3"}, frozenset({"games"})),
    )
    assert known.without_rare([*histories, [replace(histories[1][1], user="c")]]).reading == known.reading
