"""Forgetting: it says what it did with readers open and a failing disk, and leaves no byte of the person."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from house import ROOT
from mrrec_mini import environment_on_disk, index_on_disk
from mrrec_mini import store as module
from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.environment import Environment
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.models.causal_lm import WORD
from mrrec_mini.recipe import make_tokenizer
from mrrec_mini.store import Store, StoreBusy, Unerased, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import WorldConfig, make_world
from runs import mrrec, no_file_larger_than, refused

SHOP = WorldConfig(users=12, items=60, categories=4, held=1, history=6, queries=2)
EVE = "canaryuser"
DELETED, IN_USE = "all rows of 'canaryuser' are deleted, but not yet erased", "still uses the store; wait until it ends"
CHEAP = HybridConfig(dims=8)


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def all_bytes(folder: Path) -> bytes:
    """Return the bytes and the names of all files in a folder and its subfolders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path, data = tmp_path_factory.mktemp("built") / "memory.db", make_world(SHOP)
    memory = Memory.build(data, data.users(), MemoryConfig(), ExtractiveSummarizer(), CHEAP, draws())
    build_store(path, data, memory)
    with Store.open(path) as store:
        store.for_user(EVE).add("canarynote " * 2000)  # more than a page
    return path


@pytest.fixture
def path(built, tmp_path):
    return Path(shutil.copy(built, tmp_path / "memory.db"))


