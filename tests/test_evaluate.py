"""Evaluation: what each arm does, what is counted, and the numbers made from rows, checked by hand."""

import json
import math
import pickle
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrrec_mini import evaluate
from mrrec_mini.data import template_text
from mrrec_mini.datatypes import Call, Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import (
    ARMS,
    EvalSet,
    Row,
    actor_rows,
    aspect_counts,
    difference,
    eval_sets,
    first_rows,
    interval,
    means,
    memory_tokens,
    names_aspect,
    play,
    policy_rows,
    reference_rows,
    report_dict,
    source_of,
    summary,
    system_rows,
)
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.memory import join, record_entry
from mrrec_mini.metrics import hierarchical_interval, ndcg_at_k
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.own_text import OWN_TEXT, own_texts
from mrrec_mini.rollout import LMActor, RolloutConfig, ScriptActor
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.systems.neighbours import Neighbours
from mrrec_mini.systems.popularity import Popularity
from mrrec_mini.world import ASPECTS, CATEGORIES, USES, WorldConfig, make_world, oracle_profile

WORLD = WorldConfig(users=12, items=100, categories=6, held=2, history=10, queries=3)
# the arms that need no `Query.truth`
SYSTEMS = ("popularity", "neighbours", "query_only", "naive_memory", "static_memory", "script_filter")
NO_TRUTH = (*SYSTEMS, "script_lookups", "teacher")
REFERENCES = (*SYSTEMS, "oracle", "script_lookups", "teacher", "told_drift", "expert")


def make_eval_set(dataset, part="test", **changes) -> EvalSet:
    split = dataset.split(0, 0.4, 0.1, 0.5)
    environment = Environment.build(dataset, split, ExtractiveSummarizer(), np.random.default_rng(0))
    values = (value for values in ASPECTS.values() for value in values)
    words = [*CATEGORIES, *USES, "for", "overall", *ASPECTS, *values]
    grammar = Grammar(WordTokenizer(CONTROL, list(dict.fromkeys(words))))
    parts = {eval_set.part: eval_set for eval_set in eval_sets(environment, grammar, RolloutConfig(), seed=7)}
    return replace(parts[part], **changes)


@pytest.fixture(scope="module")
def eval_set() -> EvalSet:
    return make_eval_set(make_world(WORLD))


@pytest.fixture(scope="module")
def model(eval_set):
    return make_causal_lm(len(eval_set.grammar.tokenizer), CausalLMConfig(width=32), torch.Generator().manual_seed(0))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- the arms without a policy ----------------------------------------------------------------------------------------


def arm(rows, name):
    return [row for row in rows if row.arm == name]


def test_every_reference_arm_answers_every_query_once(eval_set):
    rows = reference_rows(eval_set, rng())
    assert [row.arm for row in rows[:: len(eval_set.queries)]] == [*REFERENCES]
    for name in REFERENCES:
        asked = [(query.id, query.user) for query in eval_set.queries]
        assert [(row.query, row.user) for row in arm(rows, name)] == asked
    assert {(row.part, row.seed, row.mode, row.source) for row in rows} == {("test", 7, "", "world 0.0")}


def ranks(eval_set, profiles):
    return eval_set.environment.items.ranks(profiles, [query.target for query in eval_set.queries]).tolist()


def test_the_profile_of_each_arm(eval_set):
    data, config = eval_set.environment.dataset, eval_set.environment.memory.config
    told = eval_set.environment.memory.summarizer.telling
    rows = reference_rows(eval_set, rng())
    latest = []
    for query in eval_set.queries:
        purchases = join(data, data.history(query))[-3:]
        latest.append(" ".join([query.text, *(record_entry(p, told(p), config).text for p in reversed(purchases))]))
    entries = [eval_set.environment.memory.entries(query) for query in eval_set.queries]
    profile = [
        " ".join([query.text, *(e.text for e in memory if e.level == "profile")])
        for query, memory in zip(eval_set.queries, entries, strict=True)
    ]
    expected = {
        "query_only": ranks(eval_set, [query.text for query in eval_set.queries]),
        "naive_memory": ranks(eval_set, latest),
        "static_memory": ranks(eval_set, profile),
        "oracle": ranks(eval_set, [oracle_profile(query) for query in eval_set.queries]),
    }
    assert {name: [row.rank for row in arm(rows, name)] for name in expected} == expected
    assert len({tuple(places) for places in expected.values()}) == 4  # four different arms


