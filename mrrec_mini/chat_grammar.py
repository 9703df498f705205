"""The grammar of an episode for chat models: turns of the model's own template, and the paper's boxed JSON answer.

Flow: replaces `grammar.Grammar` for models that were trained to chat. `Grammar` marks the parts of an episode with our
control tokens; `ChatGrammar` uses the turns of the model's chat template. In ChatML, the format of SmolLM2:

    <|im_start|>system ... <|im_end|>                                 the instruction; two worked examples follow
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
model's end-of-turn token. Anything else is malformed, and so is a control token before the end.

Safety: the template is rendered in advance, with marks in place of user texts, and cut at these marks; the pieces are
tokenised with their control tokens. Texts of people and memories are tokenised separately, one line each, and their ids
are placed between the pieces. They never pass through the template, so no text can produce a control token, a turn or a
numbered line. (`apply_chat_template` on a whole conversation would turn a "<|im_end|>" in a text into the control
token.) A template that does not separate turns with control tokens is refused. Without a tool role, memories come in a
user turn; without a system role, the instruction begins the first user turn. A template that prints today's date gets a
fixed date. If a template starts the assistant's turn with an open thought ("<think>"), we close the thought.

Paper: the boxed JSON. Guessed: the system prompt and the tool call, which the paper does not print. Ours: the two
worked examples. SmolLM2-135M (temperature 1) ignores an instruction without examples, and it also ignores examples in
the system turn. With one example in turns of its own, the model answers but never searches; with two examples it
searches in half of its first turns.
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
WRITER = "You write down what people like, in short lines."  # system turn when the model is asked for a summary
QUERY, TURN, MEMORY = "QUERY0TEXT", "TURN0TEXT", "MEMORY0TEXT"  # marks: removed before any user text is inserted
TODAY = "{% macro strftime_now(form) %}01 Jan 2025{% endmacro %}"  # so that a run is the same on every day
OPENING = re.compile(r"<search>|\\boxed\{")
OPENED = re.compile(r"([<\[])([\w:]*(?:think|thought|reason)\w*)([>\]])\s*$", re.IGNORECASE)  # <think> at the end


class ChatGrammar(Grammar):
    """Builds and parses the turns of a chat template. Raises ValueError if the template cannot be cut safely."""

    def __init__(self, tokenizer, entry_tokens: int = 24):
        self.tokenizer, self._encode = tokenizer, tokenizer.encode
        self.entry_tokens = entry_tokens  # longer memories are cut when shown to the policy
        self.control = tokenizer.control  # empty: a chat model has its own control tokens
        head, ask, close, hand_back = (tokenizer.encode_template(piece) for piece in pieces(tokenizer.inner))
        reserved = tokenizer.reserved
        if not close or close[0] not in reserved:
            raise _refused("the assistant's turn does not end with a control token")
        if not (reserved & set(ask) and reserved & set(hand_back)):
            raise _refused("no control token stands between a user's or a tool's text and the assistant's turn")
        self._head, self._ask, self._hand_back = head, ask, hand_back
        self.end, self._close = close[0], close[1:]  # the policy samples `end`; the reply starts with the rest
        self.stop = (self.end, *sorted(reserved - {self.end}))  # any other control token makes the turn malformed

    # ------------------------------------------------------------------ what the policy is shown

    def prompt(self, query_text: str, global_entries: Sequence[MemoryEntry]) -> list[int]:
        """Return the ids of instruction, examples, wish and global memory (eq. 7), up to the assistant's turn."""
        ids = [*self._head, *self._encode("Wish:"), *self._line(query_text, 2 * self.entry_tokens)]
        for number, entry in enumerate(global_entries):
            ids += [*self._encode("," if number else ". Topics:"), *self._line(entry.text)]
        return [*ids, *self._ask]

    def reply(self, entries: Sequence[MemoryEntry], first: int) -> list[int]:
        """Return a tool turn of numbered lines (eq. 8). `first`: the number of lines shown earlier in the episode."""
        lines = [[*self._encode(f"{n}."), *self._line(e.text)] for n, e in enumerate(entries, start=first + 1)]
        ids = [*self._close, *(lines[0] if lines else self._encode("nothing"))]
        for line in lines[1:]:
            ids += [*self._encode("\n"), *line]
        return [*ids, *self._hand_back]

    # ------------------------------------------------------------------ what a script writes instead of the policy

    def write_search(self, think: str, text: str) -> list[int]:
        return self._turn(f"{self._short(think)} <search>{self._short(text)}</search>")

    def write_final(self, think: str, profile: str, evidence: Sequence[int]) -> list[int]:
        profile = self._short(profile, 4 * self.entry_tokens)
        answer = {"ideal_item_profile": profile, "useful_memory_ids": [number + 1 for number in evidence]}
        return self._turn(f"{self._short(think)} \\boxed{{{json.dumps(answer, ensure_ascii=False)}}}")

    # ------------------------------------------------------------------ what the policy wrote

    def parse(self, ids: Sequence[int], shown: int) -> Turn:
        """Parse one turn of sampled ids. `shown`: the number of memories the episode has shown so far."""
        if not ids or ids[-1] != self.end:
            return Malformed("a turn ends with the end-of-turn token")
        if self.tokenizer.reserved & set(ids[:-1]):
            return Malformed("a control token inside a turn")
        if (opening := OPENING.search(text := self.tokenizer.decode(ids[:-1]))) is None:
            return Malformed("a turn searches or answers")
        think, rest = text[: opening.start()].strip(), text[opening.end() :].rstrip()
        if opening.group() == "<search>":
            wanted, close, after = rest.partition("</search>")
            if not close or after:
                return Malformed("a search ends with </search>")
            return Search(think, wanted.strip()) if wanted.strip() else Malformed("an empty search")
        if not rest.endswith("}"):
            return Malformed("a box ends with }")
        return _answer(think, rest[:-1], shown)

    def thought(self, ids: Sequence[int]) -> tuple[int, str]:
        """Return (number of ids, words) of the thought before the search or answer; (0, "") if there is neither."""
        if (opening := OPENING.search(text := self.tokenizer.decode(ids))) is None:
            return 0, ""
        # count ids until their text reaches the opening; the last id may hold a part of the opening, so leave it out
        reach = next(n for n in range(len(ids) + 1) if len(self.tokenizer.decode(ids[:n])) > opening.start())
        return reach - 1, text[: opening.start()].strip()

    def forbidden(self, last: bool) -> tuple[int, ...]:
        """Return the tokens to forbid if every search must be used: all that an answer (last turn: a search) needs."""
        return self._tokens_with["<" if last else "\\"]

    @cached_property
    def _tokens_with(self) -> dict[str, tuple[int, ...]]:
        """{character: ids of all tokens whose text contains it}. Control tokens are left out: they end the turn."""
        texts = {i: self.tokenizer.decode([i]) for i in range(len(self.tokenizer)) if i not in self.tokenizer.reserved}
        return {sign: tuple(i for i, text in texts.items() if sign in text) for sign in ("<", "\\")}

    # ------------------------------------------------------------------ text to ids

    def _turn(self, text: str) -> list[int]:
        return [*self._encode(text.strip()), self.end]

    def _line(self, text: str, limit: int | None = None) -> list[int]:
        """Return the ids of the text as one line. It starts with a space, like a word in the training texts."""
        return self._encode(" " + " ".join(text.split()))[: limit or self.entry_tokens]

    def _short(self, text: str, limit: int | None = None) -> str:
        return self.tokenizer.decode(self._line(text, limit)).strip()


