"""Turn credit: decisions and values by hand, and the gradient that it must not change."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from mrrec_mini.datatypes import Answer, Call, Episode, MemoryEntry, Query
from mrrec_mini.grammar import Grammar, turns
from mrrec_mini.reward import RewardConfig
from mrrec_mini.train import TrainConfig, Trainer
from mrrec_mini.turn_credit import decisions, leave_one_out_advantage, turn_advantages
from small import environment, taught_model, tokenizer

GRAMMAR = Grammar(tokenizer())
LINE = MemoryEntry("u/1", "u", "profile", "overall size small")


def episode(turns_of_policy, reward, calls, query="q"):
    """A prompt of three ids, then the policy's turns with a reply after each but the last."""
    reply = GRAMMAR.reply([LINE], 0)
    tokens, mask = [1, 2, 3], [0, 0, 0]
    for number, turn in enumerate(turns_of_policy):
        tokens, mask = tokens + turn, mask + [1] * len(turn)
        if number < len(turns_of_policy) - 1:
            tokens, mask = tokens + reply, mask + [0] * len(reply)
    made = (Call("mug size", (LINE,)),) * calls
    wish = Query(query, "u", "mug for hiking", "i1", 0)
    return Episode(wish, tuple(tokens), tuple(mask), (0.0,) * len(mask), made, Answer("mug"), "answer", reward=reward)


SEARCHED = [GRAMMAR.write_search("size price", "mug size"), GRAMMAR.write_final("size small", "mug size small", [0])]
ANSWERED = [GRAMMAR.write_final("size price", "mug for hiking", [])]


class Ranks:
    """An item index that knows the target's rank for some profiles, and fails for any other."""

    def __init__(self, ranks):
        self.known = ranks

    def ranks_for(self, queries, profiles):
        return [self.known[profile] for profile in profiles]


def test_turns_are_the_runs_of_sampled_tokens():
    assert turns((0, 0, 1, 1, 0, 1)) == [(2, 4), (5, 6)]
    assert turns((1,)) == [(0, 1)] and turns((0, 0)) == [] and turns(()) == []


def test_decisions_by_hand():
    """Prompt of 3; <think> size price | <search> mug size </search>; reply; <think> size small | <profile> ... <end>"""
    played = episode(SEARCHED, 1.0, 1)
    reply = len(GRAMMAR.reply([LINE], 0))
    config = RewardConfig(call_cost=0.5, token_cost=0.01)
    first, second = 3, 3 + 3 + 4 + reply
    assert list(decisions(played, GRAMMAR, config)) == [
        (first, first + 3, "mug for hiking", 0.0),
        (first + 3, first + 7, "mug for hiking", 0.0),  # the plan is not a note
        (second, second + 3, "mug for hiking", pytest.approx(-0.5 - 0.01 * reply)),
        (second + 3, len(played.tokens), "mug for hiking size small", pytest.approx(-0.5 - 0.01 * reply)),
    ]


def test_advantages_by_hand():
    """One episode searches and earns 9, one answers at once and earns 3. Before any note the target's rank is 3, worth
    5 x (1/2 + 1/2) = 5; after the note it is 1, worth 5 x 2 = 10.

    Decisions 0 and 1, which both reach: 9 - 5 = 4 against 3 - 5 = -2, so +6 and -6. Only one reaches decisions 2 and 3.
    """
    played = [episode(SEARCHED, 9.0, 1), episode(ANSWERED, 3.0, 0)]
    items = Ranks({"mug for hiking": 3, "mug for hiking size small": 1})
    got = turn_advantages(played, [7, 7], GRAMMAR, items, RewardConfig())
    assert got.shape == (2, len(played[0].tokens))
    assert got[0].tolist() == [0.0] * 3 + [6.0] * 7 + [0.0] * (got.shape[1] - 10)
    assert got[1].tolist() == [0.0] * 3 + [-6.0] * len(ANSWERED[0]) + [0.0] * (got.shape[1] - 3 - len(ANSWERED[0]))


