"""Tables with columns of any name: MovieLens' own CSV files, one table instead of two, no times, no ratings."""

import time

import pytest

from imported import assert_no_leak, assert_survives_saving, steps
from mrrec_mini.data import DataError
from mrrec_mini.sources.cleaning import Rejects
from mrrec_mini.sources.interactions import START, STEP
from mrrec_mini.sources.recbole import import_recbole
from mrrec_mini.sources.table import Columns, import_table
from runs import mrrec, refused

MOVIELENS = Columns("userId", "movieId", "timestamp", "rating", title="title", category="genres")
OPTIONS = "--user userId --item movieId --time timestamp --rating rating --title title --category genres"


COLUMNS = ("user", "item", "time", "stars")


def write(path, *lines: str):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def movielens(folder, ratings=None):
    """MovieLens' files: nine films, one of which has no genre, and one user's ratings, from half a star to five."""
    films = [f'{n},"Film {n}, The (199{n})",{"Comedy|Drama" if n % 2 else "Comedy"}' for n in range(1, 9)]
    rows = [(1, n, stars, 964_982_700 + n) for n, stars in enumerate((4, 0.5, 5, 3, 4.5, 4, 3.5, 5, 5), 1)]
    rows = ratings or [",".join(map(str, row)) for row in rows]
    return (
        write(folder / "ratings.csv", "userId,movieId,rating,timestamp", *rows),
        write(folder / "movies.csv", "movieId,title,genres", *films, "9,Film 9,(no genres listed)"),
    )


def test_movielens(tmp_path):
    dataset = import_table(*movielens(tmp_path), MOVIELENS)
    # Eight films are comedies, four of them dramas too: the rarer genre is the category.
    assert dataset.items["1"].category == ("drama",) and dataset.items["1"].title == "Film 1, The (1991)"
    assert dataset.items["1"].attributes == {"genres": ("drama", "comedy")}
    assert dataset.items["9"].category == ("items",) and dataset.items["9"].attributes == {}
    assert dataset.interactions[1].rating == 1.0 and dataset.interactions[2].rating == 5.0  # 0.5 to 5 became 1 to 5
    # Films 6, 8, 9 have five before them and 4 or more; 7 is not liked: 1 + 4 (3.5 - 0.5) / 4.5 = 3.7.
    assert [(q.target, q.text, len(dataset.history(q))) for q in dataset.queries] == [
        ("6", "I am looking for comedy", 5),
        ("8", "I am looking for comedy", 7),
        ("9", "I am looking for items", 8),
    ]
    assert steps(dataset)["ratings stretched from 0.5..5 to 1..5"] == (0, 9)
    assert_no_leak(dataset)
    assert_survives_saving(dataset, tmp_path / "out")


