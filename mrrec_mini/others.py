"""Other people as a memory: short lines on what people who share an item with the user took besides.

Flow: a second tool in the grammar of the first. `Environment.build` gives it to `Memory`, which lets it answer each
look-up that begins with the word "others". So the policy learns which memory to ask, how often, or none.

    others platform    ->    others platform nintendo switch x12      12 people took something for this platform
    others title       ->    others title mario kart 8 wii u x5       5 people took this; the user asks for a "kart"

Let H be the items that the query's user took before the query. The *sharers* are the train users other than this user
who took an item of H before the query. For a fact f, which is a value of an aspect or a title:

    support(f) = number of sharers who took an item outside H with fact f before the query

There is a line for each fact with support of at least `OthersConfig.people`. A title must also share a word with the
wish of the query, since other titles lead the search away from the wish. A reply has the lines that share most words
with the look-up. Equal lines are ordered by the number of words that they share with the wish, then by support, then by
the alphabet. A reply ends before the line that would exceed its budget of words, `OthersConfig.words`. If the
times of two people cannot be compared (`Dataset.clock`), all purchases of the sharers count.

Privacy: a line counts people and names no one. Its words come from the shop's items, never from a review, a note or a
request. Nothing about other people is saved: the counts are made from the data set, so a person who is removed from it
is in no line. A floor is no guarantee against somebody who compares replies: who knows all other sharers can tell what
the last one took.

Not in the paper. MemRec (arXiv 2601.08816) curates the memories of a user's neighbours under a budget of tokens, with a
language model. RRCM (arXiv 2605.07129) learns by GRPO whether to read other people's sequences. Here a line is a count,
and the floor and the budget are ours. Guessed: the order. Two other orders were no better on video games: by support
divided by popularity, and by support in which people who share more count more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from mrrec_mini.datatypes import Item, MemoryEntry, Query
from mrrec_mini.memory import OTHERS, PEOPLE, TITLE, entry_id, plain, short_title
from mrrec_mini.prior import Prior
from mrrec_mini.title_words import ItemReader, Value


@dataclass(frozen=True)
class OthersConfig:
    """What a reply may say."""

    people: int = PEOPLE  # a line speaks of at least this many people, the query's user not among them
    words: int = 24  # most words in a reply
    title_words: int = 8  # most words of a title


class Others:
    """The facts of all items, and who took which item (`Prior`)."""

    def __init__(self, prior: Prior, config: OthersConfig | None = None):
        """Read the facts of the items of the prior's data set. Only the users of the prior are counted."""
        self.prior, self.config = prior, config or OthersConfig()
        items = [prior.dataset.items[item] for item in prior.column]
        facts = facts_of(items, self.config.title_words)
        self.facts: list[Value] = sorted({fact for own in facts for fact in own})
        place = {fact: number for number, fact in enumerate(self.facts)}
        ends = np.cumsum([0, *map(len, facts)])
        columns = [place[fact] for own in facts for fact in own]
        self.stated = csr_matrix((np.ones(len(columns)), columns, ends), (len(items), len(self.facts)))

    @classmethod
    def of(cls, prior: Prior) -> Others | None:
        """Return the tool for real data, None for a synthetic shop, whose people take things independently."""
        return None if prior.dataset.synthetic else cls(prior)

    def counting(self, prior: Prior) -> Others:
        """Return the tool with the same facts that counts the users of another prior, which has the same items."""
        other = copy(self)
        other.prior = prior
        return other

    def support(self, query: Query, taken: Iterable[str]) -> np.ndarray:
        """Return the support of all facts, (F,)."""
        people, items = self.prior.besides(query, taken)
        shape = (len(self.prior.row), len(self.prior.column))
        took = csr_matrix((np.ones(len(people)), (people, items)), shape)
        return np.bincount((took @ self.stated).indices, minlength=len(self.facts))  # an index per person and fact

    def lines(self, query: Query, taken: Iterable[str]) -> list[MemoryEntry]:
        """Return a line per fact with enough support, best first. `taken`: ids of the items of H. Reads no target."""
        support, wish = self.support(query, taken), set(plain(query.wish).split())
        shared = {
            fact: len(wish.intersection(self.facts[fact][1].split()))
            for fact in np.flatnonzero(support >= self.config.people)
        }
        told = [fact for fact in shared if shared[fact] or self.facts[fact][0] != TITLE]
        return [line(self.facts[f], int(support[f])) for f in sorted(told, key=lambda f: (-shared[f], -support[f], f))]

    def answer(self, query: Query, taken: Iterable[str], text: str, k: int) -> tuple[MemoryEntry, ...]:
        """Return at most k lines for a look-up, best first, within the budget of words."""
        asked = set(plain(text).split()) - {OTHERS}
        matching = lambda entry: -len(asked.intersection(entry.text.split()))  # noqa: E731
        found = sorted(self.lines(query, taken), key=matching)[:k]  # equal ones stay in the order of `lines`
        used = np.cumsum([len(entry.text.split()) for entry in found])
        return tuple(found[: np.count_nonzero(used <= self.config.words)])


def facts_of(items: Sequence[Item], title_words: int) -> list[list[Value]]:
    """Return for each of all items its distinct facts: its title, of at most `title_words` words, and its values."""
    reader = ItemReader.learn(items)
    titles = [short_title(item.title, title_words) for item in items]
    return [
        list(dict.fromkeys([*[(TITLE, title)] * bool(title), *reader.values_of(item)]))
        for item, title in zip(items, titles, strict=True)
    ]


def line(fact: Value, people: int) -> MemoryEntry:
    """Return the line `others platform nintendo switch x12`. It ends with the number of people."""
    aspect, value = fact
    identity = f"@{OTHERS}/{entry_id(value, aspect)}"  # an encoded user name holds no "@"
    return MemoryEntry(identity, None, OTHERS, f"{OTHERS} {aspect} {value} x{people}", support=people)
