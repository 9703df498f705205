"""What the pages say holds: commands, programs, links, the README's size and picture; each check is seen to fail."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import picture
from conftest import SHARED_DATA
from house import (
    MOST_DECIMALS,
    MOST_LINES,
    MOST_WORDS,
    ON_FIRST_SCREEN,
    ROOT,
    anchors,
    arguments,
    broken_links,
    decimals,
    front_page_faults,
    made_targets,
    pages,
    programs,
    stories,
)
from mrrec_mini.app.cli import app

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages()}
README = TEXTS["README.md"]
STORIES = [story for page, text in TEXTS.items() for story in stories(text, page)]
PROGRAMS = [(page, *program) for page, text in TEXTS.items() for program in programs(text)]
# their links are checked; what they say is tested elsewhere
FURTHER = [
    "tutorials/README.md",
    "benchmarks/README.md",
    "benchmarks/LOG.md",
    "reproduction/REPRODUCTION.md",
    "reproduction/magazine/REPRODUCTION.md",
    "tests/CHECKS.md",
]

# --- commands ---


def test_stories_are_read():
    quick = "```bash\nmrrec data info d  # counts\nls\n```\n"
    slow = "```bash slow needs:data/x\n.venv/bin/mrrec demo \\\n  --data data/x\n```\n"
    first, second = stories(f"a\n{quick}{slow}```\nmrrec is not run here\n```\n")
    assert (first.line, first.commands, first.slow) == (2, ("mrrec data info d  # counts",), False)
    assert (second.slow, second.needs) == (True, ("data/x",))
    assert arguments(first.commands[0]) == ["data", "info", "d"]
    assert arguments(second.commands[0]) == ["demo", "--data", "data/x"]
    assert arguments("mrrec demo --json > out.json") == ["demo", "--json"]
    assert arguments('mrrec recommend "a lotion" --user u') == ["recommend", "a lotion", "--user", "u"]
    with pytest.raises(ValueError, match=r"docs/x\.md.*slwo"):
        stories("```bash slwo\nmrrec demo\n```\n", "docs/x.md")


def invoke(command: str, *more: str):
    """Run one command of a page in this process, with `more` options."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [*arguments(command), *more])


def as_parameter(story):
    """A story as a pytest parameter: named by page and line, marked as its fence says."""
    return pytest.param(story, id=f"{story.page}:{story.line}", marks=[pytest.mark.slow] if story.slow else [])


@pytest.mark.parametrize("story", [as_parameter(story) for story in STORIES])
def test_commands_run(story, tmp_path, monkeypatch):
    for need in story.needs:
        found = next((p for p in (ROOT / need, SHARED_DATA / Path(need).name) if p.exists()), None)
        if found is None:
            pytest.skip(f"needs {need}, which is in neither the repository nor the folder of MRREC_SHARED_DATA")
        (tmp_path / need).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / need).symlink_to(found)
    monkeypatch.chdir(tmp_path)
    for command in story.commands:
        large = command.split()[1] in ("demo", "train", "reproduce")
        # Toy sizes turn minutes into seconds. `--fast` is passed as an argument, because the text may end in a comment.
        done = invoke(command, *["--fast"] * large)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("command", sorted({command for story in STORIES for command in story.commands}))
def test_commands_exist(command):
    """The quick half, also for slow stories: the command exists and takes the options that the page shows."""
    assert unknown_options(command) == []


def unknown_options(command: str) -> list[str]:
    words, node = arguments(command), typer.main.get_command(app)
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    if hasattr(node, "commands"):
        return [f"no command {words[:1]}"]
    known = {name for parameter in node.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in known]


def test_unknown_commands_and_options_are_seen():
    assert unknown_options("mrrec demo --fats") == ["--fats"]
    assert unknown_options("mrrec dmeo") == ["no command ['dmeo']"]
    assert invoke("mrrec dmeo").exit_code == 2
    assert "--nonsense" in invoke("mrrec demo   # a comment ends no command", "--nonsense").output


@pytest.mark.parametrize("page", [*TEXTS, *FURTHER])
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w/-]+):", makefile, flags=re.MULTILINE))
    assert set(made_targets((ROOT / page).read_text(encoding="utf-8"))) <= targets


def test_make_targets_are_read():
    assert made_targets("```\nmake dmeo\n```\nmake it so\n```bash\nmake data/ml-100k  # x\n```\n") == [
        "dmeo",
        "data/ml-100k",
    ]


def test_the_readme_shows_the_two_commands_and_ci_runs_the_second():
    assert {"demo", "test"} <= set(made_targets(README))
    assert {"make test", "make lint"} <= set((ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines())


# --- programs ---


@pytest.mark.parametrize(("page", "source", "prints"), PROGRAMS, ids=[page for page, *_ in PROGRAMS])
def test_programs_print_what_they_say(page, source, prints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, page, "exec"), {})
    assert capsys.readouterr().out.splitlines() == prints


