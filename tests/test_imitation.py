"""The scripts that play in the policy's place, and the two lessons: copying, and the grammar."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import CONTROL, Final, Grammar
from mrrec_mini.imitation import WarmStartConfig, copy_drill, drill_batch, scramble, supervised_loss, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reinforce import rows_by_length, to_batch
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor, State
from mrrec_mini.scripts import TeacherConfig, aspect_of, believed, best_line, expert, note_of, plan_lookups, teacher
from mrrec_mini.world import ASPECTS
from small import SHOP, environment, fresh_logprobs, tiny_model, tokenizer

TOK = tokenizer()
GRAMMAR = Grammar(TOK)
RULES = RolloutConfig()


@pytest.fixture(scope="module")
def env():
    return environment()


def play(env, make_script, queries, rules=RULES):
    return env.play(ScriptActor(make_script), queries, GRAMMAR, rules, RewardConfig())


def line(text, scenario="", level="global", name="e"):
    return MemoryEntry(name, None if level == "global" else "u", level, text, scenario=scenario)


# --- reading a line -----------------------------------------------------------------------------------------------


def test_aspects_and_notes_by_hand():
    assert aspect_of(line("mug price", "mug")) == "price"
    assert aspect_of(line("price")) == "price"
    assert aspect_of(line("body wash scent", "Body & Wash")) == "scent"  # lines are plain, names of categories are not
    assert note_of(line("mug price luxury", "mug", "pattern")) == "price luxury"
    assert note_of(line("overall price luxury", "", "profile")) == "price luxury"
    assert note_of(line("bought vel mug rated 5: so luxury", "mug", "record")) == "vel mug rated"


def test_the_line_that_answers_is_this_categorys_then_the_overall_one():
    asked = line("mug price", "mug")
    here, elsewhere = line("mug price luxury", "mug", "pattern"), line("lamp price budget", "lamp", "pattern")
    overall, other = line("overall price fair", "", "profile"), line("mug size small", "mug", "pattern")
    record = line("bought price mug", "mug", "record")
    assert best_line([elsewhere, overall, here, record], asked) == here
    assert best_line([elsewhere, overall, other], asked) == overall
    assert best_line([elsewhere, other, record], asked) is None
    assert best_line([], asked) is None


def test_the_teacher_believes_the_right_line_as_often_as_configured():
    asked, rng = line("mug price", "mug"), np.random.default_rng(0)
    entries = [line("mug price luxury", "mug", "pattern"), line("mug size small", "mug", "pattern")]
    right = [believed(entries, asked, 0.6, rng) == entries[0] for _ in range(4000)]
    assert np.mean(right) == pytest.approx(0.6 + 0.4 / 2, abs=0.02)  # else any line shown, this one among them
    assert believed(entries, asked, 1.0, rng) == entries[0]
    assert believed([], asked, 0.5, rng) is None
    assert believed(entries[1:], asked, 1.0, rng) == entries[1]  # nothing answers: it takes what there is


# --- the teacher and the expert -----------------------------------------------------------------------------------


def test_teacher_episodes_end_with_an_answer(env):
    for rules in (RULES, replace(RULES, global_k=0), replace(RULES, max_calls=0), replace(RULES, max_calls=1)):
        make = teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0), list(ASPECTS), rules.max_calls)
        episodes = play(env, make, env.dataset.queries * 3, rules)
        assert {e.end for e in episodes} == {"answer"}
        assert all(len(e.calls) <= rules.max_calls for e in episodes)
        for e in episodes:
            assert e.answer.profile.startswith(e.query.text)
            assert set(e.answer.evidence) <= {entry.id for call in e.calls for entry in call.entries}
        if rules.max_calls:
            assert sum(len(e.calls) for e in episodes) > 0


def test_how_many_look_ups_follows_the_configured_chances(env):
    config = TeacherConfig(stop=(0.1, 0.2, 0.3, 0.4))
    state = State(env.dataset.queries[0], tuple(env.memory.search_global("mug for hiking", 6)), [], [], [])
    rng = np.random.default_rng(0)
    plans = [plan_lookups(state, [], config, rng) for _ in range(4000)]
    counts = Counter(map(len, plans))
    for n, chance in enumerate(config.stop):
        assert counts[n] / 4000 == pytest.approx(chance, abs=0.03)
    for plan in plans:
        assert len({aspect_of(entry) for entry in plan}) == len(plan)  # no aspect twice
        places = [state.global_entries.index(entry) for entry in plan]
        assert places == sorted(places)  # as they are shown
    single = [plan_lookups(state, [], TeacherConfig(stop=(0, 1)), rng)[0] for _ in range(4000)]
    assert 0 < sum(entry.scenario == "mug" for entry in state.global_entries) < 6
    assert np.mean([entry.scenario == "mug" for entry in single]) == pytest.approx(config.on_topic, abs=0.03)


def test_without_global_lines_the_teacher_guesses(env):
    state = State(env.dataset.queries[0], (), [], [], [])
    guesses = [line(name) for name in ASPECTS]
    plan = plan_lookups(state, guesses, TeacherConfig(stop=(0, 0, 0, 1)), np.random.default_rng(0))
    assert len(plan) == 3 and {entry.text for entry in plan} <= set(ASPECTS)
    assert plan_lookups(state, [], TeacherConfig(stop=(0, 0, 0, 1)), np.random.default_rng(0)) == []


def test_the_expert_looks_up_exactly_the_truth(env):
    episodes = play(env, expert(GRAMMAR), env.dataset.queries)
    right = []
    for e in episodes:
        category = e.query.text.split()[0]
        assert [call.text for call in e.calls] == [f"{category} {aspect}" for aspect in e.query.truth]
        assert e.end == "answer"
        notes = e.answer.profile.removeprefix(e.query.text).split()
        assert set(notes[::2]) <= set(e.query.truth)  # aspect value aspect value ...
        right += [e.query.truth[a] == v for a, v in zip(notes[::2], notes[1::2], strict=True)]
    assert len(right) > len(episodes) and np.mean(right) > 0.6  # the memory of 12 purchases, not the expert, errs
    with pytest.raises(ValueError, match="no known truth"):
        play(env, expert(GRAMMAR), [replace(env.dataset.queries[0], truth=None)])


def test_looking_up_what_matters_pays():
    """200 items a category, or the query alone would find the target."""
    env = environment(replace(SHOP, items=1000, history=24))
    queries = env.dataset.queries * 3
    never = teacher(GRAMMAR, TeacherConfig(stop=(1, 0, 0, 0)), np.random.default_rng(0))
    usual = teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0))
    bare, taught, best = (np.mean([e.reward for e in play(env, m, queries)]) for m in (never, usual, expert(GRAMMAR)))
    assert best > 1.3 * max(bare, taught)  # and there is much to learn between


def test_scripts_are_read_by_the_parser_as_they_were_meant(env):
    [episode] = play(env, expert(GRAMMAR), env.dataset.queries[:1])
    last = max(i for i, t in enumerate(episode.tokens) if t == GRAMMAR.control["<think>"])
    parsed = GRAMMAR.parse(episode.tokens[last:], 9)
    assert isinstance(parsed, Final) and parsed.profile == episode.answer.profile


# --- the drill ----------------------------------------------------------------------------------------------------


def test_only_words_that_can_be_copied_are_asked_for():
    tokens, mask = drill_batch(TOK.control, TOK.first_word, len(TOK), 50, np.random.default_rng(0))
    assert tokens.shape == mask.shape == (50, 5 * 4 + 8 * 4)
    for row, asked in zip(tokens.tolist(), mask.tolist(), strict=True):
        lines = [row[i : i + 4] for i in range(0, 20, 4)]
        reads = [row[i : i + 4] for i in range(20, 52, 4)]
        assert all(first == TOK.control["<line>"] for first, *_ in lines)
        assert len({word for _, *words in lines for word in words}) == 15  # so that a first word tells its line
        assert all(first == TOK.control["<think>"] for first, *_ in reads)
        assert {tuple(words) for _, *words in reads} <= {tuple(words) for _, *words in lines}
        assert asked == [False] * 20 + [False, False, True, True] * 8
        assert min(word for _, *words in lines for word in words) >= TOK.first_word


@pytest.mark.slow
def test_copying_is_learned():
    """400 words: about 150 steps. (With 100 words it is not learned in 400: too few to tell a copy from a guess.)"""
    tok = WordTokenizer(CONTROL, [f"w{i}" for i in range(400)])
    model = make_causal_lm(len(tok), CausalLMConfig(), torch.Generator().manual_seed(0))
    seen = []
    config = WarmStartConfig(drill_batch=24, drill_goal=0.8, drill_steps=400)
    skill = copy_drill(model, tok, config, np.random.default_rng(0), lambda step, skill: seen.append((step, skill)))
    assert skill > 0.8 and seen[-1] == (len(seen), skill) and len(seen) < 400
    assert all(value <= 0.8 for _, value in seen[:-1])  # it ends at once


def test_the_drill_ends_at_its_last_step():
    model = tiny_model(len(TOK))
    seen = []
    config = WarmStartConfig(drill_batch=2, drill_steps=3)
    skill = copy_drill(model, TOK, config, np.random.default_rng(0), lambda *step: seen.append(step))
    assert [step for step, _ in seen] == [1, 2, 3] and seen[-1][1] == skill < 0.2


# --- the traces ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces(env):
    return play(env, teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0)), env.split.train_queries)


def test_scrambling_is_a_renaming_of_words_only(traces):
    rng = np.random.default_rng(0)
    changed = 0
    for trace in traces:
        told = scramble(trace.tokens, TOK.first_word, len(TOK), rng)
        pairs = set(zip(trace.tokens, told, strict=True))
        assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)  # one to one
        assert all((old == new) if old < TOK.first_word else (TOK.first_word <= new < len(TOK)) for old, new in pairs)
        changed += sum(old != new for old, new in pairs)
    assert changed > 0


def test_only_what_the_teacher_wrote_is_learned(traces):
    """The loss is the mean of -log pi over the tokens it wrote, each row alone; the parts of a batch add up."""
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


def test_the_warm_start_lowers_the_loss_and_repeats_itself(traces):
    config = WarmStartConfig(steps=40, batch=6, learning_rate=1e-2, scrambled=0.5)

    def run():
        model, seen = tiny_model(len(TOK)), []
        losses = warm_start(model, TOK, traces, config, np.random.default_rng(0), lambda *step: seen.append(step))
        assert seen == list(enumerate(losses, start=1)) and len(losses) == 40
        return losses, list(model.parameters())

    (losses, weights), (again, same) = run(), run()
    assert losses == again and all(map(torch.equal, weights, same))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
