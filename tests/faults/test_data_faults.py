"""Faulty input files: cut lines, odd bytes, repeats, impossible numbers, unknown ids, in data sets and imports.

The table of faults, and where each row is tested:

| row | what | where in tests/faults/ |
| --- | --- | --- |
| 1-8 | a file that is read: data set, imports of public data | test_data_faults.py |
| 1-7 | `mrrec memory import` (8 is about RecBole's files) | test_store_faults.py, SPOILED |
| 9-12 | little memory, odd queries, odd k, equal scores | test_store_faults.py |
| 13-15 | foreign ids, odd names, hostile texts | test_store_faults.py |
| 20-21, 23 | killed, no room, two at once | test_store_faults.py |
| 22, 24, 25 | a spoiled file, another embedder, quiet ends | test_store_faults.py |

Rows 16 to 19 are about training. The last test here checks this table.
"""

import ast
import csv
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mrrec_mini.data import RECORD_LIMIT, Dataset, Interaction, Item, Query
from runs import mrrec, refused

DAY = 86_400
N = 20  # records per file; line 17 is a record, with or without a header line
HEADER = "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float"


def lines_of(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def review(user: int, item: int, day: int) -> dict:
    about = {"rating": 5.0, "title": "", "text": f"said {user} {item}", "timestamp": day * DAY * 1000}
    return {"user_id": f"u{user}", "parent_asin": f"i{item}", **about}


def made(folder: Path) -> Path:
    """One valid input of each kind, with N records in each file that the tests spoil."""
    items = {f"i{n}": Item(f"i{n}", f"thing {n}", ("things",)) for n in range(N)}
    interactions = [Interaction(f"u{n}", f"i{n}", 1000 + n, 5.0) for n in range(N)]
    queries = [Query(f"q{n}", f"u{n}", "a thing", f"i{n}", 9000) for n in range(N)]
    Dataset(items, interactions, queries).save(folder / "set")
    (folder / "set" / "meta.json").unlink()  # its sums would reveal any change before the lines are checked

    # every user takes one item and, a day later, the next one, which is the target of the query
    reviews = [review(n // 2, 8 + n // 2 + n % 2, 100 + n % 2) for n in range(N)]
    (folder / "reviews.jsonl").write_text(lines_of(reviews))
    about = [{"parent_asin": f"i{n}", "title": f"thing {n}", "categories": ["things"]} for n in range(N)]
    (folder / "metadata.jsonl").write_text(lines_of(about))

    pool = [{"item_id": f"i{n}", "category": "Things", "metadata": f"thing {n}"} for n in range(N)]
    (folder / "pool.jsonl").write_text(lines_of(pool))
    asked = [("qid", "query", "item_id", "user_id", "ori_review")]
    asked += [(n, f"a thing {n}", f"i{n}", f"u{n}", f"said {n} {n}") for n in range(N)]
    (folder / "queries.jsonl").write_text(lines_of(dict(zip(asked[0], row, strict=True)) for row in asked[1:]))
    (folder / "queries.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in asked))
    past = [review(n, (n + 1) % N, 90) for n in range(N)]
    (folder / "past.jsonl").write_text(lines_of([*past, *(review(n, n, 100) for n in range(N))]))

    (folder / "films").mkdir()
    rows = [f"u{n // 10}\ti{n}\t5\t{1000 + n}" for n in range(N)]
    (folder / "films" / "films.inter").write_text("\n".join([HEADER.replace("<TAB>", "\t"), *rows, ""]))
    rows = ["item_id:token\ttitle:token_seq\tclass:token_seq", *(f"i{n}\tfilm {n}\tdrama" for n in range(N)), ""]
    (folder / "films" / "films.item").write_text("\n".join(rows))

    rows = ["user,item,stars,time", *(f"u{n // 10},i{n},5,{1000 + n}" for n in range(N)), ""]
    (folder / "stars.csv").write_text("\n".join(rows))
    rows = ["item\tkinds\ttitle", *(f"i{n}\tthings|all sorts\tthing {n}" for n in range(N)), ""]
    (folder / "things.tsv").write_text("\n".join(rows))
    return folder


IMPORTS = {
    "amazon": ("reviews.jsonl", "metadata.jsonl"),
    "c4": ("queries.jsonl", "pool.jsonl", "past.jsonl"),
    "c4 csv": ("queries.csv", "pool.jsonl", "past.jsonl"),
    "recbole": ("films",),
    "table": ("stars.csv",),
}
OPTIONS = {"table": "--user user --item item --rating stars --time time --title title --category kinds"}
PLACES = {  # spoiled file -> the command that reads it
    **{f"set/{name}.jsonl": "set" for name in ("items", "interactions", "queries")},
    **{"reviews.jsonl": "amazon", "metadata.jsonl": "amazon"},
    **{"queries.jsonl": "c4", "pool.jsonl": "c4", "past.jsonl": "c4", "queries.csv": "c4 csv"},
    **{"films/films.inter": "recbole", "films/films.item": "recbole"},
    **{"stars.csv": "table", "things.tsv": "table"},
}
WITH_HEADER = (".inter", ".item", ".csv", ".tsv")
IMPORTED = [place for place, how in PLACES.items() if how != "set"]
OF_ITEMS = {"metadata.jsonl": "i16", "pool.jsonl": "i16", "films/films.item": "i15"}  # the item in line 17
JSON_PLACES = [place for place in PLACES if place.endswith(".jsonl")]


def read(folder: Path, place: str, *more: object, out: str = "out"):
    """Run the command that reads the file."""
    if PLACES[place] == "set":
        return mrrec("data", "info", folder / "set", *more)
    kind = PLACES[place]
    files = [folder / name for name in IMPORTS[kind]]
    more += (*OPTIONS[kind].split(), "--items", folder / "things.tsv") if kind in OPTIONS else ()
    return mrrec("data", "import", kind.split()[0], *files, "--out", folder / out, *more)


def spoil(folder: Path, place: str, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    file = folder / place
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    return file


def at_17(change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    """A change of line 17 only."""
    return lambda lines: [*lines[:16], change(lines[16].rstrip(b"\n")) + b"\n", *lines[17:]]


def half(line: bytes) -> bytes:
    return line[: len(line) // 2]


def with_fields(**fields) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps({**json.loads(line), **fields}).encode()


def changed_column(number: int, value: bytes, separator: bytes = b"\t") -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        cells = line.split(separator)
        return separator.join([*cells[:number], value, *cells[number + 1 :]])

    return change


def stays_out(folder: Path, done, *named: str) -> None:
    refused(done, 4, *named)
    assert not (folder / "out").exists() and not list(folder.glob(".out*"))


def parts(folder: Path) -> list[str]:
    return [(folder / f"{name}.jsonl").read_text() for name in ("items", "interactions", "queries")]


@pytest.fixture
def folder(tmp_path) -> Path:
    return made(tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_the_files_are_valid_before_they_are_spoiled(folder, place):
    done = read(folder, place, "--json")
    assert done.exit_code == 0, done.stderr
    assert min(json.loads(done.stdout)[name] for name in ("items", "interactions")) > 0


# --- row 1: a line that is cut --------------------------------------------------------------------------------------

CUT = {
    ".jsonl": "not JSON",
    ".csv": "but the header has",
    ".tsv": "but the header has 3",
    ".inter": "but the header has 4",
    ".item": "header has 3",
}


@pytest.mark.parametrize("place", PLACES)
def test_row_1_a_cut_line_is_named_and_nothing_is_imported(folder, place):
    file = spoil(folder, place, at_17(half))
    stays_out(folder, read(folder, place), f"{file}:17:", CUT[file.suffix])


@pytest.mark.parametrize("place", IMPORTED)
def test_row_1_skip_bad_imports_the_rest_and_lists_what_it_skipped(folder, place):
    """The result is as if line 17 and all records with its item had never existed."""
    file = folder / place
    whole = file.read_bytes().splitlines(keepends=True)
    spoil(folder, place, at_17(half))
    done = read(folder, place, "--skip-bad", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    for one in told["records"]:
        there = len(Path(one["file"]).read_bytes().splitlines()) - (Path(one["file"]).suffix in WITH_HEADER)
        assert one["read"] == one["taken"] + one["rejected"] == there
    rejects = [json.loads(line) for path in told["rejects"] for line in Path(path).read_text().splitlines()]
    [cut] = [one for one in rejects if one["file"] == str(file)]
    assert (cut["line"], cut["raw"]) == (17, half(whole[16].rstrip(b"\n")).decode()) and CUT[file.suffix] in cut[
        "reason"
    ]
    assert len(rejects) == sum(one["rejected"] for one in told["records"])
    assert json.loads((folder / "out" / "meta.json").read_text())["counts"]["items"] == told["items"]

    file.write_bytes(b"".join([*whole[:16], *whole[17:]]))
    if item := OF_ITEMS.get(place):
        others = {"amazon": ["reviews.jsonl"], "c4": ["queries.jsonl", "past.jsonl"], "recbole": ["films/films.inter"]}
        for other in others[PLACES[place]]:
            spoil(folder, other, lambda lines: [ln for ln in lines if not re.search(rb"\b%s\b" % item.encode(), ln)])
        assert len(rejects) > 1  # records with the lost item are listed too
    assert read(folder, place, out="by hand").exit_code == 0
    assert parts(folder / "out") == parts(folder / "by hand")


@pytest.mark.parametrize("place", IMPORTED)
def test_row_1_skip_bad_prints_its_counts(folder, place):
    file = spoil(folder, place, at_17(half))
    told = read(folder, place, "--skip-bad").stderr
    counts = [tuple(map(int, found)) for found in re.findall(r": read (\d+), taken (\d+), rejected (\d+)", told)]
    assert counts and all(whole == taken + rejected for whole, taken, rejected in counts)
    assert sum(rejected for *_, rejected in counts) >= 1
    assert str(folder / "out" / f"{file.name}.rejects.jsonl") in told.replace("\n", "")


def test_row_1_without_a_fault_skip_bad_changes_nothing(folder):
    assert read(folder, "reviews.jsonl").exit_code == 0
    told = json.loads(read(folder, "reviews.jsonl", "--skip-bad", "--json", out="again").stdout)
    assert told["rejects"] == [] and [one["rejected"] for one in told["records"]] == [0, 0]
    assert parts(folder / "out") == parts(folder / "again")
    assert sorted(path.name for path in (folder / "again").iterdir()) == sorted(
        path.name for path in (folder / "out").iterdir()
    )


def test_row_1_an_older_list_of_rejects_is_removed_with_its_data_set(folder):
    file = folder / "reviews.jsonl"
    whole = file.read_bytes()
    spoil(folder, "reviews.jsonl", at_17(half))
    assert read(folder, "reviews.jsonl", "--skip-bad").exit_code == 0
    assert (folder / "out" / "reviews.jsonl.rejects.jsonl").is_file()
    file.write_bytes(whole)
    assert read(folder, "reviews.jsonl", "--skip-bad").exit_code == 0
    assert not list((folder / "out").glob("*.rejects.jsonl"))


# --- row 2: a very long line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_row_2_a_line_above_the_limit_is_named_and_not_kept_in_memory(folder, place):
    file = spoil(folder, place, at_17(lambda line: line[:4] + b"x" * 20 * RECORD_LIMIT + line[4:]))
    tracemalloc.start()
    done = read(folder, place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stays_out(folder, done, f"{file}:17: a record longer than {RECORD_LIMIT} bytes; split or shorten it")
    assert peak < 10 * RECORD_LIMIT  # the line has 20 times the limit


@pytest.mark.parametrize("place", [place for place in IMPORTED if place not in OF_ITEMS])
def test_row_2_skip_bad_continues_after_its_end(folder, place):
    """The rest of the line does not count as another line: numbers and counts stay right."""
    spoil(folder, place, at_17(lambda line: line[:4] + b"x" * 5 * RECORD_LIMIT + line[4:]))
    spoil(folder, place, lambda lines: [*lines[:18], half(lines[18]) + b"\n", *lines[19:]])
    told = json.loads(read(folder, place, "--skip-bad", "--json").stdout)
    listed = [json.loads(line) for line in Path(told["rejects"][0]).read_text().splitlines()]
    assert [one["line"] for one in listed] == [17, 19]
    assert [one["rejected"] for one in told["records"] if one["file"] == str(folder / place)] == [2]


# --- row 3: bytes that are not text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_row_3_bom_and_crlf_are_accepted(folder, place):
    made_of = folder / ("set" if PLACES[place] == "set" else "out")
    assert read(folder, place).exit_code == 0
    before, file = Dataset.load(made_of), folder / place
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(folder, place).exit_code == 0
    after = Dataset.load(made_of)
    assert (after.items, after.interactions, after.queries) == (before.items, before.interactions, before.queries)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("byte", "named"), [(b"\xe9", "not UTF-8 at byte 3"), (b"\0", "NUL byte at byte 3")])
def test_row_3_a_byte_that_is_not_text_is_named(folder, place, byte, named):
    file = spoil(folder, place, at_17(lambda line: line[:3] + byte + line[3:]))
    stays_out(folder, read(folder, place), f"{file}:17: {named}")


@pytest.mark.parametrize("place", IMPORTED)
def test_row_3_the_list_of_rejects_shows_the_readable_part_of_such_a_line(folder, place):
    file = spoil(folder, place, at_17(lambda line: line[:3] + b"\xe9" + line[3:]))
    told = json.loads(read(folder, place, "--skip-bad", "--json").stdout)
    path = next(path for path in told["rejects"] if Path(path).name.startswith(file.name))
    raw = json.loads(Path(path).read_text().splitlines()[0])["raw"]
    line = file.read_bytes().splitlines()[16]
    assert raw == line[:3].decode() + "\N{REPLACEMENT CHARACTER}" + line[4:].decode()


@pytest.mark.parametrize("place", IMPORTED)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_row_3_a_file_in_another_encoding_is_refused_even_with_skip_bad(folder, place, encoding):
    """In Latin-1 only the lines with an accent cannot be read, but the whole file is refused."""
    file = folder / place
    text = re.sub(r"(thing|said|film|u)(?= ?\d*[02468]\b)", r"\1é", file.read_text())
    file.write_bytes(text.encode(encoding))
    for more in ((), ("--skip-bad",)):
        stays_out(folder, read(folder, place, *more), str(file))


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("set/items.jsonl", {"title": "a\ud800"}),
        ("set/interactions.jsonl", {"review": "a\ud800"}),
        ("set/queries.jsonl", {"text": "a\ud800"}),
        ("reviews.jsonl", {"user_id": "a\ud800"}),
        ("reviews.jsonl", {"parent_asin": "a\ud800"}),
        ("queries.jsonl", {"user_id": "a\ud800"}),
    ],
)
def test_row_3_half_a_surrogate_pair_is_named(folder, place, fields):
    file = spoil(folder, place, at_17(with_fields(**fields)))
    stays_out(folder, read(folder, place), f"{file}:17:", "half a surrogate pair at position 1")


@pytest.mark.parametrize("fields", [{"text": "e\u0301\ud800 \0good"}, {"text": "\u00e9 good"}])
def test_row_3_texts_of_public_sources_are_cleaned_and_normalised(folder, fields):
    spoil(folder, "reviews.jsonl", at_17(with_fields(**fields)))
    assert read(folder, "reviews.jsonl").exit_code == 0
    assert "\u00e9 good" in {i.review for i in Dataset.load(folder / "out").interactions}


# --- row 4: empty files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"])
def test_row_4_an_empty_file_is_named_even_with_skip_bad(folder, place, content):
    file = folder / place
    if content.startswith(b"\n") and file.suffix in WITH_HEADER:
        content = file.read_bytes().splitlines(keepends=True)[0] + b"\n\r\n"  # a header without records
    file.write_bytes(content)
    for more in ((), ("--skip-bad",)) if PLACES[place] != "set" else ((),):
        stays_out(folder, read(folder, place, *more), str(file), "0 records")


@pytest.mark.parametrize("place", IMPORTED)
def test_row_4_a_file_with_only_rejected_records_counts_as_empty(folder, place):
    header = (folder / place).suffix in WITH_HEADER
    file = spoil(folder, place, lambda lines: [*lines[:header], *(half(line) + b"\n" for line in lines[header:])])
    named = f"all {N * (2 if 'past' in place else 1)} were refused, line {1 + header}:"
    stays_out(folder, read(folder, place, "--skip-bad"), f"{file}: holds no usable record (0 records)", named)


def test_row_4_no_interaction_with_a_known_item(folder):
    spoil(folder, "films/films.inter", lambda lines: [lines[0], *(line.replace(b"\ti", b"\tj") for line in lines[1:])])
    stays_out(folder, read(folder, "films/films.inter"), "films.inter: no interaction has", "(0 records)")


# --- row 5: repeated records ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [place for place in PLACES if PLACES[place] == "set"])
def test_row_5_a_repeated_line_of_a_data_set_counts_once(folder, place):
    spoil(folder, place, lambda lines: [*lines, lines[16]])
    told = json.loads(read(folder, place, "--json").stdout)
    assert told["repeated_lines"] == 1 and (told["items"], told["interactions"], told["queries"]) == (N, N, N)


@pytest.mark.parametrize(
    ("place", "change", "named"),
    [
        ("set/items.jsonl", with_fields(title="another"), "id: 'i16' was"),
        ("set/interactions.jsonl", with_fields(rating=1), "user, time, item: ('u"),
        ("set/queries.jsonl", with_fields(text="another"), "id: 'q16' was"),
        ("films/films.item", changed_column(1, b"another"), "item_id: 'i15' was"),
    ],
)
def test_row_5_the_error_for_a_contradiction_names_both_lines(folder, place, change, named):
    file = spoil(folder, place, lambda lines: [*lines, change(lines[16].rstrip(b"\n")) + b"\n"])
    last = len(file.read_bytes().splitlines())
    stays_out(folder, read(folder, place), f"{file}:{last}: {named}", "given with other content in line 17; keep one")


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("reviews.jsonl", "reviews of an item that the user had reviewed before"),
        ("metadata.jsonl", "metadata lines repeated for an item"),
        ("queries.jsonl", "queries whose qid was given before"),
        ("queries.csv", "queries whose qid was given before"),
        ("pool.jsonl", "pool lines repeated for an item"),
        ("past.jsonl", "reviews of an item that the user had reviewed before"),
        ("films/films.inter", "reviews of an item that the user had reviewed before"),
        ("films/films.item", "item lines repeated word for word"),
        ("stars.csv", "reviews of an item that the user had reviewed before"),
        ("things.tsv", "rows repeated for an item"),
    ],
)
def test_row_5_a_repeated_line_of_a_source_changes_nothing_and_is_counted(folder, place, step):
    assert read(folder, place).exit_code == 0
    spoil(folder, place, lambda lines: [*lines, lines[16]])
    told = json.loads(read(folder, place, "--json", out="again").stdout)
    assert [one["dropped"] for one in told["cleaning"] if one["step"] == step] == [1]
    assert parts(folder / "out") == parts(folder / "again")


# --- row 6: impossible numbers --------------------------------------------------------------------------------------

NO_RATINGS = [float("nan"), float("inf"), "5", None, True, 0, 10**400]
NO_TIMES = {
    -1: "lies before 1970",
    1_600_000_000_000: "lies after the year 2100, so it is in milliseconds",
    "7": "is not",
}


@pytest.mark.parametrize("rating", NO_RATINGS)
def test_row_6_an_impossible_rating_in_a_data_set(folder, rating):
    file = spoil(folder, "set/interactions.jsonl", at_17(with_fields(rating=rating)))
    stays_out(folder, read(folder, "set/interactions.jsonl"), f"{file}:17: rating:", "is not a number")


@pytest.mark.parametrize("place", ["set/interactions.jsonl", "set/queries.jsonl"])
@pytest.mark.parametrize("time", NO_TIMES)
def test_row_6_an_impossible_time_in_a_data_set(folder, place, time):
    file = spoil(folder, place, at_17(with_fields(time=time)))
    stays_out(folder, read(folder, place), f"{file}:17: time: {time!r} {NO_TIMES[time]}")


@pytest.mark.parametrize("place", ["reviews.jsonl", "past.jsonl"])
@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        *(({"rating": rating}, "rating from 1 to 5") for rating in (None, "", float("nan"), 0, "0", 5.5)),
        *(({"timestamp": time}, "time") for time in (None, " ", float("nan"))),
        *(
            ({name: value}, what)
            for name, what in (("user_id", "user"), ("parent_asin", "item"))
            for value in (None, "")
        ),
    ],
)
def test_row_6_a_review_that_lacks_something_is_dropped_and_counted(folder, place, fields, lacking):
    if place == "past.jsonl" and "user_id" in fields:
        pytest.skip("only the reviews by users with a query are read")
    file = folder / place
    spoil(folder, place, at_17(with_fields(**fields)))
    told = json.loads(read(folder, place, "--json").stdout)
    step = f"reviews without {lacking}"
    assert [one["dropped"] for one in told["cleaning"] if one["step"] == step] == [1]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:16], *lines[17:]]))
    assert read(folder, place, out="by hand").exit_code == 0
    assert parts(folder / "out") == parts(folder / "by hand")


