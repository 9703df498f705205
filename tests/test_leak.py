"""No target reaches its own query through memory, prompt, retrieval or learning. Each check fails on a planted leak.

The data are marked: the title of each target, and its buyer's review, contain made-up words (canaries) that occur
nowhere else. What a query can see is collected as text, place by place, and searched for them. Then the tests alter
what must not be read, and nothing may change.
"""

from bisect import bisect_right
from dataclasses import replace

import numpy as np
import pytest
import torch

import mrrec_mini.memory
from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Episode, Interaction, Item, MemoryEntry, Query
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.memory import join
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import LMActor, RolloutConfig, ScriptActor
from mrrec_mini.scripts import TeacherConfig, expert, teacher
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.systems.neighbours import Neighbours
from mrrec_mini.systems.popularity import Popularity
from mrrec_mini.world import EASY, make_world

# 40 users: the summariser learns a word for a value only after 8 reviews
WORLD = replace(EASY, users=40, items=200, categories=6, held=2, history=10, queries=3)


# --- marked data ------------------------------------------------------------------------------------------------------


def own_words(query: Query) -> tuple[str, str]:
    """The canaries of one query: one in the target's title, one in its review."""
    name = "".join(letter for letter in query.id if letter.isalnum())
    return f"titlecanary{name}", f"reviewcanary{name}"


def price_word(dataset: Dataset, query: Query) -> str:
    """A third canary, in the review, one per price: if reviews of targets were read, it would be learned as a word."""
    return f"pricecanary{dataset.items[query.target].attributes['price'][0]}"


def marked(dataset: Dataset) -> Dataset:
    items, reviews = dict(dataset.items), {}
    for query in dataset.queries:
        title, review = own_words(query)
        items[query.target] = replace(items[query.target], title=f"{title} {items[query.target].title}")
        reviews[query.user, query.target, query.time] = f"{review} {price_word(dataset, query)}"
    interactions = tuple(
        replace(one, review=f"{reviews.get((one.user, one.item, one.time), '')} {one.review}")
        for one in dataset.interactions
    )
    return replace(dataset, items=items, interactions=interactions)


def hand_made() -> Dataset:
    """The first target of u is history at the second query. Another interaction has the time of the first query."""
    prices = ("luxury", "budget", "luxury", "budget", "luxury", "fair")
    items = [Item(f"i{n}", f"Vel mug{n}", ("home", "mug"), {"price": (price,)}) for n, price in enumerate(prices)]
    interactions = (
        Interaction("u", "i0", 10, 5.0, "so luxury"),
        Interaction("u", "i1", 20, 2.0, "too budget"),
        Interaction("u", "i2", 100, 5.0, "fine"),  # the target of u-1
        Interaction("u", "i5", 100, 4.0, "simultaneous"),
        Interaction("u", "i4", 200, 5.0, "fine"),  # the target of u-2
        Interaction("v", "i3", 10, 4.0, "ok"),
        Interaction("v", "i1", 100, 4.0, "fine"),
        Interaction("w", "i0", 10, 4.0, "ok"),
        Interaction("w", "i3", 100, 4.0, "fine"),
    )
    queries = (
        Query("u-1", "u", "mug for hiking", "i2", 100),
        Query("u-2", "u", "mug for office", "i4", 200),
        Query("v-1", "v", "mug for travel", "i1", 100),
        Query("w-1", "w", "mug for travel", "i3", 100),
    )
    return marked(Dataset({item.id: item for item in items}, interactions, queries))


def split_of(dataset: Dataset) -> Split:
    return dataset.split(0, 0.5, 0.1, 0.4) if len(dataset.users()) > 3 else dataset.split(0, 1 / 3, 1 / 3, 1 / 3)


def build(dataset: Dataset, split: Split | None = None) -> Environment:
    return Environment.build(dataset, split or split_of(dataset), ExtractiveSummarizer(), np.random.default_rng(0))


@pytest.fixture(scope="module", params=["shop", "by hand"])
def dataset(request) -> Dataset:
    return marked(make_world(WORLD)) if request.param == "shop" else hand_made()


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return marked(make_world(WORLD))


