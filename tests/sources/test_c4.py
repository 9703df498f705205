"""Amazon-C4: a query finds its time, and neither its review nor its target is in the user's history."""

import gzip
import json

import pytest

from imported import DAY, assert_no_leak, assert_survives_saving, json_file, review_2023, shared, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources.c4 import import_amazon_c4


@pytest.fixture
def c4(tmp_path):
    text = "Great cups I love these cups!"
    queries = [
        {
            "qid": 1,
            "query": "I need cups with a straw.",
            "item_id": "T",
            "user_id": "u",
            "ori_rating": 5,
            "ori_review": text,
        },
        {
            "qid": 2,
            "query": "A pump.",
            "item_id": "T",
            "user_id": "gone",
            "ori_rating": 5,
            "ori_review": "never stored",
        },
        {"qid": 3, "query": "A tub.", "item_id": "nowhere", "user_id": "u", "ori_rating": 5, "ori_review": "x"},
        {"qid": 1, "query": "Again.", "item_id": "T", "user_id": "u", "ori_rating": 5, "ori_review": text},
    ]
    pool = [
        {"item_id": item, "category": "Home_and_Kitchen", "metadata": f"Item {item} with a long text"}
        for item in "TABT"
    ]
    reviews = [
        review_2023("u", "A", 100, "ok", "an honest review"),
        review_2023("u", "T", 120, "Great cups", "I love these cups!"),  # the query was written from this one
        review_2023("u", "T", 90, "earlier", "bought it before"),
        review_2023("u", "B", 80, "Great cups", "I  love these cups!"),  # the same words on another item
        review_2023("u", "Z", 95, "", "not in the pool"),
        review_2023("stranger", "A", 100, "", "has no query"),
    ]
    return (
        json_file(tmp_path / "queries.jsonl", queries),
        json_file(tmp_path / "pool.jsonl", pool),
        [json_file(tmp_path / "a.jsonl", reviews[:2]), json_file(tmp_path / "b.jsonl.gz", reviews[2:])],
    )


def test_c4_history_never_holds_the_text_the_query_was_written_from(c4, tmp_path):
    dataset = import_amazon_c4(*c4)
    (query,) = dataset.queries
    # A review of B has the same words at day 80, and T has another review at day 90. By text alone the query would
    # be dated 80, by item alone 90.
    assert (query.id, query.user, query.target, query.time) == ("1", "u", "T", 120 * DAY)
    assert query.text == "I need cups with a straw."
    assert [(i.item, i.review) for i in dataset.history(query)] == [("A", "an honest review")]
    assert "cups!" not in repr(dataset.interactions) and "cups!" not in repr(dataset.items)
    assert dataset.items["T"].category == ("home and kitchen",)
    counted = steps(dataset)
    assert counted["queries whose qid was given before"] == (1, 3)
    assert counted["queries whose target is not in the pool"] == (1, 2)
    assert counted["queries whose own review is not in the reviews (time unknown)"] == (1, 1)
    assert counted["reviews of a target by its own user"] == (2, 3)
    assert counted["reviews that repeat the text a query was written from"] == (1, 2)
    assert counted["reviews of items that are not in the pool"] == (1, 1)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


def test_c4_reads_the_csv_file_of_the_hub(c4, tmp_path):
    _, pool, reviews = c4
    table = tmp_path / "test.csv"
    row = '1,"I need cups\nwith a straw.",T,u,5,"Great cups I love these cups!"\n'
    table.write_text("qid,query,item_id,user_id,ori_rating,ori_review\n" + row)
    (query,) = import_amazon_c4(table, pool, reviews).queries
    assert query.text == "I need cups with a straw." and query.time == 120 * DAY
    table.write_text("qid,query,item_id\n1,x,T\n")
    with pytest.raises(DataError, match=r"test.csv:1: user_id: is missing"):
        import_amazon_c4(table, pool, reviews)


def test_real_c4_queries_with_reviews_made_for_them(tmp_path):
    """The data hold real queries but no reviews of their users; here half of them get one, at a known time."""
    queries = shared("recr1_amazon2023/amazon_c4_queries.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(queries.read_bytes()).splitlines()]
    pool = [
        {"item_id": row["item_id"], "category": row["subset"], "metadata": f"Thing {row['item_id']}"} for row in rows
    ]
    reviews = [review_2023(row["user_id"], row["item_id"], 100, "", row["ori_review"]) for row in rows[::2]]
    reviews += [review_2023(row["user_id"], rows[n - 9]["item_id"], 50, "", "earlier") for n, row in enumerate(rows)]
    dataset = import_amazon_c4(
        queries, json_file(tmp_path / "p.jsonl", pool), [json_file(tmp_path / "r.jsonl", reviews)]
    )
    assert len(dataset.queries) >= len(rows[::2]) * 0.99
    texts = {row["ori_review"] for row in rows}
    assert not texts & {i.review for i in dataset.interactions}
    assert_no_leak(dataset)
