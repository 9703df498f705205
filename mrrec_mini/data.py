"""A data set on disk and in memory: load, validate, split by users, save.

Flow: the first stage. `world` and `sources` make a `Dataset`; every later stage reads it. On disk it is a folder with
`items.jsonl`, `interactions.jsonl`, `queries.jsonl` (one record of `datatypes` per line) and `meta.json` (name, source,
licence, counts, sha256 of the three files).

Equations: none. H_u of sec. 2 is `Dataset.history`: the interactions of the query's user strictly before its time.
Departures: the paper splits queries; we split users. So the policy and the global memory are tested on users that they
were not trained on.
Guessed: a time after the year 2100 is in milliseconds by mistake; a record larger than 1 MiB means a broken file.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Any
from unicodedata import category

from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.files import replacing_folder
from mrrec_mini.typed import parse_json, typed

ITEMS, INTERACTIONS, QUERIES, META = "items.jsonl", "interactions.jsonl", "queries.jsonl", "meta.json"
# fields of meta.json that decide results
MEANT = ("held_categories", "held_phrases", "repeats", "clock", "uses", "world")
RECORD_LIMIT = 1 << 20  # bytes; without a limit, one line of a broken file could fill the memory
LATEST_TIME = 4_102_444_800  # 2100-01-01 in seconds since 1970


class DataError(ValueError):
    """Raised for data that cannot be used. The message is one line: file, line, field, what is wrong, what to do."""

    @classmethod
    def at(cls, path: Path | str, line: int | None, name: str | None, what: str) -> DataError:
        place = f"{path}:{line}" if line else f"{path}"
        return cls(f"{place}: {name}: {what}" if name else f"{place}: {what}")


def shorten(value: object, limit: int = 60) -> str:
    """Return a value as text for a message: one line, control and non-ASCII characters escaped, up to `limit` long."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Return `text` with control and formatting characters escaped, so that it is safe to show on a terminal."""
    unsafe = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Cc starts escape sequences; Cf can reverse the reading direction
    return "".join(c.encode("unicode_escape").decode() if category(c) in unsafe else c for c in text)


# --- one field ------------------------------------------------------------------------------------------------------
# Each function checks a JSON value and returns the value for the record. Raises ValueError that says what is wrong.
# No type is converted: a rating of "5" comes from a faulty exporter, which may have made other errors too.


def storable(value: Any) -> str:
    """Return a string that can be stored: it holds no NUL character and can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not a string")
    if "\0" in value:
        raise ValueError(f"holds a NUL character at position {value.index(chr(0))}; remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"holds half a surrogate pair at position {error.start}; write the text as UTF-8"
        raise ValueError(what) from None
    return value


def _require_text(value: Any) -> str:
    """Return a string that is not blank."""
    if not storable(value).strip():
        raise ValueError("is empty; give it a text or drop the record")
    return value


def key_text(value: Any) -> str:
    """Return an id: a string that is not blank. Equal ids become one object in memory."""
    return intern(_require_text(value))


def _names(value: Any) -> tuple[str, ...]:
    """Return a list of strings, none of them blank, as a tuple."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shorten(value)} is not a list of strings")
    return tuple(intern(_require_text(name)) for name in value)


def _path(value: Any) -> tuple[str, ...]:
    """Return a category path, which has at least one name."""
    if not (path := _names(value)):
        raise ValueError("is an empty list; give at least one name, the general one first")
    return path


def _aspects(value: Any) -> dict[str, tuple[str, ...]]:
    """Return the attributes of an item, {aspect: values}."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{shorten(value)} is not an object {{aspect: [values]}}")
    return {key_text(aspect): _names(values) for aspect, values in value.items()}


def _truth(value: Any) -> dict[str, str] | None:
    """Return {aspect: wanted value}, or None if the value is null (the truth is unknown)."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{shorten(value)} is not an object {{aspect: value}}")
    return {key_text(aspect): _require_text(wanted) for aspect, wanted in value.items()}


def finite_rating(value: Any) -> float:
    """Return a rating: a number from 1 to 5."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shorten(value)} is not a number; write a number from 1 to 5 without quotes")
    if not 1 <= value <= 5:  # also catches NaN, for which every comparison is false
        raise ValueError(f"{shorten(value)} is not a number from 1 to 5; correct or drop the record")
    return float(value)


def seconds(value: Any) -> int:
    """Return a time: whole seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shorten(value)} is not a whole number of seconds since 1970")
    if value > LATEST_TIME:
        raise ValueError(f"{shorten(value)} lies after the year 2100, so it is in milliseconds; divide by 1000")
    if value < 0:
        raise ValueError(f"{shorten(value)} lies before 1970; times are seconds since 1970")
    return value