def grammar_of(dataset: Dataset) -> Grammar:
    """A grammar that knows every word of the data, canaries included, so a leak has its own token."""
    texts = [*(item_text(item) for item in dataset.items.values()), *(one.review for one in dataset.interactions)]
    texts += [*(query.text for query in dataset.queries), "overall bought rated"]
    return Grammar(WordTokenizer.train((text.lower() for text in texts), CONTROL, min_count=1), entry_tokens=40)


# --- what can be seen, and the leaks in it ----------------------------------------------------------------------------


def probing(dataset: Dataset, grammar: Grammar) -> ScriptActor:
    """An actor that cheats: it searches for the target's canaries and title, which must not find the target."""

    def make(state):
        probes = [*own_words(state.query), dataset.items[state.query.target].title.lower()]

        def turn(state):
            if len(state.calls) < len(probes):
                return grammar.write_search("", probes[len(state.calls)])
            return grammar.write_final("", "mug", [])

        return turn

    return ScriptActor(make)


def play(env: Environment, actor, queries, grammar: Grammar) -> list[Episode]:
    return env.play(actor, queries, grammar, RolloutConfig(), RewardConfig())


def given(episode: Episode) -> list[int]:
    """Prompt and replies: the tokens that the actor did not write."""
    return [token for token, own in zip(episode.tokens, episode.mask, strict=True) if not own]


def visible(env: Environment, grammar: Grammar, episode: Episode) -> dict[str, str]:
    """{place: text} of everything that an actor sees, or could see, in a query's episode."""
    query, memory = episode.query, env.memory
    probes = (*own_words(query), query.text, item_text(env.dataset.items[query.target]))
    found = [entry for probe in probes for entry in memory.search(query, probe, 9)]
    return {
        "local memory": texts_of(memory.entries(query)),
        "global memory": texts_of(memory.global_entries),
        "retrieved": texts_of(found),
        "prompt": grammar.tokenizer.decode(grammar.prompt(query.text, episode.global_entries)),
        "episode": grammar.tokenizer.decode(given(episode)),
    }


def texts_of(entries) -> str:
    return " ".join(entry.text for entry in entries)


def leaks(env: Environment, grammar: Grammar) -> set[str]:
    """The places that show something of a query's own target."""
    places = set()
    for episode in play(env, probing(env.dataset, grammar), env.dataset.queries, grammar):
        seen = visible(env, grammar, episode)
        places |= {place for place, text in seen.items() if any(word in text for word in own_words(episode.query))}
        # no behaviour record of the target's purchase or a later one: records are numbered from the oldest
        before = sum(one.time < episode.query.time for one in env.dataset.interactions_of(episode.query.user))
        used = {record for entry in env.memory.entries(episode.query) for record in entry.rests_on}
        if any(int(record.split("/")[-1]) >= before for record in used):
            places.add("records")
    # learning uses what train users did before their first query, so no review of a target
    summarizer, space = env.memory.summarizer, env.memory.space
    if any("canary" in word for word in summarizer.reading.words):
        places.add("learned words")
    if any("reviewcanary" in word or "pricecanary" in word for word in {*space.stats.idf, *space.embedder.vocabulary}):
        places.add("text space")
    return places


def up_to_the_query(self: Dataset, query: Query) -> list[Interaction]:
    """A planted mistake: <= instead of <."""
    interactions = self.interactions_of(query.user)
    return list(interactions[: bisect_right(interactions, query.time, key=lambda one: one.time)])


def up_to_the_first_query(dataset: Dataset, users):
    """The same mistake in the learning."""
    first = {query.user: query.time for query in reversed(dataset.queries)}
    seen = [[one for one in dataset.interactions_of(u) if one.time <= first.get(u, one.time)] for u in sorted(users)]
    return [join(dataset, history) for history in seen if history]


def test_no_place_shows_anything_of_the_target(dataset):
    assert leaks(build(dataset), grammar_of(dataset)) == set()


