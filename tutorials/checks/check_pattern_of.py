"""The check of `pattern_of`."""

from adapters import expect

RED, BLUE = {"color": "red", "size": "small"}, {"color": "blue", "size": "small"}


def check(answer) -> None:
    def of(purchases, at_least):
        return answer.pattern_of(purchases, at_least)

    def asked(purchases, at_least, wanted, because, hint):
        got = of(purchases, at_least)
        bought = ", ".join(f"{values} with {rating:g} stars" for values, rating in purchases) or "no purchase"
        if got != wanted:
            raise AssertionError(
                f"{bought}, at least {at_least:g}: expected {wanted} ({because}), yours is {got}. {hint}"
            )

    two = [(RED, 5.0), (BLUE, 5.0), (RED, 4.0)]
    asked(two, 1.5, {"color": "red", "size": "small"}, "red 1 + .5 = 1.5, small 2.5", "Reaching `at_least` is enough.")
    asked(two, 2.0, {"size": "small"}, "red has 1.5", "Treat each aspect on its own.")
    mixed = [(RED, 5.0), (BLUE, 5.0), (RED, 2.0)]
    asked(
        mixed,
        1.0,
        {"color": "blue", "size": "small"},
        "red 1 - .5 = .5, blue 1",
        "A bad rating counts against its values.",
    )
    tie = [(RED, 4.0), (BLUE, 4.0)]
    asked(
        tie,
        0.5,
        {"color": "blue", "size": "small"},
        "red and blue .5 each",
        "On a tie, take the first in the alphabet.",
    )
    asked([(RED, 3.0)], 0.5, {}, "three stars say nothing", "The liking is (rating - 3) / 2.")
    asked([(RED, 1.0), (BLUE, 1.0)], 0.5, {}, "everything at -1", "A negative strength is no preference.")
    regret = [(RED, 5.0), (RED, 1.0)]
    asked(regret, 0.5, {}, "1 - 1 = 0 for red and small", "A purchase that was a mistake counts against its values.")
    asked([], 0.5, {}, "nothing to count", "An empty history is allowed.")
    expect(
        len(of([(RED, 5.0)] * 3, 3.0)),
        2,
        "the number of values after three equal five-star purchases, at least 3",
        "3 x 1 for both",
    )


def _wrong(liking=lambda r: (r - 3) / 2, better=lambda s, least: s >= least, tie=lambda v: v):
    def pattern_of(purchases, at_least):
        strength = {}
        for values, rating in purchases:
            for aspect, value in values.items():
                strength.setdefault(aspect, {}).setdefault(value, 0.0)
                strength[aspect][value] += liking(rating)
        best = {a: sorted(of.items(), key=lambda p: (-p[1], tie(p[0])))[0] for a, of in strength.items()}
        return {a: value for a, (value, s) in best.items() if better(s, at_least)}

    return {"pattern_of": pattern_of}


WRONG = {
    "every purchase counts as 1": _wrong(liking=lambda r: 1.0),
    "the rating itself": _wrong(liking=lambda r: r / 5),
    "bad ratings count as 0": _wrong(liking=lambda r: max(0.0, (r - 3) / 2)),
    "more than, not at least": _wrong(better=lambda s, least: s > least),
    "no threshold": _wrong(better=lambda s, least: True),
    "ties go to the last": _wrong(tie=lambda v: tuple(-ord(c) for c in v)),
}
