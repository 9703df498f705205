"""The command line: every command on tiny data, as JSON and as tables; exit codes, Ctrl-C, pipes and terminals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from mrrec_mini.app.cli import app
from mrrec_mini.app.demo import DemoConfig
from mrrec_mini.data import Dataset
from mrrec_mini.run import Run
from runs import HOSTILE, QUICK, copied_run, made_run, mrrec, refused, same_weights, shop, started

USER = "u000003"


def document(*words):
    """What a command prints with --json. All of stdout must be one document in ASCII, so that every pipe accepts it."""
    done = mrrec(*words, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.isascii()
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def quick(monkeypatch):
    """Make `--fast` as small as these tests need."""
    monkeypatch.setattr("mrrec_mini.recipe.FAST", QUICK)


# --- demo ---


def test_demo_json(tmp_path, monkeypatch, quick):
    """The demo leaves its trained policy in a run folder below the current directory. Other commands can use it."""
    monkeypatch.chdir(tmp_path)
    told = document("demo", "--fast", "--data", shop())
    assert list(told) == ["data", "seeds", "other_people", "arms", "seconds"] and told["seeds"] == [0]
    assert {"ndcg@10", "recall@10", "interval", "sampled", "held"} <= set(told["arms"]["grpo"])
    assert {"ndcg@10", "interval", "sampled"} <= set(told["arms"]["grpo"]["held"])
    run = tmp_path / "runs" / "demo" / "shop" / "seed-0"
    assert sorted(path.name for path in run.iterdir()) == [
        *("before", "checkpoints", "config.json", "evaluation.json", "fitted", "made_from.json", "memory.db"),
        "metrics.jsonl",
    ]
    assert mrrec("recommend", "a mug", "--user", USER, "--run", run).exit_code == 0
    assert document("evaluate", "--run", run)["arms"]["grpo"]["ndcg@10"] == told["arms"]["grpo"]["ndcg@10"]


@pytest.mark.slow
def test_demo_in_processes(tmp_path):
    """Two seeds of the synthetic shop, each in its own process. stdout holds the document and nothing else."""
    demo = started("demo", "--fast", "--seed", 5, "--seeds", 2, "--json", cwd=tmp_path)
    stdout, stderr = demo.communicate()
    assert (demo.returncode, stderr) == (0, "")
    told = json.loads(stdout)
    assert told["seeds"] == [5, 6] and told["data"] == "world"
    assert {"expert", "oracle", "grpo"} <= set(told["arms"])
    assert sorted(path.name for path in (tmp_path / "runs" / "demo" / "world").iterdir()) == ["seed-5", "seed-6"]


@pytest.mark.slow
def test_demo_for_people(tmp_path):
    demo = started("demo", "--fast", cwd=tmp_path, env={"COLUMNS": "80"})
    stdout, stderr = demo.communicate()
    assert (demo.returncode, stderr) == (0, "")
    assert max(map(len, stdout.split("\n"))) <= 80 and "…" not in stdout and "\x1b" not in stdout
    for part in ("nDCG@10", "best_script", "clone", "A worked episode", "<query>", "Reward while learning", "seconds"):
        assert part in stdout


def test_demo_passes_its_options_on(monkeypatch):
    seen = []

    def run_demo(config, say, first):
        seen.append(config)
        raise LookupError("enough")

    monkeypatch.setattr("mrrec_mini.app.demo.run_demo", run_demo)
    monkeypatch.setattr("mrrec_mini.app.demo.run_first", lambda config, say: None)
    for words in ([], ["--fast"], ["--fast", "--seeds", "2", "--seed", "7"], ["--all", "--data", "d"]):
        assert mrrec("demo", *words).exit_code == 3
    everything, fast, seeds, full = seen
    assert everything == DemoConfig(seeds=(0, 1))  # two seeds by default
    assert fast == DemoConfig(seeds=(0,), fast=True)
    assert seeds.seeds == (7, 8)
    assert full.all_arms and str(full.data) == "d"


# --- data ---


def test_data_commands(tmp_path):
    made = mrrec("data", "make-world", "--users", 5, "--items", 40, "--seed", 2, "--out", tmp_path / "w")
    assert (made.exit_code, made.stdout) == (0, "")
    assert made.stderr == f"wrote 40 items, 180 interactions, 30 queries, 5 users to {tmp_path / 'w'}\n"
    told = document("data", "info", tmp_path / "w")
    assert told["items"] == 40 and told["queries"] == 30 and told["users"] == 5 and told["licence"] == "MIT"
    shown = mrrec("data", "info", tmp_path / "w")
    assert "interactions" in shown.stdout and "180" in shown.stdout and shown.stderr == ""
    assert Dataset.load(tmp_path / "w").meta["world"]["seed"] == 2


def test_data_import_says_what_it_dropped(tmp_path, shared_data):
    folder = shared_data("amazon_magazine_2018")
    files = (folder / "Magazine_Subscriptions_5.json.gz", folder / "meta_Magazine_Subscriptions.json.gz")
    done = mrrec("data", "import", "amazon", *files, "--out", tmp_path / "m")
    assert (done.exit_code, done.stdout) == (0, "")
    *steps, last = done.stderr.splitlines()
    assert last.startswith("wrote ") and "159 queries" in last
    assert steps and all(": dropped " in step and ", kept " in step for step in steps)
    told = document("data", "info", tmp_path / "m")
    assert [f"{s['step']}: dropped {s['dropped']}, kept {s['kept']}" for s in told["cleaning"]] == steps
    assert "".join(steps[0].split()) in "".join(mrrec("data", "info", tmp_path / "m").stdout.replace("│", "").split())


def test_data_import_recbole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "toy.item").write_text("item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tAlien\tHorror Sci-Fi\n")
    rows = (f"{user}\t1\t{4.0}\t{1000 + user}" for user in range(3))
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (source / "toy.inter").write_text(header + "".join(f"{row}\n" for row in rows))
    done = mrrec("data", "import", "recbole", source, "--out", tmp_path / "out")
    refused(
        done,
        4,
        "no query is left, so nothing is written (all were dropped as: users without an item that",
    )
    assert not (tmp_path / "out").exists()


# --- memory ---


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store of the shop. Each test writes about a user of its own."""
    store = tmp_path_factory.mktemp("kept") / "deep" / "memory.db"
    counts = document("memory", "build", "--data", shop(), "--store", store)["entries"]
    assert counts["record"] == 12 * 9 and [file.name for file in store.parent.iterdir()] == ["memory.db"]
    return store