def test_history_up_to_and_including_the_query_is_caught(dataset, monkeypatch):
    monkeypatch.setattr(Dataset, "history", up_to_the_query)
    assert leaks(build(dataset), grammar_of(dataset)) == {"local memory", "retrieved", "episode", "records"}


def test_learning_from_targets_is_caught(shop, monkeypatch):
    monkeypatch.setattr(mrrec_mini.memory, "train_histories", up_to_the_first_query)
    assert leaks(build(shop), grammar_of(shop)) == {"learned words", "text space"}


def test_a_global_line_about_a_product_is_caught(dataset):
    env = build(dataset)
    lines = [
        MemoryEntry(f"@global/{query.id}", None, "global", f"{query.text} {own_words(query)[0]}")
        for query in dataset.queries
    ]
    memory = replace(env.memory, global_entries=tuple(lines))
    assert leaks(replace(env, memory=memory), grammar_of(dataset)) == {"global memory", "prompt", "episode"}


def test_what_came_before_is_seen():
    """Canaries are found where they are allowed: the first target of u is history at the second query."""
    data = hand_made()
    env, (first, second, *_) = build(data), data.queries
    later = texts_of(env.memory.entries(second))
    assert own_words(first)[1] in later and "simultaneous" in later
    assert "simultaneous" not in texts_of(env.memory.entries(first))


# --- altering what must not be read changes nothing -------------------------------------------------------------------


def altered(dataset: Dataset, forbidden) -> Dataset:
    """The data set with other items, ratings and reviews in all `forbidden` interactions."""
    ids = list(dataset.items)

    def other(one: Interaction) -> Interaction:
        return replace(one, item=ids[-1 - ids.index(one.item)], rating=6 - one.rating, review="sadly not luxury at all")

    return replace(dataset, interactions=tuple(other(one) if forbidden(one) else one for one in dataset.interactions))


def learned(env: Environment) -> tuple:
    """Everything that the environment learned from users. The embedder's id contains a digest of its table."""
    memory = env.memory
    return memory.global_entries, memory.summarizer.reading, memory.space.stats, memory.space.embedder.id


def tokens(env: Environment, queries, grammar: Grammar) -> list[list[tuple[int, ...]]]:
    """The episodes of a teacher, of a greedy model and, if the truth is known, of an expert."""
    model = make_causal_lm(len(grammar.tokenizer), CausalLMConfig(width=32), torch.Generator().manual_seed(0))
    actors = [
        ScriptActor(teacher(grammar, TeacherConfig(), np.random.default_rng(0), ["price", "size"])),
        LMActor(model, grammar, None, 0.0),
    ]
    if all(query.truth for query in queries):
        actors.append(ScriptActor(expert(grammar)))
    return [[episode.tokens for episode in play(env, actor, queries, grammar)] for actor in actors]


def test_nothing_is_learned_from_test_and_validation_users(shop):
    split = split_of(shop)
    unseen = split.test | split.validation
    assert build(shop).memory.global_entries  # there is something to compare
    assert learned(build(altered(shop, lambda one: one.user in unseen))) == learned(build(shop))


def test_learning_from_test_users_is_caught(shop):
    everyone = replace(split_of(shop), train=frozenset(shop.users()))
    unseen = split_of(shop).test
    one, other = (learned(build(data, everyone)) for data in (shop, altered(shop, lambda one: one.user in unseen)))
    assert all(a != b for a, b in zip(one, other, strict=True))


def from_the_query_on(dataset: Dataset):
    first = {query.user: query.time for query in reversed(dataset.queries)}
    return lambda one: one.time >= first.get(one.user, one.time + 1)


def test_what_happens_from_the_first_query_on_changes_neither_learning_nor_episodes(shop):
    grammar, changed = grammar_of(shop), altered(shop, from_the_query_on(shop))
    before, after = build(shop), build(changed)
    assert learned(before) == learned(after)
    assert tokens(before, shop.queries, grammar) == tokens(after, shop.queries, grammar)


