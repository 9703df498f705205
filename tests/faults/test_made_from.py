"""A run knows the data that it was made from, and a result knows the code: nothing is split anew or mixed silently."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from mrrec_mini.app import reproduce as paper
from mrrec_mini.app.jobs import UNKNOWN, Plan, other_code, run_job
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.files import code_version
from mrrec_mini.run import MadeFrom, Run
from mrrec_mini.world import make_world
from runs import SHOP, copied_run, mrrec, refused, shop

USER = "u000003"


@pytest.fixture
def data(tmp_path) -> Path:
    """A copy of the shop, which a test may change."""
    return Path(shutil.copytree(shop(), tmp_path / "data"))


@pytest.fixture
def made(tmp_path, data) -> Path:
    """A run that was made from `data`."""
    run = copied_run(tmp_path)
    edit(run / "config.json", data=str(data))
    return run


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def grown(folder: Path, users: int = 30) -> Dataset:
    """More users, with names before, between and after the old ones, so that a new split would mix the parts."""
    old = Dataset.load(folder)
    names = {user: f"u{number:06d}x" for number, user in enumerate(old.users())}
    interactions, queries = list(old.interactions), list(old.queries)
    for copy in range(users // len(names) + 1):
        interactions += [replace(one, user=f"{copy}{names[one.user]}") for one in old.interactions]
        queries += [replace(one, id=f"{copy}-{one.id}", user=f"{copy}{names[one.user]}") for one in old.queries]
    Dataset(old.items, interactions, queries, {"name": "grown"}).save(folder)
    return Dataset.load(folder)


def without(folder: Path, users: set[str]) -> None:
    old = Dataset.load(folder)
    left = [[one for one in records if one.user not in users] for records in (old.interactions, old.queries)]
    Dataset(old.items, *left, {"name": "shrunk"}).save(folder)


# --- the sum of the content ---


def test_the_same_content_is_the_same_data_wherever_it_lies(tmp_path):
    in_memory = make_world(SHOP)
    saved = Dataset.load(in_memory.save(tmp_path / "a"))
    assert in_memory.sha256 == saved.sha256 == Dataset.load(saved.save(tmp_path / "b")).sha256
    (tmp_path / "b" / "meta.json").unlink()
    assert Dataset.load(tmp_path / "b").sha256 != saved.sha256  # it said which categories are held


@pytest.mark.parametrize(
    "part", ["title", "rating", "review", "query", "target", "time", "user", "gone", "held", "clock"]
)
def test_any_change_that_may_matter_changes_the_sum(part):
    old = Dataset.load(shop())
    items, interactions, queries, meta = dict(old.items), list(old.interactions), list(old.queries), dict(old.meta)
    other = next(identity for identity in items if identity != queries[0].target)
    if part == "title":
        items[other] = replace(items[other], title="another title")
    elif part in ("query", "target", "time"):
        queries[0] = replace(
            queries[0], **{"query": {"text": "x"}, "target": {"target": other}, "time": {"time": 1}}[part]
        )
    elif part in ("rating", "review", "user"):
        interactions[0] = replace(interactions[0], **{part: 1.5 if part == "rating" else "x"})
    elif part == "gone":
        del interactions[5]
    else:
        meta |= {"held": {"held_categories": ["x"]}, "clock": {"clock": False}}[part]
    assert Dataset(items, interactions, queries, meta).sha256 != old.sha256
    assert Dataset(old.items, old.interactions, old.queries, meta | {"name": "x", "counts": 3}).sha256 == (
        old.sha256 if part not in ("held", "clock") else Dataset(items, interactions, queries, meta).sha256
    )


# --- data that grew, shrank, or moved ---


def test_a_run_keeps_its_split_when_the_data_grow(made, data):
    kept = MadeFrom.read(made / "made_from.json")
    old = Run(made).environment().split
    now = grown(data)
    anew = now.split(0, *Run(made).config.recipe.shares)
    assert anew.test & old.train  # as it was: people of the training part would be tested
    done = mrrec("evaluate", "--run", made, "--json")
    assert done.exit_code == 0 and done.stderr.count("\n") == 1
    new = len(now.users()) - len(Dataset.load(shop()).users())
    assert f"{new} users are new, 0 are gone" in done.stderr and "test users of the run" in done.stderr
    split = Run(made).environment().split
    assert (split.train, split.validation, split.test) == (old.train, old.validation, old.test)
    assert {query.user for query in split.test_queries} <= set(kept.test)
    written = json.loads((made / "evaluation.json").read_text())
    assert written["data_sha256"] == now.sha256 != kept.sha256


def test_the_split_is_kept_even_if_the_fitted_files_are_missing(made, data):
    old = Run(made).environment().split
    shutil.rmtree(made / "fitted")
    grown(data)
    environment = Run(made).environment()
    assert (environment.split.test, environment.memory.train_users) == (old.test, old.train)


def test_a_run_is_not_resumed_on_data_that_grew(made, data):
    grown(data)
    before = contents(made)
    words = ("train", "--data", data, "--run", made, "--steps", 3, "--resume")
    refused(mrrec(*words), 2, str(made), "users are new", "resume with the same data, or train a new run")
    assert contents(made) == before


def test_one_purchase_more_is_a_change_too(made, data):
    old = Dataset.load(data)
    more = replace(old.interactions[0], time=old.interactions[0].time + 1)
    Dataset(old.items, [*old.interactions, more], old.queries, old.meta).save(data)
    words = ("train", "--data", data, "--run", made, "--steps", 3, "--resume")
    refused(mrrec(*words), 2, "0 users are new, 0 are gone, and items or purchases may differ")


def test_data_that_shrank_are_evaluated_on_who_is_left(made, data):
    test = list(MadeFrom.read(made / "made_from.json").test)
    without(data, {test[0]})
    done = mrrec("evaluate", "--run", made, "--json")
    assert done.exit_code == 0 and done.stderr.count("\n") == 1
    assert f"evaluated on {len(test) - 1} of the {len(test)} test users of the run" in done.stderr
    without(data, set(test))
    refused(mrrec("evaluate", "--run", made, "--json"), 4, "none of the run's test users is left")


def test_a_report_says_that_the_data_have_changed(made, data, monkeypatch):
    monkeypatch.setattr("mrrec_mini.app.report.QUERIES", 1)
    grown(data)
    done = mrrec("report", made, "--json")
    assert done.exit_code == 0
    [note] = [note for note in json.loads(done.stdout)["notes"] if "users are new" in note]
    assert str(made) not in note


def test_data_that_moved_are_found_again(made, data):
    moved = data.rename(data.with_name("moved"))
    refused(mrrec("evaluate", "--run", made), 4, str(data), "`mrrec evaluate --data DIR` tells the run where it is")
    refused(mrrec("recommend", "a mug", "--user", USER, "--run", made), 4, str(data), "evaluate --data DIR")
    before = json.loads((made / "config.json").read_text())
    done = mrrec("evaluate", "--run", made, "--data", moved, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads((made / "config.json").read_text()) == before | {"data": str(moved)}
    assert mrrec("recommend", "a mug", "--user", USER, "--run", made).exit_code == 0
    again = moved.rename(data.with_name("again"))
    done = mrrec("train", "--data", again, "--run", made, "--steps", 3, "--resume")
    assert done.exit_code == 0 and Run(made).config.data == again


def test_other_data_do_not_take_the_place_of_the_runs_own(made, data, tmp_path):
    other = make_world(replace(SHOP, seed=1)).save(tmp_path / "other")
    before = contents(made)
    refused(
        mrrec("evaluate", "--run", made, "--data", other), 4, f"{other} is not the data set that {made} was made from"
    )
    assert contents(made) == before


def test_a_run_of_its_own_shop_is_resumed_with_its_data(tmp_path):
    """As a demo's runs are."""
    run = copied_run(tmp_path)
    shutil.copytree(shop(), run / "data")
    edit(run / "config.json", data=None, world=vars(SHOP))
    done = mrrec("train", "--data", run / "data", "--run", run, "--steps", 3, "--resume")
    assert done.exit_code == 0, done.stderr
    assert Run(run).config.data is None


