"""Checkpoints after a kill, a cut file, a flipped bit, a full disk: what is read is what was written, or is named."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from house import ROOT
from mrrec_mini import checkpoint
from mrrec_mini.checkpoint import check, folders, newest, save
from mrrec_mini.data import DataError
from runs import no_file_larger_than


def writing(number: int, tick=lambda: None):
    """A writer of two files that both say `number`; `tick` is called with each of them half written."""

    def write(folder: Path) -> None:
        for name, size in (("weights.bin", 3000), ("words.txt", 20)):
            with (folder / name).open("wb") as file:
                file.write(bytes([number]) * (size // 2))
                file.flush()
                tick()
                file.write(bytes([number]) * (size - size // 2))

    return write


def said(folder: Path) -> int:
    """The number that both files of a checkpoint say."""
    [number] = {byte for name in ("weights.bin", "words.txt") for byte in (folder / name).read_bytes()}
    return number


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def whole(run: Path) -> Path:
    """The newest checkpoint; fails if a damaged one was passed over."""
    return newest(run, warn=lambda what: pytest.fail(what))


# --- what a save leaves ----------------------------------------------------------------------------------------------


def test_the_manifest_names_every_file_with_size_and_sha256(tmp_path):
    folder = save(tmp_path, 60, writing(7))
    assert folder == tmp_path / "checkpoints" / "step-000060" == whole(tmp_path)
    told = json.loads((folder / "manifest.json").read_text())
    assert (told["format"], told["step"]) == (1, 60)
    assert told["files"] == {
        "weights.bin": {"size": 3000, "sha256": hashlib.sha256(b"\7" * 3000).hexdigest()},
        "words.txt": {"size": 20, "sha256": hashlib.sha256(b"\7" * 20).hexdigest()},
    }
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "weights.bin", "words.txt"}


def test_the_two_newest_are_kept(tmp_path):
    for step in (0, 25, 50, 1_000_000):
        assert said(save(tmp_path, step, writing(step % 251))) == step % 251
    assert names(tmp_path) == [
        "step-000050",
        "step-1000000",
    ]  # sorted by number; as text the longer one would come first
    assert folders(tmp_path) == [tmp_path / "checkpoints" / name for name in ("step-1000000", "step-000050")]


def test_a_step_can_be_saved_again(tmp_path):
    save(tmp_path, 25, writing(1))
    save(tmp_path, 50, writing(2))
    assert said(save(tmp_path, 50, writing(3))) == 3 and said(whole(tmp_path)) == 3
    assert names(tmp_path) == ["step-000025", "step-000050"]


def test_damaged_checkpoints_of_later_steps_are_deleted(tmp_path):
    """Step 50 was damaged, so the run was resumed from 25. When it saves step 40, step 50 is deleted."""
    save(tmp_path, 25, writing(1))
    (save(tmp_path, 50, writing(2)) / "words.txt").unlink()
    save(tmp_path, 40, writing(3))
    assert names(tmp_path) == ["step-000025", "step-000040"] and said(whole(tmp_path)) == 3


def test_every_file_is_on_the_disk_before_the_manifest_and_the_manifest_before_the_name(tmp_path, monkeypatch):
    done, sync, move = [], os.fsync, os.replace

    def recorded(handle):
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"{Path(a).name} -> {Path(b).name}"), move(a, b)))
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc/self/fd to see which file is meant")
    save(tmp_path, 1, writing(1))
    assert done == [
        *("weights.bin", "words.txt", "manifest.json", "step-000001.tmp"),
        *("step-000001.tmp -> step-000001", "checkpoints"),
    ]


def test_a_run_without_a_checkpoint_is_reported(tmp_path):
    (tmp_path / "checkpoints" / "step-000001.tmp").mkdir(parents=True)
    for run in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="has no checkpoint"):
            whole(run)


# --- killed -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it."""


class Fragile:
    """Counts operations on files below a folder, and kills at one of them. Python itself reports all but fsync."""

    EVENTS = frozenset(["open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"])
    below, left = None, None  # the folder while armed; operations up to the kill

    def event(self, event, args):
        if self.below and event in self.EVENTS:
            inside = any(isinstance(a, str | os.PathLike) and str(a).startswith(self.below) for a in args)
            if inside or event in ("os.remove", "os.rmdir"):  # rmtree names files relative to an open folder
                self.tick()

    def tick(self):
        if self.below:
            if self.left == 0:
                self.below = None  # a dead process does not clean up
                raise Killed
            self.left -= 1

    @contextmanager
    def killing(self, below: Path, at: int):
        """Kill at operation `at` inside the block; yields a list that is not empty afterwards if it did."""
        self.below, self.left, died = str(below), at, []
        try:
            yield died
        except Killed:
            died.append(True)
        finally:
            self.below = None


