"""What an item says about itself: its attributes, or, if the shop states none, the phrases that many titles share.

Flow: `ItemReader.learn` reads the public item pool once; the summarisers then ask it for the (aspect, value) pairs of
each item that a person took (`values_of`).

A shop's title often ends with facts: "Batman (Game of the Year Edition) - PlayStation 3". A *label* is a phrase that is
a whole segment of many titles, or a name inside the category path that the last name does not imply. If most items of a
shop state no attribute, an item without attributes has its labels as values of one aspect, "label playstation 3":

    segments   a title, split at " - ", " | ", brackets, and at a comma, colon or semicolon before a space
    label      1 to 4 words, not beginning with a number; the segment of at least max(5, n / 500) and at most half of
               the n items; not made of two other labels ("playstation 4 standard edition")
    has label  the title holds the words in a row; a single word counts only at the end of a segment, so that
               "Call of Duty: Black Ops" is not black; a word of a longer label does not count again

The capitals of a label are a second spelling of it: "PS3" means PlayStation 3 if as many titles have this word.
Likewise two spellings of an aspect count as one: `Film-Genres`, `film genre` -> `film genre` (`canonical_names`).

Equations: none. The paper's data have attributes. Guessed: the thresholds, on two shops (video games, lab supplies).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from mrrec_mini.datatypes import Item
from mrrec_mini.memory import plain, segments

Value = tuple[str, str]  # (aspect, value), both plain
LABEL = "label"  # the aspect of phrases from titles
MOST_WORDS, MOST_LABELS = 4, 3  # per label, per item


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return {name: canonical name}: `plain(name)`, or the singular of this if the singular is one of the names too.

    `Film-Genres`, `film genre` -> `film genre`; `lens` stays, because there is no `len`.
    """
    spelled = {name: plain(name) for name in names}
    known = set(spelled.values())

    def singular(name: str) -> str:
        forms = [name[:-3] + "y"] * name.endswith("ies") + [name[:-2]] * name.endswith("es") + [name[:-1]]
        return next((form for form in forms if name.endswith("s") and form in known), name)

    return {name: singular(text) for name, text in spelled.items()}


@dataclass(frozen=True)
class ItemReader:
    """What was learned from the item pool. Without it, items have the attributes that they state, as spelled."""

    names: Mapping[str, str] = field(default_factory=dict)  # spelling of an aspect -> its canonical name, if it differs
    labels: Mapping[str, str] = field(default_factory=dict)  # phrase in titles -> the label that it means
    places: frozenset[str] = frozenset()  # the names inside category paths that are labels

    @classmethod
    def learn(cls, items: Sequence[Item]) -> ItemReader:
        """Learn the spellings of aspects, and the labels if most of `items`, the whole pool, state no attribute."""
        names = canonical_names(dict.fromkeys(name for item in items for name in item.attributes))
        names = {name: canonical for name, canonical in names.items() if canonical != plain(name)}
        if 2 * sum(not item.attributes for item in items) <= len(items):
            return cls(names)
        return cls(names, learn_labels([item.title for item in items]), frozenset(learn_places(items)))

    def values_of(self, item: Item) -> list[Value]:
        """Return the item's distinct (aspect, value) pairs in plain words: its attributes, or else its labels."""
        stated = [(self.names.get(name) or plain(name), plain(v)) for name, vs in item.attributes.items() for v in vs]
        pairs = stated or [(LABEL, label) for label in self.labels_of(item)]
        return list(dict.fromkeys((aspect, value) for aspect, value in pairs if aspect and value))

    def pack(self) -> dict:
        """Return the reader as values for JSON, from which `typed` rebuilds it."""
        return {"names": dict(self.names), "labels": dict(self.labels), "places": sorted(self.places)}

    def labels_of(self, item: Item) -> list[str]:
        """Return the item's distinct labels, at most `MOST_LABELS`: those of its category path, then of its title."""
        found = [plain(name) for name in item.category[1:-1] if plain(name) in self.places]
        found += [self.labels[phrase] for phrase in phrases_in(item.title, self.labels)]
        return list(dict.fromkeys(found))[:MOST_LABELS]

    def used_by(self, item: Item) -> Iterator[tuple[str, str]]:
        """Yield (name of a field, key in it) for all that reading this item uses."""
        yield from (("names", name) for name in item.attributes)
        yield from (("labels", phrase) for phrase in phrases_in(item.title, self.labels))
        yield from (("places", plain(name)) for name in item.category[1:-1])

    def only(self, common: AbstractSet[tuple[str, str]]) -> ItemReader:
        """Return a reader that knows only those of its keys that are in `common`, as `used_by` names them."""
        labels = {k: v for k, v in self.labels.items() if {("labels", k), ("labels", v)} <= common}
        names = {k: v for k, v in self.names.items() if ("names", k) in common}
        return ItemReader(names, labels, frozenset(name for name in self.places if ("places", name) in common))