def test_the_expert_looks_up_what_matters_and_nothing_else(eval_set):
    open_aspects = {query.id: len(query.truth) for query in eval_set.queries}  # those that the query does not state
    for row in arm(reference_rows(eval_set, rng()), "expert"):
        n = open_aspects[row.query]
        assert (row.calls, row.asked, row.right, row.matter, row.format) == (n, n, n, n, 1.0)


def test_without_truth_there_is_no_expert_no_oracle_and_no_count_of_aspects(eval_set):
    blind = replace(eval_set, queries=tuple(replace(query, truth=None) for query in eval_set.queries))
    rows = reference_rows(blind, rng())
    assert {row.arm for row in rows} == set(NO_TRUTH)
    assert {(row.asked, row.right, row.matter) for row in rows} == {(None, None, None)}


def test_the_parts_are_the_splits_and_an_empty_part_is_left_out(eval_set):
    split = eval_set.environment.split
    assert [b.part for b in eval_sets(eval_set.environment, eval_set.grammar, eval_set.rules, 0)] == ["test", "held"]
    none_held = replace(eval_set.environment, split=replace(split, held_queries=()))
    assert [b.queries for b in eval_sets(none_held, eval_set.grammar, eval_set.rules, 0)] == [split.test_queries]


def test_rules_without_memory_leave_an_arm_without_memory(eval_set):
    bare = replace(eval_set, rules=RolloutConfig(max_calls=0, global_k=0))
    counts = {(row.calls, row.memory_tokens, row.format) for row in arm(reference_rows(bare, rng()), "teacher")}
    assert counts == {(0, 0, 1.0)}  # the teacher plans no search that the rules forbid


# --- systems ----------------------------------------------------------------------------------------------------------


class Fixed:
    """A system with given scores, {item: score}, and 0 for all other items. It notes its calls."""

    def __init__(self, scores):
        self.scores, self.fitted, self.ranked = scores, [], []

    def fit(self, dataset, split):
        self.fitted.append((dataset, split))
        return self

    def rank(self, query, candidates):
        self.ranked.append((query, candidates))
        return np.array([self.scores.get(item, 0.0) for item in candidates])


def test_a_system_ranks_the_whole_pool_and_ties_go_to_the_smaller_id(eval_set):
    """Items i0000000 to i0000099: one scores 1, one scores -inf, all others 0."""
    targets = ["i0000000", "i0000001", "i0000002", "i0000003", "i0000099"]
    queries = tuple(replace(eval_set.queries[0], id=str(n), target=target) for n, target in enumerate(targets))
    rows = system_rows(replace(eval_set, queries=queries), "popularity", Fixed({"i0000002": 1.0, "i0000001": -np.inf}))
    # 2 comes first, then the 98 tied items by id: 0, 3, ..., 99; 1 comes last
    assert [row.rank for row in rows] == [2, 100, 1, 3, 99]
    assert {(row.format, row.calls, row.memory_tokens, row.mode) for row in rows} == {(1.0, 0, 0, "")}


def test_a_system_is_fitted_once_and_never_sees_the_target(eval_set):
    system = Fixed({})
    system_rows(eval_set, "popularity", system)
    assert system.fitted == [(eval_set.environment.dataset, eval_set.environment.split)]
    assert [query for query, _ in system.ranked] == [replace(q, target="", truth=None) for q in eval_set.queries]
    assert all(list(candidates) == sorted(eval_set.environment.dataset.items) for _, candidates in system.ranked)


def test_a_nan_score_is_refused(eval_set):
    """A NaN compares false with everything, so every target would come first."""
    with pytest.raises(ValueError, match="NaN"):
        system_rows(eval_set, "popularity", Fixed({"i0000000": np.nan}))


def test_popularity_and_neighbours_are_arms(eval_set):
    rows = reference_rows(eval_set, rng())
    assert arm(rows, "popularity") == system_rows(eval_set, "popularity", Popularity())
    assert arm(rows, "neighbours") == system_rows(eval_set, "neighbours", Neighbours())
    assert [row.rank for row in arm(rows, "popularity")] != [row.rank for row in arm(rows, "neighbours")]