@pytest.fixture(autouse=True)
def deleted_bytes_stay(monkeypatch):
    """Some builds of SQLite overwrite deleted rows by themselves, most do not."""
    connect = module._connect

    def connected(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(module, "_connect", connected)


# --- readers --------------------------------------------------------------------------------------------------------

READER = """
import sqlite3, sys
reader = sqlite3.connect(sys.argv[1], isolation_level=None)
reader.execute("BEGIN")
reader.execute("SELECT count(*) FROM entry").fetchone()
print("reading", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def reader(path):
    """A process that reads the store until its stdin is closed."""
    command = [sys.executable, "-c", READER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    yield process
    process.communicate()


def test_with_a_reader_forget_says_that_bytes_are_left_and_the_next_command_erases_them(path, reader, monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0.05)
    done = mrrec("memory", "forget-user", "--store", path, "--user", EVE, "--yes", "--json")
    told = refused(
        done,
        1,
        str(path),
        "all rows of 'canaryuser' are deleted, but not yet erased",
        "still uses the store",
        "wait until it ends",
    )
    if sys.platform == "linux":
        assert f"process {reader.pid} " in told
    assert b"canarynote" in all_bytes(path.parent)
    # while the reader lives, other commands work, wait for nothing, and cannot erase them either
    assert json.loads(mrrec("memory", "list", "--store", path, "--user", EVE, "--json").stdout)["total"] == 0
    refused(mrrec("memory", "forget-user", "--store", path, "--user", EVE, "--yes"), 1, "still uses the store")
    assert b"canarynote" in all_bytes(path.parent)
    reader.communicate()
    assert mrrec("memory", "list", "--store", path, "--user", "somebody", "--json").exit_code == 0
    assert b"canary" not in all_bytes(path.parent)


def test_a_reader_in_this_process_is_named_too(path, monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0.05)
    with sqlite3.connect(path, isolation_level=None) as other, Store.open(path) as store:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM entry").fetchone()
        with pytest.raises(Unerased, match=r"(this|another) process"):
            store.for_user(EVE).forget()
        other.execute("ROLLBACK")
        assert store.for_user(EVE).forget() == 0  # no row is left, but the bytes are erased
        assert b"canary" not in all_bytes(path.parent)
        assert [key for (key,) in store._rows("SELECT key FROM meta") if key == module.REMAINS] == []


def test_what_another_process_deleted_meanwhile_stays_noted(path, monkeypatch):
    """A note of remains is removed only by the process that erased after it was written."""
    with Store.open(path) as store, Store.open(path) as other:
        empty_log, calls = store._empty_log, []

        def meanwhile():
            empty_log()
            calls.append(1)
            if len(calls) == 2:  # after the copy
                with other._writing():
                    other._note_remains()

        monkeypatch.setattr(store, "_empty_log", meanwhile)
        store.for_user(EVE).forget()
        assert store._rows("SELECT count(*) FROM meta WHERE key = ?", (module.REMAINS,)) == [(1,)]
    with Store.open(path) as store:
        assert store._rows("SELECT count(*) FROM meta WHERE key = ?", (module.REMAINS,)) == [(0,)]


def test_an_open_that_cannot_erase_waits_for_nobody_and_keeps_its_patience(path, monkeypatch):
    with Store.open(path) as store:
        with store._writing():
            store._note_remains()
        monkeypatch.setattr(module, "WAIT", 0.25)
        with store._writing(), Store.open(path) as other:  # a writer keeps the file from being copied
            assert other._rows("PRAGMA busy_timeout") == [(250,)]
            assert other._rows("SELECT count(*) FROM meta WHERE key = ?", (module.REMAINS,)) == [(1,)]


# --- the disk -------------------------------------------------------------------------------------------------------


def test_on_a_full_disk_forget_says_that_bytes_are_left(path):
    with no_file_larger_than(path.stat().st_size // 2):
        done = mrrec("memory", "forget-user", "--store", path, "--user", EVE, "--yes")
    told = refused(
        done, 1, str(path), "all rows of 'canaryuser' are deleted, but not yet erased", "make room", "the next command"
    )
    assert "nothing was changed" not in told
    assert mrrec("memory", "list", "--store", path, "--user", EVE).exit_code == 0
    assert b"canary" not in all_bytes(path.parent)


FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static long calls, fail_at;
static int forever;
void arm(long at, int all_later) { calls = 0; fail_at = at; forever = all_later; }
long seen(void) { return calls; }
static int fails(int handle, int error) {
  char link[64], name[4096];
  if (!fail_at) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t n = readlink(link, name, sizeof name - 1);
  name[n < 0 ? 0 : n] = 0;
  if (!strstr(name, "memory.db") && !strstr(name, "etilqs_")) return 0;
  calls++;
  if (calls != fail_at && !(forever && calls > fail_at)) return 0;
  errno = error;
  return 1;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
ssize_t pwrite64(int f, const void *b, size_t n, off64_t o) {
  REAL(pwrite64); return fails(f, ENOSPC) ? -1 : real(f, b, n, o); }
ssize_t pwrite(int f, const void *b, size_t n, off_t o) {
  REAL(pwrite); return fails(f, ENOSPC) ? -1 : real(f, b, n, o); }
ssize_t write(int f, const void *b, size_t n) { REAL(write); return fails(f, ENOSPC) ? -1 : real(f, b, n); }
int ftruncate64(int f, off64_t n) { REAL(ftruncate64); return fails(f, EIO) ? -1 : real(f, n); }
int ftruncate(int f, off_t n) { REAL(ftruncate); return fails(f, EIO) ? -1 : real(f, n); }
int fsync(int f) { REAL(fsync); return fails(f, EIO) ? -1 : real(f); }
int fdatasync(int f) { REAL(fdatasync); return fails(f, EIO) ? -1 : real(f); }
"""
FORGETTING = """
import ctypes, json, shutil, sys
from pathlib import Path
from mrrec_mini.store import Store
source, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
library, canary = ctypes.CDLL(None), b"canarynote"
read = lambda: b"".join(file.read_bytes() for file in folder.iterdir())
for forever in (0, 1):
    at = 1
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = Path(shutil.copy(source, folder / "memory.db"))
        with Store.open(path) as store:
            store._connection.execute("PRAGMA secure_delete = OFF")  # as in most builds of SQLite
            library.arm(ctypes.c_long(at), forever)
            try:
                error = store.for_user("canaryuser").forget() and None
            except Exception as raised:
                error = [type(raised).__name__, str(raised)]
            failed = library.seen() >= at
            library.arm(ctypes.c_long(0), 0)
            rows, left = store.for_user("canaryuser").list().total, canary in read()
        Store.open(path).close()
        if not failed:
            break
        print(json.dumps([error, rows, left, canary in read()]))
        at += step
"""


def failures(path: Path, folder: Path, step: int) -> list:
    """Forget with each `step`-th write or flush of the store failing, once or from then on.

    Returns (error, rows left, bytes left, bytes left after the next `open`) of each try.
    """
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, to make writes fail")
    (folder / "failing.c").write_text(FAILING)
    library = folder / "failing.so"
    built = subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "failing.c", "-ldl"], check=False)
    if built.returncode:
        pytest.skip("the C compiler cannot make a library")
    command = [sys.executable, "-c", FORGETTING, str(path), str(folder / "tried"), str(step)]
    env = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def forget_told_the_truth(tried: list) -> None:
    for error, rows, left, left_later in tried:
        if error is None:
            assert rows == 0 and not left
        elif error[0] == "Unerased":
            assert rows == 0 and "are deleted, but not yet erased" in error[1] and "nothing was changed" not in error[1]
        else:
            assert rows == 1 and "nothing was changed" in error[1]
        assert rows or not left_later
    assert {error and error[0] for error, *_ in tried} >= {"Unerased", "OSError"}


def test_if_a_write_fails_forget_says_what_is_left(built, tmp_path):
    forget_told_the_truth(failures(built, tmp_path, 23))


@pytest.mark.slow
def test_if_any_write_fails_forget_says_what_is_left(built, tmp_path):
    tried = failures(built, tmp_path, 1)
    assert len(tried) > 100
    forget_told_the_truth(tried)


