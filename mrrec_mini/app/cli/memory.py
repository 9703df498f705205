"""`mrrec memory`: build a memory store, read and correct its entries, and forget users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrrec_mini.app.cli.shell import FAILED, Data, Json, Seed, User, answer, command, err, print_list, print_table, tell
from mrrec_mini.data import printable
from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.files import replacing_file

if TYPE_CHECKING:
    from mrrec_mini.store import Event, Page, Scope

app = typer.Typer(no_args_is_help=True, help="Build a memory store of users; read, correct and delete its entries.")

File = Annotated[Path, typer.Option("--store", help="A memory store, one file.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of an entry.")]
AnyId = Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this entry, even if it is deleted.")]
Level = Annotated[str, typer.Option(help="Only this level: note, profile, pattern or record. Default: all.")]
Limit = Annotated[int, typer.Option(min=1, max=10**6, help="Rows per page.")]
Cursor = Annotated[int, typer.Option(min=0, max=2**53, help="The cursor that the previous page printed.")]
HowMany = Annotated[int, typer.Option("--k", min=0, help="How many entries.")]
Note = Annotated[str, typer.Argument(help="What to remember.")]
NewText = Annotated[str, typer.Argument(help="The new text.")]
Sought = Annotated[str, typer.Argument(help="What to look for.")]
Searched = Annotated[str, typer.Option(help="A search text: show how the entry scores in that search.")]
Version = Annotated[int | None, typer.Option(help="The version you saw. If the entry has changed since, do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Exported = Annotated[Path, typer.Argument(help="A file that `export` wrote.")]
OutFile = Annotated[Path | None, typer.Option("--out", help="The file to write. Default: stdout.")]
NewFile = Annotated[Path, typer.Option("--out", help="The file to write; it must not exist.")]
Writer = Annotated[str | None, typer.Option(help="A chat model that writes the summaries, a folder or a hub name.")]
Offer = Annotated[Path | None, typer.Option(help="A data set of items on offer. Default: the items that were bought.")]
# What `forget-user` does not reach, and what to do about it.
NOT_REACHED = {
    "the data set": "remove the person's lines, or the next build brings them back",
    "the global memory": "until `mrrec memory rebuild-global`, its lines may count the person",
    "runs": "a policy was trained on the person's memories; train again without them, and delete the old run",
    "reports, evaluations": "they may show the person's queries and memories; delete them, or make them again",
    "exports, backups, copies": "delete them, or make them again",
}
ENTRY, SCORES = ("id", "entry", "level", "rests on"), ("score", "bm25", "cosine")  # columns
EVENT = ("ms since 1970", "what", "entry", "before", "after")


@contextmanager
def _memory_of(user: str, file: Path) -> Iterator[Scope]:
    """Yield the part of a store that belongs to this user."""
    from mrrec_mini.store import Store

    with Store.open(file) as store:
        yield store.for_user(user)


def _entry_row(entry: MemoryEntry) -> list[str]:
    support = f"{entry.support} record{'s' if entry.support != 1 else ''}"
    return [entry.id, entry.text, entry.level, "what was said" if entry.level == "note" else support]


def _event_row(event: Event) -> list[str]:
    return [str(event.at), event.kind, event.entry, event.old or "", event.new or ""]


def _answer_entry(entry: MemoryEntry, json: bool) -> None:
    answer(asdict(entry), json, lambda: print_table("", ENTRY, [_entry_row(entry)]))


def _answer_page(page: Page, key: str, title: str, json: bool, columns: Sequence[str], row: Callable) -> None:
    """Print one page of a list. `key` names the rows in the JSON document; `row` makes the cells of a table row."""

    def show() -> None:
        if page.rows or not page.total:
            print_table(title, columns, map(row, page.rows))
        if page.cursor is not None:
            tell(f"{len(page.rows)} of {page.total}; the next ones: --cursor {page.cursor}")

    rows = [asdict(one) for one in page.rows]
    place = {"total": page.total, "truncated": page.cursor is not None, "cursor": page.cursor}
    answer({key: rows, **place}, json, show)


@command(app)
def build(data: Data, store: File, seed: Seed = 0, model: Writer = None, json: Json = False) -> None:
    """Build a store from a data set: every user's memory and the global memory.

    The default writer of summaries is extractive. With --model, a language model writes them. Its answers
    are kept next to the store until the store is complete, so that an interrupted build reuses them.
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

    answer(found, json, show)


@command(app)
def add(text: Note, store: File, user: User, json: Json = False) -> None:
    """Remember a note and print its entry with the id. Adding the same text again changes nothing."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.add(text), json)


@command(app)
def get(entry: Id, store: File, user: User, json: Json = False) -> None:
    """Print one entry."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.get(entry), json)


@command(app, "list")
def page(store: File, user: User, level: Level = "", limit: Limit = 50, cursor: Cursor = 0, json: Json = False) -> None:
    """Print one page of a user's entries, oldest first."""
    with _memory_of(user, store) as memory:
        _answer_page(memory.list(level, limit, cursor), "entries", f"memory of {user}", json, ENTRY, _entry_row)


@command(app)
def search(text: Sought, store: File, user: User, k: HowMany = 3, json: Json = False) -> None:
    """Print the k entries of a user's memory that match a text best (eq. 8), with their scores."""
    from mrrec_mini.store import require_text

    with _memory_of(user, store) as memory:
        hits = memory.search(require_text(text, "the text to look for"), k)
    found = [asdict(one) | {"score": hit.score, "bm25": hit.bm25, "cosine": hit.dense} for one, hit in hits]
    rows = [[one["id"], one["text"], *(f"{one[name]:.3f}" for name in SCORES)] for one in found]
    answer(found, json, lambda: print_table(f"{text!r} in the memory of {user}", ("id", "entry", *SCORES), rows))


