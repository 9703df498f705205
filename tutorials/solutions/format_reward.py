"""Exercise format_reward: how does this policy earn without working? Silent bug, 15 minutes.

Notebook 06. `terms_of` below is used in training. The mean reward rises beautifully; the recommendations get no better.
Correct it in place, then `make exercise EX=format_reward`. The check tells symptoms.
"""

from mrrec_mini.datatypes import Episode


def terms_of(episode: Episode, said: str) -> dict[str, float]:
    """The terms `format` and `memory` of eq. (10): 1 if the final answer parses; 1 if a valid memory call was made.

    said: the whole episode as text, prompt and replies included.
    """
    return {
        "format": float("<profile>" in said and "<end>" in said),
        "memory": float("<search>" in said),
    }


# BEGIN SOLUTION
def terms_of(episode: Episode, said: str) -> dict[str, float]:  # noqa: F811
    """From what was parsed and done, not from how the text looks: a quoted memory may hold any word."""
    return {"format": float(episode.answer is not None), "memory": float(len(episode.calls) > 0)}


# END SOLUTION
