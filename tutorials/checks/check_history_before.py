"""The check of `history_before`."""

from adapters import expect

from mrrec_mini.datatypes import Interaction, Query


def took(user, item, time):
    return Interaction(user, item, time, 5.0)


SEEN = [
    took("ann", "a", 3),
    took("bob", "d", 2),
    took("ann", "c", 7),
    took("ann", "b", 1),
    took("ann", "e", 9),
    took("ann", "A", 3),
]


def items(answer, user, time, seen=SEEN):
    return [one.item for one in answer.history_before(list(seen), Query("q", user, "a wish", "", time))]


def check(answer) -> None:
    hint = "Only ann's interactions, strictly before 7, oldest first. At time 3 the item `A` sorts before `a`."
    expect(items(answer, "ann", 7), ["b", "A", "a"], "items that ann's query at 7 knows", "", hint)
    expect(items(answer, "ann", 8), ["b", "A", "a", "c"], "items that ann's query at 8 knows", "", "7 is before 8.")
    expect(items(answer, "bob", 2), [], "items that bob's query at 2 knows", "2 is not before 2", "Strictly before.")
    expect(items(answer, "eve", 9), [], "items that a new user's query knows", "", "A new user has no history.")
    backwards = items(answer, "ann", 7, SEEN[::-1])
    expect(
        backwards,
        ["b", "A", "a"],
        "the same interactions in another order, ann at 7",
        "",
        "Sort them: the given order means nothing.",
    )


def _wrong(before=lambda t, q: t < q, own=True, key=lambda m: (m.time, m.item)):
    def history_before(interactions, query):
        found = [m for m in interactions if before(m.time, query.time) and (not own or m.user == query.user)]
        return sorted(found, key=key) if key else found

    return {"history_before": history_before}


WRONG = {
    "also at the time of the query": _wrong(lambda t, q: t <= q),
    "everybody's interactions": _wrong(own=False),
    "not sorted": _wrong(key=None),
    "latest first": _wrong(key=lambda m: (-m.time, m.item)),
    "later ones too": _wrong(lambda t, q: True),
}
