"""PersonalWAB: shopping tasks in a user's own words, with that user's purchases and reviews, become a `Dataset`.

Flow: after `sources/amazon`, whose products and reviews PersonalWAB holds. A task is an instruction, the time at which
it was given, and the product that it should lead to; a user's history is a list of products with reviews.

Equations: none. The paper uses other data. Departures: PersonalWAB's two parts, train and test, are joined, since we
split users; its profiles of users are not read, since memory is built from the history. Tasks that ask for a review
name no product to find and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrrec_mini.data import DataError, Dataset, key_text, shorten
from mrrec_mini.datatypes import Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.amazon import amazon_item, amazon_review, time_in_seconds
from mrrec_mini.sources.cleaning import ImportLog, Rejects, Review, clean_text
from mrrec_mini.sources.rows import read_members

KINDS = ("search", "recommend")  # the tasks that ask for a product


class Task(NamedTuple):
    user: str
    kind: str  # "search" | "recommend" | "review"
    text: str
    target: str
    time: int  # seconds since 1970


def import_personalwab(instructions: Path, histories: Sequence[Path], rejects: Rejects | None = None) -> Dataset:
    """Read user_instructions.json and user_history.json, whole or in parts.

    The pool holds every product of a history or a task. The purchase that a task leads to has the time of the task, so
    it is not in the history of the query (`Dataset.history` is strictly before), but in that of later queries. A task
    is dropped if the user had the product before.

    Errors and `rejects`: see `cleaning.ImportLog`. The line in a message is the one in which the record begins.
    """
    log, products = ImportLog(rejects), {}
    # 1. Read the histories and the tasks.
    reviews = [review for path in histories for review in _read_history(Path(path), products, log)]
    step = "reviews without user, item, time, or rating from 1 to 5"
    taken = log.first_of_each_pair(log.keep(step, reviews, lambda review: review is not None))
    if not taken:
        raise DataError.at(histories[0], None, None, "holds no usable review (0 records)")
    tasks = log.keep(
        f"tasks other than {' and '.join(KINDS)}",
        _read_tasks(Path(instructions), products, log),
        lambda task: task.kind in KINDS,
    )
    # 2. Drop what would reveal a target: an earlier purchase of it, and copies of its review.
    bought = {(review.user, review.item): review for review in taken}

    def is_new(task: Task) -> bool:
        own = bought.get((task.user, task.target))
        return own is None or own.time >= task.time

    tasks = log.keep("tasks whose product the user had before", tasks, is_new)
    own = (bought.get((task.user, task.target)) for task in tasks)
    taken = log.without_copies(taken, [review for review in own if review])
    # 3. Make the items and the queries.
    items = cleaning.make_items([amazon_item(product, "items") for product in products.values()])
    queries = (Query(f"q-{n}", task.user, task.text, task.target, task.time) for n, task in enumerate(tasks, 1))
    meta = {
        "name": "personalwab",
        "source": "PersonalWAB (Cai et al., arXiv 2410.17236), made from Amazon Reviews 2023",
        "licence": "CC BY-NC 4.0",
        "cleaning": log.steps,
    }
    return Dataset(items, tuple(review.interaction() for review in taken), tuple(queries), meta)


def _read_history(path: Path, products: dict[str, dict], log: ImportLog) -> Iterator[Review | None]:
    """Read {user: [{"product_info": {...}, "review": {...}}, ...]}. Adds new products to `products`."""

    def purchase(row: dict, user: str, number: int, path: Path) -> list[Review | None]:
        item = _product(row, products, number, path)
        review = _part(row, "review", number, path)
        try:
            return [amazon_review({**review, "user_id": user, "parent_asin": item})]
        except ValueError as error:
            raise DataError.at(path, number, "id of user or item", str(error)) from None

    return (review for found in read_members(path, purchase, log) for review in found)


def _read_tasks(path: Path, products: dict[str, dict], log: ImportLog) -> Iterator[Task]:
    """Read {"train": [task, ...], "test": [task, ...]}. Adds new products to `products`."""

    def task(row: dict, part: str, number: int, path: Path) -> Task:
        missing = [name for name in ("user_id", "type", "task") if not cleaning.is_text(row.get(name))]
        if missing:
            raise DataError.at(
                path, number, missing[0], "is missing; a task needs user_id, type, task, timestamp, target"
            )
        if (time := time_in_seconds(row.get("timestamp"))) is None:
            what = f"{shorten(row.get('timestamp'))} is not a time in seconds or milliseconds since 1970"
            raise DataError.at(path, number, "timestamp", what)
        target = _product(_part(row, "target", number, path), products, number, path)
        try:
            return Task(key_text(row["user_id"]), row["type"], clean_text(row["task"]), target, time)
        except ValueError as error:
            raise DataError.at(path, number, "user_id", str(error)) from None

    return read_members(path, task, log)


def _product(row: dict, products: dict[str, dict], number: int, path: Path) -> str:
    """Return the id of the row's product, and add the product to `products` if it is new."""
    product = _part(row, "product_info", number, path)
    try:
        item = key_text(product.get("parent_asin"))
    except ValueError as error:
        raise DataError.at(path, number, "parent_asin", str(error)) from None
    products.setdefault(item, product)
    return item


def _part(row: dict, name: str, number: int, path: Path) -> Any:
    if not isinstance(row.get(name), dict):
        raise DataError.at(path, number, name, f"{shorten(row.get(name))} is not a JSON object; every record needs one")
    return row[name]
