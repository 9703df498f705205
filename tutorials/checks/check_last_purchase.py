"""The check of `last_purchases`."""

DAY = 86_400
CASES = (
    ("ann: a on day 0, b on day 2", [("ann", "a", 0), ("ann", "b", 2 * DAY)], {"ann": "b"}, "b is last"),
    (
        "bob: a and b on day 3",
        [("bob", "a", 3 * DAY), ("bob", "b", 3 * DAY + 9)],
        {},
        "the order within a day is unknown",
    ),
    (
        "eve: a on day 1, b on day 2, a again on day 5",
        [("eve", "a", DAY), ("eve", "b", 2 * DAY), ("eve", "a", 5 * DAY)],
        {"eve": "b"},
        "the second a does not count",
    ),
    ("a person with one item, bought twice", [("x", "a", 0), ("x", "a", 5 * DAY)], {}, "two items are needed"),
    (
        "two days, four hours apart across midnight",
        [("x", "a", DAY - 7200), ("x", "b", DAY + 7200)],
        {"x": "b"},
        "these are two different days, even if only a few hours apart",
    ),
    (
        "the same purchases, latest first",
        [("ann", "b", 2 * DAY), ("ann", "a", 0), ("bob", "c", 7)],
        {"ann": "b"},
        "the purchases may come in any order",
    ),
    (
        "three items, the last two on one day",
        [("x", "a", 0), ("x", "b", 4 * DAY), ("x", "c", 4 * DAY + 5)],
        {},
        "which of the two was last?",
    ),
    (
        "two on the first day, one on the last",
        [("x", "a", 0), ("x", "b", 5), ("x", "c", 4 * DAY)],
        {"x": "c"},
        "only the last day must have a single purchase",
    ),
)


def check(answer) -> None:
    for case, purchases, wanted, because in CASES:
        got = answer.last_purchases(list(purchases))
        if got != wanted:
            raise AssertionError(f"{case}: expected {wanted} ({because}), yours is {got}")


def _version(first=True, days=True, least=2, ordered=True, hours=False):
    def last_purchases(purchases):
        seen = {}
        for user, item, time in sorted(purchases, key=lambda p: p[2]) if ordered else purchases:
            items = seen.setdefault(user, {})
            if not first:
                items.pop(item, None)
            items.setdefault(item, time)
        found = {}
        for user, items in seen.items():
            rows = list(items.items())
            if len(rows) < least:
                continue
            if len(rows) > 1 and days and rows[-2][1] // DAY >= rows[-1][1] // DAY:
                continue
            if len(rows) > 1 and hours and rows[-1][1] - rows[-2][1] < DAY:
                continue
            found[user] = rows[-1][0]
        return found

    return {"last_purchases": last_purchases}


WRONG = {
    "the latest of each pair": _version(first=False),
    "order within a day": _version(days=False),
    "one item is enough": _version(least=1),
    "trusts the given order": _version(ordered=False),
    "24 hours instead of another day": _version(hours=True),
}
