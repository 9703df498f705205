"""The student's version: exercises without their answers.

    python tutorials/handout.py             writes tutorials/exercises/ from tutorials/solutions/, and the table of the
                                            course's README
    python tutorials/handout.py FOLDER      writes a whole copy of the repository without any solution

What stands between the lines `# BEGIN SOLUTION` and `# END SOLUTION` is left out: nbgrader and otter look for the same
marks. Within a function a line that raises NotImplementedError stands there instead.
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
    """A source without its marked answers. ValueError where marks do not match, or there is none."""
    kept: list[str] = []
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside == (mark == BEGIN):
                raise ValueError(f"line {number}: {mark} where the other one is due")
            inside = mark == BEGIN
            if inside and (indent := re.match(r" *", line)[0]):
                kept.append(f'{indent}raise NotImplementedError("write this, then run the check again")')
        elif not inside:
            kept.append(line)
    if inside or len(kept) == len(text.splitlines()):
        raise ValueError(f"no {END}" if inside else "nothing is marked as the solution")
    return "\n".join(kept).rstrip() + "\n"


def stubs() -> dict[str, str]:
    """Every exercise's file as the student gets it, by name."""
    return {path.stem: without_solution(path.read_text(encoding="utf-8")) for path in sorted(SOLUTIONS.glob("*.py"))}


def write_stubs(folder: Path = STUBS) -> None:
    """All of them; a file whose solution is gone goes too. FileNotFoundError: there are no solutions at all."""
    if not SOLUTIONS.is_dir():
        raise FileNotFoundError(f"{SOLUTIONS.name}/ is not here: this is a handout already")
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
    """A row of the course's table for each exercise, in the order of the notebooks. ValueError: a first line is odd."""
    rows = []
    for name, text in stubs().items():
        first, notebooks = FIRST.match(text), re.search(r"^Notebooks? ([^.]+)\.", text, re.M)
        if not first or first["name"] != name or not notebooks:
            raise ValueError(
                f"{name}: the docstring opens with 'Exercise {name}: question? Kind, N minutes.', then 'Notebook NN.'"
            )
        numbers = ", ".join(re.findall(r"\d\d", notebooks[1]))
        link = f"[{name}](exercises/{name}.py)"
        rows.append(
            (numbers, f"| {link}: {first['question']} | {numbers} | {first['kind'].lower()} | {first['minutes']} |\n")
        )
    head = "| exercise | notebook | kind | minutes |\n| --- | --- | --- | --- |\n"
    return head + "".join(row for _, row in sorted(rows))


def with_table(readme: str) -> str:
    """The course's README with the table of exercises as they are. ValueError: it has no place for it."""
    if not TABLE.search(readme):
        raise ValueError("tutorials/README.md has no place for the exercises")
    return TABLE.sub(lambda found: found[1] + listed() + found[2], readme)


def write_handout(folder: Path) -> int:
    """A copy of all that git tracks but the solutions; returns how many files. FileExistsError: not an empty place."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder, or remove it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("tutorials/solutions/")]
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return len(names)


def main(arguments: list[str]) -> str:
    """Stubs, table and, where a folder is named, the handout; returns what was done."""
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
