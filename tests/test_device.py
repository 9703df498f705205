"""A GPU gives the same draws, episodes and updates as the CPU, and a run can move from one to the other.

Without a GPU most tests are skipped. On a machine with one, run `pytest tests/test_device.py tests/test_train.py`.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrrec_mini.grammar import Grammar
from mrrec_mini.grpo import GRPOConfig
from mrrec_mini.recipe import FAST, prepare, start_policy
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.run import Run, check_device
from mrrec_mini.sampler import Sampler
from mrrec_mini.train import TrainConfig, Trainer, autocast, train
from mrrec_mini.world import WorldConfig, make_world
from runs import mrrec, refused
from small import GPU, environment, taught_model, tokenizer

TOK = tokenizer()
GRAMMAR = Grammar(TOK)
RULES, REWARD = RolloutConfig(turn_tokens=20), RewardConfig()
CONFIG = TrainConfig(steps=4, prompts_per_step=4, group=4, learning_rate=1e-2, checkpoint_every=2, rules=RULES)
# the parts where devices could differ: constrained decoding, a reference, several epochs
FULL = replace(CONFIG, rules=replace(RULES, constrained=True), grpo=GRPOConfig(sigma="group", beta=0.1, epochs=2))


def played(model, temperature=1.0, constrained=False):
    actor = LMActor(model, GRAMMAR, torch.Generator().manual_seed(0) if temperature else None, temperature)
    env = environment()
    queries = [query for query in env.split.train_queries[:6] for _ in range(3)]
    return env.play(actor, queries, GRAMMAR, replace(RULES, constrained=constrained), REWARD)


@pytest.mark.parametrize("name", ["quantum", "meta", "cuda:99"])
def test_a_missing_device_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=r"torch cannot compute on device .*leave --device out") as refusal:
        check_device(name)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_cpu_is_accepted():
    check_device("cpu")


@pytest.mark.parametrize("command", [["train", "--data", "nowhere"], ["evaluate"]])
def test_the_device_is_checked_before_anything_is_read_or_written(command, tmp_path):
    refused(mrrec(*command, "--run", tmp_path / "run", "--device", "quantum"), 1, "quantum", "leave --device out")
    assert not (tmp_path / "run").exists()


def test_random_numbers_come_from_a_cpu_generator():
    """So a seed gives the same numbers on any device, and a checkpoint fits any device."""
    assert Trainer(taught_model(), TOK, [environment()], CONFIG).generator.device == torch.device("cpu")


@GPU
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("constrained", [False, True])
def test_the_same_seed_gives_the_same_episodes(temperature, constrained):
    model = taught_model()
    here = played(model, temperature, constrained)
    there = played(deepcopy(model).to("cuda"), temperature, constrained)
    assert [one.tokens for one in here] == [one.tokens for one in there]
    assert [one.reward for one in here] == [one.reward for one in there]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


@GPU
def test_on_a_gpu_sampler_and_update_agree():
    model = taught_model().to("cuda")
    batch = to_batch(played(model), [i // 3 for i in range(18)], "cuda")
    logprobs, _ = token_logprobs(model, batch.tokens, batch.mask)
    assert float((logprobs - batch.old_logprobs)[batch.mask].abs().max().detach()) < 1e-4


@GPU
@pytest.mark.parametrize("config", [CONFIG, FULL, replace(CONFIG, algo="reinforce"), replace(CONFIG, credit="turn")])
def test_a_training_step_is_the_same_on_both_devices(config):
    logs, weights = {}, {}
    for device in ("cpu", "cuda"):
        made = Trainer(taught_model().to(device), TOK, [environment()], config)
        logs[device] = made.step()
        weights[device] = [p.detach().cpu() for p in made.model.parameters()]
    for name in ("reward", "entropy", "grad_norm", "kl", "calls/mean"):
        assert logs["cuda"].get(name) == pytest.approx(logs["cpu"].get(name), rel=1e-2, abs=1e-4), name
    # Adam's first step moves each weight by the learning rate; the sign of an almost zero gradient is chance
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(weights["cpu"], weights["cuda"], strict=True)])
    assert float((apart > 1e-4).float().mean()) < 0.01


@GPU
@pytest.mark.parametrize("begun, gone_on", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_moves_from_one_device_to_the_other(begun, gone_on, tmp_path):
    made = Trainer(taught_model().to(begun), TOK, [environment()], replace(FULL, steps=2))
    train(made, Run(tmp_path))
    Run(tmp_path).save(made)
    after = Run(tmp_path).resume([environment()], FULL, device=gone_on)
    assert after.model.device.type == gone_on and after.done == 2
    assert torch.equal(after.generator.get_state(), made.generator.get_state())
    for one, other in zip(made.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(one.cpu(), other.cpu())
    assert [line["step"] for line in train(after, Run(tmp_path))] == [3, 4]


@GPU
def test_the_warm_start_runs_on_a_gpu():
    shop = make_world(WorldConfig(users=20, items=150, categories=4, held=1))
    recipe = replace(FAST, siblings=0, traces=40)
    losses = []

    def note(phase, step, total, said):
        if phase == "warm start":
            losses.append(float(said.split()[-1]))

    model, _ = start_policy(prepare(shop, recipe, 0), recipe, 0, note, "cuda")
    assert model.device.type == "cuda" and losses[-1] < losses[0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_in_bfloat16_sampler_and_update_agree(device):
    """If one of them ran in float32, they would differ several times as much: it would be another policy."""
    made = Trainer(taught_model().to(device), TOK, [environment()], replace(CONFIG, precision="bfloat16"))
    batch = to_batch(*made.collect(), device)

    def gap():
        with torch.no_grad():
            logprobs, _ = token_logprobs(made.model, batch.tokens, batch.mask)
        return float((logprobs - batch.old_logprobs)[batch.mask].abs().mean())

    with autocast(made.model, made.config):
        alike = gap()
    assert alike < gap() / 2
    log = made.step()
    assert np.isfinite(log["grad_norm"]) and log["skipped_updates"] == 0


@GPU
def test_the_sampler_writes_the_same_text_on_both_devices():
    model = taught_model()
    prompt = [[TOK.control["<query>"], *TOK.encode("a mug for hiking"), TOK.control["<think>"]]] * 4
    texts = [
        Sampler(m, prompt, torch.Generator().manual_seed(3)).sample([TOK.control["<end>"]], 12)[0]
        for m in (model, deepcopy(model).to("cuda"))
    ]
    assert texts[0] == texts[1]
