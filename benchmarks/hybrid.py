"""Measure hybrid top-1000 search over the paper's number of items, 1,058,417: build, save, load, and query.

    python -m benchmarks.hybrid [--fast] [--json]

Texts have 12 to 30 words, drawn by Zipf's law from 50,000 words (not product texts: only number and lengths matter
here). Vectors are LSA of 256 dimensions as int16; fusion is min-max with default weight. Building and querying run in
separate processes, so each has its own peak memory, which includes the pages of memory-mapped files. The peer uses
SciPy's sparse product, NumPy's float32 matrix times vector, min-max, argpartition and sort on the same rows, and takes
turns with ours in one process. Growth is the exponent e if the median time of a query grows like (number of items)^e,
fitted over 10,000, 100,000 and all items.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import Arm, answers, asked, at_most, claim, document, finish, peak_megabytes, show
from benchmarks.corpus import in_rounds, milliseconds, queries, timed, zipf_texts
from mrrec_mini.bm25 import words
from mrrec_mini.dense import INT16_SCALE, embed
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace, minmax
from mrrec_mini.index_on_disk import load, save

POOL, K, BATCH = 1_058_417, 1000, 64
LIMIT_MB = 8_000
CONFIG = HybridConfig(dims=256, vectors="int16")


def build(n: int, folder: Path) -> dict:
    """Build the index of n items, save it in `folder`, and return the costs."""
    texts = zipf_texts(n)
    texts_alone = peak_megabytes()
    space, fit_s = timed(lambda: TextSpace.fit(texts, CONFIG))
    index, index_s = timed(lambda: HybridIndex([f"item{i:07d}" for i in range(n)], texts, space))
    size, save_s = timed(lambda: save(index, folder))
    return {
        "items": n,
        "fit_s": fit_s,
        "index_s": index_s,
        "save_s": save_s,
        "items_a_second": n / (fit_s + index_s + save_s),
        "file_mb": size / 1e6,
        "texts_alone_mb": texts_alone,
        "peak_mb": peak_megabytes(),
    }


def plain_way(index: HybridIndex):
    """Return a search function: the same ranking written plainly in SciPy and NumPy, up to the rounding of its sums."""
    from scipy.sparse import csc_matrix

    segment = index.merge()
    shape = (len(index), len(segment.lexical.vocabulary))
    postings = csc_matrix((segment.lexical.weights, segment.lexical.rows, segment.lexical.starts), shape=shape).tocsr()
    wide = segment.vectors.values.astype(np.float32) / np.float32(INT16_SCALE)

    def top(query: str) -> np.ndarray:
        counts = np.zeros(shape[1])
        for word in words(query):
            if word in segment.lexical.vocabulary:
                counts[segment.lexical.vocabulary[word]] += 1
        bm25 = postings @ counts
        cosines = wide @ embed(index.space.embedder, [query]).values[0]
        weight = index.space.config.bm25_weight
        scores = weight * minmax(bm25[None])[0] + (1 - weight) * minmax(cosines[None])[0]
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]

    return top


def ask(folder: Path, rounds: int) -> dict:
    """Load the index, time its queries alone, then in turns with the peer, and return the measurements."""
    index, load_s = timed(lambda: load(folder))
    asked_for = queries(rounds + 1)
    _, first_s = timed(lambda: index.search(asked_for[-1], K))
    alone = in_rounds({"ours": lambda i: index.search(asked_for[i], K)}, rounds)["ours"]
    batches = in_rounds({"ours": lambda i: index.search_many(queries(BATCH, 100 + i), K)}, 3)["ours"]
    index.add(["new"], ["w1 w77 w49999"])
    index.delete([index.ids[0]])
    changed = in_rounds({"ours": lambda i: index.search(asked_for[i], K)}, max(3, rounds // 5))["ours"]
    peak_of_ours = peak_megabytes()
    fresh = load(folder)
    plain = plain_way(fresh)
    together = in_rounds(
        {"ours": lambda i: fresh.search(asked_for[i], K), "plain": lambda i: plain(asked_for[i])}, max(3, rounds // 2)
    )
    same = []
    ids = fresh.merge().ids
    for query in asked_for[:5]:
        mine = [hit.id for hit in fresh.search(query, K)]
        same.append(len(set(mine) & {ids[row] for row in plain(query)}) / len(mine))
    return {
        "items": len(fresh),
        "load_s": load_s,
        "first_query_s": first_s,
        "ms": {
            "one query": milliseconds(alone),
            f"in batches of {BATCH}": milliseconds([seconds / BATCH for seconds in batches]),
            "one query, after an addition and a deletion": milliseconds(changed),
            "in turns: ours": milliseconds(together["ours"]),
            "in turns: the plain way": milliseconds(together["plain"]),
        },
        "same_top_as_the_plain_way": float(np.mean(same)),
        "plain_over_ours": float(np.median(together["plain"]) / np.median(together["ours"])),
        "peak_mb": peak_of_ours,
    }


def arm(work: str, *values: str) -> None:
    """Run in an arm's process: each step calls `build` or `ask`."""
    with answers() as answer:
        answer({"ready": True})
        while asked():
            answer(build(int(values[0]), Path(values[1])) if work == "build" else ask(Path(values[0]), int(values[1])))


