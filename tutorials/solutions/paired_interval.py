"""Exercise paired_interval: is one arm better than the other? Fill in, 20 minutes.

Notebook 09. Check yours with `make exercise EX=paired_interval`. The random draws are passed in, so that everybody gets
the same interval.
"""

import numpy as np


def paired_interval(new: np.ndarray, old: np.ndarray, draws: np.ndarray, level: float) -> tuple[float, float, float]:
    """(mean, low, high) of new - old: the percentile bootstrap over queries.

    new, old (Q,): what two arms earned on the same Q queries. draws (n, Q): each row holds the numbers of Q queries,
    drawn with replacement. level: for example .95. low and high are the (1 - level) / 2 and (1 + level) / 2 quantiles
    of the n means of the drawn differences (`np.quantile` with its default). mean: the mean of the differences
    themselves, not of the draws.

    By hand: new (1, 0), old (0, 0): the differences are (1, 0) and their mean is .5. The draws (0, 0), (0, 1), (1, 1)
    have the means 1, .5, 0. At level .5, the quantiles .25 and .75 of these are .25 and .75.

    Hint: subtract *before* you draw; one draw must pick the same query from both arms.
    """
    # BEGIN SOLUTION
    gains = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    low, high = np.quantile(gains[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(gains.mean()), float(low), float(high)
    # END SOLUTION