_ITEM = {"id": key_text, "title": _require_text, "category": _path, "attributes": _aspects, "description": storable}
_INTERACTION = {"user": key_text, "item": key_text, "time": seconds, "rating": finite_rating, "review": storable}
_QUERY = {"id": key_text, "user": key_text, "text": _require_text, "target": key_text, "time": seconds, "truth": _truth}
_QUERY |= {"phrase": _require_text, "scenario": key_text}
_OPTIONAL = {"attributes", "description", "review", "truth", "phrase", "scenario"}  # the record classes have defaults
_interaction_key = attrgetter("user", "time", "item")


def item_from(content: Any) -> Item:
    """Return an item from its JSON object. Raises ValueError for anything else."""
    if not isinstance(content, dict) or content.keys() != _ITEM.keys():
        raise ValueError(f"{shorten(content)} is not an item; it has {', '.join(_ITEM)}")
    return Item(**{name: check(content[name]) for name, check in _ITEM.items()})


# --- one file -------------------------------------------------------------------------------------------------------


def text_line(raw: bytes, number: int, path: Path | str, limit: int = RECORD_LIMIT) -> str:
    """Decode a line, without the BOM of line 1. Raises DataError if it is too long, holds NUL or is not UTF-8."""
    if len(raw) > limit:
        raise DataError.at(path, number, None, f"a record longer than {limit} bytes; split or shorten it")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in raw:
        raise DataError.at(path, number, None, f"NUL byte at byte {raw.index(0)}; write the file as UTF-8 text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {error.start}; convert it (iconv -f latin1 -t utf-8)"
        raise DataError.at(path, number, None, what) from None


def json_line(raw: bytes, number: int, path: Path | str, limit: int = RECORD_LIMIT) -> dict | None:
    """Return the JSON object in a line, or None if the line is blank. Raises DataError if it holds anything else."""
    if not (text := text_line(raw, number, path, limit).strip(" \t\r\n\v\f")):
        return None
    try:
        value = parse_json(text)
    except ValueError as error:
        what = f"not JSON ({error}); is the line cut? make the file again or remove the line"
        raise DataError.at(path, number, None, what) from None
    if not isinstance(value, dict):
        raise DataError.at(path, number, None, f"{shorten(value)} is not a JSON object")
    return value


def json_lines(lines: Iterable[bytes], path: Path | str, limit: int = RECORD_LIMIT) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, JSON object) for every line that is not blank. Errors as in `json_line`."""
    for number, raw in enumerate(lines, 1):
        if (value := json_line(raw, number, path, limit)) is not None:
            yield number, value


def _bounded_lines(file: Any, digest: Any) -> Iterator[bytes]:
    """Yield the lines of a binary file in pieces of at most RECORD_LIMIT + 1 bytes; each also updates `digest`."""
    while raw := file.readline(RECORD_LIMIT + 1):
        digest.update(raw)
        yield raw


def _read(path: Path, make: Callable, fields: dict, digests: dict[str, str]) -> Iterator[tuple[int, Any]]:
    """Yield (line number, checked record) for every line of a file; at its end, store its sha256 in `digests`."""
    digest, known, needed = hashlib.sha256(), set(fields), set(fields) - _OPTIONAL
    try:
        file = path.open("rb")
    except OSError as error:
        what = f"cannot be read ({error.strerror}); a data set is a folder of {ITEMS}, {INTERACTIONS}, {QUERIES}"
        raise DataError.at(path, None, None, what) from None
    with file:
        for number, value in json_lines(_bounded_lines(file, digest), path):
            if unknown := value.keys() - known:
                what = f"unknown field; the fields are {', '.join(fields)}"
                raise DataError.at(path, number, shorten(min(unknown)), what)
            if missing := needed - value.keys():
                raise DataError.at(path, number, min(missing), "is missing")
            yield number, make(**_checked(value, fields, path, number))
    digests[path.name] = digest.hexdigest()


def _checked(record: Mapping, fields: dict, path: Path, number: int) -> dict:
    """Return the record's values as its fields need them. Raises DataError for a wrong one."""
    checked = {}
    for name, given in record.items():
        try:
            checked[name] = fields[name](given)
        except ValueError as error:
            raise DataError.at(path, number, name, str(error)) from None
    return checked


