"""What an answer rests on: entries are hidden before the top k are chosen, nothing is written, the control is inert."""

import json
import shutil
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from mrrec_mini.app import assistant
from mrrec_mini.app.assistant import Assistant, as_of_now
from mrrec_mini.app.counterfactual import (
    Withheld,
    best,
    contribution,
    effect,
    keywords,
    place,
)
from mrrec_mini.bm25 import BM25Stats
from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.environment import item_text
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig, TextSpace
from mrrec_mini.memory import EntryIndex
from mrrec_mini.prior import TEXT_ALONE
from mrrec_mini.rollout import RolloutConfig, ScriptActor, rollout
from mrrec_mini.scripts import expert
from mrrec_mini.store import Store
from runs import HOSTILE, made_run, mrrec, refused
from small import environment, tokenizer

NOTES = ("lamp color red", "lamp size small", "lamp material wood", "lamp price luxury", "mug weight heavy")


@pytest.fixture(scope="module")
def opened() -> Assistant:
    return Assistant.open(made_run())


@pytest.fixture
def helper(opened, tmp_path) -> Assistant:
    """An assistant with a copy of the store, in which `me` and `you` have the same notes."""
    path = shutil.copy(opened.store.path, tmp_path / "memory.db")
    with Store.open(path) as store:
        for note in NOTES:
            store.for_user("me").add(note)
            store.for_user("you").add(note)
        yield replace(opened, store=store)


@pytest.fixture
def reading(opened, monkeypatch):
    """reading(*searches): a policy that makes these searches, then writes the last word of each entry that it read."""

    def play(*searches):
        g = opened.grammar

        def turn(state):
            read = [entry.text.split()[-1] for entry in state.shown]
            if len(state.calls) < len(searches):
                return g.write_search("", searches[len(state.calls)].format(*read))
            return g.write_final("", " ".join(["lamp", *read]), [0] if read else [])

        monkeypatch.setattr(assistant, "LMActor", lambda *_, **__: ScriptActor(lambda state: turn))

    return play


def entry(text: str) -> MemoryEntry:
    return MemoryEntry(text, "u", "pattern", text)


# --- withheld -------------------------------------------------------------------------------------------------------


def hidden_after_the_top_k(memory, query, text, k, gone):
    """A plausible wrong version: it returns too few entries."""
    return tuple(entry for entry in memory.search(query, text, k) if entry.id not in gone)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_next_best_entry_moves_up_and_the_others_keep_their_order(k):
    memory, query = environment().memory, environment().dataset.queries[0]
    wrong = 0
    for text in ("mug price", "lamp size small", "love that it is luxury"):
        ranking = memory.search(query, text, 1000)
        for gone in ({ranking[0].id}, {ranking[1].id, ranking[2].id}, {ranking[-1].id}, set(), {"no such id"}):
            [found] = Withheld(memory, {query.id: gone}).search_many([(query, text)], k)
            assert found == tuple(entry for entry in ranking if entry.id not in gone)[:k]
            wrong += found != hidden_after_the_top_k(memory, query, text, k, gone)
        everything = {entry.id for entry in ranking}
        assert Withheld(memory, {query.id: everything}).search_many([(query, text)], k) == [()]
    assert wrong


def test_each_query_of_a_batch_has_its_own_hidden_entries():
    memory, query = environment().memory, environment().dataset.queries[0]
    other = replace(query, id="other")
    first, second, *_ = memory.search(query, "mug price", 3)
    found = Withheld(memory, {"other": {first.id}}).search_many([(query, "mug price"), (other, "mug price")], 1)
    assert found == [(first,), (second,)]
    view = Withheld(memory, {query.id: {entry.id for entry in memory.global_entries}})
    assert view.search_global("mug", 3) == memory.search_global("mug", 3)


class Dictated:
    """An embedder with given vectors."""

    id = "dictated"
    vectors: ClassVar = {
        "mug red small": (0, 1),
        "mug red cup": (1, 0),
        "kettle for tea": (0.3, 0.954),
        "lamp of steel": (-1, 0),
        "small red mug": (1, 0),
    }

    def encode(self, texts):
        return np.array([self.vectors[text] for text in texts], dtype=float)


def test_an_index_built_without_an_entry_could_change_the_order_of_the_others():
    """Why entries are hidden, not deleted: no search returns the lamp, but its cosine sets the scale of the others."""
    space = TextSpace(HybridConfig(), BM25Stats(3.0, {}, 1.0), Dictated())
    first, second, tea, lamp = lines = [entry(text) for text in list(Dictated.vectors)[:4]]
    index = EntryIndex(lines, space)
    assert index.search("small red mug", 3) == (first, second, tea)
    assert EntryIndex([first, second, tea], space).search("small red mug", 1) == (second,)

    class Shelved:
        def search_many(self, asked, k):
            return [index.search(text, k) for _, text in asked]

    query = as_of_now("u", "a mug")
    view = Withheld(Shelved(), {query.id: {lamp.id}})
    assert view.search_many([(query, "small red mug")], 1) == [(first,)]


