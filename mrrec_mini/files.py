"""Write a file or a folder whole, or not at all.

Flow: used by every stage that writes to the disk. The new content is written under a hidden name in the same folder,
is flushed to the disk, and is then renamed to the final name. So a reader finds the old content or the new content,
never a part of it, even after the process was killed.

Not covered: a disk that reports a write that it did not make. After a kill between the two renames of `_take_name`, the
folder is missing until the next writer puts the old one back. The paper says nothing about this.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Flush to the disk: the content of a file, or the list of names in a folder."""
    if path.is_dir() and os.name == "nt":  # Windows cannot flush a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a hidden path in the same folder, to write to; its file replaces `path` if the block raises no error.

    Makes missing parent folders. Every OSError names `path`, since the error of a full disk does not name the file.
    """
    fresh = _hidden(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        fresh.unlink(missing_ok=True)


def _hidden(path: Path) -> Path:
    """The name under which this process writes `path`; another process has another name for the same file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sweep(path: Path) -> None:
    """Clean up after killed writers of `path`: put an old folder back, delete the rest. It may hold people's text."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        writer = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if not writer.isdigit() or _is_running(int(writer)):
            continue
        if left.suffix == ".old" and not path.exists():  # killed between the two renames of `_take_name`
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there `os.kill` would end the process; so nothing is swept
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # any other error: the process is another user's
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to the file `path`, replacing an older file. Errors as in `replacing_file`."""
    with replacing_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden empty folder next to `folder`, to fill; it replaces `folder` if the block raises no error.

    Makes missing parent folders. If the rename fails, an older folder of the same name keeps its place.
    """
    fresh = _hidden(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    shutil.rmtree(fresh, ignore_errors=True)  # of an earlier process with the same number
    fresh.mkdir(mode=0o700)
    try:
        yield fresh
        for path in sorted(fresh.rglob("*")):
            sync(path)
        fresh.chmod(0o755)
        _take_name(folder, fresh)
        sync(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _take_name(folder: Path, fresh: Path) -> None:
    """Rename `fresh` to `folder`. A rename cannot replace a folder with content, so an old folder is renamed first."""
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = fresh.with_name(fresh.name + ".old")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)
