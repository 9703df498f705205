"""`mrrec train`, `evaluate`, `recommend`, `explain`, `chat` and `report`: make runs and use them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from mrrec_mini.app.cli.shell import USAGE, Data, Fast, Json, User, answer, command, err, out, print_table, stop, tell
from mrrec_mini.checkpoint import folders
from mrrec_mini.data import DataError, printable

if TYPE_CHECKING:
    from mrrec_mini.app.assistant import Reason, Recommendation

app = typer.Typer()

RunDir = Annotated[Path, typer.Option("--run", help="A run folder.")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=10**6, help="Training steps in total. Default: 160, or 30 for a chat model.")
]
RunSeed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="The seed of every random draw. Default: 0.")
]
Algo = Annotated[Literal["grpo", "reinforce"] | None, typer.Option(help="The learning algorithm. Default: grpo.")]
Resume = Annotated[bool, typer.Option(help="Resume the run from its last complete checkpoint.")]
ChatModel = Annotated[str | None, typer.Option(help="A chat model, a folder or a hub name. Default: a tiny new model.")]
Lora = Annotated[int | None, typer.Option(min=1, max=4096, help="Train adapters of this rank instead of all weights.")]
LONG = "More imitation and reinforcement: nine CPU minutes on the shop instead of three, and a better policy."
Long = Annotated[bool, typer.Option("--long", help=LONG)]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16. This pays if the processor is fast at it.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, or cuda for a GPU.")]
WITH = "Train with the formulas in FILE and, to compare, with the package's. This runs FILE, which is Python code."
With = Annotated[
    Path | None,
    typer.Option("--with", metavar="FILE", help=WITH),
]
Moved = Annotated[Path | None, typer.Option("--data", help="Where the run's data set is now; the run remembers it.")]
AnyRun = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Page = Annotated[Path | None, typer.Option("--out", help="The page to write. Default: RUN/report.html.")]
Wanted = Annotated[str, typer.Argument(help="What the user wants, in words.")]
Items = Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")]
OwnStore = Annotated[Path | None, typer.Option("--store", help="A memory store. Default: RUN/memory.db.")]


@command(app)
def train(
    data: Data,
    run: RunDir,
    steps: Steps = None,
    seed: RunSeed = None,
    algo: Algo = None,
    resume: Resume = False,
    fast: Fast = False,
    long: Long = False,
    model: ChatModel = None,
    lora: Lora = None,
    bf16: Bf16 = False,
    device: Device = "cpu",
    formulas: With = None,
) -> None:
    """Train a policy on a data set by reinforcement learning. A new policy first imitates a teacher."""
    from mrrec_mini.app.terminal import one_bar
    from mrrec_mini.app.training import Mismatch, Settings, train_run

    settings = Settings(steps, seed, algo, model, lora, bf16, formulas, fast, long, device)
    try:
        with one_bar(err) as say:
            result = train_run(data, run, settings, resume, say, tell)
    except Mismatch as error:
        stop(error, USAGE)
    except KeyboardInterrupt:
        other = None if device == "cpu" else device
        given = {"--data": data, "--run": run, "--with": formulas, "--device": other, "--steps": steps}
        words = [str(word) for option, value in given.items() if value for word in (option, value)]
        again = shlex.join(["mrrec", "train", *words, "--resume"])
        lost = "interrupted before the first step; nothing was kept"
        tell(f"interrupted; resume with: {again}" if folders(run) else lost)
        raise
    if formulas:
        _print_curves(run)
    tell(f"{run}: {result}")


def _print_curves(folder: Path) -> None:
    """Plot the rewards with a student's formulas and with the package's own, and print the last numbers of both."""
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
def evaluate(run: RunDir, data: Moved = None, device: Device = "cpu", json: Json = False) -> None:
    """Score a run's policy on its test users, and compare it with methods that need no training."""
    from mrrec_mini.app.tables import arms_table
    from mrrec_mini.run import Run

    if data:
        Run(run).move_data(data)
    report = Run(run).evaluate(tell, device)
    answer(report, json, lambda: out.print(arms_table(report["arms"])))


