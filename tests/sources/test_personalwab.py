"""PersonalWAB: tasks become queries, and the purchase that a task leads to is never in the query's history."""

import json

import pytest

from imported import DAY, assert_no_leak, assert_survives_saving, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources.cleaning import Rejects
from mrrec_mini.sources.personalwab import import_personalwab
from runs import mrrec, refused

FIRST = 17_000  # the days of these tests are counted from here


def product(item: str, store: str = "Acme") -> dict:
    about = {"title": f"Pan {item}", "categories": ["Home", "Kitchen", "Pans"], "main_category": "Home", "store": store}
    return {"parent_asin": item, **about, "description": [], "features": ["Made of steel"], "details": {}, "price": 9.9}


def at(day: float) -> dict:
    return {"timestamp": int((FIRST + day) * DAY * 1000)}


def bought(item: str, day: float, text: str = "", rating: float = 5.0) -> dict:
    review = {"rating": rating, "title": "A title", "text": text or f"about {item}", **at(day)}
    return {"product_info": product(item), "review": review, "split": "history"}


def task(user: str, item: str, day: float, kind: str = "search") -> dict:
    about = {"user_id": user, "type": kind, "task": f"Find  me\nthe {kind} pan", **at(day)}
    return {**about, "target": {"product_info": product(item), "review": {"text": f"about {item}"}}}


HISTORY = {
    "u": [bought("A", 1), bought("B", 2, "about C"), bought("C", 3, "About  c"), bought("D", 5), bought("E", 9)],
    "v": [bought("A", 1), bought("B", 4, rating=0.0)],
}
TASKS = {
    "train": [task("u", "C", 3), task("u", "D", 5, "recommend"), task("u", "A", 3), task("u", "E", 9, "review")],
    "test": [task("v", "F", 6)],
}


def files(folder, history=HISTORY, tasks=TASKS, indent=1):
    (folder / "user_history.json").write_text(json.dumps(history, indent=indent))
    (folder / "user_instructions.json").write_text(json.dumps(tasks, indent=indent))
    return folder / "user_instructions.json", [folder / "user_history.json"]


def test_queries_and_histories(tmp_path):
    dataset = import_personalwab(*files(tmp_path))
    found = {(query.user, query.target): [i.item for i in dataset.history(query)] for query in dataset.queries}
    # C is bought at the time of its task. B has C's review, so it is no one's history. F has no purchase.
    assert found == {("u", "C"): ["A"], ("u", "D"): ["A", "C"], ("v", "F"): ["A"]}
    query = dataset.queries[0]
    assert (query.id, query.text, query.time) == ("q-1", "Find me the search pan", (FIRST + 3) * DAY)
    assert dataset.items["A"].category == ("home", "kitchen") and set(dataset.items) == set("ABCDEF")
    assert dataset.items["A"].attributes["brand"] == ("acme",) and dataset.items["A"].title == "Pan A"
    counted = steps(dataset)
    assert counted["reviews without rating from 1 to 5"] == (1, 6)
    assert counted["tasks other than search and recommend"] == (1, 4)
    assert counted["tasks whose product the user had before"] == (1, 3)  # u had A on day 1
    assert counted["earlier reviews equal to the target's but for case and spacing"] == (1, 5)
    assert "CC BY-NC" in dataset.meta["licence"]
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


def test_a_purchase_in_the_second_of_the_task_is_not_in_its_history(tmp_path):
    """Times are milliseconds in the source and seconds here."""
    first, second = bought("A", 1), bought("B", 2)
    second["review"]["timestamp"] += 100
    asked = task("u", "B", 2)
    asked["timestamp"] += 900
    dataset = import_personalwab(*files(tmp_path, {"u": [first, second]}, {"test": [asked]}))
    assert [i.item for i in dataset.history(dataset.queries[0])] == ["A"]
    asked["timestamp"] += 100  # the next second: the product was bought before, so there is no query
    dataset = import_personalwab(*files(tmp_path, {"u": [first, second]}, {"test": [asked]}))
    assert dataset.queries == ()


def test_histories_may_come_in_parts(tmp_path):
    whole = import_personalwab(*files(tmp_path))
    instructions, _ = files(tmp_path)
    parts = []
    for user, own in HISTORY.items():
        parts.append(tmp_path / f"user_history_part_{user}.json")
        parts[-1].write_text(json.dumps({user: own}))
    again = import_personalwab(instructions, parts)
    assert (again.items, again.interactions, again.queries) == (whole.items, whole.interactions, whole.queries)


def without(row: dict, name: str) -> dict:
    return {key: value for key, value in row.items() if key != name}


BAD_TASKS = [  # task, what the message names
    (without(task("u", "C", 3), "user_id"), "user_id: is missing; a task needs"),
    (without(task("u", "C", 3), "target"), "target: None is not a JSON object"),
    ({**task("u", "C", 3), "timestamp": "soon"}, "timestamp: 'soon' is neither a number of seconds nor a date"),
    (
        {**task("u", "C", 3), "target": {"product_info": {"title": "no id"}}},
        "parent_asin: is missing; every product needs an id",
    ),
    ({**task("u", "C", 3), "user_id": "a\0b"}, "user_id: holds a NUL character"),
]


@pytest.mark.parametrize(("bad", "named"), BAD_TASKS, ids=[named for _, named in BAD_TASKS])
def test_a_bad_task_is_named_by_line_or_left_out(tmp_path, bad, named):
    instructions, histories = files(tmp_path, tasks={"train": [TASKS["train"][0], bad]})
    line = 1 + json.dumps({"train": [TASKS["train"][0]]}, indent=1).count("\n") - 1  # the last two lines close brackets
    done = mrrec("data", "import", "personalwab", instructions, *histories, "--out", tmp_path / "out")
    refused(done, 4, f"{instructions}:{line}: {named}")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    done = mrrec("data", "import", "personalwab", instructions, *histories, "--out", tmp_path / "out", "--skip-bad")
    assert done.exit_code == 0 and f"{instructions}: read 2, taken 1, rejected 1" in done.stderr.replace("\n", " ")


def test_a_bad_purchase_is_named_by_line_and_can_be_left_out(tmp_path):
    history = {"u": [bought("A", 1), without(bought("B", 2), "review")]}
    instructions, histories = files(tmp_path, history)
    line = json.dumps({"u": [bought("A", 1)]}, indent=1).count("\n")
    with pytest.raises(DataError, match=rf"user_history.json:{line}: review: None is not a JSON object"):
        import_personalwab(instructions, histories)
    rejects = Rejects()
    assert len(import_personalwab(instructions, histories, rejects).interactions) == 1
    [row] = rejects.files()["user_history.json.rejects.jsonl"]
    assert row["line"] == line and json.loads(row["raw"]) == history["u"][1]


def test_a_cut_file_is_refused_even_with_skip_bad(tmp_path):
    instructions, histories = files(tmp_path)
    text = histories[0].read_text()
    for size in (len(text) // 2, len(text) - 1):
        histories[0].write_text(text[:size])
        for more in ((), ("--skip-bad",)):
            done = mrrec("data", "import", "personalwab", instructions, *histories, "--out", tmp_path / "out", *more)
            refused(done, 4, str(histories[0]), "not JSON", "is the file cut? fetch it again")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b" \n", b"{}", b'{"u": []}'])
def test_an_empty_file(tmp_path, content):
    instructions, histories = files(tmp_path)
    histories[0].write_bytes(content)
    with pytest.raises(DataError, match=r"user_history.json: holds no usable record \(0 records\)"):
        import_personalwab(instructions, histories)
