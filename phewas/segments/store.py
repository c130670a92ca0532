"""The segment store: float16 ``.npy`` shards, memory-mapped, beside one Parquet index in the same row order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.encoders.registry import InputContract
from phewas.errors import RunError


def contract_folder(run: Path, contract: InputContract) -> Path:
    """Return the folder of one input contract below the run directory."""
    return run / "segments" / contract.digest


def windows_file(run: Path, *, window_s: float, channels: tuple[str, ...]) -> Path:
    """Return the table of chosen windows below the run directory."""
    return run / "segments" / f"windows-{window_s:g}-{'+'.join(channels)}.parquet"


MEASURED = ("q_invalid", "q_flat", "q_saturated", "q_rate_per_min", "offset", "scale")


def measured_columns(contract: InputContract, channel: str) -> tuple[str, ...]:
    """Return the index columns of one channel: plain names for the first, with the channel's name for the others."""
    if channel == contract.channels[0]:
        return MEASURED
    return tuple(f"q_{channel}_{name[2:]}" if name.startswith("q_") else f"{name}_{channel}" for name in MEASURED)


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
            tuple(np.load(f, mmap_mode="r", allow_pickle=False) for f in sorted((folder / channel).glob("shard-*.npy")))
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
            names = [measured_columns(contract, channel)[-2:] for channel in contract.channels]
            scale, offset = (index.select([pair[i] for pair in names]).to_numpy().astype(np.float32) for i in (1, 0))
            restore = (scale, offset)
        return cls(index, shards, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), restore)

    def encounters(self) -> pl.DataFrame:
        """Return encounter_id, patient_id, first row and number of windows, in store order."""
        numbered = self.index.with_row_index("row")
        grouped = numbered.group_by("encounter_id", maintain_order=True)
        return grouped.agg(
            pl.col("patient_id").first(), pl.col("row").first().cast(pl.Int64), pl.len().alias("n_windows")
        )

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16] | NDArray[np.float32]:
        """Return what the network is given, [rows, channels, samples], in the order asked for.

        float16 where that is the standardised window; float32 where another scale and offset were put back.
        """
        samples = self.shards[0][0].shape[1] if self.shards[0] else 0
        out = np.empty((len(rows), len(self.shards), samples), dtype=np.float16)
        # Reading a shard's rows in ascending order lets the operating system read ahead.
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self.bounds)
        for shard in range(len(self.bounds) - 1):
            lo, hi = cuts[shard], cuts[shard + 1]
            if lo < hi:
                local = ordered[lo:hi] - self.bounds[shard]
                for channel, maps in enumerate(self.shards):
                    out[order[lo:hi], channel] = maps[shard][local]
        if self.restore is None:
            return out
        scale, offset = (part[rows][..., None] for part in self.restore)
        return out.astype(np.float32) * scale + offset
