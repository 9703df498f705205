"""Exercise bm25_idf: how surprising is a word? Fill in a formula, 10 minutes.

Notebook 03. Check yours with `make exercise EX=bm25_idf`.
"""


def idf_lucene(n: int, df: int) -> float:
    """log(1 + (n - df + 1/2) / (df + 1/2)), with the natural logarithm. It is always > 0.

    n: the number of texts. df: how many of them hold the word.

    By hand: if one of four texts holds it, log(1 + 3.5 / 1.5) = log 3.3333 = 1.2040. If all four do,
    log(1 + .5 / 4.5) = .1054: little, but not below zero.

    Hint: `math.log` is the natural logarithm; the 1 is inside it.
    """
    # BEGIN SOLUTION
    import math

    return math.log(1 + (n - df + 0.5) / (df + 0.5))
    # END SOLUTION
