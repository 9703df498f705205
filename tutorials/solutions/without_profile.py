"""Exercise without_profile: what is the profile level worth? Change one thing and measure, 20 minutes.

Notebook 02. Check yours with `make exercise EX=without_profile`. Everything except the levels stays the same: one data
set, one split, and the same queries, so that each query is compared with itself.
"""

from dataclasses import replace

from mrrec_mini.datatypes import Query
from mrrec_mini.environment import Environment


def known_values(environment: Environment, queries: list[Query], levels: tuple[str, ...]) -> list[float]:
    """For each query, the share of its true values that this user's memory states if only `levels` are kept.

    `query.truth` is {aspect: value}. Two kinds of line state a value: `CATEGORY ASPECT VALUE ...` (a pattern of the
    category of the query's target, `environment.dataset.category(query.target)`) and `overall ASPECT VALUE ...` (the
    profile). After the value stand a count and a quarter, as in `mug price luxury 2 2020q4`. To get a memory with other
    levels, replace `memory.config` by one with these `levels`. Returns one number in 0..1 per query.

    Hint: `dataclasses.replace(memory, config=replace(memory.config, levels=levels))`, then `.entries(query)`.
    """
    # BEGIN SOLUTION
    memory = replace(environment.memory, config=replace(environment.memory.config, levels=levels))
    shares = []
    for query in queries:
        category = environment.dataset.category(query.target)
        said = {tuple(entry.text.split()[:3]) for entry in memory.entries(query)}
        wanted = [{(category, aspect, value), ("overall", aspect, value)} for aspect, value in query.truth.items()]
        shares.append(sum(bool(lines & said) for lines in wanted) / len(wanted))
    return shares
    # END SOLUTION


def what_the_profile_adds(environment: Environment, queries: list[Query]) -> list[float]:
    """For each query: `known_values` with patterns and profile, minus `known_values` with patterns alone (paired).

    Hint: two calls and a subtraction, query by query.
    """
    # BEGIN SOLUTION
    both = known_values(environment, queries, ("pattern", "profile"))
    alone = known_values(environment, queries, ("pattern",))
    return [one - other for one, other in zip(both, alone, strict=True)]
    # END SOLUTION
