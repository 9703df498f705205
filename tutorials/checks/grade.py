"""Grade answers: `python tutorials/checks/grade.py [--answers FOLDER] [--json] [NAME ...]`, one line per exercise.

The verdict is "passed", "not started", or "failed" with the first thing to look at. `make exercise EX=NAME` and
`make test ANSWERS=mine` call this file. If you name an exercise that has no answer yet, its stub is copied into the
folder. Exit code: 0 if every answer passed or was begun just now, 1 if not, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the checks import `adapters` from here
os.environ.setdefault("OMP_NUM_THREADS", "1")

from adapters import ROOT, STUBS, check_of, exercises, load

SECONDS = 60  # an answer that takes longer is stopped
PASSED, FAILED, NOT_STARTED = "passed", "failed", "not started"


class TooLong(Exception):
    """The answer ran longer than SECONDS."""


def verdict(name: str, path: Path) -> tuple[str, str]:
    """The verdict on one answer: (PASSED, FAILED or NOT_STARTED; the first thing to look at, if it failed)."""
    stub = STUBS / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") == stub.read_text(encoding="utf-8"):
        return NOT_STARTED, ""
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(sys.stderr):  # keep what an answer prints out of the verdicts
            check_of(name).check(load(path))
    except NotImplementedError as error:
        return FAILED, f"a part is not written yet{_where(error, path)}"
    except AssertionError as error:
        message = " ".join(str(error).split())
        return FAILED, message or f"an assertion failed without a message{_where(error, path)}"
    except TooLong:
        return FAILED, f"stopped after {SECONDS} seconds: a loop that does not end?"
    except (Exception, SystemExit) as error:
        return FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}{_where(error, path)}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return PASSED, ""


def _too_long(*_) -> None:
    raise TooLong


def _where(error: BaseException, path: Path) -> str:
    """The last line of the answer that was reached, as " (NAME.py, line N)"; "" if unknown."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" ({path.name}, line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" ({path.name}, line {lines[-1]})" if lines else ""


def begin(name: str, answers: Path) -> bool:
    """Copy the stub to where the answer is written. Returns False if a file is there already."""
    path = answers / f"{name}.py"
    if path.exists():
        return False
    answers.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUBS / f"{name}.py", path)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="grade.py", description="Grade answers, one line per exercise.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the exercises to grade (default: all)")
    parser.add_argument("--answers", type=Path, default=ROOT / "answers", help="the folder with the answers")
    parser.add_argument("--must-name", action="store_true", help="fail if no exercise is named; for `make exercise`")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    known = exercises()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no exercise is called {', '.join(unknown)}; there are: {', '.join(known)}")
    if options.must_name and not options.names:
        parser.error(f"name an exercise: make exercise EX={known[0]}; there are: {', '.join(known)}")
    answers = options.answers.resolve()
    if not options.names and not answers.is_dir():
        parser.error(f"there is no folder {options.answers}; `make exercise EX={known[0]}` creates it")
    begun = [name for name in options.names if begin(name, answers)]
    for name in begun:
        place = os.path.relpath(answers / f"{name}.py")
        print(f"begun: write your answer into {place}, then run this again", file=sys.stderr)
    found = {name: verdict(name, answers / f"{name}.py") for name in options.names or known}
    if options.json:
        rows = {name: {"verdict": result, "look_at": why} for name, (result, why) in found.items()}
        print(json.dumps(rows, indent=1))
    else:
        width = max(map(len, found))
        for name, (result, why) in found.items():
            print(f"{name:{width}}  {result}{': ' if why else ''}{why}")
        if not options.names:
            print(f"{sum(result == PASSED for result, _ in found.values())} of {len(found)} passed")
    return 0 if all(result == PASSED or name in begun for name, (result, _) in found.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
