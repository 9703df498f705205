"""Other people as a memory: counts by hand, the floor of people, who and what is never counted, the look-up."""

from dataclasses import replace

import numpy as np
import pytest

from mrrec_mini import environment_on_disk
from mrrec_mini.app.assistant import Assistant, StoredMemory, as_of_now
from mrrec_mini.data import Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig
from mrrec_mini.others import Others, OthersConfig, facts_of
from mrrec_mini.prior import Prior
from mrrec_mini.recipe import make_tokenizer
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import A_TITLE, TeacherConfig, asking_others, lookup_text, note_of, run_plan, teacher, value_of
from mrrec_mini.store import Store, build_store
from mrrec_mini.summarize import ExtractiveSummarizer
from small import environment, tokenizer

PLATFORMS = {"mario": "Switch", "zelda": "switch", "halo": "xbox one", "forza": "xbox one", "doom": "pc", "myst": "pc"}
TRAIN = ("t1", "t2", "t3", "t4", "alone")
# (item, time): everybody but "alone" shares mario with q, who asks at 5 and takes doom
TAKEN = {
    "t1": [("mario", 1), ("zelda", 2), ("halo", 3)],
    "t2": [("mario", 1), ("zelda", 2), ("halo", 2), ("forza", 3)],
    "t3": [("mario", 1), ("zelda", 3), ("doom", 8)],
    "t4": [("mario", 1), ("halo", 4)],
    "alone": [("halo", 1), ("zelda", 1), ("myst", 1)],
    "v": [("mario", 1), ("doom", 1), ("zelda", 1), ("halo", 1)],  # a validation user
    "q": [("mario", 2), ("doom", 5)],
}
ASKED = Query("q1", "q", "secret zelda halo forza doom", "doom", 5)
FAR = replace(ASKED, time=100)  # q has mario and doom
CONFIG = OthersConfig(words=99)
REVIEW = "canaryreview platform switch"


def data(taken=TAKEN, review=REVIEW, **meta) -> Dataset:
    items = {id: Item(id, f"The {id} game", ("games",), {"platform": (p,)}) for id, p in PLATFORMS.items()}
    bought = [Interaction(user, item, time, 5.0, review) for user, own in taken.items() for item, time in own]
    return Dataset(items, tuple(bought), (ASKED,), meta)


def others(dataset=None, users=TRAIN, config=CONFIG) -> Others:
    return Others(Prior(dataset or data(), users), config)


def texts(query=ASKED, **made) -> list[str]:
    tool = others(**made)
    return [entry.text for entry in tool.lines(query, taken(tool, query))]


def taken(tool: Others, query: Query) -> list[str]:
    return [one.item for one in tool.prior.dataset.history(query)]


def without(*users: str) -> dict:
    return {user: own for user, own in TAKEN.items() if user not in users}


# --- what is counted --------------------------------------------------------------------------------------------------


def test_lines_by_hand():
    """t1 to t4 share mario. Two spellings are one value; t2's two games for xbox one count once; mario is q's own.

    The titles share a word with the wish, and come first.
    """
    assert texts() == [
        "others title the halo game x3",
        "others title the zelda game x3",
        "others platform switch x3",
        "others platform xbox one x3",
    ]
    one = others(config=replace(CONFIG, people=1)).lines(ASKED, ["mario"])
    assert [(entry.text, entry.support) for entry in one[2:3]] == [("others title the forza game x1", 1)]


def test_a_title_must_share_a_word_with_the_wish():
    """Not only with the look-up. A value need not, and comes first if it does. A phrase alone is the wish."""
    values = ["others platform switch x3", "others platform xbox one x3"]
    assert texts(replace(ASKED, text="something")) == values
    assert len(texts(replace(ASKED, text="a game"))) == 4
    assert texts(replace(ASKED, text="a Halo for XBOX")) == [
        "others platform xbox one x3",
        "others title the halo game x3",
        "others platform switch x3",
    ]
    assert texts(replace(ASKED, phrase="xbox one")) == values[::-1]
    tool = others()
    assert [e.text for e in tool.answer(replace(ASKED, text="something"), ["mario"], "others zelda", 9)] == values


def test_a_line_is_an_entry_of_nobody():
    first, *_ = others().lines(replace(ASKED, text=""), ["mario"])
    assert first == MemoryEntry("@others/switch/platform", None, "others", "others platform switch x3", support=3)


@pytest.mark.parametrize("gone", ["t1", "t2", "t3"])
def test_with_one_person_less_than_the_floor_there_is_no_line(gone):
    """Each fact has 3 people, of whom zelda's are t1, t2, t3: without one of them, nothing says zelda or switch."""
    left = texts(dataset=data(without(gone)))
    assert not [text for text in left if "zelda" in text or "switch" in text]
    assert texts(config=replace(CONFIG, people=4)) == []


