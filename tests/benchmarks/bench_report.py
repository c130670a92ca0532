"""Time and memory of the full report: page, tables, workbook, figures. `python tests/benchmarks/bench_report.py`.

The results are drawn at random for 1,866 phenotypes; labels are told as those of 18,000 encounters. One figure a line.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import tempfile
import time
from pathlib import Path

import polars as pl


def synthetic():
    spec = importlib.util.spec_from_file_location("results", Path(__file__).parents[1] / "reports" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--phenotypes", type=int, default=1866)
    parser.add_argument("--encounters", type=int, default=18_000)
    parser.add_argument("--figures", action="store_true", help="also draw every figure as PNG, PDF and SVG")
    parser.add_argument("--keep", type=Path, help="leave the run here")
    given = parser.parse_args()
    made = synthetic()
    from phewas.mappings import vocabulary
    from phewas.reports.build import build
    from phewas.reports.gallery import Wish, write_figures
    from phewas.reports.meta import ReportMeta
    from phewas.schema import Definitions

    results = made.many(given.phenotypes, tested=1.0, n_patients=given.encounters)
    tables = made.further(results)
    codes = vocabulary.load("phecode1.2").code_map.select("code", "vocabulary")
    names = results["phenotype"].to_list()
    tables["definitions"] = Definitions.check(codes.unique(maintain_order=True).select(
        pl.int_range(pl.len()).mod(len(names)).replace_strict(dict(enumerate(names))).alias("phenotype"),
        pl.col("vocabulary").cast(pl.String).alias("code_system"), pl.col("code").cast(pl.String)))
    folder = given.keep or Path(tempfile.mkdtemp())
    run = made.write_run(folder / "run", results, **tables)
    meta = ReportMeta(cohort="mcmed", encoder="anyppg", version="1", cohort_title="An emulated cohort")
    print(f"tables_written_peak_MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
    for word in ("first", "again"):
        wall, cpu = time.perf_counter(), time.process_time()
        page = build(run, meta=meta, small_cell=11)
        print(f"report_{word}_wall_s {time.perf_counter() - wall:.1f}")
        print(f"report_{word}_cpu_s {time.process_time() - cpu:.1f}")
    print(f"peak_MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
    print(f"page_MB {page.stat().st_size / 1e6:.2f}")
    print(f"workbook_MB {(page.parent / 'results.xlsx').stat().st_size / 1e6:.2f}")
    if given.figures:
        cpu = time.process_time()
        write_figures(run, run / "report" / "figures", small_cell=11, wish=Wish(title="anyppg"))
        print(f"all_figures_cpu_s {time.process_time() - cpu:.1f}")
        print(f"peak_with_figures_MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    main()
