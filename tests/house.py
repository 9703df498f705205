"""The rules of the house as functions that read source and return what is wrong. `make map` runs this file."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mrrec_mini"
START, END = "<!-- map: written by `make map` -->", "<!-- end of map -->"


# --- the table of contents -------------------------------------------------------------------------------------------


def contents(root: Path = ROOT) -> list[tuple[str, list[str]]]:
    """[(heading, [dotted module, ...]), ...] as the package's docstring lists them."""
    paragraphs = _docstring(root / PACKAGE / "__init__.py").split("\n\n")
    table = [re.fullmatch(r"(\S.*)\n    (\S(?:.*|,\n    )*)", paragraph) for paragraph in paragraphs]
    return [(found[1], re.split(r",\s+", found[2].replace("/", "."))) for found in table if found]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name inside the package -> file. `models` itself is `models/__init__.py`."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def unlisted(root: Path = ROOT) -> list[str]:
    """Modules that the table of contents forgot. Doorways (`__init__`, `__main__`) are no chapters."""
    listed = {name for _, names in contents(root) for name in names}
    return [
        name for name, path in modules(root).items() if name not in listed and path.stem not in ("__init__", "__main__")
    ]


def unwritten(root: Path = ROOT) -> list[str]:
    """Chapters that the table of contents promises and nobody wrote."""
    return [name for _, names in contents(root) for name in names if name not in modules(root)]


# --- docstrings and the README's map ---------------------------------------------------------------------------------


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def poor_docstrings(root: Path = ROOT) -> list[str]:
    """Modules whose docstring does not open with one line that ends as a sentence does: that line goes into the map."""
    wrong = []
    for path in [*modules(root).values(), *sorted((root / "tests").rglob("*.py"))]:
        first, *rest = _docstring(path).split("\n")
        if not first.endswith((".", "?", "!")) or (rest and rest[0]):
            wrong.append(f"{path.relative_to(root)}: {first!r}")
    return wrong


def readme_map(root: Path = ROOT) -> str:
    """The file map in Markdown: one table, a row a file, in flow order."""
    files = modules(root)
    lines = ["| | file | what it is |", "| --- | --- | --- |"]
    for heading, names in contents(root):
        for name in names:
            if name not in files:
                continue
            path = files[name].relative_to(root).as_posix()
            what = _docstring(files[name]).split("\n")[0].replace("|", r"\|")
            lines.append(f"| {heading} | [{name.replace('.', '/')}]({path}) | {what} |")
            heading = ""  # said once a group
    return "\n".join(lines)


def with_map(readme: str, root: Path = ROOT) -> str:
    """The README with what stands between the two markers replaced. Raises ValueError unless each stands there once."""
    if readme.count(START) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md needs the lines {START} and {END}, once each")
    before, after = readme.split(START)[0], readme.split(END)[1]
    return f"{before}{START}\n{readme_map(root)}\n{END}{after}"


# --- arrows ----------------------------------------------------------------------------------------------------------


def imports(source: str, name: str, known: set[str]) -> set[str]:
    """Modules of the package that `source`, the text of module `name`, imports anywhere: in functions too.

    "" is the package itself: its lazy names would hide where an arrow points.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= _from(node, name, known)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    return {dotted[len(PACKAGE) + 1 :] for dotted in found if dotted == PACKAGE or dotted.startswith(f"{PACKAGE}.")}


def _from(node: ast.ImportFrom, name: str, known: set[str]) -> set[str]:
    """`from a.b import c`: the module a.b.c if there is one, else the module a.b. Relative ones go up from `name`."""
    inside = {f"{PACKAGE}.{module}" for module in known if module}
    base = node.module
    if node.level:
        here = f"{PACKAGE}.{name}".rstrip(".")
        is_folder = any(module.startswith(f"{here}.") for module in inside)  # then one dot is the folder itself
        up = here.split(".")[: len(here.split(".")) - node.level + is_folder]
        base = ".".join([*up, *([node.module] if node.module else [])])
    return {f"{base}.{alias.name}" if f"{base}.{alias.name}" in inside else base for alias in node.names}


def forbidden_arrows(root: Path = ROOT) -> list[str]:
    """Every import inside the package that architecture forbids, as 'from -> to: why'."""
    files = modules(root)
    stages = [name for _, names in contents(root) for name in names if not name.startswith("models")]
    wrong = []
    for name, path in files.items():
        for target in sorted(imports(path.read_text(encoding="utf-8"), name, set(files))):
            if why := _forbidden(name, target, stages):
                wrong.append(f"{name or '__init__'} -> {target or PACKAGE}: {why}")
    return wrong


def _forbidden(name: str, target: str, stages: list[str]) -> str:
    """Why module `name` must not import module `target`; "" if it may."""
    kind, target_kind = name.split(".")[0], target.split(".")[0]
    if not target:
        return "name the module, not the package"
    if target_kind == "app" and kind != "app":
        return "" if name == "__main__" else "nothing of the book imports the wing"
    if not name:
        return "the package loads its names lazily"
    if name == "datatypes":
        return "datatypes imports nothing of ours"
    if kind == "models":
        return "" if target_kind == "models" else "models import nothing of ours"
    if kind == "systems" and target_kind == "systems" and name != "systems":
        return "systems never import each other"
    if name in stages and target in stages and stages.index(target) >= stages.index(name):
        return "a stage imports only stages before it"
    return ""


# --- the README's commands -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """One fence of the README that shows commands: they run one after another in one empty folder.

    The words after ```bash say how: `slow` = with the slow tests; `needs:PATH` = real data that is laid there first.
    """

    line: int
    commands: tuple[str, ...]
    slow: bool = False
    needs: tuple[str, ...] = ()


def stories(readme: str) -> list[Story]:
    """The README's ```bash fences that hold `mrrec` commands. Raises ValueError on a word that means nothing."""
    found = []
    for fence in re.finditer(r"^```bash *(.*)\n((?:.*\n)*?)```$", readme, flags=re.MULTILINE):
        marks = fence[1].split()
        if unknown := [mark for mark in marks if mark != "slow" and not mark.startswith("needs:")]:
            raise ValueError(f"README.md: ```bash {' '.join(unknown)}: only `slow` and `needs:PATH` are known")
        lines = fence[2].replace("\\\n", " ").splitlines()
        commands = tuple(line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?mrrec ", line))
        if commands:
            needs = tuple(mark.removeprefix("needs:") for mark in marks if mark != "slow")
            found.append(Story(readme[: fence.start()].count("\n") + 1, commands, "slow" in marks, needs))
    return found


def arguments(command: str) -> list[str]:
    """'mrrec data info DIR  # counts' -> ['data', 'info', 'DIR']. A pipe or redirection is the shell's business."""
    words = shlex.split(command, comments=True)[1:]
    ends = [i for i, word in enumerate(words) if word in ("|", ">", ">>", "&&", "||", ";")]
    return words[: ends[0]] if ends else words


# --- what is committed -----------------------------------------------------------------------------------------------

# in brackets, so that this file passes its own test
MACHINE_PATH = re.compile(r"(?<![\w.~])[/](?:work|root|home|Users|opt)[/][\w.]|[/]tmp[/]v[/]|[.]library[/]")


def committed(root: Path = ROOT) -> list[Path]:
    """Files that git tracks. Raises CalledProcessError outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def machine_paths(paths: list[Path]) -> list[str]:
    """Lines that name a folder of somebody's machine."""
    return [
        f"{path.name}:{number}: {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(with_map(file.read_text(encoding="utf-8")), encoding="utf-8")