GOOD = '{"sha256": "x", "train": ["a"], "validation": ["b"], "test": ["c"]}'
SPOILED = {
    **{"missing": None, "empty": "", "a list": "[]", "cut": GOOD[:30], "deep": "[" * 100_000},
    **{"no parts": '{"sha256": "x"}', "a sum": GOOD.replace('"x"', "1"), "a user": GOOD.replace('"c"', "3")},
    **{
        "an object": GOOD.replace('["c"]', "{}"),
        "a number": GOOD.replace('["c"]', "4"),
        "text": GOOD.replace('["c"]', '"c"'),
    },
}


@pytest.mark.parametrize("harm", SPOILED)
def test_a_spoiled_file_is_named(tmp_path, harm):
    path = tmp_path / "made_from.json"
    path.write_text(GOOD)
    assert MadeFrom.read(path) == MadeFrom("x", ("a",), ("b",), ("c",))
    if SPOILED[harm] is None:
        path.unlink()
    else:
        path.write_text(SPOILED[harm])
    with pytest.raises(DataError, match=r"made_from.json: not what `mrrec train` writes .*; make the run again"):
        MadeFrom.read(path)


# --- results know the code ---


def test_a_report_says_that_other_code_evaluated_the_arms(made, monkeypatch):
    monkeypatch.setattr("mrrec_mini.app.report.QUERIES", 1)
    mrrec("evaluate", "--run", made)
    assert json.loads(mrrec("report", made, "--json").stdout)["notes"] == []
    edit(made / "evaluation.json", code="0.0.9+abc")
    [note] = json.loads(mrrec("report", made, "--json").stdout)["notes"]
    assert (
        note == f"the arms were evaluated by version 0.0.9+abc of the code, and this page is made by {code_version()}"
    )


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """A plan whose job "costs" costs nothing."""
    monkeypatch.setattr("mrrec_mini.app.jobs.context_of", lambda *_: None)
    monkeypatch.setattr(
        "mrrec_mini.app.jobs.JOBS", {"costs": type("Job", (), {"function": lambda _: {"n": 1}, "needs": ()})}
    )
    return Plan(tmp_path / "out", None, (20, 21), fast=True)


