"""Run formulas from a student's file in the real training loop, in place of the package's formulas.

Flow: before `training`. `mrrec train --with FILE` takes a file that defines some of the functions `NAMES` of
`reinforce` and `grpo`, with the same arguments. For the other functions, training uses the package's. For example, if
the file defines only `clipped_surrogate`, the package's `grpo_loss` calls the student's `clipped_surrogate`. First the
file is tried on four made-up episodes, so that a missing function body or a wrong shape is reported before the warm
start. Not from the paper.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from mrrec_mini.data import DataError, shorten
from mrrec_mini.grpo import PARTS, Formulas
from mrrec_mini.train import TrainConfig

USED = {  # algorithm -> the functions that its update calls
    "reinforce": ("token_logprobs", "baseline", "reinforce_loss"),
    "grpo": ("token_logprobs", "group_advantages", "grpo_loss", *PARTS),
}
NAMES = tuple(dict.fromkeys([*USED["reinforce"], *USED["grpo"]]))


@dataclass(frozen=True)
class LearnersFile:
    """A student's file of formulas. `LearnersFile()` means no file: only the package's formulas are used."""

    path: Path | None = None
    names: tuple[str, ...] = ()  # those of `NAMES` that the file defines
    formulas: Formulas = Formulas()
    sha256: str | None = None  # hash of the file


def learners_file(path: Path, config: TrainConfig) -> LearnersFile:
    """Read a student's file and try its formulas. Raises FileNotFoundError if there is no file, DataError with the line
    if Python cannot run the file, ValueError if training by `config` would call none of its formulas or if one fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should define one or more of {', '.join(NAMES)}")
    mine = _defined(path)
    if not mine:
        raise ValueError(f"{path} defines none of {', '.join(NAMES)}, so there is nothing to run")
    if not set(mine) & {name for name in USED[config.algo] if config.grpo.beta or name != "kl_term"}:
        other = "give --algo " + ("reinforce" if config.algo == "grpo" else "grpo")
        if set(mine) == {"kl_term"}:
            other = "beta is 0; to use kl_term anyway, define grpo_loss too and call kl_term there"
        raise ValueError(f"{path} defines {', '.join(mine)}, which learning by {config.algo} does not call; {other}")
    formulas = Formulas(**{name: _guarded(path, name, function) for name, function in mine.items()})
    _try(path, formulas, config)
    return LearnersFile(path, tuple(mine), formulas, hashlib.sha256(path.read_bytes()).hexdigest())


def _try(path: Path, formulas: Formulas, config: TrainConfig) -> None:
    """Run the formulas on four made-up episodes in two groups, without a model. Raises ValueError for a wrong shape."""
    rewards, groups = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([[False, True, True], [False, True, False], [False, False, True], [False, True, True]])
    logprobs = torch.linspace(-2.0, -0.5, 12).reshape(4, 3).requires_grad_()
    grpo = config.algo == "grpo"
    name, rule = ("group_advantages", config.grpo.sigma) if grpo else ("baseline", config.baseline)
    found = getattr(formulas, name)(rewards, groups, rule)
    if found.shape != rewards.shape:
        raise ValueError(f"{path}: {name} of 4 rewards returned shape {tuple(found.shape)}, expected (4,)")
    if grpo:
        old, tokens = logprobs.detach(), int(mask.sum())
        loss = formulas.grpo_loss(logprobs, old, found, mask, config.grpo, 4, tokens, old, **formulas.parts)
    else:
        loss = formulas.reinforce_loss(logprobs, rewards - found, mask, 4)
    if loss.dim():
        raise ValueError(f"{path}: the loss has shape {tuple(loss.shape)}, expected one number; is a sum missing?")


def _defined(path: Path) -> dict[str, Callable]:
    """Return the functions of `NAMES` that the file defines itself, without functions imported from the package."""
    spec = spec_from_file_location(f"formulas_of_{path.stem}", path.resolve())
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise DataError.at(path, error.lineno, None, f"{error.msg}: not valid Python") from error
    except Exception as error:
        why = f"{type(error).__name__}: {shorten(str(error), 200)}"
        raise DataError.at(path, _line(error, path), None, why) from error
    found = {name: getattr(module, name, None) for name in NAMES}
    return {name: value for name, value in found.items() if callable(value) and value is not getattr(Formulas, name)}


def _guarded(path: Path, name: str, function: Callable) -> Callable:
    """Wrap a student's function: each error or unusable result becomes a ValueError that names the file."""

    @wraps(function)
    def call(*args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            told = f"raised {type(error).__name__}: {shorten(str(error), 200)}"
            what = "is not written yet" if isinstance(error, NotImplementedError) else told
            raise ValueError(f"{path}, line {_line(error, path) or '?'}: {name} {what}") from error
        parts = result if name == "token_logprobs" and isinstance(result, tuple) else (result,)
        if not all(isinstance(part, torch.Tensor) for part in parts):
            raise ValueError(f"{path}: {name} returned {shorten(result)}, not a tensor; is there a `return`?")
        if name.endswith("_loss") and not result.requires_grad:
            raise ValueError(f"{path}: {name} returned a loss without a gradient; was it detached, or made of numbers?")
        return result

    return call


def _line(error: BaseException, path: Path) -> int | None:
    """Return the number of the last line of the file that ran before the error; None if no line ran."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == path.resolve()), None)
