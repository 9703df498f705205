"""Item-item neighbours: similarities by hand and by scikit-learn; plausible mistakes are told apart."""

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
    met = [Interaction(user, item, time, 4.0) for user, when in taken.items() for item, time in when.items()]
    return Dataset({item: Item(item, item, ("all",)) for item in items}, (*met, *more), ())


def scores(user: str, time: int, data=None, shrinkage: float = 0.0) -> list[float]:
    system = Neighbours(shrinkage).fit(data or dataset(), SPLIT)
    return system.rank(Query("q", user, "", "", time), ITEMS).tolist()


AGAIN = Interaction("c", "w", 50, 4.0)  # somebody takes a thing twice: from then on the own past is scored as well


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
    """With 2: a similarity that rests on n people keeps n / (n + 2): 2/4 on two, 1/3 on one."""
    y = 2 / math.sqrt(6) * 2 / 4 + 1 / math.sqrt(6) * 1 / 3
    z = 1 / math.sqrt(3) * 1 / 3
    assert scores("t", 90, shrinkage=2.0) == [-math.inf, -math.inf, pytest.approx(y), pytest.approx(z)]
    # below one person too: 2/2.5 and 1/1.5
    y = 2 / math.sqrt(6) * 2 / 2.5 + 1 / math.sqrt(6) / 1.5
    assert scores("t", 90, shrinkage=0.5)[2] == pytest.approx(y)
    with pytest.raises(ValueError, match="shrinkage"):
        Neighbours(-1.0)


def test_what_happens_at_the_query_or_later_does_not_count():
    """At 20 t has taken w alone, and so have a, b, c; x by d alone: nothing goes with w yet. At 21 a and b took w, x
    and c took w, y: w is with 3, x with 3, y with 1."""
    assert scores("t", 20) == [-math.inf, 0, 0, 0]
    y = 1 / math.sqrt(3)  # from w by c; from x by nobody: b takes y at 30
    assert scores("t", 21) == [-math.inf, -math.inf, pytest.approx(y), 0]
    assert scores("t", 31)[2] == pytest.approx(3 / math.sqrt(6))
    assert scores("t", 40)[3] == 0 and scores("t", 41)[3] == pytest.approx(1 / math.sqrt(3))


def test_a_train_user_is_not_an_own_neighbour():
    """b asks at 30, having taken w and x, and takes y then. Of the others a took w, x; c took w, y; d took x."""
    y = 1 / math.sqrt(2 * 1)  # w by a, c; y by c
    assert scores("b", 30) == [-math.inf, -math.inf, pytest.approx(y), 0]


def test_taking_a_thing_twice_is_no_second_person():
    twice = [Interaction("c", "w", 15, 4.0), Interaction("t", "w", 15, 4.0)]
    # the second w of c changes no similarity, the second w of t does not add it again
    assert scores("t", 90, dataset(more=twice))[2:] == pytest.approx(scores("t", 90)[2:])


def test_nothing_known_is_no_answer():
    assert scores("nobody", 90) == scores("t", 10) == [0, 0, 0, 0]
    empty = Neighbours().fit(dataset(), Split(frozenset("q"), frozenset(), frozenset("t")))
    assert empty.rank(Query("q", "t", "", "", 90), ITEMS).tolist() == [-math.inf, -math.inf, 0, 0]


def test_scores_go_with_the_candidates():
    system, query = Neighbours().fit(dataset(), SPLIT), Query("q", "t", "", "", 90)
    z, y = system.rank(query, ["z", "y"])
    assert [y, z] == scores("t", 90)[2:]
    assert system.rank(query, []).shape == (0,)
    with pytest.raises(KeyError):
        system.rank(query, ["nothing"])


# --- other people's arithmetic ---


def crowd(seed: int = 0, users: int = 30, items: int = 20) -> tuple[Dataset, Split, list[Query]]:
    """Everybody takes 3 to 9 things, at times 0 to 99; the last ten ask at 60, four of them are train users."""
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
    """(users, items) how often taken before `time`, cut at `most`."""
    known = {item: column for column, item in enumerate(data.items)}
    made = np.zeros((len(users), len(known)))
    for row, user in enumerate(users):
        for met in data.interactions_of(user):
            made[row, known[met.item]] += met.time < time
    return np.minimum(made, most)


def right(data: Dataset, split: Split, query: Query) -> np.ndarray:
    """(N,) the whole thing dense, similarities by scikit-learn; own past -inf."""
    taken = matrix(data, [user for user in sorted(split.train) if user != query.user])
    past = matrix(data, [query.user])[0] > 0
    similar = cosine_similarity(taken.T)
    np.fill_diagonal(similar, 0)
    return np.where(past, -np.inf, similar[past].sum(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn(seed):
    data, split, queries = crowd(seed)
    system = Neighbours().fit(data, split)
    for query in queries:
        assert system.rank(query, list(data.items)) == pytest.approx(right(data, split, query), abs=1e-12)


def test_as_nearest_neighbours_of_each_item():
    """scikit-learn's search, asked for all neighbours of each thing in the history by cosine distance."""
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


# --- plausible mistakes, each a dense version of the whole ---


def history_holds_the_target(data, split, query):
    return _dense(data, split, query, history_time=61)


def own_row_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, users=sorted(split.train | {query.user}))


def unseen_users_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, users=sorted(set(data.users()) - {query.user}))


def pairs_counted_twice(data, split, query):
    """A second time with one thing counts as a second person."""
    return _dense(data, split, query, most=2)


def later_in_the_co_occurrence(data, split, query):
    return _dense(data, split, query, time=100)


def not_normalised(data, split, query):
    return _dense(data, split, query, similarity=lambda taken: taken.T @ taken)


def normalised_by_one_side(data, split, query):
    """P(i | j): popular things are near to everything."""
    return _dense(data, split, query, similarity=lambda t: (t.T @ t) / np.maximum(t.sum(axis=0), 1)[:, None])


def similar_to_itself(data, split, query):
    return _dense(data, split, query, itself=1.0)


def _dense(data, split, query, users=None, time=60, history_time=60, most=1, similarity=None, itself=0.0):
    """(N,) scores, the own past scored like all else; unchanged arguments: right."""
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
    """Whether score(data, split, query) is the system's, for every query of a crowd.

    Two train users took a thing twice early on, so the own past is scored; each asker takes a new thing at the query.
    """
    data, split, queries = crowd()
    early = [min(data.interactions_of(user), key=lambda met: met.time) for user in ("u00", "u01")]
    again = [Interaction(met.user, met.item, 59, 4.0) for met in early]
    at_once = []
    for query in queries:
        taken = {met.item for met in data.interactions_of(query.user)}
        at_once.append(Interaction(query.user, next(item for item in data.items if item not in taken), 60, 4.0))
    data, ids = Dataset(data.items, (*data.interactions, *again, *at_once), ()), list(data.items)
    system = Neighbours().fit(data, split)
    return all(system.rank(q, ids) == pytest.approx(score(data, split, q), abs=1e-9) for q in queries)


def test_the_check_passes_what_is_right():
    assert check(_dense)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_version_is_refused(wrong):
    assert not check(wrong)
