"""`phewas map` beside PheTK on one table: seconds, memory and the same answer.

Run: python tests/benchmarks/bench_map.py TABLE PYTHON_WITH_PHETK [rounds]

TABLE has the columns person_id, date, ICD and vocabulary_id (ICD9CM, ICD10CM), tab-separated. PYTHON_WITH_PHETK is the
interpreter of an environment with ``phetk==0.3.6 pyarrow==24.0.0 "duckdb<2"``. Both tools run as their users start
them, in turn; CPU seconds are user and system time of the whole process, start included, and memory is its peak
resident set. Best of the rounds, because other work on the machine only ever adds.

PheTK counts joined rows, so that two rows of one day, and one row that reaches a parent by two children, count twice;
`phewas map` counts distinct days. Compared are therefore the pairs of patient and phenotype (one code is enough:
identical), the first dates (identical), and the cases with two: those that PheTK has beyond ours must be pairs whose
codes all lie on one day. PheTK's map has block ranges and codes with a lower-case x that ours leaves out; a table made
from codes that both phecode 1.2 and phecodeX know has none of them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

PHETK = """
import sys
from phetk.phecode import Phecode
table, out, version = sys.argv[1:]
Phecode(platform="custom", icd_file_path=table).count_phecode(
    phecode_version=version, icd_version="US", output_file_path=out, engine="duckdb"
)
"""
#: What no Python tool of this kind can do without: its libraries and the vocabulary; and that with the table read once.
FLOORS = {
    "floor: start, vocabulary": """
import sys
from phewas.mappings.vocabulary import load
import phewas.mappings.mapfile
load(sys.argv[2])
""",
    "floor: and polars reading": """
import sys
from phewas.mappings.vocabulary import load
import phewas.mappings.mapfile
import polars as pl
load(sys.argv[2])
pl.read_csv(sys.argv[1], separator=chr(9), infer_schema=False)
""",
}
NAMES = {"X": "phecodeX1.0", "1.2": "phecode1.2"}


def measure(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak MiB of one command."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        rollup = Path(f"/proc/{child.pid}/smaps_rollup")
        while not ended.wait(0.02):
            with contextlib.suppress(OSError, StopIteration):
                line = next(line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
                peak = max(peak, int(line.split()[1]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, status, usage = os.wait4(child.pid, 0)
    ended.set()
    watcher.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, peak / 1024


def compare(theirs: Path, ours: Path) -> None:
    """Print where the two answers agree, and stop where they differ without a reason."""
    them = pl.read_csv(theirs, separator="\t", infer_schema=False).select(
        pl.col("person_id").alias("patient_id"), pl.col("phecode").alias("phenotype"),
        pl.col("count").cast(pl.Int64), pl.col("first_event_date").str.head(10).str.to_date().alias("first"),
    )  # fmt: skip
    us = pl.read_parquet(ours)
    both = them.join(us, on=["patient_id", "phenotype"])
    pairs = both.height == them.height == us.height
    dates = both.filter(pl.col("first") != pl.col("first_date")).height == 0
    more = both.filter(pl.col("count") > pl.col("distinct_days")).height
    fewer = both.filter(pl.col("count") < pl.col("distinct_days")).height
    extra = both.filter((pl.col("count") >= 2) & (pl.col("distinct_days") < 2)).height
    print(f"  pairs with at least one code: theirs {them.height:,}, ours {us.height:,}, the same: {pairs}")
    print(f"  first dates the same: {dates}")
    cases = both.filter(pl.col("distinct_days") >= 2).height
    print(f"  cases with two: days (ours) {cases:,}, rows (theirs) {cases + extra:,}: {extra:,} have one day only")
    print(f"  rows beyond days in {more:,} pairs; days beyond rows in {fewer:,}, which must be 0")
    if not (pairs and dates and fewer == 0):
        raise SystemExit("the answers differ")


def main(table: Path, python: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for version, name in NAMES.items():
            theirs, out = Path(scratch) / f"phetk-{version}.tsv", Path(scratch) / name
            ours = [sys.executable, "-m", "phewas", "map", str(table), "--vocabulary", name, "--out", str(out)]
            commands = {
                "PheTK": [python, "-c", PHETK, str(table), str(theirs), version],
                "phewas, counts": [*ours, "--no-labels"],
                "phewas, counts and labels": ours,
            }
            commands |= {what: [sys.executable, "-c", text, str(table), name] for what, text in FLOORS.items()}
            best = dict.fromkeys(commands, (1e9, 1e9, 1e9))
            for _ in range(rounds):
                for tool, command in commands.items():
                    found = measure(command)
                    best[tool] = tuple(min(pair) for pair in zip(best[tool], found, strict=True))
            print(f"{name}: best of {rounds}, load {os.getloadavg()[0]:.1f}")
            for tool, (wall, cpu, peak) in best.items():
                _, cpu0, peak0 = best["PheTK"]
                print(f"  {tool:<26} {wall:6.2f} s {cpu:6.2f} CPU s {peak:6.0f} MiB  "
                      f"CPU x {cpu / cpu0:.2f}, memory x {peak / peak0:.2f}")  # fmt: skip
        # Only now: a child's peak counts from what this process held when it was started.
        for version, name in NAMES.items():
            print(f"{name}: PheTK against phewas")
            compare(Path(scratch) / f"phetk-{version}.tsv", Path(scratch) / name / "counts.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
