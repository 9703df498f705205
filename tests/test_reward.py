"""The reward of eq. 10: each term by hand, the sum, and what plausible mistakes would give instead."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Answer, Call, Episode, Item, MemoryEntry, Query
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.prior import Prior
from mrrec_mini.reward import (
    RewardConfig,
    evidence_reward,
    format_reward,
    memory_reward,
    recommendation_reward,
    retrieved_tokens,
    score,
    total_reward,
)
from small import tokenizer

CONFIG = RewardConfig()
GRAMMAR = Grammar(tokenizer())
LINE = MemoryEntry("u/pattern/mug/price", "u", "pattern", "mug price luxury")


def episode(profile: str | None, calls: int = 0, target: str = "i1") -> Episode:
    """An episode with this number of calls; `profile` None: malformed."""
    query = Query("q", "u", "mug", target, 100)
    answer = None if profile is None else Answer(profile)
    end = "answer" if answer else "an answer ends with <end>"
    return Episode(query, (1, 2), (0, 1), (0.0, -0.5), (Call("mug price", (LINE,)),) * calls, answer, end)


def pool() -> ItemIndex:
    """Three items, BM25 alone: an item that shares no word with the profile scores 0; the smaller id wins a tie."""
    ids, texts = ["i1", "i2", "i3"], ["red mug", "blue mug", "green lamp"]
    nobody = Prior(Dataset({id: Item(id, id, ("home",)) for id in ids}, (), ()), ())
    return ItemIndex.over(HybridIndex(ids, texts, TextSpace.fit(texts, HybridConfig(dense="none"))), nobody)


# --- the terms ---


def test_format_is_whether_the_answer_parsed():
    assert format_reward(episode("red mug")) == 1.0
    assert format_reward(episode(None, calls=2)) == 0.0


def test_memory_is_one_for_any_number_of_calls():
    assert [memory_reward(episode("red mug", calls)) for calls in (0, 1, 3)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (1, 2.0),  # 1 / log2(2) = 1, twice
        (3, 1.0),  # 1 / log2(4) = 1/2, twice
        (7, 2 / 3),  # 1 / log2(8) = 1/3, twice
        (100, 2 / math.log2(101)),  # the last place that counts twice
        (127, 1 / 7),  # beyond 100: 1 / log2(128), once
        (1000, 1 / math.log2(1001)),
        (1001, 0.0),
        (math.inf, 0.0),  # no profile
    ],
)
def test_recommendation_by_hand(rank, expected):
    assert recommendation_reward(rank, CONFIG) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 1200), st.integers(1, 1200))
def test_a_better_rank_never_earns_less(one, other):
    better, worse = sorted((one, other))
    assert 2 >= recommendation_reward(better, CONFIG) >= recommendation_reward(worse, CONFIG) >= 0


# --- eq. (10) ---

CASES = [  # (answered, rank, calls) -> r, arithmetic beside it
    ((True, 1, 2), 10.2),  # .1 + 5 x 2 + .1
    ((True, 3, 0), 5.1),  # .1 + 5 x 1, no call
    ((True, 127, 1), 0.2 + 5 / 7),  # .1 + 5 / 7 + .1
    ((True, 2000, 1), 0.2),  # .1 + 0 + .1
    ((True, 100, 3), 0.2 + 10 / math.log2(101)),  # the border of the narrow cut-off
    ((True, 1000, 1), 0.2 + 5 / math.log2(1001)),  # the border of the wide one
    ((False, math.inf, 1), 0.1),  # malformed after a call: the call still counts
    ((False, math.inf, 0), 0.0),
]


def eq_10(answered: bool, rank: float, calls: int) -> float:
    """Eq. (10) by the module's functions."""
    made = episode("red mug" if answered else None, calls)
    terms = {
        "format": format_reward(made),
        "recommendation": recommendation_reward(rank, CONFIG),
        "memory": memory_reward(made),
    }
    return total_reward(terms, CONFIG)


