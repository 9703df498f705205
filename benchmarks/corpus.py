"""Code shared by the retrieval benchmarks: texts with natural word frequencies, timings in turns, memory bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

WORDS = 50_000
SHORTEST, LONGEST = 12, 30  # words per text


def zipf_texts(n: int, seed: int = 0, shortest: int = SHORTEST, longest: int = LONGEST) -> list[str]:
    """Return n texts of words w0, w1, ...; word r is drawn with probability proportional to 1 / (r + 1)^1.05."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, WORDS + 1) ** 1.05
    up_to = np.cumsum(share / share.sum())
    names = np.array([f"w{i}" for i in range(WORDS)], dtype=object)
    length = rng.integers(shortest, longest + 1, n)
    drawn = names[np.minimum(np.searchsorted(up_to, rng.random(length.sum())), WORDS - 1)]
    ends = np.cumsum(length)
    return [" ".join(drawn[end - size : end]) for end, size in zip(ends, length, strict=True)]


def queries(n: int, seed: int = 1) -> list[str]:
    """Return n texts of 5 to 12 words from the same distribution."""
    return zipf_texts(n, seed, 5, 12)


def in_rounds(arms: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Return the wall seconds of `arm(i)` for each arm and round i. In each round, all arms run in a rotating order."""
    names, spent = list(arms), {name: [] for name in arms}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            arms[name](i)
            spent[name].append(time.perf_counter() - start)
    return spent


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return (result of `work`, wall seconds)."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return mean, median and 99th percentile in milliseconds."""
    return {
        "mean_ms": 1e3 * statistics.fmean(seconds),
        "p50_ms": 1e3 * statistics.median(seconds),
        "p99_ms": 1e3 * float(np.percentile(seconds, 99)),
    }


def bandwidth(megabytes: int = 256) -> float:
    """Return the bytes per second that one thread reads: the best of five sums over an array larger than any cache."""
    array = np.ones(megabytes << 17)  # 8 bytes each
    array.sum()
    return array.nbytes / min(timed(array.sum)[1] for _ in range(5))
