"""The segment store: float16 ``.npy`` shards, memory-mapped, beside one Parquet index in the same row order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.encoders.registry import InputContract
from phewas.errors import RunError
from phewas.rundir import atomic


def contract_folder(run: Path, contract: InputContract) -> Path:
    """Return the folder of one input contract below the run directory."""
    return run / "segments" / contract.digest


def choice_file(run: Path, *, window_s: float, channels: tuple[str, ...]) -> Path:
    """Return the file that says what a table of chosen windows depends on, and what was not kept."""
    return windows_file(run, window_s=window_s, channels=channels).with_suffix(".json")


def windows_file(run: Path, *, window_s: float, channels: tuple[str, ...]) -> Path:
    """Return the table of chosen windows below the run directory."""
    return run / "segments" / f"windows-{window_s:g}-{'+'.join(channels)}.parquet"


QUALITY = ("q_invalid", "q_flat", "q_saturated", "q_rate_per_min", "q_wrapped", "q_template", "q_step")


def of_channel(name: str, channels: tuple[str, ...], channel: str) -> str:
    """Return the name of a column for one channel: as it is for the first, with the channel's name for the others."""
    return name if channel == channels[0] else f"{name}_{channel}"


class ShardWriter:
    """Writes the ``.npy`` files of one shard, a batch of windows at a time, each under a temporary name until it ends.

    The bytes are those that ``numpy.save`` writes of the whole array: NumPy leaves room in a header for the first
    dimension to grow.
    """

    def __init__(self, files: Sequence[Path], *, samples: int) -> None:
        self._files, self._samples, self.rows = files, samples, 0
        self._stack = contextlib.ExitStack()
        self._handles: list[IO[bytes]] = []

    def __enter__(self) -> ShardWriter:
        with contextlib.ExitStack() as stack:
            for file in self._files:
                self._handles.append(stack.enter_context(atomic(file)))
            self._header()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            try:
                self._header()
            except OSError as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._stack.__exit__(*error)

    def _header(self) -> None:
        described = {"descr": "<f2", "fortran_order": False, "shape": (self.rows, self._samples)}
        for handle in self._handles:
            handle.seek(0)
            np.lib.format.write_array_header_1_0(handle, described)
            self._begin = handle.tell()
            handle.seek(0, 2)

    def append(self, values: NDArray[np.float32]) -> None:
        """Append float32 [windows, channels, samples] as float16, each channel to its file."""
        for channel, handle in enumerate(self._handles):
            handle.write(np.ascontiguousarray(values[:, channel], dtype="<f2").tobytes())
        self.rows += len(values)

    def truncate(self, rows: int) -> None:
        """Take back every window after the first `rows`."""
        self.rows = rows
        for handle in self._handles:
            handle.seek(self._begin + 2 * rows * self._samples)
            handle.truncate()


@dataclass(frozen=True)
class SegmentStore:
    """Windows of all encounters, standardised, read on demand.

    Parameters
    ----------
    index
        One row per window, in store order: segment_id, encounter_id, patient_id, ..., offset and scale per channel.
    shards
        ``shards[channel]``: memory maps float16 [windows, samples], in order.
    bounds
        int64 [shards + 1]: first row of each shard, and the number of rows.
    restore
        Scale and offset float32 [windows, channels], where the network is not given the standardised window itself.
    """

    index: pl.DataFrame
    shards: tuple[tuple[NDArray[np.float16], ...], ...]
    bounds: NDArray[np.int64]
    restore: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    @classmethod
    def open(cls, run: Path, contract: InputContract) -> SegmentStore:
        """Open the store of a contract; paths are relative to the run directory, which may have moved.

        Raises
        ------
        RunError
            Index and shards do not belong together.
        """
        folder = contract_folder(run, contract)
        index = pl.read_parquet(folder / "index.parquet", hive_partitioning=False)
        shards = tuple(
            # Plain arrays over the maps: slicing numpy's own memmap class takes several times longer.
            tuple(
                np.asarray(np.load(f, mmap_mode="r", allow_pickle=False))
                for f in sorted((folder / channel).glob("shard-*.npy"))
            )
            for channel in contract.channels
        )
        sizes = [len(shard) for shard in shards[0]]
        if sum(sizes) != index.height or any([len(s) for s in one] != sizes for one in shards):
            raise RunError(
                f"the segment store {folder.name} holds {sum(sizes)} windows and its index {index.height}",
                cure="delete the folder `segments` of the run directory and give the same command again",
            )
        restore = None
        if not contract.standardised:
            scale, offset = (
                index.select([of_channel(name, contract.channels, c) for c in contract.channels]).to_numpy()
                for name in ("scale", "offset")
            )
            restore = (scale.astype(np.float32), offset.astype(np.float32))
        return cls(index, shards, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), restore)

    def encounters(self) -> pl.DataFrame:
        """Return encounter_id, patient_id, first row and number of windows, in store order."""
        numbered = self.index.with_row_index("row")
        grouped = numbered.group_by("encounter_id", maintain_order=True)
        return grouped.agg(
            pl.col("patient_id").first(), pl.col("row").first().cast(pl.Int64), pl.len().alias("n_windows")
        )

    @cached_property
    def _everywhere(self) -> list[tuple[NDArray[np.float16], NDArray[np.int64]]]:
        """For each channel, all its maps under one array, and the place at which each shard begins in it.

        Row i of the array is the window that begins i numbers after the lowest map in memory. Most rows lie between the
        maps and must not be touched; those that `gather` computes lie within them. NumPy then copies a batch from all
        shards at once instead of one row a call.
        """
        found = []
        for maps in self.shards:
            addresses = np.array([one.__array_interface__["data"][0] for one in maps], dtype=np.int64)
            lowest = maps[int(addresses.argmin())]
            begins = (addresses - addresses.min()) // lowest.itemsize
            spread = int(begins.max()) + max(one.size for one in maps)
            view = np.lib.stride_tricks.as_strided(
                lowest, shape=(spread, lowest.shape[1]), strides=(lowest.itemsize, lowest.itemsize), writeable=False
            )
            found.append((view, begins))
        return found

    def stored(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the standardised windows float16 [rows, channels, samples], in the order asked for.

        Raises
        ------
        IndexError
            A row is not in the store.
        """
        if not len(rows):
            samples = self.shards[0][0].shape[1] if self.shards[0] else 0
            return np.empty((0, len(self.shards), samples), dtype=np.float16)
        if rows.min() < 0 or rows.max() >= self.bounds[-1]:
            raise IndexError(f"the store has {self.bounds[-1]} windows")  # nothing below checks it
        shard = np.searchsorted(self.bounds, rows, side="right") - 1
        local = rows - self.bounds[shard]
        parts = []
        for view, begins in self._everywhere:
            places = begins[shard] + local * view.shape[1]
            # First and last number of each window in ascending order, so that the operating system can read ahead;
            # then the windows, in the order asked for, from memory.
            view[np.sort(places)[:, None], [0, -1]]
            parts.append(view[places])
        return parts[0][:, None] if len(parts) == 1 else np.stack(parts, axis=1)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16] | NDArray[np.float32]:
        """Return what the network is given, [rows, channels, samples], in the order asked for.

        float16 where that is the standardised window; float32 where another scale and offset were put back.
        """
        out = self.stored(rows)
        if self.restore is None:
            return out
        scale, offset = (part[rows][..., None] for part in self.restore)
        return out.astype(np.float32) * scale + offset
