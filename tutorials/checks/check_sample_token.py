"""The check of `sample_token`."""

import math

import torch
from adapters import expect

LOGITS = torch.tensor([6.0, 3.0, 1.0]).log()
ALL = torch.tensor([True, True, True])


def check(answer) -> None:
    def asked(allowed, temperature, u, token, probability, hint, logits=LOGITS):
        call = f"sample_token(log (6, 3, 1), allowed={allowed.tolist()}, temperature={temperature}, u={u})"
        got = answer.sample_token(logits.clone(), allowed, temperature, u)
        if not isinstance(got, tuple) or len(got) != 2:
            raise AssertionError(f"{call} should return (id, log-probability), yours is {got!r}")
        if int(got[0]) != token:
            raise AssertionError(f"{call}: expected token {token}, yours is {got[0]}. {hint}")
        expect(got[1], math.log(probability), f"log-probability of {call}", f"log {probability:.4f}", hint)

    asked(ALL, 1.0, 0.59, 0, 0.6, "The cumulative sum is .6, .9, 1; take the first that is greater than u.")
    asked(ALL, 1.0, 0.65, 1, 0.3, "The cumulative sum is .6, .9, 1; take the first that is greater than u.")
    asked(ALL, 1.0, 0.95, 2, 0.1, "The cumulative sum is .6, .9, 1; take the first that is greater than u.")
    asked(
        torch.tensor([False, True, True]),
        1.0,
        0.6,
        1,
        0.75,
        "Only allowed tokens share the probability: (0, 3/4, 1/4).",
    )
    asked(
        torch.tensor([False, True, True]),
        1.0,
        0.8,
        2,
        0.25,
        "Only allowed tokens share the probability: (0, 3/4, 1/4).",
    )
    asked(torch.tensor([True, False, True]), 1.0, 0.99, 2, 1 / 7, "The probabilities are (6/7, 0, 1/7).")
    asked(ALL, 0.5, 0.7, 0, 36 / 46, "At temperature 1/2 the logits double: (36, 9, 1) / 46.")
    asked(ALL, 2.0, 0.5, 1, 3**0.5 / (6**0.5 + 3**0.5 + 1), "At temperature 2 the logits are halved.")
    asked(ALL, 0.0, 0.99, 0, 0.6, "Temperature 0 takes the largest, and returns its log-probability at temperature 1.")
    asked(torch.tensor([False, True, True]), 0.0, 0.1, 1, 0.75, "Take the largest of the allowed logits.")


def _version(mask=True, renormalise=True, divide=True, greedy="log_pi", beyond=False):
    def sample_token(logits, allowed, temperature, u):
        legal = logits.double().masked_fill(~allowed, float("-inf")) if mask else logits.double()
        scale = (temperature or 1.0) if divide else 1.0
        log_pi = torch.log_softmax(legal / scale, -1)
        if not renormalise:
            log_pi = torch.log_softmax(logits.double() / scale, -1)
        p = log_pi.exp() * allowed
        if temperature == 0:
            token = int(legal.argmax())
            return token, 0.0 if greedy == "certain" else float(log_pi[token])
        token = int((p.cumsum(0) < u).sum()) if not beyond else int((p.cumsum(0) <= u).sum()) + 1
        return min(token, len(p) - 1), float(log_pi[min(token, len(p) - 1)])

    return {"sample_token": sample_token}


WRONG = {
    "forbidden tokens keep their share": _version(renormalise=False),
    "the mask forgotten": _version(mask=False),
    "temperature forgotten": _version(divide=False),
    "greedy is certain": _version(greedy="certain"),
    "one token too far": _version(beyond=True),
}
