"""Processor seconds of a phenome-wide association study beside PheTK and pyphewas-package, and whether they agree.

Run: python tests/benchmarks/bench_associate.py BENCH DATA [--phetk VENV] [--pyphewas VENV]

BENCH is the folder with make_data.py and the peers' scripts, DATA what make_data.py wrote (500 phenotypes, 15,000
persons, 5 variables). Every program is started as its user would, start and reading included; reference_irls.py of
BENCH gives full-precision coefficients.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl


def processor(name: str, command: list[str]) -> float:
    """Run a command and print wall and processor seconds of it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: wall {wall:.2f} s, processor {used:.2f} s, exit {done.returncode}", flush=True)
    if done.returncode:
        print(done.stdout[-500:], done.stderr[-1500:])
    return used


def agree(name: str, ours: pl.DataFrame, file: Path, columns: tuple[str, ...], separator: str) -> None:
    """Print the largest difference in beta, SE and -log10 p from another program's table."""
    if not file.is_file():
        print(f"{name}: no table")
        return
    theirs = pl.read_csv(file, separator=separator, infer_schema_length=None, schema_overrides={columns[0]: pl.String})
    both = ours.join(theirs.rename({columns[0]: "phenotype"}), on="phenotype", how="inner", suffix="_theirs")
    print(f"{name}: {len(both)} phenotypes in common")
    for mine, column in zip(("beta", "SE", "p"), columns[1:], strict=False):
        column = f"{column}_theirs" if f"{column}_theirs" in both.columns else column
        gap = np.abs(both[mine].to_numpy() - both[column].to_numpy().astype(float))
        print(f"{name}: largest difference in {mine}: {np.nanmax(gap):.1e}")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("bench", type=Path)
    reader.add_argument("data", type=Path)
    reader.add_argument("--phetk", type=Path)
    reader.add_argument("--pyphewas", type=Path)
    asked = reader.parse_args()
    out = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "phewas", "associate", str(asked.data / "cohort.tsv"), "--phenotypes",
               str(asked.data / "counts.tsv"), "--predictor", "exposure", "--covariates", "age,sex,pc1,pc2",
               "--min-cases", "50", "--firth-below", "0", "--out"]
    processor("phewas associate, first start (compiles if nothing is cached)", [*command, str(out / "first.csv")])
    ours = min(processor("phewas associate", [*command, str(out / "ours.csv")]) for _ in range(3))
    table = pl.read_csv(out / "ours.csv", infer_schema_length=None)
    processor("reference_irls.py", [sys.executable, str(asked.bench / "reference_irls.py"), str(asked.data),
                                    str(out / "reference.tsv")])
    agree("reference_irls.py", table, out / "reference.tsv", ("phecode", "beta", "se", "p"), "\t")
    if asked.phetk:
        used = processor("PheTK", [str(asked.bench / "phetk_phewas.sh"), str(asked.phetk), str(asked.data),
                                   str(out / "phetk.tsv")])
        print(f"processor time, ratio of PheTK: {used / ours:.1f}")
        agree("PheTK", table, out / "phetk.tsv", ("phecode", "beta", "standard_error", "p_value"), "\t")
    if asked.pyphewas:
        used = processor("pyphewas-package", [str(asked.bench / "pyphewas_package.sh"), str(asked.pyphewas),
                                              str(asked.data), str(out / "pyphewas.tsv")])
        print(f"processor time, ratio of pyphewas-package: {used / ours:.1f}")
        agree("pyphewas-package", table, out / "pyphewas.tsv",
              ("phecode", "exposure_beta", "exposure_stderr", "exposure_pvalue"), "\t")
    print(f"tables: {out}")


if __name__ == "__main__":
    main()
