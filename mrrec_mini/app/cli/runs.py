"""`mrrec train`, `evaluate`, `recommend`, `explain`, `chat` and `report`: make runs and use them."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mrrec_mini.app.cli.shell import (
    INTERRUPTED,
    WRONG_USAGE,
    DataDir,
    Json,
    RunDir,
    answer,
    command,
    err,
    message_of,
    out,
    print_table,
    stop,
    tell,
)
from mrrec_mini.checkpoint import folders
from mrrec_mini.data import DataError, printable

if TYPE_CHECKING:
    from mrrec_mini.app.assistant import Explanation, Recommendation

app = typer.Typer()

Algo = Enum("Algo", {"grpo": "grpo", "reinforce": "reinforce"}, type=str)
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps in all. Default: 80, for a chat model 30.")]
RunSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Decides every random draw. Default: 0.")]
Algorithm = Annotated[Algo | None, typer.Option("--algo", help="The learning algorithm. Default: grpo.")]
Resume = Annotated[bool, typer.Option(help="Resume the run from its last whole checkpoint.")]
Fast = Annotated[bool, typer.Option(help="Toy sizes.")]
ChatModel = Annotated[str | None, typer.Option(help="A chat model, a folder or a hub name. Default: a tiny new model.")]
Lora = Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank instead of all weights.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16, if the processor is quick at it.")]
Device = Annotated[str, typer.Option(help="Where the policy computes: cpu, or cuda for a GPU.")]
With = Annotated[
    Path | None,
    typer.Option("--with", metavar="FILE", help="Train with your own formulas, and beside them with the package's."),
]
AnyRun = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Page = Annotated[Path | None, typer.Option("--out", help="The page. Default: RUN/report.html.")]
Wanted = Annotated[str, typer.Argument(help="What is wanted.")]
Speaker = Annotated[str, typer.Option("--user", help="Who speaks.")]
ForWhom = Annotated[str, typer.Option("--user", help="For whom.")]
HowMany = Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")]
OwnStore = Annotated[Path | None, typer.Option("--store", help="A memory store. Default: RUN/memory.db.")]


@command(app)
def train(
    data: DataDir,
    run: RunDir,
    steps: Steps = None,
    seed: RunSeed = None,
    algo: Algorithm = None,
    resume: Resume = False,
    fast: Fast = False,
    model: ChatModel = None,
    lora: Lora = None,
    bf16: Bf16 = False,
    device: Device = "cpu",
    formulas: With = None,
) -> None:
    """Train a policy on a data set by reinforcement; a new policy imitates a teacher first."""
    from mrrec_mini.app.terminal import one_bar
    from mrrec_mini.app.training import Mismatch, Settings, train_run

    settings = Settings(steps, seed, algo and algo.value, model, lora, bf16, formulas, fast, device)
    try:
        with one_bar(err) as say:
            result = train_run(data, run, settings, resume, say, tell)
    except Mismatch as error:
        stop(str(error), WRONG_USAGE)
    except KeyboardInterrupt:
        again = f"mrrec train --data {shlex.quote(str(data))} --run {shlex.quote(str(run))}"
        again += f" --with {shlex.quote(str(formulas))}" if formulas else ""
        again += f" --device {shlex.quote(device)}" if device != "cpu" else ""
        again += f" --steps {steps} --resume" if steps else " --resume"
        kept = folders(run)
        tell(f"interrupted; resume with: {again}" if kept else "interrupted before the first step; nothing was kept")
        raise typer.Exit(INTERRUPTED) from None
    if formulas:
        _print_curves(run)
    tell(f"{run}: {result}")


def _print_curves(folder: Path) -> None:
    """Print the reward of a student's formulas and of the package's own in one plot, and their last numbers."""
    import numpy as np

    from mrrec_mini.app.terminal import curves
    from mrrec_mini.run import REFERENCE, Run

    logs = [Run(folder).lines(), Run(folder / REFERENCE).lines()]
    out.print("\nReward by step: * yours, o the package's own, @ both:", style="bold")
    out.print(Text(curves([[line["reward"] for line in log] for log in logs], "*o")))
    for name in ("reward", "rewards/format/mean", "calls/mean", "entropy", "grad_norm", "validation/ndcg@10"):
        mine, own = (np.mean([line[name] for line in log[-5:] if name in line] or [np.nan]) for log in logs)
        out.print(Text(f"{name:22} yours {mine:.3f}   the package's own {own:.3f}"))
    out.print(Text("means of the last five steps; both have the same warm start, queries and seeds", style="dim"))


@command(app)
def evaluate(run: RunDir, device: Device = "cpu", as_json: Json = False) -> None:
    """Score a run's policy on its test users, beside the arms that need no training."""
    from mrrec_mini.app.tables import arms_table
    from mrrec_mini.run import Run

    report = Run(run).evaluate(tell, device)
    answer(report, as_json, lambda: out.print(arms_table(report["arms"])))


