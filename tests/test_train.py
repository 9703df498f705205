"""The training loop: what it logs, that stopping and resuming change nothing, what it refuses, and that it learns."""

import json
import math
import os
import pickle
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_model

import mrrec_mini.run as folder
from house import ROOT
from mrrec_mini import checkpoint, signals
from mrrec_mini.data import DataError
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.grpo import LENGTHS, Formulas, GRPOConfig, group_advantages, grpo_loss, ratio_log
from mrrec_mini.reinforce import Batch, rows_by_length, to_batch, token_logprobs
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.run import Run
from mrrec_mini.train import TrainConfig, Trainer, rate_factor, train, update_policy
from small import GPU, environment, taught_model, tiny_model, tokenizer

TOK = tokenizer()
CONFIG = TrainConfig(
    steps=3,
    prompts_per_step=3,
    group=3,
    learning_rate=1e-2,
    evaluate_every=2,
    checkpoint_every=2,
    warmup=2,
    rules=RolloutConfig(turn_tokens=20),
)
# everything that a checkpoint could forget: a reference, several epochs, clipping
FULL = replace(CONFIG, grpo=GRPOConfig(sigma="group", beta=0.1, epochs=2, clip=(0.02, 0.02)))


@dataclass(frozen=True)
class Watched(Environment):
    """An environment that passes each list of played episodes to `look`, which may change it."""

    look: object = None

    def play(self, *args, **kwargs):
        return self.look(super().play(*args, **kwargs))


def watched(look):
    env = environment()
    return Watched(env.dataset, env.split, env.memory, env.items, look)


def trainer(config=CONFIG, env=None, model=None):
    return Trainer(model or taught_model(), TOK, [env or environment()], config)


def update(it, batch, advantages, formulas=None):
    """One update of a trainer's policy."""
    parts = rows_by_length(batch, it.config.micro_batches)
    return update_policy(it.model, it.optimizer, batch, advantages, parts, it.config, formulas or it.formulas)


