"""A data set on disk and in memory: load, validate, split by users, save.

Flow: the first stage. `world.py` and `sources.py` make a `Dataset`; every later stage reads one. On disk it is a folder
of `items.jsonl`, `interactions.jsonl`, `queries.jsonl` (one record of `datatypes.py` a line) and `meta.json` (name,
source, licence, counts, sha256 of the three files).

Equations: none. H_u of sec. 2 is `Dataset.history`: what the query's own user did strictly before the query's time.
Departures: the paper splits queries; we split users, so that whatever is learned, the global memory included, never saw
the people it is tested on.
Guessed: times after the year 2100 are milliseconds given by mistake; a record above 1 MiB is a broken file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any
from unicodedata import category

from mrrec_mini.datatypes import Interaction, Item, Query

ITEMS, INTERACTIONS, QUERIES, META = "items.jsonl", "interactions.jsonl", "queries.jsonl", "meta.json"
RECORD_LIMIT = 1 << 20  # bytes; without a limit one line of a broken file could fill the memory
LATEST_TIME = 4_102_444_800  # 2100-01-01; nothing later is a time in seconds


class DataError(ValueError):
    """Data that cannot be used. The message is one line: file, line, field, what is wrong, what to do."""

    @classmethod
    def at(cls, path: Path | str, line: int | None, name: str | None, what: str) -> DataError:
        place = f"{path}:{line}" if line else f"{path}"
        return cls(f"{place}: {name}: {what}" if name else f"{place}: {what}")


def shorten(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: one line, control characters escaped, at most `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """A text as a terminal may be shown it: control and formatting characters become escapes, all else stays."""
    driving = ("Cc", "Cf", "Cs", "Zl", "Zp")  # escape sequences begin with a Cc; a Cf can turn the reading direction
    return "".join(c.encode("unicode_escape").decode() if category(c) in driving else c for c in text)


# --- one field ------------------------------------------------------------------------------------------------------
# Each function takes what JSON gave and returns what the record holds, or raises ValueError saying what is wrong.
# Nothing is coerced: a rating of "5" points to an exporter that is wrong elsewhere too.


def _text(value: Any) -> str:
    """Any string that can be written as UTF-8 again."""
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not a string")
    if "\0" in value:
        raise ValueError(f"holds a NUL character at position {value.index(chr(0))}; remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"holds half a surrogate pair at position {error.start}; write the text as UTF-8"
            ) from None
    return value


def _said(value: Any) -> str:
    """A string that is not blank."""
    if not _text(value).strip():
        raise ValueError("is empty; give it a text or drop the record")
    return value


def key_text(value: Any) -> str:
    """An id: not blank, otherwise opaque. Interned, for ids return in many records."""
    return intern(_said(value))


def _names(value: Any) -> tuple[str, ...]:
    """A list of strings, none blank."""
    if not isinstance(value, list):
        raise ValueError(f"{shorten(value)} is not a list of strings")
    return tuple(intern(_said(name)) for name in value)


def _path(value: Any) -> tuple[str, ...]:
    """A category path: at least one name."""
    if not (path := _names(value)):
        raise ValueError("is an empty list; give at least one name, the general one first")
    return path


def _aspects(value: Any) -> dict[str, tuple[str, ...]]:
    """{aspect: [values]}."""
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(value)} is not an object {{aspect: [values]}}")
    return {key_text(aspect): _names(values) for aspect, values in value.items()}


def _truth(value: Any) -> dict[str, str] | None:
    """{aspect: wanted value}, or null where nobody knows."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(value)} is not an object {{aspect: value}}")
    return {key_text(aspect): _said(wanted) for aspect, wanted in value.items()}


def finite_rating(value: Any) -> float:
    """A finite number from 1 to 5."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shorten(value)} is not a number; write a number from 1 to 5 without quotes")
    if not 1 <= value <= 5:  # also true of NaN, which compares with nothing
        raise ValueError(f"{shorten(value)} is not a number from 1 to 5; correct or drop the record")
    return float(value)


def seconds(value: Any) -> int:
    """Whole seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shorten(value)} is not a whole number of seconds since 1970")
    if value > LATEST_TIME:
        raise ValueError(f"{shorten(value)} lies after the year 2100, so it is in milliseconds; divide by 1000")
    if value < 0:
        raise ValueError(f"{shorten(value)} lies before 1970; times are seconds since 1970")
    return value


Fields = Mapping[str, Callable[[Any], Any]]
_ITEM: Fields = {"id": key_text, "title": _said, "category": _path, "attributes": _aspects, "description": _text}
_INTERACTION: Fields = {"user": key_text, "item": key_text, "time": seconds, "rating": finite_rating, "review": _text}
_QUERY: Fields = {"id": key_text, "user": key_text, "text": _said, "target": key_text, "time": seconds, "truth": _truth}
_OPTIONAL = {"attributes", "description", "review", "truth"}  # the record's own default stands for them


