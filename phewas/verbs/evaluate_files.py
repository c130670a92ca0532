"""What `phewas evaluate` reads: tables whole, tables in blocks, and tables of several sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phewas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from phewas.config import EvaluateConfig

TEXT = ("encounter_id", "patient_id", "sex", "race", "ethnicity", "phenotype", "predictor", "site")
"""Columns that stay text, so that 007 is not 7."""


def check_files(files: list[Path]) -> None:
    """Refuse what is neither CSV nor Parquet, and what is not there."""
    for file in files:
        if not file.is_file():
            raise ConfigError(f"there is no file {file}", expected="a CSV or Parquet file")
        if file.suffix.lower() not in {".csv", ".parquet"}:
            raise ConfigError(f"{file} is neither CSV nor Parquet", expected="a name that ends in .csv or .parquet")


def read_table(file: Path, key: str = "encounter_id") -> pl.DataFrame:
    """Read a table; identifiers stay text."""
    import polars as pl

    check_files([file])
    try:
        if file.suffix.lower() == ".parquet":
            return pl.read_parquet(file, hive_partitioning=False)
        return pl.read_csv(file, schema_overrides=_text(file, key), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{file} cannot be read: {str(error).splitlines()[0]}",
                          expected="a table with a header") from None


def _text(file: Path, key: str) -> dict[str, type[pl.String]]:
    import polars as pl

    return {c: pl.String for c in pl.read_csv(file, n_rows=0).columns if c in (key, *TEXT)}


def read_tables(files: list[Path], key: str) -> pl.DataFrame | None:
    """Read files of the same columns one below the other; None where there are none."""
    import polars as pl

    if not files:
        return None
    frames = [read_table(file, key) for file in files]
    for file, frame in zip(files[1:], frames[1:], strict=True):
        odd = sorted(set(frame.columns) ^ set(frames[0].columns))
        if odd:
            raise ConfigError(f"{files[0]} and {file} differ in the columns {', '.join(odd[:5])}"
                              + (f" and {len(odd) - 5} more" if len(odd) > 5 else ""),
                              expected="the same columns in every part",
                              cure="models of different phenotypes are judged one by one")
    try:
        return pl.concat([frame.select(frames[0].columns) for frame in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"the parts hold different kinds of values: {str(error).splitlines()[0]}",
                          expected="the same kind in a column of every part") from None


def in_blocks(
    predictions: list[Path], labels: list[Path], patients: list[Path], out: Path, *, config: EvaluateConfig,
    phenotypes: pl.DataFrame | None, vocabulary: str, key: str, probabilities: bool, small_cell: int, memory_mb: int,
) -> None:
    """Write the table of phenotypes of predictions that do not fit in memory."""
    import shutil

    from phewas.reports.build import PRIVATE
    from phewas.reports.tables import as_text, protect, write_phenotypes
    from phewas.rundir import write_text
    from phewas.schema import PhenotypeResults
    from phewas.stats.large import evaluate_large, open_large

    scratch = out / ".parts"
    try:
        scores, marks = ([_as_parquet(file, scratch / f"{what}-{k}.parquet", key) for k, file in enumerate(files)]
                         for what, files in (("predictions", predictions), ("labels", labels)))
        large, told = open_large(scores, marks, read_tables(patients, key), key=key, probabilities=probabilities)
        for warning in told:
            typer.echo(f"Note: {warning}")
        typer.echo(f"Note: {len(large.rows):,} encounters by {len(large.names):,} phenotypes are read in blocks. "
                   "Baseline, subgroups, curves, calibration, max-T and the page need all in memory and are left out.")
        results = evaluate_large(large, config=config, phenotypes=phenotypes, vocabulary=vocabulary,
                                 memory_mb=memory_mb)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    PhenotypeResults.write(results, out)
    write_text(PRIVATE, out / "NOT-FOR-SHARING.txt")
    table, _ = write_phenotypes(as_text(protect(results, small_cell=small_cell), small_cell=small_cell),
                                out / "report" / "tables")
    typer.echo(f"Tables: {out / 'results'}")
    typer.echo(f"To be shown: {table}")


def _as_parquet(file: Path, place: Path, key: str) -> Path:
    """Return a Parquet file as it is, and a CSV file rewritten as Parquet without ever being in memory."""
    import polars as pl

    if file.suffix.lower() == ".parquet":
        return file
    place.parent.mkdir(parents=True, exist_ok=True)
    text = _text(file, key)
    numbers = {c: pl.Float64 for c in pl.read_csv(file, n_rows=0).columns if c not in text}
    try:
        pl.scan_csv(file, schema_overrides={**text, **numbers}).sink_parquet(place)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{file} cannot be read: {str(error).splitlines()[0]}",
                          expected="a table with a header and numbers below") from None
    return place


def pooled(tables: list[Path], out: Path, *, small_cell: int) -> None:
    """Write the meta-analysis of tables that sites exported."""
    from phewas.reports.tables import csv_safe
    from phewas.rundir import atomic, write_parquet
    from phewas.stats.meta_tables import combine_tables, site_names

    folders = [table for table in tables if table.is_dir()]
    if folders:
        raise ConfigError(f"{folders[0]} is a folder, while {next(t for t in tables if not t.is_dir())} is a table",
                          expected="run directories alone, or tables alone",
                          cure="name its table for sharing: report/tables/phenotypes.csv")
    found = combine_tables(dict(zip(site_names(tables), map(read_table, tables), strict=True)), small_cell=small_cell)
    for note in found.notes:
        typer.echo(f"Note: {note}")
    for name, frame in (("meta", found.pooled), ("meta_sites", found.sites)):
        write_parquet(frame, out / f"{name}.parquet")
        with atomic(out / f"{name}.csv") as handle:
            csv_safe(frame).write_csv(handle, quote_style="non_numeric")
    typer.echo(found.summary)
    typer.echo(f"Tables: {out / 'meta.csv'}, {out / 'meta_sites.csv'} (counts below {small_cell} are hidden)")