def fewest(items: int) -> int:
    """Return how many items must share a label, for a pool of `items`."""
    return max(5, -(-items // 500))


def learn_labels(titles: Sequence[str]) -> dict[str, str]:
    """Return {phrase: label}: each label stands for itself, and its capitals for it if many titles hold them."""
    # 1. Count the titles with each segment, and how the segment is spelled.
    shared: Counter[str] = Counter()
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for title in titles:
        parts = {plain(part): part for part in segments(title)}
        shared.update(list(parts))
        for phrase, part in parts.items():
            spelled[phrase][part] += 1
    # 2. Keep the phrases that many titles share, except those made of two others.
    least = fewest(len(titles))
    often = {phrase for phrase, n in shared.items() if least <= n <= len(titles) / 2 and is_name(phrase)}
    labels = {phrase: phrase for phrase in sorted(often) if not is_joined(phrase, often)}
    # 3. Add the capitals of each frequent spelling. The label of more titles wins if two have the same capitals.
    of_word = Counter(word for title in titles for word in set(plain(title).split()))
    for label in sorted(labels, key=lambda label: (shared[label], label)):
        for short in sorted(capitals(part) for part, n in spelled[label].items() if n >= least and " " in part):
            if len(short) >= 3 and of_word[short] >= least:
                labels[short] = label
    return labels


def capitals(text: str) -> str:
    """Return the capitals and digits of a text, in lower case: PlayStation 3 -> ps3; "" if there are only digits."""
    found = "".join(c for c in text if c.isupper() or c.isdigit()).lower()
    return "" if found.isdigit() else found


def is_name(phrase: str) -> bool:
    """Return whether a phrase is short enough for a label and does not begin with a number."""
    words = phrase.split()
    return len(words) <= MOST_WORDS and not words[0].isdigit() and len(phrase) > 1


def is_joined(phrase: str, labels: frozenset[str] | set[str]) -> bool:
    """Return whether a phrase is one label followed by another."""
    words = phrase.split()
    return any({" ".join(words[:i]), " ".join(words[i:])} <= labels for i in range(1, len(words)))


def learn_places(items: Sequence[Item]) -> Iterator[str]:
    """Yield the names inside category paths that many items share and that the last name of a path does not imply.

    In (video games, playstation 3, games), "playstation 3" is such a name if "games" also stands below others.
    """
    above: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # last name -> the paths that it ends
    below: dict[str, Counter[str]] = defaultdict(Counter)  # name inside a path -> the last names of its items
    for item in items:
        above[item.category[-1]].add(item.category[:-1])
        for name in set(map(plain, item.category[1:-1])):
            below[name][item.category[-1]] += 1
    for name, last in sorted(below.items()):
        free = sum(count for leaf, count in last.items() if len(above[leaf]) > 1)
        if fewest(len(items)) <= last.total() <= len(items) / 2 and free > last.total() / 2:
            yield name


def phrases_in(title: str, phrases: Mapping[str, str]) -> list[str]:
    """Return the phrases that a title holds, the longest first, then in the order of the title; none overlap."""
    found: list[tuple[int, int, str]] = []
    for number, part in enumerate(segments(title)):
        words = plain(part).split()
        free = [True] * len(words)
        for length in range(min(MOST_WORDS, len(words)), 0, -1):
            for start in range(len(words) - length + 1):
                end, phrase = start + length, " ".join(words[start : start + length])
                alone = length > 1 or end == len(words)  # a single word inside a segment means something else
                if alone and all(free[start:end]) and phrase in phrases:
                    free[start:end] = [False] * length
                    found.append((-length, number, phrase))
    return [phrase for _, _, phrase in sorted(found, key=lambda one: one[:2])]
