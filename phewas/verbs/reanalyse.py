"""`phewas reanalyse`: a published table of AUCs with patients as the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError


def reanalyse(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with the columns n_pos, n_neg and auc.", show_default=False)
    ],
    per_patient: Annotated[
        float, typer.Option(min=1, help="Counted rows (segments) per independent unit.", show_default=False)
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="AUC to hold the lower bounds against.")] = 0.7,
    min_cases: Annotated[int, typer.Option(min=2, help="Fewer independent cases: no interval.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Write the table here, .csv or .parquet.", show_default=False)
    ] = None,
) -> None:
    """Say what published AUCs are worth when patients, not their segments, are counted. Approximate.

    Example: phewas reanalyse table9.csv --per-patient 20 --out table9_patients.csv
    """
    import polars as pl

    from phewas.stats.reanalyse import reanalyse as compute
    from phewas.stats.reanalyse import summary

    for file in (table, out):
        if file is not None and file.suffix.lower() not in {".csv", ".parquet"}:
            raise ConfigError(f"{file} is neither CSV nor Parquet", expected="a name that ends in .csv or .parquet")
    if not table.is_file():
        raise ConfigError(f"there is no file {table}", expected="a CSV or Parquet file")
    try:
        read = (
            pl.read_parquet(table)
            if table.suffix.lower() == ".parquet"
            else pl.read_csv(table, infer_schema=False, encoding="utf8-lossy")
        )
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{table} cannot be read: {error}", expected="a table with a header") from None
    found = compute(read, per_patient=per_patient, min_cases=min_cases)
    typer.echo(summary(found, threshold=threshold))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".csv":
            found.write_csv(out)
        else:
            found.write_parquet(out)
        typer.echo(f"Table: {out}")