NOT_READ = {
    "rating": {
        "five": "'five' is not a number",
        "4,5": "'4,5' is not",
        True: "True is not",
        10**400: "is not a finite",
    },
    "timestamp": {
        -1: "-1 lies before 1970",
        "soon": "'soon' is neither",
        True: "True is neither",
        10**16: "lies after",
    },
    "user_id": {True: "True is not a text", ("u", "v"): "['u', 'v'] is not a text", "a\0": "holds a NUL character"},
    "parent_asin": {True: "True is not a text", ("i", "j"): "['i', 'j'] is not a text"},
}


@pytest.mark.parametrize("place", ["reviews.jsonl", "past.jsonl"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NOT_READ.items() for value in values])
def test_row_6_a_value_of_a_review_that_cannot_be_read_is_named(folder, place, name, value):
    """A value of a wrong type is not one that is absent: the whole line is refused, or rejected and listed."""
    file = spoil(folder, place, at_17(with_fields(**{name: value})))
    named = f"{name}: {NOT_READ[name][value]}"
    stays_out(folder, read(folder, place), f"{file}:17: {name}:", NOT_READ[name][value])
    told = json.loads(read(folder, place, "--skip-bad", "--json").stdout)
    [line] = Path(told["rejects"][0]).read_text().splitlines()
    assert json.loads(line)["reason"].startswith(named) or NOT_READ[name][value] in json.loads(line)["reason"]


