"""Two processes and one name, and signals: one wins, the others wait or are refused in one line; nothing is left.

The races run in forked processes, which are quick to start. The thirty rounds of each race, and the signals to parents
with child processes, are slow tests.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from house import ROOT
from mrrec_mini import checkpoint, environment_on_disk, files, run, signals, store
from mrrec_mini.app import processes
from mrrec_mini.app.processes import run_tasks
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.memory import Memory, MemoryConfig
from mrrec_mini.run import Run
from mrrec_mini.store import Store, StoreBusy, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from runs import QUICK, copied_run, mrrec, refused, shop, started

USER = "u000003"
FORK = multiprocessing.get_context("fork")


# --- races between commands ---


def race(*commands) -> list[tuple[int, str, str]]:
    """Run commands at the same moment, each in a process of its own; return (exit code, stdout, stderr) of each."""
    answers, barrier = FORK.Queue(), FORK.Barrier(len(commands))

    def child(place: int, words: tuple) -> None:
        barrier.wait()
        done = mrrec(*words)
        answers.put((place, done.exit_code, done.stdout, done.stderr))

    children = [FORK.Process(target=child, args=pair) for pair in enumerate(commands)]
    for one in children:
        one.start()
    found = dict((place, rest) for place, *rest in (answers.get(timeout=900) for _ in children))
    for one in children:
        one.join()
    return [tuple(found[place]) for place in range(len(commands))]


def one_wins(results, *refusals: str) -> None:
    """Assert that one command ended well, and the others with one line on stderr that holds one of `refusals`."""
    assert [code for code, _, _ in results].count(0) == 1, results
    for code, stdout, stderr in results:
        if code:
            assert (code, stdout, stderr.count("\n")) == (1, "", 1), stderr
            assert any(refusal in stderr for refusal in refusals), stderr


def three_first_builds(folder: Path) -> None:
    path = folder / "memory.db"
    one_wins(race(*[("memory", "build", "--data", shop(), "--store", path)] * 3), "is building", "already exists")
    with Store.open(path) as opened:
        assert opened._rows("PRAGMA integrity_check") == [("ok",)]
    assert [one.name for one in folder.iterdir()] == ["memory.db"]


def three_first_answers(folder: Path, monkeypatch) -> None:
    """Nobody has made fitted/ and memory.db yet: one process makes them, and all answer alike."""
    made = copied_run(folder)
    shutil.rmtree(made / "fitted")
    note = folder / "made.txt"

    def noting(original):
        def call(*args, **kwargs):
            with note.open("a") as file:
                file.write(original.__name__ + "\n")
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(environment_on_disk, "save", noting(environment_on_disk.save))
        patch.setattr(run, "build_store", noting(build_store))
        results = race(*[("recommend", "a lamp", "--user", USER, "--run", made, "--json")] * 3)
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert len({stdout for _, stdout, _ in results}) == 1 and not any(stderr for _, _, stderr in results)
    assert sorted(note.read_text().split()) == ["build_store", "save"]
    assert not [path.name for path in made.iterdir() if path.name.startswith(".") or path.name == "lock"]


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in Run(folder).lines()]


def two_trainers(folder: Path) -> None:
    words = ("train", "--data", shop(), "--run", folder / "run", "--fast", "--steps", 2)
    one_wins(race(words, words), "is training this run", "holds a run already")
    assert steps_of(folder / "run") == [1, 2]
    Run(folder / "run").policy()


def two_resume(folder: Path) -> None:
    made = copied_run(folder)
    words = ("train", "--data", shop(), "--run", made, "--steps", 6, "--resume")
    results = race(words, words)
    if [code for code, _, _ in results] != [0, 0]:  # the second may begin after the first has ended, with nothing to do
        one_wins(results, "is training this run")
    assert steps_of(made) == [1, 2, 3, 4, 5, 6]
    Run(made).policy()


@pytest.fixture
def quick(monkeypatch):
    """Make `--fast` as small as these tests need."""
    monkeypatch.setattr("mrrec_mini.recipe.FAST", QUICK)


def test_three_first_builds_make_one_store(tmp_path):
    three_first_builds(tmp_path)


def test_three_first_answers_make_one_memory(tmp_path, monkeypatch):
    three_first_answers(tmp_path, monkeypatch)


def test_two_trainers_in_one_folder(tmp_path, quick):
    two_trainers(tmp_path)


def test_two_processes_resume_one_run(tmp_path):
    two_resume(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["builds", "answers", "trainers", "resume"])
def test_thirty_rounds(tmp_path, monkeypatch, quick, kind):
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        if kind == "answers":
            three_first_answers(folder, monkeypatch)
        else:
            {"builds": three_first_builds, "trainers": two_trainers, "resume": two_resume}[kind](folder)


# --- the moments that a race rarely hits ---


@contextmanager
def elsewhere(action):
    """Run `action` in another process; when the block ends, wait for that process and require that it succeeded."""
    child = FORK.Process(target=action)
    child.start()
    try:
        yield child
        child.join(900)
    finally:
        child.kill()
    assert child.exitcode == 0


def small_memory() -> tuple[Dataset, Memory]:
    dataset = Dataset.load(shop())
    parts = MemoryConfig(), ExtractiveSummarizer(), HybridConfig(), np.random.default_rng(0)
    return dataset, Memory.build(dataset, dataset.users(), *parts)


def test_a_build_does_not_replace_a_store_that_was_made_meanwhile(tmp_path):
    """A slower build must not delete what somebody wrote into the store of the faster one, nor its log."""
    path, (dataset, memory) = tmp_path / "memory.db", small_memory()
    ready = FORK.Event()

    def second() -> None:
        ready.set()
        with pytest.raises(ValueError, match="already exists"):
            build_store(path, dataset, memory)

    with elsewhere(second):
        began = []

        def progress(*_):
            if not began:
                began.append(ready.wait(900))
                time.sleep(0.3)  # until the second waits for the first, or builds beside it

        build_store(path, dataset, memory, progress)
        with Store.open(path) as opened:
            opened.for_user(USER).add("allergic to wool")
    with Store.open(path) as opened:
        assert opened.for_user(USER).list(level="note").total == 1


def test_a_second_trainer_is_refused_before_it_works_in_vain(tmp_path, monkeypatch):
    monkeypatch.setattr("mrrec_mini.app.training.prepare", lambda *_: pytest.fail("it began"))
    ready, end = FORK.Event(), FORK.Event()

    def first() -> None:
        with Run(tmp_path / "run").lock():
            ready.set()
            end.wait(900)

    with elsewhere(first) as process:
        ready.wait(900)
        words = ("train", "--data", shop(), "--run", tmp_path / "run", "--fast")
        refused(mrrec(*words), 1, f"another process ({process.pid}) is training this run")
        end.set()


def test_a_second_demo_is_refused_before_it_works_in_vain(tmp_path, monkeypatch):
    monkeypatch.setattr("mrrec_mini.app.demo.prepare", lambda *_: pytest.fail("it began"))
    monkeypatch.chdir(tmp_path)
    with Run(Path("runs/demo/world/seed-0")).lock():
        refused(mrrec("demo", "--fast", "--json"), 1, "runs/demo/world/seed-0", "is training this run")


def test_a_second_reproduction_in_one_folder_is_refused(tmp_path):
    from mrrec_mini.app.jobs import Plan, run_jobs

    plan = Plan(tmp_path, None, (0,), fast=True)
    run_jobs(plan, [], 1)
    folder = plan.result_path("", 0).parent
    with files.locked(folder / "lock"), pytest.raises(OSError, match="is making these results"):
        run_jobs(plan, ["start"], 1)


def test_a_reader_waits_while_the_fitted_files_are_replaced(tmp_path):
    made = copied_run(tmp_path)
    Run(made).environment()
    ready = FORK.Event()

    def replacing() -> None:
        with Run(made)._opening():
            (made / "fitted").rename(made / "aside")
            ready.set()
            time.sleep(0.5)
            (made / "aside").rename(made / "fitted")

    with elsewhere(replacing):
        ready.wait(900)
        before = (made / "aside" / "memory.json").stat().st_mtime_ns
        Run(made).environment()
    assert (made / "fitted" / "memory.json").stat().st_mtime_ns == before  # it was not made again


def test_a_reader_of_a_live_run_takes_the_checkpoint_that_is_newest_now(tmp_path, monkeypatch):
    """While a checkpoint is read, the trainer saves newer ones and deletes it."""
    made = copied_run(tmp_path)
    [*_, old] = sorted((made / "checkpoints").iterdir())
    read, load = [], run._load

    def slow(folder: Path, device: str):
        read.append(folder.name)
        if len(read) == 1:
            checkpoint.save(made, 9, lambda fresh: shutil.copytree(old, fresh, dirs_exist_ok=True, ignore=MANIFEST))
            shutil.rmtree(old)
        return load(folder, device)

    monkeypatch.setattr(run, "_load", slow)
    Run(made).policy(pytest.fail)
    assert read == [old.name, "step-000009"]
    (made / "checkpoints" / "step-000009" / "words.json").write_text("[]")
    with pytest.raises(DataError, match="no checkpoint is whole"):
        Run(made).policy()


MANIFEST = shutil.ignore_patterns("manifest.json")


def test_two_writers_of_one_folder_take_turns(tmp_path):
    """Each replaces the folder many times: no half, no error, and nothing stays beside it."""
    folder = tmp_path / "set"

    def write(name: str) -> None:
        for _ in range(100):
            with files.replacing_folder(folder) as fresh:
                (fresh / name).write_text(name)

    with elsewhere(partial(write, "a")), elsewhere(partial(write, "b")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and len(list(folder.iterdir())) == 1


# --- retries that end ---


@pytest.fixture
def meddled(tmp_path, monkeypatch):
    """A store whose user gets another note each time that summaries or contrasts are computed; and the number of times.

    With retries without a bound, the verb below would never end; the fixture then fails after ten.
    """
    path = tmp_path / "memory.db"
    assert mrrec("memory", "build", "--data", shop(), "--store", path).exit_code == 0
    with Store.open(path) as mine:
        monkeypatch.setattr(store, "WAIT", 0.05)
        with Store.open(path) as other:
            calls = []

            def meddle() -> None:
                calls.append(1)
                assert len(calls) < 10, "it never ends"
                with suppress(StoreBusy):  # in the last attempt, others wait
                    other.for_user(USER).add(f"note {len(calls)}")

            yield mine, meddle, calls


def before_each(monkeypatch, owner, name: str, meddle) -> None:
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: (meddle(), original(*args, **kwargs))[1])


def test_rebuild_global_ends_beside_a_user_who_writes_all_the_time(meddled, monkeypatch):
    mine, meddle, calls = meddled
    mine._connection.execute("UPDATE person SET teaches = 1")
    before_each(monkeypatch, store, "sample_contrasts", meddle)
    mine.rebuild_global(np.random.default_rng([0, 1]))
    assert len(calls) == store.TRIES and mine.for_user(USER).list(level="note").total == store.TRIES - 1


@pytest.mark.parametrize("verb", ["remember", "delete"])
def test_a_summary_ends_beside_notes_of_the_same_user(meddled, monkeypatch, verb):
    mine, meddle, calls = meddled
    scope = mine.for_user(USER)
    [record, *_] = scope.list(level="record").rows
    purchases = scope.purchases()
    before_each(monkeypatch, store.Scope, "_summarise", meddle)
    if verb == "remember":
        scope.remember(purchases[0].item, 5.0, "so soft")
        assert len(scope.purchases()) == len(purchases) + 1
    else:
        scope.delete(record.id)
        assert record.id not in [one.record for one in scope.purchases()]
    assert len(calls) == store.TRIES and scope.list(level="note").total == store.TRIES - 1


# --- signals ---


@pytest.fixture(autouse=True)
def not_ignored():
    """SIGHUP is not ignored, here and in processes that a test starts, even if `nohup` runs the tests."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_a_checkpoint_as_ctrl_c_does(tmp_path, monkeypatch, quick, name):
    """A second signal, while the checkpoint is saved, does not spoil it."""
    signals.stop_like_ctrl_c()
    made, number = tmp_path / "run", getattr(signal, name)
    log, save = Run.log, Run.save

    def stopping(self, line):
        log(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), number)

    def stopping_again(self, trainer):
        if trainer.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, trainer)

    monkeypatch.setattr(Run, "log", stopping)
    monkeypatch.setattr(Run, "save", stopping_again)
    done = mrrec("train", "--data", shop(), "--run", made, "--steps", 50, "--fast")
    assert done.exit_code in (128 + number, 128 + signal.SIGTERM) and done.stdout == ""
    assert done.stderr.startswith("interrupted; resume with: mrrec train") and done.stderr.count("\n") == 1
    assert [path.name for path in sorted((made / "checkpoints").iterdir())][-1] == "step-000003"
    assert steps_of(made) == [1, 2, 3]
    assert mrrec("recommend", "a mug", "--user", USER, "--run", made).exit_code == 0


