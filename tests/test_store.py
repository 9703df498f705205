"""The store: what is written is read, by its owner alone; what is forgotten is gone; what grows is as if built anew."""

import json
import sqlite3
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mrrec_mini import store as module
from mrrec_mini.app.assistant import as_of_now
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Interaction
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import (
    Aspect,
    Memory,
    MemoryConfig,
    common_words,
    global_entries,
    join,
    local_entries,
    plain,
    sample_contrasts,
)
from mrrec_mini.store import Changed, NotYours, Store, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import WorldConfig, make_world

SMALL = WorldConfig(users=60, items=240, categories=4, held=1, history=10, queries=1, seed=3)


@cache
def shop() -> Dataset:
    return make_world(SMALL)


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def learned_from(dataset: Dataset) -> Memory:
    """50 of the 60 people train."""
    users = shop().users()[:50]
    return Memory.build(dataset, users, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(dims=16), draws())


@cache
def memory() -> Memory:
    return learned_from(shop())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("built") / "memory.db"
    build_store(path, shop(), memory(), now=lambda: 5)
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


def lines(scope) -> list[bytes]:
    return [line.encode() for line in scope.export()]


def whole(path: Path) -> bytes:
    """Everything that lies in the file and beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


# --- built, it is the memory --------------------------------------------------------------------------------------


def test_a_built_store_holds_what_memory_holds_and_finds_what_memory_finds(store):
    for user in shop().users():
        query = as_of_now(user)
        assert store.for_user(user).entries() == memory().entries(query)
        for text in ("mug price", "luxury", "nothing of the kind", "overall size small"):
            assert tuple(f.entry for f in store.for_user(user).search(text, 4)) == memory().search(query, text, 4)
    assert store.shared_entries() == memory().global_entries and store.shared_entries()
    for text in ("mug", "lamp for hiking"):
        assert store.search_shared(text, 5) == memory().search_global(text, 5)


def test_it_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_store(tmp_path / "memory.db", shop(), memory())
    assert list(tmp_path.iterdir()) == []


def test_it_is_not_written_over(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        build_store(path, shop(), memory())
    assert path.read_bytes() == before


# --- the verbs ----------------------------------------------------------------------------------------------------


def test_a_note_is_found_and_the_same_text_twice_is_one(store):
    alice = store.for_user(ALICE)
    before = alice.list().total
    note = alice.add("allergic to wool")
    assert (note.user, note.level, note.text) == (ALICE, "note", "allergic to wool")
    assert alice.add("allergic to wool") == note == alice.get(note.id)
    assert alice.list().total == before + 1
    assert alice.search("wool", 1)[0].entry == note
    assert alice.add("allergic to silk").id != note.id


def test_a_number_is_not_given_twice(store):
    alice = store.for_user(ALICE)
    gone = alice.add("first")
    alice.delete(gone.id)
    assert alice.add("second").id != gone.id
    record = alice.remember(next(iter(shop().items.values())), 5.0, "fine")
    alice.delete(record.id)
    assert alice.remember(next(iter(shop().items.values())), 5.0, "fine").id != record.id


def test_pages_say_how_much_there_is_and_go_on(store):
    alice = store.for_user(ALICE)
    everything = alice.list(limit=1000)
    assert not everything.truncated and everything.total == len(everything.rows) > 7
    rows, cursor = [], 0
    while cursor is not None:
        page = alice.list(limit=7, cursor=cursor)
        assert page.total == everything.total and len(page.rows) <= 7
        assert page.truncated == (len(rows) + len(page.rows) < page.total)
        rows, cursor = rows + list(page.rows), page.cursor
    assert tuple(rows) == everything.rows
    exactly = alice.list(limit=everything.total)
    assert not exactly.truncated and exactly.cursor is None
    records = alice.list(level="record", limit=1000)
    assert {entry.level for entry in records.rows} == {"record"} and records.total < everything.total
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            alice.list(limit=limit)


def test_an_update_is_read_searched_and_told(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    changed = alice.update(note.id, "likes coffee")
    assert changed == replace(note, text="likes coffee") == alice.get(note.id)
    assert alice.search("coffee", 1)[0].entry == changed
    assert [(e.kind, e.old, e.new, e.at) for e in alice.history(note.id).rows] == [
        ("add", None, "likes tea", 7),
        ("update", "likes tea", "likes coffee", 7),
    ]
    assert alice.update(note.id, "likes coffee") == changed and alice.history(note.id).total == 2  # nothing changed


def test_an_update_of_what_has_changed_since_is_refused(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.update(note.id, "likes coffee", version=1)
    with pytest.raises(Changed, match="version 2"):
        alice.update(note.id, "likes milk", version=1)
    assert alice.get(note.id).text == "likes coffee"


def test_what_is_deleted_is_not_found_and_its_history_says_so(store):
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.delete(note.id)
    for verb in (alice.get, alice.delete, alice.why):
        with pytest.raises(LookupError):
            verb(note.id)
    assert all(found.entry.id != note.id for found in alice.search("tea", 100))
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


def test_why_names_the_records_and_what_a_search_saw(store):
    alice = store.for_user(ALICE)
    pattern = alice.list(level="pattern").rows[0]
    why = alice.why(pattern.id, pattern.text)
    assert [one["id"] for one in why["rests_on"]] == list(pattern.rests_on)
    assert all(one["text"] == alice.get(one["id"]).text for one in why["rests_on"])
    assert why["search"]["place"] == 1 and set(why["search"]["words_in_common"]) == set(pattern.text.split())
    assert alice.why(pattern.id)["search"] is None


# --- nobody reaches what is another's -----------------------------------------------------------------------------

VERBS = {  # everything that takes an id
    "get": lambda scope, identity: scope.get(identity),
    "update": lambda scope, identity: scope.update(identity, "mine now"),
    "delete": lambda scope, identity: scope.delete(identity),
    "history": lambda scope, identity: scope.history(identity),
    "why": lambda scope, identity: scope.why(identity, "canary"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_foreign_id_is_answered_as_an_unknown_one(store, verb):
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
    """Eq. (6) by somebody who tells everything: each word of a review, and of the titles that it was compared with."""

    def aspects(self, contrasts):
        return [
            Aspect(plain(contrast.bought.scenario), word, frozenset({contrast.bought.user}))
            for contrast in contrasts
            for text in (contrast.bought.review, *(item.title for item in contrast.unchosen))
            for word in plain(text).split()
        ]


@pytest.mark.parametrize("verb", VERBS)
def test_who_asks_for_what_is_not_theirs_is_kept_as_their_own_and_changes_nothing(store, verb):
    secret, alice = store.for_user(BOB).add("canarybob").id, store.for_user(ALICE)
    asked = [secret, "u000002/note/77", "x" * 10_000]
    before = lines(alice), lines(store.for_user(BOB)), store.generation, alice.history()
    for identity in asked:
        with pytest.raises(NotYours):
            VERBS[verb](alice, identity)
    kept = [{"line": "audit", "verb": verb, "asked": identity[:200], "at": 7} for identity in asked]
    assert [json.loads(line) for line in lines(alice)[len(before[0]) :]] == kept and alice.stats()["refused"] == 3
    assert (lines(alice)[: len(before[0])], lines(store.for_user(BOB)), store.generation, alice.history()) == before
    assert store.for_user(BOB).stats()["refused"] == 0
    assert alice._generation() == 1  # what was worked out from Alice's rows is as good as before
    VERBS[verb](store.for_user(BOB), secret)  # one's own is nothing to keep
    assert store.for_user(BOB).stats()["refused"] == 0
    assert alice.forget() and alice.stats()["refused"] == 0 and b"x" * 200 not in whole(store.path)


def test_no_verb_changes_a_row_of_somebody_else(store, path):
    """Alice has what Bob has: the same items at the same places, notes with the same numbers."""
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


def test_an_item_that_is_met_again_is_as_it_was_met_last(store):
    alice, bob, item = store.for_user(ALICE), store.for_user(BOB), next(iter(shop().items.values()))
    for scope in (alice, bob):
        scope.remember(item, 5.0)
    alice.remember(replace(item, title="another title"), 5.0)
    assert [one.item.title for one in alice.purchases() if one.item.id == item.id] == ["another title"] * 2
    assert bob.purchases()[-1].item == item


def test_with_the_last_record_of_an_item_goes_the_item(store):
    alice, item = store.for_user(ALICE), replace(next(iter(shop().items.values())), id="canaryitem")
    one, other = (alice.remember(item, 5.0, "fine").id for _ in range(2))
    alice.delete(one)
    assert any(b'"id": "canaryitem"' in line for line in lines(alice))
    alice.delete(other)
    assert not any(b'"id": "canaryitem"' in line for line in lines(alice))


def test_an_import_changes_nobody_else_s_items(store):
    """Alice and Bob bought the same thing; Bob takes in a file in which he wrote another title for it."""
    alice, bob, item = store.for_user(ALICE), store.for_user(BOB), next(iter(shop().items.values()))
    for scope in (alice, bob):
        scope.remember(item, 5.0, "fine")
    mine, before = lines(bob), lines(alice)
    bob.forget()
    bob.restore([line.replace(item.title.encode(), b"canary title") for line in mine])
    assert bob.purchases()[-1].item.title == "canary title" and alice.purchases()[-1].item == item
    assert lines(alice) == before


def test_an_import_that_rests_on_somebody_else_s_record_is_not_shown_it(store):
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
def test_no_verb_ever_shows_a_word_of_somebody_else(built, tmp_path_factory, names, data):
    """Each user says a word of their own; whatever anybody then does, nobody is shown another one's word."""
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
                mine.entries(),
            ]
            shown += list(mine.export())
            other = data.draw(st.sampled_from([n for n in names if n != name]))
            for verb in VERBS.values():
                with pytest.raises(NotYours) as error:
                    verb(mine, ids[other])
                shown.append(str(error.value))
            assert mine.stats()["refused"] == refused + len(VERBS)
            shown += [*mine.export(), mine.history(limit=100), mine.stats()]
            said = repr(shown)
            assert words[name] in said
            assert not [w for owner, w in words.items() if owner != name and w in said]
        assert [store.for_user(name).get(ids[name]).text for name in names] == [f"said {words[name]}" for name in names]
        store.summarizer = TellTale(store.summarizer.config, store.summarizer.reading)
        assert "canary" not in repr(store.rebuild_global(draws(), shop().items.values()))
        for name in names[1:]:
            store.for_user(name).forget()
        assert words[names[0]] in repr(store.for_user(names[0]).list(limit=100))
    left = whole(file)
    assert words[names[0]].encode() in left
    assert not [word for word in list(words.values())[1:] if word.encode() in left]