# --- real data: the same ground for all arms ----------------------------------------------------------------------

FIRST = ("popularity", "neighbours", "popularity_in_category", "neighbours_in_category", "query_popularity")
FIRST += ("query_prior", "query_only", *OWN_TEXT, "best_own_text", "naive_memory", "static_memory", "script_filter")


def real(**meta):
    """The shop as a real data set: no truth, no map, queries by template."""
    shop = make_world(replace(WORLD, users=20))
    asked = [replace(q, text=template_text("shop", shop.category(q.target)), truth=None) for q in shop.queries]
    return replace(shop, queries=tuple(asked), meta={"name": "real", **meta})


@pytest.fixture(scope="module")
def real_set() -> EvalSet:
    return make_eval_set(real(repeats=False))


def test_the_arms_that_need_no_training(real_set):
    """Each query once per arm; the prior is tried for every arm that writes a text."""
    rows = first_rows(real_set)
    for name in FIRST:
        assert [row.query for row in arm(rows, name)] == [query.id for query in real_set.queries]
        tried = {row.with_prior is not None for row in arm(rows, name)}
        assert tried == {name not in FIRST[:6]}
    assert {row.arm for row in rows} == set(FIRST) <= set(ARMS)
    assert [row.with_prior for row in arm(rows, "query_only")] == [row.rank for row in arm(rows, "query_prior")]
    assert {row.arm for row in reference_rows(real_set, rng())} == {*FIRST, "script_lookups", "teacher"}


def test_without_validation_queries_nothing_is_tuned_and_nothing_chosen(real_set):
    split = replace(real_set.environment.split, validation_queries=())
    rows = first_rows(replace(real_set, environment=replace(real_set.environment, split=split)))
    assert {row.arm for row in rows} == set(FIRST) - {"query_popularity", "query_prior", "best_own_text"}
    assert {row.with_prior for row in rows} == {None}


def test_every_arm_ranks_last_what_the_person_has(real_set, model):
    """If the target is something that the person has, then no arm finds it, with the prior or without."""
    data, n = real_set.environment.dataset, len(real_set.environment.dataset.items)
    owned = tuple(replace(q, target=data.history(q)[0].item) for q in real_set.queries)
    masked, most = replace(real_set, queries=owned), max(len(data.owned(q)) for q in owned)

    def found(eval_set):
        rows = [*reference_rows(eval_set, rng()), *system_rows(eval_set, "bm25_query", Fixed({}))]
        ranks = {}
        for row in rows:
            ranks.setdefault(row.arm, []).extend(rank for rank in (row.rank, row.with_prior) if rank is not None)
        return {name: min(own) for name, own in ranks.items()}

    assert min(found(masked).values()) > n - most
    may = make_eval_set(real(repeats=True))
    assert {name for name, best in found(replace(may, queries=owned)).items() if best <= n - most} >= {
        *("query_only", "own_last_title", "static_memory", "teacher", "bm25_query", "popularity"),
    }


def test_the_best_script_is_chosen_on_validation(real_set):
    """The test queries may have another best script; swapping both groups of users swaps the choice."""
    environment, rows = real_set.environment, first_rows(real_set)
    queries = environment.split.validation_queries
    texts = {"query_only": [""] * len(queries), **own_texts(environment, queries)}
    gains = {
        name: ndcg_at_k(environment.items.ranks_for(queries, written), 10).mean() for name, written in texts.items()
    }
    best = max(gains, key=gains.get)
    assert [row.rank for row in arm(rows, "best_own_text")] == [row.rank for row in arm(rows, best)]
    assert len({round(gain, 6) for gain in gains.values()}) > 3


def test_the_weights_of_an_arm_come_from_validation(real_set):
    """With other test queries, the weights stay; without a gain on validation, they are 0."""
    items, queries = real_set.environment.items, real_set.environment.split.validation_queries
    means = items.tuned(queries, [""] * len(queries))
    ranks = items.ranks_for(real_set.queries, [""] * len(real_set.queries), max(means, key=means.get))
    assert [row.with_prior for row in arm(first_rows(real_set), "query_only")] == ranks.tolist()


