"""Write a file or a folder whole, or not at all, and let one process at a time do a piece of work.

Flow: used by every stage that writes to the disk. The new content is written under a hidden name in the same folder,
is flushed to the disk, and is then renamed to the final name. So a reader finds the old content or the new content,
never a part of it, even after the process was killed. `locked` is for work that two processes must not do at once, such
as building a store.

Not covered: a disk that reports a write that it did not make. After a kill between the two renames of `_take_name`, the
folder is missing until the next writer puts the old one back. On Windows nothing is locked, and the files of killed
writers stay. The paper says nothing about this.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Let no other process hold the lock file `path` until the block ends or this process dies.

    The folder of `path` must exist. If another process holds the lock, wait for it, or if `refusal` is given, raise an
    OSError about the folder at once: "another process (its number) <refusal>". Locks cannot be nested.
    """
    if fcntl is None:
        yield
        return
    waiting = fcntl.LOCK_EX if refusal is None else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        with path.open("a+", encoding="utf-8") as file:  # "a": until this process has the lock, nothing is overwritten
            try:
                fcntl.flock(file, waiting)
            except BlockingIOError:
                file.seek(0)
                number = f" ({told})" if (told := file.read().strip()) else ""
                raise OSError(errno.EBUSY, f"another process{number} {refusal}", str(path.parent)) from None
            if not _is_still(path, file.fileno()):
                continue  # the process that held the lock has removed its file: lock the new one
            try:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_still(path: Path, handle: int) -> bool:
    """Return whether the open file is the one that has the name `path` now."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


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

    Makes missing parent folders. A link stays: the file that it names is replaced. Every OSError names `path`, since
    the error of a full disk does not name the file.
    """
    real = path.resolve()
    fresh = _hidden(real)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        _sweep(real)
        yield fresh
        sync(fresh)
        os.replace(fresh, real)
        _sync_name(real)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        fresh.unlink(missing_ok=True)


def _sync_name(path: Path) -> None:
    """Flush the name of `path`, which has just been replaced. The OSError says that the new content stands."""
    try:
        sync(path.parent)
    except OSError as error:
        text = f"it is written, but the disk did not confirm its name ({error.strerror})"
        raise OSError(error.errno, text, str(path)) from error


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

    Makes missing parent folders. A link stays: the folder that it names is replaced. If the rename fails, an older
    folder of the same name keeps its place.
    """
    folder = folder.resolve()
    fresh, lock = _hidden(folder), folder.with_name(f".{folder.name}.lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        _sweep(folder)
    shutil.rmtree(fresh, ignore_errors=True)  # of an earlier process with the same number
    fresh.mkdir(mode=0o700)
    try:
        yield fresh
        for path in sorted(fresh.rglob("*")):
            sync(path)
        fresh.chmod(0o755)
        with locked(lock):
            _take_name(folder, fresh)
        _sync_name(folder)
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
    shutil.rmtree(aside, ignore_errors=True)  # the next writer sweeps what is left


@cache
def code_version() -> str:
    """Return a name for the code of this package, such as "0.1.0+5f0a92c1": equal code has equal names everywhere.

    Saved results hold it, so that a reader knows which code made them. Call it before the work begins: the files could
    change meanwhile.
    """
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r", b""))
    return f"{import_module(__package__).__version__}+{digest.hexdigest()[:8]}"
