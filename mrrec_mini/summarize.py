"""f_LLM of eq. 4-6: an extractive writer that counts, and a language-model writer, behind `memory.Summarizer`.

Flow: `Memory.build` is given one of the two; what they write becomes pattern, profile and global entries.

`ExtractiveSummarizer` (the default) generates no text: it counts attribute values over a history.
- What a purchase says of its item's value of an aspect (`stances`), with liking = (rating - 3) / 2 in -1..1 and
  m = `mention_weight`: liking if the review is silent on it; m (1 + min(liking, 0)) if the review mentions it; -m if a
  complaint does. So one bad point of a good purchase counts against that point only. All times the attention, 0..1,
  that reviews of the scenario pay to the aspect (`learn_attention`); without reviews it is 1.
- A review mentions a value by the value's words, by the aspect's name, or by a word that train users' reviews use for
  that value (`learn_words`); a sentence is a complaint if it holds one of a few general words (`COMPLAINTS`).
- Eq. (4), (5): the sums by (category, aspect, value), and over the categories. The largest of an aspect is written if
  it reaches a threshold; several only for aspects of which an item has several (genres of a film).
- Eq. (6): an aspect decides in a scenario if the bought item has the value that its user otherwise prefers (this
  purchase left out) more often than similar unchosen items do: `agreement_gain`, its mean over users (`lift`).
Departures: global lines have no description; an aspect that nobody follows or mentions is never written.
Guessed: the weights and thresholds of `ExtractiveConfig`, chosen on the synthetic shop.

`LMSummarizer` asks any `generate(prompt) -> answer` with the paper's prompts A and B and two for eq. 4 and 5, all in
our own words. What people wrote enters as JSON strings in a fenced block, which they cannot close, below a line that
says so. An answer that does not parse, or an entry that breaks a rule, is dropped and counted; nothing raises. An entry
rests on the records that it names, and is dropped if they are not among those shown. `Recorded` makes it resumable.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mrrec_mini.datatypes import Item
from mrrec_mini.memory import Aspect, Contrast, Preference, Purchase, plain

Value = tuple[str, str]  # (aspect, value), both plain
COMPLAINTS = frozenset(
    """not no never too sadly unfortunately however but wish disappointed disappointing hate lacks
    isn't wasn't doesn't didn't don't won't can't""".split()  # noqa: SIM905 words read better than a list of strings
)


@dataclass(frozen=True)
class ExtractiveConfig:
    """Weights and thresholds. One unit of strength is a five-star purchase whose review is silent."""

    mention_weight: float = 6.0  # m: what a praise is worth
    min_pattern: float = 2.0  # two silent five-star purchases, or one mention, at full attention
    min_profile: float = 0.5  # a line for nearly all aspects: a weak guess beats none
    max_values: int = 2  # of one aspect in a line; reached only where items have several
    min_lift: float = 0.1  # agreement of the bought item above that of the unchosen ones, 0..1
    min_z: float = 3.0  # lift / its standard error
    sharpness: float = 2.0  # exponent of the attention
    word_count: int = 8  # a word speaks for a value when it was met so often ...
    word_share: float = 0.8  # ... so large a share of it with items of that value ...
    word_z: float = 4.0  # ... and that share so many standard errors above the value's usual one ...
    word_users: int = 3  # ... from so many people: what is learned stays when one of them is forgotten


def values_of(item: Item) -> list[Value]:
    """The item's (aspect, value) pairs in plain words, each once."""
    pairs = ((plain(aspect), plain(value)) for aspect, values in item.attributes.items() for value in values)
    return list(dict.fromkeys((aspect, value) for aspect, value in pairs if aspect and value))


def sentences(review: str) -> list[frozenset[str]]:
    """The words of each sentence."""
    return [frozenset(words) for part in re.split(r"[.!?;\n]+", review) if (words := plain(part).split())]


