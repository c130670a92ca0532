"""Time what is done with every waveform header of a full-size MC-MED tree, on records with empty (sparse) signals.

Run: python tests/benchmarks/bench_headers.py [records] [workers]

Printed, one figure a line: reading all headers (`scan_tree`) and listing all files with their sizes (the fingerprint),
each with records a second and the peak memory of a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEGMENTS = 6  # of each of two channels
RATES_HZ = {"II": 500, "Pleth": 125}
PEAK = """
import resource, sys, time
from pathlib import Path
if __name__ == "__main__":
    root, workers = Path(sys.argv[1]), int(sys.argv[2])
    {imports}
    began = time.perf_counter()
    n = {work}
    seconds = time.perf_counter() - began
    own, child = (resource.getrusage(w).ru_maxrss / 1e3 for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(resource.getrusage(w).ru_utime + resource.getrusage(w).ru_stime
              for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{{n}} {{seconds:.2f}} {{cpu:.2f}} {{own:.0f}} {{child:.0f}}")
"""
SCAN = PEAK.format(
    imports="from phewas.cohorts.wavescan import scan_tree\n    from phewas.cohorts.mcmed_waves import RATES_HZ",
    work='len(scan_tree(root, "waveforms", rates_hz=RATES_HZ, workers=workers).found)',
)
LIST = PEAK.format(
    imports="from phewas.cohorts.wavescan import waveform_files",
    work='sum(1 for _ in waveform_files(root, "waveforms")) // 2',
)
TABLE = PEAK.format(
    imports="import polars as pl\n    from phewas.cohorts.wavescan import scan_tree\n"
    "    from phewas.cohorts.mcmed_waves import RATES_HZ, to_recordings",
    work='(lambda tree: len(to_recordings(tree, pl.DataFrame({"encounter_id": tree.encounters}), '
    'pl.DataFrame({"MRN": []}, schema={"MRN": pl.String}))[0]))('
    'scan_tree(root, "waveforms", rates_hz=RATES_HZ, workers=workers))',
)


def write_tree(root: Path, records: int) -> None:
    """Write `records` records of two channels, twelve to an encounter; signal files hold no blocks."""
    per = SEGMENTS * len(RATES_HZ)
    for encounter in range(-(-records // per)):
        csn = 98_870_000 + encounter * 7
        for channel, fs in RATES_HZ.items():
            folder = root / "waveforms" / f"{csn % 1000:03d}" / str(csn) / channel
            folder.mkdir(parents=True)
            for k in range(1, SEGMENTS + 1):
                name, n = f"{csn}_{k}", 14_998 + k
                fraction = ".250" if k % 3 else ""
                (folder / f"{name}.hea").write_text(
                    f"{name} 1 {fs} {n} {k % 24:02d}:16:07{fraction} 05/06/2264\n"
                    f"{name}.dat 16 8123.457(-21)/NU 16 0 0 0 0 {channel}\n"
                )
                with (folder / f"{name}.dat").open("wb") as handle:
                    handle.truncate(2 * n)


def main(records: int, workers: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="headers-"))
    try:
        began = time.perf_counter()
        write_tree(folder, records)
        print(f"tree written: {time.perf_counter() - began:.1f} s")
        for name, code in (("scan", SCAN), ("listing", LIST), ("scan and table", TABLE)):
            done = subprocess.run([sys.executable, "-c", code, str(folder), str(workers)], capture_output=True,
                                  text=True, check=True)  # fmt: skip
            n, seconds, cpu, own, child = map(float, done.stdout.split())
            print(f"{name}, records: {n:,.0f}")
            print(f"{name}, wall s: {seconds:.2f}")
            print(f"{name}, CPU s: {cpu:.2f}")
            print(f"{name}, records per wall s: {n / seconds:,.0f}")
            print(f"{name}, peak MB of the process: {own:,.0f}")
            print(f"{name}, peak MB of a worker: {child:,.0f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(int(words[0]) if words else 100_000, int(words[1]) if len(words) > 1 else os.cpu_count() or 1)
