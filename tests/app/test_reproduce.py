"""The reproduction: every exhibit at toy sizes, verdicts from made-up rows, and what is kept when it is stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest

import mrrec_mini.app.jobs as experiments
import mrrec_mini.app.reproduce as reproduction
from mrrec_mini.app.jobs import (
    JOBS,
    Appended,
    GivenMemory,
    Plan,
    as_page,
    context_of,
    given_lines,
    latest_records,
    profile_lines,
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
    Findings,
    another_plan,
    reproduce,
    table_lines,
)
from mrrec_mini.evaluate import GREEDY, Row
from mrrec_mini.recipe import FAST_WORLD
from mrrec_mini.world import make_world
from runs import mrrec, refused


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(plan, document) of all exhibits at toy sizes: the path that `mrrec reproduce all --fast` takes."""
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


def test_the_report_says_every_claim_and_that_toy_sizes_say_nothing(made):
    plan, document = made
    text = (plan.out / "REPRODUCTION.md").read_text()
    assert "Its numbers say nothing" in text and f"mrrec reproduce all --seeds 1 --out {plan.out} --fast" in text
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


def test_what_is_kept_is_not_made_again(made, monkeypatch):
    plan, document = made
    ran = []
    run_job = experiments.run_job
    monkeypatch.setattr(experiments, "run_job", lambda plan, name, seed: ran.append(name) or run_job(plan, name, seed))
    assert reproduce(plan) == document and ran == []
    plan.kept("costs", 0).unlink()
    reproduce(plan, ["fig3"])
    assert ran == []  # Fig. 3 has no need of it
    again = reproduce(plan, ["table4"])
    assert ran == ["costs"] and tuple(again["exhibits"]) == EXHIBITS  # what was there before stays


def test_what_was_done_before_an_interruption_stays_done(tmp_path, monkeypatch):
    plan = Plan(tmp_path, None, (0, 1), fast=True)

    def job(plan, name, seed):
        if (name, seed) == ("grpo", 1):
            raise KeyboardInterrupt
        plan.kept(name, seed).parent.mkdir(parents=True, exist_ok=True)
        plan.kept(name, seed).write_text("{}")

    monkeypatch.setattr(experiments, "run_job", job)
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, ["fig6"])
    kept = {path.stem for path in tmp_path.rglob("*.json")}
    assert kept == {"start-0", "grpo-0", "memories_a_call-0", "start-1"}
    assert not list(tmp_path.glob("*.md"))


def test_jobs_wait_for_what_they_need():
    for exhibit in EXHIBITS:
        names = with_needs(NEEDED[exhibit])
        assert set(NEEDED[exhibit]) <= set(names)
        for place, name in enumerate(names):
            assert set(JOBS[name].needs) <= set(names[:place])
    assert with_needs(job for jobs in NEEDED.values() for job in jobs) == list(JOBS)


def test_another_plan_keeps_its_findings_elsewhere(tmp_path):
    plan = Plan(tmp_path)
    others = [replace(plan, fast=True), replace(plan, data=tmp_path / "d"), replace(plan, out=tmp_path / "o")]
    assert (
        len({plan.kept("grpo", 0), plan.kept("grpo", 1), plan.kept("start", 0), *(o.kept("grpo", 0) for o in others)})
        == 6
    )


# ---- verdicts


def rows(ranks, arm="x"):
    return [Row(arm, GREEDY, "test", 0, "shop", f"q{i}", rank, 1.0, 0, 0) for i, rank in enumerate(ranks)]


@pytest.mark.parametrize(
    ("new", "old", "verdict", "why"),
    [
        ([1] * 30, [9] * 30, HOLDS, ""),
        ([9] * 30, [1] * 30, FAILS, "it is below"),
        ([1, 9] * 15, [9, 1] * 15, FAILS, "the difference cannot be told from 0"),
        ([5] * 30, [5] * 30, FAILS, "the difference cannot be told from 0"),
    ],
)
def test_a_claim_holds_only_where_its_interval_lies_above_zero(tmp_path, new, old, verdict, why):
    claim = Findings(Plan(tmp_path, None, (0,))).above("a above b", ".1 against .0", rows(new), rows(old))
    assert (claim.verdict, claim.why) == (verdict, why)
    low, high = claim.interval
    assert low <= high and (low > 0) == (verdict == HOLDS)


def test_only_test_rows_of_the_arm_are_read(made):
    plan, _ = made
    found = Findings(plan)
    arms = {row.arm for row in found.rows("memories_a_call")}
    assert arms == {f"k = {k}" for k in (1, 2, 3, 4, 5)}
    assert {row.arm for row in found.rows("memories_a_call", "k = 2")} == {"k = 2"}
    assert {row.part for row in found.rows("references")} == {"test"}


# ---- jobs


