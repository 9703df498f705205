"""Save a hybrid index in a folder, completely or not at all, and open it as memory maps in about a second.

Flow: for a pool of a million items, whose index takes minutes to build. `save` writes the parts of a `HybridIndex`.
`load` maps the vectors and postings, and the operating system reads their pages when a query needs them.

Equations: none. The folder holds `index.json` (format, text space, size of every other file), `ids.json`, `words.json`,
one `.npy` file per array and one file per large part of the space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrrec_mini.bm25 import BM25
from mrrec_mini.data import DataError
from mrrec_mini.dense import Vectors
from mrrec_mini.files import replacing_folder
from mrrec_mini.hybrid import HybridIndex, Segment, TextSpace
from mrrec_mini.typed import parse_json, typed

FORMAT = 1


def save(index: HybridIndex, folder: Path) -> int:
    """Write `index` to `folder`, replacing an older index there; return the bytes written, without `index.json`.

    Raises ValueError if `folder` exists but is no index, or if `index` uses rank_bm25, which cannot be saved.
    """
    if index.space.config.lexical == "rank_bm25":
        raise ValueError("an index with rank_bm25 cannot be saved; build it again each time, or use lexical='bm25'")
    if folder.exists() and not (folder / "index.json").is_file():
        raise ValueError(f"{folder} exists and holds no index; choose another folder")
    segment = index.merge()
    arrays = {name: getattr(segment.lexical, name) for name in ("starts", "rows", "weights")}
    arrays |= {"vectors": segment.vectors.values} if segment.vectors else {}
    fields, blobs = index.space.pack()
    with replacing_folder(folder) as fresh:
        for name, content in {"ids": segment.ids, "words": list(segment.lexical.vocabulary)}.items():
            (fresh / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        for name, array in arrays.items():
            np.save(fresh / f"{name}.npy", array)
        for name, blob in blobs.items():
            (fresh / f"space-{name}").write_bytes(blob)
        sizes = {path.name: path.stat().st_size for path in sorted(fresh.iterdir())}
        about = {"format": FORMAT, "embedder": index.space.embedder_id, "space": fields, "sizes": sizes}
        (fresh / "index.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return sum(sizes.values())


def load(folder: Path) -> HybridIndex:
    """Open a saved index. Its arrays are memory maps, and it gives the same scores as before, to the last bit.

    Raises FileNotFoundError if `folder` has no index; DataError if the format differs, if a file is missing or
    truncated, or if the embedder has changed since the index was saved.
    """
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"no index in {folder}; build it and save it there")
    try:
        about = parse_json((folder / "index.json").read_text(encoding="utf-8"))
        version, sizes = about["format"], typed(Mapping[str, int], about["sizes"]).items()
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{folder / 'index.json'}: not what `save` writes; build the index again") from None
    if version != FORMAT:
        raise DataError(f"{folder}: index format {version}, but this version of mrrec_mini reads {FORMAT}")
    for name, size in sizes:
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise DataError(f"{folder / name}: missing or cut short ({size} bytes were written); build the index again")
    blobs = {name[6:]: (folder / name).read_bytes() for name, _ in sizes if name.startswith("space-")}
    space = TextSpace.unpack(about["space"], blobs)
    if space.embedder_id != about["embedder"]:
        raise DataError(f"{folder}: vectors are of {about['embedder']}, not {space.embedder_id}; build the index again")
    arrays = {name[:-4]: np.load(folder / name, mmap_mode="r") for name, _ in sizes if name.endswith(".npy")}
    lists = (parse_json((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("ids", "words"))
    ids, words = (typed(tuple[str, ...], one) for one in lists)
    vectors = Vectors(arrays.pop("vectors"), space.embedder_id) if "vectors" in arrays else None
    lexical = BM25.from_parts(len(ids), {word: n for n, word in enumerate(words)}, **arrays)
    return HybridIndex.from_parts(space, Segment(ids, lexical, vectors))