fragile = Fragile()
sys.addaudithook(fragile.event)


@pytest.fixture
def no_waiting(monkeypatch):
    """fsync counts as an operation, but does not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: fragile.tick())


def killed(run: Path, step: int, number: int, at: int) -> bool:
    with fragile.killing(run, at) as died:
        save(run, step, writing(number, fragile.tick))
    return bool(died)


def test_after_a_kill_at_any_operation_the_old_or_the_new_checkpoint_is_whole(tmp_path, no_waiting):
    """A third checkpoint is saved beside two others."""
    seen, at, died = set(), 0, True
    while died:
        run = tmp_path / str(at)
        save(run, 1, writing(1))
        save(run, 2, writing(2))
        died = killed(run, 3, 3, at)
        seen.add(said(whole(run)))
        save(run, 3, writing(3))
        assert said(whole(run)) == 3 and names(run) == ["step-000002", "step-000003"]
        at += 1
    assert seen == {2, 3} and at > 20


@pytest.mark.parametrize("alone", [True, False])
def test_two_kills_while_a_step_is_saved_again(tmp_path, alone, no_waiting):
    """At any operation, then at any other one: what was saved last is never lost."""
    seen, at, died = set(), 0, True
    while died:
        for again in range(at % 8, 40, 8):  # an eighth of the pairs of operations
            run = tmp_path / f"{at}-{again}"
            if not alone:
                save(run, 1, writing(1))
            save(run, 2, writing(2))
            died = killed(run, 2, 3, at)
            first = said(whole(run))
            killed(run, 2, 4, again)
            second = said(whole(run))
            assert first in (2, 3) and second in (first, 4)
            seen |= {first, second}
            save(run, 3, writing(5))
            assert said(whole(run)) == 5 and "step-000003" in names(run) and len(names(run)) == 2
        at += 1
    assert seen == {2, 3, 4} and at > 20


LOOP = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from mrrec_mini.checkpoint import save
run, step = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    save(run, step, lambda folder: [(folder / n).write_bytes(bytes([step % 251]) * 400_000) for n in ("a", "b")])
    print(step, flush=True)
    step += 1
"""


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path):
    """A process does nothing but save. It is killed 25 times at random moments within a few saves."""
    code = LOOP.format(root=str(ROOT), tests=str(ROOT / "tests"))
    rng, step, halves = random.Random(0), 0, 0
    for _ in range(25):
        job = subprocess.Popen([sys.executable, "-c", code, tmp_path, str(step)], stdout=subprocess.PIPE, text=True)
        assert job.stdout.readline() == "ready\n"
        job.stdout.readline()
        time.sleep(rng.random() * 0.03)
        job.kill()
        told = [int(line) for line in job.communicate()[0].split()]
        assert job.returncode == -signal.SIGKILL
        halves += any((tmp_path / "checkpoints").glob("*.tmp"))
        folder = whole(tmp_path)
        last = int(folder.name.removeprefix("step-"))
        assert last >= max(told, default=step) and set((folder / "a").read_bytes()) == {last % 251}
        step = last + 1
    assert halves > 5  # otherwise the kills missed the writes


# --- damaged ------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["weights.bin", "words.txt", "manifest.json"])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_named_and_the_one_before_is_used(tmp_path, file, harm):
    older = save(tmp_path, 1, writing(1))
    harm(save(tmp_path, 2, writing(2)) / file)
    told = []
    assert newest(tmp_path, told.append) == older
    [line] = told
    assert "step-000002: " in line and file in line and line.endswith("; step-000001 is used in its place")
    harm(older / file)
    with pytest.raises(DataError, match=r"no checkpoint is whole: .*step-000002: .*step-000001: ") as error:
        newest(tmp_path, pytest.fail)
    assert str(error.value).count(file) == 2 and "\n" not in str(error.value)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    """Also in the manifest: in its spaces, in its own sha256, and in the format, which could look like a newer one."""
    folder = save(tmp_path, 1, writing(1))
    for path in folder.iterdir():
        kept = path.read_bytes()
        for bit in range(0, 8 * len(kept), 5 if path.name == "manifest.json" else 997):
            content = bytearray(kept)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            with pytest.raises(checkpoint.Damaged):
                check(folder)
        path.write_bytes(kept)
    check(folder)


