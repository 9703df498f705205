"""The prior of an item: each term by hand, no leak of the target, and the weights that validation chooses."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.hybrid import count_rank
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.prior import GRID, SCENARIO_GRID, TEXT_ALONE, Prior, Weights, joined_scores, tune_weights
from mrrec_mini.systems.neighbours import Neighbours

IDS = ("a", "b", "c", "d", "e")
CATEGORIES = {"a": ("games", "game"), "b": ("games", "headset"), "c": ("games", "game gear"), "d": ("video games",)}
TAKEN = {
    "t1": [("a", 1), ("b", 2), ("c", 9)],
    "t2": [("a", 1), ("b", 3)],
    "t3": [("b", 2), ("d", 3)],
    "v": [("e", 1), ("a", 2)],  # not a train user
    "q": [("a", 1), ("e", 5)],  # asks at 5 and takes e
}
ASKED = Query("q1", "q", "a game", "e", 5)


def data(taken=TAKEN, **meta) -> Dataset:
    items = {id: Item(id, f"title {id}", CATEGORIES.get(id, ("films",))) for id in reversed(IDS)}
    bought = [Interaction(user, item, time, 5.0) for user, own in taken.items() for item, time in own]
    return Dataset(items, bought, (ASKED,), meta)


def terms(query=ASKED, users=("t1", "t2", "t3"), **made) -> np.ndarray:
    return Prior(data(**made), users).terms(query)


def test_popularity_by_hand():
    """Before time 5: a twice (t1, t2), b three times, d once. t1 takes c later; v and q are no train users."""
    expected = [math.log(3), math.log(4), 0, math.log(2), 0]
    assert terms()[0] == pytest.approx([value / math.log(4) for value in expected], rel=1e-6)


def test_neighbours_by_hand():
    """H = {a}: t1 and t2 took it, both took b: 2 / sqrt(2 x 3). Nobody who took a took d, e, or c in time."""
    assert terms()[1] == pytest.approx([0, 1, 0, 0, 0])
    later = terms(replace(ASKED, time=10))  # H = {a, e}; now t1 has c too
    b, c = 2 / math.sqrt(2 * 3), 1 / math.sqrt(2 * 1)
    assert later[1] == pytest.approx([0, 1, c / b, 0, 0], rel=1e-6)


def test_the_own_purchases_of_a_train_user_do_not_count():
    """t1 asks: without t1, a has 1 and b has 2 people; of those who took a, only t2 is left."""
    got = terms(replace(ASKED, user="t1"))
    assert got[0] == pytest.approx([math.log(2) / math.log(3), 1, 0, math.log(2) / math.log(3), 0], rel=1e-6)
    first = 1 / math.sqrt(1 * 2)  # a and b, through t2; the same for b and a; t3 took b and d
    a, b, d = first, first, 1 / math.sqrt(2 * 1)
    assert got[1] == pytest.approx([a / max(a, b, d), b / max(a, b, d), 0, d / max(a, b, d), 0], rel=1e-6)


def test_a_category_is_a_whole_name_of_the_path():
    """ "game" is neither "game gear" nor a part of "video games"; "games" is the first name of three paths."""
    assert terms(replace(ASKED, scenario="game"))[2].tolist() == [1, 0, 0, 0, 0]
    assert terms(replace(ASKED, scenario="games"))[2].tolist() == [1, 1, 1, 0, 0]
    assert terms(replace(ASKED, scenario="gam"))[2].tolist() == terms()[2].tolist() == [0] * 5


@pytest.mark.parametrize("scenario", [None, "games"])
def test_nothing_that_happens_at_the_query_or_later_changes_the_terms(scenario):
    query = replace(ASKED, scenario=scenario)
    before = terms(query)
    later = {**TAKEN, "q": [("a", 1), ("d", 5), ("b", 7)], "t3": [*TAKEN["t3"], ("e", 5), ("a", 6)]}
    assert np.array_equal(terms(query, taken=later), before)
    assert np.array_equal(terms(replace(query, target="c", id="other")), before)  # the target is not read
    others = {**TAKEN, "v": [("c", 1), ("d", 2)]}  # what validation and test users take is not known
    assert np.array_equal(terms(query, taken=others), before)


def test_without_a_clock_all_purchases_of_other_people_count_and_no_later_one_of_the_own():
    got = terms(clock=False)
    assert got[0] == pytest.approx(np.log([3, 4, 2, 2, 1]) / math.log(4), rel=1e-6)  # t1's c counts, q's e does not
    a_b, a_c = 2 / math.sqrt(2 * 3), 1 / math.sqrt(2 * 1)
    assert got[1] == pytest.approx([0, 1, a_c / a_b, 0, 0], rel=1e-6)
    own = terms(replace(ASKED, user="t1"), clock=False)  # t1's own c is not known to t1's query
    assert own[0][2] == 0


def test_neighbours_are_those_of_the_system():
    """Two ways to compute one formula: by people here, by matrix products there."""
    rng = np.random.default_rng(0)
    users = [f"u{n}" for n in range(40)]
    taken = {u: [(f"i{i:02}", int(t)) for i, t in zip(rng.permutation(25)[:8], rng.integers(0, 50, 8), strict=True)]
             for u in users}  # fmt: skip
    items = {f"i{n:02}": Item(f"i{n:02}", "x", ("c",)) for n in range(25)}
    bought = [Interaction(u, i, t, 5.0) for u, own in taken.items() for i, t in own]
    dataset = Dataset(items, bought, ())
    train = frozenset(users[:30])
    prior = Prior(dataset, train)
    system = Neighbours().fit(dataset, Split(train, frozenset(), frozenset()))
    for user in users:
        for time in (0, 10, 25, 60):
            query = Query("q", user, "x", "i00", time)
            history = sorted({prior.column[one.item] for one in dataset.history(query)})
            expected = np.asarray(system.similarity(system.taken(query), history).sum(axis=0)).ravel()
            if expected.max(initial=0) > 0:
                expected = expected / expected.max()
            assert prior.terms(query)[1] == pytest.approx(expected, abs=1e-6)


def test_the_terms_of_one_query_are_not_those_of_another():
    """They are kept for the next arm: the key must hold user, time and category."""
    prior = Prior(data(), ("t1", "t2", "t3"))
    asked = [
        replace(ASKED, user=u, time=t, scenario=s) for u in ("q", "t1") for t in (2, 5, 10) for s in (None, "game")
    ]
    for query in asked * 2:
        assert np.array_equal(prior.terms(query), terms(query))


# --- the score and its weights ---


def test_joined_scores_by_hand():
    text, given = np.array([0.5, 0.2, 0.9]), np.array([[0, 1, 0.5], [1, 0, 0], [0, 0, 1]])
    got = joined_scores(text, given, Weights(0.4, 0.2, 2.0), [])
    assert got.tolist() == pytest.approx([0.7, 0.6, 3.1])
    assert joined_scores(text, given, Weights(0.4, 0.2, 2.0), [2]).tolist() == pytest.approx([0.7, 0.6, -math.inf])
    assert joined_scores(text, given, TEXT_ALONE, [0]).tolist() == [-math.inf, 0.2, 0.9]
    assert text.tolist() == [0.5, 0.2, 0.9]  # the scores of a text are shared and must not change


def judged(seed: int, scenario: str):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        given = rng.integers(0, 4, (3, 30)) / 4  # with ties
        given[2] = {"none": 0, "all": 1, "some": rng.integers(0, 2, 30)}[scenario]
        yield rng.integers(0, 8, 30) / 8, given, [3, 17], int(rng.choice([0, 5, 9, 17, 29]))


@pytest.mark.parametrize("scenario", ["none", "all", "some"])
def test_the_grid_ranks_as_the_index_does(scenario):
    queries = list(judged(1, scenario))
    means = tune_weights(queries)
    assert len(means) == len(GRID) ** 2 * len(SCENARIO_GRID) and next(iter(means)) == TEXT_ALONE
    for weights, mean in means.items():
        if all(8 * w == int(8 * w) for w in weights.array()):  # sums without rounding, so that ties stay ties
            ranks = [count_rank(joined_scores(t, given, weights, last), x) for t, given, last, x in queries]
            assert mean == pytest.approx(float(ndcg_at_k(ranks, 10).mean()))


def test_the_weights_that_validation_chooses():
    """The target is the most popular item and has no word of the text: only popularity finds it."""
    text, given = np.array([0.5, 0.4, 0.0]), np.zeros((3, 3))
    given[0] = [0, 0, 1]
    means = tune_weights([(text, given, [], 2)])
    best = max(means, key=means.get)
    assert best == Weights(popularity=0.8) and means[best] == 1.0 and means[TEXT_ALONE] == 0.5
    nothing = tune_weights([(text, np.zeros((3, 3)), [], 0)])
    assert max(nothing, key=nothing.get) == TEXT_ALONE  # of equal weights the smallest
    assert {weights.neighbours for weights in tune_weights([(text, given, [], 2)], neighbours=False)} == {0.0}
    with pytest.raises(ValueError, match="no query"):
        tune_weights([])
