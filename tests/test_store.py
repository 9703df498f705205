"""The store: only the owner reads what was written, forgetting deletes, and growing equals building from scratch."""

import ctypes
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from house import ROOT
from mrrec_mini import store as module
from mrrec_mini.app.assistant import as_of_now
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Interaction, MemoryEntry
from mrrec_mini.dense import digest
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import (
    Aspect,
    Memory,
    MemoryConfig,
    common_words,
    global_aspects,
    global_line,
    join,
    local_entries,
    plain,
    sample_contrasts,
)
from mrrec_mini.store import Changed, NotYours, Store, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import EASY, make_world

SMALL = replace(EASY, users=60, items=240, categories=4, held=1, history=10, queries=1, seed=3, days=40)


@cache
def shop() -> Dataset:
    return make_world(SMALL)


@contextmanager
def summarising(writer: type[ExtractiveSummarizer]) -> Iterator[None]:
    """Let every open store write its summaries with a summariser of this class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ExtractiveSummarizer", writer)
        yield


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def learned_from(dataset: Dataset) -> Memory:
    """The memory that 50 of the 60 users teach."""
    users = shop().users()[:50]
    return Memory.build(dataset, users, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(dims=16), draws())


@cache
def memory() -> Memory:
    return learned_from(shop())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("built") / "memory.db"
    build_store(path, shop(), memory())
    return path.read_bytes()


@pytest.fixture
def path(built, tmp_path) -> Path:
    (tmp_path / "memory.db").write_bytes(built)
    return tmp_path / "memory.db"


@pytest.fixture
def store(path):
    with Store.open(path, now=lambda: 7) as opened:
        yield opened


ALICE, BOB = "u000001", "u000002"
LATER = 1_756_000_000  # in August 2025, later than every purchase of the shop


def lines(scope) -> list[bytes]:
    return [line.encode() for line in scope.export()]


def entries(scope) -> tuple[MemoryEntry, ...]:
    """All entries in the order of `memory.local_entries`, after the notes."""
    oldest_first, levels = scope.entry_index().entries, ("note", "profile", "pattern")
    records = [entry for entry in oldest_first if entry.level == "record"]
    others = [entry for entry in oldest_first if entry.level != "record"]
    return (*sorted(others, key=lambda entry: levels.index(entry.level)), *reversed(records))


def all_bytes(path: Path) -> bytes:
    """The bytes of the file and of the files beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


# --- a built store equals the memory ------------------------------------------------------------------------------


def test_a_built_store_has_the_entries_and_the_search_results_of_the_memory(store):
    for user in shop().users():
        query = as_of_now(user)
        assert entries(store.for_user(user)) == memory().entries(query)
        for text in ("mug price", "luxury", "nothing of the kind", "overall size small"):
            assert tuple(entry for entry, _ in store.for_user(user).search(text, 4)) == memory().search(query, text, 4)
    assert store.entry_index().entries == memory().global_entries != ()
    for text in ("mug", "lamp for hiking"):
        assert store.entry_index().search(text, 5) == memory().search_global(text, 5)


def test_a_failed_build_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write_user", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_store(tmp_path / "memory.db", shop(), memory())
    assert list(tmp_path.iterdir()) == []


def test_a_build_does_not_overwrite_a_store(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="already exists"):
        build_store(path, shop(), memory())
    assert path.read_bytes() == before


# --- the verbs ----------------------------------------------------------------------------------------------------


def test_a_note_is_found_and_the_same_text_twice_is_one_note(store):
    alice = store.for_user(ALICE)
    before = alice.list().total
    note = alice.add("allergic to wool")
    assert (note.user, note.level, note.text) == (ALICE, "note", "allergic to wool")
    assert alice.add("allergic to wool") == note == alice.get(note.id)
    assert alice.list().total == before + 1
    assert alice.search("wool", 1)[0][0] == note
    assert alice.add("allergic to silk").id != note.id
    with pytest.raises(ValueError, match="k must be >= 0, not -1"):
        alice.search("wool", -1)


def test_the_id_of_a_deleted_entry_is_not_used_again(store):
    alice = store.for_user(ALICE)
    gone = alice.add("first")
    alice.delete(gone.id)
    assert alice.add("second").id != gone.id
    record = alice.remember(next(iter(shop().items.values())), 5.0, "fine")
    alice.delete(record.id)
    assert alice.remember(next(iter(shop().items.values())), 5.0, "fine").id != record.id


def test_pages_give_the_total_and_together_the_whole_list(store):
    alice = store.for_user(ALICE)
    everything = alice.list(limit=1000)
    assert everything.cursor is None and everything.total == len(everything.rows) > 7
    rows, cursor = [], 0
    while cursor is not None:
        page = alice.list(limit=7, cursor=cursor)
        assert page.total == everything.total and len(page.rows) <= 7
        assert (page.cursor is not None) == (len(rows) + len(page.rows) < page.total)
        rows, cursor = rows + list(page.rows), page.cursor
    assert tuple(rows) == everything.rows
    exactly = alice.list(limit=everything.total)
    assert exactly.cursor is None
    records = alice.list(level="record", limit=1000)
    assert {entry.level for entry in records.rows} == {"record"} and records.total < everything.total
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            alice.list(limit=limit)


