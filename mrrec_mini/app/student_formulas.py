"""The formulas of an update in one bundle, and a learner's own in their place.

Flow: between `reinforce` and `grpo`, where they stand, and `train`, which calls them. A file that defines some of them,
under the same names and with the same arguments, is played in the real loop by `mrrec train --with FILE`, from the same
warm start and the same draws as the package's own: where two curves part, the formulas do.

    reinforce.py   token_logprobs, baseline, reinforce_loss
    grpo.py        group_advantages, importance_ratio, clipped_surrogate, kl_term, length_weights, grpo_loss

What is not in the file stays the package's: a file with `clipped_surrogate` alone is the package's `grpo_loss` around
that one. The file is the learner's own code and is run as such. It is tried on four made-up episodes first, so that
what is not written yet, or of the wrong shape, is told at once and not after the warm start.

Equations: none of its own. Not from the paper.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType

import torch

from mrrec_mini import grpo, reinforce
from mrrec_mini.data import DataError, shorten
from mrrec_mini.grpo import Formulas

PARTS = ("importance_ratio", "clipped_surrogate", "kl_term", "length_weights")  # of `grpo_loss`
USED = {  # what an update by each algorithm calls
    "reinforce": ("token_logprobs", "baseline", "reinforce_loss"),
    "grpo": ("token_logprobs", "group_advantages", "grpo_loss", *PARTS),
}
NAMES = tuple(dict.fromkeys([*USED["reinforce"], *USED["grpo"]]))


@dataclass(frozen=True)
class LearnersFile:
    """A file whose formulas are to be run."""

    path: Path
    names: tuple[str, ...]  # that it defines, of `NAMES`
    formulas: Formulas
    sha256: str  # of the file


def learners_file(
    path: Path,
    algo: str,
    config: grpo.GRPOConfig = grpo.GRPOConfig(),  # noqa: B008 (frozen)
    kind: str = "group",
) -> LearnersFile:
    """Read a learner's file and try it; `kind` of baseline. FileNotFoundError; DataError where Python cannot run it,
    naming the line; ValueError where it defines nothing that an update by `algo` would call, or what it defines fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should define one or more of {', '.join(NAMES)}")
    mine = _defined(path)
    used = [name for name in USED[algo] if config.beta or name != "kl_term"]
    if not mine:
        raise ValueError(f"{path} defines none of {', '.join(NAMES)}; nothing of it would be run")
    if not set(mine) & set(used):
        why = f"{path} defines {', '.join(mine)}, which learning by {algo} does not call"
        if set(mine) == {"kl_term"}:
            raise ValueError(f"{why} where beta is 0, as it is here; your loss can call it if you define grpo_loss too")
        other = "reinforce" if algo == "grpo" else "grpo"
        raise ValueError(f"{why}; give --algo {other}")
    guarded = {name: _guarded(path, name, function) for name, function in mine.items()}
    whole = {name: function for name, function in guarded.items() if name not in PARTS}
    parts = {name: function for name, function in guarded.items() if name in PARTS}
    if parts and "grpo_loss" not in whole:
        whole["grpo_loss"] = with_names(grpo.grpo_loss, parts)
    formulas = Formulas(**whole)
    _try(path, formulas, algo, config, kind)
    return LearnersFile(path, tuple(mine), formulas, hashlib.sha256(path.read_bytes()).hexdigest())


def _try(path: Path, formulas: Formulas, algo: str, config: grpo.GRPOConfig, kind: str) -> None:
    """An update of four episodes in two groups, but for the model: ValueError where a shape is wrong."""
    rewards, groups = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([[False, True, True], [False, True, False], [False, False, True], [False, True, True]])
    logprobs = torch.linspace(-2.0, -0.5, 12).reshape(4, 3).requires_grad_()
    if algo == "grpo":
        name, praise = "group_advantages", formulas.group_advantages(rewards, groups, config.sigma)
    else:
        name, praise = "baseline", formulas.baseline(rewards, groups, kind)
    if praise.shape != rewards.shape:
        raise ValueError(f"{path}: {name} of 4 rewards returned shape {tuple(praise.shape)}, expected (4,)")
    if algo == "grpo":
        counts = len(rewards), int(mask.sum())
        loss = formulas.grpo_loss(logprobs, logprobs.detach(), praise, mask, config, *counts, logprobs.detach())
    else:
        loss = formulas.reinforce_loss(logprobs, rewards - praise, mask, len(rewards))
    if loss.dim():
        raise ValueError(f"{path}: the loss has shape {tuple(loss.shape)}, expected one number; is a sum missing?")


def with_names(function: FunctionType, names: Mapping[str, object]) -> FunctionType:
    """The same function, where these names mean something else. The function itself stays as it is."""
    meant = {**function.__globals__, **names}
    return FunctionType(function.__code__, meant, function.__name__, function.__defaults__, function.__closure__)


def _defined(path: Path) -> dict[str, Callable]:
    """Those of `NAMES` that a file defines. What it only imports from the package is the package's."""
    spec = spec_from_file_location(f"formulas_of_{path.stem}", path.resolve())
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise DataError.at(path, error.lineno, None, f"{error.msg}: this is no Python") from None
    except Exception as error:
        line = _line(error, path)
        raise DataError.at(path, line, None, f"{type(error).__name__}: {shorten(str(error), 200)}") from error
    own = {name: getattr(grpo, name, getattr(reinforce, name, None)) for name in NAMES}
    return {name: value for name in NAMES if callable(value := getattr(module, name, None)) and value is not own[name]}


def _guarded(path: Path, name: str, function: Callable) -> Callable:
    """The learner's function; what goes wrong in it names the file and the line."""

    @wraps(function)
    def call(*args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except NotImplementedError as error:
            raise ValueError(f"{path}, line {_line(error, path)}: {name} is not written yet") from error
        except Exception as error:
            said = f"{type(error).__name__}: {shorten(str(error), 200)}"
            raise ValueError(f"{path}, line {_line(error, path) or '?'}: {name} raised {said}") from error
        parts = result if name == "token_logprobs" and isinstance(result, tuple) else (result,)
        if not all(isinstance(part, torch.Tensor) for part in parts):
            raise ValueError(f"{path}: {name} returned {shorten(result)}, no tensor; is there a `return`?")
        if name.endswith("_loss") and not result.requires_grad:
            raise ValueError(f"{path}: {name} returned a loss without a gradient; was it detached, or made of numbers?")
        return result

    return call


def _line(error: BaseException, path: Path) -> int | None:
    """The last line of the file that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    reached = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    return reached[-1] if reached else None