def learn_words(purchases: Iterable[Purchase], config: ExtractiveConfig) -> dict[str, Value]:
    """{review word: the (aspect, value) it speaks for}: of the purchases reviewed with the word, a share of at least
    `word_share` has the value, and that is `word_z` standard errors above the value's share of all purchases. No word
    of fewer than `word_users` people."""
    together: Counter[tuple[str, Value]] = Counter()
    of_word: Counter[str] = Counter()
    people: dict[str, set[str]] = defaultdict(set)
    of_value: Counter[Value] = Counter()
    total = 0
    for purchase in purchases:
        total += 1
        values = values_of(purchase.item)
        of_value.update(values)
        for word in set(plain(purchase.review).split()):
            of_word[word] += 1
            people[word].add(purchase.user)
            together.update((word, value) for value in values)
    best: dict[str, tuple[float, Value]] = {}
    for (word, value), count in together.items():
        n, share, base = of_word[word], count / of_word[word], of_value[value] / total
        error = math.sqrt(base * (1 - base) / n)  # of the share, if the word had nothing to do with the value
        often = n >= config.word_count and len(people[word]) >= config.word_users
        if often and share >= config.word_share and 0 < config.word_z * error <= share - base:
            best[word] = max(best.get(word, (0.0, value)), (share, value))
    return {word: value for word, (_, value) in best.items()}


@dataclass(frozen=True)
class Reading:
    """What was learned from the train users' reviews about how people speak."""

    words: Mapping[str, Value] = field(default_factory=dict)  # review word -> what it speaks for
    attention: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (scenario, aspect) -> 0..1; absent: 1


def read(purchases: Sequence[Purchase], config: ExtractiveConfig) -> Reading:
    """Learn the words first, then with them what each scenario's reviews attend to."""
    words = learn_words(purchases, config)
    return Reading(words, learn_attention(purchases, words, config))


def learn_attention(
    purchases: Iterable[Purchase], words: Mapping[str, Value], config: ExtractiveConfig
) -> dict[tuple[str, str], float]:
    """{(scenario, aspect): attention = (1 - (m* - m)) ** sharpness}, in 0..1.

    m is the share of the scenario's reviews that mention the aspect and m* the largest such share there. Where reviews
    say nothing of any aspect, all attention is 1; where they speak of some aspects, silence on another means something.
    """
    reviews: Counter[str] = Counter()
    heard: Counter[tuple[str, str]] = Counter()
    for purchase in purchases:
        scenario = plain(purchase.scenario)
        reviews[scenario] += 1
        about = mentions(purchase, words)
        heard.update({(scenario, aspect): 0 for aspect, _ in about})
        heard.update({(scenario, aspect) for (aspect, _), said in about.items() if said})
    share = {key: count / reviews[key[0]] for key, count in heard.items()}
    most: dict[str, float] = defaultdict(float)
    for (scenario, _), part in share.items():
        most[scenario] = max(most[scenario], part)
    return {key: (1 - (most[key[0]] - part)) ** config.sharpness for key, part in share.items()}


def mentions(purchase: Purchase, words: Mapping[str, Value]) -> dict[Value, list[frozenset[str]]]:
    """For each value of the purchase's item, the sentences of its review that mention it."""
    spoken = [(said, {words[word] for word in said if word in words}) for said in sentences(purchase.review)]
    about = {}
    for aspect, value in values_of(purchase.item):
        names = (frozenset(value.split()), frozenset(aspect.split()))
        about[aspect, value] = [
            said for said, learned in spoken if (aspect, value) in learned or any(name <= said for name in names)
        ]
    return about


def stances(purchase: Purchase, reading: Reading, config: ExtractiveConfig) -> dict[Value, float]:
    """What a purchase says for (+) or against (-) each value of its item. See the module docstring."""
    liking = (purchase.rating - 3) / 2  # -1..1
    scenario = plain(purchase.scenario)
    result = {}
    for (aspect, value), about in mentions(purchase, reading.words).items():
        if not about:
            stance = liking
        elif any(said & COMPLAINTS for said in about):
            stance = -config.mention_weight
        else:
            stance = config.mention_weight * (1 + min(liking, 0.0))
        result[aspect, value] = stance * reading.attention.get((scenario, aspect), 1.0)
    return result