def test_a_script_that_plays_is_tried_with_the_prior_too(real_set):
    rows = arm(reference_rows(real_set, rng()), "script_lookups")
    assert all(row.with_prior is not None for row in rows)
    actor = ScriptActor(lambda state: lambda state: [])  # never answers
    assert {row.with_prior for row in actor_rows(real_set, "teacher", "", actor)} == {None}


def test_the_boilerplate_of_a_query_is_not_searched(real_set):
    items = real_set.environment.items
    for query, row in zip(real_set.queries, arm(first_rows(real_set), "query_only"), strict=True):
        assert query.text == f"I am looking for shop: {query.phrase}" and query.scenario == query.phrase
        assert row.rank == items.ranks_for([replace(query, text="unknown", phrase=None)], [query.phrase])[0]


def test_the_synthetic_shop_has_the_arms_and_the_ranking_it_had(eval_set):
    assert {row.arm for row in first_rows(eval_set)} == set(SYSTEMS)
    assert {row.with_prior for row in reference_rows(eval_set, rng())} == {None}
    assert eval_set.environment.dataset.repeats and eval_set.environment.items.space.config.bm25_weight == 0.7


def test_ranks_with_the_prior_are_summed_up_beside_the_others():
    rows = [row("a", 1, with_prior=2), row("b", None), row("a", 1, "oracle", ""), row("b", 1, "oracle", "")]
    rows += [row(query, 4, "query_only", "", with_prior=1) for query in "ab"]
    arms = report_dict(rows)
    assert arms["grpo"]["with_prior"]["ndcg@10"] == pytest.approx((1 / math.log2(3) + 0) / 2)  # no answer counts 0
    assert arms["query_only"]["with_prior"]["ndcg@10"] == 1.0 and "with_prior" not in arms["oracle"]
    assert arms["query_only"]["with_prior"]["grpo_minus"]["ndcg@10"] == pytest.approx(1 / math.log2(3) / 2 - 1)
    assert arms["grpo"]["ndcg@10"] == 0.5 and arms["query_only"]["grpo_minus"]["ndcg@10"] != 0


# --- the policy -------------------------------------------------------------------------------------------------------


def test_a_policy_is_run_greedy_and_sampled(eval_set, model):
    rows = policy_rows(eval_set, "warm_start", model, torch.Generator().manual_seed(1))
    n = len(eval_set.queries)
    assert [row.mode for row in rows] == ["greedy"] * n + ["sampled"] * n
    assert rows == policy_rows(eval_set, "warm_start", model, torch.Generator().manual_seed(1))
    # an untrained policy breaks the grammar: no rank, and still a row
    assert {(row.rank, row.format) for row in rows} == {(None, 0.0)}
    assert means(rows)["ndcg@1000"] == 0.0 and means(rows)["queries"] == 2 * n


def test_greedy_ignores_the_generator_and_sampling_does_not(eval_set, model):
    def played(temperature, seed):
        generator = torch.Generator().manual_seed(seed)
        return [e.tokens for e in play(eval_set, LMActor(model, eval_set.grammar, generator, temperature))]

    assert played(0.0, 1) == played(0.0, 2)
    assert played(1.0, 1) != played(1.0, 2)


def test_batches_keep_the_order_and_change_only_what_is_drawn(eval_set, model):
    split = replace(eval_set, batch=2)
    one, other = ([row for row in reference_rows(b, rng()) if row.arm != "teacher"] for b in (eval_set, split))
    assert one == other
    one, other = ([e.tokens for e in play(b, LMActor(model, eval_set.grammar, None, 0.0))] for b in (eval_set, split))
    assert one == other


def test_all_calls_reaches_the_rollout(eval_set):
    class Listening(ScriptActor):
        def turn(self, max_new, forbidden, allowed):
            seen.append(tuple(forbidden))
            return super().turn(max_new, forbidden, allowed)

    seen = []
    actor = Listening(lambda state: lambda state: eval_set.grammar.write_search("", "price"))
    play(replace(eval_set, queries=eval_set.queries[:1]), actor, all_calls=True)
    assert seen == [(eval_set.grammar.control["<profile>"],)] * 3 + [(eval_set.grammar.control["<search>"],)]


# --- what is counted --------------------------------------------------------------------------------------------------


def line(text: str) -> MemoryEntry:
    return MemoryEntry(text, "u", "pattern", text)