def test_a_signal_that_is_ignored_stays_ignored():
    """`nohup` lets a process ignore SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals.stop_like_ctrl_c()
        os.kill(os.getpid(), signal.SIGHUP)
        with signals.undivided():
            os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:  # pytest would take it for the user's
        pytest.fail("it stops")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def is_gone(process: int, seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process}/stat")
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # ended, and its parent did not ask for the exit code
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("begin", [processes._begin_worker, processes._begin_manager])
def test_a_child_does_not_outlive_a_parent_that_was_killed(begin):
    numbers = FORK.Queue()

    def grandchild() -> None:
        begin()
        numbers.put(os.getpid())
        time.sleep(900)

    def child() -> None:
        FORK.Process(target=grandchild).start()
        time.sleep(900)

    parent = FORK.Process(target=child)
    parent.start()
    number = numbers.get(timeout=900)
    assert not is_gone(number, 0.3)
    parent.kill()
    parent.join()
    try:
        assert is_gone(number)
    finally:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def stopped_twice(folder: Path, key: str, say) -> None:
    """A task that saves its work when it is stopped, as training does."""
    try:
        (folder / f"{key}.began").write_text(str(os.getpid()))
        time.sleep(900)
    except KeyboardInterrupt:
        with signals.undivided():
            time.sleep(1)
            (folder / f"{key}.saved").write_text("")
        raise


PARENT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from functools import partial
from pathlib import Path
from test_races import stopped_twice
from mrrec_mini.app.processes import run_tasks
from mrrec_mini.signals import stop_like_ctrl_c
if __name__ == "__main__":
    stop_like_ctrl_c()
    run_tasks(partial(stopped_twice, Path(sys.argv[1])), {{"a": (), "b": ()}}, 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_tasks_of_a_stopped_parent_save_their_work_and_end(tmp_path, name):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(root=str(ROOT), tests=str(ROOT / "tests"), here=str(ROOT / "tests" / "faults")))
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while len(list(tmp_path.glob("*.began"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    workers = [int(path.read_text()) for path in tmp_path.glob("*.began")]
    parent.send_signal(getattr(signal, name))
    parent.communicate()
    assert len(workers) == 2 and all(map(is_gone, workers))
    assert len(list(tmp_path.glob("*.saved"))) == 2


def killed_by_itself(key: str, say) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_child_that_is_killed_is_an_error_in_one_line():
    with pytest.raises(ChildProcessError, match="a child process was killed"):
        run_tasks(killed_by_itself, {"a": ()}, 2)


def family(parent: int) -> list[int]:
    """The numbers of all processes below a process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    below = [child for child, its_parent in pairs if its_parent == parent]
    return below + [number for child in below for number in family(child)]


