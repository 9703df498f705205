"""Evidence: the rules of `copied_from` by hand, mistakes that the cases refuse, citations, and a reward for them."""

from dataclasses import replace
from itertools import count, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrrec_mini import evidence
from mrrec_mini.datatypes import Answer, Call, Episode, MemoryEntry, Query
from mrrec_mini.evidence import (
    Citations,
    add_up,
    citations,
    copied_from,
    evidence_report,
    shown_memories,
    values_read,
)
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.grpo import group_advantages
from mrrec_mini.models.causal_lm import WordTokenizer
from mrrec_mini.reinforce import reinforce_loss, to_batch, token_logprobs
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import expert
from mrrec_mini.train import TrainConfig, Trainer, train
from small import Dictated, environment, taught_model, tokenizer

GRAMMAR = Grammar(WordTokenizer(CONTROL, ()), entry_tokens=160)  # one token per byte: any text is shown whole


def episode(query, calls, profile, cites=(), shared=(), truth=None) -> Episode:
    """`calls`: {search text: lines returned}. Lines have the ids "1", "2", ... in the order shown; equal lines one id.

    `shared`: the global lines, with the ids "g1", "g2", ...
    """
    numbers, ids = count(1), {}
    for lines in calls.values():
        for line in lines:
            if line not in ids:
                ids[line] = str(next(numbers))
    made = tuple(
        Call(text, tuple(MemoryEntry(ids[line], "u", "note", line) for line in lines)) for text, lines in calls.items()
    )
    lines = tuple(MemoryEntry(f"g{n}", None, "global", line) for n, line in enumerate(shared, 1))
    answer = None if profile is None else Answer(profile, tuple(cites))
    return Episode(Query("q", "u", query, "i", 0, truth), (), (), (), made, answer, "answer", lines)


def told(played: Episode, grammar: Grammar = GRAMMAR) -> list[tuple[str, str | None]]:
    return [(text, entry and entry.id) for text, entry in copied_from(played, grammar)]


