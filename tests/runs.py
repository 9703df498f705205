"""A data set and a run on disk, made once for all tests that need them, and functions that call the command line."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers.utils import logging
from typer.testing import CliRunner

from house import ROOT
from mrrec_mini.app.cli import app
from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Query
from mrrec_mini.grammar import CONTROL
from mrrec_mini.imitation import WarmStartConfig
from mrrec_mini.recipe import FAST, prepare, start_policy
from mrrec_mini.run import Run, RunConfig
from mrrec_mini.train import Trainer, train
from mrrec_mini.world import WorldConfig, make_world
from small import TINY

logging.disable_progress_bar()  # the entry point sets a variable instead, which has no effect after the import

FOLDER = TemporaryDirectory(prefix="mrrec-tests-")  # deleted when the tests end
SHOP = WorldConfig(users=12, items=60, categories=5, held=1, history=6, queries=3)
QUICK = replace(
    FAST,
    sibling_users=8,
    traces=48,
    model=replace(TINY, context=1024),
    warm=WarmStartConfig(drill_steps=2, drill_batch=4, drill_goal=0.0, steps=2, batch=8),
    train=replace(FAST.train, steps=2, prompts_per_step=2, group=2, evaluate_every=2, checkpoint_every=2),
)
# rich's markup, an emoji name, escape sequences, a character that reverses the reading direction
HOSTILE = "[bold red]x[/] [/nothing] :cat: \x1b[2J\x1b]0;owned\x07 \x9b31m \u202e"


@lru_cache(maxsize=1)
def shop() -> Path:
    """Save a synthetic shop as a data set and return its folder."""
    return make_world(SHOP).save(Path(FOLDER.name) / "shop")


@lru_cache(maxsize=1)
def made_run() -> Path:
    """Make a run on the shop in seconds and return its folder. The policy has learned next to nothing."""
    run = Run(Path(FOLDER.name) / "run")
    environments = prepare(Dataset.load(shop()), QUICK, 0)
    trainer = Trainer(*start_policy(environments, QUICK, 0), environments, QUICK.train)
    with run.lock():
        run.create(RunConfig(QUICK, 0, shop()), trainer)
        train(trainer, run, environments[0].split.validation_queries)
        run.finish(environments[0])
    return run.folder


def copied_run(folder: Path) -> Path:
    """Copy the run into `folder` and return the copy, which a test may change."""
    return Path(shutil.copytree(made_run(), folder / "run", ignore=shutil.ignore_patterns("memory.db*")))


def hostile_shop(folder: Path) -> Path:
    """Save a shop whose titles, reviews and queries contain control tokens and terminal codes. Return its folder."""
    plain, tags = make_world(replace(SHOP, users=20, queries=2)), " ".join(CONTROL)

    def imitating(number: int, query: Query) -> Query:
        before, after = CONTROL[number % len(CONTROL)], CONTROL[(number + 1) % len(CONTROL)]
        return replace(query, text=f"{before} {query.text} {after}", truth=None)

    return Dataset(
        {i.id: replace(i, title=f"{i.title} {tags} {HOSTILE}") for i in plain.items.values()},
        [replace(met, review=f"{tags} {met.review} {HOSTILE}") for met in plain.interactions],
        [imitating(number, query) for number, query in enumerate(plain.queries)],
        {"name": f"{tags} {HOSTILE}"},
    ).save(folder / "hostile")


def mrrec(*words: object):
    """Run one `mrrec` command in this process and return its result. Exceptions except SystemExit are raised again."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def started(*words: object, before: str = "", env: dict | None = None, **options) -> subprocess.Popen:
    """Start one `mrrec` command in a new process, which runs the code `before` first."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{before}\nfrom mrrec_mini.app.cli import main\nmain()"
    words = [sys.executable, "-c", code, *(str(word) for word in words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env={**os.environ, **(env or {})}, **{**pipes, **options})


def refused(done, code: int, *names: str) -> str:
    """Assert that a command ended with `code` and printed one line only, on stderr, with all `names`. Return it."""
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    for name in names:
        assert name in done.stderr, done.stderr
    return done.stderr


def same_weights(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """Make writes fail midway once a file exceeds `limit` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
