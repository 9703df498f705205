"""Write a file or a folder whole, or not at all.

Flow: beneath every stage that writes to the disk. The new content goes to a hidden name beside the old one, is flushed
to the disk, and takes the old one's name by a rename. Whoever reads, or a kill at any moment, meets the old content or
the new, never half of either.

Not covered: a disk that reports a write it did not make. The paper says nothing of this.
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
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot flush a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to; it replaces `path` when the block ends without an error.

    Missing parent folders are made. An OSError names `path`, since a full disk does not say which file it refused.
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
    """Remove what killed writers of `path` left behind: it may hold people's text."""
    for half in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = half.name.split(".")[-2]
        if writer.isdigit() and not _is_running(int(writer)):
            half.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # any other error: it is another user's
    return True


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a UTF-8 file that holds `text`. Errors as in `replacing_file`."""
    with replacing_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden empty folder beside `folder` to fill; it replaces `folder` when the block ends without an error.

    Missing parent folders are made. If the rename fails, an older folder of that name is put back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield fresh
        for path in sorted(fresh.rglob("*")):
            sync(path)
        fresh.chmod(0o755)  # mkdtemp makes it private
        _take_name(folder, fresh)
        sync(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _take_name(folder: Path, fresh: Path) -> None:
    """Rename `fresh` to `folder`. A full folder cannot be renamed over, so the old one steps aside first."""
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