RECORD = "bought vel mug style classic scent floral origin alpine"
CASES = {
    "each note from its line": (
        episode("mug for hiking", {"mug price": ["mug price low"], "mug size": ["overall size small"]},
                "mug for hiking price low size small"),
        [("price low", "1"), ("size small", "2")],
    ),
    "the order shown decides": (
        episode("mug", {"mug price": ["mug price low", "overall price low"]}, "mug price low"),
        [("price low", "1")],
    ),
    "the call that asked wins over an earlier one": (
        episode("mug", {"mug size": [RECORD, "mug size small"], "mug scent": ["overall scent floral"]},
                "mug size small scent floral"),
        [("size small", "2"), ("scent floral", "3")],
    ),
    "and over a later one": (
        episode("mug", {"mug scent": ["overall scent floral"], "mug size": [RECORD, "mug size small"]},
                "mug scent floral size small"),
        [("scent floral", "1"), ("size small", "3")],
    ),
    "a record does not swallow the notes of other calls": (
        episode("mug", {"mug style": ["overall style classic", RECORD], "mug scent": ["overall scent floral"]},
                "mug style classic scent floral"),
        [("style classic", "1"), ("scent floral", "3")],
    ),
    "a line that holds both words wins over the call that asked": (
        episode("mug", {"mug style": ["overall style modern"], "mug scent": [RECORD]}, "mug style classic"),
        [("style classic", "2")],
    ),
    "the order of the words counts": (
        episode("rug", {"rug color": ["rug blue color red", "overall color blue"]}, "rug color blue"),
        [("color blue", "2")],
    ),
    "other words may stand between": (
        episode("mug", {"mug color": ["overall color red 5 lately blue 2 2021q1"]}, "mug color blue"),
        [("color blue", "1")],
    ),
    "a run without a gap wins": (
        episode("mug", {"mug color": ["overall color red 5 lately blue 2", "mug color blue 3"]}, "mug color blue"),
        [("color blue", "2")],
    ),
    "whole words only": (
        episode("mug", {"mug price": ["mug price lowest", "overall price low"]}, "mug price low"),
        [("price low", "2")],
    ),
    "aspects and values of several words": (
        episode("tv", {"tv screen size": ["tv screen size very large"], "tv brand": ["overall brand red river"]},
                "tv screen size very large brand red river"),
        [("screen size very large", "1"), ("brand red river", "2")],
    ),
    "a word that nothing holds is invented": (
        episode("mug", {"mug price": ["mug price low"]}, "mug price high color"),
        [("price", "1"), ("high", None), ("color", None)],
    ),
    "nothing was looked up": (episode("mug", {}, "mug price low"), [("price", None), ("low", None)]),
    "global lines are memory": (
        episode("mug", {"mug size": ["overall size small"]}, "mug price size small", shared=["mug price", "mug size"]),
        [("price", "g1"), ("size small", "1")],
    ),
    "words of the query need no memory": (
        episode("red mug for hiking", {"mug price": ["mug price low", "bought red mug for hiking"]},
                "Red mug for hiking, price: low for hiking"),
        [("price low", "1")],
    ),
    "unless an aspect names them": (
        episode("red mug", {"mug color": ["bought red pan", "mug color red"]}, "red mug color red"),
        [("color red", "2")],
    ),
    "a profile that does not begin with the query": (
        episode("mug for hiking", {"mug price": ["mug price low"]}, "price low mug for hiking"),
        [("price low", "1")],
    ),
    "of equal sources the cited one": (
        episode("mug", {"mug price": ["mug price low", "overall price high 4 lately low 2"]}, "mug price low", "2"),
        [("price low", "2")],
    ),
    "but not if another call was asked for it": (
        episode("mug", {"mug size": ["overall price low"], "mug price": ["mug price low"]}, "mug price low", "1"),
        [("price low", "2")],
    ),
    "nor if it does not hold the words": (
        episode("mug", {"mug price": ["mug price low", "overall price high"]}, "mug price low", "2"),
        [("price low", "1")],
    ),
    "no answer": (episode("mug", {"mug price": ["mug price low"]}, None), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sources_by_hand(name):
    played, expected = CASES[name]
    assert told(played) == expected


def in_fit(change):
    """A mistake in `fit`: `change` gets a note, a memory and the right result, and returns another result."""

    def mistake(played, patch):
        right = evidence.fit
        patch.setattr(evidence, "fit", lambda note, memory: change(note, memory, right(note, memory)))
        return told(played)

    return mistake


def bag_of_words(note, memory, _):
    return sum(word in memory.words for word in note), note[0] in memory.asked, memory.cited, True


def substrings(note, memory, _):
    return sum(word in " ".join(memory.words) for word in note), note[0] in memory.asked, memory.cited, True


def only_neighbours(note, memory, right):
    length = max(n for n in range(len(note) + 1) if f" {' '.join(note[:n])} " in f" {' '.join(memory.words)} " or not n)
    return length, *right[1:]


def with_asked(played, change):
    calls = tuple(replace(call, text=change(n, call.text)) for n, call in enumerate(played.calls))
    return told(replace(played, calls=calls))


WRONG = {
    "position-blind": in_fit(bag_of_words),
    "substrings": in_fit(substrings),
    "neighbouring words only": in_fit(only_neighbours),
    "word by word": in_fit(lambda note, memory, right: (min(right[0], 1), *right[1:])),
    "the first call that holds it": in_fit(lambda note, memory, right: (right[0], False, *right[2:])),
    "the call that did not ask": in_fit(lambda note, memory, right: (right[0], not right[1], *right[2:])),
    "the call that asked before the length": in_fit(lambda note, memory, right: (right[1], right[0], *right[2:])),
    "every claim is believed": in_fit(lambda note, memory, right: (right[0], right[2], right[1], right[3])),
    "no claim is believed": in_fit(lambda note, memory, right: (*right[:2], False, right[3])),
    "gaps do not count": in_fit(lambda note, memory, right: (*right[:3], True)),
    "notes are not cut": lambda played, patch: with_asked(played, lambda n, text: ""),
    "the last of equals": lambda played, patch: told(
        replace(played, calls=tuple(replace(c, entries=c.entries[::-1]) for c in played.calls))
    ),
    "query words count as copied": lambda played, patch: told(replace(played, query=replace(played.query, text=""))),
    "global lines are no memory": lambda played, patch: told(replace(played, global_entries=())),
    "invented words are left out": lambda played, patch: [one for one in told(played) if one[1]],
}


@pytest.mark.parametrize("name", WRONG)
def test_the_cases_refuse(name):
    different = []
    for played, expected in CASES.values():
        with pytest.MonkeyPatch.context() as patch:
            different.append(WRONG[name](played, patch) != expected)
    assert any(different)


def test_what_was_cut_when_shown_is_not_a_source():
    played = episode("mug", {"mug price": ["bought vel mug rated 5 price low", "overall price low"]}, "mug price low")
    cut = Grammar(GRAMMAR.tokenizer, entry_tokens=len("overall price low"))
    assert told(played) == [("price low", "1")] and told(played, cut) == [("price low", "2")]


def test_no_word_is_lost_and_each_source_holds_its_words():
    word = st.sampled_from(["mug", "for", "price", "low", "size", "small", "color", "red"])
    line = st.lists(word, min_size=1, max_size=5).map(" ".join)

    @given(line, st.dictionaries(line, st.lists(line, max_size=3), max_size=3), line, st.lists(line, max_size=2))
    def check(query, calls, profile, shared):
        played = episode(query, calls, profile, shared=shared)
        found = copied_from(played, GRAMMAR)
        left = iter(profile.split())
        assert all(word in left for text, _ in found for word in text.split())  # in the order of the profile
        new = [word for word in profile.split() if word not in query.split()]
        assert set(new) <= {word for text, _ in found for word in text.split()}
        held = {word for memory in shown_memories(played, GRAMMAR) for word in memory.words}
        for text, entry in found:
            if entry is None:
                assert text not in held and " " not in text
            else:
                words = iter(entry.text.split())
                assert all(word in words for word in text.split())

    check()


# --- citations ------------------------------------------------------------------------------------------------------

CALLS = {"mug price": ["mug price low", "overall price high"], "mug size": ["mug price low", "overall size small"]}
PROFILE = "mug price low size small"  # copied from 1 and 3


@pytest.mark.parametrize(
    ("profile", "cites", "counts", "precision", "recall", "f1"),
    [
        (PROFILE, "13", (3, 2, 2, 2), 1.0, 1.0, 1.0),
        (PROFILE, "3", (3, 2, 1, 1), 1.0, 1 / 2, 2 / 3),  # 2 x 1 / (1 + 2)
        (PROFILE, "12", (3, 2, 2, 1), 1 / 2, 1 / 2, 1 / 2),
        (PROFILE, "123", (3, 2, 3, 2), 2 / 3, 1.0, 4 / 5),  # citing everything
        (PROFILE, "2", (3, 2, 1, 0), 0.0, 0.0, 0.0),
        (PROFILE, "", (3, 2, 0, 0), None, 0.0, 0.0),
        ("mug", "1", (3, 0, 1, 0), 0.0, None, 0.0),
        ("mug", "", (3, 0, 0, 0), None, None, 1.0),
    ],
)
def test_citations_by_hand(profile, cites, counts, precision, recall, f1):
    found = citations(episode("mug", CALLS, profile, cites), GRAMMAR)
    assert found == counts and (found.precision, found.recall) == (precision, recall)
    assert found.f1 == pytest.approx(f1)


def test_a_global_line_cannot_be_cited_so_it_is_not_missed():
    assert citations(episode("mug", {}, "mug price", shared=["mug price"]), GRAMMAR) == (0, 0, 0, 0)


def test_without_an_answer_nothing_is_copied_or_cited():
    assert citations(episode("mug", CALLS, None), GRAMMAR) == (3, 0, 0, 0)


def test_the_report_counts_memories_not_episodes():
    episodes = [episode("mug", CALLS, PROFILE, "12"), episode("mug", CALLS, "mug price low new", "1")]
    assert add_up(citations(one, GRAMMAR) for one in episodes) == Citations(6, 3, 3, 2)
    # 2 of 3, not the mean of 1/2 and 1; "new" is one of seven words
    expected = {"shown": 6, "copied": 3, "cited": 3, "both": 2, "precision": 2 / 3, "recall": 2 / 3}
    assert evidence_report(iter(episodes), GRAMMAR) == {**expected, "from memory": 6 / 7}
    nothing = {"precision": None, "recall": None, "from memory": None}
    assert evidence_report([], GRAMMAR) == {"shown": 0, "copied": 0, "cited": 0, "both": 0, **nothing}


# --- in the shop ----------------------------------------------------------------------------------------------------


def test_values_read_by_hand():
    calls = {"mug price": ["mug price low", "overall price low", "overall price high"], "mug size": ["mug price low"]}
    truth = {"price": "high", "size": "small", "color": "red"}
    found = values_read(episode("mug", calls, "mug price low size small color red", truth=truth), GRAMMAR)
    assert {aspect: [entry.id for entry in entries] for aspect, entries in found.items()} == {
        "price": ["1", "2"],  # the value that the profile names, right or wrong
        "size": [],  # looked up, but no memory states it; color was not looked up
    }
    assert values_read(episode("mug", calls, None, truth=truth), GRAMMAR) == {}
    with pytest.raises(ValueError, match="query q has no known truth"):
        values_read(episode("mug", calls, "mug"), GRAMMAR)


def test_the_sources_of_a_script_state_the_values_that_it_names():
    """The expert cites what it noted, so citing is perfect, and each source states the value that the profile names."""
    env, grammar = environment(), Grammar(tokenizer())
    actor = ScriptActor(expert(grammar))
    episodes = env.play(actor, env.split.train_queries, grammar, RolloutConfig(), RewardConfig())
    checked = 0
    for played in episodes:
        source = {text.split()[0]: entry for text, entry in copied_from(played, grammar)}
        for aspect, entries in values_read(played, grammar).items():
            if entries:
                assert source[aspect] in entries
                checked += 1
    assert checked > 20
    total = add_up(citations(played, grammar) for played in episodes)
    assert total.cited == total.copied == total.both > 20


# --- the reward -----------------------------------------------------------------------------------------------------


def test_the_reward_makes_citing_the_right_memory_more_likely():
    """Two episodes differ in one sampled token, the reference; a step along the gradient moves that choice."""
    env, grammar, model = environment(), Grammar(tokenizer()), taught_model()
    query = env.split.train_queries[0]
    search, rules = grammar.write_search("price", "price"), RolloutConfig()
    # the profile copies a word that one memory holds and another does not
    [found] = env.memory.search_many([(query, "price")], rules.memory_k)
    right, wrong, word = next(
        (i, j, word)
        for i, j in permutations(range(len(found)), 2)
        for word in found[i].text.split()
        if word.isalpha() and word not in f"{found[j].text} {query.text}".split()
    )
    finals = [grammar.write_final("price", f"{query.text} {word}", [cited]) for cited in (right, wrong)]
    paid = RewardConfig(format=0, recommendation=0, memory=0, evidence=1)
    episodes = env.play(Dictated(*([search, final] for final in finals)), [query] * 2, grammar, rules, paid)
    assert {one.entry for one in copied_from(episodes[0], grammar)} == {found[right]}
    assert [played.reward for played in episodes] == [1.0, 0.0]

    batch = to_batch(episodes, [0, 0])
    [place] = (batch.tokens[0] != batch.tokens[1]).nonzero().flatten().tolist()

    def logprobs():
        return token_logprobs(model, batch.tokens, batch.mask)[0]  # (2, T)

    was = logprobs()[:, place].detach()
    advantages = group_advantages(batch.rewards, batch.groups, "none")
    reinforce_loss(logprobs(), advantages, batch.mask, 2).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.0001 * parameter.grad
    gains = (logprobs()[:, place].detach() - was).tolist()
    assert gains[0] > 0 > gains[1]


def test_a_training_step_pays_for_evidence_and_logs_it():
    rules, reward = RolloutConfig(), RewardConfig(evidence=1)
    config = TrainConfig(steps=1, prompts_per_step=2, group=3, rules=rules, reward=reward, credit="turn")
    [line] = train(Trainer(taught_model(), tokenizer(), [environment()], config))
    assert 0 < line["rewards/evidence/mean"] < 1
