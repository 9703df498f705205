"""Popularity: counts by hand, and interactions that must not be counted."""

import numpy as np
import pytest

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.systems.popularity import Popularity

SPLIT = Split(train=frozenset("abc"), validation=frozenset("v"), test=frozenset("t"))
TAKEN = {  # user: items in order, at the times 10, 20, 30, ...
    "a": "wxy",
    "b": "wx",
    "c": "w",
    "v": "zzzz",
    "t": "yz",
}


def dataset(taken=TAKEN) -> Dataset:
    interactions = [Interaction(u, i, 10 * n, 4.0) for u, items in taken.items() for n, i in enumerate(items, start=1)]
    return Dataset({i: Item(i, i, ("all",)) for i in "wxyz"}, tuple(interactions), ())


def scores(user: str, time: int, taken=TAKEN) -> list[float]:
    return Popularity().fit(dataset(taken), SPLIT).rank(Query("q", user, "", "", time), "wxyz").tolist()


def test_counts_by_hand():
    """Before 100, a, b, c took w, a and b took x, a took y; v and t do not count. t itself took y and z, and none of
    a, b, c took an item twice, so both are last. At 5 nobody has taken anything."""
    assert scores("nobody", 100) == [3, 2, 1, 0]
    assert scores("t", 100) == [3, 2, -np.inf, -np.inf]
    assert scores("t", 5) == [0, 0, 0, 0]


def test_interactions_at_the_query_or_later_do_not_count():
    """w was taken at 10, x at 20, y at 30; t took y at 10 and z at 20."""
    assert scores("t", 10) == [0, 0, 0, 0]
    assert scores("t", 11) == [3, 0, -np.inf, 0]
    assert scores("t", 20) == [3, 0, -np.inf, 0]  # z is taken at 20: it may be the target
    assert scores("nobody", 30) == [3, 2, 0, 0]  # a takes y at 30
    assert scores("nobody", 31) == [3, 2, 1, 0]


def test_a_train_user_is_not_counted_for_the_own_query():
    """If a counted for its own query, its own items would seem popular: w 4, x 2."""
    twice = TAKEN | {"c": "ww"}  # at 20 c takes w again; from then on items already taken are scored
    assert scores("a", 20, twice) == [-np.inf, 0, 0, 0]
    assert scores("a", 25, twice) == [3, 1, 0, 0]  # w by b, c, c and not a; x by b and not a


def test_after_any_repeat_items_already_taken_are_scored():
    """c takes w twice and both count. y, which t took, keeps its count of 1 from a."""
    assert scores("t", 100, TAKEN | {"c": "ww"}) == [4, 2, 1, 0]
    assert scores("t", 20, TAKEN | {"c": "ww"})[2] == -np.inf  # at 20 c's second w does not count yet


def test_scores_follow_the_candidates():
    system = Popularity().fit(dataset(), SPLIT)
    query = Query("q", "t", "", "", 15)  # z not yet taken
    assert system.rank(query, ["z", "w"]).tolist() == [0, 3]
    assert system.rank(query, []).shape == (0,)
    with pytest.raises(KeyError):
        system.rank(query, ["nothing"])


# --- plausible mistakes: counts for t at 25; t has taken y and z, and c has taken w twice ---

ASKED_AT, MISTAKES = 25, ("everybody", "own row", "later", "at the query", "past last")
ASKED = Query("q", "t", "", "", ASKED_AT)


def counts(mistake: str) -> list[float]:
    """The counts by a plain loop, with one of the mistakes or none."""
    users = {"everybody": "abcvt", "own row": "abct"}.get(mistake, "abc")
    end = {"later": 99, "at the query": ASKED_AT + 1}.get(mistake, ASKED_AT)
    found = [float(sum(m.user in users and m.item == i and m.time < end for m in busy().interactions)) for i in "wxyz"]
    return [*found[:2], -np.inf, -np.inf] if mistake == "past last" else found


def busy() -> Dataset:
    """c takes w at 10 and again at 20; a takes z exactly at the time of the query."""
    made = dataset(TAKEN | {"c": "ww"})
    return Dataset(made.items, (*made.interactions, Interaction("a", "z", ASKED_AT, 4.0)), ())


def test_the_right_version_is_a_plain_count():
    # w: a, b, c, c; x: a, b at 20; y: a only at 30; z: a only at 25
    assert counts("") == [4, 2, 0, 0] == Popularity().fit(busy(), SPLIT).rank(ASKED, "wxyz").tolist()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_version_is_refused(mistake):
    assert Popularity().fit(busy(), SPLIT).rank(ASKED, "wxyz").tolist() != counts(mistake)