def test_a_word_that_few_people_say_is_not_learned():
    said = [["mug canary"], ["mug lamp"], ["mug lamp lamp"]]
    assert common_words(said, 3) == ["mug", "mug", "mug"]
    assert common_words(said, 2) == ["mug", "mug lamp", "mug lamp lamp"]
    assert common_words(said, 1) == ["mug canary", "mug lamp", "mug lamp lamp"]


def test_forgetting_leaves_no_byte_of_a_person_whose_own_words_taught_the_store(tmp_path):
    """The canary is in a review of a train user, so everything that is learned has seen it. Another is said of luxury
    and of nothing else, often enough to be learned as a word for it, were it not one person's."""
    data = shop()
    luxury = [item for item in data.items.values() if item.attributes["price"] == ("luxury",)][:12]
    secret = [
        Interaction(ALICE, m.item, m.time, m.rating, f"{m.review} canaryword") for m in data.interactions_of(ALICE)
    ]
    secret += [Interaction(ALICE, item.id, n, 5.0, "canaryluxury") for n, item in enumerate(luxury)]
    others = [m for m in data.interactions if m.user != ALICE]
    told = Dataset(data.items, tuple(sorted(others + secret, key=lambda m: (m.user, m.time))), data.queries, data.meta)
    learned = Memory.build(
        told, told.users(), MemoryConfig(), ExtractiveSummarizer(), HybridConfig(dims=16), np.random.default_rng(0)
    )
    path = tmp_path / "memory.db"
    build_store(path, told, learned)
    assert b"canaryword" in path.read_bytes() and b"canaryluxury" in path.read_bytes()
    with Store.open(path) as store:
        store._connection.execute("PRAGMA secure_delete = OFF")  # some builds of SQLite have it on, most do not
        store.for_user(ALICE).add("canarynote")
        store.for_user(ALICE).search("canaryword")
        assert store.for_user(ALICE).forget() > 0
        assert store.for_user(ALICE).list().total == store.for_user(ALICE).history().total == 0
        for secret_word in (b"canaryword", b"canaryluxury", b"canarynote", ALICE.encode()):
            assert secret_word not in whole(path)  # while it is still open, log and all
        assert store.for_user(BOB).entries() == learned.entries(as_of_now(BOB))


