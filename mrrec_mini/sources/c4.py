"""Amazon-C4: written queries and the review histories of their users become a `Dataset`.

Flow: after `sources/amazon`, which reads the reviews. Each query of Amazon-C4 was written from one review. The query
names the user but gives neither a time nor a history: both come from Amazon Reviews 2023.

Equations: none. Departure: the paper lets an LLM shorten the queries to one core item and one core use; we keep them
unchanged. Guessed: how the review of a query, and so its time, is found (see `import_amazon_c4`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.amazon import item_id_in_line, read_reviews
from mrrec_mini.sources.cleaning import (
    BadField,
    ImportLog,
    RawItem,
    Rejects,
    Review,
    clean_text,
    folded,
    read_id,
    read_text,
    take,
)
from mrrec_mini.sources.rows import parts_of, read_rows


def _plain(value: Any) -> str:
    return clean_text(read_text(value))


_NEEDED = {"qid": read_id, "query": _plain, "item_id": read_id, "user_id": read_id, "ori_review": _plain}  # columns


def import_amazon_c4(queries: Path, metadata: Path, reviews: Sequence[Path], rejects: Rejects | None = None) -> Dataset:
    """Read Amazon-C4: queries, item pool (`sampled_item_metadata`: item_id, category, metadata), reviews of 2023.

    A query has the time of the review that it was written from. This review is found by user, item and text, otherwise
    by user and item, otherwise by user and text (the earliest, if several match). If none matches, the query is
    dropped. The text of this review (`ori_review`) would reveal the target. So the user's history loses every review of
    the target, and every review with this text.

    Errors and `rejects`: see `cleaning.ImportLog`.
    """
    # 1. Read the pool of items.
    log, metadata = ImportLog(rejects), Path(metadata)
    pool = read_rows(metadata, _pool_row, log)
    pool = log.keep("pool items without item_id or metadata text", pool, lambda row: row["item_id"] and row["metadata"])
    pool = log.keep_first("pool lines repeated for an item", pool, lambda row: row["item_id"])
    items = cleaning.make_items([_c4_item(row) for row in pool])
    for part in parts_of(metadata):
        log.find_lost(part, item_id_in_line, items)
    # 2. Read the queries whose target is in the pool, and all reviews by their users.
    rows = _read_queries(Path(queries), log)
    rows = log.keep_first("queries whose qid was given before", rows, lambda row: row["qid"])
    rows = log.keep("queries whose target is not in the pool", rows, lambda row: row["item_id"] in items)
    history = read_reviews([Path(path) for path in reviews], log, frozenset(row["user_id"] for row in rows))
    # 3. Find the time of each query.
    times: dict[tuple, int] = {}
    for review in sorted(history, key=lambda review: -review.time):  # latest first: the earliest overwrites the others
        for text in _texts(review):
            times[review.user, review.item, text] = times[review.user, text] = review.time
        times[review.user, review.item, None] = review.time

    def time_of(row: Mapping) -> int | None:
        user, item, text = row["user_id"], row["item_id"], folded(row["ori_review"])
        keys = ((user, item, text), (user, item, None), (user, text))
        return next((times[key] for key in keys if key in times), None)

    step = "queries whose own review is not in the reviews (time unknown)"
    rows = log.keep(step, rows, lambda row: time_of(row) is not None)
    # 4. Make the histories, without the reviews that reveal a target.
    targets = {(row["user_id"], row["item_id"]) for row in rows}
    origins = {(row["user_id"], folded(row["ori_review"])) for row in rows}
    history = log.keep("reviews of a target by its own user", history, lambda r: (r.user, r.item) not in targets)
    step = "reviews that repeat the text a query was written from"
    history = log.keep(step, history, lambda r: not any((r.user, text) in origins for text in _texts(r)))
    history = log.keep("reviews of items that are not in the pool", history, lambda r: r.item in items)
    history = log.first_of_each_pair(history)
    asked = (Query(row["qid"], row["user_id"], row["query"], row["item_id"], time_of(row)) for row in rows)
    meta = {
        "name": "amazon-c4",
        "source": "Amazon-C4 and Amazon Reviews 2023 (Hou et al., arXiv 2403.03952)",
        "licence": "published for research use, cite the paper",
        "cleaning": log.steps,
    }
    return Dataset(items, tuple(review.interaction() for review in history), tuple(asked), meta)


def _read_queries(path: Path, log: ImportLog) -> Iterator[dict]:
    """Read the queries: Amazon-C4's test.csv, or the same rows as parquet or JSON lines."""

    def query(row: dict, number: int, path: Path) -> dict:
        query = {name: take(row, name, read) for name, read in _NEEDED.items()}
        for name, value in query.items():
            if not value:
                raise BadField(name, f"is missing; a query needs {', '.join(_NEEDED)}")
        log.refuse_lost(query["item_id"], path, number, "item_id")
        return query

    return read_rows(path, query, log, tuple(_NEEDED))


def _texts(review: Review) -> tuple[str, str]:
    """Return the two texts that `ori_review` may hold for a review: its text, or its title and text."""
    return folded(clean_text(review.text)), folded(clean_text(f"{review.title} {review.text}"))


def _pool_row(row: dict, *_: object) -> dict:
    return {"item_id": take(row, "item_id", read_id)} | {n: take(row, n, _plain) for n in ("metadata", "category")}


def _c4_item(row: Mapping) -> RawItem:
    """Make an item from a pool line, whose only text starts with the title."""
    text, category = row["metadata"], row["category"].replace("_", " ").lower() or "items"
    title = cleaning.cut_at_word(text, cleaning.TITLE_LENGTH)
    return RawItem(row["item_id"], title, (category,), cleaning.cut_at_word(text, cleaning.DESCRIPTION_LENGTH), {})
