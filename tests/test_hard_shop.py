"""What makes the default shop hard to read. Each property is a check, which must refuse a shop without the property."""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrrec_mini.datatypes import MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.memory import join, local_entries
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.scripts import value_of
from mrrec_mini.summarize import CERTAINTY, ExtractiveSummarizer
from mrrec_mini.world import (
    ASPECTS,
    CATEGORIES,
    EASY,
    NAMES,
    USES,
    VALUES,
    WorldConfig,
    held_pairs,
    make_world,
    oracle_profile,
    preferences,
    relevant_aspects,
)

HARD = WorldConfig(users=200, items=1500)
PLAIN = replace(EASY, users=200, items=1500)
BRIEF = replace(HARD, users=40)  # for what needs no global memory


@lru_cache(maxsize=4)
def environment(config: WorldConfig) -> Environment:
    """Nearly all users train, so that global memory is as good as it can be with so few people."""
    dataset = make_world(config)
    return Environment.build(dataset, dataset.split(0, 0.8, 0.1, 0.1), ExtractiveSummarizer(), np.random.default_rng(0))


def people(config: WorldConfig, most: int = 60) -> list[tuple[Query, list[MemoryEntry]]]:
    """(a query, the memory of its user), for every person: all queries of a person are asked at one time."""
    memory = environment(config).memory
    queries = memory.dataset.queries[:: config.queries][:most]
    histories = [join(memory.dataset, memory.dataset.history(query)) for query in queries]
    entries = [local_entries(history, memory.summarizer, memory.config) for history in histories]
    return list(zip(queries, entries, strict=True))


def situation(query: Query) -> tuple[int, int]:
    """The indices of the category and the use that a query names."""
    category, _, use, *_ = query.text.split()
    return CATEGORIES.index(category), USES.index(use)


def wanted(config: WorldConfig, query: Query) -> dict[str, str]:
    """The values that the query's user wants in its category, for all aspects."""
    row = preferences(config, int(query.user[1:]))[-1, situation(query)[0]]
    return {name: VALUES[a][row[a]] for a, name in enumerate(NAMES)}


def gain(env: Environment, profiles: list[str], queries: list[Query]) -> float:
    """Mean nDCG@10 of the targets."""
    return float(ndcg_at_k(env.items.ranks(profiles, [query.target for query in queries]), 10).mean())


# --- 1. what decides depends on category and use ----------------------------------------------------------------------


@pytest.mark.parametrize("by_use", [0, 1, 2, 3])
def test_by_use_is_the_number_of_aspects_that_depend_on_the_use(by_use):
    config = replace(HARD, relevant=3, by_use=by_use, uses=3)
    for category in relevant_aspects(config):
        sets = [set(row.tolist()) for row in category]
        assert [len(row) for row in category] == [3] * 3 == [len(one) for one in sets]
        assert all(list(row) == sorted(row) for row in category)
        # 3 uses need at most 9 of 10 aspects, so two uses share only the aspects of the whole category
        assert all(len(one & other) == 3 - by_use for one in sets for other in sets if one is not other)


def test_with_many_uses_aspects_are_dealt_again():
    rows = relevant_aspects(replace(HARD, relevant=4, by_use=3, uses=8))[0]
    assert all(len(set(row.tolist())) == 4 for row in rows)
    assert len(set.intersection(*(set(row.tolist()) for row in rows))) == 1


def follows_the_use(config: WorldConfig) -> bool:
    """Do targets have the wanted values of aspects that matter for the use, rather than for another use?"""
    shop, relevant, kept = make_world(config), relevant_aspects(config), {True: [], False: []}
    for query in shop.queries:
        category, use = situation(query)
        item, wants = shop.items[query.target], wanted(config, query)
        for a in {a for row in relevant[category] for a in row.tolist()}:
            kept[a in relevant[category][use]].append(item.attributes[NAMES[a]] == (wants[NAMES[a]],))
    return bool(kept[False]) and np.mean(kept[True]) > 2 * np.mean(kept[False])


