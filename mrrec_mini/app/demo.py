"""Run the whole method: from raw histories to a trained policy, with every arm evaluated on the same queries.

Flow: all stages in one call. `run_demo` runs several seeds in parallel. Each seed prepares the data, warm-starts a
policy, evaluates the policy, trains it, and evaluates it again. Then `run_demo` joins the evaluation rows of all seeds
into one report. The trained policies are kept in run folders. On real data, `run_first` shows within a minute how far
one gets without training: the simple arms that a policy has to beat. Equations: none of its own.

An arm is one method that is evaluated. All arms of a seed share the environment and the queries; all trained arms share
the number of steps and of episodes per step. Nothing is compared across data sets, splits or budgets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedModel

from mrrec_mini.app.processes import run_tasks
from mrrec_mini.app.tables import arms_table
from mrrec_mini.app.terminal import curve, print_transcript
from mrrec_mini.app.training import progress_note
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, Dataset, printable
from mrrec_mini.datatypes import Episode
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import (
    EvalSet,
    Row,
    eval_sets,
    first_rows,
    play_greedily,
    policy_rows,
    report_dict,
    script_rows,
)
from mrrec_mini.files import code_version
from mrrec_mini.recipe import (
    FAST_WORLD,
    Recipe,
    Say,
    chosen_recipe,
    copying_policy,
    imitate,
    make_tokenizer,
    prepare,
    quiet,
    require_train_queries,
    start_policy,
)
from mrrec_mini.rivals import RIVALS, Contest, ImitationClock, train_rival
from mrrec_mini.run import Run, RunConfig
from mrrec_mini.scripts import best_untold
from mrrec_mini.train import Trainer, train
from mrrec_mini.world import WorldConfig, make_world

# the arms that are printed without --all; evaluation.json and --json hold every arm that was evaluated
SHORT = (
    *("popularity_in_category", "neighbours_in_category", "query_only", "query_popularity", "query_prior"),
    *("best_own_text", "static_memory", "best_script", "clone", "warm_start", "grpo", "expert", "oracle"),
)


@dataclass(frozen=True)
class DemoConfig:
    """Which data, seeds and arms to run."""

    data: Path | None = None  # a data-set folder; None: a synthetic shop for each seed
    seeds: tuple[int, ...] = (0,)
    all_arms: bool = False
    fast: bool = False
    runs: Path = Path("runs/demo")
    recipe: Recipe | None = None  # None: the default recipe, or the fast one


@dataclass(frozen=True)
class SeedResult:
    """The results of one seed. It can be pickled, so a child process can return it."""

    seed: int
    rows: list[Row]
    log: list[dict]  # one entry per training step of the arm "grpo"
    seconds: dict[str, float]  # wall time of each phase
    episode: list[tuple[str, str]]  # transcript of the example episode
    wanted: str  # title of the target item of this episode
    rank: float  # rank of the target item; inf if the episode has no answer
    run: str  # the run folder
    people: int  # train users with at least one purchase: the other people from whom anything can be learned


@dataclass(frozen=True)
class DemoReport:
    """The results of all seeds together."""

    data: str
    seeds: tuple[int, ...]
    all_arms: bool
    arms: dict[str, dict]
    seconds: dict[str, float]  # mean over the seeds for each phase; "total": the whole demo
    results: list[SeedResult]
    people: int  # other people of whom purchases are known, mean over the seeds

    def as_dict(self) -> dict:
        numbers = {"other_people": self.people, "arms": self.arms, "seconds": self.seconds}
        return {"data": self.data, "seeds": list(self.seeds), **numbers}


@dataclass(frozen=True)
class FirstReport:
    """What `run_first` found."""

    rows: dict[int, list[Row]]  # by seed
    arms: dict[str, dict]
    people: int  # as in `DemoReport`


def run_first(config: DemoConfig, say: Say = quiet) -> FirstReport | None:
    """Run the arms that need no training, for all seeds; None for a synthetic shop, where a policy trains at once.

    Raises DataError for a bad data set.
    """
    if config.data is None or Dataset.load(config.data).synthetic:
        return None
    workers = min(len(config.seeds), cpu_count() or 1)
    found = run_tasks(partial(first_of_seed, config), dict.fromkeys(config.seeds, ()), workers, say)
    rows = {seed: own for seed, (own, _) in found.items()}
    people = _mean_people(people for _, people in found.values())
    return FirstReport(rows, report_dict([row for own in rows.values() for row in own]), people)


def first_of_seed(config: DemoConfig, seed: int, report: Say = quiet) -> tuple[list[Row], int]:
    """Return the rows of the arms that need no training, and the number of other people."""
    recipe = (config.recipe or chosen_recipe(config.fast)).with_seed(seed)
    dataset, _ = open_data(config.data, seed, config.fast)
    environments = prepare(dataset, recipe, seed, lambda phase, *rest: report(f"seed {seed}: {phase}", *rest))
    require_queries(environments)  # before anything is printed
    grammar = grammar_of(make_tokenizer(environments, recipe.max_words))  # only to count tokens
    tests = eval_sets(environments[0], grammar, recipe.train.rules, seed)
    return [row for eval_set in tests for row in first_rows(eval_set)], other_people(environments[0])


def require_queries(environments: Sequence[Environment]) -> None:
    """Raise DataError unless there are queries to train with and queries to evaluate."""
    if not environments[0].split.test_queries:
        name = environments[0].dataset.meta.get("name", "the data set")
        raise DataError(f"{name}: no test user has a query; more users with queries are needed")
    require_train_queries(environments)


def other_people(environment: Environment) -> int:
    """Return the number of train users with at least one purchase."""
    return sum(bool(environment.dataset.interactions_of(user)) for user in environment.split.train)


def _mean_people(counts: Iterable[int]) -> int:
    return round(float(np.mean(list(counts))))


def run_demo(config: DemoConfig, say: Say = quiet, first: FirstReport | None = None) -> DemoReport:
    """Run all seeds, one per core at a time. The arms of `first` are not run again.

    Raises DataError for a bad data set before any process starts.
    """
    started = time.perf_counter()
    if config.data is not None:
        Dataset.load(config.data)
    workers = min(len(config.seeds), cpu_count() or 1)
    seed_task = partial(run_seed, config, first=first.rows if first else None)
    finished = run_tasks(seed_task, dict.fromkeys(config.seeds, ()), workers, say)
    results = [finished[seed] for seed in config.seeds]
    rows = [row for result in results for row in result.rows]
    seconds = {phase: float(np.mean([r.seconds[phase] for r in results])) for phase in results[0].seconds}
    return DemoReport(
        data=str(config.data) if config.data else "world",
        seeds=config.seeds,
        all_arms=config.all_arms,
        arms=report_dict(rows),
        seconds={**seconds, "total": time.perf_counter() - started},
        results=results,
        people=_mean_people(result.people for result in results),
    )


def run_seed(
    config: DemoConfig, seed: int, report: Say = quiet, first: Mapping[int, list[Row]] | None = None
) -> SeedResult:
    """Run one seed in this process, from data to evaluation rows. `first`: the rows of `first_rows`, if they are known.

    Raises DataError if no test user has a query, OSError if another process trains the run of this seed.
    """
    run = Run(config.runs / (config.data.name if config.data else "world") / f"seed-{seed}")
    with run.lock():
        return _run_seed(config, seed, run, report, first)


def _run_seed(
    config: DemoConfig, seed: int, run: Run, report: Say, first: Mapping[int, list[Row]] | None
) -> SeedResult:
    say = lambda phase, *rest: report(f"seed {seed}: {phase}", *rest)  # noqa: E731
    clock, code = _Clock(), code_version()

    # 1. data: split the users, build memory and indexes
    recipe = (config.recipe or chosen_recipe(config.fast)).with_seed(seed)
    dataset, world = open_data(config.data, seed, config.fast)
    environments = prepare(dataset, recipe, seed, say)
    require_queries(environments)
    clock.lap("memory")

    # 2. warm start: the policy learns to copy, then imitates the teacher
    copying, tokenizer = copying_policy(environments, recipe, seed, say)
    imitation = ImitationClock(say)
    model = imitate(deepcopy(copying), tokenizer, environments, recipe, seed, imitation)
    clock.lap("warm start")

    # 3. evaluate the arms that need no training, and the policy before reinforcement learning
    grammar = grammar_of(tokenizer)
    tests = eval_sets(environments[0], grammar, recipe.train.rules, seed)
    best, _ = best_untold(environments[0], grammar, recipe.train.rules)
    rows = list(first[seed]) if first else [row for eval_set in tests for row in first_rows(eval_set)]
    for eval_set in tests:
        rows += script_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher, best)
        rows += _policy(eval_set, "warm_start", model, seed)
        rows += _policy(eval_set, "warm_start_all_calls", model, seed, all_calls=True)
    clock.lap("evaluation")

    # 4. train in a run folder; training changes `model`, so the other arms need a copy of the warm start
    before = deepcopy(model)
    trainer = Trainer(model, tokenizer, environments, recipe.train)
    validation, steps = environments[0].split.validation_queries, recipe.train.steps
    started = time.process_time()
    run.start_over(dataset.sha256, seed)
    run.create(RunConfig(recipe, seed, config.data, world), trainer)
    log = train(trainer, run, validation, lambda line: say("learn", line["step"], steps, progress_note(line)))
    budget = 1 + (time.process_time() - started) / imitation.seconds
    clock.lap("learn")
    run.finish(environments[0])
    clock.lap("memory")

    # 5. evaluate the trained policy on the same queries
    for eval_set in tests:
        rows += _policy(eval_set, "grpo", model, seed)
    episode = worked_episode(tests[0], model)
    clock.lap("evaluation")

    # 6. train and evaluate the clone of the best script, and the other arms if they were asked for
    contest = Contest(environments, recipe, seed, tokenizer, copying, before, best, budget)
    models = {}
    for arm in RIVALS if config.all_arms else RIVALS[:1]:
        models[arm] = train_rival(arm, contest, say, models.get("clone"))
        clock.lap("clone" if arm == "clone" else "other arms")
        for eval_set in tests:
            rows += _policy(eval_set, arm, models[arm], seed)
    if config.all_arms:
        rows += _other_arms(before, tokenizer, environments, recipe, seed, say)
        clock.lap("other arms")
    run.save_evaluation(rows, dataset, code)
    return SeedResult(
        seed=seed,
        rows=rows,
        log=log,
        seconds=clock.seconds,
        episode=grammar.transcript(episode.tokens, episode.mask),
        wanted=dataset.items[episode.query.target].title,
        rank=episode.rewards["rank"],
        run=str(run.folder),
        people=other_people(environments[0]),
    )


def open_data(data: Path | None, seed: int, fast: bool) -> tuple[Dataset, WorldConfig | None]:
    """Return (the data set of the folder `data`, None), or (a synthetic shop for this seed, its configuration)."""
    if data is not None:
        return Dataset.load(data), None
    world = replace(FAST_WORLD if fast else WorldConfig(), seed=seed)
    return make_world(world), world


def _other_arms(
    before: PreTrainedModel, tokenizer, environments: Sequence[Environment], recipe: Recipe, seed: int, say: Say
) -> list[Row]:
    """Train and evaluate REINFORCE, GRPO without global memory, and GRPO without local memory; return the rows.

    REINFORCE starts from the warm start `before`; the other two arms make their own warm starts.
    """
    arms = {
        "reinforce": replace(recipe, train=replace(recipe.train, algo="reinforce")),
        "grpo_no_global": recipe.ablated(global_k=0),
        "grpo_no_local": recipe.ablated(max_calls=0),
    }
    rows: list[Row] = []
    for arm, own in arms.items():
        model, words = (before, tokenizer) if arm == "reinforce" else start_policy(environments, own, seed, say)
        trainer = Trainer(model, words, environments, own.train)
        steps = own.train.steps
        train(trainer, report=lambda line, arm=arm, n=steps: say(arm, line["step"], n, progress_note(line)))
        for eval_set in eval_sets(environments[0], grammar_of(words), own.train.rules, seed):
            rows += _policy(eval_set, arm, model, seed)
    return rows


def _policy(eval_set: EvalSet, arm: str, model, seed: int, all_calls: bool = False) -> list[Row]:
    """Return the evaluation rows of a policy. Sampling uses the same random seed for every arm."""
    return policy_rows(eval_set, arm, model, torch.Generator().manual_seed(1000 + seed), all_calls)


def worked_episode(eval_set: EvalSet, model: PreTrainedModel) -> Episode:
    """Return a greedy episode with the most calls; among several, the first with the best rank of the target."""
    episodes = play_greedily(eval_set, model)
    return max(episodes, key=lambda e: (len(e.calls), -e.rewards["rank"]))


class _Clock:
    """Adds up the wall time of each phase, in seconds. `lap` ends a phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now


