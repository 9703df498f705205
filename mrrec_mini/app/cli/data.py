"""`mrrec data`: make, import and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrrec_mini.app.cli.shell import Json, OutDir, Seed, answer, command, print_fields, print_json, tell
from mrrec_mini.data import Dataset

if TYPE_CHECKING:
    from mrrec_mini.sources.cleaning import Rejects

app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
app.add_typer(import_app, name="import")

Folder = Annotated[Path, typer.Argument(help="A data-set folder.")]
Users = Annotated[int, typer.Option(min=1, help="How many users.")]
Items = Annotated[int, typer.Option(min=1, help="How many items.")]
Reviews = Annotated[Path, typer.Argument(help="Reviews of 2018 or 2023, JSON lines, .gz or plain.")]
Histories = Annotated[list[Path], typer.Argument(help="Amazon Reviews 2023 files that hold the users' histories.")]
Metadata = Annotated[Path, typer.Argument(help="Item metadata, JSON lines, .gz or plain.")]
C4Queries = Annotated[Path, typer.Argument(help="Amazon-C4 queries, .csv or JSON lines.")]
RecBole = Annotated[Path, typer.Argument(help="A folder of .inter, .item and .user files, or the recbole wheel.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out bad records; list them in OUT/*.rejects.jsonl.")]


@command(app, "make-world")
def make_world(out_dir: OutDir, users: Users = 340, items: Items = 5000, seed: Seed = 0) -> None:
    """Write a synthetic shop whose true preferences are known."""
    from mrrec_mini.world import WorldConfig, write_world

    _tell_written(write_world(WorldConfig(users=users, items=items, seed=seed), out_dir), out_dir)


@command(import_app, "amazon")
def import_amazon(
    reviews: Reviews, metadata: Metadata, out_dir: OutDir, skip_bad: SkipBad = False, as_json: Json = False
) -> None:
    """Import Amazon Reviews 2018 or 2023."""
    from mrrec_mini.sources.amazon import import_amazon

    rejects = _rejects(skip_bad)
    _save(import_amazon(reviews, metadata, rejects=rejects), rejects, out_dir, as_json)


@command(import_app, "c4")
def import_c4(
    queries: C4Queries,
    metadata: Metadata,
    reviews: Histories,
    out_dir: OutDir,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Import Amazon-C4 queries with the histories of their users."""
    from mrrec_mini.sources.c4 import import_amazon_c4

    rejects = _rejects(skip_bad)
    _save(import_amazon_c4(queries, metadata, reviews, rejects=rejects), rejects, out_dir, as_json)


@command(import_app, "recbole")
def import_recbole(source: RecBole, out_dir: OutDir, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Import RecBole atomic files."""
    from mrrec_mini.sources.recbole import import_recbole

    rejects = _rejects(skip_bad)
    _save(import_recbole(source, rejects=rejects), rejects, out_dir, as_json)


def _rejects(skip_bad: bool) -> Rejects | None:
    from mrrec_mini.sources.cleaning import Rejects

    return Rejects() if skip_bad else None


def _save(dataset: Dataset, rejects: Rejects | None, folder: Path, as_json: bool) -> None:
    """Write an imported data set and the records that were left out, and report both."""
    files, records = (rejects.files(), rejects.counts()) if rejects else ({}, [])
    dataset.save(folder, files)
    listed = [str(folder / file) for file in files]
    if as_json:
        cleaning = list(dataset.meta["cleaning"])
        print_json({**dataset.counts(), "cleaning": cleaning, "records": records, "rejects": listed})
        return
    for one in records:
        tell(f"{one['file']}: read {one['read']}, taken {one['taken']}, rejected {one['rejected']}")
    for line in _cleaning(dataset):
        tell(line)
    _tell_written(dataset.counts(), folder)
    if listed:
        tell(f"rejected records, with reasons: {', '.join(listed)}")


def _cleaning(dataset: Dataset) -> list[str]:
    return [f"{s['step']}: dropped {s['dropped']}, kept {s['kept']}" for s in dataset.meta.get("cleaning", ())]


def _tell_written(counts: dict[str, int], folder: Path) -> None:
    tell(f"wrote {', '.join(f'{number} {name}' for name, number in counts.items())} to {folder}")


@command(app, "info")
def info(folder: Folder, as_json: Json = False) -> None:
    """Check every line of a data set and count the records."""
    dataset = Dataset.load(folder)
    fields = {"name": dataset.meta.get("name", folder.name), **dataset.counts()}
    kept = ("source", "licence", "repeated_lines", "cleaning")
    fields |= {name: dataset.meta[name] for name in kept if name in dataset.meta}
    cleaning = {"cleaning": "\n".join(_cleaning(dataset))} if "cleaning" in fields else {}
    answer(fields, as_json, lambda: print_fields(fields | cleaning))
