"""sources.py: upstream formats as they are, each cleaning step with its count, and no target in its own history."""

import gzip
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Item
from mrrec_mini.sources.amazon import _is_broken, _price, import_amazon, read_reviews
from mrrec_mini.sources.c4 import import_amazon_c4
from mrrec_mini.sources.cleaning import MOST_ASPECTS, MOST_VALUES, MOST_WORDS, Cleaning, clean_text, template_query
from mrrec_mini.sources.recbole import import_recbole, unpack_recbole_wheel

SHARED = Path(os.environ.get("MRREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DAY = 86_400


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path} (set MRREC_SHARED_DATA)")
    return path


def json_file(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def steps(dataset: Dataset) -> dict[str, tuple[int, int]]:
    return {step["step"]: (step["dropped"], step["kept"]) for step in dataset.meta["cleaning"]}


def assert_no_leak(dataset: Dataset) -> None:
    """No history holds its query's target, the text of the target's review, or anything at or after the query."""
    for query in dataset.queries:
        history = dataset.history(query)
        own = {m.review.lower() for m in dataset.interactions_of(query.user) if m.item == query.target} - {""}
        assert all(met.user == query.user and met.time < query.time for met in history)
        assert query.target not in {met.item for met in history}
        assert not own & {met.review.lower() for met in history}


def assert_survives_saving(dataset: Dataset, path: Path) -> None:
    again = Dataset.load(dataset.save(path))
    assert (again.items, again.interactions, again.queries) == (dataset.items, dataset.interactions, dataset.queries)
    assert "repeated_lines" not in again.meta


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Arts, Music &amp;amp; Photography", "Arts, Music & Photography"),
        ("a<br /><br />b\n\tc\0", "a b c"),
        ("[[VIDEOID:b434]]I <3 this, 2 < 3", "I <3 this, 2 < 3"),  # a heart is no tag
        ("<style>p {color: red}</style><b>bold</b>", "bold"),
        ("e\u0301 \ud800", "\u00e9"),
        (None, ""),
    ],
)
def test_clean_text(given, expected):
    assert clean_text(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("$1,299.50", 1299.5),
        ("from 7.99", 7.99),
        ("$5 - $9", 5.0),
        (3, 3.0),
        (".a-box-inner", None),
        ("", None),
        (None, None),
    ],
)
def test_price(given, expected):
    assert _price(given) == expected


def test_broken_titles():
    assert _is_broken('<span class="a-size-medium a-color-secondary"')
    assert _is_broken("' Magazines\" />")
    assert _is_broken("") and _is_broken(None)
    assert not _is_broken("Nickelodeon") and not _is_broken("I <3 Tea & Cakes")


def test_template_query_says_category_and_at_most_one_attribute():
    item = Item(
        "B77", "Zorro's Delight", ("movies", "fun", "comedy"), {"decade": ("1990s", "2000s"), "genre": ("x",)}, "Q"
    )
    assert template_query(item) == "I am looking for movies: comedy"
    assert template_query(item, "decade") == "I am looking for movies: comedy, decade 1990s"
    assert template_query(item, "colour") == "I am looking for movies: comedy"  # it has none
    assert template_query(Item("1", "t", ("lamps",))) == "I am looking for lamps"


def test_cleaning_counts():
    cleaning = Cleaning()
    assert cleaning.keep("odd", range(5), lambda n: n % 2) == [1, 3]
    assert cleaning.as_meta() == [{"step": "odd", "dropped": 3, "kept": 2}]


# --- Amazon 2018, by hand -------------------------------------------------------------------------------------------


def review_2018(user, item, day, text="", **more) -> dict:
    return {"reviewerID": user, "asin": item, "overall": 5.0, "reviewText": text, "unixReviewTime": day * DAY, **more}


