"""The check of `baseline`."""

import torch
from adapters import expect

ONE, GROUPS = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0])
TWO, TURNS = torch.tensor([3.0, 10.0, 1.0, 14.0, 2.0]), torch.tensor([0, 1, 0, 1, 0])


def check(answer) -> None:
    expect(answer.baseline(ONE, GROUPS, "none"), [0, 0, 0, 0], "baseline of (1, 0, 0, 0), 'none'", "")
    expect(answer.baseline(ONE, GROUPS, "group"), [0.25] * 4, "baseline of (1, 0, 0, 0), 'group'", "1/4 for all")
    others = "0/3 for the first, (1 + 0 + 0)/3 for the rest"
    hint = "Take the mean of the others: leave the episode itself out of the sum *and* the count."
    expect(
        answer.baseline(ONE, GROUPS, "leave_one_out"),
        [0, 1 / 3, 1 / 3, 1 / 3],
        "baseline of (1, 0, 0, 0), 'leave_one_out'",
        others,
        hint,
    )
    hint = "The episodes of a group need not be adjacent, and groups may differ in size."
    asked = "baseline of (3, 10, 1, 14, 2) in groups (0, 1, 0, 1, 0)"
    expect(
        answer.baseline(TWO, TURNS, "group"), [2, 12, 2, 12, 2], f"{asked}, 'group'", "(3+1+2)/3 and (10+14)/2", hint
    )
    wanted = [1.5, 14, 2.5, 10, 2]
    expect(answer.baseline(TWO, TURNS, "leave_one_out"), wanted, f"{asked}, 'leave_one_out'", "(1+2)/2, 14, ...", hint)
    for groups, kind, why in (
        (torch.arange(4), "leave_one_out", "groups of one episode"),
        (GROUPS, "mean", "a kind that does not exist"),
    ):
        try:
            answer.baseline(ONE, groups, kind)
        except ValueError:
            continue
        raise AssertionError(f"baseline(..., {kind!r}) with {why} must raise ValueError")


def _version(others=True, mixed=False, blocks=False, divisor=1, strict=True):
    def baseline(rewards, groups, kind):
        if kind not in ("none", "group", "leave_one_out") and strict:
            raise ValueError
        if kind == "none":
            return torch.zeros_like(rewards)
        groups = torch.zeros_like(groups) if mixed else groups
        groups = torch.arange(len(groups)) // 2 if blocks and len(groups) > 4 else groups
        same = (groups[:, None] == groups[None, :]).float()
        count = same.sum(1)
        if kind == "leave_one_out" and others:
            if (count < 2).any() and strict:
                raise ValueError
            return (same @ rewards - rewards) / (count - divisor).clamp_min(1)
        return same @ rewards / count

    return {"baseline": baseline}


WRONG = {
    "leaves nothing out": _version(others=False),
    "the mean of the batch": _version(mixed=True),
    "groups by position": _version(blocks=True),
    "the others' sum over n": _version(divisor=0),
    "anything goes": _version(strict=False),
}
