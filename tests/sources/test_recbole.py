"""RecBole atomic files: items, targets, rescaled ratings, and the wheel that holds MovieLens-100k."""

import zipfile
from pathlib import Path

import pytest

from imported import assert_no_leak, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources import recbole as module
from mrrec_mini.sources.cleaning import Rejects
from mrrec_mini.sources.recbole import import_recbole, unpack_recbole_wheel

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
    rows = [("u", n, 5, 100 + n) for n in range(1, 6)]  # items 1..5, one per second: too early to be targets
    rows += [("u", 6, 3, 200), ("u", 7, 4, 201), ("u", 8, 5, 300), ("u", 9, 5, 300)]  # disliked, liked, tied, tied
    dataset = import_recbole(recbole(tmp_path, rated(*reversed(rows))))
    # Nine films are comedies, four are dramas: the rarer genre is the category.
    assert dataset.items["2"].category == ("movies", "drama")
    assert dataset.items["2"].attributes == {"decade": ("1980s",), "genre": ("drama", "comedy")}
    assert dataset.items["1"].category == ("movies", "comedy") and dataset.items["1"].title == "Film 1"
    (query,) = dataset.queries
    assert (query.target, query.time, query.text) == ("7", 201, "I am looking for movies: comedy")
    assert [i.item for i in dataset.history(query)] == ["1", "2", "3", "4", "5", "6"]
    assert_no_leak(dataset)


def test_recbole_gives_each_query_its_own_time(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(*(("u", n, 4, 100 + n) for n in range(1, 10)))))
    # Nine films, the first five are history only, of the other four the last three are targets.
    assert [(query.target, len(dataset.history(query))) for query in dataset.queries] == [("7", 6), ("8", 7), ("9", 8)]
    assert len(import_recbole(recbole(tmp_path, rated(("u", 1, 5, 1)))).queries) == 0


def test_recbole_rescales_other_ratings(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(("u", 1, 0.5, 1), ("u", 2, 2.75, 2), ("u", 3, 5, 3))))
    assert [i.rating for i in dataset.interactions] == [1.0, 3.0, 5.0]  # 1 + 4 (2.75 - 0.5) / 4.5 = 3


def test_recbole_unknown_items_are_dropped_and_counted(tmp_path):
    dataset = import_recbole(recbole(tmp_path, rated(("u", 1, 5, 1), ("u", 77, 5, 2), ("u", 2, "", 3))))
    assert len(dataset.interactions) == 1
    assert steps(dataset)["interactions with an item that has no row of its own"] == (1, 2)
    assert steps(dataset)["interactions without a rating or a time"] == (1, 1)


def test_recbole_wheel(tmp_path):
    folder = recbole(tmp_path, rated(*(("u", n, 4, 100 + n) for n in range(1, 10))))
    wheel = tmp_path / "recbole-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for suffix in (".inter", ".item"):
            archive.write(folder / f"tiny{suffix}", f"recbole/dataset_example/ml-100k/ml-100k{suffix}")
    raw = unpack_recbole_wheel(wheel, tmp_path / "raw")
    assert sorted(path.name for path in raw.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    dataset = import_recbole(wheel)
    assert dataset.queries == import_recbole(raw).queries and len(dataset.queries) == 3
    assert dataset.meta["name"] == "ml-100k" and "GroupLens" in dataset.meta["licence"]
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(DataError, match="fetch recbole"):
        import_recbole(tmp_path / "other.whl")


def test_a_wheel_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNPACKED_LIMIT", 1000)
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(tmp_path / "big.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{inside}.inter", "a" * 1000)
        archive.writestr(f"{inside}.item", "a" * 1001)
    assert (tmp_path / "big.whl").stat().st_size < 1000
    with pytest.raises(DataError, match=r"ml-100k\.item would unpack to 1001 bytes, more than 1000"):
        unpack_recbole_wheel(tmp_path / "big.whl", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "with a byte-order mark"])
def test_the_id_may_be_any_column_when_bad_lines_are_left_out(tmp_path, mark):
    """An interaction with an item whose line was rejected is rejected too, whatever column holds the item's id."""
    rows = [("u", n, 5, 100 + n) for n in (1, 2, 3)]
    titles = "".join(f"Film {n}\t{'199x' if n == 2 else 1990 + n}\t{n}\n" for n in (1, 2, 3))
    item = f"{mark}movie_title:token_seq\trelease_year:float\titem_id:token\n{titles}"
    rejects = Rejects()
    dataset = import_recbole(recbole(tmp_path, rated(*rows), item), rejects)
    assert sorted(dataset.items) == ["1", "3"] and [i.item for i in dataset.interactions] == ["1", "3"]
    assert [entry["rejected"] for entry in rejects.counts()] == [1, 1]
