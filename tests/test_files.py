"""files.py: a file or a folder is replaced whole or not at all, whatever stops the writer."""

import os
import shutil
from pathlib import Path

import pytest

import mrrec_mini
from house import ROOT
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
    assert names(tmp_path) == [f".set.{child}.tmp", f".set.{child}.tmp.old", ".set.lock"]
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


# --- locks ---


def holder(path: Path) -> tuple[int, int]:
    """A child process that holds the lock until a byte arrives: its number, and the pipe to write to."""
    (ready, tell), (end, write) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with files.locked(path):
            os.write(tell, b".")
            os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)
    return child, write


def test_a_lock_names_its_holder_and_leaves_no_file(tmp_path):
    path = tmp_path / "lock"
    child, pipe = holder(path)
    with pytest.raises(OSError, match=rf"another process \({child}\) is here") as error, files.locked(path, "is here"):
        pass
    assert error.value.filename == str(tmp_path)
    os.write(pipe, b".")
    with files.locked(path):  # waits for the child
        assert path.read_text() == str(os.getpid())
    os.waitpid(child, 0)
    assert names(tmp_path) == []


def test_a_killed_holder_does_not_keep_its_lock(tmp_path):
    child, _ = holder(tmp_path / "lock")
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert names(tmp_path) == ["lock"]
    with files.locked(tmp_path / "lock", "is here"):
        pass
    assert names(tmp_path) == []


def count_up(path: Path, rounds: int) -> None:
    """Read a number and write the next, as often as asked: without a lock, steps of others get lost."""
    for _ in range(rounds):
        with files.locked(path.with_name("lock")):
            number = int(path.read_text())
            os.sched_yield()
            path.write_text(str(number + 1))


def test_only_one_process_at_a_time_holds_a_lock_though_its_file_is_removed(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    children = []
    for _ in range(3):
        children.append(os.fork())
        if not children[-1]:
            try:
                count_up(path, 300)
                os._exit(0)
            finally:
                os._exit(1)  # whatever happens, a child process must not run the other tests
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert path.read_text() == "900" and names(tmp_path) == ["number"]


# --- links, and a failure after the rename ---


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    for name, make in (("file", Path.touch), ("folder", Path.mkdir)):
        make(tmp_path / name)
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / name).symlink_to(Path("..") / name)
    files.write_text(tmp_path / "links" / "file", "new")
    with files.replacing_folder(tmp_path / "links" / "folder") as fresh:
        (fresh / "a").write_text("new")
    assert all((tmp_path / "links" / name).is_symlink() for name in ("file", "folder"))
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "new"
    assert names(tmp_path) == ["file", "folder", "links"] and names(tmp_path / "links") == ["file", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_if_only_the_name_is_not_confirmed_the_error_says_that_the_new_content_stands(tmp_path, monkeypatch, kind):
    sync = files.sync

    def fail(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OSError, match=r"it is written, but .* \(Input/output error\)") as caught:
        if kind == "file":
            files.write_text(tmp_path / "b", "new")
        else:
            with files.replacing_folder(tmp_path / "b") as fresh:
                (fresh / "a").write_text("new")
    assert caught.value.filename == str(tmp_path / "b")
    written = tmp_path / "b" if kind == "file" else tmp_path / "b" / "a"
    assert written.read_text() == "new" and names(tmp_path) == ["b"]


def test_an_old_folder_that_cannot_be_deleted_is_no_error(tmp_path, monkeypatch):
    remove = files.shutil.rmtree

    def fail(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(5, "Input/output error")
        if path.suffix != ".old":
            remove(path, ignore_errors)

    monkeypatch.setattr(files.shutil, "rmtree", fail)
    for text in ("old", "new"):
        with files.replacing_folder(tmp_path / "b") as fresh:
            (fresh / "a").write_text(text)
    assert (tmp_path / "b" / "a").read_text() == "new"


# --- the version of the code ---


def test_equal_code_has_an_equal_version_wherever_it_lies(tmp_path, monkeypatch):
    here = files.code_version()
    assert here.startswith(f"{mrrec_mini.__version__}+")

    def version_of(package: Path) -> str:
        monkeypatch.setattr(files, "__file__", str(package / "files.py"))
        files.code_version.cache_clear()
        return files.code_version()

    try:
        copy = Path(shutil.copytree(ROOT / "mrrec_mini", tmp_path / "elsewhere"))
        assert version_of(copy) == here
        (copy / "bm25.py").write_bytes((copy / "bm25.py").read_bytes().replace(b"\n", b"\r\n"))
        assert version_of(copy) == here  # git on Windows changes line ends
        (copy / "bm25.py").rename(copy / "bm25_.py")
        assert version_of(copy) != here
        (copy / "bm25_.py").rename(copy / "bm25.py")
        (copy / "app" / "cli" / "data.py").open("a").write("\n# a comment\n")
        assert version_of(copy) != here
    finally:
        files.code_version.cache_clear()