# --- one file -------------------------------------------------------------------------------------------------------


def text_line(raw: bytes, number: int, path: Path | str) -> str:
    """A line as text, without the BOM that may begin a file. DataError: too long, NUL, not UTF-8."""
    if len(raw) > RECORD_LIMIT:
        raise DataError.at(path, number, None, f"a record longer than {RECORD_LIMIT} bytes; split or shorten it")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in raw:
        raise DataError.at(path, number, None, f"NUL byte at byte {raw.index(0)}; write the file as UTF-8 text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {error.start}; convert it (iconv -f latin1 -t utf-8)"
        raise DataError.at(path, number, None, what) from None


def json_line(raw: bytes, number: int, path: Path | str) -> dict | None:
    """The JSON object of a line; None where the line is blank. DataError, naming the line, for anything else."""
    if not (text := text_line(raw, number, path).strip(" \t\r\n\v\f")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({error}); is the line cut? make the file again or remove the line"
        raise DataError.at(path, number, None, what) from None
    if not isinstance(value, dict):
        raise DataError.at(path, number, None, f"{shorten(value)} is not a JSON object")
    return value


def json_lines(lines: Iterable[bytes], path: Path | str) -> Iterator[tuple[int, dict]]:
    """(line number from 1, JSON object) of every line that is not blank. BOM and CRLF are accepted.

    Raises DataError naming the line: not UTF-8, NUL, not JSON, not an object, longer than RECORD_LIMIT.
    """
    for number, raw in enumerate(lines, 1):
        if (value := json_line(raw, number, path)) is not None:
            yield number, value


def _bounded_lines(file: Any, digest: Any) -> Iterator[bytes]:
    """The lines of a binary file, each cut just above RECORD_LIMIT; `digest` sees every byte on the way."""
    while raw := file.readline(RECORD_LIMIT + 1):
        digest.update(raw)
        yield raw


def _read(path: Path, make: Callable, fields: Fields, digests: dict[str, str]) -> Iterator[tuple[int, Any]]:
    """(line number, checked record) for every line of a file; its sha256 is in `digests` when all are read."""
    digest, known, needed = hashlib.sha256(), set(fields), set(fields) - _OPTIONAL
    with _open(path) as file:
        for number, value in json_lines(_bounded_lines(file, digest), path):
            if strange := value.keys() - known:
                what = f"unknown field; the fields are {', '.join(fields)}"
                raise DataError.at(path, number, shorten(min(strange)), what)
            if missing := needed - value.keys():
                raise DataError.at(path, number, min(missing), "is missing")
            checked = {}
            for name, given in value.items():
                try:
                    checked[name] = fields[name](given)
                except ValueError as error:
                    raise DataError.at(path, number, name, str(error)) from None
            yield number, make(**checked)
    digests[path.name] = digest.hexdigest()


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        what = (
            f"cannot be read ({error.strerror}); a data set is a folder of {ITEMS}, {INTERACTIONS}, {QUERIES}, {META}"
        )
        raise DataError.at(path, None, None, what) from None


def _unique(records: Iterable[tuple[int, Any]], key: Callable, path: Path, name: str, repeated: list[int]) -> dict:
    """{key: record}. A line that repeats an earlier record is dropped and counted in `repeated`; one that contradicts
    it, or a file without records, raises DataError."""
    first: dict[Any, tuple[int, Any]] = {}
    for number, record in records:
        line, known = first.setdefault(key(record), (number, record))
        if known is record:
            continue
        if known != record:
            what = f"{shorten(key(record))} was given with other content in line {line}; keep one of them"
            raise DataError.at(path, number, name, what)
        repeated.append(number)
    if not first:
        raise DataError.at(path, None, None, "holds no records (0 records); it needs at least one")
    return {key: record for key, (_, record) in first.items()}


def _known_item(records: Iterable[tuple[int, Any]], name: str, items: Mapping, path: Path) -> Iterator[tuple[int, Any]]:
    for number, record in records:
        if (item := getattr(record, name)) not in items:
            what = f"no item {shorten(item)} in {ITEMS}; add the item or drop this record"
            raise DataError.at(path, number, name, what)
        yield number, record


def _read_meta(path: Path) -> dict:
    """The facts about the data set; one's own data may do without the file."""
    if not path.exists():
        return {"name": path.parent.name}
    try:
        meta = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError.at(path, None, None, f"not JSON ({error}); correct it or remove the file") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("sha256", {}), dict):
        raise DataError.at(path, None, "sha256", "the file must be an object, and so must its sha256")
    try:
        _names(meta.get("held_categories", []))
    except ValueError as error:
        raise DataError.at(path, None, "held_categories", str(error)) from None
    return meta


# --- the data set ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Users in three disjoint parts, and the queries that go with them (in the order of `Dataset.queries`).

    `train` also holds every user without queries: their histories may be learned from. Queries whose target lies in a
    held category (`meta["held_categories"]`) are in no part but `held_queries`, and there only those of test users.
    """

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]
    train_queries: tuple[Query, ...] = ()
    validation_queries: tuple[Query, ...] = ()
    test_queries: tuple[Query, ...] = ()
    held_queries: tuple[Query, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Items, interactions and queries, with the facts about their origin.

    The constructor sorts the interactions by (user, time, item) and trusts the rest; `load` is what checks.
    """

    items: Mapping[str, Item]  # by id, in the order of the file
    interactions: tuple[Interaction, ...]
    queries: tuple[Query, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.interactions, key=lambda met: (met.user, met.time, met.item))
        object.__setattr__(self, "interactions", tuple(ordered))
        object.__setattr__(self, "queries", tuple(self.queries))

    # -- disk

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Read and check a folder.

        Raises DataError for whatever cannot be used. Lines that repeat an earlier one exactly are dropped and counted
        in `meta["repeated_lines"]`. Where meta.json gives sha256 sums, the files must have them.
        """
        folder, digests, repeated = Path(path), {}, []
        meta = _read_meta(folder / META)
        file = folder / ITEMS
        items = _unique(_read(file, Item, _ITEM, digests), lambda item: item.id, file, "id", repeated)
        file = folder / INTERACTIONS
        met = _known_item(_read(file, Interaction, _INTERACTION, digests), "item", items, file)
        met = _unique(met, lambda met: (met.user, met.time, met.item), file, "user, time, item", repeated)
        file = folder / QUERIES
        asked = _known_item(_read(file, Query, _QUERY, digests), "target", items, file)
        asked = _unique(asked, lambda query: query.id, file, "id", repeated)
        for name, expected in meta.get("sha256", {}).items():
            if digests.get(name) != expected:
                what = f"its sha256 is not the one in {META}; make the data set again, or, if you changed the file"
                raise DataError.at(folder / name, None, None, f"{what} on purpose, remove sha256 from {META}")
        if repeated:
            meta["repeated_lines"] = len(repeated)
        return cls(items, tuple(met.values()), tuple(asked.values()), meta)

    def save(self, path: Path | str, rejects: Mapping[str, Iterable[Mapping]] | None = None) -> Path:
        """Write the folder, whole or not at all; see `write_dataset`."""
        meta = {key: value for key, value in self.meta.items() if key != "repeated_lines"}
        write_dataset(path, self.items.values(), self.interactions, self.queries, meta, rejects)
        return Path(path)

    # -- reading

    def counts(self) -> dict[str, int]:
        """How many items, interactions, queries and users (with an interaction or a query) there are."""
        users = self._spans.keys() | self._queries_by_user.keys()
        return {
            "items": len(self.items),
            "interactions": len(self.interactions),
            "queries": len(self.queries),
            "users": len(users),
        }

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        """{user: (first, past the last)} position in `interactions`."""
        spans: dict[str, tuple[int, int]] = {}
        for position, met in enumerate(self.interactions):
            first, _ = spans.get(met.user, (position, position))
            spans[met.user] = (first, position + 1)
        return spans

    @cached_property
    def _queries_by_user(self) -> dict[str, list[Query]]:
        asked: dict[str, list[Query]] = {}
        for query in self.queries:
            asked.setdefault(query.user, []).append(query)
        return asked

    def users(self) -> list[str]:
        """Every user with an interaction or a query, sorted."""
        return sorted(self._spans.keys() | self._queries_by_user.keys())

    def interactions_of(self, user: str) -> tuple[Interaction, ...]:
        """All interactions of one user, oldest first. What a query may see of them is `history`."""
        first, end = self._spans.get(user, (0, 0))
        return self.interactions[first:end]

    def first_repeat(self, users: Iterable[str]) -> float:
        """When one of these users first took a thing a second time, in seconds since 1970; infinity if nobody did."""
        earliest = math.inf
        for user in users:
            known: set[str] = set()
            for met in self.interactions_of(user):
                if met.item in known:
                    earliest = min(earliest, met.time)
                known.add(met.item)
        return earliest

    def history(self, query: Query) -> list[Interaction]:
        """H_u at the query: its user's interactions strictly before `query.time`, oldest first; [] for a new user."""
        first, end = self._spans.get(query.user, (0, 0))
        end = bisect_left(self.interactions, query.time, first, end, key=lambda met: met.time)
        return list(self.interactions[first:end])

    def category(self, item_id: str) -> str:
        """The scenario s of eq. 6: the last name of the item's category path. KeyError for an unknown item."""
        return self.items[item_id].category[-1]

    def queries_of(self, users: Iterable[str]) -> tuple[Query, ...]:
        """The queries of these users, in the order of `queries`."""
        users = frozenset(users)
        return tuple(query for query in self.queries if query.user in users)

    # -- splitting

    def split(self, seed: int, train: float = 0.8, validation: float = 0.1, test: float = 0.1) -> Split:
        """Shuffle the users that have queries by `seed` and cut them by the three shares, which sum to 1.

        Every part with a share above 0 gets at least one user. Raises ValueError for shares that are no shares,
        DataError when there are fewer users with queries than parts.
        """
        if min(train, validation, test) < 0 or abs(train + validation + test - 1) > 1e-9:
            raise ValueError(f"shares must be >= 0 and sum to 1, got {train}, {validation}, {test}")
        asking = sorted(self._queries_by_user)
        if len(asking) < (parts := sum(share > 0 for share in (train, validation, test))):
            raise DataError(f"{len(asking)} users have queries, too few for {parts} parts; add users or queries")
        random.Random(seed).shuffle(asking)
        sizes = _part_sizes(len(asking), (train, validation, test))
        for_test, for_validation = asking[: sizes[2]], asking[sizes[2] : sizes[2] + sizes[1]]
        parts = frozenset(self.users()) - {*for_test, *for_validation}, frozenset(for_validation), frozenset(for_test)
        held = frozenset(self.meta.get("held_categories", ()))

        def queries(users: frozenset[str], of_held: bool) -> tuple[Query, ...]:
            return tuple(q for q in self.queries_of(users) if (self.category(q.target) in held) == of_held)

        return Split(*parts, *(queries(users, False) for users in parts), queries(parts[2], True))


def _part_sizes(n: int, shares: tuple[float, float, float]) -> list[int]:
    """n users in parts: rounded shares, at least 1 where above 0; the largest part takes the difference."""
    sizes = [max(1, round(n * share)) if share > 0 else 0 for share in shares]
    sizes[sizes.index(max(sizes))] += n - sum(sizes)
    return sizes


def write_dataset(
    path: Path | str,
    items: Iterable[Item],
    interactions: Iterable[Interaction],
    queries: Iterable[Query],
    meta: Mapping[str, Any],
    rejects: Mapping[str, Iterable[Mapping]] | None = None,
) -> dict[str, int]:
    """Write a data-set folder from streams, one record in memory at a time; returns the counts.

    `rejects`: {file: what to write there, a line each}, beside the data set that was made without them.
    Everything goes to a sibling folder that is then renamed. An older data set at `path` is replaced; anything else
    there is left alone and raises DataError.
    """
    folder = Path(path)
    if folder.exists() and not (folder / ITEMS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError.at(folder, None, None, "exists and is not a data set; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    users: set[str] = set()
    counts: dict[str, int] = {}
    sums: dict[str, str] = {}

    def counted(name: str, records: Iterable[Any]) -> Iterator[Any]:
        counts[name] = 0
        for record in records:
            counts[name] += 1
            if name != "items":
                users.add(record.user)
            yield record

    try:
        for file, name, records in (
            (ITEMS, "items", items),
            (INTERACTIONS, "interactions", interactions),
            (QUERIES, "queries", queries),
        ):
            sums[file] = _write(fresh / file, counted(name, records))
        counts["users"] = len(users)
        about = {
            "name": folder.name,
            "source": "unknown",
            "licence": "unknown",
            **meta,
            "counts": counts,
            "sha256": sums,
        }
        (fresh / META).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        for file, rows in (rejects or {}).items():
            (fresh / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        fresh.chmod(0o755)  # mkdtemp makes it private
        replace_folder(folder, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return counts


def _write(path: Path, records: Iterable[Any]) -> str:
    """One JSON line a record, on the disk when this returns; the sha256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number, record in enumerate(records, 1):
            given = {name: value for name, value in vars(record).items() if value is not None}
            try:
                line = json.dumps(given, ensure_ascii=False, allow_nan=False, default=dict).encode() + b"\n"
            except ValueError as error:
                raise DataError.at(path.name, number, None, f"cannot be written ({error}): {shorten(given)}") from None
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def replace_folder(folder: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `folder`. A full folder cannot be renamed over, so the old one steps aside first."""
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = fresh.with_name(fresh.name + ".old")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)