@pytest.fixture
def amazon_2018(tmp_path):
    reviews = [
        review_2018("certain", "A", 1, "one"),
        review_2018("certain", "B", 2, "two &amp; a half"),
        review_2018("certain", "C", 3, "three", overall=1.0),
        review_2018("certain", "A", 9, "once more"),  # a pair seen before: the first one stays
        review_2018("tied", "A", 1, "x"),
        review_2018("tied", "B", 5, "y"),
        review_2018("tied", "C", 5, "z"),
        review_2018("copier", "A", 1, "great"),
        review_2018("copier", "B", 2, "great"),
        review_2018("near", "A", 1, "Great  item"),
        review_2018("near", "B", 2, "something"),
        review_2018("near", "D", 3, "great item"),
        review_2018("single", "A", 1, "x"),
        review_2018("single", "B", 1, "no rating", overall=None),
    ]
    broken = '<span class="a-size-medium a-color-secondary"'
    metadata = [
        {
            "asin": "A",
            "title": "Alpha",
            "category": ["Magazines", "Home &amp; Garden", "Decoration"],
            "brand": "Acme, Inc.",
        },
        {
            "asin": "B",
            "title": broken,
            "category": ["Magazines", "Music"],
            "brand": "Bee",
            "description": "['For &amp; by us', '']",
        },
        {"asin": "B", "title": broken, "category": ["Magazines", "Music"], "brand": "Bee"},
        {"asin": "C", "title": broken, "category": [], "main_cat": "Magazines", "also_buy": "['X']", "price": "$3.50"},
        {"asin": "E", "title": "Echo", "category": ["Magazines", "Music"], "description": ["Never reviewed"]},
        {"asin": "F", "title": broken, "category": [], "description": []},
        {"title": "no id", "category": ["Magazines"]},
    ]
    return json_file(tmp_path / "r.json.gz", reviews), json_file(tmp_path / "m.json", metadata)


def test_amazon_2018_items(amazon_2018):
    items = import_amazon(*amazon_2018).items
    assert sorted(items) == ["A", "B", "C", "D", "E"]  # F says nothing, D is reviewed but has no metadata
    assert items["A"].category == ("magazines", "home & garden")
    assert items["A"].attributes == {"topic": ("decoration",), "brand": ("acme",)}
    assert items["B"].title == "bee, music: For & by us" and items["B"].description == "For & by us"
    assert items["C"].category == ("magazines",) and items["C"].title == "magazines"
    assert items["D"].title == "magazines D"


def test_amazon_2018_targets_and_steps(amazon_2018, tmp_path):
    dataset = import_amazon(*amazon_2018)
    assert {query.user: query.target for query in dataset.queries} == {"certain": "C", "near": "D"}
    certain = dataset.queries[0]
    assert (certain.text, certain.time) == ("I am looking for magazines", 3 * DAY)
    assert [met.review for met in dataset.history(certain)] == ["one", "two & a half"]
    assert [met.review for met in dataset.history(dataset.queries[1])] == ["something"]  # the near copy is gone
    counted = steps(dataset)
    # 14 reviews, one without rating; one repeated pair; five people, of whom one has one item, one a tie, one a copy
    assert counted["reviews without user, item, time, or rating from 1 to 5"] == (1, 13)
    assert counted["reviews of an item that the user had reviewed before"] == (1, 12)
    assert counted["metadata without an item id"] == (1, 6)
    assert counted["metadata lines repeated for an item"] == (1, 5)
    assert counted["metadata that says nothing of an item never reviewed"] == (1, 4)
    assert counted["titles that are scrape errors, replaced by brand, category and description"] == (2, 2)
    assert counted["users with one item (they keep their history)"] == (1, 4)
    assert counted["users whose last day holds several reviews (they keep their history)"] == (1, 3)
    assert counted["users whose last review repeats an earlier one (they keep their history)"] == (1, 2)
    assert counted["earlier reviews equal to the target's but for case and spacing"] == (1, 11)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


