"""The check of `sampled_metrics`; the answers are computed from the exact chances of the draw."""

import math

import numpy as np
from adapters import expect_predictions

from mrrec_mini.metrics import ndcg_at_k

FULL = {"A": (1, 500, 500, 500), "B": (20, 20, 20, 20)}
OTHERS, DRAWN = 1000, 50


def first_in_sample(rank: int) -> float:
    """The chance that none of the `rank - 1` better items is drawn."""
    return math.comb(OTHERS - (rank - 1), DRAWN) / math.comb(OTHERS, DRAWN)


def check(answer) -> None:
    whole = {arm: ndcg_at_k(ranks, 10).mean() for arm, ranks in FULL.items()}
    first = {arm: np.mean([first_in_sample(rank) for rank in ranks]) for arm, ranks in FULL.items()}
    before = "It is 1 + the expected number of items ahead of it."
    right = {
        "WINNER_FULL": (max(whole, key=whole.get), "What is rank 20 worth at k = 10?"),
        "WINNER_SAMPLED": (
            max(first, key=first.get),
            "The chance that none of 19 items is drawn is about .95^19. And for 499 items?",
        ),
        "EXPECTED_RANK_B": (1 + 19 * DRAWN / OTHERS, before),
        "EXPECTED_RANK_500": (1 + 499 * DRAWN / OTHERS, before),
        "SAME_WITH_ALL": (OTHERS, "How many others are there?"),
    }
    expect_predictions(answer, right)


WRONG = {
    "the steady arm wins everywhere": {"WINNER_FULL": "B"},
    "no flip": {"WINNER_SAMPLED": "A"},
    "ranks from 0": {"EXPECTED_RANK_B": 0.95},
    "a twentieth of the rank": {"EXPECTED_RANK_500": 25.0},
    "a thousand and one": {"SAME_WITH_ALL": 1001},
}