# --- remembering ---------------------------------------------------------------------------------------------------


def as_if_built(scope) -> set:
    """What eq. 1 makes of this user's behaviour from scratch: all but the notes."""
    return set(local_entries(scope.purchases(), scope.store.summarizer, scope.store.config))


def test_one_purchase_more_is_as_if_all_had_been_built_anew(store):
    alice, items = store.for_user(ALICE), list(shop().items.values())
    for number, review in ((4, "love that it is small"), (9, "sadly luxury"), (5, ""), (4, "so soft")):
        alice.remember(items[number], 5.0 - number % 3, review)
        assert set(alice.entries()) == as_if_built(alice)


def test_only_its_category_and_the_profile_are_summarised_again(path):
    asked = []

    class Counting(ExtractiveSummarizer):
        def patterns(self, purchases):
            asked.append({one.scenario for one in purchases})
            return super().patterns(purchases)

    counting = Counting(memory().summarizer.config, memory().summarizer.reading)
    with Store.open(path, summarizer=counting) as store:
        item = list(shop().items.values())[4]
        store.for_user(ALICE).remember(item, 5.0, "fine")
    assert asked == [{item.category[-1]}]


def test_a_line_corrected_by_hand_stays_when_its_category_is_written_anew(store):
    alice = store.for_user(ALICE)
    line = alice.list(level="pattern").rows[0]
    alice.update(line.id, "this is what I said")
    item = next(one for one in shop().items.values() if one.category[-1] == line.scenario)
    alice.remember(item, 5.0, "fine")
    assert alice.get(line.id).text == "this is what I said"