def test_nobody_is_counted_in_the_reply_to_themself():
    """t1 asks as t4 could: for zelda, only t2 and t3 are left; with a floor of 2 they are counted."""
    asked = replace(ASKED, user="t1", time=2)
    assert texts(asked) == []
    two = texts(asked, config=replace(CONFIG, people=2))
    assert "others title the zelda game x2" in two or two == []
    late = replace(ASKED, user="t4", time=4)
    assert "others title the zelda game x3" in texts(late)
    assert not [text for text in texts(late) if "halo" in text]  # t4's own halo is gone: t1 and t2 are two


def test_the_asker_is_not_counted_without_a_clock_either():
    """Then t1's own later purchases would count, the target among them."""
    asked = replace(ASKED, user="t1", time=2, target="halo")
    two = replace(CONFIG, people=2)
    assert "others title the halo game x2" in texts(asked, dataset=data(clock=False), config=two)


def test_each_pair_of_a_person_and_a_thing_stands_once():
    """t1 and t2 share mario and zelda with the asker."""
    prior = Prior(data(), TRAIN)
    people, items = prior.besides(ASKED, ["mario", "zelda"])
    halo, forza, myst = (prior.column[item] for item in ("halo", "forza", "myst"))
    rows = [prior.row[user] for user in ("t1", "t2", "t2", "t4", "alone", "alone")]
    expected = zip(rows, (halo, halo, forza, halo, halo, myst), strict=True)
    assert sorted(zip(people.tolist(), items.tolist(), strict=True)) == sorted(expected)


def test_only_train_users_are_counted():
    assert texts(dataset=data(without("v"))) == texts()
    assert "others title the zelda game x4" in texts(users=(*TRAIN, "v"))


def test_only_people_who_share_something_are_counted():
    """`alone` shares nothing, and is counted as soon as they have mario."""
    assert "others title the halo game x4" in texts(dataset=data({**TAKEN, "alone": [*TAKEN["alone"], ("mario", 2)]}))
    assert texts(replace(ASKED, user="new")) == []


def test_what_the_user_has_is_no_line():
    tool = others()
    assert "others title the zelda game x3" in [entry.text for entry in tool.lines(ASKED, ["mario"])]
    assert not [e for e in tool.lines(ASKED, ["mario", "zelda", "unknown"]) if "zelda" in e.text]


def test_an_item_that_was_taken_twice_counts_once():
    assert texts(dataset=data({**TAKEN, "t4": [*TAKEN["t4"], ("halo", 3)]})) == texts()


def test_only_what_was_taken_before_the_query_counts():
    """t4 takes halo at 4: at time 4 it has two people. If t4 takes mario only later, t4 is no sharer."""
    assert "others title the halo game x3" not in texts(replace(ASKED, time=4))
    later = {**TAKEN, "t4": [("mario", 6), ("halo", 4)]}
    assert not [text for text in texts(dataset=data(later)) if "halo" in text]


def test_without_a_clock_the_time_of_others_does_not_matter():
    later = {**TAKEN, "t4": [("mario", 60), ("halo", 70)]}
    assert "others title the halo game x3" in texts(dataset=data(later, clock=False))


# --- what never counts ------------------------------------------------------------------------------------------------


def test_the_target_is_neither_read_nor_counted():
    """With other targets of the queries, and without the purchases of targets by q, all is the same."""
    dataset = data({**TAKEN, "q": TAKEN["q"][:1]})
    assert texts(replace(ASKED, target="zelda")) == texts() == texts(dataset=dataset)
    own = replace(CONFIG, people=1)
    assert not [text for text in texts(users=(*TRAIN, "q"), config=own) if "doom" in text]
    assert "others title the doom game x1" in texts(replace(ASKED, time=9), config=own, dataset=dataset)  # t3 at 8


def test_no_word_of_a_person_is_in_a_line():
    """Not of reviews, requests or user names; with other reviews and ratings the lines are the same."""
    tool = others(config=replace(CONFIG, people=1))
    said = " ".join(entry.text + entry.id for entry in tool.lines(FAR, taken(tool, FAR)))
    assert said and not [word for word in ("canary", "secret", *TRAIN) if word in said]
    assert texts(dataset=data(review="another text")) == texts()