def test_amazon_says_where_a_file_is_wrong(amazon_2018, tmp_path):
    reviews, metadata = amazon_2018
    stars = json_file(tmp_path / "stars.json", [{"stars": 5}])
    with pytest.raises(DataError, match=r"stars.json:1: user_id: is missing"):
        import_amazon(stars, metadata)
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(reviews.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut.json.gz: cannot be read"):
        import_amazon(cut, metadata)
    (tmp_path / "empty.json").write_bytes(b"")
    with pytest.raises(DataError, match="0 records"):
        import_amazon(tmp_path / "empty.json", metadata)
    metadata.write_bytes(metadata.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"m.json:7: not JSON"):
        import_amazon(reviews, metadata)


# --- Amazon 2023, by hand -------------------------------------------------------------------------------------------


def review_2023(user, item, day, title, text, rating=5.0) -> dict:
    times = {"timestamp": day * DAY * 1000 + 7}
    return {
        "user_id": user,
        "asin": item + "x",
        "parent_asin": item,
        "rating": rating,
        "title": title,
        "text": text,
        **times,
    }


def test_amazon_2023(tmp_path):
    reviews = [
        review_2023("u", "A", 17_000, "Nice", "Soft<br />skin"),
        review_2023("u", "B", 17_001, "Only a title", ""),
        review_2023("u", "C", 17_002, "", "last"),
    ]
    metadata = [
        {
            "parent_asin": item,
            "title": f"Cream {item}",
            "main_category": "All Beauty",
            "categories": ["Beauty", "Skin Care", "Face", "Creams"],
            "store": "Dew LLC",
            "price": price,
            "features": ["Light feel"],
            "description": [],
            "details": {"Scent": scent, "UPC": "123", "Item Form": "Cream", "Package Dimensions": "1 x 1"},
        }
        for item, price, scent in (("A", 5.0, "Rose"), ("B", 9.99, "Mint"), ("C", "from 20", "Rose"))
    ]
    dataset = import_amazon(json_file(tmp_path / "r.jsonl", reviews), json_file(tmp_path / "m.jsonl.gz", metadata))
    assert dataset.queries[0].time == 17_002 * DAY  # milliseconds became seconds
    assert [met.review for met in dataset.history(dataset.queries[0])] == ["Soft skin", "Only a title"]
    # Prices 5, 9.99, 20: the thirds end at 9.99 and 20. Every item is a cream, so "item form" tells nothing.
    expected = {"topic": ("face", "creams"), "brand": ("dew",), "price": ("low",), "scent": ("rose",)}
    assert dataset.items["A"].attributes == expected
    assert dataset.items["C"].attributes["price"] == ("middle",)
    assert dataset.items["A"].category == ("beauty", "skin care") and dataset.items["A"].description == "Light feel"


# --- Amazon-C4, by hand ---------------------------------------------------------------------------------------------


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
        review_2023("u", "T", 120, "Great cups", "I love these cups!"),  # what the query was written from
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
    # The same words stand on B at day 80, and T was reviewed in other words at day 90: by text alone the query would be
    # dated 80, by item alone 90.
    assert (query.id, query.user, query.target, query.time) == ("1", "u", "T", 120 * DAY)
    assert query.text == "I need cups with a straw."
    assert [(met.item, met.review) for met in dataset.history(query)] == [("A", "an honest review")]
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


def test_c4_reads_the_csv_of_the_hub(c4, tmp_path):
    _, pool, reviews = c4
    table = tmp_path / "test.csv"
    row = '1,"I need cups\nwith a straw.",T,u,5,"Great cups I love these cups!"\n'
    table.write_text("qid,query,item_id,user_id,ori_rating,ori_review\n" + row)
    (query,) = import_amazon_c4(table, pool, reviews).queries
    assert query.text == "I need cups with a straw." and query.time == 120 * DAY
    table.write_text("qid,query,item_id\n1,x,T\n")
    with pytest.raises(DataError, match=r"test.csv:1: user_id: is missing"):
        import_amazon_c4(table, pool, reviews)


# --- RecBole, by hand -----------------------------------------------------------------------------------------------

ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def recbole(tmp_path, inter: str, item: str = "") -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir(exist_ok=True)
    default = "".join(f"{n}\tFilm {n}\t198{n}\t{'Comedy' if n % 2 else 'Comedy Drama'}\n" for n in range(1, 10))
    (folder / "tiny.item").write_text(item or ITEM + default)
    (folder / "tiny.inter").write_text(inter)
    return folder


def rated(*rows: tuple) -> str:
    return INTER + "".join("\t".join(map(str, row)) + "\n" for row in rows)


def test_recbole_items_and_targets(tmp_path):
    rows = [("u", n, 5, 100 + n) for n in range(1, 6)]  # items 1..5, one a second: too early to be targets
    rows += [("u", 6, 3, 200), ("u", 7, 4, 201), ("u", 8, 5, 300), ("u", 9, 5, 300)]  # disliked, liked, tied, tied
    dataset = import_recbole(recbole(tmp_path, rated(*reversed(rows))))
    # Comedy stands in nine films, drama in four: the rarer one is the category.
    assert dataset.items["2"].category == ("movies", "drama")
    assert dataset.items["2"].attributes == {"decade": ("1980s",), "genre": ("drama", "comedy")}
    assert dataset.items["1"].category == ("movies", "comedy") and dataset.items["1"].title == "Film 1"
    (query,) = dataset.queries
    assert (query.target, query.time, query.text) == ("7", 201, "I am looking for movies: comedy")
    assert [met.item for met in dataset.history(query)] == ["1", "2", "3", "4", "5", "6"]
    assert_no_leak(dataset)


def test_recbole_gives_each_query_its_own_time(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(*(("u", n, 4, 100 + n) for n in range(1, 10)))))
    # Nine films, the first five are history only, of the other four the last three are targets.
    assert [(query.target, len(dataset.history(query))) for query in dataset.queries] == [("7", 6), ("8", 7), ("9", 8)]
    assert len(import_recbole(recbole(tmp_path, rated(("u", 1, 5, 1)))).queries) == 0


def test_recbole_stretches_foreign_ratings(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(("u", 1, 0.5, 1), ("u", 2, 2.75, 2), ("u", 3, 5, 3))))
    assert [met.rating for met in dataset.interactions] == [1.0, 3.0, 5.0]  # 1 + 4 (2.75 - 0.5) / 4.5 = 3