@pytest.mark.parametrize("parts", [1, 3])
def test_an_update_is_one_step_along_the_clipped_gradient_of_the_whole_batch(parts):
    """However many micro-batches there are; with plain gradient descent the step can be computed by hand."""
    it, rate = trainer(), 0.1
    batch = to_batch(*it.collect(), "cpu", it.table)
    advantages = torch.linspace(-1, 1, len(batch.rewards))
    twin = deepcopy(it.model)
    descent = torch.optim.SGD(it.model.parameters(), lr=rate)
    log = update_policy(it.model, descent, batch, advantages, rows_by_length(batch, parts), it.config)

    logprobs, _ = token_logprobs(twin.eval(), batch.tokens, batch.mask, 1.0, batch.allowed)
    counts = len(batch.rewards), int(batch.mask.sum())
    grpo_loss(logprobs, batch.old_logprobs, advantages, batch.mask, it.config.grpo, *counts).backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters() if p.grad is not None))
    scale = rate * min(1.0, it.config.max_grad_norm / float(norm))
    assert log["grad_norm"] == pytest.approx(float(norm), rel=1e-4) and float(norm) > 1e-3
    for after, before in zip(it.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(after, before - scale * before.grad, rtol=0, atol=1e-6)


def test_a_leftover_gradient_is_not_learned_from():
    """A warm start leaves one in `.grad`; the same policy loaded from a file has none."""
    model = taught_model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    left, clean = trainer(model=model), trainer()
    lines = [it.step() | {"step_time": 0} for it in (left, clean)]
    assert lines[0] == lines[1]
    assert all(torch.equal(a, b) for a, b in zip(weights(left), weights(clean), strict=True))


def weights(it):
    return [p.detach().clone() for p in it.model.parameters()]


def same(ones, others):
    return all(map(torch.equal, ones, others))


def timeless(lines):
    return [{key: value for key, value in line.items() if key != "step_time"} for line in lines]


def logged(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


# --- what is logged -----------------------------------------------------------------------------------------------

NAMES = {
    *(
        "step",
        "reward",
        "reward_std",
        "reward_std_in_group",
        "frac_reward_zero_std",
        "entropy",
        "kl",
        "grad_norm",
        "step_time",
    ),
    *("clip_ratio/low_mean", "clip_ratio/high_mean", "skipped_updates", "learning_rate", "step_tokens", "calls/mean"),
    *(f"rewards/{term}/mean" for term in ("format", "recommendation", "memory")),
    *(f"completions/{name}" for name in ("mean_length", "min_length", "max_length", "clipped_ratio")),
}


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_a_few_steps_log_every_named_number(algo, tmp_path):
    env, seen = environment(), []
    start = taught_model()
    it = trainer(replace(CONFIG, algo=algo))
    lines = train(it, Run(tmp_path), env.split.validation_queries, seen.append)
    assert lines == seen == logged(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        extra = {"validation/ndcg@10", "validation/format"} if line["step"] in (2, 3) else set()
        assert set(line) == NAMES | extra
        assert all(isinstance(value, float | int) and value == value for value in line.values())
        assert line["entropy"] > 0 and line["kl"] == 0 and line["skipped_updates"] == 0
        # one update per sampled batch: the ratio is 1, so nothing is clipped
        assert line["clip_ratio/low_mean"] == line["clip_ratio/high_mean"] == 0
    assert lines[0]["grad_norm"] > 0 and lines[0]["reward_std"] > 0
    # .01 times 1/2, 1, 1 (two steps of warm-up) times 1, .525, .05 (a straight line to a twentieth)
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.005, 0.00525, 0.0005])
    assert not same(start.parameters(), it.model.parameters())


@pytest.mark.parametrize(
    ("final", "expected"), [(1.0, [0.25, 0.5, 0.75, 1.0, 1.0]), (0.2, [0.25, 0.4, 0.45, 0.4, 0.2])]
)
def test_the_rate_rises_and_then_falls_in_a_straight_line(final, expected):
    # final .2 over five steps: 1, .8, .6, .4, .2; four steps of warm-up: 1/4, 2/4, 3/4, 1, 1
    config = TrainConfig(steps=5, warmup=4, final_rate=final)
    assert [rate_factor(step, config) for step in range(5)] == pytest.approx(expected)
    assert rate_factor(0, TrainConfig(steps=1, warmup=0)) == 1.0


def test_the_reward_numbers_by_hand(tmp_path):
    """Groups (0, 0, 3), (1, 1, 1), (0, 2, 4): their standard deviations are sqrt(3), 0 and 2."""
    rewards = [0.0, 0, 3, 1, 1, 1, 0, 2, 4]
    seen = []

    def look(episodes):
        seen[:] = [replace(e, reward=r) for e, r in zip(episodes, rewards, strict=True)]
        return seen

    [line] = train(trainer(replace(CONFIG, steps=1), watched(look)))
    assert line["reward"] == pytest.approx(12 / 9)
    assert line["reward_std"] == pytest.approx(statistics.stdev(rewards))
    assert line["reward_std_in_group"] == pytest.approx((3**0.5 + 0 + 2) / 3)
    assert line["frac_reward_zero_std"] == pytest.approx(1 / 3)
    lengths = [sum(e.mask) for e in seen]
    for name, value in (("mean", sum(lengths) / 9), ("min", min(lengths)), ("max", max(lengths))):
        assert line[f"completions/{name}_length"] == pytest.approx(value)
    assert line["step_tokens"] == sum(len(e.tokens) for e in seen)
    assert line["calls/mean"] == pytest.approx(sum(len(e.calls) for e in seen) / 9)
    assert line["rewards/format/mean"] == pytest.approx(sum(e.answer is not None for e in seen) / 9)


@pytest.mark.parametrize(
    ("ratio", "clip", "low", "high"),
    [
        ("token", (0.2, 0.4), 1 / 5, 1 / 5),  # the .6 and the -.6, of five tokens
        ("sequence", (0.05, 0.2), 1 / 2, 1 / 2),  # both episodes: their mean log-ratios are .3 and -.1
        ("sequence", (0.2, 0.2), 0.0, 1 / 2),
    ],
)
def test_only_what_the_clip_changes_counts_as_clipped(ratio, clip, low, high):
    """Log-ratios .6, .3, 0 at advantage 1, and -.6, .4 at advantage -1. The 9 is outside the mask."""
    now = torch.tensor([[0.6, 0.3, 0.0], [-0.6, 0.4, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    none = torch.zeros(2, dtype=torch.long)
    batch = Batch(torch.zeros(2, 3, dtype=torch.long), mask, torch.zeros(2, 3), torch.zeros(2), none)
    config, advantages = GRPOConfig(ratio=ratio, clip=clip), torch.tensor([[1.0], [-1.0]])
    log = ratio_log([(now, now - 0.5, batch, advantages)], config, 2, 5)
    assert log["clip_ratio/low_mean"] == pytest.approx(low) and log["clip_ratio/high_mean"] == pytest.approx(high)
    ratios = now.exp()[mask].sum() if ratio == "token" else 3 * math.exp(0.3) + 2 * math.exp(-0.1)
    assert log["kl"] == pytest.approx(float((math.exp(-0.5) + 0.5 - 1) * ratios / 5), rel=1e-5)


def test_in_a_second_epoch_the_policy_differs_from_the_sampler():
    lines = train(trainer(replace(FULL, steps=2)))
    assert all(line["kl"] > 0 and line["clip_ratio/low_mean"] + line["clip_ratio/high_mean"] > 0 for line in lines)


def test_the_ratio_of_the_first_update_is_one():
    """Sampler and update agree to 1e-5, even if the model's configuration has dropout."""
    shape = transformers.GPT2Config(
        vocab_size=len(TOK), n_embd=16, n_layer=2, n_head=2, n_positions=512, bos_token_id=None, eos_token_id=None
    )
    assert shape.resid_pdrop > 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with_dropout = transformers.GPT2LMHeadModel(shape)
    for model in (taught_model(), with_dropout):
        it, scored = trainer(replace(CONFIG, learning_rate=0.0), model=model), []

        def spy(*args, scored=scored, **kwargs):
            out = token_logprobs(*args, **kwargs)
            scored.append((out[0].detach(), args[2]))
            return out

        episodes, groups = it.collect()
        batch = to_batch(episodes, groups)
        update(it, batch, torch.zeros(len(episodes)), Formulas(token_logprobs=spy))
        rows = torch.cat(rows_by_length(batch, it.config.micro_batches))
        again = torch.cat([logprobs[mask] for logprobs, mask in scored])
        drawn = torch.cat([batch.old_logprobs[row][batch.mask[row]] for row in rows])
        assert (again - drawn).abs().max() <= 1e-5


def test_each_query_is_drawn_once_for_its_group_and_environments_take_turns():
    calls = []

    def env(name):
        return watched(lambda episodes: calls.append((name, [e.query.id for e in episodes])) or episodes)

    train(Trainer(tiny_model(len(TOK)), TOK, [env("a"), env("b")], CONFIG))
    assert [name for name, _ in calls] == ["a", "b", "a"]
    for _, ids in calls:
        assert len(ids) == 9 and [ids[3 * i : 3 * i + 3] == [ids[3 * i]] * 3 for i in range(3)] == [True] * 3
        assert len(set(ids)) == 3
    train_ids = {q.id for q in environment().split.train_queries}
    assert {i for _, ids in calls for i in ids} <= train_ids


# --- one batch, cut in any way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo, length", [("reinforce", "token"), *(("grpo", rule) for rule in LENGTHS)])
def test_cutting_the_batch_changes_nothing(algo, length):
    """Parameters after two plain gradient steps on the same episodes, in 1, 2, 4 and 9 micro-batches."""
    episodes, groups = trainer().collect()
    results = []
    for parts in (1, 2, 4, 9):
        it = trainer(replace(CONFIG, algo=algo, micro_batches=parts, grpo=GRPOConfig(length=length, sigma="group")))
        it.optimizer = torch.optim.SGD(it.model.parameters(), lr=0.1)
        batch = to_batch(episodes, groups)
        advantages = group_advantages(torch.arange(9.0).sin(), batch.groups, "none")
        logs = [update(it, batch, advantages) for _ in range(2)]
        results.append((weights(it), logs))
    for other, logs in results[1:]:
        assert max(float((a - b).abs().max()) for a, b in zip(results[0][0], other, strict=True)) <= 1e-6
        for one, two in zip(results[0][1], logs, strict=True):
            assert one == pytest.approx(two, abs=1e-5)


def test_padding_rows_in_a_different_order_changes_nothing():
    it = trainer()
    episodes, groups = it.collect()
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    gradients = []
    for index in (range(9), order):
        other = trainer()
        other.optimizer = torch.optim.SGD(other.model.parameters(), lr=0.1)
        batch = to_batch([replace(episodes[i], reward=float(i % 4)) for i in index], [groups[i] for i in index])
        update(other, batch, group_advantages(batch.rewards, batch.groups, "group"))
        gradients.append(weights(other))
    assert max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) <= 1e-6


def test_validation_does_not_disturb_training():
    plain, looked_at = trainer(), trainer(replace(CONFIG, evaluate_every=1))
    train(plain)
    train(looked_at, None, environment().split.validation_queries)
    assert same(weights(plain), weights(looked_at))


# --- stopping and resuming ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """One run per configuration that was never stopped."""
    runs = {}
    for name, config in (("grpo", FULL), ("reinforce", replace(CONFIG, algo="reinforce", baseline="leave_one_out"))):
        it, run = trainer(config), tmp_path_factory.mktemp(name)
        lines = train(it, Run(run), environment().split.validation_queries)
        runs[name] = (config, weights(it), timeless(lines))
    return runs


def check_unbroken(unbroken, name, run, it):
    _, expected, lines = unbroken[name]
    assert same(expected, weights(it))
    assert timeless(logged(run)) == lines
    assert same(expected, Run(run).policy()[0].parameters())


@pytest.mark.parametrize("name", ["grpo", "reinforce"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_stopped_and_resumed_run_equals_an_unbroken_one_bit_for_bit(unbroken, name, stop, tmp_path):
    config, validation = unbroken[name][0], environment().split.validation_queries
    first = trainer(config)
    with pytest.raises(KeyboardInterrupt):
        train(first, Run(tmp_path), validation, lambda line: interrupt() if line["step"] == stop else None)
    assert first.done == stop and len(logged(tmp_path)) == stop
    again = Run(tmp_path).resume([environment()], config)
    assert again.done == stop and same(weights(first), weights(again))
    train(again, Run(tmp_path), validation)
    check_unbroken(unbroken, name, tmp_path, again)


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(unbroken, tmp_path):
    """A real signal arrives between rollout and update of step 2."""
    config, validation = unbroken["grpo"][0], environment().split.validation_queries
    played = []

    def look(episodes):
        if len(played) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        played.append(len(episodes))
        return episodes

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(trainer(config, watched(look)), Run(tmp_path), validation)
    assert signal.getsignal(signal.SIGINT) is before
    again = Run(tmp_path).resume([environment()], config)
    assert again.done == 2 == len(logged(tmp_path))
    train(again, Run(tmp_path), validation)
    check_unbroken(unbroken, "grpo", tmp_path, again)


def test_training_works_outside_the_main_thread():
    it, before = trainer(replace(CONFIG, steps=1)), signal.getsignal(signal.SIGINT)
    done = threading.Thread(target=train, args=(it,))
    done.start()
    done.join()
    assert it.done == 1
    with signals.undivided():
        pass  # the handler stays as it was
    assert signal.getsignal(signal.SIGINT) is before


def test_log_lines_written_after_the_checkpoint_are_replaced(unbroken, tmp_path):
    """As after kill -9: the last checkpoint is that of step 2, the log also has step 3 and half a line."""
    config, validation = unbroken["grpo"][0], environment().split.validation_queries
    with pytest.raises(KeyboardInterrupt):
        train(trainer(config), Run(tmp_path), validation, lambda line: interrupt() if line["step"] == 2 else None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward": 0.5}\n{"step": 4, "rew')
    again = Run(tmp_path).resume([environment()], config)
    assert again.done == 2 == len(logged(tmp_path))
    train(again, Run(tmp_path), validation)
    check_unbroken(unbroken, "grpo", tmp_path, again)


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it."""


# every operation of a save, in order; test_checkpoint.py tries kills inside these on small files
OPERATIONS = [
    *("save_causal_lm", "torch.save", *["fsync"] * 7),  # of 5 files, the manifest and the folder
    *("replace", "fsync", "rmtree"),  # it gets its name, its parent folder is flushed, the oldest checkpoint goes
]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run of two steps with a checkpoint after each."""
    config, run = replace(FULL, checkpoint_every=1), tmp_path_factory.mktemp("two")
    with pytest.raises(KeyboardInterrupt):
        train(trainer(config), Run(run), (), lambda line: interrupt() if line["step"] == 2 else None)
    assert checkpoints(run) == ["step-000001", "step-000002"]
    return config, run


@pytest.fixture
def two_checkpoints(two_steps, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(two_steps[1], tmp_path / "run")), two_steps[0]


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=[pytest.mark.slow] if at not in (1, 9, 10) else []) for at in range(12)]
)
def test_a_run_killed_at_any_operation_of_a_save_continues_as_unbroken(unbroken, at, two_checkpoints, monkeypatch):
    """Killed while it writes the checkpoint of step 3 and resumed, a run equals three steps without a stop."""
    run, config = two_checkpoints
    seen = []

    def fragile(name, operation):
        def called(*args, **kwargs):
            seen.append(name)
            if len(seen) - 1 == at:
                raise Killed
            return operation(*args, **kwargs)

        return called

    it = Run(run).resume([environment()], config, pytest.fail)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_causal_lm", fragile("save_causal_lm", folder.save_causal_lm))
        patch.setattr(torch, "save", fragile("torch.save", torch.save))
        for owner, name in ((os, "fsync"), (os, "replace"), (shutil, "rmtree")):
            patch.setattr(owner, name, fragile(name, getattr(owner, name)))
        with pytest.raises(Killed):
            train(it, Run(run))
    assert seen == OPERATIONS[: at + 1]
    again = Run(run).resume([environment()], config, pytest.fail)
    assert again.done == (3 if at > 9 else 2)  # operation 9 is the rename
    train(again, Run(run))
    _, expected, lines = unbroken["grpo"]
    assert same(expected, weights(again))
    assert timeless(logged(run)) == [{k: v for k, v in line.items() if "validation" not in k} for line in lines]
    Run(run).save(again)
    assert checkpoints(run) == ["step-000002", "step-000003"]


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import test_train as t
run = Path(sys.argv[1])
config = t.replace(t.FULL, checkpoint_every=1, steps={steps})
if (run / "checkpoints").exists():
    it = t.Run(run).resume([t.environment()], config)
else:
    it = t.trainer(config)
print("ready", flush=True)
t.train(it, t.Run(run), report=lambda line: print(line["step"], flush=True))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_many_times_equals_an_unbroken_one(tmp_path):
    """A process is killed at random moments while it writes checkpoints, and started again until it has finished."""
    steps = 8
    config, unbroken, run = replace(FULL, checkpoint_every=1, steps=steps), tmp_path / "whole", tmp_path / "killed"
    whole, rng = trainer(config), random.Random(0)
    train(whole, Run(unbroken))
    code = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), steps=steps)
    kills = halves = 0
    while True:
        job = subprocess.Popen([sys.executable, "-c", code, run], stdout=subprocess.PIPE, text=True)
        assert job.stdout.readline() == "ready\n"
        job.stdout.readline()  # a step is done, so each try gets further
        while job.poll() is None and kills < 5 and not any((run / "checkpoints").glob("*.tmp")):
            time.sleep(0.0005)
        if kills == 5 or job.poll() is not None:
            break
        time.sleep(rng.random() * 0.01)
        job.kill()
        job.communicate()
        kills += 1
        halves += any((run / "checkpoints").glob("*.tmp"))
    job.communicate()
    assert job.returncode == 0 and kills >= 3 and halves >= 1
    again = Run(run).resume([environment()], config, pytest.fail)
    assert again.done == steps and same(weights(whole), weights(again))
    assert timeless(logged(run)) == timeless(logged(unbroken))
    assert str(whole.optimizer.state_dict()) == str(again.optimizer.state_dict())


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        Run(tmp_path).policy()


FILES = ["config.json", "manifest.json", "model.safetensors", "state.pt", "words.json"]


@pytest.mark.parametrize("file", FILES)
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(file, two_checkpoints):
    run, config = two_checkpoints
    lines = timeless(logged(run))
    expected = weights(Run(run).resume([environment()], config))
    for step in (2, 1):
        content = bytearray((run / "checkpoints" / f"step-00000{step}" / file).read_bytes())
        content[len(content) // 3] ^= 16
        (run / "checkpoints" / f"step-00000{step}" / file).write_bytes(content)
        if step == 2:
            told = []
            it = Run(run).resume([environment()], config, told.append)
            assert it.done == 1 == len(logged(run))
            assert len(told) == 1 and "step-000002" in told[0] and file in told[0]
            [line] = timeless([it.step()])  # the logged one also has what validation added
            assert same(weights(it), expected) and line.items() <= lines[1].items()
        else:
            with pytest.raises(DataError, match=rf"no checkpoint is whole: .*{file}.*{file}"):
                Run(run).policy(pytest.fail)


def test_without_a_warn_function_python_warns(two_checkpoints):
    (two_checkpoints[0] / "checkpoints" / "step-000002" / "state.pt").unlink()
    with pytest.warns(UserWarning, match=r"state.pt is missing; step-000001 is used in its place"):
        Run(two_checkpoints[0]).policy()


def rewritten(folder, name, change):
    """Change a file of a checkpoint and write a manifest that fits the change."""
    change(folder / name)
    step = json.loads((folder / "manifest.json").read_text())["step"]
    (folder / "manifest.json").unlink()
    checkpoint._write_manifest(folder, step)
    checkpoint.check(folder)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("dump", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, 2))])
