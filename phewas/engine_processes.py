"""Shards in local processes, each with one shard at a time, so that a death or a stall is laid at the right door.

A worker ends when its parent does, however that ends: nothing is left running after a kill.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pickle import PicklingError  # what a pipe raises; nothing is unpickled from a file
from typing import Any

from phewas.engine import Outcome, attempt, crossing

START_S = 300.0  # for a new worker to import what it needs, beside the limit of its shard; machines can be busy
JOIN_S = 5.0  # a killed process that the kernel does not let go is left behind


@dataclass
class _Worker:
    """A process, our end of its pipe, its shard, and when that counts as stalled (monotonic seconds)."""

    process: SpawnProcess
    pipe: Connection
    index: int = -1
    due: float = math.inf


class Processes:
    """Local workers, started when they are needed.

    Parameters
    ----------
    workers
        How many.
    limit_s
        Seconds that a shard may take, from when the worker has it, before the worker is ended; None for no limit.
    """

    def __init__(self, workers: int, *, limit_s: float | None) -> None:
        self.limit_s, self.workers = math.inf if limit_s is None else limit_s, workers
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []

    def slots(self) -> int:
        """Return the number of workers."""
        return self.workers

    def start(self, index: int, function: Callable[[Any], Any], shard: Any) -> None:
        """Give a shard to an idle worker, or to a new one."""
        while True:
            worker = self.idle.pop() if self.idle else _spawn()
            worker.index, worker.due = index, time.monotonic() + self.limit_s + START_S
            try:
                worker.pipe.send((index, function, shard))
            except OSError:  # it was killed while it was idle
                _end(worker)
                continue
            self.busy.append(worker)
            return

    def finished(self) -> list[Outcome]:
        """Wait until a worker answers, dies, or is over its time."""
        due = min(w.due for w in self.busy)
        patience = None if due == math.inf else max(0.0, due - time.monotonic())
        ready = set(multiprocessing.connection.wait([w.pipe for w in self.busy], timeout=patience))
        outcomes = []
        for worker in list(self.busy):
            if worker.pipe in ready:
                outcome = _heard(worker)
                if outcome is None:  # it has begun
                    worker.due = time.monotonic() + self.limit_s
                    continue
            elif time.monotonic() >= worker.due:
                outcome = Outcome(worker.index, again=True, deaths=1)
            else:
                continue
            self.busy.remove(worker)
            outcomes.append(outcome)
            if outcome.deaths:
                _end(worker)
            else:
                self.idle.append(worker)
        return outcomes

    def close(self) -> None:
        """End all workers at once; what they were writing has a temporary name."""
        workers, self.idle, self.busy = self.idle + self.busy, [], []
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            _end(worker)


def _heard(worker: _Worker) -> Outcome | None:
    """Return what a worker says: None when it begins, then what has become of its shard, or that it is dead."""
    try:
        said: Outcome | None = worker.pipe.recv()
    except (EOFError, OSError):  # the pipe ends with the process
        return Outcome(worker.index, again=True, deaths=1)
    return said


def _spawn() -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs,), daemon=True)
    with _without_interrupts():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; a process started here never gets it: ending the workers is the parent's to do."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join(JOIN_S)
    worker.pipe.close()


def _work(pipe: Connection) -> None:
    """Do what comes through the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread each: the processes are the parallelism.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            index, function, shard = pipe.recv()
        except EOFError:
            return
        pipe.send(None)
        outcome = crossing(attempt(index, function, shard))
        try:
            pipe.send(outcome)
        except (PicklingError, TypeError, AttributeError) as error:
            pipe.send(Outcome(index, error=RuntimeError(f"{outcome.error or error!r} of a worker cannot be sent")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
