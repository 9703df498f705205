"""The path of one training step through the files: which files, in which order, how many changes, how many lines.

The bounds are the numbers reached. Lower them freely; to raise one, say in the commit what the reader gets for it.
"""

import sys
from dataclasses import dataclass, field

import pytest
import torch

from house import PACKAGE, ROOT, contents
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.train import TrainConfig, Trainer
from small import environment, taught_model, tokenizer

READ = ("datatypes", "grammar", "sampler", "rollout", "reward", "reinforce", "grpo", "train")  # what a learner reads
STAGES = ["memory", "grammar", "sampler", "reward", "reinforce", "grpo"]  # what a step does, in turn
JOINTS = {"train", "environment", "rollout"}  # files that call the stages
OPTIMIZER = "muon"  # changes the weights at the end of a step
TOOLS = {
    "metrics",
    "bm25",
    "dense",
    "hybrid",
    "prior",
    "item_index",
    "models.causal_lm",
}  # called by a stage; a call returns
BASICS = {"datatypes", "data"}  # asked what a query wishes, and what its user has


@dataclass
class Path:
    """Records the package's file of each function called, without repetition: one entry per change of file."""

    visits: list[str] = field(default_factory=list)

    def __call__(self, frame, event, arg):
        folder = f"{ROOT / PACKAGE}/"
        if event == "call" and (name := frame.f_code.co_filename).startswith(folder):
            module = name.removeprefix(folder).removesuffix(".py").replace("/", ".")
            if self.visits[-1:] != [module]:
                self.visits.append(module)


@pytest.fixture(scope="module")
def path():
    """The first step of GRPO under the constraint: 4 groups of 4 episodes."""
    config = TrainConfig(prompts_per_step=4, group=4, rules=RolloutConfig(constrained=True))
    trainer, path = Trainer(taught_model(), tokenizer(), [environment()], config), Path()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.setprofile(path)
    try:
        trainer.step()
    finally:
        sys.setprofile(None)
        torch.set_num_threads(threads)
    return path.visits


def test_a_step_enters_few_files(path):
    """The three joints and six stages, seven tools that memory, grammar and reward call, basics, the optimizer."""
    assert set(path) == {*JOINTS, *STAGES, *TOOLS, *BASICS, OPTIMIZER}


def test_the_stages_are_entered_in_reading_order(path):
    """The reading order is the table of contents: a step first enters the stages in that order.

    The joints are no stages: the table lists them after what they call, and a step enters them first. Nor are the
    tools: the table lists them before their first user, and a step enters them from there and returns.
    """
    first = list(dict.fromkeys(path))
    assert [module for module in first if module in STAGES] == STAGES
    listed = [module for _, modules in contents() for module in modules]
    assert [module for module in listed if module in STAGES] == STAGES
    assert first[0] == "train" and set(first[: first.index("memory")]) <= JOINTS | BASICS


def test_a_step_changes_file_seldom(path):
    """Most changes are calls from the grammar to the tokenizer, and from the hybrid index to its two rankings.

    The item index also asks, per episode, what the person has and what the query wishes.
    """
    assert len(path) <= 1010


def test_the_path_is_short_enough_to_be_read():
    lines = {name: len((ROOT / PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in READ}
    assert sum(lines.values()) <= 1534, lines
