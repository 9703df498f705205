"""The check of `paired_interval`."""

import numpy as np
from adapters import expect

NEW, OLD = np.array([0.9, 0.1, 0.6, 0.4]), np.array([0.7, 0.0, 0.5, 0.2])
DRAWS = np.random.default_rng(0).integers(4, size=(200, 4))


def check(answer) -> None:
    small = np.array([[0, 0], [0, 1], [1, 1]])
    got = answer.paired_interval(np.array([1.0, 0.0]), np.zeros(2), small, 0.5)
    because = "means of the draws 1, .5, 0; their quantiles .25 and .75"
    expect(
        got, (0.5, 0.25, 0.75), "new (1, 0), old (0, 0), three draws, level .5", because, "Return (mean, low, high)."
    )
    gains = NEW - OLD
    for level in (0.95, 0.8):
        low, high = np.quantile(gains[DRAWS].mean(1), [(1 - level) / 2, (1 + level) / 2])
        hint = (
            "Pair first, so that what makes a query hard for both arms cancels. Take the quantiles of the drawn means."
        )
        wanted = (0.15, low, high)
        got = answer.paired_interval(NEW, OLD, DRAWS, level)
        asked = f"new (.9, .1, .6, .4), old (.7, 0, .5, .2), 200 draws, level {level}"
        expect(got, wanted, asked, "differences .2, .1, .1, .2", hint)
    backwards = answer.paired_interval(OLD, NEW, DRAWS, 0.95)
    expect(backwards[0], -0.15, "the mean with old and new exchanged", "", "It is new - old, with its sign.")


def _version(paired=True, of="draws", sides=2, sign=1):
    def paired_interval(new, old, draws, level):
        gains = sign * (new - old)
        means = gains[draws].mean(1)
        if not paired:
            means = new[draws].mean(1) - old[draws[::-1]].mean(1)
        if of == "values":
            means = gains
        q = [(1 - level) / 2, (1 + level) / 2] if sides == 2 else [1 - level, level]
        low, high = np.quantile(means, q)
        return gains.mean(), low, high

    return {"paired_interval": paired_interval}


WRONG = {
    "each arm drawn on its own": _version(paired=False),
    "quantiles of the differences": _version(of="values"),
    "one-sided levels": _version(sides=1),
    "old minus new": _version(sign=-1),
    "a standard error": {
        "paired_interval": lambda n, o, d, level: (
            (n - o).mean(),
            (n - o).mean() - (n - o).std() / 2,
            (n - o).mean() + (n - o).std() / 2,
        )
    },
}
