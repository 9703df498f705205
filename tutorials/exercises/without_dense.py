"""Exercise without_dense: what is each half of hybrid retrieval worth? Change one thing and measure, 20 minutes.

Notebook 04. Check yours with `make exercise EX=without_dense`. One index a configuration, the same texts, the same
questions: what differs is the weight of BM25, and nothing else.
"""

from collections.abc import Sequence

from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace

Question = tuple[str, str]  # (what is asked, the id of the one right row)


def found(
    texts: dict[str, str], corpus: Sequence[str], questions: Sequence[Question], weight: float, k: int
) -> list[int]:
    """For each question 1 if its right row is among the first k, else 0.

    texts: id -> text, the rows. corpus: what the text space is fitted on. weight: `bm25_weight`, 1 = words alone, 0 =
    vectors alone; all else of `HybridConfig` as it is, but for `dims=8`.

    Hint: `TextSpace.fit(corpus, HybridConfig(...))`, `HybridIndex(ids, texts, space)`, `.search(question, k)`.
    """
    raise NotImplementedError("write this, then run the check again")


def gains(texts: dict[str, str], corpus: Sequence[str], questions: Sequence[Question], k: int) -> dict[str, list[int]]:
    """What both halves (weight .5) add to each alone, question by question: -1, 0 or 1.

    -> {"to words alone": [...], "to vectors alone": [...]}

    Hint: three calls of `found`; then subtract pairwise, both minus alone.
    """
    raise NotImplementedError("write this, then run the check again")
