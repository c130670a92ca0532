"""PPG-BP: one workbook of people, and three short pulse recordings each as text.

Layout: the folder that holds ``Data File`` (or that folder itself), with ``PPG-BP dataset.xlsx`` and
``0_subject/<subject>_<k>.txt``: one row of tab-separated numbers, 1,000 Hz, 2,100 samples.

Source: Liang et al., Scientific Data 5:180020 (2018), and the files themselves.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.base import (
    CohortCard,
    CohortTables,
    FolderSource,
    Loss,
    fingerprint_of,
    flow_row,
    load_card,
    losses,
    require_root,
)
from phewas.errors import CohortError, nearest
from phewas.schema import Diagnoses, Encounters, Flow, Patients, Recordings, Rejects

FOLDER, WORKBOOK, SIGNALS = "Data File", "PPG-BP dataset.xlsx", "0_subject"
FS_HZ, N_SAMPLES = 1000.0, 2100
SUBJECT, SEX, AGE = "subject_ID", "Sex(M/F)", "Age(year)"
# What the hospital record says, by column, in small letters: (ICD-10-CM code, certainty). None: no disease.
DIAGNOSES: dict[str, dict[str, tuple[str, str | None] | None]] = {
    "Hypertension": {
        "normal": None,
        "prehypertension": ("I10", "uncertain"),
        "stage 1 hypertension": ("I10", None),
        "stage 2 hypertension": ("I10", None),
    },
    "Diabetes": {"type 2 diabetes": ("E11.9", None), "diabetes": ("E11.9", None)},
    "cerebral infarction": {"cerebral infarction": ("I63.9", None)},
    "cerebrovascular disease": {
        "insufficiency of cerebral blood supply": ("I67.82", None),
        "cerebrovascular disease": ("I67.9", None),
    },
}
# Column name -> name in the encounters table.
OTHERS = {
    "Height(cm)": "src_height_cm",
    "Weight(kg)": "src_weight_kg",
    "Systolic Blood Pressure(mmHg)": "src_sbp_mmhg",
    "Diastolic Blood Pressure(mmHg)": "src_dbp_mmhg",
    "Heart Rate(b/m)": "src_heart_rate_per_min",
    "BMI(kg/m^2)": "src_bmi_kg_m2",
}


def locate(root: Path, card: CohortCard) -> Path:
    """Return the folder with the workbook and the signals: `root` or ``root/Data File``.

    Raises
    ------
    CohortError
        The workbook or the signal folder is missing.
    """
    base = next((b for b in (root, root / FOLDER) if (b / WORKBOOK).is_file()), None)
    if base is None or not (base / SIGNALS).is_dir():
        missing = WORKBOOK if base is None else f"{SIGNALS}/"
        held = sorted(p.name + ("/" if p.is_dir() else "") for p in (base or root).iterdir())
        raise CohortError(
            f"{root} is not a PPG-BP folder: {missing} missing. Found there: {', '.join(held[:12]) or 'nothing'}",
            expected=f"the folder that holds '{FOLDER}', with {WORKBOOK} and {SIGNALS}/",
            cure=card.obtain,
        )
    return base


def read_workbook(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the people's rows as (1-based data row, column name to value). The header stands in the second row.

    Raises
    ------
    CohortError
        The file is no workbook, or a column is missing.
    """
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = list(book.worksheets[0].iter_rows(values_only=True))
        book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise CohortError(f"{path.name} is not a readable workbook: {type(error).__name__}",
                          cure="download the file again") from error  # fmt: skip
    names = [str(v).strip() if v is not None else "" for v in (rows[1] if len(rows) > 1 else ())]
    for need in (SUBJECT, SEX, AGE, *DIAGNOSES, *OTHERS):
        if need not in names:
            raise CohortError(f"{path.name} has no column {need!r} in its second row.{nearest(need, names)}",
                              expected=", ".join((SUBJECT, SEX, AGE, *DIAGNOSES, *OTHERS)))  # fmt: skip
    out = [
        (k, dict(zip(names, row, strict=False)))
        for k, row in enumerate(rows[2:], start=1)
        if any(v is not None for v in row)
    ]
    if not out:
        raise CohortError(f"{path.name} lists nobody", expected="one row per person", cure="download the file again")
    return out


