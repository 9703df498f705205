"""The lines of a user's export from a store: what each kind holds, and the check of every value when it is imported.

Flow: used by `store`. An export is one JSON object per line; `line` names its kind. Anybody can write such a file, so
nothing is taken on trust: the store would fail later, when it reads what it took.

Equations: none. The paper does not say how memories are moved. Guessed: the two limits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mrrec_mini.data import RECORD_LIMIT, DataError, finite_rating, item_from, json_lines, key_text, seconds, storable
from mrrec_mini.memory import Preference, entry_id
from mrrec_mini.typed import parse_json, typed

NOTE_LIMIT = 40_000  # characters of a note or a review; an update's line holds two, each of up to 12 bytes a character
LINE_LIMIT = 4 * RECORD_LIMIT  # bytes; JSON in ASCII makes a text up to three times as long as the data set's line
EXPORT_FORMAT = 3  # version of the lines
LEVELS = ("note", "profile", "pattern", "record")
EVENTS = ("add", "update", "delete")
ENTRY = "id, level, text, rests_on, scenario, support"
EVENT = "entry, kind, old, new, at"
EXPORTED = {  # table (and kind of an exported line) -> its columns, and the columns to sort by
    "behaviour": ("place, item, time, rating, review", "place"),
    "preference": ("category, place, content", "category, place"),
    "entry": (f"{ENTRY}, by_hand, version, changed", "number"),
    "event": (EVENT, "number"),
    "audit": ("verb, asked, at", "number"),
}

# --- one value: each function returns the value, or raises ValueError ------------------------------------------------


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{ascii(value)[:60]} is not a whole number from 0 on")
    return value


def _one_of(*allowed: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in allowed or isinstance(value, bool):
            raise ValueError(f"{ascii(value)[:60]} is none of {', '.join(map(str, allowed))}")
        return value

    return check


def _or_null(value: Any) -> str | None:
    return None if value is None else storable(value)


def _ids(value: Any) -> str:
    typed(tuple[str, ...], parse_json(storable(value)), "the list")
    return value


def _preference(value: Any) -> str:
    typed(Preference, parse_json(storable(value)), "the preference")
    return value


def _item(value: Any) -> Any:
    item_from(value)
    return value


CHECKS: dict[str, dict[str, Callable[[Any], Any]]] = {  # kind of line -> its fields
    "person": {"user": key_text, "next": _count, "format": _count},
    "item": {"id": key_text, "content": _item},
    "behaviour": {"place": _count, "item": key_text, "time": seconds, "rating": finite_rating, "review": storable},
    "preference": {"category": storable, "place": _count, "content": _preference},
    "entry": {
        **{"id": key_text, "level": _one_of(*LEVELS), "text": key_text, "rests_on": _ids, "scenario": storable},
        **{"support": _count, "by_hand": _one_of(0, 1), "version": _count, "changed": _count},
    },
    "event": {"entry": key_text, "kind": _one_of(*EVENTS), "old": _or_null, "new": _or_null, "at": _count},
    "audit": {"verb": storable, "asked": storable, "at": _count},
}


# --- lines ----------------------------------------------------------------------------------------------------------


def lines_of(file) -> Iterator[bytes]:
    """Yield the lines of a binary file, each cut after one byte more than a line may have."""
    return iter(lambda: file.readline(LINE_LIMIT + 1), b"")


def read_export(lines: Iterable[bytes], user: str, name: str) -> list[tuple[int, str, dict]]:
    """Return (line number, kind, fields) of each line; the first is the person's. `name` is the file's, for messages.

    Raises DataError, naming the line, for anything that is not an export of this user.
    """
    read = [(number, *_checked(content, number, name)) for number, content in json_lines(lines, name, LINE_LIMIT)]
    if not read or read[0][1] != "person":
        raise DataError.at(name, 1, None, "not an export: its first line names the user")
    person = read[0][2]
    if person["user"] != user:
        raise DataError.at(name, 1, "user", f"an export of {ascii(person['user'])[:60]}, not of {ascii(user)[:60]}")
    for number, kind, row in read[1:]:
        if kind == "person":
            raise DataError.at(name, number, None, "a second line that names the user; remove it")
        _require_own(kind, row, user, person["next"], number, name)
    return read


def _checked(content: dict, number: int, name: str) -> tuple[str, dict]:
    """Return (kind, fields) of a line. Raises DataError for an unknown kind, wrong fields or a wrong value."""
    kind = content.pop("line", None)
    checks = CHECKS.get(kind) if isinstance(kind, str) else None
    if checks is None or content.keys() != checks.keys():  # the fields become names of columns
        raise DataError.at(name, number, None, "not a line of an export; export again, or remove the line")
    for field, check in checks.items():
        try:
            check(content[field])
        except ValueError as error:
            raise DataError.at(name, number, field, str(error)) from None
    if len(json.dumps(content)) > LINE_LIMIT - 100:  # `export` would write a line that no import takes
        raise DataError.at(name, number, None, f"a line of more than {LINE_LIMIT} bytes in ASCII; shorten its texts")
    return kind, content


def _require_own(kind: str, row: Mapping, user: str, next_number: int, number: int, name: str) -> None:
    """Raise DataError if an id does not belong to the user, or has a number that the store would give away again."""
    if kind == "item" and row["content"]["id"] != row["id"]:
        raise DataError.at(name, number, "content", "its id is not that of the line")
    numbered = [("place", str(row["place"]))] if kind == "behaviour" else []
    if kind == "entry":
        start = entry_id(user, row["level"]) + "/"
        if not row["id"].startswith(start):
            raise DataError.at(
                name, number, "id", f"an entry of level {row['level']} has an id that begins with {start}"
            )
        numbered = [("id", row["id"].removeprefix(start))] if row["level"] in ("note", "record") else []
    for field, text in numbered:
        if not text.isascii() or not text.isdigit() or int(text) >= next_number:
            what = f"{ascii(text)[:60]} is not a number below {next_number}, the next one in line 1"
            raise DataError.at(name, number, field, what)