def test_entries_can_be_hidden_from_some_queries_of_a_batch():
    env, grammar, rules = environment(), Grammar(tokenizer()), RolloutConfig()
    queries, actor = env.split.train_queries[:4], ScriptActor(expert(Grammar(tokenizer())))
    before = rollout(actor, queries, env.memory, grammar, rules)
    read = {e.query.id: {entry.id for call in e.calls for entry in call.entries} for e in before}
    assert all(read.values())
    view = Withheld(env.memory, {query.id: read[query.id] for query in queries[2:]})
    after = rollout(actor, queries, view, grammar, rules)
    assert after[:2] == before[:2]
    for old, new in zip(before[2:], after[2:], strict=True):
        assert not read[old.query.id] & {entry.id for call in new.calls for entry in call.entries}
        found = effect(env.items, old, new, read[old.query.id], 5, target=old.query.target)
        [was, now] = env.items.ranks([old.answer.profile, new.answer.profile], [old.query.target] * 2)
        assert (found.before.target_place, found.after.target_place) == (was, now)


# --- places ---------------------------------------------------------------------------------------------------------


def test_a_place_ignores_owned_items_except_the_item_itself(opened):
    items = opened.environment.items
    ranking = [hit.id for hit in items.search("red lamp", len(items))]
    met = set(ranking[1:60:3])
    fresh = [item for item in ranking if item not in met]
    assert [hit.id for hit in best(items, "red lamp", 4, met)] == fresh[:4]
    for item in (ranking[0], ranking[7], ranking[10], ranking[-1]):
        alone = [other for other in ranking if other not in met or other == item]
        assert place(items, "red lamp", item, met) == alone.index(item) + 1
        assert place(items, "red lamp", item) == ranking.index(item) + 1


def test_a_place_is_the_rank_that_the_reward_pays_for(opened):
    """So no run may have an item index with a prior, unless `best` and `place` learn it too."""
    items = opened.environment.items
    assert items.weights == TEXT_ALONE
    for target in list(opened.environment.dataset.items)[:9]:
        asked = replace(opened.environment.split.test_queries[0], target=target)
        assert place(items, "red lamp", target) == items.ranks_for([asked], ["red lamp"])[0]


# --- explain --------------------------------------------------------------------------------------------------------


def test_the_worked_case(helper, reading):
    """The policy reads three of four notes about lamps. Without one, it reads the fourth, and the profile changes."""
    reading("lamp")
    found = helper.explain("me", "a lamp", k=4)
    assert found.answer == helper.recommend("me", "a lamp", k=4)
    read = [reason.entry.text for reason in found.reasons]
    [fourth] = set(NOTES[:4]) - set(read)
    assert len(read) == 3 and [reason.cited for reason in found.reasons] == [True, False, False]
    assert [reason.copied for reason in found.reasons] == [(text.split()[-1],) for text in read]
    for reason in found.reasons:
        change = reason.without
        assert change.withheld == (reason.entry.id,) and change.changed
        assert change.words_lost == (reason.entry.text.split()[-1],)
        assert change.words_gained == (fourth.split()[-1],)
        rest = [text for text in read if text != reason.entry.text]
        assert change.after.profile == " ".join(["lamp", *(text.split()[-1] for text in (*rest, fourth))])
        listed = [hit.id for hit in helper.environment.items.search(change.after.profile, 4)]
        assert change.after.items == tuple(listed) and change.before.items == tuple(
            item.id for item, _ in found.answer.items
        )
        assert set(change.items_out) == set(change.before.items) - set(listed)
        assert set(change.items_in) == set(listed) - set(change.before.items)
        first = found.answer.items[0][0].id
        ranking = [hit.id for hit in helper.environment.items.search(change.after.profile, 60)]
        assert (change.after.first, change.before.first_place) == (first, 1)
        assert change.after.first_place == ranking.index(first) + 1
        assert change.before.calls == change.after.calls == ("lamp",)
    assert any(reason.without.items_out for reason in found.reasons)
    assert found.together.words_lost == tuple(text.split()[-1] for text in read)
    assert found.together.withheld == tuple(reason.entry.id for reason in found.reasons)


