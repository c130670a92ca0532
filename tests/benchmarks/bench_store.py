"""Random batches of 256 windows from the segment store against a raw `np.memmap` over the same bytes.

Usage: python tests/benchmarks/bench_store.py [windows] [batches]

warm    everything was read once before and lies in the page cache
cold    before every batch all pages are given back to the disk (POSIX_FADV_DONTNEED, after a sync), so that the store
        is as if it were larger than the page cache: no page is ever found in memory. Store and memmap are opened anew
        for every batch, because mapped pages are not given back; the opening is not timed.

The store has shards of 5,120 windows (256 encounters of 20), the raw file is one array.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from phewas.encoders.registry import PPG_125
from phewas.segments.store import SegmentStore, ShardWriter, contract_folder

SAMPLES, BATCH, SHARD = 1250, 256, 5120


def make(run: Path, flat: Path, windows: int) -> None:
    rng = np.random.default_rng(0)
    block = rng.standard_normal((SHARD, 1, SAMPLES)).astype(np.float32)
    folder = contract_folder(run, PPG_125)
    with flat.open("wb") as raw:
        for number, at in enumerate(range(0, windows, SHARD)):
            part = np.roll(block[: min(SHARD, windows - at)], number, axis=2)
            with ShardWriter([folder / "PPG" / f"shard-{number:05d}.npy"], samples=SAMPLES) as writer:
                writer.append(part)
            raw.write(part.astype(np.float16).tobytes())
    pl.DataFrame({"segment_id": np.arange(windows)}).write_parquet(folder / "index.parquet")


def give_back(files: list[Path]) -> None:
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def main() -> None:
    windows = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    batches = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        run, flat = Path(scratch) / "run", Path(scratch) / "flat.raw"
        make(run, flat, windows)
        os.sync()
        print(f"windows {windows}")
        print(f"store GB {windows * SAMPLES * 2 / 1e9:.2f}")
        rng = np.random.default_rng(1)
        drawn = [rng.choice(windows, BATCH, replace=False) for _ in range(batches)]
        files = [*contract_folder(run, PPG_125).rglob("*.npy"), flat]

        def memmap() -> np.memmap:
            return np.memmap(flat, dtype=np.float16, mode="r", shape=(windows, SAMPLES))

        readers = {"store": lambda: SegmentStore.open(run, PPG_125).gather, "memmap": lambda: memmap().__getitem__}
        check = SegmentStore.open(run, PPG_125).gather(drawn[0])[:, 0]
        assert np.array_equal(check, memmap()[drawn[0]])
        for state in ("cold", "warm"):
            seconds: dict[str, list[float]] = {name: [] for name in readers}
            for name, opened in readers.items():
                read = opened()
                if state == "warm":
                    for at in range(0, windows, SHARD):
                        read(np.arange(at, min(at + SHARD, windows)))
                for rows in drawn:
                    if state == "cold":
                        del read
                        give_back(files)
                        read = opened()
                    began = time.perf_counter()
                    read(rows)
                    seconds[name].append(time.perf_counter() - began)
                del read
            middle = {name: float(np.median(times)) for name, times in seconds.items()}
            for name, one in middle.items():
                print(f"{state} {name}: ms a batch (median) {1000 * one:.2f}")
                print(f"{state} {name}: windows per s {BATCH / one:.0f}")
            print(f"{state} store / memmap {middle['store'] / middle['memmap']:.2f}")
        print(f"peak memory MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    main()