def favourites(tally: Mapping[Value, float]) -> dict[str, str]:
    """{aspect: its value with the largest sum above 0}; equal sums: the first in the alphabet."""
    best: dict[str, tuple[float, str]] = {}
    for (aspect, value), strength in tally.items():
        if strength > 0 and (aspect not in best or (-strength, value) < best[aspect]):
            best[aspect] = (-strength, value)
    return {aspect: value for aspect, (_, value) in best.items()}


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """{name: canonical name}: plain words, and a plural becomes its singular where that is met as well.

    `Film-Genres`, `film genre` -> `film genre`; `lens` stays, for nobody says `len`.
    """
    spelled = {name: plain(name) for name in names}
    met = set(spelled.values())

    def singular(name: str) -> str:
        forms = [name[:-3] + "y"] * name.endswith("ies") + [name[:-2]] * name.endswith("es") + [name[:-1]]
        return next((form for form in forms if name.endswith("s") and form in met), name)

    return {name: singular(text) for name, text in spelled.items()}


def merge_names(aspects: Iterable[Aspect]) -> list[Aspect]:
    """One aspect for each (scenario, canonical name), with the users of all its spellings."""
    aspects = list(aspects)
    canonical = canonical_names(aspect.name for aspect in aspects)
    merged: dict[tuple[str, str], Aspect] = {}
    for aspect in aspects:
        key = (aspect.scenario, canonical[aspect.name])
        if key[1]:
            known = merged.get(key, Aspect(*key, frozenset()))
            description = known.description or aspect.description
            merged[key] = Aspect(*key, known.users | aspect.users, description)
    return list(merged.values())


@dataclass(frozen=True)
class ExtractiveSummarizer:
    """Counts; see the module docstring. `reading` is what `fit` learned."""

    config: ExtractiveConfig = ExtractiveConfig()
    reading: Reading = field(default_factory=Reading, repr=False)

    def fit(self, purchases: Sequence[Purchase]) -> ExtractiveSummarizer:
        """Learn how people speak of values."""
        return ExtractiveSummarizer(self.config, read(purchases, self.config))

    def patterns(self, purchases: Sequence[Purchase]) -> list[Preference]:
        """Eq. (4), extractive: strength(aspect, value) = sum of the stances of the purchases in one category."""
        strength: dict[Value, float] = defaultdict(float)
        rests_on: dict[Value, list[str]] = defaultdict(list)
        for purchase in purchases:
            for value, stance in stances(purchase, self.reading, self.config).items():
                strength[value] += stance
                if stance > 0:
                    rests_on[value].append(purchase.record)
        several = values_an_item(purchase.item for purchase in purchases)
        scenario = plain(purchases[0].scenario) if purchases else ""
        return self._preferences(scenario, strength, rests_on, several, self.config.min_pattern)

    def profile(self, patterns: Sequence[Preference]) -> list[Preference]:
        """Eq. (5), extractive: strength(aspect, value) = sum over the categories' patterns, weak ones included."""
        strength: dict[Value, float] = defaultdict(float)
        rests_on: dict[Value, list[str]] = defaultdict(list)
        several: Counter[str] = Counter()
        firm: Counter[tuple[str, str]] = Counter()
        for pattern in patterns:
            strength[pattern.aspect, pattern.value] += pattern.strength
            rests_on[pattern.aspect, pattern.value] += pattern.rests_on
            firm[pattern.scenario, pattern.aspect] += pattern.firm
        for (_, aspect), count in firm.items():
            several[aspect] = max(several[aspect], count)
        return self._preferences("", strength, rests_on, several, self.config.min_profile)

    def _preferences(
        self,
        scenario: str,
        strength: Mapping[Value, float],
        rests_on: Mapping[Value, Sequence[str]],
        several: Mapping[str, int],
        least: float,
    ) -> list[Preference]:
        """All sums, strongest first; firm are the best `several[aspect]` of an aspect that reach `least`."""
        written: Counter[str] = Counter()
        preferences = []
        for (aspect, value), weight in sorted(strength.items(), key=lambda pair: (-pair[1], pair[0])):
            allowed = min(max(several.get(aspect, 1), 1), self.config.max_values)
            firm = weight >= least and written[aspect] < allowed
            written[aspect] += firm
            records = tuple(rests_on.get((aspect, value), ()))
            preferences.append(Preference(scenario, aspect, value, weight, records, firm))
        return preferences

    def aspects(self, contrasts: Sequence[Contrast]) -> list[Aspect]:
        """Eq. (6), extractive: the aspects whose lift is above `min_lift` and `min_z` standard errors.

        At a parent category an aspect holds when it decides in more than half of its scenarios, of at least two.
        """
        lifts = self.lifts(contrasts)
        decisive = []
        for (scenario, aspect), by_user in lifts.items():
            mean, error = lift(list(by_user.values()))
            if mean > self.config.min_lift and mean > self.config.min_z * error:
                users = frozenset(user for user, gain in by_user.items() if gain > 0)
                decisive.append(Aspect(scenario, aspect, users))
        return decisive + parents(decisive, {contrast.bought.item.category for contrast in contrasts})

    def lifts(self, contrasts: Sequence[Contrast]) -> dict[tuple[str, str], dict[str, float]]:
        """{(scenario, aspect): {user: mean agreement gain over this user's contrasts, -1..1}}."""
        said: dict[str, dict[Value, float]] = {}  # stances by record
        totals: dict[str, dict[Value, float]] = {}  # sums by user
        gains: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for contrast in contrasts:
            bought, user = contrast.bought, contrast.bought.user
            if user not in totals:
                said.update((one.record, stances(one, self.reading, self.config)) for one in contrast.history)
                totals[user] = defaultdict(float)
                for one in contrast.history:
                    for value, stance in said[one.record].items():
                        totals[user][value] += stance
            own = said[bought.record]
            others = {value: total - own.get(value, 0.0) for value, total in totals[user].items()}
            for aspect, gain in agreement_gain(contrast, favourites(others)).items():
                gains[plain(bought.scenario), aspect][user].append(gain)
        return {key: {user: float(np.mean(g)) for user, g in by_user.items()} for key, by_user in gains.items()}

    def merge(self, aspects: Sequence[Aspect]) -> list[Aspect]:
        """One entry for the spellings of an aspect. Names of aspects hold nothing of a product or a user."""
        return merge_names(aspects)


