"""Plain interactions, who took what and when, become a `Dataset`: ratings from 1 to 5, and targets among liked items.

Flow: after `sources/rows`; the last step of `sources/recbole`, `sources/minionerec` and `sources/table`, whose sources
have no queries. A user's queries are `template_query` of the last items that they liked.

Equations: none. The paper uses no such data. Guessed: the three limits below, and that without a rating everything
was liked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mrrec_mini.data import DataError, Dataset
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.cleaning import ImportLog, Review

LEAST_RATING, LEAST_HISTORY, MOST_QUERIES = 4, 5, 3  # of a target; interactions before a target; queries per user
START, STEP = 1_000_000_000, 86_400  # seconds: times of a source that has only an order


def make_dataset(
    path: Path, interactions: Iterable[Review], items: Mapping[str, Item], log: ImportLog, meta: Mapping[str, Any]
) -> Dataset:
    """Clean the interactions of the file `path`, make the queries, and return both with the items.

    If a rating lies outside 1 to 5, all ratings are rescaled; if they are all equal, they become 5. A user's targets
    are the last MOST_QUERIES items with a rating >= LEAST_RATING, without another interaction at the same time (the
    order would be unknown) and with at least LEAST_HISTORY earlier interactions. The time of a query is the time of its
    target. Raises DataError if no interaction is left.
    """
    taken = log.keep("interactions with an item that has no row of its own", interactions, lambda r: r.item in items)
    taken = log.keep("interactions without a rating or a time", taken, lambda r: None not in (r.rating, r.time))
    taken = log.first_of_each_pair(taken)
    if not taken:
        raise DataError.at(path, None, None, "no interaction has a rating, a time and a known item (0 records)")
    low, high = min(r.rating for r in taken), max(r.rating for r in taken)
    if low < 1 or high > 5:
        log.count(f"ratings stretched from {low:g}..{high:g} to 1..5", 0, len(taken))
        width = high - low
        taken = [r._replace(rating=1 + 4 * (r.rating - low) / width if width else 5.0) for r in taken]
    queries = _last_liked(taken, items, log)
    return Dataset(items, tuple(r.interaction() for r in taken), queries, {**meta, "cleaning": log.steps})


def in_order(interactions: Sequence[Review], log: ImportLog) -> list[Review]:
    """Give a time to the interactions of a source without times: a user's n-th one is at START + n * STEP."""
    seen: Counter[str] = Counter()
    dated = []
    for one in interactions:
        dated.append(one._replace(time=START + STEP * seen[one.user]))
        seen[one.user] += 1
    log.count("times made from the order of a user's interactions, one day apart", 0, len(dated))
    return dated


def _last_liked(reviews: list[Review], items: Mapping[str, Item], log: ImportLog) -> tuple[Query, ...]:
    """Return the queries. `make_dataset` explains which items are targets."""
    people = {user: list(own) for user, own in groupby(reviews, lambda review: review.user)}  # sorted by user and time
    queries: list[Query] = []
    for user, past in people.items():
        at = Counter(r.time for r in past)
        fit = [r for n, r in enumerate(past) if r.rating >= LEAST_RATING and at[r.time] == 1 and n >= LEAST_HISTORY]
        for number, r in enumerate(fit[-MOST_QUERIES:], 1):
            queries.append(Query(f"q-{user}-{number}", user, cleaning.template_query(items[r.item]), r.item, r.time))
    asking = {query.user for query in queries}
    step = "users without an item that can be a target (they keep their history)"
    log.keep(step, people, asking.__contains__)
    return tuple(queries)