def test_a_pickle_that_would_run_code_is_refused(dump, two_checkpoints):
    run, config = two_checkpoints
    mark = str(run / "owned")
    rewritten(run / "checkpoints" / "step-000002", "state.pt", lambda path: dump({"done": Hostile(mark)}, path))
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"step-000002: the checkpoint cannot be used .*UnpicklingError") as error:
        Run(run).resume([environment()], config, pytest.fail)
    assert "\n" not in str(error.value)
    assert not os.path.exists(mark) and (run / "metrics.jsonl").read_bytes() == before
    with suppress(Exception):  # torch may refuse what it read, but only after it has read it
        torch.load(run / "checkpoints" / "step-000002" / "state.pt", weights_only=False)
    assert os.path.exists(mark)  # without weights_only the code would have run


def other_state(path):
    it = trainer(replace(FULL, steps=1), model=tiny_model(len(TOK)))
    train(it)
    torch.save(it.state(), path)


def other_reference(path):
    state = torch.load(path, weights_only=True)
    state["reference"] = tiny_model(len(TOK)).state_dict()
    torch.save(state, path)


def changed(name, value):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


@pytest.mark.parametrize(
    "file, change, named",
    [
        (
            "model.safetensors",
            lambda path: save_model(tiny_model(len(TOK)), path),
            [f"({len(TOK)}, 16)", f"({len(TOK)}, 32)"],
        ),
        ("config.json", changed("hidden_size", 64), [f"({len(TOK)}, 32)", f"({len(TOK)}, 64)", "config.json"]),
        ("config.json", changed("num_hidden_layers", 3), ["model.layers.2", "absent in model.safetensors"]),
        ("words.json", changed("words", ["mug", "lamp"]), [f"{len(CONTROL) + 258} tokens", f"the model {len(TOK)}"]),
        ("words.json", changed("control", [*CONTROL[:-1], "<new>"]), [CONTROL[-1], "<new>"]),
        ("state.pt", other_state, [f"({len(TOK)}, 16) in the optimizer", f"({len(TOK)}, 32) in the model"]),
        ("state.pt", other_reference, [f"({len(TOK)}, 16) in the reference", f"({len(TOK)}, 32) in the model"]),
    ],
)
def test_files_of_two_models_are_refused_and_both_are_named(file, change, named, two_checkpoints):
    run, config = two_checkpoints
    rewritten(run / "checkpoints" / "step-000002", file, change)
    with pytest.raises(DataError, match="step-000002: the checkpoint cannot be used") as error:
        Run(run).resume([environment()], config, pytest.fail)
    assert all(name in str(error.value) for name in named), error.value
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(run))


