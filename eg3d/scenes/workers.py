"""Work shared out to processes, whose results come back in order."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator

AHEAD = 4  # jobs waiting or done, for each worker: what they hold must fit into memory


def in_order(function: Callable, jobs: Iterable[tuple], workers: int) -> Iterator[Any]:
    """function(*job) of every job, in their order; one worker is this process. Jobs are taken from `jobs` as they are needed.

    Raises what the function raises, and OSError when a worker is killed.
    """
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # fork is not safe beside threads
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin)
    waiting: collections.deque = collections.deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, *job))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OSError("a worker process was killed, perhaps for lack of memory: try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In each worker: leaves Ctrl-C to the process that started it, and ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
