"""Steps that all importers share: read lines safely, clean text, count what is dropped, find aspects of items.

Flow: beneath `sources/amazon`, `sources/c4` and `sources/recbole`. An importer reads its files line by line (plain or
gz), cleans the records in named steps, makes queries if the source has none, and returns a `Dataset` whose
`meta["cleaning"]` lists what each step dropped.

Equations: none. Queries follow the paper's rule (sec. 4): one core item and one core use (`template_query`).
Guessed: which facts of the metadata are preference aspects (`_Aspects`).
"""

from __future__ import annotations

import ast
import gzip
import html
import itertools
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mrrec_mini.data import RECORD_LIMIT, DataError, shorten
from mrrec_mini.datatypes import Interaction, Item

MOST_ASPECTS, MOST_VALUES, MOST_WORDS = 6, 3, 4  # per item, per aspect, per value
TITLE_LENGTH, DESCRIPTION_LENGTH = 90, 600  # characters

# --- what was dropped and why ---------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One cleaning step and the numbers of things that it dropped and kept."""

    step: str
    dropped: int
    kept: int


class Rejects:
    """The records that an import skipped, with the reasons, and the counts per file."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict]] = {}  # by the path of the input
        self.taken: dict[str, int] = {}

    def add(self, path: Path, number: int, reason: str, raw: bytes) -> None:
        text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        row = {"file": str(path), "line": number, "reason": reason.removeprefix(f"{path}:{number}: "), "raw": text}
        self.rows.setdefault(str(path), []).append(row)

    def counts(self) -> list[dict]:
        """Per file: read = taken + rejected. The cleaning steps apply to the records taken."""
        found = []
        for path, taken in self.taken.items():
            rejected = len(self.rows.get(path, ()))
            found.append({"file": path, "read": taken + rejected, "taken": taken, "rejected": rejected})
        return found

    def files(self) -> dict[str, list[dict]]:
        """{name of a file to write beside the data set: its rows}; inputs of the same name share a file."""
        found: dict[str, list[dict]] = {}
        for path, rows in self.rows.items():
            found.setdefault(f"{Path(path).name}.rejects.jsonl", []).extend(rows)
        return found


class Cleaning:
    """One import: its steps so far, and the rejects. Without `rejects`, a bad record ends the import."""

    def __init__(self, rejects: Rejects | None = None) -> None:
        self.steps: list[Step] = []
        self.rejects = rejects

    def keep(self, step: str, records: Iterable[Any], good: Callable[[Any], bool]) -> list:
        """The records that are `good`; the others are counted under `step`."""
        kept, dropped = [], 0
        for record in records:
            if good(record):
                kept.append(record)
            else:
                dropped += 1
        self.steps.append(Step(step, dropped, len(kept)))
        return kept

    def keep_first(self, step: str, records: Iterable[Any], key: Callable[[Any], Any]) -> list:
        """The first record with each key; the others are counted under `step`."""
        seen: set[Any] = set()
        return self.keep(step, records, lambda record: key(record) not in seen and not seen.add(key(record)))

    def first_of_each_pair(self, reviews: Iterable[Review]) -> list[Review]:
        """The earliest review of each (user, item), by user and time; later ones are edits, variants or re-orders."""
        ordered = sorted(reviews, key=lambda review: (review.user, review.time))
        step = "reviews of an item that the user had reviewed before"
        return self.keep_first(step, ordered, lambda review: (review.user, review.item))

    def records(self, lines: Iterable[tuple[int, bytes]], path: Path, make: Callable[[int, bytes], Any]) -> Iterator:
        """`make(number, line)` of every line; None (a blank line) is left out.

        A DataError from `make` ends the import, or is added to the rejects. DataError in any case if no record is
        left, or if none of the non-ASCII lines is UTF-8: then the file is wrong, not its records.
        """
        taken = beyond_ascii = not_utf8 = 0
        for number, raw in lines:
            beyond_ascii += not raw.isascii()
            try:
                record = make(number, raw)
            except DataError as error:
                if self.rejects is None:
                    raise
                self.rejects.add(path, number, str(error), raw)
                not_utf8 += raw.decode(errors="ignore").encode() != raw
            else:
                if record is not None:
                    taken += 1
                    yield record
        if not_utf8 > 1 and not_utf8 == beyond_ascii:
            what = f"none of the {not_utf8} lines with non-ASCII text is UTF-8; convert it (iconv -f latin1 -t utf-8)"
            raise DataError.at(path, None, None, what)
        rows = self._rejected(path)
        if not taken:
            what = "holds no usable record (0 records)"
            what += f"; all {len(rows)} were refused, line {rows[0]['line']}: {rows[0]['reason']}" if rows else ""
            raise DataError.at(path, None, None, what)
        if self.rejects is not None:
            self.rejects.taken[str(path)] = taken

    def lost_items(self, path: Path, id_of: Callable[[str], str | None], items: Mapping) -> dict[str, str]:
        """{item id: place of its line} of the items that are missing because their line was rejected."""
        found = {id_of(row["raw"]): f"{path}:{row['line']}" for row in self._rejected(path)}
        return {item: place for item, place in found.items() if item is not None and item not in items}

    def _rejected(self, path: Path) -> list[dict]:
        return self.rejects.rows.get(str(path), []) if self.rejects else []

    def as_meta(self) -> list[dict]:
        return [step._asdict() for step in self.steps]


def refuse_lost(lost: Mapping[str, str], item: Any, path: Path, number: int, name: str) -> None:
    """Raise DataError if the item is one of `Cleaning.lost_items`."""
    if isinstance(item, str) and item in lost:
        raise DataError.at(path, number, name, f"the line of item {shorten(item)} was rejected ({lost[item]})")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a plain or gz file; a line above RECORD_LIMIT bytes is cut there."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                for number in itertools.count(1):
                    if not (line := file.readline(RECORD_LIMIT + 1)):
                        break
                    yield number, line
                    while len(line) > RECORD_LIMIT and not line.endswith(b"\n"):  # skip the rest of the line
                        line = file.readline(RECORD_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError.at(path, None, None, f"cannot be read ({error}); fetch it again") from None


# --- text -----------------------------------------------------------------------------------------------------------

_HIDDEN = re.compile(r"<(style|script)\b.*?</\1>", re.I | re.S)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\[\[(?:VIDEO|ASIN)[^\]]*\]\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
_WORD = re.compile(r"[a-z]{4,}")
# Words that occur in every product text and express no preference.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """about after again also around because been before best both brings could days does done each even every
        features find first from full gives good great have helps here how includes including information inside into
        issue issues just keep know latest learn like look love made magazine magazines make makes making many more
        most much must need never news offers once only other over pages part people perfect plus product products
        provides published read reader readers reading review reviews should some special subscription such take than
        that their them then there these they this those through time today under used uses using very want well what
        when where which while whose wide will with within without work world would written year years your""",
    )
)


def clean_text(text: Any) -> str:
    """One line of plain text, without entities (unescaped twice, as in the sources), markup or control characters."""
    plain = html.unescape(html.unescape(text if isinstance(text, str) else ""))
    plain = _CONTROL.sub(" ", _TAG.sub(" ", _HIDDEN.sub(" ", plain)))
    return unicodedata.normalize("NFC", " ".join(plain.split()))


def cut_at_word(text: str, length: int) -> str:
    """The text, shortened at a word to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + "…"


