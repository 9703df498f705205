"""The fixed scripts of own memory: what each writes, by hand, and that none sees the target."""

from dataclasses import replace

import pytest

from mrrec_mini.datatypes import Item
from mrrec_mini.others import Others, OthersConfig
from mrrec_mini.own_text import OWN_TEXT, Past, own_texts
from small import environment


def item(name: str, kind: str = "game", **attributes: str) -> Item:
    return Item(name, name, ("games", kind), {aspect: tuple(v.split("+")) for aspect, v in attributes.items()})


# oldest first; the second item is most like the query, the third follows
PAST = Past(
    (
        item("old", platform="ps2", brand="x"),
        item("near", platform="wii"),
        item("pad", "accessory", platform="ps2+ps3"),
        item("new", brand="y"),
    ),
    (0.1, 0.9, 0.5, 0.5),
    {"platform": "ps2", "title": "super wii", "colour": "red"},
)
WRITTEN = {
    "own_latest": ["y", "ps2", "ps3"],
    "own_often": ["y", "ps2"],  # brand x and y once each: the later
    "own_latest_often": ["y", "ps2", "ps3", "y", "ps2"],
    "own_often_two": ["y", "x", "ps2", "ps3"],  # ps3 and wii once each: the later
    "own_like": ["wii", "y"],
    "own_like_latest": ["wii", "y", "y", "ps2", "ps3"],
    "own_kind": ["y", "wii"],  # "near" is a game: the latest values among games
    "own_last_record": ["y"],
    "own_last_title": ["new"],
    "own_three_titles": ["near", "pad", "new"],
    "own_like_title": ["near"],
    "own_like_titles": ["near", "new"],  # of two equally alike the later
    "own_titles_latest": ["near", "new", "y", "ps2", "ps3"],
    "own_profile": ["y", "x", "ps2", "ps3", "wii"],
    "others": ["ps2", "red"],
    "others_title": ["super wii"],
    "own_latest_others": ["y", "ps2", "ps3", "red"],  # ps2 is known
    "own_latest_others_title": ["y", "ps2", "ps3", "super wii"],
}


def test_every_script_is_known():
    assert set(WRITTEN) == set(OWN_TEXT)


@pytest.mark.parametrize("name", OWN_TEXT)
def test_what_a_script_writes(name):
    assert OWN_TEXT[name](PAST) == WRITTEN[name]


def test_the_texts_of_queries():
    """From what was taken strictly before the query; no part twice; a new user adds nothing; the target is not read."""
    env = environment()
    tool = Others(env.items.prior, OthersConfig(people=1))
    env = replace(env, memory=replace(env.memory, others=tool))
    query = env.split.test_queries[0]
    taken = [env.dataset.items[one.item] for one in env.dataset.history(query)]
    texts = own_texts(env, [query, replace(query, time=0), replace(query, target=taken[0].id)])
    assert list(texts) == list(OWN_TEXT)
    for name, (now, new, other) in texts.items():
        assert now and now == other and new == "", name
    assert texts["own_three_titles"][0] == " ".join(dict.fromkeys(one.title for one in taken[-3:]))
    scores = env.items.scores([query.wish])[0]
    likeness = {id: score for id, score in zip(env.items.ids, scores, strict=True)}
    assert texts["own_like_title"][0] == max(reversed(taken), key=lambda one: likeness[one.id]).title