def as_text(row: dict) -> dict:
    return row | {"rating": str(row["rating"]), "timestamp": str(row["timestamp"])}


def as_float(row: dict) -> dict:
    return row | {"rating": int(row["rating"]), "timestamp": float(row["timestamp"])}


def as_date(row: dict) -> dict:
    return row | {"timestamp": datetime.fromtimestamp(row["timestamp"] / 1000, UTC).isoformat()}


@pytest.mark.parametrize("change", [as_text, as_float, as_date])
@pytest.mark.parametrize("part", [2, 1])
def test_row_6_what_is_meant_without_doubt_is_read(folder, change, part):
    """All or every second line writes numbers as texts, whole numbers with a point, or times as dates."""
    assert read(folder, "reviews.jsonl").exit_code == 0
    lines = (folder / "reviews.jsonl").read_text().splitlines()
    rows = [change(json.loads(line)) if n % part == 0 else json.loads(line) for n, line in enumerate(lines)]
    (folder / "reviews.jsonl").write_text(lines_of(rows))
    assert read(folder, "reviews.jsonl", out="again").exit_code == 0
    assert parts(folder / "out") == parts(folder / "again")


def test_row_6_ids_that_are_numbers_are_read_as_text(folder):
    """Also a title that is a number, and an item 0."""
    for name, key in (("reviews.jsonl", "parent_asin"), ("metadata.jsonl", "parent_asin")):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        rows = [row | {key: int(row[key][1:])} for row in rows]
        rows = [row | ({"user_id": int(row["user_id"][1:])} if "user_id" in row else {"title": 1984}) for row in rows]
        (folder / name).write_text(lines_of(rows))
    assert read(folder, "reviews.jsonl").exit_code == 0
    dataset = Dataset.load(folder / "out")
    assert {item.title for item in dataset.items.values()} == {"1984"} and set(dataset.items) == {*map(str, range(N))}
    assert dataset.users() == sorted(map(str, range(N // 2)))


@pytest.mark.parametrize(
    "categories", [[["Beauty", "Hair"]], [["Beauty", "Hair"], ["Beauty", "Skin"]], "[['Beauty', 'Hair']]"]
)
def test_row_6_nested_categories_are_one_path(folder, categories):
    rows = [
        json.loads(line) | {"categories": categories} for line in (folder / "metadata.jsonl").read_text().splitlines()
    ]
    (folder / "metadata.jsonl").write_text(lines_of(rows))
    assert read(folder, "metadata.jsonl").exit_code == 0
    assert {item.category for item in Dataset.load(folder / "out").items.values()} == {("beauty", "hair")}


@pytest.mark.parametrize("price", ["—", "", None, "call us", 0, -1, float("nan"), 10**400])
def test_row_6_a_price_that_is_none_costs_no_item(folder, price):
    spoil(folder, "metadata.jsonl", at_17(with_fields(price=price)))
    assert read(folder, "metadata.jsonl").exit_code == 0
    assert "price" not in Dataset.load(folder / "out").items["i16"].attributes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", ["a"]),
        ("title", True),
        ("brand", {}),
        ("categories", [{}]),
        ("price", []),
        ("details", 5),
        ("description", [[1]]),
    ],
)
def test_row_6_a_wrong_type_in_metadata_is_named(folder, name, value):
    file = spoil(folder, "metadata.jsonl", at_17(with_fields(**{name: value})))
    stays_out(folder, read(folder, "metadata.jsonl"), f"{file}:17: {name}: ")


@pytest.mark.parametrize("item", ["", " ", None])
def test_row_6_metadata_without_an_id_is_counted(folder, item):
    spoil(folder, "metadata.jsonl", at_17(with_fields(parent_asin=item)))
    told = json.loads(read(folder, "metadata.jsonl", "--json").stdout)
    assert {"step": "metadata without an item id", "dropped": 1, "kept": N - 1} in told["cleaning"]
    Dataset.load(folder / "out")


def test_row_6_a_metadata_id_with_nul_is_named(folder):
    file = spoil(folder, "metadata.jsonl", at_17(with_fields(parent_asin="a\0b")))
    stays_out(folder, read(folder, "metadata.jsonl"), f"{file}:17: parent_asin: holds a NUL character")


def test_row_6_milliseconds_in_reviews_are_detected_and_reported(folder):
    told = read(folder, "reviews.jsonl").stderr
    assert f"times in milliseconds, converted to seconds: dropped 0, kept {N}" in told
    assert {i.time for i in Dataset.load(folder / "out").interactions} == {100 * DAY, 101 * DAY}


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        (2, b"nan", "rating: 'nan' is not a finite number, but the column is float"),
        (2, b"inf", "rating: 'inf' is not a finite number, but the column is float"),
        (2, b"five", "rating: 'five' is not a finite number, but the column is float"),
        (2, b'"5"', "rating: '\"5\"' is not a finite number, but the column is float"),
        (
            3,
            b"881250949000",
            "timestamp: 881250949000 lies after the year 2100, so it is in milliseconds; divide by 1000",
        ),
        (3, b"-5", "timestamp: -5 lies before 1970"),
        (3, b"1e999", "timestamp: '1e999' is not a finite number"),
    ],
)
def test_row_6_an_impossible_number_in_recbole_files(folder, column, value, named):
    file = spoil(folder, "films/films.inter", at_17(changed_column(column, value)))
    stays_out(folder, read(folder, "films/films.inter"), f"{file}:17: {named}")
    told = json.loads(read(folder, "films/films.inter", "--skip-bad", "--json").stdout)
    assert told["records"][1] == {"file": str(file), "read": N, "taken": N - 1, "rejected": 1}
    assert told["interactions"] == N - 1


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        (2, b"nan", "stars: 'nan' is not a number"),
        (2, b"five", "stars: 'five' is not a number"),
        (3, b"1e999", "time: '1e999' is neither a number of seconds nor a date"),
        (3, b"yesterday", "time: 'yesterday' is neither a number of seconds nor a date such as 2024-01-31 18:30:00"),
        (3, b"-5", "time: -5 lies before 1970"),
        (3, b"1e15", "time: 1000000000000 lies after the year 2100"),
    ],
)
def test_row_6_an_impossible_number_in_a_table(folder, column, value, named):
    file = spoil(folder, "stars.csv", at_17(changed_column(column, value, b",")))
    stays_out(folder, read(folder, "stars.csv"), f"{file}:17: {named}")
    told = json.loads(read(folder, "stars.csv", "--skip-bad", "--json").stdout)
    assert told["records"][1] == {"file": str(file), "read": N, "taken": N - 1, "rejected": 1}
    assert told["interactions"] == N - 1