def _number(value: Any) -> float | None:
    """Return a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e6 else None


@dataclass(frozen=True)
class Ppgbp(FolderSource):
    """The source ``ppgbp``."""

    def fingerprint(self, root: Path | None) -> str:
        """Hash the workbook and every recording: ten megabytes in all."""
        base = locate(require_root(root, self.card), self.card)
        return fingerprint_of(base, read=[base / WORKBOOK, *(base / SIGNALS).glob("*.txt")], listed=[])

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count the signal files."""
        base = locate(require_root(root, self.card), self.card)
        files = list((base / SIGNALS).glob("*.txt"))
        people = {f.stem.partition("_")[0] for f in files}
        return {
            "files": [WORKBOOK],
            "missing": [],
            "n_encounters": len(people),
            "n_waveform_folders": 1,
            "n_recordings": len(files),
        }

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            The folder is not PPG-BP, or its workbook lacks a column.
        """
        root = require_root(root, self.card)
        base = locate(root, self.card)
        lost: list[Loss] = []
        rows = read_workbook(base / WORKBOOK)
        people = _people(rows, lost)
        recordings, n_files = _recordings(root, base, {str(p["subject"]) for p in people}, lost)
        diagnoses = _diagnoses(people, lost)
        with_signal = recordings["encounter_id"].n_unique()
        CohortTables(
            patients=Patients.build({"patient_id": p["subject"], "sex": p["sex"]} for p in people),
            encounters=_encounters(people),
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=pl.concat([Rejects.empty(), losses(lost)]),
            flow=Flow.build(
                [
                    flow_row("patients", len(rows), len(people), "rows of the workbook that name nobody"),
                    flow_row("patients", len(people), with_signal, "without a readable recording"),
                    flow_row("recordings", n_files, len(recordings), "unreadable, or of nobody in the workbook"),
                ]
            ),
        ).write(run)


def _people(rows: list[tuple[int, dict[str, Any]]], lost: list[Loss]) -> list[dict[str, Any]]:
    """Return one entry per person, with what was mended told in `lost`."""
    people: dict[str, dict[str, Any]] = {}
    for k, row in rows:
        raw = row[SUBJECT]
        subject = (
            "" if raw is None else str(int(raw)) if isinstance(raw, float) and raw.is_integer() else str(raw).strip()
        )
        if not subject:
            lost.append(Loss("encounters", "workbook", "blank_id", k))
            continue
        if subject in people:
            lost.append(Loss("encounters", "workbook", "duplicate_encounter", k))
            continue
        age = _number(row[AGE])
        if age is None or not 0 <= age <= 130:
            lost.append(Loss("encounters", "workbook", "bad_number", k, detail=AGE))
            age = None
        sex = {"female": "F", "male": "M", "f": "F", "m": "M"}.get(str(row[SEX] or "").strip().casefold(), "U")
        people[subject] = {"subject": subject, "row": k, "sex": sex, "age": age, "cells": row}
    return list(people.values())


def _encounters(people: list[dict[str, Any]]) -> pl.DataFrame:
    rows = [
        {"encounter_id": p["subject"], "patient_id": p["subject"], "age": p["age"]}
        | {name: _number(p["cells"][column]) for column, name in OTHERS.items()}
        for p in people
    ]
    return pl.DataFrame(rows, schema=Encounters.dtypes() | dict.fromkeys(OTHERS.values(), pl.Float64), orient="row")


def _diagnoses(people: list[dict[str, Any]], lost: list[Loss]) -> pl.DataFrame:
    """Translate the workbook's words; a word that is not known is told, not guessed."""
    rows = []
    for p in people:
        for column, words in DIAGNOSES.items():
            said = str(p["cells"][column] or "").strip()
            if not said:
                continue
            if said.casefold() not in words:
                lost.append(
                    Loss("diagnoses", "workbook", "unknown_diagnosis", p["row"], detail=f"{column}: {said[:60]}")
                )
                continue
            meaning = words[said.casefold()]
            if meaning is None:
                continue
            rows.append(
                {
                    "patient_id": p["subject"], "encounter_id": p["subject"], "code_raw": said, "code": meaning[0],
                    "vocabulary": "ICD10CM", "recorded": None, "certainty": meaning[1], "source": "workbook",
                    "source_row": p["row"],
                }
            )  # fmt: skip
    return Diagnoses.build(rows)


def _recordings(root: Path, base: Path, known: set[str], lost: list[Loss]) -> tuple[pl.DataFrame, int]:
    """Return the recordings of known people, and the number of signal files."""
    rows = []
    files = sorted(p for p in (base / SIGNALS).iterdir() if not p.name.startswith("."))
    for file in files:
        path = file.relative_to(root).as_posix()
        name = re.fullmatch(r"(\d+)_(\d+)\.txt", file.name)
        if name is None:
            lost.append(
                Loss("recordings", "waveforms", "foreign_file", path=path, detail="not named <subject>_<k>.txt")
            )
            continue
        if not file.resolve().is_relative_to(root.resolve()):
            lost.append(Loss("recordings", "waveforms", "out_of_root", path=path))
            continue
        if name.group(1) not in known:
            lost.append(Loss("recordings", "waveforms", "unknown_encounter", path=path))
            continue
        try:
            words = file.read_text(encoding="ascii").split()
            # Every value is read once here, so that a damaged file is known before the signals are cut.
            n = len([float(w) for w in words])
        except (OSError, ValueError):
            lost.append(Loss("recordings", "waveforms", "read_failed", path=path))
            continue
        if n == 0:
            lost.append(Loss("recordings", "waveforms", "zero_length", path=path))
            continue
        rows.append(
            {
                "recording_id": file.stem, "encounter_id": name.group(1), "channel": "PPG", "path": path,
                "member": None, "signal": "PPG", "fs_hz": FS_HZ, "n_samples": n, "start": None,
            }
        )  # fmt: skip
    order = {r["recording_id"]: (r["encounter_id"], int(str(r["recording_id"]).rpartition("_")[2])) for r in rows}
    rows.sort(key=lambda r: order[r["recording_id"]])
    return Recordings.build(rows), len(files)


SOURCE = Ppgbp(load_card(Path(__file__).with_name("ppgbp.toml")))
