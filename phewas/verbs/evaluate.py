"""`phewas evaluate`: any model's predictions to the full results and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError
from phewas.verbs.evaluate_files import check_files, in_blocks, pooled, read_tables


def evaluate(
    out: Annotated[Path, typer.Option(help="New folder for tables and report.", show_default=False)],
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="CSV or Parquet: encounter_id and a column of scores per phenotype. Repeated: parts of one "
                     "cohort, joined exactly.", show_default=False),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV or Parquet: encounter_id and a column per phenotype: 1 case, 0 control, blank or -1 excluded. "
            "May be repeated like --predictions.", show_default=False,
        ),
    ] = None,
    combine: Annotated[
        list[Path] | None,
        typer.Option(
            help="Repeated. Run directories of one model: joined exactly, row by row. Tables that sites exported "
            "(report/tables/phenotypes.csv, results of phewas associate): meta-analysis.", show_default=False,
        ),
    ] = None,
    patients: Annotated[
        list[Path] | None,
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
    memory_mb: Annotated[
        int, typer.Option(min=1, help="Predictions that would take more memory (10^6 bytes) are read in blocks: the "
                          "same AUCs, intervals and p; no baseline, subgroups, figures.")
    ] = 8_000,
) -> None:
    """Judge any model's predictions as `phewas run` judges an encoder: patient-clustered intervals, baseline, report.

    Example: phewas evaluate --predictions scores.parquet --labels labels.csv --patients people.csv --out judged

    Sites that share no rows: phewas evaluate --combine a/phenotypes.csv --combine b/phenotypes.csv --out pooled
    """
    if baseline not in (None, "age,sex", "sex,age", "none"):
        raise ConfigError(f"baseline {baseline!r} is unknown", expected="age,sex or none")
    if unit not in ("encounter", "patient"):
        raise ConfigError(f"unit {unit!r} is unknown", expected="encounter or patient")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(f"{out} is not empty", expected="a new folder", cure="give another --out")
    if combine and (predictions or labels or patients):
        raise ConfigError("--combine stands beside --predictions, --labels or --patients",
                          expected="run directories or exported tables alone",
                          cure="parts of one cohort are joined by repeating --predictions and --labels")
    if not combine and not (predictions and labels):
        raise ConfigError(f"no {'labels' if predictions else 'predictions'} were named",
                          expected="--predictions and --labels, or --combine",
                          cure="phewas evaluate --predictions scores.csv --labels labels.csv --out judged")
    import shutil

    from phewas.errors import PhewasError

    fresh = not out.exists()
    try:
        if combine and not all(source.is_dir() for source in combine):
            pooled(combine, out, small_cell=small_cell)
            return
        _judge(predictions or [], labels or [], patients or [], combine or [], out, baseline=baseline,
               vocabulary=vocabulary, probabilities=probabilities, unit=unit, key=key, name=name,
               small_cell=small_cell, seed=seed, memory_mb=memory_mb)
    except PhewasError:
        if fresh and out.is_dir():
            shutil.rmtree(out)
        raise


def _judge(
    predictions: list[Path], labels: list[Path], patients: list[Path], runs: list[Path], out: Path, *,
    baseline: str | None, vocabulary: str | None, probabilities: bool, unit: str, key: str, name: str, small_cell: int,
    seed: int, memory_mb: int,
) -> None:
    """Write tables and report from files or from run directories."""
    from phewas import __version__
    from phewas.config import EvaluateConfig
    from phewas.mappings import vocabulary as vocabularies
    from phewas.mappings.controls import controls
    from phewas.reports.build import build
    from phewas.reports.meta import ReportMeta
    from phewas.stats.evaluate import evaluate as judge
    from phewas.stats.imported import RULE, import_predictions
    from phewas.stats.large import memory_needed_mb
    from phewas.stats.shards import join_runs

    known = None if vocabulary is None else vocabularies.load(vocabulary)
    called = "as given" if known is None else known.label
    phenotypes = None if known is None else known.phenotypes
    # Whoever made the model is not asked how many cases it learned from.
    config = EvaluateConfig(unit="patient" if unit == "patient" else "encounter").model_copy(
        update={"min_train_case_patients": 0, "rivals": []})
    window, cohort = "any", labels[0].stem if labels else ""
    told: tuple[str, ...]
    if runs:
        joined = join_runs(runs, out)
        window, cohort = joined.label_window, " + ".join(run.resolve().name for run in runs)
        told = (f"{joined.n_encounters:,} scored encounters of {joined.n_patients:,} patients, "
                f"{joined.n_shared:,} of them with encounters in several parts.",)
    else:
        check_files([*predictions, *labels, *patients])
        if memory_needed_mb(predictions) > memory_mb:
            if baseline not in (None, "none") or unit == "patient":
                raise ConfigError(
                    f"the predictions need more than --memory-mb {memory_mb} and are read in blocks",
                    expected="neither --baseline age,sex nor --unit patient, which need all rows at once",
                    cure="leave them out, or raise --memory-mb")
            in_blocks(predictions, labels, patients, out, config=config, phenotypes=phenotypes, vocabulary=called,
                      key=key, probabilities=probabilities, small_cell=small_cell, memory_mb=memory_mb)
            return
        tables = [read_tables(files, key) for files in (predictions, labels, patients)]
        assert tables[0] is not None
        assert tables[1] is not None
        told = import_predictions(
            tables[0], tables[1], tables[2], run=out, phenotypes=phenotypes, vocabulary=called,
            probabilities=probabilities, key=key, baseline=None if baseline is None else baseline != "none").warnings
    for warning in told:
        typer.echo(f"Note: {warning}")
    judge(out, config=config, seed=seed, label_window=window, controls=None if known is None else controls(known))
    page = build(out, small_cell=small_cell, meta=ReportMeta(
        cohort=cohort, encoder=name, version=__version__, heldout=RULE, seed=seed,
        command=shlex.join(["phewas", *sys.argv[1:]]), warnings=told,
        data_description="Parts of one study, joined encounter by encounter." if runs else
        "Predictions and labels were made elsewhere; the label window is what their makers chose.",
        settings={"evaluate": config.model_dump(mode="json")}))
    typer.echo(f"Tables: {out / 'results'}")
    typer.echo(f"Report: {page}")
