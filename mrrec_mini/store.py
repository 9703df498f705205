"""Durable memory in one SQLite file: users reach only their own rows, and `forget` deletes a user's rows.

Flow: `build_store` saves what `memory.py` makes from a data set; then the store grows with each new purchase
(`Scope.remember`) and note (`Scope.add`). The assistant and `mrrec memory` read and write it.

The file is the only source. It holds the entries, each with its vector in the same row; the purchases and preferences
from which summaries are recomputed; and the history of changes (events). Everything else, such as a
search index, is computed from the file. Transactions are short: summaries and vectors are computed before a transaction
begins, and computed again if the user's rows changed meanwhile. If others keep changing them, the `TRIES`-th time is
within the transaction, and the others wait.

Privacy: the rows of users are reached only through a `Scope`, which belongs to one user and limits every SQL statement
to this user. The id of another user's entry gives the same error as an unknown id. The attempt is logged under the
asking user (`audit`), with a digest of the id: the log does not reveal whether the id exists, and names nobody who was
forgotten. Row numbers are counted per user, so a cursor does not tell how much others write. Each user has their own
copies of the items they bought, so no import changes another user's items.
Global memory has its own table and is rebuilt from train users only (`rebuild_global`). What the store learned from
users (word weights, words that stand for values, labels in titles) holds nothing that fewer than `memory.PEOPLE` train
users have, so no user's own words outlive `forget`. `rebuild_global` drops global lines, learned words and labels that
too few of the remaining users have. Only the word weights stay until the store is built anew.

`forget` ends with two steps that can fail after the rows are gone: it rewrites the file without free pages (VACUUM)
and empties the log. If somebody still reads, or the disk is full or fails, it raises Unerased, and `open` tries again.

Equations: `remember` and `delete` apply eq. 1, 4 and 5 to one category, `rebuild_global` applies eq. 6, and
`Scope.search` is eq. 8. The paper keeps its memories in a vector index and does not say how they change.

Departure from `Memory.build`: a rebuilt global memory also uses what train users bought after their first query, since
no target has to be hidden any more. Without such purchases both give the same global memory.
Guessed: a line corrected by hand stays when its category is summarised again; a deleted line comes back then. After
`rebuild_global`, the lines of a category stay as they are until the category is summarised again.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from mrrec_mini.bm25 import words
from mrrec_mini.data import DataError, Dataset, item_from, shorten, storable
from mrrec_mini.datatypes import Item, MemoryEntry
from mrrec_mini.dense import Vectors, digest, embed
from mrrec_mini.export_lines import ENTRY, EVENT, EXPORT_FORMAT, EXPORTED, LEVELS, NOTE_LIMIT, read_export
from mrrec_mini.files import locked, replacing_file
from mrrec_mini.hybrid import Hit, TextSpace
from mrrec_mini.memory import (
    EntryIndex,
    Memory,
    MemoryConfig,
    Preference,
    Purchase,
    Summarizer,
    entry_id,
    global_aspects,
    global_line,
    join,
    patterns_by_category,
    plain,
    preference_entries,
    record_entry,
    sample_contrasts,
)
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.typed import parse_json, typed

T, R = TypeVar("T"), TypeVar("R")
FORMAT = 4  # version of the tables below
WAIT = 5.0  # seconds that a writer waits for another writer
PAGE = 50  # rows on a page
LARGEST = 2**53  # SQLite's whole numbers have 64 bits
AUDIT_ROWS = 1000  # the newest refusals of a user that are logged
TRIES = 3  # how often summaries are computed, the last time while other writers wait
AGAIN = "the next command on this store erases them"
REMAINS = "remains"  # the row of `meta` that says that deleted rows have left bytes; its value is a generation
KEPT = 8  # search indexes of users that an open store keeps
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE learned (part TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE shared (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, scenario TEXT NOT NULL,
    support INTEGER NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL
) STRICT;
CREATE TABLE person (
    user TEXT PRIMARY KEY, generation INTEGER NOT NULL, next INTEGER NOT NULL, teaches INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE item (user TEXT NOT NULL, id TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (user, id)) STRICT;
CREATE TABLE behaviour (
    user TEXT NOT NULL, place INTEGER NOT NULL, item TEXT NOT NULL, time INTEGER NOT NULL, rating REAL NOT NULL,
    review TEXT NOT NULL, PRIMARY KEY (user, place), FOREIGN KEY (user, item) REFERENCES item
) STRICT;
CREATE TABLE audit (
    user TEXT NOT NULL, number INTEGER NOT NULL, verb TEXT NOT NULL, asked TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (user, number)
) STRICT;
CREATE TABLE preference (
    user TEXT NOT NULL, category TEXT NOT NULL, place INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (user, category, place)
) STRICT;
CREATE TABLE entry (
    user TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL,
    rests_on TEXT NOT NULL, scenario TEXT NOT NULL, support INTEGER NOT NULL, by_hand INTEGER NOT NULL,
    version INTEGER NOT NULL, changed INTEGER NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (user, number), UNIQUE (user, id)
) STRICT;
CREATE TABLE event (
    user TEXT NOT NULL, number INTEGER NOT NULL, entry TEXT NOT NULL, kind TEXT NOT NULL, old TEXT, new TEXT,
    at INTEGER NOT NULL, PRIMARY KEY (user, number)
) STRICT;
"""
NUMBERED = ("entry", "event", "audit")  # tables whose rows are counted per user, so that no number tells of others
NEXT = "(SELECT coalesce(max(number), 0) + 1 FROM {} WHERE user = ?1)"  # the number of a new row of such a table
# Tables with rows of users, in an order in which `forget` can empty them: `behaviour` refers to `item`.
PERSONAL = ("entry", "event", "audit", "behaviour", "item", "preference", "person")


