"""The main job: from raw histories to a trained policy, every arm on the same queries, and what it learned to say.

Flow: the whole book in one call. `run_demo` does the same for each seed, in a process of its own with one thread:
prepare, warm start, evaluate, train, evaluate; then it joins the rows of all seeds. The trained policies stay behind
as run folders. `train_run` and `evaluate_run` are the same steps one at a time, for `mrrec train` and `mrrec
evaluate`.

Nothing is compared across data sets, splits or budgets: all arms of a seed share environment, queries, steps and
episodes a step.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from queue import Empty

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from mrrec_mini import checkpoint
from mrrec_mini.app.student_formulas import LearnersFile, learners_file
from mrrec_mini.app.tables import arms_table
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, Dataset, printable
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import EvalSet, Row, eval_sets, play, policy_rows, reference_rows, report_dict
from mrrec_mini.grpo import Formulas
from mrrec_mini.recipe import (
    FAST_WORLD,
    Recipe,
    Say,
    check_device,
    chosen_recipe,
    prepare,
    quiet,
    read_config,
    start_policy,
    write_config,
)
from mrrec_mini.rollout import LMActor
from mrrec_mini.train import Trainer, load_policy, load_start, resume, save_checkpoint, save_start, start_over, train
from mrrec_mini.world import WorldConfig, make_world


@dataclass(frozen=True)
class DemoConfig:
    """What to run."""

    data: Path | None = None  # None: the synthetic shop of each seed
    seeds: tuple[int, ...] = (0,)
    all_arms: bool = False
    fast: bool = False
    runs: Path = Path("runs/demo")
    recipe: Recipe | None = None  # None: the default, or the fast one

    @property
    def chosen(self) -> Recipe:
        return self.recipe or chosen_recipe(self.fast)


@dataclass(frozen=True)
class SeedResult:
    """What one seed leaves behind; plain, so that it can cross a process boundary."""

    seed: int
    rows: list[Row]
    log: list[dict]  # one line a training step of the main arm
    seconds: dict[str, float]  # wall time of each phase
    episode: list[tuple[str, str]]  # a worked one, as a transcript
    wanted: str  # title of its target
    rank: float  # where the target came
    run: str


@dataclass(frozen=True)
class DemoReport:
    """All seeds together."""

    data: str
    seeds: tuple[int, ...]
    arms: dict[str, dict]
    seconds: dict[str, float]  # means over the seeds, and "total" of the whole demo
    results: list[SeedResult]

    def as_dict(self) -> dict:
        return {"data": self.data, "seeds": list(self.seeds), "arms": self.arms, "seconds": self.seconds}


def run_demo(config: DemoConfig, say: Say = quiet) -> DemoReport:
    """Every seed, as many at a time as there are cores; then the table. `say` gets phases named "seed 0: memory"."""
    started = time.perf_counter()
    if config.data is not None:
        Dataset.load(config.data)  # bad data is reported before anything is started
    workers = min(len(config.seeds), cpu_count() or 1)
    if workers == 1:
        results = [run_seed(config, seed, _prefixed(say, seed)) for seed in config.seeds]
    else:
        results = _in_processes(config, workers, say)
    rows = [row for result in results for row in result.rows]
    phases = results[0].seconds
    seconds = {phase: float(np.mean([r.seconds[phase] for r in results])) for phase in phases}
    return DemoReport(
        data=str(config.data) if config.data else "world",
        seeds=config.seeds,
        arms=report_dict(rows, np.random.default_rng(0)),
        seconds={**seconds, "total": time.perf_counter() - started},
        results=results,
    )


def run_seed(config: DemoConfig, seed: int, say: Say = quiet) -> SeedResult:
    """One seed from data to rows, in this process, on one thread."""
    torch.set_num_threads(1)  # such small models are slower on two
    clock = _Clock()
    recipe = _with_seed(config.chosen, seed)
    dataset, world = open_data(config.data, seed, config.fast)
    environments = prepare(dataset, recipe, seed, say)
    if not environments[0].split.test_queries:
        raise DataError(
            f"{dataset.meta.get('name', 'the data set')}: no test user has a query; more users with queries are needed"
        )
    clock.lap("memory")
    model, tokenizer = start_policy(environments, recipe, seed, say)
    clock.lap("warm start")
    grammar = grammar_of(tokenizer)
    tests = eval_sets(environments[0], grammar, recipe.train.rules, seed)
    rows: list[Row] = []
    for eval_set in tests:
        rows += reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher)
        rows += _policy(eval_set, "warm_start", model, seed)
        rows += _policy(eval_set, "warm_start_all_calls", model, seed, all_calls=True)
    clock.lap("evaluation")
    before = deepcopy(model) if config.all_arms else None
    run = config.runs / (config.data.name if config.data else "world") / f"seed-{seed}"
    write_config(run, recipe, seed, config.data, world)
    start_over(run)
    save_start(run, model, tokenizer)
    trainer = Trainer(model, tokenizer, environments, recipe.train)
    validation = environments[0].split.validation_queries
    log = train(trainer, run, validation, lambda line: say("learn", line["step"], recipe.train.steps, _note(line)))
    clock.lap("learn")
    for eval_set in tests:
        rows += _policy(eval_set, "grpo", model, seed)
    episode = _worked_episode(tests[0], model)
    clock.lap("evaluation")
    if config.all_arms:
        rows += _other_arms(before, tokenizer, environments, recipe, seed, say)
        clock.lap("other arms")
    (run / "evaluation.json").write_text(json.dumps(report_dict(rows, np.random.default_rng(0)), indent=1))
    target = dataset.items[episode.query.target]
    return SeedResult(
        seed=seed,
        rows=rows,
        log=log,
        seconds=clock.seconds,
        episode=grammar.transcript(episode.tokens, episode.mask),
        wanted=target.title,
        rank=episode.rewards["rank"],
        run=str(run),
    )


def open_data(data: Path | None, seed: int, fast: bool) -> tuple[Dataset, WorldConfig | None]:
    """The data set of a folder, or the synthetic shop of this seed and its configuration."""
    if data is not None:
        return Dataset.load(data), None
    world = replace(FAST_WORLD if fast else WorldConfig(), seed=seed)
    return make_world(world), world


def _other_arms(
    before, tokenizer, environments: Sequence[Environment], recipe: Recipe, seed: int, say: Say
) -> list[Row]:
    """REINFORCE from the same warm start; GRPO without global and without local memory, each from a warm start
    of its own.
    """
    arms = {
        "reinforce": replace(recipe, train=replace(recipe.train, algo="reinforce")),
        "grpo_no_global": recipe.ablated(global_k=0),
        "grpo_no_local": recipe.ablated(max_calls=0),
    }
    rows: list[Row] = []
    for arm, own in arms.items():
        model, words = (
            (deepcopy(before), tokenizer) if arm == "reinforce" else start_policy(environments, own, seed, say)
        )
        trainer = Trainer(model, words, environments, own.train)
        train(trainer, report=lambda line, arm=arm: say(arm, line["step"], own.train.steps, _note(line)))  # noqa: B023
        for eval_set in eval_sets(environments[0], grammar_of(words), own.train.rules, seed):
            rows += _policy(eval_set, arm, model, seed)
    return rows


def _policy(eval_set: EvalSet, arm: str, model, seed: int, all_calls: bool = False) -> list[Row]:
    """Every arm is sampled with the same generator."""
    return policy_rows(eval_set, arm, model, torch.Generator().manual_seed(1000 + seed), all_calls)


def _worked_episode(eval_set: EvalSet, model):
    """A greedy episode of the trained policy that shows the most: the best rank among those with the most calls."""
    episodes = play(eval_set, LMActor(model, eval_set.grammar, None, 0.0))
    return max(episodes, key=lambda e: (len(e.calls), -e.rewards["rank"]))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, train=replace(recipe.train, seed=seed))


def _note(line: dict) -> str:
    return f"reward {line['reward']:.2f} calls {line['calls/mean']:.1f}"


class _Clock:
    """Wall seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now


