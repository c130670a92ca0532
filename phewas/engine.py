"""Run one function over many shards: in this process, in local processes, or on a Dask cluster.

Safety comes from the files, not from here: a shard function writes its output atomically and returns at once where it
is already there, so that any shard may be tried again, by two workers at the same time if need be. Workers return
small results (counts), never arrays. Where shards run is chosen once, with `using`; the result does not depend on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from phewas.config import EngineConfig
from phewas.errors import PhewasError, disk_full
from phewas.progress import progress, say

Shard = TypeVar("Shard")
Result = TypeVar("Result")

# What a file system over the network says while it cannot be reached; the same read may succeed a minute later.
PASSING = frozenset(
    getattr(errno, name)
    for name in ("ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "ECONNRESET", "ENETDOWN", "EREMOTEIO")
    if hasattr(errno, name)
)
PAUSE_S = 10.0  # before a shard is tried again after such an error


class ShardsFailedError(PhewasError):
    """Some shards ended or stalled their worker again and again; all others are done. `failed` holds their numbers."""

    exit_code = 3
    failed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What has become of one shard.

    It is done, with `result`, unless `error` is what it raised, or `again` says that it must be tried again. `deaths`
    counts the workers that it has ended or stalled then; `sure` says that nothing else ran in them.
    """

    index: int
    result: Any = None
    error: Exception | None = None
    again: bool = False
    deaths: int = 0
    sure: bool = True


class Backend(Protocol):
    """Where shards run."""

    def slots(self) -> int:
        """Return how many shards can run at once, at least 1."""

    def start(self, index: int, function: Callable[[Any], Any], shard: Any) -> None:
        """Begin with a shard."""

    def finished(self) -> list[Outcome]:
        """Wait for a while and return what has ended, perhaps nothing."""

    def close(self) -> None:
        """End whatever still runs, without waiting for it."""


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reraise_passing(error: Exception) -> None:
    """Raise an error of the file system that may be gone a minute later, so that the shard is tried again as a whole.

    To be called first where a shard function turns errors into rejects; also looks at the error's cause.
    """
    for one in (error, error.__cause__):
        if isinstance(one, OSError) and one.errno in PASSING:
            raise one


@dataclass
class _Choice:
    """Where shards run; the cluster is opened when the first shard needs it."""

    config: EngineConfig = field(default_factory=EngineConfig)
    folder: Path | None = None
    cluster: Any = None


_choice = _Choice()


@contextlib.contextmanager
def using(config: EngineConfig, *, folder: Path) -> Iterator[None]:
    """Run the shards of this block where `config` says.

    Parameters
    ----------
    config
        Local processes, a Dask cluster, or Slurm jobs.
    folder
        Run directory; the workers of a cluster must see it under the same path.
    """
    global _choice
    before, _choice = _choice, _Choice(config, folder.absolute())
    try:
        yield
    finally:
        release()
        _choice = before


def release() -> None:
    """Leave the cluster, if one is open: no further shards are expected for long. Slurm jobs of ours are cancelled."""
    cluster, _choice.cluster = _choice.cluster, None
    if cluster is not None:
        cluster.shut()


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
        Picklable descriptions of the work, with absolute paths.
    task, unit
        For the progress display.
    workers
        Local processes; 1 runs here, without any, unless shards have a time limit. A cluster has its own number.
    on_death
        Called with a shard that has just ended or stalled its worker, before it is tried again.

    Raises
    ------
    PhewasError
        A shard raised one; the rest is given up at once.
    DiskFullError
        A shard had no space to write.
    ShardsFailedError
        A shard ended or stalled its worker `EngineConfig.tries` times; raised after all others are done.
    """
    if not shards:
        return []
    backend: Backend
    if _choice.config.kind != "local":
        from phewas.engine_dask import Cluster

        if _choice.cluster is None:
            _choice.cluster = Cluster(_choice.config, folder=_choice.folder)
        backend = _choice.cluster
    elif (workers <= 1 or len(shards) <= 1) and _choice.config.limit_s is None:
        backend = Here()
    else:
        from phewas.engine_processes import Processes

        backend = Processes(min(max(workers, 1), len(shards)), limit_s=_choice.config.limit_s)
    return _drive(backend, function, shards, task=task, unit=unit, on_death=on_death)


class Here:
    """One shard after the other in this very process."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def slots(self) -> int:
        """Return 1."""
        return 1

    def start(self, index: int, function: Callable[[Any], Any], shard: Any) -> None:
        """Run a shard to its end."""
        self.outcomes.append(attempt(index, function, shard))

    def finished(self) -> list[Outcome]:
        """Return what has become of it."""
        ended, self.outcomes = self.outcomes, []
        return ended

    def close(self) -> None:
        """Do nothing: nothing runs."""