def test_with_a_record_goes_what_it_says(store):
    alice = store.for_user(ALICE)
    before = set(alice.entries())
    item = list(shop().items.values())[4]
    record = alice.remember(item, 5.0, "love that it is small")
    assert set(alice.entries()) != before
    alice.delete(record.id)
    assert set(alice.entries()) == before and all(record.id not in entry.rests_on for entry in alice.entries())


@pytest.mark.parametrize("rating", [float("nan"), float("inf"), 0.0, 5.5, -1.0])
def test_a_rating_that_is_none_is_refused(store, rating):
    before = lines(store.for_user(ALICE))
    with pytest.raises(DataError, match="rating"):
        store.for_user(ALICE).remember(next(iter(shop().items.values())), rating, "")
    assert lines(store.for_user(ALICE)) == before


class Growing(RuleBasedStateMachine):
    """Whatever is added, updated and deleted, in any order: the index that a search uses is one built anew."""

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

    @rule(number=st.integers(0, 30), rating=st.sampled_from([1.0, 3.0, 5.0]), review=st.sampled_from(["so small", ""]))
    def remember(self, number, rating, review):
        self.records.append(self.scope.remember(list(shop().items.values())[number], rating, review).id)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def delete_a_record(self, data):
        identity = data.draw(st.sampled_from(self.records))
        self.scope.delete(identity)
        self.records.remove(identity)

    @rule(verb=st.sampled_from(sorted(VERBS)), identity=st.sampled_from(["nobody/note/0", "😀 ' --", "x" * 999]))
    def ask_for_what_is_not_there(self, verb, identity):
        with pytest.raises(NotYours):
            VERBS[verb](self.scope, identity)

    @rule()
    def forget(self):
        self.scope.forget()
        self.notes, self.records = {}, []
        assert self.scope.stats()["events"] == self.scope.stats()["refused"] == 0

    @invariant()
    def is_as_built_anew(self):
        if not hasattr(self, "scope"):
            return
        entries = self.scope.entries()
        assert {e.id: e.text for e in entries if e.level == "note"} == self.notes
        assert {e for e in entries if e.level != "note"} == as_if_built(self.scope)
        in_order = self.scope.list(limit=1000).rows
        fresh = module.EntryIndex(in_order, self.store.space)
        for text in ("mug small", "lamp"):
            found = self.scope.search(text, 5)
            assert [(f.entry, f.hit) for f in found] == list(fresh.find_many([text], 5)[0])

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


