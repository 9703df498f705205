"""data.py: what is accepted, what is refused with which message, and that a history never holds its own target.

Broken lines and fields: tests/faults/test_data_faults.py.
"""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrrec_mini.data import INTERACTIONS, ITEMS, META, QUERIES, DataError, Dataset, template_text
from mrrec_mini.datatypes import Interaction, Item, Query

MUG = Item("i1", "Blue mug", ("kitchen", "mugs"), {"colour": ("blue",), "size": ("small", "light")}, "Holds tea.")
CUP = Item("i2", "Tasse ‘ö’", ("kitchen", "cups"))
PAN = Item("i3", "Pan", ("kitchen", "pans"))


def shop() -> Dataset:
    """Three items, two users; u1 has two interactions at time 20, and a query there."""
    interactions = (
        Interaction("u2", "i1", 5, 1.0),
        Interaction("u1", "i3", 30, 4.5, "late"),
        Interaction("u1", "i2", 20, 5.0, "the target"),
        Interaction("u1", "i3", 20, 3.0),
        Interaction("u1", "i1", 10, 2.0, "chipped"),
    )
    queries = (Query("q1", "u1", "a cup for tea", "i2", 20, {"colour": "blue"}), Query("q2", "u9", "a pan", "i3", 7))
    items = {item.id: item for item in (MUG, CUP, PAN)}
    return Dataset(items, interactions, queries, {"name": "shop", "licence": "CC0"})


@pytest.fixture
def folder(tmp_path):
    """The shop on disk, without sha256 sums, so that a test can change a file."""
    path = shop().save(tmp_path / "shop")
    meta = json.loads((path / META).read_text())
    del meta["sha256"]
    (path / META).write_text(json.dumps(meta))
    return path


def line_of(path, number, **changes) -> bytes:
    return json.dumps({**json.loads(path.read_bytes().splitlines()[number - 1]), **changes}).encode()


def set_line(path, number, raw) -> None:
    lines = path.read_bytes().splitlines()
    lines[number - 1] = raw
    path.write_bytes(b"\n".join(lines) + b"\n")


