"""`mrrec memory`: build a durable memory, look into it, correct it, forget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrrec_mini.app.cli.shell import FAILED, DataDir, Json, Seed, answer, command, err, print_fields, print_table, tell
from mrrec_mini.data import printable
from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.files import write_text

if TYPE_CHECKING:
    from mrrec_mini.store import Page, Scope

app = typer.Typer(no_args_is_help=True, help="A durable memory: build it, look into it, correct it, forget.")

StoreFile = Annotated[Path, typer.Option("--store", help="A memory store, one file.")]
Owner = Annotated[str, typer.Option("--user", help="Whose memory.")]
EntryId = Annotated[str, typer.Argument(metavar="ID", help="An entry's id.")]
OneEntry = Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this entry, deleted or not.")]
Level = Annotated[str | None, typer.Option(help="note, profile, pattern or record. Default: all.")]
Limit = Annotated[int, typer.Option(min=1, help="Rows per page.")]
Cursor = Annotated[int, typer.Option(min=0, help="Where the previous page ended.")]
HowMany = Annotated[int, typer.Option("--k", min=0, help="How many entries.")]
Note = Annotated[str, typer.Argument(help="What to remember.")]
NewText = Annotated[str, typer.Argument(help="The new text.")]
Sought = Annotated[str, typer.Argument(help="What to look for.")]
Searched = Annotated[str, typer.Option(help="A text that was searched for.")]
Version = Annotated[int | None, typer.Option(help="The version that you saw: refused if it has changed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Exported = Annotated[Path, typer.Argument(help="A file that `export` wrote.")]
OutFile = Annotated[Path | None, typer.Option("--out", help="The file to write. Default: stdout.")]
Writer = Annotated[str | None, typer.Option(help="A chat model that writes the summaries, a folder or a hub name.")]
Choices = Annotated[
    Path | None, typer.Option(help="The data set whose items users choose from. Default: what training users bought.")
]
ENTRY = ("id", "entry", "level", "rests on")  # the columns of `_entry_row`


@contextmanager
def _memory_of(user: str, store: Path) -> Iterator[Scope]:
    """The user's own part of a store."""
    from mrrec_mini.store import Store

    with Store.open(store) as opened:
        yield opened.for_user(user)


def _entry_row(entry: MemoryEntry) -> list[str]:
    kind = "user" if entry.level == "global" else "record"
    support = f"{entry.support} {kind}{'s' if entry.support != 1 else ''}"
    return [entry.id, entry.text, entry.level, "what was said" if entry.level == "note" else support]


def _answer_entry(entry: MemoryEntry, as_json: bool) -> None:
    answer(asdict(entry), as_json, lambda: print_table("", ENTRY, [_entry_row(entry)]))


def _answer_page(page: Page, key: str, title: str, as_json: bool, names: Iterable[str], row: Callable) -> None:
    """Print one page of a list. `key` names the rows in the document; `row` makes the cells of one for people."""

    def show() -> None:
        if page.rows:
            print_table(title, names, map(row, page.rows))
        if page.truncated:
            tell(f"{len(page.rows)} of {page.total}; the next ones: --cursor {page.cursor}")
        elif not page.total:
            tell(f"{title}: nothing")

    place = {"total": page.total, "truncated": page.truncated, "cursor": page.cursor}
    answer({key: [asdict(one) for one in page.rows], **place}, as_json, show)


@command(app, "build")
def build(data: DataDir, store: StoreFile, seed: Seed = 0, model: Writer = None, as_json: Json = False) -> None:
    """Build a store from a data set: every user's memory and the global memory.

    The default writer is extractive. With --model a language model writes; its answers are kept next to the store, so
    that an interrupted build reuses them.
    """
    from mrrec_mini.app.assistant import make_store
    from mrrec_mini.app.terminal import one_bar

    with one_bar(err) as say:
        found = make_store(data, store, seed, model, say)

    def show() -> None:
        counts = ", ".join(f"{number} {level}" for level, number in found["entries"].items())
        tell(f"wrote {counts} to {store}, by {found['summarizer']}")
        if model:
            left_out = sum(found["dropped"].values())
            tell(f"{found['calls']} calls, {found['reused']} answers reused, {left_out} answers or lines left out")

    answer(found, as_json, show)


