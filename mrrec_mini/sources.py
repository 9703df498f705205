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
import csv
import gzip
import html
import io
import itertools
import json
import math
import re
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mrrec_mini.data import (
    LATEST_TIME,
    RECORD_LIMIT,
    DataError,
    Dataset,
    json_line,
    key_text,
    seconds,
    shown,
    text_line,
)
from mrrec_mini.records import Interaction, Item, Query

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


# --- text -----------------------------------------------------------------------------------------------------------

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


# --- reading files --------------------------------------------------------------------------------------------------


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
        raise DataError.at(path, number, name, f"the line of item {shown(item)} was rejected ({lost[item]})")


# --- what an item is like -------------------------------------------------------------------------------------------


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


# --- Amazon reviews -------------------------------------------------------------------------------------------------


class _Review(NamedTuple):
    user: str
    item: str
    time: int
    rating: float
    title: str
    text: str  # as the source has it: copies are found verbatim

    def interaction(self) -> Interaction:
        said = clean_text(self.text) or clean_text(self.title)
        return Interaction(self.user, self.item, self.time, self.rating, said)


def _review(row: Mapping) -> _Review | None:
    """A review of the 2018 or the 2023 form; None where user, item, time or rating are not there.

    Raises ValueError for ids that no file can hold.
    """
    user = row.get("user_id", row.get("reviewerID"))
    item = row.get("parent_asin") or row.get("asin")
    time, rating = _clock(row), row.get("rating", row.get("overall"))
    if not (isinstance(user, str) and user.strip() and isinstance(item, str) and item.strip()):
        return None
    if time is None or isinstance(rating, bool) or not (isinstance(rating, int | float) and 1 <= rating <= 5):
        return None
    title, text = row.get("title", row.get("summary")), row.get("text", row.get("reviewText"))
    title, text = (value if isinstance(value, str) else "" for value in (title, text))
    return _Review(key_text(user), key_text(item), time, float(rating), title, text)


def _clock(row: Mapping) -> int | None:
    """Seconds since 1970: 2018 counts in them, 2023 in milliseconds. None: no time from 1970 to 2100."""
    time = row.get("timestamp", row.get("unixReviewTime"))
    if isinstance(time, bool) or not isinstance(time, int):
        return None
    time = time // 1000 if time > LATEST_TIME else time
    return time if 0 <= time <= LATEST_TIME else None


def read_reviews(
    paths: Iterable[Path],
    cleaning: Cleaning,
    users: frozenset[str] | None = None,
    lost: Mapping[str, str] | None = None,
) -> list[_Review]:
    """Reviews of Amazon 2018 or 2023, told apart by their field names; of these `users` only, where given.

    Rec-R1's form, one line a user with "history" and "target", is read too. `lost`: items whose own line was rejected,
    and where. Raises DataError where the first line is neither.
    """
    in_milliseconds = 0

    def reviews_of(path: Path, number: int, raw: bytes) -> list[_Review | None] | None:
        nonlocal in_milliseconds
        if (row := json_line(raw, number, path)) is None:
            return None
        if not ({"reviewerID", "user_id"} & row.keys()):
            example = '{"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "text": "...", "timestamp": 1}'
            what = f"is missing (reviewerID in the 2018 form); a review looks like {example}"
            raise DataError.at(path, number, "user_id", what)
        if users is not None and row.get("user_id", row.get("reviewerID")) not in users:
            return []
        said = [row]
        if isinstance(row.get("history"), list):
            said = [*row["history"], row.get("target")]
            if not all(isinstance(one, dict) for one in said):
                raise DataError.at(path, number, "history, target", "each must hold reviews, which are JSON objects")
            said = [{**one, "user_id": row.get("user_id")} for one in said]
        try:
            met = [_review(one) for one in said]
        except ValueError as error:
            raise DataError.at(path, number, "id of user or item", str(error)) from None
        for review in filter(None, met):
            _refuse_lost(lost or {}, review.item, path, number, "item")
        times = (one.get("timestamp", one.get("unixReviewTime")) for one in said)
        in_milliseconds += sum(isinstance(time, int) and time > LATEST_TIME for time in times)
        return met

    flat = (
        review
        for path in paths
        for met in _records(_lines(path), path, partial(reviews_of, path), cleaning.rejects)
        for review in met
    )
    kept = cleaning.keep("reviews without user, item, time, or rating from 1 to 5", flat, lambda r: r is not None)
    if in_milliseconds:
        cleaning.steps.append(Step("times in milliseconds, made seconds", 0, in_milliseconds))
    return kept


