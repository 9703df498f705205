"""A session: each line is a wish, and what is said about an item by command is remembered.

Flow: on top of the assistant. `Session.reply` takes one line and gives the lines of the answer; `heard` reads lines
from a file or a terminal. Nothing is kept of a session but what was remembered on purpose, in the store.

A line is a command if it begins with `/`, else a wish: whatever a wish says, it rates and deletes nothing. What cannot
be done is a DataError (or the system's OSError) with one line for people, and the session goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mrrec_mini.app.assistant import Assistant, Recommendation, require_text
from mrrec_mini.data import DataError, shorten
from mrrec_mini.datatypes import Item, MemoryEntry
from mrrec_mini.store import NotYours, clean

LONGEST = 2000  # characters of a line
FOUND = 5  # memories that `/memory TEXT` shows
HELP = """\
a line is a wish: mug for hiking
/rate N STARS [TEXT]   what you think of item N of the last list, 1 to 5 stars: /rate 2 5 love that it is small
/why [N]               what the last answer rests on; with N, what puts item N where it is
/memory [TEXT]         what is remembered of you, or what of it fits a text
/forget ID             delete one memory
/quit                  leave (so does the end of the input)
/help                  this"""


class Session:
    """One user and the assistant. `over` once somebody said /quit."""

    def __init__(self, assistant: Assistant, user: str):
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
        """The answer to one line. DataError, OSError: it was not done, and this is why."""
        if len(line) > LONGEST:
            raise DataError(f"a line has at most {LONGEST} characters; say it shorter")
        line = clean(line).strip()
        if not line.startswith("/"):
            return self._wish(line) if line else []
        name, *rest = line.split(maxsplit=1)
        if name not in self.commands:
            raise DataError(f"no command {shorten(name)}; /help shows those that there are")
        return self.commands[name]("".join(rest))

    def _wish(self, text: str) -> list[str]:
        self.last = self.assistant.recommend(self.user, text)
        return _listed(self.last)

    def _rate(self, words: str) -> list[str]:
        number, stars, text = (*words.split(maxsplit=2), "", "", "")[:3]
        item = self._item(number)
        try:
            rating = float(stars)
        except ValueError:
            raise DataError(f"{shorten(stars)} is no number of stars; say /rate N STARS TEXT") from None
        return [f"remembered: {_line(self.assistant.remember(self.user, item.id, rating, text))}"]

    def _why(self, number: str) -> list[str]:
        item = self._item(number or "1")
        found = self.assistant.explain(self.user, self.last.query, target=item.id)
        lines = []
        if found.answer.items != self.last.items:
            self.last = found.answer
            lines = ["what is remembered has changed since; the answer is now", *_listed(found.answer)]
        lines.append(f"{item.title} ({item.id}), and what is otherwise without a memory:")
        lines += [f"  {_line(reason.entry)}: {reason.without}" for reason in found.reasons]
        if found.together is None:
            return [*lines, "  nothing was looked up"]
        return [*lines, f"  without all of these: {found.together}"]

    def _memory(self, text: str) -> list[str]:
        if text:
            found = self.memory.search(text, FOUND)
            return [_line(one.entry) for one in found] or ["nothing that is remembered of you fits"]
        page = self.memory.list()
        rest = [f"{len(page.rows)} of {page.total}; /memory TEXT searches in all"] if page.truncated else []
        return [*(_line(entry) for entry in page.rows), *rest] or ["nothing is remembered of you"]

    def _forget(self, identity: str) -> list[str]:
        if not identity:
            raise DataError("say which one: /forget ID; /memory shows the ids")
        try:
            self.memory.delete(identity)
        except NotYours:
            raise DataError(f"you have no memory {shorten(identity, 120)}; /memory shows the ids") from None
        return [f"forgot {identity}"]

    def _quit(self, _: str) -> list[str]:
        self.over = True
        return []

    def _item(self, number: str) -> Item:
        """Item `number` of the last list. DataError where there is none."""
        if self.last is None:
            raise DataError("there is no list yet; say what you want first")
        places = {str(n): item for n, (item, _) in enumerate(self.last.items, 1)}
        if number not in places:
            raise DataError(f"{shorten(number)} is no item of the last list; it has {', '.join(places) or 'none'}")
        return places[number]


def _listed(answer: Recommendation) -> list[str]:
    """The items, and in one line why."""
    why = [entry.text for entry in answer.memories] or ["no memory was used"]
    items = [f"{number}. {item.title} ({item.id})" for number, (item, _) in enumerate(answer.items, 1)]
    return [*items, f"because: {'; '.join(filter(None, [*why, answer.reason]))}"]


def _line(entry: MemoryEntry) -> str:
    return f"{entry.text} [{entry.id}]"


def heard(file, ask: Callable[[], None]) -> Iterator[str]:
    """The lines of a binary file as text, whatever bytes there are; `ask` is called before each is awaited.

    Of a line that is far too long only the beginning is kept, which is too long still.
    """
    most = 4 * LONGEST + 2  # bytes: a character of UTF-8 has at most 4
    ask()
    while line := file.readline(most):
        rest = line
        while len(rest) == most and not rest.endswith(b"\n"):
            rest = file.readline(most)
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        ask()
