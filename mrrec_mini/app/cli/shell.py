"""What all commands of `mrrec` share: options, the handling of errors, printing, the start of a process.

Flow: beneath the commands. Heavy libraries are imported inside the commands, so that `mrrec --help` is quick.

With `--json`, stdout holds exactly one JSON document. Without it, stdout holds tables for people; in a pipe they are at
most 80 columns wide. Progress and messages go to stderr. An expected error is one line: what is wrong, where, and
what to do. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 bad data, 130 interrupted by Ctrl-C (by typer),
143 or 129 stopped by SIGTERM or SIGHUP.

Texts of users and items are printed as `rich.text.Text` after `data.printable`, so that neither markup nor escape
sequences in them take effect.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrrec_mini.data import DataError, printable
from mrrec_mini.signals import Stopped, stop_like_ctrl_c

out, err = Console(emoji=False), Console(stderr=True, emoji=False)  # ":cat:" in a text stays as it is
FAILED, USAGE, NOT_FOUND, BAD_DATA = 1, 2, 3, 4

Data = Annotated[Path, typer.Option("--data", help="A data-set folder.")]
OutDir = Annotated[Path, typer.Option("--out", help="The folder to write.")]
User = Annotated[str, typer.Option("--user", help="The user's id.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The seed of every random draw.")]
Fast = Annotated[bool, typer.Option(help="Toy sizes: they show that the code runs, but nothing is learned.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a function a command of `app`. Expected errors become one line and an exit code."""

    def add(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (KeyError, IndexError, BrokenPipeError):
                raise  # a bug in this package, or the program that reads the pipe has ended
            except Stopped as stopped:
                raise typer.Exit(128 + stopped.number) from None
            except DataError as error:
                stop(error, BAD_DATA)
            except (LookupError, FileNotFoundError) as error:
                stop(error, NOT_FOUND)
            except (ValueError, OSError, ModuleNotFoundError) as error:  # a missing module: an extra is not installed
                stop(error, FAILED)

        # typer would keep the line breaks of the docstring
        paragraphs = (" ".join(paragraph.split()) for paragraph in function.__doc__.split("\n\n"))
        return app.command(name, help="\n\n".join(paragraphs))(run)

    return add


def stop(error: Exception, code: int) -> None:
    """Print an error as one line and exit with the code."""
    tell(error)
    raise typer.Exit(code)


def tell(message: str | Exception, style: str = "") -> None:
    """Print one line on stderr, however long. An error is red; if it is about a file, the line begins with the file."""
    if isinstance(message, Exception):
        in_file = isinstance(message, OSError) and message.filename
        text = f"{message.filename}: {message.strerror}" if in_file else str(message)
        message, style = " ".join(text.split()), "red"
    err.print(Text(printable(message), style), soft_wrap=True)


def answer(document: object, as_json: bool, show: Callable[[], object]) -> None:
    """Print `document` as JSON, in ASCII because every pipe accepts it; or call `show`, which prints it for people."""
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False), flush=True)  # flush: notice a closed pipe here
    else:
        show()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table on stdout; if it has no rows, only say so. Text too long for its column is folded, never cut."""
    table = Table(title=Text(printable(title)), show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(printable(line) for line in cell.split("\n"))) for cell in row))
    if table.rows:
        out.print(table)
    elif title:
        tell(f"{title}: nothing")


def print_list(pairs: Iterable[tuple[str, object]]) -> None:
    """Print a list of names with their values."""
    print_table("", ("", ""), ([name.replace("_", " "), str(value)] for name, value in pairs))


def start_process() -> None:
    """Make settings for this process and its children that must precede the import of numpy, torch and transformers.

    One thread: for models and matrices this small, a second thread costs more time than it saves. Garbage is collected
    more rarely than by default: importing torch and transformers makes a million objects and no garbage.
    """
    stop_like_ctrl_c()
    gc.set_threshold(100_000, 50, 50)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["USE_HUB_KERNELS"] = "NO"  # with the package kernels, some models would fetch code from the hub
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # otherwise every failed attempt to reach the hub prints a line
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show is escaped
