"""`mrrec demo`, `reproduce` and `walkthrough`: run the whole method, reproduce the paper's exhibits, take a tour."""

from __future__ import annotations

import sys
from collections.abc import Callable
from os import cpu_count
from pathlib import Path
from typing import Annotated

import typer

from mrrec_mini.app.cli.shell import USAGE, Fast, Json, Seed, answer, command, err, out, stop, tell

app = typer.Typer()

Data = Annotated[Path | None, typer.Option("--data", help="A data-set folder. Default: a synthetic shop.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=1000, help="How many seeds, from --seed on. Default: 2, with --fast 1.")
]
From20 = Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from 20 on: no choice was based on them.")]
All = Annotated[bool, typer.Option("--all", help="Add REINFORCE, and GRPO without global or without local memory.")]
Exhibits = Annotated[list[str], typer.Argument(help="table1 to table4, fig3 to fig7, or all.")]
OUT = Path("reproduction")
Out = Annotated[Path, typer.Option("--out", help="The folder for the results and the report.")]
Stage = Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Show only this stage. Default: all.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Do not wait after each step.")]


@command(app)
def demo(
    data: Data = None, seed: Seed = 0, seeds: Seeds = None, every: All = False, fast: Fast = False, json: Json = False
) -> None:
    """Run the whole method, from raw histories to a trained policy: results, an example episode, a learning curve."""
    from mrrec_mini.app.demo import DemoConfig, print_first, print_report, run_demo, run_first
    from mrrec_mini.app.terminal import bar_per_seed

    count = seeds if seeds is not None else (1 if fast else 2)
    config = DemoConfig(data=data, seeds=tuple(range(seed, seed + count)), all_arms=every, fast=fast)
    first = None
    if not json:
        with bar_per_seed(err, config.seeds) as say:
            first = run_first(config, say)
        if first:
            print_first(first, out)
    try:
        with bar_per_seed(err, config.seeds) as say:
            report = run_demo(config, say, first)
    except KeyboardInterrupt:
        tell(f"interrupted; {config.runs} keeps a checkpoint of each policy that had begun to learn")
        raise
    answer(report.as_dict(), json, lambda: print_report(report, out))


@command(app)
def reproduce(
    exhibits: Exhibits, data: Data = None, seeds: From20 = 5, fast: Fast = False, place: Out = OUT, json: Json = False
) -> None:
    """Reproduce tables and figures of the paper, and say for each claim whether it holds here.

    Each result is saved as soon as it exists. To resume an interrupted reproduction, give the same command again.
    """
    from mrrec_mini.app import reproduce as paper
    from mrrec_mini.app.jobs import FIRST_SEED, Plan
    from mrrec_mini.app.terminal import one_bar

    if unknown := [name for name in exhibits if name not in (*paper.EXHIBITS, "all")]:
        raise typer.BadParameter(f"no exhibit {unknown[0]!r}; there are {', '.join(paper.EXHIBITS)}, and all")
    chosen = paper.EXHIBITS if "all" in exhibits else [name for name in paper.EXHIBITS if name in exhibits]
    plan = Plan(place, data, tuple(range(FIRST_SEED, FIRST_SEED + seeds)), fast)
    if made := paper.another_plan(plan):
        tell(f"{place} holds the report of `{made}`, which the new report replaces; --out names another folder")
    if older := paper.results_of_other_code(plan, chosen):
        tell(older)
    try:
        with one_bar(err) as say:
            document = paper.reproduce(plan, chosen, 1 if fast else cpu_count() or 1, say)
    except KeyboardInterrupt:
        tell("interrupted; the results of finished jobs are kept: the same command continues")
        raise
    text = paper.as_markdown(document)
    answer(document, json, lambda: out.print(text, markup=False, highlight=False, soft_wrap=True))


@command(app)
def walkthrough(stage: Stage = None, no_input: NoInput = False, seed: Seed = 0, fast: Fast = False) -> None:
    """Follow one user and one query through every stage, step by step."""
    from mrrec_mini.app import walkthrough as tour

    sizes = (tour.TINY_SHOP, tour.TINY_LESSON) if fast else (tour.SHOP, tour.LESSON)
    if stage is not None and stage not in tour.STAGES:
        stop(ValueError(f"no stage is called {stage!r}; there are {', '.join(tour.STAGES)}"), USAGE)
    stops = not no_input and _is_terminal()
    for name, step in tour.steps(tour.Tour(seed, *sizes, say=_each_phase()), stage):
        tour.print_step(name, step, out)
        if stops and not _wants_more():
            return


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _each_phase() -> Callable[[str, int, int, str], None]:
    """A `Say` that prints the name of each phase when it begins, so that a long phase does not look like a hang."""
    begun: set[str] = set()

    def say(phase: str, done: int, total: int, note: str) -> None:
        if phase not in begun:
            begun.add(phase)
            tell(f"... {phase}", "dim")

    return say


def _wants_more() -> bool:
    """Wait for the user and return whether to continue: Enter continues; q or the end of the input leaves."""
    try:
        return err.input("[dim]Enter continues, q leaves [/dim]").strip().lower() not in ("q", "quit")
    except EOFError:
        err.print()
        return False
