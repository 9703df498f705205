"""A run folder: what a training run stores, and how a run is created, opened, resumed, locked and evaluated.

Flow: after `recipe`, which has the settings of a run, and `train`, to which a run is the `Keeper`.

    RUN/config.json      recipe, seed, data set: all that is needed to make the run's environments again
        made_from.json   sha256 of the data set, and the users of each part of the split
        checkpoints/     policy and state of training; the two newest are kept (see `checkpoint`)
        before/          a checkpoint of the policy before the first step
        metrics.jsonl    one line per training step
        data/            the data set, if the run made its own synthetic shop
        fitted/          item index, global memory and text spaces (see `environment_on_disk`)
        memory.db        the memory of all users (see `store`)
        evaluation.json  the results of the last evaluation, and the versions of code and data behind them
        reference/       log and checkpoints of a second training, with the package's formulas, to compare a student's
        lock             only while a process trains this run: its number
        .opening         only while a process makes or loads `fitted`, or makes `memory.db`

`fitted` and `memory.db` are written when training ends. If they are missing, because the run was interrupted or is old,
they are made when they are first needed, by one process; others wait. A file or folder is replaced as a whole, never
changed in part. Not from the paper.

A run keeps its split. If the data set has changed since, the run is not resumed, and it is evaluated on the users of
its own split, with a message. The same data in another folder is the same data.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from mrrec_mini import checkpoint, environment_on_disk
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, Dataset, Split, json_lines, shorten
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import Row, eval_sets, policy_rows, reference_rows, report_dict
from mrrec_mini.files import code_version, locked, write_text
from mrrec_mini.grammar import CONTROL
from mrrec_mini.grpo import Formulas
from mrrec_mini.models.causal_lm import WordTokenizer, load_causal_lm, save_causal_lm
from mrrec_mini.models.pretrained import ADAPTER_CONFIG, load_pretrained
from mrrec_mini.recipe import Recipe, Say, prepare, quiet
from mrrec_mini.scripts import best_untold
from mrrec_mini.store import build_store
from mrrec_mini.train import TrainConfig, Trainer
from mrrec_mini.typed import parse_json, typed
from mrrec_mini.world import WorldConfig, make_world

CONFIG, MADE_FROM, METRICS, EVALUATION = "config.json", "made_from.json", "metrics.jsonl", "evaluation.json"
MACHINE = ("code", "torch", "threads")  # what made a run; noted in config.json, not needed to open it
BEFORE, DATA, FITTED, MEMORY, REFERENCE = "before", "data", "fitted", "memory.db", "reference"
Warn = Callable[[str], object]  # is called with a warning, for example that a damaged checkpoint was skipped


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run, stored in config.json."""

    recipe: Recipe
    seed: int
    data: Path | None  # the data-set folder; None: the run makes its own synthetic shop from `world`
    world: WorldConfig | None = None
    formulas: str | None = None  # sha256 of a student's file of formulas; None: the package's own

    def write(self, path: Path) -> None:
        """Write config.json."""
        machine = code_version(), torch.__version__, torch.get_num_threads()
        content = {
            **dict(zip(MACHINE, machine, strict=True)),
            **asdict(self),
            "data": str(self.data.resolve()) if self.data else None,
        }
        write_text(path, json.dumps(content, indent=1))

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read config.json. Raises DataError if the file is not one that `write` writes."""
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            config = typed(cls, {name: value for name, value in content.items() if name not in MACHINE})
            if (config.data is None) == (config.world is None):
                raise ValueError("it needs either data or world")
            return config
        except (ValueError, AttributeError) as error:
            what = f"not what `mrrec train` writes ({shorten(str(error))}); make the run again in another folder"
            raise DataError.at(path, None, None, what) from None


@dataclass(frozen=True)
class MadeFrom:
    """The data that a run was made from, stored in made_from.json: a sum of its content, and the users of each part."""

    sha256: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def of(cls, environment: Environment) -> MadeFrom:
        split = environment.split
        parts = (tuple(sorted(users)) for users in (split.train, split.validation, split.test))
        return cls(environment.dataset.sha256, *parts)

    @classmethod
    def read(cls, path: Path) -> MadeFrom:
        """Read made_from.json. Raises DataError if the file is missing or not one that `Run.create` writes."""
        try:
            return typed(cls, parse_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            what = f"not what `mrrec train` writes ({shorten(str(error))}); make the run again in another folder"
            raise DataError.at(path, None, None, what) from None

    def split(self, dataset: Dataset) -> Split:
        return dataset.split_into(self.train, self.validation, self.test)

    def changes(self, dataset: Dataset) -> str:
        """Say how the data set differs from the one that the run was made from; "" if it does not."""
        if dataset.sha256 == self.sha256:
            return ""
        before, now = {*self.train, *self.validation, *self.test}, {*dataset.users()}
        return f"{len(now - before)} users are new, {len(before - now)} are gone, and items or purchases may differ"


@dataclass(frozen=True)
class Run:
    """The run in a folder, which need not exist yet. Files are read only when a method needs them."""

    folder: Path

    @cached_property
    def config(self) -> RunConfig:
        """Read the run's settings. Raises FileNotFoundError if there is no run, DataError if the file is damaged."""
        path = self.folder / CONFIG
        if not path.is_file():
            what = f"is not a run: it has no {CONFIG}; `mrrec train --data DIR --run {self.folder}` makes one"
            raise FileNotFoundError(f"{self.folder} {what}")
        return RunConfig.read(path)

    # --- making a run -----------------------------------------------------------------------------------------------

    def require_new(self) -> None:
        """Raise ValueError if the folder contains a run."""
        if (self.folder / CONFIG).exists():
            raise ValueError(f"{self.folder} holds a run already; resume it with --resume, or choose another folder")

    def create(self, config: RunConfig, trainer: Trainer) -> None:
        """Write a new run. `trainer` must have made no step yet. Raises ValueError if the folder contains a run."""
        self.require_new()
        model, tokenizer = trainer.model, trainer.tokenizer
        checkpoint.save(self.folder / BEFORE, 0, lambda folder: save_causal_lm(folder, model, tokenizer))
        self.save(trainer)
        if config.data is None:
            trainer.environments[0].dataset.save(self.folder / DATA)
        write_text(self.folder / MADE_FROM, json.dumps(asdict(MadeFrom.of(trainer.environments[0]))))
        config.write(self.folder / CONFIG)  # written last, so that a folder with a config.json can be resumed

    def start_over(self, data_sha256: str | None = None, seed: int | None = None) -> None:
        """Delete the files of the run in this folder; other files stay.

        memory.db stays too if the run has this data and seed, and so this split: users may have added memories to it.
        """
        memory = [MEMORY, f"{MEMORY}-wal", f"{MEMORY}-shm"]
        with suppress(OSError, DataError):
            if (MadeFrom.read(self.folder / MADE_FROM).sha256, self.config.seed) == (data_sha256, seed):
                memory = []
        with self._opening():
            for name in (CONFIG, MADE_FROM, METRICS, EVALUATION, *memory):
                (self.folder / name).unlink(missing_ok=True)
            for name in ("checkpoints", BEFORE, DATA, FITTED, REFERENCE):
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run until the `with` block ends or this process dies.

        Raises OSError at once if another process is training the run. On Windows nothing is locked. If nothing was
        written meanwhile, no folder stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            refusal = "is training this run; wait until it ends, or choose another folder"
            with locked(self.folder / "lock", refusal):
                yield
        finally:
            with suppress(OSError):  # not empty
                self.folder.rmdir()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Wait until no other process makes or replaces fitted/ or memory.db, and let others wait for this block."""
        with ExitStack() as stack:
            with suppress(OSError):  # nothing can be written here, so nobody replaces anything
                stack.enter_context(locked(self.folder / ".opening"))
            yield

    # --- the `Keeper` of `train` ------------------------------------------------------------------------------------

    def log(self, line: dict) -> None:
        """Append a line to metrics.jsonl. Raises OSError, which names the file, if that is impossible."""
        path = self.folder / METRICS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:  # the error for a full disk does not name the file
            raise OSError(error.errno, error.strerror, str(path)) from error

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint: the policy's files, which `load_causal_lm` reads, and state.pt. Raises OSError."""

        def write(folder: Path) -> None:
            save_causal_lm(folder, trainer.model, trainer.tokenizer)
            torch.save(trainer.state(), folder / "state.pt")

        checkpoint.save(self.folder, trainer.done, write)

    def last_checkpoint(self) -> Path | None:
        """Return the folder of the newest checkpoint, without checking it; None if there is none."""
        return next(iter(checkpoint.folders(self.folder)), None)

    # --- opening a run ----------------------------------------------------------------------------------------------

    def lines(self) -> list[dict]:
        """Return the log, one dictionary per step. Raises FileNotFoundError if it is missing, or DataError."""
        path = self.folder / METRICS
        with path.open("rb") as file:
            return [line for _, line in json_lines(file, path)]

    def policy(self, warn: Warn = warnings.warn, device: str = "cpu"):
        """Load (model on `device`, tokenizer) from the newest undamaged checkpoint.

        Raises FileNotFoundError if there is no checkpoint yet, DataError if none can be used.
        """
        while True:
            newest = self.last_checkpoint()
            try:
                return _load(checkpoint.newest(self.folder, warn), device)
            except (DataError, FileNotFoundError):
                if newest == self.last_checkpoint():
                    raise
                # else a process that trains has saved newer ones and deleted the one that was read: try again

    def policy_before(self, warn: Warn = warnings.warn, device: str = "cpu"):
        """Like `policy`, but for the policy before the first step."""
        return _load(checkpoint.newest(self.folder / BEFORE, warn), device)

    def dataset(self) -> Dataset:
        """Load the data set of the run; make the run's own shop again if it is missing. Raises DataError."""
        config, own = self.config, self.folder / DATA
        if config.data is None and not own.is_dir():
            make_world(config.world).save(own)
        if config.data and not config.data.is_dir():
            what = (
                "the run's data set is not here; if it was moved, `mrrec evaluate --data DIR` tells the run where it is"
            )
            raise DataError.at(config.data, None, None, what)
        return Dataset.load(config.data or own)

    @property
    def made_from(self) -> MadeFrom:
        """Read what the run was made from. Raises DataError."""
        return MadeFrom.read(self.folder / MADE_FROM)

    def move_data(self, data: Path) -> None:
        """Note that the run's data set is in the folder `data` now. Raises DataError if the content is not the same."""
        if self.config.data in (None, data.resolve()):
            return
        if changes := self.made_from.changes(Dataset.load(data)):
            raise DataError(f"{data} is not the data set that {self.folder} was made from: {changes}")
        path = self.folder / CONFIG
        content = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**content, "data": str(data.resolve())}, indent=1))

    def environment(self, say: Say = quiet) -> Environment:
        """Return the environment for evaluation, with the data set as it is now and the split that the run keeps.

        It is loaded from fitted/ if possible.
        """
        config, fitted = self.config, self.folder / FITTED
        with self._opening():
            dataset = self.dataset()
            split = self.made_from.split(dataset)
            if fitted.is_dir():
                return environment_on_disk.load(fitted, dataset, split)
            environment = prepare(dataset, replace(config.recipe, siblings=0), config.seed, say, split)[0]
            environment_on_disk.save(environment, fitted)
            return environment

    def tests(self, warn: Warn = warnings.warn, say: Say = quiet) -> Environment:
        """Return the environment, to be evaluated on its test users. Call `warn` if the data set has changed.

        Raises DataError if no test user of the run is left.
        """
        environment, made_from = self.environment(say), self.made_from
        if changes := made_from.changes(environment.dataset):
            left = len(made_from.test) - len(set(made_from.test) - {*environment.dataset.users()})
            queries = environment.split.test_queries
            what = f"the data set has changed since this run was made: {changes}"
            if not queries:
                raise DataError(f"{what}; none of the run's test users is left, so there is nothing to evaluate")
            warn(f"{what}; evaluated on {left} of the {len(made_from.test)} test users of the run")
        return environment

    def memory(self, environment: Environment) -> Path:
        """Return the path of the run's memory store; make it from `environment` if it does not exist."""
        path = self.folder / MEMORY
        with self._opening():
            if not path.exists():
                build_store(path, environment.dataset, environment.memory)
        return path

    def resume(
        self,
        environments: list[Environment],
        config: TrainConfig,
        warn: Warn = warnings.warn,
        formulas: Formulas = Formulas(),
        device: str = "cpu",
    ) -> Trainer:
        """Return the trainer as it was at the newest undamaged checkpoint, and delete the log lines of later steps.

        Raises the errors of `policy`.
        """
        folder = checkpoint.newest(self.folder, warn)
        trainer = Trainer(*_load(folder, device), environments, config, formulas)
        with _naming_the_checkpoint(folder):
            # weights_only: a pickle could otherwise run code when it is loaded
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            _check_state(state, trainer)
            trainer.restore(state)
        log = self.folder / METRICS
        if log.is_file():
            texts = log.read_text(encoding="utf-8").splitlines()
            write_text(log, "".join(text + "\n" for text in texts if _step_of(text) <= trainer.done))
        return trainer

    def finish(self, environment: Environment) -> None:
        """Save what training used: text spaces, global memory and item index to fitted/, all memories to memory.db."""
        with self._opening():
            environment_on_disk.save(environment, self.folder / FITTED)
        self.memory(environment)

    # --- evaluating a run -------------------------------------------------------------------------------------------

    def evaluate(self, warn: Warn = warnings.warn, device: str = "cpu") -> dict:
        """Evaluate the run's policy and the arms without a policy on the test users; also write evaluation.json.

        Without validation queries, no script can be chosen, so the arm best_script is left out.
        Raises the errors of `policy` and `tests`, and ValueError if torch cannot compute on `device`.
        """
        check_device(device)
        code = code_version()
        recipe, seed = self.config.recipe, self.config.seed
        model, tokenizer = self.policy(warn, device)
        environment = self.tests(warn)
        grammar, rules = grammar_of(tokenizer), recipe.train.rules
        best = best_untold(environment, grammar, rules)[0] if environment.split.validation_queries else ""
        rows: list[Row] = []
        for eval_set in eval_sets(environment, grammar, rules, seed):
            rows += reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher, best)
            rows += policy_rows(eval_set, recipe.train.algo, model, torch.Generator().manual_seed(1000 + seed))
        return {"run": str(self.folder), "seeds": [seed], **self.save_evaluation(rows, environment.dataset, code)}

    def save_evaluation(self, rows: Sequence[Row], dataset: Dataset, code: str) -> dict:
        """Write evaluation.json and return its content. `code`: the `code_version` that measured the rows."""
        found = {"code": code, "data_sha256": dataset.sha256, "arms": report_dict(rows)}
        write_text(self.folder / EVALUATION, json.dumps(found, indent=1))
        return found