# ------------------------------------------------------------------------------------------------------- processes


def _in_processes(config: DemoConfig, workers: int, say: Say) -> list[SeedResult]:
    context = get_context("spawn")  # a forked torch can hang
    with context.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        heard = manager.Queue()
        jobs = [pool.submit(_seed_process, config, seed, heard) for seed in config.seeds]
        try:
            while not all(job.done() for job in jobs) or not heard.empty():
                try:
                    say(*heard.get(timeout=0.2))
                except Empty:
                    wait(jobs, timeout=0)
                if failed := next((job for job in jobs if job.done() and job.exception()), None):
                    raise failed.exception()
        except BaseException:
            for process in pool._processes.values():
                process.terminate()
            raise
        return [job.result() for job in jobs]


def _seed_process(config: DemoConfig, seed: int, heard) -> SeedResult:
    return run_seed(config, seed, _prefixed(lambda *event: heard.put(event), seed))


def _prefixed(say: Say, seed: int) -> Say:
    return lambda phase, done, total, note: say(f"seed {seed}: {phase}", done, total, note)


# ----------------------------------------------------------------------------------------------------- one run folder


def train_run(
    data: Path,
    run: Path,
    steps: int | None,
    seed: int | None,
    algo: str | None,
    going_on: bool,
    fast: bool,
    say: Say = quiet,
    warn: Callable[[str], None] = warnings.warn,
    chat_model: str | None = None,
    lora: int | None = None,
    bf16: bool = False,
    learners: Path | None = None,
    device: str = "cpu",
) -> str:
    """Make or go on with a run folder; returns a sentence on how it stands. `steps`, `seed`, `algo` None: the recipe's,
    0 and "grpo", or those of the run that is gone on with. `warn` is told of damaged checkpoints.

    `learners`: a file of formulas that are used in place of the package's. The package's own are then
    trained beside them, from the same warm start with the same draws, in RUN/reference; `beside` compares the two.
    `device`: where the model is; a run may go on on another.

    Mismatch: the run that is to go on was made with other data, another seed, algo, model, adapters or formulas.
    ValueError: there is a run already.
    """
    torch.set_num_threads(1)
    check_device(device)
    mine = None
    if going_on:
        recipe, own_seed, dataset = read_config(run)
        content = json.loads((run / "config.json").read_text(encoding="utf-8"))
        folder, made_of = content["data"], content.get("formulas")
        mine = _learners(learners, recipe)
        if (mine and mine.sha256) != made_of:
            was = "a file of formulas" if made_of else "the package's own formulas"
            now = (
                f"{learners}, which is not that file as it was then" if made_of and mine else learners or "without one"
            )
            raise Mismatch(f"{run} was made with {was}, not {now}; give --with as then, or train anew")
        made = {"--data": folder or "a shop of its own", "--seed": own_seed, "--algo": recipe.train.algo}
        made |= {"--model": recipe.chat_model, "--lora": recipe.lora, "--bf16": recipe.train.precision == "bfloat16"}
        wanted = chosen_recipe(fast, chat_model, lora or 0) if chat_model else None
        given = {"--data": str(data.resolve()), "--seed": seed, "--algo": algo, "--bf16": bf16 or None}
        given |= {"--model": wanted and wanted.chat_model, "--lora": lora}
        _check_same_run(run, made, given)
        seed = own_seed
        recipe = replace(recipe, train=replace(recipe.train, steps=steps or recipe.train.steps))
        environments = prepare(dataset, recipe, seed, say)
        trainer = resume(run, environments, recipe.train, warn, mine.formulas if mine else Formulas(), device)
    else:
        if (run / "config.json").exists():
            raise ValueError(f"{run} holds a run already; go on with --resume, or choose another folder")
        seed = seed or 0
        recipe = _with_seed(chosen_recipe(fast, chat_model, lora or 0, bf16), seed)
        recipe = replace(recipe, train=replace(recipe.train, algo=algo or "grpo", steps=steps or recipe.train.steps))
        mine = _learners(learners, recipe)
        dataset = Dataset.load(data)
        environments = prepare(dataset, recipe, seed, say)
        model, tokenizer = start_policy(environments, recipe, seed, say, device)
        trainer = Trainer(model, tokenizer, environments, recipe.train, mine.formulas if mine else Formulas())
        save_start(run, model, tokenizer)
        save_checkpoint(run, trainer)
        # last: what has a config.json can be gone on with
        write_config(run, recipe, seed, data, None, mine and mine.sha256)
    validation, total = environments[0].split.validation_queries[: recipe.watched], recipe.train.steps

    def learn(trainer: Trainer, run: Path, phase: str) -> str:
        lines = train(trainer, run, validation, lambda line: say(phase, line["step"], total, _note(line)))
        scores = [line["validation/ndcg@10"] for line in lines if "validation/ndcg@10" in line]
        said = f", greedy nDCG@10 on validation users {scores[-1]:.3f}" if scores else ""
        return f"{trainer.done} steps{said}"

    done = learn(trainer, run, "learn" if mine is None else f"learn with {', '.join(mine.names)}")
    if mine is None:
        return done
    reference = run / REFERENCE
    if checkpoint.folders(reference):
        own = resume(reference, environments, recipe.train, warn, device=device)
    else:
        start_over(reference)
        own = Trainer(*load_start(run, warn, device), environments, recipe.train)
    return f"{done}; with the package's own: {learn(own, reference, 'learn with the package alone')}"


