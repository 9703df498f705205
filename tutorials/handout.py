"""Make the student's version: the exercises without their answers.

    python tutorials/handout.py             writes tutorials/exercises/ from tutorials/solutions/, and the table of
                                            exercises in tutorials/README.md
    python tutorials/handout.py FOLDER      also writes a copy of the whole repository without any solution

The lines between `# BEGIN SOLUTION` and `# END SOLUTION` are left out (nbgrader and otter use the same marks). Inside a
function, a line that raises NotImplementedError takes their place.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS, STUBS = ROOT / "tutorials/solutions", ROOT / "tutorials/exercises"
README = ROOT / "tutorials/README.md"
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"


def without_solution(text: str) -> str:
    """A source without its marked answers. Raises ValueError if the marks do not match or if there are none."""
    kept: list[str] = []
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside == (mark == BEGIN):
                raise ValueError(f"line {number}: {mark} is not expected here; the other mark must come first")
            inside = mark == BEGIN
            if inside and (indent := re.match(r" *", line)[0]):
                kept.append(f'{indent}raise NotImplementedError("write this, then run the check again")')
        elif not inside:
            kept.append(line)
    if inside or len(kept) == len(text.splitlines()):
        raise ValueError(f"{END} is missing" if inside else "no lines are marked as the solution")
    return "\n".join(kept).rstrip() + "\n"


def stubs() -> dict[str, str]:
    """{name of the exercise: its file as the student gets it}."""
    return {path.stem: without_solution(path.read_text(encoding="utf-8")) for path in sorted(SOLUTIONS.glob("*.py"))}


def write_stubs(folder: Path = STUBS) -> None:
    """Write all stubs and delete those without a solution. Raises FileNotFoundError if there are no solutions."""
    if not SOLUTIONS.is_dir():
        raise FileNotFoundError(f"there is no {SOLUTIONS.name}/: this is a handout already")
    folder.mkdir(parents=True, exist_ok=True)
    written = stubs()
    for path in folder.glob("*.py"):
        if path.stem not in written:
            path.unlink()
    for name, text in written.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


TABLE = re.compile(r"(<!-- exercises: [^\n]*-->\n).*?(<!-- end of exercises -->)", re.S)
FIRST = re.compile(r'"""Exercise (?P<name>\w+): (?P<question>.+?\?) (?P<kind>.+), (?P<minutes>\d+) minutes?\.')


def listed() -> str:
    """The table of exercises, ordered by notebook. Raises ValueError if the start of a docstring does not fit."""
    rows = []
    for name, text in stubs().items():
        first, notebooks = FIRST.match(text), re.search(r"^Notebooks? ([^.]+)\.", text, re.M)
        if not first or first["name"] != name or not notebooks:
            raise ValueError(
                f"{name}: the docstring must start: 'Exercise {name}: question? Kind, N minutes.', 'Notebook NN.'"
            )
        numbers = ", ".join(re.findall(r"\d\d", notebooks[1]))
        link = f"[{name}](exercises/{name}.py)"
        rows.append(
            (numbers, f"| {link}: {first['question']} | {numbers} | {first['kind'].lower()} | {first['minutes']} |\n")
        )
    head = "| exercise | notebook | kind | minutes |\n| --- | --- | --- | --- |\n"
    return head + "".join(row for _, row in sorted(rows))


def with_table(readme: str) -> str:
    """The course's README with an up-to-date table of exercises. Raises ValueError if it has no place for the table."""
    if not TABLE.search(readme):
        raise ValueError("tutorials/README.md has no lines that mark the place of the table of exercises")
    return TABLE.sub(lambda found: found[1] + listed() + found[2], readme)


def write_handout(folder: Path) -> int:
    """Copy all files that git tracks except the solutions; returns how many. Raises FileExistsError if not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder or remove this one")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("tutorials/solutions/")]
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return len(names)


def main(arguments: list[str]) -> str:
    """Write the stubs, the table and, if a folder is named, the handout; returns a sentence that says so."""
    write_stubs()
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    if not arguments:
        return f"wrote {len(stubs())} stubs"
    return f"wrote {write_handout(Path(arguments[0]))} files to {arguments[0]}, none of them a solution"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]), file=sys.stderr)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
