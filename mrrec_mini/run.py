"""A run folder: what a training run stores, and how a run is created, opened, resumed, locked and evaluated.

Flow: after `recipe`, which has the settings of a run, and `train`, to which a run is the `Keeper`.

    RUN/config.json      recipe, seed, data set: all that is needed to make the run's environments again
        checkpoints/     policy and state of training; the two newest are kept (see `checkpoint`)
        before/          a checkpoint of the policy before the first step
        metrics.jsonl    one line per training step
        data/            the data set, if the run made its own synthetic shop
        fitted/          item index, global memory and text spaces (see `environment_on_disk`)
        memory.db        the memory of all users (see `store`)
        evaluation.json  the results of the last evaluation
        reference/       log and checkpoints of a second training, with the package's formulas, to compare a student's
        lock             an empty file that a training process keeps locked

`fitted` and `memory.db` are written when training ends. If they are missing, because the run was interrupted or is old,
they are made when they are first needed. Readers need no lock: a file or folder is replaced as a whole, never changed
in part. Not from the paper.
"""

from __future__ import annotations

import errno
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from mrrec_mini import checkpoint, environment_on_disk
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, Dataset, json_lines, shorten
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import Row, eval_sets, policy_rows, reference_rows, report_dict
from mrrec_mini.files import write_text
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

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

CONFIG, METRICS, EVALUATION = "config.json", "metrics.jsonl", "evaluation.json"
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
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        content = {**machine, **asdict(self), "data": str(self.data.resolve()) if self.data else None}
        write_text(path, json.dumps(content, indent=1))

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read config.json. Raises DataError if the file is not one that `write` writes."""
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            config = typed(cls, {name: value for name, value in content.items() if name not in ("torch", "threads")})
            if (config.data is None) == (config.world is None):
                raise ValueError("it needs either data or world")
            return config
        except (ValueError, AttributeError) as error:
            what = f"not what `mrrec train` writes ({shorten(str(error))}); make the run again in another folder"
            raise DataError.at(path, None, None, what) from None


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
        config.write(self.folder / CONFIG)  # written last, so that a folder with a config.json can be resumed

    def start_over(self, config: RunConfig) -> None:
        """Delete the files of the run in this folder; other files stay.

        memory.db stays too if the run has the same data and split as `config`: users may have added memories to it.
        """
        memory = [MEMORY, f"{MEMORY}-wal", f"{MEMORY}-shm"]
        with suppress(OSError, DataError):
            own, data = RunConfig.read(self.folder / CONFIG), config.data and config.data.resolve()
            if (own.data, own.world, own.seed) == (data, config.world, config.seed):
                memory = []
        for name in (CONFIG, METRICS, EVALUATION, *memory):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("checkpoints", BEFORE, DATA, FITTED, REFERENCE):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run until the `with` block ends or this process dies.

        Raises OSError at once if another process is training the run. On Windows nothing is locked.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("wb") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "another process is training this run; wait until it ends, or choose another folder"
                raise OSError(errno.EBUSY, what, str(self.folder)) from None
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
        return _load(checkpoint.newest(self.folder, warn), device)

    def policy_before(self, warn: Warn = warnings.warn, device: str = "cpu"):
        """Like `policy`, but for the policy before the first step."""
        return _load(checkpoint.newest(self.folder / BEFORE, warn), device)

    def dataset(self) -> Dataset:
        """Load the data set of the run; make the run's own shop again if it is missing. Raises DataError."""
        config, own = self.config, self.folder / DATA
        if config.data is None and not own.is_dir():
            make_world(config.world).save(own)
        return Dataset.load(config.data or own)

    def environment(self, say: Say = quiet) -> Environment:
        """Return the environment for evaluation, with the data set as it is now; load it from fitted/ if possible."""
        config, dataset, fitted = self.config, self.dataset(), self.folder / FITTED
        if fitted.is_dir():
            return environment_on_disk.load(fitted, dataset, dataset.split(config.seed, *config.recipe.shares))
        environment = prepare(dataset, replace(config.recipe, siblings=0), config.seed, say)[0]
        environment_on_disk.save(environment, fitted)
        return environment

    def memory(self, environment: Environment) -> Path:
        """Return the path of the run's memory store; make it from `environment` if it does not exist."""
        path = self.folder / MEMORY
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
        environment_on_disk.save(environment, self.folder / FITTED)
        self.memory(environment)

    # --- evaluating a run -------------------------------------------------------------------------------------------

    def evaluate(self, warn: Warn = warnings.warn, device: str = "cpu") -> dict:
        """Evaluate the run's policy and the arms without a policy on the test users; also write evaluation.json.

        Without validation queries, no script can be chosen, so the arm best_script is left out.
        Raises the errors of `policy`, and ValueError if torch cannot compute on `device`.
        """
        check_device(device)
        recipe, seed = self.config.recipe, self.config.seed
        model, tokenizer = self.policy(warn, device)
        environment = self.environment()
        grammar, rules = grammar_of(tokenizer), recipe.train.rules
        best = best_untold(environment, grammar, rules)[0] if environment.split.validation_queries else ""
        rows: list[Row] = []
        for eval_set in eval_sets(environment, grammar, rules, seed):
            rows += reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher, best)
            rows += policy_rows(eval_set, recipe.train.algo, model, torch.Generator().manual_seed(1000 + seed))
        arms = report_dict(rows)
        write_text(self.folder / EVALUATION, json.dumps(arms, indent=1))
        return {"run": str(self.folder), "seeds": [seed], "arms": arms}


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
