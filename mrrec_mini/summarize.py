"""Summarise purchases without a language model (f_LLM of eq. 4-6): this summariser counts attribute values.

Flow: `Memory.build` calls `fit` (learn how people write), `aspects` (find what decides choices) and `informed` (from
then on, count only that). `patterns`, `profile` and `telling` then read the purchases of one user, and memory turns the
results into lines. The alternative is `summarize_lm.py`.

Equations:
- Stance: a purchase speaks for (+) or against (-) each attribute value of its item (`stances`). Let liking =
  (rating - 3) / 2, in -1..1, and m = `mention_weight`. The stance is liking if the review does not mention the value,
  m (1 + min(liking, 0)) if it does, and -m if a complaint mentions it. So a complaint in a good review counts only
  against the value that it mentions.
- Attention, 0 or 1: a stance is 0 unless global memory holds the aspect for the category of the purchase. If the review
  names a use ("bought for hiking") and does not mention the value, the aspect must also matter for this use. If global
  memory holds nothing for the category, all aspects count.
- A review mentions a value by the value's words, by the aspect's name, or by a word that train users' reviews use for
  that value (`learn_words`). A sentence that contains one of `COMPLAINTS` is a complaint.
- Eq. (4), (5): the strength of a value is the sum of its stances in one category (4) or over all categories (5). The
  strongest value of an aspect is *firm* if its strength reaches a threshold; only aspects with a firm value get a line.
  Several values are firm only if items have several (genres of a film). Each value carries the records whose stance is
  above 0 and the time of the latest, so that memory can write counts, dates and the latest value.
- Eq. (6): the gain of a contrast is (1 if i+ has the value that its user prefers, else 0) - the share of I- with this
  value (`agreement_gain`). All *other* purchases of the user tell which value this is. The lift of an aspect is the
  mean gain over users, and z is the lift divided by its standard error (`lift`). An aspect decides for one use of a
  category if its lift exceeds `min_lift` and its z exceeds `min_z_use`. If the lift exceeds `min_lift` in most uses, it
  decides for the whole category instead, if all purchases together give a z above `min_z`. z also sets the certainty
  of the global line (`certainty`). This is done twice: the second round counts only aspects that the first round found.
Departures: global lines have no description. An aspect without evidence in the purchases is never written.
Guessed: the weights and thresholds of `ExtractiveConfig`, chosen on the synthetic shop.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product

import numpy as np

from mrrec_mini.datatypes import Item
from mrrec_mini.memory import PEOPLE, Aspect, Contrast, Preference, Purchase, plain
from mrrec_mini.title_words import ItemReader, Value, canonical_names
from mrrec_mini.typed import typed

COMPLAINTS = frozenset(
    """not no never too sadly unfortunately however but wish disappointed disappointing hate lacks
    isn't wasn't doesn't didn't don't won't can't""".split()  # noqa: SIM905 words read better than a list of strings
)
CERTAINTY = ("maybe", "likely", "surely")  # the words of global lines, from the least to the most certain


@dataclass(frozen=True)
class ExtractiveConfig:
    """Weights and thresholds. A five-star purchase without a review has strength 1."""

    mention_weight: float = 6.0  # m: the weight of a mention in a review
    min_pattern: float = 0.5  # one liked purchase
    min_profile: float = 0.5  # low, so that nearly all aspects get a line: a weak guess beats none
    max_values: int = 2  # most values of an aspect in a line; reached only if items have several
    competing: int = 1  # values of an aspect that a line may state even if items have only one
    attention: bool = True  # count only the aspects that global memory holds for a category
    pooled: bool = False  # judge a parent category by the purchases of all its categories together
    min_lift: float = 0.15  # smallest mean of `agreement_gain` for an aspect that decides, 0..1
    min_z: float = 3.0  # smallest lift / standard error of the lift
    min_z_use: float = 1.5  # the same for one use of a category, for which there are fewer purchases
    certain: tuple[float, float] = (3.0, 5.0)  # from how many standard errors on a lift is likely, and sure
    word_count: int = 8  # fewest reviews that must contain a word before it can stand for a value
    word_share: float = 0.8  # smallest share of these reviews whose item has the value
    word_z: float = 4.0  # standard errors by which the share must exceed the value's share of all purchases
    word_users: int = PEOPLE  # fewest users who wrote the word about an item with the value


