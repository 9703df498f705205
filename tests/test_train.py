"""The loop: what it logs, that stopping it at any point changes nothing, what it refuses, and that it learns."""

import json
import os
import signal
import threading
from dataclasses import dataclass, replace

import pytest
import torch
import transformers

import mrrec_mini.train as loop
from mrrec_mini.environment import Environment
from mrrec_mini.grpo import LENGTHS, GRPOConfig, group_advantages
from mrrec_mini.prompts import Grammar
from mrrec_mini.reinforce import to_batch
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.train import TrainConfig, Trainer, load_policy, resume, save_checkpoint, train, undivided
from small import environment, taught_model, tiny_model, tokenizer

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
# everything that could be forgotten in a checkpoint: a reference, several epochs, clipping
FULL = replace(CONFIG, grpo=GRPOConfig(sigma="group", beta=0.1, epochs=2, clip=(0.02, 0.02)))


@dataclass(frozen=True)
class Watched(Environment):
    """An environment that hands every played list of episodes to `look`, which may change it."""

    look: object = None

    def play(self, *args, **kwargs):
        return self.look(super().play(*args, **kwargs))


def watched(look):
    env = environment()
    return Watched(env.dataset, env.split, env.memory, env.items, look)


def trainer(config=CONFIG, env=None, model=None):
    return Trainer(model or taught_model(), TOK, [env or environment()], config)


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
    *("step", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "grad_norm", "step_time"),
    *("clip_ratio/low_mean", "clip_ratio/high_mean", "skipped_updates", "learning_rate", "num_tokens", "calls/mean"),
    *(f"rewards/{term}/mean" for term in ("format", "recommendation", "memory")),
    *(f"completions/{name}" for name in ("mean_length", "min_length", "max_length", "clipped_ratio")),
}


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_a_few_steps_log_every_named_number(algo, tmp_path):
    env, seen = environment(), []
    start = taught_model()
    it = trainer(replace(CONFIG, algo=algo))
    lines = train(it, tmp_path, env.split.validation_queries, seen.append)
    assert lines == seen == logged(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        extra = {"validation/ndcg@10", "validation/format"} if line["step"] in (2, 3) else set()
        assert set(line) == NAMES | extra
        assert all(isinstance(value, float | int) and value == value for value in line.values())
        assert line["entropy"] > 0 and line["kl"] == 0 and line["skipped_updates"] == 0
        # one update on what was just sampled: the ratio is 1, so nothing is clipped
        assert line["clip_ratio/low_mean"] == line["clip_ratio/high_mean"] == 0
    assert lines[0]["grad_norm"] > 0 and lines[0]["reward_std"] > 0
    assert [line["learning_rate"] for line in lines] == [0.005, 0.01, 0.01]
    assert not same(start.parameters(), it.model.parameters())


def test_the_reward_numbers_by_hand(tmp_path):
    """Groups (0, 0, 3), (1, 1, 1), (0, 2, 4): the means, the deviations sqrt(3), 0, 2, and a third without any."""
    rewards = [0.0, 0, 3, 1, 1, 1, 0, 2, 4]
    seen = []

    def look(episodes):
        seen[:] = [replace(e, reward=r) for e, r in zip(episodes, rewards, strict=True)]
        return seen

    [line] = train(trainer(replace(CONFIG, steps=1), watched(look)))
    assert line["reward"] == pytest.approx(12 / 9)
    assert line["reward_std"] == pytest.approx((3**0.5 + 0 + 2) / 3)
    assert line["frac_reward_zero_std"] == pytest.approx(1 / 3)
    lengths = [sum(e.mask) for e in seen]
    for name, value in (("mean", sum(lengths) / 9), ("min", min(lengths)), ("max", max(lengths))):
        assert line[f"completions/{name}_length"] == pytest.approx(value)
    assert line["num_tokens"] == sum(len(e.tokens) for e in seen)
    assert line["calls/mean"] == pytest.approx(sum(len(e.calls) for e in seen) / 9)
    assert line["rewards/format/mean"] == pytest.approx(sum(e.answer is not None for e in seen) / 9)


def test_a_second_epoch_leaves_the_sampler_behind():
    lines = train(trainer(replace(FULL, steps=2)))
    assert all(line["kl"] > 0 and line["clip_ratio/low_mean"] + line["clip_ratio/high_mean"] > 0 for line in lines)


def test_the_ratio_of_the_first_update_is_one():
    """Sampler and update agree to 1e-5, with dropout in the model's configuration too."""
    shape = transformers.GPT2Config(
        vocab_size=len(TOK), n_embd=16, n_layer=2, n_head=2, n_positions=512, bos_token_id=None, eos_token_id=None
    )
    assert shape.resid_pdrop > 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with_dropout = transformers.GPT2LMHeadModel(shape)
    for model in (taught_model(), with_dropout):
        it, scored = trainer(replace(CONFIG, learning_rate=0.0), model=model), []
        original = loop.token_logprobs

        def spy(*args, original=original, scored=scored):
            out = original(*args)
            scored.append((out[0].detach(), args[2]))
            return out

        episodes, groups = it.collect()
        batch = to_batch(episodes, groups)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "token_logprobs", spy)
            it.update(batch, torch.zeros(len(episodes)))
        rows = torch.cat(loop.rows_by_length(batch, it.config.micro_batches))
        again = torch.cat([logprobs[mask] for logprobs, mask in scored])
        drawn = torch.cat([batch.old_logprobs[row][batch.mask[row]] for row in rows])
        assert (again - drawn).abs().max() <= 1e-5


