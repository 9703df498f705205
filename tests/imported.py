"""Helpers for the tests of the importers: small made-up files, real data, and checks of an imported `Dataset`."""

import gzip
import json
import os
from pathlib import Path

import pytest

from mrrec_mini.data import Dataset

SHARED = Path(os.environ.get("MRREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DAY = 86_400


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path} (set MRREC_SHARED_DATA)")
    return path


def json_file(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def steps(dataset: Dataset) -> dict[str, tuple[int, int]]:
    return {step["step"]: (step["dropped"], step["kept"]) for step in dataset.meta["cleaning"]}


def assert_no_leak(dataset: Dataset) -> None:
    """Assert that no history contains the query's target, its review's text, or anything at or after the query."""
    for query in dataset.queries:
        history = dataset.history(query)
        own = {i.review.lower() for i in dataset.interactions_of(query.user) if i.item == query.target} - {""}
        assert all(i.user == query.user and i.time < query.time for i in history)
        assert query.target not in {i.item for i in history}
        assert not own & {i.review.lower() for i in history}


def assert_survives_saving(dataset: Dataset, path: Path) -> None:
    again = Dataset.load(dataset.save(path))
    assert (again.items, again.interactions, again.queries) == (dataset.items, dataset.interactions, dataset.queries)
    assert "repeated_lines" not in again.meta


def review_2023(user, item, day, title, text, rating=5.0) -> dict:
    times = {"timestamp": day * DAY * 1000 + 7}
    return {
        "user_id": user,
        "asin": item + "x",
        "parent_asin": item,
        "rating": rating,
        "title": title,
        "text": text,
        **times,
    }
