"""How the tested patients differ from the training patients, before any model is asked.

A model fitted on one kind of patient and tested on another is judged on the difference as well. The comparison is
descriptive: no test is made, since with many patients every difference is significant and with few none is.

References
----------
Austin PC. Balance diagnostics for comparing the distribution of baseline covariates. Stat Med 28:3083-3107 (2009),
doi:10.1002/sim.3697: the standardised mean difference.
Yang D, Dalton JE. A unified approach to measuring the effect size between two groups using SAS. SAS Global Forum
2012, paper 335: its extension to categories, the Mahalanobis distance between the vectors of proportions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.schema import (
    LABELS_PATH,
    Diagnoses,
    Encounters,
    LabelColumns,
    LabelRows,
    Patients,
    Phenotypes,
    PredictionRows,
    Shift,
    Splits,
    Table1,
)

NOTABLE_SMD = 0.1
"""Absolute standardised mean difference from which groups are commonly called imbalanced (Austin 2009)."""
LABEL_ROWS_AT_ONCE = 4_096
WINDOW_FILES = "segments/windows-*.parquet"
TRAINING = ("train", "tuning")
SIDES = (*TRAINING, "held_out", "crossfit")


def smd_continuous(tested: NDArray[np.float64], training: NDArray[np.float64]) -> float:
    """Return the standardised mean difference of a continuous variable.

    Parameters
    ----------
    tested, training
        float64 [n], without NaN.

    Returns
    -------
    float
        ``(mean1 - mean2) / sqrt((var1 + var2) / 2)`` with sample variances; 0 where neither varies and the means agree;
        NaN where a group has fewer than two values, or neither varies and the means differ.

    Examples
    --------
    >>> round(smd_continuous(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])), 3)
    -1.0
    """
    if len(tested) < 2 or len(training) < 2:
        return math.nan
    gap = float(tested.mean() - training.mean())
    spread = math.sqrt((float(tested.var(ddof=1)) + float(training.var(ddof=1))) / 2)
    if spread == 0.0:
        return 0.0 if gap == 0.0 else math.nan
    return gap / spread


def smd_share(tested: float, training: float) -> float:
    """Return the standardised mean difference of two proportions, each in [0, 1].

    Returns
    -------
    float
        ``(p - q) / sqrt((p(1 - p) + q(1 - q)) / 2)``; 0 where both are the same 0 or 1; NaN where one is NaN, or one is
        0 and the other 1.
    """
    if math.isnan(tested) or math.isnan(training):
        return math.nan
    spread = math.sqrt((tested * (1 - tested) + training * (1 - training)) / 2)
    if spread == 0.0:
        return 0.0 if tested == training else math.nan
    return (tested - training) / spread


def smd_levels(tested: Sequence[int], training: Sequence[int]) -> float:
    """Return the standardised difference of a category with any number of levels (Yang and Dalton).

    Parameters
    ----------
    tested, training
        Counts by level, in the same order.

    Returns
    -------
    float
        At least 0; the absolute value of `smd_share` for two levels. NaN where a group is empty, or where the groups
        differ in a direction in which neither varies.
    """
    counts = np.array([tested, training], dtype=np.float64)
    counts = counts[:, counts.sum(axis=0) > 0]
    totals = counts.sum(axis=1)
    if counts.shape[1] == 0 or (totals == 0).any():
        return math.nan
    shares = (counts / totals[:, None])[:, 1:]  # the last proportion follows from the others; so does the first
    if shares.shape[1] == 0:
        return 0.0
    gap = shares[0] - shares[1]
    spread = sum(np.diag(p) - np.outer(p, p) for p in shares) / 2
    inverse = np.linalg.pinv(spread, hermitian=True)
    if np.abs(spread @ inverse @ gap - gap).max() > 1e-9:
        return math.nan
    return math.sqrt(max(float(gap @ inverse @ gap), 0.0))


@dataclass(frozen=True)
class Population:
    """Everyone who trained or was tested.

    Attributes
    ----------
    patients
        patient_id, side, fold, sex, race, ethnicity, encounters_per_patient; one row a patient.
    encounters
        patient_id, side, fold, age, prior_codes and one Boolean column per chapter; one row an encounter.
    chapters
        Column in `encounters` and name of each chapter, the most frequent first.
    """

    patients: pl.DataFrame
    encounters: pl.DataFrame
    chapters: dict[str, str]


def population(run: Path) -> Population:
    """Read who trained and who was tested in a run.

    Parameters
    ----------
    run
        Run directory with cohort, splits, phenotypes and predictions. Tested encounters are those with a prediction;
        training encounters those with windows in the segment store, or, where predictions came from elsewhere, all of
        the training patients.

    Raises
    ------
    SchemaError
        A table is missing or malformed.
    """
    splits = Splits.read(run).filter(pl.col("split").is_in(SIDES)).select("patient_id", "fold", side="split")
    every = Encounters.read(run).select("encounter_id", "patient_id", "start", "index_time", "age")
    encounters = every.join(splits, on="patient_id", how="inner")
    predicted = PredictionRows.read(run)["encounter_id"]
    windows = [pl.scan_parquet(f).select("encounter_id").unique().collect() for f in sorted(run.glob(WINDOW_FILES))]
    usable = pl.concat([*windows, predicted.to_frame()])["encounter_id"].unique() if windows else every["encounter_id"]
    trained = pl.col("side").is_in(TRAINING)
    wanted = pl.when(trained).then(pl.col("encounter_id").is_in(usable.implode())).otherwise(
        pl.col("encounter_id").is_in(predicted.implode())
    )  # fmt: skip
    encounters = encounters.filter(wanted).sort("encounter_id")
    encounters = encounters.join(_prior_codes(run, encounters), on="encounter_id", how="left", maintain_order="left")
    cases, names = _chapters(run, encounters["encounter_id"])
    encounters = pl.concat([encounters, cases], how="horizontal")
    frequency = {column: int(cases[column].sum()) for column in names}
    ordered = sorted(names, key=lambda c: (-frequency[c], int(c.removeprefix("chapter_"))))
    # Utilisation counts every visit in the source, monitored or not.
    visits = every.group_by("patient_id").agg(pl.len().cast(pl.Float64).alias("encounters_per_patient"))
    patients = (
        splits.filter(pl.col("patient_id").is_in(encounters["patient_id"].unique().implode()))
        .join(Patients.read(run).select("patient_id", "sex", "race", "ethnicity"), on="patient_id", how="left")
        .join(visits, on="patient_id", how="left")
        .with_columns(pl.when(pl.col("sex") != "U").then(pl.col("sex")).alias("sex"))
        .sort("patient_id")
    )
    return Population(patients, encounters, {c: names[c] for c in ordered})


def _prior_codes(run: Path, encounters: pl.DataFrame) -> pl.DataFrame:
    """Return encounter_id and prior_codes: distinct codes first recorded before the day of the index time.

    Null where the encounter has no index time, or the run no diagnoses table; undated diagnoses do not count.
    """
    if not (run / Diagnoses.file).is_file():
        return encounters.select("encounter_id", pl.lit(None, dtype=pl.Float64).alias("prior_codes"))
    noted = Diagnoses.read(run).select("patient_id", "code", "recorded").drop_nulls("recorded")
    first = noted.group_by("patient_id", "code").agg(pl.col("recorded").min())
    known = (
        first.group_by("patient_id", "recorded")
        .agg(pl.len())
        .sort("recorded", "patient_id")
        .with_columns(pl.col("len").cum_sum().over("patient_id").cast(pl.Float64).alias("prior_codes"))
        .select("patient_id", "recorded", "prior_codes")
    )
    asked = (
        encounters.select("encounter_id", "patient_id", "index_time")
        .drop_nulls("index_time")
        .with_columns((pl.col("index_time").dt.date() - pl.duration(days=1)).alias("recorded"))
        .sort("recorded", "encounter_id")
    )
    found = asked.join_asof(known, on="recorded", by="patient_id", strategy="backward", check_sortedness=False)
    return found.select("encounter_id", pl.col("prior_codes").fill_null(0.0))


def _chapters(run: Path, encounter_ids: pl.Series) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return one Boolean column per chapter, a case of any of its phenotypes, and the chapters' names."""
    columns = LabelColumns.read(run).join(
        Phenotypes.read(run).select("phenotype", "chapter", "chapter_order"), on="phenotype", how="left",
        maintain_order="left",
    )  # fmt: skip
    rows = LabelRows.read(run).with_row_index("row")
    labels: NDArray[Any] = np.load(run / LABELS_PATH, mmap_mode="r", allow_pickle=False)
    places = encounter_ids.to_frame("encounter_id").join(rows, on="encounter_id", how="left", maintain_order="left")
    at = places["row"].fill_null(-1).cast(pl.Int64).to_numpy()
    ordered = columns.select("chapter", "chapter_order").drop_nulls("chapter").unique().sort("chapter_order", "chapter")
    chapters = list(dict.fromkeys(ordered["chapter"].to_list()))
    owner = columns["chapter"].to_numpy()
    groups = [np.flatnonzero(owner == chapter) for chapter in chapters]
    out = np.zeros((len(at), len(chapters)), dtype=bool)
    for start in range(0, len(at), LABEL_ROWS_AT_ONCE):
        block = at[start : start + LABEL_ROWS_AT_ONCE]
        case = np.asarray(labels[np.maximum(block, 0)]) == 1
        case[block < 0] = False
        for j, group in enumerate(groups):
            out[start : start + len(block), j] = case[:, group].any(axis=1)
    names = {f"chapter_{j}": chapter for j, chapter in enumerate(chapters)}
    return pl.DataFrame({c: out[:, j] for j, c in enumerate(names)}), names


