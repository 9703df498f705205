"""Load answers, and compare them with what is expected; used by the checks, by `grade.py` and by the tests.

An exercise NAME consists of four files:
- `tutorials/solutions/NAME.py`: the reference, with its answer between marks;
- `tutorials/exercises/NAME.py`: the stub, which is the same without the answer (`make handout` writes it);
- `tutorials/checks/check_NAME.py`: the check, and wrong answers that it must refuse;
- `answers/NAME.py`: the learner's own answer.

The same check runs on the learner's answer and on the reference. A check module has two parts. `check(answer)` raises
AssertionError with a helpful sentence if the answer is wrong. `WRONG` lists a few plausible mistakes as
{"what went wrong": {"a name in the answer": its wrong replacement}}.
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
    """Execute a file as a new module, each time it is called."""
    spec = importlib.util.spec_from_file_location(f"answer_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_of(name: str) -> ModuleType:
    """The check module of an exercise."""
    return load(CHECKS / f"check_{name}.py")


def reference(name: str) -> ModuleType:
    """The reference solution of an exercise. Raises FileNotFoundError in a handout, which has none."""
    return load(SOLUTIONS / f"{name}.py")


def replaced(answer: ModuleType, names: Mapping[str, object]) -> SimpleNamespace:
    """A copy of an answer with these names replaced. Raises KeyError if the answer has no such name."""
    for name in names:
        if not hasattr(answer, name):
            raise KeyError(f"{answer.__name__} has no {name} that could be replaced")
    return SimpleNamespace(**{**vars(answer), **names})


def expect(got: object, wanted: object, asked: str, because: str, hint: str = "", within: float = 1e-5) -> None:
    """Compare `got` with `wanted`; numbers may differ by `within` (relative or absolute).

    asked: the call, such as "idf(df=1, n=4)". because: the arithmetic, such as "log(1 + 3.5 / 1.5)". hint: the usual
    cause of a wrong result. Raises AssertionError, with all of these in its message, if the two differ.
    """
    if got is None:
        raise AssertionError(f"{asked} returned None: is there a `return`?")
    try:
        right = _same(got, wanted, within)
    except Exception as error:
        raise AssertionError(f"{asked}: cannot be compared with {_short(wanted)} ({type(error).__name__})") from None
    if not right:
        why = f" ({because})" if because else ""
        tail = f". {hint}" if hint else ""
        raise AssertionError(f"{asked}: expected {_short(wanted)}{why}, yours is {_short(got)}{tail}")


def expect_predictions(answer: object, right: Mapping[str, tuple[object, str]]) -> None:
    """Check each prediction of a *predict, then run* exercise. right: {its name: (the right value, a hint)}.

    Numbers may differ by .02; letters and list entries may be in any order. Raises AssertionError at the first
    prediction that is wrong or still None.
    """
    for name, (wanted, hint) in right.items():
        yours = getattr(answer, name)
        if yours is None:
            raise AssertionError(f"{name} is still None: write down your prediction first")
        if not _predicted(yours, wanted):
            raise AssertionError(f"{name}: you predicted {yours!r}, which is wrong. {hint}")


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
