"""A run folder: its files, that it is read as it was written, that only one process trains it, and its answers."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from house import ROOT
from mrrec_mini import environment_on_disk
from mrrec_mini.app.assistant import Assistant
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.environment import item_text
from mrrec_mini.grpo import GRPOConfig
from mrrec_mini.hybrid import HybridIndex
from mrrec_mini.recipe import FAST, Recipe, prepare
from mrrec_mini.run import Run, RunConfig
from mrrec_mini.store import Store, build_store
from mrrec_mini.typed import typed
from mrrec_mini.world import make_world
from runs import QUICK, SHOP, copied_run, made_run, mrrec, refused, shop

USER = "u000003"

# --- config.json ---

ODD = replace(
    QUICK,
    shares=(0.4, 0.2, 0.4),
    train=replace(QUICK.train, algo="reinforce", grpo=GRPOConfig(clip=(0.1, 0.3))),
)


@pytest.mark.parametrize("recipe", [Recipe(), FAST, ODD, Recipe().ablated(global_k=0, max_calls=1)])
def test_a_recipe_survives_json(recipe):
    back = typed(Recipe, json.loads(json.dumps(asdict(recipe))))
    assert back == recipe
    assert hash(back) == hash(recipe)  # a list in place of a tuple could not be hashed


def written(folder: Path, config: RunConfig) -> Run:
    config.write(folder / "config.json")
    return Run(folder)


def test_a_config_is_read_as_it_was_written(tmp_path):
    run = written(tmp_path / "a", RunConfig(ODD, 7, shop()))
    assert run.config == RunConfig(ODD, 7, shop().resolve())
    assert run.dataset().counts() == Dataset.load(shop()).counts()
    run = written(tmp_path / "b", RunConfig(FAST, 3, None, SHOP, "a digest"))
    config = run.config
    assert (config.recipe, config.seed, config.data, config.formulas) == (FAST, 3, None, "a digest")
    assert run.dataset().queries == make_world(SHOP).queries


def test_a_config_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").symlink_to(shop())
    monkeypatch.chdir(tmp_path)
    run = written(tmp_path / "run", RunConfig(QUICK, 0, (tmp_path / "here").relative_to(tmp_path)))
    monkeypatch.chdir("/")
    assert run.dataset().counts() == Dataset.load(shop()).counts()


GOOD = {"seed": 0, "data": None, "formulas": None, "world": asdict(SHOP), "recipe": asdict(QUICK)}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '{"a": 1}', '{"model_type": "llama"}', "\x00"),
        *(json.dumps(GOOD | change) for change in ({"seed": "x"}, {"recipe": {}}, {"world": None}, {"data": 4})),
        json.dumps(GOOD | {"world": {"shops": 3}}),
        json.dumps(GOOD | {"recipe": asdict(QUICK) | {"new": 1}}),
        json.dumps(GOOD | {"recipe": asdict(QUICK) | {"train": asdict(QUICK.train) | {"algo": "ppo"}}}),
    ],
)
def test_a_config_that_no_run_wrote_is_a_data_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError) as error:
        Run(tmp_path).config  # noqa: B018
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: not what `mrrec train` writes")
    assert "\n" not in str(error.value)


def test_a_good_config_of_that_kind_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert (Run(tmp_path).config.recipe, Run(tmp_path).config.seed) == (QUICK, 0)


def test_a_folder_without_a_config_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run"):
        Run(tmp_path).config  # noqa: B018


def test_a_run_whose_data_set_is_gone_says_so(tmp_path):
    run = copied_run(tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match=r"gone: the run's data set is not here; if it was moved, `mrrec evaluate"):
        Run(run).environment()


# --- the folder ---


def test_a_run_folder_holds_the_documented_files():
    run = made_run()
    sqlite = {"memory.db-wal", "memory.db-shm"}  # SQLite's own files while a process has the store open
    promised = {"before", "checkpoints", "config.json", "fitted", "made_from.json", "memory.db", "metrics.jsonl"}
    assert {path.name for path in run.iterdir()} - sqlite == promised
    assert (run / "checkpoints" / "step-000002" / "model.safetensors").is_file()
    config = json.loads((run / "config.json").read_text())
    assert sorted(config) == ["code", "data", "formulas", "recipe", "seed", "threads", "torch", "world"]
    lines = Run(run).lines()
    assert [line["step"] for line in lines] == [1, 2]
    assert {"reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "grad_norm", "step_time"} <= set(lines[0])
    assert "validation/ndcg@10" in lines[1]


def test_starting_over_deletes_only_files_of_a_run(tmp_path):
    run = Run(copied_run(tmp_path))
    (run.folder / "notes.txt").write_text("mine")
    run.start_over()
    assert {path.name for path in run.folder.iterdir()} == {"notes.txt"}


def test_starting_over_on_the_same_data_keeps_what_people_added(tmp_path):
    run = Run(copied_run(tmp_path))
    Assistant.open(run.folder).store.for_user(USER).add("allergic to wool")
    run.start_over(Dataset.load(shop()).sha256, 0)
    with Store.open(run.folder / "memory.db") as store:
        assert store.for_user(USER).list(level="note").total == 1


@pytest.mark.parametrize("change", ["data", "seed"])
def test_starting_over_with_another_split_deletes_the_memory(tmp_path, change):
    run = Run(copied_run(tmp_path))
    Assistant.open(run.folder)
    run.start_over(*{"data": ("another sum", 0), "seed": (Dataset.load(shop()).sha256, 1)}[change])
    assert not (run.folder / "memory.db").exists()


def from_scratch(run: Run) -> Assistant:
    """The run's assistant, with environment and store built again from the data set."""
    opened = Assistant.open(run.folder)
    environment = prepare(run.dataset(), replace(run.config.recipe, siblings=0), run.config.seed)[0]
    path = run.folder / "again.db"
    build_store(path, environment.dataset, environment.memory)
    return replace(opened, environment=environment, store=Store.open(path))