def sentences(review: str) -> list[frozenset[str]]:
    """Return the set of words of each sentence."""
    return [frozenset(words) for part in re.split(r"[.!?;\n]+", review) if (words := plain(part).split())]


def learn_words(purchases: Sequence[Purchase], items: ItemReader, config: ExtractiveConfig) -> dict[str, Value]:
    """Return {review word: the (aspect, value) it stands for} for words that pass the four `word_` thresholds."""
    together: Counter[tuple[str, Value]] = Counter()  # purchases whose review has the word and whose item has the value
    of_word: Counter[str] = Counter()
    of_value: Counter[Value] = Counter()
    people: dict[tuple[str, Value], set[str]] = defaultdict(set)  # users of each such pair
    for purchase in purchases:
        values = items.values_of(purchase.item)
        of_value.update(values)
        for word in set(plain(purchase.review).split()):
            of_word[word] += 1
            for value in values:
                together[word, value] += 1
                people[word, value].add(purchase.user)
    best: dict[str, tuple[float, Value]] = {}
    for (word, value), count in together.items():
        n, share, base = of_word[word], count / of_word[word], of_value[value] / len(purchases)
        error = math.sqrt(base * (1 - base) / n)  # standard error of `share` if word and value were independent
        often = n >= config.word_count and len(people[word, value]) >= config.word_users
        if often and share >= config.word_share and 0 < config.word_z * error <= share - base:
            best[word] = max(best.get(word, (0.0, value)), (share, value))
    return {word: value for word, (_, value) in best.items()}


@dataclass(frozen=True)
class Reading:
    """What the summariser knows: how train users write, and which aspects decide where."""

    words: Mapping[str, Value] = field(default_factory=dict)  # review word -> the value it stands for
    uses: tuple[str, ...] = ()  # what people buy things for
    # scenario -> use -> aspects that decide; use "": the aspects that decide for any use
    deciding: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    items: ItemReader = field(default_factory=ItemReader)  # reads the values of an item

    def attended(self, purchase: Purchase) -> tuple[frozenset[str], frozenset[str]] | None:
        """Return (aspects that decide in the purchase's category for its use, aspects that decide there for any use).

        Both are equal if the use is unknown. None if no aspect is known to decide in the category: then all count.
        """
        by_use = self.deciding.get(plain(purchase.scenario))
        return by_use and (by_use[use_of(purchase, self.uses)], by_use[""])

    def used_by(self, purchase: Purchase) -> Iterator[tuple[str, str]]:
        """Yield (part of the reading, what it holds) for all that reading this purchase uses."""
        yield from self.items.used_by(purchase.item)
        known = self.words.get
        told = {*self.items.values_of(purchase.item)}
        yield from (("words", word) for word in set(plain(purchase.review).split()) if known(word) in told)


def use_of(purchase: Purchase, uses: Sequence[str]) -> str:
    """Return the use that the review names ("bought for hiking"); "" if it names none, or several."""
    said = set(re.findall(r"\bfor ([^\W_]+)", purchase.review.lower())) & set(uses) if uses else set()
    return said.pop() if len(said) == 1 else ""


def mentions(purchase: Purchase, reading: Reading) -> dict[Value, list[frozenset[str]]]:
    """Return {(aspect, value): sentences of the review that mention this value} for each value of the item."""
    words, about = reading.words, {}
    spoken = [(s, {words[word] for word in s if word in words}) for s in sentences(purchase.review)]
    for aspect, value in reading.items.values_of(purchase.item):
        names = (frozenset(value.split()), frozenset(aspect.split()))
        about[aspect, value] = [s for s, learned in spoken if (aspect, value) in learned or any(n <= s for n in names)]
    return about


def stances(purchase: Purchase, reading: Reading, config: ExtractiveConfig) -> dict[Value, float]:
    """Return how much a purchase speaks for (+) or against (-) each value of its item: see the module docstring."""
    liking = (purchase.rating - 3) / 2  # -1..1
    attended = reading.attended(purchase) if config.attention else None
    result = {}
    for (aspect, value), about in mentions(purchase, reading).items():
        complaint = any(sentence & COMPLAINTS for sentence in about)
        mentioned = -config.mention_weight if complaint else config.mention_weight * (1 + min(liking, 0.0))
        counts = attended is None or aspect in attended[bool(about)]  # a mention counts for any use of the category
        result[aspect, value] = (mentioned if about else liking) if counts else 0.0
    return result


