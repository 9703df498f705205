"""`mrrec demo`, `reproduce` and `walkthrough`: the whole method at once, the paper's exhibits, a tour."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mrrec_mini.app.cli.shell import INTERRUPTED, WRONG_USAGE, Json, Seed, answer, command, err, out, stop, tell

app = typer.Typer()

Data = Annotated[Path | None, typer.Option("--data", help="A data-set folder. Default: a synthetic shop.")]
Fast = Annotated[bool, typer.Option(help="Toy sizes: shows that the code runs, not that anything is learned.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="How many seeds, from --seed on. Default: 2, one per core.")]
SeedsFrom0 = Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from 0 on.")]
AllArms = Annotated[bool, typer.Option("--all", help="Also train and evaluate REINFORCE and the two ablations.")]
Exhibits = Annotated[list[str], typer.Argument(help="table1 to table4, fig3 to fig7, or all.")]
Results = Annotated[Path, typer.Option("--out", help="Where results and the report go.")]
Stage = Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Only this stage. Default: all.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Do not stop after each step.")]


@command(app)
def demo(
    data: Data = None,
    seed: Seed = 0,
    seeds: Seeds = None,
    all_arms: AllArms = False,
    fast: Fast = False,
    as_json: Json = False,
) -> None:
    """Go from raw histories to a trained policy: the table of arms, a worked episode, a learning curve."""
    from mrrec_mini.app.demo import DemoConfig, print_report, run_demo
    from mrrec_mini.app.terminal import bar_per_seed

    count = seeds if seeds is not None else (1 if fast else 2)
    config = DemoConfig(data=data, seeds=tuple(range(seed, seed + count)), all_arms=all_arms, fast=fast)
    with bar_per_seed(err, config.seeds) as say:
        report = run_demo(config, say)
    answer(report.as_dict(), as_json, lambda: print_report(report, out))


@command(app)
def reproduce(
    exhibits: Exhibits,
    data: Data = None,
    seeds: SeedsFrom0 = 3,
    fast: Fast = False,
    out_dir: Results = Path("reproduction"),
    as_json: Json = False,
) -> None:
    """Make tables and figures of the paper again, and say for each claim whether it holds here.

    Each result is saved as soon as it exists: the same command resumes an interrupted reproduction.
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
        tell(f"{out_dir} holds the report of `{made}`, which this one replaces; --out names another place")
    with one_bar(err) as say:
        document = make(plan, chosen, 1 if fast else cpu_count() or 1, say)
    markdown = lambda: out.print(as_markdown(document), markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    answer(document, as_json, markdown)


@command(app)
def walkthrough(stage: Stage = None, no_input: NoInput = False, seed: Seed = 0, fast: Fast = False) -> None:
    """Take a tour: one user, one query, through every stage, step by step."""
    from mrrec_mini.app import walkthrough as tour

    sizes = (tour.TINY_SHOP, tour.TINY_LESSON) if fast else (tour.SHOP, tour.LESSON)
    if stage is not None and stage not in tour.STAGES:
        stop(f"no stage is called {stage!r}; there are {', '.join(tour.STAGES)}", WRONG_USAGE)
    stops = not no_input and _is_terminal()
    try:
        for name, step in tour.steps(tour.Tour(seed, *sizes, say=_each_phase()), stage):
            tour.print_step(name, step, out)
            if stops and not _wants_more():
                return
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _each_phase() -> Callable[[str, int, int, str], None]:
    """A `Say` that prints the name of each phase when it begins, so that a long one does not look like a hang."""
    begun: set[str] = set()

    def say(phase: str, done: int, total: int, note: str) -> None:
        if phase not in begun:
            begun.add(phase)
            tell(f"... {phase}", "dim")

    return say


def _wants_more() -> bool:
    """Wait for the reader: Enter continues; q, or the end of the input, leaves."""
    try:
        return err.input("[dim]Enter continues, q leaves [/dim]").strip().lower() not in ("q", "quit")
    except EOFError:
        err.print()
        return False
