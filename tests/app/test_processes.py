"""The process pool: order, results, progress, and the end of the children when a task fails or Ctrl-C is pressed."""

import os
import signal
import time
from functools import partial

import pytest
import torch

from mrrec_mini.app.processes import run_tasks


def noted(folder, key, say):
    """A task that writes down when it starts and ends; it must be importable, since a child process runs it."""
    (folder / f"{key}.start").write_text(str(time.time()))
    say(key, 1, 1, "half way")
    assert torch.get_num_threads() == 1
    (folder / f"{key}.end").write_text(str(time.time()))
    return key.upper(), os.getpid()


def failing(folder, key, say):
    """Key "bad" fails once the other task runs; the other one would run for a minute."""
    if key == "bad":
        while not (folder / "slow").exists():
            time.sleep(0.05)
        raise LookupError("the task's own error")
    (folder / "slow").write_text(str(os.getpid()))
    time.sleep(60)


def interrupting(folder, key, say):
    """As if Ctrl-C were pressed in the parent while the task runs."""
    (folder / "slow").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def test_one_worker_runs_in_this_process(tmp_path):
    heard = []
    results = run_tasks(partial(noted, tmp_path), {"a": (), "b": ("a",)}, 1, lambda *event: heard.append(event))
    assert results == {"a": ("A", os.getpid()), "b": ("B", os.getpid())}
    assert heard == [("a", 1, 1, "half way"), ("b", 1, 1, "half way")]


@pytest.mark.slow
def test_tasks_wait_for_what_they_need_and_progress_comes_back(tmp_path):
    heard = []
    needs = {"a": (), "b": ("a", "finished long ago"), "c": ()}
    results = run_tasks(partial(noted, tmp_path), needs, 2, lambda *event: heard.append(event))
    assert {key: text for key, (text, _) in results.items()} == {"a": "A", "b": "B", "c": "C"}
    assert os.getpid() not in {process for _, process in results.values()}
    assert float((tmp_path / "a.end").read_text()) <= float((tmp_path / "b.start").read_text())
    assert {event[0] for event in heard} == set(needs)


def is_gone(process: int) -> bool:
    """Whether a process has ended, within 10 s."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_failure_is_raised_here_and_ends_the_children(tmp_path):
    with pytest.raises(LookupError, match="the task's own error"):
        run_tasks(partial(failing, tmp_path), {"bad": (), "slow": ()}, 2)
    assert is_gone(int((tmp_path / "slow").read_text()))


@pytest.mark.slow
def test_ctrl_c_ends_the_children(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_tasks(partial(interrupting, tmp_path), {"slow": (), "other": ("slow",)}, 2)
    assert is_gone(int((tmp_path / "slow").read_text()))
