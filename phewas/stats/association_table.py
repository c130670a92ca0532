"""The table of a phenome-wide association study: from persons and phenotypes to one row per predictor and phenotype."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import ConfigError, SchemaError
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
)
from phewas.stats.association import linear, logistic
from phewas.stats.association_inputs import Design, Outcomes, design, predictors
from phewas.stats.counts import alike, representatives
from phewas.stats.multiplicity import benjamini_hochberg, bonferroni
from phewas.stats.regression import Regression, Test

Model = Literal["logistic", "linear", "cox"]
RATIO = {"logistic": "OR", "cox": "HR"}

SCORE = "score"
"""Name of the predictor that is each phenotype's own score in a run, per standard deviation of its encounters."""


@dataclass(frozen=True)
class Options:
    """How the models are fitted; see `phewas.stats.association.logistic`."""

    model: Model = "logistic"
    test: Test = "wald"
    firth_below: int = 100
    min_cases: int = 20
    level: float = 0.95


def associate(
    persons: pl.DataFrame,
    outcomes: Outcomes,
    *,
    predictor: Sequence[str],
    covariates: Sequence[str] = (),
    categorical: Sequence[str] = (),
    clusters: NDArray[Any] | None = None,
    scores: NDArray[Any] | None = None,
    follow_up: tuple[str, str] | None = None,
    options: Options | None = None,
) -> pl.DataFrame:
    """Fit one model per predictor and phenotype.

    Parameters
    ----------
    persons
        A row per person (or encounter), with the predictors and covariates.
    outcomes
        Phenotypes of these rows.
    predictor
        Columns, see `phewas.stats.association_inputs.predictors`; ``score`` is each phenotype's own score.
    covariates, categorical
        Columns; text is categorical by itself.
    clusters
        Patient of each row; None where every row is another patient.
    scores
        float [N, P] for the predictor ``score``.
    follow_up
        For Cox: the columns of the first and the last day of follow-up.
    options
        Model, test, thresholds.

    Returns
    -------
    polars.DataFrame
        phenotype, description, chapter, predictor, adjustment, type, beta, SE, beta_low, beta_high, OR (HR) with
        bounds, p, neg_log10_p, method, p_bonferroni, q_fdr (over all rows that have enough cases, phenotypes with
        identical outcomes once for each predictor), n_total, n_cases, n_controls, n_case_patients, n_control_patients,
        n_missing (labelled rows without predictor or covariate), same_as (the phenotype with identical outcomes whose
        correction a row takes), note.

    Raises
    ------
    SchemaError
        A column is missing or cannot be used.
    ConfigError
        Options do not fit the data.
    """
    options = options or Options()
    covered = design(persons, [c for c in covariates if c not in categorical], categorical=categorical)
    asked = [name for name in predictor if name != SCORE]
    both = sorted(set(asked) & {*covariates, *categorical})
    if both:
        raise ConfigError(f"{', '.join(both)} is predictor and covariate", expected="one or the other")
    adjustment = ", ".join(dict.fromkeys([*covariates, *categorical]))
    found: list[tuple[str, NDArray[Any]]] = [*predictors(persons, asked)]
    if SCORE in predictor:
        if scores is None:
            raise ConfigError("the predictor score needs a run with predictions", expected="a run directory",
                              cure="give it with --phenotypes, or another --predictor")
        found.insert(0, (SCORE, scores))
    if not found:
        raise ConfigError("there is no predictor", expected="a column", cure="name it with --predictor")
    tables = []
    times = _times(persons, outcomes, follow_up) if options.model == "cox" else None
    for name, values in found:
        fitted = _fit(values, outcomes, covered, clusters, times, options)
        tables.append(_rows(fitted, outcomes, name, adjustment, options, _labelled(outcomes, times)))
    table = pl.concat(tables)
    # What has too few cases was never a hypothesis; what had enough stays one even where no fit converged.
    tested = ~table["note"].str.starts_with("no model:").to_numpy()
    same = outcomes.about.select("phenotype", same_as=pl.Series(
        alike(outcomes.about["phenotype"].to_list(), _prints(outcomes)), dtype=pl.String))
    size = len(same)
    stand_in = np.concatenate([k * size + representatives(same, tested[k * size : (k + 1) * size])
                               for k in range(len(found))])
    own = stand_in == np.arange(len(stand_in))
    family, p = tested & own, table["p"].to_numpy()
    table = table.with_columns(pl.Series("p_bonferroni", bonferroni(p, family=family)[stand_in]),
                               pl.Series("q_fdr", benjamini_hochberg(p, family=family)[stand_in]),
                               pl.when(pl.Series(~own)).then(table["phenotype"].gather(stand_in)).alias("same_as"))
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))


