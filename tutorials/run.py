"""Run the tutorials in fresh kernels: `python tutorials/run.py [--write] [NN ...]`; `make tutorials` runs all.

Each `tutorials/NN_name.py` becomes a notebook, is executed, and is compared with the committed `NN_name.ipynb`. Both
must have the same cells, the same words in the outputs, the same number of pictures, and numbers within 5 % or .02.

Another processor rounds sums differently, and after a few dozen training steps this gives a different policy. So the
cells that show a trained policy have a tag:

    learned   its numbers are not compared; the words around them are
    written   the text is not compared; only whether something was printed

The notebooks assert what must hold for every such policy. `--write` writes the notebooks instead of comparing them, and
writes their times into `tutorials/README.md`. MRREC_SMALL=1 runs the small size, at which only errors count.
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
    """The tutorials in order, or only the chosen numbers or names. Raises FileNotFoundError if none has that name."""
    every = sorted(HERE.glob("[0-9][0-9]_*.py"))
    for name in chosen or []:
        if not any(path.name.startswith(name) for path in every):
            raise FileNotFoundError(f"no tutorial is called {name}; there are {', '.join(p.stem for p in every)}")
    return [path for path in every if not chosen or any(path.name.startswith(name) for name in chosen)]


def read(source: Path) -> nbformat.NotebookNode:
    """Read a percent-format source as a notebook, with cell ids that never change."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(source: Path) -> tuple[nbformat.NotebookNode, float]:
    """The executed notebook, and the seconds that it took. Raises RuntimeError if a cell fails or the kernel dies."""
    from nbclient import NotebookClient  # from the extra `notebooks`; the comparison works without it
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = read(source)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # silence a warning about progress bars
    started = time.perf_counter()
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    client.extra_arguments = ["--log-level=ERROR"]  # silence the kernel's warning that it listens on this machine
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        raise RuntimeError(str(error).strip()) from None
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # drop the time at which it ran
        if "outputs" in cell:
            cell["outputs"] = joined(cell.outputs)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook, time.perf_counter() - started


def joined(outputs: list) -> list:
    """Join text that a kernel sent in pieces; where it was cut differs from run to run."""
    whole: list = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and whole[-1].name == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def differences(committed: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """How a fresh notebook differs from the committed one, one message per difference."""
    if cells(committed) != cells(fresh):
        return ["its cells are not those of the source; run it with --write"]
    wrong = []
    for number, (old, new) in enumerate(zip(committed.cells, fresh.cells, strict=True)):
        if old.cell_type != "code":
            continue
        one, other, tags = printed(old), printed(new), tags_of(new)
        if WRITTEN in tags:
            if bool(one.strip()) != bool(other.strip()):
                wrong.append(f"cell {number} prints something either in the notebook or now, but not in both")
        elif not alike(one, other, numbers=LEARNED not in tags):
            wrong.append(f"cell {number} printed {first_difference(one, other, LEARNED not in tags)}")
        if pictures(old) != pictures(new):
            wrong.append(f"cell {number} has {pictures(old)} pictures in the notebook and {pictures(new)} now")
    return wrong


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    """(type, source, tags) of each cell."""
    return [(cell.cell_type, cell.source, tags_of(cell)) for cell in notebook.cells]


def tags_of(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def printed(cell: nbformat.NotebookNode) -> str:
    """All text that a cell printed or returned, and its error."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        elif output.output_type == "error":
            texts.append(f"{output.ename}: {output.evalue}")
        elif "image/png" not in output.data:
            texts.append(output.data.get("text/plain", ""))
    return "\n".join(texts)


def pictures(cell: nbformat.NotebookNode) -> int:
    """The number of pictures that a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def alike(one: str, other: str, numbers: bool = True) -> bool:
    """Whether two texts have the same words and close numbers. Without `numbers`, only their count must be equal."""
    space = " " if numbers else ""  # other numbers can change the width of a column
    words = [space.join(NUMBER.sub("#", text).split()) for text in (one, other)]
    if words[0] != words[1] or not numbers:
        return words[0] == words[1]
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in pairs)


def first_difference(one: str, other: str, numbers: bool) -> str:
    """The first pair of lines that are not alike, or the two numbers of lines."""
    for old, new in zip(one.splitlines(), other.splitlines(), strict=False):
        if not alike(old, new, numbers):
            return f"{old.strip()!r} in the notebook and {new.strip()!r} now"
    return f"{len(one.splitlines())} lines in the notebook and {len(other.splitlines())} now"


def run(source: Path, write: bool) -> tuple[list[str], float]:
    """Execute one tutorial: what is wrong with it (or write it, with `write`), and the seconds that it took."""
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
    """Write the times into the table of `tutorials/README.md`: the last column of each tutorial's row."""
    path = HERE / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    for stem, time_taken in seconds.items():
        text = re.sub(rf"(?m)^(\|.*\({stem}\.ipynb\).*\|)[^|\n]*\|$", rf"\1 {time_taken:.0f} |", text)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description="Run the tutorials in fresh kernels.")
    parser.add_argument("names", nargs="*", metavar="NN", help="numbers or names of tutorials (default: all)")
    parser.add_argument("--write", action="store_true", help="write the notebooks instead of comparing with them")
    parser.add_argument("--jobs", type=int, default=1, help="how many to run at a time")
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
