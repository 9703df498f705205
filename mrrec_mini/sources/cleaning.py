"""Steps that all importers share: read lines, clean text, count dropped records, find aspects of items.

Flow: used by every importer, together with `sources/rows`. An importer reads its files line by line (plain or
gz), cleans the records in named steps, makes queries if the source has none, and returns a `Dataset` whose
`meta["cleaning"]` lists how many records each step dropped and kept.

Equations: none. Queries follow the paper's rule (sec. 4): one core item and one core use (`template_query`).
Guessed: which facts of the metadata are preference aspects (`make_items`).
"""

from __future__ import annotations

import ast
import gzip
import html
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mrrec_mini.data import (
    LATEST_TIME,
    RECORD_LIMIT,
    DataError,
    key_text,
    seconds,
    shorten,
    template_text,
)
from mrrec_mini.datatypes import Interaction, Item

MOST_ASPECTS, MOST_VALUES, MOST_WORDS = 6, 3, 4  # per item, per aspect, per value
TITLE_LENGTH, DESCRIPTION_LENGTH = 90, 600  # characters

# --- one value ------------------------------------------------------------------------------------------------------
# Sources write numbers as text, ids as numbers, and times in several ways. What is meant without doubt is read. What is
# absent is read as None. Anything else raises ValueError, which says what is wrong.

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)


class BadField(ValueError):
    """A field of a record that cannot be read: its name, and what is wrong. `ImportLog.records` adds file and line."""


def take(row: Mapping, name: str, read: Callable[[Any], Any]) -> Any:
    """Return `read` of the row's field, None if it is missing. Raises BadField for a ValueError."""
    try:
        return read(row.get(name))
    except ValueError as error:
        raise BadField(name, str(error)) from None


def is_absent(value: Any) -> bool:
    """Return True if `value` is None, NaN (a missing cell in pandas) or a blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def read_text(value: Any) -> str | None:
    """Return a text. A number becomes its text, 3.0 becomes "3": pandas writes whole numbers so beside missing ones."""
    if is_absent(value) or isinstance(value, str):
        return None if is_absent(value) else value
    if type(value) not in (int, float):
        raise ValueError(f"{shorten(value)} is not a text")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_id(value: Any) -> str | None:
    """Return an id, a text without a NUL character or half a surrogate pair."""
    return None if is_absent(value) else key_text(read_text(value))


def read_number(value: Any) -> float | None:
    """Return a finite number. A text may hold one, written with digits and a point."""
    if is_absent(value):
        return None
    if type(value) not in (int, float) and not (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError(f"{shorten(value)} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{shorten(value)} is not a finite number")
    return number


def read_rating(value: Any) -> float | None:
    """Return a rating from 1 to 5; None for another number, too: PersonalWAB has 0 for reviews that it hides."""
    number = read_number(value)
    return number if number is not None and 1 <= number <= 5 else None


def read_time(value: Any) -> tuple[int | None, bool]:
    """Return (seconds since 1970, whether they were milliseconds) of a number of either, or of a date in ISO form.

    A date without a zone is in UTC. A number above `LATEST_TIME` is milliseconds. Raises ValueError before 1970 and
    after 2100.
    """
    try:
        number = read_number(value)
    except ValueError:
        try:
            given = datetime.fromisoformat(str(value).strip())
        except ValueError:
            what = f"{shorten(value)} is neither a number of seconds nor a date such as 2024-01-31 18:30:00"
            raise ValueError(what) from None
        return seconds(math.floor((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())), False
    if number is None:
        return None, False
    in_milliseconds = number > LATEST_TIME
    return seconds(math.floor(number / 1000 if in_milliseconds else number)), in_milliseconds


# --- dropped records, with reasons ----------------------------------------------------------------------------------


class Rejects:
    """The records that an import refused, with the reasons, and the number of records taken from each file."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict]] = {}  # path of the input file -> its rejected records
        self.taken: dict[str, int] = {}  # path of the input file -> number of records taken

    def add(self, path: Path, number: int, reason: str, raw: bytes) -> None:
        text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        row = {"file": str(path), "line": number, "reason": reason.removeprefix(f"{path}:{number}: "), "raw": text}
        self.rows.setdefault(str(path), []).append(row)

    def counts(self) -> list[dict]:
        """Return the counts of each file: read = taken + rejected. Cleaning steps may drop taken records later."""
        rejected = {path: len(self.rows.get(path, ())) for path in self.taken}
        return [
            {"file": path, "read": taken + rejected[path], "taken": taken, "rejected": rejected[path]}
            for path, taken in self.taken.items()
        ]

    def files(self) -> dict[str, list[dict]]:
        """Return {name of a file to write beside the data set: its rows}. Inputs of the same name share a file."""
        found: dict[str, list[dict]] = {}
        for path, rows in self.rows.items():
            found.setdefault(f"{Path(path).name}.rejects.jsonl", []).extend(rows)
        return found