def test_programs_are_read():
    assert PROGRAMS
    text = "```python\nx = 1  # one\nprint(x)  # 1\nprint([x])  # [1]\n```\n```bash\nls\n```\n"
    assert programs(text) == [("x = 1  # one\nprint(x)  # 1\nprint([x])  # [1]\n", ["1", "[1]"])]


# --- links ---


@pytest.mark.parametrize("page", [*TEXTS, *FURTHER])
def test_links_hold(page):
    assert broken_links(ROOT / page) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "other.md").write_text(
        "# Data and *memory*, in [one](x.md)\n## Same\n## Same\n```\n# no heading\n```\n"
    )
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) ![b](gone.png) [c](other.md#data-and-memory-in-one) [d](other.md#same-1)\n"
        "[e](other.md#no-heading)\n"
        "# Top\n[f](#top) [g](#botom) [h](https://example.org/x) `[i]`\n```\n[j](in_a_fence.md)\n```\n"
    )
    assert [line.split(": ")[1] for line in broken_links(page)] == ["gone.png", "other.md#no-heading", "#botom"]
    assert anchors("# A\n## A\n### A-1 `b`!\n") == {"a", "a-1", "a-1-b"}


def test_the_index_lists_every_page():
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[[^]]+\]\((\w+\.md)\)", TEXTS["docs/README.md"], flags=re.MULTILINE)) == names


def test_the_glossary_names_what_its_files_hold():
    rows = re.findall(r"^\|[^|]*\| (`[^|]*) \|.*\| ([^|]*) \|$", TEXTS["docs/glossary.md"], flags=re.MULTILINE)
    assert len(rows) > 40
    for names, files in rows:
        source = "".join(
            (ROOT / "docs" / path).read_text(encoding="utf-8") for path in re.findall(r"\]\((.*?)\)", files)
        )
        for name in re.findall(r"`([^`]+)`", names):
            assert (word := re.findall(r"\w+", name.partition("(")[0])[-1]) in source, f"{word} is not in {files}"


# --- the front page ---


def test_the_front_page_is_short_and_says_what_it_must():
    assert front_page_faults(README) == []


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("\n" * MOST_LINES, "lines"),
        (" word" * MOST_WORDS, "words"),
        (" 0.5" * (MOST_DECIMALS + 1), "decimals"),
    ],
)
def test_a_swollen_front_page_is_seen(more, what):
    (fault,) = front_page_faults(README + more)
    assert f" {what}, at most " in fault


@pytest.mark.parametrize("what", ON_FIRST_SCREEN)
def test_what_the_first_screen_lacks_is_seen(what):
    without = re.sub(ON_FIRST_SCREEN[what], "", README, flags=re.MULTILINE)
    assert f"not in the first 70 lines: {what}" in front_page_faults(without)
    assert f"not in the first 70 lines: {what}" in front_page_faults("\n" * 70 + README)


def test_versions_and_papers_are_no_decimals():
    text = "arXiv 2510.14629, Python 3.11 or 3.13, torch==2.13.0, numpy>=2.0, [x](docs/a1.5.md); 0.5, .25 and 1.0"
    assert decimals(text) == ["0.5", ".25", "1.0"]


# --- the picture ---


def test_the_picture_is_the_episode_of_the_results():
    svg = picture.PICTURE.read_text(encoding="utf-8")
    assert svg == picture.drawn(picture.episode_of(TEXTS["docs/results.md"])), "run `python tests/picture.py`"
    ElementTree.fromstring(svg)


def test_a_picture_shows_every_step_and_escapes_texts():
    episode = (
        "<query> a & b\n<global> <line> a\nprice <line> b size\n<think> price <search> a price </search>\n"
        "<memory> <m1> a\nprice low <m2> b size </memory>\n<think> price low <profile> a & b\nprice low <evidence>\n"
        "<m1> <end>\n"
        "the item the user then took, tiny a, is at rank 3"
    )
    assert picture.steps(picture.episode_of(f"x\n{episode}\ny\n")) == [
        ("query", ["a & b"]),
        ("global", ["a price", "b size"]),
        ("think", ["price"]),
        ("search", ["a price"]),
        ("memory", ["m1 a price low", "m2 b size"]),
        ("think", ["price low"]),
        ("profile", ["a & b price low"]),
        ("rank", ["tiny a, rank 3 of the whole shop"]),
    ]
    root = ElementTree.fromstring(picture.drawn(episode))
    spans = [span for span in root.iter("{http://www.w3.org/2000/svg}tspan")]
    assert [span.text for span in spans if span.get("text-decoration")] == ["m1 a price low"]
    assert spans[0].text == "a & b"
    with pytest.raises(ValueError, match="no worked episode"):
        picture.episode_of(README)
