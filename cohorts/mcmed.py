"""MC-MED, as downloaded from PhysioNet: visits, noted diagnoses, and single-signal WFDB records by visit.

Layout (`<root>` or ``<root>/data``)::

    visits.csv  pmh.csv  waveform_summary.csv  split_{random,chrono}_{train,val,test}.csv
    numerics.csv                      vital signs noted before the signal, where the file is there
    meds.csv  orders.csv  labs.csv  rads.csv          not read by a run (see `phewas.cohorts.numerics`)
    waveforms/<CSN % 1000>/<CSN>/{Pleth,II,Resp}/<CSN>_<n>.{hea,dat}
    or the same tree in archives, waveforms_0xx.zip to waveforms_9xx.zip, read without unpacking

Source: Kansal et al., Scientific Data 12:1094 (2025), and the data dictionary beside the files.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from phewas.cohorts.base import (
    CohortCard,
    CohortTables,
    FolderSource,
    fingerprint_of,
    flow_row,
    load_card,
    lose,
    require_root,
)
from phewas.cohorts.codes import explode
from phewas.cohorts.csvtext import TextTable, count_rows, parse_number, parse_time, read_table
from phewas.cohorts.mcmed_waves import RATES_HZ, WAVEFORMS, compare_summary, to_recordings
from phewas.cohorts.numerics import NUMERICS, temperature_c, vitals_before
from phewas.cohorts.wavescan import Scan, encounter_folders, list_encounters, scan_tree, suffix_folders, waveform_files
from phewas.cohorts.wavezip import encounters_in, find_archives, members
from phewas.errors import CohortError
from phewas.schema import DATETIME, Encounters, Flow, Patients, Rejects

if TYPE_CHECKING:
    from phewas.cohorts.check import Sample

VISITS = ("MRN", "CSN", "Age", "Gender", "Race", "Ethnicity", "Dx_ICD9", "Dx_ICD10", "Arrival_time", "Departure_time")
PMH = ("MRN", "Noted_date", "CodeType", "Code")
TABLES = ("visits.csv", "pmh.csv")
TEMPERATURE = "Triage_Temp"
SPLIT_FILES = tuple(f"split_{kind}_{part}.csv" for kind in ("random", "chrono") for part in ("train", "val", "test"))
# Noted-diagnosis code types. Anything else is kept with an unknown vocabulary and told.
CODE_TYPES = {"dx10": "ICD10CM", "icd10": "ICD10CM", "dx9": "ICD9CM", "icd9": "ICD9CM"}


def locate(root: Path, card: CohortCard) -> Path:
    """Return the folder that holds visits.csv: `root` or ``root/data``.

    Raises
    ------
    CohortError
        A needed part is missing; the message names each, and what was found instead.
    """
    base = next((b for b in (root, root / "data") if (b / "visits.csv").is_file()), None)
    if base is None:
        around = next((b for b in root.resolve().parents[:3] if (b / "visits.csv").is_file()), None)
        cure = (
            f"give the folder above: --data {around}" if around else f"give the folder with visits.csv. {card.obtain}"
        )
    base = base or root
    missing = [t for t in TABLES if not (base / t).is_file()]
    no_waveforms = not (base / WAVEFORMS).is_dir() and not find_archives(base, WAVEFORMS)
    if missing or no_waveforms:
        names = [*missing, *([f"{WAVEFORMS}/"] if no_waveforms else [])]
        held = sorted(p.name + ("/" if p.is_dir() else "") for p in base.iterdir() if not p.name.startswith("."))
        found = ", ".join(held[:12]) + (", ..." if len(held) > 12 else "") if held else "nothing: the folder is empty"
        if base != root or (base / "visits.csv").is_file():
            cure = f"complete the download into {base}. {card.obtain}"
        raise CohortError(
            f"{base} is not an MC-MED folder: {', '.join(names)} missing. Found there: {found}",
            expected="visits.csv, pmh.csv, and waveforms/<last three digits of the visit>/<visit>/{Pleth,II,Resp}/ or "
            "waveforms_*.zip",
            cure=cure,
        )
    return base


@dataclass(frozen=True)
class Mcmed(FolderSource):
    """The source ``mcmed``; also reads emulated trees, which differ in nothing but their content."""

    def fingerprint(self, root: Path | None) -> str:
        """Hash the tables that are read, byte by byte, and the names and sizes of all waveform files.

        Of packed waveforms, the checksums that the archive's directory holds count too.
        """
        root = require_root(root, self.card)
        base = locate(root, self.card)
        names = (*TABLES, "waveform_summary.csv", NUMERICS, *SPLIT_FILES)
        read = [base / n for n in names if (base / n).is_file()]
        archives = find_archives(base, WAVEFORMS)
        packed = ((f"{a.relative_to(base).as_posix()}/{n}", size) for a in archives for n, size in members(a))
        return fingerprint_of(base, read=read, listed=itertools.chain(waveform_files(base, WAVEFORMS), packed))

    def scan(self, root: Path | None) -> dict[str, Any]:
        """Count visits and waveform folders, and list the tables that are there."""
        base = locate(require_root(root, self.card), self.card)
        names = (*TABLES, "waveform_summary.csv", NUMERICS, *SPLIT_FILES)
        return {
            "files": [n for n in names if (base / n).is_file()],
            "missing": [n for n in names if not (base / n).is_file()],
            "n_encounters": count_rows(base / "visits.csv"),
            "n_waveform_folders": _waveform_folders(base),
        }

    def sample(self, root: Path | None, *, seed: int) -> Sample:
        """Read the visits, the head of pmh.csv and a hashed sample of waveform folders; see `phewas.cohorts.check`."""
        from phewas.cohorts.mcmed_sample import sample

        base = locate(require_root(root, self.card), self.card)
        return sample(base, channel=self.card.index_channel, seed=seed)

    def build(self, root: Path | None, run: Path, *, workers: int | None = None) -> None:
        """Write the six tables of the cohort below `run`.

        Raises
        ------
        CohortError
            The folder is not an MC-MED tree, a column is missing, a table is empty, or identifiers do not fit together.
        """
        root = require_root(root, self.card)
        base = locate(root, self.card)
        visits = read_table(base / "visits.csv", needs=VISITS, table="encounters", others=True)
        pmh = read_table(base / "pmh.csv", needs=PMH, table="diagnoses")
        check_ids(visits.rows, pmh.rows)
        encounters, patients, taken, rejects = take_visits(visits)
        waveforms = (base / WAVEFORMS).relative_to(root).as_posix()
        archives = [a.relative_to(root).as_posix() for a in find_archives(base, WAVEFORMS)]
        tree = scan_tree(root, waveforms, rates_hz=RATES_HZ, workers=workers, archives=archives)
        recordings, lost = to_recordings(tree, encounters, visits.rows)
        rejects += lost
        rejects += compare_summary(base / "waveform_summary.csv", tree)
        encounters = index_times(encounters, recordings, self.card.index_channel)
        encounters, n_vitals = vitals_before(base, encounters)
        of_visits, lost_visits = visit_codes(taken, encounters)
        noted, lost_noted = noted_codes(pmh, patients)
        flow = _flow(visits, pmh, encounters, patients, recordings, tree, noted, self.card.index_channel)
        if n_vitals is not None:
            words = "with a vital sign in numerics.csv before the signal"
            flow = Flow.check(pl.concat([flow, Flow.build([
                flow_row("encounters", len(encounters), n_vitals, words, note=True)
            ])]))  # fmt: skip
        CohortTables(
            patients=patients,
            encounters=encounters,
            recordings=recordings,
            diagnoses=pl.concat([noted, of_visits]),
            rejects=pl.concat([Rejects.empty(), *rejects, *lost_visits, *lost_noted]),
            flow=flow,
        ).write(run)


def _waveform_folders(base: Path) -> int:
    """Return the number of encounters with waveform files, unpacked or packed, by listing alone."""
    archives = find_archives(base, WAVEFORMS)
    there = (base / WAVEFORMS).is_dir()
    if not archives:
        return encounter_folders(base, WAVEFORMS)
    names: set[str] = set().union(*(encounters_in(a) for a in archives))
    if there:
        names.update(*list_encounters(base, suffix_folders(base, WAVEFORMS)).values())
    return len(names)


def check_ids(visits: pl.DataFrame, pmh: pl.DataFrame) -> None:
    """Refuse tables whose identifiers cannot belong together: a wrong join of two number ranges would be silent."""
    cure = "check that both files come from the same, unchanged download"
    if not len(visits):
        raise CohortError("visits.csv has no data rows", expected="one row per visit", cure="download the file again")
    mrn, csn = visits["MRN"].drop_nulls().unique(), visits["CSN"].drop_nulls().unique()
    if len(csn) < len(mrn):
        raise CohortError(
            f"MRN and CSN look swapped in visits.csv: {len(csn)} different CSN for {len(mrn)} different MRN",
            expected="a visit (CSN) belongs to one patient (MRN), and a patient may have several",
            cure="swap the two column names back",
        )
    noted = pmh["MRN"].drop_nulls().unique()
    if not len(noted):
        return
    shared, as_visits = noted.is_in(mrn.implode()).sum(), noted.is_in(csn.implode()).sum()
    if as_visits > shared:
        raise CohortError(
            f"MRN and CSN are swapped between visits.csv and pmh.csv: of {len(noted)} MRN in pmh.csv, "
            f"{as_visits} are a CSN and {shared} an MRN of visits.csv",
            expected="MRN names the patient in both files",
            cure="swap the two column names back in the file that was edited",
        )
    if not shared:
        raise CohortError(f"none of the {len(noted)} patients of pmh.csv is in visits.csv",
                          expected="the same MRN in both files", cure=cure)  # fmt: skip


def take_visits(visits: TextTable) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, list[pl.DataFrame]]:
    """Return encounters (without index time yet), patients, the rows taken, and what was lost or mended."""

    def lost(rows: pl.DataFrame, reason: str, detail: str | None = None) -> pl.DataFrame:
        return lose(rows, table="encounters", source="visits", reason=reason, detail=detail)

    rows, rejects = visits.rows, [visits.rejects]
    blank = pl.col("MRN").is_null() | pl.col("CSN").is_null()
    rejects.append(lost(rows.filter(blank), "blank_id"))
    rows = rows.filter(~blank)
    # Nobody can tell whose visit it was, so neither row is believed.
    shared = pl.col("MRN").n_unique().over("CSN") > 1
    rejects.append(lost(rows.filter(shared), "encounter_of_two_patients"))
    rows = rows.filter(~shared)
    repeated = ~pl.col("CSN").is_first_distinct()
    rejects.append(lost(rows.filter(repeated), "duplicate_encounter"))
    rows = rows.filter(~repeated)
    rows = rows.with_columns(
        parse_time(pl.col("Arrival_time")).alias("start"),
        parse_time(pl.col("Departure_time")).alias("end"),
        parse_number(pl.col("Age")).alias("age"),
    )
    for column, parsed, reason in (
        ("Arrival_time", "start", "bad_time"), ("Departure_time", "end", "bad_time"), ("Age", "age", "bad_number"),
    ):  # fmt: skip
        bad = pl.col(column).is_not_null() & pl.col(parsed).is_null()
        rejects.append(lost(rows.filter(bad), reason, column))
    impossible = (pl.col("age") < 0) | (pl.col("age") > 130)
    rejects.append(lost(rows.filter(impossible), "bad_number", "Age outside 0 to 130"))
    rows = rows.with_columns(pl.when(~impossible).then(pl.col("age")).alias("age"))
    negative = pl.col("end") < pl.col("start")
    rejects.append(lost(rows.filter(negative), "negative_interval", "Departure_time before Arrival_time"))
    rows = rows.with_columns(pl.when(~negative.fill_null(value=False)).then(pl.col("end")).alias("end"))
    patients, conflicts = _patients(rows)
    rejects.append(lost(conflicts, "sex_conflict"))
    own = [c for c in visits.rows.columns if c not in ("MRN", "CSN", "source_row")]
    if TEMPERATURE in own:
        # The cell stays as it is; beside it stands the value in degrees Celsius, whichever unit it was written in.
        rows = rows.with_columns(temperature_c(parse_number(pl.col(TEMPERATURE))).alias(f"{TEMPERATURE}_C"))
        own.append(f"{TEMPERATURE}_C")
    encounters = rows.select(
        pl.col("CSN").alias("encounter_id"),
        pl.col("MRN").alias("patient_id"),
        "start",
        "end",
        pl.lit(None, dtype=DATETIME).alias("index_time"),
        "age",
        *(pl.col(c).alias(f"src_{c}") for c in own),
    )
    return Encounters.check(encounters), patients, rows, rejects


def _patients(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one row per patient, and the rows of patients whose visits name both sexes."""
    named = pl.col("sex").drop_nulls()
    sex = pl.col("Gender").str.to_uppercase().str.slice(0, 1)
    rows = rows.with_columns(pl.when(sex.is_in(["F", "M"])).then(sex).alias("sex"))
    both = (pl.col("sex").drop_nulls().n_unique() > 1).over("MRN")
    conflicts = rows.filter(both & pl.col("sex").is_not_null())
    # The latest visit that says anything is believed; ties go to the later row of the file.
    latest = rows.sort("start", "source_row", nulls_last=False)
    patients = latest.group_by(pl.col("MRN").alias("patient_id")).agg(
        pl.when(named.n_unique() == 1).then(named.first()).otherwise(pl.lit("U")).alias("sex"),
        pl.lit(None, dtype=pl.Int32).alias("birth_year"),
        pl.col("Race").drop_nulls().last().alias("race"),
        pl.col("Ethnicity").drop_nulls().last().alias("ethnicity"),
    )  # fmt: skip
    return Patients.check(patients.sort("patient_id")), conflicts


