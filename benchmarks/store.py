"""One durable add and one person's search, in a store of 1,000 people and in one of 100,000: the same time in both?

    python -m benchmarks.store [--fast] [--json]

The large file holds the same few hundred people as the small one, copied more often under other names, so that whoever
is asked in one file has exactly the memory of whoever is asked in the other. They are copied by SQL in the store's own
tables, in one transaction; the entries of a person lie scattered over the file, as where people come back over years.
`Store.open` then reads it as any other.

Timed is what a caller waits for (wall clock): `Scope.search` and `Scope.add`, the files in turns, for people drawn at
random, after as many unmeasured calls to either. Both files have been read once, so they lie in the system's cache: how
long a disk takes to find a page is not in the numbers. Peers, measured in the same turns:

- search: one FTS5 index over everybody's texts, joined to the entries of the one who asks; and the same index with the
  name as one more word to match, which is how FTS5 would rather be asked. Neither has vectors.
- add: the same text and vector into a file of one table, INSERT and COMMIT, WAL and synchronous=FULL as in the store:
  the least that a durable write costs on this disk (the one that TMPDIR is on).
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import at_most, document, finish, show
from mrrec_mini.bm25 import words
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.store import PERSONAL, Store, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import WorldConfig, make_world

PEOPLE = 200  # different ones; the others are their copies
TARGET = 1.2  # median in the large file / median in the small one
K = 3


def first_people(path: Path) -> None:
    """A store of `PEOPLE` people with about ten entries each."""
    world = make_world(WorldConfig(users=PEOPLE, items=1000, history=3, queries=1))
    users = world.split(0).train
    memory = Memory.build(
        world, users, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(), np.random.default_rng(0)
    )
    build_store(path, world, memory)


def name_of(person: int, copy: int) -> str:
    return f"u{person:06d}x{copy}"


def grow(path: Path, people: int) -> None:
    """A store of `PEOPLE` becomes one of `people`: everybody `people` / `PEOPLE` times."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;")
        raw.execute("BEGIN")
        raw.execute("CREATE TEMP TABLE copy (copy INTEGER PRIMARY KEY)")
        raw.executemany("INSERT INTO copy VALUES (?)", [(copy,) for copy in range(people // PEOPLE)])
        for table in PERSONAL:
            kinds = {name: kind for _, name, kind, *_ in raw.execute(f"PRAGMA table_info({table})") if name != "number"}
            raw.execute(
                f"CREATE TEMP TABLE first AS SELECT *, row_number() OVER (PARTITION BY user) AS nth FROM {table}"
            )
            raw.execute(f"DELETE FROM {table}")
            # ids of entries begin with the name of their owner, and stand in other columns too
            renamed = ", ".join(
                f"replace({c}, user, user || 'x' || copy)" if k == "TEXT" else c for c, k in kinds.items()
            )
            [[rows]] = raw.execute("SELECT max(nth) FROM first")
            for nth in range(1, rows + 1):  # everybody's first row, then everybody's second one
                raw.execute(
                    f"INSERT INTO {table} ({', '.join(kinds)}) SELECT {renamed} FROM copy JOIN first WHERE nth = ?",
                    (nth,),
                )
            raw.execute("DROP TABLE first")
        raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def index(path: Path, store: Path) -> sqlite3.Connection:
    """The peer of search: one full-text index over everybody's entries, beside a table that says whose they are."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("ATTACH ? AS store", (str(store),))
    raw.executescript(
        "PRAGMA synchronous = OFF; BEGIN;"
        "CREATE VIRTUAL TABLE everything USING fts5 (user, text);"
        "CREATE TABLE owner (number INTEGER PRIMARY KEY, user TEXT, id TEXT);"
        "INSERT INTO owner SELECT number, user, id FROM store.entry;"
        "INSERT INTO everything (rowid, user, text) SELECT number, user, text FROM store.entry;"
        "CREATE INDEX of ON owner (user);"
        "COMMIT;"
    )
    return raw


def joined(raw: sqlite3.Connection, user: str, asked: str) -> list[tuple]:
    match = "text : (" + " OR ".join(f'"{word}"' for word in words(asked)) + ")"
    statement = (
        "SELECT id, rank FROM everything JOIN owner ON owner.number = everything.rowid"
        " WHERE everything MATCH ? AND owner.user = ? ORDER BY rank LIMIT ?"
    )
    return raw.execute(statement, (match, user, K)).fetchall()


def matched(raw: sqlite3.Connection, user: str, asked: str) -> list[tuple]:
    match = f'user : "{user}" AND text : (' + " OR ".join(f'"{word}"' for word in words(asked)) + ")"
    statement = (
        "SELECT id, rank FROM everything JOIN owner ON owner.number = everything.rowid"
        " WHERE everything MATCH ? ORDER BY rank LIMIT ?"
    )
    return raw.execute(statement, (match, K)).fetchall()


def bare(path: Path) -> sqlite3.Connection:
    """The peer of add: a file of one table, as durable as the store."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    raw.execute("CREATE TABLE note (number INTEGER PRIMARY KEY, user TEXT, text TEXT, vector BLOB)")
    return raw


def insert(raw: sqlite3.Connection, user: str, text: str, vector: bytes) -> None:
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO note (user, text, vector) VALUES (?, ?, ?)", (user, text, vector))
    raw.execute("COMMIT")


def in_turns(arms: Mapping[str, Callable[[], object]], waits: dict[str, list[float]], draw: random.Random) -> None:
    """One call of each arm; how long each took goes to `waits`, in ms.

    The order is drawn each time: who comes after its like finds the processor's caches filled, so a fixed order, even a
    rotating one, makes one of two equal arms nearly twice as fast.
    """
    for name in draw.sample(list(arms), len(arms)):
        start = time.perf_counter()
        arms[name]()
        waits.setdefault(name, []).append(1000 * (time.perf_counter() - start))


def searching(stores: Mapping[int, Store], indexes: Mapping[int, sqlite3.Connection], names: Mapping, asked: str):
    """The arms of one search. `names`: who asks, in each file."""
    return {
        **{f"ours, {size}": partial(store.of(names[size]).search, asked, K) for size, store in stores.items()},
        **{f"FTS5 joined, {size}": partial(joined, raw, names[size], asked) for size, raw in indexes.items()},
        **{f"FTS5 with the name, {size}": partial(matched, raw, names[size], asked) for size, raw in indexes.items()},
    }


def adding(stores: Mapping[int, Store], floor: sqlite3.Connection, names: Mapping, text: str):
    """The arms of one add."""
    (size, store), *_ = stores.items()
    arms = {f"ours, {size}": partial(store.of(names[size]).add, text) for size, store in stores.items()}
    return {**arms, "bare INSERT": partial(insert, floor, names[size], text, *store._embed([text]))}


def measure(sizes: Sequence[int], searches: int, adds: int, folder: Path) -> dict:
    """What the files are, and {arm: [ms]} of search and of add, after a tenth as many calls that are not counted."""
    draw = random.Random(0)
    first_people(folder / "first.db")
    stores, indexes, files = {}, {}, {}
    for size in sizes:
        path = folder / f"{size}.db"
        start = time.perf_counter()
        copyfile(folder / "first.db", path)
        grow(path, size)
        took = time.perf_counter() - start
        stores[size], indexes[size] = Store.open(path), index(folder / f"{size}.fts", path)
        megabytes = [file.stat().st_size / 1e6 for file in (path, path.with_suffix(".fts"))]
        files[size] = (stores[size]._rows("SELECT count(*) FROM entry")[0][0], *megabytes, took)
    for size in sizes:
        with (folder / f"{size}.db").open("rb") as file:  # into the system's cache
            while file.read(1 << 24):
                pass

    def people(person: int) -> dict[int, str]:
        """The same person, in each file one of the copies."""
        return {size: name_of(person, draw.randrange(size // PEOPLE)) for size in sizes}

    searched: dict[str, list[float]] = {}
    for turn in range(searches + searches // 10):
        names = people(draw.randrange(PEOPLE))
        asked = draw.choice(stores[sizes[0]].of(names[sizes[0]]).entries()).text
        arms = searching(stores, indexes, names, asked)
        if turn == 0 and not all(arm() for arm in arms.values()):
            raise RuntimeError("an arm finds nothing; nothing was compared")
        in_turns(arms, searched, draw)

    # nobody of the small file is told twice, or memories would grow there and not in the large one
    everybody = [(person, copy) for person in range(PEOPLE) for copy in range(sizes[0] // PEOPLE)]
    added: dict[str, list[float]] = {}
    with closing(bare(folder / "bare.db")) as floor:
        for turn, (person, copy) in enumerate(draw.sample(everybody, adds + adds // 10)):
            names = people(person) | {sizes[0]: name_of(person, copy)}
            in_turns(adding(stores, floor, names, f"note {turn}: a small mug made of glass"), added, draw)
    for one in (*stores.values(), *indexes.values()):
        one.close()
    return {
        "files": files,
        "search": {name: of(ms[searches // 10 :]) for name, ms in sorted(searched.items())},
        "add": {name: of(ms[adds // 10 :]) for name, ms in sorted(added.items())},
    }


def of(waits: Sequence[float]) -> dict[str, float]:
    """Median, and what one in a hundred waits longer than."""
    return {"p50_ms": statistics.median(waits), "p99_ms": float(np.quantile(waits, 0.99)), "calls": len(waits)}


def judge(found: Mapping[str, Mapping], sizes: Sequence[int]) -> list[dict]:
    """For each verb: the median in the large file / that in the small one."""
    claims = []
    for verb in ("search", "add"):
        small, large = (found[verb][f"ours, {size}"]["p50_ms"] for size in sizes)
        claims.append(at_most(f"{verb}, p50: {sizes[1]} people / {sizes[0]}", round(large / small, 3), TARGET))
    return claims


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="200 and 5,000 people, fewer calls")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    sizes, searches, adds = ((200, 5_000), 150, 150) if given.fast else ((1_000, 100_000), 300, 900)
    with TemporaryDirectory(prefix="mrrec-store-") as folder:
        found = measure(sizes, searches, adds, Path(folder))
    to = sys.stderr if given.json else None
    heading = ("people", "entries", "MB", "MB of the FTS5 index", "seconds to make")
    show("the files", [heading, *((size, *about) for size, about in found["files"].items())], to)
    for verb in ("search", "add"):
        rows = [(arm, *about.values()) for arm, about in found[verb].items()]
        show(f"{verb}: ms that a caller waits", [("arm", "p50", "p99", "calls"), *rows], to)
    return finish(document(judge(found, sizes), **found), given.json)


if __name__ == "__main__":
    sys.exit(main())