def attempt(index: int, function: Callable[[Any], Any], shard: Any) -> Outcome:
    """Run one shard and return what has become of it; raises nothing but Ctrl-C and the like."""
    try:
        return Outcome(index, function(shard))
    except OSError as error:
        full = disk_full(error)
        if full is None and error.errno in PASSING:
            time.sleep(PAUSE_S)
            return Outcome(index, again=True)
        return Outcome(index, error=full or error)
    except Exception as error:  # noqa: BLE001 - it is raised again where the shards are handed out
        return Outcome(index, error=error)


def crossing(outcome: Outcome) -> Outcome:
    """Note in an unforeseen error where it happened, since a traceback does not cross from process to process."""
    error = outcome.error
    if error is not None and not isinstance(error, PhewasError):
        error.add_note("".join(traceback.format_exception(error)))
    return outcome


def _drive(
    backend: Backend,
    function: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    task: str,
    unit: str,
    on_death: Callable[[Shard], None] | None,
) -> list[Result]:
    """Keep the workers busy; try again what ended or stalled one, and give it up after some tries.

    A shard that was not alone in a dead worker is suspected only. Suspects run one at a time after all others, so that
    the one that ends its worker is known.
    """
    done: dict[int, Result] = {}
    failed: list[int] = []
    tries = [0] * len(shards)
    left, suspects, running = deque(range(len(shards))), deque[int](), set[int]()
    try:
        with progress(task, total=len(shards), unit=unit) as advance:
            while left or suspects or running:
                alone = False
                while left and len(running) < backend.slots():
                    running.add(left[0])
                    backend.start(left[0], function, shards[left.popleft()])
                if suspects and not running:
                    alone = True
                    running.add(suspects[0])
                    backend.start(suspects[0], function, shards[suspects.popleft()])
                ended = backend.finished()
                while alone and not ended:
                    ended = backend.finished()
                for outcome in ended:
                    running.discard(outcome.index)
                    if outcome.error is not None:
                        raise outcome.error
                    if not outcome.again:
                        done[outcome.index] = outcome.result
                        advance(1, "")
                        continue
                    if outcome.deaths:
                        say(f"{task}: one of the {unit} ended or stalled its worker and is tried again")
                    if not (outcome.sure or alone):
                        suspects.append(outcome.index)
                        continue
                    tries[outcome.index] += 1
                    for _ in range(outcome.deaths if on_death is not None else 0):
                        on_death(shards[outcome.index])  # type: ignore[misc]
                    if tries[outcome.index] >= _choice.config.tries:
                        failed.append(outcome.index)
                    else:
                        (suspects if alone else left).append(outcome.index)
    finally:
        backend.close()
    if failed:
        raise _failure(task, unit, failed, len(shards))
    return [done[i] for i in range(len(shards))]


def _failure(task: str, unit: str, failed: Sequence[int], n: int) -> ShardsFailedError:
    problem = ShardsFailedError(
        f"{task}: {len(failed)} of {n} {unit} ended or stalled their worker {_choice.config.tries} times, or met a "
        "file system that does not answer; the rest is done",
        cure="look at free memory (fewer workers need less) and at the file system, then give the same command again: "
        "only what failed is tried again",
    )
    problem.failed = tuple(sorted(failed))
    return problem