CATEGORIES = ("sex", "race", "ethnicity")
CONTINUOUS = (("age", "encounters"), ("prior_codes", "encounters"), ("encounters_per_patient", "patients"))


def write_shift(run: Path) -> None:
    """Write ``results/shift.parquet`` and ``results/table1.parquet`` of a run; see `population` for who counts.

    Raises
    ------
    SchemaError
        A table is missing or malformed.
    """
    people = population(run)
    Shift.write(shift(people), run)
    Table1.write(table1(people), run)


def shift(people: Population) -> pl.DataFrame:
    """Return `phewas.schema.Shift`: held-out against training, or each fold against the others.

    No row where one of the two sides is missing, as for predictions made elsewhere without training patients.
    """
    rows: list[dict[str, Any]] = []
    for name, tested, training in _comparisons(people.patients):
        pairs = {
            unit: (frame.filter(tested), frame.filter(training))
            for unit, frame in (("patients", people.patients), ("encounters", people.encounters))
        }
        rows += [{"comparison": name, **row} for row in _compare(pairs, people.chapters)]
    return Shift.check(Shift.build(rows))


def _comparisons(patients: pl.DataFrame) -> Iterator[tuple[str, pl.Expr, pl.Expr]]:
    """Yield name, tested side and training side of each comparison."""
    sides = set(patients["side"])
    if "held_out" in sides and sides & set(TRAINING):
        yield "held_out", pl.col("side") == "held_out", pl.col("side").is_in(TRAINING)
    crossfit = pl.col("side") == "crossfit"
    folds = sorted(patients.filter(crossfit)["fold"].drop_nulls().unique())
    for fold in folds if len(folds) > 1 else []:
        yield f"fold {fold}", crossfit & (pl.col("fold") == fold), crossfit & (pl.col("fold") != fold)


