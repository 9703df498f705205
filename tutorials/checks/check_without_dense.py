"""The check of `found` and `gains`."""

from adapters import expect

from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace

TEXTS = {
    **{"m1": "mug color red inexpensive", "m2": "red budget", "m3": "price lamp size scarlet", "m4": "red mug tent"},
    **{"m5": "lamp price budget", "m6": "tent luxury lavish", "m7": "mug size giant", "m8": "tent color scarlet"},
}
CORPUS = [
    *("mug price budget", "mug price cheap", "lamp price budget", "lamp price cheap", "budget cheap inexpensive price"),
    *("mug color red", "mug red scarlet", "tent size giant", "tent color scarlet", "lamp color red"),
    *("tent luxury lavish price", "lamp luxury price", "tent red tent giant"),
] * 2
QUESTIONS = [
    *(("cheap red mug", "m1"), ("cheap lamp", "m5"), ("lavish", "m6"), ("giant mug", "m7"), ("cheap", "m2")),
    *(("red tent", "m8"), ("inexpensive lamp", "m5"), ("red mug tent", "m4")),
]


def wanted(weight, k):
    space = TextSpace.fit(CORPUS, HybridConfig(bm25_weight=weight, dims=8))
    index = HybridIndex(list(TEXTS), list(TEXTS.values()), space)
    return [int(index.ranks([asked], [right])[0] <= k) for asked, right in QUESTIONS]


def check(answer) -> None:
    for k in (1, 2):
        for weight in (0.5, 1.0, 0.0):
            got = answer.found(TEXTS, CORPUS, QUESTIONS, weight, k)
            hint = "Return one number per question, in order. Weight 1 is words alone. The space is fitted on `corpus`."
            expect(got, wanted(weight, k), f"found(..., weight={weight}, k={k})", "", hint)
        both, words, vectors = (wanted(weight, k) for weight in (0.5, 1.0, 0.0))
        got = answer.gains(TEXTS, CORPUS, QUESTIONS, k)
        for name, alone in (("to words alone", words), ("to vectors alone", vectors)):
            differences = [one - other for one, other in zip(both, alone, strict=True)]
            if not isinstance(got, dict) or name not in got:
                raise AssertionError(f"gains(..., k={k}) should be a dict with the key {name!r}, yours is {got!r}")
            expect(
                got[name],
                differences,
                f"gains(..., k={k})[{name!r}]",
                "both minus alone, question by question",
                "Is the subtraction the right way round?",
            )


def _found(weight_of=lambda w: w, fitted=True, deeper=0):
    def found(texts, corpus, questions, weight, k):
        space = TextSpace.fit(
            corpus if fitted else list(texts.values()), HybridConfig(bm25_weight=weight_of(weight), dims=8)
        )
        index = HybridIndex(list(texts), list(texts.values()), space)
        return [int(right in [hit.id for hit in index.search(asked, k + deeper)]) for asked, right in questions]

    return found


WRONG = {
    "weight and 1 - weight exchanged": {"found": _found(lambda w: 1 - w)},
    "always the default weight": {"found": _found(lambda w: 0.7)},
    "fitted on the rows": {"found": _found(fitted=False)},
    "one place too many": {"found": _found(deeper=1)},
    "means, not pairs": {"gains": lambda t, c, q, k: {"to words alone": [0.1], "to vectors alone": [0.1]}},
    "alone minus both": {
        "gains": lambda t, c, q, k: {
            name: [a - b for a, b in zip(wanted(w, k), wanted(0.5, k), strict=True)]
            for name, w in (("to words alone", 1.0), ("to vectors alone", 0.0))
        }
    },
}