@command(app)
def update(entry: Id, text: NewText, store: File, user: User, version: Version = None, json: Json = False) -> None:
    """Correct an entry. Later summaries do not change it."""
    with _memory_of(user, store) as memory:
        _answer_entry(memory.update(entry, text, version), json)


@command(app)
def delete(entry: Id, store: File, user: User, json: Json = False) -> None:
    """Delete an entry. If it is a record, the summaries that rest on it are written again without it."""
    with _memory_of(user, store) as memory:
        memory.delete(entry)
    answer({"deleted": entry}, json, lambda: tell(f"deleted {entry}"))


@command(app)
def forget_user(store: File, user: User, yes: Yes = False, json: Json = False) -> None:
    """Delete everything about a user, history included, from a store. The file is rewritten without it.

    Not reached, so delete or make again without the person: the data set, runs with their checkpoints, reports,
    exports and backups. Lines of the global memory may count the person until `rebuild-global`. If another process
    still uses the store, or the disk is full, the rows are deleted, and the command fails and says that their bytes
    are left; the next command on the store erases them.
    """
    with _memory_of(user, store) as memory:
        if not yes and not typer.confirm(f"Forget everything about {printable(user)}?", err=True):
            raise typer.Exit(FAILED)
        rows = memory.forget()

    def show() -> None:
        tell(f"forgot {user}: {rows} rows. Not reached:")
        for what, advice in NOT_REACHED.items():
            tell(f"  {what}: {advice}")

    answer({"forgotten": user, "rows": rows, "not_reached": NOT_REACHED}, json, show)


@command(app)
def history(
    store: File, user: User, entry: AnyId = None, limit: Limit = 50, cursor: Cursor = 0, json: Json = False
) -> None:
    """Print one page of what was added, changed and deleted, oldest first."""
    with _memory_of(user, store) as memory:
        _answer_page(memory.history(entry, limit, cursor), "events", f"history of {user}", json, EVENT, _event_row)


@command(app)
def export(store: File, user: User, out: OutFile = None) -> None:
    """Write everything about a user as JSON lines."""
    with _memory_of(user, store) as memory:
        lines = [line + "\n" for line in memory.export()]
    if out is None:
        typer.echo("".join(lines), nl=False)
    else:
        with replacing_file(out) as fresh:
            fresh.touch(0o600)  # for its owner only, like the store
            fresh.write_text("".join(lines), encoding="utf-8")
        tell(f"wrote {len(lines)} lines to {out}")


@command(app, "import")
def import_user(file: Exported, store: File, user: User, json: Json = False) -> None:
    """Import an export for a user who has no memories in this store. If a line is bad, nothing is imported."""
    from mrrec_mini.export_lines import lines_of

    with file.open("rb") as lines, _memory_of(user, store) as memory:
        counts = memory.restore(lines_of(lines), str(file))
    shown = f"imported {', '.join(f'{number} {kind}' for kind, number in counts.items())}"
    answer({"imported": counts}, json, lambda: tell(shown))


@command(app)
def stats(store: File, user: User, json: Json = False) -> None:
    """Count a user's entries by level, and show facts about the store."""
    with _memory_of(user, store) as memory:
        found = memory.stats()
    entries = ", ".join(f"{number} {level}" for level, number in found["entries"].items()) or "none"
    answer(found, json, lambda: print_list({**found, "entries": entries}.items()))


@command(app)
def why(entry: Id, store: File, user: User, query: Searched = "", json: Json = False) -> None:
    """Show which records an entry rests on and, with --query, why a search finds it or does not."""
    with _memory_of(user, store) as memory:
        found = memory.why(entry, query)
    pairs = [("entry", found["entry"]["text"]), ("level", found["entry"]["level"])]
    pairs += [("rests on", f"{one['text'] or '(deleted)'} ({one['id']})") for one in found["rests_on"]]
    answer(found, json, lambda: print_list([*pairs, *(found["search"] or {}).items()]))


@command(app)
def backup(store: File, out: NewFile, json: Json = False) -> None:
    """Copy the store into a new file, the newest notes included, while others may be using it.

    A later forget-user does not reach the copy: remove or replace old copies.
    """
    from mrrec_mini.store import backup

    size = backup(store, out)
    answer({"backup": str(out), "bytes": size}, json, lambda: tell(f"copied {store} to {out}: {size} bytes"))


@command(app)
def reindex(store: File, json: Json = False) -> None:
    """Compute all vectors of a store again, after its embedder has changed."""
    from mrrec_mini.store import reindex

    count = reindex(store)
    answer({"vectors": count}, json, lambda: tell(f"computed {count} vectors again"))


@command(app)
def rebuild_global(store: File, seed: Seed = 0, data: Offer = None, json: Json = False) -> None:
    """Build the global memory again (eq. 6) from all purchases of the training users up to now.

    The extractive writer compares bought items with similar items on offer (--data). Users who came later or were
    forgotten do not count. With the data set and seed of `build`, the result equals that of a `build` on all purchases.
    """
    from mrrec_mini.app.assistant import rebuild_global

    entries = rebuild_global(store, seed, data)
    answer({"global": len(entries)}, json, lambda: tell(f"built {len(entries)} global entries again"))
