"""A chat session: each line says what the user wants, and only commands rate items or delete memories.

Flow: on top of the assistant. `Session.reply` takes one line and returns the lines of the answer; `lines_from` reads
the user's lines from a file or a terminal. A session saves only what a command writes to the store.

A line that begins with `/` is a command. Any other line is a wish: whatever its text, it rates and deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from mrrec_mini.app.assistant import Assistant, Recommendation, entry_line
from mrrec_mini.data import DataError, shorten
from mrrec_mini.datatypes import Item
from mrrec_mini.store import NotYours, clean, require_text

LONGEST = 2000  # most characters of a line
FOUND = 5  # how many memories `/memory TEXT` shows
HELP = """\
say what you want: mug for hiking
/rate N STARS [TEXT]   rate item N of the last list, 1 to 5 stars: /rate 2 5 love that it is small
/why [N]               what changes without each memory: the answer, and the rank of item N (default 1)
/memory [TEXT]         show your memories, or only the memories that fit a text best
/forget ID             delete one memory
/quit                  leave the chat (the end of the input ends it too)
/help                  show this list"""


class Session:
    """One user and the assistant. `over` is true once the user has said /quit."""

    def __init__(self, assistant: Assistant, user: str):
        """Raises DataError for a blank user."""
        self.assistant, self.user = assistant, require_text(user, "the user")
        self.memory = assistant.store.for_user(user)
        self.last: Recommendation | None = None
        self.over = False
        self.commands: dict[str, Callable[[str], list[str]]] = {
            "/rate": self._rate,
            "/why": self._why,
            "/memory": self._memory,
            "/forget": self._forget,
            "/quit": self._quit,
            "/help": lambda _: HELP.split("\n"),
        }

    def reply(self, line: str) -> list[str]:
        """Return the lines that answer one line of input. Raises a one-line DataError or OSError."""
        if len(line) > LONGEST:
            raise DataError(f"a line has at most {LONGEST} characters; make it shorter")
        line = clean(line).strip()
        if not line.startswith("/"):
            return self._wish(line) if line else []
        name, *rest = line.split(maxsplit=1)
        if name not in self.commands:
            raise DataError(f"no command {shorten(name)}; /help lists the commands")
        return self.commands[name]("".join(rest))

    def _wish(self, text: str) -> list[str]:
        self.last = self.assistant.recommend(self.user, text)
        return _answer_lines(self.last)

    def _rate(self, arguments: str) -> list[str]:
        number, stars, text = (*arguments.split(maxsplit=2), "", "", "")[:3]
        item = self._item(number)
        try:
            rating = float(stars)
        except ValueError:
            raise DataError(f"{shorten(stars)} is not a number of stars; say /rate N STARS TEXT") from None
        return [f"remembered: {entry_line(self.assistant.remember(self.user, item.id, rating, text))}"]

    def _why(self, number: str) -> list[str]:
        item = self._item(number or "1")
        found = self.assistant.explain(self.user, self.last.query, target=item.id)
        changed = []
        if found.answer.items != self.last.items:
            self.last = found.answer
            changed = ["your memory has changed since then; the answer is now", *_answer_lines(found.answer)]
        head = f"{item.title} ({item.id}), and what changes without a memory:"
        reasons = [f"  {entry_line(reason.entry)}: {reason.without}" for reason in found.reasons]
        together = f"without all of these: {found.together}" if found.together else "no memory was looked up"
        return [*changed, head, *reasons, f"  {together}"]

    def _memory(self, text: str) -> list[str]:
        if text:
            found = self.memory.search(text, FOUND)
            return [entry_line(entry) for entry, _ in found] or ["nothing that is remembered of you fits"]
        page = self.memory.list()
        rest = [f"{len(page.rows)} of {page.total}; /memory TEXT searches all of them"] if page.cursor else []
        return [*(entry_line(entry) for entry in page.rows), *rest] or ["nothing is remembered of you"]

    def _forget(self, identity: str) -> list[str]:
        if not identity:
            raise DataError("say which memory: /forget ID; /memory shows the ids")
        try:
            self.memory.delete(identity)
        except NotYours:
            raise DataError(f"you have no memory {shorten(identity, 120)}; /memory shows the ids") from None
        return [f"forgot {identity}"]

    def _quit(self, _: str) -> list[str]:
        self.over = True
        return []

    def _item(self, number: str) -> Item:
        """Return item `number` of the last list. Raises DataError if there is no such item."""
        if self.last is None:
            raise DataError("there is no list yet; say what you want first")
        items = {str(n): item for n, (item, _) in enumerate(self.last.items, 1)}
        if number not in items:
            raise DataError(f"{shorten(number)} is not in the last list; it has {', '.join(items) or 'no items'}")
        return items[number]


def _answer_lines(answer: Recommendation) -> list[str]:
    """Return the items, one per line, a line with the sources of the profile, and a line with what the policy cites."""
    items = [f"{number}. {item.title} ({item.id})" for number, (item, _) in enumerate(answer.items, 1)]
    because = "; ".join(filter(None, [*answer.because_lines(), answer.reason]))
    return [*items, f"because: {because}", f"the policy cites: {'; '.join(answer.cited_lines())}"]


def lines_from(file: BinaryIO, prompt: Callable[[], object]) -> Iterator[str]:
    """Yield the lines of a binary file as text, whatever bytes it holds. Calls `prompt` before each line is read.

    Of a line that is much too long, only the beginning is kept. `Session.reply` still refuses it as too long.
    """
    most = 4 * LONGEST + 2  # bytes: a character takes at most 4 in UTF-8, a line end 2
    prompt()
    while line := file.readline(most):
        rest = line
        while len(rest) == most and not rest.endswith(b"\n"):
            rest = file.readline(most)
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        prompt()
