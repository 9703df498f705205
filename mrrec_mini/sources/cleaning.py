"""Real data sets: Amazon Reviews 2018 and 2023, Amazon-C4, RecBole atomic files; each becomes a `Dataset`.

Flow: beside `world.py`, before everything else. A source is read line by line (plain or gz), cleaned in named steps,
given queries where it has none, and handed on as a `Dataset` whose `meta["cleaning"]` lists what every step dropped.

Equations: none. Queries follow the paper's rule (sec. 4): one core item and one core use (`template_query`).
Departures: the paper lets an LLM shorten the Amazon-C4 queries to that form; we keep them as they are.
Guessed: which fields of the metadata are preference aspects (`_Aspects`); that the last purchase is a target only where
its order is certain.
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

from mrrec_mini.data import (
    RECORD_LIMIT,
    DataError,
    shorten,
)
from mrrec_mini.datatypes import Item

DAY = 86_400  # seconds; the resolution of Amazon 2018 times
MOST_ASPECTS, MOST_VALUES, MOST_WORDS = 6, 3, 4  # of an item, of an aspect, of a value
TITLE_LENGTH, DESCRIPTION_LENGTH = 90, 600  # characters


class Step(NamedTuple):
    """What one cleaning step did; it counts whatever `step` speaks of."""

    step: str
    dropped: int
    kept: int


class Rejects:
    """Records that an import was told to leave out: which, why, and how many of each file."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict]] = {}  # by the path of the input
        self.taken: dict[str, int] = {}

    def add(self, path: Path, number: int, reason: str, raw: bytes) -> None:
        text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        row = {"file": str(path), "line": number, "reason": reason.removeprefix(f"{path}:{number}: "), "raw": text}
        self.rows.setdefault(str(path), []).append(row)

    def counts(self) -> list[dict]:
        """Of each file: read = taken + rejected. What was taken then goes through the cleaning steps."""
        found = []
        for path, taken in self.taken.items():
            rejected = len(self.rows.get(path, ()))
            found.append({"file": path, "read": taken + rejected, "taken": taken, "rejected": rejected})
        return found

    def files(self) -> dict[str, list[dict]]:
        """{name of the file to write beside the data set: its lines}; inputs of one name share a file."""
        found: dict[str, list[dict]] = {}
        for path, rows in self.rows.items():
            found.setdefault(f"{Path(path).name}.rejects.jsonl", []).extend(rows)
        return found


class Cleaning:
    """The list of steps, filled while a source is read. `rejects`: where refused records go; None: they end it."""

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

    def as_meta(self) -> list[dict]:
        return [step._asdict() for step in self.steps]


_HIDDEN = re.compile(r"<(style|script)\b.*?</\1>", re.I | re.S)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\[\[(?:VIDEO|ASIN)[^\]]*\]\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
_WORD = re.compile(r"[a-z]{4,}")
_COMPANY = re.compile(r"[,.]?\s+(inc|llc|ltd|corp|corporation|company|publications?|publishing)\b\.?| - .*", re.I)
# Words that stand in any product text; they are no preference.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """about after again also around because been before best both brings could days does done each even every
        features find first from full gives good great have helps here how includes including information
        inside into issue issues just keep know latest learn like look love made magazine magazines make
        makes making many more most much must need never news offers once only other over pages part people
        perfect plus product products provides published read reader readers reading review reviews should
        some special subscription such take than that their them then there these they this those through
        time today under used uses using very want well what when where which while whose wide will with
        within without work world would written year years your""",
    )
)


def clean_text(text: Any) -> str:
    """One line of plain text: entities resolved (twice: sources escape twice), markup and control characters gone."""
    plain = html.unescape(html.unescape(text if isinstance(text, str) else ""))
    plain = _CONTROL.sub(" ", _TAG.sub(" ", _HIDDEN.sub(" ", plain)))
    return unicodedata.normalize("NFC", " ".join(plain.split()))


def _cut(text: str, length: int) -> str:
    """The text, shortened at a word."""
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + "…"


def _folded(text: str) -> str:
    """For comparing two texts: case and spacing do not count."""
    return " ".join(text.lower().split())


def _value(text: Any) -> str:
    """A value of an aspect: lower case and a few words, or "" where the text is no such thing."""
    value = clean_text(text).lower().strip(" .,;:")
    return value if len(value.split()) <= MOST_WORDS and len(value) <= 40 and re.search(r"\w", value) else ""


def _as_list(value: Any) -> list:
    """Metadata lists come as a list, as one string, or as the Python text of a list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return value if isinstance(value, list) else [value] if value else []


