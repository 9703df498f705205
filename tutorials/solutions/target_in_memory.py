"""Exercise target_in_memory: why is this evaluation too good? Silent bug, 15 minutes.

Notebooks 01, 02 and 12. The function `memory_texts` below has a bug that raises no error: the results are splendid, but
not true. Correct it in place, then run `make exercise EX=target_in_memory`. The check tells you what a colleague
noticed; find out yourself what is wrong.
"""

from collections.abc import Mapping, Sequence

from mrrec_mini.datatypes import Interaction, Query


def memory_texts(interactions: Sequence[Interaction], titles: Mapping[str, str], query: Query) -> list[str]:
    """The records of a user's memory for a query, latest first: `title: review`, or `title` if there is no review.

    interactions: of all users, oldest first. titles: item id -> title.
    """
    texts = []
    for interaction in interactions:
        if interaction.user == query.user and interaction.time <= query.time:
            text = titles[interaction.item]
            if interaction.review:
                text = f"{text}: {interaction.review}"
            texts.append(text)
    return texts[::-1]


# BEGIN SOLUTION
def memory_texts(interactions: Sequence[Interaction], titles: Mapping[str, str], query: Query) -> list[str]:  # noqa: F811
    """The same with `<`: the target is taken at the time of the query, so `<=` lets it in."""
    own = [
        interaction for interaction in interactions if interaction.user == query.user and interaction.time < query.time
    ]
    return [
        f"{titles[interaction.item]}: {interaction.review}" if interaction.review else titles[interaction.item]
        for interaction in reversed(own)
    ]


# END SOLUTION
