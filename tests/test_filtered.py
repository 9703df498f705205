"""Filtered imitation: which trace of a query is kept, and what keeping it is worth."""

import sys

import numpy as np
import pytest

from house import ROOT
from mrrec_mini.datatypes import Answer, Episode, Query
from mrrec_mini.filtered import best_traces
from mrrec_mini.grammar import Grammar
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import TeacherConfig, teacher
from small import environment, tokenizer

sys.path.insert(0, str(ROOT / "tutorials"))

import toys

GRAMMAR, RULES, REWARD = Grammar(tokenizer()), RolloutConfig(), RewardConfig()

# --- the rule, by hand ----------------------------------------------------------------------------------------------


class Dealt:
    """An environment that deals given (reward, answered) pairs, in the order in which the queries are played."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def play(self, actor, queries, grammar, rules, reward):
        self.played = [
            Episode(query, (n,), (1,), (0.0,), (), Answer("mug") if answered else None, "", reward=worth)
            for n, (query, (worth, answered)) in enumerate(zip(queries, self.pairs, strict=True))
        ]
        return self.played


A, B, C = (Query(name, "u", "mug", "i1", 0) for name in "abc")
DEALS = (  # queries, tries, the pairs dealt, and the numbers of the episodes to keep
    (
        (A, B),
        3,
        [(1, True), (3, True), (2, True), (0, True), (0.5, True), (0.2, True)],
        [1, 4],
    ),  # A's are better
    ((A, B), 2, [(-2, True), (-1, True), (-4, True), (-3, True)], [1, 3]),  # below 0
    ((A, B), 3, [(2, True), (1, True), (2, True), (1, True), (1, True), (1, True)], [0, 3]),  # ties: the first
    ((A, B), 2, [(9, False), (1, True), (2, True), (9, False)], [1, 2]),  # no answer: never
    ((A, B, C), 2, [(1, True), (2, True), (9, False), (9, False), (3, True), (0, True)], [1, 4]),  # B has none
    ((A, A), 2, [(1, True), (2, True), (4, True), (3, True)], [1, 2]),  # listed twice: two traces
    ((A, B), 1, [(1, True), (2, True)], [0, 1]),  # one try: ordinary imitation
)


def keeps_what_is_dealt(version) -> bool:
    """Whether a version of `best_traces` keeps the right episodes of every deal."""
    for queries, tries, pairs, wanted in DEALS:
        env = Dealt(*pairs)
        try:
            kept = version(env, None, queries, GRAMMAR, RULES, REWARD, tries)
        except ValueError:
            return False
        asked = [queries[n // tries] for n in wanted]
        if kept != [env.played[n] for n in wanted] or [e.query for e in kept] != asked:
            return False
    return True


def test_the_best_trace_of_each_query_is_kept():
    assert keeps_what_is_dealt(best_traces)


def variant(choose, answered=lambda e: e.answer is not None, order="query"):
    """Make another version of `best_traces`, which chooses from each group by `choose`."""

    def version(env, actor, queries, grammar, rules, reward, tries):
        if order == "query":
            repeated, groups = [q for q in queries for _ in range(tries)], np.repeat(np.arange(len(queries)), tries)
        else:
            repeated, groups = list(queries) * tries, np.repeat(np.arange(len(queries)), tries)
        played = env.play(actor, repeated, grammar, rules, reward)
        if order == "id":
            groups = [e.query.id for e in played]
        kept = []
        for group in dict.fromkeys(groups):
            own = [e for e, g in zip(played, groups, strict=True) if g == group and answered(e)]
            kept += choose(own) if own else []
        return kept

    return version


def reward_of(episode):
    return episode.reward


def best_of_the_batch(env, actor, queries, grammar, rules, reward, tries):
    """As many traces as queries, but the best of all, so easy queries supply every trace."""
    played = env.play(actor, [q for q in queries for _ in range(tries)], grammar, rules, reward)
    best = sorted(played, key=lambda e: (e.answer is None, -e.reward))[: len(queries)]
    return sorted(best, key=lambda e: e.tokens)


def best(own):
    return [max(own, key=reward_of)]


WRONG = {
    "the worst": variant(lambda own: [min(own, key=reward_of)]),
    "the first": variant(lambda own: own[:1]),
    "the last": variant(lambda own: own[-1:]),
    "the last of several best": variant(lambda own: [max(reversed(own), key=reward_of)]),
    "all of several best": variant(lambda own: [e for e in own if e.reward == max(map(reward_of, own))]),
    "all that are above 0": variant(lambda own: [e for e in own if e.reward > 0]),
    "without an answer too": variant(best, answered=lambda e: True),
    "tries of other queries": variant(best, order="round"),
    "one for a query that is listed twice": variant(best, order="id"),
    "the best of all queries": best_of_the_batch,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_refused(name):
    assert not keeps_what_is_dealt(WRONG[name])


def test_the_harness_of_the_wrong_versions_is_right():
    assert keeps_what_is_dealt(variant(best))


def test_at_least_one_try():
    with pytest.raises(ValueError, match="tries"):
        best_traces(Dealt(), None, (A,), GRAMMAR, RULES, REWARD, 0)


# --- in a shop ------------------------------------------------------------------------------------------------------


def shop_traces(tries, seed=0):
    env = environment()
    actor = ScriptActor(teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(seed)))
    return best_traces(env, actor, env.split.train_queries, GRAMMAR, RULES, REWARD, tries)


def test_one_try_is_ordinary_imitation():
    env = environment()
    actor = ScriptActor(teacher(GRAMMAR, TeacherConfig(), np.random.default_rng(0)))
    played = env.play(actor, env.split.train_queries, GRAMMAR, RULES, REWARD)
    assert shop_traces(1) == [e for e in played if e.answer is not None]


def test_more_tries_give_better_traces_of_the_same_queries():
    one, eight = shop_traces(1), shop_traces(8)
    assert [e.query for e in one] == [e.query for e in eight] == list(environment().split.train_queries)
    assert np.mean([e.reward for e in eight]) > 1.2 * np.mean([e.reward for e in one])
    assert eight == shop_traces(8) != shop_traces(8, seed=1)


def test_luck_looks_like_skill():
    """In the toy game, a guess is worth less than a look-up (.25 and .6), but the best of 8 is more often a guess."""
    task = toys.Task.make(0)
    queries = [query for query in task.train_queries if toys.needs_look_up(query)]

    def play(tries):
        actor = ScriptActor(toys.coin_flip_teacher(np.random.default_rng(0)))
        return best_traces(task, actor, queries * 10, toys.GRAMMAR, toys.RULES, toys.REWARD, tries)

    guesses = [[e for e in traces if not e.calls] for traces in (play(1), play(8))]
    assert np.mean([e.reward for e in guesses[0]]) == pytest.approx(0.25, abs=0.05)
    assert len(guesses[0]) / len(queries * 10) == pytest.approx(0.5, abs=0.05)
    # at least one of 8 tries is a guess (1/2) that is right (1/4): 1 - (7/8)^8 = .66
    assert len(guesses[1]) / len(queries * 10) == pytest.approx(0.66, abs=0.05)
    assert {e.reward for e in guesses[1]} <= {1.0, 0.0}
