"""Amazon-C4: written queries, with the histories of the people who wrote them, become a `Dataset`.

TODO-DOC
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import (
    DataError,
    Dataset,
    json_line,
    key_text,
    text_line,
)
from mrrec_mini.datatypes import Query
from mrrec_mini.sources.amazon import _first_by, _first_of_each_pair, _json_item_id, _Review, read_reviews
from mrrec_mini.sources.cleaning import (
    _C4,
    DESCRIPTION_LENGTH,
    TITLE_LENGTH,
    Cleaning,
    Rejects,
    _cut,
    _folded,
    _items,
    _lines,
    _lost,
    _Raw,
    _records,
    _refuse_lost,
    clean_text,
)


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
