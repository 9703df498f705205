"""What every test runs under: one thread, no network, no clock, and real data only where it lies."""

import os
import sys
from pathlib import Path

# Before numpy and torch are first imported. One thread: sums in one order, so one seed gives one number everywhere.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("MRREC_SHARED_DATA", ROOT.parent / "shared" / "data"))

# A slow machine is no defect (no deadline), and a failure must come back when it is looked into (no fresh randomness).
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """OMP_NUM_THREADS tells torch when it is imported; a plugin may have imported it before."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data():
    """shared_data(name): a file or folder of real data, which lies outside the repository; skips where it is not."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder that MRREC_SHARED_DATA names")
        return path

    return find
