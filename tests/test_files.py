"""files.py: a file or a folder is replaced whole or not at all, whatever stops the writer."""

import os
from pathlib import Path

import pytest

from mrrec_mini import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "old")
    files.write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é" and names(path.parent) == ["b.txt"]


def test_a_failure_leaves_the_old_file_and_no_half(tmp_path):
    path = tmp_path / "b.txt"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.replacing_file(path) as fresh:
        fresh.write_text("half")
        assert path.read_text() == "old"  # until the block ends, readers see the old file
        raise KeyError
    assert path.read_text() == "old" and names(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_error_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch, name):
    path = tmp_path / "b.txt"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and names(tmp_path) == ["b.txt"]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *pair: (done.append("rename"), replace(*pair)))
    files.write_text(tmp_path / "b.txt", "new")
    assert done == ["sync", "rename", "sync"]  # the last one flushes the name


def test_two_writers_of_one_file_have_names_of_their_own(tmp_path):
    """A child process that writes the same file must not share the hidden name."""
    path = tmp_path / "b.txt"
    with files.replacing_file(path) as mine:
        mine.write_text("mine")
        child = os.fork()
        if child == 0:
            files.write_text(path, "theirs")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0 and path.read_text() == "theirs" and mine.read_text() == "mine"
    assert path.read_text() == "mine" and names(tmp_path) == ["b.txt"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "b.txt"
    child = os.fork()
    if child == 0:
        with files.replacing_file(path) as fresh:
            fresh.write_text("half, with somebody's name in it")
            os._exit(9)  # as a kill: nothing is cleaned up
    os.waitpid(child, 0)
    assert names(tmp_path) == [f".b.txt.{child}.tmp"]
    files.write_text(path, "whole")
    assert names(tmp_path) == ["b.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "set"
    for content in ("old", "new"):
        with files.replacing_folder(folder) as fresh:
            (fresh / "inner").mkdir()
            (fresh / "inner" / content).write_text(content)
    assert names(folder / "inner") == ["new"] and names(tmp_path) == ["set"]
    assert folder.stat().st_mode & 0o777 == 0o755


def killed(write) -> int:
    """The number of a child process that was killed inside `write`, so that it cleaned nothing up."""
    child = os.fork()
    if child == 0:
        write()
        os._exit(1)  # not reached
    assert os.waitpid(child, 0)[1] == 9 << 8
    return child


def test_what_a_killed_writer_of_a_folder_left_is_removed_by_the_next(tmp_path):
    folder = tmp_path / "set"

    def write():
        with files.replacing_folder(folder) as fresh:
            (fresh / "half").write_text("somebody's name")
            os._exit(9)

    child = killed(write)
    assert names(tmp_path) == [f".set.{child}.tmp"]
    with files.replacing_folder(folder) as fresh:
        (fresh / "whole").write_text("")
    assert names(tmp_path) == ["set"] and names(folder) == ["whole"]


def test_an_old_folder_that_a_kill_left_aside_is_put_back_by_the_next_writer(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    with files.replacing_folder(folder) as fresh:
        (fresh / "old").write_text("old")
    rename = Path.rename

    def write():
        monkeypatch.setattr(Path, "rename", lambda self, to: (rename(self, to), os._exit(9)))
        with files.replacing_folder(folder) as fresh:
            (fresh / "new").write_text("new")

    child = killed(write)
    assert names(tmp_path) == [f".set.{child}.tmp", f".set.{child}.tmp.old"]
    with pytest.raises(KeyError), files.replacing_folder(folder):
        raise KeyError  # the next writer fails too, and the old content is there all the same
    assert names(tmp_path) == ["set"] and names(folder) == ["old"]


def test_a_failure_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    with files.replacing_folder(folder) as fresh:
        (fresh / "old").write_text("old")
    with pytest.raises(KeyError), files.replacing_folder(folder) as fresh:
        (fresh / "half").write_text("half")
        raise KeyError
    assert names(folder) == ["old"] and names(tmp_path) == ["set"]
    rename, calls = Path.rename, []

    def fails_once(self, target):
        calls.append(target)
        if len(calls) == 2:  # the old folder has stepped aside, and the new one cannot take its name
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(OSError, match="No space left"), files.replacing_folder(folder) as fresh:
        (fresh / "new").write_text("new")
    assert names(folder) == ["old"] and names(tmp_path) == ["set"]
