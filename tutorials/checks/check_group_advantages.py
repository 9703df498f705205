"""The check of `group_advantages`."""

import torch
from adapters import expect

REWARDS, GROUPS = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0])


def check(answer) -> None:
    for sigma, wanted, because in (
        ("none", [0.75, -0.25, -0.25, -0.25], "r - mean r, the mean is 1/4"),
        ("group", [1.4997, -0.4999, -0.4999, -0.4999], "(r - mean) / (sqrt(.75 / 3) + 1e-4)"),
        ("population", [1.731651, -0.577217, -0.577217, -0.577217], "(r - mean) / (sqrt(.75 / 4) + 1e-4)"),
    ):
        got = answer.group_advantages(REWARDS, GROUPS, sigma)
        hint = "Is it n - 1 or n under the root? Is 1e-4 added?" if sigma != "none" else "Is anything divided?"
        expect(got, wanted, f"group_advantages([1, 0, 0, 0], one group, {sigma!r})", because, hint)
    mixed = answer.group_advantages(torch.tensor([3.0, 10.0, 1.0, 14.0]), torch.tensor([0, 1, 0, 1]), "none")
    hint = "The rows of a group need not be adjacent: compare each row with the mean of its own group only."
    expect(
        mixed,
        [1.0, -2.0, -1.0, 2.0],
        "rewards (3, 10, 1, 14) in groups (0, 1, 0, 1), 'none'",
        "groups (3, 1) and (10, 14)",
        hint,
    )
    equal = answer.group_advantages(torch.full((3,), 0.1), torch.zeros(3).long(), "group")
    hint = "The mean of equal floats can be off in the last digit, and sigma is as small; 1e-4 prevents a full step."
    expect(equal, [0.0, 0.0, 0.0], "three rewards of .1, 'group'", "nothing to prefer", hint)
    close = answer.group_advantages(torch.tensor([0.0, 2e-4]), torch.zeros(2).long(), "population")
    expect(close, [-0.5, 0.5], "(0, .0002), 'population'", "-.0001 / (.0001 + 1e-4)", "Add 1e-4, not a smaller number.")
    try:
        answer.group_advantages(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]), "none")
    except ValueError:
        return
    raise AssertionError("a group of one episode must raise ValueError")


def _advantages(rewards, groups, sigma, ddof_of_group=1, epsilon=1e-4, mixed=False):
    out = torch.empty_like(rewards)
    for group in groups.unique():
        rows = groups == group
        if rows.sum() < 2:
            raise ValueError
        own = rewards if mixed else rewards[rows]
        centred = rewards[rows] - own.mean()
        ddof = ddof_of_group if sigma == "group" else 1 - ddof_of_group
        out[rows] = centred if sigma == "none" else centred / (own.std(correction=ddof) + epsilon)
    return out


WRONG = {
    "sigmas exchanged": {"group_advantages": lambda r, g, s: _advantages(r, g, s, ddof_of_group=0)},
    "epsilon of 1e-8": {"group_advantages": lambda r, g, s: _advantages(r, g, s, epsilon=1e-8)},
    "groups mixed": {"group_advantages": lambda r, g, s: _advantages(r, g, s, mixed=True)},
    "not centred": {"group_advantages": lambda r, g, s: r.clone()},
    "zeros": {"group_advantages": lambda r, g, s: torch.zeros_like(r)},
    "wrong sign": {"group_advantages": lambda r, g, s: -_advantages(r, g, s)},
}
