"""Memory that lasts: one SQLite file, in which nobody can reach what is another user's, and forgetting deletes.

Flow: keeps what `memory.py` and `summarize.py` write. A store is built from a data set once (`build_store`), then grows
by what people do and say (`Scope.remember`, `Scope.add`); the assistant and `mrrec memory` read and write it.

The file is the truth: entries with their vectors in the same row, behaviour records and preferences from which entries
are made again, events as history. Everything else is worked out from it. A transaction is short: what takes time (a
summariser, an embedder) happens before it begins, and where the user's rows have changed meanwhile it is done again.

Private by construction: rows of people are reached only through a `Scope`, which is made for one user and puts that
user into every statement; the id of somebody else's memory is answered as one that does not exist, and that it was
asked for is kept (`audit`) as the asking user's own: word for word what was typed, so it says of nobody else even
whether there is such a person. Everybody has their own copy of what they bought: no import changes another one's items.
Global memory has a table of its own, and only the users who trained it teach it again (`rebuild_global`). What the
store learned from all people (which words are rare, which word means which value) holds only words that several of them
used (`min_users`, `word_users`), so that nobody's own words outlive `forget`; a line of the global memory goes with the
next `rebuild_global`, if too few are left behind it.

A file of an older format is copied beside itself and then brought to this one. The copy holds everybody's rows, so the
first `forget` deletes it.

Equations: none of its own; eq. 1, 4 and 5 again for the one category that a new purchase belongs to, eq. 6 in batches,
eq. 8 as `Scope.search`. The paper keeps its memories in a vector index and does not say how they change.

Departs from `Memory.build` in one thing: what is rebuilt has seen all that training users did, also after their first
query, for there is no target to hide from somebody who asks now. Where nothing came after it the two are the same.

Guessed: a line that somebody corrected by hand is left alone when its category is summarised again; a line that was
deleted comes back only if its category is.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mrrec_mini.bm25 import words
from mrrec_mini.data import RECORD_LIMIT, DataError, Dataset, finite_rating, json_lines, seconds, shorten
from mrrec_mini.datatypes import Item, MemoryEntry
from mrrec_mini.dense import Vectors, embed
from mrrec_mini.hybrid import Hit, TextSpace
from mrrec_mini.memory import (
    EntryIndex,
    Memory,
    MemoryConfig,
    Preference,
    Purchase,
    Summarizer,
    entry_id,
    global_entries,
    join,
    patterns_by_category,
    plain,
    preference_entries,
    record_entry,
    sample_contrasts,
)
from mrrec_mini.summarize import ExtractiveConfig, ExtractiveSummarizer, Reading

FORMAT = 2  # of the tables below
OLD = 1  # the format that is brought to this one
WAIT = 5.0  # seconds that a writer waits for another one
PAGE = 50
ASKED = 200  # characters kept of an id that was refused
CHANGED = """
CREATE TABLE item (user TEXT NOT NULL, id TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (user, id)) STRICT;
CREATE TABLE behaviour (
    user TEXT NOT NULL, place INTEGER NOT NULL, item TEXT NOT NULL, time INTEGER NOT NULL, rating REAL NOT NULL,
    review TEXT NOT NULL, PRIMARY KEY (user, place), FOREIGN KEY (user, item) REFERENCES item
) STRICT;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, verb TEXT NOT NULL, asked TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_of ON audit (user, number);
"""  # what format 1 had otherwise, or not at all
TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE learned (part TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE shared (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, scenario TEXT NOT NULL,
    support INTEGER NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL
) STRICT;
CREATE TABLE person (
    user TEXT PRIMARY KEY, generation INTEGER NOT NULL, next INTEGER NOT NULL, teaches INTEGER NOT NULL DEFAULT 0
) STRICT;
{CHANGED}
CREATE TABLE preference (
    user TEXT NOT NULL, category TEXT NOT NULL, place INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (user, category, place)
) STRICT;
CREATE TABLE entry (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, id TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL,
    rests_on TEXT NOT NULL, scenario TEXT NOT NULL, support INTEGER NOT NULL, by_hand INTEGER NOT NULL,
    version INTEGER NOT NULL, changed INTEGER NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL,
    UNIQUE (user, id)
) STRICT;
CREATE TABLE event (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, entry TEXT NOT NULL, kind TEXT NOT NULL, old TEXT, new TEXT,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX entry_of ON entry (user, number);
CREATE INDEX event_of ON event (user, number);
"""
FROM_OLD = f"""
ALTER TABLE item RENAME TO old_item;
ALTER TABLE behaviour RENAME TO old_behaviour;
{CHANGED}
INSERT INTO item SELECT DISTINCT user, item, content FROM old_behaviour JOIN old_item ON old_item.id = item;
INSERT INTO behaviour SELECT user, place, item, time, rating, review FROM old_behaviour;
DROP TABLE old_behaviour;
DROP TABLE old_item;
ALTER TABLE person ADD COLUMN teaches INTEGER NOT NULL DEFAULT 0;
INSERT INTO meta VALUES ('teachers', 'unknown');
UPDATE meta SET value = '{FORMAT}' WHERE key = 'format';
"""
# tables with rows of people; what refers to another one comes before it
PERSONAL = ("entry", "event", "audit", "behaviour", "item", "preference", "person")


class StoreBusy(OSError):
    """Another process kept the file for longer than `WAIT`."""


