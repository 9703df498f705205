"""Compare our BM25 with rank-bm25 and bm25s (numba) over 100,000 and 1,000,000 texts, taking turns at each query.

    python -m benchmarks.bm25 [--fast] [--json]

Texts have 12 to 30 words, drawn by Zipf's law from 50,000 words; queries have 5 to 12. Each arm's time covers all that
a caller waits for: splitting the query, scores, the 100 best. rank-bm25 has no fast selection of the best, so we use
NumPy's argpartition. Ours uses okapi weights, so that its scores must equal rank-bm25's to the last bit. bm25s omits
the factor k1 + 1 and computes in float32; its scores are compared with our lucene formula. Its compile time is reported
separately. The floor is the time to read, as fast as NumPy sums an array, the bytes that our query must touch: 16 per
posting, 8 per row for each full column, and 16 per row to write and read the scores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.common import at_most, claim, document, finish, peak_megabytes, show
from benchmarks.corpus import bandwidth, in_rounds, milliseconds, queries, timed, zipf_texts
from mrrec_mini.bm25 import BM25, BM25Stats, words
from mrrec_mini.dense import top_k

K = 100
TARGET = 300.0  # our speed / rank-bm25's speed, at least
NEAR = 1.7  # our milliseconds / those of bm25s, at most: the ratio of a prototype


def touched(index: BM25, query: str) -> int:
    """Return the smallest number of bytes that a query must read and write."""
    total = 16 * index.n
    for word in words(query):
        term = index.vocabulary.get(word)
        if term is not None:
            column = term in index._columns
            total += 8 * index.n if column else 16 * (index.starts[term + 1] - index.starts[term])
    return total


def measure(n: int, rounds: int) -> dict:
    """Measure all arms over n texts."""
    import bm25s
    from rank_bm25 import BM25Okapi

    # 1. build the three indexes, and ours again with lucene weights for bm25s
    texts, asked = zipf_texts(n), queries(rounds)
    stats, fit_s = timed(lambda: BM25Stats.fit(texts, "okapi"))
    ours, build_s = timed(lambda: BM25(texts, stats))
    split = [words(text) for text in texts]
    theirs, their_build_s = timed(lambda: BM25Okapi(split))
    fast = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numba")
    _, fast_build_s = timed(lambda: fast.index(split, show_progress=False))
    lucene = BM25(texts, BM25Stats.fit(texts))
    texts = split = None  # free hundreds of megabytes

    # 2. the arms take turns; bm25s compiles at its first query
    def rank_bm25(i: int) -> np.ndarray:
        scores = theirs.get_scores(words(asked[i]))
        return np.argpartition(scores, -K)[-K:]

    def of_bm25s(i: int):
        return fast.retrieve([words(asked[i])], k=K, show_progress=False, n_threads=0)

    _, compile_s = timed(lambda: of_bm25s(0))
    arms = {"ours": lambda i: top_k(ours.scores(asked[i]), K), "rank-bm25": rank_bm25, "bm25s": of_bm25s}
    for arm in arms.values():
        arm(0)
    spent = in_rounds(arms, rounds)

    # 3. how far the scores differ
    apart = near = 0.0
    for i in range(rounds):
        scores = ours.scores(asked[i])
        exact = theirs.get_scores(words(asked[i]))
        apart = max(apart, float(np.abs(scores - exact).max()))
        found, values = of_bm25s(i)
        mine = lucene.scores(asked[i])[found[0]] / 2.5
        near = max(near, float((np.abs(mine - values[0]) / np.maximum(values[0], 1e-9)).max()))
    floor = statistics.fmean(touched(ours, query) for query in asked) / bandwidth()
    return {
        "texts": n,
        "postings": len(ours.rows),
        "queries": rounds,
        "ms": {name: milliseconds(seconds) for name, seconds in spent.items()},
        "times_rank_bm25": statistics.fmean(spent["rank-bm25"]) / statistics.fmean(spent["ours"]),
        "times_of_bm25s": statistics.fmean(spent["ours"]) / statistics.fmean(spent["bm25s"]),
        "floor_ms": 1e3 * floor,
        "times_the_floor": statistics.fmean(spent["ours"]) / floor,
        "build_s": {
            "ours": fit_s + build_s,
            "rank-bm25": their_build_s,
            "bm25s": fast_build_s,
            "bm25s, first query (compiles)": compile_s,
        },
        "worst_difference_to_rank_bm25": apart,
        "worst_relative_difference_to_bm25s": near,
        "peak_mb_of_all_arms": peak_megabytes(),
    }


def judge(results: Sequence[dict]) -> list[dict]:
    claims = []
    for r in results:
        size = f"{r['texts']:,} texts"
        claims.append(claim(f"{size}: speed, ours / rank-bm25", r["times_rank_bm25"], TARGET))
        claims.append(at_most(f"{size}: scores, worst difference to rank-bm25", r["worst_difference_to_rank_bm25"], 0))
        claims.append(
            at_most(f"{size}: scores, relative difference to bm25s", r["worst_relative_difference_to_bm25s"], 1e-5)
        )
        claims.append(at_most(f"{size}: milliseconds, ours / bm25s", r["times_of_bm25s"], NEAR))
    return claims


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="100,000 texts only, 20 queries")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    sizes = ((100_000, 20),) if given.fast else ((100_000, 200), (1_000_000, 30))
    results = [measure(n, rounds) for n, rounds in sizes]
    out = sys.stderr if given.json else None
    for r in results:
        rows = [("", "mean ms", "p50", "p99", "build s")]
        rows += [(name, *ms.values(), float(r["build_s"][name])) for name, ms in r["ms"].items()]
        rows.append(("floor", r["floor_ms"], "", "", ""))
        show(f"{r['texts']:,} texts, {r['postings']:,} postings: one query, top {K}", rows, out)
        first = r["build_s"]["bm25s, first query (compiles)"]
        print(f"  bm25s compiles in {first:.1f} s at its first query", file=out)
    return finish(document(judge(results), results=results), given.json)


if __name__ == "__main__":
    sys.exit(main())