def index_times(encounters: pl.DataFrame, recordings: pl.DataFrame, channel: str) -> pl.DataFrame:
    """Set index_time: start of the earliest recording of the index channel, else arrival."""
    of_channel = recordings.filter(pl.col("channel") == channel)
    first = of_channel.group_by("encounter_id").agg(pl.col("start").min().alias("first"))
    joined = encounters.join(first, on="encounter_id", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("first", "start").alias("index_time")).drop("first")


def visit_codes(taken: pl.DataFrame, encounters: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the diagnoses of the visits themselves, dated by the visit's end and linked to it."""
    of = encounters.select(
        pl.col("encounter_id").alias("CSN"),
        pl.col("patient_id"),
        pl.coalesce("end", "start").dt.date().alias("recorded"),
    )
    rows = taken.join(of, on="CSN", how="inner", maintain_order="left")
    both_blank = pl.col("Dx_ICD9").is_null() & pl.col("Dx_ICD10").is_null()
    lost = [lose(rows.filter(both_blank), table="diagnoses", source="visits", reason="no_diagnosis")]
    parts = []
    for column, vocabulary in (("Dx_ICD9", "ICD9CM"), ("Dx_ICD10", "ICD10CM")):
        cells = rows.filter(pl.col(column).is_not_null()).select(
            "patient_id", pl.col("CSN").alias("encounter_id"), pl.col(column).alias("cell"),
            pl.lit(vocabulary).alias("vocabulary"), "recorded", "source_row",
        )  # fmt: skip
        diagnoses, rejects = explode(cells, source="visits")
        parts.append(diagnoses)
        lost.append(rejects)
    return pl.concat(parts), lost


def noted_codes(pmh: TextTable, patients: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the diagnoses noted in the patients' history."""

    def lost(rows: pl.DataFrame, reason: str, detail: pl.Expr | str | None = None) -> pl.DataFrame:
        return lose(rows, table="diagnoses", source="pmh", reason=reason, detail=detail)

    rows, rejects = pmh.rows, [pmh.rejects]
    rejects.append(lost(rows.filter(pl.col("MRN").is_null()), "blank_id"))
    rows = rows.filter(pl.col("MRN").is_not_null())
    stranger = ~pl.col("MRN").is_in(patients["patient_id"].implode())
    rejects.append(lost(rows.filter(stranger), "unknown_patient"))
    rows = rows.filter(~stranger)
    once = rows.unique(subset=PMH, keep="first", maintain_order=True)
    if len(once) < len(rows):
        rejects.append(lost(rows.join(once.select("source_row"), on="source_row", how="anti"), "duplicate_row"))
    rows = once.with_columns(
        parse_time(pl.col("Noted_date")).dt.date().alias("recorded"),
        pl.col("CodeType").str.to_lowercase().replace_strict(CODE_TYPES, default="unknown", return_dtype=pl.String)
        .fill_null("unknown").alias("vocabulary"),
    )  # fmt: skip
    unread = pl.col("recorded").is_null() & pl.col("Noted_date").is_not_null()
    rejects.append(lost(rows.filter(unread), "bad_time", "Noted_date"))
    rejects.append(lost(rows.filter(pl.col("vocabulary") == "unknown"), "unknown_code_system", pl.col("CodeType")))
    cells = rows.select(
        pl.col("MRN").alias("patient_id"), pl.lit(None, dtype=pl.String).alias("encounter_id"),
        pl.col("Code").alias("cell"), "vocabulary", "recorded", "source_row",
    )  # fmt: skip
    diagnoses, lost_cells = explode(cells, source="pmh")
    return diagnoses, [*rejects, lost_cells]


def _flow(
    visits: TextTable, pmh: TextTable, encounters: pl.DataFrame, patients: pl.DataFrame, recordings: pl.DataFrame,
    tree: Scan, noted: pl.DataFrame, channel: str,
) -> pl.DataFrame:  # fmt: skip
    """Count what came in and what is left, in the order of the steps."""
    of = encounters.select("encounter_id", "patient_id")
    with_any = of.filter(pl.col("encounter_id").is_in(pl.Series(tree.encounters, dtype=pl.String).implode()))
    usable = recordings.filter(pl.col("channel") == channel)
    with_index = of.filter(pl.col("encounter_id").is_in(usable["encounter_id"].unique().implode()))
    n_read = visits.rows["MRN"].drop_nulls().n_unique()
    undated = noted["recorded"].null_count()
    kept_rows = noted["source_row"].n_unique()
    return Flow.build(
        [
            flow_row("encounters", visits.n_rows, len(encounters), "rows of visits.csv that name no new encounter"),
            flow_row("encounters", len(encounters), len(with_any), "without a waveform folder"),
            flow_row("encounters", len(with_any), len(with_index), f"without a readable {channel} recording"),
            flow_row("patients", n_read, len(patients), "without an encounter that could be taken"),
            flow_row("patients", len(patients), with_any["patient_id"].n_unique(), "without a waveform folder"),
            flow_row("patients", with_any["patient_id"].n_unique(), with_index["patient_id"].n_unique(),
                     f"without a readable {channel} recording"),
            flow_row("recordings", tree.n_headers, len(tree.found), "headers or files that give no readable signal"),
            flow_row("recordings", len(tree.found), len(recordings), "of encounters that are not in visits.csv"),
            flow_row("recordings", len(recordings), len(usable), f"of the channel {channel}", note=True),
            flow_row("rows", pmh.n_rows, kept_rows, "rows of pmh.csv without a code, or of nobody in visits.csv"),
            flow_row("rows", kept_rows, kept_rows - undated, "with a readable date", note=True),
        ]
    )  # fmt: skip


SOURCE = Mcmed(load_card(Path(__file__).with_name("mcmed.toml")))