def an_episode(grammar, calls=(), truth=None, shared=()) -> Episode:
    query = Query("q", "u", "mug for hiking", "i1", 100, truth)
    tokens = grammar.prompt(query.text, shared)
    mask = [0] * len(tokens)
    for number, text in enumerate(calls):
        for ids, own in (
            (grammar.write_search("size", text), 1),
            (grammar.reply([line("mug price luxury")], number), 0),
        ):
            tokens, mask = tokens + ids, mask + [own] * len(ids)
    searches = tuple(Call(text, ()) for text in calls)
    return Episode(query, tuple(tokens), tuple(mask), (0.0,) * len(mask), searches, None, "one search too many")


def test_memory_tokens_by_hand(eval_set):
    """`<query> mug for hiking <global>` is not memory. A global line, `<line> mug price`, has 3 tokens. A reply of one
    entry, `<memory> <m1> mug price luxury </memory>`, has 6. What the policy writes does not count.
    """
    grammar, shared = eval_set.grammar, (line("mug price"), line("mug size"))
    assert memory_tokens(an_episode(grammar), grammar) == 0
    assert memory_tokens(an_episode(grammar, shared=shared), grammar) == 6
    assert memory_tokens(an_episode(grammar, ("price", "size"), shared=shared), grammar) == 6 + 2 * 6


def test_aspects_are_counted_once_and_against_the_truth(eval_set):
    truth = {"price": "luxury", "size": "small", "Heel Height": "low"}
    names = ["price", "size", "color", "heel height"]
    # price twice and color: looked up {price, color}, right {price}; "height" alone does not name "heel height"
    episode = an_episode(eval_set.grammar, ("mug price", "price color", "height"), truth)
    assert aspect_counts(episode, names) == {"asked": 2, "right": 1, "matter": 3}
    episode = an_episode(eval_set.grammar, ("Heel-Height and size",), truth)
    assert aspect_counts(episode, names) == {"asked": 2, "right": 2, "matter": 3}
    assert aspect_counts(an_episode(eval_set.grammar, (), truth), names) == {"asked": 0, "right": 0, "matter": 3}
    assert aspect_counts(an_episode(eval_set.grammar, ("price",)), names) == {}


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("mug price", "price", True),
        ("PRICE!", "price", True),
        ("mug prices", "price", False),
        ("overprice", "price", False),
        ("heel height", "heel height", True),
        ("height of the heel", "heel height", False),
        ("", "price", False),
        ("price", "", False),
    ],
)
def test_an_aspect_is_named_by_its_whole_words(text, name, expected):
    assert names_aspect(text, name) is expected


def test_shops_of_two_seeds_are_two_sources():
    tiny = WorldConfig(users=2, items=6, categories=2, held=0, held_pairs=0, history=1, queries=1)
    shops = [make_world(replace(tiny, seed=seed, map_seed=map_seed)) for seed, map_seed in ((0, 0), (1, 0), (0, 1))]
    assert [source_of(shop) for shop in shops] == ["world 0.0", "world 1.0", "world 0.1"]
    assert source_of(replace(shops[0], meta={"name": "magazine"})) == "magazine"
    assert source_of(replace(shops[0], meta={})) == ""


# --- from rows to numbers ---------------------------------------------------------------------------------------------


def row(query="a", rank=1, arm="grpo", mode="greedy", part="test", seed=0, source="s", **more) -> Row:
    given = {"user": f"u-{query}", "format": 0.0 if rank is None else 1.0, "calls": 0, "memory_tokens": 0, **more}
    return Row(arm, mode, part, seed, source, query, rank=rank, **given)


FOUR = [
    row("a", 1, calls=3, memory_tokens=90, asked=4, right=2, matter=3),
    row("b", 3, calls=2, memory_tokens=60, asked=1, right=1, matter=3),
    row("c", 500, calls=0, memory_tokens=10, asked=0, right=0, matter=3),
    row("d", None, calls=1, memory_tokens=40, asked=2, right=0, matter=3),
]


