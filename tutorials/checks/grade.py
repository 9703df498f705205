"""Grade answers: `python tutorials/checks/grade.py [--answers FOLDER] [--json] [NAME ...]`, one line an exercise.

passed / failed with the first thing to look at / not started. `make exercise EX=NAME` and `make test ANSWERS=mine` call
this file. An exercise that is asked for by name and has no answer yet gets one: a copy of its stub in the folder.
Exit code: 0 where all that was asked for passed or was begun just now, 1 where not, 2 for wrong usage.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where the checks find `adapters`
os.environ.setdefault("OMP_NUM_THREADS", "1")

from adapters import ROOT, STUBS, check_of, exercises, load

SECONDS = 60  # an answer that takes longer is stopped
PASSED, FAILED, NOT_STARTED = "passed", "failed", "not started"


class TooLong(Exception):
    """The answer did not come to an end."""


def verdict(name: str, path: Path) -> tuple[str, str]:
    """(passed, failed or not started; the first thing to look at)."""
    stub = STUBS / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") == stub.read_text(encoding="utf-8"):
        return NOT_STARTED, ""
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(sys.stderr):  # what an answer prints is no verdict
            check_of(name).check(load(path))
    except NotImplementedError as error:
        return FAILED, f"a part is not written yet{_where(error, path)}"
    except AssertionError as error:
        said = " ".join(str(error).split())
        return FAILED, said or f"an assertion without words{_where(error, path)}"
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
    """The last line of the answer that was reached."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" ({path.name}, line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" ({path.name}, line {lines[-1]})" if lines else ""


def begin(name: str, answers: Path) -> bool:
    """Lay the stub where the answer is written; False where something is there already."""
    path = answers / f"{name}.py"
    if path.exists():
        return False
    answers.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUBS / f"{name}.py", path)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="grade.py", description="Grade answers, one line an exercise.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="exercises; none: all")
    parser.add_argument("--answers", type=Path, default=ROOT / "answers", help="the folder of the answers")
    parser.add_argument("--must-name", action="store_true", help="refuse to grade all; for `make exercise`")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    known = exercises()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no exercise is called {', '.join(unknown)}; there are: {', '.join(known)}")
    if options.must_name and not options.names:
        parser.error(f"name one: make exercise EX={known[0]}; there are {', '.join(known)}")
    answers = options.answers.resolve()
    if not options.names and not answers.is_dir():
        parser.error(f"there is no folder {options.answers}; `make exercise EX={known[0]}` begins one")
    begun = [name for name in options.names if begin(name, answers)]
    for name in begun:
        place = os.path.relpath(answers / f"{name}.py")
        print(f"begun: write your answer into {place}, then run this again", file=sys.stderr)
    found = {name: verdict(name, answers / f"{name}.py") for name in options.names or known}
    if options.json:
        print(json.dumps({name: {"verdict": said, "look_at": why} for name, (said, why) in found.items()}, indent=1))
    else:
        width = max(map(len, found))
        for name, (said, why) in found.items():
            print(f"{name:{width}}  {said}{': ' if why else ''}{why}")
        if not options.names:
            print(f"{sum(said == PASSED for said, _ in found.values())} of {len(found)} passed")
    return 0 if all(said == PASSED or name in begun for name, (said, _) in found.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
