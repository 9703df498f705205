"""The reproduction: every exhibit at toy sizes, verdicts from made-up rows, and what survives an interruption."""

import json
from dataclasses import replace

import numpy as np
import pytest

from house import ROOT
from mrrec_mini.app import jobs
from mrrec_mini.app.jobs import (
    JOBS,
    Appended,
    GivenMemory,
    Plan,
    as_page,
    context_of,
    given_entries,
    given_lines,
    run_jobs,
    with_levels,
    with_needs,
)
from mrrec_mini.app.reproduce import (
    EXHIBITS,
    FAILS,
    HOLDS,
    NEEDED,
    NOT_COMPARABLE,
    Results,
    another_plan,
    as_markdown,
    cell,
    reproduce,
    table_lines,
)
from mrrec_mini.evaluate import GREEDY, Row
from mrrec_mini.recipe import FAST_WORLD
from mrrec_mini.world import make_world
from runs import mrrec, refused


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(plan, document) of all exhibits at toy sizes, as `mrrec reproduce all --fast` makes them."""
    plan = Plan(tmp_path_factory.mktemp("reproduction"), None, (0,), fast=True)
    return plan, reproduce(plan)


def test_every_exhibit_is_there_with_its_claims(made):
    plan, document = made
    assert tuple(document["exhibits"]) == EXHIBITS
    assert json.loads((plan.out / "reproduction.json").read_text()) == document
    for name, exhibit in document["exhibits"].items():
        assert exhibit["rows"] and all(len(row) == len(exhibit["head"]) for row in exhibit["rows"]), name
        assert exhibit["claims"] or name == "fig7"
        for claim in exhibit["claims"]:
            assert set(claim) == {"text", "published", "ours", "interval", "seeds", "verdict", "why"}
            assert claim["verdict"] in (HOLDS, FAILS, NOT_COMPARABLE) and claim["seeds"] == 1
            assert claim["why"] or claim["verdict"] != NOT_COMPARABLE


def test_the_report_states_every_claim_and_warns_of_toy_sizes(made):
    plan, document = made
    text = (plan.out / "REPRODUCTION.md").read_text()
    assert "The numbers mean nothing" in text and f"mrrec reproduce all --seeds 1 --out {plan.out} --fast" in text
    for exhibit in document["exhibits"].values():
        assert f"## {exhibit['title']}\n" in text
        for claim in exhibit["claims"]:
            assert f"| **{claim['verdict']}** |" in text
            assert text.count(f"| {claim['text'].replace('|', chr(92) + '|')} |") == 1


def test_figures_are_drawn(made):
    pytest.importorskip("matplotlib")
    plan, document = made
    for name in ("fig3", "fig4", "fig5", "fig6"):
        assert document["exhibits"][name]["picture"] == f"{name}.png"
        assert (plan.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_job_with_a_saved_result_does_not_run_again(made, monkeypatch):
    plan, document = made
    ran = []
    run_job = jobs.run_job
    monkeypatch.setattr(jobs, "run_job", lambda plan, job, say: ran.append(job[0]) or run_job(plan, job, say))
    assert reproduce(plan) == document and ran == []
    plan.result_path("costs", 0).unlink()
    reproduce(plan, ["fig3"])
    assert ran == []  # Fig. 3 does not need it
    again = reproduce(plan, ["table4"])
    assert ran == ["costs"] and tuple(again["exhibits"]) == EXHIBITS  # the other exhibits stay


def test_finished_jobs_survive_an_interruption(tmp_path, monkeypatch):
    plan = Plan(tmp_path, None, (0, 1), fast=True)

    def run_job(plan, job, say):
        if job == ("grpo", 1):
            raise KeyboardInterrupt
        plan.result_path(*job).parent.mkdir(parents=True, exist_ok=True)
        plan.result_path(*job).write_text("{}")

    monkeypatch.setattr(jobs, "run_job", run_job)
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, ["fig6"])
    saved = {path.stem for path in tmp_path.rglob("*.json")}
    assert saved == {"start-0", "grpo-0", "memories_per_call-0", "start-1"}
    assert not list(tmp_path.glob("*.md"))


def test_a_job_stands_after_the_jobs_it_needs():
    for exhibit in EXHIBITS:
        names = with_needs(NEEDED[exhibit])
        assert set(NEEDED[exhibit]) <= set(names)
        for place, name in enumerate(names):
            assert set(JOBS[name].needs) <= set(names[:place])
    assert with_needs(job for needed in NEEDED.values() for job in needed) == list(JOBS)


def test_another_plan_saves_its_results_elsewhere(tmp_path):
    plan = Plan(tmp_path)
    others = [replace(plan, fast=True), replace(plan, data=tmp_path / "d"), replace(plan, out=tmp_path / "o")]
    own = {plan.result_path("grpo", 0), plan.result_path("grpo", 1), plan.result_path("start", 0)}
    assert len(own | {other.result_path("grpo", 0) for other in others}) == 6


# ---- verdicts


def rows(ranks, arm="x"):
    return [Row(arm, GREEDY, "test", 0, "shop", f"q{i}", f"u{i}", rank, 1.0, 0, 0) for i, rank in enumerate(ranks)]


@pytest.mark.parametrize(
    ("new", "old", "verdict", "why"),
    [
        ([1] * 30, [9] * 30, HOLDS, ""),
        ([9] * 30, [1] * 30, FAILS, "it is below"),
        ([1, 9] * 15, [9, 1] * 15, FAILS, "the difference cannot be told from 0"),
        ([5] * 30, [5] * 30, FAILS, "the difference cannot be told from 0"),
    ],
)
def test_a_claim_holds_only_if_its_interval_lies_above_zero(tmp_path, new, old, verdict, why):
    claim = Results(Plan(tmp_path, None, (0,))).above("a above b", ".1 against .0", rows(new), rows(old))
    assert (claim.verdict, claim.why) == (verdict, why)
    low, high = claim.interval
    assert low <= high and (low > 0) == (verdict == HOLDS)


def test_only_test_rows_of_the_arm_are_read(made):
    plan, _ = made
    results = Results(plan)
    arms = {row.arm for row in results.rows("memories_per_call")}
    assert arms == {f"k = {k}" for k in (1, 2, 3, 4, 5)}
    assert {row.arm for row in results.rows("memories_per_call", "k = 2")} == {"k = 2"}
    assert {row.part for row in results.rows("references")} == {"test"}


# ---- jobs


def test_given_memory_is_the_users_own_and_older_than_the_query(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    queries = shop.split.test_queries[:6]
    for kind, level in (("naive", "record"), ("static", "profile")):
        memory = GivenMemory(shop.memory, kind)
        first = memory.search_many([(query, "mug") for query in queries], 2)
        second = memory.search_many([(query, "zzz") for query in queries], 2)
        for query, one, other in zip(queries, first, second, strict=True):
            entries = [entry for entry in shop.memory.entries(query) if entry.level == level]
            assert [*one, *other] == entries[:4]  # in order, whatever the search text is
            assert {entry.user for entry in one} == {query.user}
            assert query.target not in {purchase.item for purchase in shop.dataset.history(query)}


class Echo:
    """A system that only notes the texts of its queries."""

    def __init__(self):
        self.texts = []

    def rank(self, query, candidates):
        self.texts.append(query.text)
        return np.zeros(len(candidates))


def test_a_system_gets_the_query_followed_by_the_users_memory(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    for kind, lines in given_lines(shop.memory).items():
        for query in shop.split.test_queries[:3]:
            echo = Echo()
            assert Appended(echo, lines).rank(query, ["a", "b"]).shape == (2,)
            expected = " ".join([query.text, *(entry.text for entry in given_entries(shop.memory, query, kind))])
            assert echo.texts == [expected] and expected != query.text


def test_given_memory_is_counted(made):
    """BLaIR and Rec-R1: the tokens of the memory that each query got, and none without memory."""
    plan, _ = made
    results, shop = Results(plan), context_of(plan, 0).shop
    for job, arm in (("blair", "BLaIR"), ("rec_r1", "Rec-R1"), ("rec_r1_static", "Rec-R1")):
        for kind in ("no", "static"):
            for row in results.rows(job, f"{arm}, {kind} memory"):
                query = next(q for q in shop.split.test_queries if q.id == row.query)
                given = given_entries(shop.memory, query, kind) if kind == "static" else []
                assert bool(row.memory_tokens) == bool(given), (arm, kind)


def test_with_one_level_memory_has_entries_of_that_level_only(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    query = shop.split.test_queries[0]
    for name in ("record", "pattern", "profile"):
        memory = with_levels(shop, (name,)).memory
        assert {entry.level for entry in memory.entries(query)} == {name}
        assert {entry.level for entry in memory.search(query, query.text, 5)} == {name}
    assert {entry.level for entry in shop.memory.entries(query)} == {"record", "pattern", "profile"}


def test_a_text_becomes_an_episode_whose_first_token_is_not_learned():
    page = as_page([5, 6, 7])
    assert page.tokens == (5, 6, 7) and page.mask == (0, 1, 1)
    assert len(as_page(list(range(99))).tokens) == 48


def test_the_plain_start_reads_train_users_only(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    read = set(jobs.plain_texts(shop))
    others = [query for query in shop.dataset.queries if query.user not in shop.split.train]
    theirs = {entry.text for query in others for entry in shop.memory.entries(query) if entry.level == "record"}
    own = {entry.text for query in shop.split.train_queries for entry in shop.memory.entries(query)}
    assert others and not (theirs - own) & read


# ---- what is written


@pytest.mark.parametrize("folder", ["reproduction", "reproduction/magazine"])
def test_the_committed_report_is_made_from_the_json_beside_it(folder):
    document = json.loads((ROOT / folder / "reproduction.json").read_text(encoding="utf-8"))
    assert (ROOT / folder / "REPRODUCTION.md").read_text(encoding="utf-8") == as_markdown(document)


def test_texts_cannot_break_the_table():
    assert table_lines(("a",), [["x | y"], ["<script>"], ["\x1b[31m\n"]])[2:] == [
        "| x \\| y |",
        "| &lt;script> |",
        "| " + cell("\x1b[31m\n") + " |",
    ]
    assert "\x1b" not in cell("\x1b[31m") and "\n" not in cell("a\nb")


@pytest.mark.slow
def test_jobs_run_in_processes_too(tmp_path):
    """Two workers; a job starts only when the jobs it needs are done."""
    plan = Plan(tmp_path, None, (0,), fast=True)
    events = []
    run_jobs(plan, ["start", "costs"], 2, lambda *event: events.append(event))
    assert plan.result_path("costs", 0).is_file() and events[-1][1:3] == (2, 2)


def test_new_data_under_an_old_name_is_noticed(tmp_path):
    folder = make_world(FAST_WORLD).save(tmp_path / "shop")
    old = Plan(tmp_path / "out", folder, (0,), fast=True).result_path("start", 0)
    make_world(replace(FAST_WORLD, seed=1)).save(folder)
    new = Plan(tmp_path / "out", folder, (0,), fast=True)
    assert old != new.result_path("start", 0)
    moved = folder.rename(tmp_path / "moved")
    assert replace(new, data=moved).result_path("start", 0) == new.result_path("start", 0)


def test_the_report_of_another_plan_is_named_before_it_is_replaced(made, tmp_path):
    plan, document = made
    assert another_plan(plan) is None and another_plan(replace(plan, out=tmp_path)) is None
    assert another_plan(replace(plan, seeds=(0, 1))) == document["command"]
    (tmp_path / "reproduction.json").write_text(json.dumps(document), encoding="utf-8")
    assert another_plan(replace(plan, out=tmp_path)) is None  # the folder does not matter


def test_exhibits_of_another_plan_do_not_stay_even_if_the_report_has_no_command(made, tmp_path):
    plan, document = made
    older = {name: part for name, part in document.items() if name != "command"} | {"seeds": [0, 1]}
    (tmp_path / "reproduction.json").write_text(json.dumps(older), encoding="utf-8")
    (tmp_path / "jobs").symlink_to(plan.out / "jobs")  # its jobs need not run again
    again = replace(plan, out=tmp_path)
    assert "an older version" in another_plan(again)
    assert tuple(reproduce(again, ["table4"])["exhibits"]) == ("table4",)


@pytest.mark.parametrize("text", ["{", "[1]", '{"exhibits": 3}', '{"rows": []}'])
def test_a_file_that_is_no_reproduction_is_refused_before_anything_runs(text, tmp_path):
    (tmp_path / "reproduction.json").write_text(text, encoding="utf-8")
    refused(mrrec("reproduce", "all", "--fast", "--out", tmp_path), 4, "reproduction.json", "give another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["reproduction.json"]


def test_the_command_line(made, tmp_path):
    plan, document = made
    unknown = mrrec("reproduce", "table9", "--out", tmp_path)
    assert unknown.exit_code == 2 and "table9" in unknown.output and not list(tmp_path.iterdir())
    done = mrrec("reproduce", "all", "--fast", "--seeds", 1, "--out", plan.out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["exhibits"].keys() == document["exhibits"].keys()
    assert "replaces" not in done.stderr  # it is the same plan
