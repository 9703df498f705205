"""A student's file of formulas: what is taken from it, what is refused and why, and that training uses it."""

import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from house import ROOT
from mrrec_mini import grpo, reinforce
from mrrec_mini.app.student_formulas import NAMES, USED, learners_file
from mrrec_mini.app.terminal import curve, curves
from mrrec_mini.app.training import Mismatch, Settings, train_run
from mrrec_mini.data import DataError
from mrrec_mini.grpo import PARTS, Formulas, GRPOConfig, clipped_surrogate, grpo_loss
from mrrec_mini.train import TrainConfig, Trainer
from runs import QUICK, mrrec, refused, shop
from small import environment, taught_model, tokenizer

OWN = {name: getattr(grpo, name, None) or getattr(reinforce, name) for name in NAMES}
CONFIG = TrainConfig(steps=2, prompts_per_step=2, group=3, learning_rate=1e-2, micro_batches=2, warmup=1)
REINFORCE, WITH_KL = replace(CONFIG, algo="reinforce"), replace(CONFIG, grpo=GRPOConfig(beta=0.1))


def written(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def steps_of(formulas: Formulas, config: TrainConfig = CONFIG, steps: int = 1) -> list[dict]:
    trainer = Trainer(taught_model(), tokenizer(), [environment()], config, formulas)
    return [trainer.step() | {"step_time": 0} for _ in range(steps)]


# --- what is taken from a file ---


def test_the_default_formulas_are_the_packages_own():
    assert {field.name: getattr(Formulas(), field.name) for field in fields(Formulas)} == OWN
    assert grpo_loss.__kwdefaults__ == {name: OWN[name] for name in PARTS} == Formulas().parts


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_a_file_that_calls_the_packages_formulas_changes_nothing(tmp_path, algo):
    lines = ["from mrrec_mini import grpo, reinforce"]
    for name in USED[algo]:
        home = "grpo" if hasattr(grpo, name) else "reinforce"
        lines += [f"def {name}(*a, **k):", f"    return {home}.{name}(*a, **k)"]
    found = learners_file(written(tmp_path, "\n".join(lines)), replace(WITH_KL, algo=algo))
    assert set(found.names) == set(USED[algo])
    config = replace(WITH_KL, algo=algo)
    assert steps_of(found.formulas, config, 2) == steps_of(Formulas(), config, 2)


@pytest.mark.parametrize("name", [name for name in USED["grpo"] if name != "token_logprobs"])
def test_each_formula_of_the_file_is_called(tmp_path, name):
    """A formula that raises: the error shows that it was called."""
    path = written(tmp_path, f"def {name}(*args):\n    raise ArithmeticError('heard')\n")
    with pytest.raises(ValueError, match=rf"mine.py, line 2: {name} raised ArithmeticError: 'heard'"):
        learners_file(path, WITH_KL)


def test_imported_formulas_are_not_the_students(tmp_path):
    """Otherwise an imported `grpo_loss` would count as the student's, and would not call the student's part."""
    imports = "from mrrec_mini.grpo import clipped_surrogate as usual, grpo_loss, group_advantages\n"
    path = written(tmp_path, imports + "def clipped_surrogate(r, a, c):\n    raise ArithmeticError('heard')\n")
    with pytest.raises(ValueError, match="clipped_surrogate raised ArithmeticError: 'heard'"):
        learners_file(path, CONFIG)
    double = written(tmp_path, imports + "def clipped_surrogate(r, a, c):\n    return 2 * usual(r, a, c)\n")
    found = learners_file(double, CONFIG)
    assert found.names == ("clipped_surrogate",)
    with pytest.raises(ValueError, match="defines none of"):
        learners_file(written(tmp_path, imports), CONFIG)


def test_the_trainer_calls_the_students_formulas(tmp_path):
    """In one training step, after the trial. The student's own `grpo_loss` does not get the file's other parts."""
    lines = ["from mrrec_mini import grpo, reinforce", "calls = []"]
    for name in USED["grpo"]:
        home = "reinforce" if name == "token_logprobs" else "grpo"
        lines += [f"def {name}(*a, **k):", f"    calls.append({name!r})", f"    return {home}.{name}(*a, **k)"]
    found = learners_file(written(tmp_path, "\n".join(lines)), WITH_KL)
    whole = ("token_logprobs", "group_advantages", "grpo_loss")
    calls = found.formulas.grpo_loss.__wrapped__.__globals__["calls"]
    assert set(calls) == {"group_advantages", "grpo_loss"}, "the trial needs no model"
    calls.clear()
    steps_of(found.formulas, WITH_KL)
    assert set(calls) == set(whole)


@pytest.mark.parametrize("name", USED["reinforce"])
def test_each_formula_of_reinforce_is_called(tmp_path, name):
    path = written(tmp_path, f"def {name}(*args, **kwargs):\n    raise ArithmeticError('heard')\n")
    with pytest.raises(ValueError, match=f"{name} raised ArithmeticError: 'heard'"):
        steps_of(learners_file(path, REINFORCE).formulas, REINFORCE)


def test_another_formula_changes_the_run(tmp_path):
    """If a file defines one part, the package's loss uses it."""
    path = written(tmp_path, "def length_weights(mask, rule, episodes, tokens, max_tokens):\n    return mask / 7\n")
    mine, own = (steps_of(f, steps=2) for f in (learners_file(path, CONFIG).formulas, Formulas()))
    assert mine[0]["reward"] == own[0]["reward"], "the first episodes are the same"
    assert not math.isclose(mine[0]["grad_norm"], own[0]["grad_norm"], rel_tol=1e-3)


def test_a_part_can_be_passed_to_the_loss():
    """One token with ratio e^0.5 and A = 1: the loss is -1.2, clipped, and -2.4 with a surrogate twice as large."""
    given = torch.tensor([[-0.5]]), torch.tensor([[-1.0]]), torch.ones(1), torch.ones(1, 1), GRPOConfig(clip=(0.2, 0.2))
    assert float(grpo_loss(*given, 1, 1)) == pytest.approx(-1.2)
    double = lambda *args: 2 * clipped_surrogate(*args)  # noqa: E731
    assert float(grpo_loss(*given, 1, 1, clipped_surrogate=double)) == pytest.approx(-2.4)
    assert float(grpo_loss(*given, 1, 1)) == pytest.approx(-1.2), "the package's loss stays as it is"


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def helper():\n    pass\n", ValueError, "defines none of token_logprobs, baseline"),
        ("def grpo_loss(:\n", DataError, r"mine.py:1: .*not valid Python"),
        ("x = 1\ny = 1 / 0\n", DataError, r"mine.py:2: ZeroDivisionError"),
        (
            "def baseline(rewards, groups, kind):\n    return 0\n",
            ValueError,
            "learning by grpo does not call; give --algo r",
        ),
        ("def kl_term(logprobs, reference, ratio):\n    return 0\n", ValueError, "beta is 0; to use kl_term anyway"),
        ("group_advantages = 3\n", ValueError, "defines none of"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        learners_file(written(tmp_path, text), CONFIG)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise NotImplementedError('write this')", r"mine.py, line 2: group_advantages is not written yet"),
        ("return [0.0]", "returned .*, not a tensor"),
        ("pass", "returned None, not a tensor; is there a `return`"),
        ("return rewards.no_such_thing", r"line 2: group_advantages raised AttributeError"),
        ("return rewards[:, None]", r"group_advantages of 4 rewards returned shape \(4, 1\), expected \(4,\)"),
    ],
)
def test_an_error_in_a_formula_names_the_line(tmp_path, body, said):
    path = written(tmp_path, f"def group_advantages(rewards, groups, sigma):\n    {body}\n")
    with pytest.raises(ValueError, match=said):
        steps_of(learners_file(path, CONFIG).formulas)


