"""Formulas from a student's file, run in the real training loop instead of the package's.

Flow: between `grpo.Formulas` and `train`. `mrrec train --with FILE` takes a file that defines some of `NAMES`, formulas
of `reinforce` and `grpo`, with the same arguments. It trains from the same warm start and the same draws as the package
does: if two curves differ, the formulas do. Formulas that the file does not define stay the package's:
`clipped_surrogate` alone is used inside the package's `grpo_loss`. The file is the student's own code and is run as
such. It is tried on four made-up episodes first, so a missing body or a wrong shape is reported before the warm start.
No equations of its own; not from the paper.
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
from mrrec_mini.grpo import PARTS, Formulas, GRPOConfig

USED = {  # what an update by each algorithm calls
    "reinforce": ("token_logprobs", "baseline", "reinforce_loss"),
    "grpo": ("token_logprobs", "group_advantages", "grpo_loss", *PARTS),
}
NAMES = tuple(dict.fromkeys([*USED["reinforce"], *USED["grpo"]]))


@dataclass(frozen=True)
class LearnersFile:
    """A student's file of formulas."""

    path: Path
    names: tuple[str, ...]  # the formulas that it defines, of `NAMES`
    formulas: Formulas
    sha256: str  # of the file


def learners_file(path: Path, algo: str, config: GRPOConfig = GRPOConfig(), kind: str = "group") -> LearnersFile:
    """Read a student's file and try it; `kind` of baseline. Raises FileNotFoundError; DataError, naming the line, if
    Python cannot run it; ValueError if an update by `algo` would call nothing in it, or if one of its formulas fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should define one or more of {', '.join(NAMES)}")
    mine = _defined(path)
    if not mine:
        raise ValueError(f"{path} defines none of {', '.join(NAMES)}, so there is nothing to run")
    if not set(mine) & {name for name in USED[algo] if config.beta or name != "kl_term"}:
        other = "give --algo " + ("reinforce" if algo == "grpo" else "grpo")
        if set(mine) == {"kl_term"}:
            other = "beta is 0; to use it anyway, define grpo_loss too and call it there"
        raise ValueError(f"{path} defines {', '.join(mine)}, which learning by {algo} does not call; {other}")
    formulas = Formulas(**{name: _guarded(path, name, function) for name, function in mine.items()})
    _try(path, formulas, algo, config, kind)
    return LearnersFile(path, tuple(mine), formulas, hashlib.sha256(path.read_bytes()).hexdigest())


def _try(path: Path, formulas: Formulas, algo: str, config: GRPOConfig, kind: str) -> None:
    """An update of four episodes in two groups, without a model. Raises ValueError if a shape is wrong."""
    rewards, groups = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([[False, True, True], [False, True, False], [False, False, True], [False, True, True]])
    logprobs = torch.linspace(-2.0, -0.5, 12).reshape(4, 3).requires_grad_()
    name, rule = ("group_advantages", config.sigma) if algo == "grpo" else ("baseline", kind)
    found = getattr(formulas, name)(rewards, groups, rule)
    if found.shape != rewards.shape:
        raise ValueError(f"{path}: {name} of 4 rewards returned shape {tuple(found.shape)}, expected (4,)")
    old, counts = logprobs.detach(), (len(rewards), int(mask.sum()))
    if algo == "grpo":
        loss = formulas.grpo_loss(logprobs, old, found, mask, config, *counts, old, **formulas.parts)
    else:
        loss = formulas.reinforce_loss(logprobs, rewards - found, mask, len(rewards))
    if loss.dim():
        raise ValueError(f"{path}: the loss has shape {tuple(loss.shape)}, expected one number; is a sum missing?")


def _defined(path: Path) -> dict[str, Callable]:
    """The formulas of `NAMES` that a file defines itself, not those that it imports from the package."""
    spec = spec_from_file_location(f"formulas_of_{path.stem}", path.resolve())
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line, why = _line(error, path), f"{type(error).__name__}: {shorten(str(error), 200)}"
        if isinstance(error, SyntaxError):
            line, why = error.lineno, f"{error.msg}: not valid Python"
        raise DataError.at(path, line, None, why) from error
    found = {name: getattr(module, name, None) for name in NAMES}
    return {name: value for name, value in found.items() if callable(value) and value is not getattr(Formulas, name)}


def _guarded(path: Path, name: str, function: Callable) -> Callable:
    """The student's function; its errors name the file and the line."""

    @wraps(function)
    def call(*args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            what = f"raised {type(error).__name__}: {shorten(str(error), 200)}"
            what = "is not written yet" if isinstance(error, NotImplementedError) else what
            raise ValueError(f"{path}, line {_line(error, path) or '?'}: {name} {what}") from error
        parts = result if name == "token_logprobs" and isinstance(result, tuple) else (result,)
        if not all(isinstance(part, torch.Tensor) for part in parts):
            raise ValueError(f"{path}: {name} returned {shorten(result)}, not a tensor; is there a `return`?")
        if name.endswith("_loss") and not result.requires_grad:
            raise ValueError(f"{path}: {name} returned a loss without a gradient; was it detached, or made of numbers?")
        return result

    return call


def _line(error: BaseException, path: Path) -> int | None:
    """The last line of the file that ran before the error; None if none did."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == path.resolve()), None)
