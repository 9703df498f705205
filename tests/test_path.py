"""The way of one training step through the files: how many, in which order, how often it changes file, how long it is.

The bounds are what was reached. They may fall; if one has to rise, say in the commit what the reader gets for it.
"""

import sys
from dataclasses import dataclass, field

import pytest
import torch

from house import PACKAGE, ROOT, contents
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.train import TrainConfig, Trainer
from small import environment, taught_model, tokenizer

READ = ("datatypes", "grammar", "sampler", "rollout", "reward", "reinforce", "grpo", "train")  # by a learner
STAGES = ["memory", "grammar", "sampler", "reward", "reinforce", "grpo"]  # what a step does, one after the other
JOINTS = {"train", "environment", "rollout"}  # files that call the stages
TOOLS = {"data", "metrics", "bm25", "dense", "hybrid", "models.causal_lm"}  # called by a stage; a call returns


@dataclass
class Path:
    """The files of the package in which functions were called, each change of file one entry."""

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
    """The three joints and six stages, and six tools that memory, grammar and reward call."""
    assert set(path) == {*JOINTS, *STAGES, *TOOLS}


def test_the_stages_are_entered_in_reading_order(path):
    """Who reads the table of contents from the top meets the stages in the order in which a step first enters them.

    The joints are read after the stages that they call, so a step enters them before. A tool is read before its first
    user, and a step enters it from there.
    """
    first = list(dict.fromkeys(path))
    assert [module for module in first if module in STAGES] == STAGES
    listed = [module for _, modules in contents() for module in modules]
    assert [module for module in listed if module in STAGES] == STAGES
    assert first[0] == "train" and set(first[: first.index("memory")]) <= JOINTS


def test_a_step_changes_file_seldom(path):
    """Most changes are the grammar calling the tokenizer, and the hybrid index its two lists."""
    assert len(path) <= 1000


def test_the_path_is_short_enough_to_be_read():
    lines = {name: len((ROOT / PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in READ}
    assert sum(lines.values()) <= 1500, lines