def test_the_named_line_is_the_last_one_reached_in_the_file(tmp_path):
    text = "def helper(r):\n    return r.deep\n\n"
    text += "def group_advantages(rewards, groups, sigma):\n    return helper(rewards)\n"
    with pytest.raises(ValueError, match=r"mine.py, line 2: group_advantages raised AttributeError"):
        steps_of(learners_file(written(tmp_path, text), CONFIG).formulas)


def test_a_relative_path(tmp_path, monkeypatch):
    """The message shows the path as the user typed it."""
    written(tmp_path, "def group_advantages(rewards, groups, sigma):\n    raise NotImplementedError\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^mine.py, line 2: group_advantages is not written yet$"):
        learners_file(Path("mine.py"), CONFIG)


def test_a_loss_without_gradient_is_refused(tmp_path):
    path = written(tmp_path, "def grpo_loss(logprobs, *rest):\n    return logprobs.detach().sum()\n")
    with pytest.raises(ValueError, match="a loss without a gradient; was it detached"):
        steps_of(learners_file(path, CONFIG).formulas)


def test_a_loss_of_many_numbers_is_refused(tmp_path):
    path = written(tmp_path, "def reinforce_loss(logprobs, *rest):\n    return -logprobs\n")
    with pytest.raises(ValueError, match=r"the loss has shape \(4, 3\), expected one number; is a sum missing"):
        learners_file(path, REINFORCE)


