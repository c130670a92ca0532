"""`phewas associate`: a phenome-wide association study of a genotype, a laboratory value, a score or an embedding."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError

DATA, MODEL, RESULTS = "Data", "Model", "Results"


class Kind(StrEnum):
    """What is fitted."""

    logistic = "logistic"
    linear = "linear"
    cox = "cox"


class Test(StrEnum):
    """Where p comes from."""

    wald = "wald"
    lrt = "lrt"


def associate(
    persons: Annotated[
        Path | None,
        typer.Argument(
            help="CSV, TSV or Parquet with predictor and covariates, one row per person; may be left out with a run.",
            show_default=False,
        ),
    ] = None,
    phenotypes: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by `phewas map`, a table (long: patient, phenotype, distinct_days; wide: patient and "
            "a column per phenotype), or a run directory.",
            rich_help_panel=DATA, show_default=False,
        ),
    ] = None,
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            help="Column; may be repeated. NAME:3 is the fourth number of a list column (an embedding); `score` is "
            "each phenotype's own score in a run, per standard deviation. Default with a run: score.",
            rich_help_panel=MODEL, show_default=False,
        ),
    ] = None,
    covariates: Annotated[
        str, typer.Option(help="Columns with commas between; text is categorical.", rich_help_panel=MODEL)
    ] = "",
    categorical: Annotated[
        str, typer.Option(help="Covariates to be taken as categories although they are numbers.", rich_help_panel=MODEL)
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write, .csv, .tsv or .parquet.", rich_help_panel=RESULTS, show_default=False),
    ] = None,
    model: Annotated[
        Kind, typer.Option(help="linear: quantities in a wide table. cox: incident phenotypes.", rich_help_panel=MODEL)
    ] = Kind.logistic,
    test: Annotated[
        Test, typer.Option(help="Wald, or likelihood ratio (one row per patient).", rich_help_panel=MODEL)
    ] = Test.wald,
    firth_below: Annotated[
        int, typer.Option(min=0, help="Fewer case or control patients: Firth's likelihood.", rich_help_panel=MODEL)
    ] = 100,
    min_cases: Annotated[
        int, typer.Option(min=1, help="Fewer case or control patients: no model.", rich_help_panel=MODEL)
    ] = 20,
    min_days: Annotated[
        int, typer.Option(min=1, help="Long table: days with a code that a case needs.", rich_help_panel=DATA)
    ] = 2,
    patient: Annotated[
        str | None, typer.Option(help="Column of the person. Default: by its usual names.", rich_help_panel=DATA)
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="cox: column of the first day of follow-up.", rich_help_panel=DATA)
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="cox: column of the last day of follow-up.", rich_help_panel=DATA)
    ] = None,
    small_cell: Annotated[
        int, typer.Option(min=0, help="Counts below this are hidden in the table, and what would give them away; 0: "
                          "exact counts, which are not for sharing.", rich_help_panel=RESULTS)
    ] = 11,
) -> None:
    """Associate a predictor with every phenotype, one regression each, with covariates.

    Errors are clustered by patient where a patient has several rows. With counts and no labels, whoever has no code of
    a phenotype is its control; with wide labels, whoever is not in the table is neither.

    Example: phewas associate persons.csv --phenotypes mapped --predictor rs1801133 --covariates age,sex,pc1 --out r.csv
    """
    if phenotypes is None:
        raise ConfigError("no phenotypes were named", expected="a folder of phewas map, a table or a run directory",
                          cure="phewas map codes.csv --out mapped, then --phenotypes mapped")
    if out is None or out.suffix.lower() not in {".csv", ".tsv", ".parquet"}:
        raise ConfigError(f"{out} is no place for the results" if out else "no place for the results was named",
                          expected="a name that ends in .csv, .tsv or .parquet", cure="add --out results.csv")
    if model is not Kind.logistic and test is Test.lrt:
        raise ConfigError(f"there is no likelihood ratio test for {model.value} models", cure="leave out --test lrt")
    import polars as pl

    from phewas.reports.tables import csv_safe
    from phewas.rundir import atomic
    from phewas.schema import LABELS_PATH
    from phewas.stats.association_inputs import patient_column, read_outcomes, read_table
    from phewas.stats.association_shown import as_text, hide_small
    from phewas.stats.association_table import Options, read_run
    from phewas.stats.association_table import associate as compute

    table = None if persons is None else read_table(persons)
    asked = predictor or []
    scores = clusters = None
    if (phenotypes / LABELS_PATH).is_file():
        if model is not Kind.logistic:
            raise ConfigError(f"a run has labels, which {model.value} models cannot use",
                              expected="a folder of phewas map or a table")
        frame, outcomes, scores, clusters = read_run(phenotypes, table, patient=patient)
        asked = asked or ["score"]
    else:
        if table is None:
            raise ConfigError("no table of persons was named", expected="persons with predictor and covariates")
        frame = table
        who = patient_column(frame, patient, what="the table of persons")
        sexes = next((frame[n] for n in frame.columns if n.lower() == "sex" and frame[n].dtype == pl.String), None)
        outcomes = read_outcomes(
            phenotypes, frame[who], min_days=min_days, quantities=model is Kind.linear, dated=model is Kind.cox,
            sex=None if sexes is None else sexes.str.slice(0, 1).str.to_uppercase(),
            patient=patient if _has(phenotypes, patient) else None)
    found = compute(
        frame, outcomes, predictor=asked, covariates=_listed(covariates), categorical=_listed(categorical),
        clusters=clusters, scores=scores, follow_up=(start, end) if start and end else None,
        options=Options(model=model.value, test=test.value, firth_below=firth_below, min_cases=min_cases))
    shown = hide_small(found, small_cell=small_cell)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as handle:
        if out.suffix.lower() == ".parquet":
            shown.write_parquet(handle)
        else:
            csv_safe(as_text(shown, small_cell=small_cell)).write_csv(
                handle, separator="\t" if out.suffix.lower() == ".tsv" else ",")
    typer.echo(_summary(found, rows=len(frame), absent=outcomes.absent))
    typer.echo(f"Table: {out} " + (f"(counts below {small_cell} are hidden)" if small_cell else
                                   "(exact counts: not for sharing)"))


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _has(source: Path, column: str | None) -> bool:
    """Say whether a table, if it is one, has the column by the same name as the persons."""
    import polars as pl

    if column is None or not source.is_file():
        return False
    if source.suffix.lower() in {".parquet", ".pq"}:
        return column in pl.read_parquet_schema(source)
    separator = "," if source.suffix.lower() == ".csv" else "\t"
    return column in pl.read_csv(source, n_rows=0, infer_schema=False, separator=separator).columns


def _summary(found, *, rows: int, absent: int) -> str:  # type: ignore[no-untyped-def]
    import polars as pl

    fitted = found.filter(pl.col("p").is_not_null())
    few = found["note"].str.starts_with("no model:").sum()
    lines = [
        f"{rows:,} rows, {found['phenotype'].n_unique():,} phenotypes, {found['predictor'].n_unique():,} predictors.",
        f"{len(fitted):,} models fitted; {few:,} with too few cases or controls; {len(found) - len(fitted) - few:,} "
        "without an estimate (see note).",
        f"{(fitted['q_fdr'] < 0.05).sum():,} with q < 0.05, "
        f"{(fitted['p_bonferroni'] < 0.05).sum():,} after Bonferroni's correction.",
    ]
    if absent:
        lines.insert(1, f"{absent:,} persons have no row among the phenotypes: controls where these are counts, "
                     "neither case nor control where they are labels (phewas map --no-labels writes counts alone).")
    # A phenotype without a score of its own lacks it in every row, which the number of models tells.
    missing = int(fitted["n_missing"].max() or 0)
    if missing:
        lines.insert(1, f"Up to {missing:,} rows lack the predictor or a covariate and are left out.")
    return "\n".join(lines)