def test_what_came_before_a_decision_is_not_its_merit():
    """Both searched. The lucky note (rank 1 against rank 3) gets the credit; the answers add nothing.

    Thought of turn 2: 10 - 5 and 5 - 5, so +5 and -5. Answer: 10 - 10 = 0 and 5 - 5 = 0, so 0 and 0.
    """
    other = [SEARCHED[0], GRAMMAR.write_final("size giant", "mug size giant", [0])]
    played = [episode(SEARCHED, 10.0, 1), episode(other, 5.0, 1)]
    items = Ranks({"mug for hiking": 3, "mug for hiking size small": 1, "mug for hiking size giant": 3})
    got = turn_advantages(played, [0, 0], GRAMMAR, items, RewardConfig())
    (_, plan), (note, end) = turns(played[0].mask)
    assert got[0, 3:plan].tolist() == [5.0] * (plan - 3) and got[1, 3:plan].tolist() == [-5.0] * (plan - 3)
    assert got[0, note : note + 3].tolist() == [5.0] * 3
    assert got[0, note + 3 : end].tolist() == [0.0] * (end - note - 3)


def test_groups_are_not_mixed():
    items = Ranks({"mug for hiking": 3, "mug for hiking size small": 1})
    alone = turn_advantages(
        [episode(SEARCHED, 9.0, 1), episode(ANSWERED, 3.0, 0)], [0, 1], GRAMMAR, items, RewardConfig()
    )
    assert alone.abs().sum() == 0


def test_among_those_who_came_by_hand():
    # place 0: 1, 4, 7: 1 - 5.5, 4 - 4, 7 - 2.5; place 5: alone
    got = leave_one_out_advantage(torch.tensor([1.0, 4.0, 9.0, 7.0]), torch.tensor([0, 0, 5, 0]))
    assert got.tolist() == [-4.5, 0.0, 0.0, 4.5]


# --- the gradient stays that of the expected reward ---------------------------------------------------------------

CHANCES = torch.tensor([[0.2, -0.4], [0.7, 0.1], [-0.3, 0.5]], dtype=torch.float64)  # logits: first, second after 0 | 1
REWARD = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
VALUE = [0.3, torch.tensor([5.0, -4.0], dtype=torch.float64)]  # before the first decision; before the second


def logprob(logits, first, second):
    log_pi = torch.log_softmax(logits, -1)
    return log_pi[0, first], log_pi[1 + first, second]


def expected_gradient(values):
    """Over all pairs of two-decision episodes, each with its probability: the gradient of the loss that turn credit
    makes of the pair.
    """
    logits = CHANCES.clone().requires_grad_()
    total = torch.zeros_like(CHANCES)
    for pair in product(product((0, 1), repeat=2), repeat=2):
        scores = [logprob(logits, *episode) for episode in pair]
        chance = torch.stack([s for row in scores for s in row]).sum().exp().detach()
        after = [REWARD[a, b] - v for a, b in pair for v in values(a)]
        advantages = leave_one_out_advantage(torch.stack(after), torch.tensor([0, 1, 0, 1]))
        objective = (advantages * torch.stack([s for row in scores for s in row])).sum() / 2
        total += chance * torch.autograd.grad(objective, logits)[0]
    return total


def true_gradient():
    logits = CHANCES.clone().requires_grad_()
    value = sum(torch.stack(logprob(logits, a, b)).sum().exp() * REWARD[a, b] for a, b in product((0, 1), repeat=2))
    return torch.autograd.grad(value, logits)[0]


def test_the_expected_gradient_is_that_of_the_expected_reward():
    got = expected_gradient(lambda first: (VALUE[0], VALUE[1][first]))
    assert float((got - true_gradient()).abs().max()) <= 1e-10


def test_a_value_that_looks_ahead_changes_the_gradient():
    """Wrong: subtracts the value after the note from the thought that wrote it."""
    got = expected_gradient(lambda first: (VALUE[1][first], VALUE[1][first]))
    assert float((got - true_gradient()).abs().max()) > 0.1


# --- in the loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["grpo", "reinforce"])
def test_a_step_with_turn_credit_moves_the_policy(algo):
    env = environment()
    config = TrainConfig(algo=algo, credit="turn", prompts_per_step=4, group=4, micro_batches=2)
    trainer = Trainer(taught_model(), tokenizer(), [env], config)
    before = [p.clone() for p in trainer.model.parameters()]
    line = trainer.step()
    assert line["grad_norm"] > 0 and any(
        not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
    )


def test_equal_episodes_move_nothing():
    env = environment()
    query = env.split.train_queries[0]
    played = [replace(episode(SEARCHED, 1.0, 1), query=query) for _ in range(3)]
    assert turn_advantages(played, [0, 0, 0], GRAMMAR, env.items, RewardConfig()).abs().sum() == 0


def test_an_unknown_credit_is_refused():
    with pytest.raises(ValueError, match="credit must be one of \\('trajectory', 'turn'\\)"):
        TrainConfig(credit="token")