def memory_of(user, store):
    """Two functions that run `mrrec memory ...` for one user: (with --json, without)."""
    tail = ("--store", store, "--user", user)
    return (lambda *words: document("memory", *words, *tail)), (lambda *words: mrrec("memory", *words, *tail))


def test_memory_build_for_people(tmp_path):
    done = mrrec("memory", "build", "--data", shop(), "--store", tmp_path / "memory.db")
    assert done.exit_code == 0 and "108 record" in done.stderr and "by extractive" in done.stderr
    again = mrrec("memory", "build", "--data", shop(), "--store", tmp_path / "memory.db")
    refused(again, 1, "memory.db already exists; choose another file")


def test_memory_commands_as_json(kept, tmp_path):
    ask, told = memory_of("carol", kept)
    note = ask("add", "allergic to wool")
    assert note["id"] == "carol/note/0" and note["level"] == "note" and ask("add", "allergic to wool") == note
    assert ask("get", note["id"]) == note
    assert ask("list") == {"entries": [note], "total": 1, "truncated": False, "cursor": None}
    [found] = ask("search", "wool")
    assert {key: found[key] for key in note} == note and {"score", "bm25", "cosine"} <= found.keys()
    assert ask("search", "wool", "--k", 0) == []
    changed = ask("update", note["id"], "allergic to silk", "--version", 1)
    assert changed["text"] == "allergic to silk" and ask("search", "silk")[0]["text"] == "allergic to silk"
    events = ask("history", note["id"])
    assert [event["kind"] for event in events["events"]] == ["add", "update"] and events["total"] == 2
    assert ask("history", "--limit", 1)["truncated"] and ask("history", "--limit", 1, "--cursor", 10**9)["events"] == []
    refused(told("get", "carol/note/9"), 3, "has no memory")
    assert ask("stats")["entries"] == {"note": 1} and ask("stats")["refused"] == 1
    why = ask("why", note["id"], "--query", "silk")
    assert why["search"]["place"] == 1 and why["search"]["words_in_common"] == ["silk"]
    exported = told("export").stdout
    assert told("export", "--out", tmp_path / "carol.jsonl").exit_code == 0
    assert (tmp_path / "carol.jsonl").read_text() == exported
    assert ask("delete", note["id"]) == {"deleted": note["id"]} and ask("list")["total"] == 0
    assert ask("forget-user", "--yes")["forgotten"] == "carol" and ask("history")["total"] == 0
    assert ask("import", tmp_path / "carol.jsonl")["imported"]["entry"] == 1
    assert told("export").stdout == exported


