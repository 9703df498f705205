"""What people watch in a terminal: curves in characters, transcripts, progress bars."""

import io

import numpy as np
import pytest
from rich.console import Console

from mrrec_mini.app.terminal import bar_per_seed, curve, one_bar, print_transcript, transcript_lines
from runs import HOSTILE


def shown(show, color: str | None = None) -> str:
    """What `show` prints on a console 80 columns wide; without a colour system the console is like a pipe."""
    console = Console(width=80, file=io.StringIO(), force_terminal=color is not None, color_system=color)
    show(console)
    return console.file.getvalue()


def test_a_curve_by_hand():
    # 0, 1, 2, 1 in 3 rows: 2.00 is the top row, 1.00 the middle one, 0.00 the bottom one
    assert curve([0, 1, 2, 1], height=3).split("\n") == [
        "   2.00 |  *",
        "   1.00 | * *",
        "   0.00 |*",
        "        +----",
        "         1  4",
    ]


def test_a_curve_fits_80_columns_and_averages():
    lines = curve(np.arange(700.0)).split("\n")
    assert max(map(len, lines)) == 79
    # 70 columns of 10 values: the first holds 0..9, mean 4.5; the last 690..699, mean 694.5
    assert lines[0].startswith(" 694.50 |") and lines[7].startswith("   4.50 |")
    assert lines[-1].split() == ["1", "700"]
    assert sum(line.count("*") for line in lines) == 70


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [-1.5, 4.0, 0.0]])
def test_short_and_flat_curves(values):
    lines = curve(values).split("\n")
    assert sum(line.count("*") for line in lines) == len(values)
    assert lines[-1].split() == (["1", str(len(values))] if len(values) > 1 else ["1"])


def test_a_transcript_has_one_line_per_turn():
    transcript = [
        ("shown", "<query>mug for hiking<global><line>mug price<line>lamp color"),
        ("policy", "<think>price<search>mug price</search>"),
        ("shown", "<memory><m1>mug price luxury</memory>"),
        ("policy", "<think>luxury<profile>mug for hiking luxury<evidence><m1><end>"),
    ]
    assert shown(lambda console: print_transcript(transcript, console)).split("\n") == [
        "<query> mug for hiking",
        "<global> <line> mug price <line> lamp color",
        "<think> price <search> mug price </search>",
        "<memory> <m1> mug price luxury </memory>",
        "<think> luxury <profile> mug for hiking luxury <evidence> <m1> <end>",
        "",
    ]
    assert transcript_lines("a < b and c>d") == ["a < b and c>d"] and transcript_lines("") == []


def test_texts_cannot_control_the_terminal():
    """Only our own styles reach a terminal with colours (bold green here); markup stays text."""
    text = shown(lambda console: print_transcript([("policy", f"<think>{HOSTILE}")], console), color="standard")
    assert text.replace("\x1b[1;32m", "").replace("\x1b[0m", "") == (
        "<think> [bold red]x[/] [/nothing] :cat: \\x1b[2J\\x1b]0;owned\\x07 \\x9b31m \\u202e\n"
    )


def test_each_seed_has_a_bar_and_a_pipe_gets_none():
    quiet, watched = io.StringIO(), io.StringIO()
    with bar_per_seed(Console(file=quiet), (4, 5)) as say:
        say("seed 5: learn", 1, 2, "reward 0.10")
    with one_bar(Console(file=quiet)) as say:
        say("learn", 1, 2, "")
    assert quiet.getvalue() == ""
    console = Console(file=watched, force_terminal=True, width=100)
    with bar_per_seed(console, (4, 5)) as say:
        say("seed 5: learn", 1, 2, "reward 0.10")
    assert "seed 4: starting" in watched.getvalue() and "seed 5: learn" in watched.getvalue()
    assert "reward 0.10" in watched.getvalue()