def _first_of_each_pair(reviews: list[_Review], cleaning: Cleaning) -> list[_Review]:
    """One review for a user and an item: the earliest, for the later ones are edits, variants or re-orders."""
    reviews = sorted(reviews, key=lambda review: (review.user, review.time))
    step = "reviews of an item that the user had reviewed before"
    return cleaning.keep(step, reviews, _first_by(lambda review: (review.user, review.item)))


def _first_by(key: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """A predicate, true of the first record with each key."""
    met: set[Any] = set()

    def is_first(record: Any) -> bool:
        new = key(record) not in met
        met.add(key(record))
        return new

    return is_first


def _read_metadata(path: Path, cleaning: Cleaning) -> list[dict]:
    """One metadata record an item, 2018 or 2023. A file that is one object {id: title} is read as well."""
    rows = []
    for row in _records(_lines(path), path, lambda number, raw: json_line(raw, number, path), cleaning.rejects):
        if not ({"asin", "parent_asin"} & row.keys()) and all(isinstance(title, str) for title in row.values()):
            rows.extend({"asin": item, "title": title} for item, title in row.items())
        else:
            rows.append(row)
    rows = cleaning.keep("metadata without an item id", rows, lambda row: isinstance(_item_id(row), str))
    return cleaning.keep("metadata lines repeated for an item", rows, _first_by(_item_id))


def _item_id(row: Mapping) -> Any:
    return row.get("parent_asin") or row.get("asin")


def _category_path(row: Mapping) -> list[str]:
    """Names from general to special, lower case."""
    path = [clean_text(name).lower() for name in _as_list(row.get("categories") or row.get("category"))]
    main = row.get("main_category") or row.get("main_cat")
    if not any(path) and "<" not in str(main):
        path = [clean_text(main).lower()]
    return [name for name in path if name]


def _facts(details: Any) -> dict[str, str]:
    """Short named facts that a person may prefer; numbers of any kind, dates and addresses are none."""
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            details = {}
    facts = {}
    for name, value in details.items() if isinstance(details, dict) else ():
        aspect, value = _value(name), _value(value)
        if aspect and value and not _NO_FACT.search(aspect):
            facts[aspect] = value
    return facts


_NO_FACT = re.compile(
    r"asin|upc|isbn|model|date|dimension|weight|rank|number|shipping|publisher|manufacturer|discontinued|brand|country"
    r"|batter|domestic|international|department|size|quantity|count|volume"
)


def _price(value: Any) -> float | None:
    """12.5, "$12.50", "from $1,200.00", "$5 - $9" (the lower); None where there is no price."""
    if isinstance(value, str):
        number = re.match(r"(?:from )?\$?(\d[\d,]*\.?\d*)", value)
        value = float(number.group(1).replace(",", "")) if number else None
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _brand(row: Mapping) -> str:
    brand = clean_text(row.get("brand") or row.get("store"))
    return _value(_COMPANY.sub("", brand))


def _amazon_item(row: Mapping, root: str, depth: int) -> _Raw:
    path = _category_path(row) or [root]
    texts = [clean_text(text) for text in (*_as_list(row.get("description")), *_as_list(row.get("features")))]
    texts = [text.removeprefix("Editorial Reviews").strip() for text in texts if not text.startswith("Learn more")]
    description = " ".join(filter(None, texts))
    brand, topics = _brand(row), tuple(filter(None, map(_value, path[depth:][-2:])))
    told = {"topic": topics, "brand": (brand,) if brand else ()}
    raw = _Raw(_item_id(row), "", tuple(path[:depth]), _cut(description, DESCRIPTION_LENGTH), told)
    raw.title = _title(row, brand, path)
    raw.price, raw.extra = _price(row.get("price")), _facts(row.get("details"))
    return raw


def _is_broken(title: Any) -> bool:
    return not clean_text(title) or bool(re.search(r"<span|/>|getTime\(", title))


def _title(row: Mapping, brand: str, path: Sequence[str]) -> str:
    """The title; a scrape error is replaced by what is known: brand, category and the start of the description."""
    if not _is_broken(row.get("title")):
        return _cut(clean_text(row["title"]), 2 * TITLE_LENGTH)
    start = next(filter(None, map(clean_text, _as_list(row.get("description")))), "")
    known = ", ".join(filter(None, (brand, path[-1])))
    return f"{known}: {_cut(start, TITLE_LENGTH)}" if start else known


def import_amazon(reviews: Path, metadata: Path, depth: int = 2, rejects: Rejects | None = None) -> Dataset:
    """Amazon Reviews 2018 or 2023: one category file of reviews and its metadata (JSON lines, plain or gz).

    The category is the first `depth` names of the path; deeper names become the aspect `topic`. The pool is every item
    of the metadata that has a category or a description, and every reviewed item.

    A user gets one query. Its target is their last item (one review an item, the earliest), if it was reviewed on a
    later day than all others (times have the resolution of a day: order within one is unknown) and the text of its
    review is not, word for word, one that they had written before. On Magazine Subscriptions 2018 this leaves 159 of
    348 users. What the user thought of the target does not count: it is what they took.

    Raises DataError naming file and line; `rejects`, where given, takes the records that would be a reason, and the
    reviews of items that are lost by it.
    """
    cleaning = Cleaning(rejects)
    rows = _read_metadata(Path(metadata), cleaning)
    lost = _lost(Path(metadata), _json_item_id, {_item_id(row): row for row in rows}, rejects)
    met = _first_of_each_pair(read_reviews([Path(reviews)], cleaning, lost=lost), cleaning)
    if not met:
        raise DataError.at(reviews, None, None, "holds no usable review (0 records)")
    reviewed = {review.item for review in met}
    step = "metadata that says nothing of an item never reviewed"
    rows = cleaning.keep(step, rows, lambda row: _item_id(row) in reviewed or any(row.get(name) for name in _SAYS))
    broken = sum(_is_broken(row.get("title")) for row in rows)
    step = "titles that are scrape errors, replaced by brand, category and description"
    cleaning.steps.append(Step(step, broken, len(rows) - broken))
    roots = Counter(path[0] for path in map(_category_path, rows) if path)
    root = roots.most_common(1)[0][0] if roots else "items"
    missing = sorted(reviewed - {_item_id(row) for row in rows})
    cleaning.steps.append(Step("reviewed items without metadata, kept under the general category", 0, len(missing)))
    rows += [{"asin": item, "title": f"{root} {item}"} for item in missing]
    items = _items([_amazon_item(row, root, depth) for row in rows])
    queries, met = _last_purchases(met, items, cleaning)
    meta = {
        "name": Path(reviews).name.split(".")[0],
        "source": "Amazon Reviews (McAuley lab, UCSD): 2018 Ni et al. EMNLP 2019; 2023 Hou et al. arXiv 2403.03952",
        "licence": "no formal licence; published for research use, cite the paper",
        "cleaning": cleaning.as_meta(),
    }
    return Dataset(items, tuple(review.interaction() for review in met), queries, meta)


def _json_item_id(raw: str) -> str | None:
    """The item that a JSON line speaks of, as far as one can tell from a line that may be cut."""
    found = dict(re.findall(r'"(parent_asin|asin|item_id)"\s*:\s*"([^"\\]+)"', raw))
    return found.get("parent_asin") or found.get("asin") or found.get("item_id")


_SAYS = ("description", "category", "categories", "features")


def _last_purchases(
    reviews: list[_Review], items: Mapping[str, Item], cleaning: Cleaning
) -> tuple[tuple[Query, ...], list[_Review]]:
    """One query a user with a certain last purchase; the reviews without those that give such a target away."""
    people: dict[str, list[_Review]] = {}
    for review in reviews:  # sorted by user and time
        people.setdefault(review.user, []).append(review)
    asking = cleaning.keep("users with one item (they keep their history)", people, lambda u: len(people[u]) > 1)
    step = "users whose last day holds several reviews (they keep their history)"
    asking = cleaning.keep(step, asking, lambda u: people[u][-2].time // DAY < people[u][-1].time // DAY)
    step = "users whose last review repeats an earlier one (they keep their history)"
    asking = cleaning.keep(step, asking, lambda u: people[u][-1].text not in {past.text for past in people[u][:-1]})
    last = {user: people[user][-1] for user in asking}

    def tells_nothing(review: _Review) -> bool:
        target = last.get(review.user)
        return target is None or review is target or _folded(review.text) != _folded(target.text)

    reviews = cleaning.keep("earlier reviews equal to the target's but for case and spacing", reviews, tells_nothing)
    queries = (
        Query(f"q-{user}", user, template_query(items[target.item]), target.item, target.time)
        for user, target in last.items()
    )
    return tuple(queries), reviews


# --- Amazon-C4 ------------------------------------------------------------------------------------------------------


def _c4_queries(path: Path, cleaning: Cleaning, lost: Mapping[str, str]) -> list[dict]:
    """The queries of Amazon-C4's test.csv or of the same rows as JSON lines."""
    rows: dict[int, dict] = {}
    lines = _csv_lines(path, rows) if path.suffix == ".csv" else _lines(path)

    def query(number: int, raw: bytes) -> dict | None:
        row = rows[number] if path.suffix == ".csv" else json_line(raw, number, path)
        if row is None:
            return None
        if None in row:
            raise DataError.at(path, number, None, f"has more columns than the header: {', '.join(filter(None, row))}")
        wrong = [name for name in _C4 if not (isinstance(row.get(name), str) and row[name].strip())]
        if wrong or row.get("qid") is None:
            raise DataError.at(path, number, (wrong or ["qid"])[0], f"is missing; a query needs qid, {', '.join(_C4)}")
        try:
            key_text(str(row["qid"])), key_text(row["user_id"])
        except ValueError as error:
            raise DataError.at(path, number, "qid or user_id", str(error)) from None
        _refuse_lost(lost, row["item_id"], path, number, "item_id")
        return row

    return list(_records(lines, path, query, cleaning.rejects))


def _csv_lines(path: Path, rows: dict[int, dict]) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, text) of every record of a CSV file with a header; its fields go to `rows`."""
    text = io.StringIO("".join(text_line(raw, number, path) for number, raw in _lines(path)), newline="")
    lines = list(text)
    reader = csv.DictReader(lines)
    if reader.fieldnames and (missing := [name for name in ("qid", *_C4) if name not in reader.fieldnames]):
        what = f"is missing; the header must name qid, {', '.join(_C4)}"
        raise DataError.at(path, 1, missing[0], what)
    before = reader.line_num
    try:
        for row in reader:
            rows[before + 1] = row
            yield before + 1, "".join(lines[before : reader.line_num]).encode()
            before = reader.line_num
    except csv.Error as error:
        raise DataError.at(path, before + 1, None, f"not a CSV record ({error}); is a quote missing?") from None


_C4 = ("query", "item_id", "user_id", "ori_review")


def import_amazon_c4(queries: Path, metadata: Path, reviews: Sequence[Path], rejects: Rejects | None = None) -> Dataset:
    """Amazon-C4: queries; the pool (sampled_item_metadata: item_id, category, metadata); reviews 2023 for histories.

    A query's time is that of the review it was written from, found by user, item and text, else by user and item, else
    by user and text (the earliest where several fit); a query whose review is not there has no time and is dropped.
    `ori_review` is the text the query was written from: it is dropped, and so is every review by that user of the
    target or with that text.

    Raises DataError naming file and line; `rejects`, where given, takes the records that would be a reason, and the
    queries and reviews of items that are lost by it.
    """
    cleaning, metadata = Cleaning(rejects), Path(metadata)
    pool = _records(_lines(metadata), metadata, lambda number, raw: json_line(raw, number, metadata), rejects)
    step = "pool items without item_id or metadata text"
    pool = cleaning.keep(step, pool, lambda row: _is_said(row.get("item_id")) and clean_text(row.get("metadata")))
    pool = cleaning.keep("pool lines repeated for an item", pool, _first_by(lambda row: row["item_id"]))
    items = _items([_c4_item(row) for row in pool])
    lost = _lost(metadata, _json_item_id, items, rejects)
    asked = _c4_queries(Path(queries), cleaning, lost)
    asked = cleaning.keep("queries whose qid was given before", asked, _first_by(lambda row: str(row["qid"])))
    asked = cleaning.keep("queries whose target is not in the pool", asked, lambda row: row["item_id"] in items)
    asking = frozenset(row["user_id"] for row in asked)
    met = read_reviews([Path(path) for path in reviews], cleaning, asking, lost)
    times: dict[tuple, int] = {}
    for review in sorted(met, key=lambda review: -review.time):  # the earliest time is the last one written, and stays
        for said in _sayings(review):
            times[review.user, review.item, said] = times[review.user, said] = review.time
        times[review.user, review.item, None] = review.time

    def time_of(row: Mapping) -> int | None:
        user, item, said = row["user_id"], row["item_id"], _folded(clean_text(row["ori_review"]))
        keys = ((user, item, said), (user, item, None), (user, said))
        return next((times[key] for key in keys if key in times), None)

    step = "queries whose own review is not in the reviews (time unknown)"
    asked = cleaning.keep(step, asked, lambda row: time_of(row) is not None)
    targets = {(row["user_id"], row["item_id"]) for row in asked}
    told = {(row["user_id"], _folded(clean_text(row["ori_review"]))) for row in asked}
    met = cleaning.keep("reviews of a target by its own user", met, lambda r: (r.user, r.item) not in targets)
    step = "reviews that repeat the text a query was written from"
    met = cleaning.keep(step, met, lambda r: not any((r.user, said) in told for said in _sayings(r)))
    met = cleaning.keep("reviews of items that are not in the pool", met, lambda r: r.item in items)
    met = _first_of_each_pair(met, cleaning)
    wishes = (
        Query(str(row["qid"]), row["user_id"], clean_text(row["query"]), row["item_id"], time_of(row)) for row in asked
    )
    meta = {
        "name": "amazon-c4",
        "source": "Amazon-C4 and Amazon Reviews 2023 (Hou et al., arXiv 2403.03952)",
        "licence": "published for research use, cite the paper",
        "cleaning": cleaning.as_meta(),
    }
    return Dataset(items, tuple(review.interaction() for review in met), tuple(wishes), meta)


def _sayings(review: _Review) -> tuple[str, str]:
    """The two forms in which a review may stand in `ori_review`: its text, or title and text."""
    return _folded(clean_text(review.text)), _folded(clean_text(f"{review.title} {review.text}"))


def _is_said(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _c4_item(row: Mapping) -> _Raw:
    """The pool gives one text an item, the title first."""
    text = clean_text(row["metadata"])
    category = clean_text(row.get("category")).replace("_", " ").lower() or "items"
    return _Raw(row["item_id"], _cut(text, TITLE_LENGTH), (category,), _cut(text, DESCRIPTION_LENGTH), {})


# --- RecBole --------------------------------------------------------------------------------------------------------

_TYPES = ("token", "float", "token_seq", "float_seq")
_HEADER = "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float"
_ORIGINS = {
    "ml-100k.inter": (
        "MovieLens-100k (GroupLens), in RecBole's form",
        "research use, cite Harper and Konstan 2015, no redistribution (GroupLens)",
    )
}
_GENRES = ("class", "genre", "genres", "category", "categories")


def _atomic(path: Path, needed: Sequence[str], make: Callable[[int, dict], Any], rejects: Rejects | None) -> list:
    """What `make` makes of each (line, {column: value}) of an atomic file whose header has the `needed` columns.

    token -> str, float -> float or None where empty, *_seq -> a list. Raises DataError naming line and column.
    """
    lines = _lines(path)
    number, raw = next(lines, (1, b""))
    header = _cells(path, number, raw)
    columns = [_column(path, cell) for cell in header] if header != [""] else []
    for column in needed if columns else ():
        if tuple(column.split(":")) not in columns:
            raise DataError.at(
                path, 1, column.split(":")[0], f"is missing; the header must hold {column}, as in {_HEADER}"
            )

    def read(number: int, raw: bytes) -> Any:
        if (cells := _cells(path, number, raw)) == [""]:
            return None
        if len(cells) != len(columns):
            named = "<TAB>".join(":".join(column) for column in columns)
            raise DataError.at(path, number, None, f"{len(cells)} columns, but the header has {len(columns)}: {named}")
        row = {name: _cell(path, number, name, kind, cell) for (name, kind), cell in zip(columns, cells, strict=True)}
        for name in ("user_id", "item_id"):
            if name in row and not row[name].strip():
                raise DataError.at(path, number, name, "is empty; give it a text or drop the record")
        return make(number, row)

    return list(_records(lines, path, read, rejects))


def _cells(path: Path, number: int, raw: bytes) -> list[str]:
    return text_line(raw, number, path).rstrip("\r\n").split("\t")


def _column(path: Path, cell: str) -> tuple[str, str]:
    name, _, kind = cell.partition(":")
    if not name or kind not in _TYPES:
        what = f"a column is name:type with type one of {', '.join(_TYPES)}; for example {_HEADER}"
        raise DataError.at(path, 1, shown(cell), what)
    return name, kind


def _cell(path: Path, line: int, name: str, kind: str, cell: str) -> Any:
    if kind == "token":
        return cell
    if kind == "token_seq":
        return cell.split()
    try:
        numbers = [float(part) for part in cell.split()]
        if not all(map(math.isfinite, numbers)) or (kind == "float" and len(numbers) > 1):
            raise ValueError
    except ValueError:
        raise DataError.at(
            path, line, name, f"{shown(cell)} is not a finite number, but the column is {kind}"
        ) from None
    return numbers if kind == "float_seq" else numbers[0] if numbers else None


def import_recbole(
    source: Path,
    least_rating: float = 4,
    least_history: int = 5,
    most_queries: int = 3,
    rejects: Rejects | None = None,
) -> Dataset:
    """RecBole atomic files: a folder with one `.inter` (user_id, item_id, rating, timestamp) and one `.item`, or the
    `recbole` wheel itself, which carries MovieLens-100k.

    Genres become the aspect `genre`, a year its decade, other tokens an aspect each. The category is (what the folder
    holds, the genre that is rarest in the data set): the rarest says most, and keeps categories of like size. Ratings
    outside 1 to 5 are stretched to it. There are no reviews.

    A user's targets are the last `most_queries` items rated >= `least_rating` that were alone in their second (within
    one the order is unknown) and had at least `least_history` interactions strictly before. Items rated lower are never
    targets. Every query has its own time.

    Raises DataError naming file, line and column; `rejects`, where given, takes the records that would be a reason, and
    the interactions with items that are lost by it.
    """
    if Path(source).suffix == ".whl":
        with tempfile.TemporaryDirectory() as place:
            folder = unpack_recbole_wheel(source, Path(place) / "ml-100k")
            return import_recbole(folder, least_rating, least_history, most_queries, rejects)
    folder, cleaning = Path(source), Cleaning(rejects)
    inter, item_file = _only(folder, ".inter"), _only(folder, ".item")
    items = _items(_recbole_items(item_file, cleaning))
    place = next(_lines(item_file))[1].split(b"\t").index(b"item_id:token") if rejects else 0
    lost = _lost(item_file, lambda raw: dict(enumerate(raw.split("\t"))).get(place), items, rejects)
    met = _recbole_interactions(inter, rejects, lost)
    met = cleaning.keep("interactions with items that .item does not hold", met, lambda m: m.item in items)
    met = cleaning.keep("interactions without a rating or a time", met, lambda m: None not in (m.rating, m.time))
    met = _first_of_each_pair(met, cleaning)
    if not met:
        what = f"no interaction has a rating, a time and an item of {item_file.name} (0 records)"
        raise DataError.at(inter, None, None, what)
    low, high = min(m.rating for m in met), max(m.rating for m in met)
    if low < 1 or high > 5:
        cleaning.steps.append(Step(f"ratings stretched from {low:g}..{high:g} to 1..5", 0, len(met)))
        met = [m._replace(rating=1 + 4 * (m.rating - low) / (high - low)) for m in met]
    queries = _liked_last(met, items, cleaning, least_rating, least_history, most_queries)
    origin, licence = _ORIGINS.get(inter.name, (f"RecBole atomic files {inter.name}", "that of the source"))
    meta = {"name": folder.name, "source": origin, "licence": licence, "cleaning": cleaning.as_meta()}
    return Dataset(items, tuple(m.interaction() for m in met), queries, meta)


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise DataError.at(folder, None, None, f"holds {len(found)} files *{suffix}; it needs exactly one")
    return found[0]


def _recbole_interactions(path: Path, rejects: Rejects | None, lost: Mapping[str, str]) -> list[_Review]:
    def interaction(number: int, row: dict) -> _Review:
        time = row["timestamp"]
        try:
            time = None if time is None else seconds(int(time))
        except ValueError as error:
            raise DataError.at(path, number, "timestamp", str(error)) from None
        _refuse_lost(lost, row["item_id"], path, number, "item_id")
        return _Review(row["user_id"], row["item_id"], time, row["rating"], "", "")

    return _atomic(path, ("user_id:token", "item_id:token", "rating:float", "timestamp:float"), interaction, rejects)


def _recbole_items(path: Path, cleaning: Cleaning) -> list[_Raw]:
    first: dict[str, tuple[int, dict]] = {}  # line and row by item

    def item(number: int, row: dict) -> dict:
        line, known = first.setdefault(row["item_id"], (number, row))
        if known != row:
            what = f"{shown(row['item_id'])} was given with other content in line {line}; keep one of them"
            raise DataError.at(path, number, "item_id", what)
        return row

    rows = _atomic(path, ("item_id:token",), item, cleaning.rejects)
    rows = cleaning.keep("item lines repeated word for word", rows, _first_by(lambda row: row["item_id"]))
    genres = Counter(genre for row in rows for genre in _genres(row))
    return [_recbole_item(row, genres) for row in rows]


def _genres(row: Mapping) -> list[str]:
    held = [row[name] for name in _GENRES if row.get(name)]
    return [clean_text(genre).lower() for value in held for genre in (value if isinstance(value, list) else [value])]


def _recbole_item(row: Mapping, genres: Counter) -> _Raw:
    title = next((v for name, v in row.items() if re.search("title|name", name) and v), f"item {row['item_id']}")
    title = " ".join(title) if isinstance(title, list) else title
    own = sorted(_genres(row), key=lambda genre: (genres[genre], genre))  # the rarest first
    kind = "movies" if any("movie" in name for name in row) else "items"
    told = {"genre": tuple(own)}
    for name, value in row.items():
        if name == "item_id" or name in _GENRES or re.search("title|name", name):
            continue
        if "year" in name:
            year = re.match(r"\d{4}", value if isinstance(value, str) else f"{value:g}" if value else "")
            told["decade"] = (f"{year.group()[:3]}0s",) if year else ()
        elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            values = value if isinstance(value, list) else [value]
            told[_value(name.replace("_", " ")) or name] = tuple(filter(None, map(_value, values)))
    price = row.get("price")
    path = (kind, own[0]) if own else (kind,)
    return _Raw(
        row["item_id"],
        clean_text(title) or f"item {row['item_id']}",
        path,
        "",
        told,
        price if isinstance(price, float) else None,
    )


def _liked_last(
    met: list[_Review],
    items: Mapping[str, Item],
    cleaning: Cleaning,
    least_rating: float,
    least_history: int,
    most: int,
) -> tuple[Query, ...]:
    people: dict[str, list[_Review]] = {}
    for review in met:  # sorted by user and time
        people.setdefault(review.user, []).append(review)
    queries: list[Query] = []
    for user, past in people.items():
        at = Counter(m.time for m in past)
        fit = [m for n, m in enumerate(past) if m.rating >= least_rating and at[m.time] == 1 and n >= least_history]
        for number, m in enumerate(fit[-most:], 1):
            queries.append(Query(f"q-{user}-{number}", user, template_query(items[m.item]), m.item, m.time))
    asking = {query.user for query in queries}
    step = "users without a liked item that stands alone in its second, late enough (they keep their history)"
    cleaning.keep(step, people, asking.__contains__)
    return tuple(queries)


def unpack_recbole_wheel(wheel: Path, folder: Path, name: str = "ml-100k") -> Path:
    """Copy the atomic files of the example data set `name` out of a `recbole` wheel into `folder`."""
    inside = f"recbole/dataset_example/{name}/{name}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for suffix in (".inter", ".item", ".user"):
                (Path(folder) / f"{name}{suffix}").write_bytes(archive.read(inside + suffix))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError.at(wheel, None, None, f"no {inside}.* in it ({error}); fetch recbole 1.2.1 again") from None
    return Path(folder)