def test_memory_commands_for_people(kept):
    _, told = memory_of(USER, kept)
    listed = told("list", "--level", "record", "--limit", 4)
    assert listed.stdout.count(f"{USER}/record/") == 4 and "…" not in listed.stdout
    assert listed.stderr.startswith("4 of 9; the next ones: --cursor ")
    cursor = listed.stderr.split("--cursor ")[1].strip()
    assert told("list", "--level", "record", "--cursor", cursor).stdout.count(f"{USER}/record/") == 5
    best = told("search", "overall price", "--k", 1)
    assert best.exit_code == 0 and "overall" in best.stdout and best.stdout.count("/") == 2
    assert "9 record" in told("stats").stdout
    assert "rests on" in told("why", f"{USER}/record/0").stdout
    _, nobody = memory_of("nobody", kept)
    assert nobody("list").stderr == "memory of nobody: nothing\n"
    assert nobody("search", "qwrtzu").stderr == "'qwrtzu' in the memory of nobody: nothing\n"
    assert nobody("add", "likes tea").stdout.count("nobody/note/0") == 1
    asked = CliRunner().invoke(app, ["memory", "forget-user", "--store", str(kept), "--user", "nobody"], input="n\n")
    assert asked.exit_code == 1 and "Forget everything about nobody?" in asked.stderr
    assert nobody("list").stdout.count("likes tea") == 1


def test_memory_reindex(kept):
    assert document("memory", "reindex", "--store", kept)["vectors"] > 100


def test_memory_rebuild_global(kept, tmp_path):
    words = ("memory", "rebuild-global", "--store", kept)
    assert document(*words, "--data", shop(), "--seed", 3).keys() == {"global"}
    done = mrrec(*words)
    assert done.exit_code == 0 and done.stderr.startswith("built ") and done.stdout == ""
    refused(mrrec("memory", "rebuild-global", "--store", tmp_path / "none.db"), 3, "no store", "none.db")
    refused(mrrec(*words, "--data", tmp_path), 4, str(tmp_path))
    assert mrrec(*words, "--seed", -1).exit_code == 2


# --- train, evaluate, recommend ---


def test_a_run_can_be_resumed_after_ctrl_c(tmp_path, monkeypatch, quick):
    """Interrupted in step 3 of 5 and resumed, a run gets the same log and policy as 5 steps without a break."""
    run, whole = tmp_path / "a run", tmp_path / "whole"
    words = ("train", "--data", shop(), "--steps", 5, "--fast", "--run")
    log = Run.log

    def interrupting(self, line):
        log(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupting)
        stopped = mrrec(*words, run)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    command = f"mrrec train --data {shop()} --run '{run}' --steps 5 --resume"
    assert stopped.stderr == f"interrupted; resume with: {command}\n"
    assert [line["step"] for line in log_of(run)] == [1, 2, 3]
    assert mrrec("recommend", "a mug", "--user", USER, "--run", run).exit_code == 0  # the checkpoint is usable

    resumed = mrrec(*shlex.split(command)[1:])
    assert resumed.exit_code == 0 and resumed.stderr.startswith(f"{run}: 5 steps")
    assert mrrec(*words, whole).exit_code == 0
    assert [line["step"] for line in log_of(run)] == [1, 2, 3, 4, 5]
    assert log_of(run) == log_of(whole)
    assert same_weights(Run(run).policy()[0], Run(whole).policy()[0])


