"""Item-item neighbours: similarities by hand and by scikit-learn; plausible mistakes are caught."""

import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.systems.neighbours import Neighbours

ITEMS = "wxyz"
SPLIT = Split(train=frozenset("abcd"), validation=frozenset("v"), test=frozenset("t"))
TAKEN = {  # user: {item: time}
    "a": {"w": 10, "x": 20},
    "b": {"w": 10, "x": 20, "y": 30},
    "c": {"w": 10, "y": 20},
    "d": {"x": 10, "z": 40},
    "v": {"w": 10, "z": 20},
    "t": {"w": 10, "x": 20, "z": 90},
}


def dataset(taken=TAKEN, more=(), items=ITEMS) -> Dataset:
    interactions = [Interaction(user, item, time, 4.0) for user, when in taken.items() for item, time in when.items()]
    return Dataset({item: Item(item, item, ("all",)) for item in items}, (*interactions, *more), ())


def scores(user: str, time: int, data=None, shrinkage: float = 0.0) -> list[float]:
    system = Neighbours(shrinkage).fit(data or dataset(), SPLIT)
    return system.rank(Query("q", user, "", "", time), ITEMS).tolist()


AGAIN = Interaction("c", "w", 50, 4.0)  # a repeat: from then on items already taken are scored as well


def test_scores_by_hand():
    """Before 90: w by a, b, c; x by a, b, d; y by b, c; z by d. t took w and x.

    w, x: a and b of sqrt(3 . 3); w, y: b and c of sqrt(3 . 2); x, y: b of sqrt(3 . 2); x, z: d of sqrt(3 . 1).
    """
    w, x = 2 / 3, 2 / 3  # from each other, nothing from itself
    y = 2 / math.sqrt(6) + 1 / math.sqrt(6)
    z = 0 + 1 / math.sqrt(3)
    assert scores("t", 90) == [-math.inf, -math.inf, pytest.approx(y), pytest.approx(z)]
    assert scores("t", 90, dataset(more=[AGAIN])) == pytest.approx([w, x, y, z])
    assert scores("t", 50, dataset(more=[AGAIN])) == [-math.inf, -math.inf, pytest.approx(y), pytest.approx(z)]


def test_shrinkage_by_hand():
    """With shrinkage 2 a similarity of n people keeps n / (n + 2) of its value: 2/4 for two, 1/3 for one."""
    y = 2 / math.sqrt(6) * 2 / 4 + 1 / math.sqrt(6) * 1 / 3
    z = 1 / math.sqrt(3) * 1 / 3
    assert scores("t", 90, shrinkage=2.0) == [-math.inf, -math.inf, pytest.approx(y), pytest.approx(z)]
    # shrinkage below one person: 2/2.5 and 1/1.5
    y = 2 / math.sqrt(6) * 2 / 2.5 + 1 / math.sqrt(6) / 1.5
    assert scores("t", 90, shrinkage=0.5)[2] == pytest.approx(y)
    with pytest.raises(ValueError, match="shrinkage"):
        Neighbours(-1.0)


def test_interactions_at_the_query_or_later_do_not_count():
    """Before 20, t and a, b, c have taken only w, and d only x: no item shares people with w. Before 21, a and b have
    taken w and x, c has taken w and y: 3 people have w, 3 have x, 1 has y."""
    assert scores("t", 20) == [-math.inf, 0, 0, 0]
    y = 1 / math.sqrt(3)  # from w through c; from x through nobody, since b takes y at 30
    assert scores("t", 21) == [-math.inf, -math.inf, pytest.approx(y), 0]
    assert scores("t", 31)[2] == pytest.approx(3 / math.sqrt(6))
    assert scores("t", 40)[3] == 0 and scores("t", 41)[3] == pytest.approx(1 / math.sqrt(3))


def test_a_train_user_does_not_count_for_the_own_query():
    """At 30, b has taken w and x, and takes y. Of the others a took w, x; c took w, y; d took x."""
    y = 1 / math.sqrt(2 * 1)  # a and c took w, c took y
    assert scores("b", 30) == [-math.inf, -math.inf, pytest.approx(y), 0]


def test_taking_an_item_twice_counts_as_one_person():
    twice = [Interaction("c", "w", 15, 4.0), Interaction("t", "w", 15, 4.0)]
    # the second w of c changes no similarity, the second w of t does not add it again
    assert scores("t", 90, dataset(more=twice))[2:] == pytest.approx(scores("t", 90)[2:])


def test_without_a_history_or_train_users_all_scores_are_0():
    assert scores("nobody", 90) == scores("t", 10) == [0, 0, 0, 0]
    empty = Neighbours().fit(dataset(), Split(frozenset("q"), frozenset(), frozenset("t")))
    assert empty.rank(Query("q", "t", "", "", 90), ITEMS).tolist() == [-math.inf, -math.inf, 0, 0]


def test_scores_follow_the_candidates():
    system, query = Neighbours().fit(dataset(), SPLIT), Query("q", "t", "", "", 90)
    z, y = system.rank(query, ["z", "y"])
    assert [y, z] == scores("t", 90)[2:]
    assert system.rank(query, []).shape == (0,)
    with pytest.raises(KeyError):
        system.rank(query, ["nothing"])


# --- compared with scikit-learn ---


