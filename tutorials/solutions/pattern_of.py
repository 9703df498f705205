"""Exercise pattern_of: how is a preference pattern counted from purchases? Fill in, 20 minutes.

Notebook 02. Check yours with `make exercise EX=pattern_of`.
"""

from collections.abc import Mapping, Sequence

Bought = tuple[Mapping[str, str], float]  # (the item's value of each aspect, the rating 1..5)


def pattern_of(purchases: Sequence[Bought], at_least: float) -> dict[str, str]:
    """Eq. (4), extractive and without reviews: what one user prefers in one category, {aspect: value}.

    Each purchase speaks for the values of its item with the liking (rating - 3) / 2, which is negative for a purchase
    that was a mistake. strength(aspect, value) = the sum over the purchases. Of each aspect the value with the greatest
    strength is written down if that strength is `at_least` or more; of two equally strong values the one first in the
    alphabet. An aspect without such a value is left out.

    By hand: a red and a blue mug with 5 stars each, another red one with 4: red 1 + .5, blue 1. At least 1.5: color
    red. Had the last one 2 stars, red had 1 - .5 = .5, and blue with 1 is not enough: {}.

    Hint: two dictionaries, one inside the other.
    """
    # BEGIN SOLUTION
    strength: dict[str, dict[str, float]] = {}
    for values, rating in purchases:
        for aspect, value in values.items():
            of_aspect = strength.setdefault(aspect, {})
            of_aspect[value] = of_aspect.get(value, 0.0) + (rating - 3) / 2
    best = {aspect: min(of, key=lambda value: (-of[value], value)) for aspect, of in strength.items()}
    return {aspect: value for aspect, value in best.items() if strength[aspect][value] >= at_least}
    # END SOLUTION
