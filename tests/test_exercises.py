"""Each exercise can be solved, no listed mistake passes, and each stub is its solution without the answer."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tutorials"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tutorials/checks"))

import grade
import handout
from adapters import SOLUTIONS, STUBS, check_of, exercises, load, reference, replaced

NAMES = exercises()
WRONG = [(name, what) for name in NAMES for what in check_of(name).WRONG]
with_solutions = pytest.mark.skipif(not SOLUTIONS.is_dir(), reason="a handout has no tutorials/solutions")


@with_solutions
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes(name):
    check_of(name).check(reference(name))


@with_solutions
@pytest.mark.parametrize(("name", "what"), WRONG)
def test_a_wrong_answer_does_not_pass(name, what):
    """It fails with a message of the check, not by accident."""
    check = check_of(name)
    wrong = replaced(reference(name), check.WRONG[what])
    with pytest.raises(AssertionError) as caught:
        check.check(wrong)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_does_not_pass(name):
    with pytest.raises((AssertionError, NotImplementedError)):
        check_of(name).check(load(STUBS / f"{name}.py"))


def test_each_exercise_lists_at_least_three_mistakes():
    assert [name for name in NAMES if len(check_of(name).WRONG) < 3] == []


@with_solutions
def test_stubs_are_the_solutions_without_their_answers():
    """`make handout` writes them."""
    assert handout.stubs() == {path.stem: path.read_text(encoding="utf-8") for path in STUBS.glob("*.py")}
    assert sorted(handout.stubs()) == NAMES


@with_solutions
def test_the_course_lists_its_exercises():
    readme = handout.README.read_text(encoding="utf-8")
    assert handout.with_table(readme) == readme, "run `make handout`"


# --- marks ---


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n",
        "# BEGIN SOLUTION\nx = 1\n",
        "x = 1\n# END SOLUTION\n",
        "# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION\n",
    ],
)
def test_marks_that_do_not_match_are_refused(text):
    with pytest.raises(ValueError, match=r"SOLUTION|solution"):
        handout.without_solution(text)


def test_a_solution_is_cut_out():
    text = "X = None\n# BEGIN SOLUTION\nX = 1\n# END SOLUTION\n\n\n"
    text += "def f():\n    # BEGIN SOLUTION\n    return 2\n    # END SOLUTION\n"
    stub = 'X = None\n\n\ndef f():\n    raise NotImplementedError("write this, then run the check again")\n'
    assert handout.without_solution(text) == stub


@pytest.mark.skipif(not (handout.ROOT / ".git").exists(), reason="needs a git checkout")
def test_a_handout_holds_no_solution(tmp_path):
    """The copy has the files that git lists, apart from the solutions, and no stub holds an answer."""
    count = handout.write_handout(tmp_path / "out")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(names) == count and "Makefile" in names and "tutorials/checks/grade.py" in names
    assert not [name for name in names if "solutions" in name]
    texts = [(tmp_path / "out" / name).read_bytes() for name in names if name.startswith("tutorials/exercises/")]
    assert texts and not any(b"BEGIN SOLUTION" in text for text in texts)
    with pytest.raises(FileExistsError, match="not empty"):
        handout.write_handout(tmp_path / "out")


def test_a_handout_is_made_from_solutions_only(tmp_path, monkeypatch):
    """A student's copy has no solutions: nothing may be deleted there."""
    monkeypatch.setattr(handout, "SOLUTIONS", tmp_path / "none")
    shutil.copytree(STUBS, tmp_path / "stubs")
    with pytest.raises(FileNotFoundError, match="a handout already"):
        handout.write_stubs(tmp_path / "stubs")
    assert len(list((tmp_path / "stubs").glob("*.py"))) == len(NAMES)


# --- grading ---

NAME = "bm25_idf"


def graded(tmp_path, text, capsys, *words):
    """(exit code, printed text) of grading this answer; with None, no file is written first."""
    if text is not None:
        (tmp_path / f"{NAME}.py").write_text(text, encoding="utf-8")
    code = grade.main(["--answers", str(tmp_path), *words])
    return code, capsys.readouterr().out


STUB = (STUBS / f"{NAME}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (STUB, "not started"),
        (STUB + "\n# thinking\n", r"failed: a part is not written yet \(bm25_idf.py, line \d+\)"),
        (
            "def idf_lucene(n, df):\n    return 1.0\n",
            r"failed: idf_lucene\(n=4, df=1\): expected 1.204 \(log\(1 \+ 3.5 / 1.5\)\)",
        ),
        ("def idf_lucene(n, df):\n    pass\n", r"failed: .*returned None: is there a `return`\?"),
        ("def idf_lucene(n, df):\n    return n.x\n", r"failed: AttributeError: .* \(bm25_idf.py, line 2\)"),
        ("def idf_lucene(n, df:\n", r"failed: SyntaxError: .*\(bm25_idf.py, line 1\)"),
        ("import sys\nsys.exit(0)\n", r"failed: SystemExit: 0 \(bm25_idf.py, line 2\)"),
        ("x = 1\n", "failed: AttributeError: .*idf_lucene"),
    ],
    ids=["stub", "touched", "wrong", "no return", "error", "no Python", "leaves", "no function"],
)
def test_each_answer_gets_one_line_that_helps(tmp_path, capsys, text, verdict):
    code, printed = graded(tmp_path, text, capsys, NAME)
    assert code == 1 and re.fullmatch(rf"{NAME} +{verdict}.*\n", printed), printed


@with_solutions
def test_a_right_answer_passes(tmp_path, capsys):
    text = (SOLUTIONS / f"{NAME}.py").read_text(encoding="utf-8")
    assert graded(tmp_path, text, capsys, NAME) == (0, f"{NAME}  passed\n")


def test_an_endless_answer_is_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grade, "SECONDS", 1)
    code, printed = graded(tmp_path, "def idf_lucene(n, df):\n    while True:\n        pass\n", capsys, NAME)
    assert code == 1 and "a loop that does not end?" in printed


def test_all_answers_get_one_line_each(tmp_path, capsys):
    code, printed = graded(tmp_path, STUB, capsys)
    assert code == 1 and printed.count("not started") == len(NAMES) and f"0 of {len(NAMES)} passed" in printed
    code, printed = graded(tmp_path, None, capsys, "--json")
    assert {entry["verdict"] for entry in json.loads(printed).values()} == {"not started"}


def test_a_stub_is_copied_once_and_never_over_an_answer(tmp_path, capsys):
    assert graded(tmp_path, None, capsys, NAME) == (0, f"{NAME}  not started\n")  # the first call begins the exercise
    assert graded(tmp_path, None, capsys, NAME) == (1, f"{NAME}  not started\n")
    assert (tmp_path / f"{NAME}.py").read_text(encoding="utf-8") == STUB
    graded(tmp_path, "x = 1\n", capsys, NAME)
    assert (tmp_path / f"{NAME}.py").read_text(encoding="utf-8") == "x = 1\n"


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_passes_on_the_verdict():
    """No command follows the check that could turn its exit code into a success."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words = ["make", "-n", "exercise", f"EX={NAME}"]
    done = subprocess.run(words, cwd=handout.ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith(f"/python tutorials/checks/grade.py --must-name {NAME}")


@pytest.mark.parametrize("words", [["nonsense"], ["--answers", "nowhere"], ["--must-name"]])
def test_wrong_usage_is_one_line_and_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        grade.main(words)
    assert caught.value.code == 2
