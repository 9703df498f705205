"""Labels from titles and category paths, and one name per aspect, each against wrong versions."""

import time
from dataclasses import replace

import pytest

from mrrec_mini import title_words
from mrrec_mini.datatypes import Item
from mrrec_mini.memory import segments, short_title
from mrrec_mini.title_words import ItemReader, canonical_names, fewest
from mrrec_mini.typed import typed


def item(number, title, category=("games", "game"), **attributes):
    return Item(f"i{number}", title, category, {name: (value,) for name, value in attributes.items()})


def shop(n=60):
    """Return n games for two consoles in turn, with their own names; every fourth is spelled PS3, a few are black."""
    items = []
    for i in range(n):
        console = "Xbox 360" if i % 2 else ("PS3" if i % 4 else "PlayStation 3")
        items.append(item(i, f"Tale {chr(97 + i % 26)}{i} - {console}" + " (Black)" * (i % 10 == 0)))
    return items


READER = ItemReader.learn(shop())


def test_a_label_is_a_segment_that_many_titles_share():
    assert sorted(set(READER.labels.values())) == ["black", "playstation 3", "xbox 360"]
    assert READER.values_of(shop()[1]) == [("label", "xbox 360")]
    assert not ItemReader.learn(shop(8)).labels  # each stands in fewer titles than the floor
    assert fewest(8) == 5 and fewest(17_000) == 34
    everywhere = ItemReader.learn([item(i, f"Tale {i} - New") for i in range(20)])
    assert not everywhere.labels  # a label of all items says nothing


def test_capitals_are_a_second_spelling():
    assert READER.labels["ps3"] == "playstation 3"
    assert READER.values_of(item(0, "Other tale - PS3")) == [("label", "playstation 3")]
    assert title_words.capitals("PlayStation 3") == "ps3" and title_words.capitals("pack of 10") == ""


def test_where_a_title_holds_a_label():
    assert READER.labels_of(item(0, "Case for Playstation 3, Xbox 360")) == ["playstation 3", "xbox 360"]
    assert READER.labels_of(item(0, "Black Tale of Two")) == []  # a single word counts at the end of a segment only
    assert READER.labels_of(item(0, "Case in Black - Xbox 360")) == ["xbox 360", "black"]
    labels = {name: name for name in ("wii u", "u", "wii")}
    assert title_words.phrases_in("Case - Wii U", labels) == ["wii u"]  # its words do not count again


def test_no_label_begins_with_a_number_or_is_made_of_two_others():
    items = shop() + [item(100 + i, f"Thing {i} - Black Xbox 360, 10 pack") for i in range(9)]
    labels = set(ItemReader.learn(items).labels.values())
    assert "black" in labels and not labels & {"black xbox 360", "10 pack"}


def test_names_inside_category_paths_are_labels_unless_the_last_name_implies_them():
    def pool(leaf_of_wii):
        return [
            item(i, f"Tale {i}", ("games", "Wii", leaf_of_wii) if i % 2 else ("games", "PC", "disc")) for i in range(20)
        ]

    free = ItemReader.learn([*pool("disc"), *(item(90 + i, f"Other {i}") for i in range(20))])
    assert free.labels_of(pool("disc")[1]) == ["wii"]
    assert not ItemReader.learn(pool("wii disc")).places


def test_attributes_that_the_shop_states_come_first():
    stated = [replace(one, attributes={"Genres": ("Role-Play",)}) for one in shop()]
    reader = ItemReader.learn(stated)
    assert reader.values_of(stated[1]) == [("genres", "role play")] and not reader.labels
    assert reader.values_of(shop()[1]) == []  # most items of this shop state attributes, so it has no labels
    mixed = ItemReader.learn(stated[:10] + shop()[10:])
    assert mixed.values_of(stated[1]) == [("genres", "role play")]


def test_two_spellings_of_an_aspect_are_one():
    assert canonical_names(["Film-Genres", "film genre", "lens"])["Film-Genres"] == "film genre"
    items = [item(0, "a", Genres="x"), item(1, "b", genre="y")]
    reader = ItemReader.learn(items)
    assert [aspect for one in items for aspect, _ in reader.values_of(one)] == ["genre", "genre"]


def test_the_order_of_the_items_does_not_matter_and_a_reader_survives_packing():
    assert ItemReader.learn(shop()[::-1]) == READER == typed(ItemReader, READER.pack())


def test_learning_takes_time_in_proportion_to_the_items():
    def cpu(n):
        start = time.process_time()
        ItemReader.learn(shop(n))
        return time.process_time() - start

    cpu(100)
    assert cpu(8000) < 40 * max(cpu(800), 1e-3)  # a comparison of all pairs would take 100 times as long


@pytest.mark.parametrize(
    ("title", "short"),
    [
        (
            "Batman: Arkham City (Game of the Year Edition) - PlayStation 3",
            "batman arkham city game of the year edition",
        ),
        ("Spider-Man 2, new", "spider man 2 new"),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight"),
        ("Scale 1:10 car", "scale 1 10 car"),
    ],
)
def test_a_long_title_is_cut_where_a_segment_ends(title, short):
    assert short_title(title, 8) == short


def test_segments():
    assert segments("A - B (C) [D], E: F") == ["A", "B", "C", "D", "E", "F"]
    assert segments("well-known 1,000 units 2:1") == ["well-known 1,000 units 2:1"]


# --- wrong versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "test"),
    [
        ("fewest", lambda n: 1, test_a_label_is_a_segment_that_many_titles_share),
        ("is_joined", lambda *_: False, test_no_label_begins_with_a_number_or_is_made_of_two_others),
        ("is_name", lambda phrase: True, test_no_label_begins_with_a_number_or_is_made_of_two_others),
        (
            "phrases_in",
            lambda title, known: [p for p in known if f" {p} " in f" {title_words.plain(title)} "],
            test_where_a_title_holds_a_label,
        ),
        ("canonical_names", lambda names: {n: title_words.plain(n) for n in names}, None),
        ("capitals", lambda text: "", None),
    ],
)
def test_wrong_versions_are_refused(monkeypatch, name, wrong, test):
    monkeypatch.setattr(title_words, name, wrong)
    monkeypatch.setitem(globals(), "READER", ItemReader.learn(shop()))
    checks = [test] if test else [test_two_spellings_of_an_aspect_are_one, test_capitals_are_a_second_spelling]
    if name == "canonical_names":
        monkeypatch.setitem(globals(), "canonical_names", wrong)
    with pytest.raises((AssertionError, KeyError)):
        for check in checks:
            check()