def template_query(item: Item, aspect: str | None = None) -> str:
    """The paper's rule, one core item + one core use, from the category and at most one attribute; nothing else.

    >>> template_query(Item("1", "Toy Story", ("movies", "animation")))
    'I am looking for movies: animation'
    """
    text = "I am looking for " + ": ".join(dict.fromkeys((item.category[0], item.category[-1])))
    return f"{text}, {aspect} {item.attributes[aspect][0]}" if aspect in item.attributes else text


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a plain or gz file; of a line above RECORD_LIMIT bytes only its beginning."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                for number in itertools.count(1):
                    if not (line := file.readline(RECORD_LIMIT + 1)):
                        break
                    yield number, line
                    while len(line) > RECORD_LIMIT and not line.endswith(b"\n"):
                        line = file.readline(RECORD_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError.at(path, None, None, f"cannot be read ({error}); fetch it again") from None


def _records(
    lines: Iterable[tuple[int, bytes]], path: Path, make: Callable[[int, bytes], Any], rejects: Rejects | None
) -> Iterator[Any]:
    """What `make` makes of every line; None, a blank line, is left out.

    DataError from `make` ends it, or goes to the rejects. It always ends with a file of which nothing is left, or in
    which no line that could tell is UTF-8: that file is wrong, not its records.
    """
    taken = beyond_ascii = not_utf8 = 0
    for number, raw in lines:
        beyond_ascii += not raw.isascii()
        try:
            record = make(number, raw)
        except DataError as error:
            if rejects is None:
                raise
            rejects.add(path, number, str(error), raw)
            not_utf8 += not _is_utf8(raw)
        else:
            if record is not None:
                taken += 1
                yield record
    if not_utf8 > 1 and not_utf8 == beyond_ascii:
        what = f"none of the {not_utf8} lines that hold more than ASCII is UTF-8; convert it (iconv -f latin1 -t utf-8)"
        raise DataError.at(path, None, None, what)
    if not taken:
        refused = rejects.rows.get(str(path), []) if rejects else []
        first = (
            f"; all {len(refused)} were refused, line {refused[0]['line']}: {refused[0]['reason']}" if refused else ""
        )
        raise DataError.at(path, None, None, f"holds no usable record (0 records){first}")
    if rejects is not None:
        rejects.taken[str(path)] = taken


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lost(path: Path, id_of: Callable[[str], str | None], items: Mapping, rejects: Rejects | None) -> dict[str, str]:
    """{id: where its line was rejected} of the items that are not there for that reason."""
    rows = rejects.rows.get(str(path), []) if rejects else []
    found = {id_of(row["raw"]): f"{path}:{row['line']}" for row in rows}
    return {item: place for item, place in found.items() if item is not None and item not in items}


def _refuse_lost(lost: Mapping[str, str], item: Any, path: Path, number: int, name: str) -> None:
    if isinstance(item, str) and item in lost:
        raise DataError.at(path, number, name, f"the line of item {shorten(item)} was rejected ({lost[item]})")


@dataclass
class _Raw:
    """An item before its aspects are known: those depend on all items of the source."""

    id: str
    title: str
    category: tuple[str, ...]
    description: str
    told: dict[str, tuple[str, ...]]  # aspects that the source itself names
    price: float | None = None
    extra: dict[str, str] = field(default_factory=dict)  # more named facts; the commonest become aspects


class _Aspects:
    """Preference aspects of items: what the source tells, price thirds, common facts, and words of the description.

    A value helps only when it returns: memory counts values over a user's purchases. So `about` holds description words
    that several items share, and an aspect on which nearly all items agree is left out.
    """

    def __init__(self, raws: Sequence[_Raw]) -> None:
        self.words: Counter[str] = Counter()
        facts: dict[str, Counter[str]] = {}
        for raw in raws:
            self.words.update(set(_WORD.findall(raw.description.lower())) - _COMMON)
            for name, value in raw.extra.items():
                facts.setdefault(name, Counter())[value] += 1
        told = [name for name, values in facts.items() if values.total() >= 0.02 * len(raws) and _divides(values)]
        self.facts = sorted(told, key=lambda name: (-facts[name].total(), name))[:2]
        prices = sorted(raw.price for raw in raws if raw.price is not None)
        self.low, self.high = (prices[len(prices) // 3], prices[2 * len(prices) // 3]) if prices else (0.0, 0.0)
        self.n, self.least = len(raws), max(3, 0.01 * len(raws))
        self.most = max(0.1 * len(raws), min(5, len(raws) / 2))  # a word that stands everywhere tells nothing

    def _about(self, raw: _Raw) -> tuple[str, ...]:
        """The words of the description that speak most for this item among those that several items share."""
        held = Counter(_WORD.findall(raw.description.lower()))
        shared = [word for word in held if self.least <= self.words[word] <= self.most]
        shared.sort(key=lambda word: (-held[word] * math.log(self.n / self.words[word]), word))
        return tuple(shared[:MOST_VALUES])

    def item(self, raw: _Raw) -> Item:
        aspects = {**raw.told, "about": self._about(raw)}
        if raw.price is not None:
            aspects["price"] = ("low" if raw.price <= self.low else "middle" if raw.price <= self.high else "high",)
        aspects.update({name: (raw.extra[name],) for name in self.facts if name in raw.extra})
        said = [(name, values[:MOST_VALUES]) for name, values in aspects.items() if values]
        return Item(raw.id, raw.title, raw.category, dict(said[:MOST_ASPECTS]), raw.description)


def _divides(values: Counter[str]) -> bool:
    """Whether an aspect tells items apart: no value is that of more than nine in ten."""
    return max(values.values()) <= 0.9 * values.total()


def _items(raws: Sequence[_Raw]) -> dict[str, Item]:
    aspects = _Aspects(raws)
    return {raw.id: aspects.item(raw) for raw in raws}


_C4 = ("query", "item_id", "user_id", "ori_review")