NEEDED = ("user", "item", "time", "rating from 1 to 5")  # of a review, in the order of its fields


class ImportLog:
    """What one import dropped: the counts of its cleaning steps, the rejected records, and the items that were lost.

    A bad record raises DataError with its file and line, which ends the import. But if `rejects` is given, bad records
    are added to `rejects` and the import goes on. An item is lost if its own line was rejected; then every record that
    refers to this item is a bad record too.
    """

    def __init__(self, rejects: Rejects | None = None) -> None:
        self.steps: list[dict] = []  # {"step": what was done, "dropped": count, "kept": count}, in order
        self.rejects = rejects
        self.lost: dict[str, str] = {}  # item id -> file and line of its rejected record

    def count(self, step: str, dropped: int, kept: int) -> None:
        self.steps.append({"step": step, "dropped": dropped, "kept": kept})

    def keep(self, step: str, records: Iterable[Any], good: Callable[[Any], bool]) -> list:
        """Return the records that are `good`. Counts the kept and the dropped records under the name `step`."""
        records = list(records)
        kept = [record for record in records if good(record)]
        self.count(step, len(records) - len(kept), len(kept))
        return kept

    def keep_first(self, step: str, records: Iterable[Any], key: Callable[[Any], Any]) -> list:
        """Return the first record with each key. Counts as `keep` does."""
        seen: set[Any] = set()
        return self.keep(step, records, lambda record: key(record) not in seen and not seen.add(key(record)))

    def with_all_fields(self, reviews: Iterable[Review], path: Path) -> list[Review]:
        """Return the reviews that have user, item, time and rating. Counts the others by what they lack.

        Raises DataError if none is left.
        """
        reviews, lacking = list(reviews), Counter()
        kept = [review for review in reviews if None not in review[:4]]
        for review in reviews:
            if None in review[:4]:
                lacking[f"reviews without {NEEDED[review.index(None)]}"] += 1
        for step, dropped in sorted(lacking.items()) or [(f"reviews without {', '.join(NEEDED)}", 0)]:
            self.count(step, dropped, len(kept))
        if not kept:
            why = "; ".join(f"{count} {step}" for step, count in sorted(lacking.items()))
            raise DataError.at(path, None, None, f"holds no usable review (0 records); it has {why or 'none'}")
        return kept

    def without_copies(self, reviews: Iterable[Review], targets: Sequence[Review]) -> list[Review]:
        """Return the reviews except those that repeat the text of a target by the same user, but for case and spacing.

        The targets themselves are kept. An empty text repeats nothing.
        """
        own = {(target.user, target.item) for target in targets}
        texts = {(target.user, folded(target.text)) for target in targets if target.text.strip()}

        def is_no_copy(review: Review) -> bool:
            return (review.user, review.item) in own or (review.user, folded(review.text)) not in texts

        return self.keep("earlier reviews equal to the target's but for case and spacing", reviews, is_no_copy)

    def first_of_each_pair(self, reviews: Iterable[Review]) -> list[Review]:
        """Return the earliest review per (user, item), by user and time. Others are edits, variants or re-orders."""
        ordered = sorted(reviews, key=lambda review: (review.user, review.time))
        step = "reviews of an item that the user had reviewed before"
        return self.keep_first(step, ordered, lambda review: (review.user, review.item))

    def records(self, path: Path, make: Callable, lines: Iterable[tuple[int, bytes]] | None = None) -> Iterator:
        """Yield `make(line, number, path)` for every line (default: of the file), except if it is None (blank line).

        A DataError or BadField from `make` ends the import or, with `rejects`, is recorded there. Always raises
        DataError if no record is left, or if two or more lines are not ASCII and none of them is UTF-8: the file's
        encoding is wrong.
        """
        taken = beyond_ascii = not_utf8 = 0
        for number, raw in read_lines(path) if lines is None else lines:
            beyond_ascii += not raw.isascii()
            try:
                record = make(raw, number, path)
            except (DataError, BadField) as bad:
                error = DataError.at(path, number, *bad.args) if isinstance(bad, BadField) else bad
                if self.rejects is None:
                    raise error from None
                self.rejects.add(path, number, str(error), raw)
                not_utf8 += raw.decode(errors="ignore").encode() != raw
            else:
                if record is not None:
                    taken += 1
                    yield record
        if not_utf8 > 1 and not_utf8 == beyond_ascii:
            what = f"none of the {not_utf8} lines with non-ASCII text is UTF-8; convert it (iconv -f latin1 -t utf-8)"
            raise DataError.at(path, None, None, what)
        if not taken:
            rows, what = self._rejected(path), "holds no usable record (0 records)"
            what += f"; all {len(rows)} were refused, line {rows[0]['line']}: {rows[0]['reason']}" if rows else ""
            raise DataError.at(path, None, None, what)
        if self.rejects is not None:
            self.rejects.taken[str(path)] = taken

    def find_lost(self, path: Path, id_of: Callable[[str], str | None], items: Container[str]) -> None:
        """Add to `lost` the items of rejected lines of `path` that are not in `items`. `id_of` finds the item."""
        found = {id_of(row["raw"]): f"{path}:{row['line']}" for row in self._rejected(path)}
        self.lost |= {item: place for item, place in found.items() if item is not None and item not in items}

    def refuse_lost(self, item: Any, path: Path, number: int, name: str) -> None:
        """Raise DataError if `item` is in `lost`."""
        if isinstance(item, str) and item in self.lost:
            place = self.lost[item]
            raise DataError.at(path, number, name, f"the line of item {shorten(item)} was rejected ({place})")

    def _rejected(self, path: Path) -> list[dict]:
        return self.rejects.rows.get(str(path), []) if self.rejects else []


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a plain or gz file to read its bytes. Raises DataError if it cannot be read, also during the reading."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError.at(path, None, None, f"cannot be read ({error}); fetch it again") from None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line) of a plain or gz file. A longer line is cut after RECORD_LIMIT + 1 bytes."""
    with open_file(path) as file:
        number = 0
        while line := file.readline(RECORD_LIMIT + 1):
            number += 1
            yield number, line
            while len(line) > RECORD_LIMIT and not line.endswith(b"\n"):  # skip the rest of the line
                line = file.readline(RECORD_LIMIT + 1)