def _compare(pairs: dict[str, tuple[pl.DataFrame, pl.DataFrame]], chapters: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for variable, unit in CONTINUOUS:
        rows.append({"variable": variable, "unit": unit, **_continuous(*(f[variable] for f in pairs[unit]))})
    for variable in CATEGORIES:
        tested, training = (f[variable] for f in pairs["patients"])
        rows += [{"variable": variable, "unit": "patients", **row} for row in _levels(tested, training)]
    for column, chapter in chapters.items():
        tested, training = (f[column] for f in pairs["encounters"])
        rows.append({"variable": "chapter", "unit": "encounters",
                     **_level(chapter, int(tested.sum()), int(training.sum()), tested, training)})  # fmt: skip
    return rows


def _known(values: pl.Series) -> NDArray[np.float64]:
    return values.drop_nulls().drop_nans().to_numpy().astype(np.float64)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _sizes(tested: pl.Series, training: pl.Series) -> dict[str, int]:
    return {
        "n_tested": len(tested) - tested.null_count(), "n_training": len(training) - training.null_count(),
        "missing_tested": tested.null_count(), "missing_training": training.null_count(),
    }  # fmt: skip


def _continuous(tested: pl.Series, training: pl.Series) -> dict[str, Any]:
    a, b = _known(tested), _known(training)
    out: dict[str, Any] = {
        "level": "", "kind": "continuous", "n_tested": len(a), "n_training": len(b),
        "missing_tested": len(tested) - len(a), "missing_training": len(training) - len(b),
    }  # fmt: skip
    for name, values in (("tested", a), ("training", b)):
        out[f"mean_{name}"] = float(values.mean()) if len(values) else None
        out[f"sd_{name}"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return out | {"smd": _number(smd_continuous(a, b))}


def _level(level: str, count_a: int, count_b: int, tested: pl.Series, training: pl.Series) -> dict[str, Any]:
    sizes = _sizes(tested, training)
    p, q = (c / n if n else math.nan for c, n in ((count_a, sizes["n_tested"]), (count_b, sizes["n_training"])))
    return {"level": level, "kind": "category", "count_tested": count_a, "count_training": count_b,
            "smd": _number(smd_share(p, q)), **sizes}  # fmt: skip


def _levels(tested: pl.Series, training: pl.Series) -> list[dict[str, Any]]:
    """Return the row of a category as a whole and one per level; none where nobody has a value."""
    a, b = (dict(s.drop_nulls().value_counts().iter_rows()) for s in (tested, training))
    names = sorted({*a, *b})
    if not names:
        return []
    counts = [(int(a.get(n, 0)), int(b.get(n, 0))) for n in names]
    whole = {"level": "", "kind": "category", "smd": _number(smd_levels(*zip(*counts, strict=True))),
             **_sizes(tested, training)}  # fmt: skip
    return [whole, *(_level(n, *c, tested, training) for n, c in zip(names, counts, strict=True))]


def table1(people: Population) -> pl.DataFrame:
    """Return `phewas.schema.Table1`: who was studied, side by side."""
    rows: list[dict[str, Any]] = []
    for side in SIDES:
        of = {"patients": people.patients.filter(side=side), "encounters": people.encounters.filter(side=side)}
        if not len(of["patients"]):
            continue
        for variable, unit in CONTINUOUS:
            values = _known(of[unit][variable])
            row: dict[str, Any] = {"side": side, "variable": variable, "level": "", "unit": unit, "n": len(values),
                                   "missing": len(of[unit]) - len(values)}  # fmt: skip
            if len(values):
                q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
                row |= {"mean": float(values.mean()), "median": median, "q25": q25, "q75": q75}
                row["sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
            rows.append(row)
        for variable in CATEGORIES:
            given = of["patients"][variable]
            counts = dict(given.drop_nulls().value_counts().iter_rows())
            rows += [
                {"side": side, "variable": variable, "level": level, "unit": "patients",
                 "n": len(given) - given.null_count(), "missing": given.null_count(), "count": counts.get(level, 0)}
                for level in people.patients[variable].drop_nulls().unique().sort().to_list()
            ]  # fmt: skip
        rows += [
            {"side": side, "variable": "chapter", "level": chapter, "unit": "encounters", "n": len(of["encounters"]),
             "missing": 0, "count": int(of["encounters"][column].sum())}
            for column, chapter in people.chapters.items()
        ]  # fmt: skip
    return Table1.check(Table1.build(rows))
