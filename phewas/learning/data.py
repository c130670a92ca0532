"""From the segment store to the device: which windows a step is given, and how they get there while it computes.

No work is done per sample in Python. A draw is arithmetic on arrays of hashes; a batch's windows are copied by one
call; and a thread prepares the next parts of a batch while the network is busy with the present one. A store that fits
is kept on the GPU; otherwise windows travel through page-locked buffers on a stream of their own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phewas.learning.labels import Study
from phewas.seeds import hashed
from phewas.segments.store import SegmentStore

AHEAD = 2  # parts that are made ready while one is used
KEPT_SHARE = 0.5  # of the free GPU memory that a store may take; the rest is for the network
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def salt(*parts: object) -> np.uint64:
    """Return a 64-bit hash of `parts`."""
    return np.uint64(hashed(*parts) & (2**64 - 1))


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a pseudo-random number for each key: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = keys + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled_order(study: Study, rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return encounters in the order of an epoch, which depends on their ids and on nothing else."""
    keys = mixed(study.keys[rows] ^ salt("epoch", seed, epoch))
    return rows[np.lexsort((study.keys[rows], keys))]


def draw_windows(
    study: Study, batch: NDArray[np.int64], n_segments: int, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw windows of each encounter of a batch, without replacement and anew each epoch.

    Parameters
    ----------
    study
        The encounters.
    batch
        int64 positions of encounters.
    n_segments
        Windows of each; an encounter with no more than that gives all.
    seed, epoch
        An encounter's draw is a function of these, its id and its number of windows.

    Returns
    -------
    rows, owner
        int64 [segments], in ascending order of `rows`: store rows, and the place in `batch` that each belongs to.
    """
    counts = study.counts[batch]
    place = np.arange(counts.max(initial=0))
    if len(place) > n_segments:
        keys = study.keys[batch] ^ salt("segments", seed, epoch)
        with np.errstate(over="ignore"):
            drawn = mixed(keys[:, None] + (place.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        drawn[place >= counts[:, None]] = np.iinfo(np.uint64).max
        chosen = np.argpartition(drawn, n_segments - 1, axis=1)[:, :n_segments]
    else:
        chosen = np.broadcast_to(place, (len(batch), len(place)))
    there = chosen < counts[:, None]
    rows = (study.first[batch][:, None] + chosen)[there]
    owner = np.broadcast_to(np.arange(len(batch))[:, None], chosen.shape)[there]
    order = np.argsort(rows, kind="stable")
    return rows[order], owner[order]


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of this processor on a device; on the way to a GPU nothing waits."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class Windows:
    """The windows of a store, fetched to a device by row number.

    Parameters
    ----------
    store
        Where they lie.
    device
        Where they are wanted.
    keep
        Whether the whole store is kept on the device; None: where it fits into half of a GPU's free memory. On a CPU
        the memory-mapped files are the store, and the operating system keeps what it has room for.
    """

    def __init__(self, store: SegmentStore, device: torch.device, *, keep: bool | None = None) -> None:
        self.store, self.device = store, device
        self.samples = store.shards[0][0].shape[1] if store.shards[0] else 0
        size = 2 * store.index.height * len(store.shards) * self.samples
        if keep is None:
            keep = device.type == "cuda" and size < KEPT_SHARE * torch.cuda.mem_get_info(device)[0]
        self.kept = self._load() if keep else None
        self._restore: tuple[Tensor, Tensor] | None = None
        if store.restore is not None:
            scale, offset = (torch.from_numpy(part)[..., None].to(device) for part in store.restore)
            self._restore = scale, offset

    def _load(self) -> Tensor:
        """Copy the store to the device, shard by shard."""
        whole = torch.empty(
            (self.store.index.height, len(self.store.shards), self.samples), dtype=torch.float16, device=self.device
        )
        for channel, shards in enumerate(self.store.shards):
            for lo, shard in zip(self.store.bounds[:-1].tolist(), shards, strict=True):
                whole[lo : lo + len(shard), channel] = torch.from_numpy(np.array(shard)).to(self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # parts are made on another stream, which must not read too early
        return whole

    def finish(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return the network's input float32 from the stored float16, on the device: scale and offset put back."""
        x = x.float()
        if self._restore is not None:
            scale, offset = self._restore
            x = x * scale[rows] + offset[rows]
        return x

    def fetch(self, rows: NDArray[np.int64]) -> Tensor:
        """Return windows float32 [rows, channels, samples] on the device, at once."""
        where = torch.from_numpy(rows).to(self.device)
        if self.kept is not None:
            return self.finish(self.kept.index_select(0, where), where)
        return self.finish(on_device(torch.from_numpy(self.store.stored(rows)), self.device), where)


@dataclass
class Part:
    """A part of a batch on the device.

    `x` float32 [segments, channels, samples]; `owner` int64 [segments], the place in `encounters` of each; `labels`
    int8 [encounters, phenotypes]; `known` is the number of case or control entries of the whole batch, over all
    devices; `step` and `last` say which step it belongs to and whether that ends with it.
    """

    step: int
    last: bool
    encounters: NDArray[np.int64]
    owner: Tensor
    labels: Tensor
    x: Tensor
    known: float
    ready: Any = None  # CUDA event after which x may be read


@dataclass(frozen=True)
class Wanted:
    """A part to be made: encounters of this device, and the number of known entries of the whole batch."""

    step: int
    last: bool
    encounters: NDArray[np.int64]
    known: float


@dataclass
class Feeder:
    """Makes parts in a thread while the caller uses those before; `waited_s` is how long the caller stood idle."""

    windows: Windows
    study: Study
    labels: Tensor
    n_segments: int
    seed: int
    ahead: int = AHEAD
    waited_s: float = 0.0
    _buffers: list[tuple[Tensor, Any]] = field(default_factory=list)
    _turn: int = 0

    def parts(self, wanted: Iterable[Wanted], epoch: int) -> Iterator[Part]:
        """Yield the parts in order. A fault in the thread is raised here; leaving the loop ends the thread."""
        ready: queue.Queue[Part | BaseException | None] = queue.Queue(maxsize=self.ahead)
        over = threading.Event()
        make = self._maker()

        def put(item: Part | BaseException | None) -> bool:
            while not over.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def work() -> None:
            try:
                for one in wanted:
                    if not put(make(one, epoch)):
                        return
                put(None)
            except BaseException as error:  # noqa: BLE001  told to the caller, who raises it
                put(error)

        thread = threading.Thread(target=work, name="phewas-feeder", daemon=True)
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                item = ready.get()
                self.waited_s += time.perf_counter() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                if item.ready is not None:
                    stream = torch.cuda.current_stream(self.windows.device)
                    stream.wait_event(item.ready)
                    item.x.record_stream(stream)
                    item.owner.record_stream(stream)
                    item.labels.record_stream(stream)
                yield item
        finally:
            over.set()
            thread.join()

    def _maker(self) -> Callable[[Wanted, int], Part]:
        """Return the function that makes a part: plainly on a CPU, on a stream of its own for a GPU."""
        device = self.windows.device
        if device.type != "cuda":
            return self._plain
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

        def on_stream(one: Wanted, epoch: int) -> Part:
            with torch.cuda.device(device), torch.cuda.stream(stream):
                part = self._through_buffers(one, epoch)
                part.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                part.ready.record(stream)
            return part

        return on_stream

    def _plain(self, one: Wanted, epoch: int) -> Part:
        rows, owner = draw_windows(self.study, one.encounters, self.n_segments, self.seed, epoch)
        labels = self.labels[torch.from_numpy(one.encounters).to(self.labels.device)]
        where = torch.from_numpy(owner).to(self.windows.device)
        return Part(one.step, one.last, one.encounters, where, labels, self.windows.fetch(rows), one.known)

    def _through_buffers(self, one: Wanted, epoch: int) -> Part:
        """Make a part for a GPU: from the store kept there, or through a page-locked buffer that is free again."""
        if self.windows.kept is not None:
            return self._plain(one, epoch)
        device = self.windows.device
        rows, owner = draw_windows(self.study, one.encounters, self.n_segments, self.seed, epoch)
        shape = (len(rows), len(self.windows.store.shards), self.windows.samples)
        if len(self._buffers) <= self.ahead + 1:
            self._buffers.append((torch.empty(0, dtype=torch.float16), None))
        self._turn = (self._turn + 1) % len(self._buffers)
        buffer, used = self._buffers[self._turn]
        if used is not None:
            used.synchronize()  # the copy out of this buffer must be over before it is overwritten
        size = int(np.prod(shape))
        if buffer.numel() < size:
            buffer = torch.empty(size, dtype=torch.float16, pin_memory=True)
        view = buffer[:size].view(shape)
        view.copy_(torch.from_numpy(self.windows.store.stored(rows)))
        x = view.to(device, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        self._buffers[self._turn] = (buffer, event)
        where = torch.from_numpy(rows).to(device)
        labels = self.labels[torch.from_numpy(one.encounters).to(self.labels.device)].to(device)
        return Part(
            one.step, one.last, one.encounters, torch.from_numpy(owner).to(device), labels,
            self.windows.finish(x, where), one.known,
        )  # fmt: skip
