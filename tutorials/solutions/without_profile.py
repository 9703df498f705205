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
    # BEGIN SOLUTION
    memory = replace(environment.memory, config=replace(environment.memory.config, levels=levels))
    shares = []
    for query in queries:
        category = environment.dataset.category(query.target)
        said = {entry.text for entry in memory.entries(query)}
        wanted = [
            {f"{category} {aspect} {value}", f"overall {aspect} {value}"} for aspect, value in query.truth.items()
        ]
        shares.append(sum(bool(lines & said) for lines in wanted) / len(wanted))
    return shares
    # END SOLUTION


def what_the_profile_adds(environment: Environment, queries: list[Query]) -> list[float]:
    """For each query: `known_values` with patterns and profile, minus with patterns alone. Paired: one number a query.

    Hint: two calls and a subtraction, query by query.
    """
    # BEGIN SOLUTION
    both = known_values(environment, queries, ("pattern", "profile"))
    alone = known_values(environment, queries, ("pattern",))
    return [one - other for one, other in zip(both, alone, strict=True)]
    # END SOLUTION
