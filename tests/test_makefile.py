"""`make` names the Python it needs, finds one, and stays out of environments that are not its own; no network."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from house import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(not MAKE, reason="needs make")

# An interpreter that says it is another version: it runs the code of `-c` under that version, makes a venv that holds
# itself, and writes down what it is asked to install.
FAKE = """#!/bin/sh
case "$1" in
--version) echo "Python {major}.{minor}.0" ;;
-c) exec {real} -c 'import sys; sys.version_info = ({major}, {minor}, 0); exec(sys.argv[1])' "$2" ;;
-m) case "$2" in
    venv) {mkdir} -p "$3/bin" && {cp} "$0" "$3/bin/python" ;;
    pip) echo "{major}.{minor}: $*" >> installed ;;
    esac ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """checkout({name: (major, minor)}) is a folder with the Makefile, whose PATH holds only these interpreters."""

    def build(interpreters: dict[str, tuple[int, int]]) -> Path:
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / "path").mkdir()
        for tool in ("touch", "head", "mkdir", "rm", "find"):
            (tmp_path / "path" / tool).symlink_to(shutil.which(tool))
        for name, version in interpreters.items():
            interpreter(tmp_path / "path" / name, version)
        return tmp_path

    return build


def interpreter(file: Path, version: tuple[int, int]) -> None:
    tools = {"real": sys.executable, "mkdir": shutil.which("mkdir"), "cp": shutil.which("cp")}
    file.write_text(FAKE.format(major=version[0], minor=version[1], **tools), encoding="utf-8")
    file.chmod(0o755)


def make(folder: Path, *words: str, **active: str) -> tuple[int, list[str], list[str]]:
    """Exit code, lines on stderr without make's own last one, and what pip was asked for. `active`: an environment."""
    # These tests may run under make, whose flags would be passed on, and in an active environment.
    ours = "MAKE", "PYTHON", "VIRTUAL_ENV", "CONDA"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env = kept | {"PATH": str(folder / "path")} | active
    done = subprocess.run([MAKE, *words], cwd=folder, env=env, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    asked = folder / "installed"
    return done.returncode, told, asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("interpreters", "chosen"),
    [
        ({"python3": (3, 11)}, "3.11"),
        ({"python3": (3, 14), "python3.12": (3, 12)}, "3.14"),
        ({"python3": (3, 10), "python3.13": (3, 13), "python3.11": (3, 11)}, "3.13"),
        ({"python3": (3, 10), "python3.13": (2, 7), "python3.11": (3, 11)}, "3.11"),
        ({"python3.12": (3, 12)}, "3.12"),
    ],
)
def test_make_takes_the_first_python_that_is_new_enough(checkout, interpreters, chosen):
    code, told, asked = make(checkout(interpreters), "setup")
    assert (code, told) == (0, [])
    assert asked == [f"{chosen}: -m pip install --quiet torch==2.13.0", f"{chosen}: -m pip install --quiet -e .[dev]"]


def test_a_second_make_does_nothing(checkout):
    folder = checkout({"python3": (3, 12)})
    assert len(make(folder, "setup")[2]) == len(make(folder, "setup")[2]) == 2


@pytest.mark.parametrize("version", [(3, 10), (2, 7)])
def test_an_old_python_is_named_in_one_line_before_anything_is_fetched(checkout, version):
    code, told, asked = make(checkout({"python3": version}), "setup")
    assert (code, len(told), asked) == (2, 1, [])
    for said in ("needs Python 3.11 or newer", f"python3 is Python {version[0]}.{version[1]}", "PYTHON="):
        assert said in told[0]


def test_no_python_at_all_is_one_line(checkout):
    code, told, asked = make(checkout({}), "setup")
    assert (code, len(told), asked) == (2, 1, []) and "needs Python 3.11 or newer, and python3 is" in told[0]


def test_a_python_that_is_named_is_taken_and_checked(checkout):
    folder = checkout({"python3": (3, 12), "mine": (3, 13), "old": (3, 10)})
    code, told, asked = make(folder, "setup", "PYTHON=old")
    assert (code, len(told), asked) == (2, 1, []) and "old is Python 3.10" in told[0]
    code, told, asked = make(folder, "setup", "PYTHON=mine")
    assert (code, told) == (0, []) and asked[0].startswith("3.13: ")


@pytest.mark.parametrize("target", ["setup", "demo", "test", "test-all", "lint"])
def test_a_venv_of_an_old_python_is_named(checkout, target):
    folder = checkout({"python3": (3, 12)})
    (folder / ".venv/bin").mkdir(parents=True)
    interpreter(folder / ".venv/bin/python", (3, 10))
    (folder / ".venv/.ready").touch()  # as if set up by an earlier version of this project
    code, told, asked = make(folder, target)
    assert (code, len(told), asked) == (2, 1, [])
    assert ".venv/bin/python is Python 3.10" in told[0] and "make clean" in told[0]


@pytest.mark.parametrize("target", ["setup", "test-all", "tutorials", "lint"])
def test_a_linked_venv_is_refused(checkout, target):
    folder = checkout({"python3": (3, 12)})
    other = folder / "other"
    (other / "bin").mkdir(parents=True)
    interpreter(other / "bin/python", (3, 12))
    (other / ".ready").touch()
    (folder / ".venv").symlink_to(other)
    code, told, asked = make(folder, target)
    assert (code, len(told), asked) == (2, 1, [])
    assert ".venv is a link" in told[0] and "rm .venv" in told[0]
    assert sorted(path.name for path in other.iterdir()) == [".ready", "bin"]


