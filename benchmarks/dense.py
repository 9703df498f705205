"""Exact dense retrieval over 1,000,000 x 256, one query and a batch of 256: beside the memory, faiss and usearch.

    python -m benchmarks.dense [--fast] [--json]

Random unit vectors as int16 (`mrrec_mini.dense.shortened`); the peers get the same numbers as float32. All use all
processors. "Read" is the fastest way we know to touch every byte of the int16 matrix once (the maximum, by torch). Each
arm returns the 100 nearest; recall is against a full sort. usearch is asked twice: exactly, over the same float32
matrix, and through its HNSW graph of float16 vectors over a tenth of the rows, since building that over all of them
takes a quarter of an hour; beside it stands how many queries the graph has to answer before its building is paid. (Its
recall is what random vectors allow: they have no neighbourhoods, so no graph finds its way among them.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.common import at_most, claim, document, finish, show
from benchmarks.corpus import in_rounds, milliseconds, timed
from mrrec_mini.dense import STEP, Vectors, cosine, nearest, processors, shortened

D, K, BATCH = 256, 100, 256
TARGETS = {"single": 2.0, "batch": 10.0}


def unit_vectors(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))


def measure(n: int, rounds: int) -> dict:
    import faiss
    import torch
    from usearch.index import Index, MetricKind
    from usearch.index import search as usearch

    pool = Vectors(
        np.concatenate([shortened(Vectors(unit_vectors(50_000, s), "e")).values for s in range(n // 50_000)]), "e"
    )
    wide = pool.values.astype(np.float32) / np.float32(STEP)
    asked = np.rint(unit_vectors(BATCH, 99_999) * 2 * STEP).astype(np.float32) / np.float32(2 * STEP)
    one = [Vectors(asked[i : i + 1], "e") for i in range(BATCH)]
    batch = Vectors(asked, "e")
    flat = faiss.IndexFlatIP(D)
    flat.add(wide)
    bits = torch.from_numpy(pool.values).view(torch.int64)

    exact = np.array([np.argsort(-cosine(q, pool)[0].astype(np.float64), kind="stable")[:K] for q in one[:20]])
    ours = {"read": lambda i: bits.max(), "ours, single": lambda i: nearest(one[i], pool, K)}
    peers = {
        "faiss Flat, single": lambda i: flat.search(asked[i : i + 1], K),
        "usearch exact, single": lambda i: usearch(wide, asked[i], K, MetricKind.IP, exact=True),
    }
    spent = {}
    for arms in (ours, peers):  # apart, for the threads of faiss go on waiting on a processor when it has answered
        for arm in arms.values():
            arm(0)
        spent |= in_rounds(arms, rounds)
    together = {"ours, batch": lambda i: nearest(batch, pool, K), "faiss Flat, batch": lambda i: flat.search(asked, K)}
    for name, seconds in in_rounds(together, max(3, rounds // 10)).items():
        spent[name] = [s / BATCH for s in seconds[1:]]
    found = {
        "ours, single": np.concatenate([nearest(q, pool, K)[0] for q in one[:20]]),
        "ours, batch": nearest(batch, pool, K)[0][:20],
        "faiss Flat, single": np.concatenate([flat.search(asked[i : i + 1], K)[1] for i in range(20)]),
        "faiss Flat, batch": flat.search(asked, K)[1][:20],
        "usearch exact, single": np.array(
            [usearch(wide, asked[i], K, MetricKind.IP, exact=True).keys for i in range(20)]
        ),
    }
    p50 = {name: statistics.median(seconds) for name, seconds in spent.items()}

    few = n // 10
    graph = Index(ndim=D, metric="ip", dtype="f16")
    _, graph_s = timed(lambda: graph.add(np.arange(few), wide[:few]))
    part = Vectors(pool.values[:few], "e")
    near = {"usearch HNSW": lambda i: graph.search(asked[i], K), "ours": lambda i: nearest(one[i], part, K)}
    for arm in near.values():
        arm(0)
    of_few = in_rounds(near, rounds)
    saved = statistics.median(of_few["ours"]) - statistics.median(of_few["usearch HNSW"])
    of_graph = recall(
        np.array([graph.search(asked[i], K).keys for i in range(20)]),
        np.concatenate([nearest(q, part, K)[0] for q in one[:20]]),
    )
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
    return [
        at_most(
            f"{r['rows']:,} rows: one query, ours / reading once", round(r["single_over_read"], 3), TARGETS["single"]
        ),
        claim(f"{r['rows']:,} rows: a query alone / in a batch of {BATCH}", r["single_over_batch"], TARGETS["batch"]),
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
    show(f"{r['rows']:,} x {D}, top {K}; milliseconds a query", rows, out)
    graph = r["graph"]
    rows = [("", "mean ms", "p50", "p99"), *((name, *ms.values()) for name, ms in graph["ms"].items())]
    paid = graph["queries_until_paid"]
    show(
        f"{graph['rows']:,} rows: a graph, recall {graph['recall']:.3f}, built in {graph['build_s']:.0f} s, paid after "
        f"{f'{paid:,.0f} queries' if paid else 'never'}",
        rows,
        out,
    )
    return finish(document(judge(r), results=[r]), given.json)


if __name__ == "__main__":
    sys.exit(main())
