"""Exercise reciprocal_rank_fusion: what if only the order counts? Fill in, 15 minutes.

Notebook 04. Check yours with `make exercise EX=reciprocal_rank_fusion`.
"""

import numpy as np


def reciprocal_rank_fusion(bm25: np.ndarray, dense: np.ndarray, weight: float, k: int = 60) -> np.ndarray:
    """weight / (k + rank in bm25) + (1 - weight) / (k + rank in dense). Ranks start at 1, for the highest score.

    bm25, dense (n,): scores of the same n rows. Returns (n,). If scores are equal, the earlier row has the smaller
    rank. A row with a BM25 score of 0 shares no word with the question: it is not in that list, and gets nothing from
    it.

    By hand, with weight .5: bm25 (4, 2, 0) -> 1/61, 1/62, nothing; dense (.1, .9, .5) -> 1/63, 1/61, 1/62. Row 0:
    .5 (1/61 + 1/63) = .016133; row 1: .5 (1/62 + 1/61) = .016261; row 2: .5 / 62 = .008065.

    Hint: `np.argsort(-scores, kind="stable")` gives the rows in order; you need, for each row, its place in that order.
    """
    raise NotImplementedError("write this, then run the check again")
