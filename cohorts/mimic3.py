"""MIMIC-III 1.4: patients, admissions and ICD-9-CM codes, and the bedside waveforms matched to them.

Layout: the folder with ``PATIENTS``, ``ADMISSIONS`` and ``DIAGNOSES_ICD`` (``.csv`` or ``.csv.gz``, either case), or
one folder above it. Waveforms are optional: the tree ``pXX/pXXNNNN/pXXNNNN-YYYY-MM-DD-hh-mm.hea`` of the matched subset
anywhere up to three folders below the root.

Source: Johnson et al., Scientific Data 3:160035 (2016); MIMIC-III Waveform Database Matched Subset 1.0, PhysioNet.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import find_tables, read_any, stem_of
from phewas.cohorts.assemble import (
    finish,
    take_diagnoses,
    take_encounters,
    to_encounters,
    told,
)
from phewas.cohorts.base import FolderSource, Loss, fingerprint_of, load_card, losses, require_root
from phewas.cohorts.csvtext import TextTable, parse_time
from phewas.cohorts.matching import match
from phewas.cohorts.mimic import take_subjects
from phewas.cohorts.records import pieces_frame, read_records
from phewas.schema import Recordings

TABLES = ("patients", "admissions", "diagnoses_icd")
PATIENTS = ("subject_id", "gender", "dob")
ADMISSIONS = ("subject_id", "hadm_id", "admittime", "dischtime")
DIAGNOSES = ("subject_id", "hadm_id", "seq_num", "icd9_code")
FURTHER = ("admission_type", "admission_location", "insurance")
# Ages above 89 are published as about 300; nothing but "above 89" is known of them.
OLDEST = 90.0
_GROUP = re.compile(r"^p\d{2}$")
_FOLDER = re.compile(r"^p(\d{6})$")
_RECORD = re.compile(r"^p(\d{6})-(\d{4})-(\d{2})-(\d{2})-(\d{2})-(\d{2})(n?)\.hea$")
DEPTH = 3


def wave_folder(root: Path) -> Path | None:
    """Return the folder that holds ``p00`` to ``p09``: `root` or up to three folders below; None without one."""
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in level:
            if any(_GROUP.match(p.name) and p.is_dir() for p in folder.iterdir()):
                return folder
        level = [p for f in level for p in sorted(f.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return None


def patient_folders(base: Path) -> Iterator[Path]:
    """Yield the patients' folders, by name."""
    for group in sorted(p for p in base.iterdir() if _GROUP.match(p.name) and p.is_dir()):
        yield from sorted(p for p in group.iterdir() if p.is_dir())


def records_of(root: Path, base: Path) -> tuple[list[str], list[Loss], int]:
    """Return the headers of waveform records relative to `root`, what is none, and the number of files looked at.

    Numerics records (minute values, names that end in ``n``) and segments are parts of the layout and no loss.
    """
    paths: list[str] = []
    lost: list[Loss] = []
    for folder in patient_folders(base):
        place = folder.relative_to(root).as_posix()
        owner = _FOLDER.match(folder.name)
        if owner is None:
            lost.append(Loss("recordings", "waveforms", "foreign_file", path=place, detail="not a patient's folder"))
            continue
        for name in sorted(p.name for p in folder.iterdir()):
            record = _RECORD.match(name)
            if record and not record.group(7):
                if record.group(1) == owner.group(1):
                    paths.append(f"{place}/{name}")
                else:
                    lost.append(
                        Loss("recordings", "waveforms", "foreign_file", path=f"{place}/{name}",
                             detail="in another patient's folder")
                    )  # fmt: skip
    return paths, lost, len(paths) + len(lost)


def named_start(path: str) -> dt.datetime | None:
    """Return the start that a record's name gives, to the minute; None where it is no time."""
    named = _RECORD.match(path.rsplit("/", 1)[-1])
    if named is None:
        return None
    try:
        return dt.datetime.strptime("-".join(named.group(k) for k in range(2, 7)), "%Y-%m-%d-%H-%M")
    except ValueError:
        return None


