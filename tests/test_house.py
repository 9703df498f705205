"""The rules of the house hold; and each rule is seen to fail where it is broken on purpose."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SHARED_DATA
from house import (
    END,
    PACKAGE,
    ROOT,
    START,
    arguments,
    committed,
    contents,
    forbidden_arrows,
    imports,
    machine_paths,
    modules,
    poor_docstrings,
    readme_map,
    stories,
    unlisted,
    unwritten,
    with_map,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HEAVY = ("torch", "sklearn", "transformers")


@pytest.fixture
def house(tmp_path):
    """house({file: text}) builds a package of a few stages, a wing and one model, plus `text`."""

    def build(files: dict[str, str]) -> Path:
        package = tmp_path / PACKAGE
        toc = '"""Toy.\n\nwire\n    datatypes\n\nrest\n    data, memory, app/cli\n\nbelow\n    models/lm\n"""\n'
        plain = {
            f"{name}.py": f'"""The {name}."""\n' for name in ("datatypes", "data", "memory", "app/cli", "models/lm")
        }
        for name, text in ({"__init__.py": toc} | plain | files).items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        return tmp_path

    return build


# --- arrows ---


def test_no_forbidden_arrow():
    assert forbidden_arrows() == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data", "from mrrec_mini.memory import Memory"),
        ("data", "import mrrec_mini.memory"),
        ("data", "from mrrec_mini import memory"),
        ("data", "from . import memory"),
        ("data", "from .memory import Memory"),
        ("data", "def f():\n    from mrrec_mini.memory import Memory"),
        ("data", "if TYPE_CHECKING:\n    from mrrec_mini.memory import Memory"),
        ("data", "importlib.import_module('mrrec_mini.memory')"),
        ("data", "from mrrec_mini import Memory"),  # a lazy name hides the arrow
        ("datatypes", "from mrrec_mini.models import lm"),
        ("models/lm", "from mrrec_mini.datatypes import Item"),
        ("models/lm", "from ..datatypes import Item"),
        ("memory", "from mrrec_mini.app.cli import app"),
        ("__init__", "from mrrec_mini.data import Dataset"),
        ("__init__", "from .data import Dataset"),
        ("models/__init__", "from ..data import Dataset"),
        ("systems/one", "from mrrec_mini.systems.two import Two"),
        ("systems/one", "from .two import Two"),
    ],
)
def test_a_forbidden_arrow_is_seen(house, module, source):
    root = house({"systems/one.py": "", "systems/two.py": "", "models/__init__.py": ""})
    file = root / PACKAGE / f"{module}.py"
    file.write_text(file.read_text() + source + "\n")
    (found,) = forbidden_arrows(root)
    assert found.startswith(f"{module.replace('/', '.').removesuffix('.__init__')} -> ")


def test_a_system_too_imports_only_what_stands_before_it(house):
    """Evaluation hands queries to systems: one that imported it would close a circle."""
    toc = '"""Toy.\n\nwire\n    datatypes\n\nsystems\n    systems/one\n\nrest\n    data, memory, app/cli\n"""\n'
    root = house({"__init__.py": toc, "systems/one.py": '"""O."""\nfrom mrrec_mini import memory, datatypes\n'})
    (root / PACKAGE / "memory.py").write_text('"""M."""\nfrom mrrec_mini.systems.one import One\n')
    assert forbidden_arrows(root) == ["systems.one -> memory: a stage imports only stages before it"]


def test_allowed_arrows_are_allowed(house):
    root = house(
        {
            "memory.py": '"""M."""\nfrom mrrec_mini.data import Dataset\nfrom mrrec_mini.models import lm\n',
            "__main__.py": '"""M."""\nfrom mrrec_mini.app.cli import main\n',
            "systems/one.py": "from mrrec_mini.memory import Memory\nfrom mrrec_mini.models.lm import make\n",
        }
    )
    assert forbidden_arrows(root) == []


def test_imports_reads_every_spelling():
    source = "import numpy as np\nfrom mrrec_mini.models.lm import make\ndef f():\n    from mrrec_mini import data\n"
    known = {"", "data", "memory", "models", "models.lm"}
    assert imports(source, "memory", known) == {"models.lm", "data"}
    # one dot is the folder that holds the file; for a folder's __init__ it is that folder
    for name, source in {
        "memory": "from .data import D",
        "models": "from .. import data",
        "": "from . import data",
    }.items():
        assert imports(source, name, known) == {"data"}
    assert (
        imports("from . import lm", "models", known) == imports("from .lm import x", "models", known) == {"models.lm"}
    )


# --- the table of contents, docstrings, the map ---


def test_every_module_is_in_the_table_of_contents():
    assert unlisted() == []
    listed = [name for _, names in contents() for name in names]
    assert len(listed) == len(set(listed)) > 10


def test_the_table_of_contents_promises_nothing():
    if missing := unwritten():
        pytest.skip(f"not written yet: {', '.join(missing)}")


def test_a_forgotten_module_and_an_empty_promise_are_seen(house):
    root = house({"extra.py": '"""Extra."""\n', "models/gpt.py": ""})
    (root / PACKAGE / "memory.py").unlink()
    assert unlisted(root) == ["extra", "models.gpt"]
    assert unwritten(root) == ["memory"]


def test_every_module_says_what_it_is_in_one_line():
    assert poor_docstrings() == []


def test_a_poor_docstring_is_seen(house):
    root = house({"data.py": "x = 1\n", "memory.py": '"""It runs on\nand on."""\n', "app/cli.py": '"""No stop"""\n'})
    assert [line.split(":")[0] for line in poor_docstrings(root)] == [
        f"{PACKAGE}/{n}.py" for n in ("app/cli", "data", "memory")
    ]


def test_readme_map_is_the_docstrings():
    assert with_map(README) == README, "run `make map`"


def test_a_stale_map_is_seen(house):
    root = house({})
    fresh = with_map(f"# Toy\n{START}\n{END}\nrest\n", root)
    assert "| wire | [datatypes](mrrec_mini/datatypes.py) | The datatypes. |" in fresh and fresh.endswith(
        f"{END}\nrest\n"
    )
    assert with_map(fresh, root) == fresh
    (root / PACKAGE / "data.py").write_text('"""Another idea."""\n')
    assert with_map(fresh, root) != fresh
    with pytest.raises(ValueError, match="once each"):
        with_map("no markers", root)


def test_map_is_in_flow_order_and_leaves_out_what_is_not_there(house):
    root = house({})
    (root / PACKAGE / "memory.py").unlink()
    assert re.findall(r"\[(\S+)\]", readme_map(root)) == ["datatypes", "data", "app/cli", "models/lm"]


# --- imports stay light ---

DOORS = {
    "mrrec_mini": "import mrrec_mini",
    "mrrec_mini.datatypes": "import mrrec_mini.datatypes",
    "mrrec_mini.data": "import mrrec_mini.data",
    "mrrec_mini.app.cli": "import mrrec_mini.app.cli",
    "mrrec --help": "sys.argv = ['mrrec', '--help']\ntry: runpy.run_module('mrrec_mini', run_name='__main__')\n"
    "except SystemExit as end: assert not end.code, end.code",
}


def heavy_imports(code: str, root: Path) -> str:
    """The heavy packages that a fresh Python holds after running `code` with `root` first on its path."""
    look = f"print('HEAVY', *[name for name in {HEAVY} if name in sys.modules])"
    script = f"import runpy, sys\nsys.path.insert(0, {str(root)!r})\n{code}\n{look}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("HEAVY")[2].strip()


@pytest.mark.parametrize("door", DOORS)
def test_the_doors_are_light(door):
    if "app.cli" not in modules() and ("cli" in door or "help" in door):
        pytest.skip("needs mrrec_mini/app/cli.py")
    assert heavy_imports(DOORS[door], ROOT) == ""


def test_a_heavy_door_is_seen(house):
    root = house({"data.py": '"""D."""\nimport sklearn\n', "app/cli.py": '"""C."""\ndef main():\n    import torch\n'})
    (root / PACKAGE / "__main__.py").write_text("from mrrec_mini.app.cli import main\nmain()\n")
    (root / "sklearn.py").write_text("")  # stand-ins: the true ones take seconds
    (root / "torch.py").write_text("")
    assert heavy_imports(DOORS["mrrec_mini"], root) == ""
    assert heavy_imports(DOORS["mrrec_mini.data"], root) == "sklearn"
    assert heavy_imports(DOORS["mrrec --help"], root) == "torch"


def test_public_names_are_where_the_package_says():
    import mrrec_mini

    for name in mrrec_mini.__all__:
        assert getattr(mrrec_mini, name).__name__ == name
        assert name in dir(mrrec_mini)
    with pytest.raises(AttributeError, match="no attribute 'Recommender'"):
        mrrec_mini.Recommender  # noqa: B018


# --- the README's commands, the Makefile, CI ---


def test_stories_are_read():
    quick = "```bash\nmrrec data info d  # counts\nls\n```\n"
    slow = "```bash slow needs:data/x\n.venv/bin/mrrec demo \\\n  --data data/x\n```\n"
    first, second = stories(f"a\n{quick}{slow}```\nmrrec is not run here\n```\n")
    assert (first.line, first.commands, first.slow) == (2, ("mrrec data info d  # counts",), False)
    assert (second.slow, second.needs) == (True, ("data/x",))
    assert arguments(first.commands[0]) == ["data", "info", "d"]
    assert arguments(second.commands[0]) == ["demo", "--data", "data/x"]
    assert arguments("mrrec demo --json > out.json") == ["demo", "--json"]
    assert arguments('mrrec recommend "a lotion" --user u') == ["recommend", "a lotion", "--user", "u"]
    with pytest.raises(ValueError, match="slwo"):
        stories("```bash slwo\nmrrec demo\n```\n")


def invoke(command: str, *more: str):
    """Run one command of the README in this process, with `more` options."""
    pytest.importorskip("mrrec_mini.app.cli", reason="needs mrrec_mini/app/cli.py")
    from typer.testing import CliRunner

    from mrrec_mini.app.cli import app

    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [*arguments(command), *more])


def told(story):
    """A story as a pytest parameter: named by its line, marked as its fence says."""
    return pytest.param(story, id=f"README:{story.line}", marks=[pytest.mark.slow] if story.slow else [])


@pytest.mark.parametrize("story", [told(story) for story in stories(README)])
def test_readme_commands_run(story, tmp_path, monkeypatch):
    for need in story.needs:
        lies = next((p for p in (ROOT / need, SHARED_DATA / Path(need).name) if p.exists()), None)
        if lies is None:
            pytest.skip(f"needs {need}, which is in neither the repository nor the folder of MRREC_SHARED_DATA")
        (tmp_path / need).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / need).symlink_to(lies)
    monkeypatch.chdir(tmp_path)
    for command in story.commands:
        sizeable = command.split()[1] in ("demo", "train", "reproduce")
        # the same code at toy sizes: minutes become seconds. Not added to the text, whose end may be a comment
        done = invoke(command, *["--fast"] * sizeable)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("program", re.findall(r"^```python\n((?:.*\n)*?)```$", README, flags=re.MULTILINE))
def test_readme_programs_run(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out == "['m4', 'm1'] 0.0\n"


@pytest.mark.parametrize("command", sorted({command for story in stories(README) for command in story.commands}))
def test_readme_commands_exist(command):
    """The quick half, for slow stories too: the command is there and takes the options that the README gives it."""
    assert unknown_options(command) == []


def unknown_options(command: str) -> list[str]:
    pytest.importorskip("mrrec_mini.app.cli", reason="needs mrrec_mini/app/cli.py")
    import typer

    from mrrec_mini.app.cli import app

    words, node = arguments(command), typer.main.get_command(app)
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    if hasattr(node, "commands"):
        return [f"no command {words[:1]}"]
    known = {name for parameter in node.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in known]


def test_unknown_commands_and_options_are_seen():
    assert unknown_options("mrrec demo --fats") == ["--fats"]
    assert unknown_options("mrrec dmeo") == ["no command ['dmeo']"]
    assert invoke("mrrec dmeo").exit_code == 2
    assert "--nonsense" in invoke("mrrec demo   # a comment ends no command", "--nonsense").output


def test_readme_shows_the_two_commands_and_ci_runs_the_second():
    fences = "\n".join(re.findall(r"^```bash.*\n((?:.*\n)*?)```$", README, flags=re.MULTILINE))
    shown = re.findall(r"^make ([\w/-]+)", fences, flags=re.MULTILINE)
    targets = set(re.findall(r"^([\w/-]+):", MAKEFILE, flags=re.MULTILINE))
    assert {"demo", "test"} <= set(shown) <= targets
    assert {"make test", "make lint"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_bare_make_prints_its_targets():
    # these tests may themselves run under make, whose flags would be handed on
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run(["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    targets = [
        "setup",
        "demo",
        "test",
        "exercise",
        "tutorials",
        "handout",
        "test-all",
        "bench",
        "lint",
        "map",
        "data/ml-100k",
        "data/smollm2",
        "clean",
    ]
    assert [line.split()[1] for line in printed.splitlines()] == targets


# --- what is committed; what tests run under ---


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_no_committed_file_names_a_machine():
    assert machine_paths(committed()) == []


@pytest.mark.parametrize(
    "path", ["/".join(["", *p]) for p in (("work", "main"), ("home", "ann", "x"), ("root", ".cache"))]
)
def test_a_machine_path_is_seen(tmp_path, path):
    file = tmp_path / "notes.md"
    file.write_text(f"fine: ../shared/data, https://example.org/work/x, a/root/b\nlook in {path}\n")
    assert [line.split(":")[1] for line in machine_paths([file])] == ["2"]


def test_tests_run_on_one_thread():
    torch = pytest.importorskip("torch")
    assert torch.get_num_threads() == 1
