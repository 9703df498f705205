"""Read rows from JSON lines, CSV, TSV, parquet and large JSON objects, each row with the line it stands in.

Flow: after `sources/cleaning`; used by every importer except `sources/recbole`. A row is a dictionary. The ending of a
file's name tells its format (`read_rows`). For a row of a parquet file, messages give its number instead of a line.

Equations: none. The paper says nothing about files.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, json_line, shorten, text_line
from mrrec_mini.sources.cleaning import ImportLog, open_file, read_lines

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
_BLANK = re.compile(r"[ \t\r\n]*")


def file_format(path: Path) -> str:
    """Return the last ending of the file's name in lower case, ".csv" for example; an ending .gz is not counted."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def parts_of(path: Path) -> list[Path]:
    """Return the parquet files in a folder, in the order of their names; of any other path, the path alone."""
    if not path.is_dir():
        return [path]
    if not (parts := sorted(path.glob(f"*{PARQUET}"))):
        raise DataError.at(path, None, None, f"is a folder without *{PARQUET} files; give the file itself")
    return parts


def read_rows(path: Path, make: Callable, log: ImportLog, columns: Sequence[str] = ()) -> Iterator:
    """Yield `make(row, line number, path)` for every row of a file, or of its `parts_of`, except if it is None.

    Files named *.csv, *.tsv and *.parquet are read as tables, all others as JSON lines. Every row must have the
    `columns`. The cells of CSV and TSV are strings. Raises ModuleNotFoundError if pyarrow, which reads parquet, is
    missing. Other errors are DataErrors, as in `ImportLog.records`.
    """

    def from_json(raw: bytes, number: int, path: Path) -> Any:
        if (row := json_line(raw, number, path)) is None:
            return None
        if missing := [name for name in columns if name not in row]:
            raise DataError.at(path, number, missing[0], f"is missing; needed are {', '.join(columns)}")
        return make(row, number, path)

    for part in parts_of(path):
        if (ending := file_format(part)) in SEPARATORS:
            yield from _read_csv(part, make, log, columns, SEPARATORS[ending])
        else:
            yield from log.records(part, from_json, _parquet_lines(part, columns) if ending == PARQUET else None)