@pytest.mark.parametrize("column", [2, 3])
def test_row_6_an_empty_number_in_recbole_files_is_dropped_and_counted(folder, column):
    spoil(folder, "films/films.inter", at_17(changed_column(column, b"")))
    told = json.loads(read(folder, "films/films.inter", "--json").stdout)
    assert told["interactions"] == N - 1
    step = "interactions without a rating or a time"
    assert [one["dropped"] for one in told["cleaning"] if one["step"] == step] == [1]


# --- row 7: unknown ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "name"), [("set/interactions.jsonl", "item"), ("set/queries.jsonl", "target")])
def test_row_7_an_unknown_item_in_a_data_set_is_named(folder, place, name):
    file = spoil(folder, place, at_17(with_fields(**{name: "i77"})))
    named = f"{file}:17: {name}: no item 'i77' in items.jsonl; add the item or drop this record"
    stays_out(folder, read(folder, place), named)


def test_row_7_an_unknown_user_in_a_data_set_has_no_history(folder):
    spoil(folder, "set/queries.jsonl", at_17(with_fields(user="stranger")))
    data = Dataset.load(folder / "set")
    assert data.counts()["users"] == N + 1
    assert [data.history(query) for query in data.queries if query.user == "stranger"] == [[]]


@pytest.mark.parametrize(
    ("place", "change", "step", "interactions", "queries"),
    [
        (
            "films/films.inter",
            changed_column(1, b"i77"),
            "interactions with an item that has no row of its own",
            N - 1,
            None,
        ),
        (
            "stars.csv",
            changed_column(1, b"i77", b","),
            "interactions with an item that has no row of its own",
            N - 1,
            None,
        ),
        ("past.jsonl", with_fields(parent_asin="i77"), "reviews of items that are not in the pool", N - 1, N),
        ("queries.jsonl", with_fields(item_id="i77"), "queries whose target is not in the pool", N - 1, N - 1),
        (
            "queries.jsonl",
            with_fields(user_id="u77"),
            "queries whose own review is not in the reviews (time unknown)",
            N - 1,
            N - 1,
        ),
        (
            "queries.csv",
            lambda line: line.replace(b",i15,", b",i77,"),
            "queries whose target is not in the pool",
            N - 1,
            N - 1,
        ),
    ],
)
def test_row_7_unknown_ids_in_a_source_are_dropped_and_counted(folder, place, change, step, interactions, queries):
    spoil(folder, place, at_17(change))
    told = json.loads(read(folder, place, "--json").stdout)
    assert [one["dropped"] for one in told["cleaning"] if one["step"] == step] == [1]
    assert told["interactions"] == interactions and queries in (None, told["queries"])