def test_queries_are_drawn_without_repetition_in_groups_and_environments_take_turns():
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


# --- one batch, cut anyhow ----------------------------------------------------------------------------------------


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
        logs = [it.update(batch, advantages) for _ in range(2)]
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
        other.update(batch, group_advantages(batch.rewards, batch.groups, "group"))
        gradients.append(weights(other))
    assert max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) <= 1e-6


def test_validation_does_not_disturb_training():
    plain, looked_at = trainer(), trainer(replace(CONFIG, evaluate_every=1))
    train(plain)
    train(looked_at, None, environment().split.validation_queries)
    assert same(weights(plain), weights(looked_at))


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """For each configuration: the run that was never stopped."""
    runs = {}
    for name, config in (("grpo", FULL), ("reinforce", replace(CONFIG, algo="reinforce", baseline="leave_one_out"))):
        it, run = trainer(config), tmp_path_factory.mktemp(name)
        lines = train(it, run, environment().split.validation_queries)
        runs[name] = (config, weights(it), timeless(lines))
    return runs


def check_unbroken(unbroken, name, run, it):
    _, expected, lines = unbroken[name]
    assert same(expected, weights(it))
    assert timeless(logged(run)) == lines
    assert same(expected, load_policy(run)[0].parameters())


@pytest.mark.parametrize("name", ["grpo", "reinforce"])
@pytest.mark.parametrize("stop", [1, 2])
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(unbroken, name, stop, tmp_path):
    config, validation = unbroken[name][0], environment().split.validation_queries
    first = trainer(config)
    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path, validation, lambda line: interrupt() if line["step"] == stop else None)
    assert first.done == stop and len(logged(tmp_path)) == stop
    again = resume(tmp_path, [environment()], config)
    assert again.done == stop and same(weights(first), weights(again))
    train(again, tmp_path, validation)
    check_unbroken(unbroken, name, tmp_path, again)


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(unbroken, tmp_path):
    """A real signal, between rollout and update of step 2."""
    config, validation = unbroken["grpo"][0], environment().split.validation_queries
    played = []

    def look(episodes):
        if len(played) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        played.append(len(episodes))
        return episodes

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(trainer(config, watched(look)), tmp_path, validation)
    assert signal.getsignal(signal.SIGINT) is before
    again = resume(tmp_path, [environment()], config)
    assert again.done == 2 == len(logged(tmp_path))
    train(again, tmp_path, validation)
    check_unbroken(unbroken, "grpo", tmp_path, again)


