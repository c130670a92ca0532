"""Write the emulated hospital at full size, read it with the adapter, and print times, memory and row counts.

Run: python tests/benchmarks/bench_emulator.py [preset] [patients] [--no-read]
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WRITE = """
import sys
from pathlib import Path
from phewas.cohorts.emulator.mcmed import emulate_mcmed
from phewas.cohorts.emulator.options import options
if __name__ == "__main__":
    patients = int(sys.argv[3]) or None
    done = emulate_mcmed(Path(sys.argv[1]), options=options(sys.argv[2], patients=patients), seed=0)
    print("rows:", ", ".join(f"{k} {n:,}" for k, n in done.rows.items()), f"; visits {done.n_visits:,}")
"""
READ = """
import sys
from pathlib import Path
import polars as pl
from phewas.cohorts import get
from phewas.cohorts.csvtext import count_rows
if __name__ == "__main__":
    root, run = Path(sys.argv[1]), Path(sys.argv[4])
    get("mcmed").build(root, run)
    d, r = (pl.read_parquet(run / "cohort" / f"{n}.parquet") for n in ("diagnoses", "rejects"))
    for source in ("pmh", "visits"):
        taken = d.filter(pl.col("source") == source)["source_row"].unique()
        lost = r.filter(pl.col("source") == source)["source_row"].unique()
        either = pl.concat([taken, lost]).n_unique()
        print(f"{source}: {count_rows(root / (source + '.csv')):,} rows in, {len(taken):,} gave a diagnosis, "
              f"{len(lost):,} are in rejects, {either:,} in either")
"""


def step(name: str, code: str, *arguments: str) -> None:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    # The largest child so far: the steps are run from the leanest to the one that needs most.
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(f"{name}: {seconds:.1f} s, peak {peak_mb:,.0f} MB")
    print(done.stdout.rstrip() if done.returncode == 0 else done.stderr[-2000:])


def main(preset: str, patients: str, *, read: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="emulated-"))
    try:
        root, run = str(folder / "mc-med"), str(folder / "run")
        step(f"emulate mcmed --preset {preset}", WRITE, root, preset, patients, run)
        size = sum(f.stat().st_size for f in Path(root).rglob("*") if f.is_file())
        print(f"size: {size / 1e6:,.0f} MB")
        if read:
            step("cohort step of the adapter", READ, root, preset, patients, run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    main(words[0] if words else "full", words[1] if len(words) > 1 else "0", read="--no-read" not in sys.argv)