def test_row_7_an_item_without_metadata_is_kept_and_counted(folder):
    spoil(folder, "reviews.jsonl", at_17(with_fields(parent_asin="i77")))
    told = json.loads(read(folder, "reviews.jsonl", "--json").stdout)
    step = "reviewed items without metadata, kept under the general category"
    assert [one["kept"] for one in told["cleaning"] if one["step"] == step] == [1]
    assert Dataset.load(folder / "out").items["i77"].title == "things i77"


@pytest.mark.parametrize("place", OF_ITEMS)
def test_row_7_records_with_a_rejected_item_are_rejected_for_that_reason(folder, place):
    item, file = OF_ITEMS[place], folder / place
    others = {"amazon": ["reviews.jsonl"], "c4": ["queries.jsonl", "past.jsonl"], "recbole": ["films/films.inter"]}
    others = [folder / other for other in others[PLACES[place]]]
    spoil(folder, place, at_17(half))
    told = json.loads(read(folder, place, "--skip-bad", "--json").stdout)
    listed = [json.loads(line) for path in told["rejects"] for line in Path(path).read_text().splitlines()]
    reason = f"the line of item '{item}' was rejected ({file}:17)"
    for other in others:
        found = [n for n, line in enumerate(other.read_text().splitlines(), 1) if re.search(rf"\b{item}\b", line)]
        if other.name == "past.jsonl":
            found = found[:1]  # the other one is by u16, who has no query left
        assert [one["line"] for one in listed if one["file"] == str(other) and reason in one["reason"]] == found != []
    assert item not in Dataset.load(folder / "out").items


