"""The check of the corrected `loss_weights`; its messages describe symptoms."""

import torch
from adapters import expect

TOKENS = torch.tensor([[7, 3, 9, 4, 5, 2], [7, 8, 2, -1, -1, -1]])
WRITTEN = torch.tensor([[False, False, True, False, True, True], [False, False, True, False, False, False]])


def check(answer) -> None:
    got = answer.loss_weights(TOKENS, WRITTEN)
    if tuple(got.shape) != (2, 6):
        raise AssertionError(f"two episodes of six columns need weights of shape (2, 6), yours is {tuple(got.shape)}")
    if got[0, 3] != 0:
        raise AssertionError(
            "after a day of training the policy recites people's memories word for word, although nobody asked"
        )
    if got[0, :2].any() or got[1, :2].any():
        raise AssertionError("the policy has begun to write queries of its own, like those in the prompts")
    if got[1, 3:].any():
        raise AssertionError("the loss changes if a batch is padded to a greater width")
    expect(got.sum(), 1.0, "the sum of all weights", "", "It is a mean: divide by the number of counted tokens.")
    hint = "Four tokens were written, and a token of a long episode weighs as much as any other."
    expect(got[WRITTEN], [0.25] * 4, "the weight of each written token", "1 / 4", hint)


def _version(rows=lambda t, w: w, over=lambda x: x.sum()):
    def loss_weights(tokens, written):
        own = rows(tokens, written).float()
        return own / over(own)

    return {"loss_weights": loss_weights}


WRONG = {
    "as it was": _version(lambda t, w: t >= 0),
    "from the first written token on": _version(lambda t, w: (w.long().cumsum(1) > 0) & (t >= 0)),
    "everything but the prompt, padding too": _version(lambda t, w: w.long().cumsum(1) > 0),
    "a mean in each episode": _version(over=lambda x: x.sum(1, keepdim=True) * len(x)),
    "a sum": _version(over=lambda x: 1.0),
}
