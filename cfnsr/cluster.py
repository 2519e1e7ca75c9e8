"""Work spread over a process a core; no process outlives the run that started it."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2
from threadpoolctl import threadpool_limits

from cfnsr.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


def n_cores() -> int:
    """How many cores this process may use."""
    # Linux alone tells them from those that the machine has, which may be more.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def finished(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    n_processes: int | None = None,
    preload: Sequence[str] = (),
) -> Iterator[tuple[int, Result]]:
    """Each job's position and what `work` returns for it, as they finish.

    What `work` raises ends the run; the jobs that have not begun are then left out, as they are
    where the caller stops early.

    Args:
        work: a function of a module, since processes find it by its name.
        n_processes: all cores if None, at most one a job; 1 stays in this process.
        preload: names of modules that processes share instead of each importing them. The first
            call in a program decides; a later call's are imported by each process.

    Raises:
        InputError: a process died.
    """
    n_processes = min(n_processes or n_cores(), len(jobs))
    if n_processes <= 1:
        yield from enumerate(map(work, jobs))
        return
    # Forked from a server of their own: forking a process that runs threads (torch, Jupyter) can
    # deadlock, and spawned ones would all import the same modules, with librosa for two seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    pool = ProcessPoolExecutor(n_processes, mp_context=context, initializer=_prepare_worker)
    try:
        futures = {pool.submit(work, job): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise InputError(
            f"one of {n_processes} worker processes died, mostly for lack of memory; what is "
            "finished is kept, so free some memory and run this again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    # A process a core is enough: threads of each would spend their time waiting for the others.
    cv2.setNumThreads(1)
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Else the workers of a killed run would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