# --- text -----------------------------------------------------------------------------------------------------------

_HIDDEN = {name: re.compile(rf"<{name}\b.*?</{name}>", re.I | re.S) for name in ("style", "script")}
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\[\[(?:VIDEO|ASIN)[^\[\]]*\]\]")
_LONG_NUMBER = re.compile(r"&#\d{8,};?")  # no character has such a number, and int() refuses one of 4,301 digits
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
_WORD = re.compile(r"[a-z]{4,}")
_COMMON = """
about after again also around because been before best both brings could days does done each even every features find
first from full gives good great have helps here how includes including information inside into issue issues just keep
know latest learn like look love made magazine magazines make makes making many more most much must need never news
offers once only other over pages part people perfect plus product products provides published read reader readers
reading review reviews should some special subscription such take than that their them then there these they this those
through time today under used uses using very want well what when where which while whose wide will with within without
work world would written year years your
"""  # words that occur in most product texts and express no preference


def clean_text(text: Any) -> str:
    """Return one line of plain text without markup and control characters. Decodes entities twice."""
    plain = text if isinstance(text, str) else ""
    for _ in range(2):  # sources hold doubly escaped text
        plain = html.unescape(_LONG_NUMBER.sub("\N{REPLACEMENT CHARACTER}", plain))
    for name in _HIDDEN:
        plain = _without_element(name, plain)
    plain = _CONTROL.sub(" ", _TAG.sub(" ", plain))
    return unicodedata.normalize("NFC", " ".join(plain.split()))


def _without_element(name: str, text: str) -> str:
    """Remove each element `name` with its content; an element that never ends stays.

    Only the text before the last end tag is searched. Otherwise, each of many elements without an end would be read
    to the end of the text, which takes minutes for 1 MiB.
    """
    end = max((found.end() for found in re.finditer(f"</{name}>", text, re.I)), default=0)
    return _HIDDEN[name].sub(" ", text[:end]) + text[end:]


