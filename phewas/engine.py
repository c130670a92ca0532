"""Run one function over many shards in local processes.

Safety comes from the files, not from here: a shard function writes its output atomically and returns at once where it
is already there, so that any shard may be tried again. Workers return small results (counts), never arrays.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from phewas.errors import PhewasError
from phewas.progress import progress

Shard = TypeVar("Shard")
Result = TypeVar("Result")

TRIES = 3


class ShardsFailedError(PhewasError):
    """Some shards ended their worker process again and again; all others are done. `failed` holds their numbers."""

    failed: tuple[int, ...] = ()


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_shards(
    function: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    task: str,
    unit: str,
    workers: int,
    on_death: Callable[[Shard], None] | None = None,
) -> list[Result]:
    """Return ``function(shard)`` for every shard, in the order of the shards.

    Parameters
    ----------
    function
        Importable at top level; must be safe to call again for a shard.
    shards
        Picklable descriptions of the work.
    task, unit
        For the progress display.
    workers
        Processes; 1 runs here, without any.
    on_death
        Called with a shard that has just ended its worker process, before it is tried again.

    Raises
    ------
    PhewasError
        A shard raised one; the rest is given up at once.
    ShardsFailedError
        A shard ended its worker process `TRIES` times; raised after all others are done.
    """
    if workers <= 1 or len(shards) <= 1:
        results = []
        with progress(task, total=len(shards), unit=unit) as advance:
            for shard in shards:
                results.append(function(shard))
                advance(1, "")
        return results
    return _in_processes(function, shards, task=task, unit=unit, workers=workers, on_death=on_death)


def _in_processes(
    function: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    task: str,
    unit: str,
    workers: int,
    on_death: Callable[[Shard], None] | None,
) -> list[Result]:
    """Run the shards in spawned processes; a broken pool is replaced, and what it had not finished is tried again."""
    done: dict[int, Result] = {}
    tries = dict.fromkeys(range(len(shards)), 0)
    failed: list[int] = []
    context = multiprocessing.get_context("spawn")
    with progress(task, total=len(shards), unit=unit) as advance:
        while len(done) + len(failed) < len(shards):
            # After a death those that were running go one at a time, so that the one that kills its worker is known.
            left = [i for i in tries if i not in done and i not in failed]
            alone = [i for i in left if tries[i]]
            left, width = (alone, 1) if alone else (left, workers)
            pool = ProcessPoolExecutor(max_workers=min(width, len(left)), mp_context=context, initializer=_quiet)
            running: dict[Future[Result], int] = {}
            try:
                while left or running:
                    # One at a time means that nothing else is running either.
                    while left and len(running) < (2 * width if width > 1 else 1):
                        index = left.pop(0)
                        running[pool.submit(function, shards[index])] = index
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        done[running[future]] = future.result()
                        del running[future]
                        advance(1, "")
            except BrokenProcessPool:
                for index in [min(running.values())] if width == 1 else list(running.values()):
                    tries[index] += 1
                    if width == 1 and on_death is not None:
                        on_death(shards[index])
                    if tries[index] > TRIES:
                        failed.append(index)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    if failed:
        problem = ShardsFailedError(
            f"{task}: {len(failed)} of {len(shards)} {unit} ended their worker process {TRIES} times; the rest is done",
            cure="look at free memory (fewer --workers need less), then give the same command again",
        )
        problem.failed = tuple(sorted(failed))
        raise problem
    return [done[i] for i in range(len(shards))]


def _quiet() -> None:
    """One thread for each worker: the processes are the parallelism; Ctrl-C is the parent's to handle."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"