def _unique(records: Iterable[tuple[int, Any]], key: Callable, path: Path, name: str, repeated: list[int]) -> dict:
    """Return {key: record}. Drop a record that equals an earlier record and append its line number to `repeated`.

    Raises DataError if two records with the same key differ, or if there are no records.
    """
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
    """Yield the same records. Raises DataError at the first record whose field `name` is not the id of an item."""
    for number, record in records:
        if (item := getattr(record, name)) not in items:
            what = f"no item {shorten(item)} in {ITEMS}; add the item or drop this record"
            raise DataError.at(path, number, name, what)
        yield number, record


@dataclass(frozen=True)
class Step:
    """One step in which an importer cleaned the records, and how many it dropped and kept."""

    step: str
    dropped: int
    kept: int


META_TYPES = {  # fields of meta.json; it may hold others
    **dict.fromkeys(("name", "source", "licence"), str),
    **dict.fromkeys(("repeats", "clock"), bool),
    **dict.fromkeys(("held_categories", "held_phrases", "uses"), tuple[str, ...]),
    **{"cleaning": tuple[Step, ...], "sha256": Mapping[str, str], "world": Mapping[str, object]},
}


def _read_meta(path: Path) -> dict:
    """Read meta.json. The file is optional: without it, the data set has the name of its folder."""
    if not path.exists():
        return {"name": path.parent.name}
    try:
        meta = parse_json(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError.at(path, None, None, f"not JSON ({error}); correct it or remove the file") from None
    try:
        meta = typed(Mapping[str, object], meta, "the file")
        for key in META_TYPES.keys() & meta.keys():
            typed(META_TYPES[key], meta[key], key)
    except ValueError as error:
        raise DataError.at(path, None, None, f"{error}; correct it or remove the field") from None
    return meta


# --- queries by template ----------------------------------------------------------------------------------------------

TEMPLATE = "I am looking for "


def template_text(*names: str) -> str:
    """Return the text of a query for one or more names: "I am looking for movies: animation"."""
    return TEMPLATE + ": ".join(dict.fromkeys(names))


def read_template(query: Query, categories: Collection[str]) -> Query:
    """Return a query by template with `phrase` and `scenario`; any other query as it is.

    "I am looking for movies: animation" has the phrase "animation". Its scenario is the last of its names that is one
    of `categories`, the names in the category paths of all items. Names are compared whole.
    """
    if query.phrase is not None or not query.text.startswith(TEMPLATE):
        return query
    first, _, rest = query.text.removeprefix(TEMPLATE).partition(": ")
    named = next((name for name in (rest, first) if name in categories), None)
    return replace(query, phrase=rest or first, scenario=query.scenario or named)


# --- the data set ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Users in three disjoint parts, and the queries of each part (in the order of `Dataset.queries`).

    `train` also holds all users without queries, since a model may learn from their histories. A query is held if its
    target is in a held category (`meta["held_categories"]`), or if its text is a held phrase (`meta["held_phrases"]`),
    or begins with one and a space. It is in `held_queries` if its user is a test user, otherwise nowhere.
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
    """Items, interactions and queries, with facts about their origin (`meta`).

    The constructor sorts the interactions by (user, time, item), reads phrase and scenario of queries by template off
    their texts, and checks nothing; `load` checks.
    """

    items: Mapping[str, Item]  # by id, in the order of the file
    interactions: tuple[Interaction, ...]
    queries: tuple[Query, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "interactions", tuple(sorted(self.interactions, key=_interaction_key)))
        categories = {name for item in self.items.values() for name in item.category}
        object.__setattr__(self, "queries", tuple(read_template(query, categories) for query in self.queries))

    # -- disk

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Read and check a folder. Raises DataError if any of its data cannot be used.

        Records that equal an earlier record are dropped and counted in `meta["repeated_lines"]`. If meta.json gives
        sha256 sums, the files must match them.
        """
        folder, digests, repeated = Path(path), {}, []
        meta = _read_meta(folder / META)
        file = folder / ITEMS
        items = _unique(_read(file, Item, _ITEM, digests), attrgetter("id"), file, "id", repeated)
        file = folder / INTERACTIONS
        interactions = _known_item(_read(file, Interaction, _INTERACTION, digests), "item", items, file)
        interactions = _unique(interactions, _interaction_key, file, "user, time, item", repeated)
        file = folder / QUERIES
        queries = _known_item(_read(file, Query, _QUERY, digests), "target", items, file)
        queries = _unique(queries, attrgetter("id"), file, "id", repeated)
        for name, expected in meta.get("sha256", {}).items():
            if digests.get(name) != expected:
                what = f"its sha256 is not the one in {META}; make the data set again, or, if you changed the file"
                raise DataError.at(folder / name, None, None, f"{what} on purpose, remove sha256 from {META}")
        if repeated:
            meta["repeated_lines"] = len(repeated)
        return cls(items, tuple(interactions.values()), tuple(queries.values()), meta)

    def save(self, path: Path | str, rejects: Mapping[str, Iterable[Mapping]] | None = None) -> Path:
        """Write the data set to the folder `path`, as `write_dataset` does. Returns the path.

        Raises DataError for everything that `load` refuses, and for a record that repeats another.
        """
        repeated: list[int] = []
        items = _unique(enumerate(self.items.values(), 1), attrgetter("id"), Path(ITEMS), "id", repeated)
        file = Path(INTERACTIONS)
        interactions = _known_item(enumerate(self.interactions, 1), "item", items, file)
        _unique(interactions, _interaction_key, file, "user, time, item", repeated)
        file = Path(QUERIES)
        _unique(_known_item(enumerate(self.queries, 1), "target", items, file), attrgetter("id"), file, "id", repeated)
        if repeated:
            raise DataError(f"record {repeated[0]} repeats another one word for word; keep one of them")
        meta = {key: value for key, value in self.meta.items() if key != "repeated_lines"}
        write_dataset(path, self.items.values(), self.interactions, self.queries, meta, rejects)
        return Path(path)

    # -- reading

    def counts(self) -> dict[str, int]:
        """Return the numbers of items, interactions, queries and users. A user has an interaction or a query."""
        sizes = {name: len(getattr(self, name)) for name in ("items", "interactions", "queries")}
        return {**sizes, "users": len(self.users())}

    @cached_property
    def _interactions_by_user(self) -> dict[str, tuple[Interaction, ...]]:
        return {user: tuple(own) for user, own in groupby(self.interactions, attrgetter("user"))}

    @cached_property
    def _queries_by_user(self) -> dict[str, list[Query]]:
        queries: dict[str, list[Query]] = {}
        for query in self.queries:
            queries.setdefault(query.user, []).append(query)
        return queries

    def users(self) -> list[str]:
        """Return every user with an interaction or a query, sorted."""
        return sorted(self._interactions_by_user.keys() | self._queries_by_user.keys())

    def interactions_of(self, user: str) -> tuple[Interaction, ...]:
        """Return all interactions of one user, oldest first. To recommend for a query, use only its `history`."""
        return self._interactions_by_user.get(user, ())

    def first_repeat(self, users: Iterable[str]) -> float:
        """Return the first time (seconds since 1970) that one of `users` took an item again; infinity if nobody did."""
        earliest = math.inf
        for user in users:
            known: set[str] = set()
            for interaction in self.interactions_of(user):
                if interaction.item in known:
                    earliest = min(earliest, interaction.time)
                known.add(interaction.item)
        return earliest

    @cached_property
    def sha256(self) -> str:
        """A sha256 of all that results depend on: equal content has an equal sum, in whatever folder it lies."""
        digest = hashlib.sha256(json.dumps({key: self.meta.get(key) for key in MEANT}, sort_keys=True).encode())
        for records in (self.items.values(), self.interactions, self.queries):
            for record in records:
                given = {name: value for name, value in vars(record).items() if value is not None}
                digest.update(json.dumps(given, default=dict).encode() + b"\n")
        return digest.hexdigest()

    @property
    def synthetic(self) -> bool:
        """Whether this is a shop that `world` made."""
        return "world" in self.meta

    @cached_property
    def repeats(self) -> bool:
        """Whether people take an item twice. If they do not, every ranking puts last what the person already has.

        `meta["repeats"]` says it. Without it, True for a synthetic shop, else whether anybody here took an item twice.
        """
        if "repeats" in self.meta or self.synthetic:
            return self.meta.get("repeats", True)
        again = any(query.target in {old.item for old in self.history(query)} for query in self.queries)
        return again or self.first_repeat(self.users()) < math.inf

    @property
    def clock(self) -> bool:
        """Whether times of different people can be compared. `meta["clock"]` false: they only order one person's."""
        return self.meta.get("clock", True)

    def owned(self, query: Query) -> list[str]:
        """Return the items that a ranking for `query` puts last: those of its history, [] if people repeat items."""
        return [] if self.repeats else sorted({old.item for old in self.history(query)})

    def history(self, query: Query) -> list[Interaction]:
        """Return H_u: the user's interactions strictly before `query.time`, oldest first; [] for a new user."""
        own = self.interactions_of(query.user)
        return list(own[: bisect_left(own, query.time, key=attrgetter("time"))])

    def category(self, item_id: str) -> str:
        """Return the scenario s of eq. 6: the last name of the category path. Raises KeyError for an unknown item."""
        return self.items[item_id].category[-1]

    def queries_of(self, users: Iterable[str]) -> tuple[Query, ...]:
        """Return the queries of these users, in the order of `queries`."""
        users = frozenset(users)
        return tuple(query for query in self.queries if query.user in users)

    # -- splitting

    def split(self, seed: int, train: float = 0.8, validation: float = 0.1, test: float = 0.1) -> Split:
        """Shuffle the users that have queries (by `seed`) and split them by the three shares.

        Every part with a share above 0 gets at least one user. Raises ValueError if a share is negative or the shares
        do not sum to 1, DataError if fewer users have queries than there are parts.
        """
        if min(train, validation, test) < 0 or abs(train + validation + test - 1) > 1e-9:
            raise ValueError(f"shares must be >= 0 and sum to 1, got {train}, {validation}, {test}")
        asking = sorted(self._queries_by_user)
        if len(asking) < (parts := sum(share > 0 for share in (train, validation, test))):
            raise DataError(f"{len(asking)} users have queries, too few for {parts} parts; add users or queries")
        random.Random(seed).shuffle(asking)
        sizes = _part_sizes(len(asking), (train, validation, test))
        for_test, for_validation = asking[: sizes[2]], asking[sizes[2] : sizes[2] + sizes[1]]
        return self.split_into({*self.users()} - {*for_test, *for_validation}, for_validation, for_test)

    def split_into(self, train: Iterable[str], validation: Iterable[str], test: Iterable[str]) -> Split:
        """Return the split with these users in its parts. Users in no part and their queries are left out."""
        parts = frozenset(train), frozenset(validation), frozenset(test)
        held, phrases = frozenset(self.meta.get("held_categories", ())), self.meta.get("held_phrases", ())

        def queries(users: frozenset[str], of_held: bool) -> tuple[Query, ...]:
            def is_held(query: Query) -> bool:
                return self.category(query.target) in held or any(f"{query.text} ".startswith(f"{p} ") for p in phrases)

            return tuple(query for query in self.queries_of(users) if is_held(query) == of_held)

        return Split(*parts, *(queries(users, False) for users in parts), queries(parts[2], True))


def _part_sizes(n: int, shares: tuple[float, float, float]) -> list[int]:
    """Return how many of n users each part gets: n times its share, rounded, at least 1 if the share is above 0.

    The largest part is then changed so that the sizes sum to n.
    """
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
    """Write a data-set folder whole or not at all, with one record in memory at a time. Returns the counts.

    `rejects`, {file name: rows}, are written to the same folder as JSON lines. An older data set or an empty folder at
    `path` is replaced. Raises DataError, and changes nothing, if `path` is anything else, or a record has a value that
    `Dataset.load` would refuse; that all ids are known and different is up to the caller.
    """
    folder = Path(path)
    if folder.exists() and not (folder / ITEMS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError.at(folder, None, None, "exists and is not a data set; choose another folder")
    users, counts, sums = set(), {}, {}

    def counted(name: str, records: Iterable[Any]) -> Iterator[Any]:
        counts[name] = 0
        for record in records:
            counts[name] += 1
            if name != "items":
                users.add(record.user)
            yield record

    with replacing_folder(folder) as fresh:
        streams = (
            (ITEMS, "items", items, _ITEM),
            (INTERACTIONS, "interactions", interactions, _INTERACTION),
            (QUERIES, "queries", queries, _QUERY),
        )
        for file, name, records, fields in streams:
            sums[file] = _write(fresh / file, counted(name, records), fields)
        counts["users"] = len(users)
        meta = {"name": folder.name, "source": "unknown", "licence": "unknown", **meta}
        meta |= {"counts": counts, "sha256": sums}
        (fresh / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for file, rows in (rejects or {}).items():
            (fresh / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return counts


def _write(path: Path, records: Iterable[Any], fields: dict) -> str:
    """Write one JSON line per record, with the checks of reading. Returns the sha256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number, record in enumerate(records, 1):
            given = {name: value for name, value in vars(record).items() if value is not None}
            checked = _checked(given, fields, Path(path.name), number)
            line = json.dumps(checked, ensure_ascii=False).encode() + b"\n"
            if len(line) > RECORD_LIMIT:
                raise DataError.at(path.name, number, None, f"a record longer than {RECORD_LIMIT} bytes; shorten it")
            digest.update(line)
            file.write(line)
    return digest.hexdigest()
