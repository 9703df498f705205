"""The check of `reinforce_loss`."""

import torch
from adapters import expect

LOGPROBS = torch.tensor([[-1.0, -2.0], [-0.5, -1.0]])
MASK = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
ADVANTAGES = torch.tensor([2.0, -1.0])


def check(answer) -> None:
    loss = answer.reinforce_loss
    hint = "Check the minus sign, the mask, and the division by the number of *episodes*."
    expect(loss(LOGPROBS, ADVANTAGES, MASK, 2), 2.5, "two episodes, B = 2", "-(2 (-1 - 2) + (-1)(-1)) / 2", hint)
    expect(
        loss(LOGPROBS, ADVANTAGES, MASK, 8), 0.625, "the same rows, B = 8", "-(-6 + 1) / 8", "B counts the whole batch."
    )
    parts = loss(LOGPROBS[:1], ADVANTAGES[:1], MASK[:1], 2) + loss(LOGPROBS[1:], ADVANTAGES[1:], MASK[1:], 2)
    expect(
        parts,
        2.5,
        "the two rows one at a time, added",
        "3 - .5",
        "Divide by `episodes`, not by the number of rows given.",
    )
    tokens = torch.tensor([[2.0, 0.0], [5.0, -1.0]])
    expect(loss(LOGPROBS, tokens, MASK, 2), 0.5, "advantages per token, (b, T)", "-(2 (-1) + 0 + (-1)(-1)) / 2", "")
    values = LOGPROBS.clone().requires_grad_()
    loss(values, ADVANTAGES, MASK, 2).backward()
    because = "-A / B if sampled, else 0"
    expect(values.grad, [[-1.0, -1.0], [0.0, 0.5]], "the gradient", because, "A good token must become more likely.")


def _version(sign=-1.0, over="episodes", mask_it=True):
    def reinforce_loss(logprobs, advantages, mask, episodes):
        a = advantages if advantages.dim() == 2 else advantages[:, None]
        product = a * logprobs * (mask if mask_it else 1)
        if over == "own":
            return sign * (product / mask.sum(1, keepdim=True)).sum() / episodes
        return sign * product.sum() / {"episodes": episodes, "tokens": mask.sum(), "rows": len(logprobs)}[over]

    return {"reinforce_loss": reinforce_loss}


WRONG = {
    "the objective, minimised": _version(sign=1.0),
    "mean over tokens": _version(over="tokens"),
    "mean of each episode": _version(over="own"),
    "mean over the rows given": _version(over="rows"),
    "without the mask": _version(mask_it=False),
}
