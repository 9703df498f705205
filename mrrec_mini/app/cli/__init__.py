"""The command line `mrrec`: it parses arguments, calls the package and prints results, without logic of its own.

Flow: the outermost layer; nothing imports it. Each group of commands has a file; `shell` has what all commands share.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from mrrec_mini.app.cli import data, memory, runs, studies
from mrrec_mini.app.cli.shell import start_process

HELP = "Train and use a language model that learns what to look up in a user's memory before it recommends."
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
for part in (studies.app, runs.app):  # these commands have no group: `mrrec train`, not `mrrec runs train`
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
    """Run the command line; `mrrec` calls this."""
    start_process()
    app()
