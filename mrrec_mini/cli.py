"""The command line `mrrec`: parse, call, print. No logic.

Flow: the outermost shell; nothing imports it. Heavy libraries are imported inside the commands, so that `mrrec
--help` is quick.

Results for machines go to stdout as exactly one JSON document (`--json`); tables for people go to stdout without it;
progress and messages go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 bad data, 130
interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import mrrec_mini

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="A language model learns what to look up.")
data_app = typer.Typer(no_args_is_help=True, help="Make, import and check data sets.")
import_app = typer.Typer(no_args_is_help=True, help="Turn a public data set into a data-set folder.")
memory_app = typer.Typer(no_args_is_help=True, help="Look into the memory that is built from histories.")
app.add_typer(data_app, name="data")
data_app.add_typer(import_app, name="import")
app.add_typer(memory_app, name="memory")

out, err = Console(), Console(stderr=True)
FAILED, NOT_FOUND, BAD_DATA, INTERRUPTED = 1, 3, 4, 130

DataDir = Annotated[Path, typer.Option("--data", help="A data-set folder.")]
RunDir = Annotated[Path, typer.Option("--run", help="A run folder.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every draw.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]


def answering(command: Callable) -> Callable:
    """Expected trouble becomes one line on stderr and the exit code of its kind."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        from mrrec_mini.data import DataError

        try:
            return command(*args, **kwargs)
        except DataError as error:
            _stop(str(error), BAD_DATA)
        except LookupError as error:
            _stop(str(error.args[0] if error.args else error), NOT_FOUND)
        except FileNotFoundError as error:
            _stop(f"not found: {error.filename}" if error.filename else str(error), NOT_FOUND)
        except (ValueError, OSError) as error:
            _stop(str(error), FAILED)

    return run


def _stop(message: str, code: int) -> None:
    err.print(" ".join(message.split()), style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mrrec_mini {mrrec_mini.__version__}")
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
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, from --seed on. Default: 3.")] = None,
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

    count = seeds if seeds is not None else (1 if fast else 3)
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
    users: Annotated[int, typer.Option(min=1)] = 400,
    items: Annotated[int, typer.Option(min=1)] = 5000,
    seed: Seed = 0,
) -> None:
    """Write a synthetic shop whose true preferences are known."""
    from mrrec_mini.world import WorldConfig, write_world

    _say_written(write_world(WorldConfig(users=users, items=items, seed=seed), out_dir))


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


def _save(dataset, folder: Path) -> None:
    for step in dataset.meta.get("cleaning", ()):
        err.print(f"{step['step']}: dropped {step['dropped']}, kept {step['kept']}", markup=False, highlight=False)
    dataset.save(folder)
    _say_written(dataset.counts(), folder)


def _say_written(counts: dict[str, int], folder: Path) -> None:
    described = ", ".join(f"{number} {name}" for name, number in counts.items())
    err.print(f"wrote {described} to {folder}", markup=False, highlight=False, soft_wrap=True)


@data_app.command("info")
@answering
def info_command(folder: Annotated[Path, typer.Argument(help="A data-set folder.")], as_json: Json = False) -> None:
    """Check every line of a data set and count it."""
    from mrrec_mini.data import Dataset

    dataset = Dataset.load(folder)
    about = {"name": dataset.meta.get("name", folder.name), **dataset.counts()}
    about |= {name: dataset.meta[name] for name in ("source", "licence", "cleaning") if name in dataset.meta}
    if as_json:
        _print_json(about)
        return
    table = Table(show_header=False)
    for name, value in about.items():
        if name == "cleaning":
            value = "\n".join(f"{step['step']}: dropped {step['dropped']}, kept {step['kept']}" for step in value)
        table.add_row(name, escape(str(value)))
    out.print(table)


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
    from mrrec_mini.assistant import memory_entries, open_memory

    memory = open_memory(data, seed)
    entries = memory_entries(memory)
    if out_file is not None:
        from dataclasses import asdict

        out_file.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in entries), encoding="utf-8")
    levels = ("record", "pattern", "profile", "global")
    counts = {level: sum(entry.level == level for entry in entries) for level in levels}
    if as_json:
        _print_json({"summarizer": "extractive", "entries": counts})
    else:
        _show_entries([(e.text, e.level, e.support) for e in memory.global_entries], "global memory (extractive)")
        out.print(", ".join(f"{number} {level}" for level, number in counts.items()), highlight=False)


