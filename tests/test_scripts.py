"""The scripts that play in the policy's place: how they read a reply, what each rule does, and who beats whom."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import MemoryEntry, Query
from mrrec_mini.grammar import Final, Grammar
from mrrec_mini.memory import Preference, Purchase, preference_entries, record_entry
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor, State
from mrrec_mini.scripts import (
    UNTOLD,
    ScriptConfig,
    TeacherConfig,
    aspect_of,
    best_lines,
    best_untold,
    expert,
    is_about,
    lookup_text,
    note_of,
    planned,
    random_plan,
    read_at_random,
    read_by_rule,
    states,
    teacher,
    true_plan,
    untold,
    value_of,
)
from mrrec_mini.world import ASPECTS
from small import SHOP, environment, tokenizer
from test_memory import CONFIG, LATE, YEAR, item

GRAMMAR = Grammar(tokenizer())
RULES = RolloutConfig()


@pytest.fixture(scope="module")
def env():
    return environment()


def play(env, make_script, queries, rules=RULES, reward=None):
    return env.play(ScriptActor(make_script), queries, GRAMMAR, rules, reward or RewardConfig())


def shared(scenario, aspect, use="", certainty="", more=""):
    """A global line, with its words in any order that memory may choose."""
    text = " ".join(filter(None, [certainty, scenario, use, aspect])) + more
    place = "/".join(filter(None, ["@global", scenario, use, aspect]))
    return MemoryEntry(place, None, "global", text, (), scenario, 3)


def local(scenario, aspect, *values):
    """A pattern ("": a profile line) as memory writes it, from (value, records, time), the strongest first."""
    group = [
        Preference(scenario, aspect, value, 9.0 - n, tuple(f"{value}{r}" for r in range(records)), n == 0, time)
        for n, (value, records, time) in enumerate(values)
    ]
    [line] = preference_entries("u", group, CONFIG)
    return line


def record(*values, title="i1", review="", category="mug"):
    one = Purchase("u/record/0", "u", item(title, category), 4.5, review, LATE)
    return record_entry(one, values, CONFIG)


EARLY = LATE - YEAR
DRIFTED = local("mug", "color", ("red", 3, EARLY), ("blue", 2, LATE))  # mug color red 3 lately blue 2 2021q1
ONCE = local("mug", "color", ("red", 3, EARLY), ("blue", 1, LATE))
STEADY = local("", "color", ("green", 4, LATE))


# --- reading a line -----------------------------------------------------------------------------------------------


def test_the_aspect_of_a_line_is_the_end_of_its_id():
    assert aspect_of(shared("mug", "price", "hiking", "likely")) == "price"
    assert aspect_of(local("", "film genre", ("drama", 1, LATE))) == "film genre"  # percent-encoded in the id
    assert aspect_of(record()) == ""


@pytest.mark.parametrize(
    ("entry", "aspect", "usual", "latest"),
    [
        (DRIFTED, "color", ("red", 3), ("blue", 2)),
        (STEADY, "color", ("green", 4), ("green", 4)),  # the latest is also the most frequent
        (STEADY, "size", ("", 0), ("", 0)),  # about another aspect
        (local("body wash", "hair type", ("so so", 2, EARLY), ("dry", 1, LATE)), "hair type", ("so so", 2), ("dry", 1)),
        (local("mug", "year", ("1999", 3, LATE)), "year", ("1999", 3), ("1999", 3)),  # a value may be a number
        (replace(STEADY, text="overall color green"), "color", ("green", 1), ("green", 1)),  # written by hand, no count
        (record(("price", "luxury"), ("color", "red")), "color", ("red", 1), ("red", 1)),
        (record(("price", "luxury"), ("color", "red")), "price", ("luxury", 1), ("luxury", 1)),
        (record(("price", "luxury")), "color", ("", 0), ("", 0)),
        (record(("price", "luxury"), review="color me happy"), "color", ("", 0), ("", 0)),  # the review states nothing
        (record(("price", "luxury"), title="color wheel"), "color", ("", 0), ("", 0)),  # nor does the title
    ],
)
def test_values_by_hand(entry, aspect, usual, latest):
    assert (value_of(entry, aspect), value_of(entry, aspect, lately=True)) == (usual, latest)


def test_notes_by_hand():
    assert (note_of(DRIFTED), note_of(DRIFTED, lately=True)) == ("color red", "color blue")
    assert note_of(record(("price", "luxury"), ("color", "red"))) == "price luxury"  # the first that it states
    assert note_of(record(("price", "luxury"), ("color", "red")), "color") == "color red"
    assert note_of(record()) == note_of(record(review="price is fine"), "price") == note_of(DRIFTED, "size") == ""


@pytest.mark.parametrize(
    ("line", "about"),
    [
        (shared("mug", "price"), True),  # for all uses
        (shared("mug", "price", "hiking", "maybe"), True),
        (shared("mug", "price", "travel", "surely"), False),
        (shared("lamp", "price", "hiking"), False),
        (shared("lamp", "price"), False),
        (shared("shop", "price"), False),  # a parent category
        (shared("mug", "price", more=": what a buyer is ready to pay"), True),  # a description names no use
        (shared("ug", "price"), False),  # only whole words count
    ],
)
def test_a_line_is_about_a_query_if_category_and_use_agree(line, about):
    assert is_about(line, "mug for hiking color red") == about


def test_a_line_about_a_category_of_two_words():
    assert is_about(shared("body wash", "scent"), "a Body & Wash for hiking")
    assert not is_about(shared("body wash", "scent"), "body for hiking")


def test_the_order_of_best_lines():
    lamp, size = local("lamp", "color", ("red", 1, LATE)), local("mug", "size", ("small", 1, LATE))
    told, silent = record(("color", "black")), record(("size", "small"))
    entries = [silent, told, lamp, STEADY, size, DRIFTED]
    assert best_lines(entries, "color", "mug", pattern_first=True) == [DRIFTED, STEADY, told]
    assert best_lines(entries, "color", "Mug!", pattern_first=False) == [STEADY, DRIFTED, told]
    assert best_lines([lamp, size, silent], "color", "mug", True) == best_lines([], "color", "mug", True) == []


# --- the rules of the untold scripts ------------------------------------------------------------------------------

LINES = (
    shared("mug", "price", "travel", "surely"),
    shared("mug", "size", "hiking", "maybe"),
    shared("lamp", "scent", "hiking", "surely"),
    shared("mug", "color", "hiking", "likely"),
    shared("mug", "style", "", "surely"),
    shared("mug", "size", "", "likely"),  # size again: the second line would ask the same
)


def plan(text="mug for hiking", **rules):
    state = State(Query("q", "u", text, "i", 0), LINES)
    return [aspect_of(line) for line in planned(state, ScriptConfig(**rules))]


def test_each_rule_of_a_plan():
    assert plan(lines="first") == ["price", "size", "scent", "color", "style"]
    assert plan(lines="category") == ["price", "size", "color", "style"]
    assert plan(lines="situation") == ["size", "color", "style"]
    assert plan(lines="situation", certain=True) == ["color", "style", "size"]  # the second line on size is not "maybe"
    stated = "mug for hiking color red"
    assert plan(stated, open=True) == ["size", "style"] and plan(stated, open=False) == ["size", "color", "style"]
    assert plan("mug for hiking colorful", open=True) == ["size", "color", "style"]
    assert plan("smug for hiking", lines="category") == []  # only whole words count
    assert states(Query("q", "u", "Mug, for hiking: COLOR red", "i", 0), "color")


@pytest.mark.parametrize(
    ("rules", "entries", "note", "source"),
    [
        ({}, [STEADY, DRIFTED], "color red", DRIFTED),
        ({"pattern_first": False}, [STEADY, DRIFTED], "color green", STEADY),
        ({"value": "lately"}, [DRIFTED], "color blue", DRIFTED),
        ({"value": "lately"}, [STEADY], "color green", STEADY),
        ({"value": "repeated"}, [DRIFTED], "color blue", DRIFTED),  # two records
        ({"value": "repeated"}, [ONCE], "color red", ONCE),  # a single record might be chance
        ({"least": 3}, [DRIFTED], "color red", DRIFTED),
        ({"least": 4}, [DRIFTED], "", None),
        ({"least": 2, "value": "lately"}, [ONCE], "", None),  # it counts the records of the value that it would note
        ({"least": 4}, [DRIFTED, STEADY], "", None),  # it does not read the next line instead
        ({}, [record(("color", "black"))], "color black", record(("color", "black"))),
        ({"least": 2}, [record(("color", "black"))], "", None),
        ({}, [record(("size", "small"))], "", None),
        ({}, [], "", None),
    ],
)
def test_each_rule_of_reading(rules, entries, note, source):
    assert read_by_rule(entries, shared("mug", "color"), ScriptConfig(**rules)) == (note, source)


def test_the_untold_scripts_differ_in_what_they_do():
    assert len(UNTOLD) >= 8 and len(set(UNTOLD.values())) == len(UNTOLD)


def test_an_untold_script_plays_by_its_rules(env):
    for rules in (RULES, replace(RULES, max_calls=1), replace(RULES, global_k=0)):
        for config in UNTOLD.values():
            for e in play(env, untold(GRAMMAR, config, rules.max_calls), env.dataset.queries[:6], rules):
                expected = planned(State(e.query, e.global_entries), config)[: rules.max_calls]
                assert [call.text for call in e.calls] == [lookup_text(line) for line in expected]
                notes = [read_by_rule(c.entries, line, config) for c, line in zip(e.calls, expected, strict=True)]
                assert e.answer.profile == " ".join([e.query.text, *(note for note, entry in notes if entry)])
                assert set(e.answer.evidence) == {entry.id for _, entry in notes if entry}


def test_a_look_up_asks_for_the_pattern_and_the_profile_line(env):
    """For the usual case: the person has both lines; search returns them among the first three."""
    both = found = 0
    for query in env.dataset.queries:
        category = query.text.split()[0]
        for aspect in ASPECTS:
            lines = best_lines(env.memory.entries(query), aspect, category, True)[:2]
            if [line.level for line in lines] == ["pattern", "profile"]:
                reply = env.memory.search(query, lookup_text(shared(category, aspect)), 3)
                both, found = both + 1, found + (set(lines) <= set(reply))
    assert both > 20 and found > 0.8 * both


# --- the teacher ----------------------------------------------------------------------------------------------------


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


def test_plans_follow_the_configured_chances():
    config, rng = TeacherConfig(stop=(0.1, 0.2, 0.3, 0.4), on_topic=0.7), np.random.default_rng(0)
    state = State(Query("q", "u", "mug for hiking", "i", 0), LINES)
    plans = [random_plan(state, [], config, rng) for _ in range(4000)]
    counts = Counter(map(len, plans))
    for n, chance in enumerate(config.stop):
        assert counts[n] / 4000 == pytest.approx(chance, abs=0.03)
    for lines in plans:
        assert len({aspect_of(line) for line in lines}) == len(lines)  # no aspect twice
        places = [LINES.index(line) for line in lines]
        assert places == sorted(places)  # in the order of the prompt
    for on_topic in (0.0, 0.7, 1.0):
        single = [random_plan(state, [], TeacherConfig(stop=(0, 1), on_topic=on_topic), rng)[0] for _ in range(2000)]
        assert np.mean([is_about(line, "mug for hiking") for line in single]) == pytest.approx(on_topic, abs=0.03)
    others = State(Query("q", "u", "chair for office", "i", 0), LINES)  # no line is about it
    assert all(random_plan(others, [], TeacherConfig(stop=(0, 1), on_topic=1.0), rng) for _ in range(20))


def test_the_teacher_reads_with_the_configured_chances():
    asked, rng = shared("mug", "color"), np.random.default_rng(0)
    size = local("mug", "size", ("small", 1, LATE))

    def notes(entries, **chances):
        config = replace(TeacherConfig(believe=1.0, lately=0.0, silent=0.0), **chances)
        found = Counter(read_at_random(entries, asked, config, rng) for _ in range(3000))
        return {note: count / 3000 for (note, _), count in found.items()}

    assert notes([DRIFTED]) == {"color red": 1.0}
    assert notes([DRIFTED], lately=0.3) == pytest.approx({"color red": 0.7, "color blue": 0.3}, abs=0.03)
    assert notes([DRIFTED], silent=0.2) == pytest.approx({"color red": 0.8, "": 0.2}, abs=0.03)
    # pattern and profile line come first equally often
    assert notes([STEADY, DRIFTED]) == pytest.approx({"color red": 0.5, "color green": 0.5}, abs=0.03)
    # otherwise it reads a random line, which may be the right one
    assert notes([DRIFTED, size], believe=0.6) == pytest.approx({"color red": 0.8, "size small": 0.2}, abs=0.03)
    assert notes([size]) == notes([]) == notes([record()], believe=0.0) == {"": 1.0}  # no line answers
    assert read_at_random([STEADY], asked, TeacherConfig(believe=1.0, silent=0.0), rng) == ("color green", STEADY)


def test_without_global_lines_the_teacher_guesses():
    state = State(Query("q", "u", "mug for hiking", "i", 0), ())
    guesses = [MemoryEntry(f"guess/{name}", None, "global", name) for name in ASPECTS]
    always = TeacherConfig(stop=(0, 0, 0, 1))
    lines = random_plan(state, guesses, always, np.random.default_rng(0))
    assert len(lines) == 3 and {line.text for line in lines} <= set(ASPECTS)
    assert random_plan(state, [], always, np.random.default_rng(0)) == []


# --- the expert -----------------------------------------------------------------------------------------------------


def test_the_expert_looks_up_exactly_the_truth(env):
    episodes = play(env, expert(GRAMMAR), env.dataset.queries)
    right = []
    for e in episodes:
        assert [call.text for call in e.calls] == [
            lookup_text(shared(e.query.text.split()[0], aspect)) for aspect in e.query.truth
        ]
        assert e.end == "answer"
        notes = e.answer.profile.removeprefix(e.query.text).split()
        assert set(notes[::2]) <= set(e.query.truth)  # aspect value aspect value ...
        right += [e.query.truth[a] == v for a, v in zip(notes[::2], notes[1::2], strict=True)]
    # the errors are those of a memory of 12 purchases, not of the expert
    assert len(right) > len(episodes) and np.mean(right) > 0.6
    with pytest.raises(ValueError, match="no known truth"):
        play(env, expert(GRAMMAR), [replace(env.dataset.queries[0], truth=None)])


def test_the_expert_takes_the_latest_value_only_of_tastes_that_change(env):
    """It starts with the profile line of such an aspect, and with the category's pattern otherwise."""
    for drifting in ((), tuple(ASPECTS)):
        rules = ScriptConfig(value="lately", pattern_first=False) if drifting else ScriptConfig()
        noted = 0
        for e in play(env, expert(GRAMMAR, drifting), env.dataset.queries):
            lines = true_plan(State(e.query, ()))
            notes = [read_by_rule(c.entries, line, rules)[0] for c, line in zip(e.calls, lines, strict=True)]
            assert e.answer.profile == " ".join([e.query.text, *filter(None, notes)])
            noted += len(list(filter(None, notes)))
        assert noted > len(env.dataset.queries)
    both = [play(env, expert(GRAMMAR, drifting), env.dataset.queries) for drifting in ((), tuple(ASPECTS))]
    assert any(one.answer.profile != other.answer.profile for one, other in zip(*both, strict=True))