def values_an_item(items: Iterable[Item]) -> dict[str, int]:
    """{aspect: how many values an item that has it has, on average, rounded}."""
    counts: dict[str, list[int]] = defaultdict(list)
    for item in items:
        for aspect, number in Counter(aspect for aspect, _ in values_of(item)).items():
            counts[aspect].append(number)
    return {aspect: round(sum(numbers) / len(numbers)) for aspect, numbers in counts.items()}


def agreement_gain(contrast: Contrast, usual: Mapping[str, str]) -> dict[str, float]:
    """Eq. (6), extractive: for each aspect, [i+ has the usual value] - the share of I- that has it. -1..1."""
    bought = set(values_of(contrast.bought.item))
    unchosen = [set(values_of(item)) for item in contrast.unchosen]
    return {
        aspect: (pair in bought) - sum(pair in item for item in unchosen) / len(unchosen)
        for pair in usual.items()
        for aspect in pair[:1]
        if any(name == aspect for name, _ in bought)
    }


def lift(gains: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error) over users; one user alone has no error to show, so it is infinite."""
    if len(gains) < 2:
        return (float(np.mean(gains)) if gains else 0.0), math.inf
    return float(np.mean(gains)), float(np.std(gains, ddof=1) / math.sqrt(len(gains)))


def parents(decisive: Sequence[Aspect], paths: Iterable[tuple[str, ...]]) -> list[Aspect]:
    """Aspects that decide in more than half of the scenarios under a parent category, of at least two."""
    below: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for parent in path[:-1]:
            below[plain(parent)].add(plain(path[-1]))
    found = []
    for parent, scenarios in sorted(below.items()):
        users: dict[str, list[frozenset[str]]] = defaultdict(list)
        for aspect in decisive:
            if aspect.scenario in scenarios:
                users[aspect.name].append(aspect.users)
        for name, groups in users.items():
            if len(scenarios) >= 2 and len(groups) > len(scenarios) / 2:
                found.append(Aspect(parent, name, frozenset().union(*groups)))
    return found
