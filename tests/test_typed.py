"""Reading JSON back: every type is checked, and the message names the field."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from mrrec_mini.typed import parse_json, typed


@dataclass(frozen=True)
class Inner:
    name: str
    pair: tuple[float, int] = (0.5, 1)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    on: bool
    place: Path | None
    names: tuple[str, ...] = ()
    weights: Mapping[str, float] | None = None
    known: frozenset[str] = frozenset()


WHOLE = Outer(Inner("a"), True, None, ("x", "y"), {"w": 1.0}, frozenset({"k"}))
GOOD = json.loads(json.dumps(asdict(WHOLE), default=sorted))


def test_a_value_survives_json():
    back = typed(Outer, GOOD)
    assert back == WHOLE and type(back.inner.pair) is tuple and type(back.weights["w"]) is float
    assert typed(Outer, GOOD | {"place": "a/b", "weights": None}).place == Path("a/b")
    assert typed(Inner, {"name": "a", "pair": [1, 1]}).pair == (1.0, 1)  # a whole number is a number


BAD = {
    "on": [1, "true", None],
    "inner": [
        None,
        [],
        {},
        {"name": 5},
        {"name": "a"},
        {"name": "a", "pair": [1, 2, 3]},
        {"name": "a", "pair": [1, 1.0]},
    ],
    "names": ["xy", {"x": 1}, ["x", None]],
    "weights": [[], {"w": "1"}, {"w": True}, {"w": float("nan")}, {"w": float("inf")}, {"w": 10**400}],
    "place": [5, []],
    "known": ["k", [1]],
    "new": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_wrong_type_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        typed(Outer, GOOD | {name: value})


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_field_is_named_even_if_it_has_a_default(name):
    with pytest.raises(ValueError, match=f"{name} is missing"):
        typed(Outer, {key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": ' * 100_000, "1" * 5000])
def test_text_that_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