def test_looking_up_what_matters_pays():
    """With 200 items per category; with fewer, the query alone would find the target."""
    env = environment(replace(SHOP, items=1000, history=24))
    queries = env.dataset.queries * 3
    never = teacher(GRAMMAR, TeacherConfig(stop=(1, 0, 0, 0)), np.random.default_rng(0))
    usual = teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0))
    bare, taught, best = (np.mean([e.reward for e in play(env, m, queries)]) for m in (never, usual, expert(GRAMMAR)))
    assert best > 1.3 * max(bare, taught)  # so there is much to learn


def test_a_needless_look_up_costs():
    """Looking up what the query states lengthens the profile and, with a cost per call, lowers the reward."""
    env = environment(replace(SHOP, said=(0.0, 1.0)))
    thrifty, lavish = UNTOLD["situation"], UNTOLD["situation, said too"]
    for cost in (0.0, 0.25):
        reward = RewardConfig(call_cost=cost)
        few, many = (play(env, untold(GRAMMAR, c), env.dataset.queries, reward=reward) for c in (thrifty, lavish))
        for one, other in zip(few, many, strict=True):
            needless = len(other.calls) - len(one.calls)
            same = one.rewards["recommendation"] - other.rewards["recommendation"]
            same = RewardConfig().recommendation * same + RewardConfig().memory * (bool(one.calls) - bool(other.calls))
            assert one.reward - other.reward == pytest.approx(same + cost * needless)
        assert sum(len(e.calls) for e in few) < sum(len(e.calls) for e in many)


