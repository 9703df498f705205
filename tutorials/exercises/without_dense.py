"""Exercise without_dense: what is each half of hybrid retrieval worth? Change one thing and measure, 20 minutes.

Notebook 04. Check yours with `make exercise EX=without_dense`. Build one index per configuration, with the same texts
and the same questions. The weight of BM25 is the only thing that differs.
"""

from collections.abc import Sequence

from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace

Question = tuple[str, str]  # (what is asked, the id of the one right row)


def found(
    texts: dict[str, str], corpus: Sequence[str], questions: Sequence[Question], weight: float, k: int
) -> list[int]:
    """For each question, 1 if its right row is among the first k, else 0.

    texts: id -> text, the rows. corpus: the texts that the text space is fitted on. questions: the questions. weight:
    the `bm25_weight`; 1 means words alone, 0 means vectors alone. Keep the defaults of `HybridConfig` otherwise, except
    for `dims=8`.

    Hint: `TextSpace.fit(corpus, HybridConfig(...))`, `HybridIndex(ids, texts, space)`, `.search(question, k)`.
    """
    raise NotImplementedError("write this, then run the check again")


def gains(texts: dict[str, str], corpus: Sequence[str], questions: Sequence[Question], k: int) -> dict[str, list[int]]:
    """What both halves together (weight .5) add to each half alone, question by question: -1, 0 or 1.

    Returns {"to words alone": [...], "to vectors alone": [...]}.

    Hint: call `found` three times; then subtract question by question: both minus alone.
    """
    raise NotImplementedError("write this, then run the check again")