def log_of(run):
    """The lines of the log, without the times."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return [json.loads(line) | {"step_time": 0} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "demo"])
def test_ctrl_c_in_a_process(tmp_path, command):
    """Ctrl-C as a shell sends it, at any time: exit code 130, and at most one line on stderr."""
    words = {"train": ("train", "--data", shop(), "--run", "run", "--steps", 5000), "demo": ("demo", "--seeds", 2)}
    job = started(*words[command], "--fast", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while command == "train" and not log_of(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    job.send_signal(signal.SIGINT)
    stdout, stderr = job.communicate()
    assert (job.returncode, stdout) == (130, ""), stderr
    assert stderr.startswith("interrupted; resume with: ") if command == "train" else "Traceback" not in stderr


def test_ctrl_c_before_the_first_step(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrrec_mini.app.training.start_policy", interrupted)
    done = mrrec("train", "--data", shop(), "--run", tmp_path / "run", "--fast")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "interrupted before the first step; nothing was kept\n"
    assert not (tmp_path / "run").exists()  # so the same command works again


def test_train_and_evaluate_on_a_made_world(tmp_path, quick):
    """`train` makes the sibling shops from what `make-world` wrote. `evaluate` names the arm after the algorithm."""
    world, run = tmp_path / "w", tmp_path / "r"
    mrrec("data", "make-world", "--users", 12, "--items", 60, "--out", world)
    words = ("--run", run, "--steps", 1, "--algo", "reinforce", "--fast", "--seed", 3)
    done = mrrec("train", "--data", world, *words)
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    recipe, seed = Run(run).config.recipe, Run(run).config.seed
    assert recipe.siblings == 1 and "world" in Run(run).dataset().meta
    assert (recipe.train.algo, recipe.train.seed, seed) == ("reinforce", 3, 3)
    assert sorted(path.name for path in run.iterdir()) == [
        *("before", "checkpoints", "config.json", "fitted", "made_from.json", "memory.db", "metrics.jsonl"),
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000000", "step-000001"]
    assert sorted(path.name for path in (run / "checkpoints" / "step-000001").iterdir()) == [
        *("config.json", "generation_config.json", "manifest.json", "model.safetensors", "state.pt", "words.json"),
    ]
    told = document("evaluate", "--run", run)
    assert told["seeds"] == [3] and "reinforce" in told["arms"] and "grpo" not in told["arms"]
    assert json.loads((run / "evaluation.json").read_text())["arms"] == told["arms"]


def test_evaluate_for_people(tmp_path):
    run = copied_run(tmp_path)
    done = mrrec("evaluate", "--run", run)
    assert done.exit_code == 0 and "…" not in done.stdout
    written = json.loads((run / "evaluation.json").read_text())["arms"]
    for numbers in written.values():
        assert f"{numbers['ndcg@10']:.3f} {numbers['interval'][0]:.3f}..{numbers['interval'][1]:.3f}" in done.stdout


def test_recommend():
    words = ("recommend", "a lamp for office", "--user", USER, "--run", made_run())
    told = document(*words, "--k", 4)
    assert told["query"] == "a lamp for office" and told["user"] == USER and len(told["items"]) == 4
    met = {seen.item for seen in Dataset.load(shop()).interactions_of(USER)}
    assert not {item["id"] for item in told["items"]} & met
    shown = mrrec(*words)
    for item in told["items"]:
        assert item["id"] in shown.stdout
    assert "profile: " in shown.stdout and shown.stdout.startswith("<query> a lamp for office\n<global>")
    new = document("recommend", "a lamp", "--user", "nobody", "--run", made_run())
    assert len(new["items"]) == 5 and new["reason"].startswith("nothing is remembered of this user")


# --- in a shell ---


def test_version_and_help():
    assert mrrec("--version").stdout == "mrrec_mini 0.1.0\n"
    done = mrrec("--help")
    assert done.exit_code == 0
    for name in ("demo", "data", "memory", "train", "evaluate", "recommend"):
        assert name in done.stdout
    assert mrrec().exit_code == 2  # no command: usage


@pytest.mark.parametrize(
    "words",
    [
        *(["dmeo"], ["demo", "--seeds", "0"], ["demo", "--seed", "-1"], ["data", "make-world"]),
        ["train", "--data", "d", "--run", "r", "--algo", "nonsense"],
        ["train", "--data", "d", "--run", "r", "--steps", "0"],
        ["memory", "search", "price", "--data", "d", "--user", "u", "--k", "-1"],
        *(["recommend", "mug", "--user", "u", "--run", "r", "--k", k] for k in ("-2", "0", "x")),
    ],
)
def test_wrong_usage_is_2(words):
    done = mrrec(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


def test_head_closes_quietly():
    """The reader closes the pipe after one line. A pipe cannot hold the rest, so the writer must notice."""
    code = "from mrrec_mini.app.cli import shell; shell.json.dumps = lambda *_, **__: ('{\\n' + 'x\\n' * 200_000)"
    info = started("data", "info", shop(), "--json", before=code)
    assert info.stdout.readline() == "{\n"
    info.stdout.close()
    assert info.stderr.read() == ""
    assert info.wait() == 1


def test_a_closed_pipe_and_a_short_output():
    """The output fits into a pipe, so only the flush at the end can notice that the pipe is closed."""
    reader, writer = os.pipe()
    info = started("data", "info", shop(), "--json", stdout=writer)
    os.close(writer)
    os.close(reader)
    assert info.stderr.read() == "" and info.wait() == 1


@pytest.mark.parametrize("forbidden", [False, True])
def test_no_color_is_respected(forbidden):
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLORTERM": "", "NO_COLOR": "1" if forbidden else ""}
    done = started("data", "info", "nowhere", env=env)
    _, stderr = done.communicate()
    assert done.returncode == 4 and ("\x1b[31m" in stderr) != forbidden


def test_a_terminal_without_unicode_gets_everything(tmp_path):
    """Characters that the encoding lacks are shown as their numbers, and the output is complete."""
    data = Dataset.load(shop())
    Dataset(data.items, data.interactions, data.queries, {"name": "Büro 灯"}).save(tmp_path / "d")
    done = started("data", "info", tmp_path / "d", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    stdout, stderr = done.communicate()
    assert (done.returncode, stderr) == (0, "") and r"B\xfcro \u706f" in stdout


@pytest.mark.slow
def test_no_network_is_needed():
    """Any connection would raise an error. HF_HUB_OFFLINE is unset, so transformers would be free to connect."""
    code = """
