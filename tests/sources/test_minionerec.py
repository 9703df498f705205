"""MiniOneRec's rows: overlapping histories become one sequence, whose order gives the times."""

import csv
import json

import pytest

from imported import assert_no_leak, assert_survives_saving, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources.interactions import START, STEP
from mrrec_mini.sources.minionerec import _join, import_minionerec
from runs import mrrec, refused

HEADER = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid", "item_sid"]


def files(folder, *parts):
    """One CSV file per part, each a list of (user, history, next item), and the items 0 to 9."""
    items = {
        str(n): {
            "title": f"Gauge {n}",
            "description": "['Measures &amp; tests', '']",
            "brand": "Acme, Inc.",
            "categories": "Industrial & Scientific,Test, Measure & Inspect,Gauges",
        }
        for n in range(10)
    }
    index = folder / "Toy.item.json"
    index.write_text(json.dumps(items, indent=1))
    paths = []
    for number, part in enumerate(parts):
        paths.append(folder / f"part{number}.csv")
        with paths[-1].open("w", newline="") as file:
            rows = [(user, [f"Gauge {n}" for n in past], f"Gauge {n}", past, n, [], "") for user, past, n in part]
            csv.writer(file).writerows([HEADER, *rows])
    return index, paths


def test_the_order_of_the_list_is_the_order(tmp_path):
    train = [("u", [5, 3], 1), ("u", [5], 3), ("v", [2], 4)]
    valid = [("u", [5, 3, 1, 7], 0), ("u", [5, 3, 1], 7)]
    test = [("u", [5, 3, 1, 7, 0], 9), ("u", [5, 3, 1, 7, 0, 9], 8)]
    dataset = import_minionerec(*files(tmp_path, train, valid, test))
    assert [i.item for i in dataset.interactions_of("u")] == ["5", "3", "1", "7", "0", "9", "8"]
    assert [i.time for i in dataset.interactions_of("u")] == [START + n * STEP for n in range(7)]
    assert [i.item for i in dataset.interactions_of("v")] == ["2", "4"]
    # Two items have at least five before them.
    assert [(query.target, len(dataset.history(query))) for query in dataset.queries] == [("9", 5), ("8", 6)]
    assert dataset.items["3"].category == ("industrial & scientific", "test, measure & inspect")
    assert dataset.items["3"].attributes == {"topic": ("gauges",), "brand": ("acme",)}
    assert dataset.items["3"].description == "Measures & tests" and dataset.meta["name"] == "Toy"
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


JOINS = {  # rows -> the sequence, and how many rows do not fit
    "growing, in any order": (["abc", "ab", "abcd"], "abcd", 0),
    "a window of three moves": (["ab", "abc", "bcd", "cde"], "abcde", 0),
    "the window moves by two": (["abc", "cde"], "abcde", 0),
    "a row is inside": (["abcd", "bcd"], "abcd", 0),
    "an item is repeated": (["aba", "abac"], "abac", 0),
    "the shortest row comes first": (["bcd", "ab"], "abcd", 0),
    "the longest end counts": (["xaba", "abac"], "xabac", 0),
    "nothing is shared": (["ab", "xyz"], "ab", 1),
}


@pytest.mark.parametrize("name", JOINS)
def test_rows_are_joined(name):
    rows, whole, left_out = JOINS[name]
    assert _join([tuple(row) for row in rows]) == (tuple(whole), left_out)


def test_rows_and_items_that_do_not_fit_are_counted(tmp_path):
    dataset = import_minionerec(*files(tmp_path, [("u", [1], 2), ("u", [3, 4], 5), ("u", [1, 2], 77)]))
    counted = steps(dataset)
    assert counted["rows that share no item with the user's earlier rows, so their place is unknown"] == (1, 2)
    assert counted["interactions with an item that has no row of its own"] == (1, 2)


@pytest.mark.parametrize("history", ["[1, 2", "3", "{1}", "__import__('os')", "[[1]]"])
def test_a_history_that_is_no_list_is_named(tmp_path, history):
    index, [rows] = files(tmp_path, [("u", [1, 2, 3, 4, 5], 6)])
    with rows.open("a", newline="") as file:
        csv.writer(file).writerow(["u", "[]", "x", history, "2", "[]", ""])
    done = mrrec("data", "import", "minionerec", index, rows, "--out", tmp_path / "out")
    refused(done, 4, f"{rows}:3: history_item_id: {history!r} is not a list of items, such as [3, 17]")
    assert not (tmp_path / "out").exists()
    done = mrrec("data", "import", "minionerec", index, rows, "--out", tmp_path / "out", "--skip-bad")
    assert done.exit_code == 0 and "read 2, taken 1, rejected 1" in done.stderr


def test_a_file_of_other_content_is_named(tmp_path):
    index, [rows] = files(tmp_path, [("u", [1], 2)])
    rows.write_text("user,items\nu,[1]\n")
    with pytest.raises(
        DataError, match=r"part0.csv:1: user_id: is missing; needed are user_id, history_item_id, item_id"
    ):
        import_minionerec(index, [rows])
    index.write_text('{"1": {"title": "x"},\n "2": ["y"]}')
    with pytest.raises(DataError, match=r"Toy.item.json:2: 'y' is not a JSON object"):
        import_minionerec(index, [rows])