def favourites(tally: Mapping[Value, float]) -> dict[str, str]:
    """Return {aspect: its value with the largest sum, if above 0}; of equal sums, the first value in the alphabet."""
    ranked = sorted(tally.items(), key=lambda pair: (-pair[1], pair[0]))
    return {aspect: value for (aspect, value), strength in reversed(ranked) if strength > 0}  # the last, best wins


def merge_names(aspects: Iterable[Aspect]) -> list[Aspect]:
    """Return one aspect per (scenario, canonical name), with the users of all spellings of the name."""
    aspects = list(aspects)
    canonical = canonical_names(aspect.name for aspect in aspects)
    merged: dict[tuple[str, str, str], Aspect] = {}
    for aspect in aspects:
        if name := canonical[aspect.name]:
            key = (aspect.scenario, aspect.use, name)
            known = merged.get(key, replace(aspect, name=name))
            described = known.description or aspect.description
            merged[key] = replace(known, users=known.users | aspect.users, description=described)
    return list(merged.values())


@dataclass(frozen=True)
class ExtractiveSummarizer:
    """A `memory.Summarizer` that counts attribute values; see the module docstring."""

    config: ExtractiveConfig = ExtractiveConfig()
    reading: Reading = field(default_factory=Reading, repr=False)  # what `fit` learned

    def fit(
        self, purchases: Sequence[Purchase], uses: Sequence[str] = (), items: Sequence[Item] = ()
    ) -> ExtractiveSummarizer:
        """Learn to read `items`, and which words reviews use for values; keep the `uses` that reviews may name."""
        reader = ItemReader.learn(items)
        words = learn_words(purchases, reader, self.config)
        return replace(self, reading=Reading(words, tuple(map(plain, uses)), items=reader))

    def informed(self, aspects: Sequence[Aspect]) -> ExtractiveSummarizer:
        """Return a summariser that counts a value only if its aspect decides: "attention" in the module docstring."""
        deciding: dict[str, dict[str, frozenset[str]]] = {}
        for scenario in sorted({aspect.scenario for aspect in aspects}):  # sorted, so that `pack` is reproducible
            here = [aspect for aspect in aspects if aspect.scenario == scenario]
            deciding[scenario] = {
                use: frozenset(aspect.name for aspect in here if aspect.use in ("", use)) for use in self.reading.uses
            }
            deciding[scenario][""] = frozenset(aspect.name for aspect in here)
        return replace(self, reading=replace(self.reading, deciding=deciding))

    def without_rare(self, histories: Iterable[Sequence[Purchase]]) -> ExtractiveSummarizer:
        """Return a summariser that has forgotten what fewer than `PEOPLE` of these users' histories hold.

        It loses learned words, and what it knows of the names and titles of items.
        """
        held: Counter[tuple[str, str]] = Counter()  # (part of the reading, word) -> users
        for history in histories:
            held.update({key for one in history for key in self.reading.used_by(one)})
        common = {key for key, users in held.items() if users >= PEOPLE}
        words = {word: value for word, value in self.reading.words.items() if ("words", word) in common}
        return replace(self, reading=replace(self.reading, words=words, items=self.reading.items.only(common)))

    def telling(self, purchase: Purchase) -> list[Value]:
        """Return the values of the item for which this purchase speaks, the strongest first."""
        found = stances(purchase, self.reading, self.config)
        return sorted((value for value, stance in found.items() if stance > 0), key=lambda value: -found[value])

    def pack(self) -> dict:
        """Return the summariser as values for JSON, from which `unpack` rebuilds it."""
        reading = self.reading
        deciding = {s: {use: sorted(names) for use, names in by_use.items()} for s, by_use in reading.deciding.items()}
        return {
            "config": asdict(self.config),
            "words": dict(reading.words),
            "uses": list(reading.uses),
            "deciding": deciding,
            "items": self.reading.items.pack(),
        }

    @classmethod
    def unpack(cls, fields: Mapping) -> ExtractiveSummarizer:
        """Rebuild a summariser from the result of `pack`; it writes the same lines. Raises ValueError for any other."""
        reading = {name: value for name, value in fields.items() if name != "config"}
        return cls(typed(ExtractiveConfig, fields["config"]), typed(Reading, reading))

    def patterns(self, purchases: Sequence[Purchase]) -> list[Preference]:
        """Eq. (4): return preferences in one category; strength(aspect, value) = sum of the purchases' stances."""
        evidence = [
            (value, stance, (purchase.record,) if stance > 0 else (), purchase.time if stance > 0 else 0)
            for purchase in purchases
            for value, stance in stances(purchase, self.reading, self.config).items()
        ]
        several = values_per_item(self.reading.items.values_of(purchase.item) for purchase in purchases)
        scenario = plain(purchases[0].scenario) if purchases else ""
        return self._preferences(scenario, evidence, several, self.config.min_pattern)

    def profile(self, patterns: Sequence[Preference]) -> list[Preference]:
        """Eq. (5): return the profile; strength(aspect, value) = sum of the strengths of all patterns, firm or not."""
        evidence = [((one.aspect, one.value), one.strength, one.rests_on, one.last) for one in patterns]
        per_line = Counter((one.scenario, one.aspect) for one in patterns if one.firm)  # values in each pattern line
        several = {aspect: count for (_, aspect), count in sorted(per_line.items(), key=lambda pair: pair[1])}
        return self._preferences("", evidence, several, self.config.min_profile)

    def _preferences(
        self,
        scenario: str,
        evidence: Iterable[tuple[Value, float, tuple[str, ...], int]],
        several: Mapping[str, int],
        least: float,
    ) -> list[Preference]:
        """Return all preferences, strongest first. The `several[aspect]` best are firm if they reach `least`."""
        strength: dict[Value, float] = defaultdict(float)
        rests_on: dict[Value, list[str]] = defaultdict(list)
        last: dict[Value, int] = defaultdict(int)
        for value, amount, records, time in evidence:
            strength[value] += amount
            rests_on[value] += records
            last[value] = max(last[value], time)
        written: Counter[str] = Counter()
        preferences = []
        for (aspect, value), total in sorted(strength.items(), key=lambda pair: (-pair[1], pair[0])):
            room = max(min(several.get(aspect, 1), self.config.max_values), self.config.competing)
            firm = total >= least and written[aspect] < room
            written[aspect] += firm
            records = tuple(rests_on[aspect, value])
            preferences.append(Preference(scenario, aspect, value, total, records, firm, last[aspect, value]))
        return preferences

    def aspects(self, contrasts: Sequence[Contrast]) -> list[Aspect]:
        """Eq. (6): return the aspects that decide in a category or for one use of it, then those of parent categories.

        The first round judges by all aspects, the second only by the aspects that the first round found.
        """
        first = self.decisive(contrasts)
        found = self.informed(first).decisive(contrasts)
        if self.config.pooled:
            return found  # `lifts` measured the parent categories too
        general = [aspect for aspect in found if not aspect.use]
        return found + parents(general, {(one.bought.user, one.bought.item.category) for one in contrasts})

    def decisive(self, contrasts: Sequence[Contrast]) -> list[Aspect]:
        """Return the aspects with a lift above `min_lift` and enough standard errors: one round of `aspects`."""
        config, found = self.config, []
        measured = {key: (lift(list(by_user.values())), by_user) for key, by_user in self.lifts(contrasts).items()}
        uses: dict[str, set[str]] = defaultdict(set)
        for scenario, use, _ in measured:
            uses[scenario] |= {use} - {""}
        for (scenario, use, name), ((mean, error), by_user) in measured.items():
            # 1. Is the effect large, and is it more than chance?
            if mean <= config.min_lift or mean <= (config.min_z_use if use else config.min_z) * error:
                continue
            # 2. Does it hold in most uses? Then write one line for the category, otherwise one line per use.
            lifts = [measured[scenario, u, name][0][0] for u in uses[scenario] if (scenario, u, name) in measured]
            everywhere = sum(one > config.min_lift for one in lifts) > len(uses[scenario]) / 2 or not uses[scenario]
            if everywhere != (use == ""):
                continue
            # 3. The users with a gain above 0 support the line.
            users = frozenset(user for user, gain in by_user.items() if gain > 0)
            sure = certainty(mean / error if error else math.inf, config)
            found.append(Aspect(scenario, name, users, use=use, certainty=sure))
        return found

    def lifts(self, contrasts: Sequence[Contrast]) -> dict[tuple[str, str, str], dict[str, float]]:
        """Return {(scenario, use, aspect): {user: mean agreement gain over this user's contrasts, -1..1}}.

        Use "" takes all contrasts of the scenario together. With `pooled`, a parent category is a scenario too.
        """
        stance_of: dict[str, dict[Value, float]] = {}  # record -> stances
        totals: dict[str, dict[Value, float]] = {}  # user -> sums of stances
        gains: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for contrast in contrasts:
            bought, user = contrast.bought, contrast.bought.user
            if user not in totals:
                totals[user] = defaultdict(float)
                for one in contrast.history:
                    stance_of[one.record] = stances(one, self.reading, self.config)
                    for value, stance in stance_of[one.record].items():
                        totals[user][value] += stance
            own = stance_of[bought.record]
            others = {value: total - own.get(value, 0.0) for value, total in totals[user].items()}
            path = bought.item.category if self.config.pooled else bought.item.category[-1:]
            for aspect, gain in agreement_gain(contrast, favourites(others), self.reading.items).items():
                for scenario, use in product(set(map(plain, path)), {"", use_of(bought, self.reading.uses)}):
                    gains[scenario, use, aspect][user].append(gain)
        return {key: {user: float(np.mean(g)) for user, g in by_user.items()} for key, by_user in gains.items()}

    def merge(self, aspects: Sequence[Aspect]) -> list[Aspect]:
        """Merge spellings of a name. Aspect names come from item attributes, so they name no product or user."""
        return merge_names(aspects)