def gain(rank: float, k: int, base: float = 2, shift: int = 1, strict: bool = False) -> float:
    inside = rank < k if strict else rank <= k
    return 1 / math.log(rank + shift, base) if inside else 0.0


def both(rank: float, **how) -> float:
    return gain(rank, 100, **how) + gain(rank, 1000, **how)


WRONG = {
    "natural logarithm": lambda a, r, c: 0.1 * a + 5 * both(r, base=math.e) + 0.1 * (c > 0),
    "rank from 0": lambda a, r, c: 0.1 * a + 5 * both(r, shift=2) + 0.1 * (c > 0),
    "cut-off one too early": lambda a, r, c: 0.1 * a + 5 * both(r, strict=True) + 0.1 * (c > 0),
    "one cut-off": lambda a, r, c: 0.1 * a + 5 * gain(r, 1000) + 0.1 * (c > 0),
    "mean of the two": lambda a, r, c: 0.1 * a + 5 * both(r) / 2 + 0.1 * (c > 0),
    "no memory term": lambda a, r, c: 0.1 * a + 5 * both(r),
    "memory paid by the call": lambda a, r, c: 0.1 * a + 5 * both(r) + 0.1 * c,
    "no format term": lambda a, r, c: 5 * both(r) + 0.1 * (c > 0),
    "format gates all": lambda a, r, c: a * (0.1 + 5 * both(r) + 0.1 * (c > 0)),
    "weights of the terms exchanged": lambda a, r, c: 5 * a + 0.1 * both(r) + 0.1 * (c > 0),
    "reciprocal rank": lambda a, r, c: 0.1 * a + 5 * 2 / r + 0.1 * (c > 0),
}


@pytest.mark.parametrize(("case", "expected"), CASES)
def test_total_by_hand(case, expected):
    """Eq. (10)"""
    assert eq_10(*case) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", WRONG)
def test_the_cases_tell_eq_10_from(name):
    """Eq. (10): each plausible mistake is caught by a case above."""
    assert any(abs(WRONG[name](*case) - expected) > 1e-3 for case, expected in CASES)


def test_each_weight_belongs_to_its_term():
    """Eq. (10): w = (2, 3, 7) and one term at a time."""
    config = RewardConfig(format=2, recommendation=3, memory=7)
    nothing = {"format": 0.0, "recommendation": 0.0, "memory": 0.0}
    assert [total_reward({**nothing, term: 1.0}, config) for term in nothing] == [2, 3, 7]


def test_what_looking_up_costs_by_hand():
    # 2 x 1 + 3 x .5 + 7 x 1 = 10.5; two calls at .25 and thirty tokens at .01 cost .5 + .3
    config = RewardConfig(2, 3, 7, call_cost=0.25, token_cost=0.01)
    terms = {"format": 1.0, "recommendation": 0.5, "memory": 1.0}
    assert total_reward(terms, config, calls=2, retrieved=30) == pytest.approx(10.5 - 0.5 - 0.3)
    assert total_reward(terms, RewardConfig(2, 3, 7), calls=2, retrieved=30) == pytest.approx(10.5)  # free by default


def test_retrieved_tokens_are_those_given_after_the_policy_began():
    # prompt 0 0 0, turn 1 1, reply 0 0, turn 1, reply 0, turn 1
    assert retrieved_tokens((0, 0, 0, 1, 1, 0, 0, 1, 0, 1)) == 3
    assert retrieved_tokens((0, 0, 1)) == 0
    assert retrieved_tokens((0, 0)) == 0  # the policy never wrote


@pytest.mark.parametrize("cost", ["call_cost", "token_cost", "evidence"])
def test_a_cost_below_zero_is_refused(cost):
    with pytest.raises(ValueError, match="evidence, call_cost and token_cost must be >= 0"):
        RewardConfig(**{cost: -0.1})