VENV, CONDA = "VIRTUAL_ENV", "CONDA_PREFIX"


def active(folder: Path, kind: str = VENV, version: tuple[int, int] = (3, 12), name: str = "mine") -> dict[str, str]:
    """Make an environment beside the checkout; return the variables that its activation sets."""
    (folder / name / "bin").mkdir(parents=True)
    interpreter(folder / name / "bin/python", version)
    return {kind: str(folder / name)} | ({"CONDA_DEFAULT_ENV": name} if kind == CONDA else {})


@pytest.mark.parametrize("kind", [VENV, CONDA])
def test_an_active_environment_is_taken_and_said(checkout, kind):
    folder = checkout({"python3": (3, 11)})
    here = active(folder, kind)
    code, told, asked = make(folder, "setup", **here)
    assert (code, len(told)) == (0, 1) and f"installing into the active environment {folder / 'mine'}" in told[0]
    assert [line.partition(":")[0] for line in asked] == ["3.12", "3.12"] and not (folder / ".venv").exists()
    assert sorted(path.name for path in (folder / "mine").rglob("*")) == ["bin", "python"]  # no stamp in it
    assert make(folder, "setup", **here)[1:] == ([], asked)
    assert make(folder, "clean", **here)[0] == 0 and (folder / "mine/bin/python").exists()


@pytest.mark.parametrize("here", [{}, {VENV: "/nowhere/at/all"}, {VENV: "/two words"}, {CONDA: "", VENV: ""}])
def test_without_an_environment_that_is_there_a_venv_is_made(checkout, here):
    folder = checkout({"python3": (3, 12)})
    assert make(folder, "setup", **here)[:2] == (0, []) and (folder / ".venv/.ready").exists()


def test_the_base_of_conda_is_left_alone(checkout):
    folder = checkout({"python3": (3, 12)})
    assert make(folder, "setup", **active(folder, CONDA, name="base"))[:2] == (0, [])
    assert (folder / ".venv/.ready").exists()


def test_a_venv_that_is_there_is_preferred_to_an_active_one(checkout):
    folder = checkout({"python3": (3, 12)})
    assert make(folder, "setup")[0] == 0
    code, told, asked = make(folder, "setup", **active(folder))
    assert (code, told, len(asked)) == (0, [], 2)
    shutil.rmtree(folder / ".venv")
    (folder / ".venv").symlink_to(folder / "mine")
    code, told, asked = make(folder, "setup", VIRTUAL_ENV=str(folder / "mine"))
    assert (code, len(told), len(asked)) == (2, 1, 2) and ".venv is a link" in told[0]


def test_an_active_environment_of_an_old_python_is_named(checkout):
    folder = checkout({"python3": (3, 12)})
    code, told, asked = make(folder, "setup", **active(folder, version=(3, 10)))
    assert (code, len(told), asked) == (2, 1, []) and "mine/bin/python is Python 3.10" in told[0]
    assert "deactivate" in told[0] and "make clean" not in told[0]


def test_an_environment_without_pip_gets_it(checkout):
    folder = checkout({"python3": (3, 12)})
    here = active(folder)
    python = folder / "mine/bin/python"
    text = python.read_text(encoding="utf-8").replace("-c) ", "-c) test \"$2\" = 'import pip' && exit 1; ")
    python.write_text(text.replace("pip) ", "ensurepip | pip) "), encoding="utf-8")
    assert make(folder, "setup", **here)[2][0] == "3.12: -m ensurepip"


def test_every_import_of_the_package_is_declared():
    """Not only through another package, which may stop to bring it. Extras are imported by functions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name for one in project["optional-dependencies"].values() for name in map(distribution, one)}
    declared = set(map(distribution, project["dependencies"]))
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("mrrec_mini/**/*.py")}
    at_once = {name for tree in files.values() for node in tree.body for name in roots(node)}
    anywhere = {name for tree in files.values() for node in ast.walk(tree) for name in roots(node)}
    assert at_once <= declared and anywhere <= declared | extras and {"scipy", "threadpoolctl"} <= anywhere
    assert declared <= anywhere  # and nothing is declared that is not imported
    assert all(project["optional-dependencies"].values())


def distribution(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement).group()


def roots(node: ast.AST) -> set[str]:
    """The distributions of the packages that an import statement names, without the standard library and ours."""
    match node:
        case ast.Import(names):
            modules = [alias.name for alias in names]
        case ast.ImportFrom(level=0, module=module):
            modules = [module]
        case _:
            return set()
    known = {"sklearn": "scikit-learn", "rank_bm25": "rank-bm25", "huggingface_hub": "huggingface-hub"}
    found = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"mrrec_mini"}
    return {known.get(name, name) for name in found}


def test_all_say_the_same_version():
    """The Makefile, pyproject.toml (twice) and the README."""
    project, makefile = (ROOT / "pyproject.toml").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text("utf-8")
    (lowest,) = re.findall(r'^requires-python = ">=3\.(\d+)"', project, flags=re.MULTILINE)
    assert f'target-version = "py3{lowest}"' in project
    assert f"sys.version_info < (3, {lowest})" in makefile and f"needs Python 3.{lowest} or newer" in makefile
    assert f"Python 3.{lowest}," in (ROOT / "README.md").read_text(encoding="utf-8")


def test_bare_make_prints_its_targets():
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run([MAKE], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    targets = "setup demo test exercise tutorials handout test-all bench lint map data/ml-100k data/smollm2 clean"
    assert [line.split()[1] for line in printed.splitlines()] == targets.split()
