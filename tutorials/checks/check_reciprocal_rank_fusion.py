"""What is asked of `reciprocal_rank_fusion`; numbers times 1000, so that they are about 1."""

import numpy as np
from adapters import expect

A, B = np.array([4.0, 2.0, 0.0]), np.array([0.1, 0.9, 0.5])


def check(answer) -> None:
    def asked(bm25, dense, weight, k, wanted, because, hint):
        got = answer.reciprocal_rank_fusion(np.array(bm25), np.array(dense), weight, k)
        told = f"1000 x reciprocal_rank_fusion({list(bm25)}, {list(dense)}, {weight}, k={k})"
        expect(1000 * np.asarray(got, float), 1000 * np.array(wanted), told, because, hint)

    asked(
        A,
        B,
        0.5,
        60,
        [0.5 / 61 + 0.5 / 63, 0.5 / 62 + 0.5 / 61, 0.5 / 62],
        "ranks 1 2 - and 3 1 2",
        "Ranks from 1; a BM25 of 0 is no rank.",
    )
    asked(A, B, 1.0, 1, [1 / 2, 1 / 3, 0], "1/(1+1), 1/(1+2), nothing", "k is added to the rank.")
    asked(
        A, B, 0.0, 1, [1 / 4, 1 / 2, 1 / 3], "ranks 3, 1, 2", "The place of a row in the order, not the row at a place."
    )
    tie = [1 / 2, 1 / 3, 1 / 4, 1 / 5]
    asked([3.0, 3.0, 3.0, 1.0], [0.0] * 4, 1.0, 1, tie, "ranks 1 2 3 4", "Of equal scores the earlier row comes first.")
    asked(
        [2.0, 5.0],
        [-0.5, -0.1],
        0.0,
        60,
        [1 / 62, 1 / 61],
        "ranks 2, 1",
        "A negative cosine is a place like any other.",
    )


def _rrf(first=1, drop=True, stable=True, ranks=True, sign=-1):
    def part(scores, k, lexical):
        order = np.argsort(sign * np.asarray(scores), kind="stable")
        if not stable:
            order = np.argsort(np.asarray(scores), kind="stable")[::-1]
        place = np.empty(len(scores))
        place[order] = np.arange(first, len(scores) + first)
        if not ranks:
            place = order + first
        return (np.asarray(scores) != 0 if lexical and drop else 1) / (k + place)

    return {"reciprocal_rank_fusion": lambda a, b, w, k=60: w * part(a, k, True) + (1 - w) * part(b, k, False)}


WRONG = {
    "ranks from 0": _rrf(first=0),
    "a row without a word has a rank": _rrf(drop=False),
    "ties go to the later row": _rrf(stable=False),
    "argsort taken for ranks": _rrf(ranks=False),
    "the lowest score first": _rrf(sign=1),
}
