"""The project's rules as functions that read files and return the violations. `make map` runs this file."""

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
    """Return the table of contents in the package's docstring as [(heading, [dotted module, ...]), ...]."""
    paragraphs = _docstring(root / PACKAGE / "__init__.py").split("\n\n")
    table = [re.fullmatch(r"(\S.*)\n    (\S(?:.*|,\n    )*)", paragraph) for paragraph in paragraphs]
    return [(found[1], re.split(r",\s+", found[2].replace("/", "."))) for found in table if found]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return {dotted name inside the package: file}. A folder's name stands for its `__init__.py`."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def unlisted(root: Path = ROOT) -> list[str]:
    """Return the modules that are missing from the table of contents. `__init__` and `__main__` need no entry."""
    listed = {name for _, names in contents(root) for name in names}
    return [
        name for name, path in modules(root).items() if name not in listed and path.stem not in ("__init__", "__main__")
    ]


def unwritten(root: Path = ROOT) -> list[str]:
    """Return the entries of the table of contents that have no module."""
    return [name for _, names in contents(root) for name in names if name not in modules(root)]


# --- docstrings and the maps of the files -----------------------------------------------------------------------------


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def poor_docstrings(root: Path = ROOT) -> list[str]:
    """Return the modules whose docstring's first line, which goes into the map, is not one full sentence."""
    wrong = []
    for path in [*modules(root).values(), *sorted((root / "tests").rglob("*.py"))]:
        first, *rest = _docstring(path).split("\n")
        if not first.endswith((".", "?", "!")) or (rest and rest[0]):
            wrong.append(f"{path.relative_to(root)}: {first!r}")
    return wrong


def readme_map(root: Path = ROOT) -> str:
    """Return the README's map: one row per heading, with links to its files in reading order."""
    files = modules(root)
    lines = ["| part | files, in reading order |", "| --- | --- |"]
    for heading, names in contents(root):
        links = [
            f"[{name.rpartition('.')[2]}]({files[name].relative_to(root).as_posix()})"
            for name in names
            if name in files
        ]
        lines += [f"| {heading} | {', '.join(links)} |"] if links else []
    return "\n".join(lines)


def full_map(root: Path = ROOT) -> str:
    """Return the table of `docs/map.md`: one row per file, with the first line of its docstring."""
    files = modules(root)
    lines = ["| part | file | what it is |", "| --- | --- | --- |"]
    for heading, names in contents(root):
        for name in (name for name in names if name in files):
            what = _docstring(files[name]).split("\n")[0].replace("|", r"\|")
            link = f"[{name.replace('.', '/')}](../{files[name].relative_to(root).as_posix()})"
            lines.append(f"| {heading} | {link} | {what} |")
            heading = ""  # only the first row of a part shows the heading
    return "\n".join(lines)


def with_map(page: str, table: str) -> str:
    """Return the page with `table` between the markers. Raises ValueError unless each marker occurs exactly once."""
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"a page with a map needs the lines {START} and {END}, once each")
    return f"{page.split(START)[0]}{START}\n{table}\n{END}{page.split(END)[1]}"


MAPS = {"README.md": readme_map, "docs/map.md": full_map}


# --- imports inside the package --------------------------------------------------------------------------------------


