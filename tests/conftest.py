"""What every test runs under: one thread, no network, no time limit, and real data only if it is there."""

import os
import sys
from pathlib import Path

# Set before numpy and torch are imported. One thread adds in one order, so a seed gives the same number every time.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("MRREC_SHARED_DATA", ROOT.parent / "shared" / "data"))

# A slow machine is not a failure (no deadline), and a failure must happen again on the next run (derandomised).
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """torch reads OMP_NUM_THREADS when it is imported, and a plugin may have imported it earlier."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data():
    """shared_data(name) is a file or folder of real data outside the repository; skips the test if it is missing."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder that MRREC_SHARED_DATA names")
        return path

    return find
