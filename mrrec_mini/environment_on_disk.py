"""An environment in a folder: what was fitted for it is saved once and opened in a fraction of a second.

Flow: after `environment`; a run folder keeps its environment this way. `save` writes what `Environment.build` fitted:
the global memory, the item index and both text spaces. `load` takes the data set and its split and fits nothing, so
the environment answers as before, to the last bit. Local memories are made when a query asks for them, as always.

The folder:

    items/        the item index and its text space (see `index_on_disk`)
    texts.json    {item id: digest of the text that is in the index}
    memory.json   the memory's configuration, summariser, global entries, and the small fields of its text space
    space-*       the large parts of the memory's text space

Items of the data set may change after the environment was saved. Then `load` adds, updates and deletes the rows that
differ instead of building the index again; it answers as an index built from all items in the same text space.

Equations: none. The paper says nothing of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mrrec_mini import index_on_disk
from mrrec_mini.data import DataError, Dataset, Split, shorten
from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.dense import digest
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.files import replacing_folder
from mrrec_mini.hybrid import HybridIndex, TextSpace
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.summarize import ExtractiveSummarizer

FORMAT = 1


def save(environment: Environment, folder: Path) -> None:
    """Write what was fitted for `environment`, whole or not at all; an older folder is replaced.

    Raises OSError if it cannot be written. Only an extractive summariser can be saved.
    """
    memory = environment.memory
    fields, parts = memory.space.pack()
    about = {
        "format": FORMAT,
        "config": asdict(memory.config),
        "summarizer": memory.summarizer.pack(),
        "entries": [asdict(entry) for entry in memory.global_entries],
        "space": fields,
    }
    digests = {id: digest(text) for id, text in _texts(environment.dataset).items()}
    with replacing_folder(folder) as fresh:
        index_on_disk.save(environment.items, fresh / "items")
        (fresh / "texts.json").write_text(json.dumps(digests), encoding="utf-8")
        (fresh / "memory.json").write_text(json.dumps(about), encoding="utf-8")
        for name, part in parts.items():
            (fresh / f"space-{name}").write_bytes(part)


def load(folder: Path, dataset: Dataset, split: Split) -> Environment:
    """The environment that `save` wrote, on its data set, whose items may have changed since.

    Raises DataError if a file is missing, damaged, or of another format.
    """
    try:
        about = json.loads((folder / "memory.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, and this version of mrrec_mini reads {FORMAT}")
        memory = _memory(about, folder, dataset, split)
        items = index_on_disk.load(folder / "items")
        digests = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        changed = catch_up(items, digests, _texts(dataset))
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        why = shorten(str(error), 200)
        raise DataError(f"{folder}: cannot be used ({why}); delete this folder, and it is made again") from None
    environment = Environment(dataset, split, memory, items)
    if changed:
        with suppress(OSError):  # where nothing can be written, the difference is found again the next time
            save(environment, folder)
    return environment


def catch_up(index: HybridIndex, digests: Mapping[str, str], texts: Mapping[str, str]) -> bool:
    """Make `index` hold the rows `texts`, {id: text}, by changing only what differs; returns whether anything did.

    `digests`: {id: digest of its text} of the rows that the index holds now.
    """
    gone = [id for id in digests if id not in texts]
    other = [id for id, text in texts.items() if id in digests and digests[id] != digest(text)]
    new = [id for id in texts if id not in digests]
    if changed := bool(gone or other or new):
        index.delete([*gone, *other])
        index.add([*other, *new], [texts[id] for id in (*other, *new)])
    return changed


def _memory(about: Mapping, folder: Path, dataset: Dataset, split: Split) -> Memory:
    """The memory, from the fields of memory.json and the parts of its text space."""
    parts = {path.name.removeprefix("space-"): path.read_bytes() for path in folder.glob("space-*")}
    return Memory(
        dataset,
        MemoryConfig(**{**about["config"], "levels": tuple(about["config"]["levels"])}),
        ExtractiveSummarizer.unpack(about["summarizer"]),
        TextSpace.unpack(about["space"], parts),
        tuple(MemoryEntry(**{**entry, "rests_on": tuple(entry["rests_on"])}) for entry in about["entries"]),
        frozenset(split.train),
    )


def _texts(dataset: Dataset) -> dict[str, str]:
    return {id: item_text(item) for id, item in dataset.items.items()}
