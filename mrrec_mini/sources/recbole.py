"""RecBole atomic files, MovieLens-100k among them, become a `Dataset`.

Flow: after `sources/interactions`, beside `world`. An atomic file is a table of tab-separated columns; its header names
each column and its type.

Equations: none. The paper does not use this data. Guessed: an item's category.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, Dataset, seconds, shorten, text_line
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.cleaning import ImportLog, RawItem, Rejects, Review, clean_text
from mrrec_mini.sources.interactions import make_dataset

UNPACKED_LIMIT = 64 << 20  # bytes of a file in the wheel; ml-100k.inter has 2 MB
_TYPES = ("token", "float", "token_seq", "float_seq")
_HEADER = "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float"
_GENRES = ("class", "genre", "genres", "category", "categories")  # columns that hold genres


def import_recbole(source: Path, rejects: Rejects | None = None) -> Dataset:
    """Read RecBole atomic files: a folder with one `.inter` (user_id, item_id, rating, timestamp) and one `.item` file,
    or the `recbole` wheel itself, which holds MovieLens-100k.

    Genres become the aspect `genre`, a year becomes the aspect `decade`, and every other token column an aspect of its
    name. An item's category is ("movies" or "items", its rarest genre in the data set): a rare genre says most, and the
    categories get similar sizes. Reviews are empty. Ratings and queries: see `interactions.make_dataset`.

    Errors and `rejects`: see `cleaning.ImportLog`.
    """
    if Path(source).suffix == ".whl":
        with tempfile.TemporaryDirectory() as place:
            return import_recbole(unpack_recbole_wheel(source, Path(place)), rejects)
    # 1. Read the items.
    folder, log = Path(source), ImportLog(rejects)
    inter, item_file = _only(folder, ".inter"), _only(folder, ".item")
    items = cleaning.make_items(_read_items(item_file, log))
    if rejects:
        number, header = next(cleaning.read_lines(item_file))
        column = _cells(header, number, item_file).index("item_id:token")
        log.find_lost(item_file, lambda raw: next(iter(raw.rstrip("\r\n").split("\t")[column:]), None), items)
    # 2. Read the interactions, as reviews without a text.
    source, licence = f"RecBole atomic files {inter.name}", "that of the source"
    if inter.name == "ml-100k.inter":
        source = "MovieLens-100k (GroupLens), in RecBole's form"
        licence = "research use, cite Harper and Konstan 2015, no redistribution (GroupLens)"
    meta = {"name": folder.name, "source": source, "licence": licence}
    return make_dataset(inter, _read_interactions(inter, log), items, log, meta)


def unpack_recbole_wheel(wheel: Path, folder: Path) -> Path:
    """Extract MovieLens-100k from a `recbole` wheel. Returns the folder of its files, which is inside `folder`."""
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    names = [f"{inside}.inter", f"{inside}.item"]
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                if (size := archive.getinfo(name).file_size) > UNPACKED_LIMIT:
                    what = f"{name} would unpack to {size} bytes, more than {UNPACKED_LIMIT}"
                    raise DataError.at(wheel, None, None, f"{what}; fetch recbole 1.2.1 again")
            archive.extractall(folder, names)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError.at(wheel, None, None, f"no {inside}.* in it ({error}); fetch recbole 1.2.1 again") from None
    return (folder / inside).parent


# --- atomic files ---------------------------------------------------------------------------------------------------


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise DataError.at(folder, None, None, f"holds {len(found)} files *{suffix}; it needs exactly one")
    return found[0]


def _read_table(path: Path, needed: Sequence[str], make: Callable[[int, dict], Any], log: ImportLog) -> Iterator:
    """Yield `make(line number, {column: value})` for each row of an atomic file. The header needs the `needed` columns.

    Values: token -> str; float -> float, or None if empty; *_seq -> list. Raises DataError with line and column.
    """
    lines = cleaning.read_lines(path)
    number, raw = next(lines, (1, b""))
    header = _cells(raw, number, path)
    columns = [_column(path, cell) for cell in header] if header != [""] else []  # (name, type)
    names = [name for name, _ in columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError.at(path, 1, twice[0], "appears twice in the header; remove one of the columns")
    for column in needed if columns else ():
        if tuple(column.split(":")) not in columns:
            what = f"is missing; the header must hold {column}, as in {_HEADER}"
            raise DataError.at(path, 1, column.split(":")[0], what)

    def read(raw: bytes, number: int, path: Path) -> Any:
        if (cells := _cells(raw, number, path)) == [""]:
            return None
        if len(cells) != len(columns):
            named = "<TAB>".join(":".join(column) for column in columns)
            raise DataError.at(path, number, None, f"{len(cells)} columns, but the header has {len(columns)}: {named}")
        row = {name: _cell(path, number, name, kind, cell) for (name, kind), cell in zip(columns, cells, strict=True)}
        for name in ("user_id", "item_id"):
            if name in row and not row[name].strip():
                raise DataError.at(path, number, name, "is empty; give it a text or drop the record")
        return make(number, row)

    return log.records(path, read, lines)


def _cells(raw: bytes, number: int, path: Path) -> list[str]:
    return text_line(raw, number, path).rstrip("\r\n").split("\t")


def _column(path: Path, cell: str) -> tuple[str, str]:
    """Read a cell of the header, `name:type`. Returns (name, type)."""
    name, _, kind = cell.partition(":")
    if not name or kind not in _TYPES:
        what = f"a column is name:type with type one of {', '.join(_TYPES)}; for example {_HEADER}"
        raise DataError.at(path, 1, shorten(cell), what)
    return name, kind


def _cell(path: Path, line: int, name: str, kind: str, cell: str) -> Any:
    if kind.startswith("token"):
        return cell if kind == "token" else _names(cell)
    try:
        numbers = [cleaning.read_number(part) for part in cell.split()]
        if kind == "float" and len(numbers) > 1:
            raise ValueError
    except ValueError:
        what = f"{shorten(cell)} is not a finite number, but the column is {kind}"
        raise DataError.at(path, line, name, what) from None
    return numbers if kind == "float_seq" else numbers[0] if numbers else None


def _names(cell: str) -> list[str]:
    """Return the names in a cell: words between blanks, or quoted as in RecBole's Amazon files: 'Toys', 'Dolls'."""
    cell = cell.strip()
    if len(cell) < 2 or cell[0] not in "'\"" or cell[-1] not in "'\"":
        return cell.split()
    quoted = cleaning.python_list(f"[{cell}]")  # not if a name holds the quote: 'Men's', 'Shoes'
    return list(map(str, quoted)) if quoted else re.split(r"['\"]\s*,\s*['\"]", cell[1:-1])