def ask_model(model, tokenizer, max_tokens: int = 400) -> Callable[[str], str]:
    """Return a function from prompt to answer, for `summarize_lm.LMSummarizer`: one user turn, decoded greedily.

    As in an episode, the prompt never passes through the template. Raises ValueError if the template is not usable.
    """
    user = ("user", QUERY)
    rendered = (_render(tokenizer.inner, turns) for turns in ([("system", WRITER), user], [user]))
    if (usable := next((text for text in rendered if text.count(QUERY) == 1), None)) is None:
        raise _refused("it does not show a user's text exactly once and unchanged")
    head, tail = (tokenizer.encode_template(piece) for piece in usable.split(QUERY))

    def ask(prompt: str) -> str:
        sampler = Sampler(model, [[*head, *tokenizer.encode(prompt), *tail]], temperature=0.0)
        [ids], _ = sampler.sample(sorted(tokenizer.reserved), max_tokens)
        return tokenizer.decode([i for i in ids if i not in tokenizer.reserved])

    return ask


def grammar_of(tokenizer) -> Grammar:
    """Return `ChatGrammar` if the tokenizer has a chat template, else `Grammar` with our control tokens."""
    return ChatGrammar(tokenizer) if getattr(tokenizer, "chat_template", None) else Grammar(tokenizer)


