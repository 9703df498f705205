"""Amazon Reviews 2018 and 2023: reviews and item metadata become a `Dataset`.

Flow: after `sources/rows`, beside `world`. `import_amazon` reads one category: its reviews and, if given, its metadata.

Equations: none. A user gets at most one query: `template_query` of the item that they reviewed last. Departure: the
paper takes its queries from Amazon-C4 (`sources/c4`). Guessed: an item is a target only if it is certain that the user
reviewed it last (see `import_amazon`); which details express no preference (`_NO_FACT`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, Dataset, shorten
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.cleaning import (
    ImportLog,
    RawItem,
    Rejects,
    Review,
    clean_text,
    is_absent,
    read_id,
    read_rating,
    read_text,
    read_time,
    take,
)
from mrrec_mini.sources.rows import parts_of, read_rows
from mrrec_mini.typed import parse_json

_ITEM_ID = ("parent_asin", "asin")
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
    # 2. Choose the pool: items with a description or a review. Without metadata: the most frequent category.
    reviewed = {review.item for review in taken}
    step = "metadata without category or description, of items without a review"
    rows = log.keep(step, rows, lambda row: row["id"] in reviewed or row["described"])
    broken = sum(is_broken_title(row["title"]) for row in rows)
    step = "titles missing or cut from a web page, replaced by brand, category and description"
    log.count(step, broken, len(rows) - broken)
    roots = Counter(row["path"][0] for row in rows if row["path"])
    root = roots.most_common(1)[0][0] if roots else _category_in_name(Path(reviews))
    missing = sorted(reviewed - {row["id"] for row in rows})
    log.count("reviewed items without metadata, kept under the general category", 0, len(missing))
    rows += [known_fields({"asin": item, "title": f"{root} {item}"}) for item in missing]
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
    in_milliseconds, paths = 0, list(paths)

    def reviews_of(row: dict, number: int, path: Path) -> list[Review]:
        nonlocal in_milliseconds
        if not ({"reviewerID", "user_id"} & row.keys()):
            example = '{"user_id": "U1", "parent_asin": "B1", "rating": 5.0, "text": "...", "timestamp": 1}'
            what = f"is missing (reviewerID in the 2018 form); a review looks like {example}"
            raise DataError.at(path, number, "user_id", what)
        user = _take(row, ("user_id", "reviewerID"), read_id)
        if users is not None and user not in users:
            return []
        rows = [row]
        if "history" in row:  # Rec-R1's form
            rows = [*row["history"], row.get("target")] if isinstance(row["history"], list) else [None]
            if not all(isinstance(one, dict) for one in rows):
                raise DataError.at(path, number, "history, target", "each must hold reviews, which are JSON objects")
        found = [amazon_review(one, user) for one in rows]
        for review, _ in found:
            log.refuse_lost(review.item, path, number, "item")
        in_milliseconds += sum(converted for _, converted in found)
        return [review for review, _ in found]

    reviews = (review for path in paths for found in read_rows(path, reviews_of, log) for review in found)
    kept = log.with_all_fields(reviews, paths[0])
    if in_milliseconds:
        log.count("times in milliseconds, converted to seconds", 0, in_milliseconds)
    return kept


def amazon_review(row: Mapping, user: str | None) -> tuple[Review, bool]:
    """Read one review in the 2018 or 2023 form. Returns (review, whether its time was in milliseconds).

    User, item, time and rating are None if they are absent. Raises BadField for what cannot be read.
    """
    item, rating = _take(row, _ITEM_ID, read_id), _take(row, ("rating", "overall"), read_rating)
    time, converted = _take(row, ("timestamp", "unixReviewTime"), read_time)
    title, text = (_take(row, names, read_text) or "" for names in (("title", "summary"), ("text", "reviewText")))
    return Review(user, item, time, rating, title, text), converted


def _take(row: Mapping, names: Sequence[str], read: Callable[[Any], Any]) -> Any:
    """Read the first of the fields that is there: names of the 2023 form and of the 2018 form. Raises BadField."""
    return take(row, next((name for name in names if not is_absent(row.get(name))), names[0]), read)


# --- metadata -------------------------------------------------------------------------------------------------------


def _read_metadata(path: Path, log: ImportLog) -> list[dict]:
    """Read `known_fields` of each item, in the 2018 or 2023 form. Also reads a file that is one object {id: title}."""

    def items_of(row: dict, *_: object) -> list[dict]:
        if not ({*_ITEM_ID} & row.keys()) and all(isinstance(title, str) for title in row.values()):
            return [known_fields({"asin": item, "title": title}) for item, title in row.items()]
        return [known_fields(row)]

    rows = (row for found in read_rows(path, items_of, log) for row in found)
    rows = log.keep("metadata without an item id", rows, lambda row: row["id"] is not None)
    rows = log.keep_first("metadata lines repeated for an item", rows, lambda row: row["id"])
    for part in parts_of(path):
        log.find_lost(part, item_id_in_line, {row["id"] for row in rows})
    return rows


def item_id_in_line(raw: str) -> str | None:
    """Find the item id in a JSON line, even if the line is cut. Returns None if the line has no item id."""
    pairs = re.findall(r'"(parent_asin|asin|item_id)"\s*:\s*(?:"([^"\\]+)"|(\d+)\b)', raw)
    found = {name: text or number for name, text, number in pairs}
    return found.get("parent_asin") or found.get("asin") or found.get("item_id")


def known_fields(row: Mapping) -> dict:
    """Return the fields of an item's metadata that we use, each in one form whatever the source's form.

    id (None if absent), title, brand, path (of the category, from general to special, in lower case), description and
    features (clean texts), price, facts, described (whether the source says more than the title). Raises BadField for
    a field of a wrong type.
    """
    path = _take(row, ("categories", "category"), _path)
    main = _take(row, ("main_category", "main_cat"), read_text) or ""
    return {
        "id": _take(row, _ITEM_ID, read_id),
        "title": take(row, "title", read_text) or "",
        "brand": _take(row, ("brand", "store"), read_text) or "",
        "path": path or ([] if "<" in main else _path([main])),
        "description": take(row, "description", _texts),
        "features": take(row, "features", _texts),
        "described": any(row.get(name) for name in _DESCRIBING),
        "price": take(row, "price", parse_price),
        "facts": take(row, "details", _facts),
    }


def _texts(value: Any) -> list[str]:
    """Return a list of texts, one text, or a list in Python syntax as a list of clean texts, without empty ones."""
    return [text for one in cleaning.as_list(value) if (text := clean_text(read_text(one)))]


def _path(value: Any) -> list[str]:
    """Return the names of a category path in lower case. Of several paths, the first counts."""
    names = cleaning.as_list(value)
    if names and all(isinstance(one, list) for one in names):
        names = next(filter(None, names), [])
    return [name.lower() for name in _texts(names)]


def amazon_item(row: Mapping, root: str) -> RawItem:
    """Make an item of its `known_fields`. `root`: the category of an item without one."""
    path = row["path"] or [root]
    texts = [text for text in row["description"] + row["features"] if not text.startswith("Learn more")]
    texts = filter(None, (text.removeprefix("Editorial Reviews").strip() for text in texts))
    description = cleaning.cut_at_word(" ".join(texts), cleaning.DESCRIPTION_LENGTH)
    brand = cleaning.aspect_value(_COMPANY.sub("", clean_text(row["brand"])))
    topics = tuple(filter(None, map(cleaning.aspect_value, path[DEPTH:][-2:])))
    stated = {"topic": topics, "brand": (brand,) if brand else ()}
    title = _title(row, brand, path)
    return RawItem(row["id"], title, tuple(path[:DEPTH]), description, stated, row["price"], row["facts"])


def _facts(details: Any) -> dict[str, str]:
    """Return {aspect: value} of the short details that a person may prefer."""
    if isinstance(details, str):
        try:
            details = parse_json(details)
        except ValueError:
            return {}
    if not isinstance(details or {}, dict):
        raise ValueError(f"{shorten(details)} is not an object {{name: value}}")
    facts = ((cleaning.aspect_value(name), cleaning.aspect_value(value)) for name, value in (details or {}).items())
    return {aspect: value for aspect, value in facts if aspect and value and not _NO_FACT.search(aspect)}


def parse_price(value: Any) -> float | None:
    """Read a price such as 12.5, "$12.50", "from $1,200.00" or "$5 - $9" (the lower price); None for any other text."""
    if isinstance(value, str):
        number = re.match(r"(?:from )?\$?(\d[\d,]*\.?\d*)", value, re.ASCII)
        value = float(number.group(1).replace(",", "")) if number else None
    if value is not None and type(value) not in (int, float):
        raise ValueError(f"{shorten(value)} is not a price")
    return float(value) if value is not None and 0 < value < 1e300 else None


def is_broken_title(title: str) -> bool:
    """Return True if the title is empty or holds code of a web page."""
    return not clean_text(title) or bool(re.search(r"<span|/>|getTime\(", title))


def _title(row: Mapping, brand: str, path: Sequence[str]) -> str:
    """Return the title. A broken title is replaced by brand, category and the start of the description."""
    if not is_broken_title(row["title"]):
        return cleaning.cut_at_word(clean_text(row["title"]), 2 * cleaning.TITLE_LENGTH)
    start = next(iter(row["description"]), "")
    known = ", ".join(filter(None, (brand, path[-1])))
    return f"{known}: {cleaning.cut_at_word(start, cleaning.TITLE_LENGTH)}" if start else known