def cut_at_word(text: str, length: int) -> str:
    """Return the text, shortened at a space to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + "…"


def folded(text: str) -> str:
    """Return the text in lower case with single spaces, to compare texts without regard to case and spacing."""
    return " ".join(text.lower().split())


def aspect_value(text: Any) -> str:
    """Return the text as a value of an aspect, in lower case; "" if it has no letter or digit or is too long."""
    value = clean_text(text).lower().strip(" .,;:")
    return value if len(value.split()) <= MOST_WORDS and len(value) <= 40 and re.search(r"\w", value) else ""


def python_list(text: str) -> list | None:
    """Read a list in Python syntax, such as "['a', 'b']". Returns None if the text is none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def as_list(value: Any) -> list:
    """Return a metadata field as a list. The field may hold a list, one string, or a list in Python syntax."""
    if isinstance(value, str) and value.startswith("["):
        return python_list(value) or []
    return value if isinstance(value, list) else [value] if value else []


def template_query(item: Item) -> str:
    """Return a query for the category, (movies, animation) for example: "I am looking for movies: animation"."""
    return template_text(item.category[0], item.category[-1])


# --- reviews and items ----------------------------------------------------------------------------------------------


class Review(NamedTuple):
    """A review with the source's text. `interaction` cleans the text, but only after copies were searched for."""

    user: str  # None in one of the first four fields: absent, for `ImportLog.with_all_fields` to count
    item: str
    time: int
    rating: float
    title: str
    text: str

    def interaction(self) -> Interaction:
        text = clean_text(self.text) or clean_text(self.title)
        return Interaction(self.user, self.item, self.time, self.rating, text)


@dataclass
class RawItem:
    """An item before `make_items` chooses its aspects. The choice depends on all items of the source."""

    id: str
    title: str
    category: tuple[str, ...]
    description: str
    stated: dict[str, tuple[str, ...]]  # aspect -> values, as the source gives them
    price: float | None = None
    extra: dict[str, str] = field(default_factory=dict)  # other facts; the two most frequent become aspects


def make_items(raws: Sequence[RawItem]) -> dict[str, Item]:
    """Choose the aspects of every item. Returns {id: item}. The aspects are those that the source states, words of the
    description (`about`), the price as low, middle or high (`price`), and two frequent facts.

    Memory counts values over a user's purchases, so a value helps only if it recurs. So `about` holds words that
    several descriptions share. A fact that has the same value for more than nine items in ten is left out.
    """
    # 1. Count the descriptions with each word, and the items with each value of a fact.
    common = frozenset(_COMMON.split())
    occurs: Counter[str] = Counter()
    facts: dict[str, Counter[str]] = {}
    for raw in raws:
        occurs.update(set(_WORD.findall(raw.description.lower())) - common)
        for name, value in raw.extra.items():
            facts.setdefault(name, Counter())[value] += 1
    least, most = max(3, 0.01 * len(raws)), max(0.1 * len(raws), min(5, len(raws) / 2))  # descriptions with the word
    # 2. Choose the two most frequent facts, except facts with one value in more than nine items of ten.
    totals = {name: values.total() for name, values in facts.items()}
    useful = [n for n in facts if totals[n] >= 0.02 * len(raws) and max(facts[n].values()) <= 0.9 * totals[n]]
    useful = sorted(useful, key=lambda name: (-totals[name], name))[:2]
    # 3. Find the two prices that separate the items into thirds: low, middle, high.
    prices = sorted(raw.price for raw in raws if raw.price is not None)
    low, high = (prices[len(prices) // 3], prices[2 * len(prices) // 3]) if prices else (0.0, 0.0)
    # 4. Describe each item. `about` takes the words with the highest tf-idf.
    items = {}
    for raw in raws:
        counts = Counter(_WORD.findall(raw.description.lower()))
        about = [word for word in counts if least <= occurs[word] <= most]
        about.sort(key=lambda word: (-counts[word] * math.log(len(raws) / occurs[word]), word))
        aspects = {**raw.stated, "about": tuple(about)}
        if raw.price is not None:
            aspects["price"] = ("low" if raw.price <= low else "middle" if raw.price <= high else "high",)
        aspects.update({name: (raw.extra[name],) for name in useful if name in raw.extra})
        filled = [(name, values[:MOST_VALUES]) for name, values in aspects.items() if values]
        items[raw.id] = Item(raw.id, raw.title, raw.category, dict(filled[:MOST_ASPECTS]), raw.description)
    return items