def folded(text: str) -> str:
    """For comparing two texts without regard to case and spacing."""
    return " ".join(text.lower().split())


def aspect_value(text: Any) -> str:
    """A value of an aspect: lower case and a few words, or "" if the text is not suitable."""
    value = clean_text(text).lower().strip(" .,;:")
    return value if len(value.split()) <= MOST_WORDS and len(value) <= 40 and re.search(r"\w", value) else ""


def as_list(value: Any) -> list:
    """A metadata list, which may come as a list, as one string, or as a list in Python syntax."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return value if isinstance(value, list) else [value] if value else []


def template_query(item: Item) -> str:
    """The paper's rule, one core item + one core use: the first and the last name of the item's category.

    >>> template_query(Item("1", "Toy Story", ("movies", "animation")))
    'I am looking for movies: animation'
    """
    return "I am looking for " + ": ".join(dict.fromkeys((item.category[0], item.category[-1])))


# --- reviews and items ----------------------------------------------------------------------------------------------


class Review(NamedTuple):
    """A review as the source has it. Its text is cleaned last, so that verbatim copies can be found."""

    user: str
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
    """An item before its aspects are chosen, which depends on all items of the source."""

    id: str
    title: str
    category: tuple[str, ...]
    description: str
    stated: dict[str, tuple[str, ...]]  # aspects that the source names
    price: float | None = None
    extra: dict[str, str] = field(default_factory=dict)  # other named facts; the most frequent become aspects


class _Aspects:
    """Preference aspects: those the source states, thirds of the price, frequent facts, words of the description.

    Memory counts values over a user's purchases, so a value helps only if it recurs. So `about` holds description words
    that several items share, and an aspect on which nearly all items agree is left out.
    """

    def __init__(self, raws: Sequence[RawItem]) -> None:
        self.words: Counter[str] = Counter()  # in how many descriptions each word occurs
        facts: dict[str, Counter[str]] = {}
        for raw in raws:
            self.words.update(set(_WORD.findall(raw.description.lower())) - _COMMON)
            for name, value in raw.extra.items():
                facts.setdefault(name, Counter())[value] += 1
        totals = {name: values.total() for name, values in facts.items()}
        # a useful fact is frequent, and distinguishes items: no value belongs to more than nine in ten
        useful = [n for n in facts if totals[n] >= 0.02 * len(raws) and max(facts[n].values()) <= 0.9 * totals[n]]
        self.facts = sorted(useful, key=lambda name: (-totals[name], name))[:2]
        prices = sorted(raw.price for raw in raws if raw.price is not None)
        self.low, self.high = (prices[len(prices) // 3], prices[2 * len(prices) // 3]) if prices else (0.0, 0.0)
        self.n, self.least = len(raws), max(3, 0.01 * len(raws))
        self.most = max(0.1 * len(raws), min(5, len(raws) / 2))  # a word that occurs everywhere tells nothing

    def _about(self, raw: RawItem) -> tuple[str, ...]:
        """The words of the description with the highest tf-idf, among those that several items share."""
        counts = Counter(_WORD.findall(raw.description.lower()))
        shared = [word for word in counts if self.least <= self.words[word] <= self.most]
        shared.sort(key=lambda word: (-counts[word] * math.log(self.n / self.words[word]), word))
        return tuple(shared[:MOST_VALUES])

    def item(self, raw: RawItem) -> Item:
        aspects = {**raw.stated, "about": self._about(raw)}
        if raw.price is not None:
            aspects["price"] = ("low" if raw.price <= self.low else "middle" if raw.price <= self.high else "high",)
        aspects.update({name: (raw.extra[name],) for name in self.facts if name in raw.extra})
        filled = [(name, values[:MOST_VALUES]) for name, values in aspects.items() if values]
        return Item(raw.id, raw.title, raw.category, dict(filled[:MOST_ASPECTS]), raw.description)


def make_items(raws: Sequence[RawItem]) -> dict[str, Item]:
    """{id: item}, with the aspects chosen over all of them."""
    aspects = _Aspects(raws)
    return {raw.id: aspects.item(raw) for raw in raws}
