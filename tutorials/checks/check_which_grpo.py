"""The check of `which_grpo`; the answers are computed with the package."""

import torch
from adapters import expect_predictions

from mrrec_mini.grpo import group_advantages, length_weights

LENGTHS = torch.tensor([2, 10, 2, 10])
RULES = {"A": ("none", "token"), "B": ("population", "token"), "C": ("none", "sequence"), "D": ("none", "constant")}


def token_weights() -> dict[str, torch.Tensor]:
    rewards, groups = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(4).long()
    mask = (torch.arange(10)[None] < LENGTHS[:, None]).float()
    return {
        name: (group_advantages(rewards, groups, sigma)[:, None] * length_weights(mask, length, 4, 24, 10))[:, 0]
        for name, (sigma, length) in RULES.items()
    }


def check(answer) -> None:
    w = token_weights()
    blame = -w["A"][2:] * LENGTHS[2:]
    right = {
        "CHEAP_LONG": (
            "".join(name for name, one in w.items() if one[3] > one[2] + 1e-6),
            "Under which rules does a token's weight depend on the length of its own answer?",
        ),
        "RIGHT_TOO": (
            "".join(name for name, one in w.items() if one[1] < one[0] - 1e-6),
            "Does the length rule know who was right?",
        ),
        "B_OVER_A": (float(w["B"][0] / w["A"][0]), "What is the population standard deviation of (1, 1, 0, 0)?"),
        "C_SHORT_OVER_LONG": (float(w["C"][2] / w["C"][3]), "Compare 1 / 2 with 1 / 10."),
        "LONG_TOTAL_A": (float(blame[1] / blame.sum()), "Every token has the same weight; count the tokens."),
    }
    expect_predictions(answer, right)


WRONG = {
    "blames the default": {"CHEAP_LONG": "A"},
    "thinks that right answers are safe": {"RIGHT_TOO": ""},
    "sample sigma": {"B_OVER_A": 1.732},
    "the other way round": {"C_SHORT_OVER_LONG": 0.2},
    "each answer the same": {"LONG_TOTAL_A": 0.5},
}
