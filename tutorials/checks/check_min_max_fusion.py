"""The check of `min_max_fusion`."""

import numpy as np
from adapters import expect

A, B = np.array([4.0, 2.0, 0.0]), np.array([0.1, 0.9, 0.5])


def check(answer) -> None:
    def asked(bm25, dense, weight, wanted, because, hint):
        got = answer.min_max_fusion(bm25.copy(), dense.copy(), weight)
        expect(got, wanted, f"min_max_fusion({bm25.tolist()}, {dense.tolist()}, {weight})", because, hint)

    asked(A, B, 0.5, [0.5, 0.75, 0.25], ".5 (1, .5, 0) + .5 (0, 1, .5)", "Scale each list on its own.")
    asked(A, B, 0.7, [0.7, 0.65, 0.15], ".7 (1, .5, 0) + .3 (0, 1, .5)", "`weight` is the weight of BM25.")
    asked(A - 10, B, 0.5, [0.5, 0.75, 0.25], "(-6, -8, -10) -> (1, .5, 0)", "Subtract the smallest score, not 0.")
    asked(np.full(3, 7.0), B, 0.5, [0, 0.5, 0.25], ".5 (0, 0, 0) + .5 (0, 1, .5)", "A constant list gives zeros.")
    asked(A[:1], B[:1], 0.5, [0.0], "one row: both lists are constant", "Do not compute 0 / 0.")
    mine = A.copy()
    answer.min_max_fusion(mine, B.copy(), 0.5)
    expect(mine, A, "the bm25 list after the call", "", "Your function changed its input.")


def _fuse(f, order=1):
    def min_max_fusion(bm25, dense, weight):
        return (weight * f(bm25) + (1 - weight) * f(dense)) if order else ((1 - weight) * f(bm25) + weight * f(dense))

    return {"min_max_fusion": min_max_fusion}


def _minmax(s, low=True, constant=0.0):
    span = s.max() - (s.min() if low else 0)
    return np.full(len(s), constant) if s.max() == s.min() else (s - (s.min() if low else 0)) / span


WRONG = {
    "raw scores": _fuse(lambda s: s),
    "divided by the largest": _fuse(lambda s: _minmax(s, low=False)),
    "weights exchanged": _fuse(_minmax, 0),
    "a constant list is 1": _fuse(lambda s: _minmax(s, constant=1.0)),
    "a constant list is nan": _fuse(lambda s: _minmax(s, constant=np.nan)),
    "both on one scale": {
        "min_max_fusion": lambda a, b, w: (
            (w * a + (1 - w) * b - min(a.min(), b.min())) / (max(a.max(), b.max()) - min(a.min(), b.min()) + 1e-9)
        )
    },
}