@command(app, "add")
def add(text: Note, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Remember a note, and print the entry with its id. The same text twice is one entry."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.add(text), as_json)


@command(app, "get")
def get(identity: EntryId, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Print one entry."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.get(identity), as_json)


@command(app, "list")
def list_entries(
    store: StoreFile, user: Owner, level: Level = None, limit: Limit = 50, cursor: Cursor = 0, as_json: Json = False
) -> None:
    """Print one page of a user's entries, oldest first."""
    with _memory_of(user, store) as memory:
        page = memory.list(level, limit, cursor)
    _answer_page(page, "entries", f"memory of {user}", as_json, ENTRY, _entry_row)


@command(app, "search")
def search(text: Sought, store: StoreFile, user: Owner, k: HowMany = 3, as_json: Json = False) -> None:
    """Print the k entries of a user's memory that fit a text best (eq. 8), with their scores."""
    from mrrec_mini.store import require_text

    with _memory_of(user, store) as memory:
        found = memory.search(require_text(text, "the text to look for"), k)
    title = f"{text!r} in the memory of {user}"
    scores = [{"score": one.hit.score, "bm25": one.hit.bm25, "cosine": one.hit.dense} for one in found]

    def show() -> None:
        if not found:
            tell(f"{title}: nothing")
            return
        pairs = zip(found, scores, strict=True)
        rows = ([one.entry.id, one.entry.text, *(f"{n:.3f}" for n in score.values())] for one, score in pairs)
        print_table(title, ("id", "entry", "score", "bm25", "cosine"), rows)

    answer([{**asdict(one.entry), **score} for one, score in zip(found, scores, strict=True)], as_json, show)


@command(app, "update")
def update(
    identity: EntryId, text: NewText, store: StoreFile, user: Owner, version: Version = None, as_json: Json = False
) -> None:
    """Correct an entry. Summaries leave it alone from then on."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.update(identity, text, version), as_json)


@command(app, "delete")
def delete(identity: EntryId, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Delete an entry. What a deleted record says also goes from the summaries."""
    with _memory_of(user, store) as memory:
        memory.delete(identity)
    answer({"deleted": identity}, as_json, lambda: tell(f"deleted {identity}"))


@command(app, "forget-user")
def forget_user(store: StoreFile, user: Owner, yes: Yes = False, as_json: Json = False) -> None:
    """Delete everything about a user, history included, so that the file does not hold it any more."""
    with _memory_of(user, store) as memory:
        if not yes and not typer.confirm(f"Forget everything about {printable(user)}?", err=True):
            raise typer.Exit(FAILED)
        rows = memory.forget()
    answer({"forgotten": user, "rows": rows}, as_json, lambda: tell(f"forgot {user}: {rows} rows"))


@command(app, "history")
def history(
    store: StoreFile,
    user: Owner,
    identity: OneEntry = None,
    limit: Limit = 50,
    cursor: Cursor = 0,
    as_json: Json = False,
) -> None:
    """Print one page of what was added, changed and deleted, oldest first."""
    with _memory_of(user, store) as memory:
        page = memory.history(identity, limit, cursor)
    names = ("ms since 1970", "what", "entry", "before", "after")
    row = lambda event: [str(event.at), event.kind, event.entry, event.old or "", event.new or ""]  # noqa: E731
    _answer_page(page, "events", f"history of {user}", as_json, names, row)


@command(app, "export")
def export(store: StoreFile, user: Owner, out_file: OutFile = None) -> None:
    """Write everything about a user as JSON lines."""
    with _memory_of(user, store) as memory:
        lines = list(memory.export())
    text = "".join(line + "\n" for line in lines)
    if out_file is None:
        typer.echo(text, nl=False)
    else:
        write_text(out_file, text)
        tell(f"wrote {len(lines)} lines to {out_file}")


@command(app, "import")
def import_user(file: Exported, store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Import an export, for a user who has no memories in this store. All of it or nothing."""
    from mrrec_mini.store import lines_of

    with file.open("rb") as lines, _memory_of(user, store) as memory:
        counts = memory.restore(lines_of(lines), str(file))
    shown = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    answer({"imported": counts}, as_json, lambda: tell(f"imported {shown}"))


@command(app, "stats")
def stats(store: StoreFile, user: Owner, as_json: Json = False) -> None:
    """Count what is remembered of a user."""
    with _memory_of(user, store) as memory:
        found = memory.stats()
    entries = ", ".join(f"{number} {level}" for level, number in found["entries"].items()) or "none"
    answer(found, as_json, lambda: print_fields(found | {"entries": entries}))


@command(app, "why")
def why(identity: EntryId, store: StoreFile, user: Owner, query: Searched = "", as_json: Json = False) -> None:
    """Show what an entry rests on, and why a search found it or did not."""
    with _memory_of(user, store) as memory:
        found = memory.why(identity, query)
    rows = [["entry", found["entry"]["text"]], ["level", found["entry"]["level"]]]
    rows += [["rests on", f"{one['text'] or '(deleted)'} ({one['id']})"] for one in found["rests_on"]]
    rows += [[name.replace("_", " "), str(value)] for name, value in (found["search"] or {}).items()]
    answer(found, as_json, lambda: print_table("", ("", ""), rows))


@command(app, "reindex")
def reindex(store: StoreFile, as_json: Json = False) -> None:
    """Compute every vector of a store again, after its embedder has changed."""
    from mrrec_mini.store import reindex

    count = reindex(store)
    answer({"vectors": count}, as_json, lambda: tell(f"computed {count} vectors again"))


@command(app, "rebuild-global")
def rebuild_global(store: StoreFile, seed: Seed = 0, data: Choices = None, as_json: Json = False) -> None:
    """Build the global memory again (eq. 6), from what the training users have done up to now.

    Users who came later, and users who were forgotten, do not count. Unchosen items are those of --data. The writer is
    extractive. With the data set and the seed of `build`, the result is what `build` would make if the training users
    had done all that by then.
    """
    from mrrec_mini.app.assistant import rebuild_global

    entries = rebuild_global(store, seed, data)
    answer({"global": len(entries)}, as_json, lambda: tell(f"built {len(entries)} global entries again"))
