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


@dataclass(frozen=True)
class SegmentStore:
    """Windows of all encounters, standardised, read on demand.

    Parameters
    ----------
    index
        One row per window, in store order: segment_id, encounter_id, patient_id, ..., offset and scale per channel.
    shards
        ``shards[channel]``: memory maps float16 [windows, samples], in order.
    """

    index: pl.DataFrame
    shards: tuple[tuple[NDArray[np.float16], ...], ...]
    bounds: NDArray[np.int64]

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
        return cls(index, shards, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def encounters(self) -> pl.DataFrame:
        """Return encounter_id, patient_id, first row and number of windows, in store order."""
        numbered = self.index.with_row_index("row")
        grouped = numbered.group_by("encounter_id", maintain_order=True)
        return grouped.agg(
            pl.col("patient_id").first(), pl.col("row").first().cast(pl.Int64), pl.len().alias("n_windows")
        )

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return float16 [rows, channels, samples], in the order asked for."""
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
        return out
