"""The tour: every stage shows its objects, texts cannot control the terminal, and the user can leave."""

import re
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from rich.console import Console

from mrrec_mini.app import walkthrough as tour
from mrrec_mini.app.walkthrough import STAGES, TINY_LESSON, TINY_SHOP, Tour, print_step, steps, table
from mrrec_mini.evaluate import GREEDY, SAMPLED, play
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.rollout import LMActor
from mrrec_mini.scripts import lookup_text
from runs import HOSTILE, mrrec, refused


@lru_cache(maxsize=1)
def tiny() -> Tour:
    """One tour for all tests."""
    return Tour(0, TINY_SHOP, TINY_LESSON)


def shown(stage: str | None = None, width: int = 80) -> str:
    console = Console(width=width, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for name, step in steps(tiny(), stage):
        print_step(name, step, console)
    return console.export_text()


def test_the_stages_are_those_of_the_flow():
    assert STAGES == ("data", "memory", "retrieval", "rollout", "reward", "update", "evaluation")


def test_every_stage_names_its_code_and_fits_80_columns():
    text = shown()
    for stage in STAGES:
        assert text.count(" > ") >= 6 and stage in text
    assert max(map(len, text.splitlines())) <= 80
    named = {file for line in re.findall(r"^code: (.*)$", text, re.M) for file in line.split(", ")}
    package = {path.name for path in __import__("pathlib").Path(tour.__file__).parent.parent.rglob("*.py")}
    assert named <= package and {"memory.py", "rollout.py", "grpo.py", "evaluate.py"} <= named


def test_data_and_memory_show_the_real_objects():
    query = tiny().query
    assert query.text in shown("data") and query in tiny().environment.split.test_queries
    entries = tiny().environment.memory.entries(query)
    text = " ".join(shown("memory").split())
    assert next(e.text for e in entries if e.level == "profile") in text
    assert all(e.text in text for e in tiny().environment.memory.search_global(query.text, 6))


def test_rewards_and_advantages_are_those_of_the_episodes():
    text = shown("reward")
    for episode in tiny().group:
        assert f"{episode.reward:.2f}" in text
    rewards = [episode.reward for episode in tiny().group]
    mean = sum(rewards) / len(rewards)
    assert all(f"{reward - mean:+.2f}" in shown("update") for reward in rewards)
    assert f"All {len(tiny().eval_set.queries)} test queries" in shown("evaluation")


def test_the_gain_is_shown_for_the_sampled_policy_and_beside_it_for_the_greedy_one():
    sampled, greedy = (line.split() for line in shown("evaluation").splitlines() if " to " in line and "0." in line)
    learned, grammar = tiny().learned[0], tiny().eval_set.grammar
    for (mode, *numbers), seed, temperature in ((sampled, 0, 1.0), (greedy, None, 0.0)):
        assert mode == (GREEDY if seed is None else SAMPLED)
        scores = []
        for model in (tiny().start[0], learned):
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            episodes = play(tiny().eval_set, LMActor(model, grammar, generator, temperature))
            scores.append(ndcg_at_k([episode.rewards["rank"] for episode in episodes], 10))
        before, after = scores
        assert numbers[:3] == [f"{before.mean():.3f}", f"{after.mean():.3f}", f"{(after - before).mean():+.3f}"]
        assert float(numbers[3]) <= float(numbers[2]) <= float(numbers[5])


@pytest.mark.parametrize(
    ("interval", "said"), [([0.1, 0.2], "above 0"), ([0.0, 0.2], "may be 0"), ([-0.2, -0.1], "below 0")]
)
def test_what_an_interval_says(interval, said, monkeypatch):
    monkeypatch.setattr(tour, "difference", lambda *_: {"ndcg@10": 0.0, "interval": interval})
    rows = tiny().rows("grpo", tiny().start[0])[SAMPLED]
    assert tour.gain(rows, rows, SAMPLED)[-1] == said


def test_the_memory_tool_is_asked_as_the_scripts_ask_it():
    larger = Tour(0, tour.SHOP, TINY_LESSON)  # the tiny shop has no global line for the query
    [first] = larger.environment.memory.search_global(larger.query.text, 1)
    [(_, step)] = steps(larger, "retrieval")
    assert f'searching for "{lookup_text(first)}"' in step.title


def test_learning_does_not_change_the_start():
    before = [p.detach().clone() for p in tiny().start[0].parameters()]
    assert tiny().learned[0] is not tiny().start[0]
    assert all((a == b).all() for a, b in zip(before, tiny().start[0].parameters(), strict=True))


def test_early_stages_train_nothing():
    fresh = Tour(1, TINY_SHOP, TINY_LESSON)
    for stage in ("data", "memory", "retrieval"):
        assert list(steps(fresh, stage))
    assert "start" not in vars(fresh) and "learned" not in vars(fresh)


def test_hostile_text_is_only_shown(capsys):
    console = Console(width=80, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    table((HOSTILE,), [(HOSTILE,)])(console)
    tour.lines(HOSTILE)(console)
    text = console.export_text()
    assert "[bold red]" in text and ":cat:" in text and "\x1b" not in text and "\u202e" not in text


def test_an_unknown_stage_is_refused():
    refused(mrrec("walkthrough", "baking"), 2, "no stage is called 'baking'; there are data, memory, retrieval")


# --- the command ---


@pytest.fixture
def asked(monkeypatch):
    """asked(*answers): a terminal whose user gives these answers; an exception type is raised instead."""
    monkeypatch.setattr(tour, "SHOP", TINY_SHOP)
    monkeypatch.setattr(tour, "LESSON", replace(TINY_LESSON))

    def script(*answers):
        remaining = iter(answers)

        def answer(*_):
            text = next(remaining)
            if isinstance(text, type):
                raise text
            return text

        monkeypatch.setattr("mrrec_mini.app.cli.studies._is_terminal", lambda: True)
        monkeypatch.setattr("mrrec_mini.app.cli.shell.err.input", answer)
        return remaining

    return script


def test_no_input_goes_through_one_stage():
    done = mrrec("walkthrough", "data", "--no-input", "--fast")
    assert done.exit_code == 0 and "a history" in done.stdout and "global memory" not in done.stdout


def test_it_stops_after_each_step(asked):
    remaining = asked("", "", "never asked for")
    done = mrrec("walkthrough", "memory")
    assert done.exit_code == 0 and "global memory (eq. 6)" in done.stdout
    assert next(remaining) == "never asked for"


@pytest.mark.parametrize(("answer", "code"), [("q", 0), ("Q ", 0), (EOFError, 0), (KeyboardInterrupt, 130)])
def test_the_user_can_leave(asked, answer, code):
    asked(answer)
    done = mrrec("walkthrough", "memory")
    assert done.exit_code == code and "local memory" in done.stdout and "global memory (eq. 6)" not in done.stdout
    assert "Traceback" not in done.stderr
