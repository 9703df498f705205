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

from mrrec_mini.data import Dataset, shorten
from mrrec_mini.datatypes import Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.amazon import amazon_item, amazon_review, known_fields
from mrrec_mini.sources.cleaning import (
    BadField,
    ImportLog,
    Rejects,
    Review,
    clean_text,
    read_id,
    read_text,
    read_time,
    take,
)
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
    taken = log.first_of_each_pair(log.with_all_fields(reviews, Path(histories[0])))
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


def _read_history(path: Path, products: dict[str, dict], log: ImportLog) -> Iterator[Review]:
    """Read {user: [{"product_info": {...}, "review": {...}}, ...]}. Adds new products to `products`."""

    def purchase(row: dict, user: str, *_: object) -> Review:
        item = _product(row, products)
        review = take(row, "review", _object)
        return amazon_review({**review, "parent_asin": item}, take({"user": user}, "user", read_id))[0]

    return read_members(path, purchase, log)


def _read_tasks(path: Path, products: dict[str, dict], log: ImportLog) -> Iterator[Task]:
    """Read {"train": [task, ...], "test": [task, ...]}. Adds new products to `products`."""

    def task(row: dict, *_: object) -> Task:
        user, kind, text = take(row, "user_id", read_id), take(row, "type", read_text), take(row, "task", _instruction)
        time, _converted = take(row, "timestamp", read_time)
        for name, value in (("user_id", user), ("type", kind), ("task", text), ("timestamp", time)):
            if not value:
                raise BadField(name, "is missing; a task needs user_id, type, task, timestamp, target")
        return Task(user, kind, text, _product(take(row, "target", _object), products), time)

    return read_members(path, task, log)


def _instruction(value: Any) -> str:
    return clean_text(read_text(value))


def _product(row: dict, products: dict[str, dict]) -> str:
    """Return the id of the row's product, and add the product to `products` if it is new."""
    product = known_fields(take(row, "product_info", _object))
    if product["id"] is None:
        raise BadField("parent_asin", "is missing; every product needs an id")
    products.setdefault(product["id"], product)
    return product["id"]


def _object(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(value)} is not a JSON object; every record needs one")
    return value
