"""What all commands of `mrrec` share: options, how errors end, how results are printed, how a process starts.

Flow: beneath the commands. Heavy libraries are imported inside the commands, so that `mrrec --help` is quick.

Results for programs go to stdout as exactly one JSON document (`--json`). Tables for people go to stdout without it, at
most 80 columns wide, the width of a pipe. Progress and messages go to stderr. An expected error is one line there: what
is wrong, where, what to do. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 bad data, 130 interrupted.

Texts of users and items are printed as `rich.text.Text` after `data.printable`, so that neither markup nor escape
sequences in them take effect.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrrec_mini.data import DataError, printable

out, err = Console(emoji=False), Console(stderr=True, emoji=False)  # ":cat:" in a text is no emoji
FAILED, WRONG_USAGE, NOT_FOUND, BAD_DATA, INTERRUPTED = 1, 2, 3, 4, 130

# --- options ----------------------------------------------------------------------------------------------------------

DataDir = Annotated[Path, typer.Option("--data", help="A data-set folder.")]
RunDir = Annotated[Path, typer.Option("--run", help="A run folder.")]
OutDir = Annotated[Path, typer.Option("--out", help="The folder to write.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random draw.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]

# --- errors -----------------------------------------------------------------------------------------------------------


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable], Callable]:
    """Decorator: add a function to `app` as a command; an expected error becomes one line and its exit code."""

    def add(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (KeyError, IndexError, BrokenPipeError):
                raise  # a bug of ours, or a reader of the pipe who left
            except DataError as error:
                stop(str(error), BAD_DATA)
            except (LookupError, FileNotFoundError) as error:
                stop(message_of(error), NOT_FOUND)
            except (ValueError, OSError, ModuleNotFoundError) as error:  # the last: an extra is not installed
                stop(message_of(error), FAILED)

        return app.command(name)(run)

    return add


def message_of(error: Exception) -> str:
    """The message of an error; for an error of the operating system, the file and what is wrong with it."""
    is_file = isinstance(error, OSError) and error.filename
    return f"{error.filename}: {error.strerror}" if is_file else str(error)


def stop(message: str, code: int) -> None:
    """Print one line in red on stderr and exit."""
    tell(" ".join(message.split()), "red")
    raise typer.Exit(code)


# --- results ----------------------------------------------------------------------------------------------------------


def tell(message: str, style: str = "") -> None:
    """Print one line on stderr, however long."""
    err.print(Text(printable(message), style), soft_wrap=True)


def print_json(document: object) -> None:
    """Print a document on stdout, in ASCII, which any terminal and pipe accepts."""
    typer.echo(json.dumps(document, indent=1, allow_nan=False))


def answer(document: object, as_json: bool, show: Callable[[], object]) -> None:
    """Print `document`, or call `show`, which prints the same for people."""
    if as_json:
        print_json(document)
    else:
        show()


def print_table(title: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table on stdout. Text that does not fit its column is folded, never cut."""
    table = Table(title=Text(printable(title)), show_header=any(names))
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(printable(line) for line in cell.split("\n"))) for cell in row))
    out.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print a table of names and values."""
    print_table("", ("", ""), ([name.replace("_", " "), str(value)] for name, value in fields.items()))


# --- the process ------------------------------------------------------------------------------------------------------


def start_process() -> None:
    """Settings that must be made before numpy, torch and transformers are imported, for this process and its children.

    One thread: for models and matrices this small, a second thread costs more time than it saves.
    """
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # otherwise every failed attempt to reach the hub is one line
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a character that the terminal lacks is shown as its number
