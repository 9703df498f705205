"""Exercise bm25_idf: how surprising is a word? Fill in a formula, 10 minutes.

Notebook 03. Check yours with `make exercise EX=bm25_idf`.
"""


def idf_lucene(n: int, df: int) -> float:
    """log(1 + (N - df + 1/2) / (df + 1/2)), natural logarithm: N = `n` texts, of which `df` hold the word. Always > 0.

    By hand: one of four texts holds it: log(1 + 3.5 / 1.5) = log 3.3333 = 1.2040. All four do: log(1 + .5 / 4.5) =
    .1054: little, and not less than nothing.

    Hint: `math.log` is the natural one; the 1 stands inside of it.
    """
    # BEGIN SOLUTION
    import math

    return math.log(1 + (n - df + 0.5) / (df + 0.5))
    # END SOLUTION
