"""Fixed scripts of memory, own and other people's: what somebody could always add to a query, without any policy.

Flow: beside `scripts`, for data sets where nobody knows which aspects matter; `evaluate` runs each script as an arm.
A script reads the items that the user took before the query, and writes words. Some scripts also read what other people
took who share one of these items (`others`). The search gets the query's wish and these words. The best script is
chosen on validation users; "nothing", the query alone, is one of the choices. So a policy that chooses what to read for
each query must beat the best constant choice.

A *value* is one of an item's attributes, e.g. "playstation 2". How *like* the query an item is, is the text score that
the item index gives it for the query's wish. Equations: none. Departure: the paper has no scripts. Guessed: the list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mrrec_mini.datatypes import Item, Query
from mrrec_mini.environment import Environment
from mrrec_mini.memory import TITLE, plain
from mrrec_mini.scripts import aspect_of, value_of


@dataclass(frozen=True)
class Past:
    """The items that a user took before a query, oldest first, and how like the query's wish each is."""

    items: tuple[Item, ...]
    likeness: tuple[float, ...]
    others: Mapping[str, str] = field(default_factory=dict)  # aspect, or TITLE -> what the best line about others says

    @cached_property
    def by_likeness(self) -> list[Item]:
        """The items, the one most like the query first; of equal ones, the latest first."""
        order = sorted(range(len(self.items)), key=lambda n: (-self.likeness[n], -n))
        return [self.items[n] for n in order]

    @property
    def kind(self) -> list[Item]:
        """The items of the category of the item most like the query, oldest first."""
        return [item for item in self.items if item.category == self.by_likeness[0].category]


def pasts(environment: Environment, queries: Sequence[Query]) -> list[Past]:
    """Return what each query's user took before it. Reads no target."""
    dataset, column = environment.dataset, environment.items.prior.column
    found: dict[int, Past] = {}
    for i, scores in environment.items.scores_by_id([query.wish for query in queries]):
        ids = [taken.item for taken in dataset.history(queries[i])]
        items = tuple(dataset.items[item] for item in ids)
        likeness = tuple(float(scores[column[item]]) for item in ids)
        found[i] = Past(items, likeness, others_say(environment, queries[i]))
    return [found[i] for i in range(len(queries))]


def first_values(items: Sequence[Item]) -> list[str]:
    """Return for each aspect the values of the first item that has the aspect."""
    values: dict[str, Sequence[str]] = {}
    for item in items:
        for aspect, stated in item.attributes.items():
            values.setdefault(aspect, stated)
    return [value for stated in values.values() for value in stated]


def frequent_values(items: Sequence[Item], count: int | None = 1) -> list[str]:
    """Return for each aspect the `count` values of most items, None: all; of equally frequent ones, the latest."""
    counts: dict[str, Counter[str]] = {}
    for item in reversed(items):  # a counter keeps the order of first sight among equal counts
        for aspect, stated in item.attributes.items():
            counts.setdefault(aspect, Counter()).update(stated)
    return [value for found in counts.values() for value, _ in found.most_common(count)]


def others_say(environment: Environment, query: Query) -> dict[str, str]:
    """Return for each aspect, and for TITLE, what the best line about other people says; {} if there is no line."""
    best: dict[str, str] = {}
    for line in environment.memory.others_lines(query):
        aspect = aspect_of(line)
        best.setdefault(aspect, value_of(line, aspect)[0])
    return best


def with_others(values: Sequence[str], past: Past) -> list[str]:
    """Return `values`, then those of other people that are not among them."""
    known = {plain(value) for value in values}
    return [*values, *(value for aspect, value in past.others.items() if aspect != TITLE and value not in known)]


def with_title(values: Sequence[str], past: Past) -> list[str]:
    """Return `values`, then the title that other people took, if there is one."""
    return [*values, past.others.get(TITLE, "")]


def titles(items: Sequence[Item]) -> list[str]:
    return [item.title for item in items]


# name of the arm -> the parts of the text that it adds; an empty past gives an empty text
OWN_TEXT: dict[str, Callable[[Past], list[str]]] = {
    "own_latest": lambda past: first_values(past.items[::-1]),
    "own_often": lambda past: frequent_values(past.items),
    "own_latest_often": lambda past: first_values(past.items[::-1]) + frequent_values(past.items),
    "own_often_two": lambda past: frequent_values(past.items, 2),
    "own_like": lambda past: first_values(past.by_likeness),
    "own_like_latest": lambda past: first_values(past.by_likeness) + first_values(past.items[::-1]),
    "own_kind": lambda past: first_values(past.kind[::-1]),
    "own_last_record": lambda past: first_values(past.items[-1:]),
    "own_last_title": lambda past: titles(past.items[-1:]),
    "own_three_titles": lambda past: titles(past.items[-3:]),
    "own_like_title": lambda past: titles(past.by_likeness[:1]),
    "own_like_titles": lambda past: titles(past.by_likeness[:2]),
    "own_titles_latest": lambda past: titles(past.by_likeness[:2]) + first_values(past.items[::-1]),
    "own_profile": lambda past: frequent_values(past.items, None),
    "others": lambda past: with_others([], past),
    "others_title": lambda past: with_title([], past),
    "own_latest_others": lambda past: with_others(first_values(past.items[::-1]), past),
    "own_latest_others_title": lambda past: with_title(first_values(past.items[::-1]), past),
}


def own_texts(environment: Environment, queries: Sequence[Query]) -> dict[str, list[str]]:
    """Return {name of a script: its text for each query}, with each part of a text once."""
    found = pasts(environment, queries)
    return {
        name: [" ".join(dict.fromkeys(write(past))).strip() if past.items else "" for past in found]
        for name, write in OWN_TEXT.items()
    }
