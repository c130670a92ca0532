"""`phewas evaluate`: any model's predictions to the full results and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phewas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(help="CSV or Parquet: encounter_id and a column of scores per phenotype.", show_default=False),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="CSV or Parquet: encounter_id and a column per phenotype: 1 case, 0 control, blank or -1 excluded.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for tables and report.", show_default=False)],
    patients: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet: encounter_id, patient_id and, where known, age, sex, race, ethnicity, split, src_*. "
            "Default: these columns of the other two tables.", show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="age,sex: hold the predictions against age and sex, fitted on the labelled encounters of patients who "
            "are not predicted; none: do not. Default: where it can be done.", show_default=False,
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="Vocabulary whose phenotypes the columns are: descriptions, chapters, sex.",
                     show_default=False),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="The scores are probabilities: judge their calibration too.")
    ] = False,
    unit: Annotated[str, typer.Option(help="encounter, or patient: each one's first encounter.")] = "encounter",
    key: Annotated[str, typer.Option("--id", help="Column of the encounter.")] = "encounter_id",
    name: Annotated[str, typer.Option(help="What the model is called in the report.")] = "imported",
    small_cell: Annotated[int, typer.Option(min=0, help="Counts below this are hidden in the report.")] = 11,
    seed: Annotated[int, typer.Option(help="Of the patient draws.")] = 0,
) -> None:
    """Judge any model's predictions as `phewas run` judges an encoder: patient-clustered intervals, baseline, report.

    Example: phewas evaluate --predictions scores.parquet --labels labels.csv --patients people.csv --out judged
    """
    if baseline not in (None, "age,sex", "sex,age", "none"):
        raise ConfigError(f"baseline {baseline!r} is unknown", expected="age,sex or none")
    if unit not in ("encounter", "patient"):
        raise ConfigError(f"unit {unit!r} is unknown", expected="encounter or patient")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(f"{out} is not empty", expected="a new folder", cure="give another --out")
    import shutil

    from phewas import __version__
    from phewas.config import EvaluateConfig
    from phewas.errors import PhewasError
    from phewas.mappings import vocabulary as vocabularies
    from phewas.mappings.controls import controls
    from phewas.reports.build import build
    from phewas.reports.meta import ReportMeta
    from phewas.stats.evaluate import evaluate as judge
    from phewas.stats.imported import RULE, import_predictions

    known = None if vocabulary is None else vocabularies.load(vocabulary)
    tables = [_read(file, key) if file is not None else None for file in (predictions, labels, patients)]
    assert tables[0] is not None
    assert tables[1] is not None
    fresh = not out.exists()
    # Whoever made the model is not asked how many cases it learned from.
    config = EvaluateConfig(unit="patient" if unit == "patient" else "encounter").model_copy(
        update={"min_train_case_patients": 0, "rivals": []})
    try:
        found = import_predictions(
            tables[0], tables[1], tables[2], run=out, phenotypes=None if known is None else known.phenotypes,
            vocabulary="as given" if known is None else known.label, probabilities=probabilities, key=key,
            baseline=None if baseline is None else baseline != "none")
        for warning in found.warnings:
            typer.echo(f"Note: {warning}")
        judge(out, config=config, seed=seed, label_window="any", controls=None if known is None else controls(known))
        page = build(out, small_cell=small_cell, meta=ReportMeta(
            cohort=labels.stem, encoder=name, version=__version__, heldout=RULE, seed=seed,
            command=shlex.join(["phewas", *sys.argv[1:]]), warnings=found.warnings,
            data_description="Predictions and labels were made elsewhere; the label window is what their makers chose.",
            settings={"evaluate": config.model_dump(mode="json")}))
    except PhewasError:
        if fresh and out.is_dir():
            shutil.rmtree(out)
        raise
    typer.echo(f"Tables: {out / 'results'}")
    typer.echo(f"Report: {page}")


def _read(file: Path, key: str) -> pl.DataFrame:
    """Read a table; identifiers stay text, so that 007 is not 7."""
    import polars as pl

    if file.suffix.lower() not in {".csv", ".parquet"}:
        raise ConfigError(f"{file} is neither CSV nor Parquet", expected="a name that ends in .csv or .parquet")
    if not file.is_file():
        raise ConfigError(f"there is no file {file}", expected="a CSV or Parquet file")
    try:
        if file.suffix.lower() == ".parquet":
            return pl.read_parquet(file, hive_partitioning=False)
        header = pl.read_csv(file, n_rows=0).columns
        text = {c: pl.String for c in header if c in (key, "encounter_id", "patient_id", "sex", "race", "ethnicity")}
        return pl.read_csv(file, schema_overrides=text, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{file} cannot be read: {str(error).splitlines()[0]}",
                          expected="a table with a header") from None
