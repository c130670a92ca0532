"""MIMIC-IV: hospital admissions and emergency stays with ICD-9-CM and ICD-10-CM codes, waveforms and ECGs.

Layout (every part but hosp/ is optional)::

    hosp/{patients,admissions,diagnoses_icd}.csv[.gz]
    ed/{edstays,diagnosis}.csv[.gz]
    waves/pNNN/pSUBJECT/RECORD/RECORD.hea          MIMIC-IV Waveform Database, up to three folders below the root
    record_list.csv, files/...                     MIMIC-IV-ECG, the same

Sources: Johnson et al., Scientific Data 10:1 (2023); MIMIC-IV-ED 2.2, MIMIC-IV Waveform Database 0.1.0 and
MIMIC-IV-ECG 1.0, PhysioNet.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.anyfile import find_table, find_tables, read_any
from phewas.cohorts.assemble import (
    finish,
    take_diagnoses,
    take_encounters,
    to_encounters,
    told,
)
from phewas.cohorts.base import FolderSource, fingerprint_of, load_card, losses, require_root
from phewas.cohorts.csvtext import TextTable, parse_number, parse_time
from phewas.cohorts.matching import match
from phewas.cohorts.mimic import take_subjects
from phewas.cohorts.numerics import temperature_c
from phewas.cohorts.records import CHANNELS, LEADS, pieces_frame, read_records
from phewas.errors import CohortError
from phewas.schema import Recordings

HOSP = ("patients", "admissions", "diagnoses_icd")
ED = ("edstays", "diagnosis", "triage")
TRIAGE = ("heartrate", "resprate", "o2sat", "sbp", "dbp")  # and the temperature, in either unit
VERSIONS = {"9": "ICD9CM", "10": "ICD10CM"}
CODED = ("subject_id", "icd_code", "icd_version")
RECORD_LIST = "record_list"
DEPTH = 3
_PATIENT = re.compile(r"^p(\d+)$")


def folders_named(root: Path, name: str) -> list[Path]:
    """Return the folders called `name` at most three folders below `root`, or `root` itself if it is one."""
    level, found = [root], [root] if root.name == name else []
    for _ in range(DEPTH):
        below = [p for f in level for p in sorted(f.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        found += [p for p in below if p.name == name]
        level = [p for p in below if not re.match(r"^(p\d+|files)$", p.name)]
    return found


def ecg_lists(root: Path) -> list[Path]:
    """Return the record lists of MIMIC-IV-ECG at the root or up to two folders below it."""
    level, found = [root], []
    for _ in range(DEPTH):
        found += [p for f in level if (p := find_table(f, RECORD_LIST)) is not None]
        level = [
            p for f in level for p in sorted(f.iterdir())
            if p.is_dir() and not p.name.startswith(".") and not re.match(r"^(p\d+|files|waves|hosp|ed|icu)$", p.name)
        ]  # fmt: skip
    return found


def wave_records(waves: Path) -> Iterator[tuple[str, Path]]:
    """Yield (patient, header) of the waveform records below ``waves``: the header named as its folder."""
    for group in sorted(p for p in waves.iterdir() if p.is_dir()):
        for patient in sorted(p for p in group.iterdir() if p.is_dir()):
            named = _PATIENT.match(patient.name)
            for record in sorted(p for p in patient.iterdir() if p.is_dir()):
                yield (named.group(1) if named else ""), record / f"{record.name}.hea"


@dataclass(frozen=True)
class Mimic4(FolderSource):
    """The sources ``mimic4`` (bedside waveforms, indexed by PPG) and ``mimic4ecg`` (ECGs, indexed by lead II)."""

    def _waves(self, root: Path) -> list[tuple[str, Path]]:
        """Return (patient, header) of the bedside records; none where the card asks for ECGs."""
        if self.card.index_channel != "PPG":
            return []
        return [record for waves in folders_named(root, "waves") for record in wave_records(waves)]

    def _lists(self, root: Path) -> list[Path]:
        """Return the record lists of ECGs; none where the card asks for bedside waveforms."""
        return ecg_lists(root) if self.card.index_channel != "PPG" else []

    def _tables(self, root: Path) -> dict[str, Path]:
        places = folders_named(root, "hosp") or [root]
        tables = find_tables(places, HOSP, card=self.card)
        for folder in folders_named(root, "ed"):
            tables |= {n: p for n in ED if (p := find_table(folder, n)) is not None and n not in tables}
        if "diagnosis" in tables and "edstays" not in tables:
            raise CohortError(
                "ed/ holds the table diagnosis without edstays, so that its stays have no times",
                expected="ed/edstays.csv.gz and ed/diagnosis.csv.gz",
                cure="complete the download of MIMIC-IV-ED, or move ed/ away to run without it",
            )
        return tables

    def fingerprint(self, root: Path | None) -> str:
        """Hash the tables byte by byte, and names and sizes of the waveform headers and lists."""
        root = require_root(root, self.card)
        headers = [h for _, h in self._waves(root) if h.is_file()]
        listed = [(h.relative_to(root).as_posix(), h.stat().st_size) for h in headers]
        return fingerprint_of(root, read=[*self._tables(root).values(), *self._lists(root)], listed=listed)

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count admissions, emergency stays and waveform records."""
        root = require_root(root, self.card)
        tables = self._tables(root)
        waves, lists = self._waves(root), self._lists(root)
        name = "waves" if self.card.index_channel == "PPG" else RECORD_LIST
        parts = {"edstays": ED[0] in tables, name: bool(waves or lists)}
        return {
            "files": sorted(p.relative_to(root).as_posix() for p in (*tables.values(), *lists)),
            "missing": [n for n, there in parts.items() if not there],
            "n_encounters": sum(
                read_any(tables[n], needs=["subject_id"], table="encounters").n_rows
                for n in ("admissions", "edstays") if n in tables
            ),
            "n_waveform_folders": len(waves),
            "n_recordings": len(waves)
            + sum(read_any(p, needs=["subject_id"], table="recordings").n_rows for p in lists),
        }  # fmt: skip

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            A table or column is missing, a file is damaged, or no encounter can be taken.
        """
        root = require_root(root, self.card)
        files = self._tables(root)
        people = read_any(files["patients"], needs=("subject_id", "gender", "anchor_age", "anchor_year"),
                          table="patients")  # fmt: skip
        stays, coded = _stays(files), _coded(files)
        rows = pl.concat([rows for _, rows in stays])
        kept, rejects = take_encounters(rows)
        kept, unread = _ages(kept, people)
        patients, lost = take_subjects(people, kept)
        kept, lost_triage = _triage(files, kept)
        own = [name for name in kept.columns if name in ("kind", "arrival_transport", "temperature_C", *TRIAGE)]
        encounters = to_encounters(kept, keep=own)
        cells = pl.concat([rows for _, rows in coded])
        diagnoses, lost_codes = take_diagnoses(cells, encounters=encounters, patients=patients, own_date=False)
        recordings, lost_files, n_files = self._recordings(root, encounters, patients, workers)
        finish(
            run,
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=diagnoses,
            rejects=[*(t.rejects for t, _ in (*stays, *coded)), *rejects, unread, *lost_triage, *lost, *lost_codes,
                     *lost_files],
            channel=self.card.index_channel,
            n_read={
                "encounters": sum(t.n_rows for t, _ in stays),
                "diagnoses": sum(t.n_rows for t, _ in coded),
                "recordings": n_files,
            },
        )  # fmt: skip

    def _recordings(
        self, root: Path, encounters: pl.DataFrame, patients: pl.DataFrame, workers: int | None
    ) -> tuple[pl.DataFrame, list[pl.DataFrame], int]:
        """Return the recordings, what was lost, and the number of records looked at."""
        owners: dict[str, str] = {}
        starts: dict[str, dt.datetime] = {}
        for patient, header in self._waves(root):
            owners[header.relative_to(root).as_posix()] = patient
        rejects: list[pl.DataFrame] = []
        n_files = len(owners)
        for path in self._lists(root):
            table = read_any(path, needs=("subject_id", "path"), optional=("ecg_time",), table="recordings")
            n_files += table.n_rows
            place = path.parent.relative_to(root).as_posix()
            rows, lost = _listed(table, "" if place == "." else f"{place}/")
            rejects += [table.rejects, *lost]
            owners |= dict(rows.select("header", "subject_id").iter_rows())
            starts |= dict(rows.drop_nulls("at").select("header", "at").iter_rows())
        if not owners:
            return Recordings.empty(), rejects, n_files
        channels = CHANNELS if self.card.index_channel == "PPG" else LEADS
        held = read_records(root, list(owners), channels=channels, starts=starts, workers=workers)
        frame = pieces_frame(held.pieces).with_columns(
            pl.col("path").replace_strict(owners, default=None, return_dtype=pl.String).alias("patient_id"),
            # A segment read on its own lies in the folder of its record, which is the one whose patient is known.
            (pl.col("record") + ".hea").replace_strict(owners, default=None, return_dtype=pl.String).alias("owner"),
            (pl.col("path").str.strip_suffix(".hea") + "/" + pl.col("channel")).alias("recording_id"),
        ).with_columns(pl.coalesce("patient_id", "owner").alias("patient_id"))  # fmt: skip
        recordings, without = match(frame, encounters=encounters, patients=patients)
        return recordings, [*rejects, losses(held.losses), without], n_files


def _stays(files: dict[str, Path]) -> list[tuple[TextTable, pl.DataFrame]]:
    """Return admissions and emergency stays in one form: encounter, patient, times, race, kind."""
    out = []
    for name, key, start, end, kind in (
        ("admissions", "hadm_id", "admittime", "dischtime", "admission"),
        ("edstays", "stay_id", "intime", "outtime", "emergency"),
    ):
        if name not in files:
            continue
        # Releases before 2.0 call the column ethnicity.
        got = read_any(files[name], needs=("subject_id", key, start, end),
                       optional=("race", "ethnicity", "arrival_transport"), table="encounters")  # fmt: skip
        rows = got.rows.select(
            "source_row", pl.lit(name).alias("source"), pl.col(key).alias("encounter_id"),
            pl.col("subject_id").alias("patient_id"), pl.col(start).alias("start"), pl.col(end).alias("end"),
            pl.coalesce("race", "ethnicity").alias("race"), pl.lit(kind).alias("kind"),
            "arrival_transport",
        )  # fmt: skip
        out.append((got, rows))
    return out


def _triage(files: dict[str, Path], kept: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the encounters with the vital signs that the emergency department notes on arrival, and what was lost.

    Columns `temperature_C` (degrees Celsius, whichever unit was written) and `TRIAGE`, float64, null for admissions;
    none of them where there is no table triage, and no `arrival_transport` where no stay has one.
    """
    if not kept["arrival_transport"].count():
        kept = kept.drop("arrival_transport")
    if "triage" not in files:
        return kept, []
    got = read_any(files["triage"], needs=("subject_id", "stay_id"), optional=("temperature", *TRIAGE),
                   table="encounters")  # fmt: skip
    stays = kept.filter(pl.col("kind") == "emergency").select(stay_id="encounter_id", subject_id="patient_id")
    known = got.rows.with_columns(source=pl.lit("triage")).join(
        stays.with_columns(known=pl.lit(value=True)), on=["stay_id", "subject_id"], how="left", maintain_order="left")
    rejects = [got.rejects, told(known.filter(pl.col("known").is_null()), table="encounters",
                                 reason="unknown_encounter", detail="vital signs of no stay that was taken")]
    rows = known.filter(pl.col("known").is_not_null())
    again = ~pl.col("stay_id").is_first_distinct()
    rejects.append(told(rows.filter(again), table="encounters", reason="duplicate_encounter"))
    rows = rows.filter(~again)
    values = rows.with_columns(parse_number(pl.col(name)).alias(name) for name in ("temperature", *TRIAGE))
    for name in ("temperature", *TRIAGE):
        unread = rows[name].is_not_null() & values[name].is_null()
        rejects.append(told(rows.filter(unread), table="encounters", reason="bad_number", detail=name))
    values = values.select(pl.col("stay_id").alias("encounter_id"), temperature_c(pl.col("temperature")).alias(
        "temperature_C"), *TRIAGE, kind=pl.lit("emergency"))
    return kept.join(values, on=["encounter_id", "kind"], how="left", maintain_order="left"), rejects