def test_the_log_is_shortened_completely_or_not_at_all(two_checkpoints, monkeypatch):
    run, config = two_checkpoints
    Run(run).log({"step": 3})
    before = (run / "metrics.jsonl").read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(Killed()))
            Run(run).resume([environment()], config)
        assert (run / "metrics.jsonl").read_bytes() == before
    Run(run).resume([environment()], config)
    assert [line["step"] for line in logged(run)] == [1, 2]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError) as error:
        Run(tmp_path).log({"step": 1})
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").rmdir()
    if os.path.exists("/dev/full"):  # as a full disk; the error itself names no file
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as error:
            Run(tmp_path).log({"step": 1})
        assert error.value.filename == str(tmp_path / "metrics.jsonl")


# --- refusals -----------------------------------------------------------------------------------------------------


def untouched(it, before):
    """Whether nothing was learned or counted, so that the next step is still the first."""
    return it.done == 0 and same(before, weights(it)) and not any(part.state for part in it.optimizer.parts)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf"), 1e300, None, "0.5", [0.5]], ids=str)
def test_a_reward_that_is_not_finite_is_refused_by_name_and_changes_nothing(reward):
    def look(episodes):
        names.append(episodes[4].query.id)
        return [replace(e, reward=reward if i == 4 else e.reward) for i, e in enumerate(episodes)]

    names = []
    it = trainer(env=watched(look))
    before = weights(it)
    with pytest.raises(
        ValueError, match=r"step 1 is refused: Watched\.play: episode of query .* the reward is"
    ) as error:
        train(it)
    assert names[0] in str(error.value) and "\n" not in str(error.value)
    assert untouched(it, before)


