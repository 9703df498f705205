"""The check of `logprobs_of_logits`."""

import torch
from adapters import expect

# The logits in a row's last column are about a token beyond the row, so they must not matter.
LOGITS = torch.tensor(
    [[[6.0, 3, 1], [1, 1, 2], [9, 1, 1], [5, 5, 5]], [[1.0, 8, 1], [2, 2, 4], [7, 1, 1], [1, 1, 1]]]
).log()
TOKENS = torch.tensor([[2, 0, 1, -1], [0, 1, 2, 0]])
MASK = torch.tensor([[False, True, True, False], [False, False, True, True]])


def by_hand(temperature):
    p = (LOGITS / temperature).softmax(-1)
    rows = [[1.0, p[0, 0, 0], p[0, 1, 1], 1.0], [1.0, 1.0, p[1, 1, 2], p[1, 2, 0]]]
    return torch.tensor([[float(x) for x in row] for row in rows]).log()


def check(answer) -> None:
    got = answer.logprobs_of_logits(LOGITS, TOKENS, MASK, 1.0)
    shape = "a (2, 4) tensor: two episodes, four columns"
    if getattr(got, "shape", None) != (2, 4):
        raise AssertionError(f"logprobs_of_logits returned {getattr(got, 'shape', got)!r}, expected {shape}")
    first = (
        "log .6 in column 1, from the logits of column 0; log .25 in column 2, from those of column 1; 0 for padding"
    )
    expect(
        got[0],
        by_hand(1.0)[0],
        "row 0, tokens (2, 0, 1, padding), temperature 1",
        first,
        "Is it shifted by one? Is the mask applied?",
    )
    second = "log .5 and log 7/9, and 0 in column 1, which was not sampled"
    expect(got[1], by_hand(1.0)[1], "row 1, tokens (0, 1, 2, 0), sampled: the last two", second, "Is the mask applied?")
    hint = "Divide the logits before the softmax; log-probabilities that are divided are not a distribution."
    expect(answer.logprobs_of_logits(LOGITS, TOKENS, MASK, 0.5), by_hand(0.5), "the same at temperature .5", "", hint)
    with_grad = LOGITS.clone().requires_grad_()
    answer.logprobs_of_logits(with_grad, TOKENS, MASK, 1.0).sum().backward()
    if with_grad.grad is None or not with_grad.grad[0, 0].abs().sum() > 0.1:
        raise AssertionError("no gradient reaches the logits of column 0, which score the token in column 1")
    if with_grad.grad[1, 0].abs().sum() > 1e-6:
        raise AssertionError("a gradient reaches logits that score a token which was not sampled: row 1, column 0")


def _version(shift=1, masked=True, divide="logits"):
    def logprobs_of_logits(logits, tokens, mask, temperature):
        scaled = logits / temperature if divide == "logits" else logits
        log_pi = scaled.log_softmax(-1)
        if divide == "after":
            log_pi = log_pi / temperature
        chosen = log_pi.roll(shift, 1).gather(2, tokens[:, :, None].clamp_min(0)).squeeze(2)
        return torch.where(mask, chosen, 0.0) if masked else chosen

    return {"logprobs_of_logits": logprobs_of_logits}


WRONG = {
    "not shifted": _version(shift=0),
    "shifted twice": _version(shift=2),
    "shifted the other way": _version(shift=-1),
    "not masked": _version(masked=False),
    "temperature forgotten": _version(divide="never"),
    "divided after the softmax": _version(divide="after"),
    "without a gradient": {
        "logprobs_of_logits": lambda a, b, c, t: _version()["logprobs_of_logits"](a, b, c, t).detach().requires_grad_()
    },
}
