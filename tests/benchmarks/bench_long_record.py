"""Memory and time for a record of 24 hours at 500 Hz: twenty windows, every window, and one pass over the recording.

Usage: python tests/benchmarks/bench_long_record.py [hours]

Each figure comes from a process of its own. `reading` is a process that only imports what the others import.
"""

from __future__ import annotations

import multiprocessing as mp
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from phewas.config import SegmentConfig
from phewas.encoders.registry import ECG_500, PAPAGEI_125
from phewas.schema import Recordings
from phewas.segments.cutting import Shard, extract_shard

FS_HZ = 500
TASKS = {
    "imports alone": None,
    "20 windows": (replace(ECG_500.at_site(60), polarity="as_recorded"), 20),
    "20 windows, polarity of the recording": (ECG_500.at_site(60), 20),
    "20 windows, mean and SD of the recording": (replace(PAPAGEI_125, channels=("ECG_II",)), 20),
    "every window": (replace(ECG_500.at_site(60), polarity="as_recorded"), 2**31),
}


def work(name: str, root: Path, n: int, pipe: mp.connection.Connection) -> None:
    windows, began = 0, time.process_time()
    if TASKS[name] is not None:
        contract, limit = TASKS[name]
        row = {"recording_id": "r", "encounter_id": "e", "channel": "ECG_II", "path": "r.hea", "signal": "II",
               "fs_hz": float(FS_HZ), "n_samples": n}  # fmt: skip
        table = Recordings.build([row]).with_columns(patient_id=pl.lit("p"), limit=pl.lit(limit, dtype=pl.Int64))
        config = SegmentConfig(n_segments="all" if limit > 20 else 20)
        windows = extract_shard(Shard(0, root / name, root, table, contract, config, 10.0, 0))
    pipe.send((windows, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 24.0
    n = int(hours * 3600 * FS_HZ)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        beat = (1000 * np.exp(-0.5 * ((np.arange(400) - 150) / 6) ** 2)).astype("<i2")
        with (root / "r.dat").open("wb") as handle:
            noise = np.random.default_rng(0).integers(-9, 10, 400_000).astype("<i2")  # else the pauses are flat
            for at in range(0, n, 400_000):
                handle.write((np.tile(beat, 1000) + noise)[: min(400_000, n - at)].astype("<i2").tobytes())
        (root / "r.hea").write_text(f"r 1 {FS_HZ} {n}\nr.dat 16 1000/mV 16 0 0 0 0 II\n")
        print(f"record MB as float32 {4 * n / 2**20:.0f}")
        context = mp.get_context("spawn")
        for name in TASKS:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(name, root, n, theirs))
            process.start()
            windows, cpu, peak = ours.recv()
            process.join()
            print(f"{name}: windows {windows}")
            print(f"{name}: CPU s {cpu:.2f}")
            print(f"{name}: peak memory MB {peak:.0f}")


if __name__ == "__main__":
    main()
