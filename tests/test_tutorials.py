"""The notebooks match their sources, were executed, have the shape of the course, and run today at the small size."""

import re
import runpy
import statistics
import sys
import warnings
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import pytest

from house import ROOT, machine_paths

TUTORIALS = ROOT / "tutorials"
sys.path.insert(0, str(TUTORIALS))
sys.path.insert(0, str(ROOT / "tutorials/checks"))

import run  # noqa: E402
from adapters import exercises  # noqa: E402

SOURCES = sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
by_name = pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
WAY = "`data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`"
EXERCISE = re.compile(r"`make exercise EX=(\w+)`")
TRAINS = re.compile(r"(?<![.\w])(?:warm_start|warm_policy|start_policy|copying_policy|imitate|train)\(|tour\.start")


def notebook(source: Path) -> nbformat.NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def prose(source: Path) -> str:
    return "\n".join(cell.source for cell in jupytext.read(source).cells if cell.cell_type == "markdown")


def test_there_are_thirteen():
    assert [int(path.stem[:2]) for path in SOURCES] == list(range(13))


@by_name
def test_a_notebook_is_its_source(source):
    assert run.cells(jupytext.read(source)) == run.cells(notebook(source)), "run `python tutorials/run.py --write`"


@by_name
def test_cells_that_show_a_trained_policy_are_tagged_and_something_is_asserted(source):
    """On another processor they show other numbers. Cells without a tag are compared within 5 %."""
    code = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    tags = [run.tags_of(cell) for cell in code]
    assert all(tag in ([], [run.LEARNED], [run.WRITTEN]) for tag in tags)
    first = next((n for n, cell in enumerate(code) if TRAINS.search(cell.source)), None)
    assert (first is None) == (not any(tags))
    if first is not None:
        assert not any(tags[:first]) and any("assert " in cell.source for cell in code[first:])


@by_name
def test_a_notebook_was_executed_from_top_to_bottom(source):
    cells = [cell for cell in notebook(source).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert machine_paths([source.with_suffix(".ipynb"), source]) == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1, "every notebook has a picture"


@by_name
def test_a_notebook_has_the_shape_of_the_course(source):
    text, code = prose(source), [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    assert text.startswith(f"# {source.stem[:2]} · ") and "**Question.**" in text and WAY in text
    assert text.count("**Predict.**") >= 2
    for part in ("## What breaks it", "## Summary", "## Exercises"):
        assert part in text, part
    assert re.search(r"^\| .* \| file \|$|^\| .* \| where \|$|^\| there \|", text, re.M), "a table of symbols"
    assert "**By hand" in text or "By hand" in text
    assert statistics.median(len(cell.splitlines()) for cell in code[1:]) <= 10, "the cells are short"
    assert sum(cell.count("assert ") for cell in code) >= 3, "the numbers in the text are asserted"
    assert any("inspect.getsource(" in cell for cell in code), "the source of one of the package's functions is shown"
    assert EXERCISE.findall(text), "the exercises are listed with their commands"


def test_every_exercise_has_a_notebook_and_every_named_one_exists():
    named = {name for source in SOURCES for name in EXERCISE.findall(prose(source))} - {"name"}
    assert named == set(exercises())


@by_name
def test_a_notebook_runs_at_the_small_size(source, monkeypatch):
    """Runs with today's package, in this process. `make tutorials` does the same in a kernel, at full size."""
    matplotlib.use("agg")
    monkeypatch.chdir(TUTORIALS)
    monkeypatch.setenv("MRREC_SMALL", "1")
    monkeypatch.setattr(sys, "path", [str(TUTORIALS), *sys.path])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        runpy.run_path(str(source))
    sys.modules["matplotlib.pyplot"].close("all")


# --- the check that source, outputs and package agree ---


def one_cell(*texts: str, source: str = "print(1)", picture: bool = False) -> nbformat.NotebookNode:
    """A notebook with one executed cell that printed these texts."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
    if picture:
        outputs.append(nbformat.v4.new_output("display_data", {"image/png": "x"}))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, outputs=outputs)])


@pytest.mark.parametrize(
    "fresh",
    [one_cell("nDCG .43\n"), one_cell("nDCG .44\n"), one_cell("nDCG  0.43 \n"), one_cell("nDCG ", ".43\n")],
    ids=["same", "within 5 %", "other spaces", "in pieces"],
)
def test_outputs_that_agree(fresh):
    fresh.cells[0].outputs = run.joined(fresh.cells[0].outputs)
    assert run.differences(one_cell("nDCG .43\n"), fresh) == []


def test_tags_say_what_is_compared_for_a_trained_policy():
    old, other = one_cell("nDCG [.43  inf]\n"), one_cell("nDCG [ .9 1.25]\n")
    for learned in (old, other):
        learned.cells[0].metadata["tags"] = ["learned"]
    assert run.differences(old, other) == []
    for fresh in (
        one_cell("recall .43 inf\n"),
        one_cell("nDCG .43 inf .5\n"),
        one_cell("nDCG [.43 inf]\n", picture=True),
    ):
        fresh.cells[0].metadata["tags"] = ["learned"]
        assert len(run.differences(old, fresh)) == 1
    assert run.differences(old, one_cell("nDCG [.43 inf]\n")) == [
        "its cells are not those of the source; run it with --write"
    ]
    said, silent = one_cell("policy <think>mug\n"), one_cell("")
    for written in (old, said, silent):
        written.cells[0].metadata["tags"] = ["written"]
    assert run.differences(old, said) == []
    assert run.differences(old, silent) == ["cell 0 prints something either in the notebook or now, but not in both"]


@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        (one_cell("nDCG .53\n"), "printed 'nDCG .43' in the notebook and 'nDCG .53' now"),
        (one_cell("recall .43\n"), "'recall .43' now"),
        (one_cell("nDCG inf\n"), "printed 'nDCG .43' in the notebook and 'nDCG inf' now"),
        (one_cell("nDCG nan\n"), "printed 'nDCG .43' in the notebook and 'nDCG nan' now"),
        (one_cell("nD CG .43\n"), "printed 'nDCG .43' in the notebook and 'nD CG .43' now"),
        (one_cell("nDCG .43\n", "more\n"), "1 lines in the notebook and 2 now"),
        (one_cell("nDCG .43\n", source="print(2)"), "its cells are not those of the source"),
        (one_cell("nDCG .43\n", picture=True), "0 pictures in the notebook and 1 now"),
    ],
    ids=[
        "another number",
        "another word",
        "infinite",
        "not a number",
        "cut words",
        "another line",
        "another source",
        "another picture",
    ],
)
def test_outputs_that_do_not_agree_are_named(fresh, said):
    fresh.cells[0].outputs = run.joined(fresh.cells[0].outputs)
    [wrong] = run.differences(one_cell("nDCG .43\n"), fresh)
    assert said in wrong


def test_an_unknown_tutorial_is_refused():
    with pytest.raises(FileNotFoundError, match="no tutorial is called 99"):
        run.sources(["99"])
    assert [path.stem for path in run.sources(["03", "01_world"])] == ["01_world", "03_bm25"]


@pytest.mark.slow
def test_one_in_a_fresh_kernel():
    pytest.importorskip("nbclient", reason="needs the extra `notebooks`: pip install -e '.[notebooks]'")
    [source] = run.sources(["03"])
    assert run.run(source, write=False)[0] == []