def test_a_removed_person_stays_in_no_saved_environment(tmp_path):
    """Nothing about other people is saved; loaded with a data set without t1, zelda is below the floor."""
    split = Split(frozenset(TRAIN), frozenset("v"), frozenset("q"), (), (), (ASKED,), ())
    dataset = data()
    built = Environment.build(
        dataset, split, ExtractiveSummarizer(), np.random.default_rng(0), None, HybridConfig(dims=2)
    )
    ask = "others title zelda"
    assert [entry.text for entry in built.memory.search(ASKED, ask, 1)] == ["others title the zelda game x3"]
    environment_on_disk.save(built, tmp_path / "fitted")
    assert not [path for path in (tmp_path / "fitted").rglob("*.json") if "@others" in path.read_text()]
    same = environment_on_disk.load(tmp_path / "fitted", dataset, split)
    assert same.memory.search(ASKED, ask, 3) == built.memory.search(ASKED, ask, 3) != ()
    left = environment_on_disk.load(tmp_path / "fitted", data(without("t1")), split)
    assert not [entry for entry in left.memory.search(ASKED, ask, 9) if "zelda" in entry.text]


def test_the_assistant_counts_what_the_store_still_holds(tmp_path):
    """A forgotten user and a deleted purchase are in no reply. The store, not the data set, says what the asker has."""
    dataset, split = data(), Split(frozenset(TRAIN), frozenset("v"), frozenset("q"), (), (), (ASKED,), ())
    config = HybridConfig(dims=2)
    built = Environment.build(dataset, split, ExtractiveSummarizer(), np.random.default_rng(0), None, config)
    build_store(tmp_path / "memory.db", dataset, built.memory)
    with Store.open(tmp_path / "memory.db") as store:
        helper = Assistant(built, store, None, None, None)

        def reply(user="q", text="others title zelda") -> list[str]:
            memory = StoredMemory(store, helper._other_people)
            return [entry.text for entry in memory.search_many([(as_of_now(user, "zelda"), text)], 1)[0]]

        assert reply() == ["others title the zelda game x3"]
        assert "others" not in reply(text="zelda others")[0]
        assert reply("new") == []
        store.for_user("new").remember(dataset.items["mario"], 5.0)
        assert reply("new") == ["others title the zelda game x3"]
        records = [entry for entry in store.for_user("t3").entry_index().entries if entry.level == "record"]
        [bought] = [entry for entry in records if "zelda" in entry.text]
        store.for_user("t3").delete(bought.id)
        assert "zelda" not in reply()[0]
        store.for_user("t1").forget()
        assert reply() == []  # halo had t1, t2 and t4
        for item in ("mario", "halo"):
            store.for_user("t1").remember(dataset.items[item], 5.0)
        assert reply() == []  # who comes back after that does not teach, as for the global memory


# --- the look-up ------------------------------------------------------------------------------------------------------


def test_the_lines_that_match_best_come_first():
    """By shared words, then support, then text. The word "others" and the user's other words do not matter."""
    tool = others(config=replace(CONFIG, people=1))

    def found(text: str, k: int = 2) -> list[str]:
        return [entry.text.removeprefix("others ") for entry in tool.answer(ASKED, ["mario"], text, k)]

    assert found("others") == ["title the halo game x3", "title the zelda game x3"]
    assert found("others title", 3) == ["title the halo game x3", "title the zelda game x3", "title the forza game x1"]
    assert found("others Forza TITLE!", 1) == ["title the forza game x1"]
    assert found("others title title platform xbox", 1) == ["platform xbox one x3"]
    assert found("others unheard of") == found("others")
    assert found("others", 0) == []


@pytest.mark.parametrize(("words", "lines"), [(5, 0), (6, 1), (11, 1), (12, 2), (15, 2), (16, 3), (99, 4)])
def test_a_reply_keeps_to_its_budget_of_words(words, lines):
    """The lines have 6, 6, 4 and 5 words. A reply is a beginning of the list: no short line replaces a long one."""
    reply = others(config=replace(CONFIG, words=words)).answer(ASKED, ["mario"], "others", 9)
    assert list(reply) == others().lines(ASKED, ["mario"])[:lines]


def test_a_title_is_short_and_a_repeated_fact_counts_once():
    long = Item("a", "one two three four", ("c",), {"title": ("one two",), "x": ("Y", "y")})
    assert facts_of([long, Item("b", "!", ("c",))], 2) == [[("title", "one two"), ("x", "y")], []]


def test_memory_hands_over_look_ups_about_others():
    env = environment()
    asked = env.split.test_queries[0]
    config = OthersConfig(people=1, words=99)
    memory = replace(env.memory, others=Others(env.items.prior, config))
    lines = memory.others_lines(asked)
    assert lines and {entry.level for entry in lines} == {"others"}
    assert memory.search(asked, "others price", 2) == memory.others.answer(asked, memory._taken(asked), "price", 2)
    assert memory.search_many([(asked, " Others, price")], 2) == [memory.search(asked, "others price", 2)]
    one, other = (replace(asked, phrase=entry.text.split()[-2]) for entry in lines[-2:])
    assert one.wish != other.wish and memory.search(one, "others", 2) != memory.search(other, "others", 2)
    for text in ("price others", "price", "another price"):
        assert memory.search(asked, text, 3) == env.memory.search(asked, text, 3)
    assert env.memory.others_lines(asked) == []  # without the tool, own memory answers
    assert {entry.user for entry in env.memory.search(asked, "others price", 3)} == {asked.user}


