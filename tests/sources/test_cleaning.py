"""The steps that the importers share: clean text, queries by the paper's rule, and counts of what is dropped."""

import time

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
        ("a <script>b</SCRIPT> c <style>d", "a c d"),  # an element that never ends hides nothing
        ("[[VIDEO [[ASIN:B1]] a", "[[VIDEO a"),
        ("&#" + "9" * 5000 + "; a", "\ufffd a"),  # int() refuses so many digits
        ("e\u0301 \ud800", "\u00e9"),
        (None, ""),
    ],
)
def test_clean_text(given, expected):
    assert clean_text(given) == expected


@pytest.mark.parametrize("part", ["<script ", "<script><style>", "[[VIDEO", "<a", "</script", "&amp;lt;"])
def test_clean_text_takes_time_in_proportion_to_the_text(part):
    """Four times the text would take 16 times as long if each part were searched to the end of the text."""

    def seconds(size: int) -> float:
        text, times = part * (size // len(part)), []
        for _ in range(3):
            start = time.process_time()
            clean_text(text)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(48_000) < 8 * seconds(12_000) + 0.05


def test_template_query_names_the_category_and_nothing_else():
    item = Item("B77", "Zorro's Delight", ("movies", "fun", "comedy"), {"genre": ("x",)}, "Q")
    assert template_query(item) == "I am looking for movies: comedy"
    assert template_query(Item("1", "t", ("lamps",))) == "I am looking for lamps"


def test_cleaning_counts():
    log = ImportLog()
    assert log.keep("odd", range(5), lambda n: n % 2) == [1, 3]
    assert log.steps == [{"step": "odd", "dropped": 3, "kept": 2}]
