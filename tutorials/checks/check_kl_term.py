"""The check of `kl_term`: its values, and that its mean has the gradient of the KL."""

import torch
from adapters import expect


def check(answer) -> None:
    p, q, one = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.5, 0.5]]).log(), torch.ones(1, 2)
    because = "5/7 - log 5/7 - 1 and 5/3 - log 5/3 - 1"
    expect(
        answer.kl_term(p, q, one),
        [[0.0507580, 0.1558410]],
        "log pi = log (.7, .3), reference log (.5, .5)",
        because,
        "d = log pi_ref - log pi.",
    )
    expect(
        answer.kl_term(p, q, 2 * one),
        [[0.1015160, 0.3116821]],
        "the same with ratio 2",
        "twice the above",
        "Multiply by the ratio.",
    )
    expect(answer.kl_term(p, p, one), [[0.0, 0.0]], "a policy that is its own reference", "exp(0) - 0 - 1")
    z = torch.tensor([0.7, 0.3]).log().requires_grad_()
    log_p = torch.log_softmax(z, -1)
    [true] = torch.autograd.grad((log_p.exp() * (log_p - q[0])).sum(), z, retain_graph=True)
    ratio = torch.exp(log_p - log_p.detach())
    term = answer.kl_term(log_p[None], q, ratio[None])[0]
    [got] = torch.autograd.grad((log_p.exp().detach() * term).sum(), z, allow_unused=True)
    hint = "Is the value right but the gradient wrong? Then the ratio carries no gradient: do not detach it."
    expect(
        got,
        true.tolist(),
        "the gradient of the mean over sampled tokens",
        "the gradient of the sum of p log(p / q)",
        hint,
    )


def _version(term, weigh=lambda r: r):
    return {"kl_term": lambda logprobs, reference, ratio: term(reference - logprobs) * weigh(ratio)}


WRONG = {
    "the ratio forgotten": _version(lambda d: torch.exp(d) - d - 1, lambda r: 1.0),
    "the ratio detached": _version(lambda d: torch.exp(d) - d - 1, lambda r: r.detach()),
    "k1": _version(lambda d: -d),
    "d with the wrong sign": _version(lambda d: torch.exp(-d) + d - 1),
    "minus 1 forgotten": _version(lambda d: torch.exp(d) - d),
}
