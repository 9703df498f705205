"""The check of `without_repeats`."""

TARGET = ("ann", "c", 9, "So  light!\n")
REVIEWS = [
    ("ann", "a", 1, "so light!"),
    ("ann", "b", 2, "so light"),
    ("bob", "a", 3, "So light!"),
    ("ann", "d", 4, ""),
    ("ann", "e", 5, " SO LIGHT! "),
    ("ann", "f", 6, "not so light!"),
    TARGET,
]


def check(answer) -> None:
    def items(reviews, target):
        return [f"{user}/{item}" for user, item, _, _ in answer.without_repeats(list(reviews), target)]

    got = items(REVIEWS, TARGET)
    for gone, why in (
        ("ann/a", "'so light!' is the target's text with other capitals and spaces"),
        ("ann/e", "' SO LIGHT! ' is the target's text too"),
    ):
        if gone in got:
            raise AssertionError(f"{gone} stays, but {why}: ignore case and spacing")
    for kept, why in (
        ("ann/b", "'so light' lacks the exclamation mark: it is another text"),
        ("bob/a", "another user may say the same"),
        ("ann/d", "a review without a text stays"),
        ("ann/f", "it only ends like the target"),
        ("ann/c", "the target itself is removed elsewhere"),
    ):
        if kept not in got:
            raise AssertionError(f"{kept} is gone, but {why}")
    if got != ["ann/b", "bob/a", "ann/d", "ann/f", "ann/c"]:
        raise AssertionError(f"the order should stay ann/b, bob/a, ann/d, ann/f, ann/c; yours is {', '.join(got)}")
    silent = ("ann", "z", 9, " ")
    got = items([("ann", "a", 1, ""), silent], silent)
    if got != ["ann/a", "ann/z"]:
        raise AssertionError(
            f"a target without a text repeats nothing, so ann/a and ann/z stay; yours is {', '.join(got)}"
        )


def _version(fold=lambda t: " ".join(t.split()).casefold(), own=True, target_stays=True, inside=False, silent=True):
    def without_repeats(reviews, target):
        said = fold(target[3])
        same = (lambda t: said in fold(t)) if inside else (lambda t: fold(t) == said)
        return [
            r
            for r in reviews
            if (r == target and target_stays) or (own and r[0] != target[0]) or (silent and not said) or not same(r[3])
        ]

    return {"without_repeats": without_repeats}


WRONG = {
    "word for word": _version(fold=lambda t: t),
    "case only": _version(fold=str.casefold),
    "everybody's reviews": _version(own=False),
    "the target goes too": _version(target_stays=False),
    "contains": _version(inside=True),
    "an empty text repeats an empty text": _version(silent=False),
}