def _learners(path: Path | None, recipe: Recipe) -> LearnersFile | None:
    config = recipe.train
    return learners_file(path, config.algo, config.grpo, config.baseline) if path else None


REFERENCE = "reference"  # in the run of a learner's formulas: the same run with the package's own


def beside(run: Path) -> tuple[list[dict], list[dict]]:
    """The logs of a learner's run and of the package's own beside it. FileNotFoundError where either is missing."""
    logs = [(folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in (run, run / REFERENCE)]
    mine, own = ([json.loads(line) for line in log.splitlines()] for log in logs)
    return mine, own


def print_beside(run: Path, console: Console) -> None:
    """Both curves in one picture of characters, and the last numbers."""
    mine, own = beside(run)
    rewards = [[line["reward"] for line in log] for log in (mine, own)]
    console.print("\nReward by step: * yours, o the package's own, @ both:", style="bold")
    console.print(Text(curves(rewards, "*o")))
    names = ("reward", "rewards/format/mean", "calls/mean", "entropy", "grad_norm", "validation/ndcg@10")
    for name in names:
        ends = [np.mean([line[name] for line in log[-5:] if name in line] or [np.nan]) for log in (mine, own)]
        console.print(Text(f"{name:22} yours {ends[0]:.3f}   the package's own {ends[1]:.3f}"))
    console.print(Text("means of the last five steps; the same warm start, queries and seeds", style="dim"))


class Mismatch(ValueError):
    """A run is to be gone on with as what it is not."""


def _check_same_run(run: Path, made: dict[str, object], given: dict[str, object]) -> None:
    """Mismatch, naming both sides, where something was given (not None) and the run was made with another."""
    for name, value in given.items():
        if value is not None and value != made[name]:
            raise Mismatch(
                f"{run} was made with {name} {made[name]}, not {value}; leave {name} as it was, or train anew"
            )


def evaluate_run(run: Path, warn: Callable[[str], None] = warnings.warn, device: str = "cpu") -> dict:
    """A run's policy and the arms that need no training, on the run's test users; also written to evaluation.json.
    `warn` is told of damaged checkpoints.
    """
    torch.set_num_threads(1)
    check_device(device)
    recipe, seed, dataset = read_config(run)
    model, tokenizer = load_policy(run, warn, device)
    environment = prepare(dataset, replace(recipe, siblings=0), seed)[0]
    rows: list[Row] = []
    for eval_set in eval_sets(environment, grammar_of(tokenizer), recipe.train.rules, seed):
        rows += reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher)
        rows += _policy(eval_set, recipe.train.algo, model, seed)
    arms = report_dict(rows, np.random.default_rng(0))
    (run / "evaluation.json").write_text(json.dumps(arms, indent=1))
    return {"run": str(run), "seeds": [seed], "arms": arms}


