"""Time the indexing of the paper's volume: 3,000 users and about 73,000 local entries, without a language model.

    python -m benchmarks.index [--fast] [--json]

A synthetic shop of that size becomes a store: `Memory.build` makes the global memory and the text space, then
`build_store` writes all users' entries with their vectors. We measure wall-clock and CPU seconds of this process,
without the making of the shop. A tiny store is made first, so that the time of imports is not counted.

The paper reports 2,435 s for 3,000 users, 73,000 local and 2,000 global memories, written by a large language model on
other hardware. We show these numbers for scale only and claim nothing about them. The claim is about our own code: an
entry costs hardly more in the large store than in a store with a quarter of the users, made in the same run. So
nothing is quadratic. The shop has 40 categories and 10 aspects, of which 3 matter per category, so its global memory
cannot come near 2,000 lines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import at_most, document, finish, show
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.store import build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import WorldConfig, make_world

PAPER = {"users": 3_000, "local": 73_000, "global": 2_000, "seconds": 2_435}
TARGET = 1.2  # CPU seconds per entry, large / small
FIRST = 20  # users in the store that is not counted
PART = 4  # users of the large store / users of the small one


def measure(users: int, folder: Path) -> dict:
    """Make a store of `users` users; return its numbers of entries and the cost of each part."""
    world = make_world(WorldConfig(users=users, categories=40, history=4, queries=2))
    train = world.split(0).train
    marks = [(time.perf_counter(), time.process_time())]
    memory = Memory.build(
        world, train, MemoryConfig(), ExtractiveSummarizer(), HybridConfig(), np.random.default_rng(0)
    )
    marks.append((time.perf_counter(), time.process_time()))
    path = folder / f"{users}.db"
    entries = build_store(path, world, memory)
    marks.append((time.perf_counter(), time.process_time()))
    return {
        "users": users,
        "local": sum(entries.values()) - entries["global"],
        "entries": entries,
        "megabytes": path.stat().st_size / 1e6,
        "parts": {
            name: {"wall": until[0] - since[0], "cpu": until[1] - since[1]}
            for name, since, until in (
                ("Memory.build", marks[0], marks[1]),
                ("build_store", marks[1], marks[2]),
                ("both", marks[0], marks[2]),
            )
        },
    }


def judge(small: dict, large: dict) -> list[dict]:
    costs = [one["parts"]["both"]["cpu"] / one["local"] for one in (small, large)]
    name = f"CPU seconds per entry: {large['users']} users / {small['users']}"
    return [at_most(name, round(costs[1] / costs[0], 3), TARGET)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="600 users instead of 3,000")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    users = 600 if given.fast else PAPER["users"]
    with threadpool_limits(1), TemporaryDirectory(prefix="mrrec-index-") as folder:
        _, small, large = (measure(size, Path(folder)) for size in (FIRST, users // PART, users))
    to = sys.stderr if given.json else None
    rows = [("users", "local", "global", "MB", "part", "wall s", "CPU s", "local entries per wall s")]
    for one in (small, large):
        about = (one["users"], one["local"], one["entries"]["global"], one["megabytes"])
        rows += [(*about, part, *took.values(), one["local"] / took["wall"]) for part, took in one["parts"].items()]
    paper = (PAPER["users"], PAPER["local"], PAPER["global"])
    rows.append(
        (*paper, "", "the paper, a large LM writes", float(PAPER["seconds"]), "", PAPER["local"] / PAPER["seconds"])
    )
    show("indexing, the extractive writer", rows, to)
    return finish(document(judge(small, large), results=[small, large], paper=PAPER), given.json)


if __name__ == "__main__":
    sys.exit(main())
