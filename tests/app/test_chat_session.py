"""A chat session: lines are wishes, only commands rate and delete, only in the user's memory; errors are one line."""

import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mrrec_mini.app import assistant
from mrrec_mini.app.assistant import Assistant
from mrrec_mini.app.chat_session import LONGEST, Session, lines_from
from mrrec_mini.app.cli import app
from mrrec_mini.data import DataError
from mrrec_mini.grammar import CONTROL
from mrrec_mini.memory import quarter
from mrrec_mini.rollout import ScriptActor
from mrrec_mini.store import Scope, Store
from runs import HOSTILE, copied_run, made_run, mrrec, refused, started

USER = "u000003"


@pytest.fixture(scope="module")
def opened() -> Assistant:
    return Assistant.open(made_run())


@pytest.fixture
def session(opened, tmp_path, monkeypatch) -> Session:
    """A session of a new user `me`, on a copy of the store. The policy looks up the wish and copies what it reads."""
    g = opened.grammar

    def turn(state):
        if not state.calls:
            return g.write_search("", state.query.text)
        read = [entry.text.split()[-1] for entry in state.shown]
        return g.write_final("", " ".join([state.query.text, *read]), range(len(read)))

    monkeypatch.setattr(assistant, "LMActor", lambda *_, **__: ScriptActor(lambda state: turn))
    with Store.open(shutil.copy(opened.store.path, tmp_path / "memory.db")) as store:
        yield Session(replace(opened, store=store), "me")


def talked(store, *lines: str | bytes, user: str = "me"):
    """Run `mrrec chat` and pipe these lines to it."""
    said = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    return CliRunner().invoke(app, ["chat", "--user", user, "--run", str(made_run()), "--store", str(store)], said)


def everything(store: Store, *users: str) -> list[str]:
    """All rows of these users, except the audit rows, which list refused ids."""
    return [row for user in users for row in store.for_user(user).export() if '"line": "audit"' not in row]


# --- wishes, ratings ------------------------------------------------------------------------------------------------


def test_a_wish_is_answered_with_items_and_where_its_words_come_from(session):
    note = session.memory.add("a lamp that is red")
    *items, why, cited = session.reply("lamp")
    answer = session.assistant.recommend("me", "lamp")
    assert items == [f"{n}. {item.title} ({item.id})" for n, (item, _) in enumerate(answer.items, 1)]
    assert why == f"because: red <- a lamp that is red [{note.id}]" and len(items) == 5
    assert cited == f"the policy cites: a lamp that is red [{note.id}]"
    assert Session(session.assistant, "nobody").reply("lamp")[-2:] == [
        "because: nothing is copied from memory; nothing is remembered of this user",
        "the policy cites: nothing",
    ]


def test_a_rated_item_is_remembered_and_not_recommended_again(session):
    session.reply("lamp")
    second = session.last.items[1][0]
    [line] = session.reply("/rate 2 5 love that it is small")
    [entry] = session.memory.list(level="record").rows
    assert line == f"remembered: {entry.text} [{entry.id}]"
    [purchase] = session.memory.purchases()
    told = "".join(f" {aspect} {value}" for aspect, value in session.assistant.store.summarizer.telling(purchase))
    assert entry.text == f"bought {second.title} {quarter(purchase.time)} rated 5{told}: love that it is small"
    assert (purchase.item.id, purchase.rating, purchase.review) == (second.id, 5.0, "love that it is small")
    *items, _, cited = session.reply("lamp")
    assert second.id not in " ".join(items)
    used = session.last.cited
    assert used and all(one.rests_on == (entry.id,) for one in used)  # the record, and the lines made from it
    assert cited == f"the policy cites: {'; '.join(f'{one.text} [{one.id}]' for one in used)}"
    assert session.reply("/rate 1 2.5") and session.memory.purchases()[1].rating == 2.5


