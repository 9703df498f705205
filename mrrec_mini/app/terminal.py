"""Output for the terminal: progress bars, transcripts of episodes, line plots made of characters.

Flow: used by `demo`, `walkthrough` and `cli`. Equations: none. `print_transcript` passes each text through
`printable`, so that no text can control the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from mrrec_mini.data import printable
from mrrec_mini.recipe import Say


@contextmanager
def one_bar(console: Console) -> Iterator[Say]:
    """Yield a `Say` that moves one progress bar. Nothing is shown unless the console is a terminal."""
    with _bars(console) as progress:
        task = progress.add_task("starting", total=None, note="")
        yield lambda phase, done, total, note: progress.update(
            task, description=phase, completed=done, total=total, note=note
        )


@contextmanager
def bar_per_seed(console: Console, seeds: Sequence[int]) -> Iterator[Say]:
    """Yield a `Say` that moves one bar per seed; its phases have names such as "seed 0: learn". See `one_bar`."""
    with _bars(console) as progress:
        tasks = {f"seed {seed}": progress.add_task(f"seed {seed}: starting", total=None, note="") for seed in seeds}
        yield lambda phase, done, total, note: progress.update(
            tasks[phase.split(":")[0]], description=phase, completed=done, total=total, note=note
        )


def _bars(console: Console) -> Progress:
    phase, done, note = map(TextColumn, ("{task.description}", "{task.completed}", "{task.fields[note]}"))
    hidden = not console.is_terminal
    return Progress(phase, BarColumn(), done, note, TimeElapsedColumn(), console=console, disable=hidden)


def print_transcript(transcript: Sequence[tuple[str, str]], console: Console) -> None:
    """Print an episode's (writer, text) turns: what the policy wrote is bold green, the rest is dim."""
    for writer, text in transcript:
        for line in transcript_lines(printable(text)):
            console.print(Text(line, style="bold green" if writer == "policy" else "dim"))


def transcript_lines(text: str) -> list[str]:
    """Return a turn's text as lines (two for the prompt, one for other turns), with spaces around control tokens."""
    spaced = re.sub(r"(</?[a-z]+[0-9]*>)", r" \1 ", text)
    return [" ".join(line.split()) for line in re.split("(?=<global>)", spaced) if line.strip()]


def curve(values: Sequence[float], width: int = 70, height: int = 8) -> str:
    """Return a line plot: the values are averaged into at most `width` columns; the axis takes 9 more on the left."""
    return curves([values], "*", width, height)


def curves(series: Sequence[Sequence[float]], marks: str, width: int = 70, height: int = 8) -> str:
    """Return one plot of several curves of equal length, each drawn with its own mark. `@` marks where curves meet."""
    length = len(series[0])
    parts = [[float(np.mean(p)) for p in np.array_split(np.asarray(one), min(width, length))] for one in series]
    low, high = min(map(min, parts)), max(map(max, parts))
    levels = [[round((value - low) / (high - low or 1.0) * (height - 1)) for value in one] for one in parts]
    columns, rows = list(zip(*levels, strict=True)), []
    for level in range(height - 1, -1, -1):
        label = low + (high - low) * level / (height - 1)
        # per column, the marks of the curves that pass through this level
        cells = ["".join(mark for mark, at in zip(marks, column, strict=True) if at == level) for column in columns]
        rows.append(f"{label:7.2f} |" + "".join("@" if len(met) > 1 else met or " " for met in cells).rstrip())
    last = f" {length:>{len(parts[0]) - 2}}" if len(parts[0]) > 1 else ""
    return "\n".join([*rows, " " * 8 + "+" + "-" * len(parts[0]), " " * 9 + "1" + last])
