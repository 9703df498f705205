"""Exercise ndcg_at_k: what is a place in the ranking worth? Fill in a formula, 10 minutes.

Notebook 09. Check yours with `make exercise EX=ndcg_at_k`.
"""

import numpy as np


def ndcg_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """(Q,) 1 / log2(rank + 1) if rank <= k, else 0 (sec. 3.3, with one relevant item).

    ranks (Q,): the rank of the target for each of Q queries, from 1; infinity if the item was never returned. k >= 1.

    By hand: rank 1 gives 1 / log2(2) = 1. Rank 3 gives 1 / log2(4) = .5, but 0 for k = 2.

    Hint: use `np.where`. log2 of infinity is infinity and 1 / infinity is 0, so infinity needs no case of its own.
    """
    raise NotImplementedError("write this, then run the check again")
