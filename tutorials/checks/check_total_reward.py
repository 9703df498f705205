"""The check of `total_reward`."""

from adapters import expect

from mrrec_mini.reward import RewardConfig

PAPER, COSTLY = RewardConfig(), RewardConfig(format=1.0, recommendation=2.0, memory=3.0, call_cost=0.5, token_cost=0.25)


def check(answer) -> None:
    for terms, config, calls, retrieved, wanted, because in (
        ((1, 1.0, 1), PAPER, 0, 0, 5.2, ".1 + 5 + .1"),
        ((0, 0.0, 1), PAPER, 2, 9, 0.1, "format and recommendation are 0; a look-up costs nothing by default"),
        ((1, 1.5, 0), COSTLY, 0, 0, 4.0, "1 + 2 x 1.5"),
        ((1, 0.5, 1), COSTLY, 2, 0, 4.0, "1 + 1 + 3 - .5 x 2"),
        ((1, 0.5, 1), COSTLY, 2, 8, 2.0, "1 + 1 + 3 - .5 x 2 - .25 x 8"),
    ):
        named = dict(zip(("format", "recommendation", "memory"), map(float, terms), strict=True))
        asked = f"total_reward({named}, calls={calls}, retrieved={retrieved})"
        got = answer.total_reward(named, config, calls, retrieved)
        expect(got, wanted, asked, because, "Take all weights and costs from the config.")


def _version(weights=None, call=1.0, token=1.0, sign=-1):
    def total_reward(terms, config, calls=0, retrieved=0):
        w = weights or (config.format, config.recommendation, config.memory)
        r = w[0] * terms["format"] + w[1] * terms["recommendation"] + w[2] * terms["memory"]
        return r + sign * (call * config.call_cost * calls + token * config.token_cost * retrieved)

    return {"total_reward": total_reward}


WRONG = {
    "the paper's weights by heart": _version((0.1, 5.0, 0.1)),
    "costs forgotten": _version(call=0.0, token=0.0),
    "tokens are free": _version(token=0.0),
    "costs are added": _version(sign=1),
    "memory only if it helped": {
        "total_reward": lambda t, c, calls=0, n=0: _version()["total_reward"](
            {**t, "memory": t["memory"] * (t["recommendation"] > 0)}, c, calls, n
        )
    },
}