def refusal(folder) -> str:
    with pytest.raises(DataError) as caught:
        Dataset.load(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message.replace(str(folder) + "/", "")


# --- saving and loading ---------------------------------------------------------------------------------------------


def test_loading_gives_what_was_saved(tmp_path):
    before = shop()
    after = Dataset.load(before.save(tmp_path / "shop"))
    assert (after.items, after.interactions, after.queries) == (before.items, before.interactions, before.queries)
    assert list(after.items) == ["i1", "i2", "i3"]
    assert after.meta["counts"] == {"items": 3, "interactions": 5, "queries": 2, "users": 3}  # u1, u2 and u9
    assert after.meta["licence"] == "CC0" and after.meta["source"] == "unknown"
    assert set(after.meta["sha256"]) == {ITEMS, INTERACTIONS, QUERIES}


def test_interactions_are_sorted_by_user_time_item():
    assert [(m.user, m.time, m.item) for m in shop().interactions] == [
        ("u1", 10, "i1"),
        ("u1", 20, "i2"),
        ("u1", 20, "i3"),
        ("u1", 30, "i3"),
        ("u2", 5, "i1"),
    ]


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path):
    shop().save(tmp_path / "shop")
    replace(shop(), queries=shop().queries[:1]).save(tmp_path / "shop")
    assert len(Dataset.load(tmp_path / "shop").queries) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_save_that_fails_leaves_the_old_data(tmp_path):
    shop().save(tmp_path / "shop")
    bad = replace(shop(), interactions=(Interaction("u", "i1", 1, float("nan")),))
    with pytest.raises(DataError, match=r"interactions.jsonl:1"):
        bad.save(tmp_path / "shop")
    assert len(Dataset.load(tmp_path / "shop").interactions) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_save_does_not_replace_another_folder(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("x")
    with pytest.raises(DataError, match="choose another folder"):
        shop().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_meta_json_is_optional(folder):
    (folder / META).unlink()
    assert Dataset.load(folder).meta == {"name": "shop"}


def test_optional_fields_may_be_missing(folder):
    set_line(folder / ITEMS, 1, b'{"id": "i1", "title": "Mug", "category": ["mugs"]}')
    set_line(folder / INTERACTIONS, 1, b'{"user": "u1", "item": "i1", "time": 10, "rating": 2}')
    dataset = Dataset.load(folder)
    assert dataset.items["i1"] == Item("i1", "Mug", ("mugs",))
    assert dataset.interactions[0] == Interaction("u1", "i1", 10, 2.0)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (INTERACTIONS, {"time": 1.5}, "interactions.jsonl:2: time: 1.5 is not a whole number"),
        (INTERACTIONS, {"user": " "}, "interactions.jsonl:2: user: is empty"),
        (INTERACTIONS, {"review": "a\0b"}, "interactions.jsonl:2: review: holds a NUL character at position 1"),
        (INTERACTIONS, {"stars": 5}, "interactions.jsonl:2: 'stars': unknown field"),
        (QUERIES, {"text": " \n"}, "queries.jsonl:2: text: is empty"),
        (QUERIES, {"truth": ["red"]}, "queries.jsonl:2: truth: ['red'] is not an object"),
        (ITEMS, {"category": "mugs"}, "items.jsonl:2: category: 'mugs' is not a list"),
        (ITEMS, {"category": []}, "items.jsonl:2: category: is an empty list"),
        (ITEMS, {"attributes": {"colour": "red"}}, "items.jsonl:2: attributes: 'red' is not a list"),
        (ITEMS, {"title": ""}, "items.jsonl:2: title: is empty"),
    ],
)
def test_a_wrong_field_is_named(folder, name, change, said):
    set_line(folder / name, 2, line_of(folder / name, 2, **change))
    assert refusal(folder).startswith(said)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"id": "i1", "category": ["a"]}', "title: is missing"),
        (b'["i1"]', "['i1'] is not a JSON object"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_line_is_named(folder, raw, said):
    set_line(folder / ITEMS, 2, raw)
    assert refusal(folder).startswith(f"items.jsonl:2: {said}")


@pytest.mark.parametrize("name", [ITEMS, INTERACTIONS, QUERIES])
def test_a_file_that_does_not_match_its_sum_is_named(tmp_path, name):
    path = shop().save(tmp_path / "shop")
    with (path / name).open("ab") as file:
        file.write(b"\n")  # harmless by itself
    message = refusal(path)
    assert message.startswith(f"{name}: its sha256 is not the one in meta.json") and "remove sha256" in message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "meta.json: not JSON"),
        (b"[]", "meta.json: the file: [] is not an object"),
        (b'{"sha256": 3}', "meta.json: sha256"),
        (b'{"repeats": "no"}', "meta.json: repeats: 'no' is not true or false"),
        (b'{"clock": 0}', "meta.json: clock: 0 is not true or false"),
        (b'{"held_categories": "mugs"}', "meta.json: held_categories: 'mugs' is not a list"),
        (b'{"held_phrases": "mug for tea"}', "meta.json: held_phrases: 'mug for tea' is not a list"),
    ],
)
def test_a_wrong_meta_is_named(folder, raw, said):
    (folder / META).write_bytes(raw)
    assert refusal(folder).startswith(said)


def test_the_error_for_a_missing_file_says_what_a_data_set_is(folder, tmp_path):
    (folder / QUERIES).unlink()
    assert "a data set is a folder of items.jsonl, interactions.jsonl, queries.jsonl" in refusal(folder)
    assert "cannot be read" in refusal(tmp_path / "nowhere")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), byte=st.integers(0, 255), name=st.sampled_from([ITEMS, INTERACTIONS, QUERIES]))
def test_any_damaged_byte_is_refused_with_a_message(tmp_path_factory, cut, byte, name):
    path = shop().save(tmp_path_factory.mktemp("damage") / "shop")
    raw = bytearray((path / name).read_bytes())
    changed = raw[cut % len(raw)] != byte
    raw[cut % len(raw)] = byte
    (path / name).write_bytes(raw)
    if changed:  # meta.json holds the sums, so even another valid rating is found
        # a changed item id is noticed by the records that name the item
        assert refusal(path).startswith((name, INTERACTIONS, QUERIES))
    else:
        Dataset.load(path)
    shutil.rmtree(path.parent)


# --- histories ------------------------------------------------------------------------------------------------------


def test_history_is_strictly_before_and_oldest_first():
    dataset = shop()
    # The query is at 20. "At or before" would include the target; "all of the user" would include time 30 too.
    assert [m.item for m in dataset.history(dataset.queries[0])] == ["i1"]
    later = replace(dataset.queries[0], time=31)
    assert [(m.time, m.item) for m in dataset.history(later)] == [(10, "i1"), (20, "i2"), (20, "i3"), (30, "i3")]