def certainty(z: float, config: ExtractiveConfig) -> str:
    """Return the word that a global line carries for a lift of z standard errors."""
    return CERTAINTY[sum(z >= bound for bound in config.certain)]


def values_per_item(items: Iterable[Sequence[Value]]) -> dict[str, int]:
    """Return {aspect: mean number of values per item that has the aspect, rounded}, given the values of each item."""
    counts: dict[str, list[int]] = defaultdict(list)
    for values in items:
        for aspect, number in Counter(aspect for aspect, _ in values).items():
            counts[aspect].append(number)
    return {aspect: round(sum(numbers) / len(numbers)) for aspect, numbers in counts.items()}


def agreement_gain(contrast: Contrast, usual: Mapping[str, str], items: ItemReader) -> dict[str, float]:
    """Eq. (6): return, per aspect, (1 if i+ has the user's usual value, else 0) - the share of I- with it, in -1..1."""
    bought = set(items.values_of(contrast.bought.item))
    unchosen = [set(items.values_of(item)) for item in contrast.unchosen]
    aspects = {aspect for aspect, _ in bought}
    pairs = [pair for pair in usual.items() if pair[0] in aspects]
    return {pair[0]: (pair in bought) - sum(pair in item for item in unchosen) / len(unchosen) for pair in pairs}


