"""A hybrid index in a folder: written once, all or nothing, and opened by memory map in about a second.

Flow: for a pool of a million items, which takes minutes to build. `save` writes what a `HybridIndex` consists of;
`load` maps vectors and postings, which the operating system then reads as they are asked for.

Equations: none. The paper keeps its vectors in an index too and does not say which.

The folder: `index.json` (format, text space, size of every other file), `ids.json` and `words.json`, one `.npy` file
for each array, one file for each large part of the space. An index that has grown or shrunk is joined into one part.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from mrrec_mini.bm25 import BM25
from mrrec_mini.data import DataError, replace_folder
from mrrec_mini.dense import Vectors
from mrrec_mini.hybrid import HybridIndex, Part, TextSpace

FORMAT = 1


def save(index: HybridIndex, folder: Path) -> int:
    """Write `index`; returns how many bytes. Made beside `folder`, which it replaces only when it is whole.

    ValueError: `folder` holds something else, or the index counts with rank_bm25, which has nothing to be saved.
    """
    if index.space.config.lexical == "rank_bm25":
        raise ValueError("an index with rank_bm25 is built from its texts each time; choose lexical='bm25' to save one")
    if folder.exists() and not (folder / "index.json").is_file():
        raise ValueError(f"{folder} is there already and holds no index; choose another folder")
    part = index.joined()
    fields, blobs = index.space.pack()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in {"ids": part.ids, "words": list(part.lexical.vocabulary)}.items():
            (fresh / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        arrays = {"starts": part.lexical.starts, "rows": part.lexical.rows, "weights": part.lexical.weights}
        if part.vectors:
            arrays["vectors"] = part.vectors.values
        for name, array in arrays.items():
            np.save(fresh / f"{name}.npy", array)
        for name, blob in blobs.items():
            (fresh / f"space-{name}").write_bytes(blob)
        sizes = {path.name: path.stat().st_size for path in sorted(fresh.iterdir())}
        about = {"format": FORMAT, "embedder": index.space.embedder_id, "space": fields, "sizes": sizes}
        (fresh / "index.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        for path in fresh.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        fresh.chmod(0o755)  # mkdtemp makes it private
        replace_folder(folder, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sum(sizes.values())


def load(folder: Path) -> HybridIndex:
    """The index of `save`, with the same scores to the last bit; arrays are memory maps.

    FileNotFoundError: there is none. DataError: of another format, a file is missing or cut short, or the embedder that
    its space names is another one by now.
    """
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"no index in {folder}; build it and save it there")
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        version, sizes = about["format"], about["sizes"].items()
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"{folder / 'index.json'}: not what `save` writes; build the index again") from None
    if version != FORMAT:
        raise DataError(f"{folder}: an index of format {version}, and this version of mrrec_mini reads {FORMAT}")
    for name, size in sizes:
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(f"{path}: missing or cut short ({size} bytes were written); build the index again")
    blobs = {name[6:]: (folder / name).read_bytes() for name, _ in sizes if name.startswith("space-")}
    space = TextSpace.unpack(about["space"], blobs)
    if space.embedder_id != about["embedder"]:
        raise DataError(
            f"{folder}: its vectors are of {about['embedder']}, and the embedder here is {space.embedder_id}; build the"
            " index again"
        )
    array = {name[:-4]: np.load(folder / name, mmap_mode="r") for name, _ in sizes if name.endswith(".npy")}
    ids = tuple(json.loads((folder / "ids.json").read_text(encoding="utf-8")))
    vocabulary = {word: n for n, word in enumerate(json.loads((folder / "words.json").read_text(encoding="utf-8")))}
    lexical = BM25.from_parts(len(ids), vocabulary, array["starts"], array["rows"], array["weights"])
    vectors = Vectors(array["vectors"], space.embedder_id) if "vectors" in array else None
    return HybridIndex.from_parts(space, Part(ids, lexical, vectors))