def test_what_people_buy_depends_on_the_use():
    assert follows_the_use(BRIEF) and not follows_the_use(replace(BRIEF, by_use=0))


def share_with_a_decoy(config: WorldConfig) -> float:
    """Share of queries for which search finds, among 8 lines, one for another use of the same category."""
    env = environment(config)
    found = []
    for query in env.split.train_queries[:60]:
        category, _, use, *_ = query.text.split()
        lines = [line.id.split("/")[1:] for line in env.memory.search_global(query.text, 8)]
        found.append(any(line[0] == category and len(line) == 3 and line[1] != use for line in lines))
    return float(np.mean(found))


def test_lines_of_another_use_stand_beside_the_right_ones():
    assert share_with_a_decoy(HARD) > 0.5 and share_with_a_decoy(PLAIN) < 0.05


def holds_back(config: WorldConfig, pairs: set[tuple[int, int]]) -> bool:
    """Is no pair of `pairs` in a training query, some in held queries, and do people nevertheless buy in such pairs?"""
    shop = make_world(config)
    split = shop.split(0, 0.6, 0.1, 0.3)
    held_categories = set(range(config.categories - config.held, config.categories))
    asked = [{situation(query) for query in part} for part in (split.train_queries, split.held_queries)]
    held_only = all(situation(q)[0] in held_categories or situation(q) in pairs for q in split.held_queries)
    known = [shop.interactions_of(user)[: config.history] for user in split.train]
    bought = {
        (CATEGORIES.index(shop.category(one.item)), USES.index(one.review.split(".")[0].removeprefix("bought for ")))
        for history in known
        for one in history
        if one.review.startswith("bought for ")
    }
    categories = {category for category, _ in bought}
    return (
        not asked[0] & pairs
        and bool(asked[1] & pairs)
        and held_only
        and not {category for category, _ in asked[0]} & held_categories
        and bool(bought & pairs)
        and held_categories <= categories
    )


def test_held_queries_name_a_held_category_or_a_held_pair():
    pairs = set(held_pairs(BRIEF))
    assert holds_back(BRIEF, pairs)
    assert not holds_back(replace(BRIEF, held_pairs=0), pairs)  # the same pairs are then asked for in training
    assert not holds_back(replace(BRIEF, named_use=0.0), pairs)  # then nobody can know what matters for them


@given(st.integers(1, 20), st.integers(1, 8), st.data())
def test_held_pairs_differ_and_lie_outside_the_held_categories(categories, uses, data):
    held = data.draw(st.integers(0, categories - 1))
    known = categories - held
    number = data.draw(st.integers(0, known * uses - 1))
    pairs = held_pairs(WorldConfig(categories=categories, uses=uses, held=held, held_pairs=number))
    assert len(set(pairs)) == len(pairs) == number
    assert all(0 <= category < known and 0 <= use < uses for category, use in pairs)
    if number >= known:  # no category is held more often than another by more than one pair
        assert max(Counter(c for c, _ in pairs).values()) - min(Counter(c for c, _ in pairs).values()) <= 1


# --- 2. global memory is learned, wrong now and then, and says how certain it is --------------------------------------


def graded_lines(config: WorldConfig) -> list[tuple[str, bool]]:
    """(certainty, whether it is true) of each global line about a category. A line without a use must hold for all."""
    relevant = [[{NAMES[a] for a in row} for row in rows] for rows in relevant_aspects(config)]
    graded = []
    for line in environment(config).memory.global_entries:
        category, *use, aspect = line.id.split("/")[1:]
        if category in CATEGORIES:
            rows = relevant[CATEGORIES.index(category)]
            right = aspect in rows[USES.index(use[0])] if use else all(aspect in row for row in rows)
            graded.append((next(word for word in line.text.split() if word in CERTAINTY), right))
    return graded


def wrong_now_and_then(config: WorldConfig) -> bool:
    wrong = 1 - np.mean([right for _, right in graded_lines(config)])
    return 0.005 < wrong < 0.2


def test_some_global_lines_are_wrong():
    assert wrong_now_and_then(HARD) and not wrong_now_and_then(PLAIN)


