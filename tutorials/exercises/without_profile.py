"""Exercise without_profile: what is the profile level worth? Change one thing and measure, 20 minutes.

Notebook 02. Check yours with `make exercise EX=without_profile`. Everything but the levels stays the same: one data
set, one split, the same queries, each compared with itself.
"""

from dataclasses import replace

from mrrec_mini.datatypes import Query
from mrrec_mini.environment import Environment


def known_values(environment: Environment, queries: list[Query], levels: tuple[str, ...]) -> list[float]:
    """For each query the share of its true values that this user's memory states, when only `levels` are kept.

    `query.truth` is {aspect: value}. A value is stated by a line `CATEGORY ASPECT VALUE` (a pattern of the category of
    the query's target, `environment.dataset.category(query.target)`) or by a line `overall ASPECT VALUE` (the profile).
    The memory with other levels: replace `memory.config` by one with these `levels`. -> one number in 0..1 a query.

    Hint: `dataclasses.replace(memory, config=replace(memory.config, levels=levels))`, then `.entries(query)`.
    """
    raise NotImplementedError("write this, then run the check again")


def what_the_profile_adds(environment: Environment, queries: list[Query]) -> list[float]:
    """For each query: `known_values` with patterns and profile, minus with patterns alone. Paired: one number a query.

    Hint: two calls and a subtraction, query by query.
    """
    raise NotImplementedError("write this, then run the check again")