# --- the global memory, made anew ----------------------------------------------------------------------------------


def taught(*people: tuple[str, str]) -> tuple[Dataset, Memory]:
    """The shop where some people add a word to every review, and what its training users teach."""
    added = dict(people)
    said = [replace(met, review=f"{met.review} {added.get(met.user, '')}") for met in shop().interactions]
    told = Dataset(shop().items, tuple(said), (), {})  # no queries: nothing that a training user did is hidden
    return told, learned_from(told)


def test_the_training_users_of_the_split_are_who_may_teach(store, path):
    store.for_user("somebody").remember(next(iter(shop().items.values())), 5.0)
    mine = lines(store.for_user(ALICE))
    store.for_user(ALICE).forget()
    store.for_user(ALICE).restore(mine)  # a file may be written by anybody
    with sqlite3.connect(path) as raw:
        teachers = {user for (user,) in raw.execute("SELECT user FROM person WHERE teaches = 1")}
        assert teachers == set(shop().users()[:50]) - {ALICE}
        assert raw.execute("SELECT count(*) FROM person WHERE teaches = 0").fetchone() == (12,)


def test_a_fresh_store_made_anew_with_the_same_draws_is_the_same(tmp_path):
    told, learned = taught()
    build_store(tmp_path / "memory.db", told, learned)
    with Store.open(tmp_path / "memory.db") as store:
        [before] = {tuple(store._shared())}
        for _ in range(2):
            assert store.rebuild_global(draws(), told.items.values()) == learned.global_entries != ()
            assert tuple(store._shared()) == before  # vectors too
        assert store.search_shared("mug", 5) == learned.search_global("mug", 5)


def test_what_is_made_anew_has_seen_all_that_training_users_did_until_now(store):
    """With queries: also what came after the first one, the targets among it."""
    met = {user: shop().interactions_of(user) for user in shop().users()[:50]}
    item = list(shop().items.values())[4]
    store.for_user(ALICE).remember(item, 5.0, "so small", at=99)
    met[ALICE] += (Interaction(ALICE, item.id, 99, 5.0, "so small"),)
    contrasts = sample_contrasts(
        [join(shop(), those) for those in met.values()], shop().items.values(), store.config, draws()
    )
    wanted = global_entries(store.summarizer, contrasts, store.config)
    heard = listening(store)
    assert store.rebuild_global(draws(), shop().items.values()) == wanted == store.shared_entries() != ()
    assert heard == [contrasts] and any(one.bought.user == ALICE for one in contrasts)


class Listening(ExtractiveSummarizer):
    """Keeps the contrasts, and may do something before it answers."""

    def aspects(self, contrasts):
        self.heard.append(contrasts)
        if len(self.heard) == 1 and self.meanwhile:
            self.meanwhile()
        return super().aspects(contrasts)


def listening(store, meanwhile=None) -> list:
    store.summarizer = Listening(store.summarizer.config, store.summarizer.reading)
    object.__setattr__(store.summarizer, "meanwhile", meanwhile)
    object.__setattr__(store.summarizer, "heard", [])
    return store.summarizer.heard


