"""The recipe: what it is made of comes back from disk, and who it may learn from."""

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.grammar import Grammar
from mrrec_mini.grpo import GRPOConfig
from mrrec_mini.recipe import (
    FAST,
    Recipe,
    _draw,
    all_train,
    make_tokenizer,
    prepare,
    read_config,
    recipe_from,
    start_policy,
    teacher_traces,
    write_config,
)
from mrrec_mini.world import make_world
from runs import QUICK, SHOP, copied_run, made_run, same_weights, shop

# --- config.json ---

ODD = replace(
    QUICK,
    shares=(0.4, 0.2, 0.4),
    train=replace(QUICK.train, algo="reinforce", grpo=GRPOConfig(clip=(0.1, 0.3))),
)


@pytest.mark.parametrize("recipe", [Recipe(), FAST, ODD, Recipe().ablated(global_k=0, max_calls=1)])
def test_a_recipe_survives_json(recipe):
    back = recipe_from(json.loads(json.dumps(asdict(recipe))))
    assert back == recipe
    assert hash(back) == hash(recipe)  # a list where a tuple was would be equal to nothing and cannot be hashed


def test_a_config_of_a_folder_and_of_a_shop_come_back(tmp_path):
    write_config(tmp_path / "a", ODD, 7, shop(), None)
    recipe, seed, dataset = read_config(tmp_path / "a")
    assert (recipe, seed, dataset.counts()) == (ODD, 7, Dataset.load(shop()).counts())
    write_config(tmp_path / "b", FAST, 3, None, SHOP)
    recipe, seed, dataset = read_config(tmp_path / "b")
    assert (recipe, seed, dataset.queries) == (FAST, 3, make_world(SHOP).queries)


def test_a_config_does_not_depend_on_where_it_was_made(tmp_path, monkeypatch):
    (tmp_path / "here").symlink_to(shop())
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "run", QUICK, 0, (tmp_path / "here").relative_to(tmp_path), None)
    monkeypatch.chdir("/")
    assert read_config(tmp_path / "run")[2].counts() == Dataset.load(shop()).counts()


GOOD = {"seed": 0, "data": None, "world": asdict(SHOP), "recipe": asdict(QUICK)}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '{"a": 1}', '{"model_type": "llama"}', "\x00"),
        *(json.dumps(GOOD | change) for change in ({"seed": "x"}, {"recipe": {}}, {"world": None}, {"data": 4})),
        json.dumps(GOOD | {"world": {"shops": 3}}),
        json.dumps(GOOD | {"recipe": asdict(QUICK) | {"new": 1}}),
        json.dumps(GOOD | {"recipe": asdict(QUICK) | {"train": asdict(QUICK.train) | {"algo": "ppo"}}}),
    ],
)
def test_a_config_that_is_no_runs_is_bad_data(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError) as error:
        read_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: not what `mrrec train` writes")
    assert "\n" not in str(error.value)


def test_the_good_one_among_them_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert read_config(tmp_path)[:2] == (QUICK, 0)


def test_a_folder_without_config_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run"):
        read_config(tmp_path)


def test_a_run_whose_data_set_went_away_says_so(tmp_path):
    run = copied_run(tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match=r"gone.items\.jsonl: cannot be read"):
        read_config(run)


# --- environments ---


def test_a_shop_has_siblings_and_other_data_has_none():
    dataset = make_world(SHOP)
    said = []
    environments = prepare(dataset, replace(QUICK, siblings=2), 0, lambda *event: said.append(event))
    assert len(environments) == 3 and said[-1] == ("memory", 3, 3, "")
    first, *siblings = environments
    assert first.dataset is dataset and first.split == dataset.split(0, *QUICK.shares)
    for sibling in siblings:  # other people with other maps, who all train; what is held out is held out here too
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
    assert all_train(dataset).train == frozenset(dataset.users())
    splits = {seed: prepare(dataset, replace(QUICK, siblings=0), seed)[0].split for seed in (0, 1)}
    assert splits[0].test != splits[1].test


def test_the_tokenizer_knows_train_users_only():
    """A word that only one test user ever says is no word of the tokenizer; said by train users, it is."""
    dataset = make_world(SHOP)
    split = dataset.split(0, *QUICK.shares)

    def words(user_says):
        told = [replace(met, review="canary " * 3) if met.user in user_says else met for met in dataset.interactions]
        changed = Dataset(dataset.items, tuple(told), dataset.queries, dataset.meta)
        return make_tokenizer(prepare(changed, replace(QUICK, siblings=0), 0), QUICK.max_words).words

    assert "canary" not in words(split.test | split.validation)
    assert "canary" in words(split.train)


# --- the start ---


def test_queries_are_drawn_equally_often():
    env = prepare(make_world(SHOP), replace(QUICK, siblings=0), 0)[0]
    n = len(env.split.train_queries)
    drawn = _draw(env, 2 * n + 3, np.random.default_rng(0))
    assert len(drawn) == 2 * n + 3
    counts = Counter(drawn)
    assert set(counts) == set(range(n)) and set(counts.values()) == {2, 3}
    assert sorted(counts.values()).count(3) == 3
    assert drawn[:n] != sorted(drawn[:n])


def test_traces_are_the_teachers_answers_in_equal_parts():
    environments = prepare(make_world(SHOP), QUICK, 0)
    grammar = Grammar(make_tokenizer(environments, QUICK.max_words))
    traces = teacher_traces(environments, grammar, QUICK, np.random.default_rng(0))
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


def test_nothing_to_learn_from_is_bad_data():
    dataset = make_world(SHOP)
    held = sorted({item.category[-1] for item in dataset.items.values()})
    silent = Dataset(dataset.items, dataset.interactions, dataset.queries, {"held_categories": held})
    with pytest.raises(DataError, match="no train user has a query outside the held categories"):
        start_policy(prepare(silent, QUICK, 0), QUICK, 0)


def test_queries_too_long_for_any_answer_are_bad_data():
    dataset = make_world(SHOP)
    long = [Query(q.id, q.user, "@ " * 40 + q.text, q.target, q.time) for q in dataset.queries]
    wordy = Dataset(dataset.items, dataset.interactions, tuple(long), {"name": "wordy"})
    tight = QUICK.ablated(turn_tokens=8)
    with pytest.raises(DataError, match="no query fits into an answer of 8 tokens"):
        start_policy(prepare(wordy, tight, 0), tight, 0)


def test_an_ablated_recipe_differs_in_its_rules_alone():
    ablated = Recipe().ablated(global_k=0)
    assert ablated.train.rules.global_k == 0
    assert ablated.ablated(global_k=Recipe().train.rules.global_k) == Recipe()


def test_a_run_folder_is_laid_out_as_promised():
    run = made_run()
    # by the first recommendation that any test asks for; the last two are SQLite's own, while somebody has it open
    made_later = {"memory.db", "memory.db-wal", "memory.db-shm"}
    promised = {"before", "checkpoints", "config.json", "metrics.jsonl"}
    assert {path.name for path in run.iterdir()} - made_later == promised
    assert (run / "checkpoints" / "step-000002" / "model.safetensors").is_file()
    config = json.loads((run / "config.json").read_text())
    assert sorted(config) == ["data", "formulas", "recipe", "seed", "threads", "torch", "world"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "grad_norm", "step_time"} <= set(lines[0])
    assert "validation/ndcg@10" in lines[1]
