"""Tables of the cohort: who, when, which signals and diagnoses, what was left out, and each patient's side."""

from __future__ import annotations

import polars as pl

from phewas.schema.tables import DATETIME, Chain, Column, Table


class Patients(Table):
    """One row per patient."""

    file = "cohort/patients.parquet"
    key = ("patient_id",)
    patient_id = Column(pl.String, "the source's patient identifier (MC-MED: MRN)")
    sex = Column(pl.String, "F, M, or U where unknown or contradictory", values=("F", "M", "U"))
    birth_year = Column(pl.Int32, "calendar year of birth; null in date-shifted sources", nullable=True)
    race = Column(pl.String, "as the source words it", nullable=True)
    ethnicity = Column(pl.String, "as the source words it", nullable=True)


class Encounters(Table):
    """One row per encounter (visit, stay, session)."""

    file = "cohort/encounters.parquet"
    key = ("encounter_id",)
    prefix = "src_"
    encounter_id = Column(pl.String, "the source's encounter identifier (MC-MED: CSN)")
    patient_id = Column(pl.String, "whose encounter")
    start = Column(DATETIME, "arrival", nullable=True)
    end = Column(DATETIME, "departure", nullable=True)
    index_time = Column(DATETIME, "start of the earliest recording of the index channel, else start", nullable=True)
    age = Column(pl.Float64, "age in years at the encounter", nullable=True)


class Recordings(Table):
    """One row per readable signal of one channel."""

    file = "cohort/recordings.parquet"
    key = ("recording_id",)
    recording_id = Column(pl.String, "unique name, stable between runs")
    encounter_id = Column(pl.String, "whose recording")
    channel = Column(pl.String, "PPG, ECG_II, RESP, ...")
    path = Column(pl.String, "file, relative to the data root, with forward slashes")
    member = Column(pl.String, "name inside an archive", nullable=True)
    signal = Column(pl.String, "the signal's name in the file")
    fs_hz = Column(pl.Float64, "samples per second")
    n_samples = Column(pl.Int64, "length in samples")
    start = Column(DATETIME, "time of the first sample; null where the header has no usable date", nullable=True)


class Diagnoses(Table):
    """One row per coded diagnosis."""

    file = "cohort/diagnoses.parquet"
    patient_id = Column(pl.String, "whose diagnosis")
    encounter_id = Column(pl.String, "set where the code was given for one encounter", nullable=True)
    code_raw = Column(pl.String, "as found in the source")
    code = Column(pl.String, "trimmed, upper case, dotted")
    vocabulary = Column(pl.String, "code system", values=("ICD9CM", "ICD10CM", "ICD10", "unknown"))
    recorded = Column(pl.Date, "day on which it was noted", nullable=True)
    certainty = Column(
        pl.String,
        "uncertain: never makes a case, and no control either; null: confirmed",
        nullable=True,
        values=("uncertain",),
    )
    source = Column(pl.String, "table it came from (pmh, visits, ...)")
    source_row = Column(pl.Int64, "1-based data row in that table, header not counted")


# Reason codes are a closed list, so that the flow diagram can name each loss in words.
REASONS: dict[str, str] = {
    "blank_id": "patient or encounter identifier is blank",
    "duplicate_encounter": "encounter identifier occurs before in the same table",
    "duplicate_row": "the same row occurs before in the same table",
    "encounter_of_two_patients": "encounter identifier is used by two patients",
    "unknown_patient": "patient identifier is not in the visit table",
    "unknown_encounter": "encounter identifier is not in the visit table",
    "bad_time": "time could not be read; the row is kept without it",
    "bad_number": "number could not be read; the row is kept without it",
    "negative_interval": "end lies before start; the end is dropped, the row is kept",
    "sex_conflict": "the patient's rows name both sexes; kept as unknown",
    "no_diagnosis": "the diagnosis cell is blank",
    "placeholder_code": "the code is a placeholder for 'no code'",
    "several_codes": "the cell held several codes and was split",
    "unknown_code_system": "the code system is blank or unknown; kept with vocabulary 'unknown'",
    "unknown_diagnosis": "diagnosis in words that have no code here; not taken",
    "short_row": "the row has another number of fields than the header",
    "header_missing": "signal file without header",
    "signal_missing": "header without signal file",
    "header_unreadable": "header could not be parsed",
    "several_signals": "header holds more signals than this layout allows",
    "unsupported_format": "signal is stored in a format that is not read",
    "foreign_file": "file that does not belong to the layout",
    "archive_not_unpacked": "archive among the waveforms that has to be unpacked first",
    "signal_truncated": "signal file is shorter than its header says",
    "zero_length": "recording has no samples",
    "no_date": "header has no usable date or time; the recording is kept without a start",
    "unexpected_rate": "sampling rate differs from the channel's usual one; the recording is kept",
    "not_in_summary": "waveform folder without a row in the summary; the recordings are kept",
    "summary_without_files": "summary row without waveform files",
    "summary_mismatch": "summary and files disagree on number or duration; the files are used",
    "missing_file": "a file that a table names is not there",
    "read_failed": "signal could not be read",
    "out_of_root": "path leaves the data root",
    "packed_copy": "the recording is also there unpacked, or in another archive; that copy is used",
}


class Rejects(Chain):
    """One row per source row or file that was not taken as it stood."""

    file = "cohort/rejects.parquet"
    later = ("segments/rejects.parquet",)
    table = Column(pl.String, "table the row would have entered (encounters, diagnoses, recordings)")
    source = Column(pl.String, "source table, or `waveforms`")
    source_row = Column(pl.Int64, "1-based data row, header not counted; null for files", nullable=True)
    path = Column(pl.String, "file, relative to the data root; null for rows", nullable=True)
    reason = Column(pl.String, "reason code", values=tuple(REASONS))
    detail = Column(pl.String, "what was found, without patient identifiers", nullable=True)


class Flow(Chain):
    """One row per loss, in order: what went in, what came out, and why."""

    file = "cohort/flow.parquet"
    later = ("cohort/flow_split.parquet", "segments/flow.parquet")
    step = Column(pl.String, "cohort, split, segments, ...")
    unit = Column(pl.String, "what is counted", values=("patients", "encounters", "recordings", "segments", "rows"))
    n_in = Column(pl.Int64, "number before")
    n_out = Column(pl.Int64, "number after")
    reason = Column(pl.String, "what was taken away, in words; for a note, what n_out of the n_in are")
    kind = Column(pl.String, "null: a loss; note: counted, nothing taken away", nullable=True, values=("note",))


SPLITS = ("train", "tuning", "held_out", "crossfit", "excluded")


class Splits(Table):
    """One row per patient: which side of the study they are on."""

    file = "cohort/splits.parquet"
    key = ("patient_id",)
    patient_id = Column(pl.String, "whose side")
    split = Column(pl.String, "the side", values=SPLITS)
    fold = Column(pl.Int8, "0-based fold; null unless split is crossfit", nullable=True)
    why = Column(pl.String, "the rule that decided, in words")
