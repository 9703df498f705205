"""RecBole atomic files (MovieLens-100k among them) become a `Dataset`.

TODO-DOC
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

from mrrec_mini.data import (
    DataError,
    Dataset,
    seconds,
    shorten,
    text_line,
)
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources.amazon import _first_by, _first_of_each_pair, _Review
from mrrec_mini.sources.cleaning import (
    Cleaning,
    Rejects,
    Step,
    _items,
    _lines,
    _lost,
    _Raw,
    _records,
    _refuse_lost,
    _value,
    clean_text,
    template_query,
)

_TYPES = ("token", "float", "token_seq", "float_seq")
_HEADER = "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float"
_ORIGINS = {
    "ml-100k.inter": (
        "MovieLens-100k (GroupLens), in RecBole's form",
        "research use, cite Harper and Konstan 2015, no redistribution (GroupLens)",
    )
}
_GENRES = ("class", "genre", "genres", "category", "categories")


def _atomic(path: Path, needed: Sequence[str], make: Callable[[int, dict], Any], rejects: Rejects | None) -> list:
    """What `make` makes of each (line, {column: value}) of an atomic file whose header has the `needed` columns.

    token -> str, float -> float or None where empty, *_seq -> a list. Raises DataError naming line and column.
    """
    lines = _lines(path)
    number, raw = next(lines, (1, b""))
    header = _cells(path, number, raw)
    columns = [_column(path, cell) for cell in header] if header != [""] else []
    for column in needed if columns else ():
        if tuple(column.split(":")) not in columns:
            raise DataError.at(
                path, 1, column.split(":")[0], f"is missing; the header must hold {column}, as in {_HEADER}"
            )

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

    return list(_records(lines, path, read, rejects))


def _cells(path: Path, number: int, raw: bytes) -> list[str]:
    return text_line(raw, number, path).rstrip("\r\n").split("\t")


def _column(path: Path, cell: str) -> tuple[str, str]:
    name, _, kind = cell.partition(":")
    if not name or kind not in _TYPES:
        what = f"a column is name:type with type one of {', '.join(_TYPES)}; for example {_HEADER}"
        raise DataError.at(path, 1, shorten(cell), what)
    return name, kind


def _cell(path: Path, line: int, name: str, kind: str, cell: str) -> Any:
    if kind == "token":
        return cell
    if kind == "token_seq":
        return cell.split()
    try:
        numbers = [float(part) for part in cell.split()]
        if not all(map(math.isfinite, numbers)) or (kind == "float" and len(numbers) > 1):
            raise ValueError
    except ValueError:
        raise DataError.at(
            path, line, name, f"{shorten(cell)} is not a finite number, but the column is {kind}"
        ) from None
    return numbers if kind == "float_seq" else numbers[0] if numbers else None


def import_recbole(
    source: Path,
    least_rating: float = 4,
    least_history: int = 5,
    most_queries: int = 3,
    rejects: Rejects | None = None,
) -> Dataset:
    """RecBole atomic files: a folder with one `.inter` (user_id, item_id, rating, timestamp) and one `.item`, or the
    `recbole` wheel itself, which carries MovieLens-100k.

    Genres become the aspect `genre`, a year its decade, other tokens an aspect each. The category is (what the folder
    holds, the genre that is rarest in the data set): the rarest says most, and keeps categories of like size. Ratings
    outside 1 to 5 are stretched to it. There are no reviews.

    A user's targets are the last `most_queries` items rated >= `least_rating` that were alone in their second (within
    one the order is unknown) and had at least `least_history` interactions strictly before. Items rated lower are never
    targets. Every query has its own time.

    Raises DataError naming file, line and column; `rejects`, where given, takes the records that would be a reason, and
    the interactions with items that are lost by it.
    """
    if Path(source).suffix == ".whl":
        with tempfile.TemporaryDirectory() as place:
            folder = unpack_recbole_wheel(source, Path(place) / "ml-100k")
            return import_recbole(folder, least_rating, least_history, most_queries, rejects)
    folder, cleaning = Path(source), Cleaning(rejects)
    inter, item_file = _only(folder, ".inter"), _only(folder, ".item")
    items = _items(_recbole_items(item_file, cleaning))
    place = next(_lines(item_file))[1].split(b"\t").index(b"item_id:token") if rejects else 0
    lost = _lost(item_file, lambda raw: dict(enumerate(raw.split("\t"))).get(place), items, rejects)
    met = _recbole_interactions(inter, rejects, lost)
    met = cleaning.keep("interactions with items that .item does not hold", met, lambda m: m.item in items)
    met = cleaning.keep("interactions without a rating or a time", met, lambda m: None not in (m.rating, m.time))
    met = _first_of_each_pair(met, cleaning)
    if not met:
        what = f"no interaction has a rating, a time and an item of {item_file.name} (0 records)"
        raise DataError.at(inter, None, None, what)
    low, high = min(m.rating for m in met), max(m.rating for m in met)
    if low < 1 or high > 5:
        cleaning.steps.append(Step(f"ratings stretched from {low:g}..{high:g} to 1..5", 0, len(met)))
        met = [m._replace(rating=1 + 4 * (m.rating - low) / (high - low)) for m in met]
    queries = _liked_last(met, items, cleaning, least_rating, least_history, most_queries)
    origin, licence = _ORIGINS.get(inter.name, (f"RecBole atomic files {inter.name}", "that of the source"))
    meta = {"name": folder.name, "source": origin, "licence": licence, "cleaning": cleaning.as_meta()}
    return Dataset(items, tuple(m.interaction() for m in met), queries, meta)


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise DataError.at(folder, None, None, f"holds {len(found)} files *{suffix}; it needs exactly one")
    return found[0]


def _recbole_interactions(path: Path, rejects: Rejects | None, lost: Mapping[str, str]) -> list[_Review]:
    def interaction(number: int, row: dict) -> _Review:
        time = row["timestamp"]
        try:
            time = None if time is None else seconds(int(time))
        except ValueError as error:
            raise DataError.at(path, number, "timestamp", str(error)) from None
        _refuse_lost(lost, row["item_id"], path, number, "item_id")
        return _Review(row["user_id"], row["item_id"], time, row["rating"], "", "")

    return _atomic(path, ("user_id:token", "item_id:token", "rating:float", "timestamp:float"), interaction, rejects)


def _recbole_items(path: Path, cleaning: Cleaning) -> list[_Raw]:
    first: dict[str, tuple[int, dict]] = {}  # line and row by item

    def item(number: int, row: dict) -> dict:
        line, known = first.setdefault(row["item_id"], (number, row))
        if known != row:
            what = f"{shorten(row['item_id'])} was given with other content in line {line}; keep one of them"
            raise DataError.at(path, number, "item_id", what)
        return row

    rows = _atomic(path, ("item_id:token",), item, cleaning.rejects)
    rows = cleaning.keep("item lines repeated word for word", rows, _first_by(lambda row: row["item_id"]))
    genres = Counter(genre for row in rows for genre in _genres(row))
    return [_recbole_item(row, genres) for row in rows]


def _genres(row: Mapping) -> list[str]:
    held = [row[name] for name in _GENRES if row.get(name)]
    return [clean_text(genre).lower() for value in held for genre in (value if isinstance(value, list) else [value])]


def _recbole_item(row: Mapping, genres: Counter) -> _Raw:
    title = next((v for name, v in row.items() if re.search("title|name", name) and v), f"item {row['item_id']}")
    title = " ".join(title) if isinstance(title, list) else title
    own = sorted(_genres(row), key=lambda genre: (genres[genre], genre))  # the rarest first
    kind = "movies" if any("movie" in name for name in row) else "items"
    told = {"genre": tuple(own)}
    for name, value in row.items():
        if name == "item_id" or name in _GENRES or re.search("title|name", name):
            continue
        if "year" in name:
            year = re.match(r"\d{4}", value if isinstance(value, str) else f"{value:g}" if value else "")
            told["decade"] = (f"{year.group()[:3]}0s",) if year else ()
        elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            values = value if isinstance(value, list) else [value]
            told[_value(name.replace("_", " ")) or name] = tuple(filter(None, map(_value, values)))
    price = row.get("price")
    path = (kind, own[0]) if own else (kind,)
    return _Raw(
        row["item_id"],
        clean_text(title) or f"item {row['item_id']}",
        path,
        "",
        told,
        price if isinstance(price, float) else None,
    )


def _liked_last(
    met: list[_Review],
    items: Mapping[str, Item],
    cleaning: Cleaning,
    least_rating: float,
    least_history: int,
    most: int,
) -> tuple[Query, ...]:
    people: dict[str, list[_Review]] = {}
    for review in met:  # sorted by user and time
        people.setdefault(review.user, []).append(review)
    queries: list[Query] = []
    for user, past in people.items():
        at = Counter(m.time for m in past)
        fit = [m for n, m in enumerate(past) if m.rating >= least_rating and at[m.time] == 1 and n >= least_history]
        for number, m in enumerate(fit[-most:], 1):
            queries.append(Query(f"q-{user}-{number}", user, template_query(items[m.item]), m.item, m.time))
    asking = {query.user for query in queries}
    step = "users without a liked item that stands alone in its second, late enough (they keep their history)"
    cleaning.keep(step, people, asking.__contains__)
    return tuple(queries)


def unpack_recbole_wheel(wheel: Path, folder: Path, name: str = "ml-100k") -> Path:
    """Copy the atomic files of the example data set `name` out of a `recbole` wheel into `folder`."""
    inside = f"recbole/dataset_example/{name}/{name}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for suffix in (".inter", ".item", ".user"):
                (Path(folder) / f"{name}{suffix}").write_bytes(archive.read(inside + suffix))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError.at(wheel, None, None, f"no {inside}.* in it ({error}); fetch recbole 1.2.1 again") from None
    return Path(folder)
