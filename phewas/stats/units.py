"""Who is scored and who trained: the rows of the analysis, read from a run directory and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import SchemaError, SplitError
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    PredictionColumns,
    PredictionRows,
    Splits,
)

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Units:
    """The scored units and the labelled training encounters. N rows of labels, U units, T training rows.

    Attributes
    ----------
    logits, labels
        Memory maps float32 [predictions, heads] and int8 [N, label columns].
    head_of, label_of
        Column of each phenotype in `logits` and in `labels`.
    prediction_rows, label_rows
        intp [U], rows of the units, sorted by patient and encounter.
    encounters
        Encounter of each unit.
    tuning_prediction_rows, tuning_label_rows
        intp, rows of the predicted tuning encounters; they are not scored.
    patients
        intp [N], patient of each label row, coded in the order of the patient ids.
    age, sex
        float64 [N] years (NaN unknown) and text [N].
    folds
        int64 [N], fold of each label row's patient, -1 for patients of no fold; None unless cross-fitted.
    train_rows
        intp [T], label rows of train and tuning patients.
    fitted_rows
        intp, the train patients among them, from whom heads learn.
    n_dropped
        Scored encounters left out because ``unit="patient"`` takes the first of each patient.
    n_unscored
        Labelled encounters of patients on the scored side for which there is no prediction.
    """

    logits: NDArray[Any]
    labels: NDArray[Any]
    head_of: dict[str, int]
    label_of: dict[str, int]
    prediction_rows: Rows
    label_rows: Rows
    encounters: pl.Series
    tuning_prediction_rows: Rows
    tuning_label_rows: Rows
    patients: Rows
    age: NDArray[np.float64]
    sex: NDArray[Any]
    folds: NDArray[np.int64] | None
    train_rows: Rows
    fitted_rows: Rows
    n_dropped: int
    n_unscored: int

    def unit_labels(self, names: list[str]) -> NDArray[np.int8]:
        """Return labels of the units for some phenotypes, int8 [U, len(names)]."""
        return self.labels_of(self.label_rows, names)

    def labels_of(self, rows: Rows, names: list[str]) -> NDArray[np.int8]:
        """Return labels of some label rows for some phenotypes, int8."""
        columns = np.array([self.label_of[name] for name in names], dtype=np.intp)
        return np.asarray(self.labels[np.ix_(rows, columns)])

    def unit_logits(self, names: list[str]) -> NDArray[np.float32]:
        """Return the encoder's logits of the units for some phenotypes, float32 [U, len(names)]."""
        columns = np.array([self.head_of[name] for name in names], dtype=np.intp)
        return np.asarray(self.logits[np.ix_(self.prediction_rows, columns)])


