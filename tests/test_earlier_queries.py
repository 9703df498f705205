"""More training queries: their rule is learned from train queries; other users and later times are never read."""

from dataclasses import replace

import pytest

from mrrec_mini import earlier_queries as module
from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.earlier_queries import PhraseRule, query_rule, with_earlier_queries
from mrrec_mini.sources.cleaning import template_query

WORDS = "moon river stone tower garden winter dragon castle".split()  # noqa: SIM905
CONSOLES = ("Alpha", "Beta")


def shop(users=20, purchases=9, ask="template"):
    """Return a shop of 64 items in which each user took `purchases` items; the last one is the target of a query."""
    items = {}
    for i in range(64):
        title = f"The {WORDS[i % 8]} {WORDS[i // 8]} Story - {CONSOLES[i % 2]}"
        items[f"i{i}"] = Item(f"i{i}", title, ("shop", WORDS[i % 8]))
    taken = [
        Interaction(f"u{u:02}", f"i{(7 * u + 5 * n) % 64}", 100 + n, 5.0)
        for u in range(users)
        for n in range(purchases)
    ]
    queries = []
    for u in range(users):
        last = taken[(u + 1) * purchases - 1]
        item = items[last.item]
        text = template_query(item) if ask == "template" else f"please find {title_phrase(item)}"
        queries.append(Query(f"q{u}", last.user, text, last.item, last.time))
    return Dataset(items, tuple(taken), tuple(queries))


def title_phrase(item):
    return " ".join(item.title.lower().split()[1:3])


def test_the_rule_of_a_template():
    data = shop()
    assert query_rule(data.queries, data.items) is template_query
    assert query_rule([replace(q, truth={"a": "b"}) for q in data.queries], data.items) is None
    assert query_rule([replace(q, text=f"hello {q.user}") for q in data.queries], data.items) is None
    assert query_rule([], data.items) is None


def test_the_rule_of_a_phrase_writes_what_the_queries_would_say():
    data = shop(users=40, ask="phrase")
    rule = query_rule(data.queries, data.items)
    assert isinstance(rule, PhraseRule) and rule.opening == "please find "
    assert {"the", "story", "alpha", "beta"} <= rule.passed_over
    assert all(rule(item) == f"please find {title_phrase(item)}" for item in data.items.values())
    assert rule(Item("new", "Unheard of words", ("shop", "moon"))) is None
    assert rule(Item("new", "Unheard moon", ("shop", "moon"))) == "please find moon"  # a word, if no pair is known


def test_every_purchase_of_a_train_user_with_a_history_is_asked_for():
    data = shop()
    split = data.split(0)
    more = with_earlier_queries(data, split, most=99)
    added = more.train_queries[len(split.train_queries) :]
    assert more.train_queries[: len(split.train_queries)] == split.train_queries
    assert replace(more, train_queries=split.train_queries) == split
    assert len(added) == 5 * len(split.train)  # 9 purchases: 3 without enough history, and the query's own target
    for query in added:
        history = data.history(query)
        assert query.user in split.train and query.text == template_query(data.items[query.target])
        assert query.phrase == query.scenario == data.category(query.target)  # as in the data set's own queries
        assert len(history) >= 3 and all(one.time < query.time for one in history)
        assert query.target not in {one.item for one in history}
        assert query.time < min(own.time for own in data.queries_of([query.user]))


def test_the_latest_are_kept_and_own_queries_count():
    data = shop()
    split = data.split(0)
    few = with_earlier_queries(data, split, most=3).train_queries
    assert all(sum(q.user == user for q in few) == 3 for user in split.train)
    assert {q.time for q in few} == {106, 107, 108}


def test_left_out_are_repeats_copies_and_held_categories():
    data = shop(users=10)
    split = data.split(0)
    [user, *_] = sorted(split.train)
    own = data.interactions_of(user)
    rest = [one for one in data.interactions if one.user != user]

    def asked(changed, meta=()):
        new = replace(data, interactions=(*rest, *changed), meta=dict(meta))
        queries = with_earlier_queries(new, split, 99).train_queries
        return {q.time for q in queries if q.user == user and q.id.startswith("earlier")}

    assert asked(own) == {103, 104, 105, 106, 107}
    again = [replace(one, item=own[0].item) if one.time == 105 else one for one in own]
    assert asked(again) == {103, 104, 106, 107}
    copied = [
        replace(one, review="So  good" if one.time == 104 else "so good") if one.time in (101, 104) else one
        for one in own
    ]
    assert asked(copied) == {103, 105, 106, 107}
    held = data.category(own[6].item)
    assert 106 not in asked(own, {"held_categories": [held]})


def queries_seen(data, split):
    return with_earlier_queries(data, split, 99).train_queries


@pytest.mark.parametrize("ask", ["template", "phrase"])
def test_nothing_of_other_users_and_nothing_at_or_after_a_query_is_read(ask):
    data = shop(users=40, ask=ask)
    split = data.split(0)
    before = queries_seen(data, split)
    # 1. Other users' purchases, queries and targets change: not one train query changes.
    others = split.test | split.validation
    changed = tuple(replace(one, item="i0", rating=1.0) if one.user in others else one for one in data.interactions)
    asked = tuple(replace(q, text="odd words", target="i1") if q.user in others else q for q in data.queries)
    assert queries_seen(replace(data, interactions=changed, queries=asked), split) == before
    # 2. What train users took at or after their own first query changes: the added queries stay, and so do histories.
    late = tuple(replace(one, item="i0") if one.time >= 108 else one for one in data.interactions)
    new = replace(data, interactions=late)
    assert queries_seen(new, split) == before
    # 3. A query is the same, with the same history, if nothing at its time or later had happened yet.
    for query in [q for q in before if q.id.startswith("earlier")][::17]:
        past = tuple(one for one in data.interactions if one.user != query.user or one.time <= query.time)
        cut = replace(data, interactions=past)
        assert query in queries_seen(cut, split) and cut.history(query) == data.history(query)


# --- wrong versions ---------------------------------------------------------------------------------------------------


def of_everybody(dataset, split, most=10):
    return module.with_earlier_queries(dataset, replace(split, train=split.train | split.test), most)


def oldest(dataset, split, most=10):
    every = module.with_earlier_queries(dataset, split, 99).train_queries
    return replace(split, train_queries=every[: len(split.train_queries) + (most - 1) * len(split.train)])


def without_own(dataset, split, most=10):
    return module.with_earlier_queries(dataset, replace(split, train_queries=split.train_queries[:1]), most)


def any_time(dataset, user, before, rule, right=module.earlier_queries):
    yield from right(dataset, user, float("inf"), rule)


@pytest.mark.parametrize("wrong", [of_everybody, oldest, without_own])
def test_wrong_versions_are_refused(monkeypatch, wrong):
    monkeypatch.setitem(globals(), "with_earlier_queries", wrong)
    with pytest.raises(AssertionError):
        test_every_purchase_of_a_train_user_with_a_history_is_asked_for()
        test_the_latest_are_kept_and_own_queries_count()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("earlier_queries", any_time), ("LEAST_HISTORY", 0), ("template_query", lambda item: item.title)],
)
def test_wrong_pieces_are_refused(monkeypatch, name, wrong):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        test_the_rule_of_a_template()
        test_every_purchase_of_a_train_user_with_a_history_is_asked_for()