# --------------------------------------------------------------------------------------------------------- for people


@contextmanager
def showing_progress(console: Console, config: DemoConfig) -> Iterator[Say]:
    """One bar a seed, on stderr if that is a terminal."""
    with _bars(console) as progress:
        tasks = {seed: progress.add_task(f"seed {seed}: starting", total=None, note="") for seed in config.seeds}

        def say(phase: str, done: int, total: int, note: str) -> None:
            seed = int(phase.split(":")[0].removeprefix("seed "))
            progress.update(tasks[seed], description=phase, completed=done, total=total, note=note)

        yield say


@contextmanager
def one_bar(console: Console) -> Iterator[Say]:
    """One bar, likewise."""
    with _bars(console) as progress:
        task = progress.add_task("starting", total=None, note="")
        yield lambda phase, done, total, note: progress.update(
            task, description=phase, completed=done, total=total, note=note
        )


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}"),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)


def print_report(report: DemoReport, console: Console) -> None:
    """The tables of arms, a worked episode, the learning curve, the seconds."""
    console.print(arms_table(report.arms))
    first = report.results[0]
    console.print(f"\nA worked episode (seed {first.seed}, an unseen user, greedy):", style="bold")
    console.print("chosen: of those with the most calls, the one whose target came highest", style="dim")
    print_transcript(first.episode, console)
    place = f"stands at rank {first.rank:g}" if np.isfinite(first.rank) else "is not ranked: there is no answer"
    console.print(Text(f"the item then taken, {printable(first.wanted)}, {place}"))
    rewards = np.mean([[line["reward"] for line in r.log] for r in report.results], axis=0)
    console.print("\nReward while learning (mean of the seeds), by step:", style="bold")
    console.print(Text(curve(rewards)))
    spent = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in report.seconds.items())
    console.print(Text(f"\nseconds a seed, and in total: {spent}"))
    console.print(Text(f"the trained policies: {', '.join(printable(r.run) for r in report.results)}"))


