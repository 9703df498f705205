"""Checkpoints that survive a kill at any point, a full disk and a flipped bit: written whole or not, read checked.

Flow: right before `train`, which says what is written; this file says how, and knows neither models nor torch.

    run/checkpoints/step-000060/    the files of one checkpoint, and manifest.json: format, step, each file's size and
                                    sha256, and a sha256 of all that
                    *.tmp           half of one: nobody reads it, the next save sweeps it out
                    *.old           one that is being written over: read where its successor did not come to stand

`save` writes into a temporary folder, brings every file to the disk, writes the manifest last and gives the folder its
name by one rename. Only then are older ones deleted; the two newest stay. `newest` believes no checkpoint that it has
not compared with its manifest: of one that is damaged it says what is wrong with which file, and takes the one before.

The paper says nothing of this. Not promised: what a disk loses that lies about having written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from mrrec_mini.data import DataError, shorten

FORMAT = 1  # goes up when an older reader would misunderstand; the manifest's own sha256 is made alike in all versions
KEPT = 2
MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{6,})(\.old)?")


def save(run: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Make the checkpoint of a step: `write` puts its files into the folder it is given. Returns the folder.

    OSError where it cannot be written: it names the place, and the checkpoints that stood before still stand.
    """
    final = run / "checkpoints" / f"step-{step:06d}"
    fresh, old = final.with_suffix(".tmp"), final.with_suffix(".old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for half in final.parent.glob("*.tmp"):
            shutil.rmtree(half)
        fresh.mkdir()
        write(fresh)
        _write_manifest(fresh, step)
        if final.exists():  # a folder cannot be renamed onto another
            if old.exists():
                shutil.rmtree(old)
            os.replace(final, old)
        os.replace(fresh, final)
        _sync(final.parent)
        for folder in _superseded(run, final):
            shutil.rmtree(folder)
    except Exception as error:  # libraries have errors of their own for a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        what = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise OSError(
            f"{final}: the checkpoint cannot be written ({what}); what was saved before is untouched: make room there, "
            "or make it writable, and go on"
        ) from error
    return final


def folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first, whole or not."""
    found = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*") if path.is_dir()]
    return [path for _, path in sorted(((int(m[1]), not m[2]), path) for m, path in found if m)][::-1]


def newest(run: Path, warn: Callable[[str], None]) -> Path:
    """The newest whole checkpoint; `warn` is told of each one that was passed over, and why.

    FileNotFoundError: there is none yet. DataError: none is whole, or the newest whole one has a newer format.
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


class Damaged(ValueError):
    """What is wrong with which file of a checkpoint."""


def check(folder: Path) -> None:
    """Compare a checkpoint with its manifest, byte for byte. Damaged: they differ. DataError: a newer format."""
    manifest = _read_manifest(folder)
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder}: a checkpoint of format {shorten(manifest.get('format'))}, and this version of mrrec_mini reads "
            f"format {FORMAT}; use the version that wrote it"
        )
    if folder.name.split(".")[0] != f"step-{manifest['step']:06d}":
        raise Damaged(f"{MANIFEST} is that of step {manifest['step']}")
    present = _files(folder)
    for name in sorted(manifest["files"].keys() | present.keys()):
        if name not in present:
            raise Damaged(f"{name} is missing")
        if name not in manifest["files"]:
            raise Damaged(f"{name} does not belong to it")
        said, size = manifest["files"][name], present[name].stat().st_size
        if size != said["size"]:
            raise Damaged(f"{name} has {size} bytes, its manifest says {said['size']}")
        if _sha256(present[name]) != said["sha256"]:
            raise Damaged(f"{name}: its sha256 is not the one in the manifest")


def write_synced(path: Path, text: str) -> None:
    """Write a text file and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _write_manifest(folder: Path, step: int) -> None:
    """Bring every file to the disk, then the manifest that vouches for them."""
    files = {}
    for name, path in _files(folder).items():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    content = {"format": FORMAT, "step": step, "files": files}
    write_synced(folder / MANIFEST, json.dumps({**content, "sha256": _digest(content)}, indent=1))
    _sync(folder)


def _read_manifest(folder: Path) -> dict:
    """The manifest, known to be as it was written; else Damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        own = content.pop("sha256")
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({shorten(str(error))})") from None
    if own != _digest(content):
        raise Damaged(f"{MANIFEST}: its sha256 is not its own")
    return content


def _digest(content: dict) -> str:
    """sha256 of a manifest without its own."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Name -> file, for all that stands in a checkpoint but its manifest."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: path for path in files if (name := path.relative_to(folder).as_posix()) != MANIFEST}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _superseded(run: Path, final: Path) -> list[Path]:
    """All but the checkpoint that was just made and the newest before it.

    What claims a later step goes too: a run saves in order, so it was passed over as damaged when the run went on.
    """
    found = folders(run)
    behind = [folder for folder in found[found.index(final) + 1 :] if folder.stem != final.name]
    kept = [final, *behind[: KEPT - 1]]
    return [folder for folder in found if folder not in kept]


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name == "nt":  # it has no way to
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
