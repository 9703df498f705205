"""Settings for all tests: one thread, no network, no deadline for hypothesis, and real data only if it is there."""

import os
import signal
import sys
from pathlib import Path

# Set before numpy and torch are imported. One thread adds in a fixed order, so a seed always gives the same numbers.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C in jobs that it starts with `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("MRREC_SHARED_DATA", ROOT.parent / "shared" / "data"))

# No deadline, so a slow machine fails no test; derandomised, so a failure happens again on the next run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Limit torch to one thread, even if a plugin imported torch before OMP_NUM_THREADS was set."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data():
    """Return a function: name -> path of real data outside the repository. It skips the test if the path is missing."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder that MRREC_SHARED_DATA names")
        return path

    return find
