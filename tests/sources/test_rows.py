"""JSON lines, CSV, TSV and parquet give the same rows; a row in a large JSON object has the line where it begins."""

import gzip
import json
import sys
from datetime import UTC, datetime

import pytest

from imported import json_file, review_2023
from mrrec_mini.data import RECORD_LIMIT, DataError
from mrrec_mini.sources.amazon import import_amazon
from mrrec_mini.sources.c4 import import_amazon_c4
from mrrec_mini.sources.cleaning import ImportLog, Rejects
from mrrec_mini.sources.rows import read_members, read_rows
from mrrec_mini.sources.table import Columns, import_table
from runs import mrrec, refused


def rows_of(path, columns=(), log=None) -> list[tuple[int, dict]]:
    return list(read_rows(path, lambda row, number, path: (number, row), log or ImportLog(), columns))


def members_of(path, log=None) -> list[tuple[str, int, dict]]:
    return list(read_members(path, lambda row, key, number, path: (key, number, row), log or ImportLog()))


def parquet_file(path, rows: list[dict]):
    pyarrow = pytest.importorskip("pyarrow", reason="reads and writes parquet: pip install 'mrrec_mini[parquet]'")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


# --- CSV and TSV ---


def test_a_table_with_quotes_blank_lines_and_lines_inside_a_cell(tmp_path):
    text = 'a,b\n1,"x, y"\n\n2,"two\nlines"\n,\n3,"say ""hi"""\n'
    expected = [(2, {"a": "1", "b": "x, y"}), (4, {"a": "2", "b": "two\nlines"}), (7, {"a": "3", "b": 'say "hi"'})]
    (tmp_path / "t.csv").write_text(text)
    assert rows_of(tmp_path / "t.csv") == expected
    text = '\ufeff"a",b' + text.removeprefix("a,b")
    (tmp_path / "t.CSV.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    assert [number for number, _ in rows_of(tmp_path / "t.CSV.gz", ("a",))] == [2, 4, 7]
    (tmp_path / "t.tsv").write_text("a\tb\n1\tx, y\n")
    assert rows_of(tmp_path / "t.tsv") == [(2, {"a": "1", "b": "x, y"})]


def test_a_forgotten_quote_does_not_hide_the_rows_after_it(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"open\n2,x\n3,"y" z\n')
    with pytest.raises(
        DataError, match=r"t.csv:2: not a row of a table .*a quote inside a quoted cell is written twice"
    ):
        rows_of(path)
    rejects = Rejects()
    path.write_text('a,b\n1,"shut" x\n2,y\n')
    assert rows_of(path, log=ImportLog(rejects)) == [(3, {"a": "2", "b": "y"})]
    assert [(row["line"], row["raw"]) for row in rejects.rows[str(path)]] == [(2, '1,"shut" x')]


def test_a_header_without_a_column_or_with_it_twice(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,b\n1,2,3\n")
    with pytest.raises(DataError, match=r"t.csv:1: c: is missing; needed are a, c; the header holds 'a, b, b'"):
        rows_of(tmp_path / "t.csv", ("a", "c"))
    with pytest.raises(DataError, match=r"holds 'a, b, b'$"):
        rows_of(tmp_path / "t.csv", ("c",))
    (tmp_path / "s.csv").write_text("a;c\n1;2\n")
    with pytest.raises(DataError, match=r"holds 'a;c'; a .csv has commas between its cells, a .tsv tabs$"):
        rows_of(tmp_path / "s.csv", ("a", "c"))
    with pytest.raises(DataError, match=r"t.csv:1: b: appears twice"):
        rows_of(tmp_path / "t.csv", ("b",))
    with pytest.raises(DataError, match=r"t.jsonl:1: c: is missing; needed are a, c"):
        rows_of(json_file(tmp_path / "t.jsonl", [{"a": 1}]), ("a", "c"))


# --- parquet ---


def test_parquet_rows_are_those_of_json_lines(tmp_path):
    rows = [{"a": n, "b": None if n else "x", "c": ["y", f"{n}"], "d": n / 2} for n in range(5)]
    lines = rows_of(json_file(tmp_path / "t.jsonl", rows))
    assert rows_of(parquet_file(tmp_path / "t.parquet", rows), ("a", "d")) == lines
    dated = [{"a": datetime(2020, 1, 2, tzinfo=UTC), "pictures": [{"large": "x"}]}]
    assert rows_of(parquet_file(tmp_path / "d.parquet", dated)) == [(1, {"a": "2020-01-02 00:00:00+00:00"})]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(tmp_path):
    for part in (2, 1):
        parquet_file(tmp_path / f"full-{part}.parquet", [{"a": part}])
    assert [row["a"] for _, row in rows_of(tmp_path)] == [1, 2]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: is a folder without \*.parquet files"):
        rows_of(tmp_path / "none")


def test_a_faulty_parquet_file_is_named(tmp_path):
    path = parquet_file(tmp_path / "t.parquet", [{"a": "x" * 100, "b": n} for n in range(9)])
    with pytest.raises(DataError, match=r"t.parquet: c: is missing; needed are a, c; the header holds 'a, b'"):
        rows_of(path, ("a", "c"))
    whole = path.read_bytes()
    for content in (b"", whole[:-20], whole[: len(whole) // 2], b'{"a": 1}\n'):
        path.write_bytes(content)
        for rejects in (None, Rejects()):
            with pytest.raises(DataError, match=r"t.parquet: cannot be read as parquet \(.*fetch it again"):
                rows_of(path, log=ImportLog(rejects))
    with pytest.raises(DataError, match=r"no.parquet: cannot be read as parquet"):
        rows_of(tmp_path / "no.parquet")
    parquet_file(path, [{"a": "short"}, {"a": "x" * RECORD_LIMIT}])
    with pytest.raises(DataError, match=rf"t.parquet:2: a record longer than {RECORD_LIMIT} bytes"):
        rows_of(path)


def test_without_pyarrow_one_line_names_the_extra(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.lib", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "full-0.parquet"
    file.write_bytes(b"PAR1")
    done = mrrec("data", "import", "amazon", file, "--out", tmp_path / "out")
    refused(done, 1, f"{file}: parquet needs pyarrow: pip install 'mrrec_mini[parquet]'")
    assert not (tmp_path / "out").exists()


def test_amazon_2023_as_parquet_is_amazon_2023_as_json_lines(tmp_path):
    reviews = [review_2023(user, f"i{n}", 100 + n, "title", f"{user} about {n}") for user in "uv" for n in range(3)]
    reviews = [{**row, "images": [{"small_image_url": "x"}], "helpful_vote": 0} for row in reviews]
    about = {"main_category": "All Beauty", "categories": [], "features": ["Soft"], "description": [], "price": "None"}
    about |= {"details": '{"Scent": "Rose"}', "images": {"hi_res": [None], "large": ["x"]}, "store": "Dew"}
    metadata = [{"parent_asin": f"i{n}", "title": f"Cream {n}", **about} for n in range(3)]
    lines = import_amazon(json_file(tmp_path / "r.jsonl", reviews), json_file(tmp_path / "m.jsonl", metadata))
    for name, rows in (("raw_review_All_Beauty", reviews), ("raw_meta_All_Beauty", metadata)):
        (tmp_path / name).mkdir()
        parquet_file(tmp_path / name / "full-00000-of-00002.parquet", rows[:2])
        parquet_file(tmp_path / name / "full-00001-of-00002.parquet", rows[2:])
    parts = import_amazon(tmp_path / "raw_review_All_Beauty", tmp_path / "raw_meta_All_Beauty")
    assert (parts.items, parts.interactions, parts.queries) == (lines.items, lines.interactions, lines.queries)
    assert len(parts.queries) == 2 and parts.items["i1"].attributes["brand"] == ("dew",)


def test_amazon_c4_as_parquet(tmp_path):
    query = {"qid": 7, "query": "A cup.", "item_id": "T", "user_id": "u", "ori_rating": 5, "ori_review": "Fine cup."}
    pool = [{"item_id": item, "category": "Home", "metadata": f"Cup {item}"} for item in "AT"]
    reviews = [review_2023("u", "A", 1, "", "early"), review_2023("u", "T", 5, "", "Fine cup.")]
    files = [parquet_file(tmp_path / f"{n}.parquet", rows) for n, rows in enumerate(([query], pool, reviews))]
    dataset = import_amazon_c4(files[0], files[1], [files[2]])
    assert [(q.id, [i.item for i in dataset.history(q)]) for q in dataset.queries] == [("7", ["A"])]


def test_a_table_as_parquet(tmp_path):
    """Whole numbers are ids, a float that pandas made of one too; times may be times, and lists hold several names."""
    rows = [
        {"u": float(n // 6), "i": n % 6, "at": datetime(2020, 1, 1 + n % 6), "k": ["Red", "Hot"]} for n in range(12)
    ]
    columns = Columns("u", "i", "at", category="k")
    dataset = import_table(parquet_file(tmp_path / "t.parquet", rows), None, columns)
    assert dataset.users() == ["0", "1"] and dataset.items["3"].attributes == {"k": ("hot", "red")}
    first = dataset.interactions_of("1")[0]
    assert (first.item, first.time) == ("0", int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()))


# --- one large JSON object ---


def test_members_have_the_lines_where_they_begin(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(
        b'\xef\xbb\xbf{"u": [\n {"a": 1,\n "b": "]}"}, {"a": 2}\n],\r\n\n"v": [ ], "w":\n{"a": {"c": []}}}\n'
    )
    expected = [("u", 2, {"a": 1, "b": "]}"}), ("u", 3, {"a": 2}), ("w", 7, {"a": {"c": []}})]
    assert members_of(path) == expected
    packed = tmp_path / "t.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert members_of(packed) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"u": [{"a": 1},\n{"a": }]}', ":2: not JSON (Expecting value); is the file cut?"),
        ('{"u": [{"a": 1}\n', ":2: not JSON (the file ends instead of , or ]); is the file cut?"),
        ('{"u": [{"a": 1}] "v"}', ":1: not JSON ('\"' instead of , or }); is the file cut?"),
        ('[{"a": 1}]', ":1: not JSON ('[' instead of {); is the file cut?"),
        ('{"u": [{"a": 1},\n 7]}', ":2: 7 is not a JSON object"),
        ('{"u":\n"v"}', ":2: 'v' is not a JSON object"),
        ('{"u": [' + '{"a":' * 200_000, ":1: not JSON ("),
        ('{"u": [{"a": 1},\n{"a": "' + "x" * RECORD_LIMIT + '"}]}', f":2: a record longer than {RECORD_LIMIT} bytes"),
    ],
)
def test_a_fault_in_a_large_object_is_named_by_line(tmp_path, text, named):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        members_of(path)
    assert str(caught.value).startswith(f"{path}{named}")


def test_a_large_object_that_is_not_utf8(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(b'{"u": [{"a": 1},\n{"a": "\xe9"}]}')
    with pytest.raises(DataError, match=r"t.json:2: not UTF-8 at byte 24 of the file"):
        members_of(path)


def test_a_bad_member_can_be_left_out(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"u": [{"a": 1}, 7, {"a": 2}]}))
    rejects = Rejects()
    assert [row["a"] for _, _, row in members_of(path, ImportLog(rejects))] == [1, 2]
    assert rejects.counts() == [{"file": str(path), "read": 3, "taken": 2, "rejected": 1}]
