"""Windows of a store for other tools: NumPy and Parquet a block at a time, EDF as a whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.encoders.registry import InputContract
from phewas.errors import SignalError
from phewas.rundir import atomic
from phewas.segments.edf import write_windows
from phewas.segments.store import SegmentStore, of_channel

BLOCK_ROWS = 4_096
MAX_EDF_NUMBERS = 400_000_000  # edfio takes a whole file in memory, eight bytes a number and more
_EPOCH = (1980, 1, 1, 0, 0, 0)


def export(store: SegmentStore, file: Path, *, contract: InputContract) -> int:
    """Write all windows with their ids, without patient identifiers.

    Parameters
    ----------
    store
        Of the run.
    file
        ``.npz`` with signal [windows, channels, samples], fs_hz, segment_id, encounter_id, offset and scale;
        ``.parquet`` with the index's columns and one of float32 arrays per channel; or ``.edf``. Written atomically;
        of NumPy and Parquet no more than `BLOCK_ROWS` windows are held in memory.
    contract
        The store's: rate and channels.

    Returns
    -------
    int
        Samples of a window.

    Raises
    ------
    SignalError
        There are no windows, more than EDF can be written of, or ``edfio`` is not installed.
    """
    if not store.index.height:
        raise SignalError("the run has no windows", cure="look at segments/rejects.parquet for the reasons")
    table, samples = store.index.drop("patient_id"), int(store.shards[0][0].shape[1])
    if file.suffix == ".parquet":
        _parquet(store, table, file, samples, contract.channels)
    elif file.suffix == ".edf":
        n = store.index.height * len(contract.channels) * samples
        if n > MAX_EDF_NUMBERS:
            raise SignalError(f"{store.index.height:,} windows are too many for one EDF file",
                              expected=f"at most {MAX_EDF_NUMBERS // (n // store.index.height):,}",
                              cure="export to .parquet or .npz")  # fmt: skip
        write_windows(store.gather(np.arange(store.index.height)), file, fs_hz=contract.fs_hz,
                      channels=contract.channels)  # fmt: skip
    else:
        _npz(store, table, file, samples, contract)
    return samples


def _blocks(store: SegmentStore) -> Iterator[tuple[int, NDArray[Any]]]:
    for at in range(0, store.index.height, BLOCK_ROWS):
        yield at, store.gather(np.arange(at, min(at + BLOCK_ROWS, store.index.height)))


def _npz(store: SegmentStore, table: pl.DataFrame, file: Path, samples: int, contract: InputContract) -> None:
    kind = np.float16 if store.restore is None else np.float32
    others: dict[str, NDArray[Any]] = {
        "fs_hz": np.array(contract.fs_hz),
        "segment_id": np.array(table["segment_id"].to_list()),
        "encounter_id": np.array(table["encounter_id"].to_list()),
        "offset": table["offset"].to_numpy(),
        "scale": table["scale"].to_numpy(),
    }
    with atomic(file) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:

        def member(name: str) -> IO[bytes]:
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            return archive.open(info, "w", force_zip64=True)

        with member("signal") as part:
            shape = (store.index.height, len(contract.channels), samples)
            described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(part, described)
            for _, values in _blocks(store):
                part.write(np.ascontiguousarray(values, dtype=kind).tobytes())
        for name, value in others.items():
            with member(name) as part:
                np.lib.format.write_array(part, value, allow_pickle=False)


def _parquet(store: SegmentStore, table: pl.DataFrame, file: Path, samples: int, channels: tuple[str, ...]) -> None:
    from polars.io.plugins import register_io_source

    kind = pl.Array(pl.Float32, samples)
    names = [of_channel("signal", channels, channel) for channel in channels]

    def blocks(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        del columns, predicate, n_rows, batch_size  # everything is asked for, and the size of a block is ours
        for at, values in _blocks(store):
            signals = [pl.Series(n, values[:, i].astype(np.float32), dtype=kind) for i, n in enumerate(names)]
            yield table.slice(at, len(values)).with_columns(signals)

    lazy = register_io_source(blocks, schema=dict(table.schema) | dict.fromkeys(names, kind))
    with atomic(file) as handle:
        lazy.sink_parquet(handle.name, row_group_size=BLOCK_ROWS, maintain_order=True)