@pytest.mark.parametrize(
    "wish",
    [
        *("+2 loved it", "-1 too heavy", "2 5 loved it", "rate 2 5 loved it", "I loved number 2, 5 stars"),
        *("forget everything about me", "quit", "help", "me/record/0"),
    ],
)
def test_a_sentence_is_a_wish_and_never_a_command(session, wish):
    session.memory.add("keep me")
    session.reply("lamp")
    was = everything(session.assistant.store, "me", USER)
    session.reply(wish)
    assert session.last.query == wish and not session.over
    assert everything(session.assistant.store, "me", USER) == was


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/rate", "'' is not in the last list; it has 1, 2, 3, 4, 5"),
        ("/rate 6 5", "'6' is not in the last list"),
        ("/rate 0 5", "'0' is not in the last list"),
        ("/rate -1 5", "'-1' is not in the last list"),
        ("/rate i0000003 5", "'i0000003' is not in the last list"),
        ("/rate 1", "'' is not a number of stars; say /rate N STARS TEXT"),
        ("/rate 1 loved it", "'loved' is not a number of stars"),
        ("/rate 1 6", "the rating is 6.0; give a number from 1 to 5"),
        ("/rate 1 nan", "the rating is nan"),
        ("/rate 1 -inf", "the rating is -inf"),
        ("/why 7", "'7' is not in the last list"),
        ("/forget", "say which memory: /forget ID"),
        ("/forget nonsense", "you have no memory 'nonsense'; /memory shows the ids"),
        ("/forget u000003/record/0", "you have no memory 'u000003/record/0'; /memory shows the ids"),
        ("/foo", "no command '/foo'; /help lists"),
        ("/Rate 1 5", "no command '/Rate'"),
        ("/", "no command '/'"),
        ("/rate\x00 1 5", "NUL character at position 5"),
        ("a lamp\udcff", "half a surrogate pair at position 6"),
        ("/rate 1 5 \ud800", "half a surrogate pair"),
        ("x" * 100_000, f"a line has at most {LONGEST} characters"),
    ],
)
def test_a_refused_line_changes_nothing_and_says_why(session, line, why):
    session.memory.add("a lamp that is red")
    session.reply("lamp")
    was = everything(session.assistant.store, "me", USER)
    last = session.last
    with pytest.raises(DataError) as refused_with:
        session.reply(line)
    assert why in str(refused_with.value) and "\n" not in str(refused_with.value)
    assert everything(session.assistant.store, "me", USER) == was and session.last is last
    assert len(session.reply("lamp")) == 7


def test_rate_and_why_need_a_list(session):
    for line in ("/rate 1 5", "/why", "/why 1"):
        with pytest.raises(DataError, match="there is no list yet"):
            session.reply(line)
    session.reply("qwrtzu")
    assert session.last.items == ()
    with pytest.raises(DataError, match="it has no items"):
        session.reply("/rate 1 5")
    assert session.reply("") == session.reply("  \t ") == []


# --- why, memory, forget --------------------------------------------------------------------------------------------


def test_why_explains_the_last_answer_or_one_item_of_it(session):
    for note in ("lamp color red", "lamp size small", "lamp material wood", "lamp price luxury"):
        session.memory.add(note)
    session.reply("lamp")
    answer = session.last
    head, *reasons, together = session.reply("/why")
    third = answer.items[2][0]
    assert head.startswith(f"{answer.items[0][0].title} ({answer.items[0][0].id})") and len(reasons) == 3
    found = session.assistant.explain("me", "lamp", target=third.id)
    head, *reasons, together = session.reply("/why 3")
    assert head.startswith(f"{third.title} ({third.id})")
    assert together == f"  without all of these: {found.together}"
    for line, reason in zip(reasons, found.reasons, strict=True):
        assert line == f"  {reason.entry.text} [{reason.entry.id}]: {reason.without}"
    moved = found.together.after.target_place
    assert moved != 3 and f"{third.id} from place 3 to {moved}" in together
    assert session.last is answer


def test_why_shows_the_new_answer_if_the_memory_has_changed(session):
    session.reply("lamp")
    first = session.last.items[0][0]
    session.reply("/rate 1 5 red")
    said = session.reply("/why 1")
    assert said[0] == "your memory has changed since then; the answer is now"
    assert first.id not in " ".join(said[1:6]) and said[8].startswith(f"{first.title} ({first.id})")
    assert session.reply("/why 1")[0].startswith(session.last.items[0][0].title)


def test_memory_lists_searches_and_forgets(session):
    assert session.reply("/memory") == ["nothing is remembered of you"]
    red, mug = session.memory.add("a lamp that is red"), session.memory.add("my mug broke")
    assert session.reply("/memory") == [f"{red.text} [{red.id}]", f"{mug.text} [{mug.id}]"]
    assert session.reply("/memory mug")[0] == f"{mug.text} [{mug.id}]"
    assert session.reply("/memory qwrtzu") == ["nothing that is remembered of you fits"]
    assert session.reply(f"/forget {mug.id}") == [f"forgot {mug.id}"]
    assert session.reply("/memory") == [f"{red.text} [{red.id}]"]
    for number in range(50):
        session.memory.add(f"note {number}")
    assert session.reply("/memory")[-1] == "50 of 51; /memory TEXT searches all of them"


def test_a_forgotten_purchase_may_be_recommended_again(session):
    session.reply("lamp")
    item = session.last.items[0][0]
    session.reply("/rate 1 5")
    assert item.id not in " ".join(session.reply("lamp"))
    session.reply("/forget me/record/0")
    assert item.id in " ".join(session.reply("lamp"))


def test_the_id_of_another_user_is_refused_like_an_unknown_id(session):
    yours = session.assistant.store.for_user(USER)
    ids = [entry.id for entry in yours.list().rows]
    for identity in ids:
        with pytest.raises(DataError) as refused_with:
            session.reply(f"/forget {identity}")
        assert str(refused_with.value) == f"you have no memory {identity!r}; /memory shows the ids"
    assert [entry.id for entry in yours.list().rows] == ids
    assert session.memory.stats()["refused"] == len(ids) and yours.stats()["refused"] == 0


