"""Parts of one study, kept in several run directories, made into one: exact, since every row is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import SchemaError, SplitError
from phewas.rundir import RunDirectory, write_json, write_npy
from phewas.schema import (
    LABELS_PATH,
    LOGITS_PATH,
    Encounters,
    Flow,
    LabelColumns,
    LabelRows,
    Patients,
    PhenotypeResults,
    Phenotypes,
    PredictionColumns,
    PredictionRows,
    Rejects,
    Splits,
    Unmapped,
)
from phewas.stats.imported import describe_phenotypes


@dataclass(frozen=True)
class Joined:
    """What was joined: the label window of all parts, scored encounters, their patients, and those in several parts."""

    label_window: str
    n_encounters: int
    n_patients: int
    n_shared: int


def join_runs(runs: Sequence[Path], out: Path) -> Joined:
    """Write cohort, splits, phenotypes, labels and predictions of several runs of one model as one run directory.

    Parameters
    ----------
    runs
        Two or more run directories, evaluated, with held-out predictions. A patient may have encounters in several and
        stays one patient.
    out
        Where to write.

    Raises
    ------
    SchemaError
        There is one run only, an encounter is in two, or the runs differ in model, phenotypes, vocabulary, label window
        or what they say of a patient.
    SplitError
        A patient is scored in one run and on another side in another, or a run is cross-fitted.
    """
    if len(runs) < 2:
        raise SchemaError(f"{runs[0]} stands alone" if runs else "no run was named", expected="two runs or more",
                          cure="name each with --combine")
    names = [str(run) for run in runs]
    results = [PhenotypeResults.read(run) for run in runs]
    windows = [frame["label_window"].unique().sort().to_list() for frame in results]
    _alike(names, windows, "label windows")
    _alike(names, [frame["unit"].unique().sort().to_list() for frame in results], "units of analysis")
    known = [Phenotypes.read(run) for run in runs]
    _alike(names, [frame["vocabulary"].unique().sort().to_list() for frame in known], "vocabularies")
    _alike(names, [_model(run) for run in runs], "models")
    heads = [PredictionColumns.read(run)["phenotype"].to_list() for run in runs]
    labelled = [LabelColumns.read(run)["phenotype"].to_list() for run in runs]
    _alike(names, [sorted(one) for one in heads], "predicted phenotypes")
    _alike(names, [sorted(one) for one in labelled], "labelled phenotypes")

    rows = [PredictionRows.read(run) for run in runs]
    for name, frame in zip(names, rows, strict=True):
        if (frame["split"] == "crossfit").any():
            raise SplitError(f"{name} is cross-fitted", expected="runs whose scored patients one model never met",
                             cure="combine their tables instead: report/tables/phenotypes.csv")
    label_rows = [LabelRows.read(run) for run in runs]
    _distinct(names, label_rows)
    splits = _splits(names, [Splits.read(run) for run in runs])
    _write(runs, out, splits=splits, rows=rows, label_rows=label_rows, heads=heads, labelled=labelled, known=known)
    scored = pl.concat([frame.filter(pl.col("split") == "held_out").select("patient_id").unique().with_columns(part=k)
                        for k, frame in enumerate(rows)])
    per_patient = scored.group_by("patient_id").len()
    return Joined(windows[0][0] if windows[0] else "any",
                  sum(frame.filter(pl.col("split") == "held_out").height for frame in rows), per_patient.height,
                  per_patient.filter(pl.col("len") > 1).height)


def _alike(names: Sequence[str], values: Sequence[Any], what: str) -> None:
    """Refuse runs that differ in something."""
    for name, value in zip(names[1:], values[1:], strict=True):
        if value != values[0]:
            def told(one: Any) -> str:
                return ", ".join(map(str, one[:3])) if isinstance(one, list) and len(one) < 4 else "others"

            raise SchemaError(f"{names[0]} and {name} differ in their {what}"
                              + (f": {told(values[0])}; {told(value)}" if told(value) != "others" else ""),
                              expected=f"the same {what} in every part",
                              cure="what cannot be joined row by row can still be pooled: name the tables "
                              "report/tables/phenotypes.csv")


def _model(run: Path) -> list[Any]:
    """Return what is known of the model that scored a run: encoder, weights, settings of the fit."""
    identity = RunDirectory(run).identity
    found: list[Any] = [identity.get("encoder"), identity.get("weights")]
    file = run / "model" / "model.json"
    if file.is_file():
        meta = json.loads(file.read_text(encoding="utf-8"))
        found.append({name: value for name, value in meta.items() if name != "applied"})
    return found


def _distinct(names: Sequence[str], label_rows: Sequence[pl.DataFrame]) -> None:
    """Refuse an encounter that two parts have."""
    every = pl.concat([frame.select("encounter_id").with_columns(part=k) for k, frame in enumerate(label_rows)])
    twice = every.filter(pl.col("encounter_id").is_duplicated())
    if twice.height:
        parts = [names[k] for k in twice["part"].unique().sort().to_list()]
        number = twice["encounter_id"].n_unique()
        raise SchemaError(f"{number} encounters are in several parts ({', '.join(parts)})",
                          expected="every encounter in one part",
                          cure="name each part once; if sites number their encounters alike, make the numbers differ")


def _splits(names: Sequence[str], parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return one side per patient; who is scored anywhere must not have trained elsewhere."""
    every = pl.concat([part.select("patient_id", "split", "fold", "why") for part in parts])
    sides = every.group_by("patient_id", maintain_order=True).agg(pl.col("split").unique(), pl.col("why").first())
    wrong = sides.filter(pl.col("split").list.contains("held_out")
                         & (pl.col("split").list.contains("train") | pl.col("split").list.contains("tuning")))
    if wrong.height:
        raise SplitError(f"{wrong.height} patients are scored in one part and trained on in another "
                         f"({', '.join(names)})", expected="nobody scored by a model that met them",
                         cure="leave them out of the part in which they are scored")
    chosen = pl.lit("excluded")
    for side in ("tuning", "train", "held_out"):
        chosen = pl.when(pl.col("split").list.contains(side)).then(pl.lit(side)).otherwise(chosen)
    return sides.with_columns(split=chosen, fold=pl.lit(None, pl.Int8)).select("patient_id", "split", "fold", "why")


