"""Stop a process in an orderly way: SIGTERM and SIGHUP act like Ctrl-C, and none of them interrupts a training step.

Flow: `train` uses `undivided`; the command line and its child processes use `stop_like_ctrl_c`. A stopped training then
saves a checkpoint, whether a person pressed Ctrl-C, a job scheduler ended the job, or the terminal was closed.
Equations: none. On Windows, SIGTERM ends a process at once, because there it cannot be handled, and SIGHUP is unknown.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP asked this process to stop."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped` in the main thread. A signal that is ignored now (nohup) stays ignored."""
    for number in STOPPING:
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, raise_stopped)


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """Handle a signal by raising `Stopped`."""
    raise Stopped(number)


@contextmanager
def undivided() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the `with` block ends.

    In other threads than the main thread, which alone gets signals, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python, so it cannot be set again
    for number in asked[:1]:
        signal.raise_signal(number)
