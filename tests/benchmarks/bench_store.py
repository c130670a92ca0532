"""Random batches of 256 windows from a segment store, warm and cold, against the bare memory map.

Run: python tests/benchmarks/bench_store.py FOLDER [windows] [batches]

FOLDER takes the store (2.5 kB a window; 400,000 windows by default, 1 GB) and is emptied at the end. Cold batches stand
for a store that is larger than the page cache: before each of them the kernel is told to forget the files
(``posix_fadvise``, DONTNEED), so that every window comes from the disk. Batches are drawn the same for both readers.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from phewas.encoders.registry import PPG_125
from phewas.segments.store import SegmentStore, contract_folder

BATCH, SAMPLES, SHARD = 256, 1250, 20_000


def make(run: Path, n: int) -> None:
    """Write shards of noise and an index, as the segments step lays them out."""
    folder = contract_folder(run, PPG_125)
    (folder / "PPG").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, n, SHARD)):
        values = rng.standard_normal((min(SHARD, n - start), SAMPLES), dtype=np.float32).astype(np.float16)
        np.save(folder / "PPG" / f"shard-{number:05d}.npy", values)
    row = pl.int_range(n, eager=True)
    ids = {"segment_id": row.cast(pl.String), "encounter_id": (row // 20).cast(pl.String)}
    pl.DataFrame(ids | {"patient_id": ids["encounter_id"]}).write_parquet(folder / "index.parquet")


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop the files from its cache."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def main(folder: Path, n: int, batches: int) -> None:
    run = folder / "store"
    make(run, n)
    files = sorted((contract_folder(run, PPG_125) / "PPG").glob("*.npy"))
    draws = [np.random.default_rng(i).integers(0, n, BATCH) for i in range(batches)]

    def bare() -> Callable[[np.ndarray], np.ndarray]:
        maps = [np.load(file, mmap_mode="r") for file in files]
        return lambda rows: np.stack([maps[row // SHARD][row % SHARD] for row in rows])

    def store() -> Callable[[np.ndarray], np.ndarray]:
        return SegmentStore.open(run, PPG_125).gather

    assert all((store()(rows)[:, 0] == bare()(rows)).all() for rows in draws[:5])
    print(f"store: {n:,} windows, {sum(f.stat().st_size for f in files) / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}")
    for what in ("warm", "cold"):
        seconds: dict[str, list[float]] = {"np.memmap": [], "store": []}
        readers = {"np.memmap": bare(), "store": store()}
        for rows in draws:
            for name, opened in (("np.memmap", bare), ("store", store)):
                if what == "cold":
                    readers.clear()  # pages that are mapped are not forgotten
                    forget(files)
                    readers[name] = opened()
                else:
                    readers[name](rows)
                begin = time.perf_counter()
                readers[name](rows)
                seconds[name].append(time.perf_counter() - begin)
        for name, times in seconds.items():
            typical = statistics.median(times)
            print(f"{what}, {name}: {1000 * typical:.2f} ms a batch, {BATCH / typical:,.0f} windows/s")
        ratio = statistics.median(seconds["store"]) / statistics.median(seconds["np.memmap"])
        print(f"{what}: the store takes {ratio:.2f} of the bare map's time")
    shutil.rmtree(run)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0]), int(given[1]) if len(given) > 1 else 400_000, int(given[2]) if len(given) > 2 else 40)