def test_given_memory_is_the_askers_own_and_from_before_the_query(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    queries = shop.split.test_queries[:6]
    for entries_of, level in ((latest_records, "record"), (profile_lines, "profile")):
        memory = GivenMemory(shop.memory, entries_of)
        first = memory.search_many([(query, "mug") for query in queries], 2)
        second = memory.search_many([(query, "zzz") for query in queries], 2)
        for query, one, other in zip(queries, first, second, strict=True):
            assert [*one, *other] == list(entries_of(shop.memory, query))[:4]  # in order, whatever is asked
            assert {(entry.user, entry.level) for entry in one} == {(query.user, level)}
            assert set(one) <= set(shop.memory.entries(query))
            assert query.target not in {met.item for met in shop.dataset.history(query)}


class Echo:
    """A system that only notes what it was asked."""

    def __init__(self):
        self.asked = []

    def rank(self, query, candidates):
        self.asked.append(query.text)
        return np.zeros(len(candidates))


def test_a_system_is_asked_the_query_followed_by_the_askers_memory(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    for kind, lines in given_lines(shop.memory).items():
        entries_of = {"naive": latest_records, "static": profile_lines}[kind]
        for query in shop.split.test_queries[:3]:
            echo = Echo()
            assert Appended(echo, lines).rank(query, ["a", "b"]).shape == (2,)
            expected = " ".join([query.text, *(entry.text for entry in entries_of(shop.memory, query))])
            assert echo.asked == [expected] and expected != query.text


def test_given_memory_is_counted(made):
    """BLaIR and Rec-R1 with memory: the tokens of what each query was given; without: none."""
    plan, _ = made
    found, shop = Findings(plan), context_of(plan, 0).shop
    for job, arm in (("blair", "BLaIR"), ("rec_r1", "Rec-R1"), ("rec_r1_static", "Rec-R1")):
        for kind in ("no", "static"):
            for row in found.rows(job, f"{arm}, {kind} memory"):
                query = next(q for q in shop.split.test_queries if q.id == row.query)
                given = profile_lines(shop.memory, query) if kind == "static" else []
                assert bool(row.memory_tokens) == bool(given), (arm, kind)


def test_a_level_alone_is_all_that_is_remembered(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    query = shop.split.test_queries[0]
    for name in ("record", "pattern", "profile"):
        alone = with_levels(shop, (name,)).memory
        assert {entry.level for entry in alone.entries(query)} == {name}
        assert {entry.level for entry in alone.search(query, query.text, 5)} == {name}
    assert {entry.level for entry in shop.memory.entries(query)} == {"record", "pattern", "profile"}


def test_a_page_is_read_token_by_token():
    page = as_page([5, 6, 7])
    assert page.tokens == (5, 6, 7) and page.mask == (0, 1, 1)
    assert as_page([5]) is None and len(as_page(list(range(99))).tokens) == 48


def test_the_plain_start_reads_train_users_only(made):
    plan, _ = made
    shop = context_of(plan, 0).shop
    read = set(experiments.plain_texts(shop))
    others = [query for query in shop.dataset.queries if query.user not in shop.split.train]
    theirs = {entry.text for query in others for entry in shop.memory.entries(query) if entry.level == "record"}
    own = {entry.text for query in shop.split.train_queries for entry in shop.memory.entries(query)}
    assert others and not (theirs - own) & read


# ---- what is written


def test_texts_cannot_break_the_table():
    assert table_lines(("a",), [["x | y"], ["<script>"], ["\x1b[31m\n"]])[2:] == [
        "| x \\| y |",
        "| &lt;script> |",
        "| " + reproduction.cell("\x1b[31m\n") + " |",
    ]
    assert "\x1b" not in reproduction.cell("\x1b[31m") and "\n" not in reproduction.cell("a\nb")


@pytest.mark.slow
def test_jobs_run_in_processes_too(tmp_path):
    """Two at a time, and one only begins when what it needs is there."""
    plan = Plan(tmp_path, None, (0,), fast=True)
    said = []
    run_jobs(plan, ["start", "costs"], 2, lambda *event: said.append(event))
    assert plan.kept("costs", 0).is_file() and said[-1][1:3] == (2, 2)


def test_a_data_set_made_anew_under_the_same_name_is_another(tmp_path):
    folder = make_world(FAST_WORLD).save(tmp_path / "shop")
    kept = Plan(tmp_path / "out", folder, (0,), fast=True).kept("start", 0)
    make_world(replace(FAST_WORLD, seed=1)).save(folder)
    anew = Plan(tmp_path / "out", folder, (0,), fast=True)
    assert kept != anew.kept("start", 0)
    moved = folder.rename(tmp_path / "moved")
    assert replace(anew, data=moved).kept("start", 0) == anew.kept("start", 0)


def test_the_report_of_another_plan_is_named_before_it_is_replaced(made, tmp_path):
    plan, document = made
    assert another_plan(plan) is None and another_plan(replace(plan, out=tmp_path)) is None
    assert another_plan(replace(plan, seeds=(0, 1))) == document["command"]
    (tmp_path / "reproduction.json").write_text(json.dumps(document), encoding="utf-8")
    assert another_plan(replace(plan, out=tmp_path)) is None  # wherever it lies


def test_exhibits_of_another_plan_do_not_stay_even_where_nobody_wrote_the_command_down(made, tmp_path):
    plan, document = made
    older = {name: part for name, part in document.items() if name != "command"} | {"seeds": [0, 1]}
    (tmp_path / "reproduction.json").write_text(json.dumps(older), encoding="utf-8")
    (tmp_path / "jobs").symlink_to(plan.out / "jobs")  # what it needs is found
    again = replace(plan, out=tmp_path)
    assert "an older version" in another_plan(again)
    assert tuple(reproduce(again, ["table4"])["exhibits"]) == ("table4",)


@pytest.mark.parametrize("text", ["{", "[1]", '{"exhibits": 3}', '{"rows": []}'])
def test_a_reproduction_that_is_none_is_refused_before_anything_is_run(text, tmp_path):
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
    assert "replaces" not in done.stderr  # the same plan goes on
