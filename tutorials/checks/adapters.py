"""Whose answer is checked: the learner's or the reference's; the tests are the same for both.

An exercise NAME is four files: `tutorials/solutions/NAME.py` (the reference, its answer between markers),
`tutorials/exercises/NAME.py` (the same without the answer, written by `make handout`), `tutorials/checks/check_NAME.py`
(what is asked of an answer, and wrong answers that must not pass) and `answers/NAME.py`, the learner's own.

A check module has `check(answer)`, which raises AssertionError with a sentence that helps, and `WRONG`: a few plausible
mistakes, {"what went wrong": {"name in the answer": what stands there instead}}.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CHECKS, STUBS, SOLUTIONS = ROOT / "tutorials/checks", ROOT / "tutorials/exercises", ROOT / "tutorials/solutions"


def exercises() -> list[str]:
    """The names of all exercises."""
    return sorted(path.stem.removeprefix("check_") for path in CHECKS.glob("check_*.py"))


def load(path: Path) -> ModuleType:
    """A file as a module of its own, read anew."""
    spec = importlib.util.spec_from_file_location(f"answer_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_of(name: str) -> ModuleType:
    return load(CHECKS / f"check_{name}.py")


def reference(name: str) -> ModuleType:
    return load(SOLUTIONS / f"{name}.py")


def replaced(answer: ModuleType, names: Mapping[str, object]) -> SimpleNamespace:
    """An answer in which something else stands under these names. KeyError: the answer has no such name."""
    for name in names:
        if not hasattr(answer, name):
            raise KeyError(f"{answer.__name__} has no {name} that could be replaced")
    return SimpleNamespace(**{**vars(answer), **names})


def expect(got: object, wanted: object, asked: str, because: str, hint: str = "", within: float = 1e-5) -> None:
    """`got` is `wanted`, numbers to `within`; else an AssertionError that says what was asked, wanted, why, and got.

    asked: "idf(df=1, n=4)"; because: "log(1 + 3.5 / 1.5)", the arithmetic; hint: the usual cause.
    """
    if got is None:
        raise AssertionError(f"{asked} returned None: is there a `return`?")
    try:
        right = _same(got, wanted, within)
    except Exception as error:
        raise AssertionError(f"{asked}: cannot be compared with {_short(wanted)} ({type(error).__name__})") from None
    if not right:
        why = f" = {because}" if because else ""
        tail = f". {hint}" if hint else ""
        raise AssertionError(f"{asked}: expected {_short(wanted)}{why}, yours is {_short(got)}{tail}")


def expect_predictions(answer: object, right: Mapping[str, tuple[object, str]]) -> None:
    """Each prediction of a *predict, then run* exercise: {its name: (how it comes out, a hint)}.

    Numbers to .02, letters and lists in any order; what is still None has not been predicted.
    """
    for name, (wanted, hint) in right.items():
        yours = getattr(answer, name)
        if yours is None:
            raise AssertionError(f"{name} is still None: write your prediction down first")
        if not _predicted(yours, wanted):
            raise AssertionError(f"{name}: you predicted {yours!r}, and it comes out otherwise. {hint}")


def _predicted(yours: object, wanted: object) -> bool:
    if isinstance(wanted, bool) or isinstance(yours, bool):
        return yours is wanted
    if isinstance(wanted, str):
        return isinstance(yours, str) and sorted(yours.upper().replace(" ", "").replace(",", "")) == sorted(
            wanted.upper()
        )
    if isinstance(wanted, list):
        return isinstance(yours, (list, tuple, set)) and sorted(yours) == wanted
    return isinstance(yours, (int, float)) and abs(yours - wanted) < 0.02


def _same(got: object, wanted: object, within: float) -> bool:
    if isinstance(wanted, str) or (isinstance(wanted, (list, tuple)) and any(isinstance(w, str) for w in wanted)):
        return got == wanted if isinstance(wanted, str) else list(got) == list(wanted)
    mine, theirs = _array(got), _array(wanted)
    return mine.shape == theirs.shape and bool(np.allclose(mine, theirs, rtol=within, atol=within, equal_nan=True))


def _array(value: object) -> np.ndarray:
    return np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=float)


def _short(value: object) -> str:
    try:
        numbers = np.round(_array(value), 4)
        return str(numbers.tolist())
    except (TypeError, ValueError):
        text = repr(value)
        return text if len(text) < 120 else text[:117] + "..."