@memory_app.command("show")
@answering
def memory_show(
    data: DataDir, user: Annotated[str, typer.Option(help="Whose memory.")], seed: Seed = 0, as_json: Json = False
) -> None:
    """All entries of one user's memory."""
    from mrrec_mini.assistant import as_of_now, open_memory

    memory = open_memory(data, seed)
    _answer_entries(memory.entries(as_of_now(memory.dataset, user, "")), f"memory of {user} (extractive)", as_json)


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
    from mrrec_mini.assistant import as_of_now, open_memory

    memory = open_memory(data, seed)
    found = memory.search(as_of_now(memory.dataset, user, text), text, k)
    _answer_entries(found, f"{text!r} in the memory of {user}", as_json)


def _answer_entries(entries, title: str, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        _print_json([asdict(entry) for entry in entries])
    else:
        _show_entries([(entry.text, entry.level, entry.support) for entry in entries], title)


def _show_entries(rows: list[tuple[str, str, int]], title: str) -> None:
    table = Table("entry", "level", "rests on", title=escape(title))
    for text, level, support in rows:
        table.add_row(escape(text), level, f"{support} {'users' if level == 'global' else 'records'}")
    out.print(table)


# ------------------------------------------------------------------------------------------- train, evaluate, recommend


@app.command()
@answering
def train(
    data: DataDir,
    run: RunDir,
    steps: Annotated[int, typer.Option(min=1, help="Steps of reinforcement learning in all.")] = 80,
    seed: Seed = 0,
    algo: Annotated[str, typer.Option(help="grpo or reinforce.")] = "grpo",
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
    fast: Annotated[bool, typer.Option(help="Toy sizes.")] = False,
) -> None:
    """Warm-start a policy on a data set, then train it by reinforcement."""
    from mrrec_mini.demo import one_bar, train_run

    try:
        with one_bar(err) as say:
            last = train_run(data, run, steps, seed, algo, resume, fast, say)
    except KeyboardInterrupt:
        err.print(
            f"interrupted; go on with: mrrec train --data {data} --run {run} --steps {steps} --resume", markup=False
        )
        raise typer.Exit(INTERRUPTED) from None
    err.print(f"{run}: {last}", markup=False, highlight=False)


@app.command()
@answering
def evaluate(run: RunDir, as_json: Json = False) -> None:
    """Score a run's policy on its test users, beside the arms that need no training."""
    from mrrec_mini.demo import evaluate_run
    from mrrec_mini.evaluate import arms_table

    report = evaluate_run(run)
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

    answer = Assistant.open(run).recommend(user, text, k)
    if as_json:
        _print_json(answer.as_dict())
        return
    for who, said in answer.transcript:
        out.print(escape(said), style="bold" if who == "policy" else "dim", highlight=False)
    for entry in answer.memories:
        out.print(f"used: {escape(entry.text)} [dim]({escape(entry.id)})[/dim]", highlight=False)
    out.print(f"profile: {escape(answer.profile)}", highlight=False)
    if answer.reason:
        err.print(answer.reason, markup=False, highlight=False)
    table = Table("rank", "item", "title", "score")
    for place, (item, score) in enumerate(answer.items, 1):
        table.add_row(str(place), escape(item.id), escape(item.title), f"{score:.3f}")
    out.print(table)


def main() -> None:
    """The entry point `mrrec`."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `mrrec ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
