"""The check of the corrected `memory_texts`; its messages are symptoms that somebody would notice."""

from mrrec_mini.datatypes import Interaction, Query

TITLES = {"a": "red mug", "b": "old lamp", "c": "blue tent", "d": "desk"}
SEEN = [
    Interaction("ann", "a", 1, 5.0, "so red"),
    Interaction("bob", "b", 2, 5.0, "bob's own"),
    Interaction("ann", "d", 3, 4.0, ""),
    Interaction("ann", "c", 5, 5.0, "just what I asked for"),
    Interaction("ann", "b", 8, 5.0, "from the future"),
]


def check(answer) -> None:
    texts = list(answer.memory_texts(SEEN, TITLES, Query("q", "ann", "a tent", "c", 5)))
    if any("tent" in text for text in texts):
        raise AssertionError(
            "nDCG@10 is .98, above the oracle: ann asks for a tent at time 5, and her memory holds the tent already"
        )
    if any("bob" in text for text in texts):
        raise AssertionError("ann's memory quotes bob")
    if any("future" in text for text in texts):
        raise AssertionError("the memory for a query at time 5 quotes a review that was written at time 8")
    if texts != ["desk", "red mug: so red"]:
        wanted = "['desk', 'red mug: so red'], latest first"
        raise AssertionError(
            f"ann's memory before time 5 should be {wanted}, yours is {texts}: correct the bug and keep the rest"
        )
    later = list(answer.memory_texts(SEEN, TITLES, Query("q", "ann", "a desk", "d", 6)))
    if later != ["blue tent: just what I asked for", "desk", "red mug: so red"]:
        raise AssertionError(
            f"for a query at time 6, the tent of time 5 and the desk of time 3 are normal memories; yours is {later}"
        )


def _texts(keep, order=-1):
    def memory_texts(interactions, titles, query):
        own = [m for m in interactions if keep(m, query)]
        return [f"{titles[m.item]}: {m.review}" if m.review else titles[m.item] for m in own][::order]

    return {"memory_texts": memory_texts}


WRONG = {
    "as it was": _texts(lambda m, q: m.user == q.user and m.time <= q.time),
    "drops the target by its id": _texts(lambda m, q: m.user == q.user and m.time <= q.time and m.item != q.target),
    "drops the target, keeps the future": _texts(lambda m, q: m.user == q.user and m.item != q.target),
    "everybody's interactions": _texts(lambda m, q: m.time < q.time),
    "oldest first": _texts(lambda m, q: m.user == q.user and m.time < q.time, 1),
}
