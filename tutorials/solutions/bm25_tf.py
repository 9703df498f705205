"""Exercise bm25_tf: what are repeats worth, and what does length cost? Fill in a formula, 10 minutes.

Notebook 03. Check yours with `make exercise EX=bm25_tf`.
"""


def term_part(tf: float, length: float, avgdl: float, k1: float, b: float) -> float:
    """tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl)).

    tf: how often the word stands in the text, whose number of words is `length` (|d|); `avgdl` is that of an average
    text. k1 >= 0, b in 0..1. -> a number in 0..k1 + 1.

    By hand, k1 = 1.5 and b = .75, a text of average length: tf 1 gives 2.5 / 2.5 = 1, tf 2 gives 5 / 3.5 = 1.4286. A
    text of twice the length, tf 1: 2.5 / (1 + 1.5 (.25 + 1.5)) = 2.5 / 3.625 = .6897.

    Hint: what stands in the inner brackets is 1 for a text of average length.
    """
    # BEGIN SOLUTION
    return tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / avgdl))
    # END SOLUTION
