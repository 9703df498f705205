"""Exercise target_in_memory: why is this evaluation too good? Silent bug, 15 minutes.

Notebooks 01, 02 and 12. `memory_texts` below has a bug that raises nothing: results are splendid, and not true.
Correct it in place, then check with `make exercise EX=target_in_memory`. The check tells you what a colleague noticed;
what is wrong you find yourself.
"""

from collections.abc import Mapping, Sequence

from mrrec_mini.datatypes import Interaction, Query


def memory_texts(interactions: Sequence[Interaction], titles: Mapping[str, str], query: Query) -> list[str]:
    """The records of a user's memory for a query, latest first: `title: review`, or `title` where nothing was said.

    interactions: of all users, oldest first. `titles`: item id -> title.
    """
    texts = []
    for met in interactions:
        if met.user == query.user and met.time <= query.time:
            text = titles[met.item]
            if met.review:
                text = f"{text}: {met.review}"
            texts.append(text)
    return texts[::-1]


# BEGIN SOLUTION
def memory_texts(interactions: Sequence[Interaction], titles: Mapping[str, str], query: Query) -> list[str]:  # noqa: F811
    """The same with `<`: the target is taken at the time of the query, so `<=` lets it in."""
    own = [met for met in interactions if met.user == query.user and met.time < query.time]
    return [f"{titles[met.item]}: {met.review}" if met.review else titles[met.item] for met in reversed(own)]


# END SOLUTION