import os, socket
os.environ.pop("HF_HUB_OFFLINE", None)
def refuse(*_): raise RuntimeError("a connection was opened")
socket.socket.connect = socket.getaddrinfo = refuse
"""
    done = started("recommend", "a lamp", "--user", USER, "--run", made_run(), "--json", before=code)
    stdout, stderr = done.communicate()
    assert done.returncode == 0, stderr
    assert len(json.loads(stdout)["items"]) == 5


def test_help_is_quick():
    """Neither --help nor a command without a model imports a heavy library."""
    code = (
        "import sys, mrrec_mini.app.cli\nfrom typer.testing import CliRunner\n"
        f"for words in (['--help'], ['train', '--help'], ['data', 'info', {str(shop())!r}]):\n"
        "    assert CliRunner().invoke(mrrec_mini.app.cli.app, words).exit_code == 0\n"
        "print([name for name in ('torch', 'sklearn', 'transformers', 'numpy') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_texts_cannot_control_the_terminal(tmp_path):
    """Markup and emoji names in a text are printed as written. Escape sequences are printed as backslash escapes."""
    data = Dataset.load(shop())
    Dataset(data.items, data.interactions, data.queries, {"name": HOSTILE}).save(tmp_path / "d")
    told = "".join(mrrec("data", "info", tmp_path / "d").stdout.replace("│", "").split())
    assert r"[boldred]x[/][/nothing]:cat:\x1b[2J\x1b]0;owned\x07\x9b31m\u202e" in told
    assert "\x1b" not in mrrec("recommend", HOSTILE, "--user", HOSTILE, "--run", made_run()).output
    done = mrrec("memory", "get", "qwrtzu", "--store", made_run() / "memory.db", "--user", USER + HOSTILE)
    assert done.exit_code == 3 and "\x1b" not in done.stderr and "[bold red]x[/]" in done.stderr