def _load(folder: Path, device: str):
    """Load (model, tokenizer) from a checkpoint. Raises DataError if config.json, weights and words do not match."""
    with _naming_the_checkpoint(folder):
        if not (folder / ADAPTER_CONFIG).is_file():  # peft itself raises an error if adapters do not match their model
            _check_weights(folder)
        model, tokenizer = load_causal_lm(str(folder), CONTROL)
        if isinstance(tokenizer, WordTokenizer):
            rows = model.get_input_embeddings().num_embeddings
            if len(tokenizer) != rows:
                raise DataError(f"words.json has {len(tokenizer)} tokens, the model {rows}")
            if other := set(CONTROL) ^ set(tokenizer.control):
                raise DataError(f"its control tokens and those of this version differ in {', '.join(sorted(other))}")
    return model.to(device), tokenizer


def _check_weights(folder: Path) -> None:
    """Raise DataError unless model.safetensors has exactly the tensors that config.json describes."""
    with torch.device("meta"), safe_open(folder / "model.safetensors", "pt") as file:  # only shapes, no data
        found = {name: torch.empty(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        config = load_pretrained(AutoConfig, str(folder))
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        tied = file.metadata() or {}  # names of tied weights: the file has only one copy of such a weight
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    _require_same_shapes("model.safetensors", found, "config.json", expected)


def _check_state(state: dict, trainer: Trainer) -> None:
    """Raise DataError unless the optimiser and the reference in `state` have the shapes of the trainer's model."""
    for saved, part in zip(state["optimizer"], trainer.optimizer.parts, strict=True):
        held = [parameter for group in part.param_groups for parameter in group["params"]]
        kind = type(part).__name__
        moments = {f"{kind}'s moments of parameter {i}": _moments(one) for i, one in saved["state"].items()}
        own = {f"{kind}'s moments of parameter {i}": parameter for i, parameter in enumerate(held)}
        of_model = {name: own[name] for name in moments if name in own}
        _require_same_shapes("the optimizer", moments, "the model", of_model)
    if trainer.reference is not None:
        _require_same_shapes("the reference", state["reference"] or {}, "the model", trainer.reference.state_dict())


def _moments(saved: dict) -> torch.Tensor:
    """Return the moments that AdamW or Muon saved for one parameter; they have its shape."""
    return saved["exp_avg"] if "exp_avg" in saved else saved["momentum_buffer"]


def _require_same_shapes(one: str, found: Mapping, other: str, expected: Mapping) -> None:
    """Raise DataError for the first tensor whose shapes differ, or that is missing in `found` or in `expected`."""
    for name in sorted(found.keys() | expected.keys()):
        a, b = (tuple(side[name].shape) if name in side else "absent" for side in (found, expected))
        if a != b:
            raise DataError(f"{name} is {a} in {one} and {b} in {other}: they do not belong to one model")


@contextmanager
def _naming_the_checkpoint(folder: Path) -> Iterator[None]:
    """Turn any error in the `with` block into a DataError that names the folder of the checkpoint."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # the checkpoint may be whole; the message names the extra to install
    except Exception as error:
        what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {shorten(str(error), 120)}"
        raise DataError(f"{folder}: the checkpoint cannot be used ({what}); train again into another folder") from error


def _step_of(text: str) -> float:
    """Return the step of a log line; infinity if the line is incomplete because the process was killed."""
    try:
        return typed(int, parse_json(text)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def check_device(name: str) -> None:
    """Raise ValueError unless torch can compute on device `name` in float64, which the sampler needs."""
    try:
        torch.zeros(1, dtype=torch.float64, device=name).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # which error torch raises depends on the device
        why = shorten(str(error).partition("\n")[0], 120)
        raise ValueError(f"torch cannot compute on device {shorten(name)} here ({why}); leave --device out") from None
