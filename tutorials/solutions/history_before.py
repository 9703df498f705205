"""Exercise history_before: what may a query know of its user? Fill in, 10 minutes.

Notebook 01. Check yours with `make exercise EX=history_before`.
"""

from collections.abc import Sequence

from mrrec_mini.datatypes import Interaction, Query


def history_before(interactions: Sequence[Interaction], query: Query) -> list[Interaction]:
    """H_u as the query may know it: this user's interactions strictly before `query.time`, oldest first.

    interactions: of all users, in any order. If two have the same time, the one with the smaller item id comes first.

    By hand: ann took `a` at time 3, `b` at 1 and `c` at 7, and bob took `d` at 2. A query of ann at time 7 knows b, a,
    in this order. It does not know c (7 is not *before* 7) and it does not know d (which is bob's).

    Hint: there are three conditions: whose, when, and in which order.
    """
    # BEGIN SOLUTION
    own = [
        interaction for interaction in interactions if interaction.user == query.user and interaction.time < query.time
    ]
    return sorted(own, key=lambda interaction: (interaction.time, interaction.item))
    # END SOLUTION