def test_a_user_without_interactions_has_no_history():
    assert shop().history(shop().queries[1]) == []
    assert shop().interactions_of("u9") == ()


def test_a_query_by_template_says_its_phrase_and_its_category():
    """Names are compared whole: "game" is no category here, "video games" is. The last name that is one counts."""
    items = {"i": Item("i", "x", ("video games", "rpg")), "j": Item("j", "y", ("games",))}
    said = {
        "I am looking for video games: mystery dungeon": ("mystery dungeon", "video games"),
        "I am looking for video games: rpg": ("rpg", "rpg"),
        "I am looking for games": ("games", "games"),
        "I am looking for game": ("game", None),
        "I am looking for a: b: c": ("b: c", None),
        "looking for games": (None, None),
        "mug for hiking": (None, None),
    }
    queries = tuple(Query(f"q{n}", "u", text, "i", 1) for n, text in enumerate(said))
    read = Dataset(items, (), queries).queries
    assert [(query.phrase, query.scenario) for query in read] == list(said.values())
    assert [query.text for query in read] == list(said)
    given = Query("q", "u", "I am looking for games", "i", 1, phrase="chess", scenario="rpg")
    assert Dataset(items, (), (given,)).queries == (given,)
    assert template_text("movies", "animation") == "I am looking for movies: animation"
    assert template_text("lamps", "lamps") == "I am looking for lamps"


def test_phrase_and_category_come_back_from_disk(tmp_path):
    queries = (Query("q", "u1", "I am looking for home: mug", "i1", 50), Query("r", "u1", "a mug", "i1", 50))
    saved = Dataset(shop().items, shop().interactions, queries)
    assert Dataset.load(saved.save(tmp_path / "d")).queries == saved.queries
    lines = (tmp_path / "d" / QUERIES).read_text().splitlines()
    assert '"phrase": "mug"' in lines[0] and "phrase" not in lines[1] and "scenario" not in lines[1]


def test_whether_people_take_items_twice():
    """meta.json says it; without it, nobody did unless somebody did; people of a synthetic shop may."""
    taken = (Interaction("a", "i1", 1, 5.0), Interaction("a", "i2", 2, 5.0), Interaction("b", "i1", 3, 5.0))
    asked = Query("q", "a", "x", "i2", 3)

    def made(*more: Interaction, target: str = "i3", **meta) -> Dataset:
        return Dataset({}, (*taken, *more), (replace(asked, target=target),), meta)

    again = Interaction("b", "i1", 9, 5.0)
    assert not made().repeats and made().owned(asked) == ["i1", "i2"] and made().owned(replace(asked, time=2)) == ["i1"]
    assert made(again).repeats and made(again).owned(asked) == []
    assert (
        made(target="i1").repeats and not made(Interaction("a", "i3", 3, 5.0)).repeats
    )  # the target is the last taken
    assert made(repeats=True).repeats and not made(again, repeats=False).repeats
    assert made(world={}).repeats and not made(world={}, repeats=False).repeats
    assert made().clock and not made(clock=False).clock


def test_the_first_repeat_is_when_one_user_takes_an_item_again():
    # u1 takes i3 at 20 and again at 30; i1 is taken by two users, which is not a repeat
    assert shop().first_repeat({"u1", "u2"}) == 30
    assert shop().first_repeat({"u2"}) == shop().first_repeat(()) == math.inf


some_interactions = st.lists(
    st.builds(
        Interaction, st.sampled_from("abc"), st.sampled_from(["i1", "i2", "i3"]), st.integers(0, 9), st.just(3.0)
    ),
    max_size=30,
)


@given(interactions=some_interactions, user=st.sampled_from("abcd"), time=st.integers(0, 10))
def test_history_equals_the_plain_filter(interactions, user, time):
    dataset = replace(shop(), interactions=tuple(interactions))
    history = dataset.history(Query("q", user, "x", "i1", time))
    expected = sorted((i for i in interactions if i.user == user and i.time < time), key=lambda i: (i.time, i.item))
    assert history == expected
    assert all(i.user == user and i.time < time for i in history)  # never the time of the target, never another user


