"""Exercise repeated_review: which earlier reviews give the target away? Fill in, 15 minutes.

Notebook 11. Check yours with `make exercise EX=repeated_review`.
"""

from collections.abc import Sequence

Review = tuple[str, str, int, str]  # (user, item, time, text)


def without_repeats(reviews: Sequence[Review], target: Review) -> list[Review]:
    """The reviews that may stay when `target` is what has to be predicted, in their order.

    An earlier review of the *same user* goes if its text equals the target's but for case and for how it is spaced
    (runs of spaces, tabs and line ends count as one space; none at the ends). The target itself stays: it is taken out
    elsewhere, by its time. Other users may say the same: that is no leak. Reviews without a text stay.

    By hand: the target says "So  light!". An earlier "so light!" goes, "so light" stays (another text), "" stays.

    Hint: `" ".join(text.split())` spaces a text anew; `casefold` is made for comparing.
    """

    raise NotImplementedError("write this, then run the check again")
