"""Compare our Sampler with `transformers.generate`: new tokens per CPU second at batch 1, 8 and 64.

    python -m benchmarks.sampler [--fast] [--json]

All arms have the same weights, prompts, number of new tokens (no stop token), dtype (fp32) and one thread. The prompts
of a batch differ and have equal length, so the sampler gains nothing by sharing prompts or dropping finished rows: this
is plain decoding, which `generate` was made for. `generate` runs with its default cache, which grows by concatenation,
and with `cache_implementation="static"`, uncompiled. The arms take turns; we drop the first round and report medians.
Before timing, the greedy tokens of all arms must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.common import SIZES, VOCABULARY, claim, document, finish, fresh_model, show

PROMPT, NEW = 80, 64
TARGET = 1.0  # our tokens per second / those of the better `generate`, at least


def ours(model, prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
    import torch

    from mrrec_mini.sampler import Sampler

    generator = None if greedy else torch.Generator().manual_seed(0)
    return Sampler(model, prompts, generator, 0.0 if greedy else 1.0).sample((), new)[0]


def theirs(model, prompts: list[list[int]], new: int, greedy: bool, cache: str) -> list[list[int]]:
    import torch

    ids = torch.tensor(prompts)
    how = {} if greedy else {"top_k": 0}  # no limit; the default samples from the 50 most likely tokens
    if cache != "dynamic":
        how["cache_implementation"] = cache
    drawn = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=not greedy,
        max_new_tokens=new,
        disable_compile=True,
        **how,
    )
    return drawn[:, ids.shape[1] :].tolist()


def arms(model, prompts: list[list[int]], new: int, greedy: bool) -> dict[str, Callable[[], list[list[int]]]]:
    return {
        "ours": lambda: ours(model, prompts, new, greedy),
        "generate": lambda: theirs(model, prompts, new, greedy, "dynamic"),
        "generate, static cache": lambda: theirs(model, prompts, new, greedy, "static"),
    }


def measure(size: str, batch: int, greedy: bool, rounds: int) -> dict:
    """Measure the new tokens per CPU second of each arm."""
    import torch

    model = fresh_model(size).eval()
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(1, VOCABULARY, (batch, PROMPT), generator=generator).tolist()
    to_time = arms(model, prompts, NEW, greedy)
    if greedy and len({str(arm()) for arm in to_time.values()}) > 1:
        raise RuntimeError(f"{size}, batch {batch}: the arms write different greedy tokens, so nothing was compared")
    spent: dict[str, list[float]] = {name: [] for name in to_time}
    for _ in range(rounds):
        for name, arm in to_time.items():
            start = time.process_time()
            arm()
            spent[name].append(time.process_time() - start)
    speed = {name: batch * NEW / statistics.median(times[1:]) for name, times in spent.items()}
    return {"size": size, "batch": batch, "greedy": greedy, "tokens_per_cpu_second": speed}


def judge(results: Sequence[dict]) -> list[dict]:
    """Return one claim per row: our speed / the better of the other two speeds."""
    claims = []
    for r in results:
        speed = r["tokens_per_cpu_second"]
        best = max(value for name, value in speed.items() if name != "ours")
        how = "greedy" if r["greedy"] else "sampled"
        claims.append(claim(f"{r['size']}, batch {r['batch']}, {how}: ours / generate", speed["ours"] / best, TARGET))
    return claims


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="1M only, two measured rounds")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    sizes, rounds = (("1M",), 3) if given.fast else (tuple(SIZES), 6)
    results = [
        measure(size, batch, greedy, rounds) for size in sizes for batch in (1, 8, 64) for greedy in (True, False)
    ]
    rows = [("size", "batch", "", *results[0]["tokens_per_cpu_second"])]
    for r in results:
        how = "greedy" if r["greedy"] else "sampled"
        rows.append((r["size"], r["batch"], how, *(float(v) for v in r["tokens_per_cpu_second"].values())))
    show("new tokens per CPU second", rows, sys.stderr if given.json else None)
    return finish(document(judge(results), results=results), given.json)


if __name__ == "__main__":
    sys.exit(main())
