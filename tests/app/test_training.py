"""`mrrec train` as a function: a resumed run equals an unbroken one, and what is refused."""

from dataclasses import replace

import pytest

from mrrec_mini.app.training import Mismatch, Settings, train_run
from mrrec_mini.data import DataError
from mrrec_mini.run import Run
from runs import QUICK, copied_run, same_weights, shop


def test_a_stopped_and_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch):
    """2 steps and 2 more after a stop give the log (except for the clock) and the weights of 4 steps at once.

    The learning rate is constant: one that falls over the whole run would differ in a longer run.
    """
    steady = replace(QUICK, train=replace(QUICK.train, final_rate=1.0))
    monkeypatch.setattr("mrrec_mini.recipe.FAST", steady)
    result = train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True))
    assert result.startswith("2 steps")
    assert train_run(shop(), tmp_path / "a", Settings(steps=4, fast=True), resume=True).startswith("4 steps")
    assert train_run(shop(), tmp_path / "b", Settings(steps=4, fast=True)).startswith("4 steps")
    logs = [[line | {"step_time": 0} for line in Run(tmp_path / run).lines()] for run in ("a", "b")]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4]
    assert logs[0] == logs[1]
    assert same_weights(Run(tmp_path / "a").policy()[0], Run(tmp_path / "b").policy()[0])
    start = Run(tmp_path / "a").config.recipe.train
    assert start == replace(steady.train, steps=2)  # the configuration keeps what the run was made with


def test_a_run_is_not_overwritten(tmp_path):
    run = copied_run(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already; resume it with --resume"):
        train_run(shop(), run, Settings(steps=1, fast=True))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "settings",
    [
        *(Settings(seed=1), Settings(algo="reinforce"), Settings(bf16=True), Settings(chat_model="a/model")),
        Settings(fast=True),
    ],
)
def test_a_run_is_resumed_only_with_its_own_settings(settings, tmp_path):
    with pytest.raises(Mismatch, match=r"was made with --(seed|algo|bf16|model|fast) .*, not .*; leave"):
        train_run(shop(), copied_run(tmp_path), settings, resume=True)


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "words.json", "config.json"])
def test_a_damaged_checkpoint_is_named(file, tmp_path):
    run = copied_run(tmp_path)
    for checkpoint in (run / "checkpoints").iterdir():
        damaged = checkpoint / file
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"step-000002: {file} has .* bytes.*; train again into another folder$"):
        train_run(shop(), run, Settings(steps=3), resume=True)
