"""Exercise total_reward: what was an episode worth? Fill in a formula, 10 minutes.

Notebook 06. Check yours with `make exercise EX=total_reward`.
"""

from mrrec_mini.reward import RewardConfig


def total_reward(terms: dict[str, float], config: RewardConfig, calls: int = 0, retrieved: int = 0) -> float:
    """Eq. (10): w1 format + w2 recommendation + w3 memory. Our version subtracts two costs from it.

    The costs are call_cost x calls and token_cost x retrieved.

    terms: {"format": 0 or 1, "recommendation": 0..2, "memory": 0 or 1}. The weights w1, w2, w3 are config.format,
    config.recommendation and config.memory; the costs are config.call_cost and config.token_cost. calls: the number of
    memory calls. retrieved: the number of tokens that the tool returned.

    By hand, with the paper's weights (.1, 5, .1): format and memory 1, recommendation 1.0 (rank 3): .1 + 5 + .1 = 5.2.
    With a call_cost of .5 and two calls: 4.2.

    Hint: there are five products.
    """
    raise NotImplementedError("write this, then run the check again")
