"""Amazon Reviews 2018 and 2023: both formats, each cleaning step with its count, and no target in its own history."""

import gzip
from collections import Counter

import pytest

from imported import DAY, assert_no_leak, assert_survives_saving, json_file, review_2023, shared, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources.amazon import import_amazon, is_broken_title, parse_price, read_reviews
from mrrec_mini.sources.cleaning import MOST_ASPECTS, MOST_VALUES, MOST_WORDS, ImportLog


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
    assert parse_price(given) == expected


def test_broken_titles():
    assert is_broken_title('<span class="a-size-medium a-color-secondary"')
    assert is_broken_title("' Magazines\" />")
    assert is_broken_title("") and is_broken_title(None)
    assert not is_broken_title("Nickelodeon") and not is_broken_title("I <3 Tea & Cakes")


# --- Amazon 2018, by hand -------------------------------------------------------------------------------------------


def review_2018(user, item, day, text="", **more) -> dict:
    return {"reviewerID": user, "asin": item, "overall": 5.0, "reviewText": text, "unixReviewTime": day * DAY, **more}


@pytest.fixture
def amazon_2018(tmp_path):
    reviews = [
        review_2018("certain", "A", 1, "one"),
        review_2018("certain", "B", 2, "two &amp; a half"),
        review_2018("certain", "C", 3, "three", overall=1.0),
        review_2018("certain", "A", 9, "once more"),  # a repeated pair: the first one is kept
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
    assert sorted(items) == ["A", "B", "C", "D", "E"]  # F has no description; D is reviewed but has no metadata
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
    assert [i.review for i in dataset.history(certain)] == ["one", "two & a half"]
    assert [i.review for i in dataset.history(dataset.queries[1])] == ["something"]  # the near copy is dropped
    counted = steps(dataset)
    # 14 reviews, one without a rating; one repeated pair; five users, of whom one has one item, one a tie, one a copy
    assert counted["reviews without rating from 1 to 5"] == (1, 13)
    assert counted["reviews of an item that the user had reviewed before"] == (1, 12)
    assert counted["metadata without an item id"] == (1, 6)
    assert counted["metadata lines repeated for an item"] == (1, 5)
    assert counted["metadata without category or description, of items without a review"] == (1, 4)
    assert counted["titles missing or cut from a web page, replaced by brand, category and description"] == (2, 2)
    assert counted["users with one item (they keep their history)"] == (1, 4)
    assert counted["users whose last day holds several reviews (they keep their history)"] == (1, 3)
    assert counted["users whose last review repeats an earlier one (they keep their history)"] == (1, 2)
    assert counted["earlier reviews equal to the target's but for case and spacing"] == (1, 11)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


def test_amazon_names_the_place_of_an_error(amazon_2018, tmp_path):
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


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("Magazine_Subscriptions_5.json.gz", "magazine subscriptions"),
        ("reviews_Video_Games.json", "video games"),
        ("raw_review_All_Beauty.jsonl", "all beauty"),
        ("mine.jsonl", "items"),
    ],
)
def test_amazon_without_metadata(amazon_2018, tmp_path, name, category):
    """The category is the one in the file's name; targets and histories are those with metadata."""
    reviews, metadata = amazon_2018
    if not name.endswith(".gz"):
        reviews.write_bytes(gzip.decompress(reviews.read_bytes()))
    with_metadata = import_amazon(reviews, metadata)
    dataset = import_amazon(reviews.rename(tmp_path / name))
    assert sorted(dataset.items) == ["A", "B", "C", "D"]
    assert (dataset.items["A"].title, dataset.items["A"].category) == (f"{category} A", (category,))
    assert dataset.interactions == with_metadata.interactions
    assert [(q.target, q.time) for q in dataset.queries] == [(q.target, q.time) for q in with_metadata.queries]
    step = "reviewed items without metadata, kept under the general category"
    assert steps(dataset)[step] == (0, 4)
    assert_no_leak(dataset)


# --- Amazon 2023, by hand -------------------------------------------------------------------------------------------


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
    assert [i.review for i in dataset.history(dataset.queries[0])] == ["Soft skin", "Only a title"]
    # Prices 5, 9.99, 20: the thirds end at 9.99 and 20. Every item is a cream, so "item form" is not an aspect.
    expected = {"topic": ("face", "creams"), "brand": ("dew",), "price": ("low",), "scent": ("rose",)}
    assert dataset.items["A"].attributes == expected
    assert dataset.items["C"].attributes["price"] == ("middle",)
    assert dataset.items["A"].category == ("beauty", "skin care") and dataset.items["A"].description == "Light feel"


def test_only_reviews_of_the_given_users_are_read(tmp_path):
    path = json_file(tmp_path / "r.jsonl", [review_2023(user, "A", 1, "", "x") for user in "abc"])
    assert [review.user for review in read_reviews([path], ImportLog(), frozenset("ac"))] == ["a", "c"]


# --- real data ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def magazine():
    folder = shared("amazon_magazine_2018")
    return import_amazon(folder / "Magazine_Subscriptions_5.json.gz", folder / "meta_Magazine_Subscriptions.json.gz")


def test_magazine_counts(magazine):
    counted = steps(magazine)
    # SOURCE.txt: 2,375 reviews, 2,302 user-item pairs, 3,385 metadata lines for 2,320 items, 151 of 157 reviewed items
    # described, 348 users, of whom 54 % (188) end in a tie; 159 remain.
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
        assert query.text == "I am looking for " + ": ".join(category)  # of the target only the category


def test_magazine_items_are_clean_and_aspects_recur(magazine, tmp_path):
    returned = Counter()
    for item in magazine.items.values():
        assert "<span" not in item.title and "&amp;" not in item.title + item.description
        assert len(item.attributes) <= MOST_ASPECTS
        for aspect, values in item.attributes.items():
            assert 1 <= len(values) <= MOST_VALUES and aspect == aspect.lower()
            assert all(value == value.lower() and 1 <= len(value.split()) <= MOST_WORDS for value in values)
            returned.update((aspect, value) for value in values)
    # Memory cannot learn a value that only one item has; nearly all values of these two aspects recur.
    for aspect in ("about", "topic"):
        counts = [count for (name, _), count in returned.items() if name == aspect]
        assert sum(count for count in counts if count >= 3) > 0.95 * sum(counts)
    assert_survives_saving(magazine, tmp_path / "magazine")


def test_rec_r1s_beauty_data_is_read(tmp_path):
    folder = shared("recr1_amazon2023")
    dataset = import_amazon(folder / "beauty_2023_users.jsonl.gz", folder / "beauty_2023_titles.json.gz")
    # SOURCE.txt: 675 users, 4,060 reviews, 3,208 items, 438 of them with a title.
    assert steps(dataset)["reviews without user, item, time, rating from 1 to 5"] == (0, 4060)
    assert dataset.counts()["users"] == 675 and len(dataset.items) == 3208
    assert steps(dataset)["reviewed items without metadata, kept under the general category"] == (0, 3208 - 438)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "beauty")
