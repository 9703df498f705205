"""The check of `predict_scores`; the answers are computed here, not stored."""

from adapters import expect_predictions

from mrrec_mini.bm25 import BM25, BM25Stats

TEXTS = {
    "a": "mug price luxury",
    "b": "mug mug mug mug color red and a lot of words beside it that nobody has asked for",
    "c": "lamp price budget",
    "d": "mug color blue",
}


def scores(question, k1=1.5, b=0.75):
    found = BM25(list(TEXTS.values()), BM25Stats.fit(TEXTS.values()), k1, b).scores(question)
    return dict(zip(TEXTS, found.tolist(), strict=True))


def check(answer) -> None:
    first = scores("luxury mug")
    flat, full, there = scores("mug", b=0.0), scores("mug", b=1.0), scores("mug", k1=0.0)
    right = {
        "FIRST": (max(first, key=first.get), "Which of the two words is rare?"),
        "SECOND_B_0": (max(flat, key=flat.get), "One text has the word four times, and length is not discounted."),
        "SECOND_B_1": (
            full["b"] > full["a"],
            "Compute 4 x 2.5 / (4 + 1.5 x |d| / avgdl) for b, and 2.5 / (1 + 1.5 x 3 / avgdl) for a.",
        ),
        "K1_0": (
            sum(value == max(there.values()) for value in there.values()),
            "With k1 = 0 the term part is 1 for every text that holds the word.",
        ),
        "NOBODY": (
            max(scores("something cheap").values()),
            "Which words do the question and the memories share?",
        ),
    }
    expect_predictions(answer, right)


WRONG = {
    "counts words": {"FIRST": "b"},
    "length counts always": {"SECOND_B_0": "a"},
    "guesses the other way": {"SECOND_B_1": True},
    "answers with a letter": {"SECOND_B_1": "a"},
    "thinks repeats count": {"K1_0": 1},
    "thinks in meanings": {"NOBODY": 1.0},
}