def lift(gains: Sequence[float]) -> tuple[float, float]:
    """Return (mean, standard error) of the users' gains; the error is infinite for fewer than two users."""
    mean = float(np.mean(gains)) if gains else 0.0
    return mean, float(np.std(gains, ddof=1) / math.sqrt(len(gains))) if len(gains) >= 2 else math.inf


def parents(decisive: Sequence[Aspect], bought: Iterable[tuple[str, tuple[str, ...]]]) -> list[Aspect]:
    """Return, for parent categories with two or more scenarios, the aspects that decide in more than half of these.

    `bought`: (user, category path) of each purchase. Only users who bought below the parent support its aspects: a
    scenario may lie below several parents.
    """
    below: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # parent -> scenario -> users
    for user, path in bought:
        for parent in path[:-1]:
            below[plain(parent)][plain(path[-1])].add(user)
    found = []
    for parent, scenarios in sorted((parent, those) for parent, those in below.items() if len(those) >= 2):
        users: dict[str, list[frozenset[str]]] = defaultdict(list)
        for aspect in decisive:
            if aspect.scenario in scenarios:
                users[aspect.name].append(aspect.users & scenarios[aspect.scenario])
        majority = (name for name in users if len(users[name]) > len(scenarios) / 2)
        found += [Aspect(parent, name, frozenset().union(*users[name])) for name in majority]
    return found