def test_means_by_hand():
    """nDCG@k: 1 / log2(2) = 1, 1 / log2(4) = 1/2, 1 / log2(501) only at k = 1000, 0 without an answer; divided by 4."""
    expected = {
        "ndcg@10": 1.5 / 4,
        "ndcg@100": 1.5 / 4,
        "ndcg@1000": (1.5 + 1 / math.log2(501)) / 4,
        "recall@10": 2 / 4,
        "recall@100": 2 / 4,
        "recall@1000": 3 / 4,
        "format": 3 / 4,
        "calls": 6 / 4,
        "memory_tokens": 200 / 4,
        "aspect_precision": (2 / 4 + 1 + 0) / 3,  # c looked up nothing: it has no precision
        "aspect_recall": (2 / 3 + 1 / 3 + 0 + 0) / 4,
        "aspects_right": 3 / 4,
        "aspects_that_matter": 3.0,
        "queries": 4,
    }
    assert means(FOUR) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(1.5 / 3, id="a query without an answer is left out"),
        pytest.param((1 + 1 / math.log(4)) / 4, id="natural logarithm"),
        pytest.param((1 / math.log2(3) + 1 / math.log2(5)) / 4, id="rank from 0"),
    ],
)
def test_the_hand_case_detects_plausible_mistakes(wrong):
    assert abs(means(FOUR)["ndcg@10"] - wrong) > 0.01


def test_rows_without_truth_have_no_aspects():
    numbers = means([row()])
    assert [numbers[name] for name in ("aspect_precision", "aspect_recall", "aspects_right")] == [None] * 3


def numbers(rows, arm="grpo", mode="greedy", part="test"):
    return summary(rows)[arm, mode, part]


def drawn(count, arm="grpo", mode="greedy", part="test") -> list[Row]:
    """Rows of one arm with many different means of resamples: 2 seeds, `count` queries, 3 queries per user."""
    places = np.random.default_rng(ARMS.index(arm)).integers(1, 12, size=2 * count)
    pairs = [(seed, number) for seed in range(2) for number in range(count)]
    return [
        row(f"q{number}", int(rank), arm, mode, part, seed, user=f"u{number // 3}")
        for (seed, number), rank in zip(pairs, places, strict=True)
    ]


def check_generator(interval):
    """The names seed the generator, in the same way in every process: `hash` is another one in each."""
    rows = drawn(60)
    values, seeds = [evaluate.ndcg_10(r) for r in rows], [r.seed for r in rows]
    generator = np.random.default_rng(zlib.crc32(b"mean\ngrpo\ngreedy\ntest"))
    bounds = hierarchical_interval(values, seeds, [r.user for r in rows], generator)
    assert interval(values, rows, ("mean", "grpo", "greedy", "test")) == [bounds.low, bounds.high]
    assert interval(values, rows, ("mean", "grpo", "greedy", "held")) != [bounds.low, bounds.high]


def test_the_names_of_what_is_compared_seed_the_generator():
    check_generator(interval)
    assert numbers(drawn(60))["interval"] == interval(
        [evaluate.ndcg_10(r) for r in drawn(60)], drawn(60), ("mean", "grpo", "greedy", "test")
    )


@pytest.mark.parametrize("seed", [hash, lambda about: 0, lambda about: zlib.crc32(about[1].encode())])
def test_a_generator_of_other_names_or_of_this_process_is_rejected(seed):
    def wrong(values, rows, about):
        generator = np.random.default_rng(abs(seed(about)))
        return list(hierarchical_interval(values, [r.seed for r in rows], [r.user for r in rows], generator)[1:])

    with pytest.raises(AssertionError):
        check_generator(wrong)


def check_no_arm_moves_another(summary):
    some = [*drawn(60, "query_only", ""), *drawn(60, "warm_start"), *drawn(60), *drawn(60, mode="sampled")]
    more = [*drawn(60, "popularity", ""), *drawn(60, "raft"), *drawn(60, "raft", "sampled"), *drawn(60, part="held")]
    few, many = summary(some), summary(some + more)
    assert few == {key: many[key] for key in few}
    assert all(few[key]["interval"] for key in few)


def test_an_unrelated_arm_moves_no_interval():
    check_no_arm_moves_another(summary)


def test_one_generator_for_all_intervals_is_rejected(monkeypatch):
    def with_one_generator(rows):
        generator = np.random.default_rng(0)

        def interval(values, rows, about):
            users = [row.user for row in rows]
            return list(hierarchical_interval(values, [row.seed for row in rows], users, generator)[1:])

        monkeypatch.setattr(evaluate, "interval", interval)
        return summary(rows)

    with pytest.raises(AssertionError):
        check_no_arm_moves_another(with_one_generator)


