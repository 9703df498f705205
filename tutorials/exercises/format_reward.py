"""Exercise format_reward: how does this policy earn without working? Silent bug, 15 minutes.

Notebook 06. The function `terms_of` below is used in training. The mean reward rises beautifully, but the
recommendations get no better. Correct the function in place, then run `make exercise EX=format_reward`. The check
describes symptoms.
"""

from mrrec_mini.datatypes import Episode


def terms_of(episode: Episode, said: str) -> dict[str, float]:
    """The terms `format` and `memory` of eq. (10).

    "format" is 1 if the final answer parses, else 0. "memory" is 1 if a valid memory call was made, else 0.

    said: the whole episode as text, including the prompt and the replies of the tool.
    """
    return {
        "format": float("<profile>" in said and "<end>" in said),
        "memory": float("<search>" in said),
    }