def test_an_update_shows_in_get_search_and_history(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    changed = alice.update(note.id, "likes coffee")
    assert changed == replace(note, text="likes coffee") == alice.get(note.id)
    assert alice.search("coffee", 1)[0][0] == changed
    assert [(e.kind, e.old, e.new, e.at) for e in alice.history(note.id).rows] == [
        ("add", None, "likes tea", 7),
        ("update", "likes tea", "likes coffee", 7),
    ]
    assert alice.update(note.id, "likes coffee") == changed and alice.history(note.id).total == 2  # nothing changed


def test_an_update_of_an_outdated_version_is_refused(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.update(note.id, "likes coffee", version=1)
    with pytest.raises(Changed, match="version 2"):
        alice.update(note.id, "likes milk", version=1)
    assert alice.get(note.id).text == "likes coffee"


def test_a_deleted_entry_is_not_found_and_its_history_shows_the_deletion(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.delete(note.id)
    for verb in (alice.get, alice.delete, alice.why):
        with pytest.raises(LookupError):
            verb(note.id)
    assert all(entry.id != note.id for entry, _ in alice.search("tea", 100))
    assert [e.kind for e in alice.history(note.id).rows] == ["add", "delete"]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_text_is_refused(store, text):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    for verb in (alice.add, lambda text: alice.update(note.id, text)):
        with pytest.raises(DataError, match="empty"):
            verb(text)
    with pytest.raises(DataError, match="user is empty"):
        store.for_user(text)


def test_why_gives_the_records_and_the_search_scores(store):
    alice = store.for_user(ALICE)
    pattern = alice.list(level="pattern").rows[0]
    why = alice.why(pattern.id, pattern.text)
    assert [one["id"] for one in why["rests_on"]] == list(pattern.rests_on)
    assert all(one["text"] == alice.get(one["id"]).text for one in why["rests_on"])
    assert why["search"]["place"] == 1 and set(why["search"]["words_in_common"]) == set(pattern.text.split())
    assert alice.why(pattern.id)["search"] is None


# --- no user reaches another user's rows --------------------------------------------------------------------------

VERBS = {  # every method that takes an id
    "get": lambda scope, identity: scope.get(identity),
    "update": lambda scope, identity: scope.update(identity, "mine now"),
    "delete": lambda scope, identity: scope.delete(identity),
    "history": lambda scope, identity: scope.history(identity),
    "why": lambda scope, identity: scope.why(identity, "canary"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_another_users_id_gets_the_same_error_as_an_unknown_id(store, verb):
    secret = store.for_user(BOB).add("canarybob")
    before = lines(store.for_user(BOB))
    with pytest.raises(LookupError) as foreign:
        VERBS[verb](store.for_user(ALICE), secret.id)
    unknown = secret.id.replace("note", "nope")
    with pytest.raises(LookupError) as nowhere:
        VERBS[verb](store.for_user(ALICE), unknown)
    assert str(foreign.value) == str(nowhere.value).replace(unknown, secret.id)
    assert type(foreign.value) is type(nowhere.value) and "canary" not in str(foreign.value)
    assert lines(store.for_user(BOB)) == before


class TellTale(ExtractiveSummarizer):
    """Eq. (6) that leaks: every word of the review and of the compared titles becomes an aspect."""

    def aspects(self, contrasts):
        return [
            Aspect(plain(contrast.bought.scenario), word, frozenset({contrast.bought.user}))
            for contrast in contrasts
            for text in (contrast.bought.review, *(item.title for item in contrast.unchosen))
            for word in plain(text).split()
        ]


@pytest.mark.parametrize("verb", VERBS)
def test_a_refused_id_is_logged_under_the_asking_user_and_changes_nothing(store, verb):
    secret, alice = store.for_user(BOB).add("canarybob").id, store.for_user(ALICE)
    asked = [secret, "u000002/note/77", "x" * 10_000]
    before = lines(alice), lines(store.for_user(BOB)), store.generation, alice.history()
    for identity in asked:
        with pytest.raises(NotYours):
            VERBS[verb](alice, identity)
    kept = [{"line": "audit", "verb": verb, "asked": digest(identity), "at": 7} for identity in asked]
    assert [json.loads(line) for line in lines(alice)[len(before[0]) :]] == kept and alice.stats()["refused"] == 3
    assert (lines(alice)[: len(before[0])], lines(store.for_user(BOB)), store.generation, alice.history()) == before
    assert store.for_user(BOB).stats()["refused"] == 0
    assert alice._person()[0] == 1  # what was derived from Alice's rows is still valid
    VERBS[verb](store.for_user(BOB), secret)  # access to one's own entry is not logged
    assert store.for_user(BOB).stats()["refused"] == 0
    assert b"note/77" not in all_bytes(store.path)  # the log must not name Bob, who may be forgotten some day
    assert alice.forget() and alice.stats()["refused"] == 0


def test_no_method_changes_a_row_of_another_user(store, path):
    """Alice and Bob have the same items at the same places, and notes with the same numbers."""
    alice, bob, items = store.for_user(ALICE), store.for_user(BOB), list(shop().items.values())[:2]
    for scope in (alice, bob):
        first = scope.remember(items[0], 5.0, "so small").id
        note = scope.add("likes tea").id
        with pytest.raises(NotYours):
            scope.get("nowhere")
    first, note = first.replace(BOB, ALICE), note.replace(BOB, ALICE)

    def of_others() -> list:
        with sqlite3.connect(path) as raw:
            return [raw.execute(f"SELECT * FROM {t} WHERE user != ?", (ALICE,)).fetchall() for t in module.PERSONAL]

    before, mine = of_others(), []
    doing = {
        "why": lambda: alice.why(first, "small"),
        "add": lambda: alice.add("likes milk"),
        "update": lambda: alice.update(note, "likes coffee"),
        "delete": lambda: alice.delete(note),
        "remember": lambda: alice.remember(items[1], 5.0, "so small"),
        "delete a record": lambda: alice.delete(first),
        "export": lambda: mine.extend(lines(alice)),
        "rebuild": lambda: store.rebuild_global(draws()),
        "forget": lambda: alice.forget(),
        "restore": lambda: alice.restore(mine),
    }
    for verb, do in doing.items():
        do()
        assert of_others() == before, verb


def test_a_user_keeps_the_last_version_of_an_item(store):
    alice, bob, item = store.for_user(ALICE), store.for_user(BOB), next(iter(shop().items.values()))
    for scope in (alice, bob):
        scope.remember(item, 5.0)
    alice.remember(replace(item, title="another title"), 5.0)
    assert [one.item.title for one in alice.purchases() if one.item.id == item.id] == ["another title"] * 2
    assert bob.purchases()[-1].item == item


def test_deleting_the_last_record_of_an_item_deletes_the_item(store):
    alice, item = store.for_user(ALICE), replace(next(iter(shop().items.values())), id="canaryitem")
    one, other = (alice.remember(item, 5.0, "fine").id for _ in range(2))
    alice.delete(one)
    assert any(b'"id": "canaryitem"' in line for line in lines(alice))
    alice.delete(other)
    assert not any(b'"id": "canaryitem"' in line for line in lines(alice))


def test_an_import_does_not_change_another_users_items(store):
    """Alice and Bob bought the same item; Bob imports a file in which he gave it another title."""
    alice, bob, item = store.for_user(ALICE), store.for_user(BOB), next(iter(shop().items.values()))
    for scope in (alice, bob):
        scope.remember(item, 5.0, "fine")
    mine, before = lines(bob), lines(alice)
    bob.forget()
    bob.restore([line.replace(item.title.encode(), b"canary title") for line in mine])
    assert bob.purchases()[-1].item.title == "canary title" and alice.purchases()[-1].item == item
    assert lines(alice) == before


def test_an_import_that_names_another_users_record_is_not_shown_its_text(store):
    bob, secret = store.for_user(BOB), store.for_user(ALICE).add("canaryalice")
    mine = lines(bob)
    place = next(i for i, line in enumerate(mine) if b'"line": "entry"' in line)
    row = json.loads(mine[place])
    mine[place] = json.dumps({**row, "rests_on": json.dumps([secret.id])}).encode()
    bob.forget()
    bob.restore(mine)
    assert bob.why(row["id"])["rests_on"] == [{"id": secret.id, "text": None}]


NAMES = ["a", "A", "a/../b", "%", "_", "a/note", "@global", "' OR 1=1 --", "😀", "é", "e\u0301", "x" * 10_000, "*"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True), st.data())
def test_no_method_shows_a_word_of_another_user(built, tmp_path_factory, names, data):
    """Each user adds a word of their own. No method shows it to any other user."""
    file = tmp_path_factory.mktemp("canary") / "memory.db"
    file.write_bytes(built)
    words = {name: f"canary{number}" for number, name in enumerate(names)}
    with Store.open(file) as store:
        ids = {name: store.for_user(name).add(f"said {word}").id for name, word in words.items()}
        item = next(iter(shop().items.values()))
        for name, word in words.items():
            store.for_user(name).remember(item, 5.0, f"really {word}")
        for name in names:
            mine, shown = store.for_user(name), []
            refused = mine.stats()["refused"]
            every = " ".join(words.values())
            shown += [
                mine.list(limit=100),
                mine.history(limit=100),
                mine.search(every, 100),
                mine.stats(),
                mine.entry_index().entries,
            ]
            shown += list(mine.export())
            other = data.draw(st.sampled_from([n for n in names if n != name]))
            for verb in VERBS.values():
                with pytest.raises(NotYours) as error:
                    verb(mine, ids[other])
                shown.append(str(error.value))
            assert mine.stats()["refused"] == refused + len(VERBS)
            shown += [*mine.export(), mine.history(limit=100), mine.stats()]
            output = repr(shown)
            assert words[name] in output
            assert not [w for owner, w in words.items() if owner != name and w in output]
        assert [store.for_user(name).get(ids[name]).text for name in names] == [f"said {words[name]}" for name in names]
        with summarising(TellTale):
            assert "canary" not in repr(store.rebuild_global(draws(), shop().items.values()))
        assert "canary" not in repr(store.summarizer)
        for name in names[1:]:
            store.for_user(name).forget()
        assert words[names[0]] in repr(store.for_user(names[0]).list(limit=100))
    left = all_bytes(file)
    assert words[names[0]].encode() in left
    assert not [word for word in list(words.values())[1:] if word.encode() in left]


def test_a_word_that_few_users_have_is_not_learned():
    texts = [["mug canary"], ["mug lamp"], ["mug lamp lamp"]]
    assert common_words(texts, 3) == ["mug", "mug", "mug"]
    assert common_words(texts, 2) == ["mug", "mug lamp", "mug lamp lamp"]
    assert common_words(texts, 1) == ["mug canary", "mug lamp", "mug lamp lamp"]


def test_forgetting_leaves_no_byte_of_a_train_user(tmp_path):
    """The first canary is in reviews of a train user, so everything learned has seen it. The second is used for luxury
    items only, often enough to be learned as a word for luxury if several users wrote it."""
    data = shop()
    luxury = [item for item in data.items.values() if item.attributes["price"] == ("luxury",)][:12]
    secret = [
        Interaction(ALICE, m.item, m.time, m.rating, f"{m.review} canaryword") for m in data.interactions_of(ALICE)
    ]
    secret += [Interaction(ALICE, item.id, n, 5.0, "canaryluxury") for n, item in enumerate(luxury)]
    others = [m for m in data.interactions if m.user != ALICE]
    everyone = tuple(sorted(others + secret, key=lambda m: (m.user, m.time)))
    dataset = Dataset(data.items, everyone, data.queries, data.meta)
    learned = Memory.build(
        dataset, dataset.users(), MemoryConfig(), ExtractiveSummarizer(), HybridConfig(dims=16), draws()
    )
    path = tmp_path / "memory.db"
    build_store(path, dataset, learned)
    assert b"canaryword" in path.read_bytes() and b"canaryluxury" in path.read_bytes()
    with Store.open(path) as store:
        store._connection.execute("PRAGMA secure_delete = OFF")  # some builds of SQLite have it on, most do not
        store.for_user(ALICE).add("canarynote")
        store.for_user(ALICE).search("canaryword")
        assert store.for_user(ALICE).forget() > 0
        assert store.for_user(ALICE).list().total == store.for_user(ALICE).history().total == 0
        for secret_word in (b"canaryword", b"canaryluxury", b"canarynote", ALICE.encode()):
            assert secret_word not in all_bytes(path)  # while it is still open, in the log as well
        assert entries(store.for_user(BOB)) == learned.entries(as_of_now(BOB))


# --- remembering ---------------------------------------------------------------------------------------------------


def built_from_scratch(scope) -> set:
    """Eq. 1 on this user's purchases: all entries except the notes."""
    return set(local_entries(scope.purchases(), scope.store.summarizer, scope.store.config))


def test_remembering_a_purchase_equals_building_from_scratch(store):
    alice, items = store.for_user(ALICE), list(shop().items.values())
    for number, review in ((4, "love that it is small"), (9, "sadly luxury"), (5, ""), (4, "so soft")):
        alice.remember(items[number], 5.0 - number % 3, review, at=LATER + number * 10**7)
        assert set(entries(alice)) == built_from_scratch(alice)


def test_purchases_keep_their_times_and_lines_say_the_quarter_of_the_latest(store):
    alice, item = store.for_user(ALICE), list(shop().items.values())[4]
    assert alice.purchases() == list(join(shop(), shop().interactions_of(ALICE)))
    record = alice.remember(item, 5.0, f"love that it is {item.attributes['color'][0]}", at=LATER)
    assert alice.purchases()[-1].time == LATER
    assert record.text.startswith(f"bought {plain(item.title)} 2025q3 rated 5")
    changed = [e for e in entries(alice) if record.id in e.rests_on and e.level != "record"]
    assert {entry.level for entry in changed} == {"pattern", "profile"}
    assert all(entry.text.endswith(" 2025q3") for entry in changed)
    alice.delete(record.id)
    assert "2025q3" not in repr(entries(alice))
    assert alice.remember(item, 5.0).text.split(" rated ")[0].endswith(plain(item.title))  # the clock says 1970


def test_only_its_category_and_the_profile_are_summarised_again(path):
    summarised = []

    class Counting(ExtractiveSummarizer):
        def patterns(self, purchases):
            summarised.append({one.scenario for one in purchases})
            return super().patterns(purchases)

    with Store.open(path) as store, summarising(Counting):
        item = list(shop().items.values())[4]
        store.for_user(ALICE).remember(item, 5.0, "fine")
    assert summarised == [{item.category[-1]}]


def test_a_line_corrected_by_hand_stays_when_its_category_is_summarised_again(store):
    alice = store.for_user(ALICE)
    line = alice.list(level="pattern").rows[0]
    alice.update(line.id, "this is what I said")
    item = next(one for one in shop().items.values() if one.category[-1] == line.scenario)
    alice.remember(item, 5.0, "fine")
    assert alice.get(line.id).text == "this is what I said"


def test_deleting_a_record_removes_its_evidence(store):
    alice = store.for_user(ALICE)
    before = set(entries(alice))
    item = list(shop().items.values())[4]
    record = alice.remember(item, 5.0, "love that it is small", at=LATER)
    assert set(entries(alice)) != before
    alice.delete(record.id)
    assert set(entries(alice)) == before and all(record.id not in entry.rests_on for entry in entries(alice))


@pytest.mark.parametrize("rating", [float("nan"), float("inf"), 0.0, 5.5, -1.0])
def test_a_rating_outside_1_to_5_is_refused(store, rating):
    before = lines(store.for_user(ALICE))
    with pytest.raises(DataError, match="rating"):
        store.for_user(ALICE).remember(next(iter(shop().items.values())), rating, "")
    assert lines(store.for_user(ALICE)) == before


class Growing(RuleBasedStateMachine):
    """After any sequence of changes, a search uses the index that would be built from scratch."""

    @initialize()
    def begin(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "memory.db"
        build_store(path, Dataset(shop().items, (), (), {}), memory())
        (Path(self.folder.name) / "other.db").write_bytes(path.read_bytes())
        self.store = Store.open(path)
        self.scope = self.store.for_user("somebody")
        self.notes, self.records = {}, []

    @rule(text=st.sampled_from(["small mug", "luxury lamp", "soft", "mug mug mug", "canary"]))
    def add(self, text):
        note = self.scope.add(text)
        self.notes[note.id] = text

    @precondition(lambda self: self.notes)
    @rule(data=st.data(), text=st.sampled_from(["red lamp", "soft soft", "small mug"]))
    def update(self, data, text):
        identity = data.draw(st.sampled_from(sorted(self.notes)))
        self.scope.update(identity, text)
        self.notes[identity] = text

    @precondition(lambda self: self.notes)
    @rule(data=st.data())
    def delete(self, data):
        identity = data.draw(st.sampled_from(sorted(self.notes)))
        self.scope.delete(identity)
        del self.notes[identity]

    @rule(
        number=st.integers(0, 30),
        rating=st.sampled_from([1.0, 3.0, 5.0]),
        review=st.sampled_from(["so small", ""]),
        at=st.sampled_from([0, LATER, 2 * LATER]),
    )
    def remember(self, number, rating, review, at):
        self.records.append(self.scope.remember(list(shop().items.values())[number], rating, review, at).id)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def delete_a_record(self, data):
        identity = data.draw(st.sampled_from(self.records))
        self.scope.delete(identity)
        self.records.remove(identity)

    @rule(verb=st.sampled_from(sorted(VERBS)), identity=st.sampled_from(["nobody/note/0", "😀 ' --", "x" * 999]))
    def ask_for_an_unknown_id(self, verb, identity):
        with pytest.raises(NotYours):
            VERBS[verb](self.scope, identity)

    @rule()
    def forget(self):
        self.scope.forget()
        self.notes, self.records = {}, []
        assert self.scope.stats()["events"] == self.scope.stats()["refused"] == 0

    @invariant()
    def equals_one_built_from_scratch(self):
        if not hasattr(self, "scope"):
            return
        found = entries(self.scope)
        assert {e.id: e.text for e in found if e.level == "note"} == self.notes
        assert {e for e in found if e.level != "note"} == built_from_scratch(self.scope)
        in_order = self.scope.list(limit=1000).rows
        fresh = module.EntryIndex(in_order, self.store.space)
        for text in ("mug small", "lamp"):
            found = self.scope.search(text, 5)
            assert found == fresh.find(text, 5)

    def teardown(self):
        if hasattr(self, "store"):
            with Store.open(Path(self.folder.name) / "other.db") as other:
                mine = lines(self.scope)
                other.for_user("somebody").restore(mine)
                assert lines(other.for_user("somebody")) == mine
            self.store.close()
            self.folder.cleanup()


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(deadline=None, max_examples=15, stateful_step_count=12)


# --- rebuilding the global memory ----------------------------------------------------------------------------------


def shop_with_words(*added: tuple[str, str]) -> tuple[Dataset, Memory]:
    """The shop with a word added to all reviews of some users, as (user, word), and the memory of its train users."""
    word = dict(added)
    interactions = [replace(one, review=f"{one.review} {word.get(one.user, '')}") for one in shop().interactions]
    dataset = Dataset(
        shop().items, tuple(interactions), (), shop().meta
    )  # no queries: all that a train user did is visible
    return dataset, learned_from(dataset)


def test_only_train_users_teach_the_global_memory(store, path):
    store.for_user("somebody").remember(next(iter(shop().items.values())), 5.0)
    mine = lines(store.for_user(ALICE))
    store.for_user(ALICE).forget()
    store.for_user(ALICE).restore(mine)  # anybody can write an export, so an imported user does not teach
    with sqlite3.connect(path) as raw:
        teachers = {user for (user,) in raw.execute("SELECT user FROM person WHERE teaches = 1")}
        assert teachers == set(shop().users()[:50]) - {ALICE}
        assert raw.execute("SELECT count(*) FROM person WHERE teaches = 0").fetchone() == (12,)


def test_rebuilding_a_fresh_store_with_the_same_draws_changes_nothing(tmp_path):
    dataset, learned = shop_with_words()
    build_store(tmp_path / "memory.db", dataset, learned)
    with Store.open(tmp_path / "memory.db") as store:
        before = [store._rows(f"SELECT * FROM {table}") for table in ("shared", "learned")]
        for _ in range(2):
            assert store.rebuild_global(draws(), dataset.items.values()) == learned.global_entries != ()
            # vectors too, and what the summariser knows
            assert [store._rows(f"SELECT * FROM {table}") for table in ("shared", "learned")] == before
        assert store.entry_index().search("mug", 5) == learned.search_global("mug", 5)


def test_a_rebuilt_global_memory_uses_all_purchases_of_train_users_until_now(store):
    """Also those after the first query, targets included."""
    histories = {user: shop().interactions_of(user) for user in shop().users()[:50]}
    item = list(shop().items.values())[4]
    store.for_user(ALICE).remember(item, 5.0, "so small", at=99)
    histories[ALICE] += (Interaction(ALICE, item.id, 99, 5.0, "so small"),)
    contrasts = sample_contrasts(
        [join(shop(), history) for history in histories.values()], shop().items.values(), store.config, draws()
    )
    aspects = global_aspects(store.summarizer.informed(()), contrasts, store.config)
    wanted = tuple(global_line(aspect, store.config) for aspect in aspects)
    with listening() as seen:
        rebuilt = store.rebuild_global(draws(), shop().items.values())
    assert rebuilt == wanted == store.entry_index().entries != ()
    assert seen == [contrasts] and any(one.bought.user == ALICE for one in contrasts)


def test_new_summaries_follow_a_rebuilt_global_memory_in_every_process(store, path):
    """Once all train users are forgotten, no aspect is known to decide. Then a record tells every value of its item."""
    item, nobody = next(iter(shop().items.values())), store.for_user("somebody")
    deciding = {one.text.split()[-1] for one in memory().global_entries if one.scenario == item.category[-1]}
    with Store.open(path) as other:
        first = other.for_user("somebody").remember(item, 5.0)
        assert deciding and set(store.summarizer.reading.deciding[item.category[-1]][""]) == deciding
        told = [aspect for aspect in item.attributes if f" {aspect} " in first.text]
        assert set(told) == deciding < set(item.attributes)
        for user in shop().users()[:50]:
            store.for_user(user).forget()
        before = nobody.list(limit=99)
        store.rebuild_global(draws(), shop().items.values())
        readings = [one.summarizer.reading for one in (store, other, memory())]
        assert readings[2].words and readings == [replace(readings[2], words={}, deciding={})] * 2 + readings[2:]
        assert nobody.list(limit=99) == before  # existing lines stay
        second = other.for_user("somebody").remember(item, 5.0)
        assert all(f" {aspect} " in second.text for aspect in item.attributes)
    # only the older record is not what `local_entries` would write now
    assert {entry.id for entry in built_from_scratch(nobody) - set(entries(nobody))} == {first.id}


@contextmanager
def listening(meanwhile=None) -> Iterator[list]:
    """Yield the list of the contrasts that summarisers get. During the first call, `meanwhile` runs."""
    seen = []

    class Listening(ExtractiveSummarizer):
        def aspects(self, contrasts):
            seen.append(contrasts)
            if len(seen) == 1 and meanwhile:
                meanwhile()
            return super().aspects(contrasts)

    with summarising(Listening):
        yield seen


def test_unchosen_items_come_from_train_users_purchases_and_the_given_items(store):
    rare = replace(next(iter(shop().items.values())), id="rare", title="canary rare")
    store.for_user("u000059").remember(rare, 5.0)  # not a train user
    bought = {one.item.id for user in shop().users()[:50] for one in store.for_user(user).purchases()}
    with listening() as seen:
        store.rebuild_global(draws())
        store.rebuild_global(draws(), shop().items.values())
    among_bought, among_all = ({item.id for one in contrasts for item in one.unchosen} for contrasts in seen)
    assert among_bought <= bought and among_all - bought and among_all <= set(shop().items)
    assert {one.bought.user for one in seen[1]} <= set(shop().users()[:50])


def test_a_rebuild_starts_again_when_a_train_user_changes_and_only_then(store, path):
    item = next(iter(shop().items.values()))
    with Store.open(path) as other:
        with listening(lambda: other.for_user(ALICE).remember(item, 5.0, "meanwhile")) as changed:
            entries = store.rebuild_global(draws(), shop().items.values())
        with listening(lambda: other.for_user("somebody").remember(item, 5.0, "meanwhile")) as unchanged:
            assert store.rebuild_global(draws(), shop().items.values()) == entries  # the second try has the same draws
        with listening(lambda: other.for_user(ALICE).forget()) as forgotten:
            store.rebuild_global(draws(), shop().items.values())
    assert [len(calls) for calls in (changed, unchanged, forgotten)] == [2, 1, 2]
    users = [{one.bought.user for one in contrasts} for contrasts in (*changed, *unchanged, *forgotten)]
    assert [ALICE in some for some in users] == [False, True, True, True, False]  # she had liked nothing before


def test_a_global_line_needs_enough_train_users_and_disappears_without_them(tmp_path):
    """Three train users write one word and two another, which a user who does not train writes as well."""
    train, later = shop().users()[:50], shop().users()[50:]
    dataset, learned = shop_with_words(
        *((user, "canarythree") for user in train[:3]), *((user, "canarytwo") for user in train[3:5])
    )
    build_store(tmp_path / "memory.db", dataset, learned)
    with Store.open(tmp_path / "memory.db") as store, summarising(TellTale):
        mug = next(item for item in shop().items.values() if item.id == dataset.interactions_of(train[3])[0].item)
        for user in (*train[:5], *later[:3]):  # all in one category, so that three of them meet there
            word = "canarythree" if user in train[:3] else "canarytwo" if user in train else "canarylater"
            store.for_user(user).remember(mug, 5.0, f"fine {word}")
            store.for_user(later[4]).remember(mug, 5.0, "canarytwo")

        def rebuilt() -> str:
            return repr(store.rebuild_global(draws(), dataset.items.values()))

        before = rebuilt()
        assert "canarythree" in before and "canarytwo" not in before and "canarylater" not in before
        for user in later:
            store.for_user(user).remember(mug, 1.0, "canarythree")
            store.for_user(user).add("canarythree")
        assert rebuilt() == before  # users who do not train change nothing
        store.for_user(later[0]).forget()
        assert rebuilt() == before
        store.for_user(train[0]).forget()
        after = rebuilt()
        assert after != before and "canarythree" not in after
        assert store.entry_index().entries and "canarythree" not in repr(store.entry_index().entries)
        for user in train:
            store.for_user(user).forget()
        assert rebuilt() == "()" and store.entry_index().entries == ()


# --- export and import ---------------------------------------------------------------------------------------------


def test_an_export_imported_elsewhere_exports_to_the_same_bytes(store, tmp_path):
    alice = store.for_user(ALICE)
    note = alice.add('quotes " and \u2028 and 😀 and \\ and </memory><m1>')
    alice.update(note.id, "other")
    alice.remember(list(shop().items.values())[4], 2.0, "too small for me")
    alice.remember(list(shop().items.values())[4], 5.0, "so soft", at=LATER)
    alice.delete(alice.add("gone").id)
    mine, before = lines(alice), entries(alice)
    build_store(tmp_path / "other.db", Dataset(shop().items, (), (), {}), memory())
    with Store.open(tmp_path / "other.db", now=lambda: 99) as other:
        counts = other.for_user(ALICE).restore(mine)
        assert lines(other.for_user(ALICE)) == mine and entries(other.for_user(ALICE)) == before
        assert sum(counts.values()) + 1 + sum(b'"line": "item"' in line for line in mine) == len(mine)
        assert other.for_user(ALICE).search("small", 5) == alice.search("small", 5)
        # the next purchase has the same effect in both
        item = list(shop().items.values())[8]
        assert other.for_user(ALICE).remember(item, 5.0, "fine") == alice.remember(item, 5.0, "fine")
        assert entries(other.for_user(ALICE)) == entries(alice)


def test_an_import_needs_the_exporting_user_without_memories(store):
    alice = lines(store.for_user(ALICE))
    with pytest.raises(DataError, match=r"import:1: user: an export of 'u000001', not of 'u000002'"):
        store.for_user(BOB).restore(alice)
    with pytest.raises(ValueError, match="already has memories here"):
        store.for_user(ALICE).restore(alice)
    assert lines(store.for_user(ALICE)) == alice


def with_line(change):
    def changed(mine: list[bytes]) -> list[bytes]:
        place = next(i for i, line in enumerate(mine) if b'"line": "entry"' in line)
        return [*mine[:place], change(mine[place]), *mine[place + 1 :]]

    return changed


def field(name, value):
    return with_line(lambda line: json.dumps({**json.loads(line), name: value}).encode())


BROKEN = {
    "a cut line": with_line(lambda line: line[: len(line) // 2]),
    "not UTF-8": with_line(lambda line: line.replace(b"overall", b"\xff\xfe")),
    "another kind": field("line", "secret"),
    "a list as kind": field("line", ["entry"]),
    "an injected column": field("x) VALUES (1); DROP TABLE entry; --", 1),
    "a user in a line": field("user", BOB),
    "a number as text": field("support", "many"),
    "a number too large": field("support", 10**30),
    "a text as number": field("text", [1]),
    "twice the same id": lambda mine: [*mine, next(line for line in mine if b'"line": "entry"' in line)],
    "no first line": lambda mine: mine[1:],
    "an older format": lambda mine: [mine[0].replace(b'"format": 3', b'"format": 2'), *mine[1:]],
    "a newer format": lambda mine: [mine[0].replace(b'"format": 3', b'"format": 4'), *mine[1:]],
    "nothing": lambda mine: [],
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_import_names_the_line_and_changes_nothing(store, fault):
    alice = store.for_user(ALICE)
    mine = lines(alice)
    alice.forget()
    generation = store.generation
    with pytest.raises(DataError, match=r"^import:\d+: "):
        alice.restore(BROKEN[fault](mine))
    assert store.generation == generation and alice.list().total == 0
    alice.restore(mine)
    assert lines(alice) == mine


# --- the file --------------------------------------------------------------------------------------------------------


def test_tables_are_strict_and_every_write_increases_the_generation(store, path):
    with sqlite3.connect(path) as raw:
        made = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL").fetchall()
    assert made and all("STRICT" in sql for _, sql in made)
    alice, seen = store.for_user(ALICE), [store.generation]
    note = alice.add("one")
    seen.append(store.generation)
    alice.update(note.id, "two")
    seen.append(store.generation)
    alice.delete(note.id)
    seen.append(store.generation)
    alice.remember(next(iter(shop().items.values())), 4.0)
    seen.append(store.generation)
    assert seen == sorted(set(seen))
    alice.get(alice.list().rows[0].id), alice.search("mug")
    assert store.generation == seen[-1]


def test_every_write_increases_the_generation_of_its_user_only(store):
    """Summaries made outside a transaction rely on it."""
    alice, item = store.for_user(ALICE), next(iter(shop().items.values()))
    others = store._rows("SELECT user, generation FROM person WHERE user != ?", (ALICE,))
    note, seen = alice.add("one").id, [alice._person()[0]]
    alice.update(note, "two")
    seen.append(alice._person()[0])
    alice.delete(note)
    seen.append(alice._person()[0])
    record = alice.remember(item, 4.0).id
    seen.append(alice._person()[0])
    alice.delete(record)
    seen.append(alice._person()[0])
    assert seen == sorted(set(seen))
    assert store._rows("SELECT user, generation FROM person WHERE user != ?", (ALICE,)) == others


def test_every_read_uses_the_index_on_the_user(store):
    """No statement that reads people's rows scans a table."""
    statements = []
    store._connection.set_trace_callback(statements.append)
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.search("mug"), alice.list(), alice.history(), alice.get(note.id), alice.why(note.id, "tea")
    alice.update(note.id, "likes coffee"), alice.remember(list(shop().items.values())[4], 5.0, "fine")
    store._connection.set_trace_callback(None)
    read = [
        one for one in statements if any(f" {t} " in f"{one} " for t in module.PERSONAL) and one.startswith("SELECT")
    ]
    assert len(read) > 5
    for statement in read:
        plan = " ".join(row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "user=?" in plan and "SCAN" not in plan, (statement, plan)


def test_a_missing_or_broken_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="mrrec memory build"):
        Store.open(tmp_path / "memory.db")
    (tmp_path / "memory.db").write_bytes(b"not a database at all, only some text that is long enough" * 50)
    with pytest.raises(DataError, match=r"memory\.db: not a store"):
        Store.open(tmp_path / "memory.db")
    (tmp_path / "empty.db").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.db"):
        Store.open(tmp_path / "empty.db")


BUILD_AGAIN = "; remove the file and build the store again"


@pytest.mark.parametrize(("found", "advice"), [("5", "$"), ("3", BUILD_AGAIN), ("1", BUILD_AGAIN)])
def test_another_format_is_refused(path, found, advice):
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = ? WHERE key = 'format'", (found,))
    with pytest.raises(DataError, match=f"a store of format '{found}', and this version of mrrec_mini reads 4{advice}"):
        Store.open(path)


def test_vectors_of_another_embedder_are_refused_with_the_command_that_helps(path):
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = 'lsa-16-other' WHERE key = 'embedder'")
    with pytest.raises(DataError, match=r"made by lsa-16-other.*mrrec memory reindex --store"):
        Store.open(path)
    assert module.reindex(path) > 100
    with Store.open(path) as store:
        assert entries(store.for_user(ALICE)) == memory().entries(as_of_now(ALICE))


# ---- kept indexes, the log of refusals, file modes, read-only places, backups


def reads_of_entries(store: Store, question) -> int:
    """How many statements read people's entries while `question()` is answered."""
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)
    question()
    store._connection.set_trace_callback(None)
    return sum("FROM entry" in one for one in statements)


def test_an_index_is_kept_while_its_user_writes_nothing(store, path):
    alice, bob = store.for_user(ALICE), store.for_user(BOB)
    assert reads_of_entries(store, lambda: alice.search("mug")) == 1
    bob.add("somebody else writes")
    with Store.open(path) as other:
        other.for_user(BOB).add("in another process, too")
    assert reads_of_entries(store, lambda: (alice.search("mug"), store.for_user(ALICE).search("lamp"))) == 0
    assert bob.search("process", 1)[0][0].user == BOB and alice.search("process", 99) != bob.search("process", 99)


@pytest.mark.parametrize("same_process", [True, False])
def test_an_index_ends_with_the_generation_of_its_user(store, path, same_process):
    alice, found = store.for_user(ALICE), lambda: [one.text for one in store.for_user(ALICE).entry_index().entries]
    with Store.open(path) as other:
        writer = (store if same_process else other).for_user(ALICE)
        note = writer.add("canary sings")
        assert "canary sings" in found()
        writer.update(note.id, "canary is silent")
        assert "canary is silent" in found() and "canary sings" not in found()
        writer.delete(note.id)
        assert not any("canary" in text for text in found())
        writer.remember(next(iter(shop().items.values())), 4.0, "canary again")
        assert any("canary again" in text for text in found())
        writer.forget()
        assert found() == [] and ALICE not in store.kept and alice.search("canary") == ()


@pytest.mark.parametrize("life", ["add", "restore"])
def test_a_user_who_was_forgotten_elsewhere_and_is_back_gets_no_old_index(store, path, life):
    """However many writes the second life has, it reaches no generation of the first one."""
    person = store.for_user("eve")
    person.add("a secret of before")
    assert person.search("secret")
    generation, exported = person._person()[0], [line.replace(b"secret", b"matter") for line in lines(person)]
    with Store.open(path) as other:
        other.for_user("eve").forget()
        if life == "add":
            other.for_user("eve").add("a new matter")
        else:
            other.for_user("eve").restore(exported)
        assert abs(other.for_user("eve")._person()[0] - generation) > 1000
    assert "secret" not in " ".join(one.text for one in person.entry_index().entries)


def test_few_indexes_are_kept_and_only_of_known_users(store):
    users = shop().users()
    for user in [*users[: module.KEPT], "nobody", users[0], *users[module.KEPT : 2 * module.KEPT - 1]]:
        store.for_user(user).search("mug")
    assert list(store.kept) == [users[0], *users[module.KEPT : 2 * module.KEPT - 1]]  # the last used ones


def test_the_log_of_refusals_keeps_the_newest(store, monkeypatch):
    monkeypatch.setattr(module, "AUDIT_ROWS", 3)
    for user, refusals in ((BOB, 2), (ALICE, 7)):
        for number in range(refusals):
            with pytest.raises(NotYours):
                store.for_user(user).get(f"no/{number}")
    logged = store._rows("SELECT user, asked FROM audit ORDER BY user, number")
    assert logged == [(u, digest(f"no/{n}")) for u, numbers in ((ALICE, (4, 5, 6)), (BOB, (0, 1))) for n in numbers]
    assert store.for_user(ALICE).stats()["refused"] == 3


def test_a_store_its_log_and_its_backup_are_for_their_owner_only(tmp_path):
    before = os.umask(0)
    try:
        build_store(tmp_path / "memory.db", shop(), memory())
        with Store.open(tmp_path / "memory.db") as store:
            store.for_user(ALICE).add("likes tea")
            module.backup(tmp_path / "memory.db", tmp_path / "copy.db")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["memory.db", "memory.db-wal", "memory.db-shm", "copy.db"], 0o600)


def test_a_backup_holds_the_newest_note(store, path, tmp_path):
    """A copy of the file alone would not: the note is still in the log."""
    note = store.for_user(ALICE).add("canary was here")
    assert b"canary" not in path.read_bytes()
    size = module.backup(path, tmp_path / "copy.db")
    assert sorted(tmp_path.glob("copy.db*")) == [tmp_path / "copy.db"] and not list(tmp_path.glob(".copy*"))
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "copy.db").rename(tmp_path / "moved" / "memory.db")
    assert moved.stat().st_size == size
    with Store.open(moved) as copy:
        assert copy.for_user(ALICE).get(note.id) == note
        assert [lines(copy.for_user(user)) for user in shop().users()] == [
            lines(store.for_user(user)) for user in shop().users()
        ]
        copy.for_user(ALICE).add("and can be written")
    for taken in (path, moved):
        with pytest.raises(ValueError, match="already exists"):
            module.backup(path, taken)


READS = """
import sys
from pathlib import Path
from mrrec_mini.store import Store
with Store.open(Path(sys.argv[1])) as store:
    user = store.for_user(sys.argv[2])
    print([one.text for one in user.list().rows if "canary" in one.text], len(user.search("mug", 2)))
    try:
        user.get("not/mine")
    except LookupError:
        print("refused")
    user.add("does not work")
"""


def obey_modes() -> None:
    """Let a process of root, once it has started, obey the modes of files, as other users do."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.fixture
def locked(path):
    """locked("", "-wal"): what a process reads of the store and its log, copied to a folder where it cannot write."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "read only #1?"
        folder.mkdir()

        def read(*suffixes: str) -> subprocess.CompletedProcess:
            folder.chmod(0o755)
            for suffix in suffixes:
                folder.joinpath(path.name + suffix).unlink(missing_ok=True)
                shutil.copy(path.with_name(path.name + suffix), folder)
            for file in folder.iterdir():
                file.chmod(0o444)
            folder.chmod(0o555)
            env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            command = [sys.executable, "-c", READS, folder / path.name, ALICE]
            options = dict(env=env, capture_output=True, encoding="utf-8", preexec_fn=obey_modes)
            return subprocess.run(command, **options)

        yield read
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to let root obey the modes of files")
def test_a_store_on_a_read_only_place_is_read(path, locked):
    with Store.open(path) as store:
        store.for_user(ALICE).add("canary")
    done = locked("")
    assert done.stdout == "['canary'] 2\nrefused\n", done.stderr
    assert "OSError" in done.stderr and "nothing was changed" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to let root obey the modes of files")
def test_on_a_read_only_place_the_log_is_read_or_asked_for(store, locked):
    """The newest note is in the log. Reading the file without it would give an older memory without a word."""
    store.for_user(ALICE).add("canary")
    done = locked("", "-wal")
    assert done.stdout == "" and "its newest writes are in memory.db-wal" in done.stderr.splitlines()[-1]
    assert locked("", "-wal", "-shm").stdout == "['canary'] 2\nrefused\n"
