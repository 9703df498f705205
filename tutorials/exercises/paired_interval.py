"""Exercise paired_interval: is one arm better than the other? Fill in, 20 minutes.

Notebook 09. Check yours with `make exercise EX=paired_interval`. The draws are handed in, so that everybody gets the
same interval.
"""

import numpy as np


def paired_interval(new: np.ndarray, old: np.ndarray, draws: np.ndarray, level: float) -> tuple[float, float, float]:
    """(mean, low, high) of new - old: the percentile bootstrap over queries.

    new, old (Q,): what two arms got for the same queries. draws (n, Q): each row names Q queries, drawn with
    replacement, by their number. level, e.g. .95: low and high are the (1 - level) / 2 and (1 + level) / 2 quantiles of
    the n means of the drawn differences (`np.quantile`, its default). mean: of the differences themselves, not of the
    draws.

    By hand: new (1, 0), old (0, 0): differences (1, 0), mean .5. Draws (0, 0), (0, 1), (1, 1) have the means 1, .5, 0;
    at level .5 the quantiles .25 and .75 of them are .25 and .75.

    Hint: subtract *before* you draw; the same draw must pick the same query of both arms.
    """
    raise NotImplementedError("write this, then run the check again")
