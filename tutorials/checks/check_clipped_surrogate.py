"""The check of `clipped_surrogate`."""

import torch
from adapters import expect


def check(answer) -> None:
    for ratio, a, clip, wanted, because in (
        (1.5, 1.0, (0.2, 0.28), 1.28, "min(1.5, 1.28)"),
        (1.5, -1.0, (0.2, 0.28), -1.5, "min(-1.5, -1.28): a bad token that became more likely is pushed back"),
        (0.5, 1.0, (0.2, 0.28), 0.5, "min(.5, .8): a good token that became less likely is pulled back"),
        (0.5, -2.0, (0.2, 0.28), -1.6, "min(-1, -1.6)"),
        (1.1, 3.0, (0.2, 0.28), 3.3, "inside the range nothing is clipped"),
        (1.25, 1.0, (0.2, 0.28), 1.25, "below 1 + .28"),
        (0.75, -1.0, (0.2, 0.28), -0.8, "1 - .2 is the lower bound"),
    ):
        got = answer.clipped_surrogate(torch.tensor([[ratio]]), torch.tensor([a]), clip)
        expect(
            got,
            [[wanted]],
            f"clipped_surrogate(ratio={ratio}, A={a}, clip={clip})",
            because,
            "Take the minimum of both products.",
        )
    many = answer.clipped_surrogate(torch.tensor([[1.0, 2.0], [0.5, 1.0]]), torch.tensor([1.0, -1.0]), (0.2, 0.2))
    expect(
        many,
        [[1.0, 1.2], [-0.8, -1.0]],
        "two episodes of two tokens",
        "",
        "Each token gets the advantage of its episode.",
    )
    each = answer.clipped_surrogate(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, -1.0]]), (0.2, 0.2))
    expect(each, [[1.2, -2.0]], "advantages per token, (b, T)", "", "Advantages may also have one number per token.")


def _version(pick=torch.minimum, bounds=lambda low, high: (1 - low, 1 + high)):
    def clipped_surrogate(ratio, advantages, clip):
        a = advantages if advantages.dim() == 2 else advantages[:, None]
        return pick(ratio * a, ratio.clamp(*bounds(*clip)) * a)

    return {"clipped_surrogate": clipped_surrogate}


WRONG = {
    "min forgotten": _version(pick=lambda plain, clipped: clipped),
    "never clipped": _version(pick=lambda plain, clipped: plain),
    "max instead of min": _version(pick=torch.maximum),
    "one epsilon": _version(bounds=lambda low, high: (1 - low, 1 + low)),
    "bounds exchanged": _version(bounds=lambda low, high: (1 - high, 1 + low)),
}