# --- what is left ---------------------------------------------------------------------------------------------------

FROM_ITEMS = ("title", "itemid", "category", "parent", "aspect", "value", "description")
OWN = ("user", "word", "query", "note", "edit", "rating", "import", "asked")


def canary_items() -> list[Item]:
    return [
        Item(
            f"canaryitemid{n}",
            f"Canarytitle mug {n} - Canarytitle",
            ("canaryparent", "canarycategory"),
            {"Canaryaspects": ("canaryvalue",), "canaryaspect": ("canaryvalue",)},
            "canarydescription",
        )
        for n in range(12)
    ]


def with_canary(data: Dataset) -> Dataset:
    """The data set with a person whose words, items and query are nobody else's, each used often."""
    items, start = canary_items(), data.queries[0].time
    own = [Interaction(EVE, item.id, start + n, 5.0, "canaryword so canaryvalue") for n, item in enumerate(items)]
    asked = Query("canaryqueryid", EVE, "canaryquery mug canaryquery", items[-1].id, start + len(items) - 1)
    everything = {**data.items, **{item.id: item for item in items}}
    taken = tuple(sorted((*data.interactions, *own), key=lambda one: (one.user, one.time)))
    return Dataset(everything, taken, (*data.queries, asked), data.meta)


def environment_of(data: Dataset) -> Environment:
    split = data.split(0, 1.0, 0.0, 0.0)  # everybody teaches
    return Environment.build(data, split, ExtractiveSummarizer(), draws(), MemoryConfig(), CHEAP)


def test_after_forget_and_a_rebuild_no_canary_is_left(tmp_path):
    data = make_world(SHOP)
    environment = environment_of(with_canary(data))
    # 1. What other people's files hold of a person who is still there: nothing of their own, and no word of theirs.
    run, store = tmp_path / "run", tmp_path / "store" / "memory.db"
    environment_on_disk.save(environment, run / "fitted")
    index_on_disk.save(environment.items, run / "index")
    (run / "policy").mkdir()
    make_tokenizer([environment], 4000).save(run / "policy")
    assert [kind for kind in OWN if f"canary{kind}".encode() in all_bytes(run)] == []
    assert b"canary" not in all_bytes(run / "policy")
    fitted = json.loads((run / "fitted" / "memory.json").read_text())
    del fitted["summarizer"]["items"]  # learned from the titles and attributes of the shop, which are public
    spaces = b"".join(path.read_bytes() for path in (run / "fitted").glob("space-*"))
    assert "canary" not in json.dumps(fitted).lower() and b"canary" not in spaces and len(spaces) > 1000
    # 2. A store in which the person also says, edits, rates, imports and asks.
    build_store(store, environment.dataset, environment.memory)
    with Store.open(store) as opened:
        learned = b"".join(content for (content,) in opened._rows("SELECT content FROM learned"))
        assert b"canary" not in learned.lower() and len(learned) > 1000
        eve = opened.for_user(EVE)
        eve.update(eve.add("canarynote").id, "canaryedit")
        eve.remember(canary_items()[0], 5.0, "canaryrating")
        lines = [line.replace("canaryedit", "canaryimport").encode() for line in eve.export()]
        for user, identity in ((EVE, "canaryasked/record/0"), ("u000001", "canaryuser/record/0")):
            with pytest.raises(LookupError):
                opened.for_user(user).get(identity)
        present = all_bytes(store.parent)
        absent = [kind for kind in (*FROM_ITEMS, *OWN) if f"canary{kind}".encode() not in present]
        assert absent == ["query", "import", "asked"]  # no query is ever saved; the others are checked below
        eve.forget()
        eve.restore(lines)
        assert b"canaryimport" in all_bytes(store.parent)
        eve.forget()
        opened.rebuild_global(draws(), data.items.values())
        assert b"canary" not in all_bytes(store.parent).lower()  # with the log
    assert b"canary" not in all_bytes(store.parent).lower()
    # 3. The other files, made again from the data without the person.
    again = environment_of(data)
    environment_on_disk.save(again, run / "fitted")
    index_on_disk.save(again.items, run / "index")
    assert b"canary" not in all_bytes(run).lower()