@command(app)
def recommend(
    text: Wanted, user: ForWhom, run: RunDir, k: HowMany = 5, store: OwnStore = None, as_json: Json = False
) -> None:
    """Ask a trained policy: its reasoning, the memories it used, the profile it wrote, the items that fit."""
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.terminal import print_transcript

    found = Assistant.open(run, store, tell).recommend(user, text, k)

    def show() -> None:
        print_transcript(found.transcript, out)
        for entry in found.memories:
            out.print(Text(f"used: {printable(entry.text)} ({printable(entry.id)})"))
        _print_items(found)

    answer(found.as_dict(), as_json, show)


@command(app)
def explain(
    text: Wanted, user: ForWhom, run: RunDir, k: HowMany = 5, store: OwnStore = None, as_json: Json = False
) -> None:
    """Show what a recommendation rests on: what changes if the policy does not see one of the memories.

    The same episode is played again without each memory. Nothing is deleted or written. The last row is a control, a
    memory that was not looked up.
    """
    from mrrec_mini.app.assistant import Assistant

    found = Assistant.open(run, store, tell).explain(user, text, k)
    answer(found.as_dict(), as_json, lambda: _print_explanation(found))


def _print_explanation(found: Explanation) -> None:
    _print_items(found.answer)
    rows = [[r.entry.text, r.entry.id, "used" if r.evidence else "read", str(r.without)] for r in found.reasons]
    if found.together:
        rows.append(["all of these", "", "", str(found.together)])
    if found.control:
        rows.append([found.control.entry.text, found.control.entry.id, "not read", str(found.control.without)])
    if rows:
        print_table("", ("memory", "id", "was", "without it"), rows)


def _print_items(found: Recommendation) -> None:
    out.print(Text(f"profile: {printable(found.profile)}"))
    if found.reason:
        tell(found.reason)
    rows = ([str(n), item.id, item.title, f"{score:.3f}"] for n, (item, score) in enumerate(found.items, 1))
    if found.items:
        print_table("", ("rank", "item", "title", "score"), rows)


@command(app)
def chat(user: Speaker, run: RunDir, store: OwnStore = None) -> None:
    """Chat: each line says what you want and is answered with items; /help lists commands to rate, ask why, forget.

    Lines come from the terminal or from a pipe. Ratings and deletions stay; nothing else of the session is kept.
    """
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.chat_session import Session, lines_from

    assistant = Assistant.open(run, store, tell)
    session = Session(assistant, user)
    tell("say what you want; /help lists the commands")
    with assistant.store:
        for line in lines_from(sys.stdin.buffer, _prompt if sys.stdin.isatty() else lambda: None):
            try:
                reply = session.reply(line)
            except (DataError, OSError) as error:
                tell(" ".join(message_of(error).split()), "red")
                continue
            for one in reply:
                out.print(Text(printable(one)), soft_wrap=True)
            if session.over:
                return
    if sys.stdin.isatty():
        err.print()  # at the end of the input, the cursor is still in the line of the prompt


def _prompt() -> None:
    err.print("> ", end="")


@command(app)
def report(run: AnyRun, out_file: Page = None, as_json: Json = False) -> None:
    """Write a run as one HTML page that loads nothing: arms, learning curves, episodes before and after learning."""
    from mrrec_mini.app.report import write_report
    from mrrec_mini.app.terminal import one_bar

    file = out_file or run / "report.html"
    with one_bar(err) as say:
        data = write_report(run, file, say, tell)
    done = {"file": str(file), "bytes": file.stat().st_size, "queries": len(data["queries"]), "notes": data["notes"]}
    megabytes = done["bytes"] / 1e6
    answer(done, as_json, lambda: tell(f"wrote {file}, {megabytes:.1f} MB: {done['queries']} queries"))