@pytest.mark.parametrize("place", ["history", "learning"])
def test_reading_the_target_is_caught(shop, monkeypatch, place):
    if place == "history":
        monkeypatch.setattr(Dataset, "history", up_to_the_query)
    else:
        monkeypatch.setattr(mrrec_mini.memory, "train_histories", up_to_the_first_query)
    grammar, changed = grammar_of(shop), altered(shop, from_the_query_on(shop))
    before, after = build(shop), build(changed)
    assert (learned(before) == learned(after)) == (place == "history")
    assert tokens(before, shop.queries, grammar) != tokens(after, shop.queries, grammar)


# --- systems ----------------------------------------------------------------------------------------------------------


def unseen_by(query: Query, split: Split):
    """Everything from the query on, and everything by other users from whom nothing may be learned."""
    others = (split.test | split.validation) - {query.user}
    return lambda one: one.time >= query.time or one.user in others


def reads_the_unseen(system, shop: Dataset, learned_from: Split | None = None) -> bool:
    """Whether altering what a query may not see changes its scores."""
    split, pool = split_of(shop), sorted(shop.items)

    def scores(data, query):
        return system.fit(data, learned_from or split).rank(query, pool).tolist()

    queries = {query.user: query for query in split.test_queries}.values()  # those of one user share their time
    return any(scores(shop, q) != scores(altered(shop, unseen_by(q, split)), q) for q in queries)


@pytest.mark.parametrize("system", [Popularity, Neighbours])
def test_systems_see_train_users_and_the_users_own_past(shop, system):
    assert not reads_the_unseen(system(), shop)


@pytest.mark.parametrize("system", [Popularity, Neighbours])
@pytest.mark.parametrize("leak", ["history", "looks ahead", "everybody"])
def test_a_system_that_reads_more_is_caught(shop, monkeypatch, system, leak):
    class Late(system):
        def rank(self, query, candidates):
            return super().rank(replace(query, time=query.time + 1), candidates)

    everyone = replace(split_of(shop), train=frozenset(shop.users()))
    if leak == "history":
        monkeypatch.setattr(Dataset, "history", up_to_the_query)
    asked = Late() if leak == "looks ahead" else system()
    assert reads_the_unseen(asked, shop, everyone if leak == "everybody" else None)


@pytest.mark.parametrize("system", [Popularity, Neighbours])
def test_systems_do_not_read_the_target_of_the_query(dataset, system):
    fitted, pool = system().fit(dataset, split_of(dataset)), sorted(dataset.items)
    pairs = zip(dataset.queries, with_other_targets(dataset, dataset.queries), strict=True)
    assert all(fitted.rank(one, pool).tolist() == fitted.rank(other, pool).tolist() for one, other in pairs)


# --- the target is not read between profile and ranking --------------------------------------------------------------


def with_other_targets(dataset: Dataset, queries) -> list[Query]:
    ids = list(dataset.items)
    return [replace(query, target=ids[-1 - ids.index(query.target)]) for query in queries]


def test_another_target_changes_the_rank_and_nothing_else(dataset):
    env, grammar, queries = build(dataset), grammar_of(dataset), dataset.queries
    others = with_other_targets(dataset, queries)
    assert tokens(env, queries, grammar) == tokens(env, others, grammar)
    actor = teacher(grammar, TeacherConfig(stop=(0, 0, 1)), np.random.default_rng(0), ["price", "size"])
    pairs = zip(
        *(play(env, ScriptActor(actor), some, grammar) for some in (queries[:1] * 9, others[:1] * 9)), strict=True
    )
    assert any(one.rewards["rank"] != other.rewards["rank"] for one, other in pairs)


def test_only_the_expert_reads_the_truth(shop):
    env, grammar = build(shop), grammar_of(shop)
    blind = [replace(query, truth=None) for query in shop.queries]
    assert tokens(env, shop.queries, grammar)[:2] == tokens(env, blind, grammar)


def test_an_actor_that_reads_the_target_is_caught(dataset):
    env, grammar = build(dataset), grammar_of(dataset)
    one, other = (
        [episode.tokens for episode in play(env, probing(dataset, grammar), queries, grammar)]
        for queries in (dataset.queries, with_other_targets(dataset, dataset.queries))
    )
    assert one != other
