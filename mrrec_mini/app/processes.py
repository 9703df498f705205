"""A process pool: run tasks that depend on each other in child processes, and report their progress.

Flow: used by `demo` (a task is a seed) and by `jobs` (a task is one job for one seed). Equations: none.

torch uses one thread per process, because the models are so small that a second thread slows them down. Child processes
are spawned, because torch can hang in a forked process. No child outlives its parent: if the parent stops, it ends its
children; if it is killed, the children notice it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.managers import SyncManager
from queue import Empty, Queue
from threading import Thread
from types import FrameType

import torch

from mrrec_mini.recipe import Say, quiet
from mrrec_mini.signals import STOPPING, raise_stopped


def run_tasks(
    function: Callable[..., object], needs: Mapping[Hashable, Collection], workers: int, say: Say = quiet
) -> dict[Hashable, object]:
    """Call `function(key, say)` for each key of `needs`, at most `workers` at a time, and return {key: result}.

    `needs[key]` holds the keys whose tasks must end before `key` starts. In `needs`, a key comes after the keys it
    needs; a needed key that `needs` lacks counts as done. Earlier keys start first. With one worker, everything runs in
    this process; with more, `function` must be picklable. If a task raises an exception, or on Ctrl-C, the child
    processes get SIGTERM, which raises `Stopped` in their tasks, and the exception is raised here when they have ended.
    Raises ChildProcessError if a child process was killed.
    """
    if workers == 1:
        return {key: _call(function, key, say) for key in needs}
    context = get_context("spawn")
    waiting, running, results = list(needs), {}, {}
    manager = SyncManager(ctx=context)
    manager.start(_begin_manager)
    with manager, ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        events = manager.Queue()
        try:
            while waiting or running:
                # start the tasks whose needs are done, as long as a worker is free
                unfinished = {*waiting, *running.values()}
                ready = [key for key in waiting if unfinished.isdisjoint(needs[key])]
                for key in ready[: workers - len(running)]:
                    waiting.remove(key)
                    running[pool.submit(_call_in_child, function, key, events)] = key
                # pass on progress, then collect results; `future.result()` raises the exception of a failed task
                _pass_on(events, say)
                for future in [future for future in running if future.done()]:
                    results[running.pop(future)] = future.result()
            _pass_on(events, say)
        except BrokenProcessPool as error:
            raise ChildProcessError("a child process was killed, perhaps for lack of memory; start again") from error
        except BaseException:
            for process in pool._processes.values():
                process.terminate()
            raise
    return results


def _call(function: Callable[..., object], key: Hashable, say: Say) -> object:
    torch.set_num_threads(1)
    return function(key, say)


def _pass_on(events: Queue, say: Say) -> None:
    """Wait at most 0.2 s for a progress event, then pass all events that have arrived to `say`."""
    with suppress(Empty):
        say(*events.get(timeout=0.2))
        while True:
            say(*events.get_nowait())


# --- in the child processes -----------------------------------------------------------------------------------------


def _call_in_child(function: Callable[..., object], key: Hashable, events: Queue) -> object:
    """Run a task in which a signal raises `Stopped`, so that it can save its work; then the process ends."""
    _handle(raise_stopped)
    try:
        return _call(function, key, lambda *event: events.put(event))
    except KeyboardInterrupt:
        os._exit(1)  # returning would start the next task
    finally:
        _handle(_end)


def _begin_worker() -> None:
    _handle(_end)
    _when_the_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def _begin_manager() -> None:
    """The manager ignores signals, because it must serve the tasks until they have saved their work."""
    _handle(signal.SIG_IGN)
    _when_the_parent_ends(lambda: os._exit(1))


def _handle(handler: Callable | signal.Handlers) -> None:
    for number in STOPPING:
        signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(1)


def _when_the_parent_ends(action: Callable[[], object]) -> None:
    def wait() -> None:
        parent_process().join()
        action()

    Thread(target=wait, daemon=True).start()
