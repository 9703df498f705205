"""The main job: every arm and what is left behind, the same in another process, and what people see of it."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mrrec_mini.app.demo import (
    DemoConfig,
    curve,
    evaluate_run,
    lines_of,
    one_bar,
    open_data,
    print_report,
    print_transcript,
    run_demo,
    run_seed,
    showing_progress,
    train_run,
)
from mrrec_mini.app.tables import arms_table
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.evaluate import report_dict
from mrrec_mini.recipe import FAST_WORLD, read_config
from mrrec_mini.train import load_policy
from mrrec_mini.world import make_world
from runs import HOSTILE, QUICK, SHOP, copied_run, same_weights, shop

POLICY_ARMS = ("warm_start", "warm_start_all_calls", "grpo")
NO_POLICY = ("popularity", "neighbours", "query_only", "naive_memory", "static_memory", "teacher")
ARMS = [*NO_POLICY, *POLICY_ARMS, "expert", "oracle"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run_demo(DemoConfig(data=shop(), seeds=(0,), runs=runs, recipe=QUICK))


def shown(*what, width: int = 80, color: str | None = None) -> str:
    """What a console of this width prints; without colours, as a pipe, unless a colour system is named."""
    console = Console(width=width, file=io.StringIO(), force_terminal=color is not None, color_system=color)
    for thing in what:
        if callable(thing):
            thing(console)
        else:
            console.print(thing)
    return console.file.getvalue()


# --- what is run ---


def test_the_document(report):
    told = report.as_dict()
    assert list(told) == ["data", "seeds", "arms", "seconds"]
    assert told["data"] == str(shop()) and told["seeds"] == [0]
    assert list(told["arms"]) == ARMS
    for arm, numbers in told["arms"].items():
        assert {"ndcg@10", "recall@10", "interval", "held"} <= set(numbers)
        assert ("sampled" in numbers) == ("sampled" in numbers["held"]) == (arm in POLICY_ARMS)
        for part in (numbers, numbers["held"]):
            assert set(part.get("sampled", part)) - {"held"} == set(part) - {"sampled", "held"}  # the same dictionary
    assert {"memory", "warm start", "evaluation", "learn", "total"} == set(told["seconds"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_all_arms_answer_the_same_queries(report):
    split = Dataset.load(shop()).split(0, *QUICK.shares)
    asked = {"test": {q.id for q in split.test_queries}, "held": {q.id for q in split.held_queries}}
    groups: dict = {}
    for row in report.results[0].rows:
        groups.setdefault((row.arm, row.mode, row.part), []).append(row.query)
    assert {arm for arm, _, _ in groups} == set(ARMS)
    for (_, _, part), queries in groups.items():
        assert set(queries) == asked[part] and len(queries) == len(asked[part])


def test_the_run_folder(report):
    (result,) = report.results
    run = Path(result.run)
    assert sorted(path.name for path in run.iterdir()) == [
        *("before", "checkpoints", "config.json", "evaluation.json", "metrics.jsonl"),
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.log and len(lines) == QUICK.train.steps
    written = json.loads((run / "evaluation.json").read_text())
    assert written == report_dict(result.rows, np.random.default_rng(0)) == report.arms
    assert read_config(run)[0] == replace(QUICK, train=replace(QUICK.train, seed=0))
    assert load_policy(run)[0].num_parameters() > 0


def test_a_second_demo_replaces_the_first(report, tmp_path):
    """One line a step, however often it ran before; and the same numbers."""
    config = DemoConfig(data=shop(), runs=tmp_path, recipe=QUICK)
    for _ in range(2):
        result = run_seed(config, 0)
    assert result.rows == report.results[0].rows
    assert len((tmp_path / "shop" / "seed-0" / "metrics.jsonl").read_text().splitlines()) == QUICK.train.steps


@pytest.mark.slow
def test_a_seed_gives_the_same_rows_in_a_process_of_its_own(report, tmp_path):
    said = []
    config = DemoConfig(data=shop(), seeds=(0, 1), runs=tmp_path, recipe=QUICK)
    both = run_demo(config, lambda *event: said.append(event))
    assert both.results[0].rows == report.results[0].rows
    assert [result.seed for result in both.results] == [0, 1]
    assert both.arms["oracle"]["queries"] == sum(
        row.arm == "oracle" and row.part == "test" for result in both.results for row in result.rows
    )
    assert {phase.split(": ")[0] for phase, *_ in said} == {"seed 0", "seed 1"}
    assert {phase.split(": ")[1] for phase, *_ in said} == {"memory", "copy drill", "warm start", "learn"}


@pytest.mark.slow
def test_trouble_in_a_process_is_trouble_here(tmp_path):
    dataset = make_world(SHOP)
    split = dataset.split(0, *QUICK.shares)
    lamp, mug = (next(i.id for i in dataset.items.values() if i.category[-1] == name) for name in ("lamp", "mug"))
    asked = [replace(q, target=mug if q.user in split.test else lamp) for q in dataset.queries]
    silent = Dataset(dataset.items, dataset.interactions, asked, {"held_categories": ["mug"]})
    folder = silent.save(tmp_path / "no-test")
    with pytest.raises(DataError, match="no test user has a query"):
        run_demo(DemoConfig(data=folder, seeds=(0, 0), runs=tmp_path, recipe=QUICK))
    assert not (tmp_path / "no-test" / "seed-0").exists()


def test_bad_data_is_told_before_anything_starts(tmp_path):
    said = []
    with pytest.raises(DataError, match="cannot be read"):
        run_demo(DemoConfig(data=tmp_path / "nowhere"), lambda *event: said.append(event))
    assert said == []


def test_without_data_each_seed_has_a_shop_of_its_own():
    one, world = open_data(None, 1, fast=True)
    two, _ = open_data(None, 2, fast=True)
    assert world == replace(FAST_WORLD, seed=1) and one.queries != two.queries
    assert open_data(shop(), 1, fast=True)[1] is None


@pytest.mark.slow
def test_all_arms(tmp_path):
    report = run_demo(DemoConfig(data=shop(), all_arms=True, runs=tmp_path, recipe=QUICK))
    assert list(report.arms) == [*ARMS[:-3], "reinforce", "grpo_no_global", "grpo_no_local", *ARMS[-3:]]
    assert report.arms["grpo_no_local"]["calls"] == 0.0
    assert report.arms["query_only"]["calls"] == 0.0


# --- one run folder ---


def test_stopped_and_gone_on_equals_not_stopped(tmp_path, monkeypatch):
    """2 steps, then on to 4, against 4 at once: the same log but for the clock, the same weights.

    At a constant rate: one that falls over the whole run is another one where the run is longer.
    """
    steady = replace(QUICK, train=replace(QUICK.train, final_rate=1.0))
    monkeypatch.setattr("mrrec_mini.recipe.FAST", steady)
    said = train_run(shop(), tmp_path / "a", 2, 0, "grpo", False, True)
    assert said.startswith("2 steps")
    assert train_run(shop(), tmp_path / "a", 4, 0, "grpo", True, True).startswith("4 steps")
    assert train_run(shop(), tmp_path / "b", 4, 0, "grpo", False, True).startswith("4 steps")
    logs = []
    for run in ("a", "b"):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        logs.append([{name: value for name, value in line.items() if name != "step_time"} for line in lines])
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4]
    assert logs[0] == logs[1]
    assert same_weights(load_policy(tmp_path / "a")[0], load_policy(tmp_path / "b")[0])
    start = read_config(tmp_path / "a")[0].train
    assert start == replace(steady.train, steps=2)  # what it was made with stays on record


def test_a_run_is_not_written_over(tmp_path):
    run = copied_run(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already; go on with --resume"):
        train_run(shop(), run, 1, 0, "grpo", False, True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "words.json", "config.json"])
def test_a_spoiled_checkpoint_is_named(file, tmp_path):
    run = copied_run(tmp_path)
    spoiled = run / "checkpoints" / "step-000002" / file
    spoiled.write_bytes(spoiled.read_bytes()[: spoiled.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"step-000002: {file} has .* bytes.*; train again into another folder$"):
        train_run(shop(), run, 3, 0, "grpo", True, True)


def test_a_run_is_evaluated_beside_the_arms_that_need_no_training(tmp_path, report):
    run = copied_run(tmp_path)
    told = evaluate_run(run)
    assert told["run"] == str(run) and told["seeds"] == [0]
    assert list(told["arms"]) == [arm for arm in ARMS if not arm.startswith("warm")]
    assert told["arms"] == json.loads((run / "evaluation.json").read_text())
    for arm in (*NO_POLICY, "oracle"):  # as in the demo of that seed
        assert told["arms"][arm]["ndcg@10"] == report.arms[arm]["ndcg@10"]


# --- for people ---


def test_a_curve_by_hand():
    # 0, 1, 2, 1 in 3 rows: 2.00 is the upper, 1.00 the middle, 0.00 the lowest
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


def test_an_episode_is_told_a_turn_a_line():
    told = [
        ("shown", "<query>mug for hiking<global><line>mug price<line>lamp color"),
        ("policy", "<think>price<search>mug price</search>"),
        ("shown", "<memory><m1>mug price luxury</memory>"),
        ("policy", "<think>luxury<profile>mug for hiking luxury<evidence><m1><end>"),
    ]
    assert shown(lambda console: print_transcript(told, console)).split("\n") == [
        "<query> mug for hiking",
        "<global> <line> mug price <line> lamp color",
        "<think> price <search> mug price </search>",
        "<memory> <m1> mug price luxury </memory>",
        "<think> luxury <profile> mug for hiking luxury <evidence> <m1> <end>",
        "",
    ]
    assert lines_of("a < b and c>d") == ["a < b and c>d"] and lines_of("") == []


def test_texts_do_not_drive_the_terminal():
    """Only the styles of ours, bold green here, reach a terminal with colours; markup stays as it was written."""
    told = shown(lambda console: print_transcript([("policy", f"<think>{HOSTILE}")], console), color="standard")
    assert told.replace("\x1b[1;32m", "").replace("\x1b[0m", "") == (
        "<think> [bold red]x[/] [/nothing] :cat: \\x1b[2J\\x1b]0;owned\\x07 \\x9b31m \\u202e\n"
    )


def test_the_report_fits_80_columns_and_loses_nothing(report):
    told = shown(lambda console: print_report(report, console))
    assert max(map(len, told.split("\n"))) <= 80 and "…" not in told
    wide = shown(lambda console: print_report(report, console), width=200)
    assert "".join(told.split()).replace("─", "") == "".join(wide.split()).replace("─", "")
    for arm in ARMS:
        numbers = report.arms[arm]
        for part in filter(None, (numbers, numbers.get("sampled"), numbers["held"], numbers["held"].get("sampled"))):
            assert f"{part['ndcg@10']:.3f} {part['interval'][0]:.3f}..{part['interval'][1]:.3f}" in told
    assert "A worked episode" in told and "Reward while learning" in told and str(report.results[0].seed) in told


def test_the_widest_numbers_fit():
    """Every cell at its widest: the longest arm, with intervals and a negative difference everywhere."""
    numbers = {"ndcg@10": 0.123, "interval": [0.123, 0.456]}
    numbers |= {"difference": {"ndcg@10": -0.123, "interval": [-0.456, -0.123]}}
    numbers |= {"recall@10": 1.0, "format": 1.0, "calls": 3.0, "memory_tokens": 1234.0}
    numbers |= {"aspects_right": 10.0, "aspects_that_matter": 10.0}
    part = numbers | {"sampled": numbers}
    told = shown(arms_table({"warm_start_all_calls": part | {"held": part}}))
    assert told.count("0.123 0.123..0.456") == 4 and told.count("-.123 -.456..-.123") == 2
    assert "10.0 of 10.0" in told and max(map(len, told.split("\n"))) <= 80


def test_progress_has_a_bar_a_seed_and_is_silent_where_nobody_watches():
    quiet, watched = io.StringIO(), io.StringIO()
    with showing_progress(Console(file=quiet), DemoConfig(seeds=(4, 5))) as say:
        say("seed 5: learn", 1, 2, "reward 0.10")
    with one_bar(Console(file=quiet)) as say:
        say("learn", 1, 2, "")
    assert quiet.getvalue() == ""
    console = Console(file=watched, force_terminal=True, width=100)
    with showing_progress(console, DemoConfig(seeds=(4, 5))) as say:
        say("seed 5: learn", 1, 2, "reward 0.10")
    assert "seed 4: starting" in watched.getvalue() and "seed 5: learn" in watched.getvalue()
    assert "reward 0.10" in watched.getvalue()
