"""The table in CHECKS.md lists all 22 checks, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import wrong

HERE = Path(__file__).parent
TABLE = (HERE / "CHECKS.md").read_text(encoding="utf-8")


def rows(table: str) -> dict[int, list[str]]:
    """Number of a check -> its tests, as `file::test`."""
    found = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", table, flags=re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", tests) for number, tests in found}


@cache
def written_in(file: Path) -> set[str]:
    """The test functions of a file. The file is parsed, not imported, because slow tests may need extras."""
    if not file.is_file():
        return set()
    return {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def missing(table: str) -> list[str]:
    """Tests that a table names and that do not exist."""
    named = [name for tests in rows(table).values() for name in tests]
    return [name for name in named if name.partition("::")[2] not in written_in(HERE / name.partition("::")[0])]


def test_every_check_has_its_tests():
    assert list(rows(TABLE)) == list(range(1, 23))
    assert all(rows(TABLE).values())


def test_every_named_test_exists():
    assert missing(TABLE) == []


def test_a_missing_test_is_seen():
    table = (
        "| 1 | x | y | `test_grpo.py::test_kl` `test_checks.py::test_every_check_has_its_tests` `test_no.py::test_a` |"
    )
    assert missing(table) == ["test_grpo.py::test_kl", "test_no.py::test_a"]


def test_every_list_of_wrong_versions_is_used():
    """Every list of wrong versions in wrong.py is used by a test that rejects them."""
    lists = [name for name, value in vars(wrong).items() if name.isupper() and isinstance(value, tuple)]
    tests = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
    unused = [name for name in lists if f"wrong.{name}" not in tests]
    assert len(lists) > 5 and unused == []


@pytest.mark.parametrize("name", sorted(n for n, v in vars(wrong).items() if n.isupper() and isinstance(v, tuple)))
def test_wrong_versions_have_different_names(name):
    names = [version.__name__ for version in getattr(wrong, name)]
    assert len(names) == len(set(names)) > 0
