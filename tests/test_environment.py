"""The environment: the item index of eq. 3, and episodes of scripted actors played and scored in it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini import environment_on_disk
from mrrec_mini.data import DataError, Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.environment import Environment, aspect_names, item_text, memory_settings
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.models.causal_lm import WordTokenizer
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.summarize_lm import LMSummarizer
from mrrec_mini.world import ASPECTS, CATEGORIES, USES, WorldConfig, make_world, oracle_profile

LEXICAL = HybridConfig(dense="none")
RULES, REWARD = RolloutConfig(), RewardConfig()


def build(dataset: Dataset, train: float = 0.5, hybrid: HybridConfig | None = None) -> Environment:
    split = dataset.split(0, train, 0.0, 1 - train)
    return Environment.build(dataset, split, ExtractiveSummarizer(), np.random.default_rng(0), hybrid=hybrid)


@pytest.fixture(scope="module")
def shop() -> Environment:
    return build(make_world(WorldConfig(users=12, items=100, categories=6, held=2, history=10, queries=3)))


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    words = [
        *CATEGORIES,
        *USES,
        "for",
        "overall",
        *ASPECTS,
        *(value for values in ASPECTS.values() for value in values),
    ]
    return Grammar(WordTokenizer(CONTROL, list(dict.fromkeys(words))))


def hand_made() -> Dataset:
    """Four items; each has one word that occurs in only one field of its metadata."""
    items = [
        Item("i1", "Vel mug", ("home", "mug"), {"price": ("luxury",)}, "for hiking"),
        Item("i2", "Nor mug", ("home", "mug"), {"price": ("budget",)}, "for office"),
        Item("i3", "Kas lamp", ("home", "lamp"), {"price": ("budget",)}, "for travel"),
        Item("i4", "Tam tent", ("camp", "tent"), {"size": ("giant", "huge")}),
    ]
    met = (Interaction("u", "i2", 10, 5.0, "so budget"), Interaction("v", "i3", 10, 4.0))
    queries = (Query("u-q", "u", "mug for hiking", "i1", 100), Query("v-q", "v", "lamp", "i4", 100))
    return Dataset({item.id: item for item in items}, met, queries, {"repeats": True})


def answers(grammar: Grammar, profiles: dict[str, str], searches: tuple[str, ...] = ()) -> ScriptActor:
    """A script that searches for `searches` and then answers with the profile of its query."""

    def make(state):
        def turn(state):
            if len(state.calls) < len(searches):
                return grammar.write_search("", searches[len(state.calls)])
            return grammar.write_final("", profiles[state.query.id], [])

        return turn

    return ScriptActor(make)


def play(env, actor, queries, grammar, **how):
    return env.play(actor, queries, grammar, RULES, REWARD, **how)


# --- eq. (3) ---


def test_item_text_says_all_of_the_metadata():
    """Eq. (3)"""
    first, *_, last = hand_made().items.values()
    assert item_text(first) == "Vel mug home mug price luxury for hiking"
    assert item_text(last) == "Tam tent camp tent size giant huge "


@pytest.mark.parametrize(
    ("word", "found"),
    [("nor", "i2"), ("camp", "i4"), ("tent", "i4"), ("luxury", "i1"), ("huge", "i4"), ("travel", "i3")],
)
def test_every_field_of_an_item_can_be_found(word, found):
    """Eq. (3): title, general and special category, attribute, its second value, description."""
    assert build(hand_made(), hybrid=LEXICAL).items.search(word, 1)[0].id == found


def test_the_profile_ranks_the_items_and_nothing_else_does(grammar):
    """Eq. (3): the query says "mug for hiking", as the target does; a profile that says "lamp" ranks lamps first."""
    env = build(hand_made(), hybrid=LEXICAL)
    query = env.dataset.queries[0]  # its target is i1
    ranks = {}
    for profile in ("mug luxury", "mug budget", "lamp"):
        (episode,) = play(env, answers(grammar, {query.id: profile}), [query], grammar)
        ranks[profile] = episode.rewards["rank"]
    # mug luxury: i1 has both words. mug budget: i2 has both, i1 and i3 have one; "mug" stands twice in i1 (title and
    # category), "budget" once in i3, each in two of four items: i1 is second. lamp: i3, then a tie at 0, by id.
    assert ranks == {"mug luxury": 1, "mug budget": 2, "lamp": 2}
    by_query = env.items.ranks([query.text], [query.target])[0]
    assert by_query == 1 != ranks["lamp"]  # the rank if the index were asked with the query


def test_the_whole_pool_is_ranked(grammar):
    """Eq. (3): also items that no train user bought (i4), across categories; in its category it would be first."""
    env = build(hand_made(), hybrid=LEXICAL)
    assert env.items.ids == ("i1", "i2", "i3", "i4")
    (episode,) = play(env, answers(grammar, {"v-q": "mug budget lamp"}), [env.dataset.queries[1]], grammar)
    assert episode.rewards["rank"] == 4


def test_the_ranking_agrees_with_a_sort_of_the_scores(shop):
    """Eq. (3): a second implementation: sort all scores, ties by id."""
    queries = shop.split.test_queries
    profiles = [oracle_profile(query) for query in queries]
    order = [sorted(zip(-row, shop.items.ids, strict=True)) for row in shop.items.scores(profiles)]
    expected = [1 + [i for _, i in row].index(query.target) for row, query in zip(order, queries, strict=True)]
    assert shop.items.ranks(profiles, [query.target for query in queries]).tolist() == expected


# --- building ---


def test_the_item_index_has_its_own_statistics(shop):
    """The pool is public: its text space is fitted on all items, not on reviews of them."""
    texts = [item_text(item) for item in shop.dataset.items.values()]
    again = HybridIndex(list(shop.dataset.items), texts, TextSpace.fit(texts, HybridConfig()))
    probes = ["mug for hiking price luxury", "love that it is metallic"]
    assert np.array_equal(again.scores(probes), shop.items.scores(probes))


def test_equal_seeds_build_equal_environments(shop):
    again = build(make_world(WorldConfig(users=12, items=100, categories=6, held=2, history=10, queries=3)))
    assert again.memory.global_entries == shop.memory.global_entries
    assert again.split == shop.split


def test_the_configurations_reach_their_users(shop):
    env = Environment.build(
        shop.dataset,
        shop.split,
        ExtractiveSummarizer(),
        np.random.default_rng(0),
        MemoryConfig(levels=("record",), min_users=10**6),
        LEXICAL,
    )
    assert {entry.level for entry in env.memory.entries(env.split.test_queries[0])} == {"record"}
    assert env.memory.global_entries == ()
    assert env.items.space.embedder is None and env.memory.space.embedder is None


def test_a_data_set_without_any_history_can_be_played(grammar):
    bare = replace(hand_made(), interactions=())
    env = Environment.build(
        bare, Split(frozenset(), frozenset(), frozenset("uv")), ExtractiveSummarizer(), np.random.default_rng(0)
    )
    (episode,) = play(env, answers(grammar, {"u-q": "mug luxury"}, ("mug price",)), [bare.queries[0]], grammar)
    assert episode.rewards["rank"] == 1 and episode.calls[0].entries == () and episode.global_entries == ()


def test_an_environment_whose_memory_a_language_model_wrote_is_not_saved(tmp_path):
    data = hand_made()
    split = data.split(0, 0.5, 0.0, 0.5)
    written = Environment.build(data, split, LMSummarizer(lambda prompt: "[]"), np.random.default_rng(0))
    assert written.memory.entries(data.queries[0])
    with pytest.raises(DataError, match="cannot be saved if a language model wrote its memory"):
        environment_on_disk.save(written, tmp_path / "fitted")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_environment_of_another_format_is_refused(tmp_path, monkeypatch):
    env = build(hand_made(), hybrid=LEXICAL)
    monkeypatch.setattr(environment_on_disk, "FORMAT", 1)
    environment_on_disk.save(env, tmp_path / "fitted")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"format 1, and this version of mrrec_mini reads 2'\); delete this folder"):
        environment_on_disk.load(tmp_path / "fitted", env.dataset, env.split)


def test_the_memory_of_real_histories_has_its_own_settings():
    """Each setting of the shop in their place, or theirs in the shop's, changes what is written."""
    shop, settings = make_world(WorldConfig(users=12, items=100, history=10, queries=3)), {}
    for name, meta in (("shop", shop.meta), ("real", {"name": "real"})):
        writer, config = settings[name] = memory_settings(Dataset(shop.items, shop.interactions, shop.queries, meta))
        built = Memory.build(shop, shop.users(), config, writer, LEXICAL, np.random.default_rng(0))
        lines = [entry.text for query in shop.queries for entry in built.entries(query)]
        counted = [line for line in lines if re.search(r" x\d+( |$)", line)]
        several = [line for line in counted if len(re.findall(r" x\d+", line)) > 1 and line.startswith("overall")]
        assert bool(counted) == bool(several) == (name == "real")
        assert len(max((line for line in lines if line.startswith("overall")), key=len).split()) <= config.line_words
    assert settings["shop"] == (ExtractiveSummarizer(), MemoryConfig())
    real = settings["real"][0].config
    assert (real.competing, real.attention, real.pooled) == (2, False, True)
    assert settings["real"][1] == MemoryConfig(times=True, line_words=16)