def test_there_is_to_choose_from_what_training_users_bought_or_the_data_set_has(store):
    rare = replace(next(iter(shop().items.values())), id="rare", title="canary rare")
    store.for_user("u000059").remember(rare, 5.0)  # who does not train
    bought = {one.item.id for user in shop().users()[:50] for one in store.for_user(user).purchases()}
    heard = listening(store)
    store.rebuild_global(draws())
    store.rebuild_global(draws(), shop().items.values())
    among_bought, among_all = ({item.id for one in those for item in one.unchosen} for those in heard)
    assert among_bought <= bought and among_all - bought and among_all <= set(shop().items)
    assert {one.bought.user for one in heard[1]} <= set(shop().users()[:50])


def test_what_a_training_user_did_meanwhile_is_seen_and_what_others_did_does_not_hold_it_up(store, path):
    item = next(iter(shop().items.values()))
    with Store.open(path) as other:
        heard = listening(store, lambda: other.for_user(ALICE).remember(item, 5.0, "meanwhile"))
        entries = store.rebuild_global(draws(), shop().items.values())
        again = listening(store, lambda: other.for_user("somebody").remember(item, 5.0, "meanwhile"))
        assert store.rebuild_global(draws(), shop().items.values()) == entries  # the same draws on the second try
        gone = listening(store, lambda: other.for_user(ALICE).forget())
        store.rebuild_global(draws(), shop().items.values())
    assert [len(those) for those in (heard, again, gone)] == [2, 1, 2]
    seen = [{one.bought.user for one in those} for those in (*heard, *again, *gone)]
    assert [ALICE in users for users in seen] == [False, True, True, True, False]  # she had liked nothing before


def test_what_fewer_than_enough_training_users_say_is_not_global_and_goes_with_them(tmp_path):
    """Three say one word, two another; a third who says that one does not train."""
    train, later = shop().users()[:50], shop().users()[50:]
    told, learned = taught(
        *((user, "canarythree") for user in train[:3]), *((user, "canarytwo") for user in train[3:5])
    )
    build_store(tmp_path / "memory.db", told, learned)
    with Store.open(tmp_path / "memory.db") as store:
        store.summarizer = TellTale(store.summarizer.config, store.summarizer.reading)
        mug = next(item for item in shop().items.values() if item.id == told.interactions_of(train[3])[0].item)
        for user in (*train[:5], *later[:3]):  # in one category, or there would not be three of them in any
            word = "canarythree" if user in train[:3] else "canarytwo" if user in train else "canarylater"
            store.for_user(user).remember(mug, 5.0, f"fine {word}")
            store.for_user(later[4]).remember(mug, 5.0, "canarytwo")

        def made() -> str:
            return repr(store.rebuild_global(draws(), told.items.values()))

        before = made()
        assert "canarythree" in before and "canarytwo" not in before and "canarylater" not in before
        for user in later:
            store.for_user(user).remember(mug, 1.0, "canarythree")
            store.for_user(user).add("canarythree")
        assert made() == before  # who does not train changes nothing
        store.for_user(later[0]).forget()
        assert made() == before
        store.for_user(train[0]).forget()
        after = made()
        assert after != before and "canarythree" not in after
        assert store.shared_entries() and "canarythree" not in repr(store.shared_entries())
        for user in train:
            store.for_user(user).forget()
        assert made() == "()" and store.shared_entries() == ()


# --- taking along --------------------------------------------------------------------------------------------------


def test_an_export_taken_in_elsewhere_is_the_same_byte_for_byte(store, tmp_path):
    alice = store.for_user(ALICE)
    note = alice.add('quotes " and \u2028 and 😀 and \\ and </memory><m1>')
    alice.update(note.id, "other")
    alice.remember(list(shop().items.values())[4], 2.0, "too small for me")
    alice.delete(alice.add("gone").id)
    mine, entries = lines(alice), alice.entries()
    build_store(tmp_path / "other.db", Dataset(shop().items, (), (), {}), memory())
    with Store.open(tmp_path / "other.db", now=lambda: 99) as other:
        counts = other.for_user(ALICE).restore(mine)
        assert lines(other.for_user(ALICE)) == mine and other.for_user(ALICE).entries() == entries
        assert sum(counts.values()) + 1 + sum(b'"line": "item"' in line for line in mine) == len(mine)
        assert [f.entry for f in other.for_user(ALICE).search("small", 5)] == [
            f.entry for f in alice.search("small", 5)
        ]
        # and what comes after comes as it would have come
        item = list(shop().items.values())[8]
        assert other.for_user(ALICE).remember(item, 5.0, "fine") == alice.remember(item, 5.0, "fine")
        assert other.for_user(ALICE).entries() == alice.entries()