@command(app)
def recommend(text: Wanted, user: User, run: RunDir, k: Items = 5, store: OwnStore = None, json: Json = False) -> None:
    """Recommend items with a trained policy; show its episode, and from which memories it copied the profile."""
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.terminal import print_transcript

    found = Assistant.open(run, store, tell).recommend(user, text, k)

    def show() -> None:
        print_transcript(found.transcript, out)
        _print_items(found)

    answer(found.as_dict(), json, show)


@command(app)
def explain(text: Wanted, user: User, run: RunDir, k: Items = 5, store: OwnStore = None, json: Json = False) -> None:
    """Recommend items, and show for each memory that was looked up what changes without it.

    "copied": the profile has words from the memory. "cited": the policy claims to have used it. "read": neither.
    For each memory, the same episode is played again without it. Nothing is deleted or written. The last row is a
    control: a memory that was not looked up.
    """
    from mrrec_mini.app.assistant import Assistant

    found = Assistant.open(run, store, tell).explain(user, text, k)
    rows = [[r.entry.text, r.entry.id, _role(r), str(r.without)] for r in found.reasons]
    if found.together:
        rows.append(["all of these", "", "", str(found.together)])
    if found.control:
        rows.append([found.control.entry.text, found.control.entry.id, "not read", str(found.control.without)])

    def show() -> None:
        _print_items(found.answer)
        print_table("", ("memory", "id", "was", "without it"), rows)

    answer(found.as_dict(), json, show)


def _role(reason: Reason) -> str:
    return ", ".join(["copied"] * bool(reason.copied) + ["cited"] * reason.cited) or "read"


def _print_items(found: Recommendation) -> None:
    """Print the profile, where its words were copied from, beside what the policy cites, and the items."""
    out.print(Text(f"profile: {printable(found.profile)}"))
    for title, lines in {"because": found.because_lines(), "the policy cites": found.cited_lines()}.items():
        for line in lines:
            out.print(Text(f"{title}: {printable(line)}"))
    if found.reason:
        tell(found.reason)
    rows = ([str(n), item.id, item.title, f"{score:.3f}"] for n, (item, score) in enumerate(found.items, 1))
    print_table("", ("rank", "item", "title", "score"), rows)


@command(app)
def chat(user: User, run: RunDir, store: OwnStore = None) -> None:
    """Chat with a trained policy: say what you want and get items. /help lists commands to rate, ask why, and forget.

    Lines come from the terminal or from a pipe. Ratings and deletions are saved; nothing else of the session is kept.
    """
    from mrrec_mini.app.assistant import Assistant
    from mrrec_mini.app.chat_session import Session, lines_from

    assistant = Assistant.open(run, store, tell)
    session = Session(assistant, user)
    tell("say what you want; /help lists the commands")
    asks = sys.stdin.isatty()
    with assistant.store:
        for line in lines_from(sys.stdin.buffer, lambda: asks and err.print("> ", end="")):
            try:
                reply = session.reply(line)
            except (DataError, OSError) as error:
                tell(error)
                continue
            for one in reply:
                out.print(Text(printable(one)), soft_wrap=True)
            if session.over:
                return
    if asks:
        err.print()  # when the input ends, the cursor is still in the line of the prompt


@command(app)
def report(run: AnyRun, out_file: Page = None, json: Json = False) -> None:
    """Write one self-contained HTML page about a run: results, learning curves, episodes before and after learning."""
    from mrrec_mini.app.report import write_report
    from mrrec_mini.app.terminal import one_bar

    file = out_file or run / "report.html"
    with one_bar(err) as say:
        data = write_report(run, file, say, tell)
    done = {"file": str(file), "bytes": file.stat().st_size, "queries": len(data["queries"]), "notes": data["notes"]}
    answer(done, json, lambda: tell(f"wrote {file}, {done['bytes'] / 1e6:.1f} MB: {done['queries']} queries"))
