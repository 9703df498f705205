"""The simple ways to learn the same task, with the same budget: the rivals of GRPO in every table.

Flow: after `recipe`. All rivals of a seed have the same data, tokenizer and copy drill, and are evaluated on the same
queries. `train_rival` makes one:

    clone               imitates the best untold script, chosen on validation users; as many steps as the warm start
    imitation_long      the warm start, trained for as many CPU seconds as warm start and GRPO take together
    imitation_filtered  imitates the best of 8 of the teacher's episodes per query, for as many steps as imitation_long
    raft                starts from the warm start and plays as many episodes as GRPO (`raft`)
    grpo_from_clone     GRPO that starts from the clone and not from the warm start

Equations: none. Departure: the paper compares with none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from mrrec_mini.environment import Environment
from mrrec_mini.raft import raft_trainer
from mrrec_mini.recipe import Recipe, Say, imitate, quiet
from mrrec_mini.scripts import UNTOLD, ScriptConfig
from mrrec_mini.train import Trainer, train

RIVALS = ("clone", "imitation_long", "imitation_filtered", "raft", "grpo_from_clone")  # the last one needs the first
TRIES = 8  # of the teacher per query, for imitation_filtered


class ImitationClock:
    """A `Say` that passes on what it hears and measures the CPU seconds of the steps of imitation.

    The play of the traces, before the first step, does not count.
    """

    def __init__(self, say: Say = quiet):
        self.say, self.times = say, []

    def __call__(self, phase: str, *rest) -> None:
        if phase == "warm start":
            self.times.append(time.process_time())
        self.say(phase, *rest)

    @property
    def seconds(self) -> float:
        """CPU seconds of all steps, of which there must be at least two: the first note comes after the first step."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1) * len(self.times)


@dataclass(frozen=True)
class Contest:
    """What the rivals of one seed share."""

    environments: Sequence[Environment]
    recipe: Recipe
    seed: int
    tokenizer: object
    copying: PreTrainedModel  # the policy after the copy drill
    warm: PreTrainedModel  # the policy after the warm start
    script: str  # name of the best untold script
    budget: float  # CPU seconds of the steps of imitation and of GRPO together / those of imitation alone, above 1

    def imitating(
        self, say: Say, budget: float = 1.0, tries: int = 1, script: ScriptConfig | None = None
    ) -> PreTrainedModel:
        """Return a policy that imitates as the warm start does, with `budget` times as many steps."""
        warm = replace(self.recipe.warm, steps=round(self.recipe.warm.steps * budget))
        recipe, model = replace(self.recipe, warm=warm), deepcopy(self.copying)
        return imitate(model, self.tokenizer, self.environments, recipe, self.seed, say, script, tries)


def train_rival(
    arm: str,
    contest: Contest,
    say: Say = quiet,
    clone: PreTrainedModel | None = None,
    report: Callable[[dict], None] = lambda line: None,
) -> PreTrainedModel:
    """Train one of `RIVALS` and return its policy. `clone` is the policy from which grpo_from_clone starts.

    `report` receives each line of the log of reinforcement learning; imitation has no such log.
    """
    said = lambda phase, *rest: say(f"{arm}: {phase}", *rest)  # noqa: E731
    if arm == "clone":
        return contest.imitating(said, script=UNTOLD[contest.script])
    if arm == "imitation_long":
        return contest.imitating(said, contest.budget)
    if arm == "imitation_filtered":
        return contest.imitating(said, contest.budget, TRIES)
    config = contest.recipe.train
    model = deepcopy(contest.warm if arm == "raft" else clone)
    maker = raft_trainer if arm == "raft" else Trainer
    trainer = maker(model, contest.tokenizer, list(contest.environments), config)

    def note(line: dict) -> None:
        said("learn", line["step"], config.steps, f"reward {line['reward']:.2f}")
        report(line)

    train(trainer, report=note)
    return model
