"""Every table that one room hands to another: one class per table, one line per column.

Identifiers are strings. Times are naive local ``datetime[us]`` (never ns: MC-MED runs to the year 2295). Each class
says where the table lies below the run directory; `Table.check` is called at every boundary and raises `SchemaError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from phewas.errors import SchemaError

DATETIME = pl.Datetime("us")


@dataclass(frozen=True)
class Column:
    """One column: its dtype, its meaning, whether null is allowed and which values are."""

    dtype: Any
    doc: str
    nullable: bool = False
    values: tuple[str, ...] | None = None


class Table:
    """A table contract. Subclasses list their columns as class attributes; `prefix` allows further columns so named."""

    file: ClassVar[str] = ""
    key: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str | tuple[str, ...] | None] = None

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """Return the declared columns in order."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Column)}

    @classmethod
    def dtypes(cls) -> dict[str, Any]:
        """Return column names with their polars dtypes."""
        return {name: column.dtype for name, column in cls.columns().items()}

    @classmethod
    def empty(cls) -> pl.DataFrame:
        """Return a frame with no rows and every declared column."""
        return pl.DataFrame(schema=cls.dtypes())

    @classmethod
    def build(cls, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
        """Return a frame of the declared columns from dictionaries; a missing key is null."""
        return pl.DataFrame(list(rows), schema=cls.dtypes(), orient="row")

    @classmethod
    def check(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """Return `frame` with the declared columns first and in order.

        Raises
        ------
        SchemaError
            A column is missing, unknown, of another dtype, null where it must not be, outside its values, or the
            key is not unique.
        """
        declared, name = cls.columns(), cls.__name__.lower()
        missing = [c for c in declared if c not in frame.columns]
        if missing:
            raise SchemaError(f"table {name} lacks the columns {missing}", expected=", ".join(declared))
        extra = [c for c in frame.columns if c not in declared]
        stray = [c for c in extra if cls.prefix is None or not c.startswith(cls.prefix)]
        if stray:
            raise SchemaError(f"table {name} has columns it does not know: {stray}", expected=", ".join(declared))
        for column, rule in declared.items():
            series = frame.get_column(column)
            if series.dtype != rule.dtype:
                raise SchemaError(f"{name}.{column} is {series.dtype}", expected=str(rule.dtype))
            if not rule.nullable and series.null_count():
                raise SchemaError(f"{name}.{column} is null in {series.null_count()} rows", expected=rule.doc)
            if rule.values is not None:
                odd = series.drop_nulls().unique().filter(~series.drop_nulls().unique().is_in(list(rule.values)))
                if len(odd):
                    raise SchemaError(f"{name}.{column} holds {odd.to_list()[:5]}", expected=" / ".join(rule.values))
        if cls.key and frame.select(cls.key).is_duplicated().any():
            raise SchemaError(f"{name} has several rows for one {' + '.join(cls.key)}", expected="one row each")
        return frame.select([*declared, *extra])

    @classmethod
    def write(cls, frame: pl.DataFrame, run: Path) -> Path:
        """Check `frame` and write it to its place below the run directory, under a temporary name first."""
        from phewas.rundir import write_parquet

        return write_parquet(cls.check(frame), run / cls.file)

    @classmethod
    def read(cls, run: Path) -> pl.DataFrame:
        """Read the table from the run directory and check it."""
        source = run / cls.file
        if not source.is_file():
            raise SchemaError(
                f"{source} is missing",
                expected=f"the table {cls.__name__.lower()}",
                cure="run the step that writes it: phewas run",
            )
        return cls.check(pl.read_parquet(source, hive_partitioning=False))


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


class Chain(Table):
    """A table that several steps write a part of, each to a file of its own."""

    later: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def read_all(cls, run: Path) -> pl.DataFrame:
        """Read the cohort's part and, where they are there, the later steps' parts, in order."""
        parts = [run / cls.file, *(run / name for name in cls.later if (run / name).is_file())]
        return pl.concat([cls.read(run), *(cls.check(pl.read_parquet(part)) for part in parts[1:])])


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


class Phenotypes(Table):
    """One row per phenotype of the vocabulary."""

    file = "phenotypes/phenotypes.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "identifier; phecodes stay text (008, 250.2)")
    description = Column(pl.String, "in words")
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's own chapter number")
    sex = Column(pl.String, "who can have it", values=("both", "F", "M"))
    vocabulary = Column(pl.String, "name and version")
    same_as = Column(pl.String, "the first phenotype with identical labels", nullable=True)


class LabelRows(Table):
    """Rows of ``phenotypes/labels.npy`` (int8 [encounters, phenotypes]: 1 case, 0 control, -1 excluded)."""

    file = "phenotypes/label_rows.parquet"
    key = ("encounter_id",)
    encounter_id = Column(pl.String, "row")
    patient_id = Column(pl.String, "whose encounter")


class LabelColumns(Table):
    """Columns of ``phenotypes/labels.npy``."""

    file = "phenotypes/label_columns.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "column")


LABELS_PATH = "phenotypes/labels.npy"


class Unmapped(Table):
    """Codes that reached no phenotype."""

    file = "phenotypes/unmapped.parquet"
    code = Column(pl.String, "normalised code")
    vocabulary = Column(pl.String, "code system")
    n_rows = Column(pl.Int64, "rows of diagnoses")
    n_patients = Column(pl.Int64, "patients")
    reason = Column(pl.String, "why it reached none")


class Windows(Table):
    """The encoder-independent choice of windows, in store row order.

    Where several channels are matched, the columns of the first have plain names, and those of the others end in the
    channel's name (``recording_id_ECG_II``, ``q_flat_ECG_II``).
    """

    prefix = ("q_", "recording_id_", "start_sample_")
    key = ("segment_id",)
    segment_id = Column(pl.String, "recording_id:start_sample")
    encounter_id = Column(pl.String, "whose window")
    patient_id = Column(pl.String, "whose window")
    recording_id = Column(pl.String, "where it lies")
    start_sample = Column(pl.Int64, "first sample in the recording")
    draw = Column(pl.Int32, "0-based place in the encounter's hashed order")


class PredictionRows(Table):
    """Rows of ``predictions/logits.npy`` (float32 [encounters, phenotypes], mean over segments)."""

    file = "predictions/rows.parquet"
    key = ("encounter_id",)
    encounter_id = Column(pl.String, "row")
    patient_id = Column(pl.String, "whose encounter")
    split = Column(pl.String, "the patient's side", values=SPLITS)
    fold = Column(pl.Int8, "fold whose model scored the row", nullable=True)
    model_id = Column(pl.String, "which model scored the row")
    n_segments = Column(pl.Int32, "segments averaged")


class PredictionColumns(Table):
    """Columns of ``predictions/logits.npy``."""

    file = "predictions/columns.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "column")


LOGITS_PATH = "predictions/logits.npy"


class PermutationNull(Table):
    """Cross-fitted runs only: what AUCs look like when patients' label rows are shuffled."""

    file = "predictions/permutation_null.parquet"
    phenotype = Column(pl.String, "which phenotype")
    permutation = Column(pl.Int32, "0-based")
    auc = Column(
        pl.Float64, "AUC of the cross-fitted encoder scores against shuffled labels; null if undefined", nullable=True
    )
    se = Column(pl.Float64, "its patient-clustered DeLong standard error", nullable=True)


class PhenotypeResults(Table):
    """The result: one row per phenotype, untested ones with their reason."""

    file = "results/phenotypes.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "identifier")
    description = Column(pl.String, "in words")
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number")
    sex = Column(pl.String, "who can have it", values=("both", "F", "M"))
    vocabulary = Column(pl.String, "name and version")
    label_window = Column(pl.String, "history, through_visit, any or future")
    status = Column(pl.String, "tested, or why not (too_few_cases, too_few_controls, too_few_training_cases, no_cases)")
    flags = Column(pl.String, "few_cases; approximate_interval; zero_variance; ... separated by '; ', empty if none")
    unit = Column(pl.String, "what a row of the analysis is", values=("encounter", "patient", "segment"))
    n_patients = Column(pl.Int64, "patients scored and not excluded")
    n_cases = Column(pl.Int64, "units labelled case")
    n_controls = Column(pl.Int64, "units labelled control")
    n_excluded = Column(pl.Int64, "units labelled neither")
    n_case_patients = Column(pl.Int64, "patients with at least one case unit")
    n_control_patients = Column(pl.Int64, "patients with at least one control unit")
    prevalence = Column(pl.Float64, "n_cases / (n_cases + n_controls); null if both are 0", nullable=True)
    auc = Column(pl.Float64, "area under the ROC curve", nullable=True)
    auc_se = Column(pl.Float64, "its standard error, patient-clustered", nullable=True)
    auc_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    auc_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    ci_method = Column(pl.String, "how the interval was made", nullable=True)
    p_value = Column(pl.Float64, "two-sided p against AUC 0.5; may underflow to 0", nullable=True)
    neg_log10_p = Column(pl.Float64, "-log10 p without underflow", nullable=True)
    p_test = Column(pl.String, "the test behind p", nullable=True)
    df = Column(pl.Float64, "degrees of freedom of that test", nullable=True)
    q_fdr = Column(pl.Float64, "Benjamini-Hochberg q over the fixed family", nullable=True)
    p_bonferroni = Column(pl.Float64, "Bonferroni-adjusted p", nullable=True)
    average_precision = Column(pl.Float64, "area under the precision-recall steps", nullable=True)
    ap_lift = Column(pl.Float64, "average_precision / prevalence", nullable=True)
    baseline_auc = Column(pl.Float64, "AUC of age + sex on the same units", nullable=True)
    baseline_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    baseline_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_auc = Column(pl.Float64, "auc - baseline_auc", nullable=True)
    delta_se = Column(pl.Float64, "its paired standard error, patient-clustered", nullable=True)
    delta_low = Column(pl.Float64, "lower 95 % bound", nullable=True)
    delta_high = Column(pl.Float64, "upper 95 % bound", nullable=True)
    delta_p = Column(pl.Float64, "two-sided p of no difference", nullable=True)
    delta_q = Column(pl.Float64, "Benjamini-Hochberg q of delta_p", nullable=True)
    min_detectable_auc = Column(pl.Float64, "AUC that 80 % power needs at 0.05 two-sided", nullable=True)
    same_as = Column(pl.String, "phenotype with identical labels that stands in the family instead", nullable=True)


class ChapterResults(Table):
    """One row per chapter over tested phenotypes of the family."""

    file = "results/chapters.parquet"
    key = ("chapter",)
    chapter = Column(pl.String, "chapter name")
    chapter_order = Column(pl.Int16, "the vocabulary's chapter number")
    n_phenotypes = Column(pl.Int64, "phenotypes in the vocabulary")
    n_tested = Column(pl.Int64, "tested")
    n_significant = Column(pl.Int64, "q_fdr < 0.05 and auc > 0.5")
    n_auc_70 = Column(pl.Int64, "auc >= 0.70")
    mean_auc = Column(pl.Float64, "mean AUC of the tested", nullable=True)
    median_auc = Column(pl.Float64, "median AUC of the tested", nullable=True)
    n_beats_baseline = Column(pl.Int64, "delta_q < 0.05 and delta_auc > 0")


class Overview(Table):
    """Headline figures: one row each."""

    file = "results/overview.parquet"
    key = ("measure",)
    measure = Column(pl.String, "name of the figure")
    value = Column(pl.Float64, "the figure", nullable=True)
    meaning = Column(pl.String, "in words")


class Shift(Table):
    """How those who are tested differ from those who trained: one row per variable, and per level of a category."""

    file = "results/shift.parquet"
    key = ("comparison", "variable", "level")
    comparison = Column(pl.String, "held_out: against training (tuning included); fold K: against the other folds")
    variable = Column(pl.String, "age, sex, race, ethnicity, encounters_per_patient, prior_codes or chapter")
    level = Column(pl.String, "the category; empty for the variable as a whole")
    kind = Column(pl.String, "what the numbers are", values=("continuous", "category"))
    unit = Column(pl.String, "what is counted", values=("patients", "encounters"))
    n_tested = Column(pl.Int64, "tested units with a value")
    n_training = Column(pl.Int64, "training units with a value")
    missing_tested = Column(pl.Int64, "tested units without a value")
    missing_training = Column(pl.Int64, "training units without a value")
    count_tested = Column(pl.Int64, "tested units of this level; null for a variable as a whole", nullable=True)
    count_training = Column(pl.Int64, "training units of this level; null for a variable as a whole", nullable=True)
    mean_tested = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    mean_training = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    sd_tested = Column(pl.Float64, "its standard deviation", nullable=True)
    sd_training = Column(pl.Float64, "its standard deviation", nullable=True)
    smd = Column(
        pl.Float64, "standardised mean difference, tested minus training; unsigned for a category as a whole; null if "
        "undefined", nullable=True,
    )  # fmt: skip


class Table1(Table):
    """Who was studied, by side: one row per side and variable, and per level of a category."""

    file = "results/table1.parquet"
    key = ("side", "variable", "level")
    side = Column(pl.String, "train, tuning, held_out or crossfit", values=SPLITS)
    variable = Column(pl.String, "age, sex, race, ethnicity, encounters_per_patient, prior_codes or chapter")
    level = Column(pl.String, "the category; empty for a continuous variable")
    unit = Column(pl.String, "what is counted", values=("patients", "encounters"))
    n = Column(pl.Int64, "units with a value")
    missing = Column(pl.Int64, "units without a value")
    count = Column(pl.Int64, "units of this level; null for a continuous variable", nullable=True)
    mean = Column(pl.Float64, "mean of a continuous variable", nullable=True)
    sd = Column(pl.Float64, "its standard deviation; null below two units", nullable=True)
    median = Column(pl.Float64, "its median", nullable=True)
    q25 = Column(pl.Float64, "its lower quartile", nullable=True)
    q75 = Column(pl.Float64, "its upper quartile", nullable=True)
