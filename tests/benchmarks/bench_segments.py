"""Sampled windows per CPU second: ours, the published order of work, and the floor of reading alone.

Usage: python tests/benchmarks/bench_segments.py [visits] [of which published]

The published order takes over a second a visit, so that it may be given the first part of the visits only.

Each visit has one to four PPG records at 125 Hz whose lengths run from seconds to hours (log-normal, median 4 minutes,
as in the emulator). Twenty ten-second windows are wanted of each visit.

published   read every record whole with wfdb, cut all windows, filter each (mne, IIR), z-score, then choose 20
floor       read the very windows that ours chooses, with wfdb, and do nothing with them
ours        `extract_shard`: draw first, read only those, check quality, filter, standardise, write the shard
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import mne
import numpy as np
import polars as pl
import wfdb

from phewas.config import SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.schema import Recordings
from phewas.seeds import generator
from phewas.segments.cutting import Shard, extract_shard

FS_HZ, WINDOW = 125, 1250


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make(root: Path, visits: int) -> pl.DataFrame:
    """Write the records, a pulse with noise, and return their table."""
    rows = []
    for visit in range(visits):
        rng = generator("bench", visit)
        for record in range(int(rng.integers(1, 5))):
            seconds = float(np.clip(rng.lognormal(np.log(240), 1.6), 12, 6 * 3600))
            n = int(seconds * FS_HZ)
            wave = np.sin(2 * np.pi * 1.2 * np.arange(n) / FS_HZ) + 0.1 * rng.standard_normal(n)
            name = f"v{visit}_{record}"
            wfdb.wrsamp(name, fs=FS_HZ, units=["NU"], sig_name=["Pleth"], p_signal=wave[:, None], fmt=["16"],
                        write_dir=str(root))  # fmt: skip
            rows.append({"recording_id": name, "encounter_id": f"v{visit:05d}", "channel": "PPG", "path": f"{name}.hea",
                         "signal": "Pleth", "fs_hz": float(FS_HZ), "n_samples": n})  # fmt: skip
    return Recordings.check(Recordings.build(rows))


def published(root: Path, table: pl.DataFrame) -> int:
    kept = 0
    for _, group in table.group_by("encounter_id", maintain_order=True):
        windows = []
        for name in group["recording_id"]:
            x = wfdb.rdrecord(str(root / name)).p_signal[:, 0]
            for k in range(len(x) // WINDOW):
                y = mne.filter.filter_data(
                    x[k * WINDOW : (k + 1) * WINDOW], FS_HZ, 0.5, 8.0, method="iir",
                    iir_params={"order": 3, "ftype": "butter"}, verbose=False,
                )  # fmt: skip
                windows.append((y - y.mean()) / (y.std() + 1e-8))
        kept += min(20, len(windows))
    return kept


def floor(root: Path, index: pl.DataFrame) -> int:
    for name, start in index.select("recording_id", "start_sample").iter_rows():
        wfdb.rdrecord(str(root / name), sampfrom=start, sampto=start + WINDOW)
    return index.height


def main() -> None:
    warnings.simplefilter("ignore")
    mne.set_log_level("ERROR")
    visits = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    some = int(sys.argv[2]) if len(sys.argv) > 2 else visits
    with tempfile.TemporaryDirectory() as scratch:
        root, work = Path(scratch) / "data", Path(scratch) / "work"
        root.mkdir()
        table = make(root, visits)
        hours = (table["n_samples"] / table["fs_hz"]).sum() / 3600
        print(f"visits {visits}")
        print(f"recorded hours {hours:.1f}")
        joined = table.with_columns(pl.col("encounter_id").alias("patient_id"), pl.lit(20).alias("limit"))
        shard = Shard(0, work, root, joined, PPG_125, SegmentConfig(), 10.0, 0)
        warm = Shard(1, work, root, joined.head(1), PPG_125, SegmentConfig(), 10.0, 0)
        extract_shard(warm)
        results = {}
        for name, run in (
            ("ours", lambda: extract_shard(shard)),
            ("floor", lambda: floor(root, pl.read_parquet(work / ".parts" / "shard-00000.parquet"))),
            ("published", lambda: published(root, table.filter(pl.col("encounter_id") < f"v{some:05d}"))),
        ):
            wall, cpu = time.perf_counter(), cpu_s()
            windows = run()
            wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
            results[name] = windows / cpu
            print(f"{name}: windows {windows}")
            print(f"{name}: wall s {wall:.2f}")
            print(f"{name}: windows per CPU s {windows / cpu:.0f}")
        print(f"ours / published {results['ours'] / results['published']:.1f}")
        print(f"ours / floor {results['ours'] / results['floor']:.2f}")
        print(f"peak memory MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    main()
