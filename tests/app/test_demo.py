"""The main job: its arms, the run folders it leaves, equal results in another process, and what it prints."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mrrec_mini.app.demo import (
    SHORT,
    DemoConfig,
    open_data,
    print_first,
    print_report,
    run_demo,
    run_first,
    run_seed,
)
from mrrec_mini.data import DataError, Dataset, template_text
from mrrec_mini.evaluate import ARMS as EVERY_ARM
from mrrec_mini.evaluate import report_dict
from mrrec_mini.files import code_version
from mrrec_mini.own_text import OWN_TEXT
from mrrec_mini.recipe import FAST_WORLD
from mrrec_mini.rivals import RIVALS
from mrrec_mini.run import Run
from mrrec_mini.world import make_world
from runs import QUICK, SHOP, copied_run, shop

POLICY_ARMS = ("clone", "warm_start", "warm_start_all_calls", "grpo")
SCRIPTS = ("script_filter", "script_lookups", "best_script", "teacher")
NO_POLICY = ("popularity", "neighbours", "query_only", "naive_memory", "static_memory", *SCRIPTS)
ARMS = [*NO_POLICY, *POLICY_ARMS, "told_drift", "expert", "oracle"]


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
    document = report.as_dict()
    assert list(document) == ["data", "seeds", "other_people", "arms", "seconds"]
    assert document["data"] == str(shop()) and document["seeds"] == [0]
    assert list(document["arms"]) == ARMS
    for arm, numbers in document["arms"].items():
        assert {"ndcg@10", "recall@10", "interval", "held"} <= set(numbers)
        assert ("sampled" in numbers) == ("sampled" in numbers["held"]) == (arm in POLICY_ARMS)
        for part in (numbers, numbers["held"]):
            assert set(part.get("sampled", part)) - {"held"} == set(part) - {"sampled", "held"}  # the same dictionary
    assert {"memory", "warm start", "evaluation", "learn", "clone", "total"} == set(document["seconds"])
    assert json.loads(json.dumps(document, allow_nan=False)) == document


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
        *("before", "checkpoints", "config.json", "evaluation.json", "fitted", "made_from.json", "memory.db"),
        "metrics.jsonl",
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.log and len(lines) == QUICK.train.steps
    written = json.loads((run / "evaluation.json").read_text())
    assert written["arms"] == report_dict(result.rows) == report.arms
    assert written["code"] == code_version() and written["data_sha256"] == Run(run).dataset().sha256
    assert Run(run).config.recipe == replace(QUICK, train=replace(QUICK.train, seed=0))
    assert Run(run).policy()[0].num_parameters() > 0


def test_a_second_demo_replaces_the_first(report, tmp_path):
    """The log has one line per step, however often the demo ran before, and the numbers are the same."""
    config = DemoConfig(data=shop(), runs=tmp_path, recipe=QUICK)
    for _ in range(2):
        result = run_seed(config, 0)
    assert result.rows == report.results[0].rows
    assert len((tmp_path / "shop" / "seed-0" / "metrics.jsonl").read_text().splitlines()) == QUICK.train.steps


@pytest.mark.slow
def test_a_seed_gives_the_same_rows_in_a_process_of_its_own(report, tmp_path):
    events = []
    config = DemoConfig(data=shop(), seeds=(0, 1), runs=tmp_path, recipe=QUICK)
    both = run_demo(config, lambda *event: events.append(event))
    assert both.results[0].rows == report.results[0].rows
    assert [result.seed for result in both.results] == [0, 1]
    assert both.arms["oracle"]["queries"] == sum(
        row.arm == "oracle" and row.part == "test" for result in both.results for row in result.rows
    )
    assert {phase.split(": ")[0] for phase, *_ in events} == {"seed 0", "seed 1"}
    assert {phase.split(": ")[1] for phase, *_ in events} == {"memory", "copy drill", "warm start", "learn", "clone"}


@pytest.mark.slow
def test_an_error_in_a_child_process_is_raised_here(tmp_path):
    dataset = make_world(SHOP)
    split = dataset.split(0, *QUICK.shares)
    lamp, mug = (next(i.id for i in dataset.items.values() if i.category[-1] == name) for name in ("lamp", "mug"))
    asked = [replace(q, target=mug if q.user in split.test else lamp) for q in dataset.queries]
    silent = Dataset(dataset.items, dataset.interactions, asked, {"held_categories": ["mug"]})
    folder = silent.save(tmp_path / "no-test")
    with pytest.raises(DataError, match="no test user has a query"):
        run_demo(DemoConfig(data=folder, seeds=(0, 0), runs=tmp_path, recipe=QUICK))
    assert not (tmp_path / "no-test" / "seed-0").exists()


def test_bad_data_is_reported_before_anything_starts(tmp_path):
    events = []
    with pytest.raises(DataError, match="cannot be read"):
        run_demo(DemoConfig(data=tmp_path / "nowhere"), lambda *event: events.append(event))
    assert events == []


def test_real_data_show_the_arms_without_training_first(tmp_path):
    """All of them, also those that the short table leaves out, and from how many other people they learned."""
    dataset = make_world(SHOP)
    asked = [replace(q, text=template_text(dataset.category(q.target)), truth=None) for q in dataset.queries]
    folder = Dataset(dataset.items, dataset.interactions, asked, {"name": "real"}).save(tmp_path / "real")
    found = run_first(DemoConfig(data=folder, recipe=QUICK))
    text = shown(lambda console: print_first(found, console))
    for arm in ("popularity_in_category", "query_prior", *OWN_TEXT, "best_own_text", "static_memory"):
        assert any(line.startswith(f"{arm} ") for line in text.split("\n"))
    train = dataset.split(0, *QUICK.shares).train
    assert found.people == len(train) and f"purchases are known: {len(train)}\n" in text
    assert max(map(len, text.split("\n"))) <= 80 and "with the item prior" in text
    assert run_first(DemoConfig(data=shop())) is run_first(DemoConfig()) is None


def test_the_arms_that_ran_first_are_not_run_again(tmp_path, monkeypatch):
    """A demo that is handed their rows reports what it would have found itself."""
    dataset = make_world(SHOP)
    asked = [replace(q, text=template_text(dataset.category(q.target)), truth=None) for q in dataset.queries]
    folder = Dataset(dataset.items, dataset.interactions, asked, {"name": "real"}).save(tmp_path / "real")
    config = DemoConfig(data=folder, recipe=QUICK, runs=tmp_path / "runs")
    first = run_first(config)
    alone = run_seed(config, 0)
    monkeypatch.setattr("mrrec_mini.app.demo.first_rows", lambda eval_set: pytest.fail("they ran again"))
    handed = run_seed(config, 0, first=first.rows)
    assert report_dict(handed.rows) == report_dict(alone.rows) and first.arms.keys() <= report_dict(handed.rows).keys()


def test_without_data_each_seed_has_its_own_shop():
    one, world = open_data(None, 1, fast=True)
    two, _ = open_data(None, 2, fast=True)
    assert world == replace(FAST_WORLD, seed=1) and one.queries != two.queries
    assert open_data(shop(), 1, fast=True)[1] is None


@pytest.mark.slow
def test_all_arms(tmp_path):
    report = run_demo(DemoConfig(data=shop(), all_arms=True, runs=tmp_path, recipe=QUICK))
    expected = {*ARMS, *RIVALS, "reinforce", "grpo_no_global", "grpo_no_local"}
    assert list(report.arms) == [arm for arm in EVERY_ARM if arm in expected]
    assert report.arms["grpo_no_local"]["calls"] == 0.0
    assert report.arms["query_only"]["calls"] == 0.0


# --- one run folder ---


def test_a_run_is_evaluated_beside_the_arms_that_need_no_training(tmp_path, report):
    run = copied_run(tmp_path)
    told = Run(run).evaluate()
    assert told["run"] == str(run) and told["seeds"] == [0]
    assert list(told["arms"]) == [*NO_POLICY, "grpo", "told_drift", "expert", "oracle"]
    assert json.loads((run / "evaluation.json").read_text()) == {
        **{"code": code_version(), "data_sha256": Dataset.load(shop()).sha256, "arms": told["arms"]},
    }
    for arm in (*NO_POLICY, "oracle"):  # as in the demo of that seed
        assert told["arms"][arm]["ndcg@10"] == report.arms[arm]["ndcg@10"]


# --- what people see ---


@pytest.mark.parametrize("all_arms", [False, True])
def test_the_report_fits_80_columns_and_loses_nothing(report, all_arms):
    report = replace(report, all_arms=all_arms)
    text = shown(lambda console: print_report(report, console))
    assert max(map(len, text.split("\n"))) <= 80 and "…" not in text
    wide = shown(lambda console: print_report(report, console), width=200)
    assert "".join(text.split()).replace("─", "") == "".join(wide.split()).replace("─", "")
    printed = ARMS if all_arms else [arm for arm in ARMS if arm in SHORT]
    for arm in ARMS:
        assert any(line.startswith(f"{arm} ") for line in text.split("\n")) == (arm in printed)
    for arm in printed:
        numbers = report.arms[arm]
        for part in filter(None, (numbers, numbers.get("sampled"), numbers["held"], numbers["held"].get("sampled"))):
            assert f"{part['ndcg@10']:.3f} {part['interval'][0]:.3f}..{part['interval'][1]:.3f}" in text
    assert "A worked episode" in text and "Reward while learning" in text and str(report.results[0].seed) in text
