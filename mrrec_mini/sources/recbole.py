"""RecBole atomic files, MovieLens-100k among them, become a `Dataset`.

Flow: after `sources/cleaning`, beside `world`. An atomic file is a table of tab-separated columns; its header names
each column and its type.

Equations: none. The source has neither queries nor reviews: a user's queries are `template_query` of the last items
that they liked. The paper does not use this data. Guessed: the three limits below, and the category (see
`import_recbole`).
"""

from __future__ import annotations

import math
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, Dataset, seconds, shorten, text_line
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources.cleaning import (
    Cleaning,
    RawItem,
    Rejects,
    Review,
    Step,
    aspect_value,
    clean_text,
    make_items,
    read_lines,
    refuse_lost,
    template_query,
)

LEAST_RATING, LEAST_HISTORY, MOST_QUERIES = 4, 5, 3  # of a target; interactions before it; queries per user
_TYPES = ("token", "float", "token_seq", "float_seq")
_HEADER = "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float"
_GENRES = ("class", "genre", "genres", "category", "categories")  # columns
_MOVIELENS = {
    "source": "MovieLens-100k (GroupLens), in RecBole's form",
    "licence": "research use, cite Harper and Konstan 2015, no redistribution (GroupLens)",
}


def import_recbole(source: Path, rejects: Rejects | None = None) -> Dataset:
    """RecBole atomic files: a folder with one `.inter` (user_id, item_id, rating, timestamp) and one `.item` file, or
    the `recbole` wheel itself, which holds MovieLens-100k.

    Genres become the aspect `genre`, a year its decade, every other token an aspect. The category is (kind of item, its
    genre that is rarest in the data set): the rarest says most, and the categories get similar sizes. Ratings outside
    1 to 5 are rescaled. There are no reviews.

    A user's targets are the last MOST_QUERIES items with a rating >= LEAST_RATING that are the only ones in their
    second (otherwise their order is unknown) and have at least LEAST_HISTORY interactions strictly before. Each query
    has its own time.

    Raises DataError with file, line and column. If `rejects` is given, it takes the records at fault instead, and the
    interactions with items that are lost with them.
    """
    if Path(source).suffix == ".whl":
        with tempfile.TemporaryDirectory() as place:
            return import_recbole(unpack_recbole_wheel(source, Path(place) / "ml-100k"), rejects)
    # 1. The items.
    folder, cleaning = Path(source), Cleaning(rejects)
    inter, item_file = _only(folder, ".inter"), _only(folder, ".item")
    items = make_items(_read_items(item_file, cleaning))
    place = next(read_lines(item_file))[1].split(b"\t").index(b"item_id:token") if rejects else 0
    lost = cleaning.lost_items(item_file, lambda raw: dict(enumerate(raw.split("\t"))).get(place), items)
    # 2. The interactions, as reviews without a text.
    taken = _read_interactions(inter, cleaning, lost)
    taken = cleaning.keep("interactions with items that .item does not hold", taken, lambda r: r.item in items)
    taken = cleaning.keep("interactions without a rating or a time", taken, lambda r: None not in (r.rating, r.time))
    taken = cleaning.first_of_each_pair(taken)
    if not taken:
        what = f"no interaction has a rating, a time and an item of {item_file.name} (0 records)"
        raise DataError.at(inter, None, None, what)
    low, high = min(r.rating for r in taken), max(r.rating for r in taken)
    if low < 1 or high > 5:
        cleaning.steps.append(Step(f"ratings stretched from {low:g}..{high:g} to 1..5", 0, len(taken)))
        taken = [r._replace(rating=1 + 4 * (r.rating - low) / (high - low)) for r in taken]
    # 3. The queries.
    queries = _last_liked(taken, items, cleaning)
    other = {"source": f"RecBole atomic files {inter.name}", "licence": "that of the source"}
    origin = _MOVIELENS if inter.name == "ml-100k.inter" else other
    meta = {"name": folder.name, **origin, "cleaning": cleaning.as_meta()}
    return Dataset(items, tuple(r.interaction() for r in taken), queries, meta)


def _last_liked(reviews: list[Review], items: Mapping[str, Item], cleaning: Cleaning) -> tuple[Query, ...]:
    """The queries, by the rule in `import_recbole`."""
    people: dict[str, list[Review]] = {}
    for review in reviews:  # sorted by user and time
        people.setdefault(review.user, []).append(review)
    queries: list[Query] = []
    for user, past in people.items():
        at = Counter(r.time for r in past)
        fit = [r for n, r in enumerate(past) if r.rating >= LEAST_RATING and at[r.time] == 1 and n >= LEAST_HISTORY]
        for number, r in enumerate(fit[-MOST_QUERIES:], 1):
            queries.append(Query(f"q-{user}-{number}", user, template_query(items[r.item]), r.item, r.time))
    asking = {query.user for query in queries}
    step = "users without a liked item that stands alone in its second, late enough (they keep their history)"
    cleaning.keep(step, people, asking.__contains__)
    return tuple(queries)


def unpack_recbole_wheel(wheel: Path, folder: Path, name: str = "ml-100k") -> Path:
    """Copy the atomic files of the example data set `name` from a `recbole` wheel to `folder`."""
    inside = f"recbole/dataset_example/{name}/{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for suffix in (".inter", ".item", ".user"):
                (folder / f"{name}{suffix}").write_bytes(archive.read(inside + suffix))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError.at(wheel, None, None, f"no {inside}.* in it ({error}); fetch recbole 1.2.1 again") from None
    return folder