def test_an_entry_that_was_not_looked_up_has_no_effect(helper, reading):
    """Hide each entry in turn: the episode changes if and only if the entry was read."""
    for user, searches in (("me", ["lamp"]), ("u000003", ["lamp", "price"])):
        reading(*searches)
        found = helper.explain(user, "a lamp")
        read = {reason.entry.id for reason in found.reasons}
        assert found.control.entry.id not in read
        assert not found.control.without.changed and str(found.control.without) == "nothing changes"
        query, memory = as_of_now(user, "a lamp"), assistant.StoredMemory(helper.store)
        before = helper._play(query, memory)
        for entry in helper.store.for_user(user).entry_index().entries:
            after = helper._play(query, Withheld(memory, {query.id: {entry.id}}))
            assert (after == before) == (entry.id not in read)


def test_searches_that_follow_from_a_memory_change_without_it(helper, reading):
    reading("lamp color", "{0}")
    reason = helper.explain("me", "a lamp").reasons[0]
    assert reason.entry.text == "lamp color red" and reason.without.before.calls == ("lamp color", "red")
    told = reason.without.as_dict()
    assert told["calls_changed"] and told["after"]["calls"][0] == "lamp color"
    assert told["after"]["calls"][1] != "red" and "searches lamp color; " in str(reason.without)


def test_nothing_is_written(helper, reading):
    reading("lamp", "{0}")
    mine, path = helper.store.for_user("me"), helper.store.path
    was = (list(mine.export()), helper.store.generation, path.read_bytes(), mine.stats())
    helper.explain("me", "a lamp", target="i0000003")
    assert (list(mine.export()), helper.store.generation, path.read_bytes(), mine.stats()) == was


def test_only_the_users_own_entries_can_be_hidden(helper, reading):
    reading("lamp")
    mine, yours = helper.explain("me", "a lamp"), helper.explain("you", "a lamp")
    for user, found in (("me", mine), ("you", yours)):
        assert {reason.entry.user for reason in (*found.reasons, found.control)} == {user}
    assert [r.without.after for r in mine.reasons] == [r.without.after for r in yours.reasons]
    query, memory = as_of_now("me", "a lamp"), assistant.StoredMemory(helper.store)
    foreign = {reason.entry.id for reason in yours.reasons}
    assert helper._play(query, Withheld(memory, {query.id: foreign})) == helper._play(query, memory)


def test_writing_to_the_store_meanwhile_has_no_effect(helper, opened, monkeypatch):
    """All episodes use the memory as it was before the first one."""
    g, plays = opened.grammar, []

    def turn(state):
        if not state.calls:
            plays.append(helper.store.for_user("me").add(f"lamp number {len(plays)}"))
            return g.write_search("", "lamp")
        return g.write_final("", " ".join(["lamp", *(entry.text for entry in state.shown)]), [])

    helper._play(as_of_now("me", "a lamp"), assistant.StoredMemory(helper.store))
    monkeypatch.setattr(assistant, "LMActor", lambda *_, **__: ScriptActor(lambda state: turn))
    found = helper.explain("me", "a lamp")
    assert plays and not found.control.without.changed
    seen = " ".join(reason.without.after.profile for reason in found.reasons)
    assert not any(f"number {n}" in seen for n in range(1, 6))


def test_the_rank_of_a_target_is_reported(helper, reading):
    reading("lamp")
    items = helper.environment.items
    for target in ("i0000003", "i0000016"):
        found = helper.explain("me", "a lamp", target=target)
        for reason in found.reasons:
            was, now = reason.without.before, reason.without.after
            assert was.target == now.target == target
            ranks = items.ranks([was.profile, now.profile], [target] * 2)
            assert [was.target_place, now.target_place] == ranks.tolist()
    assert helper.explain("me", "a lamp").together.before.target_place is None
    with pytest.raises(LookupError, match="no item 'i9999999'"):
        helper.explain("me", "a lamp", target="i9999999")


def test_owned_items_do_not_count(helper, reading):
    reading("lamp")
    first = helper.recommend("me", "a lamp").items[0][0]
    helper.remember("me", first.id, 3.0)
    found = helper.explain("me", "a lamp", target=first.id)
    for change in (found.together, *(reason.without for reason in found.reasons)):
        assert first.id not in change.before.items + change.after.items and change.before.first_place == 1
        met = helper.environment.items.ranks([change.after.profile], [first.id])
        assert change.after.target_place == met


def test_an_unknown_user_and_no_search(helper, reading):
    reading("lamp")
    found = helper.explain("a new one", "a lamp")
    assert (found.reasons, found.together, found.control) == ((), None, None)
    assert found.answer.reason == "nothing is remembered of this user"
    reading()
    found = helper.explain("me", "a lamp")
    assert found.reasons == () and found.together is None and not found.control.without.changed


