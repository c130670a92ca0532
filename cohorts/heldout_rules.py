"""The held-out rules, each a function from the cohort's tables to the side of every patient who can be placed.

What the rules mean is said once, in `phewas.cohorts.heldout`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from phewas.cohorts.csvtext import header_of, read_table
from phewas.errors import CohortError, SplitError
from phewas.schema import SPLITS
from phewas.seeds import hashed, uniform

MIN_OVERLAP_S = 10.0
AUTO_SHARE = 0.3
AGE_BAND_YEARS = 10
SMALL = 11  # counts of people below this are not told in notes, which the report prints
SPLIT_TABLE = "cohort/official_splits.parquet"
ID_COLUMNS = ("patient_id", "MRN", "subject_id")


def told(n: int) -> str:
    """Return a number of people as a note may say it: small ones are not told exactly."""
    return f"{n:,}" if n == 0 or n >= SMALL else f"fewer than {SMALL}"


@dataclass
class Sides:
    """Outcome of a rule: the side of each usable patient and why, folds where there are any, and what to tell."""

    side: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    fold: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, patients: Iterable[str], side: str, why: str) -> None:
        """Set the side of some patients."""
        for patient in patients:
            self.side[patient], self.why[patient] = side, why


@dataclass(frozen=True)
class Cohort:
    """The tables that rules look at, and the patients who can be placed: those with an index-channel recording."""

    patients: pl.DataFrame
    encounters: pl.DataFrame
    recordings: pl.DataFrame
    diagnoses: pl.DataFrame
    usable: list[str]


def read_manifest(path: Path) -> list[str]:
    """Return the patient identifiers of a manifest: one a line, or a CSV with patient_id, MRN or subject_id.

    Raises
    ------
    SplitError
        The file is missing or empty, or has several columns and none of those names.
    """
    if not path.is_file():
        raise SplitError(f"the manifest {path} is missing", expected="a text file with one patient identifier a line")
    try:
        names = header_of(path)
        column = next((n for n in ID_COLUMNS if n in names), None)
        if column is not None:
            found = read_table(path, needs=[column], table="splits").rows[column].drop_nulls().to_list()
        elif len(names) > 1:
            raise SplitError(f"the manifest {path.name} has the columns {', '.join(names[:8])}",
                             expected=f"one identifier a line, or a column {' or '.join(ID_COLUMNS)}")  # fmt: skip
        else:
            found = [w.strip() for w in path.read_text(encoding="utf-8-sig").splitlines()]
    except (CohortError, UnicodeDecodeError) as error:
        raise SplitError(f"the manifest {path.name} cannot be read: {error}") from error
    found = sorted({w for w in found if w})
    if not found:
        raise SplitError(f"the manifest {path.name} lists no patient", expected="one patient identifier a line")
    return found


def by_manifest(path: Path, cohort: Cohort) -> Sides:
    """Let listed patients train, and hold out everyone else.

    Raises
    ------
    SplitError
        The manifest cannot be read, or lists nobody of this cohort.
    """
    listed = set(read_manifest(path))
    known = listed & set(cohort.patients["patient_id"])
    if not known:
        raise SplitError(
            f"none of the {len(listed)} identifiers of {path.name} is a patient of this cohort",
            expected="patient identifiers, not those of encounters",
            cure="check that the manifest belongs to this source",
        )
    strangers = f"{told(len(listed) - len(known))} of {len(listed):,} listed identifiers are not in the cohort."
    sides = Sides(notes=[strangers])
    usable = set(cohort.usable)
    sides.put(usable & listed, "train", "listed as a pretraining patient")
    sides.put(usable - listed, "held_out", "not listed as a pretraining patient")
    return sides


def by_model(folder: Path, cohort: Cohort, names: Sequence[str]) -> Sides:
    """Hold out everyone but those whom a finished model has met.

    Patients are told by their identifiers in a cohort of one of `names`: this cohort's own, and those of others with
    the same identifiers. Under any other name they are strangers, whoever they are.

    Raises
    ------
    SplitError
        The model's list of patients is missing or damaged.
    """
    try:
        content = json.loads((folder / "fitted_on.json").read_text(encoding="utf-8"))
        met, where = set(content["patients"]), content["cohort"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SplitError(
            f"{folder} does not say which patients its model was fitted on",
            expected="fitted_on.json, as phewas run writes it into model/",
            cure="check --model, or fit the model anew with this version",
        ) from error
    usable = set(cohort.usable)
    known = {p for p in usable if f"{hashed('fitted-on', where, p):032x}" in met} if where in names else set()
    words = f"The model was fitted on {told(len(met))} patients of {where or 'an unnamed cohort'}"
    if where in names:
        sides = Sides(notes=[f"{words}, {told(len(known))} of whom are in this cohort."])
    else:
        sides = Sides(notes=[f"{words}, which are taken for others than those of {names[0]}; if they are the same, "
                             f"under the same identifiers, say so: same_patients_as = [\"{where}\"]."])
    sides.put(known, "excluded", "the model was fitted on this patient")
    sides.put(usable - known, "held_out", "not met by the model")
    return sides


def tainted_patients(encounters: pl.DataFrame, recordings: pl.DataFrame) -> tuple[set[str], set[str]]:
    """Return patients with synchronous PPG and ECG, and patients for whom that cannot be judged.

    Two recordings of one encounter are synchronous where they overlap by `MIN_OVERLAP_S` or more. A recording without a
    start time cannot be judged if the other channel was recorded in the same encounter.
    """
    span = pl.duration(microseconds=(pl.col("n_samples") / pl.col("fs_hz") * 1e6).round().cast(pl.Int64))
    timed = recordings.with_columns((pl.col("start") + span).alias("stop")).select(
        "encounter_id", "channel", "start", "stop"
    )
    ppg, ecg = (timed.filter(pl.col("channel") == c).drop("channel") for c in ("PPG", "ECG_II"))
    pairs = ppg.join(ecg, on="encounter_id", suffix="_ecg")
    shared = pl.min_horizontal("stop", "stop_ecg") - pl.max_horizontal("start", "start_ecg")
    undated = pl.col("start").is_null() | pl.col("start_ecg").is_null()
    of = encounters.select("encounter_id", "patient_id")

    def patients(rows: pl.DataFrame) -> set[str]:
        return set(rows.select("encounter_id").unique().join(of, on="encounter_id")["patient_id"])

    together = patients(pairs.filter(~undated & (shared >= pl.duration(seconds=MIN_OVERLAP_S))))
    return together, patients(pairs.filter(undated)) - together


def by_synchrony(cohort: Cohort) -> Sides:
    """Hold out patients who never had PPG and ECG lead II at the same time; see `tainted_patients`."""
    together, unjudged = tainted_patients(cohort.encounters, cohort.recordings)
    usable = set(cohort.usable)
    sides = Sides()
    sides.put(usable - together - unjudged, "held_out", "never had PPG and ECG lead II at the same time")
    sides.put(usable & together, "train", "had PPG and ECG lead II at the same time")
    sides.put(usable & unjudged, "train", "a recording without a time may overlap with the other channel")
    if usable & unjudged:
        sides.notes.append(
            f"{told(len(usable & unjudged))} patients cannot be judged for want of times and are not held out."
        )
    return sides


def official_files(kind: str, root: Path) -> dict[str, Path] | None:
    """Return the three official split files by part (train, val, test), or None unless all are there."""
    for base in (root, root / "data"):
        files = {part: base / f"split_{kind}_{part}.csv" for part in ("train", "val", "test")}
        if all(f.is_file() for f in files.values()):
            return files
    return None


def by_official_split(kind: str, root: Path | None, cohort: Cohort) -> Sides:
    """Give patients the side of their encounters in the official files: training before validation before test.

    Raises
    ------
    SplitError
        The files are not there.
    """
    files = official_files(kind, root) if root is not None else None
    if files is None:
        raise SplitError(
            f"the official {kind} split is not there: split_{kind}_train.csv, _val.csv and _test.csv",
            expected="the three files in the data folder, one encounter a line",
            cure=f"download them, or use heldout = random:{AUTO_SHARE}",
        )
    of = dict(cohort.encounters.select("encounter_id", "patient_id").iter_rows())
    owners: dict[str, set[str]] = {}
    strangers = 0
    for part, path in files.items():
        lines = [
            line.strip().strip('"') for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        ]
        strangers += sum(1 for line in lines if line and line not in of)
        owners[part] = {of[line] for line in lines if line in of}
    usable = set(cohort.usable)
    train, tuning = owners["train"], owners["val"] - owners["train"]
    test = owners["test"] - owners["train"] - owners["val"]
    sides = Sides()
    sides.put(usable & train, "train", f"official {kind} split: training")
    sides.put(usable & tuning, "tuning", f"official {kind} split: validation")
    sides.put(usable & test, "held_out", f"official {kind} split: test")
    sides.put(usable - train - tuning - test, "excluded", f"in no file of the official {kind} split")
    mixed = len(owners["test"] & (owners["train"] | owners["val"]))
    if mixed:
        sides.notes.append(
            f"{told(mixed)} patients of the test file also have training or validation encounters; not held out."
        )
    if strangers:
        sides.notes.append(f"{told(strangers)} lines of the split files name no encounter of the cohort.")
    return sides


def by_share(share: float, seed: int, cohort: Cohort) -> Sides:
    """Hold out patients whose hash lies below `share` (0 to 1); adding patients moves nobody."""
    sides = Sides()
    chosen = {p for p in cohort.usable if uniform(seed, "held_out", p) < share}
    sides.put(chosen, "held_out", f"hashed share of {share:g}")
    sides.put(set(cohort.usable) - chosen, "train", f"hashed share of {1 - share:g}")
    return sides


def by_split_table(path: Path, cohort: Cohort) -> Sides:
    """Take the split that the cohort's own adapter wrote: patient_id and split, one row a patient.

    Parameters
    ----------
    path
        Parquet file with the columns patient_id (text) and split (one of `phewas.schema.SPLITS` but crossfit).

    Raises
    ------
    SplitError
        The file is missing, is no such table, or gives a patient two sides.
    """
    if not path.is_file():
        raise SplitError(
            "the source brings no split of its own",
            expected=f"the table {SPLIT_TABLE}, written by the cohort step",
            cure=f"use heldout = random:{AUTO_SHARE}",
        )
    try:
        table = pl.read_parquet(path, hive_partitioning=False).select("patient_id", "split").cast(pl.String)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SplitError(f"{path.name} is no table with patient_id and split") from error
    odd = sorted(set(table["split"].drop_nulls()) - (set(SPLITS) - {"crossfit"}))
    if odd or table.null_count().sum_horizontal().item():
        raise SplitError(f"{path.name} holds the split {odd[0] if odd else None!r}",
                         expected="train, tuning, held_out or excluded")  # fmt: skip
    table = table.unique()
    twice = len(table) - table["patient_id"].n_unique()
    if twice:
        raise SplitError(f"{path.name} puts patients on two sides: {told(twice)}", expected="one side a patient")
    given = dict(table.iter_rows())
    sides = Sides()
    for patient in cohort.usable:
        side = given.get(patient, "excluded")
        sides.put([patient], side, f"the source's own split: {side}" if patient in given else "in no part of the "
                  "source's own split")  # fmt: skip
    return sides


def strata(cohort: Cohort, patient_ids: Iterable[str]) -> dict[str, tuple[str, int, int]]:
    """Return what folds are balanced by: sex, ten-year age band at the first encounter (-1 unknown), diagnosis rows.

    Phenotypes are not known when sides are dealt; the number of diagnoses stands for them, since frequent conditions
    pile up in the same patients.
    """
    sex = dict(cohort.patients.select("patient_id", "sex").iter_rows())
    counts = dict(cohort.diagnoses.group_by("patient_id").len().iter_rows())
    first = cohort.encounters.sort("patient_id", "start", "encounter_id", nulls_last=True)
    ages = dict(first.group_by("patient_id").agg(pl.col("age").drop_nulls().first()).iter_rows())
    bands = {p: -1 if a is None else int(a // AGE_BAND_YEARS) for p, a in ages.items()}
    return {p: (sex[p], bands.get(p, -1), counts.get(p, 0)) for p in patient_ids}


def by_folds(folds: int, seed: int, cohort: Cohort) -> Sides:
    """Deal the patients into `folds` folds that are alike in sex, age band and number of diagnoses; see `strata`.

    The cases of a phenotype do not decide its folds: p comes from exchanging labels between patients while the folds
    stay (`phewas.stats.crossfit`), which is exact only for folds that would be the same for any labels.

    Raises
    ------
    SplitError
        There are fewer than two patients a fold.
    """
    if len(cohort.usable) < 2 * folds:
        raise SplitError(
            f"{len(cohort.usable)} patients cannot fill {folds} folds", expected=f"at least {2 * folds} patients",
            cure="ask for fewer folds: heldout = crossfit:2",
        )  # fmt: skip
    alike = strata(cohort, cohort.usable)
    # Neighbours in this order are alike; each run of `folds` neighbours is dealt out, one to a fold, by hash.
    order = sorted(cohort.usable, key=lambda p: (alike[p], uniform(seed, "order", p), p))
    sides = Sides()
    sides.put(order, "crossfit", f"one of {folds} folds, balanced by sex, age and number of diagnoses")
    for start in range(0, len(order), folds):
        block = sorted(order[start : start + folds], key=lambda p: (uniform(seed, "fold", p), p))
        # A last, short run starts at a hashed fold, so that the first folds are not always the larger ones.
        shift = int(uniform(seed, "shift", str(start)) * folds)
        for place, patient in enumerate(block):
            sides.fold[patient] = (place + shift) % folds
    return sides


def set_tuning(sides: Sides, seed: int, share: float) -> None:
    """Set aside the training patients with the lowest hashes; at least one where two are left, if any are asked for."""
    train = sorted((p for p, s in sides.side.items() if s == "train"), key=lambda p: (uniform(seed, "tuning", p), p))
    count = max(round(share * len(train)), 1) if share > 0 and len(train) > 1 else 0
    for patient in train[:count]:
        sides.side[patient] = "tuning"
        sides.why[patient] += f"; hashed share of {share:g} for tuning"