@pytest.mark.parametrize(
    "look, what",
    [
        (lambda episodes: episodes[:8], "8 episodes for 9 queries; for query (.*) an episode of None"),
        (lambda episodes: [*episodes, episodes[0]], "10 episodes for 9 queries; for query None an episode of (.*)"),
        (lambda episodes: episodes[::-1], "9 episodes for 9 queries; for query (.*) an episode of (.*)"),
        (lambda episodes: [], "0 episodes for 9 queries"),
    ],
)
def test_episodes_of_other_queries_are_refused(look, what):
    """Otherwise rewards of different queries would be compared."""
    it = trainer(env=watched(look))
    before = weights(it)
    with pytest.raises(ValueError, match=rf"step 1 is refused: Watched\.play returned {what}"):
        train(it)
    assert untouched(it, before)


@pytest.mark.parametrize("error, kind", [(ZeroDivisionError("by zero"), RuntimeError), (ValueError("no"), ValueError)])
def test_an_error_names_the_environment_and_the_queries(error, kind):
    def look(episodes):
        ids.extend(e.query.id for e in episodes)
        raise error

    ids = []
    it = trainer(env=watched(look))
    before = weights(it)
    with pytest.raises(kind, match=rf"step 1 is refused: Watched\.play raised {type(error).__name__}") as told:
        train(it)
    assert all(name in str(told.value) for name in ids) and told.value.__cause__ is error
    assert untouched(it, before)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    it = trainer(replace(CONFIG, steps=1), watched(far_apart))
    before = weights(it)
    [line] = train(it)
    assert line["skipped_updates"] == 1 and line["grad_norm"] == 0
    assert same(before, weights(it)) and not any(part.state for part in it.optimizer.parts)
    assert all(parameter.grad is None for parameter in it.model.parameters())


