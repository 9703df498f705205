"""Save a fitted environment in a folder, and load it again in a fraction of a second.

Flow: after `environment`; a run folder holds its environment in this form. `save` writes what `Environment.build`
fitted: the global memory, the item index and both text spaces. `load` also needs the data set and its split. It fits
nothing, so all results are the same, to the last bit. Local memories and counts of other people are not saved: they
are made from the data set again.

The folder:

    items/        the item index and its text space (see `index_on_disk`)
    texts.json    {item id: digest of the text that is in the index}
    memory.json   the memory's configuration, summariser, global entries, and the small fields of its text space
    space-*       the large parts of the memory's text space

Items of the data set may change after the environment was saved. Then `load` replaces only the rows that differ. The
index then gives the same results as an index built from all items in the same text space. Not in the paper.
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
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.others import Others
from mrrec_mini.prior import Prior
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.typed import parse_json, typed

FORMAT = 2


def save(environment: Environment, folder: Path) -> None:
    """Write the fitted parts of `environment` to `folder`, all or nothing; an older folder is replaced.

    Raises OSError if the folder cannot be written, DataError if a language model wrote the memory: `load` makes local
    memories when they are needed, and must not need a model for this.
    """
    memory = environment.memory
    if not isinstance(memory.summarizer, ExtractiveSummarizer):
        raise DataError(f"{folder}: an environment cannot be saved if a language model wrote its memory")
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
    """Load the environment that `save` wrote, with the same data set; its items may have changed since then.

    If they have changed, the folder is updated. Raises DataError if a file is missing, damaged, or of another format.
    """
    try:
        about = parse_json((folder / "memory.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, and this version of mrrec_mini reads {FORMAT}")
        parts = {path.name.removeprefix("space-"): path.read_bytes() for path in folder.glob("space-*")}
        memory = Memory(
            dataset,
            typed(MemoryConfig, about["config"]),
            ExtractiveSummarizer.unpack(about["summarizer"]),
            TextSpace.unpack(about["space"], parts),
            typed(tuple[MemoryEntry, ...], about["entries"]),
            frozenset(split.train),
            Others.of(prior := Prior(dataset, split.train)),
        )
        index = index_on_disk.load(folder / "items")
        digests = typed(Mapping[str, str], parse_json((folder / "texts.json").read_text(encoding="utf-8")))
        changed = catch_up(index, digests, _texts(dataset))
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        why = shorten(str(error), 200)
        raise DataError(f"{folder}: cannot be used ({why}); delete this folder, and it is made again") from None
    environment = Environment(dataset, split, memory, ItemIndex.over(index, prior))
    if changed:
        with suppress(OSError):  # if nothing can be written here, the next `load` finds the difference again
            save(environment, folder)
    return environment


def catch_up(index: HybridIndex, digests: Mapping[str, str], texts: Mapping[str, str]) -> bool:
    """Update `index` to hold `texts` ({id: text}), changing only rows that differ; return whether any row differed.

    `digests`: {id: digest of the text} of the rows that the index holds now.
    """
    now = {id: digest(text) for id, text in texts.items()}
    old = [id for id in digests if digests[id] != now.get(id)]
    new = [id for id in now if now[id] != digests.get(id)]
    if old:
        index.delete(old)
    if new:
        index.add(new, [texts[id] for id in new])
    return bool(old or new)


def _texts(dataset: Dataset) -> dict[str, str]:
    return {id: item_text(item) for id, item in dataset.items.items()}