def test_row_7_an_item_with_a_second_valid_line_is_not_lost(folder):
    spoil(folder, "pool.jsonl", lambda lines: [*lines[:16], half(lines[16]) + b"\n", *lines[16:]])
    told = json.loads(read(folder, "pool.jsonl", "--skip-bad", "--json").stdout)
    assert [one["rejected"] for one in told["records"]] == [1, 0, 0] and told["items"] == N


@pytest.mark.parametrize("place", ["films/films.inter", "films/films.item"])
def test_row_7_a_blank_id_in_recbole_files_is_named(folder, place):
    file = spoil(folder, place, at_17(changed_column(0, b" ")))
    name = "user_id" if place.endswith("inter") else "item_id"
    stays_out(folder, read(folder, place), f"{file}:17: {name}: is empty; give it a text or drop the record")


# --- row 8: RecBole's header ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "old", "new", "named"),
    [
        ("films/films.inter", b"user_id:token", b"user_id", "'user_id': a column is name:type with type one of token,"),
        ("films/films.inter", b"item_id:token", b"item_id:int", "'item_id:int': a column is name:type"),
        (
            "films/films.inter",
            b"\trating:float",
            b"\tstars:float",
            "rating: is missing; the header must hold rating:float",
        ),
        (
            "films/films.inter",
            b"rating:float",
            b"rating:token",
            "rating: is missing; the header must hold rating:float",
        ),
        (
            "films/films.inter",
            b"user_id:token",
            b"user_id:float",
            "user_id: is missing; the header must hold user_id:token",
        ),
        ("films/films.item", b"item_id:token", b"item_id", "'item_id': a column is name:type"),
        ("films/films.item", b"item_id:token", b"id:token", "item_id: is missing; the header must hold item_id:token"),
    ],
)
def test_row_8_a_wrong_header_is_refused_with_an_example_even_with_skip_bad(folder, place, old, new, named):
    file = spoil(folder, place, lambda lines: [lines[0].replace(old, new), *lines[1:]])
    for more in ((), ("--skip-bad",)):
        stays_out(folder, read(folder, place, *more), f"{file}:1: {named}", HEADER)


