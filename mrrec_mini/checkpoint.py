"""Checkpoints that survive a kill, a full disk and a flipped bit: saved completely or not at all, checked when read.

Flow: used by `run`, which decides what a checkpoint contains. This file only writes and checks the files; it knows
nothing about models.

    RUN/checkpoints/step-000060/    the files of one checkpoint, and manifest.json, which holds format, step, the size
                                    and sha256 of each file, and the sha256 of the manifest itself
                    *.tmp           an unfinished checkpoint: never read; the next save deletes it
                    *.old           a checkpoint that is being replaced: read if the new one was not completed

`save` writes into a temporary folder, flushes every file to the disk, writes the manifest last, and renames the folder.
Only then does it delete older checkpoints; it keeps the two newest. `newest` compares the newest checkpoint with its
manifest. If a file is wrong, it reports which, and tries the checkpoint before.

Not covered: a disk that reports a write as done although it is not. The paper does not discuss checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mrrec_mini.data import DataError, shorten
from mrrec_mini.files import sync
from mrrec_mini.typed import parse_json, typed

FORMAT = 1  # increase it if older code would misread a checkpoint; never change how the manifest's sha256 is computed
MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{6,})(\.old)?")


def save(run: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Save the checkpoint of a step and return its folder. `write(folder)` must write the files into `folder`.

    Raises OSError, which names the folder and says whether the new checkpoint stands; all older ones then do.
    """
    final = run / "checkpoints" / f"step-{step:06d}"
    fresh, old = final.with_suffix(".tmp"), final.with_suffix(".old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for unfinished in final.parent.glob("*.tmp"):
            shutil.rmtree(unfinished)
        fresh.mkdir()
        write(fresh)
        _write_manifest(fresh, step)
        if final.exists():  # a folder cannot be renamed over another
            if old.exists():
                shutil.rmtree(old)
            os.replace(final, old)
        os.replace(fresh, final)
    except Exception as error:  # not only OSError: some libraries raise other errors for a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        what = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        advice = "what was saved before is untouched: make room there, or make it writable, and resume"
        raise OSError(f"{final}: the checkpoint cannot be written ({what}); {advice}") from error
    try:
        sync(final.parent)
    except OSError as error:
        what = f"but the disk did not confirm its name ({error.strerror}); all older ones are kept"
        raise OSError(f"{final}: the checkpoint is written, {what}") from error
    # keep this checkpoint and the one before it. Checkpoints of later steps are damaged: `resume` skipped them
    found = folders(run)
    before = [folder for folder in found[found.index(final) + 1 :] if folder.stem != final.name]
    for folder in found:
        if folder not in (final, *before[:1]):
            shutil.rmtree(folder, ignore_errors=True)  # the next save tries again
    return final


def folders(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, newest first, without checking them."""
    found = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*") if path.is_dir()]
    return [path for _, path in sorted(((int(m[1]), not m[2]), path) for m, path in found if m)][::-1]


def newest(run: Path, warn: Callable[[str], object]) -> Path:
    """Return the newest undamaged checkpoint. `warn` is called with one sentence for each damaged one that is newer.

    Raises FileNotFoundError if there is no checkpoint; DataError if all are damaged, or if another format is met first.
    """
    troubles: list[str] = []
    for folder in folders(run):
        try:
            check(folder)
        except Damaged as damage:
            troubles.append(f"{folder}: {damage}")
            continue
        for trouble in troubles:
            warn(f"{trouble}; {folder.name} is used in its place")
        return folder
    if not troubles:
        raise FileNotFoundError(f"{run} has no checkpoint: there is none in {run / 'checkpoints'}")
    raise DataError(f"no checkpoint is whole: {'; '.join(troubles)}; train again into another folder")


@dataclass(frozen=True)
class _File:
    """What a manifest says about a file."""

    size: int  # bytes
    sha256: str


class Damaged(ValueError):
    """A checkpoint is damaged; the message says which file is wrong, and how."""


def check(folder: Path) -> None:
    """Compare a checkpoint with its manifest. Raises Damaged if they differ, DataError if its format is not FORMAT."""
    try:
        manifest = parse_json((folder / MANIFEST).read_bytes())
        own = manifest.pop("sha256")
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({shorten(str(error))})") from None
    if own != _digest(manifest):
        raise Damaged(f"{MANIFEST}: its content does not match its own sha256")
    if manifest.get("format") != FORMAT:
        found, ours = shorten(manifest.get("format")), f"this version of mrrec_mini reads format {FORMAT}"
        raise DataError(f"{folder}: a checkpoint of format {found}, and {ours}; use the version that wrote it")
    try:
        step, expected = typed(int, manifest["step"], "step"), typed(Mapping[str, _File], manifest["files"], "files")
    except (ValueError, LookupError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({shorten(str(error))})") from None
    if folder.name.split(".")[0] != f"step-{step:06d}":
        raise Damaged(f"{MANIFEST} belongs to step {step}, but its folder is named {folder.name}")
    present = _files(folder)
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            raise Damaged(f"{name} is missing")
        if name not in expected:
            raise Damaged(f"{name} is not listed in its manifest")
        size = present[name].stat().st_size
        if size != expected[name].size:
            raise Damaged(f"{name} has {size} bytes, its manifest says {expected[name].size}")
        if _sha256(present[name]) != expected[name].sha256:
            raise Damaged(f"{name}: its sha256 is not the one in the manifest")


def _write_manifest(folder: Path, step: int) -> None:
    """Flush every file to the disk, then write and flush the manifest. So a manifest means that no file is missing."""
    files = {}
    for name, path in _files(folder).items():
        sync(path)
        files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    content = {"format": FORMAT, "step": step, "files": files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({**content, "sha256": _digest(content)}, indent=1), encoding="utf-8")
    sync(manifest)
    sync(folder)


def _digest(content: dict) -> str:
    """Return the sha256 of a manifest, computed without the entry that holds it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Return {name: path} of all files in a checkpoint except its manifest."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: path for path in files if (name := path.relative_to(folder).as_posix()) != MANIFEST}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
