"""More training queries: each earlier purchase of a train user, asked for by the rule of the data set's own queries.

Flow: after the importers. `with_earlier_queries` adds queries to the train part of a `Split`; all later stages treat
them like the data set's own. A real data set often has one query per person, and a dozen earlier purchases.

A data set's queries are written from their targets by a rule, or by people. `query_rule` looks at the train queries:

    template   the text is `template_query` of the target, as importers write it; then so is the text for any item
    phrase     the text is the same few words for everybody, then a phrase of the target's title. For another item, the
               phrase is the longest of its title that could be asked for; of several, the most frequent in all titles.
               A phrase could be asked for if as many titles have it as have the rarest phrases of the train queries,
               and no word of it is *passed over*: it stands in titles of train targets, never in their queries
    none       anything else, for example what people wrote: no query is added

Equations: none. Not from the paper, whose data have many queries per person.

Only train users' queries, only their purchases before their own first query (or all, if they have none), and item
titles, which are public, are read. The history of an added query is what every query's is: purchases strictly before.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mrrec_mini.data import Dataset, Split, read_template
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.sources.cleaning import folded, template_query

Rule = Callable[[Item], str | None]  # item -> the text of a query for it; None: nothing to ask for

LEAST_HISTORY = 3  # fewest earlier purchases of a query; with fewer, memory says next to nothing
AGREE = 0.9  # share of the train queries that a rule must explain
RAREST = 0.05  # share of the train queries' phrases that may be rarer than a phrase that is asked for
SEEN = 3  # a word is passed over if it stands in at least this many targets' titles and in none of their queries


def title_words(title: str) -> list[str]:
    """Return the lower-case words of a title."""
    return re.findall(r"[^\W_]+", title.lower())


def phrases_of(title: str) -> list[str]:
    """Return the distinct phrases of a title, two words each, then one, in the order of the title."""
    words = title_words(title)
    return list(dict.fromkeys([" ".join(pair) for pair in pairwise(words)] + words))


@dataclass(frozen=True)
class PhraseRule:
    """Writes a query as the words that all queries begin with, and a phrase of the title."""

    opening: str
    frequency: Counter[str]  # phrase -> number of items whose title has it
    least: int  # fewest such items
    passed_over: frozenset[str]

    def __call__(self, item: Item) -> str | None:
        """Return the query's text for an item, None if no phrase of its title could be asked for."""
        usable = [
            phrase
            for phrase in phrases_of(item.title)
            if self.frequency[phrase] >= self.least
            and not self.passed_over & set(phrase.split())
            and not any(word.isdigit() or len(word) < 3 for word in phrase.split())
        ]
        if not usable:
            return None
        return self.opening + max(usable, key=lambda phrase: (phrase.count(" "), self.frequency[phrase]))


def phrase_rule(queries: Sequence[Query], items: Mapping[str, Item]) -> PhraseRule | None:
    """Learn a `PhraseRule` from train queries and all titles; None if it does not explain the texts of the queries."""
    # 1. The opening: the words that all texts begin with.
    texts = [query.text.split(" ") for query in queries]
    same = next((i for i, words in enumerate(zip(*texts, strict=False)) if len(set(words)) > 1), 0)
    opening = " ".join([*texts[0][:same], ""]).lstrip()
    # 2. What follows must be a phrase of the target's title.
    titles = [title_words(items[query.target].title) for query in queries]
    asked = [" ".join(words[same:]) for words in texts]
    found = [phrase in phrases_of(items[query.target].title) for query, phrase in zip(queries, asked, strict=True)]
    if np.mean(found) < AGREE:
        return None
    # 3. How frequent a phrase must be, and which words nobody asks for.
    frequency = Counter(phrase for item in items.values() for phrase in phrases_of(item.title))
    least = int(np.quantile([frequency[phrase] for phrase, ok in zip(asked, found, strict=True) if ok], RAREST))
    stands = Counter(word for title in titles for word in set(title))
    used = {word for phrase in asked for word in phrase.split()}
    return PhraseRule(opening, frequency, least, frozenset(w for w, n in stands.items() if n >= SEEN and w not in used))


def query_rule(queries: Sequence[Query], items: Mapping[str, Item]) -> Rule | None:
    """Return the rule by which `queries` (of train users) were written, None if no rule explains nearly all of them."""
    if not queries or any(query.truth is not None for query in queries):
        return None  # a synthetic shop draws its queries otherwise
    if np.mean([query.text == template_query(items[query.target]) for query in queries]) >= AGREE:
        return template_query
    return phrase_rule(queries, items)


def with_earlier_queries(dataset: Dataset, split: Split, most: int = 10) -> Split:
    """Return the split with up to `most` queries per train user, the user's own included; the latest are kept.

    Nothing changes if no rule explains the train users' own queries. Queries for held categories are not added.
    """
    rule = query_rule(split.train_queries, dataset.items)
    if rule is None:
        return split
    held = frozenset(dataset.meta.get("held_categories", ()))
    own: dict[str, list[Query]] = {user: [] for user in sorted(split.train)}
    for query in dataset.queries_of(split.train):
        own[query.user].append(query)
    added: list[Query] = []
    for user, asked in own.items():
        first = min((query.time for query in asked), default=math.inf)
        every = earlier_queries(dataset, user, first, rule)
        earlier = [query for query in every if dataset.category(query.target) not in held]
        added += earlier[max(len(earlier) + len(asked) - most, 0) :]
    categories = {name for item in dataset.items.values() for name in item.category}
    return replace(split, train_queries=(*split.train_queries, *(read_template(one, categories) for one in added)))


def earlier_queries(dataset: Dataset, user: str, before: float, rule: Rule) -> Iterator[Query]:
    """Yield a query per purchase of `user` before the time `before`, oldest first.

    Left out are purchases with a history shorter than `LEAST_HISTORY`, of an item that the user had, and with a review
    that repeats an earlier one: its words would give the target away.
    """
    known: set[str] = set()
    reviews: set[str] = set()
    for number, one in enumerate(dataset.interactions_of(user)):
        if one.time >= before:
            break
        copied = bool(one.review) and folded(one.review) in reviews
        text = rule(dataset.items[one.item])
        query = Query(f"earlier-{user}-{number}", user, text or "", one.item, one.time)
        if text and not copied and one.item not in known and len(dataset.history(query)) >= LEAST_HISTORY:
            yield query
        known.add(one.item)
        reviews.add(folded(one.review))
