"""MiniOneRec's CSV files: sequences of items without times become a `Dataset`.

Flow: after `sources/interactions`. A row is a user's history, a list of items in their order, and the item that came
next. One user has many rows, whose histories overlap; they are joined to one sequence per user.

Equations: none. The paper uses other data. Departure: MiniOneRec's parts (train, valid, test) are joined, since we
split users. Guessed: how rows are joined (`_join`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import Dataset, key_text, shorten
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.amazon import amazon_item, known_fields
from mrrec_mini.sources.cleaning import ImportLog, RawItem, Rejects, Review, is_absent, read_id, take
from mrrec_mini.sources.interactions import in_order, make_dataset
from mrrec_mini.sources.rows import read_members, read_rows

_NEEDED = ("user_id", "history_item_id", "item_id")


def import_minionerec(items: Path, rows: Sequence[Path], rejects: Rejects | None = None) -> Dataset:
    """Read index/NAME.item.json and the CSV files of its rows; give the files in the order train, valid, test.

    The source has neither times nor ratings: times are made from the order, and every rating is 5. Queries: see
    `interactions.make_dataset`. Errors and `rejects`: see `cleaning.ImportLog`.
    """
    log, items = ImportLog(rejects), Path(items)
    pool = cleaning.make_items(list(read_members(items, _item, log)))
    # 1. Read the rows of each user: the history and the item that came next.
    sequences: dict[str, list[tuple[str, ...]]] = {}
    for path in rows:
        for user, sequence in read_rows(Path(path), _sequence, log, _NEEDED):
            sequences.setdefault(user, []).append(sequence)
    # 2. Join them, and count how many do not fit.
    joined = {user: _join(own) for user, own in sequences.items()}
    lost = sum(left_out for _, left_out in joined.values())
    kept = sum(map(len, sequences.values())) - lost
    log.count("rows that share no item with the user's earlier rows, so their place is unknown", lost, kept)
    taken = [Review(user, item, 0, 5.0, "", "") for user, (whole, _) in joined.items() for item in whole]
    meta = {
        "name": items.name.split(".")[0],
        "source": "MiniOneRec (AkaliKong/MiniOneRec), made from Amazon Review Data 2018 (Ni et al., EMNLP 2019)",
        "licence": "Apache-2.0 for MiniOneRec; the reviews have no formal licence, cite the paper",
    }
    return make_dataset(Path(rows[0]), in_order(taken, log), pool, log, meta)


def _join(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], int]:
    """Return one user's whole sequence, and the number of rows that do not fit to it.

    Short rows come first, because a history grows with time up to a greatest length. Rows of equal length keep the
    order of the files. A row continues the sequence if it begins with the end of the sequence; the longest such end
    counts.
    """
    whole: tuple[str, ...] = ()
    left_out = 0
    for row in sorted(rows, key=len):
        if _holds(whole, row) or _holds(row, whole):
            whole = max(whole, row, key=len)
        elif shared := next((n for n in range(min(len(whole), len(row)), 0, -1) if whole[-n:] == row[:n]), 0):
            whole += row[shared:]
        else:
            left_out += 1
    return whole, left_out


def _holds(whole: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def _sequence(row: dict, *_: object) -> tuple[str, tuple[str, ...]]:
    """Return (user, items of the row in order)."""
    user, item = (take(row, name, _needed) for name in ("user_id", "item_id"))
    return user, (*take(row, "history_item_id", _history), item)


def _needed(value: Any) -> str:
    """Return an id that must not be absent."""
    return key_text("" if is_absent(value) else read_id(value))


def _history(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else cleaning.python_list(value) if isinstance(value, str) else None
    if items is None or not all(type(item) in (str, int) for item in items):
        raise ValueError(f"{shorten(value)} is not a list of items, such as [3, 17]; correct or drop the row")
    return tuple(map(_needed, items))


def _item(row: Mapping, item: str, *_: object) -> RawItem:
    """Make an item. The names of its category path stand in one string, separated by commas without a blank."""
    path_of_names = row.get("categories")
    if isinstance(path_of_names, str):
        path_of_names = re.split(r",(?! )", path_of_names)
    take({"id": item}, "id", _needed)
    return amazon_item(known_fields({**row, "parent_asin": item, "categories": path_of_names}), "items")