def _prints(outcomes: Outcomes) -> Iterator[bytes]:
    """Yield for each phenotype what is equal where labels (or quantities) and first dates are."""
    for j in range(outcomes.values.shape[1]):
        mark = hashlib.blake2b(np.ascontiguousarray(outcomes.values[:, j]).tobytes(), digest_size=16)
        if outcomes.first is not None:
            mark.update(np.ascontiguousarray(outcomes.first[:, j]).tobytes())
        yield mark.digest()


def _labelled(outcomes: Outcomes, times: tuple[NDArray[Any], NDArray[Any]] | None) -> NDArray[np.int64]:
    """Count the rows of each phenotype that a complete table would use."""
    if times is not None:
        return np.asarray(np.count_nonzero(np.isfinite(times[0]), axis=0), dtype=np.int64)
    kept = np.isfinite(outcomes.values) if outcomes.values.dtype == np.float64 else outcomes.values >= 0
    return np.asarray(np.count_nonzero(kept, axis=0), dtype=np.int64)


def _fit(
    values: NDArray[Any], outcomes: Outcomes, covered: Design, clusters: NDArray[Any] | None,
    times: tuple[NDArray[Any], NDArray[Any]] | None, options: Options,
) -> Regression:
    if options.model == "cox":
        from phewas.stats.survival import cox

        assert times is not None
        return cox(values, times[0], times[1], covariates=covered.values, names=covered.names,
                   min_cases=options.min_cases, level=options.level)
    if options.model == "linear":
        return linear(values, outcomes.values, covariates=covered.values, names=covered.names, clusters=clusters,
                      min_rows=options.min_cases, level=options.level)
    return logistic(values, outcomes.values, covariates=covered.values, names=covered.names, clusters=clusters,
                    test=options.test, firth_below=options.firth_below, min_cases=options.min_cases,
                    level=options.level)


def _rows(
    fitted: Regression, outcomes: Outcomes, predictor: str, adjustment: str, options: Options,
    labelled: NDArray[np.int64],
) -> pl.DataFrame:
    about = outcomes.about
    size = len(fitted)
    table = pl.DataFrame({
        "phenotype": about["phenotype"],
        **{name: about[name] if name in about.columns else pl.Series([None] * size, dtype=pl.String)
           for name in ("description", "chapter")},
        "predictor": [predictor] * size,
        "adjustment": [adjustment] * size,
        "type": [options.model] * size,
        "beta": fitted.beta, "SE": fitted.se, "beta_low": fitted.low, "beta_high": fitted.high,
    })
    if options.model in RATIO:
        ratio = RATIO[options.model]
        with np.errstate(over="ignore"):
            table = table.with_columns(pl.Series(ratio, np.exp(fitted.beta)),
                                       pl.Series(f"{ratio}_low", np.exp(fitted.low)),
                                       pl.Series(f"{ratio}_high", np.exp(fitted.high)))
    return table.with_columns(
        pl.Series("p", fitted.p), pl.Series("neg_log10_p", fitted.neg_log10_p), pl.Series("method", fitted.method),
        pl.lit(None, dtype=pl.Float64).alias("p_bonferroni"), pl.lit(None, dtype=pl.Float64).alias("q_fdr"),
        pl.Series("n_total", fitted.n_rows), pl.Series("n_cases", fitted.n_cases),
        pl.Series("n_controls", fitted.n_controls), pl.Series("n_case_patients", fitted.n_case_clusters),
        pl.Series("n_control_patients", fitted.n_control_clusters),
        pl.Series("n_missing", labelled - fitted.n_rows), pl.lit(None, dtype=pl.String).alias("same_as"),
        pl.Series("note", fitted.note))