def test_recbole_unknown_items_are_dropped_and_counted(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(("u", 1, 5, 1), ("u", 77, 5, 2), ("u", 2, "", 3))))
    assert len(dataset.interactions) == 1
    assert steps(dataset)["interactions with items that .item does not hold"] == (1, 2)
    assert steps(dataset)["interactions without a rating or a time"] == (1, 1)


def test_recbole_wheel(tmp_path):
    folder = recbole(tmp_path, rated(*(("u", n, 4, 100 + n) for n in range(1, 10))))
    wheel = tmp_path / "recbole-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for suffix in (".inter", ".item", ".user"):
            text = (folder / f"tiny{suffix}").read_text() if suffix != ".user" else "user_id:token\nu\n"
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k{suffix}", text)
    raw = unpack_recbole_wheel(wheel, tmp_path / "raw")
    assert sorted(path.name for path in raw.iterdir()) == ["ml-100k.inter", "ml-100k.item", "ml-100k.user"]
    dataset = import_recbole(wheel)
    assert dataset.queries == import_recbole(raw).queries and len(dataset.queries) == 3
    assert dataset.meta["name"] == "ml-100k" and "GroupLens" in dataset.meta["licence"]
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(DataError, match="fetch recbole"):
        import_recbole(tmp_path / "other.whl")


# --- real data ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def magazine():
    folder = shared("amazon_magazine_2018")
    return import_amazon(folder / "Magazine_Subscriptions_5.json.gz", folder / "meta_Magazine_Subscriptions.json.gz")


def test_magazine_counts(magazine):
    counted = steps(magazine)
    # SOURCE.txt: 2,375 reviews, 2,302 user-item pairs, 3,385 metadata lines for 2,320 items, 151 of 157 items
    # described, 348 users of whom 54 % (188) end in a tie; 159 remain.
    assert counted["reviews of an item that the user had reviewed before"] == (73, 2302)
    assert counted["metadata lines repeated for an item"] == (1065, 2320)
    assert counted["reviewed items without metadata, kept under the general category"] == (0, 6)
    assert counted["users whose last day holds several reviews (they keep their history)"] == (188, 160)
    assert len(magazine.queries) == len({query.user for query in magazine.queries}) == 159
    assert magazine.counts()["users"] == 348


def test_magazine_leaks_nothing(magazine):
    assert_no_leak(magazine)
    for query in magazine.queries:
        assert magazine.history(query)
        category = magazine.items[query.target].category
        assert query.text == "I am looking for " + ": ".join(category)  # the category and nothing else of the target


def test_magazine_items_are_clean_and_aspects_return(magazine, tmp_path):
    returned = Counter()
    for item in magazine.items.values():
        assert "<span" not in item.title and "&amp;" not in item.title + item.description
        assert len(item.attributes) <= MOST_ASPECTS
        for aspect, values in item.attributes.items():
            assert 1 <= len(values) <= MOST_VALUES and aspect == aspect.lower()
            assert all(value == value.lower() and 1 <= len(value.split()) <= MOST_WORDS for value in values)
            returned.update((aspect, value) for value in values)
    # A value that only one item has cannot be a preference that memory learns: nearly all of these two return.
    for aspect in ("about", "topic"):
        counts = [count for (name, _), count in returned.items() if name == aspect]
        assert sum(count for count in counts if count >= 3) > 0.95 * sum(counts)
    assert_survives_saving(magazine, tmp_path / "magazine")


def test_rec_r1_beauty_is_read(tmp_path):
    folder = shared("recr1_amazon2023")
    dataset = import_amazon(folder / "beauty_2023_users.jsonl.gz", folder / "beauty_2023_titles.json.gz")
    # SOURCE.txt: 675 users, 4,060 reviews, 3,208 items, 438 of them with a title.
    assert steps(dataset)["reviews without user, item, time, or rating from 1 to 5"] == (0, 4060)
    assert dataset.counts()["users"] == 675 and len(dataset.items) == 3208
    assert steps(dataset)["reviewed items without metadata, kept under the general category"] == (0, 3208 - 438)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "beauty")


def test_real_c4_queries_with_reviews_made_for_them(tmp_path):
    """The fixture has real queries but no reviews of their users: half of them get one, at a known time."""
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
    assert not texts & {met.review for met in dataset.interactions}
    assert_no_leak(dataset)


def test_read_reviews_of_some_users_only(tmp_path):
    path = json_file(tmp_path / "r.jsonl", [review_2023(user, "A", 1, "", "x") for user in "abc"])
    assert [review.user for review in read_reviews([path], Cleaning(), frozenset("ac"))] == ["a", "c"]
