"""Does a policy learn when to look up? The game of `tutorials/toys.py`, trained in the real loop (slow)."""

import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from house import ROOT
from mrrec_mini.rollout import ScriptActor
from mrrec_mini.train import Trainer, train

sys.path.insert(0, str(ROOT / "tutorials"))

from toys import (
    BEST,
    CONFIG,
    GRAMMAR,
    REWARD,
    RULES,
    TEACHERS,
    TOKENIZER,
    VALUES,
    Task,
    coin_flip_teacher,
    needs_look_up,
    report,
    warm_policy,
)

# --- the task itself ----------------------------------------------------------------------------------------------


def play_script(task, looks_up):
    """Mean reward of a script that looks up if `looks_up(query)` and answers with the last value that it read."""

    def script(state):
        if looks_up(state.query) and not state.calls:
            return GRAMMAR.write_search(state.query.text, state.query.text.split()[0])
        words = [*state.query.text.split(), *(w for entry in state.shown for w in entry.text.split())]
        return GRAMMAR.write_final(state.query.text, ([word for word in words if word in VALUES] or ["red"])[-1], ())

    actor = ScriptActor(lambda state: script)
    return float(np.mean([e.reward for e in task.play(actor, task.test_queries, GRAMMAR, RULES, REWARD)]))


def test_looking_up_only_if_needed_has_the_best_reward():
    task = Task.make(0)
    assert play_script(task, needs_look_up) == pytest.approx(BEST)
    assert play_script(task, lambda query: True) == pytest.approx(0.6)
    assert play_script(task, lambda query: False) < 0.7
    users = [{query.user for query in queries} for queries in (task.train_queries, task.test_queries)]
    assert not users[0] & users[1]


def test_the_teacher_looks_up_by_chance():
    task = Task.make(0)
    actor = ScriptActor(coin_flip_teacher(np.random.default_rng(0)))
    episodes = task.play(actor, task.train_queries * 20, GRAMMAR, RULES, REWARD)
    for needed in (True, False):
        calls = [len(e.calls) for e in episodes if needs_look_up(e.query) == needed]
        assert np.mean(calls) == pytest.approx(0.5, abs=0.05)
    assert np.mean([e.reward for e in episodes]) == pytest.approx(TEACHERS, abs=0.03)


# --- learning -----------------------------------------------------------------------------------------------------


SEEDS = range(5)


@cache
def start(seed: int):
    """(task, policy that imitates the teacher) of a seed."""
    task = Task.make(seed)
    return task, warm_policy(task, seed)


@cache
def learned(seed: int):
    """(report before training, report after it, the log of the training)."""
    task, model = start(seed)
    model = deepcopy(model)
    before = report(model, task)
    lines = train(Trainer(model, TOKENIZER, [task], replace(CONFIG, seed=seed)))
    return before, report(model, task), lines


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_to_look_up_only_if_needed(seed):
    before, after, lines = learned(seed)
    print(f"\nseed {seed}: {before} -> {after}; {sum(line['step_tokens'] for line in lines):.0f} tokens")
    assert before.reward < 0.7 and abs(before.calls_needed - before.calls_idle) < 0.3  # not yet learned
    assert after.reward >= 0.95 * BEST
    assert after.calls_needed > 0.9 and after.calls_idle < 0.1
    # signs of a collapse: a drop in the reward, an exploding gradient norm, groups with equal rewards before learning
    assert np.mean([line["reward"] for line in lines[-10:]]) > 0.9 * BEST
    assert max(line["grad_norm"] for line in lines) < 10 and lines[0]["frac_reward_zero_std"] < 0.5
    assert lines[0]["entropy"] > lines[-1]["entropy"] > 0
