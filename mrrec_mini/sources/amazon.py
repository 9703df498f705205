"""Amazon Reviews 2018 and 2023: reviews and item metadata become a `Dataset`.

Flow: after `sources/rows`, beside `world`. `import_amazon` reads one category: its reviews and, if given, its metadata.

Equations: none. A user gets at most one query: `template_query` of the item that they reviewed last. Departure: the
paper takes its queries from Amazon-C4 (`sources/c4`). Guessed: an item is a target only if it is certain that the user
reviewed it last (see `import_amazon`); which details express no preference (`_NO_FACT`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mrrec_mini.data import LATEST_TIME, DataError, Dataset, key_text
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.cleaning import ImportLog, RawItem, Rejects, Review, clean_text
from mrrec_mini.sources.rows import parts_of, read_rows

DAY = 86_400  # seconds; a time in Amazon 2018 is a whole day
DEPTH = 2  # number of names in a category path
_COMPANY = re.compile(r"[,.]?\s+(inc|llc|ltd|corp|corporation|company|publications?|publishing)\b\.?| - .*", re.I)
_NO_FACT = re.compile(  # details that express no preference: numbers, dates, addresses
    r"asin|upc|isbn|model|date|dimension|weight|rank|number|shipping|publisher|manufacturer|discontinued|brand|country"
    r"|batter|domestic|international|department|size|quantity|count|volume"
)
_DESCRIBING = ("description", "category", "categories", "features")  # an item without a review needs one of these


def import_amazon(reviews: Path, metadata: Path | None = None, rejects: Rejects | None = None) -> Dataset:
    """Read one category of Amazon Reviews 2018 or 2023: its reviews and its metadata, in a format of `rows.read_rows`.

    Without metadata, an item has only a title of category and id: enough to know who took what, not to search by words.
    An item's category is the first DEPTH names of its path; of the deeper names, the last two become the aspect
    `topic`. The pool holds every reviewed item, and every item whose metadata has a category, description or features.

    If a user reviewed an item several times, only the earliest review is kept. A user who reviewed two or more items
    gets at most one query. Its target is the item reviewed last, whatever its rating. The user gets no query if they
    reviewed another item on the same day (a time in 2018 is only a day, so the order is unknown), or if the last review
    repeats an earlier review word for word. On Magazine Subscriptions 2018, 159 of 348 users get a query.

    Errors and `rejects`: see `cleaning.ImportLog`.
    """
    # 1. Read the metadata, then the reviews.
    log = ImportLog(rejects)
    rows = _read_metadata(Path(metadata), log) if metadata else []
    taken = log.first_of_each_pair(read_reviews([Path(reviews)], log))
    if not taken:
        raise DataError.at(reviews, None, None, "holds no usable review (0 records)")
    # 2. Choose the pool: items with a description or a review. Without metadata: the most frequent category.
    reviewed = {review.item for review in taken}
    step = "metadata without category or description, of items without a review"
    rows = log.keep(step, rows, lambda row: _item_id(row) in reviewed or any(row.get(name) for name in _DESCRIBING))
    broken = sum(is_broken_title(row.get("title")) for row in rows)
    step = "titles missing or cut from a web page, replaced by brand, category and description"
    log.count(step, broken, len(rows) - broken)
    roots = Counter(path[0] for path in map(_category_path, rows) if path)
    root = roots.most_common(1)[0][0] if roots else _category_in_name(Path(reviews))
    missing = sorted(reviewed - {_item_id(row) for row in rows})
    log.count("reviewed items without metadata, kept under the general category", 0, len(missing))
    rows += [{"asin": item, "title": f"{root} {item}"} for item in missing]
    items = cleaning.make_items([amazon_item(row, root) for row in rows])
    # 3. Make the queries.
    queries, taken = _last_purchases(taken, items, log)
    meta = {
        "name": Path(reviews).name.split(".")[0],
        "source": "Amazon Reviews (McAuley lab, UCSD): 2018 Ni et al. EMNLP 2019; 2023 Hou et al. arXiv 2403.03952",
        "licence": "no formal licence; published for research use, cite the paper",
        "cleaning": log.steps,
    }
    return Dataset(items, tuple(review.interaction() for review in taken), queries, meta)


def _category_in_name(path: Path) -> str:
    """Return the category that a file of reviews is named after: "all beauty" for raw_review_All_Beauty."""
    found = re.search(r"raw_review_(\w+)", str(path)) or re.match(r"(?:reviews_)?([A-Z]\w*?)(?:_5)?\.", path.name)
    return found[1].replace("_", " ").lower() if found else "items"


def _last_purchases(
    reviews: list[Review], items: Mapping[str, Item], log: ImportLog
) -> tuple[tuple[Query, ...], list[Review]]:
    """Return (queries, reviews). A user's last item becomes the target of a query if it is clear which one is last.

    The reviews leave out those by the same user that repeat the text of the target's review word for word.
    """
    people = {user: list(own) for user, own in groupby(reviews, lambda review: review.user)}  # sorted by user and time
    users = log.keep("users with one item (they keep their history)", people, lambda u: len(people[u]) > 1)
    step = "users whose last day holds several reviews (they keep their history)"
    users = log.keep(step, users, lambda u: people[u][-2].time // DAY < people[u][-1].time // DAY)
    step = "users whose last review repeats an earlier one (they keep their history)"
    users = log.keep(step, users, lambda u: people[u][-1].text not in {past.text for past in people[u][:-1]})
    last = {user: people[user][-1] for user in users}
    reviews = log.without_copies(reviews, list(last.values()))
    queries = (
        Query(f"q-{user}", user, cleaning.template_query(items[target.item]), target.item, target.time)
        for user, target in last.items()
    )
    return tuple(queries), reviews


# --- reviews --------------------------------------------------------------------------------------------------------


def read_reviews(paths: Iterable[Path], log: ImportLog, users: frozenset[str] | None = None) -> list[Review]:
    """Read reviews in the 2018 or 2023 form, which have different field names. If `users` is given, skip others.

    Also reads Rec-R1's form: one line per user, with "history" and "target". Raises DataError for a line in none of
    these forms, and for a review of an item in `log.lost`.
    """
    in_milliseconds = 0

    def reviews_of(row: dict, number: int, path: Path) -> list[Review | None]:
        nonlocal in_milliseconds
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
            found = [amazon_review(one) for one in rows]
        except ValueError as error:
            raise DataError.at(path, number, "id of user or item", str(error)) from None
        for review in filter(None, found):
            log.refuse_lost(review.item, path, number, "item")
        in_milliseconds += sum(type(time) is int and time > LATEST_TIME for time in map(_time, rows))
        return found

    reviews = (review for path in paths for found in read_rows(path, reviews_of, log) for review in found)
    step = "reviews without user, item, time, or rating from 1 to 5"
    kept = log.keep(step, reviews, lambda review: review is not None)
    if in_milliseconds:
        log.count("times in milliseconds, converted to seconds", 0, in_milliseconds)
    return kept


def amazon_review(row: Mapping) -> Review | None:
    """Read one review in the 2018 or 2023 form. Returns None if user, item, time or rating is missing or out of range.

    Raises ValueError for an id that cannot be written to a file.
    """
    user, item, time = row.get("user_id", row.get("reviewerID")), _item_id(row), time_in_seconds(_time(row))
    rating = row.get("rating", row.get("overall"))
    if not (cleaning.is_text(user) and cleaning.is_text(item) and type(rating) in (int, float) and 1 <= rating <= 5):
        return None
    if time is None:
        return None
    title, text = row.get("title", row.get("summary")), row.get("text", row.get("reviewText"))
    title, text = (value if isinstance(value, str) else "" for value in (title, text))
    return Review(key_text(user), key_text(item), time, float(rating), title, text)


def _time(row: Mapping) -> Any:
    """Return the time field: seconds since 1970 in the 2018 form, milliseconds in the 2023 form."""
    return row.get("timestamp", row.get("unixReviewTime"))


def time_in_seconds(time: Any) -> int | None:
    """Convert a time in seconds or milliseconds since 1970 to seconds; None if it is no whole number up to 2100."""
    if type(time) is not int:
        return None
    time = time // 1000 if time > LATEST_TIME else time
    return time if 0 <= time <= LATEST_TIME else None


# --- metadata -------------------------------------------------------------------------------------------------------


def _read_metadata(path: Path, log: ImportLog) -> list[dict]:
    """Read one metadata record per item, in the 2018 or 2023 form. Also reads a file that is one object {id: title}."""
    rows = []
    for row in read_rows(path, lambda row, *_: row, log):
        if not ({"asin", "parent_asin"} & row.keys()) and all(isinstance(title, str) for title in row.values()):
            rows.extend({"asin": item, "title": title} for item, title in row.items())
        else:
            rows.append(row)
    rows = log.keep("metadata without an item id", rows, lambda row: isinstance(_item_id(row), str))
    rows = log.keep_first("metadata lines repeated for an item", rows, _item_id)
    for part in parts_of(path):
        log.find_lost(part, item_id_in_line, {_item_id(row) for row in rows})
    return rows


def _item_id(row: Mapping) -> Any:
    return row.get("parent_asin") or row.get("asin")


def item_id_in_line(raw: str) -> str | None:
    """Find the item id in a JSON line, even if the line is cut. Returns None if the line has no item id."""
    found = dict(re.findall(r'"(parent_asin|asin|item_id)"\s*:\s*"([^"\\]+)"', raw))
    return _item_id(found) or found.get("item_id")


def amazon_item(row: Mapping, root: str) -> RawItem:
    path = _category_path(row) or [root]
    texts = [clean_text(text) for name in ("description", "features") for text in cleaning.as_list(row.get(name))]
    texts = [text.removeprefix("Editorial Reviews").strip() for text in texts if not text.startswith("Learn more")]
    description = cleaning.cut_at_word(" ".join(filter(None, texts)), cleaning.DESCRIPTION_LENGTH)
    brand = cleaning.aspect_value(_COMPANY.sub("", clean_text(row.get("brand") or row.get("store"))))
    topics = tuple(filter(None, map(cleaning.aspect_value, path[DEPTH:][-2:])))
    stated = {"topic": topics, "brand": (brand,) if brand else ()}
    price, facts = parse_price(row.get("price")), _facts(row.get("details"))
    return RawItem(_item_id(row), _title(row, brand, path), tuple(path[:DEPTH]), description, stated, price, facts)


def _category_path(row: Mapping) -> list[str]:
    """Return the names of the category path, from general to special, in lower case."""
    path = [clean_text(name).lower() for name in cleaning.as_list(row.get("categories") or row.get("category"))]
    main = row.get("main_category") or row.get("main_cat")
    if not any(path) and "<" not in str(main):
        path = [clean_text(main).lower()]
    return [name for name in path if name]


def _facts(details: Any) -> dict[str, str]:
    """Return {aspect: value} of the short details that a person may prefer."""
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(details, dict):
        return {}
    facts = ((cleaning.aspect_value(name), cleaning.aspect_value(value)) for name, value in details.items())
    return {aspect: value for aspect, value in facts if aspect and value and not _NO_FACT.search(aspect)}


def parse_price(value: Any) -> float | None:
    """Read a price such as 12.5, "$12.50", "from $1,200.00" or "$5 - $9" (the lower price); None if there is none."""
    if isinstance(value, str):
        number = re.match(r"(?:from )?\$?(\d[\d,]*\.?\d*)", value)
        value = float(number.group(1).replace(",", "")) if number else None
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def is_broken_title(title: Any) -> bool:
    """Return True if the title is missing or holds code of a web page."""
    return not clean_text(title) or bool(re.search(r"<span|/>|getTime\(", title))


def _title(row: Mapping, brand: str, path: Sequence[str]) -> str:
    """Return the title. A broken title is replaced by brand, category and the start of the description."""
    if not is_broken_title(row.get("title")):
        return cleaning.cut_at_word(clean_text(row["title"]), 2 * cleaning.TITLE_LENGTH)
    start = next(filter(None, map(clean_text, cleaning.as_list(row.get("description")))), "")
    known = ", ".join(filter(None, (brand, path[-1])))
    return f"{known}: {cleaning.cut_at_word(start, cleaning.TITLE_LENGTH)}" if start else known