# --------------------------------------------------------------------------------------------------------- for people


def print_first(report: FirstReport, console: Console) -> None:
    """Print the tables of the arms that need no training."""
    console.print("Without training:", style="bold")
    _print_arms(report.arms, report.people, console)
    console.print()


def _print_arms(arms: dict[str, dict], people: int, console: Console) -> None:
    console.print(arms_table(arms))
    console.print(Text(f"\nother people whose purchases are known: {people}"))


def print_report(report: DemoReport, console: Console) -> None:
    """Print tables that compare the arms, an example episode, the learning curve and the time of each phase."""
    arms = report.arms if report.all_arms else {arm: report.arms[arm] for arm in SHORT if arm in report.arms}
    _print_arms(arms, report.people, console)
    first = report.results[0]
    console.print(f"\nA worked episode (seed {first.seed}, an unseen user, greedy):", style="bold")
    console.print("chosen: of the episodes with the most calls, the one whose target ranks best", style="dim")
    print_transcript(first.episode, console)
    place = f"is at rank {first.rank:g}" if np.isfinite(first.rank) else "is not ranked: there is no answer"
    console.print(Text(f"the item the user then took, {printable(first.wanted)}, {place}"))
    rewards = np.mean([[line["reward"] for line in r.log] for r in report.results], axis=0)
    console.print("\nReward while learning (mean over the seeds), by step:", style="bold")
    console.print(Text(curve(rewards)))
    spent = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in report.seconds.items())
    console.print(Text(f"\nseconds per seed, and in total: {spent}"))
    console.print(Text(f"the trained policies: {', '.join(printable(r.run) for r in report.results)}"))