def test_the_shop_has_no_tool_and_real_data_have():
    assert environment().memory.others is None
    assert Others.of(Prior(data(), TRAIN)).config == OthersConfig()


def test_the_vocabulary_has_the_words_of_the_lines():
    env = environment()
    tool = Others(env.items.prior, OthersConfig(people=1))
    asking = replace(env, memory=replace(env.memory, others=tool))
    assert "others" in make_tokenizer([asking], 4000).words
    assert "others" not in make_tokenizer([env], 4000).words


# --- the teacher ------------------------------------------------------------------------------------------------------

LINE = MemoryEntry("@global/mug/price", None, "global", "likely mug price", (), "mug", 3)
SIZE = MemoryEntry("@global/mug/size", None, "global", "likely mug size", (), "mug", 3)
REPLY = MemoryEntry("@others/very%20cheap/price", None, "others", "others price very cheap x12", support=12)


def test_a_line_is_read_and_asked_for_like_an_own_one():
    assert value_of(REPLY, "price") == ("very cheap", 12) and value_of(REPLY, "size") == ("", 0)
    assert note_of(REPLY, "price") == note_of(REPLY) == "price very cheap"
    assert lookup_text(LINE, "others") == "others price"
    title = MemoryEntry("@others/vel%20mug/title", None, "others", "others title vel mug x4", support=4)
    assert note_of(title, "title") == note_of(title) == "vel mug"
    assert lookup_text(A_TITLE, "others") == "others title"


def test_how_often_the_teacher_asks_about_others():
    """With 0.4: own memory alone in 60 %, others alone in 20 %, both in 20 %, own memory first; half for a title."""
    rng, config = np.random.default_rng(0), TeacherConfig(others=0.4)
    plans = [tuple(lookup_text(*one) for one in asking_others([(LINE, "often")], config, rng)) for _ in range(4000)]
    own, value, title = "mug price overall", "others price", "others title"
    shares = [plans.count(plan) / 4000 for plan in ((own,), (value,), (title,), (own, value), (own, title))]
    assert shares == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.03)
    assert list(asking_others([(LINE, "often")], TeacherConfig(others=0.0), rng)) == [(LINE, "often")]


def test_the_teacher_asks_only_if_others_can_be_asked_and_within_the_limit():
    env, grammar, rules = environment(), Grammar(tokenizer()), RolloutConfig()

    def look_ups(config: TeacherConfig, others: bool) -> list[list[str]]:
        make = teacher(grammar, config, np.random.default_rng(0), env.aspects, rules.max_calls, others)
        played = env.play(ScriptActor(make), env.split.train_queries, grammar, rules, RewardConfig())
        assert all(episode.answer for episode in played)
        return [[call.text for call in episode.calls] for episode in played]

    silent = look_ups(TeacherConfig(others=1.0), False)
    assert silent == look_ups(TeacherConfig(others=0.0), False) == look_ups(TeacherConfig(), False)
    assert not [text for calls in silent for text in calls if text.startswith("others")]
    asking = look_ups(TeacherConfig(others=1.0), True)
    assert max(map(len, asking)) == rules.max_calls
    assert [text for calls in asking for text in calls if text.startswith("others")]


def test_what_others_repeat_is_not_noted_again():
    """The third reply says the value of the first: thought and answer leave it out. Own memory may repeat itself."""

    def final(*values: str, replies) -> tuple[str, str]:
        told = iter(replies)
        grammar = Grammar(tokenizer())
        script = run_plan(grammar, [(LINE, value) for value in values], lambda *_: next(told))
        state = _State()
        for reply in replies:
            script(state)
            state.calls.append(_Called((reply[1],)))
        turn = grammar.parse(script(state), len(state.shown))
        return turn.think, turn.profile

    own = MemoryEntry("u/profile/price", "u", "profile", "overall price cheap 5", support=5)
    same, other = replace(REPLY, text="others price cheap x9"), replace(REPLY, text="others price dear x9")
    assert final("often", "others", replies=[("price cheap", own), ("price cheap", same)]) == ("", "price cheap")
    _, both = final("often", "others", replies=[("price cheap", own), ("price dear", other)])
    assert both == "price cheap price dear"
    _, twice = final("often", "lately", replies=[("price cheap", own), ("price cheap", own)])
    assert twice == "price cheap price cheap"


class _Called:
    def __init__(self, entries):
        self.entries = entries


class _State:
    """The state of an episode as far as a script reads it, for a query that needs no repeating."""

    query = Query("q", "u", "a mug", "", 1, phrase="mug")

    def __init__(self):
        self.calls = []

    @property
    def shown(self):
        return [entry for call in self.calls for entry in call.entries]