def test_a_folder_that_differs_from_its_manifest_is_passed_over(tmp_path):
    """A foreign file, a renamed folder, or a manifest of another step, another run or another tool."""
    older, newer = save(tmp_path / "a", 1, writing(1)), save(tmp_path / "a", 2, writing(2))
    other = save(tmp_path / "b", 2, writing(3))
    kept = (newer / "manifest.json").read_bytes()

    def refused(content: bytes, *words: str):
        (newer / "manifest.json").write_bytes(content)
        told = []
        assert newest(tmp_path / "a", told.append) == older
        assert all(word in told[0] for word in words), told
        (newer / "manifest.json").write_bytes(kept)
        assert whole(tmp_path / "a") == newer

    (newer / "adapter.bin").write_text("x")
    told = []
    assert newest(tmp_path / "a", told.append) == older and "adapter.bin is not listed in its manifest" in told[0]
    (newer / "adapter.bin").unlink()
    refused((older / "manifest.json").read_bytes(), "manifest.json belongs to step 1, but its folder is named")
    refused((other / "manifest.json").read_bytes(), "weights.bin: its sha256 is not the one in the manifest")
    for foreign in (b"[]", b"1", b"{}", b'{"sha256": 1}', b'{"manifest_version": 3, "name": "x"}', b"\xff"):
        refused(foreign, "manifest.json")
    newer.rename(newer.with_name("step-000009"))
    assert newest(tmp_path / "a", told.append) == older and "step-000009: manifest.json belongs to step 2" in told[1]


def test_a_newer_format_is_named_with_ours(tmp_path, monkeypatch):
    save(tmp_path, 1, writing(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save(tmp_path, 2, writing(2))
    with pytest.raises(DataError, match=r"step-000002: a checkpoint of format 2, and this version .* reads format 1;"):
        newest(tmp_path, pytest.fail)


# --- no room, no permission ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_full_disk_leaves_the_old_checkpoint_and_is_named(tmp_path, limit):
    save(tmp_path, 1, writing(1))
    with no_file_larger_than(limit), pytest.raises(OSError) as error:
        save(tmp_path, 2, writing(2))
    told = str(error.value)
    assert f"{tmp_path / 'checkpoints' / 'step-000002'}: the checkpoint cannot be written (File too large)" in told
    assert "make room there" in told and "\n" not in told
    assert names(tmp_path) == ["step-000001"] and said(whole(tmp_path)) == 1
    save(tmp_path, 2, writing(2))
    assert said(whole(tmp_path)) == 2


def test_if_only_the_name_is_not_confirmed_the_error_says_that_the_new_one_stands(tmp_path, monkeypatch):
    save(tmp_path, 1, writing(1))
    save(tmp_path, 2, writing(2))
    sync = checkpoint.sync

    def fail(path):
        if path.name == "checkpoints":
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", fail)
    with pytest.raises(OSError, match=r"step-000003: the checkpoint is written, .*put error.* older") as told:
        save(tmp_path, 3, writing(3))
    assert "cannot be written" not in str(told.value) and said(whole(tmp_path)) == 3
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]


def test_an_old_checkpoint_that_cannot_be_deleted_is_no_error_and_goes_later(tmp_path, monkeypatch):
    save(tmp_path, 1, writing(1))
    save(tmp_path, 2, writing(2))
    remove = checkpoint.shutil.rmtree

    def fail(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", fail)
    assert said(save(tmp_path, 3, writing(3))) == 3
    monkeypatch.setattr(checkpoint.shutil, "rmtree", remove)
    assert said(save(tmp_path, 4, writing(4))) == 4 and names(tmp_path) == ["step-000003", "step-000004"]


def test_an_error_of_a_library_is_reported_like_an_oserror(tmp_path):
    def write(folder):
        (folder / "weights.bin").write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(OSError, match=r"cannot be written \(RuntimeError: unexpected pos 64 vs 0\)"):
        save(tmp_path, 2, write)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path):
    """A file is where a folder is needed. That stops root too, who may write into a read-only folder."""
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(OSError, match="the checkpoint cannot be written") as error:
        save(tmp_path, 1, writing(1))
    assert str(tmp_path / "checkpoints") in str(error.value) and (tmp_path / "checkpoints").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder; run as somebody else")
def test_a_read_only_folder(tmp_path):
    save(tmp_path, 1, writing(1))
    (tmp_path / "checkpoints").chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        save(tmp_path, 2, writing(2))
    (tmp_path / "checkpoints").chmod(0o700)
    assert said(whole(tmp_path)) == 1
    assert said(save(tmp_path, 2, writing(2))) == 2