def _check_header(path: Path, line: int | None, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raise DataError if one of the `columns` is not in the header exactly once."""
    for name in columns:
        if header.count(name) != 1:
            what = "appears twice" if name in header else f"is missing; needed are {', '.join(columns)}"
            what += f"; the header holds {shorten(', '.join(header), 200)}"
            if len(header) == 1 and path.suffix != PARQUET:
                what += "; a .csv has commas between its cells, a .tsv tabs"
            raise DataError.at(path, line, name, what)


# --- CSV and TSV ----------------------------------------------------------------------------------------------------


def _read_csv(path: Path, make: Callable, log: ImportLog, columns: Sequence[str], separator: str) -> Iterator:
    """Read a table with a header. A row may hold line ends in quotes; its number is that of its first line."""
    taken: list[bytes] = []  # the lines of the present row
    cells: list[str] | csv.Error = []  # the present row, or why it cannot be read

    def texts() -> Iterator[str]:
        for number, raw in read_lines(path):
            taken.append(raw)
            text = raw.decode(errors="replace")  # `text_line` reports what cannot be decoded
            yield text.removeprefix("\ufeff") if number == 1 else text

    def rows() -> Iterator[tuple[int, bytes]]:
        nonlocal cells
        number = 1 + len(taken)
        while True:
            taken.clear()
            try:
                cells = next(reader)
            except csv.Error as error:
                cells = error
            except StopIteration:
                return
            yield number, b"".join(taken)
            number += len(taken)

    def read(raw: bytes, number: int, path: Path) -> Any:
        text_line(raw, number, path)
        if isinstance(cells, csv.Error):
            what = f"not a row of a table ({cells}); a quote inside a quoted cell is written twice"
            raise DataError.at(path, number, None, what)
        if not any(cells):
            return None
        if len(cells) != len(header):
            named = shorten(", ".join(header), 200)
            raise DataError.at(path, number, None, f"{len(cells)} columns, but the header has {len(header)}: {named}")
        return make(dict(zip(header, cells, strict=True)), number, path)

    reader = csv.reader(texts(), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError.at(path, 1, None, f"not the header of a table ({error})") from None
    if taken:
        text_line(b"".join(taken), 1, path)
    header = [name.strip() for name in header]
    if any(header):
        _check_header(path, 1, header, columns)
    return log.records(path, read, rows())


# --- parquet --------------------------------------------------------------------------------------------------------


def _parquet_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """Yield (row number from 1, the row as a JSON line), so that a parquet file is checked like JSON lines.

    A time becomes its text in ISO form. Columns with structures (pictures and videos) are left out.
    """
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ModuleNotFoundError(f"{path}: parquet needs pyarrow: pip install 'mrrec_mini[parquet]'") from None
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            plain = [column.name for column in schema if "struct<" not in str(column.type)]
            _check_header(path, None, plain, columns)
            rows = (row for batch in file.iter_batches(batch_size=1000, columns=plain) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield number, json.dumps(row, default=str).encode()
    except DataError:
        raise
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise DataError.at(path, None, None, f"cannot be read as parquet ({reason}); fetch it again") from None


# --- one large JSON object ------------------------------------------------------------------------------------------


def read_members(path: Path, make: Callable, log: ImportLog) -> Iterator:
    """Yield `make(row, key, line number, path)` for every row of a file that is one JSON object, {key: row} or
    {key: [row, ...]}, plain or gz; not if it is None. The line is the one where the row begins.

    Raises DataError as `ImportLog.records` does. A fault of the object around the rows always ends the import.
    """
    key = ""

    def rows() -> Iterator[tuple[int, bytes]]:
        nonlocal key
        for member in _members(path):
            key = member[0]
            yield member[1:]

    def read(raw: bytes, number: int, path: Path) -> Any:
        return make(json_line(raw, number, path), key, number, path)

    return log.records(path, read, rows())


def _members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield (key, line number, JSON text) for every row. The whole text is in memory, but only one row as objects."""
    with open_file(path) as file:
        raw = file.read()
    try:
        text = _Text(path, raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {error.start} of the file; convert it (iconv -f latin1 -t utf-8)"
        raise DataError.at(path, 1 + raw.count(b"\n", 0, error.start), None, what) from None
    if not text.first():
        return
    for _ in text.parts("{", "}"):
        key = str(json.loads(text.value()[1]))
        text.take(":")
        if text.first() == "[":
            for _ in text.parts("[", "]"):
                number, row = text.value()
                yield key, number, row.encode()
        else:
            number, row = text.value()
            yield key, number, row.encode()


class _Text:
    """A JSON text that is read from left to right. Every method may raise DataError with the present line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.decoder = path, text, json.JSONDecoder()
        self.at, self.line, self.counted = 0, 1, 0  # position; its line; the position up to which lines are counted

    def first(self) -> str:
        """Move behind blanks. Returns the character there, or "" at the end."""
        self.at = _BLANK.match(self.text, self.at).end()
        self.line, self.counted = self.line + self.text.count("\n", self.counted, self.at), self.at
        return self.text[self.at : self.at + 1]

    def take(self, *wanted: str) -> str:
        """Move behind the next character, which must be one of `wanted`, and return it."""
        if (found := self.first()) not in wanted:
            what = f"{shorten(found) if found else 'the file ends'} instead of {' or '.join(wanted)}"
            raise DataError.at(self.path, self.line, None, f"not JSON ({what}); is the file cut? fetch it again")
        self.at += 1
        return found

    def value(self) -> tuple[int, str]:
        """Move behind the next JSON value. Returns the line where it begins, and its text."""
        self.first()
        start = self.at
        try:
            self.at = self.decoder.raw_decode(self.text, start)[1]
        except (ValueError, RecursionError) as error:
            place, what = getattr(error, "lineno", self.line), getattr(error, "msg", error)
            raise DataError.at(self.path, place, None, f"not JSON ({what}); is the file cut? fetch it again") from None
        return self.line, self.text[start : self.at]

    def parts(self, opening: str, closing: str) -> Iterator[None]:
        """Yield once before every part of a list or an object. The caller reads the part before it goes on."""
        self.take(opening)
        if self.first() == closing:
            self.take(closing)
            return
        yield
        while self.take(",", closing) == ",":
            yield
