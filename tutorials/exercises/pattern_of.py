"""Exercise pattern_of: how is a preference pattern counted from purchases? Fill in, 20 minutes.

Notebook 02. Check yours with `make exercise EX=pattern_of`.
"""

from collections.abc import Mapping, Sequence

Bought = tuple[Mapping[str, str], float]  # (the item's value of each aspect, the rating 1..5)


def pattern_of(purchases: Sequence[Bought], at_least: float) -> dict[str, str]:
    """Eq. (4), extractive and without reviews: what one user prefers in one category, as {aspect: value}.

    Each purchase speaks for the values of its item with the liking (rating - 3) / 2. The liking is negative if the
    purchase was a mistake. strength(aspect, value) is the sum of the likings over the purchases. For each aspect, write
    down the value with the greatest strength if that strength is at least `at_least`. If two values are equally strong,
    take the one that comes first in the alphabet. Leave an aspect out if it has no such value.

    By hand: a red and a blue mug with 5 stars each, and another red one with 4. Red has 1 + .5 and blue has 1, so with
    at_least 1.5: color red. If the last one had 2 stars, red would have 1 - .5 = .5, and 1 for blue is not enough: {}.

    Hint: use two dictionaries, one inside the other.
    """
    raise NotImplementedError("write this, then run the check again")