# --- in a run folder ---

ANSWER = (ROOT / "tutorials/exercises/group_advantages.py").read_text(encoding="utf-8")
MINE = "def group_advantages(rewards, groups, sigma):\n    return 1 + rewards - rewards.mean()\n"


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) | {"step_time": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("mrrec_mini.recipe.FAST", QUICK)


def test_the_reference_run_equals_a_run_without_a_file(tmp_path, quick):
    path = written(tmp_path, MINE)
    said = train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True, formulas=path))
    assert said.startswith("2 steps") and "; with the package's own: 2 steps" in said
    train_run(shop(), tmp_path / "b", Settings(steps=2, fast=True))
    mine, own = log_of(tmp_path / "a"), log_of(tmp_path / "a" / "reference")
    assert own == log_of(tmp_path / "b") and mine != own


def test_both_runs_are_resumed(tmp_path, quick, monkeypatch):
    steady = replace(QUICK, train=replace(QUICK.train, final_rate=1.0))
    monkeypatch.setattr("mrrec_mini.recipe.FAST", steady)
    path = written(tmp_path, MINE)
    train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True, formulas=path))
    told = []
    say = lambda phase, done, total, note: told.append((phase, done))  # noqa: E731
    train_run(shop(), tmp_path / "a", Settings(steps=4, fast=True, formulas=path), True, say)
    assert [done for phase, done in told if phase == "learn with the package alone"] == [3, 4]
    train_run(shop(), tmp_path / "b", Settings(steps=4, fast=True, formulas=path))
    a, b = ([log_of(run), log_of(run / "reference")] for run in (tmp_path / "a", tmp_path / "b"))
    assert a == b and [len(log) for log in a] == [4, 4]


def test_a_run_is_resumed_only_with_the_file_it_was_made_with(tmp_path, quick):
    path = written(tmp_path, MINE)
    train_run(shop(), tmp_path / "a", Settings(steps=1, fast=True, formulas=path))
    with pytest.raises(Mismatch, match="made with a student's file of formulas, not without one; resume with"):
        train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True), True)
    path.write_text(MINE + "\n", encoding="utf-8")
    with pytest.raises(Mismatch, match="which has changed or is another file"):
        train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True, formulas=path), True)
    shutil.rmtree(tmp_path / "a")
    train_run(shop(), tmp_path / "a", Settings(steps=1, fast=True))
    with pytest.raises(Mismatch, match=r"the package's own formulas, not .*mine.py"):
        train_run(shop(), tmp_path / "a", Settings(steps=2, fast=True, formulas=path), True)


def test_on_the_command_line(tmp_path, quick):
    words = ("train", "--data", shop(), "--run", tmp_path / "run", "--steps", 2, "--fast", "--with")
    refused(mrrec(*words, tmp_path / "none.py"), 3, "no such file; it should define one or more of")
    refused(mrrec(*words, written(tmp_path, "x = (", "x.py")), 4, "x.py:1", "not valid Python")
    refused(
        mrrec(*words, written(tmp_path, ANSWER, "stub.py")), 1, "stub.py, line", "group_advantages is not written yet"
    )
    assert not (tmp_path / "run").exists(), "refused before anything is made"
    done = mrrec(*words, written(tmp_path, MINE))
    assert done.exit_code == 0, done.stderr
    assert "* yours, o the package's own" in done.stdout and "with the package's own: 2 steps" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_two_curves_in_one_plot():
    drawn = curves([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]], "*o", height=2).splitlines()
    assert drawn == ["   1.00 | *@", "   0.00 |@o", "        +---", "         1 3"]
    assert curves([[1.0, 2.0]], "*") == curve([1.0, 2.0])