def alone(*command: str) -> dict:
    process = Arm(["benchmarks.hybrid", *command])
    try:
        return process.step()
    finally:
        process.close()


def growth(results: Sequence[dict]) -> float:
    """Return the exponent of the growth of one query's p50 with the number of items: the slope of a log-log fit."""
    sizes = [math.log(r["items"]) for r in results]
    return float(np.polyfit(sizes, [math.log(r["ms"]["one query"]["p50_ms"]) for r in results], 1)[0])


def judge(built: Sequence[dict], found: Sequence[dict]) -> list[dict]:
    largest, pool = built[-1], found[-1]
    size = f"{pool['items']:,} items"
    return [
        at_most(f"{size}: peak MB of building and saving", round(largest["peak_mb"]), LIMIT_MB),
        at_most(f"{size}: peak MB of loading and asking", round(pool["peak_mb"]), LIMIT_MB),
        at_most("growth of one query, exponent", round(growth(found), 3), 1.1),
        claim(f"{size}: the plain way / ours", pool["plain_over_ours"], 1.0),
        claim(f"{size}: share of the plain way's top {K}", pool["same_top_as_the_plain_way"], 0.99),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="up to 100,000 items, 10 queries")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    parser.add_argument("--arm", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.arm:
        arm(*given.arm)
        return 0
    sizes, rounds = ((5_000, 20_000, 100_000), 10) if given.fast else ((10_000, 100_000, POOL), 100)
    out = sys.stderr if given.json else None
    built, found = [], []
    folder = Path(tempfile.mkdtemp(prefix="mrrec-hybrid-"))
    try:
        for n in sizes:
            built.append(alone("--arm", "build", str(n), str(folder / str(n))))
            found.append(alone("--arm", "ask", str(folder / str(n)), str(rounds)))
            print(f"  {n:,} items done", file=sys.stderr)
            shutil.rmtree(folder / str(n))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [("items", "fit s", "index s", "save s", "file MB", "texts alone MB", "peak MB")]
    names = ("fit_s", "index_s", "save_s", "file_mb", "texts_alone_mb", "peak_mb")
    rows += [(f"{b['items']:,}", *(float(b[name]) for name in names)) for b in built]
    show("building and saving", rows, out)
    for r in found:
        rows = [("", "mean ms", "p50", "p99"), *((name, *ms.values()) for name, ms in r["ms"].items())]
        show(f"{r['items']:,} items, top {K}: loaded in {r['load_s']:.2f} s, peak {r['peak_mb']:,.0f} MB", rows, out)
    return finish(document(judge(built, found), built=built, results=found, exponent=growth(found)), given.json)


if __name__ == "__main__":
    sys.exit(main())