def _answer(think: str, box: str, shown: int) -> Final | Malformed:
    """Parse `box`, the JSON of an answer (eq. 9)."""
    try:
        answer = json.loads(box)
        if not isinstance(answer, dict) or set(answer) != {"ideal_item_profile", "useful_memory_ids"}:
            return Malformed("a box holds ideal_item_profile and useful_memory_ids")
        profile, numbers = answer["ideal_item_profile"], answer["useful_memory_ids"]
        if not isinstance(profile, str) or not isinstance(numbers, list) or any(type(n) is not int for n in numbers):
            return Malformed("the profile is a string, the ids are whole numbers")
        profile.encode()  # JSON can hold half a surrogate pair, which is not text
    except (ValueError, RecursionError):
        return Malformed("a box holds JSON")
    if not profile.strip():
        return Malformed("an empty profile")
    if not all(1 <= number <= shown for number in numbers):
        return Malformed("evidence names a memory that was not shown")
    return Final(think, profile, tuple(number - 1 for number in dict.fromkeys(numbers)))


# ------------------------------------------------------------------------------------------------------ the template


def pieces(inner) -> tuple[str, str, str, str]:
    """Return the fixed text of the chat template in four pieces: before the wish, between the wish and the policy's
    turn, between that turn and the memories, and from the memories to the policy's next turn.

    Raises ValueError if the template cannot be cut in this way.
    """
    if not inner.chat_template:
        raise ValueError("the tokenizer has no chat template; use a model that was trained to chat")
    cuts = (_cut(inner, system, memory_role) for system in (True, False) for memory_role in ("tool", "user"))
    if (cut := next(filter(None, cuts), None)) is None:
        raise _refused("it does not show each text exactly once and unchanged")
    return cut


def _cut(inner, system: bool, memory_role: str) -> tuple[str, str, str, str] | None:
    """Return the pieces, with or without a system turn and with memory in turns of `memory_role`; None if it fails."""
    # 1. The fixed opening: instruction and worked examples, in the roles that this template has.
    turns = [(memory_role if role == "tool" else role, text) for role, text in EXAMPLE]
    if system:
        turns = [("system", INSTRUCTION), *turns]
    else:
        turns[0] = ("user", f"{INSTRUCTION}\n\n{turns[0][1]}")
    # 2. Render the prompt; the prompt with a turn and a reply; the same with the reply in the assistant's role.
    asked = _render(inner, [*turns, ("user", QUERY)])
    answered = _render(inner, [*turns, ("user", QUERY), ("assistant", TURN), (memory_role, MEMORY)])
    mistaken = _render(inner, [*turns, ("user", QUERY), ("assistant", TURN), ("assistant", MEMORY)])
    # 3. Each text must appear unchanged and each mark exactly once.
    shown_whole = all(text in asked and text in answered for _, text in turns)
    marked = [asked.count(QUERY), *(answered.count(mark) for mark in (QUERY, TURN, MEMORY))] == [1] * 4
    if not (shown_whole and marked) or answered == mistaken:  # some templates print an unknown role as the assistant's
        return None
    # 4. Cut at the marks. A later turn must not change what stands before it, since an episode only grows.
    head, ask = asked.split(QUERY)
    before, rest = answered.split(QUERY)
    close, hand_back = rest.partition(TURN)[2].split(MEMORY)
    return (head, ask, close, hand_back) if before == head else None


def _render(inner, turns: Sequence[tuple[str, str]]) -> str:
    """Render (role, text) turns with the template, up to the start of the assistant's turn; "" if this fails.

    If the template opens a thought there, the thought is closed: the turn is then what the grammar expects.
    """
    try:
        text = inner.apply_chat_template(
            [{"role": role, "content": text} for role, text in turns],
            chat_template=TODAY + inner.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # turns are short: the policy thinks in the words before its search
        )
    except Exception:  # a template is third-party code: for an unknown role it may raise any error
        return ""
    opened = OPENED.search(text)
    return f"{text.rstrip()}\n\n{opened[1]}/{opened[2]}{opened[3]}\n\n" if opened else text


def _refused(why: str) -> ValueError:
    return ValueError(f"the chat template cannot be used: {why}; use a model that separates turns with control tokens")