@dataclass(frozen=True)
class Mimic3(FolderSource):
    """The source ``mimic3``."""

    def _tables(self, root: Path) -> dict[str, Path]:
        below = sorted(p for p in root.iterdir() if p.is_dir() and not _GROUP.match(p.name))
        return find_tables([root, *below], TABLES, card=self.card)

    def fingerprint(self, root: Path | None) -> str:
        """Hash the three tables byte by byte, and the names and sizes of the waveform headers."""
        root = require_root(root, self.card)
        base = wave_folder(root)
        paths = records_of(root, base)[0] if base else []
        listed = [(p, (root / p).stat().st_size) for p in paths]
        return fingerprint_of(root, read=self._tables(root).values(), listed=listed)

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count admissions and waveform records."""
        root = require_root(root, self.card)
        tables = self._tables(root)
        base = wave_folder(root)
        return {
            "files": sorted(p.name for p in tables.values()),
            "missing": [] if base else ["waveforms (matched subset)"],
            "n_encounters": read_any(tables["admissions"], needs=["hadm_id"], table="encounters").n_rows,
            "n_waveform_folders": sum(1 for _ in patient_folders(base)) if base else 0,
            "n_recordings": len(records_of(root, base)[0]) if base else 0,
        }

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            A table or column is missing, a file is damaged, or no admission can be taken.
        """
        root = require_root(root, self.card)
        files = self._tables(root)
        people = read_any(files["patients"], needs=PATIENTS, table="patients")
        stays = read_any(files["admissions"], needs=ADMISSIONS, optional=(*FURTHER, "ethnicity"), table="encounters")
        coded = read_any(files["diagnoses_icd"], needs=DIAGNOSES, table="diagnoses")
        rows = stays.rows.with_columns(source=pl.lit("admissions")).rename(
            {"subject_id": "patient_id", "hadm_id": "encounter_id", "admittime": "start", "dischtime": "end",
             "ethnicity": "race"}
        )  # fmt: skip
        kept, rejects = take_encounters(rows)
        kept = _ages(kept, people.rows)
        patients, lost = take_subjects(people, kept)
        rejects += [stays.rejects, coded.rejects, *lost, _unread_births(people)]
        encounters = to_encounters(kept, keep=FURTHER)
        cells = coded.rows.select(
            "source_row", pl.col("subject_id").alias("patient_id"), pl.col("hadm_id").alias("encounter_id"),
            pl.col("icd9_code").alias("cell"), pl.lit("ICD9CM").alias("vocabulary"),
            pl.lit(None, dtype=pl.Date).alias("recorded"), pl.lit(stem_of(files["diagnoses_icd"])).alias("source"),
        )  # fmt: skip
        diagnoses, lost_codes = take_diagnoses(cells, encounters=encounters, patients=patients, own_date=False)
        recordings, lost_files, n_files = self._recordings(root, encounters, patients, workers)
        finish(
            run,
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=[*rejects, *lost_codes, *lost_files],
            channel=self.card.index_channel,
            n_read={"encounters": stays.n_rows, "diagnoses": coded.n_rows, "recordings": n_files},
        )

    def _recordings(
        self, root: Path, encounters: pl.DataFrame, patients: pl.DataFrame, workers: int | None
    ) -> tuple[pl.DataFrame, list[pl.DataFrame], int]:
        base = wave_folder(root)
        if base is None:
            return Recordings.empty(), [], 0
        paths, lost, n_files = records_of(root, base)
        starts = {p: start for p in paths if (start := named_start(p)) is not None}
        held = read_records(root, paths, starts=starts, workers=workers)
        lost += held.losses
        frame = pieces_frame(held.pieces).with_columns(
            pl.col("record").str.extract(r"(?:^|/)p(\d{6})-[^/]*$").str.strip_chars_start("0").alias("patient_id"),
            (pl.col("path").str.extract(r"([^/]+)\.hea$") + "/" + pl.col("channel")).alias("recording_id"),
        )
        recordings, without = match(frame, encounters=encounters, patients=patients)
        return recordings, [losses(lost), without], n_files


def _births(people: pl.DataFrame) -> pl.DataFrame:
    return people.unique("subject_id", keep="first", maintain_order=True).select(
        pl.col("subject_id").alias("patient_id"), parse_time(pl.col("dob")).alias("born")
    )


def _unread_births(people: TextTable) -> pl.DataFrame:
    persons = people.rows.with_columns(source=pl.lit("patients"))
    bad = persons.filter(pl.col("dob").is_not_null() & parse_time(pl.col("dob")).is_null())
    return told(bad, table="patients", reason="bad_time", detail="dob")


def _ages(rows: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """Set the age at admission in years from the date of birth; above 89 it reads 90, below 0 it is not known."""
    joined = rows.join(_births(people), on="patient_id", how="left", maintain_order="left")
    years = (pl.col("start") - pl.col("born")).dt.total_days() / 365.25
    age = pl.when(years > 89).then(pl.lit(OLDEST)).when(years >= 0).then(years)
    return joined.with_columns(age.alias("age")).drop("born")


SOURCE = Mimic3(load_card(Path(__file__).with_name("mimic3.toml")))