def test_an_import_is_for_who_exported_and_for_who_has_nothing(store):
    alice = lines(store.for_user(ALICE))
    with pytest.raises(DataError, match=r"import:1: user: an export of 'u000001', not of 'u000002'"):
        store.for_user(BOB).restore(alice)
    with pytest.raises(ValueError, match="has memories here already"):
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
    "a column of somebody's own": field("x) VALUES (1); DROP TABLE entry; --", 1),
    "a user in a line": field("user", BOB),
    "a number as text": field("support", "many"),
    "a text as number": field("text", [1]),
    "twice the same id": lambda mine: [*mine, next(line for line in mine if b'"line": "entry"' in line)],
    "no first line": lambda mine: mine[1:],
    "another format": lambda mine: [mine[0].replace(b'"format": 2', b'"format": 3'), *mine[1:]],
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


def test_tables_are_strict_and_every_write_raises_the_generation(store, path):
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


def test_every_write_raises_the_generation_of_its_user_alone(store):
    """What is summarised outside a transaction goes by it."""
    alice, item = store.for_user(ALICE), next(iter(shop().items.values()))
    others = store._rows("SELECT user, generation FROM person WHERE user != ?", (ALICE,))
    note, seen = alice.add("one").id, [alice._generation()]
    alice.update(note, "two")
    seen.append(alice._generation())
    alice.delete(note)
    seen.append(alice._generation())
    record = alice.remember(item, 4.0).id
    seen.append(alice._generation())
    alice.delete(record)
    seen.append(alice._generation())
    assert seen == sorted(set(seen))
    assert store._rows("SELECT user, generation FROM person WHERE user != ?", (ALICE,)) == others


def test_a_search_looks_at_the_rows_of_its_user_alone(store):
    """The plan of every statement that reads people's rows goes by the index on user."""
    asked = []
    store._connection.set_trace_callback(asked.append)
    alice = store.for_user(ALICE)
    note = alice.add("likes tea")
    alice.search("mug"), alice.list(), alice.history(), alice.get(note.id), alice.why(note.id, "tea")
    alice.update(note.id, "likes coffee"), alice.remember(list(shop().items.values())[4], 5.0, "fine")
    store._connection.set_trace_callback(None)
    read = [one for one in asked if any(f" {t} " in f"{one} " for t in module.PERSONAL) and one.startswith("SELECT")]
    assert len(read) > 5
    for statement in read:
        plan = " ".join(row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "user=?" in plan and "SCAN" not in plan, (statement, plan)


def test_a_store_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="mrrec memory build"):
        Store.open(tmp_path / "memory.db")
    (tmp_path / "memory.db").write_bytes(b"not a database at all, only some text that is long enough" * 50)
    with pytest.raises(DataError, match=r"memory\.db: not a store"):
        Store.open(tmp_path / "memory.db")
    (tmp_path / "empty.db").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.db"):
        Store.open(tmp_path / "empty.db")


def test_another_format_is_named_beside_ours(path):
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = '3' WHERE key = 'format'")
    with pytest.raises(DataError, match="format '3', and this version of mrrec_mini reads 2"):
        Store.open(path)


def test_vectors_of_another_embedder_are_refused_with_the_command_that_mends_it(path):
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = 'lsa-16-other' WHERE key = 'embedder'")
    with pytest.raises(DataError, match=r"are of lsa-16-other.*mrrec memory reindex --store"):
        Store.open(path)
    assert module.reindex(path) > 100
    with Store.open(path) as store:
        assert store.for_user(ALICE).entries() == memory().entries(as_of_now(ALICE))
