"""Does a durable add, or one user's search, take longer in a store of 100,000 people than in one of 1,000?

    python -m benchmarks.store [--fast] [--json]

The large file holds the same few hundred people as the small one, copied more often under other names. So the user who
asks in one file has exactly the memory of the user who asks in the other. The copies are made by SQL in the store's own
tables, in one transaction. A person's rows lie together, as `mrrec memory build` writes them. In a third file, as large
as the second, a person's rows lie apart, as if they had been written over years: every row is on another page, and
pages of a large file are in the cache less often. We report the numbers of this file but claim nothing about them.

We measure the wall-clock time of `Scope.search` and `Scope.add`. The files take turns, for people drawn at random. The
first tenth of the calls is not counted. All files are read once beforehand, so that they are in the system's cache: the
numbers do not include the time that a disk needs to find a page. Peers, measured in the same turns:

- search: one FTS5 index over all texts, joined to the entries of the user who asks; and the same index with the user's
  name as one more word to match, which suits FTS5 better. Neither has vectors.
- add: INSERT and COMMIT of the same text and vector in a file with one table, with WAL and synchronous=FULL as in the
  store: the lowest cost of a durable write on this disk (the one that TMPDIR is on).
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

PEOPLE = 200  # distinct people; all others are copies of them
TARGET = 1.2  # median in the large file / median in the small one
K = 3
PEERS = 10  # the peers of search take part only in every PEERS-th turn


def first_people(path: Path) -> None:
    """Make a store of `PEOPLE` people with about ten entries each."""
    world = make_world(WorldConfig(users=PEOPLE, items=1000, history=3, queries=1))
    users = world.split(0).train
    memory = Memory.build(
        world, users, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(), np.random.default_rng(0)
    )
    build_store(path, world, memory)


def name_of(person: int, copy: int) -> str:
    return f"u{person:06d}x{copy}"


def grow(path: Path, people: int, apart: bool) -> None:
    """Turn a store of `PEOPLE` people into one of `people`: replace each person by `people` / `PEOPLE` copies."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;")
        raw.execute("BEGIN")
        raw.execute("CREATE TEMP TABLE copy (copy INTEGER PRIMARY KEY)")
        raw.executemany("INSERT INTO copy VALUES (?)", [(copy,) for copy in range(people // PEOPLE)])
        for table in PERSONAL:
            kinds = {name: kind for _, name, kind, *_ in raw.execute(f"PRAGMA table_info({table})")}
            raw.execute(
                f"CREATE TEMP TABLE first AS SELECT *, row_number() OVER (PARTITION BY user) AS nth FROM {table}"
            )
            raw.execute(f"DELETE FROM {table}")
            # ids of entries begin with the name of their owner, and occur in other columns too
            renamed = ", ".join(
                f"replace({c}, user, user || 'x' || copy)" if k == "TEXT" else c for c, k in kinds.items()
            )
            [[most]] = raw.execute("SELECT coalesce(max(nth), 0) FROM first")
            for nth in range(1, most + 1) if apart else ("nth",):  # everybody's first row, then second row
                raw.execute(
                    f"INSERT INTO {table} ({', '.join(kinds)})"
                    f" SELECT {renamed} FROM copy CROSS JOIN first WHERE nth = {nth}"
                )
            raw.execute("DROP TABLE first")
        raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def index(path: Path, store: Path) -> sqlite3.Connection:
    """Return the peer of search: one full-text index over all entries, and a table of their owners."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("ATTACH ? AS store", (str(store),))
    raw.executescript(
        "PRAGMA synchronous = OFF; BEGIN;"
        "CREATE VIRTUAL TABLE everything USING fts5 (user, text);"
        "CREATE TABLE owner (number INTEGER PRIMARY KEY, user TEXT, id TEXT);"
        "INSERT INTO owner SELECT rowid, user, id FROM store.entry;"
        "INSERT INTO everything (rowid, user, text) SELECT rowid, user, text FROM store.entry;"
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
    """Return the peer of add: a file with one table, as durable as the store."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    raw.execute("CREATE TABLE note (number INTEGER PRIMARY KEY, user TEXT, text TEXT, vector BLOB)")
    return raw


def insert(raw: sqlite3.Connection, user: str, text: str, vector: bytes) -> None:
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO note (user, text, vector) VALUES (?, ?, ?)", (user, text, vector))
    raw.execute("COMMIT")


def in_turns(arms: Mapping[str, Callable[[], object]], waits: dict[str, list[float]], draw: random.Random) -> None:
    """Call each arm once and add its time in ms to `waits`.

    The order is random, because an arm that runs after a similar arm finds the processor's caches filled: in a fixed
    order, even a rotating one, one of two equal arms is nearly twice as fast.
    """
    for name in draw.sample(list(arms), len(arms)):
        start = time.perf_counter()
        arms[name]()
        waits.setdefault(name, []).append(1000 * (time.perf_counter() - start))


def searching(stores: Mapping[str, Store], indexes: Mapping[str, sqlite3.Connection], names: Mapping, asked: str):
    """Return the arms of one search. `names`: file -> the user who asks."""
    return {
        **{f"ours, {file}": partial(store.for_user(names[file]).search, asked, K) for file, store in stores.items()},
        **{f"FTS5 joined, {file}": partial(joined, raw, names[file], asked) for file, raw in indexes.items()},
        **{f"FTS5 with the name, {file}": partial(matched, raw, names[file], asked) for file, raw in indexes.items()},
    }


def adding(stores: Mapping[str, Store], floor: sqlite3.Connection, names: Mapping, text: str):
    """Return the arms of one add. `names`: file -> the user who adds."""
    (file, store), *_ = stores.items()
    arms = {f"ours, {file}": partial(store.for_user(names[file]).add, text) for file, store in stores.items()}
    return {**arms, "bare INSERT": partial(insert, floor, names[file], text, *store._embed([text]))}


def measure(small: int, large: int, searches: int, adds: int, folder: Path) -> dict:
    """Return the facts about the files, and the waiting times of each arm of search and of add."""
    draw = random.Random(0)
    first_people(folder / "first.db")
    people = {f"{small}": small, f"{large}": large, f"{large} apart": large}  # by file name
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
        """Choose one copy of the same person in each file."""
        return {file: name_of(person, draw.randrange(count // PEOPLE)) for file, count in people.items()}

    searched: dict[str, list[float]] = {}
    for turn in range(searches):
        names = somebody(draw.randrange(PEOPLE))
        asked = draw.choice(stores[f"{small}"].for_user(names[f"{small}"]).list(limit=1000).rows).text
        # not in every turn, because a peer that reads a whole index empties the processor's caches for the next arm
        arms = searching(stores, {} if turn % PEERS else indexes, names, asked)
        if turn == 0 and not all(arm() for arm in arms.values()):
            raise RuntimeError("an arm finds nothing; nothing was compared")
        in_turns(arms, searched, draw)

    # nobody in the small file gets two notes; otherwise memories would grow there and not in the large files
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
    """Return median and 99th percentile, without the first tenth of the calls."""
    counted = waits[len(waits) // 10 :]
    return {"p50_ms": statistics.median(counted), "p99_ms": float(np.quantile(counted, 0.99)), "calls": len(counted)}


def judge(found: Mapping[str, Mapping], small: int, large: int) -> list[dict]:
    """Return one claim per method: the median in the large file / the median in the small one."""
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
    rows[-1] += ("",)  # the file with rows apart has no FTS5 index
    show("the files", [("people", "entries", "MB", "seconds to make", "MB of the FTS5 index"), *rows], to)
    for verb in ("search", "add"):
        rows = [(arm, *about.values()) for arm, about in found[verb].items()]
        show(f"{verb}: ms per call", [("arm", "p50", "p99", "calls"), *rows], to)
    return finish(document(judge(found, small, large), **found), given.json)


if __name__ == "__main__":
    sys.exit(main())