def far_apart(episodes):
    """Finite rewards whose differences are not finite; neither is the gradient."""
    return [replace(e, reward=3e38 if i % 2 else -3e38) for i, e in enumerate(episodes)]


def test_an_update_with_a_loss_that_is_not_finite_is_skipped_too():
    """Even if its gradient is finite."""
    it = trainer(replace(CONFIG, steps=1))
    it.formulas = Formulas(grpo_loss=lambda *args: grpo_loss(*args) + float("inf"))
    before = weights(it)
    [line] = train(it)
    assert (
        line["skipped_updates"] == 1
        and same(before, weights(it))
        and not any(part.state for part in it.optimizer.parts)
    )


def test_training_stops_after_max_skipped_updates_in_a_row_and_names_the_last_checkpoint(tmp_path):
    """Three bad steps in a row stop training, also if the run is resumed between them. A good step resets the count."""
    config, steps = replace(CONFIG, steps=20, max_skipped=3, checkpoint_every=1), []

    def look(bad):
        def at(episodes):
            steps.append(1)
            return far_apart(episodes) if bad(len(steps)) else episodes

        return watched(at)

    it = trainer(config, look(lambda n: n > 1))
    with pytest.raises(KeyboardInterrupt):
        train(it, Run(tmp_path), report=lambda line: interrupt() if line["step"] == 3 else None)
    learned = weights(it)
    assert it.skipped == 2
    again = Run(tmp_path).resume([look(lambda n: True)], config)
    assert again.skipped == 2
    last = tmp_path / "checkpoints" / "step-000003"
    with pytest.raises(ValueError, match=rf"step 4: .* not finite in 3 updates in a row, .* checkpoint is {last};"):
        train(again, Run(tmp_path))
    assert checkpoints(tmp_path) == ["step-000002", "step-000003"]
    assert same(learned, weights(again)) and same(learned, Run(tmp_path).policy()[0].parameters())
    assert [line["skipped_updates"] for line in logged(tmp_path)] == [0, 1, 1, 1]

    steps.clear()
    third = Run(tmp_path).resume([look(lambda n: n != 1)], config)  # after a good step, three bad ones are needed again
    with pytest.raises(ValueError, match="step 7: "):
        train(third, Run(tmp_path))
    with pytest.raises(ValueError, match="there is no checkpoint"):
        train(trainer(config, watched(far_apart)))


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_equal_rewards_change_no_weight(algo):
    it = trainer(
        replace(CONFIG, steps=1, algo=algo), watched(lambda episodes: [replace(e, reward=0.1) for e in episodes])
    )
    before = weights(it)
    [line] = train(it)
    assert line["frac_reward_zero_std"] == 1 and line["grad_norm"] == 0
    assert same(before, weights(it))