WISHES = ("a lamp for office", "mug for hiking", "something small and red", "kettle")


def test_an_opened_run_answers_exactly_as_one_prepared_from_scratch(tmp_path):
    run = Run(copied_run(tmp_path))
    scratch, opened = from_scratch(run), Assistant.open(run.folder)
    one, other = scratch.environment, opened.environment
    assert other.split == one.split and other.memory.global_entries == one.memory.global_entries
    assert other.memory.space.embedder_id == one.memory.space.embedder_id
    assert other.memory.summarizer == one.memory.summarizer and other.memory.config == one.memory.config
    for text in WISHES:
        for user in (USER, "u000007", "nobody"):
            assert opened.recommend(user, text, 20).as_dict() == scratch.recommend(user, text, 20).as_dict()
        assert other.items.search(text, 60) == one.items.search(text, 60)
        assert other.memory.search_global(text, 9) == one.memory.search_global(text, 9)
    for query in one.dataset.queries:
        assert other.memory.entries(query) == one.memory.entries(query)
        assert other.memory.search(query, query.text, 5) == one.memory.search(query, query.text, 5)
    with scratch.store, opened.store:
        assert opened.explain(USER, WISHES[0]).as_dict() == scratch.explain(USER, WISHES[0]).as_dict()


def test_missing_fitted_files_and_memory_are_made_once(tmp_path):
    """An interrupted run, or one of an older version."""
    run = copied_run(tmp_path)
    expected = Assistant.open(run).recommend(USER, WISHES[0])
    shutil.rmtree(run / "fitted")
    for file in run.glob("memory.db*"):
        file.unlink()
    assert Assistant.open(run).recommend(USER, WISHES[0]) == expected
    assert (run / "fitted").is_dir() and (run / "memory.db").is_file()
    assert Assistant.open(run).recommend(USER, WISHES[0]) == expected


def test_a_synthetic_shop_is_saved_in_the_run_and_read_from_there(tmp_path, monkeypatch):
    run = written(tmp_path, RunConfig(QUICK, 0, None, SHOP))
    made = make_world(SHOP)
    first = run.dataset()
    monkeypatch.setattr("mrrec_mini.run.make_world", lambda world: pytest.fail("made again"))
    for dataset in (first, Run(tmp_path).dataset()):
        assert list(dataset.items.items()) == list(made.items.items())
        assert list(dataset.interactions) == list(made.interactions) and dataset.queries == made.queries
        assert dataset.meta["world"] == json.loads(json.dumps(made.meta["world"]))
    assert (tmp_path / "data" / "items.jsonl").is_file()


@pytest.mark.parametrize("harm", ["cut", "missing", "format"])
@pytest.mark.parametrize("file", ["memory.json", "texts.json", "items/index.json", "items/vectors.npy"])
def test_a_damaged_fitted_file_is_named(file, harm, tmp_path):
    run = copied_run(tmp_path)
    path = run / "fitted" / file
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path = run / "fitted" / "memory.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(
        DataError, match=r"fitted: cannot be used .*; delete this folder, and it is made again"
    ) as error:
        Run(run).environment()
    assert "\n" not in str(error.value)
    shutil.rmtree(run / "fitted")
    Run(run).environment()


