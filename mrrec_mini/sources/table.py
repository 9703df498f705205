"""Any table of interactions, with or without a table of items, becomes a `Dataset`; the caller names the columns.

Flow: after `sources/interactions`. The tables are CSV, TSV or parquet. MovieLens' ratings.csv and movies.csv are an
example.

Equations: none. The paper uses other data. Guessed: what a cell means (`_names`), and that a source without
ratings holds only what people liked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, Dataset, key_text
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.cleaning import (
    ImportLog,
    RawItem,
    Rejects,
    Review,
    clean_text,
    is_absent,
    read_id,
    read_number,
    read_time,
    take,
)
from mrrec_mini.sources.interactions import in_order, make_dataset
from mrrec_mini.sources.rows import PARQUET, SEPARATORS, file_format, read_rows

BETWEEN_NAMES = "|"  # in a cell with several names


@dataclass(frozen=True)
class Columns:
    """The names of the columns. None: the table has no such column. Those from `id` on are columns of the items."""

    user: str
    item: str
    time: str | None = None  # None: the order of the rows is the order in time
    rating: str | None = None  # None: every rating is 5
    review: str | None = None
    id: str | None = None  # the item in the table of items; None: it is called as in the interactions
    title: str | None = None
    category: str | None = None
    attributes: tuple[str, ...] = ()

    def of_interactions(self) -> list[str]:
        return [name for name in (self.user, self.item, self.time, self.rating, self.review) if name is not None]

    def of_items(self) -> list[str]:
        return [name for name in (self.title, self.category, *self.attributes) if name is not None]


def import_table(interactions: Path, items: Path | None, columns: Columns, rejects: Rejects | None = None) -> Dataset:
    """Read a table of interactions and, if given, a table of items. Otherwise the interactions hold the items' columns,
    and the first row with an item describes it.

    A cell with names separated by "|" holds several. Of an item's categories, the rarest in the data set becomes the
    category of the item, and all of them an aspect with the name of the column, as every column of attributes does. A
    time is a number of seconds or milliseconds since 1970, or a date in ISO form (without a zone: UTC). Ratings and
    queries: see `interactions.make_dataset`.

    Errors and `rejects`: see `cleaning.ImportLog`. An interaction with an item whose row was rejected is dropped.
    """
    log, rows = ImportLog(rejects), {}  # rows: item -> the row that describes it
    # 1. Read the items that have a table of their own.
    if items is not None:
        key = columns.id or columns.item
        found = list(_read(Path(items), lambda row: (_key(row, key), row), log, [key, *columns.of_items()]))
        rows = dict(log.keep_first("rows repeated for an item", found, lambda pair: pair[0]))
    # 2. Read the interactions, and from them the items that have no other table.
    in_milliseconds = 0

    def interaction(row: dict) -> Review:
        nonlocal in_milliseconds
        time, converted = take(row, columns.time, read_time) if columns.time else (0, False)
        rating = take(row, columns.rating, read_number) if columns.rating else 5.0
        review = clean_text(_text(row[columns.review])) if columns.review else ""
        one = Review(_key(row, columns.user), _key(row, columns.item), time, rating, "", review)
        in_milliseconds += converted
        if items is None:
            rows.setdefault(one.item, row)
        return one

    needed = columns.of_interactions() + (columns.of_items() if items is None else [])
    taken = list(_read(Path(interactions), interaction, log, needed))
    if in_milliseconds:
        log.count("times in milliseconds, converted to seconds", 0, in_milliseconds)
    if columns.time is None:
        taken = in_order(taken, log)
    # 3. Describe the items, and make the queries.
    frequency = Counter(name for row in rows.values() for name in set(_names(row, columns.category)))
    pool = cleaning.make_items([_item(item, row, columns, frequency) for item, row in rows.items()])
    meta = {"name": Path(interactions).name.split(".")[0], "source": f"the table {Path(interactions).name}"}
    return make_dataset(Path(interactions), taken, pool, log, {**meta, "licence": "that of the source"})


def _read(path: Path, make: Callable[[dict], Any], log: ImportLog, needed: Sequence[str]) -> Iterator:
    """Yield `make(row)` for every row of a table."""
    if not path.is_dir() and file_format(path) not in (known := (*SEPARATORS, PARQUET)):
        what = f"is not read as a table; its name must end in {' or '.join(known)}"
        raise DataError.at(path, None, None, what)

    return read_rows(path, lambda row, *_: make(row), log, list(dict.fromkeys(needed)))


# --- one cell -------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    """Return a cell as text. 3.0 becomes "3": pandas writes whole numbers so if one of a column is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if is_absent(value) else str(value)


def _key(row: Mapping, column: str) -> str:
    """Return an id; an empty cell is a BadField."""
    return take(row, column, lambda value: key_text("" if is_absent(value) else read_id(value)))


def _names(row: Mapping, column: str | None) -> list[str]:
    """Return the names in a cell, in lower case. A note in brackets, such as "(no genres listed)", is no name."""
    value = row[column] if column else None
    parts = [part.strip() for one in cleaning.as_list(value) for part in _text(one).split(BETWEEN_NAMES)]
    names = [cleaning.aspect_value(part) for part in parts if not part.startswith("(")]
    return list(dict.fromkeys(filter(None, names)))


def _item(item: str, row: Mapping, columns: Columns, frequency: Counter) -> RawItem:
    title = clean_text(_text(row[columns.title])) if columns.title else ""
    title = cleaning.cut_at_word(title, 2 * cleaning.TITLE_LENGTH)
    categories = sorted(_names(row, columns.category), key=lambda name: (frequency[name], name))  # the rarest first
    stated = {_aspect(columns.category): tuple(categories)} if columns.category else {}
    stated |= {_aspect(column): tuple(_names(row, column)) for column in columns.attributes}
    return RawItem(item, title or f"item {item}", tuple(categories[:1]) or ("items",), "", stated)


def _aspect(column: str) -> str:
    return cleaning.aspect_value(column.replace("_", " ")) or column