def test_saved_results_of_other_code_are_used_and_named(plan):
    for seed in plan.seeds:
        run_job(plan, ("costs", seed))
    path = plan.result_path("costs", 20)
    assert json.loads(path.read_text()) == {"code": code_version(), "n": 1}
    assert other_code(plan, ["costs"]) == {}
    edit(path, code="0.0.9+abc")
    assert other_code(plan, ["costs"]) == {"0.0.9+abc": 1}
    results = paper.Results(plan)
    assert [one["n"] for one in results.load("costs")] == [1, 1]
    assert results.code == {"0.0.9+abc", code_version()}
    content = json.loads(path.read_text())
    del content["code"]
    path.write_text(json.dumps(content))
    assert other_code(plan, ["costs"]) == {UNKNOWN: 1}


def test_the_warning_names_the_folder_to_delete(plan, monkeypatch):
    monkeypatch.setattr(paper, "with_needs", list)
    monkeypatch.setattr(paper, "NEEDED", {"table4": ("costs",)})
    assert paper.results_of_other_code(plan, ["table4"]) == ""
    run_job(plan, ("costs", 20))
    assert paper.results_of_other_code(plan, ["table4"]) == ""
    edit(plan.result_path("costs", 20), code="0.0.9+abc")
    folder = plan.result_path("costs", 20).parent
    expected = f"saved results of other code are used (1 by 0.0.9+abc); to make them again, delete {folder}"
    assert paper.results_of_other_code(plan, ["table4"]) == expected


def test_the_report_names_each_version_with_its_exhibits():
    assert (
        paper.code_line({"fig3": {"code": ["a"]}, "fig4": {"code": ["a"]}}) == "The code version of all results is a."
    )
    mixed = {"fig3": {"code": ["a"]}, "fig4": {"code": ["a", "b"]}, "fig5": {}}
    expected = "**These results were made by several versions of the code:** a (fig3, fig4); b (fig4); unknown (fig5)."
    assert paper.code_line(mixed) == expected


# --- what is missing is named as what it is ---


def test_a_missing_peft_is_not_a_damaged_checkpoint(made, monkeypatch):
    """The adapters may be whole; to train again would not help."""
    from mrrec_mini import checkpoint

    newest = checkpoint.newest(made, pytest.fail)
    save_file({"x": zeros(1)}, str(newest / "adapter_model.safetensors"))
    (newest / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    checkpoint._write_manifest(newest, 2)

    def missing(*_):
        raise ModuleNotFoundError("adapters need peft: pip install 'mrrec_mini[lora]'")

    monkeypatch.setattr("mrrec_mini.run.load_causal_lm", missing)
    refused(mrrec("recommend", "a mug", "--user", USER, "--run", made), 1, "adapters need peft: pip install")
