"""The rules of the house hold, and each rule is seen to fail when it is broken on purpose."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from house import (
    END,
    MAPS,
    PACKAGE,
    ROOT,
    START,
    committed,
    contents,
    forbidden_arrows,
    full_map,
    imports,
    machine_paths,
    poor_docstrings,
    readme_map,
    unlisted,
    unwritten,
    with_map,
)

HEAVY = ("torch", "sklearn", "transformers")


@pytest.fixture
def house(tmp_path):
    """house({file: text}) writes a package of a few stages, a wing and one model, plus the given files."""

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


def test_a_system_imports_only_modules_before_it(house):
    """Evaluation hands queries to the systems: a system that imported evaluation would close a circle."""
    toc = '"""Toy.\n\nwire\n    datatypes\n\nsystems\n    systems/one\n\nrest\n    data, memory, app/cli\n"""\n'
    root = house({"__init__.py": toc, "systems/one.py": '"""O."""\nfrom mrrec_mini import memory, datatypes\n'})
    (root / PACKAGE / "memory.py").write_text('"""M."""\nfrom mrrec_mini.systems.one import One\n')
    assert forbidden_arrows(root) == ["systems.one -> memory: a module imports only modules listed before it"]


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
    # One dot is the folder of the file; for a folder's __init__ it is that folder itself.
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


def test_every_entry_of_the_table_of_contents_exists():
    assert unwritten() == []


def test_an_unlisted_module_and_an_entry_without_a_module_are_seen(house):
    root = house({"extra.py": '"""Extra."""\n', "models/gpt.py": ""})
    (root / PACKAGE / "memory.py").unlink()
    assert unlisted(root) == ["extra", "models.gpt"]
    assert unwritten(root) == ["memory"]


def test_every_module_begins_with_one_sentence():
    assert poor_docstrings() == []


def test_a_poor_docstring_is_seen(house):
    root = house({"data.py": "x = 1\n", "memory.py": '"""It runs on\nand on."""\n', "app/cli.py": '"""No stop"""\n'})
    assert [line.split(":")[0] for line in poor_docstrings(root)] == [
        f"{PACKAGE}/{n}.py" for n in ("app/cli", "data", "memory")
    ]


@pytest.mark.parametrize("page", MAPS)
def test_the_maps_are_made_from_the_docstrings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert with_map(text, MAPS[page]()) == text, "run `make map`"


def test_a_stale_map_is_seen(house):
    root = house({})
    fresh = with_map(f"# Toy\n{START}\n{END}\nrest\n", full_map(root))
    assert "| wire | [datatypes](../mrrec_mini/datatypes.py) | The datatypes. |" in fresh
    assert fresh.endswith(f"{END}\nrest\n")
    assert with_map(fresh, full_map(root)) == fresh
    (root / PACKAGE / "data.py").write_text('"""Another idea."""\n')
    assert with_map(fresh, full_map(root)) != fresh
    with pytest.raises(ValueError, match="once each"):
        with_map("no markers", full_map(root))


def test_the_maps_are_in_the_order_of_the_flow_and_leave_out_missing_files(house):
    root = house({})
    (root / PACKAGE / "memory.py").unlink()
    assert re.findall(r"\[(\S+)\]", full_map(root)) == ["datatypes", "data", "app/cli", "models/lm"]
    assert readme_map(root).splitlines()[2:] == [
        "| wire | [datatypes](mrrec_mini/datatypes.py) |",
        "| rest | [data](mrrec_mini/data.py), [cli](mrrec_mini/app/cli.py) |",
        "| below | [lm](mrrec_mini/models/lm.py) |",
    ]


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
    """The heavy packages that a fresh Python has imported after running `code`, with `root` first on its path."""
    look = f"print('HEAVY', *[name for name in {HEAVY} if name in sys.modules])"
    script = f"import runpy, sys\nsys.path.insert(0, {str(root)!r})\n{code}\n{look}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("HEAVY")[2].strip()


@pytest.mark.parametrize("door", DOORS)
def test_the_doors_are_light(door):
    assert heavy_imports(DOORS[door], ROOT) == ""


def test_a_heavy_door_is_seen(house):
    root = house({"data.py": '"""D."""\nimport sklearn\n', "app/cli.py": '"""C."""\ndef main():\n    import torch\n'})
    (root / PACKAGE / "__main__.py").write_text("from mrrec_mini.app.cli import main\nmain()\n")
    (root / "sklearn.py").write_text("")  # stand-ins: the real packages take seconds to import
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