def crowd(seed: int = 0, users: int = 30, items: int = 20) -> tuple[Dataset, Split, list[Query]]:
    """Each user takes 3 to 9 items at times 0 to 99. The last ten have a query at 60; four of them are train users."""
    rng = np.random.default_rng(seed)
    taken = {
        f"u{u:02d}": {f"i{i:02d}": int(rng.integers(100)) for i in rng.choice(items, rng.integers(3, 10), False)}
        for u in range(users)
    }
    names = sorted(taken)
    split = Split(frozenset(names[:24]), frozenset(), frozenset(names[24:]))
    queries = [Query(f"q-{user}", user, "", "", 60) for user in names[20:]]
    return dataset(taken, items=[f"i{i:02d}" for i in range(items)]), split, queries


def matrix(data: Dataset, users, time: int = 60, most: int = 1) -> np.ndarray:
    """(users, items) how often each item was taken before `time`, at most `most`."""
    known = {item: column for column, item in enumerate(data.items)}
    made = np.zeros((len(users), len(known)))
    for row, user in enumerate(users):
        for interaction in data.interactions_of(user):
            made[row, known[interaction.item]] += interaction.time < time
    return np.minimum(made, most)


def right(data: Dataset, split: Split, query: Query) -> np.ndarray:
    """(N,) scores with dense matrices and scikit-learn's similarities; -inf for items already taken."""
    taken = matrix(data, [user for user in sorted(split.train) if user != query.user])
    past = matrix(data, [query.user])[0] > 0
    similar = cosine_similarity(taken.T)
    np.fill_diagonal(similar, 0)
    return np.where(past, -np.inf, similar[past].sum(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_same_scores_as_with_cosine_similarity(seed):
    data, split, queries = crowd(seed)
    system = Neighbours().fit(data, split)
    for query in queries:
        assert system.rank(query, list(data.items)) == pytest.approx(right(data, split, query), abs=1e-12)


def test_same_scores_as_with_nearest_neighbours():
    """scikit-learn's search for all neighbours of each item in the history, by cosine distance."""
    data, split, queries = crowd()
    system, ids = Neighbours().fit(data, split), list(data.items)
    for query in queries[4:]:  # test users
        vectors = matrix(data, sorted(split.train)).T  # (items, users)
        distance, found = NearestNeighbors(n_neighbors=len(ids), metric="cosine").fit(vectors).kneighbors(vectors)
        expected = np.zeros(len(ids))
        past = np.flatnonzero(matrix(data, [query.user])[0])
        for item in past:
            for far, other in zip(distance[item], found[item], strict=True):
                expected[other] += (1 - far) * (other != item)
        expected[past] = -np.inf
        assert system.rank(query, ids) == pytest.approx(expected, abs=1e-12)


# --- plausible mistakes, each in a dense version of the system ---


def history_holds_the_target(data, split, query):
    return _dense(data, split, query, history_time=61)


def own_row_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, users=sorted(split.train | {query.user}))


def unseen_users_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, users=sorted(set(data.users()) - {query.user}))


def pairs_counted_twice(data, split, query):
    """Taking an item a second time counts as a second person."""
    return _dense(data, split, query, most=2)


def later_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, time=100)


def not_normalised(data, split, query):
    return _dense(data, split, query, similarity=lambda taken: taken.T @ taken)


def normalised_by_one_side(data, split, query):
    """P(i | j): popular items are close to everything."""
    return _dense(data, split, query, similarity=lambda t: (t.T @ t) / np.maximum(t.sum(axis=0), 1)[:, None])


def similar_to_itself(data, split, query):
    return _dense(data, split, query, itself=1.0)


def _dense(data, split, query, users=None, time=60, history_time=60, most=1, similarity=None, itself=0.0):
    """(N,) scores, items already taken included; with the default arguments they are right."""
    users = users or [user for user in sorted(split.train) if user != query.user]
    similar = (similarity or (lambda taken: cosine_similarity(taken.T)))(matrix(data, users, time, most))
    np.fill_diagonal(similar, itself)
    return similar[matrix(data, [query.user], history_time)[0] > 0].sum(axis=0)


WRONG = (
    history_holds_the_target,
    own_row_in_the_co_occurrence,
    unseen_users_in_the_co_occurrence,
    pairs_counted_twice,
    later_in_the_co_occurrence,
    not_normalised,
    normalised_by_one_side,
    similar_to_itself,
)


def check(score) -> bool:
    """Whether score(data, split, query) equals the system's scores for every query of a crowd.

    Two train users take an item twice early on, so items already taken are scored. Each query's user takes a new item
    exactly at the time of the query.
    """
    data, split, queries = crowd()
    early = [min(data.interactions_of(user), key=lambda i: i.time) for user in ("u00", "u01")]
    again = [Interaction(i.user, i.item, 59, 4.0) for i in early]
    at_once = []
    for query in queries:
        taken = {i.item for i in data.interactions_of(query.user)}
        at_once.append(Interaction(query.user, next(item for item in data.items if item not in taken), 60, 4.0))
    data, ids = Dataset(data.items, (*data.interactions, *again, *at_once), ()), list(data.items)
    system = Neighbours().fit(data, split)
    return all(system.rank(q, ids) == pytest.approx(score(data, split, q), abs=1e-9) for q in queries)


def test_the_check_passes_the_right_version():
    assert check(_dense)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_version_is_refused(wrong):
    assert not check(wrong)