def _load(run: Path, name: str, *, shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Open an array of the run as a memory map and check it."""
    path = run / name
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SchemaError(f"{path} cannot be read ({type(error).__name__})", expected="an array written by the run",
                          cure="run the step that writes it: phewas run") from error
    if array.shape != shape or array.dtype != dtype:
        raise SchemaError(f"{path} is {array.dtype} {array.shape}",
                          expected=f"{np.dtype(dtype)} {shape}, as its row and column tables say",
                          cure="run the step that writes it anew")
    return array


def read_units(run: Path, *, unit: Literal["encounter", "patient"]) -> Units:
    """Read predictions, labels, covariates and splits of a run and decide which rows are scored.

    Parameters
    ----------
    run
        The run directory.
    unit
        ``encounter``: every predicted encounter of the scored side; ``patient``: each patient's first by index time,
        unknown times last, ties by encounter id.

    Raises
    ------
    SchemaError
        A table or array is missing or does not fit the others.
    SplitError
        The predictions' sides or folds contradict the splits table, held-out and cross-fitted rows are mixed, or
        nobody is scored.
    """
    rows = PredictionRows.read(run)
    heads = PredictionColumns.read(run)["phenotype"].to_list()
    label_rows = LabelRows.read(run)
    label_names = LabelColumns.read(run)["phenotype"].to_list()
    logits = _load(run, LOGITS_PATH, shape=(len(rows), len(heads)), dtype=np.float32)
    labels = _load(run, LABELS_PATH, shape=(len(label_rows), len(label_names)), dtype=np.int8)
    label_of = {name: j for j, name in enumerate(label_names)}
    strange = [name for name in heads if name not in label_of]
    if strange:
        raise SchemaError(f"{len(strange)} predicted phenotypes have no labels, such as {strange[0]}",
                          expected="phenotypes of the run's vocabulary")
    people = _people(run, label_rows)
    rows = rows.with_row_index("prediction_row")
    _check_sides(rows, Splits.read(run))
    scored = rows.filter(pl.col("split").is_in(["held_out", "crossfit"]))
    kinds = scored["split"].unique().to_list()
    if len(kinds) != 1:
        raise SplitError(
            "predictions mix held-out and cross-fitted encounters" if kinds else "no predicted encounter is held out",
            expected="rows of split held_out, or of split crossfit", cure="make split and predictions anew: phewas run")
    scored = scored.join(people.select("encounter_id", "label_row", "index_time", patient="patient_id"),
                         on="encounter_id", how="left")
    if scored["label_row"].null_count():
        raise SchemaError(f"{scored['label_row'].null_count()} predicted encounters have no labels",
                          expected="label rows for every encounter of the cohort")
    wrong = scored.filter(pl.col("patient_id") != pl.col("patient")).height
    if wrong:
        raise SchemaError(f"{wrong} predicted encounters name another patient than the labels do",
                          expected="one patient an encounter")
    tuned = rows.filter(pl.col("split") == "tuning").sort("patient_id", "encounter_id").join(
        people.select("encounter_id", "label_row"), on="encounter_id", how="inner", maintain_order="left")
    n_all = len(scored)
    if unit == "patient":
        scored = scored.sort("patient_id", "index_time", "encounter_id", nulls_last=True)
        scored = scored.unique("patient_id", keep="first", maintain_order=True)
    scored = scored.sort("patient_id", "encounter_id")
    cross = kinds[0] == "crossfit"
    side = people["split"].to_numpy()
    predicted = people["encounter_id"].is_in(rows["encounter_id"].to_list()).to_numpy()
    return Units(
        logits=logits,
        labels=labels,
        head_of={name: j for j, name in enumerate(heads)},
        label_of=label_of,
        prediction_rows=scored["prediction_row"].to_numpy().astype(np.intp),
        label_rows=scored["label_row"].to_numpy().astype(np.intp),
        encounters=scored["encounter_id"],
        tuning_prediction_rows=tuned["prediction_row"].to_numpy().astype(np.intp),
        tuning_label_rows=tuned["label_row"].to_numpy().astype(np.intp),
        patients=np.unique(people["patient_id"].to_numpy().astype(str), return_inverse=True)[1].astype(np.intp),
        age=people["age"].fill_null(float("nan")).to_numpy(),
        sex=people["sex"].to_numpy().astype(str),
        folds=people["fold"].fill_null(-1).to_numpy().astype(np.int64) if cross else None,
        train_rows=np.flatnonzero(np.isin(side, ["train", "tuning"])),
        fitted_rows=np.flatnonzero(side == "train"),
        n_dropped=n_all - len(scored),
        n_unscored=int(np.count_nonzero((side == kinds[0]) & ~predicted)),
    )


def _people(run: Path, label_rows: pl.DataFrame) -> pl.DataFrame:
    """Return label rows with index time, age, sex, split and fold, in label row order."""
    encounters = Encounters.read(run).select("encounter_id", "index_time", "age", owner="patient_id")
    patients = Patients.read(run).select("patient_id", "sex")
    splits = Splits.read(run).select("patient_id", "split", "fold")
    people = label_rows.with_row_index("label_row")
    people = people.join(encounters, on="encounter_id", how="left", maintain_order="left")
    unknown = people.filter(pl.col("owner").is_null() | (pl.col("owner") != pl.col("patient_id"))).height
    if unknown:
        raise SchemaError(f"{unknown} labelled encounters are not in the encounter table, or under another patient",
                          expected="labels made from this cohort", cure="run the phenotype step anew: phewas run")
    people = people.join(patients, on="patient_id", how="left", maintain_order="left")
    if people["sex"].null_count():
        raise SchemaError(f"{people['sex'].null_count()} labelled encounters have a patient that is not in the "
                          "patient table", expected="one row per patient in cohort/patients.parquet")
    return people.join(splits, on="patient_id", how="left", maintain_order="left")


def _check_sides(rows: pl.DataFrame, splits: pl.DataFrame) -> None:
    """Refuse predictions whose side or fold is not the one the splits table gives their patient."""
    joined = rows.join(splits.select("patient_id", given="split", given_fold="fold"), on="patient_id", how="left")
    if joined["given"].null_count():
        raise SplitError(f"{joined['given'].null_count()} predicted encounters have a patient without a side",
                         expected="every patient in cohort/splits.parquet")
    moved = joined.filter(pl.col("split") != pl.col("given")).height
    if moved:
        raise SplitError(f"{moved} predicted encounters are on another side than their patient is",
                         expected="the sides of cohort/splits.parquet",
                         cure="the split has changed since the predictions were made: train and predict anew")
    cross = joined.filter(pl.col("split") == "crossfit")
    astray = cross.filter(pl.col("fold").is_null() | ~pl.col("fold").eq_missing(pl.col("given_fold"))).height
    if astray:
        raise SplitError(f"{astray} cross-fitted encounters were not scored by the model of their patient's fold",
                         expected="the folds of cohort/splits.parquet",
                         cure="the folds have changed since the predictions were made: train and predict anew")