def test_an_episode_that_breaks_off_without_a_memory_says_so(helper, opened, monkeypatch):
    g = opened.grammar

    def turn(state):
        if not state.calls:
            return g.write_search("", "lamp color red")
        red = "red" in state.shown[0].text
        return g.write_final("", "red lamp", []) if red else g.write_search("", " ")

    monkeypatch.setattr(assistant, "LMActor", lambda *_, **__: ScriptActor(lambda state: turn))
    change = helper.explain("me", "something for my desk").reasons[0].without
    assert (change.before.end, change.after.end) == ("answer", "an empty search")
    assert change.after.profile == "something for my desk" and "the episode ends: an empty search" in str(change)


def test_the_same_query_gets_the_same_explanation(helper):
    """With the trained policy. The explanation can be written as JSON."""
    found = helper.explain("u000003", "lamp for office")
    assert found == helper.explain("u000003", "lamp for office")
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert list(told) == ["answer", "memories", "together", "control"]
    assert told["control"]["without"]["changed"] is False


# --- Table 3 --------------------------------------------------------------------------------------------------------


def test_contributions_by_hand():
    read = [entry("mug price luxury"), entry("overall size small"), entry("bought vel mug rated 5: love it in red")]
    assert contribution(read, "mug for hiking", "mug for hiking price luxury") == pytest.approx(1 / 3)
    assert contribution(read, "mug for hiking", "mug luxury, small, red") == 1
    assert contribution(read, "hiking", "mug for hiking") == pytest.approx(2 / 3)
    assert contribution(read, "mug for hiking", "tamvy mug shop size small 5 it") == pytest.approx(1 / 3)
    assert contribution(read, "mug", "a kettle rated 5 overall") == 0
    assert contribution([], "mug", "mug") is None
    assert keywords("Bought a Red mug rated 5: love it", "the mug") == {"red", "love"}
    assert keywords("overall platform wii u x7 x12 latest") == {"platform", "wii", "u"}
    assert keywords("lately platform xbox 360 x3") == {"platform", "xbox", "360"}


def test_contributions_of_real_episodes():
    """The expert copies useful words that it read: its profile shares more of them than that of another episode."""
    env, grammar = environment(), Grammar(tokenizer())
    episodes = rollout(
        ScriptActor(expert(grammar)), env.split.train_queries, env.memory, grammar, RolloutConfig(memory_k=1)
    )
    own, strange, right = [], [], []
    for episode, other in zip(episodes, episodes[7:] + episodes[:7], strict=True):
        read = [e for call in episode.calls for e in call.entries]
        own.append(contribution(read, episode.query.text, episode.answer.profile))
        strange.append(contribution(read, episode.query.text, other.answer.profile))
        right.append(contribution(read, episode.query.text, item_text(env.dataset.items[episode.query.target])))
    assert sum(own) > 2 * sum(strange)
    assert all(0 <= share <= 1 for share in right)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(helper, reading):
    words = ("explain", "a lamp", "--user", "me", "--run", made_run(), "--store", helper.store.path)
    reading("lamp")
    done = mrrec(*words, "-k", 3, "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and len(told["answer"]["items"]) == 3
    assert told == json.loads(json.dumps(helper.explain("me", "a lamp", 3).as_dict()))
    shown = mrrec(*words).stdout
    assert "all of these" in shown and "nothing changes" in shown and "not read" in shown
    assert "copied, cited" in shown and shown.count("copied") == 3
    assert max(map(len, shown.splitlines())) <= 80
    for reason in told["memories"]:
        assert reason["id"] in shown


def test_the_command_refuses_in_one_line(tmp_path, reading):
    refused(mrrec("explain", "a lamp", "--user", "me", "--run", tmp_path), 3, "is not a run")
    run = ("--run", made_run())
    refused(mrrec("explain", " ", "--user", "me", *run), 4, "the query is empty")
    refused(mrrec("explain", "a\udc80", "--user", "me", *run), 4, "half a surrogate pair")
    refused(mrrec("explain", "lamp", "--user", "\udc80", *run), 4, "half a surrogate pair")
    assert mrrec("explain", "lamp", "--user", "me", *run, "-k", 0).exit_code == 2


def test_texts_cannot_control_the_terminal(helper, reading):
    helper.store.for_user("me").add(f"lamp {HOSTILE}")
    reading("lamp bold red")
    done = mrrec("explain", HOSTILE, "--user", "me", "--run", made_run(), "--store", helper.store.path)
    assert done.exit_code == 0 and "\x1b" not in done.output and "\x9b" not in done.output
    assert "[bold" in done.stdout and ":cat:" in done.stdout