def test_one_user_has_no_interval():
    assert numbers([row()])["interval"] is None
    assert numbers([row(seed=0), row(seed=1)])["interval"] is None
    assert numbers([row("a", 1, user="u"), row("b", 3, user="u")])["interval"] is None
    # two shops have different users, even if they have the same name
    assert numbers([row(seed=0, source="world 0.0"), row(seed=1, source="world 1.0")])["interval"]


def width(rows):
    low, high = interval([evaluate.ndcg_10(r) for r in rows], rows, ["width"])
    return high - low


def test_the_queries_of_a_user_stay_together():
    """A second query with the same result tells nothing new about a user."""
    one = [row(f"q{i}", 1 if i % 2 else 20, user=f"u{i}") for i in range(20)]
    two = [replace(r, query=f"{r.query} again") for r in one]
    assert width(one + two) == pytest.approx(width(one))
    strangers = [replace(r, user=f"{r.user} again") for r in two]
    assert width(one + strangers) == pytest.approx(width(one) / math.sqrt(2), rel=0.2)


def test_seeds_on_one_data_set_share_users_and_shops_do_not():
    """Seeds with equal answers of the same users tell no more than one seed. Shops with other users each do."""
    one = [row(f"q{i}", 1 if i % 2 else 20) for i in range(20)]
    shared = [replace(r, seed=seed) for seed in range(6) for r in one]
    apart = [replace(r, source=f"world {r.seed}.0") for r in shared]
    assert width(shared) == pytest.approx(width(one), rel=0.15)  # other draws
    assert width(apart) < 0.8 * width(one)


def test_seeds_that_differ_widen_the_interval():
    """Users answer alike, seeds do not: an interval over users alone would have no width."""
    rows = [row(f"q{i}", 1 if seed % 2 else 3, seed=seed) for seed in range(4) for i in range(20)]
    assert width(rows) > 0.3


# --- GRPO minus an arm ------------------------------------------------------------------------------------------------


def check_pairs(difference):
    """New minus old: a: 1 - 1/3, b: 1/2 - 1, c: 0 - 0. Seed 1 and query d have no partner."""
    old = [row("c", None), row("b", 1), row("a", 7), row("d", 1)]
    new = [row("a", 1), row("b", 3), row("c", 500), row("a", 1, seed=1)]
    assert difference(new, old, ["a name"])["ndcg@10"] == pytest.approx((1 - 1 / 3 + 1 / 2 - 1) / 3)
    # seed 0: 1 - 1/2; seed 1: 1/2 - 1/3. Compared with seed 0 only, or seed 1 only, the mean would be 1/4 or 5/12
    new, old = [row("a", 1), row("a", 3, seed=1)], [row("a", 3), row("a", 7, seed=1)]
    assert difference(new, old, ["a name"])["ndcg@10"] == pytest.approx((1 / 2 + 1 / 6) / 2)
    assert difference(new, [row("b", 1)], ["a name"]) is None


def test_a_difference_is_paired_by_seed_and_query():
    check_pairs(difference)


def of_means(new, old, about):
    return {"ndcg@10": means(new)["ndcg@10"] - means(old)["ndcg@10"]}


def by_query(new, old, about):
    return difference([replace(r, seed=0) for r in new], [replace(r, seed=0) for r in old], about)


@pytest.mark.parametrize("wrong", [lambda new, old, about: difference(old, new, about), of_means, by_query])
def test_a_difference_that_is_not_paired_or_has_the_wrong_sign_is_rejected(wrong):
    with pytest.raises(AssertionError):
        check_pairs(wrong)


def test_the_interval_of_a_difference_is_that_of_the_gains():
    new, old = drawn(60), drawn(60, "warm_start")
    gains = [evaluate.ndcg_10(a) - evaluate.ndcg_10(b) for a, b in zip(new, old, strict=True)]
    assert difference(new, old, ["a name"])["interval"] == pytest.approx(interval(gains, new, ["a name"]))
    expected = difference(new, old, ("difference", "grpo", "warm_start", "greedy", "test"))
    found = numbers(new + old, "warm_start")["grpo_minus"]
    assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"]) and found["ndcg@10"] != 0
    assert found["interval"] == pytest.approx(expected["interval"])


