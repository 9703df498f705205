"""One durable add and one person's search, in a store of 1,000 people and in one of 100,000: the same time in both?

    python -m benchmarks.store [--fast] [--json]

The large file holds the same few hundred people as the small one, copied more often under other names, so that whoever
is asked in one file has exactly the memory of whoever is asked in the other. They are copied by SQL in the store's own
tables, in one transaction; a person's rows lie together, as `mrrec memory build` writes them. A third file, as large,
has them apart, as where everybody comes back over years: then every row is a page of its own, and pages of a large file
are colder than those of a small one. It is shown, and no claim.

Timed is what a caller waits for (wall clock): `Scope.search` and `Scope.add`, the files in turns, for people drawn at
random; the first calls, as many to each, are not counted. All files have been read once, so they lie in the system's
cache: how long a disk takes to find a page is not in the numbers. Peers, measured in the same turns:

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
from threadpoolctl import threadpool_limits

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
PEERS = 10  # the peers of search take part in one turn of so many


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


def grow(path: Path, people: int, apart: bool) -> None:
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
            [[most]] = raw.execute("SELECT coalesce(max(nth), 0) FROM first")
            for nth in range(1, most + 1) if apart else ("nth",):  # everybody's first row, then everybody's second one
                raw.execute(
                    f"INSERT INTO {table} ({', '.join(kinds)})"
                    f" SELECT {renamed} FROM copy CROSS JOIN first WHERE nth = {nth}"
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


def searching(stores: Mapping[str, Store], indexes: Mapping[str, sqlite3.Connection], names: Mapping, asked: str):
    """The arms of one search. `names`: who asks, in each file."""
    return {
        **{f"ours, {file}": partial(store.for_user(names[file]).search, asked, K) for file, store in stores.items()},
        **{f"FTS5 joined, {file}": partial(joined, raw, names[file], asked) for file, raw in indexes.items()},
        **{f"FTS5 with the name, {file}": partial(matched, raw, names[file], asked) for file, raw in indexes.items()},
    }


def adding(stores: Mapping[str, Store], floor: sqlite3.Connection, names: Mapping, text: str):
    """The arms of one add."""
    (file, store), *_ = stores.items()
    arms = {f"ours, {file}": partial(store.for_user(names[file]).add, text) for file, store in stores.items()}
    return {**arms, "bare INSERT": partial(insert, floor, names[file], text, *store._embed([text]))}


def measure(small: int, large: int, searches: int, adds: int, folder: Path) -> dict:
    """What the files are, and {arm: waits} of search and of add."""
    draw = random.Random(0)
    first_people(folder / "first.db")
    people = {f"{small}": small, f"{large}": large, f"{large} apart": large}  # by the name of a file
    stores, indexes, files = {}, {}, {}
    for file, count in people.items():
        path = folder / f"{file}.db"
        start = time.perf_counter()
        copyfile(folder / "first.db", path)
        grow(path, count, apart=file.endswith("apart"))
        took = time.perf_counter() - start
        stores[file] = Store.open(path)
        entries = stores[file]._rows("SELECT count(*) FROM entry")[0][0]
        files[file] = {"entries": entries, "megabytes": path.stat().st_size / 1e6, "seconds_to_make": took}
    for file in (f"{small}", f"{large}"):
        indexes[file] = index(folder / f"{file}.fts", folder / f"{file}.db")
        files[file]["fts_megabytes"] = (folder / f"{file}.fts").stat().st_size / 1e6
    for file in people:
        with (folder / f"{file}.db").open("rb") as content:  # into the system's cache
            while content.read(1 << 24):
                pass

    def somebody(person: int) -> dict[str, str]:
        """The same person, in each file one of the copies."""
        return {file: name_of(person, draw.randrange(count // PEOPLE)) for file, count in people.items()}

    searched: dict[str, list[float]] = {}
    for turn in range(searches):
        names = somebody(draw.randrange(PEOPLE))
        asked = draw.choice(stores[f"{small}"].for_user(names[f"{small}"]).entries()).text
        # a peer that reads a whole index empties the processor's caches for whoever comes next: not in every turn
        arms = searching(stores, {} if turn % PEERS else indexes, names, asked)
        if turn == 0 and not all(arm() for arm in arms.values()):
            raise RuntimeError("an arm finds nothing; nothing was compared")
        in_turns(arms, searched, draw)

    # nobody of the small file is told twice, or memories would grow there and not in the large ones
    everybody = [(person, copy) for person in range(PEOPLE) for copy in range(small // PEOPLE)]
    added: dict[str, list[float]] = {}
    with closing(bare(folder / "bare.db")) as floor:
        for turn, (person, copy) in enumerate(draw.sample(everybody, adds)):
            names = somebody(person) | {f"{small}": name_of(person, copy)}
            in_turns(adding(stores, floor, names, f"note {turn}: a small mug made of glass"), added, draw)
    for one in (*stores.values(), *indexes.values()):
        one.close()
    return {
        "files": files,
        "search": {name: of(waits) for name, waits in sorted(searched.items())},
        "add": {name: of(waits) for name, waits in sorted(added.items())},
    }


def of(waits: Sequence[float]) -> dict[str, float]:
    """Median, and what one in a hundred waits longer than; the first tenth is not counted."""
    counted = waits[len(waits) // 10 :]
    return {"p50_ms": statistics.median(counted), "p99_ms": float(np.quantile(counted, 0.99)), "calls": len(counted)}


def judge(found: Mapping[str, Mapping], small: int, large: int) -> list[dict]:
    """For each verb: the median in the large file / that in the small one."""
    claims = []
    for verb in ("search", "add"):
        ratio = found[verb][f"ours, {large}"]["p50_ms"] / found[verb][f"ours, {small}"]["p50_ms"]
        claims.append(at_most(f"{verb}, p50: {large} people / {small}", round(ratio, 3), TARGET))
    return claims


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="200 and 5,000 people, fewer calls")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    small, large, searches, adds = (200, 5_000, 600, 200) if given.fast else (1_000, 100_000, 1_000, 1_000)
    with threadpool_limits(1), TemporaryDirectory(prefix="mrrec-store-") as folder:
        found = measure(small, large, searches, adds, Path(folder))
    to = sys.stderr if given.json else None
    rows = [(file, *about.values()) for file, about in found["files"].items()]
    rows[-1] += ("",)  # no peer has its rows apart
    show("the files", [("people", "entries", "MB", "seconds to make", "MB of the FTS5 index"), *rows], to)
    for verb in ("search", "add"):
        rows = [(arm, *about.values()) for arm, about in found[verb].items()]
        show(f"{verb}: ms that a caller waits", [("arm", "p50", "p99", "calls"), *rows], to)
    return finish(document(judge(found, small, large), **found), given.json)


if __name__ == "__main__":
    sys.exit(main())