def test_outside_the_main_thread_training_needs_no_signals():
    it = trainer(replace(CONFIG, steps=1))
    done = threading.Thread(target=train, args=(it,))
    done.start()
    done.join()
    assert it.done == 1
    with undivided():
        pass  # and nothing is left behind
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_lines_written_after_the_checkpoint_are_made_again(unbroken, tmp_path):
    """As after kill -9: the checkpoint is that of step 2, the log holds step 3 and half a line more."""
    config, validation = unbroken["grpo"][0], environment().split.validation_queries
    with pytest.raises(KeyboardInterrupt):
        train(trainer(config), tmp_path, validation, lambda line: interrupt() if line["step"] == 2 else None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward": 0.5}\n{"step": 4, "rew')
    again = resume(tmp_path, [environment()], config)
    assert again.done == 2 == len(logged(tmp_path))
    train(again, tmp_path, validation)
    check_unbroken(unbroken, "grpo", tmp_path, again)


class Killed(BaseException):
    """The machine went away: nobody catches it."""


@pytest.mark.parametrize("later", [False, True], ids=["kill", "kill, kill"])
@pytest.mark.parametrize("at", range(7))
def test_a_kill_during_a_checkpoint_leaves_the_old_or_the_new_one_whole(at, later, tmp_path, monkeypatch):
    """Killed at every operation on files in turn; with `later` a second time, at the next save's own first ones."""
    it = trainer()
    save_checkpoint(tmp_path, it)
    old = weights(it)
    it.done = 1
    with torch.no_grad():
        for parameter in it.model.parameters():
            parameter.add_(1.0)

    def killed_at(at):
        count = [at]

        def fragile(operation):
            def run(*args, **kwargs):
                if count[0] == 0:
                    raise Killed
                count[0] -= 1
                return operation(*args, **kwargs)

            return run

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "save_causal_lm", fragile(loop.save_causal_lm))
            patch.setattr(loop.torch, "save", fragile(torch.save))
            patch.setattr(loop.os, "replace", fragile(os.replace))
            patch.setattr(loop.shutil, "rmtree", fragile(loop.shutil.rmtree))
            try:
                save_checkpoint(tmp_path, it)
            except Killed:
                return True
        return False

    died = killed_at(at)
    for second in range(4) if later else [None]:
        if second is not None:
            died = killed_at(second) or died
        assert died
        again = resume(tmp_path, [environment()], CONFIG)
        assert same(weights(again), old if again.done == 0 else weights(it))
    save_checkpoint(tmp_path, it)
    assert resume(tmp_path, [environment()], CONFIG).done == 1
    assert {path.name for path in tmp_path.iterdir()} == {"policy"}


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        load_policy(tmp_path)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused_by_name_and_nothing_is_changed(reward):
    def look(episodes):
        names.append(episodes[4].query.id)
        return [replace(e, reward=reward if i == 4 else e.reward) for i, e in enumerate(episodes)]

    names = []
    it = trainer(env=watched(look))
    before = weights(it)
    with pytest.raises(ValueError, match="the reward is") as error:
        train(it)
    assert names[0] in str(error.value) and "\n" not in str(error.value)
    assert it.done == 0 and same(before, weights(it)) and not it.optimizer.state


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    def look(episodes):  # finite, but their differences are not
        return [replace(e, reward=3e38 if i % 2 else -3e38) for i, e in enumerate(episodes)]

    it = trainer(replace(CONFIG, steps=1), watched(look))
    before = weights(it)
    [line] = train(it)
    assert line["skipped_updates"] == 1 and line["grad_norm"] == 0
    assert same(before, weights(it)) and not it.optimizer.state
    assert all(parameter.grad is None for parameter in it.model.parameters())


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_equal_rewards_move_nothing(algo):
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
    ],
    ids=str,
)
def test_configurations_that_cannot_be_are_refused(change):
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
    assert len(episodes) == 15 and groups == [i // 3 for i in range(15)]  # a query drawn twice is two groups


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_what_is_rewarded_is_done_more_often(algo):
    """Reward 1 for a turn that opens with <think>, by a policy that knows nothing: 1 in 500 becomes almost always."""
    opening = Grammar(TOK).control["<think>"]

    def look(episodes):
        firsts = [e.tokens[e.mask.index(1)] for e in episodes]
        # a slope to climb: nearer ids are worth a little, or nobody would ever meet the right one
        return [
            replace(e, reward=max(0.0, 1 - abs(i - opening) / len(TOK))) for e, i in zip(episodes, firsts, strict=True)
        ]

    config = TrainConfig(
        algo=algo,
        steps=40,
        prompts_per_step=4,
        group=8,
        learning_rate=0.02,
        micro_batches=1,
        rules=RolloutConfig(turn_tokens=1, global_k=0, max_calls=0),
    )
    lines = train(Trainer(tiny_model(len(TOK)), TOK, [watched(look)], config))
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[:3]) / 3 < 0.7 and sum(rewards[-3:]) / 3 > 0.9
    assert lines[-1]["entropy"] < lines[0]["entropy"]
