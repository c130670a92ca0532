"""`phewas map` on 100 million rows of 1 million patients: seconds and peak memory.

Run: python tests/benchmarks/bench_map_large.py FOLDER [rows] [patients] [vocabulary]

FOLDER takes the generated table (about 1.2 GB at full size) and the results; both are deleted at the end unless
KEEP=1 is set. The table is written in pieces, so that making it does not need the memory that it is about.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from pyarrow import parquet

from phewas.mappings import icd
from phewas.mappings.vocabulary import load

PIECE = 5_000_000
CHANGE = (icd.ICD10CM_START.toordinal() - 719_163, 20_000)


def make(file: Path, rows: int, patients: int) -> None:
    """Write codes with Zipf weights, ICD-9-CM before the change and ICD-10-CM after; one row in fifty is not a code."""
    keys = load("phecodeX").code_map.select("vocabulary", "code").unique().sort("vocabulary", "code")
    dotted = keys.select(icd.normalise(pl.col("code"), pl.col("vocabulary")).alias("code"), "vocabulary")
    parts = {system: dotted.filter(vocabulary=system)["code"] for system in ("ICD9CM", "ICD10CM")}
    writer = None
    for start in range(0, rows, PIECE):
        n = min(PIECE, rows - start)
        rng = np.random.default_rng(start)
        new = rng.random(n) < 0.55
        columns = {}
        for system, codes in parts.items():
            rank = (len(codes) ** rng.random(n)).astype(np.int64) - 1
            columns[system] = codes.gather(np.random.default_rng(1).permutation(len(codes))[rank])
        code = pl.select(pl.when(pl.Series(new)).then(columns["ICD10CM"]).otherwise(columns["ICD9CM"])).to_series()
        code = pl.select(pl.when(pl.Series(rng.random(n) < 0.02)).then(pl.lit("NOCODE")).otherwise(code)).to_series()
        day = np.where(new, rng.integers(CHANGE[0], CHANGE[1], n), rng.integers(11_000, CHANGE[0], n))
        who = (patients * rng.random(n) ** 1.5).astype(np.int64)
        frame = pl.DataFrame(
            {
                "patient_id": pl.Series(who).cast(pl.String),
                "code": code,
                "vocabulary": pl.select(
                    pl.when(pl.Series(new)).then(pl.lit("ICD10CM")).otherwise(pl.lit("ICD9CM"))
                ).to_series(),
                "date": pl.Series(day.astype(np.int32)).cast(pl.Date),
            }
        )
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if writer is None:
            writer = parquet.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=500_000)
    if writer is not None:
        writer.close()


def main(folder: Path, rows: int, patients: int, vocabulary: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, out = folder / "codes.parquet", folder / "out"
    if not file.is_file():
        begin = time.perf_counter()
        # In a process of its own: a child's peak counts from what this process holds when it is started.
        worker = multiprocessing.get_context("spawn").Process(target=make, args=(file, rows, patients))
        worker.start()
        worker.join()
        print(f"table: {rows:,} rows, {file.stat().st_size / 1e9:.2f} GB, {time.perf_counter() - begin:.0f} s")
    for labels in ("--no-labels", "--labels"):
        begin = time.perf_counter()
        command = [sys.executable, "-m", "phewas", "map", file, "--vocabulary", vocabulary, "--out", out, labels]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"phewas map ended with {child.returncode}")
        wall, cpu = time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
        size = sum(part.stat().st_size for part in out.iterdir()) / 1e9
        print(f"{labels}: {wall:.0f} s, {cpu:.0f} CPU s, peak {usage.ru_maxrss / 1e6:.2f} GB, results {size:.2f} GB")
    summary = json.loads((out / "summary.json").read_text())
    print(json.dumps({name: summary[name] for name in ("coverage", "counts", "unmapped")}, indent=1))
    if os.environ.get("KEEP") != "1":
        shutil.rmtree(out)
        file.unlink()


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        Path(given[0]),
        int(given[1]) if len(given) > 1 else 100_000_000,
        int(given[2]) if len(given) > 2 else 1_000_000,
        given[3] if len(given) > 3 else "phecodeX",
    )
