"""Exercise history_before: what may a query know of its user? Fill in, 10 minutes.

Notebook 01. Check yours with `make exercise EX=history_before`.
"""

from collections.abc import Sequence

from mrrec_mini.datatypes import Interaction, Query


def history_before(interactions: Sequence[Interaction], query: Query) -> list[Interaction]:
    """H_u as the query may know it: this user's interactions strictly before `query.time`, oldest first.

    interactions: of all users, in any order. Of two at the same time the one with the smaller item id comes first.

    By hand: ann took `a` at 3, `b` at 1 and `c` at 7, bob took `d` at 2. A query of ann at 7 knows b, a: in this order,
    without c (it is not *before* 7) and without d (it is bob's).

    Hint: who, when, in which order: three conditions.
    """
    raise NotImplementedError("write this, then run the check again")
