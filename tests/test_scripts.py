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
    names_aspect,
    note_of,
    planned,
    random_plan,
    read_at_random,
    read_by_rule,
    teacher,
    told_drift,
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
    """u's lines as memory writes them, from (value, records, time), the strongest first: a pattern, or for "" two lines
    of the profile: the most frequent value, and the latest."""
    group = [
        Preference(scenario, aspect, value, 9.0 - n, tuple(f"{value}{r}" for r in range(records)), n == 0, time)
        for n, (value, records, time) in enumerate(values)
    ]
    return preference_entries("u", group, CONFIG)


def record(*values, title="i1", review="", category="mug"):
    one = Purchase("u/record/0", "u", item(title, category), 4.5, review, LATE)
    return record_entry(one, values, CONFIG)


EARLY = LATE - YEAR
EARLY = LATE - YEAR
[PATTERN] = local("mug", "color", ("white", 3, LATE))
USUAL, LATEST = local("", "color", ("red", 4, EARLY), ("blue", 2, LATE))
ONCE = local("", "color", ("red", 4, EARLY), ("green", 1, LATE))[1]  # the latest value, seen in one record
[SIZE] = local("mug", "size", ("small", 1, LATE))
TOLD = record(("color", "black"))


# --- reading a line -----------------------------------------------------------------------------------------------


def test_the_aspect_of_a_line_is_the_end_of_its_id():
    assert aspect_of(shared("mug", "price", "hiking", "likely")) == "price"
    for line in local("", "film genre", ("drama", 1, LATE)):
        assert aspect_of(line) == "film genre"  # percent-encoded in the id
    assert aspect_of(record()) == ""


@pytest.mark.parametrize(
    ("entry", "aspect", "value"),
    [
        (PATTERN, "color", ("white", 3)),
        (USUAL, "color", ("red", 4)),
        (LATEST, "color", ("blue", 2)),
        (USUAL, "size", ("", 0)),  # about another aspect
        (local("body wash", "hair type", ("so so", 2, LATE))[0], "hair type", ("so so", 2)),
        (local("", "hair type", ("so so", 2, LATE))[1], "hair type", ("so so", 2)),
        (local("mug", "year", ("1999", 3, LATE))[0], "year", ("1999", 3)),  # a value may be a number
        (replace(USUAL, text="overall color green"), "color", ("green", 1)),  # written by hand, without a count
        (record(("price", "luxury"), ("color", "red")), "color", ("red", 1)),
        (record(("price", "luxury"), ("color", "red")), "price", ("luxury", 1)),
        (record(("price", "luxury")), "color", ("", 0)),
        (record(("price", "luxury"), review="color me happy"), "color", ("", 0)),  # the review states nothing
        (record(("price", "luxury"), title="color wheel"), "color", ("", 0)),  # nor does the title
    ],
)
def test_values_by_hand(entry, aspect, value):
    assert value_of(entry, aspect) == value


def test_notes_by_hand():
    assert [note_of(line) for line in (PATTERN, USUAL, LATEST)] == ["color white", "color red", "color blue"]
    assert note_of(record(("price", "luxury"), ("color", "red"))) == "price luxury"  # the first that it states
    assert note_of(record(("price", "luxury"), ("color", "red")), "color") == "color red"
    assert note_of(record()) == note_of(record(review="price is fine"), "price") == note_of(USUAL, "size") == ""


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


@pytest.mark.parametrize(
    ("rules", "order"),
    [
        ({}, [PATTERN, USUAL, LATEST, TOLD]),
        ({"pattern_first": False}, [USUAL, LATEST, PATTERN, TOLD]),
        ({"value": "lately"}, [PATTERN, LATEST, USUAL, TOLD]),
        ({"value": "lately", "pattern_first": False}, [LATEST, USUAL, PATTERN, TOLD]),
        ({"value": "repeated"}, [PATTERN, LATEST, USUAL, TOLD]),  # two records say so
    ],
)
def test_the_order_of_best_lines(rules, order):
    elsewhere, silent = local("lamp", "color", ("red", 1, LATE)), record(("size", "small"))
    entries = [silent, TOLD, *elsewhere, LATEST, SIZE, USUAL, PATTERN]
    assert best_lines(entries, "color", "Mug!", ScriptConfig(**rules)) == order
    assert best_lines([*elsewhere, SIZE, silent], "color", "mug", ScriptConfig(**rules)) == []


def test_a_latest_value_that_only_one_record_shows_might_be_chance():
    assert best_lines([ONCE, USUAL], "color", "mug", ScriptConfig(value="repeated")) == [USUAL, ONCE]
    assert best_lines([USUAL, ONCE], "color", "mug", ScriptConfig(value="lately")) == [ONCE, USUAL]


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
    assert names_aspect("Mug, for hiking: COLOR red", "color")


