"""Each exercise can be solved, no listed mistake passes, and a stub is the solution without its answer."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tutorials"))

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
    """And fails with a sentence of the check, not by an accident."""
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