def test_category_is_the_last_name():
    assert shop().category("i1") == "mugs"
    with pytest.raises(KeyError):
        shop().category("i77")


# --- splits ---------------------------------------------------------------------------------------------------------


def crowd(users: int, held: tuple[str, ...] = ()) -> Dataset:
    """`users` people with a mug query and a cup query each, and one who has only an interaction."""
    queries = tuple(Query(f"q{n}-{item.id}", f"u{n}", "x", item.id, 50) for n in range(users) for item in (MUG, CUP))
    return replace(
        shop(), interactions=(Interaction("quiet", "i1", 1, 5.0),), queries=queries, meta={"held_categories": held}
    )


def test_split_cuts_users_by_the_shares():
    split = crowd(20).split(seed=3, train=0.5, validation=0.2, test=0.3)
    # 20 users have queries: 10, 4 and 6 of them; the quiet one is in train.
    assert (len(split.train), len(split.validation), len(split.test)) == (11, 4, 6)
    assert "quiet" in split.train
    assert not split.train & split.validation and not split.train & split.test and not split.validation & split.test
    assert (len(split.train_queries), len(split.validation_queries), len(split.test_queries)) == (20, 8, 12)
    assert split.held_queries == ()


def test_split_depends_on_the_seed_alone():
    assert crowd(20).split(1) == crowd(20).split(1)
    assert crowd(20).split(1).test != crowd(20).split(2).test
    shuffled = replace(crowd(20), queries=crowd(20).queries[::-1])
    assert shuffled.split(1).test == crowd(20).split(1).test


def test_only_test_users_have_queries_for_held_categories():
    split = crowd(10, held=("cups",)).split(seed=0, train=0.6, validation=0.2, test=0.2)
    for queries in (split.train_queries, split.validation_queries, split.test_queries):
        assert queries and all(query.target == "i1" for query in queries)
    assert len(split.held_queries) == 2  # two test users, one cup query each
    assert all(query.target == "i2" and query.user in split.test for query in split.held_queries)


def test_only_test_users_have_queries_for_held_phrases():
    """A phrase holds a query back if the query's text is the phrase, or begins with it and a space."""
    texts = ["mug for tea", "mug for tea color red", "mug for teas", "a mug for tea", "mug"]
    queries = tuple(Query(f"q{n}-{i}", f"u{n}", text, "i1", 50) for n in range(10) for i, text in enumerate(texts))
    dataset = replace(shop(), interactions=(), queries=queries, meta={"held_phrases": ["mug for tea"]})
    split = dataset.split(seed=0, train=0.6, validation=0.2, test=0.2)
    for part, users in ((split.train_queries, 6), (split.validation_queries, 2), (split.test_queries, 2)):
        assert [query.text for query in part] == texts[2:] * users
    assert [query.text for query in split.held_queries] == texts[:2] * 2
    assert {query.user for query in split.held_queries} == split.test


def test_a_query_is_held_by_its_category_or_by_its_phrase():
    queries = tuple(replace(q, text="mug for tea") if q.id == "q0-i1" else q for q in crowd(1).queries)
    dataset = replace(crowd(1), queries=queries, meta={"held_categories": ["cups"], "held_phrases": ["mug for tea"]})
    assert [query.target for query in dataset.split(0, 0.0, 0.0, 1.0).held_queries] == ["i1", "i2"]


@given(users=st.integers(3, 30), seed=st.integers(0, 5), cut=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_every_user_with_queries_is_in_exactly_one_part(users, seed, cut):
    total = sum(cut) + 2
    split = crowd(users).split(seed, cut[0] / total, cut[1] / total, 2 / total)
    parts = [split.train - {"quiet"}, split.validation, split.test]
    assert all(parts) and sum(map(len, parts)) == users == len(frozenset().union(*parts))


def test_split_refuses_wrong_shares_and_too_few_users():
    with pytest.raises(ValueError, match="sum to 1"):
        crowd(9).split(0, 0.8, 0.1, 0.2)
    with pytest.raises(ValueError, match=">= 0"):
        crowd(9).split(0, 1.2, -0.1, -0.1)
    with pytest.raises(DataError, match="2 users have queries, too few for 3 parts"):
        crowd(2).split(0)
    assert len(crowd(2).split(0, 0.5, 0, 0.5).test) == 1


def test_importing_is_cheap():
    code = "import sys, mrrec_mini.data; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
