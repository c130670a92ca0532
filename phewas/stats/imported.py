"""Anybody's predictions and labels made into the tables that the evaluate step reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from phewas.errors import ConfigError, SchemaError
from phewas.rundir import write_json, write_npy
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Encounters,
    Flow,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
    Rejects,
    Splits,
    Unmapped,
)
from phewas.stats.counts import alike

PERSON = ("patient_id", "age", "sex", "race", "ethnicity", "split", "index_time")
"""Columns of a table that describe an encounter and are no phenotype."""

SEXES = {"f": "F", "female": "F", "w": "F", "m": "M", "male": "M", "u": "U", "": "U", "unknown": "U", "other": "U"}
RULE = "predictions from elsewhere"


@dataclass(frozen=True)
class Imported:
    """What was found, for the report's first screen."""

    n_phenotypes: int
    n_scored: int
    n_training: int
    with_patients: bool
    with_baseline: bool
    warnings: tuple[str, ...]


def import_predictions(
    predictions: pl.DataFrame, labels: pl.DataFrame, patients: pl.DataFrame | None, *, run: Path,
    phenotypes: pl.DataFrame | None = None, vocabulary: str = "as given", baseline: bool | None = None,
    probabilities: bool = False, key: str = "encounter_id",
) -> Imported:
    """Write cohort, splits, phenotypes, labels and predictions of a run directory from three tables.

    Parameters
    ----------
    predictions
        One row per encounter: `key`, and a numeric column per phenotype, larger meaning more likely; other names as in
        `PERSON`.
    labels
        One row per encounter: `key`, and per phenotype 1 case, 0 control, blank or -1 excluded.
    patients
        One row per encounter: `key`, patient_id, and where known age, sex, race, ethnicity, split (``held_out`` or
        ``train``) and columns ``src_*``. None: the same columns are looked for in the other two tables.
    run
        Run directory, which must not hold a study.
    phenotypes
        phenotype, description, chapter, chapter_order, sex of those known; None for bare names.
    vocabulary
        What the phenotypes are called as a whole.
    baseline
        Whether age and sex are held against the predictions; None: if they are known and there are training encounters.
    probabilities
        The predictions are calibrated probabilities: their logits are taken, and calibration is judged.
    key
        Column of the encounter.

    Returns
    -------
    Imported

    Raises
    ------
    SchemaError
        A column is missing or holds something else, an encounter occurs twice or belongs to nobody, or nothing is
        predicted and labelled.
    ConfigError
        A baseline is asked for and cannot be had.

    Notes
    -----
    Labelled encounters without prediction whose patients have none either are the training side: the baseline is
    fitted on them, and nobody who is scored is among them. Without patient ids each encounter counts as a patient, and
    a warning says so. Scores are kept as float32, like those of a run.
    """
    frames = {"predictions": predictions, "labels": labels} | ({} if patients is None else {"patients": patients})
    frames = {name: keyed(frame, key, name) for name, frame in frames.items()}
    predictions, labels = frames["predictions"], frames["labels"]
    people = _people(frames)
    warnings = []
    if not people.with_patients:
        warnings.append("No patient identifiers were given: every encounter counts as a patient. If patients have "
                        "several encounters, the intervals are too narrow.")
    scored_names = [c for c in predictions.columns if c != "encounter_id" and c not in PERSON]
    label_names = [c for c in labels.columns if c != "encounter_id" and c not in PERSON and not c.startswith("src_")]
    unlabelled = [name for name in scored_names if name not in label_names]
    if unlabelled or not scored_names:
        raise SchemaError(
            f"{len(unlabelled)} predicted phenotypes have no labels, such as {unlabelled[0]!r}" if unlabelled
            else "the predictions have no phenotype", expected="a column of the same name in the labels",
            cure="rename or drop the column")
    marks = _labels(labels, label_names)
    scores = _scores(predictions, scored_names, probabilities=probabilities)
    who = people.frame
    lost = predictions.join(labels.select("encounter_id"), on="encounter_id", how="anti").height
    if lost:
        raise SchemaError(f"{lost} predicted encounters have no labels", expected="a row of labels each",
                          cure="leave them out of the predictions, or label them")
    base = _sides(who, labels["encounter_id"], predictions["encounter_id"])
    trained = base.filter(pl.col("split") == "train")
    usable = trained.height > 0 and people.with_covariates
    if baseline and not usable:
        raise ConfigError(
            "nobody is left to fit a baseline on" if people.with_covariates else "age or sex is not known",
            expected="columns age and sex, and labelled encounters of patients who are not predicted",
            cure="add the training encounters to labels and patients, or leave --baseline out")
    use = usable if baseline is None else baseline
    if not use:
        base = base.with_columns(split=pl.when(pl.col("split") == "train").then(pl.lit("excluded")).otherwise("split"))
        if baseline is None:
            warnings.append("There is no age + sex baseline: it needs age, sex and labelled encounters of patients "
                            "who are not predicted.")
    _write(run, base, label_names, marks, predictions["encounter_id"], scored_names, scores, phenotypes=phenotypes,
           vocabulary=vocabulary, plain=probabilities, order=labels["encounter_id"])
    return Imported(len(scored_names), predictions.height, trained.height if use else 0, people.with_patients, use,
                    tuple(warnings))