class NotYours(LookupError):
    """An id that this user does not have: nobody has it, or somebody else."""

    def __init__(self, user: str, identity: str):
        super().__init__(f"{shorten(user)} has no memory {shorten(identity, 120)}; `list` shows the ids")
        self.identity = identity


class Changed(ValueError):
    """What is to be updated is no longer what the caller saw."""


@dataclass(frozen=True)
class Page:
    """A part of a list, and how to go on."""

    rows: tuple  # of MemoryEntry or Event
    total: int  # of the whole list
    cursor: int | None  # of the next page; None: this was the last

    @property
    def truncated(self) -> bool:
        return self.cursor is not None


@dataclass(frozen=True)
class Event:
    """One change of one entry."""

    entry: str
    kind: str  # "add", "update", "delete"
    old: str | None
    new: str | None
    at: int  # milliseconds since 1970


@dataclass(frozen=True)
class Found:
    """An entry that a search returned, with the scores that put it there."""

    entry: MemoryEntry
    hit: Hit


class Store:
    """An open store. `of(user)` is the only way to anybody's rows; closing it is the caller's business (`with`)."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, now: Callable[[], int], summarizer: Summarizer | None = None
    ):
        self.path, self._connection, self.now = path, connection, now
        meta = dict(self._rows("SELECT key, value FROM meta"))
        learned = dict(self._rows("SELECT part, content FROM learned"))
        self.config = _memory_config(json.loads(meta["memory"]))
        self.space = TextSpace.unpack(json.loads(meta["space"]), learned)
        self.summarizer = summarizer or _read_summarizer(json.loads(learned["reading"]))

    @classmethod
    def open(
        cls,
        path: Path,
        now: Callable[[], int] | None = None,
        summarizer: Summarizer | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> Store:
        """The store in a file. FileNotFoundError: there is none. DataError: it is none, of a newer format, or its
        vectors are of another embedder. One of the older format is copied beside, then changed; `warn` is told where
        the copy is. `summarizer`: writes what is remembered from now on; None: the extractive one.
        """
        store = cls._of_file(path, now or _now, summarizer, warn)
        [[made_by]] = store._rows("SELECT value FROM meta WHERE key = 'embedder'")
        if made_by != store.embedder_id:
            store.close()
            raise DataError(
                f"{path}: its vectors are of {made_by}, and the embedder here is {store.embedder_id}; make them anew "
                f"with `mrrec memory reindex --store {path}`"
            )
        return store

    @classmethod
    def _of_file(
        cls, path: Path, now: Callable[[], int], summarizer: Summarizer | None, warn: Callable[[str], None]
    ) -> Store:
        if not path.is_file():
            raise FileNotFoundError(f"no store {path}; make one with `mrrec memory build --data DIR --store {path}`")
        connection = _connect(path)
        try:
            with _naming(path):
                if _format(connection) == str(OLD):
                    _migrate(path, connection, warn)
                found = _format(connection)
            if found != str(FORMAT):
                said = "no format" if found is None else f"format {shorten(found)}"
                raise DataError(f"{path}: a store of {said}, and this version of mrrec_mini reads {FORMAT}")
            return cls(path, connection, now, summarizer)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def for_user(self, user: str) -> Scope:
        """What this user may see and do. DataError for a blank name; any other is an opaque key."""
        if not isinstance(user, str) or not user.strip():
            raise DataError("the user is empty; every memory belongs to somebody")
        return Scope(self, user)

    @property
    def embedder_id(self) -> str:
        return self.space.embedder_id

    @property
    def generation(self) -> int:
        """A number that every write raises, in the same transaction: what was worked out from an older one is old."""
        return int(self._rows("SELECT value FROM meta WHERE key = 'generation'")[0][0])

    def shared_entries(self) -> tuple[MemoryEntry, ...]:
        """The global memory (eq. 6)."""
        return tuple(entry for entry, _ in self._shared())

    def search_shared(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        """The k global entries that fit `text` best, best first."""
        return self.shelf().search_many([text], k)[0]

    def shelf(self) -> EntryIndex:
        """The global memory as it is now, to be searched as often as one likes."""
        found = self._shared()
        return _shelf([entry for entry, _ in found], [vector for _, vector in found], self.space)

    def rebuild_global(self, rng: np.random.Generator, items: Iterable[Item] = ()) -> tuple[MemoryEntry, ...]:
        """Eq. (6) anew, from what the training users did as it stands in the store now; returns the global entries.

        `items`: what there is to choose from, as of a data set; a store knows only what was bought, and of that only
        what training users bought is used. The summaries are made before the transaction; if a training user's rows
        have changed by then, once more, with the same draws. ValueError: the store is of the time before it was known
        who they are.
        """
        if self._rows("SELECT 1 FROM meta WHERE key = 'teachers'"):
            raise ValueError(
                f"{self.path}: made by an older version of mrrec_mini, it does not know whose behaviour may teach the "
                "global memory; make a new store with `mrrec memory build`"
            )
        offered = {item.id: item for item in items}
        while True:
            teachers = self._teachers()
            histories = [history for user, _ in teachers if (history := tuple(self.for_user(user).purchases()))]
            bought = {one.item.id: one.item for history in histories for one in history}
            pool = offered | {identity: bought[identity] for identity in sorted(bought)}
            contrasts = sample_contrasts(histories, pool.values(), self.config, deepcopy(rng))
            entries = global_entries(self.summarizer, contrasts, self.config)
            vectors = self._embed([entry.text for entry in entries])
            with self._writing():
                if self._teachers() == teachers:
                    self._write_shared(entries, vectors)
                    return entries

    # --- below: for Scope and build_store -------------------------------------------------------------------------

    def _rows(self, statement: str, values: Sequence = ()) -> list[tuple]:
        with _naming(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing, on the disk when the block has ended, the generation raised."""
        with _naming(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _embed(self, texts: Sequence[str]) -> list[bytes]:
        """A vector as float32 bytes for each text."""
        if self.space.embedder is None:
            return [b""] * len(texts)
        return [row.tobytes() for row in embed(self.space.embedder, list(texts)).values]

    def _teachers(self) -> list[tuple[str, int]]:
        """(user, generation) of the training users, who alone teach the global memory."""
        return self._rows("SELECT user, generation FROM person WHERE teaches ORDER BY user")

    def _write_shared(self, entries: Sequence[MemoryEntry], vectors: Sequence[bytes]) -> None:
        """Replace the global memory. Within a transaction."""
        self._connection.execute("DELETE FROM shared")
        self._connection.executemany(
            "INSERT INTO shared (id, text, scenario, support, embedder, vector) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.id, e.text, e.scenario, e.support, self.embedder_id, v) for e, v in zip(entries, vectors, strict=True)],
        )

    def _shared(self) -> list[tuple[MemoryEntry, bytes]]:
        rows = self._rows("SELECT id, text, scenario, support, vector FROM shared ORDER BY number")
        return [(MemoryEntry(i, None, "global", text, (), where, n), vector) for i, text, where, n, vector in rows]


def _by_id(verb: Callable) -> Callable:
    """A verb that takes an id. That it asked for what is not this user's is kept, if the file can be written just now;
    the answer is the same in any case. No answer rests on these rows, so they raise no generation."""

    @functools.wraps(verb)
    def asking(self: Scope, *args, **kwargs):
        try:
            return verb(self, *args, **kwargs)
        except NotYours as refused:
            with suppress(sqlite3.Error):
                self.store._connection.execute(
                    "INSERT INTO audit (user, verb, asked, at) VALUES (?, ?, ?, ?)",
                    (self.user, verb.__name__, str(refused.identity)[:ASKED], self.store.now()),
                )
            raise

    return asking


class Scope:
    """One user's memory. Every statement below is about `self.user` and nobody else."""

    def __init__(self, store: Store, user: str):
        self.store, self.user = store, user

    # --- reading ----------------------------------------------------------------------------------------------------

    @_by_id
    def get(self, identity: str) -> MemoryEntry:
        """One entry. NotYours, the same for an id that nobody has and for one that somebody else has."""
        return self._get(identity)[1]

    def list(self, level: str | None = None, limit: int = PAGE, cursor: int = 0) -> Page:
        """Entries in the order in which they came, after `cursor`. ValueError: limit below 1."""
        where = "user = ?" + (" AND level = ?" if level else "")
        values = (self.user, level) if level else (self.user,)
        return self._page("entry", ENTRY, where, values, limit, cursor, self._entry)

    @_by_id
    def history(self, identity: str | None = None, limit: int = PAGE, cursor: int = 0) -> Page:
        """Events, oldest first; of one entry, deleted or not. NotYours for an id without any."""
        where = "user = ?" + (" AND entry = ?" if identity is not None else "")
        values = (self.user, identity) if identity is not None else (self.user,)
        page = self._page("event", "entry, kind, old, new, at", where, values, limit, cursor, lambda row: Event(*row))
        if identity is not None and not page.total:
            raise NotYours(self.user, identity)
        return page

    def search(self, text: str, k: int = 3) -> tuple[Found, ...]:
        """Eq. (8): the k entries that fit `text` best, best first. Costs what this user's own rows cost."""
        return self.search_many([text], k)[0]

    def search_many(self, texts: Sequence[str], k: int = 3) -> list[tuple[Found, ...]]:
        """`search` for several texts. ValueError: k below 0."""
        if k < 0:
            raise ValueError(f"k must be >= 0, not {k}")
        return [tuple(Found(entry, hit) for entry, hit in those) for those in self.shelf().find_many(texts, k)]

    def shelf(self) -> EntryIndex:
        """What this user has now, to be searched as often as one likes."""
        return _shelf(*self._all(), self.store.space)

    def entries(self) -> tuple[MemoryEntry, ...]:
        """All entries, coarse levels first, the latest record first: as `memory.local_entries` has them."""
        order = {"note": 0, "profile": 1, "pattern": 2, "record": 3}
        numbered = list(enumerate(self._all()[0]))
        last = len(numbered)
        key = lambda one: (order[one[1].level], last - one[0] if one[1].level == "record" else one[0])  # noqa: E731
        return tuple(entry for _, entry in sorted(numbered, key=key))

    @_by_id
    def why(self, identity: str, text: str = "") -> dict:
        """What an entry rests on, and, for a text that was searched with, how it scored among this user's entries.
        NotYours as in `get`."""
        entry = self._get(identity)[1]
        about: dict = {"entry": asdict(entry), "rests_on": [], "search": None}
        for source in entry.rests_on:
            rows = self.store._rows("SELECT text FROM entry WHERE user = ? AND id = ?", (self.user, source))
            about["rests_on"].append({"id": source, "text": rows[0][0] if rows else None})
        if text.strip():
            found = self.search(text, self.list(limit=1).total)
            places = {one.entry.id: (place, one.hit) for place, one in enumerate(found, 1)}
            place, hit = places.get(identity, (None, None))
            shared = sorted(set(words(text)) & set(words(entry.text)))
            about["search"] = {
                "text": text,
                "place": place,
                "of": len(found),
                "score": hit and hit.score,
                "bm25": hit and hit.bm25,
                "cosine": hit and hit.dense,
                "words_in_common": shared,
            }
        return about

    def stats(self) -> dict:
        """Counts of this user's rows, and of the file what is nobody's own."""
        levels = self.store._rows("SELECT level, count(*) FROM entry WHERE user = ? GROUP BY level", (self.user,))
        [[events]] = self.store._rows("SELECT count(*) FROM event WHERE user = ?", (self.user,))
        [[refused]] = self.store._rows("SELECT count(*) FROM audit WHERE user = ?", (self.user,))
        return {
            "user": self.user,
            "entries": dict(sorted(levels)),
            "events": events,
            "refused": refused,
            "embedder": self.store.embedder_id,
            "generation": self.store.generation,
            "format": FORMAT,
            "bytes": self.store.path.stat().st_size,
        }

    # --- writing ----------------------------------------------------------------------------------------------------

    def add(self, text: str) -> MemoryEntry:
        """A note in the user's own words. The same text twice is one entry. DataError for a blank text."""
        text = _said(text)
        [vector] = self.store._embed([text])
        with self.store._writing():
            known = self._one(f"SELECT {ENTRY} FROM entry WHERE user = ? AND level = 'note' AND text = ?", text)
            if known:
                return self._entry(known)
            entry = MemoryEntry(entry_id(self.user, "note", self._next()), self.user, "note", text)
            self._insert(entry, vector, by_hand=True)
            self._raise_generation()
        return entry

    @_by_id
    def update(self, identity: str, text: str, version: int | None = None) -> MemoryEntry:
        """Another text for an entry; summaries leave it alone from then on. `version`: the one that was seen.

        NotYours as in `get`; Changed where it has another version by now; DataError for a blank text.
        """
        text = _said(text)
        self._get(identity)  # an unknown id is not worth an embedding
        [vector] = self.store._embed([text])
        with self.store._writing():
            number, old, is_now = self._get(identity)
            if version is not None and version != is_now:
                raise Changed(f"{identity} is at version {is_now} by now, not {version}; read it again")
            entry = replace(old, text=text)
            if text != old.text:
                self._change(number, old, entry, vector, by_hand=True)
                self._raise_generation()
        return entry

    @_by_id
    def delete(self, identity: str) -> None:
        """One entry, gone. With a behaviour record goes what it says: its category and the profile are written anew.
        NotYours as in `get`."""
        entry = self._get(identity)[1]
        if entry.level == "record":
            self._refresh(entry.scenario, without=identity)
            return
        with self.store._writing():
            number, old, _ = self._get(identity)
            self._remove(number, old)
            self._raise_generation()

    def remember(self, item: Item, rating: float, review: str = "", at: int | None = None) -> MemoryEntry:
        """Eq. (1), one element more: the behaviour record; then eq. (4) for its category alone, and eq. (5)."""
        if not np.isfinite(rating) or not 1 <= rating <= 5:
            raise DataError(f"the rating is {shorten(rating)}; give a number from 1 to 5")
        met = (item, float(rating), clean(review), self.store.now() // 1000 if at is None else at)
        return self._refresh(item.category[-1], new=met)

    def forget(self) -> int:
        """Everything of this user, history included, also from the free pages of the file and from the copy that an
        older format left; returns how many rows."""
        store = self.store
        with store._writing():
            gone = sum(
                store._connection.execute(f"DELETE FROM {table} WHERE user = ?", (self.user,)).rowcount
                for table in PERSONAL
            )
        _remove_files(_copy_of(store.path))
        with _naming(store.path):
            store._connection.execute("VACUUM")
            store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # --- taking along -----------------------------------------------------------------------------------------------

    def export(self) -> Iterator[str]:
        """Everything of this user as JSON lines; `restore` makes the same rows of them, hence the same lines."""
        mine = (self.user,)
        person = self.store._rows("SELECT next FROM person WHERE user = ?", mine)
        yield _line("person", {"user": self.user, "next": person[0][0] if person else 0, "format": FORMAT})
        for identity, content in self.store._rows("SELECT id, content FROM item WHERE user = ? ORDER BY id", mine):
            yield _line("item", {"id": identity, "content": json.loads(content)})
        for kind, (table, columns) in EXPORTED.items():
            for row in self.store._rows(f"SELECT {columns} FROM {table} WHERE user = ? ORDER BY {ORDER[table]}", mine):
                yield _line(kind, dict(zip(columns.split(", "), row, strict=True)))

    def restore(self, lines: Iterable[bytes], name: str = "import") -> dict[str, int]:
        """The rows of an export, into a user who has none. {kind: how many}

        DataError, naming the line, for what is no such line or another user's; ValueError where there are rows. All
        or nothing. Who comes by a file does not teach the global memory: anybody can write one.
        """
        read = [(number, _known_line(content, number, name)) for number, content in json_lines(lines, name)]
        if not read or read[0][1][0] != "person":
            raise DataError.at(name, 1, None, "not an export: its first line names the user")
        owner, file_format = read[0][1][1]["user"], read[0][1][1]["format"]
        if owner != self.user:
            raise DataError.at(name, 1, "user", f"an export of {shorten(owner)}, not of {shorten(self.user)}")
        if file_format not in (OLD, FORMAT):  # the old one has no audit lines, and is the same otherwise
            raise DataError.at(
                name, 1, "format", f"{shorten(file_format)}, and this version of mrrec_mini reads {FORMAT}"
            )
        texts = [str(row["text"]) for _, (kind, row) in read if kind == "entry"]
        vectors = iter(self.store._embed(texts))
        counts = dict.fromkeys(EXPORTED, 0)
        run = self.store._connection.execute
        with self.store._writing():
            if self._one("SELECT 1 FROM person WHERE user = ?"):
                raise ValueError(
                    f"{self.user} has memories here already; forget them first, or import into another store"
                )
            run("INSERT INTO person (user, generation, next) VALUES (?, 1, ?)", (self.user, read[0][1][1]["next"]))
            for number, (kind, row) in read[1:]:
                try:
                    if kind == "item":
                        self._keep_item(_as_item(row["content"]))
                        continue
                    table, _ = EXPORTED[kind]
                    more = {"embedder": self.store.embedder_id, "vector": next(vectors)} if table == "entry" else {}
                    values = {"user": self.user, **row, **more}
                    marks = ", ".join("?" * len(values))
                    run(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))
                    counts[kind] += 1
                except (sqlite3.DatabaseError, LookupError, TypeError, ValueError, AttributeError) as error:
                    raise DataError.at(
                        name, number, None, f"not what `export` writes ({shorten(str(error), 120)})"
                    ) from None
        return counts

    # --- below: one step each ---------------------------------------------------------------------------------------

    def _page(
        self, table: str, columns: str, where: str, values: tuple, limit: int, cursor: int, make: Callable
    ) -> Page:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        [[total]] = self.store._rows(f"SELECT count(*) FROM {table} WHERE {where}", values)
        rows = self.store._rows(
            f"SELECT number, {columns} FROM {table} WHERE {where} AND number > ? ORDER BY number LIMIT ?",
            (*values, cursor, limit + 1),
        )
        more = rows[limit - 1][0] if len(rows) > limit else None
        return Page(tuple(make(row[1:]) for row in rows[:limit]), total, more)

    def _all(self) -> tuple[list[MemoryEntry], list[bytes]]:
        """All entries in the order in which they came, and their vectors."""
        rows = self.store._rows(f"SELECT {ENTRY}, vector FROM entry WHERE user = ? ORDER BY number", (self.user,))
        return [self._entry(row[:-1]) for row in rows], [row[-1] for row in rows]

    def _entry(self, row: Sequence) -> MemoryEntry:
        identity, level, text, rests_on, scenario, support = row
        return MemoryEntry(identity, self.user, level, text, tuple(json.loads(rests_on)), scenario, support)

    def _one(self, statement: str, *values: object) -> tuple | None:
        return self.store._connection.execute(statement, (self.user, *values)).fetchone()

    def _get(self, identity: str) -> tuple[int, MemoryEntry, int]:
        """(row number, entry, version)"""
        with _naming(self.store.path):
            row = self._one(f"SELECT number, version, {ENTRY} FROM entry WHERE user = ? AND id = ?", identity)
        if row is None:
            raise NotYours(self.user, identity)
        return row[0], self._entry(row[2:]), row[1]

    def _raise_generation(self) -> int:
        """Of this user's rows; returns it."""
        self.store._connection.execute(
            "INSERT INTO person (user, generation, next) VALUES (?, 1, 0)"
            " ON CONFLICT (user) DO UPDATE SET generation = generation + 1",
            (self.user,),
        )
        return self._generation()

    def _generation(self) -> int:
        row = self._one("SELECT generation FROM person WHERE user = ?")
        return row[0] if row else 0

    def _next(self) -> int:
        """A number that nothing of this user ever had: an id that was deleted is not given again."""
        self._raise_generation()
        self.store._connection.execute("UPDATE person SET next = next + 1 WHERE user = ?", (self.user,))
        return self._one("SELECT next - 1 FROM person WHERE user = ?")[0]

    def _event(self, entry: str, kind: str, old: str | None, new: str | None) -> None:
        self.store._connection.execute(
            "INSERT INTO event (user, entry, kind, old, new, at) VALUES (?, ?, ?, ?, ?, ?)",
            (self.user, entry, kind, old, new, self.store.now()),
        )

    def _insert(self, entry: MemoryEntry, vector: bytes, by_hand: bool = False) -> None:
        self.store._connection.execute(
            f"INSERT INTO entry (user, {ENTRY}, by_hand, version, changed, embedder, vector)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)",
            (self.user, *_columns(entry), by_hand, self.store.now(), self.store.embedder_id, vector),
        )
        self._event(entry.id, "add", None, entry.text)

    def _change(self, number: int, old: MemoryEntry, new: MemoryEntry, vector: bytes, by_hand: bool = False) -> None:
        self.store._connection.execute(
            "UPDATE entry SET text = ?, rests_on = ?, support = ?, by_hand = ?, version = version + 1, changed = ?,"
            " embedder = ?, vector = ? WHERE user = ? AND number = ?",
            (
                *(new.text, json.dumps(new.rests_on), new.support, by_hand),
                *(self.store.now(), self.store.embedder_id, vector, self.user, number),
            ),
        )
        if new.text != old.text:
            self._event(old.id, "update", old.text, new.text)

    def _remove(self, number: int, old: MemoryEntry) -> None:
        self.store._connection.execute("DELETE FROM entry WHERE user = ? AND number = ?", (self.user, number))
        self._event(old.id, "delete", old.text, None)

    def _keep_item(self, item: Item) -> None:
        content = json.dumps(_item_content(item), sort_keys=True)
        self.store._connection.execute(
            "INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (user, id) DO UPDATE SET content = excluded.content",
            (self.user, item.id, content),
        )

    # --- eq. 1, 4, 5 for one category -------------------------------------------------------------------------------

    def purchases(self, category: str | None = None) -> list[Purchase]:
        """What this user did, oldest first; in one category, if given."""
        rows = self.store._rows(
            "SELECT place, item.content, rating, review FROM behaviour JOIN item"
            " ON item.user = behaviour.user AND item.id = behaviour.item WHERE behaviour.user = ? ORDER BY place",
            (self.user,),
        )
        made = (
            Purchase(entry_id(self.user, "record", place), self.user, _as_item(json.loads(content)), rating, said)
            for place, content, rating, said in rows
        )
        return [one for one in made if category is None or plain(one.scenario) == plain(category)]

    def _refresh(self, category: str, new: tuple | None = None, without: str | None = None) -> MemoryEntry | None:
        """Write a category and the profile anew, after one more purchase (`new`) or one less (`without`).

        Summaries and vectors are made before the transaction; if this user's rows have changed by then, once more.
        """
        store = self.store
        while True:
            with _naming(store.path):
                generation = self._generation()
            everything = self.purchases()
            record = None
            if new is not None:
                item, rating, review, at = new
                with _naming(store.path):
                    place = (self._one("SELECT next FROM person WHERE user = ?") or (0,))[0]
                purchase = Purchase(entry_id(self.user, "record", place), self.user, item, rating, review)
                everything.append(purchase)
                record = record_entry(purchase, store.config)
            everything = [one for one in everything if one.record != without]
            here = [one for one in everything if plain(one.scenario) == plain(category)]
            fresh = store.summarizer.patterns(here) if here else []
            stored = self._preferences()
            stored.pop(plain(category), None)
            by_category = {plain(one.scenario): stored.get(plain(one.scenario), fresh) for one in everything}
            profile = store.summarizer.profile([one for those in by_category.values() for one in those])
            wanted = preference_entries(self.user, profile, store.config)
            wanted += preference_entries(self.user, fresh, store.config)
            wanted = [entry for entry in wanted if entry.level in store.config.levels]
            vectors = dict(zip([e.id for e in wanted], store._embed([e.text for e in wanted]), strict=True))
            record_vector = store._embed([record.text]) if record else []
            with store._writing():
                if self._generation() != generation:
                    continue
                if new is not None:
                    self._next()
                    self._keep_item(item)
                    store._connection.execute(
                        "INSERT INTO behaviour VALUES (?, ?, ?, ?, ?, ?)",
                        (self.user, place, item.id, at, rating, review),
                    )
                    if "record" in store.config.levels:
                        self._insert(record, record_vector[0])
                if without is not None:
                    number, old, _ = self._get(without)
                    place = int(without.rsplit("/", 1)[1])
                    store._connection.execute("DELETE FROM behaviour WHERE user = ? AND place = ?", (self.user, place))
                    store._connection.execute(
                        "DELETE FROM item WHERE user = ? AND id NOT IN (SELECT item FROM behaviour WHERE user = ?)",
                        (self.user, self.user),
                    )
                    self._remove(number, old)
                self._write_preferences(plain(category), fresh)
                self._settle(plain(category), wanted, vectors)
                self._raise_generation()
            return record

    def _preferences(self) -> dict[str, list[Preference]]:
        """{category: patterns}, weak ones included."""
        found: dict[str, list[Preference]] = {}
        rows = self.store._rows(
            "SELECT category, content FROM preference WHERE user = ? ORDER BY category, place", (self.user,)
        )
        for category, content in rows:
            fields = json.loads(content)
            found.setdefault(category, []).append(Preference(**{**fields, "rests_on": tuple(fields["rests_on"])}))
        return found

    def _write_preferences(self, category: str, preferences: Sequence[Preference]) -> None:
        run = self.store._connection
        run.execute("DELETE FROM preference WHERE user = ? AND category = ?", (self.user, category))
        run.executemany(
            "INSERT INTO preference VALUES (?, ?, ?, ?)",
            [(self.user, category, place, json.dumps(vars(one))) for place, one in enumerate(preferences)],
        )

    def _settle(self, category: str, wanted: Sequence[MemoryEntry], vectors: Mapping[str, bytes]) -> None:
        """Make the profile and one category's patterns what is wanted; what was written by hand stays."""
        rows = self.store._connection.execute(
            f"SELECT number, by_hand, {ENTRY} FROM entry WHERE user = ?"
            " AND (level = 'profile' OR level = 'pattern' AND scenario = ?)",
            (self.user, category),
        ).fetchall()
        wishes = {entry.id: entry for entry in wanted}
        for number, by_hand, *fields in rows:
            old = self._entry(fields)
            entry = wishes.pop(old.id, None)
            if by_hand:
                continue
            if entry is None:
                self._remove(number, old)
            elif entry != old:
                self._change(number, old, entry, vectors[old.id])
        for entry in wishes.values():
            self._insert(entry, vectors[entry.id])


ENTRY = "id, level, text, rests_on, scenario, support"
EXPORTED = {  # kind of a line -> table and columns
    "behaviour": ("behaviour", "place, item, time, rating, review"),
    "preference": ("preference", "category, place, content"),
    "entry": ("entry", f"{ENTRY}, by_hand, version, changed"),
    "event": ("event", "entry, kind, old, new, at"),
    "audit": ("audit", "verb, asked, at"),
}
ORDER = {"behaviour": "place", "preference": "category, place", "entry": "number", "event": "number", "audit": "number"}


def _columns(entry: MemoryEntry) -> tuple:
    return entry.id, entry.level, entry.text, json.dumps(entry.rests_on), entry.scenario, entry.support


def _shelf(entries: Sequence[MemoryEntry], vectors: Sequence[bytes], space: TextSpace) -> EntryIndex:
    """An index over rows as they stand in the file."""
    if space.embedder is None or not entries:
        return EntryIndex(entries, space)
    matrix = np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(len(entries), -1)
    return EntryIndex(entries, space, Vectors(matrix, space.embedder.id))


def reindex(path: Path, warn: Callable[[str], None] = warnings.warn) -> int:
    """Every vector of a store anew, by the embedder as it is here; returns how many. All of it or nothing."""
    done = 0
    with Store._of_file(path, _now, None, warn) as store, store._writing():
        for table in ("entry", "shared"):
            rows = store._connection.execute(f"SELECT number, text FROM {table}").fetchall()
            vectors = store._embed([text for _, text in rows])
            store._connection.executemany(
                f"UPDATE {table} SET vector = ?, embedder = ? WHERE number = ?",
                [(vector, store.embedder_id, number) for (number, _), vector in zip(rows, vectors, strict=True)],
            )
            done += len(rows)
        store._connection.execute("UPDATE meta SET value = ? WHERE key = 'embedder'", (store.embedder_id,))
    return done


# --- a new store ----------------------------------------------------------------------------------------------------


def build_store(
    path: Path,
    dataset: Dataset,
    memory: Memory,
    now: Callable[[], int] | None = None,
    progress: Callable = lambda *_: None,
) -> dict[str, int]:
    """A store of everybody's memory as of now, with the global memory; returns the counts by level.

    All or nothing: it is made beside and then takes the name. ValueError: there is a file of that name.
    """
    if path.exists():
        raise ValueError(f"{path} is there already; choose another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    _remove_files(beside)
    now = now or _now
    try:
        with _naming(beside):
            connection = _connect(beside)
            connection.executescript("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;")
            connection.executescript(TABLES)
            _write_frame(connection, memory)
        with Store(beside, connection, now, memory.summarizer) as store:
            counts = {"global": len(memory.global_entries)}
            with store._writing():
                store._write_shared(memory.global_entries, store._embed([e.text for e in memory.global_entries]))
                users = dataset.users()
                for done, user in enumerate(users, 1):
                    for level, count in _fill(store.for_user(user), dataset, user in memory.train_users).items():
                        counts[level] = counts.get(level, 0) + count
                    progress(done, len(users))
            with _naming(beside):
                connection.execute("PRAGMA journal_mode = WAL")
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        _remove_files(beside)
    return counts


def _write_frame(connection: sqlite3.Connection, memory: Memory) -> None:
    """All that a store holds of nobody."""
    space, learned = memory.space.pack()
    meta = {
        "format": str(FORMAT),
        "generation": "0",
        "memory": json.dumps(asdict(memory.config)),
        "embedder": memory.space.embedder_id,
        "space": json.dumps(space),
    }
    reading, config = Reading(), ExtractiveConfig()
    if isinstance(memory.summarizer, ExtractiveSummarizer):
        reading, config = memory.summarizer.reading, memory.summarizer.config
    learned["reading"] = json.dumps(
        {
            "config": asdict(config),
            "words": dict(reading.words),
            "attention": [[*key, value] for key, value in reading.attention.items()],
        }
    ).encode()
    with connection:
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.executemany("INSERT INTO learned VALUES (?, ?)", learned.items())


def _fill(scope: Scope, dataset: Dataset, teaches: bool) -> dict[str, int]:
    """One user's whole history. Within a transaction."""
    store = scope.store
    met = dataset.interactions_of(scope.user)
    purchases = join(dataset, met)
    run = store._connection
    for one in purchases:
        scope._keep_item(one.item)
    run.executemany(
        "INSERT INTO behaviour VALUES (?, ?, ?, ?, ?, ?)",
        [(scope.user, place, m.item, m.time, m.rating, m.review) for place, m in enumerate(met)],
    )
    patterns = patterns_by_category(purchases, store.summarizer)
    for category, those in patterns.items():
        scope._write_preferences(category, those)
    everything = [one for those in patterns.values() for one in those]
    lines = preference_entries(scope.user, store.summarizer.profile(everything), store.config)
    lines += preference_entries(scope.user, everything, store.config)
    lines += [record_entry(one, store.config) for one in purchases]
    lines = [entry for entry in lines if entry.level in store.config.levels]
    for entry, vector in zip(lines, store._embed([entry.text for entry in lines]), strict=True):
        scope._insert(entry, vector)
    run.execute("INSERT INTO person VALUES (?, 1, ?, ?)", (scope.user, len(met), teaches))
    counts: dict[str, int] = {}
    for entry in lines:
        counts[entry.level] = counts.get(entry.level, 0) + 1
    return counts


# --- reading what a store is made of --------------------------------------------------------------------------------


def _memory_config(fields: Mapping) -> MemoryConfig:
    return MemoryConfig(**{**fields, "levels": tuple(fields["levels"])})


def _read_summarizer(fields: Mapping) -> ExtractiveSummarizer:
    words_of = {word: tuple(value) for word, value in fields["words"].items()}
    attention = {(scenario, aspect): value for scenario, aspect, value in fields["attention"]}
    return ExtractiveSummarizer(ExtractiveConfig(**fields["config"]), Reading(words_of, attention))


def _item_content(item: Item) -> dict:
    return {
        **vars(item),
        "category": list(item.category),
        "attributes": {k: list(v) for k, v in item.attributes.items()},
    }


def _as_item(content: Mapping) -> Item:
    attributes = {aspect: tuple(values) for aspect, values in content["attributes"].items()}
    return Item(**{**content, "category": tuple(content["category"]), "attributes": attributes})


def _line(kind: str, content: Mapping) -> str:
    return json.dumps({"line": kind, **content}, sort_keys=True)


def _known_line(content: dict, number: int, name: str) -> tuple[str, dict]:
    """(kind, fields) of a line of an export. DataError for another kind or other fields: they name columns."""
    kind = content.pop("line", None)
    fields = {kind: set(columns.split(", ")) for kind, (_, columns) in EXPORTED.items()}
    fields |= {"person": {"user", "next", "format"}, "item": {"id", "content"}}
    if kind not in fields or content.keys() != fields[kind]:
        raise DataError.at(name, number, None, "no line of an export; make the file again or remove the line")
    for field, check in (("time", seconds), ("rating", finite_rating)) if kind == "behaviour" else ():
        try:
            check(content[field])  # SQLite would make a number of a text
        except ValueError as error:
            raise DataError.at(name, number, field, str(error)) from None
    return kind, content


def _said(text: str) -> str:
    text = clean(text)
    if not text.strip():
        raise DataError("the text is empty; give at least one word")
    return text


def clean(text: str) -> str:
    """The text, if it can be stored as UTF-8. DataError: half a surrogate pair, or NUL."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the text holds half a surrogate pair at position {error.start}; write it as UTF-8") from None
    if "\0" in text:
        raise DataError(f"the text holds a NUL character at position {text.index(chr(0))}; remove it")
    return text


def lines_of(file) -> Iterator[bytes]:
    """The lines of a binary file, none longer than one byte more than a record may be."""
    return iter(lambda: file.readline(RECORD_LIMIT + 1), b"")


def _now() -> int:
    return time.time_ns() // 1_000_000


# --- a store of the older format ------------------------------------------------------------------------------------


def _format(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    return row and row[0]


def _copy_of(path: Path) -> Path:
    """Where a store of the older format is kept."""
    return path.with_name(f"{path.name}.format{OLD}")


def _migrate(path: Path, connection: sqlite3.Connection, warn: Callable[[str], None]) -> None:
    """A copy of the file beside it, then its tables as they are now, in one transaction that begins before the copy:
    what is copied is what is changed, and of two processes one finds it done."""
    copy = _copy_of(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _format(connection) != str(OLD):
            connection.execute("ROLLBACK")
            return
        _write_copy(path, copy)
        for statement in FROM_OLD.split(";\n"):
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            copy.unlink(missing_ok=True)  # while nobody else can have begun another one
            connection.execute("ROLLBACK")
        raise
    warn(f"{path}: brought from format {OLD} to {FORMAT}; as it was it is kept in {copy}, till somebody is forgotten")


def _write_copy(path: Path, copy: Path) -> None:
    """The store, read by a connection of its own while nobody writes: whole, on the disk, as private as the file."""
    beside = copy.with_name(f".{copy.name}.tmp")
    _remove_files(beside)
    try:
        beside.touch(mode=path.stat().st_mode & 0o777)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(beside)) as target:
            source.backup(target)
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, copy)
    finally:
        _remove_files(beside)


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    """Transactions are ours to open; a commit is on the disk when it returns."""
    with _naming(path):
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _remove_files(path: Path) -> None:
    """A database, and what SQLite keeps beside it."""
    for rest in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + rest).unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name. StoreBusy, OSError, DataError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        said = str(error)
        if "locked" in said or "busy" in said:
            text = f"the store is busy: another process has been writing for more than {WAIT:g} s; try again"
            raise StoreBusy(errno.EBUSY, text, str(path)) from error
        if isinstance(error, sqlite3.OperationalError) and any(
            w in said for w in ("full", "readonly", "unable", "I/O")
        ):
            text = f"{said}; nothing was changed: make room, or make it writable, and try again"
            raise OSError(errno.EIO, text, str(path)) from error
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise DataError(f"{path}: not a store that can be read ({said})") from error
