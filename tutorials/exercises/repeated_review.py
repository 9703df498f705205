"""Exercise repeated_review: which earlier reviews give the target away? Fill in, 15 minutes.

Notebook 11. Check yours with `make exercise EX=repeated_review`.
"""

from collections.abc import Sequence

Review = tuple[str, str, int, str]  # (user, item, time, text)


def without_repeats(reviews: Sequence[Review], target: Review) -> list[Review]:
    """The reviews that may stay if `target` is what has to be predicted, in their order.

    An earlier review of the *same user* is removed if its text equals the target's text, ignoring case and spacing (a
    run of spaces, tabs and line ends counts as one space; spaces at the ends do not count). The target itself stays:
    another step removes it by its time. Other users may say the same: that is no leak. Reviews without a text stay.

    By hand: the target says "So  light!". An earlier "so light!" is removed, "so light" stays (it is another text), and
    "" stays.

    Hint: `" ".join(text.split())` normalises the spaces of a text; `casefold` is made for comparing.
    """

    raise NotImplementedError("write this, then run the check again")