def _times(
    persons: pl.DataFrame, outcomes: Outcomes, follow_up: tuple[str, str] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return days to event or end [N, P], NaN for who is not at risk, and whether they end with the event.

    Not at risk: a first code on or before the first day of follow-up, codes on too few days for a case, or follow-up
    that does not end after it began.
    """
    if follow_up is None or outcomes.first is None:
        raise ConfigError("a Cox model needs follow-up and the dates of first codes",
                          expected="columns with the first and last day of follow-up, counts with first_date",
                          cure="name the columns with --start and --end, and give the folder of phewas map")
    days = []
    for name in follow_up:
        if name not in persons.columns or not persons[name].dtype.is_temporal():
            raise SchemaError(f"there is no column {name} of dates", expected="dates as year-month-day")
        days.append(persons[name].cast(pl.Date).cast(pl.Int32).cast(pl.Float64).fill_null(np.nan).to_numpy())
    start, end = days[0][:, None], days[1][:, None]
    first, label = outcomes.first, outcomes.values
    event = (label == 1) & (first > start) & (first <= end)
    time = np.where(event, first, np.broadcast_to(end, first.shape)) - start
    risk = (end > start) & ~(first <= start) & ~((label == -1) & ~(first > end)) & ~((label == 1) & np.isnan(first))
    return np.where(risk, time, np.nan), event


def read_run(run: Path, extra: pl.DataFrame | None, *, patient: str | None = None) -> tuple[
    pl.DataFrame, Outcomes, NDArray[Any] | None, NDArray[Any]
]:
    """Read a run directory: rows with age and sex, phenotypes, scores and patients.

    With predictions the rows are the held-out (or cross-fitted) encounters, otherwise all labelled ones. A further
    table is joined by encounter_id if it has one, else by patient; rows that it lacks have no values.

    Returns
    -------
    persons, outcomes, scores, clusters
        Scores have variance 1 over the rows, within each fold where cross-fitted; None without predictions.

    Raises
    ------
    SchemaError
        A table of the run or a column of the further table is missing.
    """
    label_rows, columns = LabelRows.read(run), LabelColumns.read(run)["phenotype"].to_list()
    rows = label_rows.with_row_index("label_row")
    scores = None
    if (run / PredictionRows.file).is_file():
        predicted = PredictionRows.read(run).with_row_index("prediction_row")
        rows = rows.join(predicted.filter(pl.col("split").is_in(["held_out", "crossfit"])).drop("patient_id"),
                         on="encounter_id", how="inner", maintain_order="left")
    rows = rows.sort("patient_id", "encounter_id")
    if rows.is_empty():
        raise SchemaError(f"{run} has no scored encounters with labels", expected="a finished run")
    labels = np.load(run / LABELS_PATH, mmap_mode="r")[rows["label_row"].to_numpy()]
    if "prediction_row" in rows.columns:
        heads = {name: k for k, name in enumerate(PredictionColumns.read(run)["phenotype"].to_list())}
        logits = np.load(run / LOGITS_PATH, mmap_mode="r")[rows["prediction_row"].to_numpy()]
        scores = np.full(labels.shape, np.nan)
        have = [j for j, name in enumerate(columns) if name in heads]
        scores[:, have] = logits[:, [heads[columns[j]] for j in have]]
        folds = rows["fold"].fill_null(-1).to_numpy()
        for fold in np.unique(folds):
            part = scores[folds == fold]
            spread = part.std(axis=0)
            scores[folds == fold] = (part - part.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    encounters = Encounters.read(run).drop("patient_id")
    persons = (rows.select("encounter_id", "patient_id")
               .join(encounters.select("encounter_id", "age"), on="encounter_id", how="left", maintain_order="left")
               .join(Patients.read(run).select("patient_id", "sex"), on="patient_id", how="left",
                     maintain_order="left"))
    if extra is not None:
        from phewas.stats.association_inputs import patient_column

        key = "encounter_id" if "encounter_id" in extra.columns else patient_column(extra, patient, what="the table")
        onto = "encounter_id" if key == "encounter_id" else "patient_id"
        more = extra.with_columns(pl.col(key).cast(pl.String)).rename({key: onto})
        if more[onto].is_duplicated().any():
            raise SchemaError(f"the table has several rows for one {key}", expected="one row each")
        more = more.drop([c for c in more.columns if c != onto and c in persons.columns])
        if not more[onto].is_in(persons[onto].implode()).any():
            raise SchemaError(f"the table and the run share no {onto}", expected="the same identifiers")
        persons = persons.join(more, on=onto, how="left", maintain_order="left")
    known = Phenotypes.read(run).select("phenotype", "description", "chapter", "sex")
    about = pl.DataFrame({"phenotype": columns}).join(known, on="phenotype", how="left", maintain_order="left")
    return persons, Outcomes(labels, about, 0), scores, persons["patient_id"].to_numpy()
