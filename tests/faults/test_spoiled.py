"""Spoiled files: no traceback, nothing taken that a reader then refuses, and every record accounted for.

The quick tests spoil each kind of file a few times, the slow ones a thousand times.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
from spoil import spoil_a_line, spoiled
from test_data_faults import DAY, IMPORTS, OPTIONS, lines_of, made, parts

from mrrec_mini.data import Dataset
from runs import mrrec, refused

MANY = pytest.mark.slow
TIMES = [pytest.param(12, id="quick"), pytest.param(1000, id="thousand", marks=MANY)]
FORMS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}


def more_sources(folder: Path) -> Path:
    """Add the sources that `made` lacks: PersonalWAB, MiniOneRec and Rec-R1's form of reviews."""
    products = [{"parent_asin": f"i{n}", "title": f"thing {n}", "categories": ["A", "B"], "price": 5} for n in range(9)]

    def bought(user: int, item: int) -> dict:
        review = {"rating": 5.0, "title": "", "text": f"said {user} {item}", "timestamp": (100 + item) * DAY * 1000}
        return {"product_info": products[item], "review": review}

    histories = {f"u{user}": [bought(user, item) for item in range(user, user + 4)] for user in range(4)}
    (folder / "user_history.json").write_text(json.dumps(histories))
    task = {"type": "search", "task": "a thing", "timestamp": 200 * DAY * 1000}
    tasks = [task | {"user_id": f"u{n}", "target": {"product_info": products[8]}} for n in range(4)]
    (folder / "user_instructions.json").write_text(json.dumps({"train": tasks[:2], "test": tasks[2:]}))

    about = {str(n): {"title": f"thing {n}", "description": "", "brand": "x", "categories": "A,B"} for n in range(12)}
    (folder / "x.item.json").write_text(json.dumps(about))
    head = "user_id,history_item_title,item_title,history_item_id,item_id"
    rows = [f'u{n % 3},"[\'a\']",b,"{list(range(n % 3, n % 3 + 6 + n // 3))}",{n % 3 + 6 + n // 3}' for n in range(9)]
    (folder / "x.csv").write_text("\n".join([head, *rows, ""]))

    said = [{k: v for k, v in bought(1, n)["review"].items()} | {"parent_asin": f"i{n}"} for n in range(6)]
    (folder / "rec_r1.jsonl").write_text(
        lines_of({"user_id": f"u{n}", "history": said[:4], "target": said[5]} for n in range(9))
    )
    return folder


SOURCES = {
    **IMPORTS,
    **{"amazon alone": ("reviews.jsonl",), "amazon rec-r1": ("rec_r1.jsonl", "metadata.jsonl")},
    **{"personalwab": ("user_instructions.json", "user_history.json"), "minionerec": ("x.item.json", "x.csv")},
}
FILES = SOURCES | {"recbole": ("films/films.inter", "films/films.item"), "table": ("stars.csv", "things.tsv")}
# The file of interactions, and how the names of the steps that drop them begin.
DROPPING = {"amazon": "reviews.jsonl", "amazon alone": "reviews.jsonl", "recbole": "films.inter", "table": "stars.csv"}


def imported(folder: Path, kind: str, out: str, *more: object):
    more += (*OPTIONS[kind].split(), "--items", folder / "things.tsv") if kind in OPTIONS else ()
    sources = [folder / name for name in SOURCES[kind]]
    return mrrec("data", "import", kind.split()[0], *sources, "--out", folder / out, *more)


def readable(folder: Path) -> None:
    """Assert that a saved data set can be loaded, is what was saved, and that its numbers are its own."""
    dataset = Dataset.load(folder)
    assert "repeated_lines" not in dataset.meta and dataset.meta["counts"] == dataset.counts()
    again = folder.with_name("again")
    dataset.save(again)
    assert [(folder / f"{name}.jsonl").read_bytes() for name in ("items", "interactions", "queries")] == [
        (again / f"{name}.jsonl").read_bytes() for name in ("items", "interactions", "queries")
    ]


def accounted(kind: str, told: dict) -> None:
    """Assert that every record of the interactions was taken, rejected, or dropped by a named step."""
    for one in told["records"]:
        assert one["read"] == one["taken"] + one["rejected"]
    [taken] = [one["taken"] for one in told["records"] if one["file"].endswith(DROPPING[kind])]
    of_interactions = ("reviews", "earlier reviews", "interactions")
    dropped = sum(one["dropped"] for one in told["cleaning"] if one["step"].startswith(of_interactions))
    assert taken == dropped + told["interactions"], told


def try_source(folder: Path, kind: str, rng: random.Random, number: int) -> bool:
    """Spoil a file of a valid source, import it twice, and put it back. Returns whether --skip-bad imported it."""
    name = rng.choice(FILES[kind])
    form, valid = FORMS.get(Path(name).suffix, "json"), (folder / name).read_bytes()
    change = spoiled if name.endswith(".json") else spoil_a_line
    what, content = change(rng, valid, form)
    (folder / name).write_bytes(content)
    by_line, skipping = folder / f"strict {number}", folder / f"skipping {number}"
    try:
        done = imported(folder, kind, by_line.name)
        if done.exit_code:
            refused(done, 4)
            assert not by_line.exists()
        else:
            readable(by_line)
        skipped = imported(folder, kind, skipping.name, "--skip-bad", "--json")
        if skipped.exit_code:
            refused(skipped, 4)
            return False
        readable(skipping)
        told = json.loads(skipped.stdout)
        if kind in DROPPING:
            accounted(kind, told)
        if done.exit_code:
            assert told["rejects"], "it is refused without --skip-bad, so something must be rejected with it"
        else:
            assert parts(by_line) == parts(skipping)
        return True
    except BaseException as error:
        error.add_note(f"{number}: {name}, {what}")
        raise
    finally:
        (folder / name).write_bytes(valid)
        for made_here in (by_line, skipping):
            shutil.rmtree(made_here, ignore_errors=True)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", SOURCES)
def test_a_spoiled_source_is_imported_or_refused_in_one_line(tmp_path, kind, times):
    """With --skip-bad the result is the same if nothing was bad, and every record is accounted for."""
    folder, rng = more_sources(made(tmp_path)), random.Random(f"{kind} {times}")
    done = imported(folder, kind, "valid")
    assert done.exit_code == 0, done.stderr
    assert sum(try_source(folder, kind, rng, number) for number in range(times)) > times / 4  # not all beyond use
