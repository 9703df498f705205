"""The two lessons before reinforcement: a drill in copying, then imitation of the teacher's traces."""

import numpy as np
import pytest
import torch

from mrrec_mini.data import DataError
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.imitation import WarmStartConfig, copy_drill, drill_batch, scramble, supervised_loss, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reinforce import rows_by_length, to_batch
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import TeacherConfig, teacher
from small import environment, fresh_logprobs, tiny_model, tokenizer

TOK = tokenizer()

# --- the drill ----------------------------------------------------------------------------------------------------


def test_the_drill_asks_only_for_words_that_can_be_copied():
    tokens, mask = drill_batch(TOK, 50, np.random.default_rng(0))
    assert tokens.shape == mask.shape == (50, 5 * 4 + 8 * 4)
    for row, asked in zip(tokens.tolist(), mask.tolist(), strict=True):
        lines = [row[i : i + 4] for i in range(0, 20, 4)]
        reads = [row[i : i + 4] for i in range(20, 52, 4)]
        assert all(first == TOK.control["<line>"] for first, *_ in lines)
        assert len({word for _, *words in lines for word in words}) == 15  # so a first word identifies its line
        assert all(first == TOK.control["<think>"] for first, *_ in reads)
        assert {tuple(words) for _, *words in reads} <= {tuple(words) for _, *words in lines}
        assert asked == [False] * 20 + [False, False, True, True] * 8
        assert min(word for _, *words in lines for word in words) >= TOK.first_word


@pytest.mark.slow
def test_copying_is_learned():
    """About 150 steps with 400 words. With 100 words 400 steps are not enough: a copy is too close to a guess."""
    tok = WordTokenizer(CONTROL, [f"w{i}" for i in range(400)])
    model = make_causal_lm(len(tok), CausalLMConfig(), torch.Generator().manual_seed(0))
    seen = []
    config = WarmStartConfig(drill_batch=24, drill_goal=0.8, drill_steps=400)
    skill = copy_drill(model, tok, config, np.random.default_rng(0), lambda step, skill: seen.append((step, skill)))
    assert skill > 0.8 and seen[-1] == (len(seen), skill) and len(seen) < 400
    assert all(value <= 0.8 for _, value in seen[:-1])  # it stops at the first step above the goal


def test_the_drill_ends_at_its_last_step():
    model = tiny_model(len(TOK))
    seen = []
    config = WarmStartConfig(drill_batch=2, drill_steps=3)
    skill = copy_drill(model, TOK, config, np.random.default_rng(0), lambda *step: seen.append(step))
    assert [step for step, _ in seen] == [1, 2, 3] and seen[-1][1] == skill < 0.2


# --- the traces ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces():
    env, grammar = environment(), Grammar(TOK)
    actor = ScriptActor(teacher(grammar, TeacherConfig(), np.random.default_rng(0)))
    return env.play(actor, env.split.train_queries, grammar, RolloutConfig(), RewardConfig())


def test_scrambling_renames_words_and_nothing_else(traces):
    rng = np.random.default_rng(0)
    changed = 0
    for trace in traces:
        told = scramble(trace.tokens, TOK, rng)
        pairs = set(zip(trace.tokens, told, strict=True))
        assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)  # one to one
        assert all((old == new) if old < TOK.first_word else (TOK.first_word <= new < len(TOK)) for old, new in pairs)
        changed += sum(old != new for old, new in pairs)
    assert changed > 0


def test_the_loss_covers_only_what_the_teacher_wrote(traces):
    """The loss is the mean of -log pi over those tokens; the losses of the parts of a batch add up."""
    model = tiny_model(len(TOK))
    batch = to_batch(traces[:6], range(6))
    assert not any(batch.mask[row, i] for row, t in enumerate(traces[:6]) for i, m in enumerate(t.mask) if not m)
    written = int(batch.mask.sum())
    scores = [fresh_logprobs(model, t.tokens)[torch.tensor(t.mask, dtype=torch.bool)] for t in traces[:6]]
    expected = -float(torch.cat(scores).mean())
    assert written == sum(len(score) for score in scores)
    assert float(supervised_loss(model, batch.tokens, batch.mask, written).detach()) == pytest.approx(
        expected, abs=1e-5
    )
    parts = [batch.rows(rows) for rows in rows_by_length(batch, 3)]
    total = sum(float(supervised_loss(model, part.tokens, part.mask, written).detach()) for part in parts)
    assert total == pytest.approx(expected, abs=1e-5)


def test_the_warm_start_lowers_the_loss_and_is_reproducible(traces):
    config = WarmStartConfig(steps=40, batch=6, learning_rate=1e-2, scrambled=0.5)

    def run():
        model, seen = tiny_model(len(TOK)), []
        losses = warm_start(model, TOK, traces, config, np.random.default_rng(0), lambda *step: seen.append(step))
        assert seen == list(enumerate(losses, start=1)) and len(losses) == 40
        return losses, list(model.parameters())

    (losses, weights), (again, same) = run(), run()
    assert losses == again and all(map(torch.equal, weights, same))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_too_few_words_for_the_drill_are_named():
    few = WordTokenizer(CONTROL, [f"word{n}" for n in range(14)])
    with pytest.raises(DataError, match="14 words that occur often enough, and the copy drill needs 15"):
        drill_batch(few, 2, np.random.default_rng(0))
    drill_batch(WordTokenizer(CONTROL, [f"word{n}" for n in range(15)]), 2, np.random.default_rng(0))
