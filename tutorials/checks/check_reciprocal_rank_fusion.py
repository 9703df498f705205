"""The check of `reciprocal_rank_fusion`; numbers are multiplied by 1000, so that they are about 1."""

import numpy as np
from adapters import expect

A, B = np.array([4.0, 2.0, 0.0]), np.array([0.1, 0.9, 0.5])


def check(answer) -> None:
    def asked(bm25, dense, weight, k, wanted, because, hint):
        got = answer.reciprocal_rank_fusion(np.array(bm25), np.array(dense), weight, k)
        call = f"1000 x reciprocal_rank_fusion({np.array(bm25).tolist()}, {np.array(dense).tolist()}, {weight}, k={k})"
        expect(1000 * np.asarray(got, float), 1000 * np.array(wanted), call, because, hint)

    asked(
        A,
        B,
        0.5,
        60,
        [0.5 / 61 + 0.5 / 63, 0.5 / 62 + 0.5 / 61, 0.5 / 62],
        "ranks (1, 2, none) and (3, 1, 2)",
        "Ranks start at 1; a row with a BM25 score of 0 has no rank.",
    )
    asked(A, B, 1.0, 1, [1 / 2, 1 / 3, 0], "1/(1+1), 1/(1+2), nothing", "Add k to the rank.")
    asked(
        A,
        B,
        0.0,
        1,
        [1 / 4, 1 / 2, 1 / 3],
        "ranks 3, 1, 2",
        "You need the place of each row in the order, not the row at each place.",
    )
    tie = [1 / 2, 1 / 3, 1 / 4, 1 / 5]
    asked([3.0, 3.0, 3.0, 1.0], [0.0] * 4, 1.0, 1, tie, "ranks 1, 2, 3, 4", "On a tie the earlier row comes first.")
    asked(
        [2.0, 5.0],
        [-0.5, -0.1],
        0.0,
        60,
        [1 / 62, 1 / 61],
        "ranks 2, 1",
        "A negative cosine has a rank like any other.",
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
    "argsort mistaken for ranks": _rrf(ranks=False),
    "the lowest score first": _rrf(sign=1),
}