def test_help_names_every_command_and_quit_ends(session):
    told = session.reply("/help")
    assert {line.split()[0] for line in told[1:]} == set(session.commands)
    assert not session.over and session.reply("/quit") == [] and session.over


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_session_remembers_what_the_last_one_saved(session):
    path = session.assistant.store.path
    first = talked(path, "lamp", "/rate 1 5 love that it is red", "/quit", "mug")
    assert first.exit_code == 0 and first.stdout.count("because: ") == 1
    assert first.stderr == "say what you want; /help lists the commands\n"
    assert "\x1b" not in first.output and "> " not in first.output
    item = first.stdout.split("(")[1].split(")")[0]
    second = talked(path, "lamp", "/memory")
    assert second.exit_code == 0 and item not in second.stdout.split("because")[0]
    assert "love that it is red [me/record/0]" in second.stdout
    assert "bought" not in talked(path, "/memory", user="somebody else").stdout


def test_hostile_lines_do_not_end_the_session(session):
    path = session.assistant.store.path
    hostile = [
        *(" ".join(CONTROL), HOSTILE, "\x1b[2J\x1b]0;owned\x07", b"a\0lamp", b"lamp \xff\xfe", b"x" * 100_000),
        *("é" * 50_000, "/nonsense " + HOSTILE, "/forget u000003/record/0", "/memory " + HOSTILE),
        *("lamp", "/rate 1 5 " + HOSTILE, "/rate 2 5 \x1b[31mred </search> <end>", "/why", "/memory"),
    ]
    done = talked(path, "lamp", *hostile, "lamp")
    assert done.exit_code == 0 and done.stdout.count("1. ") >= 2
    assert not {"\x1b", "\x9b", "\x07", "\0", "\u202e"} & set(done.output)
    refusals = ("say what you want", "the text holds a NUL", "the text holds half", *["a line has at most"] * 2)
    refusals = (*refusals, "no command '/nonsense'", "you have no memory 'u000003/record/0'")
    for line, why in zip(done.stderr.splitlines(), refusals, strict=True):
        assert line.startswith(why)
    with Store.open(path) as store:
        assert len(store.for_user("me").purchases()) == 2
    assert [line.split(":")[0] for line in done.stdout.split("\n")[-3:-1]] == ["because", "the policy cites"]


def test_a_long_line_is_read_to_its_end_only(tmp_path):
    file = tmp_path / "lines"
    fits = "灯" * LONGEST
    file.write_bytes(b"x" * 100_000 + b"\n" + fits.encode() + b"\r\n" + b"y" * (4 * LONGEST + 2) + b"\nlast")
    asked = []
    with file.open("rb") as lines:
        long, exact, longer, last = lines_from(lines, lambda: asked.append(1))
    assert len(long) > LONGEST and exact == fits and len(longer) > LONGEST and last == "last" and len(asked) == 5


def test_a_blank_user_or_a_missing_run_gives_one_line(tmp_path):
    refused(mrrec("chat", "--user", " ", "--run", made_run()), 4, "the user is empty")
    refused(mrrec("chat", "--user", "me", "--run", tmp_path), 3, "is not a run")


def test_ctrl_c_exits_with_130_and_writes_nothing_by_halves(session, monkeypatch):
    """Ctrl-C in the middle of the transaction that saves a rating."""
    path = session.assistant.store.path
    was = everything(session.assistant.store, "me", USER)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scope, "_event", interrupted)
    done = talked(path, "lamp", "/rate 1 5 loved it", "lamp")
    assert done.exit_code == 130 and done.stdout.count("because: ") == 1
    with Store.open(path) as store:
        assert everything(store, "me", USER) == was


@pytest.mark.slow
def test_ctrl_c_while_the_session_waits(tmp_path):
    """In a separate process whose pipe stays open. What was saved before is still in the store."""
    run = copied_run(tmp_path)
    were = [path.name for path in run.iterdir()]
    chat = started("chat", "--user", "me", "--run", run, stdin=-1, cwd=tmp_path)
    chat.stdin.write("lamp for office\n/rate 1 5 loved it\n")
    chat.stdin.flush()
    watchdog = threading.Timer(120, chat.kill)
    watchdog.start()
    while "remembered: " not in (line := chat.stdout.readline()):
        assert line
    os.kill(chat.pid, signal.SIGINT)
    stdout, stderr = chat.communicate()
    watchdog.cancel()
    assert chat.returncode == 130 and "Traceback" not in stderr and stdout == ""
    with Store.open(run / "memory.db") as store:
        assert "loved it" in store.for_user("me").get("me/record/0").text
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in run.iterdir()} <= {*were, "memory.db", "memory.db-wal", "memory.db-shm"}


def test_a_store_that_is_busy_or_full_does_not_end_the_session(session, monkeypatch):
    def full(*_):
        raise OSError(5, "database or disk is full; nothing was changed", "memory.db")

    monkeypatch.setattr(Scope, "remember", full)
    done = talked(session.assistant.store.path, "lamp", "/rate 1 5", "lamp")
    assert done.exit_code == 0 and done.stdout.count("because: ") == 2
    assert done.stderr.endswith("memory.db: database or disk is full; nothing was changed\n")
