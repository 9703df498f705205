"""Compare our exact dense retrieval over 1,000,000 x 256 vectors with memory bandwidth, faiss and usearch.

    python -m benchmarks.dense [--fast] [--json]

The rows are random unit vectors as int16 (`mrrec_mini.dense.to_int16`); the peers get the same numbers as float32. Our
arm calls `cosine` and `top_k` as `HybridIndex` does, for one query or a batch of 16 (as `HybridIndex` for a large
pool). Every arm uses all processors and returns the 100 nearest rows; recall is relative to a full sort. "Read"
is the fastest way that we know to read the int16 matrix once (torch computes its maximum).

usearch runs twice: exactly, over the same float32 matrix, and through its HNSW graph of float16 vectors. The graph
holds a tenth of the rows, because building it over all rows takes a quarter of an hour. We also report after how many
queries the graph has saved the time of its construction. (Random vectors have no neighbourhoods that could guide a
search through a graph; this limits the graph's recall.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.common import at_most, claim, document, finish, show
from benchmarks.corpus import in_rounds, milliseconds, timed
from mrrec_mini.dense import INT16_SCALE, Vectors, cosine, processors, to_int16, top_k
from mrrec_mini.hybrid import MIN_CHUNK

D, K, BATCH = 256, 100, MIN_CHUNK
TARGET = 2.0  # time of one query / time of reading the matrix once


def unit_vectors(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nearest(queries: Vectors, rows: Vectors) -> np.ndarray:
    """Return the positions of the K rows with the largest cosine for each query, (Q, K)."""
    return np.array([top_k(scores, K) for scores in cosine(queries, rows)])


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))


def measure(n: int, rounds: int) -> dict:
    import faiss
    import torch
    from usearch.index import Index, MetricKind
    from usearch.index import search as usearch

    # 1. the pool in blocks, the same numbers as float32 for the peers, and the queries
    blocks = [to_int16(Vectors(unit_vectors(50_000, seed), "e")).values for seed in range(n // 50_000)]
    pool = Vectors(np.concatenate(blocks), "e")
    wide = pool.values.astype(np.float32) / np.float32(INT16_SCALE)
    asked = np.rint(unit_vectors(BATCH, 99_999) * 2 * INT16_SCALE).astype(np.float32) / np.float32(2 * INT16_SCALE)
    one = [Vectors(asked[i : i + 1], "e") for i in range(BATCH)]
    batch = Vectors(asked, "e")
    flat = faiss.IndexFlatIP(D)
    flat.add(wide)
    bits = torch.from_numpy(pool.values).view(torch.int64)

    # 2. one query at a time, then batches
    ours = {"read": lambda i: bits.max(), "ours, single": lambda i: nearest(one[i % BATCH], pool)}
    peers = {
        "faiss Flat, single": lambda i: flat.search(asked[i % BATCH][None], K),
        "usearch exact, single": lambda i: usearch(wide, asked[i % BATCH], K, MetricKind.IP, exact=True),
    }
    spent = {}
    for arms in (ours, peers):  # separately, because faiss threads keep processors busy for a while after an answer
        for arm in arms.values():
            arm(0)
        spent |= in_rounds(arms, rounds)
    together = {"ours, batch": lambda i: nearest(batch, pool), "faiss Flat, batch": lambda i: flat.search(asked, K)}
    for name, seconds in in_rounds(together, max(3, rounds // 10)).items():
        spent[name] = [s / BATCH for s in seconds[1:]]

    # 3. recall against a full sort
    exact = np.argsort(-cosine(batch, pool).astype(np.float64), axis=1, kind="stable")[:, :K]
    found = {
        "ours, single": np.concatenate([nearest(q, pool) for q in one]),
        "ours, batch": nearest(batch, pool),
        "faiss Flat, single": np.concatenate([flat.search(q[None], K)[1] for q in asked]),
        "faiss Flat, batch": flat.search(asked, K)[1],
        "usearch exact, single": np.array([usearch(wide, q, K, MetricKind.IP, exact=True).keys for q in asked]),
    }
    p50 = {name: statistics.median(seconds) for name, seconds in spent.items()}

    # 4. a graph over a tenth of the rows
    few = n // 10
    graph = Index(ndim=D, metric="ip", dtype="f16")
    _, graph_s = timed(lambda: graph.add(np.arange(few), wide[:few]))
    part = Vectors(pool.values[:few], "e")
    near = {
        "usearch HNSW": lambda i: graph.search(asked[i % BATCH], K),
        "ours": lambda i: nearest(one[i % BATCH], part),
    }
    for arm in near.values():
        arm(0)
    of_few = in_rounds(near, rounds)
    saved = statistics.median(of_few["ours"]) - statistics.median(of_few["usearch HNSW"])
    of_graph = recall(np.array([graph.search(q, K).keys for q in asked]), nearest(batch, part))
    return {
        "rows": n,
        "dimensions": D,
        "processors": processors(),
        "ms": {name: milliseconds(seconds) for name, seconds in spent.items()},
        "read_gb_per_s": pool.values.nbytes / p50["read"] / 1e9,
        "single_over_read": p50["ours, single"] / p50["read"],
        "single_over_batch": p50["ours, single"] / p50["ours, batch"],
        "single_faiss_over_ours": p50["faiss Flat, single"] / p50["ours, single"],
        "batch_faiss_over_ours": p50["faiss Flat, batch"] / p50["ours, batch"],
        "single_usearch_over_ours": p50["usearch exact, single"] / p50["ours, single"],
        "recall": {name: recall(ids, exact) for name, ids in found.items()},
        "megabytes": {"ours": pool.values.nbytes / 1e6, "faiss Flat, usearch exact": wide.nbytes / 1e6},
        "graph": {
            "rows": few,
            "build_s": graph_s,
            "ms": {name: milliseconds(seconds) for name, seconds in of_few.items()},
            "recall": of_graph,
            "queries_until_paid": graph_s / saved if saved > 0 else None,
        },
    }


def judge(r: dict) -> list[dict]:
    ratio = round(r["single_over_read"], 3)
    return [
        at_most(f"{r['rows']:,} rows: one query, ours / reading once", ratio, TARGET),
        claim("recall of ours, single", r["recall"]["ours, single"], 1.0),
        claim("recall of ours, batch", r["recall"]["ours, batch"], 1.0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="200,000 rows, 20 queries")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    r = measure(200_000, 20) if given.fast else measure(1_000_000, 60)
    out = sys.stderr if given.json else None
    rows = [("", "mean ms", "p50", "p99", "recall")]
    rows += [(name, *ms.values(), r["recall"].get(name, "")) for name, ms in r["ms"].items()]
    show(f"{r['rows']:,} x {D}, top {K}; milliseconds per query", rows, out)
    graph = r["graph"]
    rows = [("", "mean ms", "p50", "p99"), *((name, *ms.values()) for name, ms in graph["ms"].items())]
    paid = graph["queries_until_paid"]
    show(
        f"{graph['rows']:,} rows: a graph, recall {graph['recall']:.3f}, built in {graph['build_s']:.0f} s, pays after "
        f"{f'{paid:,.0f} queries' if paid else 'never'}",
        rows,
        out,
    )
    return finish(document(judge(r), results=[r]), given.json)


if __name__ == "__main__":
    sys.exit(main())