@pytest.mark.parametrize(
    "change",
    [
        *({"algo": "ppo"}, {"group": 1}, {"baseline": "value"}, {"steps": 0}, {"prompts_per_step": 0}),
        *({"micro_batches": 0}, {"micro_batches": 10}, {"evaluate_every": 0}, {"checkpoint_every": 0}),
        {"max_skipped": 0},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_an_environment_without_training_queries_is_refused():
    env = environment()
    empty = replace(env, split=replace(env.split, train_queries=()))
    for environments in ([], [empty], [env, empty]):
        with pytest.raises(ValueError, match="at least one training query"):
            Trainer(tiny_model(len(TOK)), TOK, environments, CONFIG)


def test_fewer_queries_than_prompts_are_drawn_again():
    env = environment()
    few = replace(env, split=replace(env.split, train_queries=env.split.train_queries[:2]))
    it = trainer(replace(CONFIG, prompts_per_step=5), few)
    episodes, groups = it.collect()
    assert len(episodes) == 15 and groups == [i // 3 for i in range(15)]  # a query that is drawn twice makes two groups


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_rewarded_behaviour_becomes_more_frequent(algo, device):
    """Reward 1 for a turn that opens with <think>: an untrained policy goes from 1 in 500 to almost always."""
    opening = Grammar(TOK).control["<think>"]

    def look(episodes):
        firsts = [e.tokens[e.mask.index(1)] for e in episodes]
        # ids near the right one earn a little; without this slope the policy would never find it
        return [
            replace(e, reward=max(0.0, 1 - abs(i - opening) / len(TOK))) for e, i in zip(episodes, firsts, strict=True)
        ]

    config = TrainConfig(
        algo=algo,
        steps=60,
        prompts_per_step=4,
        group=8,
        learning_rate=0.02,
        micro_batches=1,
        rules=RolloutConfig(turn_tokens=1, global_k=0, max_calls=0),
    )
    lines = train(Trainer(tiny_model(len(TOK)).to(device), TOK, [watched(look)], config))
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[:3]) / 3 < 0.7 and sum(rewards[-3:]) / 3 > 0.9
    assert lines[-1]["entropy"] < lines[0]["entropy"]