def test_a_policy_knows_the_words_of_several_people_and_of_global_lines():
    environment = environment_of(make_world(replace(SHOP, users=8)))
    known = set(make_tokenizer([environment], 4000).words)
    everybody = {word for entry in environment.memory.global_entries for word in WORD.findall(entry.text)}
    times, people = Counter(), defaultdict(set)
    for query in environment.split.train_queries:
        for text in (query.text, *(entry.text for entry in environment.memory.entries(query))):
            for word in WORD.findall(text):
                times[word] += 1
                people[word].add(query.user)
    counts = {word for word in times if word.isdecimal() and len(word) < 3}  # memory writes these itself
    of_few = {word for word in times if len(people[word]) < 3 and times[word] > 1} - everybody - counts
    assert len(of_few) > 5 and not of_few & known
    assert {word for word in times if len(people[word]) >= 3 or (word in counts and times[word] > 1)} <= known
    # equal users of two shops are two people
    assert {word for word in of_few if len(people[word]) == 2} <= set(make_tokenizer([environment] * 2, 4000).words)


def test_a_rebuild_drops_what_only_people_who_left_shared(tmp_path):
    """Three people buy in a category of their own, by an aspect and with a word of their own. One leaves."""
    data, path = make_world(SHOP), tmp_path / "memory.db"
    pool = [
        Item(f"c{n}", f"thing {n}", ("canaryparent", "canarycategory"), {"canaryaspect": (f"canaryvalue{n % 4}",)})
        for n in range(40)
    ]
    sharing = data.users()[:3]
    bought = [
        Interaction(user, pool[4 * (n + place)].id, 1 + n, 5.0, "so canaryword")
        for place, user in enumerate(sharing)
        for n in range(8)
    ]
    taken = tuple(sorted((*data.interactions, *bought), key=lambda one: (one.user, one.time)))
    whole = Dataset({**data.items, **{item.id: item for item in pool}}, taken, data.queries, data.meta)
    writer = ExtractiveSummarizer()
    memory = Memory.build(whole, whole.users(), MemoryConfig(), writer, CHEAP, draws())
    build_store(path, whole, memory)
    with Store.open(path) as store:
        store.rebuild_global(draws(), whole.items.values())
        told = [entry.text for entry in store.entry_index().entries if "canary" in entry.text]
        assert told and "canarycategory" in store.summarizer.reading.deciding
        assert store.summarizer.reading.words["canaryword"] == ("canaryaspect", "canaryvalue0")
        store.for_user(sharing[0]).forget()
        store.rebuild_global(draws(), whole.items.values())
        assert "canary" not in repr(store.summarizer.reading)
        for user in sharing[1:]:
            store.for_user(user).forget()
    assert told[0].encode() not in all_bytes(tmp_path)


def test_a_rebuild_beside_a_reader_says_so_too(path, reader, monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0.05)
    done = mrrec("memory", "rebuild-global", "--store", path)
    refused(
        done,
        1,
        "the global memory is built again, and the old one is deleted, but not yet erased",
        "still uses the store",
    )


# --- what forget does not reach, and the sides ----------------------------------------------------------------------


def test_forget_says_what_it_does_not_reach(path):
    done = mrrec("memory", "forget-user", "--store", path, "--user", EVE, "--yes")
    assert done.exit_code == 0 and done.stdout == ""
    found = json.loads(mrrec("memory", "forget-user", "--store", path, "--user", EVE, "--yes", "--json").stdout)
    assert found["rows"] == 0 and len(found["not_reached"]) == 5
    shown = mrrec("memory", "forget-user", "--help").stdout
    for place in ("data set", "runs", "reports", "exports", "backups"):
        assert place in done.stderr and place in " ".join(found["not_reached"]) and place in " ".join(shown.split())
    assert all(f"{what}: {advice}" in done.stderr for what, advice in found["not_reached"].items())


def test_what_a_user_sees_does_not_move_when_others_write(path):
    """Cursors and stats once told how many rows others have."""

    def seen(scope) -> tuple:
        pages = [scope.list(limit=2), scope.history(limit=2)]
        return [(page.rows, page.cursor) for page in pages], scope.stats()

    with Store.open(path) as store:
        mine, other = store.for_user("mine"), store.for_user("other")
        for number in range(3):
            mine.add(f"note {number}")
            other.add(f"note {number}")
        before = seen(mine)
        assert [cursor for _, cursor in before[0]] == [2, 2]
        for number in range(50):
            other.add(f"more {number}")
        assert seen(mine) == before and "bytes" not in before[1]


def test_a_model_writes_no_answers_beside_a_store_that_exists(path, monkeypatch):
    from mrrec_mini.app import assistant

    monkeypatch.setattr(assistant, "load_chat_model", lambda name: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="already exists"):
        assistant.make_store(Path("nowhere"), path, 0, "a model")


def test_a_busy_store_is_not_a_forgotten_user(path, monkeypatch):
    """If the rows cannot be deleted, the error is the usual one, and nothing is deleted."""
    monkeypatch.setattr(module, "WAIT", 0.05)
    with sqlite3.connect(path, isolation_level=None) as other, Store.open(path) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            store.for_user(EVE).forget()
        other.execute("ROLLBACK")
        assert store.for_user(EVE).list().total == 1
