"""The two lessons before reinforcement: a drill in copying, then imitation of the teacher's traces."""

import numpy as np
import pytest
import torch

from mrrec_mini import imitation
from mrrec_mini.data import DataError
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.imitation import (
    WarmStartConfig,
    copied_words,
    copy_drill,
    drill_batch,
    scramble,
    supervised_loss,
    unchanged_rows,
    warm_start,
    words_of,
)
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
        told = scramble(trace.tokens, words_of(trace, TOK), TOK, rng)
        pairs = set(zip(trace.tokens, told, strict=True))
        assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)  # one to one
        assert all((old == new) if old < TOK.first_word else (TOK.first_word <= new < len(TOK)) for old, new in pairs)
        changed += sum(old != new for old, new in pairs)
    assert changed > 0


def spoken(*parts):
    """A trace of (mask, text) parts, in which names like <think> are control tokens."""
    tokens, mask = [], []
    for written, text in parts:
        ids = [i for word in text.split() for i in ([TOK.control[word]] if word in TOK.control else TOK.encode(word))]
        tokens += ids
        mask += [written] * len(ids)
    logprobs = (0.0,) * len(tokens)
    return Episode(Query("q", "u", "mug", "i", 0), tuple(tokens), tuple(mask), logprobs, (), None, "answer")


TOLD = spoken(
    (0, "<query> mug for hiking <global> <line> mug size"),
    (1, "<think> <search> mug size overall </search>"),
    (0, "<memory> <m1> overall size small 2 <m2> bought red mug luxury zzz </memory>"),
    (1, "<think> size small <profile> mug for hiking size small zzz <evidence> <m1> <end>"),
)


def all_that_memory_shows(trace, tok):
    at = trace.mask.index(1)
    return {t for t, m in zip(trace.tokens[at:], trace.mask[at:], strict=True) if not m and t >= tok.first_word}


def all_that_is_shown_and_written(trace, tok):
    return all_that_memory_shows(trace, tok) & {t for t, m in zip(trace.tokens, trace.mask, strict=True) if m}


def unless_the_prompt_has_them(trace, tok):
    return all_that_is_shown_and_written(trace, tok) - set(trace.tokens[: trace.mask.index(1)])


def with_bytes_and_names(trace, tok):
    prompt_and_search = set(trace.tokens[: trace.tokens.index(tok.control["<memory>"])])
    return set(trace.tokens) & {t for t, m in zip(trace.tokens, trace.mask, strict=True) if m} - prompt_and_search


WRONG_COPIES = (
    all_that_memory_shows,
    all_that_is_shown_and_written,
    unless_the_prompt_has_them,
    with_bytes_and_names,
)


@pytest.mark.parametrize("copied", [copied_words, *WRONG_COPIES], ids=lambda one: one.__name__)
def test_only_a_word_that_memory_said_first_is_copied(copied):
    """Not an aspect, not "overall", which the search said before, not what nobody wrote, no byte, no reference."""
    assert (copied(TOLD, TOK) == set(TOK.encode("small"))) == (copied is copied_words)


def test_in_a_renamed_trace_only_copied_words_differ(traces):
    told = scramble(TOLD.tokens, copied_words(TOLD, TOK), TOK, np.random.default_rng(0))
    [small] = TOK.encode("small")
    differs = [old for old, new in zip(TOLD.tokens, told, strict=True) if old != new]
    assert differs == [small] * 3 and len(set(told[i] for i, t in enumerate(TOLD.tokens) if t == small)) == 1
    assert any(copied_words(trace, TOK) for trace in traces)


@pytest.mark.parametrize("how, kinds", [({}, 0), ({"scrambled": 1.0}, 2), ({"renamed": 1.0}, 1)])
def test_the_shares_of_traces_are_replaced_as_configured(traces, monkeypatch, how, kinds):
    seen = []

    def noted(tokens, words, *_):
        seen.append(set(words))
        return tokens

    monkeypatch.setattr(imitation, "scramble", noted)
    config = WarmStartConfig(**{"steps": 2, "batch": 6, "scrambled": 0.0, **how})
    warm_start(tiny_model(len(TOK)), TOK, [TOLD], config, np.random.default_rng(0))
    expected = [set(), copied_words(TOLD, TOK), words_of(TOLD, TOK)][kinds]
    assert seen == ([expected] * 12 if kinds else [])


def test_a_lazy_step_leaves_the_words_of_other_traces_where_they_are():
    """Padding is -1: as an index, it would be the last word."""
    for lazy in (False, True):
        model = tiny_model(len(TOK))
        before = model.get_input_embeddings().weight.detach().clone()
        config = WarmStartConfig(steps=3, batch=2, scrambled=0.0, lazy=lazy)
        warm_start(model, TOK, [TOLD, spoken((0, "<query> mug"), (1, "<end>"))], config, np.random.default_rng(0))
        moved = set(torch.nonzero((model.get_input_embeddings().weight != before).any(1))[:, 0].tolist())
        assert moved == (set(TOLD.tokens) if lazy else set(range(len(TOK))))
    weights = torch.zeros(4, 2)
    with unchanged_rows(weights, torch.tensor([[1, -1]])):
        weights += 1
    assert weights[:, 0].tolist() == [0, 1, 0, 0]


def test_the_settings_for_rare_words():
    config = WarmStartConfig(scrambled=0.3).for_rare_words()
    assert config == WarmStartConfig(scrambled=0.3, renamed=0.3, lazy=True)


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
