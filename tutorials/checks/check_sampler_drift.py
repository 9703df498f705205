"""The check of `drawn` and the corrected `rescored`; its messages describe symptoms."""

import math

import torch
from adapters import expect

LOGITS = torch.tensor([6.0, 3.0, 1.0]).log()
ALL, SOME = torch.tensor([True, True, True]), torch.tensor([False, True, True])


def check(answer) -> None:
    for allowed, temperature, u, token, p in (
        (ALL, 1.0, 0.65, 1, 0.3),
        (ALL, 0.5, 0.9, 1, 9 / 46),
        (SOME, 1.0, 0.6, 1, 0.75),
    ):
        got = answer.drawn(LOGITS, allowed, temperature, u)
        if got[0] != token or abs(got[1] - math.log(p)) > 1e-5:
            raise AssertionError(f"`drawn` was right, but now it returns {got} at u = {u}, temperature {temperature}")
    cases = (
        (ALL, 1.0, "the ratio of the first update is not 1"),
        (ALL, 0.5, "the ratio is 1 at temperature 1, and drifts at every other temperature"),
        (SOME, 1.0, "the ratio is 1 without a mask, and drifts under the grammar's mask"),
        (SOME, 2.0, "the ratio drifts if a mask and a temperature are combined"),
    )
    for allowed, temperature, symptom in cases:
        for u in (0.1, 0.5, 0.9):
            token, noted = answer.drawn(LOGITS, allowed, temperature, u)
            again = float(answer.rescored(LOGITS, allowed, temperature, token))
            if abs(again - noted) > 1e-5:
                raise AssertionError(f"{symptom}: drawn with {noted:.4f}, rescored as {again:.4f}")
    logits = LOGITS.clone().requires_grad_()
    value = answer.rescored(logits, SOME, 2.0, 1)
    if not getattr(value, "requires_grad", False):
        raise AssertionError("nothing is learned any more: the score carries no gradient")
    [grad] = torch.autograd.grad(value, logits)
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    expect(grad, [0.0, (1 - p) / 2, -(1 - p) / 2], "the gradient at temperature 2, token 0 forbidden", "(1 - p) / 2")


def _version(mask=True, divide="logits", detach=False):
    def rescored(logits, allowed, temperature, token):
        legal = logits.masked_fill(~allowed, float("-inf")) if mask else logits
        log_pi = torch.log_softmax(legal / temperature if divide == "logits" else legal, -1)
        value = log_pi[token] / (temperature if divide == "after" else 1.0)
        return value.detach() if detach else value

    return {"rescored": rescored}


def _unmasked_draw(logits, allowed, temperature, u):
    log_pi = torch.log_softmax(logits, -1)
    token = min(int((log_pi.exp().cumsum(0) <= u).sum()), len(logits) - 1)
    return token, float(log_pi[token])


WRONG = {
    "as it was": _version(mask=False, divide="never"),
    "only the temperature": _version(mask=False),
    "only the mask": _version(divide="never"),
    "divided after the softmax": _version(divide="after"),
    "without a gradient": _version(detach=True),
    "the sampler was changed instead": {"drawn": _unmasked_draw, **_version(mask=False, divide="never")},
}
