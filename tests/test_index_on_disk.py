"""An index in a folder: the same answers to the last bit, whole or not at all, and faults that are named."""

import json
import os

import numpy as np
import pytest

import mrrec_mini.index_on_disk as mapped
from mrrec_mini.data import DataError
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from test_hybrid import CORPUS, QUERIES, VARIANTS, same_answers, synthetic


def index(config=None, ids=None):
    space = TextSpace.fit(CORPUS, config or HybridConfig(dims=4))
    return HybridIndex(ids or [f"m{i}" for i in range(len(CORPUS))], CORPUS, space)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.fusion}-{c.dense}-{c.idf}-{c.bm25_weight}-{c.vectors}")
def test_loaded_answers_are_the_saved_ones(config, tmp_path):
    made = index(config)
    size = mapped.save(made, tmp_path / "pool")
    loaded = mapped.load(tmp_path / "pool")
    assert size == sum(len(content) for name, content in files(tmp_path / "pool").items() if name != "index.json")
    same_answers(loaded, made, QUERIES)
    part = loaded.joined()
    arrays = [part.lexical.rows, part.lexical.weights, *([part.vectors.values] if part.vectors else [])]
    assert all(isinstance(array, np.memmap) for array in arrays)


def test_a_loaded_index_grows_and_is_saved_over_itself(tmp_path):
    """It reads the very files that it replaces; what it was saved from stays as it was."""
    ids, texts = synthetic(30)
    space = TextSpace.fit(texts, HybridConfig(dims=4))
    mapped.save(HybridIndex(ids[:20], texts[:20], space), tmp_path / "pool")
    loaded = mapped.load(tmp_path / "pool")
    loaded.add(ids[20:], texts[20:])
    loaded.delete(ids[:3])
    loaded.update(ids[3:4], ["w1 w2"])
    built = HybridIndex(ids[3:], ["w1 w2", *texts[4:]], space)
    same_answers(loaded, built, texts[:5])
    mapped.save(loaded, tmp_path / "pool")
    same_answers(loaded, built, texts[:5])
    same_answers(mapped.load(tmp_path / "pool"), built, texts[:5])
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_an_empty_index(tmp_path):
    mapped.save(HybridIndex([], [], TextSpace.fit(CORPUS, HybridConfig(dims=4))), tmp_path / "pool")
    loaded = mapped.load(tmp_path / "pool")
    assert loaded.search("citrus", 3) == []
    loaded.add(["a"], ["citrus"])
    assert loaded.search("citrus", 3)[0].id == "a"


@pytest.mark.parametrize("name", ["vectors.npy", "weights.npy", "ids.json", "space-idf"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_file_that_is_cut_or_missing_is_named(tmp_path, name, harm):
    mapped.save(index(), tmp_path / "pool")
    path = tmp_path / "pool" / name
    os.truncate(path, path.stat().st_size - 1) if harm == "cut" else path.unlink()
    with pytest.raises(DataError, match=f"{name}: missing or cut short .*build the index again"):
        mapped.load(tmp_path / "pool")


def test_what_is_no_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index in"):
        mapped.load(tmp_path / "nothing")
    mapped.save(index(), tmp_path / "pool")
    about = tmp_path / "pool" / "index.json"
    whole = json.loads(about.read_text())
    about.write_text(json.dumps({**whole, "format": 2}))
    with pytest.raises(DataError, match="format 2, and this version of mrrec_mini reads 1"):
        mapped.load(tmp_path / "pool")
    about.write_text(json.dumps({**whole, "embedder": "lsa-4-another"}))
    with pytest.raises(DataError, match="vectors are of lsa-4-another"):
        mapped.load(tmp_path / "pool")
    for text in ("", "[]", "{}", about.read_text()[:50]):
        about.write_text(text)
        with pytest.raises(DataError, match="not what `save` writes"):
            mapped.load(tmp_path / "pool")


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds no index"):
        mapped.save(index(), tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"all of it"}
    with pytest.raises(ValueError, match="rank_bm25"):
        mapped.save(index(HybridConfig(lexical="rank_bm25", dims=4)), tmp_path / "pool")


def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    mapped.save(index(), tmp_path / "pool")
    before = files(tmp_path / "pool")

    def full(path, array):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        mapped.save(index(ids=list("abcdefgh")), tmp_path / "pool")
    assert files(tmp_path / "pool") == before and [path.name for path in tmp_path.iterdir()] == ["pool"]
