"""The README's picture: an episode, as `mrrec demo` prints it, drawn as an SVG.

python tests/picture.py        draws the worked episode of docs/results.md as docs/episode.svg

The picture has a dark background of its own, so it looks the same in GitHub's light and dark mode. Texts that the
policy wrote are bright; texts that it was given are grey. In an answer of memory, the lines that contain all words of
the policy's next thought are underlined.
"""

from __future__ import annotations

import re
from html import escape

from house import ROOT

PAGE, PICTURE = ROOT / "docs/results.md", ROOT / "docs/episode.svg"
WIDTH, ROW, LEFT, TEXT = 960, 30, 24, 178  # pixels
GIVEN, WRITTEN, FOUND = "#94a3b8", "#e2e8f0", "#fbbf24"
LABELS = {
    "query": ("asked", GIVEN),
    "global": ("global memory", GIVEN),
    "memory": ("memory answers", GIVEN),
    "think": ("policy thinks", "#38bdf8"),
    "search": ("policy searches", "#a78bfa"),
    "profile": ("policy's profile", "#4ade80"),
    "rank": ("item then taken", FOUND),
}


def episode_of(page: str) -> str:
    """Return the worked episode in a page: the lines from <query> to the rank. Raises ValueError if there is none."""
    if not (found := re.search(r"^<query>.*?^the item the user then took, .*? is at rank \d+$", page, re.M | re.S)):
        raise ValueError("no worked episode of `mrrec demo` in this page")
    return found[0]


def steps(episode: str) -> list[tuple[str, list[str]]]:
    """Return an episode's parts in order as [(kind, texts), ...]; the kinds are the keys of LABELS."""
    words = " ".join(episode.split())
    play, item, rank = re.fullmatch(r"(.*) the item the user then took, (.*), is at rank (\d+)", words).groups()
    found = []
    for kind, text in re.findall(r"<(query|global|memory|think|search|profile)> (.*?)(?=$| <(?!line|m\d|/))", play):
        text = re.sub(r"</\w+>", "", text)
        found.append((kind, [line.strip() for line in re.split(r"<line>", re.sub(r"<(m\d+)>", r"<line> \1", text))]))
    found = [(kind, [text for text in texts if text]) for kind, texts in found]
    return [*found, ("rank", [f"{item}, rank {rank} of the whole shop"])]


def drawn(episode: str) -> str:
    """Return the SVG of an episode."""
    rows = steps(episode)
    height = ROW * len(rows) + 62
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14">',
        "<title>One episode: what the policy was given, what it wrote, and the rank of the item</title>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="#0f172a" stroke="#475569"/>',
        f'<text x="{LEFT}" y="34" fill="{WRITTEN}" font-weight="bold">One episode of the trained policy</text>',
        f'<text x="{WIDTH - LEFT}" y="34" fill="{GIVEN}" text-anchor="end">bright: written by the policy '
        "&#183; grey: given to it</text>",
    ]
    for number, (kind, texts) in enumerate(rows):
        label, colour = LABELS[kind]
        y = 70 + ROW * number
        if colour not in (GIVEN, FOUND):
            out.append(
                f'<rect x="12" y="{y - 20}" width="{WIDTH - 24}" height="{ROW - 2}" rx="5" fill="#1e293b"/>'
                f'<rect x="12" y="{y - 20}" width="4" height="{ROW - 2}" fill="{colour}"/>'
            )
        out.append(f'<text x="{LEFT}" y="{y}" fill="{colour}">{label}</text>')
        thought = next((set(later[0].split()) for k, later in rows[number:] if k == "think"), set())
        spans = []
        for text in texts:
            copied = kind == "memory" and thought <= set(text.split())
            ink = FOUND if copied or kind == "rank" else GIVEN if colour == GIVEN else WRITTEN
            mark = ' text-decoration="underline"' if copied else ""
            spans.append(f'<tspan fill="{ink}"{mark}>{escape(text)}</tspan>')
        out.append(f'<text x="{TEXT}" y="{y}" fill="#64748b">{" &#183; ".join(spans)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawn(episode_of(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
