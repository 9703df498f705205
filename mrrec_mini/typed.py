"""Read JSON, and build dataclasses from it with every type checked.

Flow: used wherever a file that this package wrote is read back: a run's settings, a store, a fitted environment. A
file may be damaged or written by somebody else, and Python would take a string for a number until it is first used.

Equations: none. The paper says nothing about files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
IN_JSON = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}
IN_JSON[float] = "a number"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError if it is none, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def typed(kind: type[Kind], value: Any, name: str = "the value") -> Kind:
    """Return a JSON value as `kind`: str, bool, int, float, Path, tuple[...], frozenset[...], Mapping[str, ...],
    object, one of them or None, or a dataclass with such fields.

    Raises ValueError, which names the field, for a wrong type, an unknown or missing field, and a number that is not
    finite. A field with a default must be there too: who wrote the file knew its value.
    """
    parts = get_args(kind)
    if is_dataclass(kind):
        return _dataclass(kind, _require(dict, value, name), name)
    if NoneType in parts:  # an optional value
        return None if value is None else typed(next(part for part in parts if part is not NoneType), value, name)
    if kind is object:
        return value
    if get_origin(kind) is frozenset:
        return frozenset(typed(tuple[parts[0], ...], value, name))
    if get_origin(kind) is tuple:
        value = list(value) if isinstance(value, tuple) else _require(list, value, name)
        kinds = [parts[0]] * len(value) if parts[-1] is ... else parts
        if len(value) != len(kinds):
            raise ValueError(f"{name}: {len(value)} values, but it needs {len(kinds)}")
        return tuple(typed(part, one, f"{name}[{n}]") for n, (part, one) in enumerate(zip(kinds, value, strict=True)))
    if get_origin(kind) in (dict, Mapping):
        return {key: typed(parts[1], one, f"{name}.{key}") for key, one in _require(dict, value, name).items()}
    if kind is Path:
        return Path(_require(str, value, name))
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if kind is float and not math.isfinite(_require(float, value, name)):
        raise ValueError(f"{name}: {value} is not a finite number")
    return _require(kind, value, name)


def _require(kind: type, value: Any, name: str) -> Any:
    """Return the value if it has exactly this type: True is no int."""
    if type(value) is not kind:
        raise ValueError(f"{name}: {ascii(value)[:60]} is not {IN_JSON[kind]}")
    return value


def _dataclass(kind: type[Kind], value: Mapping, name: str) -> Kind:
    hints = get_type_hints(kind)
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"{name}: unknown field {ascii(min(unknown))[:60]}")
    if missing := [field for field in hints if field not in value]:
        raise ValueError(f"{name}: {missing[0]} is missing")
    return kind(**{field: typed(hints[field], one, f"{name}.{field}") for field, one in value.items()})
