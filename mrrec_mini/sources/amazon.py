"""Amazon Reviews 2018 and 2023: reviews and item metadata become a `Dataset`.

TODO-DOC
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mrrec_mini.data import (
    LATEST_TIME,
    DataError,
    Dataset,
    json_line,
    key_text,
)
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.sources.cleaning import (
    _COMPANY,
    DAY,
    DESCRIPTION_LENGTH,
    TITLE_LENGTH,
    Cleaning,
    Rejects,
    Step,
    _as_list,
    _cut,
    _folded,
    _items,
    _lines,
    _lost,
    _Raw,
    _records,
    _refuse_lost,
    _value,
    clean_text,
    template_query,
)


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