def test_grpo_is_compared_in_the_mode_and_on_the_part_of_the_arm():
    rows = [
        row("a", 3, "query_only", ""),
        row("a", 3, "warm_start", "greedy"),
        row("a", 7, "warm_start", "sampled"),
        row("a", 1, "grpo", "greedy"),
        row("a", 3, "grpo", "sampled"),
        row("a", 1, "expert", ""),
        row("a", 3, "query_only", "", "held"),
        row("a", 7, "warm_start", "sampled", "held"),
        row("a", 1, "grpo", "sampled", "held"),
    ]
    found = {key: value["grpo_minus"] for key, value in summary(rows).items()}
    none = [("grpo", "greedy", "test"), ("grpo", "sampled", "test"), ("grpo", "sampled", "held")]
    none += [("query_only", "", "held")]  # GRPO was not run greedily on this part
    expected = {
        ("query_only", "", "test"): 1 - 1 / 2,  # an arm without a policy: greedy GRPO minus the arm
        ("warm_start", "greedy", "test"): 1 - 1 / 2,
        ("warm_start", "sampled", "test"): 1 / 2 - 1 / 3,
        ("expert", "", "test"): 0.0,
        ("warm_start", "sampled", "held"): 1 - 1 / 3,
    }
    assert found == {key: None for key in none} | {
        key: {"ndcg@10": pytest.approx(value), "interval": None} for key, value in expected.items()
    }
    assert {value["grpo_minus"] for value in summary([r for r in rows if r.arm != "grpo"]).values()} == {None}


def test_unknown_arms_unknown_parts_and_repeated_rows_are_refused():
    with pytest.raises(ValueError, match="no such arm or part: gpt"):
        summary([row(arm="gpt")])
    with pytest.raises(ValueError, match="no such arm or part: training"):
        summary([row(part="training")])
    with pytest.raises(ValueError, match="two rows answer one query"):
        summary([row(), row()])


@given(st.permutations(FOUR + [replace(r, arm="warm_start", rank=9) for r in FOUR]))
@settings(max_examples=10)
def test_the_order_of_rows_does_not_matter(rows):
    assert summary(rows) == summary(sorted(rows, key=lambda r: (r.arm, r.query)))


# --- report -----------------------------------------------------------------------------------------------------------


def many() -> list[Row]:
    """Every arm on two queries, policies in both modes, test and held-out."""
    policies = set(ARMS[ARMS.index("clone") : ARMS.index("expert")])
    return [
        row(query, rank, arm, mode, part)
        for part in ("test", "held")
        for arm in reversed(ARMS)
        for mode in (("sampled", "greedy") if arm in policies else ("",))
        for query, rank in (("a", 3 if mode == "sampled" else 1), ("b", None if part == "held" else 1))
    ]


def test_the_shape_of_the_report():
    arms = report_dict(many())
    assert tuple(arms) == ARMS
    grpo = arms["grpo"]
    assert (grpo["ndcg@10"], grpo["sampled"]["ndcg@10"]) == (1.0, 0.75)  # greedy 1, 1; sampled 1/2, 1
    assert (grpo["held"]["ndcg@10"], grpo["held"]["sampled"]["ndcg@10"]) == (0.5, 0.25)
    assert set(grpo["sampled"]) == set(arms["oracle"]) - {"held"} == set(grpo["held"]) - {"sampled"}
    assert "sampled" not in arms["oracle"] and "held" in arms["oracle"]
    assert {"ndcg@10", "ndcg@100", "ndcg@1000", "recall@10", "interval", "grpo_minus"} <= set(grpo)


def test_the_report_is_strict_json(eval_set, model):
    rows = reference_rows(eval_set, rng()) + policy_rows(
        eval_set, "warm_start", model, torch.Generator().manual_seed(0)
    )
    arms = report_dict(rows)
    assert json.loads(json.dumps(arms, allow_nan=False)) == arms
    assert arms["warm_start"]["ndcg@10"] == 0.0 < arms["oracle"]["ndcg@10"]


def test_rows_can_be_pickled():
    rows = [*FOUR, row("ключ\u2028\n", None, source="日本")]
    assert rows == pickle.loads(pickle.dumps(rows))