@pytest.mark.parametrize(
    ("rules", "entries", "source"),
    [
        ({}, [USUAL, PATTERN], PATTERN),
        ({"pattern_first": False}, [PATTERN, USUAL, LATEST], USUAL),
        ({"value": "lately"}, [USUAL, LATEST], LATEST),
        ({"least": 4}, [USUAL], USUAL),
        ({"least": 5}, [USUAL], None),
        ({"least": 4}, [PATTERN, USUAL], None),  # it does not read the next line instead
        ({}, [TOLD], TOLD),
        ({"least": 2}, [TOLD], None),
        ({}, [SIZE], None),
        ({}, [], None),
    ],
)
def test_each_rule_of_reading(rules, entries, source):
    note = note_of(source, "color") if source else ""
    found = read_by_rule(
        entries, shared("mug", "color"), "often", lambda aspect: {"color": ScriptConfig(**rules)}[aspect]
    )
    assert found == (note, source)


def test_the_untold_scripts_differ_in_what_they_do():
    assert len(UNTOLD) >= 8 and len(set(UNTOLD.values())) == len(UNTOLD)


def test_an_untold_script_plays_by_its_rules(env):
    for rules in (RULES, replace(RULES, max_calls=1), replace(RULES, global_k=0)):
        for config in UNTOLD.values():
            for e in play(env, untold(GRAMMAR, config, rules.max_calls), env.dataset.queries[:6], rules):
                expected = planned(State(e.query, e.global_entries), config)[: rules.max_calls]
                assert [call.text for call in e.calls] == [lookup_text(line, config.value) for line in expected]
                replies = [call.entries for call in e.calls]
                notes = [read_by_rule(*one, "", lambda _, c=config: c) for one in zip(replies, expected, strict=True)]
                assert e.answer.profile == " ".join([e.query.text, *(note for note, entry in notes if entry)])
                assert set(e.answer.evidence) == {entry.id for _, entry in notes if entry}


def test_look_ups_by_hand():
    line = shared("mug", "price", "hiking", "likely")
    words = {value: set(lookup_text(line, value).split()) for value in ("often", "lately", "repeated")}
    assert words["often"] == {"mug", "price", "overall"} and words["lately"] == {"mug", "price", "lately"}
    assert words["repeated"] == {"mug", "price", "overall", "lately"}
    assert lookup_text(MemoryEntry("guess/price", None, "global", "price")) == "price overall"


def test_a_look_up_finds_the_line_that_it_asks_for(env):
    asked, found = Counter(), Counter()
    for query in env.dataset.queries:
        category = query.text.split()[0]
        for line in env.memory.entries(query):
            if line.level == "profile":
                value = "lately" if line.text.startswith("lately") else "often"
                reply = env.memory.search(query, lookup_text(shared(category, aspect_of(line)), value), 3)
                asked[value] += 1
                found[value] += line in reply
    assert min(asked.values()) > 100 and all(found[value] > 0.8 * asked[value] for value in asked)


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
    config, rng = TeacherConfig(stop=(0.1, 0.2, 0.3, 0.4), on_topic=0.7, open=1.0), np.random.default_rng(0)
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
    said = State(Query("q", "u", "mug for hiking color red", "i", 0), LINES)
    picky = [random_plan(said, [], TeacherConfig(stop=(0, 0, 0, 0, 0, 1), open=0.4), rng) for _ in range(2000)]
    stated = ["color" in map(aspect_of, lines) for lines in picky]  # all aspects, but not those that the query states
    assert np.mean(stated) == pytest.approx(0.6, abs=0.03)
    others = State(Query("q", "u", "chair for office", "i", 0), LINES)  # no line is about it
    assert all(random_plan(others, [], TeacherConfig(stop=(0, 1), on_topic=1.0), rng) for _ in range(20))


def test_the_teacher_reads_with_the_configured_chances():
    asked, rng = shared("mug", "color"), np.random.default_rng(0)

    def notes(entries, value="often", **chances):
        config = replace(TeacherConfig(believe=1.0, silent=0.0), **chances)
        found = Counter(read_at_random(entries, asked, value, config, rng) for _ in range(3000))
        return {note: count / 3000 for (note, _), count in found.items()}

    assert notes([USUAL, LATEST]) == {"color red": 1.0}
    assert notes([USUAL, LATEST], "lately") == {"color blue": 1.0}  # it reads the line that it asked for
    assert notes([USUAL], silent=0.2) == pytest.approx({"color red": 0.8, "": 0.2}, abs=0.03)
    assert notes([PATTERN, LATEST, USUAL]) == {"color red": 1.0}
    # otherwise it reads a random line, which may be the right one
    assert notes([USUAL, SIZE], believe=0.6) == pytest.approx({"color red": 0.8, "size small": 0.2}, abs=0.03)
    assert notes([SIZE]) == {"size small": 1.0}  # no line answers, so it reads a random one
    assert notes([]) == notes([record()]) == {"": 1.0}
    assert read_at_random([USUAL], asked, "often", TeacherConfig(silent=0.0), rng) == ("color red", USUAL)