def imports(source: str, name: str, known: set[str]) -> set[str]:
    """Return the package's modules that `source`, the text of module `name`, imports, inside functions too.

    "" stands for the package itself, which should not be imported: its lazy names hide the module that is used.
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
    """Return the modules: `from a.b import c` gives a.b.c if it is a module, else a.b. Dots are relative to `name`."""
    inside = {f"{PACKAGE}.{module}" for module in known if module}
    base = node.module
    if node.level:
        here = f"{PACKAGE}.{name}".rstrip(".")
        is_folder = any(module.startswith(f"{here}.") for module in inside)  # then one dot means this folder
        up = here.split(".")[: len(here.split(".")) - node.level + is_folder]
        base = ".".join([*up, *([node.module] if node.module else [])])
    return {f"{base}.{alias.name}" if f"{base}.{alias.name}" in inside else base for alias in node.names}


def forbidden_arrows(root: Path = ROOT) -> list[str]:
    """Return every import inside the package that the rules forbid, as 'from -> to: why'."""
    files = modules(root)
    stages = [name for _, names in contents(root) for name in names if not name.startswith("models")]
    wrong = []
    for name, path in files.items():
        for target in sorted(imports(path.read_text(encoding="utf-8"), name, set(files))):
            if why := _forbidden(name, target, stages):
                wrong.append(f"{name or '__init__'} -> {target or PACKAGE}: {why}")
    return wrong


def _forbidden(name: str, target: str, stages: list[str]) -> str:
    """Return why module `name` must not import module `target`, or "" if it may."""
    kind, target_kind = name.split(".")[0], target.split(".")[0]
    if not target:
        return "import the module, not the package"
    if target_kind == "app" and kind != "app":
        return "" if name == "__main__" else "only the wing imports the wing"
    if not name:
        return "the package loads its names lazily"
    if name == "datatypes":
        return "datatypes imports nothing of ours"
    if kind == "models":
        return "" if target_kind == "models" else "models import nothing of ours"
    if kind == "systems" and target_kind == "systems" and name != "systems":
        return "systems do not import each other"
    if name in stages and target in stages and stages.index(target) >= stages.index(name):
        return "a module imports only modules listed before it"
    return ""


# --- pages: their commands, programs and links ------------------------------------------------------------------------


def pages(root: Path = ROOT) -> list[str]:
    """Return the pages whose commands and programs the tests run: README.md, CONTRIBUTING.md and docs/*.md."""
    return ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (root / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Story:
    """A ```bash fence with `mrrec` commands, which run one after another in one folder that is empty at first.

    Marks may follow ```bash: `slow` makes the story a slow test; `needs:PATH` first links the real data to PATH.
    """

    page: str
    line: int
    commands: tuple[str, ...]
    slow: bool = False
    needs: tuple[str, ...] = ()


def stories(text: str, page: str = "README.md") -> list[Story]:
    """Return the ```bash fences of a page that contain `mrrec` commands. Raises ValueError if a mark is unknown."""
    found = []
    for fence in re.finditer(r"^```bash *(.*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE):
        marks = fence[1].split()
        if unknown := [mark for mark in marks if mark != "slow" and not mark.startswith("needs:")]:
            raise ValueError(f"{page}: ```bash {' '.join(unknown)}: only `slow` and `needs:PATH` are known")
        lines = fence[2].replace("\\\n", " ").splitlines()
        commands = tuple(line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?mrrec ", line))
        if commands:
            needs = tuple(mark.removeprefix("needs:") for mark in marks if mark != "slow")
            line = text[: fence.start()].count("\n") + 1
            found.append(Story(page, line, commands, "slow" in marks, needs))
    return found


def arguments(command: str) -> list[str]:
    """Return 'mrrec data info DIR  # counts' as ['data', 'info', 'DIR'], without pipes and redirections."""
    words = shlex.split(command, comments=True)[1:]
    ends = [i for i, word in enumerate(words) if word in ("|", ">", ">>", "&&", "||", ";")]
    return words[: ends[0]] if ends else words


def made_targets(text: str) -> list[str]:
    """Return the targets of the `make` commands in a page's fences of any language."""
    fences = "\n".join(re.findall(r"^```.*\n((?:.*\n)*?)```$", text, flags=re.MULTILINE))
    return re.findall(r"^make ([\w/-]+)", fences, flags=re.MULTILINE)


def programs(text: str) -> list[tuple[str, list[str]]]:
    """Return [(source, expected lines), ...] of the ```python fences; `print(...)  # text` expects the line `text`."""
    sources = re.findall(r"^```python\n((?:.*\n)*?)```$", text, flags=re.MULTILINE)
    return [(source, re.findall(r"^print\(.*\)  # (.*)$", source, flags=re.MULTILINE)) for source in sources]


def broken_links(page: Path) -> list[str]:
    """Return the relative links and images of a Markdown page whose file or heading does not exist."""
    text = _without_fences(page.read_text(encoding="utf-8"))
    wrong = []
    for link in re.findall(r"\]\(<?([^)\s>]+)>?\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue  # another site
        target = page.parent / path if path else page
        if not target.exists():
            wrong.append(f"{page.name}: {link}: no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(f"{page.name}: {link}: no such heading")
    return wrong


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings; the second heading with the same text ends in `-1`."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", _without_fences(text), flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        if number:
            found[f"{slug}-{number}"] = 0
    return set(found)


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.MULTILINE)


# --- the front page --------------------------------------------------------------------------------------------------

MOST_LINES, MOST_WORDS, MOST_DECIMALS = 220, 1800, 25
FIRST_SCREEN = 70  # lines of Markdown; the table and the picture take only a few lines
ON_FIRST_SCREEN = {
    "what kind of data": r"synthetic",
    "how large the policy is": r"140,000 parameters",
    "a picture of an episode": r"!\[[^]]*episode[^]]*\]\(docs/\S+\)",
    "git clone": r"^git clone ",
    "the first command and its minutes": r"^make demo\b.*minutes",
    "the second command and its minutes": r"^make test\b.*minutes",
    "a table of four rows": r"^\| ?--.*\n(?:\|.*\n){4}(?!\|)",
    "what does not hold on real data": r"real data",
    "what a script does": r"script",
}


def decimals(text: str) -> list[str]:
    """Return the numbers with a decimal point, except versions, arXiv numbers and the targets of links."""
    prose = re.sub(r"\]\([^)]*\)", "]", text)
    prose = re.sub(r"\d{4}\.\d{5}|[=<>]=[\d.]+|\d+\.\d+\.[\d.]+|\b3\.1\d\b", "", prose)
    return re.findall(r"(?<![\w.])\d*\.\d+", prose)


def front_page_faults(readme: str) -> list[str]:
    """Return which limits the README exceeds, and what is missing on its first screen."""
    sizes = {
        "lines": (len(readme.splitlines()), MOST_LINES),
        "words": (len(readme.split()), MOST_WORDS),
        "decimals": (len(decimals(readme)), MOST_DECIMALS),
    }
    wrong = [f"{size} {what}, at most {most}" for what, (size, most) in sizes.items() if size > most]
    first = "\n".join(readme.splitlines()[:FIRST_SCREEN]) + "\n"
    return wrong + [
        f"not in the first {FIRST_SCREEN} lines: {what}"
        for what, pattern in ON_FIRST_SCREEN.items()
        if not re.search(pattern, first, flags=re.MULTILINE)
    ]


# --- what is committed -----------------------------------------------------------------------------------------------

# Because of the brackets, as in [/], the pattern does not match this file.
MACHINE_PATH = re.compile(r"(?<![\w.~])[/](?:work|root|home|Users|opt)[/][\w.]|[/]tmp[/]v[/]|[.]library[/]")


def committed(root: Path = ROOT) -> list[Path]:
    """Return the files that git tracks. Raises CalledProcessError outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def machine_paths(paths: list[Path]) -> list[str]:
    """Return the lines that name a folder of one particular machine, as file:line: text."""
    return [
        f"{path.name}:{number}: {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


if __name__ == "__main__":
    for name, table in MAPS.items():
        file = ROOT / name
        file.write_text(with_map(file.read_text(encoding="utf-8"), table()), encoding="utf-8")
