"""The check of `ndcg_at_k`."""

import numpy as np
from adapters import expect


def check(answer) -> None:
    ranks = np.array([1, 2, 3, 7, 10, 11, np.inf])
    wanted = [1, 0.6309298, 0.5, 1 / 3, 0.2890648, 0, 0]
    because = "1/log2(2), 1/log2(3), 1/log2(4), 1/log2(8), 1/log2(11), beyond 10, never returned"
    hint = "Rank 1 is worth 1: take the logarithm of rank + 1, to the base 2. Rank k itself counts."
    expect(answer.ndcg_at_k(ranks, 10), wanted, "ndcg_at_k(1, 2, 3, 7, 10, 11, inf; k=10)", because, hint)
    expect(answer.ndcg_at_k(ranks[:3], 2), [1, 0.6309298, 0], "ndcg_at_k(1, 2, 3; k=2)", "the third is beyond 2", hint)
    expect(answer.ndcg_at_k(np.array([15]), 100), [0.25], "ndcg_at_k(15; k=100)", "1/log2(16)", hint)


def _version(plus=1, log=np.log2, inside=lambda r, k: r <= k, share=False):
    def ndcg_at_k(ranks, k):
        ranks = np.asarray(ranks, float)
        with np.errstate(all="ignore"):
            value = 1 / log(ranks + plus)
        value = np.where(inside(ranks, k), value, 0.0)
        return value / k if share else value

    return {"ndcg_at_k": ndcg_at_k}


WRONG = {
    "natural logarithm": _version(log=np.log),
    "ranks from 0": _version(plus=2),
    "k itself does not count": _version(inside=lambda r, k: r < k),
    "no cut-off": _version(inside=lambda r, k: r > 0),
    "reciprocal rank": _version(plus=0, log=lambda r: r),
    "divided by k": _version(share=True),
}
