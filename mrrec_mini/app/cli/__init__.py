"""The command line `mrrec`: parse, call, print. No logic.

Flow: the outermost shell; nothing imports it. One file per group of commands; `shell` is what they share.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from mrrec_mini.app.cli import data, memory, runs, studies
from mrrec_mini.app.cli.shell import start_process

HELP = "Train and use a language model that learns what to look up in a user's memory before it recommends."
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
for part in (studies.app, runs.app):  # their commands have no group
    app.add_typer(part)
for name, part in {"data": data.app, "memory": memory.app, "model": data.model_app}.items():
    app.add_typer(part, name=name)


def _print_version(wanted: bool) -> None:
    if wanted:
        package = __package__.partition(".")[0]
        typer.echo(f"{package} {import_module(package).__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


@app.callback()
def _options(version: Version = False) -> None:
    pass


def main() -> None:
    """The entry point `mrrec`."""
    start_process()
    app()