@pytest.mark.parametrize(("place", "old"), [("stars.csv", b"user"), ("stars.csv", b"time"), ("things.tsv", b"kinds")])
def test_row_8_a_column_that_a_table_does_not_have(folder, place, old):
    file = spoil(folder, place, lambda lines: [lines[0].replace(old, b"other"), *lines[1:]])
    for more in ((), ("--skip-bad",)):
        named = f"{file}:1: {old.decode()}: is missing; needed are "
        stays_out(folder, read(folder, place, *more), named, "the header holds '", "other")


def test_row_8_a_column_that_stands_twice_in_the_header(folder):
    file = spoil(
        folder, "films/films.inter", lambda lines: [lines[0].replace(b"rating:float", b"item_id:token"), *lines[1:]]
    )
    stays_out(folder, read(folder, "films/films.inter"), f"{file}:1: ")
    spoil(folder, "films/films.item", lambda lines: [lines[0].replace(b"title:", b"class:"), *lines[1:]])
    stays_out(folder, read(folder, "films/films.item"), "films.item:1: class: appears twice in the header")


@pytest.mark.parametrize("rating", [b"0", b"10", b"1e2"])
def test_row_8_equal_ratings_outside_1_to_5_become_5(folder, rating):
    spoil(
        folder,
        "films/films.inter",
        lambda lines: [lines[0], *(ln.replace(b"\t5\t", b"\t%s\t" % rating) for ln in lines[1:])],
    )
    assert read(folder, "films/films.inter").exit_code == 0
    assert {one.rating for one in Dataset.load(folder / "out").interactions} == {5.0}


