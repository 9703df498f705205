"""The check of `idf_lucene`."""

import math

from adapters import expect


def check(answer) -> None:
    for n, df, because in (
        (4, 1, "log(1 + 3.5 / 1.5)"),
        (4, 4, "log(1 + .5 / 4.5)"),
        (4, 0, "log(1 + 4.5 / .5)"),
        (1000, 500, "log(1 + 500.5 / 500.5)"),
    ):
        wanted = math.log(1 + (n - df + 0.5) / (df + 0.5))
        hint = "Is the 1 inside the logarithm? Is 1/2 added in both places? Is it the natural logarithm?"
        expect(answer.idf_lucene(n, df), wanted, f"idf_lucene(n={n}, df={df})", because, hint)


WRONG = {
    "okapi's, below zero": {"idf_lucene": lambda n, df: math.log((n - df + 0.5) / (df + 0.5))},
    "no halves": {"idf_lucene": lambda n, df: math.log(1 + (n - df) / max(df, 1))},
    "the 1 outside": {"idf_lucene": lambda n, df: 1 + math.log((n - df + 0.5) / (df + 0.5))},
    "log10": {"idf_lucene": lambda n, df: math.log10(1 + (n - df + 0.5) / (df + 0.5))},
    "plain N / df": {"idf_lucene": lambda n, df: math.log(n / max(df, 1))},
}