# --- atomic files ---------------------------------------------------------------------------------------------------


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise DataError.at(folder, None, None, f"holds {len(found)} files *{suffix}; it needs exactly one")
    return found[0]


def _read_table(path: Path, needed: Sequence[str], make: Callable[[int, dict], Any], cleaning: Cleaning) -> list:
    """`make(line number, {column: value})` of each row of an atomic file whose header has the `needed` columns.

    token -> str, float -> float or None if empty, *_seq -> list. Raises DataError with line and column.
    """
    lines = read_lines(path)
    number, raw = next(lines, (1, b""))
    header = _cells(path, number, raw)
    columns = [_column(path, cell) for cell in header] if header != [""] else []
    for column in needed if columns else ():
        if tuple(column.split(":")) not in columns:
            what = f"is missing; the header must hold {column}, as in {_HEADER}"
            raise DataError.at(path, 1, column.split(":")[0], what)

    def read(number: int, raw: bytes) -> Any:
        if (cells := _cells(path, number, raw)) == [""]:
            return None
        if len(cells) != len(columns):
            named = "<TAB>".join(":".join(column) for column in columns)
            raise DataError.at(path, number, None, f"{len(cells)} columns, but the header has {len(columns)}: {named}")
        row = {name: _cell(path, number, name, kind, cell) for (name, kind), cell in zip(columns, cells, strict=True)}
        for name in ("user_id", "item_id"):
            if name in row and not row[name].strip():
                raise DataError.at(path, number, name, "is empty; give it a text or drop the record")
        return make(number, row)

    return list(cleaning.records(lines, path, read))


def _cells(path: Path, number: int, raw: bytes) -> list[str]:
    return text_line(raw, number, path).rstrip("\r\n").split("\t")


def _column(path: Path, cell: str) -> tuple[str, str]:
    """(name, type) of a cell of the header."""
    name, _, kind = cell.partition(":")
    if not name or kind not in _TYPES:
        what = f"a column is name:type with type one of {', '.join(_TYPES)}; for example {_HEADER}"
        raise DataError.at(path, 1, shorten(cell), what)
    return name, kind


def _cell(path: Path, line: int, name: str, kind: str, cell: str) -> Any:
    if kind.startswith("token"):
        return cell if kind == "token" else cell.split()
    try:
        numbers = [float(part) for part in cell.split()]
        if not all(map(math.isfinite, numbers)) or (kind == "float" and len(numbers) > 1):
            raise ValueError
    except ValueError:
        what = f"{shorten(cell)} is not a finite number, but the column is {kind}"
        raise DataError.at(path, line, name, what) from None
    return numbers if kind == "float_seq" else numbers[0] if numbers else None


# --- interactions and items -----------------------------------------------------------------------------------------


def _read_interactions(path: Path, cleaning: Cleaning, lost: Mapping[str, str]) -> list[Review]:
    def interaction(number: int, row: dict) -> Review:
        time = row["timestamp"]
        try:
            time = None if time is None else seconds(int(time))
        except ValueError as error:
            raise DataError.at(path, number, "timestamp", str(error)) from None
        refuse_lost(lost, row["item_id"], path, number, "item_id")
        return Review(row["user_id"], row["item_id"], time, row["rating"], "", "")

    return _read_table(path, _HEADER.split("<TAB>"), interaction, cleaning)


def _read_items(path: Path, cleaning: Cleaning) -> list[RawItem]:
    first: dict[str, tuple[int, dict]] = {}  # item -> line and row

    def item(number: int, row: dict) -> dict:
        line, known = first.setdefault(row["item_id"], (number, row))
        if known != row:
            what = f"{shorten(row['item_id'])} was given with other content in line {line}; keep one of them"
            raise DataError.at(path, number, "item_id", what)
        return row

    rows = _read_table(path, ("item_id:token",), item, cleaning)
    rows = cleaning.keep_first("item lines repeated word for word", rows, lambda row: row["item_id"])
    genres = Counter(genre for row in rows for genre in _genres(row))
    return [_recbole_item(row, genres) for row in rows]


def _genres(row: Mapping) -> list[str]:
    values = [row[name] for name in _GENRES if row.get(name)]
    return [clean_text(genre).lower() for value in values for genre in (value if isinstance(value, list) else [value])]


def _recbole_item(row: Mapping, genres: Counter) -> RawItem:
    title = next((v for name, v in row.items() if re.search("title|name", name) and v), "")
    title = clean_text(" ".join(title) if isinstance(title, list) else title) or f"item {row['item_id']}"
    own = sorted(_genres(row), key=lambda genre: (genres[genre], genre))  # the rarest first
    kind = "movies" if any("movie" in name for name in row) else "items"
    stated = {"genre": tuple(own)}
    for name, value in row.items():
        if name == "item_id" or name in _GENRES or re.search("title|name", name):
            continue
        if "year" in name:
            year = re.match(r"\d{4}", value if isinstance(value, str) else f"{value:g}" if value else "")
            stated["decade"] = (f"{year.group()[:3]}0s",) if year else ()
        elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            values = value if isinstance(value, list) else [value]
            stated[aspect_value(name.replace("_", " ")) or name] = tuple(filter(None, map(aspect_value, values)))
    price = row.get("price")
    price = price if isinstance(price, float) else None
    return RawItem(row["item_id"], title, (kind, *own[:1]), "", stated, price)