def test_the_same_interactions_in_recboles_form_have_the_same_targets(tmp_path):
    ratings, movies = movielens(tmp_path)
    folder = tmp_path / "films"
    folder.mkdir()
    rows = [line.replace(",", "\t") for line in ratings.read_text().splitlines()[1:]]
    write(folder / "f.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows)
    write(folder / "f.item", "item_id:token\tclass:token_seq", *(f"{n}\tComedy" for n in range(1, 10)))
    table, recbole = import_table(ratings, movies, MOVIELENS), import_recbole(folder)
    assert table.interactions == recbole.interactions
    assert [(q.id, q.target, q.time) for q in table.queries] == [(q.id, q.target, q.time) for q in recbole.queries]


def test_one_table_holds_the_items_too(tmp_path):
    path = write(
        tmp_path / "orders.tsv",
        "customer\tsku\tname\tdepartment\tcolour\twords",
        *(f"c\ts{n}\tThing {n}\tTools\tDark Red|Blue\tsaid {n}" for n in range(6)),
        "d\ts0\tAnother name\tToys\tGreen\tsaid d",
    )
    columns = Columns("customer", "sku", review="words", title="name", category="department", attributes=("colour",))
    dataset = import_table(path, None, columns)
    first = dataset.items["s0"]  # as its first row says
    assert (first.title, first.category) == ("Thing 0", ("tools",))
    assert first.attributes == {"department": ("tools",), "colour": ("dark red", "blue")}
    # Without times and ratings: the order of the rows, and everything was liked.
    own = dataset.interactions_of("c")
    assert [(i.time, i.rating, i.review) for i in own[:2]] == [(START, 5.0, "said 0"), (START + STEP, 5.0, "said 1")]
    assert dataset.interactions_of("d")[0].time == START
    assert [q.target for q in dataset.queries] == ["s5"]
    assert steps(dataset)["times made from the order of a user's interactions, one day apart"] == (0, 7)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("964982703", 964_982_703),
        ("964982703.9", 964_982_703),
        ("1600000000500", 1_600_000_000),
        ("2000-07-30", 964_915_200),
        ("2000-07-30 18:45:03", 964_982_703),
        ("2000-07-30T20:45:03+02:00", 964_982_703),
    ],
)
def test_times(tmp_path, monkeypatch, given, seconds):
    """A date without a zone is in UTC, whatever the zone of the machine."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        dataset = import_table(write(tmp_path / "t.csv", "u,i,t", f"a,b,{given}"), None, Columns("u", "i", "t"))
    time.tzset()
    assert dataset.interactions[0].time == seconds
    assert ("times in milliseconds, converted to seconds" in steps(dataset)) == (given == "1600000000500")


def test_empty_cells(tmp_path):
    path = write(tmp_path / "t.csv", "u,i,t,r,title", "a,b,1,5,", "a,c,,5,x", "a,d,3,,x")
    dataset = import_table(path, None, Columns("u", "i", "t", "r", title="title"))
    assert steps(dataset)["interactions without a rating or a time"] == (2, 1)
    assert dataset.items["b"].title == "item b"


def test_equal_ratings_outside_1_to_5(tmp_path):
    path = write(tmp_path / "t.csv", "u,i,plays", "a,b,10", "a,c,10")
    dataset = import_table(path, None, Columns("u", "i", rating="plays"))
    assert [i.rating for i in dataset.interactions] == [5.0, 5.0]


def test_a_blank_id_is_named(tmp_path):
    path = write(tmp_path / "t.csv", "u,i", "a,b", " ,b")
    with pytest.raises(DataError, match=r"t.csv:3: u: is empty; give it a text or drop the record"):
        import_table(path, None, Columns("u", "i"))


def test_the_command(tmp_path):
    ratings, movies = movielens(tmp_path)
    command = ["data", "import", "table", ratings, "--out", tmp_path / "out", *OPTIONS.split()]
    done = mrrec(*command, "--items", movies)
    assert done.exit_code == 0 and "wrote 9 items, 9 interactions, 3 queries, 1 users" in done.stderr
    films = write(tmp_path / "films.csv", "id,title,genres,year", *(f"{n},F{n},Comedy,1990" for n in range(1, 7)))
    more = ["--items", films, "--id", "id", "--attributes", "year, genres"]
    assert "wrote 6 items, 6 interactions, 1 queries" in mrrec(*command, *more).stderr


def test_a_table_without_a_target_is_refused(tmp_path):
    ratings, movies = movielens(tmp_path, ["1,1,5,1", "1,2,5,2"])
    done = mrrec("data", "import", "table", ratings, "--out", tmp_path / "out", *OPTIONS.split(), "--items", movies)
    refused(
        done,
        4,
        "no query is left, so nothing is written (all were dropped as: users without an item that",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        ([], 4, "ratings.csv:1: title: is missing; needed are userId, movieId, timestamp, rating, title, genres; "),
        (["--items", "movies.csv", "--attributes", "year"], 4, "movies.csv:1: year: is missing; needed are movieId, "),
        (
            ["--items", "movies.csv", "--id", "item"],
            4,
            "movies.csv:1: item: is missing; needed are item, title, genres",
        ),
        (
            ["--items", "films.xlsx"],
            4,
            "films.xlsx: is not read as a table; its name must end in .csv or .tsv or .parquet",
        ),
        (["--items", "missing.csv"], 4, "missing.csv: cannot be read ("),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(tmp_path, monkeypatch, more, code, named):
    movielens(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(mrrec("data", "import", "table", "ratings.csv", "--out", "out", *OPTIONS.split(), *more), code, named)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_the_columns_of_users_and_items_must_be_given(tmp_path):
    ratings, _ = movielens(tmp_path)
    command = ["data", "import", "table", ratings, "--out", tmp_path / "out"]
    assert mrrec(*command).exit_code == 2
    assert mrrec(*command, *OPTIONS.split(), "--id", "x").exit_code == 2


IDS = ["0108775015", "108775015", "007", "7", "NA", "nan", "null", "None", "True", "1e5", "1.0", "٣"]


def test_ids_are_kept_as_they_are_written(tmp_path):
    """Programs that read a table through pandas lose leading zeros, and take NA for a missing value."""
    rows = [f"{user},{item},5,{1000 + n}" for user in ("NA", "007", "7") for n, item in enumerate(IDS)]
    dataset = import_table(write(tmp_path / "a.csv", "user,item,stars,time", *rows), None, Columns(*COLUMNS))
    assert set(dataset.items) == set(IDS) and dataset.users() == ["007", "7", "NA"]
    assert len(dataset.interactions) == 3 * len(IDS)


def test_an_id_that_is_missing_in_a_parquet_column_of_numbers_is_no_user_nan(tmp_path):
    """pandas writes a column of whole numbers with a missing one as floats and NaN."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    users = [1.0, 2.0, float("nan"), 1.0] * 4
    table = {"user": users, "item": [f"i{n}" for n in range(16)], "stars": [5.0] * 16, "time": list(range(1000, 1016))}
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(table), path)
    with pytest.raises(DataError, match=r"a.parquet:3: user: is empty"):
        import_table(path, None, Columns(*COLUMNS))
    rejects = Rejects()
    assert import_table(path, None, Columns(*COLUMNS), rejects).users() == ["1", "2"]
    assert rejects.counts()[0]["rejected"] == 4


@pytest.mark.parametrize("date", ["9999-12-31", "0001-01-01", "1969-12-31 23:59:59", "2101-01-01T00:00:00+00:00"])
def test_a_date_out_of_range_is_no_time_in_milliseconds(tmp_path, date):
    rows = [f"u,i{n},5,2024-01-{n + 1:02d}" for n in range(9)]
    path = write(tmp_path / "a.csv", "user,item,stars,time", *rows, f"u,i9,5,{date}")
    with pytest.raises(DataError, match=r"a.csv:11: time: -?\d+ lies"):
        import_table(path, None, Columns(*COLUMNS))


@pytest.mark.parametrize("number", ["1_000", "٣", "0x10", "1e9999", "--5", "5-"])
def test_what_only_python_reads_as_a_number_is_none(tmp_path, number):
    rows = [f"u,i{n},5,{1000 + n}" for n in range(9)]
    path = write(tmp_path / "a.csv", "user,item,stars,time", *rows, f"u,i9,{number},2000")
    with pytest.raises(DataError, match=r"a.csv:11: stars: "):
        import_table(path, None, Columns(*COLUMNS))
