"""Write a file or a folder whole, or not at all.

Flow: used by every stage that writes to the disk. The new content is written under a hidden name in the same folder,
is flushed to the disk, and is then renamed to the final name. So a reader finds the old content or the new content,
never a part of it, even after the process was killed.

Not covered: a disk that reports a write that it did not make; a kill between the two renames of `_take_name`, which
leaves the old folder under a hidden name. The paper says nothing about this.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
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
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        fresh.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Delete the hidden files that killed writers of `path` left behind, since they may hold people's text."""
    for half in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = half.name.split(".")[-2]
        if writer.isdigit() and not _is_running(int(writer)):
            half.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield fresh
        for path in sorted(fresh.rglob("*")):
            sync(path)
        fresh.chmod(0o755)  # mkdtemp made the folder readable for its owner only
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
