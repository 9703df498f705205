"""The scripts that play in the policy's place: how they read a reply, the mediocre teacher, and the expert."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import Final, Grammar
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor, State
from mrrec_mini.scripts import (
    TeacherConfig,
    aspect_of,
    believed_line,
    best_line,
    expert,
    note_of,
    plan_lookups,
    teacher,
)
from mrrec_mini.world import ASPECTS
from small import SHOP, environment, tokenizer

GRAMMAR = Grammar(tokenizer())
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
    assert aspect_of(line("body wash scent", "Body & Wash")) == "scent"  # the line is plain, the category name is not
    assert note_of(line("mug price luxury", "mug", "pattern")) == "price luxury"
    assert note_of(line("overall price luxury", "", "profile")) == "price luxury"
    assert note_of(line("bought vel mug rated 5: so luxury", "mug", "record")) == "vel mug rated"


def test_the_line_of_this_category_comes_before_the_overall_one():
    asked = line("mug price", "mug")
    here, elsewhere = line("mug price luxury", "mug", "pattern"), line("lamp price budget", "lamp", "pattern")
    overall, other = line("overall price fair", "", "profile"), line("mug size small", "mug", "pattern")
    record = line("bought price mug", "mug", "record")
    assert best_line([elsewhere, overall, here, record], asked) == here
    assert best_line([elsewhere, overall, other], asked) == overall
    assert best_line([elsewhere, other, record], asked) is None
    assert best_line([], asked) is None


def test_the_teacher_notes_the_right_line_as_often_as_configured():
    asked, rng = line("mug price", "mug"), np.random.default_rng(0)
    entries = [line("mug price luxury", "mug", "pattern"), line("mug size small", "mug", "pattern")]
    right = [believed_line(entries, asked, 0.6, rng) == entries[0] for _ in range(4000)]
    assert np.mean(right) == pytest.approx(0.6 + 0.4 / 2, abs=0.02)  # a random line may be the right one, too
    assert believed_line(entries, asked, 1.0, rng) == entries[0]
    assert believed_line([], asked, 0.5, rng) is None
    assert believed_line(entries[1:], asked, 1.0, rng) == entries[1]  # no line answers: it notes a random one


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
        assert places == sorted(places)  # in the order of the prompt
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
    # the errors are those of a memory of 12 purchases, not of the expert
    assert len(right) > len(episodes) and np.mean(right) > 0.6
    with pytest.raises(ValueError, match="no known truth"):
        play(env, expert(GRAMMAR), [replace(env.dataset.queries[0], truth=None)])


def test_looking_up_what_matters_pays():
    """With 200 items per category; with fewer, the query alone would find the target."""
    env = environment(replace(SHOP, items=1000, history=24))
    queries = env.dataset.queries * 3
    never = teacher(GRAMMAR, TeacherConfig(stop=(1, 0, 0, 0)), np.random.default_rng(0))
    usual = teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0))
    bare, taught, best = (np.mean([e.reward for e in play(env, m, queries)]) for m in (never, usual, expert(GRAMMAR)))
    assert best > 1.3 * max(bare, taught)  # so there is much to learn


def test_the_parser_reads_an_answer_as_the_script_meant_it(env):
    [episode] = play(env, expert(GRAMMAR), env.dataset.queries[:1])
    last = max(i for i, t in enumerate(episode.tokens) if t == GRAMMAR.control["<think>"])
    parsed = GRAMMAR.parse(episode.tokens[last:], 9)
    assert isinstance(parsed, Final) and parsed.profile == episode.answer.profile