class StoreBusy(OSError):
    """Another process was writing for longer than `WAIT`."""


class Unerased(OSError):
    """Deleted rows can no longer be read, but their bytes are still in the file or in its log."""


class NotYours(LookupError):
    """This user has no entry with this id. The error is the same whether or not another user has such an entry."""

    def __init__(self, user: str, identity: str):
        super().__init__(f"{shorten(user)} has no memory {shorten(identity, 120)}; `list` shows the ids")
        self.identity = identity


class Changed(ValueError):
    """The entry was changed after the caller read it."""


def milliseconds() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Page:
    """One part of a list, and the cursor at which the next part begins."""

    rows: tuple  # of MemoryEntry or Event
    total: int  # rows of the whole list
    cursor: int | None  # pass it to get the next page; None: this is the last page


@dataclass(frozen=True)
class Event:
    """One change of one entry."""

    entry: str
    kind: str  # "add", "update", "delete"
    old: str | None
    new: str | None
    at: int  # milliseconds since 1970


class Store(AbstractContextManager):
    """An open store. `for_user` is the only access to a user's rows. Close the store after use (`with`)."""

    def __init__(self, path: Path, connection: sqlite3.Connection, now: Callable[[], int] = milliseconds):
        self.path, self._connection, self.now = path, connection, now
        meta = dict(self._rows("SELECT key, value FROM meta"))
        learned = dict(self._rows("SELECT part, content FROM learned"))
        with _damage(path):
            self.config = typed(MemoryConfig, parse_json(meta["memory"]))
            self.space = TextSpace.unpack(parse_json(meta["space"]), learned)
        self.embedder_id = self.space.embedder_id
        self.kept: dict[str, tuple[int, EntryIndex]] = {}  # user -> generation and index; the last used is last

    @classmethod
    def open(cls, path: Path, now: Callable[[], int] = milliseconds, any_embedder: bool = False) -> Store:
        """Open a store file; from a read-only place, it can be read.

        Raises FileNotFoundError if there is none; DataError if it is not a store, has another format, or (unless
        `any_embedder`) holds vectors of another embedder.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no store {path}; make one with `mrrec memory build --data DIR --store {path}`")
        connection = _connect(path)
        try:
            with _sqlite_errors(path):
                meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            if (found := meta.get("format")) != str(FORMAT):
                lost = "its notes and corrections cannot be carried over"
                older = f"; remove the file and build the store again ({lost})" if found in ("1", "2", "3") else ""
                raise DataError(
                    f"{path}: a store of format {shorten(found)}, and this version of mrrec_mini reads {FORMAT}{older}"
                )
            store = cls(path, connection, now)
            if meta.get("embedder") != store.embedder_id and not any_embedder:
                raise DataError(
                    f"{path}: its vectors were made by {meta.get('embedder')}, but the embedder here is "
                    f"{store.embedder_id}; recompute them with `mrrec memory reindex --store {path}`"
                )
            if REMAINS in meta:
                store._erase_if_free()
            return store
        except BaseException:
            connection.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def for_user(self, user: str) -> Scope:
        """Return the `Scope` of this user. Raises DataError if `user` is blank; any other string is a valid user."""
        if not isinstance(user, str) or not user.strip():
            raise DataError("the user is empty; every memory belongs to somebody")
        return Scope(self, user)

    @property
    def generation(self) -> int:
        """A number that each write increases in its transaction. What was computed at a lower number is outdated."""
        return int(self._rows("SELECT value FROM meta WHERE key = 'generation'")[0][0])

    @property
    def summarizer(self) -> ExtractiveSummarizer:
        """The writer of new summaries. It is read from the file, because any process may rebuild the global memory."""
        [(content,)] = self._rows("SELECT content FROM learned WHERE part = 'reading'")
        with _damage(self.path):
            return ExtractiveSummarizer.unpack(parse_json(content))

    def entry_index(self) -> EntryIndex:
        """Return a search index over the current global memory (eq. 6)."""
        rows = self._rows("SELECT vector, id, text, scenario, support FROM shared ORDER BY number")
        entries = [MemoryEntry(i, None, "global", text, (), scenario, n) for _, i, text, scenario, n in rows]
        return self._index(entries, [row[0] for row in rows])

    def rebuild_global(self, rng: np.random.Generator, items: Iterable[Item] = ()) -> tuple[MemoryEntry, ...]:
        """Replace the global memory by eq. (6) on the train users' purchases in the store; return its entries.

        New summaries then count a value only if its aspect decides according to the new global memory.
        `items`: items that users could choose, in addition to the items that train users bought. If a train user's
        rows change before the transaction, everything is computed again with the same random draws. What fewer than
        `PEOPLE` of the train users still have is dropped from what the store learned. Raises Unerased as `forget` does.
        """
        offered = {item.id: item for item in items}
        uninformed = self.summarizer.informed(())  # it has learned words, and does not know which aspects decide

        def compute(teachers: list[tuple[str, int]]) -> tuple:
            histories = [history for user, _ in teachers if (history := tuple(self.for_user(user).purchases()))]
            bought = {one.item.id: one.item for history in histories for one in history}
            pool = offered | {identity: bought[identity] for identity in sorted(bought)}
            contrasts = sample_contrasts(histories, pool.values(), self.config, deepcopy(rng))
            aspects = global_aspects(uninformed, contrasts, self.config)
            entries = tuple(global_line(aspect, self.config) for aspect in aspects)
            reading = _packed(uninformed.without_rare(histories).informed(aspects))
            return entries, self._embed([entry.text for entry in entries]), reading

        def write(entries: tuple[MemoryEntry, ...], vectors: list[bytes], reading: bytes) -> tuple[MemoryEntry, ...]:
            self._write_shared(entries, vectors)
            self._connection.execute("UPDATE learned SET content = ? WHERE part = 'reading'", (reading,))
            self._note_remains()
            return entries

        entries = self._compute_and_write(self._teachers, compute, write)
        self._erase_remains("the global memory is built again, and the old one is deleted")
        return entries

    def _compute_and_write(self, rows: Callable[[], R], compute: Callable[[R], tuple], write: Callable[..., T]) -> T:
        """Return `write(*compute(rows()))`. `write` runs in a transaction in which `rows()` is what `compute` got.

        `compute` may take long, so it runs before the transaction, and again if `rows()` changed meanwhile. The last
        of `TRIES` times, it runs within the transaction: then the others wait instead.
        """
        for _ in range(TRIES - 1):
            before = rows()
            found = compute(before)
            with self._writing():
                if rows() == before:
                    return write(*found)
        with self._writing():
            return write(*compute(rows()))

    def _rows(self, statement: str, values: Sequence = ()) -> list[tuple]:
        with _sqlite_errors(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run the block as one transaction: all or nothing, on the disk when it ends. Increases the generation."""
        with _sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _note_remains(self) -> None:
        """Note that rows are deleted whose bytes have to be erased. Call it in the transaction that deletes them."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (REMAINS, str(self.generation + 1)))

    def _erase_remains(self, done: str) -> None:
        """Erase what deleted rows left. Raises Unerased, which says what is `done`; `open` then tries again."""
        try:
            self._erase()
        except OSError as error:
            text = f"{done}, but not yet erased from the file and its log: {error.strerror}"
            raise Unerased(error.errno, text, str(self.path)) from error

    def _erase(self) -> None:
        """Erase the bytes that deleted rows left in free pages of the file and in its log. Raises OSError if it cannot.

        The file system may still keep old blocks that no file holds.
        """
        remains = self._rows("SELECT value FROM meta WHERE key = ?", (REMAINS,))
        try:
            self._empty_log()  # also finds out whether anybody reads, before the file is copied
            self._connection.execute("VACUUM")
            self._empty_log()
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise self._in_use() from error
            text = f"{error}; make room for a second copy of the file, or make it writable; {AGAIN}"
            raise OSError(errno.EIO, text, str(self.path)) from error
        with suppress(sqlite3.Error):  # if it cannot be noted, the next `open` erases nothing once more
            for row in remains:  # another process may have deleted more meanwhile
                self._connection.execute("DELETE FROM meta WHERE key = ? AND value = ?", (REMAINS, *row))

    def _empty_log(self) -> None:
        """Move all pages from the log to the file. Raises StoreBusy if somebody reads or writes."""
        [(busy, *_)] = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise self._in_use()

    def _in_use(self) -> StoreBusy:
        """Return the error that names who reads or writes."""
        text = f"{processes_using(self.path)} still uses the store; wait until it ends; {AGAIN}"
        return StoreBusy(errno.EBUSY, text, str(self.path))

    def _erase_if_free(self) -> None:
        """Erase what is left, but wait for nobody. If it fails, the bytes are left for another `open`."""
        with suppress(OSError, sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._erase()
        self._connection.execute(f"PRAGMA busy_timeout = {WAIT * 1000:.0f}")

    def _embed(self, texts: Sequence[str]) -> list[bytes]:
        """Return one vector per text, as float32 bytes; empty bytes if the store has no embedder."""
        if self.space.embedder is None:
            return [b""] * len(texts)
        return [row.tobytes() for row in embed(self.space.embedder, list(texts)).values]

    def _index(self, entries: Sequence[MemoryEntry], vectors: Sequence[bytes]) -> EntryIndex:
        """Return a search index over saved entries, with their saved vectors."""
        if self.space.embedder is None or not entries:
            return EntryIndex(entries, self.space)
        matrix = np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(len(entries), -1)
        return EntryIndex(entries, self.space, Vectors(matrix, self.embedder_id))

    def train_users(self) -> frozenset[str]:
        """Return the users from whom shared memory is learned, without those who were forgotten."""
        return frozenset(user for user, _ in self._teachers())

    def _teachers(self) -> list[tuple[str, int]]:
        """Return (user, generation) of each train user. The global memory is learned only from train users."""
        return self._rows("SELECT user, generation FROM person WHERE teaches ORDER BY user")

    def _write_shared(self, entries: Sequence[MemoryEntry], vectors: Sequence[bytes]) -> None:
        """Replace the global memory. Call it within a transaction."""
        self._connection.execute("DELETE FROM shared")
        self._connection.executemany(
            "INSERT INTO shared (id, text, scenario, support, embedder, vector) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.id, e.text, e.scenario, e.support, self.embedder_id, v) for e, v in zip(entries, vectors, strict=True)],
        )


def _logging_refusals(verb: Callable) -> Callable:
    """Decorate a method of `Scope`: log each NotYours error. The error is raised even if it cannot be logged."""

    @functools.wraps(verb)
    def logged(self: Scope, *args, **kwargs):
        try:
            return verb(self, *args, **kwargs)
        except NotYours as refusal:
            with suppress(sqlite3.Error):  # nothing is computed from the log, so the generation stays
                execute = self.store._connection.execute
                execute(
                    f"INSERT INTO audit VALUES (?, {NEXT.format('audit')}, ?, ?, ?)",
                    (self.user, verb.__name__, digest(refusal.identity), self.store.now()),
                )
                oldest = "SELECT number FROM audit WHERE user = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
                values = self.user, self.user, AUDIT_ROWS
                execute(f"DELETE FROM audit WHERE user = ? AND number <= ({oldest})", values)
            raise

    return logged


class Scope:
    """One user's memory. Every SQL statement has `self.user` as a parameter, so it cannot reach rows of other users."""

    def __init__(self, store: Store, user: str):
        self.store, self.user = store, user

    # --- reading ----------------------------------------------------------------------------------------------------

    @_logging_refusals
    def get(self, identity: str) -> MemoryEntry:
        """Return the entry with this id. Raises NotYours if this user has no such entry."""
        return self._get(identity)[0]

    def list(self, level: str | None = None, limit: int = PAGE, cursor: int = 0) -> Page:
        """Return a page of entries after `cursor`, oldest first. Raises ValueError for a bad limit or level."""
        if level and level not in LEVELS:
            raise ValueError(f"there is no level {shorten(level)}; the levels are {', '.join(LEVELS)}")
        return self._page("entry", ENTRY, self._entry, limit, cursor, level=level or None)

    @_logging_refusals
    def history(self, identity: str | None = None, limit: int = PAGE, cursor: int = 0) -> Page:
        """Return a page of events, oldest first: all or one entry's, deleted or not. Raises NotYours if it has none."""
        page = self._page("event", EVENT, lambda row: Event(*row), limit, cursor, entry=identity)
        if identity is not None and not page.total:
            raise NotYours(self.user, identity)
        return page

    def search(self, text: str, k: int = 3) -> tuple[tuple[MemoryEntry, Hit], ...]:
        """Return the k entries that match `text` best, with scores, best first: eq. (8). Raises ValueError if k < 0."""
        if k < 0:
            raise ValueError(f"k must be >= 0, not {k}")
        return self.entry_index().find(text, k)

    def entry_index(self) -> EntryIndex:
        """Return a search index over this user's current entries, oldest first.

        The store keeps the indexes of the `KEPT` users who asked last, each until its user's generation changes.
        """
        kept, (generation, _) = self.store.kept, self._person()  # before the rows: a later write makes the index old
        was, index = kept.pop(self.user, (None, None))
        if index is None or was != generation:
            rows = self._execute(f"SELECT vector, {ENTRY} FROM entry WHERE user = ? ORDER BY number")
            index = self.store._index([self._entry(fields) for _, *fields in rows], [row[0] for row in rows])
        if generation:  # an unknown user takes no place
            kept[self.user] = generation, index
            for oldest in list(kept)[:-KEPT]:
                del kept[oldest]
        return index

    @_logging_refusals
    def why(self, identity: str, text: str = "") -> dict:
        """Return the records behind an entry, and its score in a search for `text`. Raises NotYours as `get` does."""
        entry = self._get(identity)[0]
        texts = [(one, self._one("SELECT text FROM entry WHERE user = ? AND id = ?", one)) for one in entry.rests_on]
        rests_on = [{"id": source, "text": row and row[0]} for source, row in texts]
        about: dict = {"entry": asdict(entry), "rests_on": rests_on, "search": None}
        if text.strip():
            found = self.search(text, self.list(limit=1).total)
            places = {other.id: (place, hit) for place, (other, hit) in enumerate(found, 1)}
            place, hit = places.get(identity, (None, None))
            about["search"] = {
                "text": text,
                "place": place,
                "of": len(found),
                "score": hit and hit.score,
                "bm25": hit and hit.bm25,
                "cosine": hit and hit.dense,
                "words_in_common": sorted(set(words(text)) & set(words(entry.text))),
            }
        return about

    def stats(self) -> dict:
        """Return counts of this user's rows, their generation, and the store's embedder and format."""
        levels = self._execute("SELECT level, count(*) FROM entry WHERE user = ? GROUP BY level")
        [events] = self._one("SELECT count(*) FROM event WHERE user = ?")
        [refused] = self._one("SELECT count(*) FROM audit WHERE user = ?")
        return {
            "user": self.user,
            "entries": dict(sorted(levels)),
            "events": events,
            "refused": refused,
            "embedder": self.store.embedder_id,
            "generation": self._person()[0],
            "format": FORMAT,
        }

    # --- writing ----------------------------------------------------------------------------------------------------

    def add(self, text: str) -> MemoryEntry:
        """Save a note in the user's own words, unless the same note exists. Raises DataError for a blank text."""
        text = clean(require_text(text, "the text"))
        [vector] = self.store._embed([text])
        with self.store._writing():
            known = self._one(f"SELECT {ENTRY} FROM entry WHERE user = ? AND level = 'note' AND text = ?", text)
            if known:
                return self._entry(known)
            entry = MemoryEntry(entry_id(self.user, "note", self._increase_generation(1)), self.user, "note", text)
            self._save(entry, vector, by_hand=True)
        return entry

    @_logging_refusals
    def update(self, identity: str, text: str, version: int | None = None) -> MemoryEntry:
        """Change the text of an entry; later summaries do not replace it. `version`: the version that the caller saw.

        Raises NotYours as `get` does, Changed if the entry is at another version, DataError for a blank text.
        """
        text = clean(require_text(text, "the text"))
        self._get(identity)  # refuse an unknown id before embedding anything
        [vector] = self.store._embed([text])
        with self.store._writing():
            old, is_now = self._get(identity)
            if version is not None and version != is_now:
                raise Changed(f"{identity} is at version {is_now} by now, not {version}; read it again")
            entry = replace(old, text=text)
            if text != old.text:
                self._save(entry, vector, old.text, by_hand=True)
                self._increase_generation()
        return entry

    @_logging_refusals
    def delete(self, identity: str) -> None:
        """Delete one entry. For a record, also delete its purchase and redo the summaries of its category.

        Raises NotYours as `get` does.
        """

        def compute(_: object) -> tuple:
            entry, _ = self._get(identity)
            left = [one for one in self.purchases() if one.record != identity]
            is_record = entry.level == "record"
            return entry, self._summarise(self.store.summarizer, entry.scenario, left) if is_record else None

        def write(entry: MemoryEntry, summaries: tuple | None) -> None:
            self._remove(entry)
            if summaries:
                self._execute("DELETE FROM behaviour WHERE user = ? AND place = ?", int(identity.rsplit("/", 1)[1]))
                unused = "id NOT IN (SELECT item FROM behaviour WHERE user = ?)"
                self._execute(f"DELETE FROM item WHERE user = ? AND {unused}", self.user)
                self._write_summaries(*summaries)
            self._increase_generation()

        self.store._compute_and_write(self._person, compute, write)

    def remember(self, item: Item, rating: float, review: str = "", at: int | None = None) -> MemoryEntry:
        """Add a purchase: save its record (eq. 1), redo the patterns of its category (eq. 4) and the profile (eq. 5).

        `rating`: 1 to 5. `at`: seconds since 1970; None: now. Raises DataError for another rating or an invalid review.
        """
        if not np.isfinite(rating) or not 1 <= rating <= 5:
            raise DataError(f"the rating is {shorten(rating)}; give a number from 1 to 5")
        store, rating, review = self.store, float(rating), clean(review)
        at = store.now() // 1000 if at is None else at

        def compute(person: tuple[int, int]) -> tuple:
            # 1. Outside the transaction: the new record, and the summaries that include it.
            _, place = person
            purchases, summarizer = self.purchases(), store.summarizer
            purchase = Purchase(entry_id(self.user, "record", place), self.user, item, rating, review, at)
            record = record_entry(purchase, summarizer.telling(purchase), store.config)
            [vector] = store._embed([record.text])
            return place, record, vector, self._summarise(summarizer, item.category[-1], [*purchases, purchase])

        def write(place: int, record: MemoryEntry, vector: bytes, summaries: tuple) -> MemoryEntry:
            # 2. If no other process changed this user's rows meanwhile: the purchase, its record and the summaries.
            self._increase_generation(1)
            self._write_purchase(place, item, at, rating, review)
            if "record" in store.config.levels:
                self._save(record, vector)
            self._write_summaries(*summaries)
            return record

        return store._compute_and_write(self._person, compute, write)

    def forget(self) -> int:
        """Delete all rows of this user, and their remains in the file and its log; return the number of rows.

        Raises Unerased if the rows are deleted, but their bytes are left: somebody reads, or the disk is full or fails.
        """
        self.store.kept.pop(self.user, None)
        with self.store._writing():
            gone = sum(len(self._execute(f"DELETE FROM {table} WHERE user = ? RETURNING 1")) for table in PERSONAL)
            self.store._note_remains()
        self.store._erase_remains(f"all rows of {shorten(self.user)} are deleted")
        return gone

    # --- export and import ------------------------------------------------------------------------------------------

    def export(self) -> list[str]:
        """Return all rows of this user as JSON lines. After `restore`, `export` returns the same lines."""
        rows = [("person", {"user": self.user, "next": self._person()[1], "format": EXPORT_FORMAT})]
        items = self._execute("SELECT id, content FROM item WHERE user = ? ORDER BY id")
        rows += [("item", {"id": identity, "content": json.loads(content)}) for identity, content in items]
        for kind, (columns, order) in EXPORTED.items():
            table = self._execute(f"SELECT {columns} FROM {kind} WHERE user = ? ORDER BY {order}")
            rows += [(kind, dict(zip(columns.split(", "), row, strict=True))) for row in table]
        return [json.dumps({"line": kind, **fields}) for kind, fields in rows]

    def restore(self, lines: Iterable[bytes], name: str = "import") -> dict[str, int]:
        """Insert the rows of an export, all or nothing; return {kind: number of rows}. Errors show the file's `name`.

        Raises DataError, naming the line, for anything that is not an export of this user; ValueError if the user
        has rows already. The user does not become a train user, since anybody can write such a file.
        """
        read = read_export(lines, self.user, name)
        person = read[0][2]
        if person["format"] != EXPORT_FORMAT:
            problem = f"{shorten(person['format'])}, and this version of mrrec_mini reads {EXPORT_FORMAT}"
            raise DataError.at(name, 1, "format", problem)
        vectors = iter(self.store._embed([str(row["text"]) for _, kind, row in read if kind == "entry"]))
        counts = dict.fromkeys(EXPORTED, 0)
        with self.store._writing():
            if self._one("SELECT 1 FROM person WHERE user = ?"):
                raise ValueError(f"{self.user} already has memories here; forget them first, or use another store")
            self._increase_generation(person["next"])
            for number, kind, row in read[1:]:
                try:
                    if kind == "item":
                        self._write_item(item_from(row["content"]))
                        continue
                    if kind == "entry":
                        row |= {"embedder": self.store.embedder_id, "vector": next(vectors)}
                    columns, values = ", ".join(row), "?" + ", ?" * len(row)
                    if kind in NUMBERED:
                        columns, values = columns + ", number", f"{values}, {NEXT.format(kind)}"
                    self._execute(f"INSERT INTO {kind} (user, {columns}) VALUES ({values})", *row.values())
                    counts[kind] += 1
                except (sqlite3.Error, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
                    problem = f"not what `export` writes ({shorten(str(error), 120)})"
                    raise DataError.at(name, number, None, problem) from None
        return counts

    # --- below: one step each ---------------------------------------------------------------------------------------

    def _execute(self, statement: str, *values: object) -> list[tuple]:
        """Execute a statement whose first parameter is the user; return its rows."""
        return self.store._rows(statement, (self.user, *values))

    def _one(self, statement: str, *values: object) -> tuple | None:
        """Return the first row of the result, or None."""
        return next(iter(self._execute(statement, *values)), None)

    def _page(self, table: str, columns: str, make: Callable, limit: int, cursor: int, **equal: str | None) -> Page:
        """Return a page of this user's rows. `equal`: {column: required value}; None allows every value."""
        if not 1 <= limit < LARGEST or not 0 <= cursor < LARGEST:
            raise ValueError(f"limit must be at least 1 and cursor at least 0, both below 2^53: {limit}, {cursor}")
        equal = {column: value for column, value in equal.items() if value is not None}
        chosen = f"FROM {table} WHERE user = ?" + "".join(f" AND {column} = ?" for column in equal)
        [total] = self._one(f"SELECT count(*) {chosen}", *equal.values())
        statement = f"SELECT number, {columns} {chosen} AND number > ? ORDER BY number LIMIT ?"
        rows = self._execute(statement, *equal.values(), cursor, limit + 1)
        more = rows[limit - 1][0] if len(rows) > limit else None
        return Page(tuple(make(row[1:]) for row in rows[:limit]), total, more)

    def _entry(self, row: Sequence) -> MemoryEntry:
        identity, level, text, rests_on, scenario, support = row
        return MemoryEntry(identity, self.user, level, text, tuple(json.loads(rests_on)), scenario, support)

    def _get(self, identity: str) -> tuple[MemoryEntry, int]:
        """Return (entry, version) of the entry with this id. Raises NotYours if this user has no such entry."""
        row = self._one(f"SELECT version, {ENTRY} FROM entry WHERE user = ? AND id = ?", identity)
        if row is None:
            raise NotYours(self.user, identity)
        return self._entry(row[1:]), row[0]

    def _person(self) -> tuple[int, int]:
        """Return (generation, next free entry number) of this user; (0, 0) for a new user."""
        return self._one("SELECT generation, next FROM person WHERE user = ?") or (0, 0)

    def _increase_generation(self, numbers: int = 0) -> int:
        """Increase this user's generation and reserve `numbers` unused entry numbers; return the first of them.

        A new user starts at a random generation. So a user who was forgotten and comes back does not reach a generation
        for which another process still keeps an index of what was forgotten.
        """
        [after] = self._one(
            "INSERT INTO person (user, generation, next) VALUES (?, 1 + abs(random() >> 16), ?) ON CONFLICT (user)"
            " DO UPDATE SET generation = generation + 1, next = next + excluded.next RETURNING next",
            numbers,
        )
        return after - numbers

    def _event(self, entry: str, kind: str, old: str | None, new: str | None) -> None:
        values = entry, kind, old, new, self.store.now()
        self._execute(f"INSERT INTO event VALUES (?, {NEXT.format('event')}, ?, ?, ?, ?, ?)", *values)

    def _save(self, entry: MemoryEntry, vector: bytes, old: str | None = None, by_hand: bool = False) -> None:
        """Insert an entry, or update it if it exists. `old`: its previous text, None for a new entry."""
        changeable = "text", "rests_on", "support", "by_hand", "changed", "embedder", "vector"
        self._execute(
            f"INSERT INTO entry (user, number, {ENTRY}, by_hand, version, changed, embedder, vector)"
            f" VALUES (?, {NEXT.format('entry')}, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)"
            " ON CONFLICT (user, id) DO UPDATE SET version = version + 1, "
            + ", ".join(f"{column} = excluded.{column}" for column in changeable),
            *(entry.id, entry.level, entry.text, json.dumps(entry.rests_on), entry.scenario, entry.support),
            *(by_hand, self.store.now(), self.store.embedder_id, vector),
        )
        if entry.text != old:
            self._event(entry.id, "add" if old is None else "update", old, entry.text)

    def _remove(self, entry: MemoryEntry) -> None:
        self._execute("DELETE FROM entry WHERE user = ? AND id = ?", entry.id)
        self._event(entry.id, "delete", entry.text, None)

    def _write_item(self, item: Item) -> None:
        content = json.dumps({**vars(item), "attributes": dict(item.attributes)})  # in their order, as in records
        statement = "INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (user, id) DO UPDATE SET content = excluded.content"
        self._execute(statement, item.id, content)

    def _write_purchase(self, place: int, item: Item, at: int, rating: float, review: str) -> None:
        self._write_item(item)
        self._execute("INSERT INTO behaviour VALUES (?, ?, ?, ?, ?, ?)", place, item.id, at, rating, review)

    # --- eq. 1, 4, 5 for one category -------------------------------------------------------------------------------

    def purchases(self) -> list[Purchase]:
        """Return H_u: this user's purchases, oldest first."""
        rows = self._execute(
            "SELECT place, item.content, rating, review, time FROM behaviour JOIN item"
            " ON item.user = behaviour.user AND item.id = behaviour.item WHERE behaviour.user = ? ORDER BY place"
        )
        return [
            Purchase(entry_id(self.user, "record", place), self.user, item_from(json.loads(content)), *fields)
            for place, content, *fields in rows
        ]

    def bought(self) -> set[str]:
        """Return the ids of the items that this user bought."""
        return {item for (item,) in self._execute("SELECT DISTINCT item FROM behaviour WHERE user = ?")}

    def _summarise(self, summarizer: Summarizer, category: str, purchases: Sequence[Purchase]) -> tuple:
        """Redo eq. (4) for one category and eq. (5) for all categories; return the arguments of `_write_summaries`."""
        category = plain(category)
        here = [one for one in purchases if plain(one.scenario) == category]
        patterns = summarizer.patterns(here) if here else []
        stored = self._preferences() | {category: patterns}
        in_use = dict.fromkeys(plain(one.scenario) for one in purchases)  # categories in the order of first purchases
        profile = summarizer.profile([one for name in in_use for one in stored.get(name, patterns)])
        entries = preference_entries(self.user, [*profile, *patterns], self.store.config)
        return category, patterns, entries, self.store._embed([entry.text for entry in entries])

    def _write_summaries(
        self, category: str, patterns: Sequence[Preference], entries: Sequence[MemoryEntry], vectors: Sequence[bytes]
    ) -> None:
        """Replace the profile and one category's patterns, but not lines written by hand. Call it in a transaction."""
        self._write_preferences(category, patterns)
        rows = self._execute(
            f"SELECT by_hand, {ENTRY} FROM entry WHERE user = ?"
            " AND (level = 'profile' OR level = 'pattern' AND scenario = ?)",
            category,
        )
        fresh = {entry.id: (entry, vector) for entry, vector in zip(entries, vectors, strict=True)}
        for by_hand, *fields in rows:
            old = self._entry(fields)
            entry, vector = fresh.pop(old.id, (None, b""))
            if entry is None and not by_hand:
                self._remove(old)
            elif entry != old and not by_hand:
                self._save(entry, vector, old.text)
        for entry, vector in fresh.values():
            self._save(entry, vector)
        self._increase_generation()

    def _preferences(self) -> dict[str, list[Preference]]:
        """Return {category: patterns}, weak patterns included."""
        found: dict[str, list[Preference]] = {}
        rows = self._execute("SELECT category, content FROM preference WHERE user = ? ORDER BY category, place")
        for category, content in rows:
            fields = json.loads(content)
            found.setdefault(category, []).append(Preference(**{**fields, "rests_on": tuple(fields["rests_on"])}))
        return found

    def _write_preferences(self, category: str, preferences: Sequence[Preference]) -> None:
        self._execute("DELETE FROM preference WHERE user = ? AND category = ?", category)
        for place, one in enumerate(preferences):
            self._execute("INSERT INTO preference VALUES (?, ?, ?, ?)", category, place, json.dumps(vars(one)))


def reindex(path: Path) -> int:
    """Recompute all vectors of a store with the embedder of this machine, all or nothing; return their number."""
    done = 0
    with Store.open(path, any_embedder=True) as store, store._writing():
        for table in ("entry", "shared"):
            rows = store._connection.execute(f"SELECT rowid, text FROM {table}").fetchall()
            vectors = store._embed([text for _, text in rows])
            store._connection.executemany(
                f"UPDATE {table} SET vector = ?, embedder = ? WHERE rowid = ?",
                [(vector, store.embedder_id, row) for (row, _), vector in zip(rows, vectors, strict=True)],
            )
            done += len(rows)
        store._connection.execute("UPDATE meta SET value = ? WHERE key = 'embedder'", (store.embedder_id,))
    return done


def backup(path: Path, out: Path) -> int:
    """Copy a store into the new file `out`, with all that is committed, all or nothing; return its size in bytes.

    Copying the file with other tools would miss the newest writes, which are in the log beside it. Others may read and
    write meanwhile: the copy is the store at one moment. Raises ValueError if `out` exists already.
    """
    with _new_file(out), Store.open(path, any_embedder=True) as store, replacing_file(out) as fresh:
        fresh.touch(0o600)
        try:
            with _sqlite_errors(out), closing(sqlite3.connect(fresh)) as copy:
                store._connection.backup(copy)
        finally:
            _remove_side_files(fresh)
    return out.stat().st_size


# --- a new store ----------------------------------------------------------------------------------------------------


def build_store(path: Path, dataset: Dataset, memory: Memory, progress: Callable = lambda *_: None) -> dict[str, int]:
    """Make a store with the memories of all users and the global memory; return {level: number of entries}.

    The memories use whole histories. All or nothing. Raises ValueError if the file exists already.
    `progress(done, total)` is called after each user. Two builds of one file take turns, so the second is refused.
    """
    with _new_file(path):
        return _build_store(path, dataset, memory, progress)


def require_no_file(path: Path) -> None:
    """Raise ValueError if there is a file `path`."""
    if path.exists():
        raise ValueError(f"{path} already exists; choose another file, or remove it")


@contextmanager
def _new_file(path: Path) -> Iterator[None]:
    """Let one process at a time make the file `path`. Raises ValueError if there is one already."""
    require_no_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        require_no_file(path)
        _remove_side_files(path)  # SQLite would apply the log of a removed store to the new one of the same name
        yield


def _build_store(path: Path, dataset: Dataset, memory: Memory, progress: Callable) -> dict[str, int]:
    counts = Counter({"global": len(memory.global_entries)})
    with replacing_file(path) as fresh:
        fresh.unlink(missing_ok=True)  # a killed build with the same process id may have left files
        _remove_side_files(fresh)
        try:
            fresh.touch(0o600)  # for its owner only; SQLite's log beside it gets the same mode
            with _sqlite_errors(fresh):
                # 1. Empty tables. Commits need not reach the disk yet: the file gets its name only when it is complete.
                connection = _connect(fresh)
                connection.executescript(f"PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; {TABLES}")
                # 2. What belongs to no user: configuration, and what was learned from train users.
                memory = _without_rare(dataset, memory)
                _write_learned(connection, memory)
            with Store(fresh, connection) as store:
                with store._writing():
                    # 3. The global memory.
                    store._write_shared(memory.global_entries, store._embed([e.text for e in memory.global_entries]))
                    # 4. Each user's purchases, summaries and entries.
                    users = dataset.users()
                    for done, user in enumerate(users, 1):
                        counts.update(_write_user(store.for_user(user), dataset, memory))
                        progress(done, len(users))
                # 5. From now on use a write-ahead log, so that readers and writers do not wait for each other.
                with _sqlite_errors(fresh):
                    connection.execute("PRAGMA journal_mode = WAL")
        finally:
            _remove_side_files(fresh)
    return dict(counts)


def _without_rare(dataset: Dataset, memory: Memory) -> Memory:
    """Return the memory without what fewer than `PEOPLE` train users have, which `forget` could not find."""
    if not isinstance(memory.summarizer, ExtractiveSummarizer):
        return memory
    histories = [join(dataset, dataset.interactions_of(user)) for user in sorted(memory.train_users)]
    return replace(memory, summarizer=memory.summarizer.without_rare(histories))


def _write_learned(connection: sqlite3.Connection, memory: Memory) -> None:
    """Write what belongs to no user: configuration, text space and summariser."""
    space, learned = memory.space.pack()
    meta = {
        "format": str(FORMAT),
        "generation": "0",
        "memory": json.dumps(asdict(memory.config)),
        "embedder": memory.space.embedder_id,
        "space": json.dumps(space),
    }
    writer = memory.summarizer if isinstance(memory.summarizer, ExtractiveSummarizer) else ExtractiveSummarizer()
    learned["reading"] = _packed(writer)
    with connection:
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.executemany("INSERT INTO learned VALUES (?, ?)", learned.items())


def _packed(summarizer: ExtractiveSummarizer) -> bytes:
    return json.dumps(summarizer.pack(), sort_keys=True).encode()


def _write_user(scope: Scope, dataset: Dataset, memory: Memory) -> Counter[str]:
    """Write one user's whole history within a transaction; return {level: number of entries}."""
    store, writer, history = scope.store, memory.summarizer, dataset.interactions_of(scope.user)
    purchases = join(dataset, history)
    for place, (one, purchase) in enumerate(zip(history, purchases, strict=True)):
        scope._write_purchase(place, purchase.item, one.time, one.rating, one.review)
    by_category = patterns_by_category(purchases, writer)
    for category, preferences in by_category.items():
        scope._write_preferences(category, preferences)
    patterns = [one for preferences in by_category.values() for one in preferences]
    entries = preference_entries(scope.user, [*writer.profile(patterns), *patterns], store.config)
    records = purchases if "record" in store.config.levels else ()
    entries += [record_entry(one, writer.telling(one), store.config) for one in records]
    for entry, vector in zip(entries, store._embed([entry.text for entry in entries]), strict=True):
        scope._save(entry, vector)
    scope._execute("INSERT INTO person VALUES (?, 1, ?, ?)", len(history), scope.user in memory.train_users)
    return Counter(entry.level for entry in entries)


def require_text(text: str, what: str) -> str:
    """Return the text. Raises DataError if it is blank or cannot be stored; `what` names the text in the message."""
    if not text.strip():
        raise DataError(f"{what} is empty; give at least one word")
    try:
        return storable(text)
    except ValueError as error:
        raise DataError(f"the text {error}") from None


def clean(text: str) -> str:
    """Return a text to keep. Raises DataError if it cannot be stored, or is longer than NOTE_LIMIT characters."""
    if text.strip():
        require_text(text, "the text")
    if len(text) > NOTE_LIMIT:
        raise DataError(f"the text has {len(text)} characters, and at most {NOTE_LIMIT} are kept; shorten or split it")
    return text


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database. Each caller begins its own transactions; a commit is on the disk when it returns."""
    with _sqlite_errors(path):
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        try:
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        except sqlite3.OperationalError:
            connection.close()
            if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
                raise
            connection = _connect_to_read(path)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")  # views and triggers of a foreign file call no SQL function
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a database on a read-only place, where SQLite can make no file beside it.

    Without a log, nobody is writing, so SQLite may read the file as it is. With a log, the newest writes are there, and
    SQLite needs the -shm file beside it; if that is missing, the error asks for a copy.
    """
    log = path.with_name(path.name + "-wal")
    in_log = log.is_file() and log.stat().st_size > 0
    mode = "mode=ro" if in_log else "immutable=1"
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=WAIT, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if not in_log:
            raise
        text = f"its newest writes are in {log.name}, which cannot be read on a read-only place; copy both elsewhere"
        raise OSError(errno.EROFS, text, str(path)) from error
    return connection


def processes_using(path: Path) -> str:
    """Return who reads or writes a store now, such as `process 12 and process 13`; `another process` if unknown.

    Whoever does locks some of the bytes 120 to 127 of the -shm file (SQLite's WAL format). Linux lists all locks. We
    must not open that file to ask: closing it would drop SQLite's own locks.
    """
    with suppress(OSError, ValueError):
        inode = Path(f"{path.resolve()}-shm").stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        of_file = [lock for lock in locks if lock[1] == "POSIX" and int(lock[5].rpartition(":")[2]) == inode]
        found = sorted({int(lock[4]) for lock in of_file if 120 <= int(lock[6]) <= 127})
        if found:
            names = [f"process {number}" if number != os.getpid() else "this process" for number in found]
            return " and ".join(names)
    return "another process"


def _remove_side_files(path: Path) -> None:
    """Remove the files that SQLite keeps beside a database while it is open."""
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn errors in reading what the store holds into a DataError that names the store."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not what `mrrec memory build` writes ({shorten(str(error), 120)})") from error


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors that name the file: StoreBusy, OSError or DataError."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # the fault is in a value, not in the file
    except sqlite3.DatabaseError as error:
        said = str(error)
        if "locked" in said or "busy" in said:
            text = f"the store is busy: another process has been writing for more than {WAIT:g} s; try again"
            raise StoreBusy(errno.EBUSY, text, str(path)) from error
        unwritable = any(word in said for word in ("full", "readonly", "unable", "I/O"))
        if isinstance(error, sqlite3.OperationalError) and unwritable:
            text = f"{said}; nothing was changed: make room, or make it writable, and try again"
            raise OSError(errno.EIO, text, str(path)) from error
        raise DataError(f"{path}: not a store that can be read ({said})") from error
