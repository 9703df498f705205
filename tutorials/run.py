"""Run the tutorials in fresh kernels: `python tutorials/run.py [--write] [NN ...]`; `make tutorials` runs all.

Each `tutorials/NN_name.py` becomes a notebook, is executed, and is compared with the committed `NN_name.ipynb`: same
cells, same words in the outputs, as many pictures, numbers within 5 % or .02. Another processor rounds sums otherwise,
and after a few dozen steps of training that is another policy; so the cells that show a trained one bear a tag:

    learned   its numbers: the words around them are compared, they are not
    written   what it wrote: only whether something was printed

What must hold of every such policy, those notebooks assert. `--write` writes the notebook instead, and its time into
`tutorials/README.md`. MRREC_SMALL=1 runs the small size, at which only errors count.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
NUMBER = re.compile(r"[-+]?(?:(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?|\b(?:inf|nan)\b)")
LEARNED, WRITTEN = "learned", "written"
RELATIVE, ABSOLUTE = 0.05, 0.02


def sources(chosen: list[str] | None = None) -> list[Path]:
    """The tutorials in order; of some numbers or names, where they are given. FileNotFoundError: none has that name."""
    every = sorted(HERE.glob("[0-9][0-9]_*.py"))
    for name in chosen or []:
        if not any(path.name.startswith(name) for path in every):
            raise FileNotFoundError(f"no tutorial is called {name}; there are {', '.join(p.stem for p in every)}")
    return [path for path in every if not chosen or any(path.name.startswith(name) for name in chosen)]


def read(source: Path) -> nbformat.NotebookNode:
    """A percent-format source as a notebook, with ids that stay the same."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(source: Path) -> tuple[nbformat.NotebookNode, float]:
    """The executed notebook, and the seconds that it took. RuntimeError: a cell failed, or the kernel died."""
    from nbclient import NotebookClient  # of the extra `notebooks`; comparing does without
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = read(source)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # of a progress bar that nobody asked for
    started = time.perf_counter()
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    client.extra_arguments = ["--log-level=ERROR"]  # a kernel warns that it listens on this machine
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        raise RuntimeError(str(error).strip()) from None
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if "outputs" in cell:
            cell["outputs"] = joined(cell.outputs)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook, time.perf_counter() - started


def joined(outputs: list) -> list:
    """Text that a kernel sent in pieces, as one: how it was cut depends on the hour."""
    whole: list = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and whole[-1].name == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def differences(committed: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """What a reader of the committed notebook would not find in a fresh one."""
    if cells(committed) != cells(fresh):
        return ["its cells are not those of the source; run it with --write"]
    wrong = []
    for number, (old, new) in enumerate(zip(committed.cells, fresh.cells, strict=True)):
        if old.cell_type != "code":
            continue
        one, other, tags = spoken(old), spoken(new), tags_of(new)
        if WRITTEN in tags:
            if bool(one.strip()) != bool(other.strip()):
                wrong.append(f"cell {number} prints in one of the two only: the notebook, or now")
        elif not alike(one, other, numbers=LEARNED not in tags):
            wrong.append(f"cell {number} printed {first_difference(one, other, LEARNED not in tags)}")
        if pictures(old) != pictures(new):
            wrong.append(f"cell {number} has {pictures(old)} pictures in the notebook and {pictures(new)} now")
    return wrong


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, tags_of(cell)) for cell in notebook.cells]


def tags_of(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def spoken(cell: nbformat.NotebookNode) -> str:
    """All text that a cell printed or returned."""
    said = []
    for output in cell.outputs:
        if output.output_type == "stream":
            said.append(output.text)
        elif output.output_type == "error":
            said.append(f"{output.ename}: {output.evalue}")
        elif "image/png" not in output.data:
            said.append(output.data.get("text/plain", ""))
    return "\n".join(said)


def pictures(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def alike(one: str, other: str, numbers: bool = True) -> bool:
    """The same words, and numbers that are close; without `numbers` only as many of them."""
    space = " " if numbers else ""  # how wide a column of other numbers is set depends on them
    words = [space.join(NUMBER.sub("#", text).split()) for text in (one, other)]
    if words[0] != words[1] or not numbers:
        return words[0] == words[1]
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in pairs)


def first_difference(one: str, other: str, numbers: bool) -> str:
    for old, new in zip(one.splitlines(), other.splitlines(), strict=False):
        if not alike(old, new, numbers):
            return f"{old.strip()!r} in the notebook and {new.strip()!r} now"
    return f"{len(one.splitlines())} lines in the notebook and {len(other.splitlines())} now"


def run(source: Path, write: bool) -> tuple[list[str], float]:
    """What is wrong with a tutorial, and the seconds that it took."""
    try:
        notebook, seconds = execute(source)
    except RuntimeError as error:
        return [str(error)], 0.0
    place = source.with_suffix(".ipynb")
    if write:
        nbformat.write(notebook, place)
        return [], seconds
    if not place.is_file():
        return [f"{place.name} is missing; run it with --write"], seconds
    if os.environ.get("MRREC_SMALL") == "1":
        return [], seconds
    return differences(nbformat.read(place, as_version=4), notebook), seconds


def write_times(seconds: dict[str, float]) -> None:
    """Into the table of `tutorials/README.md`: the last cell of each tutorial's row."""
    path = HERE / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    for stem, time_taken in seconds.items():
        text = re.sub(rf"(?m)^(\|.*\({stem}\.ipynb\).*\|)[^|\n]*\|$", rf"\1 {time_taken:.0f} |", text)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description="Run the tutorials in fresh kernels.")
    parser.add_argument("names", nargs="*", metavar="NN", help="numbers or names of tutorials; none: all")
    parser.add_argument("--write", action="store_true", help="write the notebooks instead of comparing with them")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args()
    try:
        chosen = sources(options.names)
    except FileNotFoundError as error:
        parser.error(str(error))
    failed, times = 0, {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for source, (wrong, seconds) in zip(chosen, pool.map(lambda s: run(s, options.write), chosen), strict=True):
            print(f"{source.stem:24} {'failed' if wrong else 'fine'}  {seconds:4.0f} s", flush=True)
            for line in wrong:
                print(f"    {line}", flush=True)
            failed += bool(wrong)
            times[source.stem] = seconds
    if options.write and not failed:
        write_times(times)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
