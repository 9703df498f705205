"""Spoil valid files in many seeded ways: wrong types, odd numbers, lost and extra fields, cut lines, other encodings.

`spoiled(rng, raw, form)` changes one place of a text and says how. The same seed spoils the same place. `form` is
"json" (lines or a whole document), "bytes", or the separator of a table.
"""

import json
import random
from typing import Any

LONG = "x" * (1 << 20)
# Values of every JSON type and beyond, most of them almost right.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 1.5, 5.0, 1e308, -0.0, 10**30, -(10**30), 2**63, 2**31),
    *(float("nan"), float("inf"), -float("inf"), 1_600_000_000, 1_600_000_000_000, 1.6e12, 1.6e18),
    *("", " ", "x", "5", "5.0", "4,5", "five", "1e3", "NaN", "null", "1_0", "٣", "—", "$5 - $9", "1600000000"),
    *("2013-07-04", "07 4, 2013", "2013-07-04 12:30Z", "0001-01-01", "9999-12-31 23:59+00:00", "2016-12-31T23:59:60"),
    *("a\0b", "a\ud800", "\ufeff", "\u202e", "e\u0301", "ＡＢ", "<script>" * 50, "&#x110000;", "\x1b[2J", "a\tb\nc\r"),
    *([], [[]], [None], ["a"], [1], ["a", 2], [["Beauty", "Hair"]], {}, {"a": 1}, {"a": {"b": []}}, [{"title": "a"}]),
    *("['a', 'b']", "['Toys & Games', 'Dress Up']", "[" * 99, "a|b", "../../etc/passwd", "-", "0"),
)  # fmt: skip


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, one in inside for place in _places(one, (*path, key))]


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _change_value(rng: random.Random, value: Any) -> str:
    """Change one place of a JSON value. Returns what was done."""
    path = rng.choice(_places(value) or [()])
    if not path:
        return "nothing"
    holder, key = _at(value, path[:-1]), path[-1]
    old = holder[key]
    how = rng.choice(("replace",) * 6 + ("drop", "wrap", "text", "number", "rename", "add", "empty"))
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice((f"{key} ", key.upper(), "", "\0", "x"))] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        holder[rng.choice(("extra", "id", "user", "time", "history", "target", "price"))] = rng.choice(ODD)
    elif how == "add":
        holder.append(rng.choice(ODD))
    else:
        as_number = float(old) if isinstance(old, int) else len(str(old))
        new = {"wrap": [old], "text": json.dumps(old) if not isinstance(old, str) else [*old], "number": as_number}
        holder[key] = new.get(how, type(old)() if how == "empty" and old is not None else rng.choice(ODD))
    return f"{how} {'.'.join(map(str, path))}: {ascii(holder[key] if key in _keys(holder) else None)[:60]}"


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _change_json(rng: random.Random, raw: bytes) -> tuple[str, bytes]:
    try:
        value = json.loads(raw)
    except ValueError:  # a line of a document, not a document
        return _change_bytes(rng, raw)
    how = rng.randrange(12)
    key = next(iter(value), "a") if isinstance(value, dict) else "a"
    text = raw.decode().strip()
    if how == 0 and isinstance(value, dict) and value:  # JSON permits a key twice
        return "key twice", text.replace("{", "{" + f"{json.dumps(key)}: {json.dumps(rng.choice(ODD))}, ", 1).encode()
    if how == 1:
        deep = "[" * 100_000 + "]" * rng.choice((100_000, 0))
        return "deep", (text.replace("{", f'{{"deep": {deep}, ', 1) if rng.random() < 0.5 else deep).encode()
    if how == 2:
        return "another type", json.dumps(rng.choice(ODD)).encode()
    if how == 3:
        return "not quite JSON", rng.choice(
            (text.replace('"', "'"), text + ",", text + text, text[:-1] + ",}")
        ).encode()
    told = _change_value(rng, value)
    return told, json.dumps(value, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def _change_cells(rng: random.Random, raw: bytes, separator: str) -> tuple[str, bytes]:
    cells = raw.decode().split(separator)
    at, how = rng.randrange(len(cells)), rng.choice(("replace",) * 5 + ("drop", "add", "quote", "swap"))
    odd = rng.choice(ODD)
    odd = odd if isinstance(odd, str) else json.dumps(odd)
    if how == "drop":
        del cells[at]
    elif how == "add":
        cells.insert(at, odd)
    elif how == "quote":
        cells[at] = rng.choice(
            ('"', f'"{cells[at]}"', f'"{cells[at]}', f'{cells[at]}"x"', f'"a{separator}b"', '"a\nb"')
        )
    elif how == "swap":
        rng.shuffle(cells)
    else:
        cells[at] = odd
    return f"{how} cell {at}: {ascii(odd)[:60]}", separator.join(cells).encode(errors="surrogatepass")


def _change_bytes(rng: random.Random, raw: bytes) -> tuple[str, bytes]:
    at = rng.randrange(len(raw) + 1)
    text = raw.decode(errors="replace")
    changes = {
        "cut": raw[:at],
        "lost start": raw[at:],
        "empty": b"",
        "blank": rng.choice((b"   ", b"\t", b"\x0c", b"\r", "\u2028".encode())),
        "odd byte": raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
        "odd bytes": raw[:at] + rng.randbytes(rng.randrange(1, 9)) + raw[at:],
        "NUL": raw[:at] + b"\0" + raw[at:],
        "BOM": b"\xef\xbb\xbf" + raw,
        "CRLF": raw + b"\r",
        "CR inside": raw[:at] + b"\r" + raw[at:],
        "line break inside": raw[:at] + b"\n" + raw[at:],
        "UTF-16": text.encode("utf-16"),
        "Latin-1": f"é{text}".encode("latin-1", errors="replace"),
        "surrogate": raw[:at] + b"\xed\xa0\x80" + raw[at:],
        "twice": raw + b"\n" + raw,
        "long": raw[:at] + LONG.encode() + raw[at:],
        "noise": rng.randbytes(rng.randrange(1, 200)).replace(b"\n", b""),
        "comment": b"# " + raw,
        "spaces": raw.replace(b" ", "\u00a0".encode()).replace(b":", b" :\t"),
    }
    how = rng.choice(list(changes))
    return how, changes[how]


def spoiled(rng: random.Random, raw: bytes, form: str) -> tuple[str, bytes]:
    """Change one place of a line or a document, without its line end. Returns (what was done, the changed bytes)."""
    if form == "bytes" or rng.random() < 0.25:
        return _change_bytes(rng, raw)
    return _change_json(rng, raw) if form == "json" else _change_cells(rng, raw, form)


def spoil_a_line(rng: random.Random, content: bytes, form: str, lines: int = 1) -> tuple[str, bytes]:
    """Change some lines of a file of JSON lines or of a table. Returns (what was done, the changed content)."""
    rows, done = content.splitlines(), []
    for _ in range(lines):
        at = rng.randrange(len(rows))
        told, rows[at] = spoiled(rng, rows[at], form)
        done.append(f"line {at + 1}: {told}")
    return "; ".join(done), b"\n".join(rows) + b"\n"
