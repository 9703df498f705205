"""`mrrec train`: make or resume a run and train its policy, with the package's formulas or a student's.

Flow: on top of `student_formulas` and `run`, which saves policies and logs. With a student's formulas, a second policy
is also trained with the package's formulas, from the same first policy and with the same random draws. Its log and
checkpoints are in RUN/reference, so that the two learning curves can be compared.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from mrrec_mini.app.student_formulas import LearnersFile, learners_file
from mrrec_mini.data import Dataset
from mrrec_mini.recipe import Say, chosen_recipe, prepare, quiet, start_policy
from mrrec_mini.run import REFERENCE, Run, RunConfig, Warn, check_device
from mrrec_mini.train import Trainer, train


@dataclass(frozen=True)
class Settings:
    """What the user asks for. None: a new run takes the value of the recipe, a resumed run keeps its value."""

    steps: int | None = None  # in total, including the steps made before resuming
    seed: int | None = None  # a new run takes 0 by default
    algo: str | None = None  # "grpo" or "reinforce"
    chat_model: str | None = None  # a folder or hub name
    lora: int | None = None  # rank of the adapters
    bf16: bool = False  # compute in bfloat16
    formulas: Path | None = None  # a student's file of formulas
    fast: bool = False  # toy sizes
    long: bool = False  # more imitation and reinforcement, for a tiny policy
    device: str = "cpu"  # where the model is; a run may be resumed on another device


class Mismatch(ValueError):
    """The run to resume was made with other settings than the user asks for now."""


def train_run(
    data: Path,
    folder: Path,
    settings: Settings = Settings(),
    resume: bool = False,
    say: Say = quiet,
    warn: Warn = warnings.warn,
) -> str:
    """Make a new run in `folder`, or resume the run there, and train it on the data set; return a text on the result.

    Raises Mismatch if the run to resume was made with other settings, ValueError if a new run's folder holds a run
    already, OSError if another process trains the run, DataError for unusable data.
    """
    check_device(settings.device)
    run = Run(folder)
    if resume:
        run.config  # noqa: B018  # a folder without a run is reported before anything is locked
    with run.lock():  # from the start, so that a second process does no work in vain
        return (_resume if resume else _begin)(data, run, settings, say, warn)


def _begin(data: Path, run: Run, settings: Settings, say: Say, warn: Warn) -> str:
    """Train a new run. Nothing is written before the first policy has been made."""
    run.require_new()
    seed = settings.seed or 0
    model, lora = settings.chat_model, settings.lora or 0
    recipe = chosen_recipe(settings.fast, model, lora, settings.bf16, settings.long).with_seed(seed)
    changes = {"algo": settings.algo or "grpo", "steps": settings.steps or recipe.train.steps}
    recipe = replace(recipe, train=replace(recipe.train, **changes))
    student = learners_file(settings.formulas, recipe.train) if settings.formulas else LearnersFile()
    environments = prepare(Dataset.load(data), recipe, seed, say)
    model, tokenizer = start_policy(environments, recipe, seed, say, settings.device)
    trainer = Trainer(model, tokenizer, environments, recipe.train, student.formulas)
    config = RunConfig(recipe, seed, data, formulas=student.sha256)
    run.create(config, trainer)
    return _learn(run, trainer, config, student, say, warn)


def _resume(data: Path, run: Run, settings: Settings, say: Say, warn: Warn) -> str:
    """Train a run from its last whole checkpoint on. Only the number of steps, the device and the place of the data
    may be new.
    """
    recipe = run.config.recipe
    student = learners_file(settings.formulas, recipe.train) if settings.formulas else LearnersFile()
    dataset = Dataset.load(data)
    _require_same(dataset, data, run, settings, student)
    run.move_data(data)
    recipe = replace(recipe, train=replace(recipe.train, steps=settings.steps or recipe.train.steps))
    config = replace(run.config, recipe=recipe)
    environments = prepare(dataset, recipe, config.seed, say, run.made_from.split(dataset))
    trainer = run.resume(environments, recipe.train, warn, student.formulas, settings.device)
    return _learn(run, trainer, config, student, say, warn)


def _require_same(dataset: Dataset, data: Path, run: Run, settings: Settings, student: LearnersFile) -> None:
    """Raises Mismatch, which names both values, if a setting or the data is not what the run was made with."""
    if changes := run.made_from.changes(dataset):
        what = f"{run.folder} was made from other data than {data} holds now: {changes}"
        raise Mismatch(f"{what}; resume with the same data, or train a new run")
    made, recipe = run.config, run.config.recipe
    if student.sha256 != made.formulas:
        was = "a student's file of formulas" if made.formulas else "the package's own formulas"
        now = student.path or "without one"
        if student.path and made.formulas:
            now = f"{student.path}, which has changed or is another file"
        raise Mismatch(f"{run.folder} was made with {was}, not {now}; resume with the same formulas or train a new run")
    chat_model, lora = settings.chat_model, settings.lora
    wanted = chosen_recipe(settings.fast, chat_model, lora or 0).chat_model if chat_model else None
    toy = chosen_recipe(True, recipe.chat_model, recipe.lora)
    for name, asked, own in (
        ("--fast", settings.fast or None, (recipe.warm, recipe.watched) == (toy.warm, toy.watched)),
        ("--seed", settings.seed, made.seed),
        ("--algo", settings.algo, recipe.train.algo),
        ("--bf16", settings.bf16 or None, recipe.train.precision == "bfloat16"),
        ("--model", wanted, recipe.chat_model),
        ("--lora", lora, recipe.lora),
    ):
        if asked is not None and asked != own:
            what = f"{run.folder} was made with {name} {own}, not {asked}"
            raise Mismatch(f"{what}; leave {name} as it was, or train a new run")


def _learn(run: Run, trainer: Trainer, config: RunConfig, student: LearnersFile, say: Say, warn: Warn) -> str:
    """Train the run and, with a student's formulas, also the reference run. Return the text of `train_run`."""
    done = _train(run, trainer, config, f"learn with {', '.join(student.names)}" if student.names else "learn", say)
    run.finish(trainer.environments[0])
    if not student.names:
        return done
    reference, device = Run(run.folder / REFERENCE), str(trainer.model.device)
    if reference.last_checkpoint():
        own = reference.resume(trainer.environments, config.recipe.train, warn, device=device)
    else:
        reference.start_over()
        own = Trainer(*run.policy_before(warn, device), trainer.environments, config.recipe.train)
    return f"{done}; with the package's own: {_train(reference, own, config, 'learn with the package alone', say)}"


def _train(run: Run, trainer: Trainer, config: RunConfig, phase: str, say: Say) -> str:
    """Make the remaining training steps; return a text with the number of steps and the policy's nDCG@10."""
    validation = trainer.environments[0].split.validation_queries[: config.recipe.watched]
    steps = config.recipe.train.steps
    lines = train(trainer, run, validation, lambda line: say(phase, line["step"], steps, progress_note(line)))
    scores = [line["validation/ndcg@10"] for line in lines if "validation/ndcg@10" in line]
    score = f", greedy nDCG@10 on validation users {scores[-1]:.3f}" if scores else ""
    return f"{trainer.done} steps{score}"


def progress_note(line: dict) -> str:
    """Return the text that a progress bar shows for a line of the log."""
    return f"reward {line['reward']:.2f} calls {line['calls/mean']:.1f}"