def test_the_teacher_asks_for_the_latest_value_as_often_as_configured(env):
    state = State(env.dataset.queries[0], (shared("mug", "price"), shared("mug", "color")))

    make = teacher(GRAMMAR, TeacherConfig(stop=(0, 1), lately=0.3), np.random.default_rng(0))
    turns = [GRAMMAR.parse(make(state)(state), 0).text.split() for _ in range(2000)]
    assert np.mean(["lately" in words for words in turns]) == pytest.approx(0.3, abs=0.04)
    assert all(("lately" in words) != ("overall" in words) for words in turns)


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
        category = e.query.text.split()[0]
        assert [call.text for call in e.calls] == [lookup_text(shared(category, aspect)) for aspect in e.query.truth]
        assert e.end == "answer"
        notes = e.answer.profile.removeprefix(e.query.text).split()
        assert set(notes[::2]) <= set(e.query.truth)  # aspect value aspect value ...
        right += [e.query.truth[a] == v for a, v in zip(notes[::2], notes[1::2], strict=True)]
    # the errors are those of a memory of 12 purchases, not of the expert
    assert len(right) > len(episodes) and np.mean(right) > 0.6
    with pytest.raises(ValueError, match="no known truth"):
        play(env, expert(GRAMMAR), [replace(env.dataset.queries[0], truth=None)])


def test_the_expert_asks_for_the_latest_value_only_of_tastes_that_change(env):
    """It reads the profile first: a category's pattern rests on fewer purchases, and may be out of date."""
    for drifting in ((), tuple(ASPECTS)):
        rules = ScriptConfig(value="lately" if drifting else "often", pattern_first=False)
        for e in play(env, expert(GRAMMAR, drifting), env.dataset.queries):
            lines = true_plan(State(e.query, ()))
            assert [call.text for call in e.calls] == [lookup_text(line, rules.value) for line in lines]
            replies = [call.entries for call in e.calls]
            notes = [read_by_rule(*one, "", lambda _, r=rules: r)[0] for one in zip(replies, lines, strict=True)]
            assert e.answer.profile == " ".join([e.query.text, *filter(None, notes)])
    [some] = play(env, expert(GRAMMAR, list(env.dataset.queries[0].truth)[:1]), env.dataset.queries[:1])
    assert ["lately" in call.text.split() for call in some.calls] == [True, False, False]


def test_told_drift_reads_which_aspects_matter_and_is_told_only_which_tastes_change(env):
    """Wrong versions: it plans by the truth, as the expert does; it asks for one kind of line whatever changes."""
    blind = [replace(query, truth=None) for query in env.dataset.queries]
    same = play(env, untold(GRAMMAR, UNTOLD["situation, profile first"]), blind)
    assert [e.calls for e in play(env, told_drift(GRAMMAR, ()), blind)] == [e.calls for e in same]
    for e in play(env, told_drift(GRAMMAR, ("price",)), blind):
        lines = planned(State(e.query, e.global_entries), ScriptConfig())[:3]
        kinds = {"price": "lately"}
        assert [c.text for c in e.calls] == [lookup_text(line, kinds.get(aspect_of(line), "often")) for line in lines]
    assert any(
        "price lately" in call.text for e in play(env, told_drift(GRAMMAR, ("price",)), blind) for call in e.calls
    )


def test_looking_up_what_matters_pays():
    """With 200 items per category; with fewer, the query alone would find the target."""
    env = environment(replace(SHOP, items=1000, history=24))
    queries = env.dataset.queries * 3
    never = teacher(GRAMMAR, TeacherConfig(stop=(1, 0, 0, 0)), np.random.default_rng(0))
    usual = teacher(GRAMMAR, TeacherConfig(on_topic=0.5, believe=0.5), np.random.default_rng(0))
    bare, taught, best = (np.mean([e.reward for e in play(env, m, queries)]) for m in (never, usual, expert(GRAMMAR)))
    assert best > 1.1 * max(bare, taught)  # so there is much to learn


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


def test_scripts_read_values_that_end_in_a_number():
    line = MemoryEntry("u/profile/platform", "u", "profile", "overall platform playstation 3 x7 wii u x2 latest 2001q3")
    assert value_of(line, "platform") == ("playstation 3", 7)
    assert note_of(line) == "platform playstation 3"
    record = MemoryEntry(
        "u/record/0", "u", "record", "bought platform xbox 360 x1 film genre war x1 halo 3 2001q3 rated 5"
    )
    assert value_of(record, "platform") == ("xbox 360", 1) and value_of(record, "film genre") == ("war", 1)
    assert note_of(record) == "platform xbox 360" and value_of(record, "halo") == ("", 0)
