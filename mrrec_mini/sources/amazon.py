"""Amazon Reviews 2018 and 2023: reviews and item metadata become a `Dataset`.

Flow: after `sources/cleaning`, beside `world`. `import_amazon` reads one category: its reviews and its metadata.

Equations: none. A user gets one query, `template_query` of their last item. Departure: the paper takes its queries from
Amazon-C4 (`sources/c4`). Guessed: the last item is a target only if its order is certain (see `import_amazon`); which
details count as facts that a person may prefer (`_NO_FACT`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mrrec_mini.data import LATEST_TIME, DataError, Dataset, json_line, key_text
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources.cleaning import (
    DESCRIPTION_LENGTH,
    TITLE_LENGTH,
    Cleaning,
    RawItem,
    Rejects,
    Review,
    Step,
    as_list,
    aspect_value,
    clean_text,
    cut_at_word,
    folded,
    make_items,
    read_lines,
    refuse_lost,
    template_query,
)

DAY = 86_400  # seconds; the resolution of Amazon 2018 times
DEPTH = 2  # names of a category path
_COMPANY = re.compile(r"[,.]?\s+(inc|llc|ltd|corp|corporation|company|publications?|publishing)\b\.?| - .*", re.I)
_NO_FACT = re.compile(  # names of details that nobody prefers: numbers of any kind, dates, addresses
    r"asin|upc|isbn|model|date|dimension|weight|rank|number|shipping|publisher|manufacturer|discontinued|brand|country"
    r"|batter|domestic|international|department|size|quantity|count|volume"
)
_DESCRIBING = ("description", "category", "categories", "features")  # an unreviewed item needs one of these


def import_amazon(reviews: Path, metadata: Path, rejects: Rejects | None = None) -> Dataset:
    """Amazon Reviews 2018 or 2023: one category file of reviews and its metadata (JSON lines, plain or gz).

    The category is the first DEPTH names of the path; deeper names become the aspect `topic`. The pool holds every
    item of the metadata that has a category or a description, and every reviewed item.

    A user gets one query. Its target is their last item (one review per item, the earliest), if it was reviewed on a
    later day than all others (times are days, so the order within a day is unknown) and its review does not repeat an
    earlier one word for word. On Magazine Subscriptions 2018 this leaves 159 of 348 users. The rating of the target
    does not matter.

    Raises DataError with file and line. If `rejects` is given, it takes the records at fault instead, and the reviews
    of items that are lost with them.
    """
    # 1. Read the metadata, then the reviews.
    cleaning = Cleaning(rejects)
    rows = _read_metadata(Path(metadata), cleaning)
    lost = cleaning.lost_items(Path(metadata), item_id_in_line, {_item_id(row): row for row in rows})
    taken = cleaning.first_of_each_pair(read_reviews([Path(reviews)], cleaning, lost=lost))
    if not taken:
        raise DataError.at(reviews, None, None, "holds no usable review (0 records)")
    # 2. Decide on the pool: described or reviewed items; those without metadata get the most frequent category.
    reviewed = {review.item for review in taken}
    step = "metadata that says nothing of an item never reviewed"
    rows = cleaning.keep(
        step, rows, lambda row: _item_id(row) in reviewed or any(row.get(name) for name in _DESCRIBING)
    )
    broken = sum(_is_broken(row.get("title")) for row in rows)
    step = "titles that are scrape errors, replaced by brand, category and description"
    cleaning.steps.append(Step(step, broken, len(rows) - broken))
    roots = Counter(path[0] for path in map(_category_path, rows) if path)
    root = roots.most_common(1)[0][0] if roots else "items"
    missing = sorted(reviewed - {_item_id(row) for row in rows})
    cleaning.steps.append(Step("reviewed items without metadata, kept under the general category", 0, len(missing)))
    rows += [{"asin": item, "title": f"{root} {item}"} for item in missing]
    items = make_items([_amazon_item(row, root) for row in rows])
    # 3. Make the queries.
    queries, taken = _last_purchases(taken, items, cleaning)
    meta = {
        "name": Path(reviews).name.split(".")[0],
        "source": "Amazon Reviews (McAuley lab, UCSD): 2018 Ni et al. EMNLP 2019; 2023 Hou et al. arXiv 2403.03952",
        "licence": "no formal licence; published for research use, cite the paper",
        "cleaning": cleaning.as_meta(),
    }
    return Dataset(items, tuple(review.interaction() for review in taken), queries, meta)


def _last_purchases(
    reviews: list[Review], items: Mapping[str, Item], cleaning: Cleaning
) -> tuple[tuple[Query, ...], list[Review]]:
    """(one query per user with a certain last purchase, the reviews without those that repeat the target's)."""
    people: dict[str, list[Review]] = {}
    for review in reviews:  # sorted by user and time
        people.setdefault(review.user, []).append(review)
    users = cleaning.keep("users with one item (they keep their history)", people, lambda u: len(people[u]) > 1)
    step = "users whose last day holds several reviews (they keep their history)"
    users = cleaning.keep(step, users, lambda u: people[u][-2].time // DAY < people[u][-1].time // DAY)
    step = "users whose last review repeats an earlier one (they keep their history)"
    users = cleaning.keep(step, users, lambda u: people[u][-1].text not in {past.text for past in people[u][:-1]})
    last = {user: people[user][-1] for user in users}

    def is_no_copy(review: Review) -> bool:
        target = last.get(review.user)
        return target is None or review is target or folded(review.text) != folded(target.text)

    reviews = cleaning.keep("earlier reviews equal to the target's but for case and spacing", reviews, is_no_copy)
    queries = (
        Query(f"q-{user}", user, template_query(items[target.item]), target.item, target.time)
        for user, target in last.items()
    )
    return tuple(queries), reviews


# --- reviews --------------------------------------------------------------------------------------------------------


def read_reviews(
    paths: Iterable[Path],
    cleaning: Cleaning,
    users: frozenset[str] | None = None,
    lost: Mapping[str, str] | None = None,
) -> list[Review]:
    """Reviews in the 2018 or 2023 form, which differ in field names; only those by `users`, if given.

    Also reads Rec-R1's form: one line per user, with "history" and "target". `lost`: see `Cleaning.lost_items`. Raises
    DataError for a line in none of these forms.
    """
    in_milliseconds = 0

    def reviews_of(path: Path, number: int, raw: bytes) -> list[Review | None] | None:
        nonlocal in_milliseconds
        if (row := json_line(raw, number, path)) is None:
            return None
        if not ({"reviewerID", "user_id"} & row.keys()):
            example = '{"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "text": "...", "timestamp": 1}'
            what = f"is missing (reviewerID in the 2018 form); a review looks like {example}"
            raise DataError.at(path, number, "user_id", what)
        if users is not None and row.get("user_id", row.get("reviewerID")) not in users:
            return []
        rows = [row]
        if isinstance(row.get("history"), list):  # Rec-R1's form
            rows = [*row["history"], row.get("target")]
            if not all(isinstance(one, dict) for one in rows):
                raise DataError.at(path, number, "history, target", "each must hold reviews, which are JSON objects")
            rows = [{**one, "user_id": row.get("user_id")} for one in rows]
        try:
            found = [_review(one) for one in rows]
        except ValueError as error:
            raise DataError.at(path, number, "id of user or item", str(error)) from None
        for review in filter(None, found):
            refuse_lost(lost or {}, review.item, path, number, "item")
        times = (one.get("timestamp", one.get("unixReviewTime")) for one in rows)
        in_milliseconds += sum(isinstance(time, int) and time > LATEST_TIME for time in times)
        return found

    lines = (found for path in paths for found in cleaning.records(read_lines(path), path, partial(reviews_of, path)))
    step = "reviews without user, item, time, or rating from 1 to 5"
    kept = cleaning.keep(step, (review for found in lines for review in found), lambda review: review is not None)
    if in_milliseconds:
        cleaning.steps.append(Step("times in milliseconds, made seconds", 0, in_milliseconds))
    return kept


def _review(row: Mapping) -> Review | None:
    """A review in the 2018 or 2023 form; None if user, item, time or rating is missing or out of range.

    Raises ValueError for ids that cannot be written to a file.
    """
    user = row.get("user_id", row.get("reviewerID"))
    item, time, rating = _item_id(row), _seconds(row), row.get("rating", row.get("overall"))
    if not (isinstance(user, str) and user.strip() and isinstance(item, str) and item.strip()):
        return None
    if time is None or isinstance(rating, bool) or not (isinstance(rating, int | float) and 1 <= rating <= 5):
        return None
    title, text = row.get("title", row.get("summary")), row.get("text", row.get("reviewText"))
    title, text = (value if isinstance(value, str) else "" for value in (title, text))
    return Review(key_text(user), key_text(item), time, float(rating), title, text)


def _seconds(row: Mapping) -> int | None:
    """The time in seconds since 1970 (2018 has seconds, 2023 milliseconds); None if not from 1970 to 2100."""
    time = row.get("timestamp", row.get("unixReviewTime"))
    if isinstance(time, bool) or not isinstance(time, int):
        return None
    time = time // 1000 if time > LATEST_TIME else time
    return time if 0 <= time <= LATEST_TIME else None


# --- metadata -------------------------------------------------------------------------------------------------------


def _read_metadata(path: Path, cleaning: Cleaning) -> list[dict]:
    """One metadata record per item, 2018 or 2023. A file that is one object {id: title} is also read."""
    rows = []
    for row in cleaning.records(read_lines(path), path, lambda number, raw: json_line(raw, number, path)):
        if not ({"asin", "parent_asin"} & row.keys()) and all(isinstance(title, str) for title in row.values()):
            rows.extend({"asin": item, "title": title} for item, title in row.items())
        else:
            rows.append(row)
    rows = cleaning.keep("metadata without an item id", rows, lambda row: isinstance(_item_id(row), str))
    return cleaning.keep_first("metadata lines repeated for an item", rows, _item_id)


def _item_id(row: Mapping) -> Any:
    return row.get("parent_asin") or row.get("asin")


def item_id_in_line(raw: str) -> str | None:
    """The item id in a JSON line that may be cut off; None if there is none to be seen."""
    found = dict(re.findall(r'"(parent_asin|asin|item_id)"\s*:\s*"([^"\\]+)"', raw))
    return _item_id(found) or found.get("item_id")


def _amazon_item(row: Mapping, root: str) -> RawItem:
    path = _category_path(row) or [root]
    texts = [clean_text(text) for text in (*as_list(row.get("description")), *as_list(row.get("features")))]
    texts = [text.removeprefix("Editorial Reviews").strip() for text in texts if not text.startswith("Learn more")]
    description = cut_at_word(" ".join(filter(None, texts)), DESCRIPTION_LENGTH)
    brand = aspect_value(_COMPANY.sub("", clean_text(row.get("brand") or row.get("store"))))
    topics = tuple(filter(None, map(aspect_value, path[DEPTH:][-2:])))
    stated = {"topic": topics, "brand": (brand,) if brand else ()}
    price, facts = _price(row.get("price")), _facts(row.get("details"))
    return RawItem(_item_id(row), _title(row, brand, path), tuple(path[:DEPTH]), description, stated, price, facts)


def _category_path(row: Mapping) -> list[str]:
    """Names from general to special, in lower case."""
    path = [clean_text(name).lower() for name in as_list(row.get("categories") or row.get("category"))]
    main = row.get("main_category") or row.get("main_cat")
    if not any(path) and "<" not in str(main):
        path = [clean_text(main).lower()]
    return [name for name in path if name]


def _facts(details: Any) -> dict[str, str]:
    """Short named facts that a person may prefer."""
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            details = {}
    facts = {}
    for name, value in details.items() if isinstance(details, dict) else ():
        aspect, value = aspect_value(name), aspect_value(value)
        if aspect and value and not _NO_FACT.search(aspect):
            facts[aspect] = value
    return facts


def _price(value: Any) -> float | None:
    """12.5, "$12.50", "from $1,200.00", "$5 - $9" (the lower one); None if there is no price."""
    if isinstance(value, str):
        number = re.match(r"(?:from )?\$?(\d[\d,]*\.?\d*)", value)
        value = float(number.group(1).replace(",", "")) if number else None
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _is_broken(title: Any) -> bool:
    return not clean_text(title) or bool(re.search(r"<span|/>|getTime\(", title))


def _title(row: Mapping, brand: str, path: Sequence[str]) -> str:
    """The title; a scrape error is replaced by brand, category and the start of the description."""
    if not _is_broken(row.get("title")):
        return cut_at_word(clean_text(row["title"]), 2 * TITLE_LENGTH)
    start = next(filter(None, map(clean_text, as_list(row.get("description")))), "")
    known = ", ".join(filter(None, (brand, path[-1])))
    return f"{known}: {cut_at_word(start, TITLE_LENGTH)}" if start else known