def test_aspect_names_are_all_attributes_in_plain_words():
    extra = Item("i9", "Sol boot", ("boot",), {"Heel-Height": ("low",), "price": ("fair",)})
    data = hand_made()
    assert aspect_names(replace(data, items={**data.items, "i9": extra})) == ["heel height", "price", "size"]


# --- playing ---


def test_episodes_come_back_in_order_and_scored(shop, grammar):
    queries = [*shop.split.test_queries[:4], shop.split.test_queries[0]]  # one query twice: a group
    profiles = {query.id: oracle_profile(query) for query in queries}
    episodes = play(shop, answers(grammar, profiles, ("price", "size")), queries, grammar)
    assert [episode.query for episode in episodes] == queries
    assert episodes[0] == episodes[-1]
    expected = shop.items.ranks([profiles[query.id] for query in queries], [query.target for query in queries])
    assert [episode.rewards["rank"] for episode in episodes] == expected.tolist()
    assert all([call.text for call in episode.calls] == ["price", "size"] for episode in episodes)


def test_memory_is_that_of_the_queries_own_user(shop, grammar):
    queries = shop.split.test_queries
    episodes = play(shop, answers(grammar, {q.id: "mug" for q in queries}, ("overall price",)), queries, grammar)
    assert len({query.user for query in queries}) > 1
    for episode in episodes:
        assert episode.calls[0].entries
        assert {entry.user for entry in episode.calls[0].entries} == {episode.query.user}


