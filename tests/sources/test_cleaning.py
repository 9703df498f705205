"""The steps that the importers share: clean text, queries by the paper's rule, and counts of what is dropped."""

import pytest

from mrrec_mini.datatypes import Item
from mrrec_mini.sources.cleaning import ImportLog, clean_text, template_query


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Arts, Music &amp;amp; Photography", "Arts, Music & Photography"),
        ("a<br /><br />b\n\tc\0", "a b c"),
        ("[[VIDEOID:b434]]I <3 this, 2 < 3", "I <3 this, 2 < 3"),  # a heart is not a tag
        ("<style>p {color: red}</style><b>bold</b>", "bold"),
        ("e\u0301 \ud800", "\u00e9"),
        (None, ""),
    ],
)
def test_clean_text(given, expected):
    assert clean_text(given) == expected


def test_template_query_names_the_category_and_nothing_else():
    item = Item("B77", "Zorro's Delight", ("movies", "fun", "comedy"), {"genre": ("x",)}, "Q")
    assert template_query(item) == "I am looking for movies: comedy"
    assert template_query(Item("1", "t", ("lamps",))) == "I am looking for lamps"


def test_cleaning_counts():
    log = ImportLog()
    assert log.keep("odd", range(5), lambda n: n % 2) == [1, 3]
    assert log.steps == [{"step": "odd", "dropped": 3, "kept": 2}]
