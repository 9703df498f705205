"""Spoiled files: no traceback, nothing taken that a reader then refuses, and every record accounted for.

The quick tests spoil each kind of file a few times, the slow ones a thousand times.
"""

import json
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import pytest
from spoil import spoil_a_line, spoiled
from test_data_faults import DAY, IMPORTS, OPTIONS, lines_of, made, parts

from mrrec_mini import checkpoint, evaluate
from mrrec_mini.app.assistant import make_store
from mrrec_mini.app.report import read_arms, read_log
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Item
from mrrec_mini.export_lines import lines_of as lines_of_export
from mrrec_mini.run import Run
from mrrec_mini.store import Scope, Store
from runs import copied_run, mrrec, refused, shop

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
USER = "u000003"
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


# --- an import into a store -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store_file(tmp_path_factory) -> Path:
    """A store of the shop; a user of it also has notes, a corrected line and a deleted one."""
    path = tmp_path_factory.mktemp("store") / "memory.db"
    make_store(shop(), path, 0)
    with Store.open(path) as store:
        mine = store.for_user(USER)
        mine.update(mine.list("record").rows[0].id, mine.add("likes \ud55c\uae00 and 🎈").text)
        mine.delete(mine.list("pattern").rows[0].id)
        with suppress(LookupError):
            mine.get("not mine")
    return path


def use_memory(mine: Scope, item: Item) -> None:
    """Do what a person does with a memory. Afterwards, what is exported can be imported again."""
    entries = mine.list(limit=1000).rows
    mine.history(limit=1000), mine.stats(), mine.search("a mug", 3)
    for entry in entries[::7]:
        mine.why(entry.id, "mug")
    mine.remember(item, 5.0, "so lavish")
    mine.delete(next(one.id for one in mine.list(limit=1000).rows if one.level == "record"))
    mine.add("a last note")
    lines = mine.export()
    mine.forget()
    mine.restore(line.encode() for line in lines)
    assert mine.export() == lines


@pytest.mark.parametrize("times", [pytest.param(60, id="quick"), pytest.param(1000, id="thousand", marks=MANY)])
def test_a_spoiled_import_is_taken_and_usable_or_refused_by_line(store_file, times):
    rng, item = random.Random(times), next(iter(Dataset.load(shop()).items.values()))
    with Store.open(store_file) as store:
        mine = store.for_user(USER)
        whole = "".join(line + "\n" for line in mine.export()).encode()
        taken = 0
        for number in range(times):
            mine.forget()
            what, content = spoil_a_line(rng, whole, "json")
            try:
                mine.restore(lines_of_export(BytesIO(content)), "export")
            except DataError as error:
                assert str(error).startswith("export:") and "\n" not in str(error), f"{number}: {what}"
                assert mine.list().total == 0
                continue
            except BaseException as error:
                error.add_note(f"{number}: {what}")
                raise
            taken += 1
            try:
                use_memory(mine, item)
            except BaseException as error:
                error.add_note(f"{number}: {what}")
                raise
        assert 0 < taken < times / 2
        mine.forget()
        mine.restore(whole.splitlines(), "export")


# --- files of a run, a store and a data set ---------------------------------------------------------------------------


def use_environment(run: Run) -> None:
    environment = run.environment()
    query = environment.dataset.queries[0]
    environment.memory.entries(query)
    environment.items.search("a mug", 5)


def use_policy(run: Run) -> None:
    """Load the newest checkpoint; its manifest fits, as if the spoiled file had been saved with it."""
    folder = run.last_checkpoint()
    checkpoint._write_manifest(folder, int(folder.name.removeprefix("step-")))
    _, tokenizer = run.policy(lambda _: None)
    tokenizer.decode(range(len(tokenizer)))


def use_data(run: Run) -> None:
    dataset = run.dataset()
    evaluate.source_of(dataset)
    mrrec("data", "info", run.folder / "data")


RUN_FILES = {
    "config.json": lambda run: run.config,
    "metrics.jsonl": lambda run: (run.lines(), read_log(run.folder / "metrics.jsonl")),
    "evaluation.json": lambda run: read_arms(run.folder / "evaluation.json"),
    **dict.fromkeys(("fitted/memory.json", "fitted/texts.json", "fitted/items/index.json"), use_environment),
    **dict.fromkeys(("fitted/items/ids.json", "fitted/space-idf"), use_environment),
    "checkpoints/step-000002/manifest.json": lambda run: run.policy(lambda _: None),
    **dict.fromkeys(("checkpoints/step-000002/words.json", "checkpoints/step-000002/config.json"), use_policy),
    "data/meta.json": use_data,
}


@pytest.mark.parametrize("times", [pytest.param(3, id="quick"), pytest.param(100, id="hundred", marks=MANY)])
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_spoiled_file_of_a_run_is_read_or_refused(tmp_path, name, times):
    run, rng = Run(copied_run(tmp_path)), random.Random(f"{name} {times}")
    shutil.copytree(shop(), run.folder / "data")
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(config | {"data": str(run.folder / "data")}))
    file = run.folder / name
    if name == "evaluation.json":
        file.write_text(
            json.dumps({"grpo": {"ndcg@10": 0.1, "interval": [0.0, 0.2], "held": {"grpo": {"ndcg@10": 0.1}}}})
        )
    valid = file.read_bytes()
    for number in range(times):
        what, content = (spoil_a_line if name.endswith("jsonl") else spoiled)(rng, valid, "json")
        file.write_bytes(content)
        try:
            RUN_FILES[name](Run(run.folder))
        except (DataError, FileNotFoundError) as error:
            assert str(run.folder) in str(error) or "meta.json" in str(error)
        except BaseException as error:
            error.add_note(f"{number}: {name}, {what}")
            raise


PARTS = ("memory", "space", "embedder", "format", "reading", "idf", "vocabulary", "table")


@pytest.mark.parametrize("times", [pytest.param(16, id="quick"), pytest.param(1000, id="thousand", marks=MANY)])
def test_a_spoiled_store_is_used_or_refused(store_file, tmp_path, times):
    """What belongs to no user: configuration, text space and summariser."""
    rng, item = random.Random(times), next(iter(Dataset.load(shop()).items.values()))
    path = Path(shutil.copy(store_file, tmp_path / "memory.db"))
    with closing(sqlite3.connect(path)) as connection:
        valid = dict(connection.execute("SELECT key, value FROM meta UNION ALL SELECT part, content FROM learned"))
    for number in range(times):
        part = PARTS[number % len(PARTS)]
        raw = valid[part] if isinstance(valid[part], bytes) else valid[part].encode()
        what, content = spoiled(rng, raw, "json" if part != "table" else "bytes")
        table, key, column = ("meta", "key", "value") if part in PARTS[:4] else ("learned", "part", "content")
        with closing(sqlite3.connect(path)) as connection, connection:
            value = content.decode(errors="ignore") if table == "meta" else content
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, part))
        try:
            with Store.open(path) as store:
                mine = store.for_user("new")
                mine.remember(item, 5.0, "so lavish")
                mine.search("a mug", 3)
                mine.forget()
        except DataError as error:
            assert str(path) in str(error)
        except BaseException as error:
            error.add_note(f"{number}: {part}, {what}")
            raise
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (valid[part], part))