def test_an_answer_before_every_search_breaks_no_rule_and_one_search_too_many_does(shop, grammar):
    query = shop.split.test_queries[0]
    (early,) = play(shop, answers(grammar, {query.id: "mug"}), [query], grammar)
    (late,) = play(shop, answers(grammar, {query.id: "mug"}, ("price",) * 4), [query], grammar)
    assert (early.end, early.rewards["format"], early.rewards["memory"]) == ("answer", 1.0, 0.0)
    assert (late.end, late.rewards["format"], late.rewards["memory"]) == ("one search too many", 0.0, 1.0)
    assert late.rewards["rank"] == np.inf and late.reward == pytest.approx(0.1)


def test_all_calls_forbids_an_early_answer_and_a_late_search(shop, grammar):
    class Listening(ScriptActor):
        heard: list = []  # noqa: RUF012 one test, one list

        def turn(self, max_new, forbidden, allowed):
            self.heard.append(tuple(forbidden))
            return super().turn(max_new, forbidden, allowed)

    query = shop.split.test_queries[0]
    actor = Listening(answers(grammar, {query.id: "mug"}, ("price",) * 3).make_script)
    play(shop, actor, [query], grammar, all_calls=True)
    search, profile = grammar.control["<search>"], grammar.control["<profile>"]
    assert actor.heard == [(profile,)] * 3 + [(search,)]


def test_nothing_to_play(shop, grammar):
    assert play(shop, answers(grammar, {}), [], grammar) == []
