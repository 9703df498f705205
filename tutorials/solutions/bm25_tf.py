"""Exercise bm25_tf: what are repeats worth, and what does length cost? Fill in a formula, 10 minutes.

Notebook 03. Check yours with `make exercise EX=bm25_tf`.
"""


def term_part(tf: float, length: float, avgdl: float, k1: float, b: float) -> float:
    """tf (k1 + 1) / (tf + k1 (1 - b + b length / avgdl)), a number in 0..k1 + 1.

    tf: how often the word occurs in the text. length: the number of words in the text (|d| in the notebook). avgdl: the
    number of words in an average text. k1 >= 0. b in 0..1.

    By hand, with k1 = 1.5 and b = .75. A text of average length: tf 1 gives 2.5 / 2.5 = 1, and tf 2 gives 5 / 3.5 =
    1.4286. A text of twice the length, tf 1: 2.5 / (1 + 1.5 (.25 + 1.5)) = 2.5 / 3.625 = .6897.

    Hint: the inner bracket is 1 for a text of average length.
    """
    # BEGIN SOLUTION
    return tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / avgdl))
    # END SOLUTION