def test_sure_lines_are_right_more_often():
    right = {word: [one for said, one in graded_lines(HARD) if said == word] for word in CERTAINTY}
    assert min(len(right["maybe"]), len(right["surely"])) >= 5
    assert np.mean(right["surely"]) > np.mean(right["maybe"]) + 0.05


def test_global_lines_carry_their_support():
    lines = environment(HARD).memory.global_entries
    assert min(line.support for line in lines) >= 3 and len({line.support for line in lines}) > 5
    assert all(line.user is None and line.rests_on == () for line in lines)


# --- 3. lines carry counts and dates, and some tastes drift -----------------------------------------------------------


def test_a_taste_changes_at_most_once_and_only_in_drifting_aspects():
    config = replace(HARD, drift=0.6, drifting=("color", "scent"), exceptions=0.0, history=20)
    tastes = np.stack([preferences(config, user)[:, 0] for user in range(300)])  # (users, steps, aspects)
    changed = tastes[:, 1:] != tastes[:, :-1]
    drifting = np.isin(NAMES, config.drifting)
    assert not changed[:, :, ~drifting].any() and changed.sum(1).max() == 1
    assert changed[:, :, drifting].any(1).mean() == pytest.approx(0.6, abs=0.06)
    steps = np.nonzero(changed[:, :, drifting])[1] + 1  # the first purchase that follows the new taste
    assert set(steps.tolist()) == set(range(11, 16))  # in the third quarter
    assert preferences(replace(config, history=0), 3).shape == (1, config.categories, len(NAMES))


def right_values(config: WorldConfig, drifting: tuple[str, ...]) -> dict[bool, tuple[float, float]]:
    """{is the aspect one of `drifting`?: shares of right (most frequent, latest) values}, in lines with both."""
    right = {True: [], False: []}
    for query, entries in people(config):
        wants = wanted(replace(config, exceptions=0.0), query)  # what the person usually wants
        profile = {line.id: line for line in entries if line.level == "profile"}
        for aspect in NAMES:
            if usual := profile.get(f"{query.user}/profile/{aspect}"):
                latest = profile[f"{query.user}/profile/lately/{aspect}"]
                values = [value_of(line, aspect)[0] for line in (usual, latest)]
                if values[0] != values[1]:
                    right[aspect in drifting].append([value == wants[aspect] for value in values])
    return {drifts: tuple(np.mean(hits, axis=0)) for drifts, hits in right.items() if hits}


def test_the_latest_value_is_better_where_tastes_drift_and_the_usual_one_elsewhere():
    found = right_values(HARD, HARD.drifting)
    usual, latest = found[True]
    assert latest > usual + 0.05
    usual, latest = found[False]
    assert usual > latest + 0.05
    usual, latest = right_values(replace(BRIEF, drifting=()), HARD.drifting)[True]
    assert latest < usual  # without drift, there is no aspect of which the latest value is better


def test_lines_carry_counts_and_dates():
    lines = [line for _, entries in people(HARD) for line in entries if line.level != "record"]
    for line in lines:
        words = line.text.split()
        assert words[-1][4] == "q" and 1 <= int(words[3]) <= line.support
    assert any(int(line.text.split()[3]) > 1 for line in lines)


def test_whims_last_for_one_purchase_and_spare_the_targets_and_the_drifting_aspects():
    """With whims, purchases follow the tastes less often, in the steady aspects only."""
    kept = {}
    for whims in (0.0, 0.5):
        config = replace(BRIEF, whims=whims, relevant=3, by_use=0, named_use=0.0, exceptions=0.0, shown=1000)
        shop, rows = make_world(config), relevant_aspects(config)
        targets, found = {(q.user, q.target) for q in shop.queries}, defaultdict(list)
        for user in shop.users():
            tastes = preferences(config, int(user[1:]))
            for step, one in enumerate(shop.interactions_of(user)):
                item, category = shop.items[one.item], CATEGORIES.index(shop.category(one.item))
                for a in rows[category][0]:
                    wants = VALUES[a][tastes[min(step, config.history), category, a]]
                    key = "target" if (user, one.item) in targets else NAMES[a] in config.drifting
                    found[key].append(item.attributes[NAMES[a]] == (wants,))
        kept[whims] = {key: np.mean(hits) for key, hits in found.items()}
    assert kept[0.5][False] < kept[0.0][False] - 0.2
    assert abs(kept[0.5][True] - kept[0.0][True]) < 0.1 and abs(kept[0.5]["target"] - kept[0.0]["target"]) < 0.1