# --- interactions and items -----------------------------------------------------------------------------------------


def _read_interactions(path: Path, log: ImportLog) -> Iterator[Review]:
    def interaction(number: int, row: dict) -> Review:
        time = row["timestamp"]
        try:
            time = None if time is None else seconds(int(time))
        except ValueError as error:
            raise DataError.at(path, number, "timestamp", str(error)) from None
        log.refuse_lost(row["item_id"], path, number, "item_id")
        return Review(row["user_id"], row["item_id"], time, row["rating"], "", "")

    return _read_table(path, _HEADER.split("<TAB>"), interaction, log)


def _read_items(path: Path, log: ImportLog) -> list[RawItem]:
    first: dict[str, tuple[int, dict]] = {}  # item -> (line number, row)

    def item(number: int, row: dict) -> dict:
        line, known = first.setdefault(row["item_id"], (number, row))
        if known != row:
            what = f"{shorten(row['item_id'])} was given with other content in line {line}; keep one of them"
            raise DataError.at(path, number, "item_id", what)
        return row

    rows = _read_table(path, ("item_id:token",), item, log)
    rows = log.keep_first("item lines repeated word for word", rows, lambda row: row["item_id"])
    genres = Counter(genre for row in rows for genre in _genres(row))
    return [_recbole_item(row, genres) for row in rows]


def _genres(row: Mapping) -> list[str]:
    values = [row[name] for name in _GENRES if row.get(name)]
    names = (clean_text(name).lower() for value in values for name in (value if isinstance(value, list) else [value]))
    return list(filter(None, names))


def _recbole_item(row: Mapping, genres: Counter) -> RawItem:
    title = next((v for name, v in row.items() if re.search("title|name", name) and v), "")
    title = clean_text(" ".join(title) if isinstance(title, list) else title) or f"item {row['item_id']}"
    own = sorted(_genres(row), key=lambda genre: (genres[genre], genre))  # the rarest genre first
    kind = "movies" if any("movie" in name for name in row) else "items"
    stated = {"genre": tuple(own)}
    for name, value in row.items():
        if name == "item_id" or name in _GENRES or re.search("title|name", name):
            continue
        if "year" in name:
            year = re.match(r"\d{4}", value if isinstance(value, str) else f"{value:g}" if value else "")
            stated["decade"] = (f"{year.group()[:3]}0s",) if year else ()
        elif isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            values = map(cleaning.aspect_value, value if isinstance(value, list) else [value])
            stated[cleaning.aspect_value(name.replace("_", " ")) or name] = tuple(filter(None, values))
    price = row.get("price") if isinstance(row.get("price"), float) else None
    return RawItem(row["item_id"], title, (kind, *own[:1]), "", stated, price)
