"""The check of the corrected `scored`; its messages describe symptoms."""

import torch
from adapters import expect

LOGITS = torch.tensor([[6.0, 3, 1], [1, 1, 2], [9, 1, 90]]).log()
TOKENS = torch.tensor([2, 0, 1])


def check(answer) -> None:
    got = answer.scored(LOGITS, TOKENS)
    if tuple(got.shape) != (2,):
        raise AssertionError(
            f"an episode of three tokens has two scored tokens; your result has shape {tuple(got.shape)}"
        )
    moved = LOGITS.clone()
    moved[-1] += torch.tensor([5.0, 0.0, 0.0])
    if not torch.allclose(answer.scored(moved, TOKENS), got):
        raise AssertionError("the model's output after the last token changes the score of the episode")
    moved = LOGITS.clone()
    moved[0] += torch.tensor([5.0, 0.0, 0.0])
    if torch.allclose(answer.scored(moved, TOKENS)[0], got[0]):
        raise AssertionError(
            "the ratio of the first update is not 1: the model's output after the first token does not score the second"
        )
    because = "log 6/10 from row 0 and log 1/4 from row 1"
    expect(
        got,
        [-0.5108256, -1.3862944],
        "tokens (2, 0, 1), rows (6, 3, 1), (1, 1, 2)",
        because,
        "Which row is about which token?",
    )


def _version(rows, columns, norm=True):
    def scored(logits, tokens):
        log_pi = torch.log_softmax(logits, -1) if norm else logits
        return log_pi[rows(len(tokens)), columns(tokens)]

    return {"scored": scored}


WRONG = {
    "as it was": _version(lambda n: torch.arange(1, n), lambda t: t[1:]),
    "the token before": _version(lambda n: torch.arange(n - 1), lambda t: t[:-1]),
    "shifted the other way": _version(lambda n: torch.arange(1, n), lambda t: t[:-1]),
    "logits, not log-probabilities": _version(lambda n: torch.arange(n - 1), lambda t: t[1:], norm=False),
}
