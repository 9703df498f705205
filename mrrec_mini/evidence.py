"""Evidence: which memory each word of a profile was copied from, and whether the policy cites these memories.

Flow: after rollout, before reward. `copied_from` compares the profile with the memories that the episode showed.
`citations` compares the result with what the policy cites (`Answer.evidence`). `reward` can pay for good citations, and
the assistant shows a person both. Equations: none.

The rule of `copied_from`, for words in lower case and without punctuation:
    1. The profile is read from left to right as runs of words. A run does not begin with a word of the query: that word
       needs no memory, so it is skipped.
    2. A run ends before the next word that a call asked for. Such a word is an aspect, and each call leads to a note.
    3. The longest run is taken that one shown memory holds as whole words, in this order. Other words may stand between
       them: `overall color red 5 lately blue 2` holds `color blue`. A word that no memory holds was invented.
    4. If several memories hold the run, those win that answered a call for the first word of the run, because a note
       is taken when its call is answered. If the text cannot tell them apart, the policy is believed: those win that it
       cites. Then those win that hold the run without a gap, then the memory shown first.

A memory counts only as far as it was shown: long ones are cut. The rule says where a word can be read, not what caused
it; `counterfactual` tests causes. Departure: the paper asks for citations, but neither measures nor rewards them. So a
policy can copy from one memory and cite another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import dropwhile, pairwise, takewhile
from typing import NamedTuple

from mrrec_mini.bm25 import words
from mrrec_mini.datatypes import Episode, MemoryEntry
from mrrec_mini.grammar import Grammar


class Copied(NamedTuple):
    """Some words of a profile and their source."""

    text: str  # neighbouring words of the profile, in lower case
    entry: MemoryEntry | None  # the memory that they were copied from; None: they are not from memory


class Citations(NamedTuple):
    """Numbers of memories, in one episode or added up over several."""

    shown: int  # distinct memories that the calls returned
    copied: int  # those that the profile was copied from
    cited: int  # those that the policy cites
    both: int  # those that are copied and cited

    @property
    def precision(self) -> float | None:
        """Share of the cited memories that were copied from, in 0..1; None if nothing is cited."""
        return self.both / self.cited if self.cited else None

    @property
    def recall(self) -> float | None:
        """Share of the copied memories that are cited, in 0..1; None if nothing was copied."""
        return self.both / self.copied if self.copied else None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in 0..1; 1 if nothing is cited and nothing was copied."""
        found = self.cited + self.copied
        return 2 * self.both / found if found else 1.0


class Shown(NamedTuple):
    """A memory as the policy saw it."""

    entry: MemoryEntry
    words: tuple[str, ...]  # of the text, as far as it was shown
    asked: frozenset[str]  # words of the call that returned it; empty for a global line
    cited: bool  # whether the answer cites it


def shown_memories(episode: Episode, grammar: Grammar) -> list[Shown]:
    """Return the memories of an episode: those of the calls in the order shown, then the global lines."""
    found = [(entry, frozenset(words(call.text))) for call in episode.calls for entry in call.entries]
    found += [(entry, frozenset()) for entry in episode.global_entries]
    cited = episode.answer.evidence if episode.answer else ()
    return [Shown(entry, shown_words(entry.text, grammar), asked, entry.id in cited) for entry, asked in found]


@lru_cache(maxsize=65_536)  # cached, because the episodes of a group read the same memories
def shown_words(text: str, grammar: Grammar) -> tuple[str, ...]:
    """Return the words of a memory as far as the policy sees them: at most `entry_tokens` tokens."""
    tokenizer = grammar.tokenizer
    return tuple(words(tokenizer.decode(tokenizer.encode(text)[: grammar.entry_tokens])))


def copied_from(episode: Episode, grammar: Grammar) -> list[Copied]:
    """Return the words of the profile that the query does not hold, in order, with their sources; [] if no answer."""
    if episode.answer is None:
        return []
    memories = shown_memories(episode, grammar)
    asked = {word for call in episode.calls for word in words(call.text)}
    query, rest = set(words(episode.query.text)), words(episode.answer.profile)
    found = []
    while rest := list(dropwhile(query.__contains__, rest)):
        # an aspect of several words is not cut: the word before the cut is one that no call asked for
        aspects = (i for i, (before, word) in enumerate(pairwise(rest), 1) if word in asked and before not in asked)
        note = rest[: next(aspects, len(rest))]
        source = max(memories, key=lambda memory: fit(note, memory), default=None)  # the first of equals
        length = fit(note, source)[0] if source else 0
        run, rest = rest[: length or 1], rest[length or 1 :]
        found.append(Copied(" ".join(run), source.entry if length else None))
    return found


def fit(note: Sequence[str], memory: Shown) -> tuple[int, bool, bool, bool]:
    """Return how well a memory explains a note: (number of its first words held in order, asked, cited, no gap)."""
    left = iter(memory.words)
    length = sum(1 for _ in takewhile(lambda word: word in left, note))  # `in` goes on where it stopped before
    run = f" {' '.join(note[:length])} "
    return length, note[0] in memory.asked, memory.cited, run in f" {' '.join(memory.words)} "


def citations(episode: Episode, grammar: Grammar) -> Citations:
    """Compare the memories that the policy cites with those that it copied from. Global lines cannot be cited."""
    shown = {entry.id for call in episode.calls for entry in call.entries}
    copied = {one.entry.id for one in copied_from(episode, grammar) if one.entry} & shown
    cited = set(episode.answer.evidence) if episode.answer else set()
    return Citations(len(shown), len(copied), len(cited), len(cited & copied))


def add_up(several: Iterable[Citations]) -> Citations:
    """Add up the numbers of several episodes, so that each memory counts the same, not each episode."""
    return Citations(*map(sum, zip(Citations(0, 0, 0, 0), *several, strict=True)))


def values_read(episode: Episode, grammar: Grammar) -> dict[str, tuple[MemoryEntry, ...]]:
    """Return {aspect: the memories that state the profile's value of it}, for aspects that matter and were looked up.

    The value is the word after the aspect. Only memories that answered a call for the aspect count. Nobody has to guess
    here, but it works only in the shop: raises ValueError if the query has no `truth`.
    """
    if episode.query.truth is None:
        raise ValueError(f"query {episode.query.id} has no known truth; only queries of the synthetic shop have one")
    value = dict(pairwise(words(episode.answer.profile))) if episode.answer else {}
    found: dict[str, dict[str, MemoryEntry]] = {}
    for memory in shown_memories(episode, grammar):
        for aspect in memory.asked & value.keys() & episode.query.truth.keys():
            states = fit([aspect, value[aspect]], memory)[0] == 2
            found.setdefault(aspect, {}).update({memory.entry.id: memory.entry} if states else {})
    return {aspect: tuple(entries.values()) for aspect, entries in found.items()}


def evidence_report(episodes: Iterable[Episode], grammar: Grammar) -> dict[str, float | None]:
    """Return the numbers of `Citations` over all episodes, precision, recall, and the share of words from memory."""
    episodes = list(episodes)
    total = add_up(citations(episode, grammar) for episode in episodes)
    runs = [(len(one.text.split()), one.entry) for episode in episodes for one in copied_from(episode, grammar)]
    length = sum(size for size, _ in runs)
    held = sum(size for size, entry in runs if entry) / length if length else None
    return {**total._asdict(), "precision": total.precision, "recall": total.recall, "from memory": held}