def keyed(frame: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
    """Return the table with its key as text, having checked that it is there, filled and unique."""
    if key not in frame.columns:
        raise SchemaError(f"the {name} lack the column {key!r}", expected=f"one of {', '.join(frame.columns[:8])}",
                          cure="name the encounter's column with --id")
    frame = frame.rename({key: "encounter_id"} if key != "encounter_id" else {})
    frame = frame.with_columns(pl.col("encounter_id").cast(pl.String))
    if frame["encounter_id"].null_count() or (frame["encounter_id"] == "").any():
        raise SchemaError(f"the {name} have rows without {key}", expected="an identifier in every row")
    twice = frame.height - frame["encounter_id"].n_unique()
    if twice:
        raise SchemaError(f"{twice} rows of the {name} repeat a {key}", expected="one row per encounter",
                          cure="average the segments of an encounter first")
    return frame


@dataclass(frozen=True)
class _People:
    frame: pl.DataFrame
    with_patients: bool
    with_covariates: bool


def _people(frames: Mapping[str, pl.DataFrame]) -> _People:
    """Return one row per encounter of the labels with what is known of it."""
    who = frames["labels"].select("encounter_id")
    known: set[str] = set()
    for name in ("patients", "labels", "predictions"):
        if name not in frames:
            continue
        frame = frames[name]
        fresh = [c for c in frame.columns if (c in PERSON or c.startswith("src_")) and c not in known]
        if name == "patients":
            strange = [c for c in frame.columns if c not in (*fresh, "encounter_id")]
            if strange:
                raise SchemaError(f"the patients have the unknown columns {', '.join(strange[:5])}",
                                  expected=", ".join(PERSON), cure="begin names of further columns with src_")
        who = who.join(frame.select("encounter_id", *fresh), on="encounter_id", how="left", maintain_order="left")
        known |= set(fresh)
    with_patients = "patient_id" in known
    if with_patients:
        who = who.with_columns(pl.col("patient_id").cast(pl.String))
        blank = who["patient_id"].null_count() + int((who["patient_id"] == "").sum())
        if blank:
            raise SchemaError(f"{blank} labelled encounters have no patient", expected="a patient_id each")
    else:
        who = who.with_columns(patient_id="encounter_id")
    texts = [pl.col(c).cast(pl.String) if c in known else pl.lit(None, pl.String).alias(c)
             for c in ("sex", "race", "ethnicity", "split")]
    age = pl.col("age").cast(pl.Float64, strict=False) if "age" in known else pl.lit(None, pl.Float64).alias("age")
    who = who.with_columns(*texts, age)
    sex = who["sex"].fill_null("").str.strip_chars().str.to_lowercase()
    odd = sex.filter(~sex.is_in(list(SEXES)))
    if len(odd):
        raise SchemaError(f"sex holds {odd.unique().sort().to_list()[:3]}", expected="F, M or U")
    who = who.with_columns(sex=sex.replace_strict(SEXES, return_dtype=pl.String))
    covered = {"age", "sex"} <= known and who["age"].count() > 0
    return _People(who, with_patients, bool(covered))


def _sides(who: pl.DataFrame, labelled: pl.Series, predicted: pl.Series) -> pl.DataFrame:
    """Give every patient a side: predicted ones are held out, others trained unless the table says otherwise."""
    scored = who.filter(pl.col("encounter_id").is_in(predicted.to_list()))["patient_id"].unique()
    moved = pl.col("split").fill_null("held_out") != "held_out"
    wrong = who.filter(pl.col("patient_id").is_in(scored.to_list()) & moved)
    if wrong.height:
        raise SchemaError(f"{wrong['patient_id'].n_unique()} predicted patients are not held out by their split",
                          expected="split held_out for everybody who is scored",
                          cure="leave training patients out of the predictions")
    side = (
        pl.when(pl.col("patient_id").is_in(scored.to_list())).then(pl.lit("held_out"))
        .when(pl.col("split").is_null() | pl.col("split").is_in(["train", "tuning"])).then(pl.lit("train"))
        .otherwise(pl.lit("excluded"))
    )
    return who.with_columns(split=side)


def _labels(frame: pl.DataFrame, names: list[str]) -> NDArray[np.int8]:
    result = np.empty((frame.height, len(names)), dtype=np.int8)
    for j, name in enumerate(names):
        column = frame[name]
        value = column.cast(pl.Int8) if column.dtype == pl.Boolean else column.cast(pl.Float64, strict=False)
        if value.null_count() > column.null_count() + int((column == "").sum() if column.dtype == pl.String else 0):
            raise SchemaError(f"labels of {name!r} hold text", expected="1, 0, and blank or -1 where excluded")
        numbers = value.cast(pl.Float64).fill_nan(-1).fill_null(-1).to_numpy()
        if not np.isin(numbers, (-1, 0, 1)).all():
            raise SchemaError(f"labels of {name!r} hold {numbers[~np.isin(numbers, (-1, 0, 1))][0]:g}",
                              expected="1, 0, and blank or -1 where excluded")
        result[:, j] = numbers
    return result


def _scores(frame: pl.DataFrame, names: list[str], *, probabilities: bool) -> NDArray[np.float32]:
    result = np.empty((frame.height, len(names)), dtype=np.float32)
    for j, name in enumerate(names):
        result[:, j] = numbers(frame[name], name, probabilities=probabilities)
    return result


def numbers(column: pl.Series, name: str, *, probabilities: bool) -> NDArray[np.float64]:
    """Return predictions of one phenotype, NaN where blank; the logits of probabilities."""
    value = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    blank = column.null_count() + int((column == "").sum() if column.dtype == pl.String else 0)
    if column.dtype.is_float():
        blank += int(column.is_nan().sum() or 0)
    if np.count_nonzero(np.isnan(value)) > blank:
        raise SchemaError(f"predictions of {name!r} hold text", expected="numbers")
    if probabilities:
        known = value[~np.isnan(value)]
        if len(known) and (known.min() < 0 or known.max() > 1):
            raise SchemaError(f"predictions of {name!r} lie outside 0 to 1", expected="probabilities",
                              cure="leave --probabilities out")
        value = special.logit(np.clip(value, 1e-37, 1 - 1e-16))
    return np.asarray(value, dtype=np.float64)


def _write(
    run: Path, base: pl.DataFrame, label_names: list[str], marks: NDArray[np.int8], predicted: pl.Series,
    scored_names: list[str], scores: NDArray[np.float32], *, phenotypes: pl.DataFrame | None, vocabulary: str,
    plain: bool, order: pl.Series,
) -> None:
    """Write the tables."""
    first = base.sort("patient_id", "encounter_id").unique("patient_id", keep="first", maintain_order=True)
    Patients.write(first.select(
        "patient_id", "sex", pl.lit(None, pl.Int32).alias("birth_year"), "race", "ethnicity"), run)
    further = [c for c in base.columns if c.startswith("src_")]
    times = {c: pl.lit(None, pl.Datetime("us")) for c in ("start", "end")}
    index = pl.col("index_time") if "index_time" in base.columns else pl.lit(None, pl.Datetime("us"))
    if "index_time" in base.columns and base["index_time"].dtype == pl.String:
        index = index.str.to_datetime(strict=False)
    encounters = base.with_columns(**times).with_columns(index_time=index.cast(pl.Datetime("us")))
    Encounters.write(encounters.select(
        "encounter_id", "patient_id", "start", "end", "index_time", "age", *further), run)
    Splits.write(first.select("patient_id", "split", fold=pl.lit(None, pl.Int8), why=pl.lit(RULE)), run)
    write_json({"rule": RULE, "contamination": "cannot be excluded: the model comes from elsewhere", "note": "",
                "intersection": []}, run / "cohort" / "disjointness.json")
    Flow.write(Flow.build([{"step": "predictions", "unit": "encounters", "n_in": base.height, "n_out": len(predicted),
                            "reason": "labelled, but not predicted"}]), run)
    Rejects.write(Rejects.empty(), run)
    Unmapped.write(Unmapped.empty(), run)
    Phenotypes.write(describe_phenotypes(label_names, [np.ascontiguousarray(column).tobytes() for column in marks.T],
                                         phenotypes, vocabulary=vocabulary), run)
    LabelRows.write(pl.DataFrame({"encounter_id": order}).join(
        base.select("encounter_id", "patient_id"), on="encounter_id", how="left", maintain_order="left"), run)
    LabelColumns.write(pl.DataFrame({"phenotype": label_names}), run)
    write_npy(marks, run / LABELS_PATH)
    write_npy(scores, run / LOGITS_PATH)
    PredictionColumns.write(pl.DataFrame({"phenotype": scored_names}), run)
    rows = pl.DataFrame({"encounter_id": predicted}).join(
        base.select("encounter_id", "patient_id", "split"), on="encounter_id", how="left", maintain_order="left")
    PredictionRows.write(rows.with_columns(
        fold=pl.lit(None, pl.Int8), model_id=pl.lit("imported"), n_segments=pl.lit(1, pl.Int32)), run)
    if plain:
        write_json({"settings": {"loss": "plain"}}, run / "model" / "model.json")


def describe_phenotypes(
    names: list[str], prints: list[bytes], known: pl.DataFrame | None, *, vocabulary: str
) -> pl.DataFrame:
    """Describe phenotypes by what the vocabulary knows of them; `prints` are equal where labels are."""
    frame = pl.DataFrame({"phenotype": names, "same_as": alike(names, prints)},
                         schema={"phenotype": pl.String, "same_as": pl.String})
    rows: dict[str, dict[str, Any]] = {}
    if known is not None:
        rows = {row["phenotype"]: row for row in known.iter_rows(named=True)}
    described = [rows.get(name, {}) for name in names]
    return frame.with_columns(
        description=pl.Series([d.get("description") or n for d, n in zip(described, names, strict=True)]),
        chapter=pl.Series([d.get("chapter") or "All" for d in described]),
        chapter_order=pl.Series([d.get("chapter_order") or 99 for d in described], dtype=pl.Int16),
        sex=pl.Series([d.get("sex") or "both" for d in described]),
        vocabulary=pl.lit(vocabulary),
    )
