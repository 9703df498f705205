"""The grammar of an episode: what the policy is shown, what it may write, and how its turns are parsed.

Flow: between memory and rollout. An episode is one list of token ids:

    <query> mug for hiking <global> <line> surely mug price <line> likely mug hiking size    the prompt (eq. 7)
    <think> <search> mug price overall </search>                                           a turn of the policy
    <memory> <m1> overall price fair 4 2021q1 <m2> mug price luxury 1 2020q4 </memory>     the tool's reply (eq. 8)
    <think> price fair <search> mug size lately </search>
    <memory> <m3> lately size small 2 2021q1 </memory>
    <think> size small <profile> mug for hiking price fair size small <evidence> <m1> <m3> <end>    the answer (eq. 9)

Grammar of a turn: `<think> words (<search> words </search> | <profile> words <evidence> references <end>)`. Anything
else is malformed. Each name in angle brackets is one control token. The texts of users, items and memories are encoded
separately, and their encoding never contains a control token, so no review can open a search or an answer. The parser
sees only tokens that the policy sampled.

Departure from the paper: its answer is a boxed JSON with `ideal_item_profile` and `useful_memory_ids`; here the same
two fields stand between control tokens, because a model of 0.2M parameters should use its capacity to learn what to
look up. An answer refers to a memory by its number in the episode (<m1>, <m2>, ...). Guessed: the tool-call syntax,
which the paper does not print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mrrec_mini.datatypes import MemoryEntry

REFERENCES = tuple(f"<m{i}>" for i in range(1, 25))
CONTROL = (
    *("<pad>", "<query>", "<global>", "<line>", "<memory>", "</memory>"),
    *("<think>", "<search>", "</search>", "<profile>", "<evidence>", "<end>"),
    *REFERENCES,
)


@dataclass(frozen=True)
class Search:
    """A turn that calls the memory tool."""

    think: str
    text: str


@dataclass(frozen=True)
class Final:
    """A turn that answers. `evidence`: the memories it cites, each by its number in the episode; the first is 0."""

    think: str
    profile: str
    evidence: tuple[int, ...]


@dataclass(frozen=True)
class Malformed:
    """A turn that breaks the grammar, and the rule it breaks."""

    why: str


Turn = Search | Final | Malformed


def turns(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Return [start, end) of each turn of an episode. A turn is a run of sampled tokens (mask 1)."""
    edges = [i for i in range(len(mask) + 1) if (i < len(mask) and mask[i]) != (i > 0 and mask[i - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))


class Grammar:
    """Builds the token ids of an episode and parses the turns of the policy, with one tokenizer."""

    def __init__(self, tokenizer, entry_tokens: int = 16):
        self.tokenizer = tokenizer
        self.entry_tokens = entry_tokens  # longer memories are cut when shown; a query may be twice as long
        self.control: Mapping[str, int] = tokenizer.control
        self._is_control = frozenset(self.control.values())
        self._reference = {self.control[name]: i for i, name in enumerate(REFERENCES)}
        self.stop = (self.control["</search>"], self.control["<end>"])

    # ------------------------------------------------------------------ what the policy is shown

    def prompt(self, query_text: str, global_entries: Sequence[MemoryEntry]) -> list[int]:
        """Return the ids of the prompt (eq. 7): `<query> q <global>`, then `<line>` and the text of each entry."""
        ids = [self.control["<query>"], *self._text(query_text, 2 * self.entry_tokens), self.control["<global>"]]
        for entry in global_entries:
            ids += [self.control["<line>"], *self._text(entry.text)]
        return ids

    def reply(self, entries: Sequence[MemoryEntry], first: int) -> list[int]:
        """Return the ids of the reply `<memory> <m1> ... </memory>` (eq. 8), after `first` memories were shown."""
        ids = [self.control["<memory>"]]
        for number, entry in enumerate(entries, start=first):
            ids += [self.control[REFERENCES[number]], *self._text(entry.text)]
        return [*ids, self.control["</memory>"]]

    # ------------------------------------------------------------------ what a script writes instead of the policy

    def write_search(self, think: str, text: str) -> list[int]:
        c = self.control
        return [c["<think>"], *self._text(think), c["<search>"], *self._text(text), c["</search>"]]

    def write_final(self, think: str, profile: str, evidence: Sequence[int]) -> list[int]:
        c = self.control
        references = [c[REFERENCES[i]] for i in evidence]
        answer = self._text(profile, 4 * self.entry_tokens)
        return [c["<think>"], *self._text(think), c["<profile>"], *answer, c["<evidence>"], *references, c["<end>"]]

    # ------------------------------------------------------------------ what the policy wrote

    def parse(self, ids: Sequence[int], shown: int) -> Turn:
        """Parse one turn of sampled ids. `shown`: the number of memories that the episode has shown so far."""
        c = self.control
        if not ids or ids[0] != c["<think>"]:
            return Malformed("a turn opens with <think>")
        think, rest = self._words(ids[1:])
        if rest and rest[0] == c["<search>"]:
            text, rest = self._words(rest[1:])
            if rest != [c["</search>"]]:
                return Malformed("a search ends with </search>")
            if not text.strip():
                return Malformed("an empty search")
            return Search(think, text)
        if rest and rest[0] == c["<profile>"]:
            profile, rest = self._words(rest[1:])
            if not rest or rest[0] != c["<evidence>"]:
                return Malformed("a profile is followed by <evidence>")
            if rest[-1] != c["<end>"]:
                return Malformed("an answer ends with <end>")
            if not profile.strip():
                return Malformed("an empty profile")
            if any(self._reference.get(i, shown) >= shown for i in rest[1:-1]):
                return Malformed("evidence names a memory that was not shown")
            return Final(think, profile, tuple(dict.fromkeys(self._reference[i] for i in rest[1:-1])))
        return Malformed("thinking leads to <search> or <profile>")

    def forbidden(self, last: bool) -> tuple[int, ...]:
        """Return the tokens to forbid if every search must be used: `<profile>`, but in the last turn `<search>`."""
        return (self.control["<search>" if last else "<profile>"],)

    def thought(self, ids: Sequence[int]) -> tuple[int, str]:
        """Return the thought at the start of a turn: its number of ids (`<think>` included) and its words."""
        if not ids or ids[0] != self.control["<think>"]:
            return 0, ""
        words, rest = self._words(ids[1:])
        return len(ids) - len(rest), words

    def transcript(self, tokens: Sequence[int], mask: Sequence[int]) -> list[tuple[str, str]]:
        """Return an episode as readable text: ("shown" | "policy", text) for each run of given or sampled tokens."""
        runs = groupby(zip(tokens, mask, strict=True), key=lambda pair: pair[1])
        return [("policy" if m else "shown", self.tokenizer.decode([i for i, _ in run])) for m, run in runs]

    def _words(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Return the text before the first control token, and the ids from that token on."""
        end = next((i for i, token in enumerate(ids) if token in self._is_control), len(ids))
        return self.tokenizer.decode(ids[:end]), list(ids[end:])

    def _text(self, text: str, limit: int | None = None) -> list[int]:
        return self.tokenizer.encode(text)[: limit or self.entry_tokens]
