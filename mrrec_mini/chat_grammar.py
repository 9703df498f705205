"""The same episode in a chat model's own words: its template, tool turns, and the paper's boxed JSON as the answer.

Flow: beside prompts. `ChatGrammar` is a `prompts.Grammar` for models that were taught to chat: what `grammar` builds
from control tokens of ours is built here from the turns of the model's chat template (ChatML, as SmolLM2 speaks it):

    <|im_start|>system ... <|im_end|>                                 what to do; two worked examples follow, as turns
    <|im_start|>user                                                  the prompt (eq. 7: q, M_global)
    Wish: mug for hiking. Topics: mug price, mug size<|im_end|>
    <|im_start|>assistant
    price size <search>mug price</search><|im_end|>                   a turn of the policy
    <|im_start|>tool                                                  the tool's reply (eq. 8)
    1. mug price luxury
    2. overall price fair<|im_end|>
    <|im_start|>assistant
    price luxury \\boxed{{"ideal_item_profile": "mug for hiking price luxury", "useful_memory_ids": [1]}}<|im_end|>

Grammar of a turn: words, then `<search>words</search>` or `\\boxed{JSON}` with exactly the two fields (eq. 9), then the
model's own end-of-turn token. Whatever else is malformed; so is a control token before the end.

The template is rendered once, with marks where texts will stand, and cut at the marks; its pieces are tokenised with
their control tokens. Texts of people and memories are tokenised apart (`Tokenizer.encode`), one line each, and set
between the pieces as ids. They never pass through the template, so no text can make a control token, a turn, or a
numbered line. This holds only where control tokens part the turns: other templates are refused. `apply_chat_template`
on whole conversations would not do: what a review says becomes control tokens there, unless one asks otherwise.

Where a template has no tool role, memory comes in a user turn; where it has no system role, the instruction opens the
first user turn. Templates that print today's date are given one that stays. Tokenizers that begin each text with a
space (SentencePiece) put one before each piece: the model sees it, nothing depends on it.

Paper: the answer is its boxed JSON. Guessed: its system prompt and its tool call, neither of which it prints. Ours: the
two worked examples. SmolLM2-135M (temperature 1) ignores the bare instruction, and the same examples told in the system
turn; one example as turns makes it answer and never search; after two it searches in half of its first turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import Final, Grammar, Malformed, Search, Turn
from mrrec_mini.sampler import Sampler

INSTRUCTION = """Look up what the person likes:
<search>topic</search>
When you know enough, answer:
\\boxed{{"ideal_item_profile": "words", "useful_memory_ids": [1]}}"""
EXAMPLE = (
    ("user", "Wish: tent for rain. Topics: tent fabric, sofa shape"),
    ("assistant", "<search>tent fabric</search>"),
    ("tool", "1. tent fabric canvas\n2. sofa shape round"),
    ("assistant", '\\boxed{{"ideal_item_profile": "tent for rain fabric canvas", "useful_memory_ids": [1]}}'),
    ("user", "Wish: sofa for reading. Topics: tent weight, sofa shape, sofa size"),
    ("assistant", "<search>sofa shape</search>"),
    ("tool", "1. sofa shape oval\n2. sofa fabric silk"),
    ("assistant", '\\boxed{{"ideal_item_profile": "sofa for reading shape oval", "useful_memory_ids": [1]}}'),
)
WRITER = "You write down what people like, in short lines."  # where a summary is asked for
FIELDS = {"ideal_item_profile", "useful_memory_ids"}
QUERY, TURN, MEMORY = "QUERY0TEXT", "TURN0TEXT", "MEMORY0TEXT"  # marks: cut out before any text of people comes in
TODAY = "{% macro strftime_now(form) %}01 Jan 2025{% endmacro %}"  # a run must not change overnight
OPENING = re.compile(r"<search>|\\boxed\{")


class ChatGrammar(Grammar):
    """Writes and reads episodes through the chat template of a `PretrainedTokenizer`. ValueError: a template that
    cannot be split safely, with what is wrong with it.
    """

    def __init__(self, tokenizer, entry_tokens: int = 24):
        self.tokenizer = tokenizer
        self.entry_tokens = entry_tokens  # a longer memory is cut for the policy's eyes
        self.control = tokenizer.control  # none: a chat model has its own
        head, ask, close, hand_back = (tokenizer.encode_template(piece) for piece in pieces(tokenizer.inner))
        reserved = tokenizer.reserved
        if not close or close[0] not in reserved:
            raise _refused("an assistant's turn does not end with a control token")
        if not (reserved & set(ask) and reserved & set(hand_back)):
            raise _refused("no control token stands between a user's or a tool's text and the assistant's turn")
        self._head, self._ask, self._hand_back = head, ask, hand_back
        self.end, self._close = close[0], close[1:]  # the policy writes the first, the template the rest
        self.stop = (self.end, *sorted(reserved - {self.end}))  # after another control token nothing good can come

    # ------------------------------------------------------------------ what the policy is shown

    def prompt(self, query_text: str, global_entries: Sequence[MemoryEntry]) -> list[int]:
        """Instruction, example, wish and global memory (eq. 7), up to where the assistant's turn begins."""
        ids = [*self._head, *self._words("Wish:"), *self._line(query_text, 2 * self.entry_tokens)]
        for number, entry in enumerate(global_entries):
            ids += [*self._words("," if number else ". Topics:"), *self._line(entry.text)]
        return [*ids, *self._ask]

    def reply(self, entries: Sequence[MemoryEntry], first: int) -> list[int]:
        """A tool turn of numbered lines (eq. 8), counted from 1 through the episode; `first` were shown before."""
        lines = [[*self._words(f"{n}."), *self._line(e.text)] for n, e in enumerate(entries, start=first + 1)]
        ids = [*self._close, *(lines[0] if lines else self._words("nothing"))]
        for line in lines[1:]:
            ids += [*self._words("\n"), *line]
        return [*ids, *self._hand_back]

    # ------------------------------------------------------------------ what a script writes in the policy's place

    def write_search(self, think: str, text: str) -> list[int]:
        return self._turn(f"{self._short(think)} <search>{self._short(text)}</search>")

    def write_final(self, think: str, profile: str, evidence: Sequence[int]) -> list[int]:
        said = self._short(profile, 4 * self.entry_tokens)
        answer = {"ideal_item_profile": said, "useful_memory_ids": [number + 1 for number in evidence]}
        return self._turn(f"{self._short(think)} \\boxed{{{json.dumps(answer, ensure_ascii=False)}}}")

    # ------------------------------------------------------------------ what the policy wrote

    def parse(self, ids: Sequence[int], shown: int) -> Turn:
        """Read one turn of sampled ids. `shown`: how many memories the episode has displayed so far."""
        if not ids or ids[-1] != self.end:
            return Malformed("a turn ends with the end-of-turn token")
        if self.tokenizer.reserved & set(ids[:-1]):
            return Malformed("a control token inside a turn")
        said = self.tokenizer.decode(ids[:-1])
        opening = OPENING.search(said)
        if opening is None:
            return Malformed("a turn searches or answers")
        think, rest = said[: opening.start()].strip(), said[opening.end() :].rstrip()
        if opening.group() == "<search>":
            text, close, after = rest.partition("</search>")
            if not close or after:
                return Malformed("a search ends with </search>")
            return Search(think, text.strip()) if text.strip() else Malformed("an empty search")
        if not rest.endswith("}"):
            return Malformed("a box ends with }")
        return _answer(think, rest[:-1], shown)

    def thought(self, ids: Sequence[int]) -> tuple[int, str]:
        """The words that open a turn, before its search or answer: how many of its ids are that, and the words."""
        opening = OPENING.search(self.tokenizer.decode(ids))
        if opening is None:
            return 0, ""
        # the fewest ids that reach the opening; the last of them may spell a part of it
        spelled = next(n for n in range(len(ids) + 1) if len(self.tokenizer.decode(ids[:n])) > opening.start())
        return spelled - 1, self.tokenizer.decode(ids)[: opening.start()].strip()

    def forbidden(self, last: bool) -> tuple[int, ...]:
        """What must not be sampled where every search has to be used: every token with a sign that an answer (before
        the last turn: a backslash) or a search (in the last turn: <) cannot be written without.
        """
        return self._spelling["<" if last else "\\"]

    @cached_property
    def _spelling(self) -> dict[str, tuple[int, ...]]:
        """Sign -> every token that spells it. Control tokens end a turn and spell nothing."""
        ordinary = [i for i in range(len(self.tokenizer)) if i not in self.tokenizer.reserved]
        said = {i: self.tokenizer.decode([i]) for i in ordinary}
        return {sign: tuple(i for i in ordinary if sign in said[i]) for sign in ("<", "\\")}

    # ------------------------------------------------------------------ text to ids

    def _turn(self, said: str) -> list[int]:
        return [*self._words(said.strip()), self.end]

    def _words(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _line(self, text: str, limit: int | None = None) -> list[int]:
        """One line, whatever the text says: it cannot begin another one. The space before it belongs to its first
        word, as in the texts that the model was made from.
        """
        return self._words(" " + " ".join(text.split()))[: limit or self.entry_tokens]

    def _short(self, text: str, limit: int | None = None) -> str:
        return self.tokenizer.decode(self._line(text, limit)).strip()


def ask_model(model, tokenizer, max_tokens: int = 400) -> Callable[[str], str]:
    """prompt -> answer: one user turn, greedy, up to the end of the assistant's; for `summarize.LMSummarizer`.

    The prompt is tokenised apart from the template, as an episode's texts are. ValueError: no usable template.
    """
    turn = ("user", QUERY)
    rendered = (_render(tokenizer.inner, talk) for talk in ([("system", WRITER), turn], [turn]))
    fit = next((text for text in rendered if text.count(QUERY) == 1), None)
    if fit is None:
        raise _refused("it does not show a user's text once and as it is")
    head, tail = (tokenizer.encode_template(piece) for piece in fit.split(QUERY))

    def ask(prompt: str) -> str:
        sampler = Sampler(model, [[*head, *tokenizer.encode(prompt), *tail]], temperature=0.0)
        [ids], _ = sampler.sample(sorted(tokenizer.reserved), max_tokens)
        return tokenizer.decode([i for i in ids if i not in tokenizer.reserved])

    return ask


def grammar_of(tokenizer) -> Grammar:
    """The grammar that fits a tokenizer: a chat model's own template, else our control tokens."""
    return ChatGrammar(tokenizer) if getattr(tokenizer, "chat_template", None) else Grammar(tokenizer)


def _answer(think: str, box: str, shown: int) -> Final | Malformed:
    """The JSON in the box (eq. 9)."""
    try:
        answer = json.loads(box)
        if not isinstance(answer, dict) or set(answer) != FIELDS:
            return Malformed("a box holds ideal_item_profile and useful_memory_ids")
        profile, numbers = answer["ideal_item_profile"], answer["useful_memory_ids"]
        if not isinstance(profile, str) or not isinstance(numbers, list) or any(type(n) is not int for n in numbers):
            return Malformed("the profile is a string, the ids are whole numbers")
        profile.encode()  # JSON can spell half a character, which is no text
    except (ValueError, RecursionError):
        return Malformed("a box holds JSON")
    if not profile.strip():
        return Malformed("an empty profile")
    if not all(1 <= number <= shown for number in numbers):
        return Malformed("evidence names a memory that was not shown")
    return Final(think, profile, tuple(number - 1 for number in dict.fromkeys(numbers)))


# ------------------------------------------------------------------------------------------------------ the template


def pieces(inner) -> tuple[str, str, str, str]:
    """A chat template cut at its texts: all up to the wish; from there to the policy's turn; from there to the
    memories; from there to the policy's next turn. ValueError where it cannot be cut so.
    """
    if not inner.chat_template:
        raise ValueError("the tokenizer has no chat template: only a model that was taught to chat can be played so")
    for system in (True, False):
        for memory_role in ("tool", "user"):
            if (cut := _cut(inner, system, memory_role)) is not None:
                return cut
    raise _refused("it does not show each text once and as it is")


def _cut(inner, system: bool, memory_role: str) -> tuple[str, str, str, str] | None:
    """The pieces with or without a system role, memory shown in turns of this role; None where that does not work."""
    talk = [(memory_role if role == "tool" else role, text) for role, text in EXAMPLE]
    if system:
        talk = [("system", INSTRUCTION), *talk]
    else:
        talk[0] = ("user", f"{INSTRUCTION}\n\n{talk[0][1]}")
    asked = _render(inner, [*talk, ("user", QUERY)])
    answered = _render(inner, [*talk, ("user", QUERY), ("assistant", TURN), (memory_role, MEMORY)])
    mistaken = _render(inner, [*talk, ("user", QUERY), ("assistant", TURN), ("assistant", MEMORY)])
    shown_whole = all(text in asked and text in answered for _, text in talk)
    marked = [asked.count(QUERY), *(answered.count(mark) for mark in (QUERY, TURN, MEMORY))] == [1] * 4
    if not (shown_whole and marked) or answered == mistaken:  # a role it does not know may pass for the assistant's
        return None
    head, ask = asked.split(QUERY)
    before, rest = answered.split(QUERY)
    close, hand_back = rest.partition(TURN)[2].split(MEMORY)
    return (head, ask, close, hand_back) if before == head else None


def _render(inner, talk: Sequence[tuple[str, str]]) -> str:
    """The template's text for these turns, up to where the assistant's begins; "" where the template objects."""
    try:
        return inner.apply_chat_template(
            [{"role": role, "content": text} for role, text in talk],
            chat_template=TODAY + inner.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # a turn is short: it thinks in the words before its search
        )
    except Exception:  # a template is a foreign program: it raises what it likes for a role that it does not know
        return ""


def _refused(why: str) -> ValueError:
    return ValueError(f"the chat template cannot be used: {why}; take a model whose turns are parted by control tokens")