@pytest.mark.parametrize(
    ("cell", "genres"),
    [
        (b"'Toys & Games', 'Dress Up'", {"toys & games", "dress up"}),
        (b"'Toys & Games', \"Men's\"", {"toys & games", "men's"}),
        (b"'Men's', 'Shoes'", {"men's", "shoes"}),
        (b"Comedy Drama", {"comedy", "drama"}),
        (b"'70s", {"'70s"}),
    ],
)
def test_row_8_quoted_names_in_recbole_files_are_whole(folder, cell, genres):
    """RecBole's own Amazon files quote their categories."""
    spoil(folder, "films/films.item", lambda lines: [lines[0], *(ln.replace(b"drama", cell) for ln in lines[1:])])
    assert read(folder, "films/films.item").exit_code == 0
    assert set(Dataset.load(folder / "out").items["i3"].attributes["genre"]) == genres


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_row_8_skip_bad_finds_the_item_of_a_bad_line_wherever_its_column_stands(folder, bom, end):
    def turned(line: bytes) -> bytes:
        return b"\t".join(line.rstrip(b"\n").split(b"\t")[::-1]) + end

    spoil(folder, "films/films.item", lambda lines: [bom + turned(lines[0]), *map(turned, lines[1:])])
    spoil(folder, "films/films.item", at_17(lambda line: line[:4] + b"\0" + line[4:]))
    told = json.loads(read(folder, "films/films.item", "--skip-bad", "--json").stdout)
    assert [one["rejected"] for one in told["records"]] == [1, 1]  # the item, and the interaction with it


@pytest.mark.parametrize("more", [-1, 1])
def test_row_8_a_wrong_number_of_columns_is_refused_with_the_header(folder, more):
    change = (lambda line: line.rpartition(b"\t")[0]) if more < 0 else (lambda line: line + b"\t7")
    file = spoil(folder, "films/films.inter", at_17(change))
    stays_out(
        folder, read(folder, "films/films.inter"), f"{file}:17: {4 + more} columns, but the header has 4: {HEADER}"
    )


@pytest.mark.parametrize(("old", "new"), [(b"item_id", b"item"), (b"qid,", b"number,")])
def test_row_8_a_csv_without_a_needed_column(folder, old, new):
    file = spoil(folder, "queries.csv", lambda lines: [lines[0].replace(old, new), *lines[1:]])
    for more in ((), ("--skip-bad",)):
        named = f"{file}:1: {old.decode().strip(',')}: is missing; needed are qid, query, item_id"
        stays_out(folder, read(folder, "queries.csv", *more), named)


def test_row_8_a_csv_record_of_several_lines_is_one_record(folder):
    """A second such record has one column too many; it is named by the line in which it begins."""
    rows = list(csv.reader(io.StringIO((folder / "queries.csv").read_text())))
    rows[5][1], rows[16] = "a thing\nof two lines", [*rows[16], "more\nand more"]
    with (folder / "queries.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    path = folder / "queries.csv"
    stays_out(folder, read(folder, "queries.csv"), f"{path}:18: 6 columns, but the header has 5")
    told = json.loads(read(folder, "queries.csv", "--skip-bad", "--json").stdout)
    assert told["records"][1] == {"file": str(path), "read": N, "taken": N - 1, "rejected": 1}
    [one] = [json.loads(line) for line in Path(told["rejects"][0]).read_text().splitlines()]
    assert one["line"] == 18 and one["raw"] == ",".join(rows[16][:-1]) + ',"more\nand more"'


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_has_a_test_named_after_it():
    rows = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        names = (node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
        rows |= {int(found[1]) for name in names if (found := re.match(r"test_row_(\d+)_", name))}
    assert {*range(1, 16), *range(20, 26)} <= rows
