"""An index in a folder: same answers to the last bit, saved whole or not at all, clear errors for damaged files."""

import json
import os

import numpy as np
import pytest

from mrrec_mini.data import DataError
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace
from mrrec_mini.index_on_disk import load, save
from test_dense import output_of
from test_hybrid import CORPUS, QUERIES, VARIANTS, same_answers, synthetic


def index(config=None, ids=None):
    space = TextSpace.fit(CORPUS, config or HybridConfig(dims=4))
    return HybridIndex(ids or [f"m{i}" for i in range(len(CORPUS))], CORPUS, space)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.fusion}-{c.dense}-{c.idf}-{c.bm25_weight}-{c.vectors}")
def test_a_loaded_index_answers_like_the_saved_one(config, tmp_path):
    made = index(config)
    size = save(made, tmp_path / "pool")
    loaded = load(tmp_path / "pool")
    assert size == sum(len(content) for name, content in files(tmp_path / "pool").items() if name != "index.json")
    same_answers(loaded, made, QUERIES)
    segment = loaded.merge()
    arrays = [segment.lexical.rows, segment.lexical.weights]
    arrays += [segment.vectors.values] if segment.vectors else []
    assert all(isinstance(array, np.memmap) for array in arrays)


def test_a_loaded_index_grows_and_is_saved_over_itself(tmp_path):
    """It reads the files that it replaces, and goes on answering after the save."""
    ids, texts = synthetic(30)
    space = TextSpace.fit(texts, HybridConfig(dims=4))
    save(HybridIndex(ids[:20], texts[:20], space), tmp_path / "pool")
    loaded = load(tmp_path / "pool")
    loaded.add(ids[20:], texts[20:])
    loaded.delete(ids[:3])
    loaded.delete(ids[3:4])
    loaded.add(ids[3:4], ["w1 w2"])
    built = HybridIndex(ids[3:], ["w1 w2", *texts[4:]], space)
    same_answers(loaded, built, texts[:5])
    save(loaded, tmp_path / "pool")
    same_answers(loaded, built, texts[:5])
    same_answers(load(tmp_path / "pool"), built, texts[:5])
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_an_empty_index(tmp_path):
    save(HybridIndex([], [], TextSpace.fit(CORPUS, HybridConfig(dims=4))), tmp_path / "pool")
    loaded = load(tmp_path / "pool")
    assert loaded.search("citrus", 3) == []
    loaded.add(["a"], ["citrus"])
    assert loaded.search("citrus", 3)[0].id == "a"


@pytest.mark.parametrize("name", ["vectors.npy", "weights.npy", "ids.json", "space-idf"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_the_error_names_a_cut_or_missing_file(tmp_path, name, harm):
    save(index(), tmp_path / "pool")
    path = tmp_path / "pool" / name
    os.truncate(path, path.stat().st_size - 1) if harm == "cut" else path.unlink()
    with pytest.raises(DataError, match=f"{name}: missing or cut short .*build the index again"):
        load(tmp_path / "pool")


def test_a_folder_that_is_no_index_of_this_format_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index in"):
        load(tmp_path / "nothing")
    save(index(), tmp_path / "pool")
    about = tmp_path / "pool" / "index.json"
    whole = json.loads(about.read_text())
    about.write_text(json.dumps({**whole, "format": 2}))
    with pytest.raises(DataError, match="format 2, but this version of mrrec_mini reads 1"):
        load(tmp_path / "pool")
    about.write_text(json.dumps({**whole, "embedder": "lsa-4-another"}))
    with pytest.raises(DataError, match="vectors are of lsa-4-another"):
        load(tmp_path / "pool")
    for text in ("", "[]", "{}", about.read_text()[:50]):
        about.write_text(text)
        with pytest.raises(DataError, match="not what `save` writes"):
            load(tmp_path / "pool")


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds no index"):
        save(index(), tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"all of it"}
    with pytest.raises(ValueError, match="rank_bm25"):
        save(index(HybridConfig(lexical="rank_bm25", dims=4)), tmp_path / "pool")


def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    save(index(), tmp_path / "pool")
    before = files(tmp_path / "pool")

    def full(path, array):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(index(ids=list("abcdefgh")), tmp_path / "pool")
    assert files(tmp_path / "pool") == before and [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_searching_a_saved_index_does_not_import_scikit_learn(tmp_path):
    save(index(), tmp_path / "pool")
    code = f"""
import sys
from pathlib import Path
from mrrec_mini.index_on_disk import load
assert load(Path({str(tmp_path / "pool")!r})).search("citrus", 1)[0].id == "m0"
print([name for name in ("sklearn", "scipy", "torch", "transformers", "rank_bm25") if name in sys.modules])
"""
    assert output_of(code) == "[]"
