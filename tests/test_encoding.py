"""Every text file is opened with a stated encoding, so that nothing depends on the locale of the machine."""

import ast
import os
import subprocess
import sys

import pytest

from house import ROOT

CODE = [*ROOT.glob("mrrec_mini/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tutorials/**/*.py")]


def without_encoding(source: str) -> list[int]:
    """Lines of the calls that read or write text without an `encoding`. Binary modes are left out."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and is_text_call(node) and not any(k.arg == "encoding" for k in node.keywords)
    ]


def is_text_call(node: ast.Call) -> bool:
    match node.func:
        case ast.Name("open"):
            return not is_binary(node, 1)
        case ast.Attribute(ast.Name("os" | "Image" | "gzip" | "Store" | "Assistant" | "webbrowser"), "open"):
            return False  # no text, or none without a mode "t"
        case ast.Attribute(_, "open"):
            return not is_binary(node, 0)
        case ast.Attribute(_, "read_text"):
            return not node.args
        case ast.Attribute(_, "write_text"):
            return len(node.args) < 2
        case ast.Attribute(ast.Name("subprocess"), "run" | "Popen" | "check_output"):
            return any(k.arg in ("text", "universal_newlines") for k in node.keywords)
    return False


def is_binary(node: ast.Call, place: int) -> bool:
    modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args[place : place + 1]
    return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_text_file_has_an_encoding(file):
    assert without_encoding(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'open("a")',
        'open("a", "w")',
        'path.open("a")',
        "path.open()",
        "path.read_text()",
        'path.write_text("a")',
        'subprocess.run(["a"], text=True)',
    ],
)
def test_a_missing_encoding_is_seen(line):
    assert without_encoding(line) == [1]


@pytest.mark.parametrize(
    "line", ['open("a", "rb")', 'path.open(mode="wb")', 'path.read_text("utf-8")', "Store.open(a)"]
)
def test_other_calls_are_left_alone(line):
    assert without_encoding(line) == []


WRITES = """
import sys
from pathlib import Path
from mrrec_mini.data import Dataset, write_dataset
from mrrec_mini.datatypes import Interaction, Item, Query

item = Item("i1", "Tasse \\u7f8a\\u6bdb", ("K\\xfcche",), {"farbe": ("gr\\xfcn",)}, "caf\\xe9")
bought = [Interaction("\\xfc", "i1", 1, 5.0, "sch\\xf6n"), Interaction("\\xfc", "i1", 3, 5.0, "")]
query = Query("q", "\\xfc", "Tasse f\\xfcr drau\\xdfen", "i1", 2)
meta = {"name": "K\\xfcche", "source": "\\u7f8a\\u6bdb"}
write_dataset(sys.argv[1], [item], bought, [query], meta, {"a.rejects.jsonl": [{"raw": "\\xfc"}]})
print(ascii(Dataset.load(sys.argv[1]).meta["source"]))
"""


def test_a_data_set_is_the_same_in_every_locale(tmp_path):
    """Under C, Python would write ASCII; -X warn_default_encoding reports every file that is left to the locale."""
    written = []
    for name, settings in {"utf-8": {"PYTHONUTF8": "1"}, "c": {"PYTHONUTF8": "0", "LC_ALL": "C"}}.items():
        env = {**os.environ, "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT), **settings}
        command = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-c", WRITES]
        done = subprocess.run([*command, tmp_path / name], env=env, capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stdout) == (0, r"'\u7f8a\u6bdb'" + "\n"), done.stderr
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert written[0] == written[1] and "羊毛".encode() in written[0]["meta.json"]