# --- 4. leaving out is better than a wrong value, and sometimes memory has no answer ----------------------------------


def test_a_wrong_value_is_worse_than_none():
    env, rng = environment(HARD), np.random.default_rng(0)
    queries = [query for query in env.dataset.queries[:600] if query.truth]
    right, out, wrong = [], [], []
    for query in queries:
        aspect = list(query.truth)[rng.integers(len(query.truth))]
        others = [value for value in ASPECTS[aspect] if value != query.truth[aspect]]
        right.append(oracle_profile(query))
        out.append(oracle_profile(replace(query, truth={a: v for a, v in query.truth.items() if a != aspect})))
        wrong.append(f"{out[-1]} {aspect} {others[rng.integers(len(others))]}")
    scores = [gain(env, profiles, queries) for profiles in (right, out, wrong)]
    assert scores[0] > 1.2 * scores[1] > 1.2 * 1.2 * scores[2]


def share_without_answer(config: WorldConfig) -> float:
    """Share of the wanted values that no line of the person's memory about this category states."""
    missing = []
    for query, entries in people(config):
        lines = [e for e in entries if e.level != "pattern" or e.scenario == query.text.split()[0]]
        for aspect, value in query.truth.items():
            missing.append(all(value_of(line, aspect)[0] != value for line in lines))
    return float(np.mean(missing))


def test_sometimes_memory_has_no_answer():
    steady = replace(BRIEF, users=5, history=150, drifting=(), exceptions=0.0, whims=0.0, follow=1.0)
    assert share_without_answer(HARD) > 0.03 and share_without_answer(steady) < 0.01


# --- 5. some queries already state a value (what a look-up costs: test_scripts.py) ------------------------------------


def share_that_says(config: WorldConfig) -> float:
    queries = make_world(config).queries
    for query in queries:
        said = query.text.split()[3:]
        assert not set(said[::2]) & set(query.truth)  # nobody has to look it up
        assert len(said) // 2 + len(query.truth) == config.relevant
        assert all(wanted(config, query)[a] == v for a, v in zip(said[::2], said[1::2], strict=True))
    return float(np.mean([len(query.text.split()) > 3 for query in queries]))


def test_some_queries_state_wanted_values():
    assert 0.1 < share_that_says(BRIEF) < 1 and share_that_says(replace(BRIEF, said=(1.0,))) == 0


# --- 6. records state attributes, so that records alone help ----------------------------------------------------------


def gains_of_votes() -> tuple[float, float]:
    """nDCG@10 of (the query, the query with each wanted aspect's most frequent value in the person's records)."""
    env, queries, profiles = environment(HARD), [], []
    for first, entries in people(HARD):
        records = [entry for entry in entries if entry.level == "record"]
        for query in env.dataset.queries_of([first.user]):
            if len(query.text.split()) > 3:
                continue  # a query that states values finds much without memory
            words = [query.text]
            for aspect in query.truth:
                votes = Counter(filter(None, (value_of(record, aspect)[0] for record in records)))
                words += [f"{aspect} {value}" for value, _ in votes.most_common(1)]
            queries.append(query)
            profiles.append(" ".join(words))
    return gain(env, [query.text for query in queries], queries), gain(env, profiles, queries)


def test_a_majority_vote_over_records_beats_the_query(monkeypatch):
    bare, voted = gains_of_votes()
    assert voted > 1.5 * bare
    monkeypatch.setattr(ExtractiveSummarizer, "telling", lambda *_: [])
    bare, voted = gains_of_votes()
    assert voted == bare  # records that state no attribute bring nothing