def test_score_subtracts_what_looking_up_cost():
    free, dear = RewardConfig(), RewardConfig(call_cost=0.5, token_cost=0.01)
    played = replace(episode("red mug", calls=2), mask=(0, 1, 0, 0, 1), tokens=(1,) * 5, logprobs=(0.0,) * 5)
    (before,), (after,) = (score([played], pool(), config, GRAMMAR) for config in (free, dear))
    assert after.reward == pytest.approx(before.reward - 0.5 * 2 - 0.01 * 2) and after.rewards == before.rewards


def cited(*ids: str) -> Episode:
    """An episode that copies `price luxury` from the only memory, and cites these."""
    played = episode("mug price luxury", calls=1)
    return replace(played, answer=Answer("mug price luxury", ids))


def test_the_reward_for_evidence_by_hand():
    assert [evidence_reward(one, GRAMMAR) for one in (cited(LINE.id), cited())] == [1.0, 0.0]
    assert evidence_reward(episode("mug", calls=1), GRAMMAR) == 1.0  # nothing is copied and nothing is cited
    assert evidence_reward(episode(None, calls=1), GRAMMAR) == 0.0  # malformed: it did not cite anything well
    free, paid = RewardConfig(), RewardConfig(evidence=0.5)
    for played, earned in ((cited(LINE.id), 1.0), (cited(), 0.0), (episode(None, calls=1), 0.0)):
        (before,), (after,) = (score([played], pool(), config, GRAMMAR) for config in (free, paid))
        assert after.reward == pytest.approx(before.reward + 0.5 * earned)
        assert "evidence" not in before.rewards and after.rewards == {**before.rewards, "evidence": earned}


def test_the_published_weights_are_the_default():
    assert (CONFIG.format, CONFIG.recommendation, CONFIG.memory) == (0.1, 5.0, 0.1)
    assert (CONFIG.k_wide, CONFIG.k_narrow, CONFIG.evidence) == (1000, 100, 0.0)


# --- scoring episodes ---


def test_score_ranks_each_target_by_its_own_profile():
    episodes = [
        episode("red mug", 1),  # i1 shares both words: rank 1
        episode(None, 1),  # malformed: no rank, and it does not shift the ranks of others
        episode("green lamp", 0),  # i3 first, then i1 and i2 tie at 0 and the smaller id wins: rank 2
        episode("blue mug", 1, target="i3"),  # shares no word: last of three
    ]
    scored = score(episodes, pool(), CONFIG, GRAMMAR)
    assert [e.rewards["rank"] for e in scored] == [1, math.inf, 2, 3]
    expected = [0.2 + 5 * 2, 0.1, 0.1 + 10 / math.log2(3), 0.2 + 10 / 2]  # log2(4) = 2
    assert np.allclose([e.reward for e in scored], expected, atol=1e-12)
    assert scored[1].rewards == {"format": 0.0, "recommendation": 0.0, "memory": 1.0, "rank": math.inf}


def test_score_changes_nothing_but_rewards():
    before = [episode("red mug", 1), episode(None)]
    after = score(before, pool(), CONFIG, GRAMMAR)
    assert [replace(e, rewards={}, reward=0.0) for e in after] == before
    assert all(e.rewards == {} for e in before)


def test_the_cut_offs_are_arguments():
    config = RewardConfig(k_wide=2, k_narrow=1)
    first, second, third = score(
        [episode("red mug"), episode("green lamp"), episode("blue mug", target="i3")], pool(), config, GRAMMAR
    )
    assert first.rewards["recommendation"] == 2.0  # rank 1: within both
    assert second.rewards["recommendation"] == pytest.approx(1 / math.log2(3))  # rank 2: within the wide one
    assert third.rewards["recommendation"] == 0.0  # rank 3


def test_nothing_to_score():
    assert score([], pool(), CONFIG, GRAMMAR) == []
    assert [e.reward for e in score([episode(None), episode(None)], pool(), CONFIG, GRAMMAR)] == [0.0, 0.0]