def _write(
    runs: Sequence[Path], out: Path, *, splits: pl.DataFrame, rows: list[pl.DataFrame], label_rows: list[pl.DataFrame],
    heads: list[list[str]], labelled: list[list[str]], known: list[pl.DataFrame],
) -> None:
    """Write the tables one below the other."""
    people = pl.concat([Patients.read(run) for run in runs]).unique(maintain_order=True)
    people = people.group_by("patient_id", maintain_order=True).agg(
        pl.col("sex").filter(pl.col("sex") != "U").unique(),
        pl.col("birth_year", "race", "ethnicity").drop_nulls().first())
    unlike = people.filter(pl.col("sex").list.len() > 1).height
    if unlike:
        raise SchemaError(f"{unlike} patients have another sex in another part", expected="one person per patient_id",
                          cure="if two sites number their patients alike, make the numbers differ")
    people = people.with_columns(sex=pl.col("sex").list.first().fill_null("U"))
    Patients.write(people, out)
    Encounters.write(pl.concat([Encounters.read(run) for run in runs], how="diagonal_relaxed"), out)
    Splits.write(splits, out)
    flow = pl.concat([Flow.read_all(run) for run in runs])
    Flow.write(flow.group_by("step", "unit", "reason", "kind", maintain_order=True).agg(pl.col("n_in", "n_out").sum())
               .select(list(Flow.columns())), out)
    Rejects.write(pl.concat([Rejects.read(run) for run in runs]), out)
    # A patient of several parts counts in each here; nothing is computed from it.
    Unmapped.write(pl.concat([Unmapped.read(run) for run in runs]).group_by(
        "code", "vocabulary", "reason", maintain_order=True).agg(pl.col("n_rows", "n_patients").sum())
        .select(list(Unmapped.columns())), out)
    write_json({"rule": "as in each part", "contamination": _contamination(runs), "note": "", "intersection": []},
               out / "cohort" / "disjointness.json")
    LabelRows.write(pl.concat(label_rows), out)
    LabelColumns.write(pl.DataFrame({"phenotype": labelled[0]}), out)
    marks = _stacked(runs, LABELS_PATH, labelled)
    write_npy(marks, out / LABELS_PATH)
    side = pl.concat(rows).drop("split").join(splits.select("patient_id", "split"), on="patient_id", how="left",
                                              maintain_order="left")
    PredictionRows.write(side.select(list(PredictionRows.columns())), out)
    PredictionColumns.write(pl.DataFrame({"phenotype": heads[0]}), out)
    write_npy(_stacked(runs, LOGITS_PATH, heads), out / LOGITS_PATH)
    # Which phenotypes have the same labels is another question for all rows than for those of a part.
    same = describe_phenotypes(labelled[0], [np.ascontiguousarray(column).tobytes() for column in marks.T], None,
                               vocabulary="")
    Phenotypes.write(known[0].drop("same_as").join(same.select("phenotype", "same_as"), on="phenotype", how="left",
                                                   maintain_order="left").select(list(Phenotypes.columns())), out)
    model = runs[0] / "model" / "model.json"
    if model.is_file():
        write_json(json.loads(model.read_text(encoding="utf-8")), out / "model" / "model.json")


def _stacked(runs: Sequence[Path], file: str, names: list[list[str]]) -> NDArray[Any]:
    """Return the rows of an array of every part, columns in the order of the first."""
    parts = []
    for run, own in zip(runs, names, strict=True):
        place = {name: j for j, name in enumerate(own)}
        part = np.load(run / file, mmap_mode="r", allow_pickle=False)
        parts.append(part if own == names[0] else part[:, [place[name] for name in names[0]]])
    return np.concatenate(parts)


def _contamination(runs: Sequence[Path]) -> str:
    """Return what the parts say of pretraining, the least sure first."""
    said = []
    for run in runs:
        file = run / "cohort" / "disjointness.json"
        if file.is_file():
            said.append(str(json.loads(file.read_text(encoding="utf-8")).get("contamination", "")))
    unsure = [one for one in said if one not in ("excluded", "not pretrained")]
    return unsure[0] if unsure else (said[0] if said else "cannot be excluded")
