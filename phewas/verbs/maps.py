"""`phewas map`: phenotypes for a table of codes, without a cohort or an encoder."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError

COLUMNS, RULES, RESULTS = "Columns (found by their usual names unless given)", "Rules", "Results"


class Form(StrEnum):
    """What the tables are written as."""

    parquet = "parquet"
    csv = "csv"


def map_table(
    codes: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file, one row per code.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=RESULTS, show_default=False)],
    vocabulary: Annotated[
        str, typer.Option(help="Name or file; `phewas vocabularies` lists all.", rich_help_panel=RULES)
    ] = "phecode",
    patient: Annotated[str | None, typer.Option(help="Column of the patient.", rich_help_panel=COLUMNS)] = None,
    code: Annotated[str | None, typer.Option(help="Column of the code.", rich_help_panel=COLUMNS)] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="Column of the code system; or one system for all rows: ICD9CM, ICD10CM, ICD10 (of the WHO); or "
            "by_date: ICD-9-CM before 2015-10-01, ICD-10-CM from then on.",
            rich_help_panel=COLUMNS,
        ),
    ] = None,
    date: Annotated[str | None, typer.Option(help="Column of the day of the code.", rich_help_panel=COLUMNS)] = None,
    date_format: Annotated[
        str | None,
        typer.Option(help="Format of dates that are not year-month-day, e.g. %m/%d/%Y.", rich_help_panel=COLUMNS),
    ] = None,
    sex: Annotated[str | None, typer.Option(help="Column of the patient's sex.", rich_help_panel=COLUMNS)] = None,
    min_days: Annotated[
        int | None,
        typer.Option(
            min=1, help="Distinct days that a case needs. Default: 2 with dates, 1 without.", rich_help_panel=RULES
        ),
    ] = None,
    control_exclusions: Annotated[
        bool,
        typer.Option(
            "--control-exclusions/--no-control-exclusions",
            help="A code of a related phenotype bars a person from the controls.",
            rich_help_panel=RULES,
        ),
    ] = True,
    walk_up: Annotated[
        bool,
        typer.Option(
            "--walk-up", help="A code that is not in the map counts as its nearest parent.", rich_help_panel=RULES
        ),
    ] = False,
    restore_zeros: Annotated[
        bool,
        typer.Option(
            "--restore-zeros",
            help="Mend ICD-9-CM codes that lost leading zeros, where one code fits.",
            rich_help_panel=RULES,
        ),
    ] = False,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels", help="Write the wide table of patients by phenotypes.", rich_help_panel=RESULTS
        ),
    ] = True,
    form: Annotated[Form, typer.Option("--format", help="Tables as.", rich_help_panel=RESULTS)] = Form.parquet,
) -> None:
    """Map a table of codes to phenotypes: counts, labels, what was not mapped, and a page that sums it up.

    Example: phewas map codes.csv --vocabulary phecodeX --system ICD10CM --out phenotypes
    """
    # Counting needs no linear algebra, whose threads cost a tenth of a second of every processor just to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from phewas.mappings import columns as naming
    from phewas.mappings import mapsummary
    from phewas.mappings.counting import Options
    from phewas.mappings.mapfile import map_file
    from phewas.mappings.vocabulary import load

    if codes.is_dir():
        raise ConfigError(f"{codes} is a folder", expected="a CSV, TSV or Parquet file")
    names = naming.scan(codes).collect_schema().names()
    named = system in names
    summary = map_file(
        codes,
        out=out,
        vocabulary=load(vocabulary),
        columns=naming.Columns(patient=patient, code=code, system=system if named else None, date=date, sex=sex),
        options=Options(
            code_system=None if named else system,
            min_days=min_days,
            control_exclusions=control_exclusions,
            walk_up=walk_up,
            restore_zeros=restore_zeros,
            date_format=date_format,
        ),
        labels=labels,
        form=form.value,
    )
    typer.echo(mapsummary.text(summary), nl=False)
    typer.echo(f"\nTables: {out}")