def test_the_parser_reads_an_answer_as_the_script_meant_it(env):
    [episode] = play(env, expert(GRAMMAR), env.dataset.queries[:1])
    last = max(i for i, t in enumerate(episode.tokens) if t == GRAMMAR.control["<think>"])
    parsed = GRAMMAR.parse(episode.tokens[last:], 9)
    assert isinstance(parsed, Final) and parsed.profile == episode.answer.profile


# --- the best untold script -----------------------------------------------------------------------------------------


def test_the_best_script_is_chosen_by_validation_users_only():
    env = environment(SHOP)
    name, scores = best_untold(env, GRAMMAR, RULES)
    assert set(scores) == set(UNTOLD) and scores[name] == max(scores.values())
    assert len(set(scores.values())) > 1  # there is a choice

    def with_targets_of(users):
        """The same environment, but these users' queries have another target."""
        other = env.split.validation_queries[0].target
        queries = tuple(replace(q, target=other) if q.user in users else q for q in env.dataset.queries)
        dataset = Dataset(env.dataset.items, env.dataset.interactions, queries, env.dataset.meta)
        changed = replace(env, dataset=dataset, split=dataset.split(0, 0.6, 0.2, 0.2))
        assert changed.split.validation == env.split.validation
        return best_untold(changed, GRAMMAR, RULES)

    assert with_targets_of(env.split.test | env.split.train) == (name, scores)
    assert with_targets_of(env.split.validation)[1] != scores