# --- items are added, changed and deleted ---


def with_items(data: Path, items: dict) -> Dataset:
    """The shop with other items, in the same folder."""
    old = Dataset.load(data)
    bought = [one for one in old.interactions if one.item in items]
    asked = [one for one in old.queries if one.target in items]
    Dataset(items, bought, asked, {"name": "changed"}).save(data)
    return Dataset.load(data)


def test_only_changed_rows_of_the_saved_index_are_replaced(tmp_path, monkeypatch):
    """Two items are new, one changed, one is gone; the index answers as one of all items in the same text space."""
    data = Path(shutil.copytree(shop(), tmp_path / "data"))
    run = Run(copied_run(tmp_path))
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(config | {"data": str(data)}))
    space = Run(run.folder).environment().items.space

    items = dict(Dataset.load(data).items)
    used = {one.item for one in Dataset.load(data).interactions} | {one.target for one in Dataset.load(data).queries}
    gone = next(id for id in items if id not in used)
    changed, model = list(items)[5], list(items)[6]
    del items[gone]
    items[changed] = replace(items[changed], title="a small red teapot", description="for hiking")
    items |= {id: replace(items[model], id=id, title=f"new {id} lamp") for id in ("a-new-one", "z-new-one")}
    dataset = with_items(data, items)

    with monkeypatch.context() as patch:
        patch.setattr(HybridIndex, "__init__", lambda *_, **__: pytest.fail("an index was built"))
        patch.setattr("mrrec_mini.memory.EntryIndex.__init__", lambda *_, **__: None)
        environment = Run(run.folder).environment()
    assert "a-new-one" in json.loads((run.folder / "fitted" / "texts.json").read_text())  # the difference was saved
    whole = HybridIndex(list(items), [item_text(item) for item in dataset.items.values()], space)
    for text in (*WISHES, "new lamp", "small red teapot", items[model].title):
        assert environment.items.search(text, 100) == whole.search(text, 100)
    assert environment.items.search("new z-new-one lamp", 1)[0].id == "z-new-one"
    assert gone not in environment.items.ids and len(environment.items) == len(items)

    monkeypatch.setattr(environment_on_disk, "save", lambda *_: pytest.fail("nothing changed since"))
    again = Run(run.folder).environment()
    for text in (*WISHES, "new lamp"):
        assert again.items.search(text, 100) == whole.search(text, 100)


def test_a_new_item_is_recommended_without_training_again(tmp_path):
    data = Path(shutil.copytree(shop(), tmp_path / "data"))
    run = copied_run(tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(data)}))
    items = dict(Dataset.load(data).items)
    best = Assistant.open(run).recommend("nobody", "a lamp for office").items[0][0]
    with_items(data, items | {"0-new": replace(best, id="0-new")})
    answer = Assistant.open(run).recommend("nobody", "a lamp for office")
    assert "0-new" in [item.id for item, _ in answer.items]


# --- only one process trains a run ---

HOLDING = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from mrrec_mini.run import Run
with Run(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_while_a_process_trains_a_run_others_may_only_read_it(tmp_path):
    run = copied_run(tmp_path)
    code = HOLDING.format(root=str(ROOT))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", code, str(run)], **pipes)
    assert other.stdout.readline() == "locked\n"
    train = ("train", "--data", shop(), "--run", run, "--steps", 3, "--resume")
    log = (run / "metrics.jsonl").read_bytes()
    refused(mrrec(*train), 1, str(run), f"another process ({other.pid}) is training this run; wait until it ends")
    assert (run / "metrics.jsonl").read_bytes() == log
    assert mrrec("recommend", "a lamp", "--user", USER, "--run", run, "--json").exit_code == 0  # readers may read
    other.kill()  # it cannot unlock the run itself; the operating system does
    other.wait()
    assert mrrec(*train).exit_code == 0


def test_the_lock_ends_with_its_block(tmp_path):
    run = Run(tmp_path)
    with run.lock():
        with pytest.raises(OSError, match=r"another process .* is training this run") as error, Run(tmp_path).lock():
            pass
        assert error.value.filename == str(tmp_path)
    with run.lock():
        pass
    assert not tmp_path.exists()  # nothing was written
