"""The recipe: which environments it prepares, who it may learn from, and that one seed gives one policy."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.grammar import Grammar
from mrrec_mini.recipe import Recipe, _draw, chosen_recipe, make_tokenizer, prepare, script_traces, start_policy
from mrrec_mini.world import make_world
from runs import QUICK, SHOP, same_weights

# --- environments ---


def test_a_shop_has_siblings_and_other_data_has_none():
    dataset = make_world(SHOP)
    said = []
    environments = prepare(dataset, replace(QUICK, siblings=2), 0, lambda *event: said.append(event))
    assert len(environments) == 3 and said[-1] == ("memory", 3, 3, "")
    first, *siblings = environments
    assert first.dataset is dataset and first.split == dataset.split(0, *QUICK.shares)
    for sibling in siblings:  # other people, other maps, the same held-out categories; everybody trains
        assert sibling.dataset.meta["world"]["map_seed"] != SHOP.map_seed
        assert sibling.dataset.meta["held_categories"] == dataset.meta["held_categories"]
        assert sibling.split.train == frozenset(sibling.dataset.users()) and not sibling.split.test_queries
        held = set(sibling.dataset.meta["held_categories"])
        asked = {sibling.dataset.category(query.target) for query in sibling.split.train_queries}
        assert asked and not asked & held
    real = Dataset(dataset.items, dataset.interactions, dataset.queries, {"name": "real"})
    assert len(prepare(real, replace(QUICK, siblings=2), 0)) == 1


def test_the_split_follows_the_seed():
    dataset = make_world(SHOP)
    splits = {seed: prepare(dataset, replace(QUICK, siblings=0), seed)[0].split for seed in (0, 1)}
    assert splits[0].test != splits[1].test


def test_the_tokenizer_learns_from_train_users_only():
    """A word that only test and validation users write is unknown to it; a word that train users write is known."""
    dataset = make_world(SHOP)
    split = dataset.split(0, *QUICK.shares)

    def words(user_says):
        told = [replace(met, review="canary " * 3) if met.user in user_says else met for met in dataset.interactions]
        changed = Dataset(dataset.items, tuple(told), dataset.queries, dataset.meta)
        return make_tokenizer(prepare(changed, replace(QUICK, siblings=0), 0), QUICK.max_words).words

    assert "canary" not in words(split.test | split.validation)
    assert "canary" in words(split.train)


def test_on_real_data_the_words_of_all_titles_are_known():
    shop = make_world(SHOP)
    titled = dict(shop.items)
    titled["new"] = replace(next(iter(shop.items.values())), id="new", title="Pokémon-Canary")

    def words(meta):
        changed = Dataset(titled, shop.interactions, shop.queries, meta)
        return make_tokenizer(prepare(changed, replace(QUICK, siblings=0), 0), 4000).words

    assert {"pokémon", "canary"} <= set(words({"name": "real"}))
    assert "canary" not in words(shop.meta)


# --- the start ---


@pytest.mark.parametrize("real", [False, True])
def test_real_data_imitates_with_the_settings_for_rare_words(real, monkeypatch):
    shop, seen = make_world(SHOP), []
    dataset = Dataset(shop.items, shop.interactions, shop.queries, {"name": "real"} if real else shop.meta)
    monkeypatch.setattr("mrrec_mini.recipe.warm_start", lambda m, tok, traces, warm, *_: seen.append(warm))
    start_policy(prepare(dataset, QUICK, 0), QUICK, 0)
    assert seen == [QUICK.warm.for_rare_words() if real else QUICK.warm]


def test_queries_are_drawn_equally_often():
    env = prepare(make_world(SHOP), replace(QUICK, siblings=0), 0)[0]
    n = len(env.split.train_queries)
    drawn = _draw(env, 2 * n + 3, np.random.default_rng(0))
    assert len(drawn) == 2 * n + 3
    counts = Counter(drawn)
    assert set(counts) == set(range(n)) and set(counts.values()) == {2, 3}
    assert sorted(counts.values()).count(3) == 3
    assert drawn[:n] != sorted(drawn[:n])


def test_traces_are_the_teachers_answers_equally_many_per_environment():
    environments = prepare(make_world(SHOP), QUICK, 0)
    grammar = Grammar(make_tokenizer(environments, QUICK.max_words))
    traces = script_traces(environments, grammar, QUICK, np.random.default_rng(0))
    assert len(traces) == QUICK.traces and all(trace.answer is not None for trace in traces)
    own = {query.id for query in environments[0].split.train_queries}
    texts = [env.split.train_queries for env in environments]
    assert [trace.query.id in own for trace in traces[: QUICK.traces // 2]] == [True] * (QUICK.traces // 2)
    assert all(trace.query in texts[1] for trace in traces[QUICK.traces // 2 :])


def test_one_seed_gives_one_policy():
    environments = prepare(make_world(SHOP), QUICK, 0)
    said = []
    one, tokenizer = start_policy(environments, QUICK, 0, lambda *event: said.append(event))
    again, same_words = start_policy(environments, QUICK, 0)
    other, _ = start_policy(environments, QUICK, 1)
    assert same_weights(one, again) and tokenizer.words == same_words.words
    assert not same_weights(one, other)
    assert {event[0] for event in said} == {"copy drill", "warm start"}
    assert all(0 < done <= total for _, done, total, _ in said)


def test_data_without_training_queries_is_a_data_error():
    dataset = make_world(SHOP)
    held = sorted({item.category[-1] for item in dataset.items.values()})
    silent = Dataset(dataset.items, dataset.interactions, dataset.queries, {"held_categories": held})
    with pytest.raises(DataError, match="no train user has a query outside the held categories"):
        start_policy(prepare(silent, QUICK, 0), QUICK, 0)


def test_queries_too_long_for_any_answer_are_a_data_error():
    dataset = make_world(SHOP)
    long = [Query(q.id, q.user, "@ " * 40 + q.text, q.target, q.time) for q in dataset.queries]
    wordy = Dataset(dataset.items, dataset.interactions, tuple(long), {"name": "wordy"})
    tight = QUICK.ablated(turn_tokens=8)
    with pytest.raises(DataError, match="no query fits into an answer of 8 tokens"):
        start_policy(prepare(wordy, tight, 0), tight, 0)


def test_the_longer_recipe_has_more_steps_and_keeps_the_rest():
    own, long = Recipe().with_seed(7), Recipe().with_seed(7).longer()
    assert (long.warm.steps, long.traces, long.train.steps, long.train.seed) == (2400, 8000, 400, 7)
    assert long.warm.scrambled > 0.5 and long.train.matrix_rate == own.train.matrix_rate
    assert chosen_recipe(long=True) == Recipe().longer() and chosen_recipe() == Recipe()
    assert chosen_recipe(fast=True, long=True).train.steps == 7
    with pytest.raises(ValueError, match="--long is for the tiny model"):
        chosen_recipe(chat_model="some-model", long=True)


def test_an_ablated_recipe_differs_only_in_its_rules():
    ablated = Recipe().ablated(global_k=0)
    assert ablated.train.rules.global_k == 0
    assert ablated.ablated(global_k=Recipe().train.rules.global_k) == Recipe()
