"""The item index: what a person has already ranks last, what is searched, and the prior in the score."""

from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.prior import TEXT_ALONE, Prior, Weights

TITLES = {"a": "red mug", "b": "red red mug", "c": "red lamp", "d": "blue lamp", "e": "green pot"}
TAKEN = [("u", "b", 1), ("u", "d", 3), ("t", "d", 1), ("s", "d", 2), ("t", "e", 2)]
ASKED = Query("q", "u", "red", "a", 2)


def index(dense: str = "none", **meta) -> ItemIndex:
    items = {id: Item(id, title, ("home", title.split()[-1])) for id, title in reversed(TITLES.items())}
    dataset = Dataset(items, [Interaction(*one, 5.0) for one in TAKEN], (ASKED,), meta)
    texts = [item.title for item in items.values()]
    return ItemIndex.over(
        HybridIndex(list(items), texts, TextSpace.fit(texts, HybridConfig(dense=dense))), Prior(dataset, ("t", "s"))
    )


def order(items: ItemIndex, query: Query, profile: str, weights=None) -> list[str]:
    ranks = {id: items.ranks_for([replace(query, target=id)], [profile], weights)[0] for id in TITLES}
    assert sorted(ranks.values()) == [1, 2, 3, 4, 5]
    return sorted(TITLES, key=ranks.get)


@pytest.mark.parametrize("weights", [None, TEXT_ALONE, Weights(0.8, 0.8, 4.0)])
def test_what_the_person_has_ranks_last(weights):
    """u has b at time 2, and d too at time 4, in order of id; what others have does not matter."""
    assert order(index(repeats=False), ASKED, "red mug", weights)[-1] == "b"
    assert order(index(repeats=False), replace(ASKED, time=4), "red mug", weights)[-2:] == ["b", "d"]
    assert order(index(repeats=False), replace(ASKED, user="new"), "red mug", TEXT_ALONE)[:2] == ["a", "b"]


def test_the_target_of_a_repeat_is_not_hidden():
    """If people take items twice, nothing is hidden: a mask that is always on would put the target last."""
    again = replace(ASKED, target="b")
    assert index(repeats=True).ranks_for([again], ["red red"])[0] == 1
    assert index(repeats=False).ranks_for([again], ["red red"])[0] == 5


def test_what_is_taken_at_the_time_of_the_query_is_not_hidden():
    """The target itself often stands in the history file, at the query's own time."""
    assert index(repeats=False).ranks_for([replace(ASKED, time=3, target="d")], ["blue"])[0] == 1


def test_without_people_and_prior_the_ranks_are_those_of_the_text():
    items, texts = index("lsa", repeats=True), ["red mug", "lamp", "unknown", "green blue"]
    for target in TITLES:
        asked = [replace(ASKED, target=target)] * 4
        assert items.ranks_for(asked, texts).tolist() == items.ranks(texts, [target] * 4).tolist()


def test_the_phrase_is_searched_before_the_profile_and_the_boilerplate_is_not():
    items = index(repeats=True)
    query = replace(ASKED, text="I am looking for blue: lamp", phrase="lamp")
    assert (query.wish, query.to_repeat, query.searched("red")) == ("lamp", "", "lamp red")
    assert order(items, query, "red") == order(items, ASKED, "lamp red") != order(items, ASKED, "red")
    assert order(items, query, "") == order(items, ASKED, "lamp")
    assert (ASKED.wish, ASKED.to_repeat, ASKED.searched("mug")) == ("red", "red", "mug")  # as in the paper: eq. 3


def test_the_weights_of_the_index_are_the_default():
    items = index(repeats=True)
    plain = order(items, ASKED, "red mug")
    items.weights = Weights(popularity=8.0)
    assert order(items, ASKED, "red mug") == order(items, ASKED, "red mug", Weights(popularity=8.0)) != plain
    assert order(items, ASKED, "red mug", TEXT_ALONE) == plain
    assert order(items, ASKED, "red mug")[0] == "d"  # taken by t before 2, as no other item
    both = items.ranks_both([ASKED, replace(ASKED, target="d")], ["red mug"] * 2, [TEXT_ALONE, items.weights])
    assert both.shape == (2, 2) and both[1, 1] == 1 and both[0, 0] == plain.index("a") + 1


def test_the_prior_alone_reads_no_text():
    items = index(repeats=True)
    popular = Weights(popularity=1.0)
    ranks = items.ranks_for([replace(ASKED, target=id, time=9, phrase="red") for id in TITLES], None, popular)
    assert dict(zip(TITLES, ranks.tolist(), strict=True)) == {"d": 1, "e": 2, "a": 3, "b": 4, "c": 5}


def test_an_unanswered_query_counts_zero_when_weights_are_tuned():
    items = index(repeats=True)
    means = items.tuned([ASKED, replace(ASKED, id="other")], ["red mug", None])
    alone = items.tuned([ASKED], ["red mug"])
    assert means == {weights: pytest.approx(mean / 2) for weights, mean in alone.items()}
    assert items.tuned([ASKED], [None]) == {TEXT_ALONE: 0.0}


def test_a_search_leaves_out_what_the_person_has():
    items = index(repeats=False)
    assert [hit.id for hit in items.search_for(ASKED, "red mug", 2)] == ["a", "c"]
    assert "b" in [hit.id for hit in index(repeats=True).search_for(ASKED, "red mug", 2)]
    assert len(items.search_for(ASKED, "red mug", 10)) == 4


def test_an_unknown_target_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="target 'x'"):
        index().ranks_for([replace(ASKED, target="x")], ["red"])
    with pytest.raises(ValueError):
        index().ranks_for([ASKED, ASKED], ["red"])
    assert index().ranks_for([], []).shape == (0,) and np.array_equal(index().ranks_both([], [], [TEXT_ALONE]), [[]])