def wait_for(pattern: str, folder: Path, job, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert job.poll() is None and time.monotonic() < deadline, job.stderr and job.stderr.read()
        time.sleep(0.1)


COMMANDS = {  # name -> (words, a file that appears when it is at work)
    "train": (("train", "--data", "DATA", "--run", "run", "--steps", 5000, "--fast"), "run/metrics.jsonl"),
    "demo": (("demo", "--seeds", 2, "--fast"), "runs/demo/world/seed-*/checkpoints/step-000000"),
    "reproduce": (("reproduce", "table4", "--seeds", 2, "--fast"), "reproduction/jobs/*/start-*.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_leaves_no_process_and_a_usable_checkpoint(tmp_path, command, name):
    words, sign = COMMANDS[command]
    number, workers = getattr(signal, name), "import os; os.cpu_count = lambda: 2"
    job = started(*(shop() if word == "DATA" else word for word in words), cwd=tmp_path, before=workers)
    wait_for(sign, tmp_path, job)
    below = family(job.pid)
    if command == "train":  # SIGKILL must not come before the first checkpoint after the start
        time.sleep(random.Random(0).uniform(0.5, 2))
    job.send_signal(number)
    _, stderr = job.communicate()
    assert all(map(is_gone, below))
    assert job.returncode == (-number if name == "SIGKILL" else 128 + number) and "Traceback" not in stderr, stderr
    if name != "SIGKILL":
        assert stderr.startswith("interrupted; ") and stderr.count("\n") == 1
    if command == "reproduce":  # the results of finished jobs are whole, and the same command ends
        again = started(*words, cwd=tmp_path)
        again.communicate()
        assert again.returncode == 0 and (tmp_path / "reproduction" / "reproduction.json").is_file()
        return
    for made in tmp_path.glob("run" if command == "train" else "runs/demo/world/seed-*"):
        if (made / "config.json").is_file():
            assert mrrec("recommend", "a mug", "--user", USER, "--run", made).exit_code == 0