def print_transcript(transcript: Sequence[tuple[str, str]], console: Console) -> None:
    """An episode, a turn a line; what the policy wrote stands out. Texts of people are shown, never obeyed."""
    for who, said in transcript:
        for line in lines_of(printable(said)):
            console.print(Text(line, style="bold green" if who == "policy" else "dim"))


def lines_of(said: str) -> list[str]:
    """The prompt in two lines, all else in one, with air around the names of control tokens."""
    spaced = re.sub(r"(</?[a-z]+[0-9]*>)", r" \1 ", said)
    return [" ".join(line.split()) for line in re.split("(?=<global>)", spaced) if line.strip()]


def curve(values: Sequence[float], width: int = 70, height: int = 8) -> str:
    """A line plot in characters: the values averaged into at most `width` columns, the axis in 9 more at the left."""
    return curves([values], "*", width, height)


def curves(series: Sequence[Sequence[float]], marks: str, width: int = 70, height: int = 8) -> str:
    """Several of one length, each with its mark; `@` where they meet."""
    length = len(series[0])
    parts = [[float(np.mean(p)) for p in np.array_split(np.asarray(one), min(width, length))] for one in series]
    low, high = min(map(min, parts)), max(map(max, parts))
    levels = [[round((value - low) / (high - low or 1.0) * (height - 1)) for value in one] for one in parts]
    rows = []
    for level in range(height - 1, -1, -1):
        label = low + (high - low) * level / (height - 1)
        here = [
            [mark for mark, at in zip(marks, column, strict=True) if at == level]
            for column in zip(*levels, strict=True)
        ]
        rows.append(f"{label:7.2f} |" + "".join("@" if len(m) > 1 else (m or " ")[0] for m in here).rstrip())
    last = f" {length:>{len(parts[0]) - 2}}" if len(parts[0]) > 1 else ""
    return "\n".join([*rows, " " * 8 + "+" + "-" * len(parts[0]), " " * 9 + "1" + last])