def _coded(files: dict[str, Path]) -> list[tuple[TextTable, pl.DataFrame]]:
    """Return the diagnosis rows of both tables in one form. Neither has a date; the encounter's end dates them."""
    out = []
    for name, key in (("diagnoses_icd", "hadm_id"), ("diagnosis", "stay_id")):
        if name not in files:
            continue
        got = read_any(files[name], needs=(*CODED, key), table="diagnoses")
        rows = got.rows.select(
            "source_row", pl.lit(name).alias("source"), pl.col("subject_id").alias("patient_id"),
            pl.col(key).alias("encounter_id"), pl.col("icd_code").alias("cell"),
            pl.col("icd_version").replace_strict(VERSIONS, default="unknown", return_dtype=pl.String)
            .fill_null("unknown").alias("vocabulary"),
            pl.col("icd_version").alias("system"), pl.lit(None, dtype=pl.Date).alias("recorded"),
        )  # fmt: skip
        out.append((got, rows))
    return out


def _ages(rows: pl.DataFrame, people: TextTable) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Set the age at each encounter: the anchor age, moved by the years since its year; 91 stands for over 89."""
    anchors = people.rows.with_columns(
        parse_number(pl.col("anchor_age")).alias("at"), parse_number(pl.col("anchor_year")).alias("year")
    )
    bad = anchors.filter(
        (pl.col("anchor_age").is_not_null() & pl.col("at").is_null())
        | (pl.col("anchor_year").is_not_null() & pl.col("year").is_null())
    )
    of = anchors.unique("subject_id", keep="first", maintain_order=True).select(
        pl.col("subject_id").alias("patient_id"), "at", "year"
    )
    joined = rows.join(of, on="patient_id", how="left", maintain_order="left")
    moved = pl.col("at") + pl.col("start").dt.year() - pl.col("year")
    age = pl.when(moved.is_between(0, 130)).then(moved.clip(upper_bound=91.0)).otherwise(None)
    unread = told(bad.with_columns(source=pl.lit("patients")), table="patients", reason="bad_number",
                  detail="anchor_age or anchor_year")  # fmt: skip
    return joined.with_columns(age.alias("age")).drop("at", "year"), unread


def _listed(table: TextTable, place: str) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return header, subject_id and time of each row of an ECG record list, and the rows that name none."""
    rows = table.rows.with_columns(source=pl.lit(RECORD_LIST))
    blank = pl.col("subject_id").is_null() | pl.col("path").is_null()
    lost = [told(rows.filter(blank), table="recordings", reason="blank_id")]
    rows = rows.filter(~blank)
    again = ~pl.col("path").is_first_distinct()
    lost.append(told(rows.filter(again), table="recordings", reason="duplicate_row"))
    rows = rows.filter(~again)
    rows = rows.with_columns(parse_time(pl.col("ecg_time")).alias("at"))
    unread = pl.col("ecg_time").is_not_null() & pl.col("at").is_null()
    lost.append(told(rows.filter(unread), table="recordings", reason="bad_time", detail="ecg_time"))
    header = pl.lit(place) + pl.col("path").str.strip_suffix(".hea") + ".hea"
    return rows.select(header.alias("header"), "subject_id", "at"), lost


def make(card: str) -> Mimic4:
    """Return the source that the card of this name describes."""
    return Mimic4(load_card(Path(__file__).with_name(card)))


SOURCE = make("mimic4.toml")
