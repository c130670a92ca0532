"""What the rivals of the encoder are told about an encounter: vital signs, earlier use of care, how it was recorded.

All inputs are read from the run's own tables, one value per label row, without a look at the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.schema import Definitions, Diagnoses, Encounters, LabelRows, Recordings

Floats = NDArray[np.float64]
Texts = NDArray[np.str_]

NUMERIC_SHARE = 0.9
"""Share of a text column's values that must read as numbers for it to enter as a number."""

# What depends on the wave itself is no property of the recording: the pulse rate, how alike the beats are, and the
# level and spread of the raw window, which an other shape of the wave changes, too.
QUALITY = ("q_invalid", "q_flat", "q_saturated", "q_wrapped", "q_step")


@dataclass(frozen=True)
class Inputs:
    """What one rival knows of each of N label rows.

    Attributes
    ----------
    rival
        Its name.
    numbers, categories, hours
        Inputs by name: float64 [N] (NaN unknown), text [N] (empty unknown), and hours of the day, float64 [N] in
        [0, 24) (NaN unknown), which enter as a circle.
    eligible
        bool [N], rows that may be learned from: encounters as those that are scored. None: all.
    reason
        Why there is no such rival; None where there is.
    """

    rival: str
    numbers: Mapping[str, Floats] = field(default_factory=dict)
    categories: Mapping[str, Texts] = field(default_factory=dict)
    hours: Mapping[str, Floats] = field(default_factory=dict)
    eligible: NDArray[np.bool_] | None = None
    reason: str | None = None


def absent(rival: str, reason: str) -> Inputs:
    """Return a rival that cannot be had, with the reason in words."""
    return Inputs(rival, reason=reason)


def restricted(inputs: Inputs, run: Path, encounters: pl.Series) -> Inputs:
    """Return the inputs with only some encounters to learn from: those with windows, as the encoder's are."""
    rows = LabelRows.read(run)["encounter_id"].is_in(encounters.unique().to_list()).to_numpy()
    return replace(inputs, eligible=np.asarray(rows, dtype=bool))


def _rows(run: Path) -> pl.DataFrame:
    """Return the encounters in label row order."""
    return LabelRows.read(run).select("encounter_id").join(
        Encounters.read(run), on="encounter_id", how="left", maintain_order="left")


def _number(values: pl.Series) -> Floats:
    """Return a column as float64, NaN where it is null or no number (a comma may stand for the point)."""
    if values.dtype == pl.String:
        values = values.str.strip_chars().str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    found = values.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(found), found, np.nan)


def _text(values: pl.Series) -> Texts:
    return values.cast(pl.String).str.strip_chars().fill_null("").to_numpy().astype(str)


def _columns(rows: pl.DataFrame, names: Sequence[str]) -> tuple[dict[str, Floats], dict[str, Texts]]:
    """Return columns of the encounters as numbers where they read as numbers, else as categories."""
    numbers: dict[str, Floats] = {}
    categories: dict[str, Texts] = {}
    for name in names:
        column = rows[f"src_{name}"]
        found, known = _number(column), len(column) - column.null_count()
        if column.dtype.is_numeric() or (known and np.isfinite(found).sum() >= NUMERIC_SHARE * known):
            numbers[name] = found
        else:
            categories[name] = _text(column)
    return numbers, categories


def vitals(run: Path, columns: Sequence[str]) -> Inputs:
    """Return the rival ``vitals``: vital signs as the source notes them on arrival.

    Parameters
    ----------
    run
        The run directory.
    columns
        Columns of the encounters, without ``src_``; those that the table lacks are passed over.
    """
    rows = _rows(run)
    there = [name for name in columns if f"src_{name}" in rows.columns]
    if not there:
        return absent("vitals", "the cohort offers no vital signs")
    numbers, categories = _columns(rows, there)
    return Inputs("vitals", numbers, categories)


def utilisation(run: Path) -> Inputs:
    """Return the rival ``utilisation``: how much care the patient has had before the encounter.

    The logarithms of one plus: earlier encounters; distinct codes and distinct phenotypes first noted on a day before
    that of the encounter's start (of its index time where the start is unknown). What belongs to the encounter itself
    never counts, whatever its date, and nothing that is dated later does. Unknown where the encounter has no date.

    Notes
    -----
    Most label windows count earlier diagnoses, too: how many there are is then a part of how the label came about, and
    a rival that does well says that the label is known to those who come often, not that the disease is seen.
    """
    rows = _rows(run).with_columns(at=pl.coalesce("start", "index_time"))
    codes = _Codes.of(rows["patient_id"])
    owner = codes(rows["patient_id"])
    moment, known = _moments(rows["at"])
    day = np.floor_divide(moment, 86_400_000_000)
    everyone = Encounters.read(run).with_columns(at=pl.coalesce("start", "index_time"))
    visits = everyone.filter(pl.col("at").is_not_null())
    counts = {"earlier_encounters": _earlier(codes(visits["patient_id"]), _moments(visits["at"])[0], owner, moment)}
    noted = _noted(run, everyone)
    counts["earlier_codes"] = _first_days(noted, "code", codes, owner, day)
    if (run / Definitions.file).is_file():
        named = Definitions.read(run).select(vocabulary="code_system", code="code", phenotype="phenotype")
        mapped = noted.join(named, on=["vocabulary", "code"], how="inner")
        counts["earlier_phenotypes"] = _first_days(mapped, "phenotype", codes, owner, day)
    if not known.any() or not any((found[known] > 0).any() for found in counts.values()):
        return absent("utilisation", "no encounter has a dated diagnosis or encounter before it")
    return Inputs("utilisation", {name: np.where(known, np.log1p(found), np.nan) for name, found in counts.items()})


def _moments(values: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return microseconds since 1970, and where they are known."""
    known = values.is_not_null().to_numpy()
    return values.dt.epoch("us").fill_null(0).to_numpy().astype(np.int64), known


@dataclass(frozen=True)
class _Codes:
    """Patients as numbers."""

    number: dict[str, int]

    @classmethod
    def of(cls, patients: pl.Series) -> _Codes:
        return cls({name: k for k, name in enumerate(patients.unique().sort().to_list())})

    def __call__(self, patients: pl.Series) -> NDArray[np.int64]:
        """Return the number of each, -1 for strangers."""
        return np.array([self.number.get(name, -1) for name in patients.to_list()], dtype=np.int64)


def _earlier(
    event_of: NDArray[np.int64], event_at: NDArray[np.int64], owner: NDArray[np.int64], at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many events of its patient lie strictly before each row."""
    order = np.lexsort((event_at, event_of))
    of, when = event_of[order], event_at[order]
    first, last = np.searchsorted(of, owner, side="left"), np.searchsorted(of, owner, side="right")
    found = np.zeros(len(owner), dtype=np.int64)
    for row in np.flatnonzero(last > first):
        found[row] = np.searchsorted(when[first[row] : last[row]], at[row], side="left")
    return found


def _noted(run: Path, encounters: pl.DataFrame) -> pl.DataFrame:
    """Return dated diagnoses with the day from which they count as earlier.

    A code that was given for an encounter counts from that encounter's day at the earliest, so that an encounter never
    has its own codes before it.
    """
    began = encounters.select("encounter_id", began=pl.col("at").dt.date())
    return Diagnoses.read(run).filter(pl.col("recorded").is_not_null() & pl.col("certainty").is_null()).join(
        began, on="encounter_id", how="left").with_columns(day=pl.max_horizontal("recorded", "began"))


def _first_days(
    noted: pl.DataFrame, what: str, codes: _Codes, owner: NDArray[np.int64], day: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many distinct codes or phenotypes of its patient were first noted before each row's day."""
    keys = ["patient_id", "vocabulary", what] if what == "code" else ["patient_id", what]
    first = noted.group_by(keys).agg(pl.col("day").min())
    return _earlier(codes(first["patient_id"]), first["day"].dt.epoch("d").to_numpy().astype(np.int64), owner, day)


def acquisition(
    run: Path, windows: pl.DataFrame, *, channels: Sequence[str], columns: Sequence[str], most: int | None
) -> Inputs:
    """Return the rival ``acquisition``: how the signal came about, and nothing of its shape.

    Segments, recordings and recorded seconds of the encounter's channels (logarithms), the shares of missing, flat,
    clipped and overflowing samples, the step of digitisation (its logarithm: the gain shows in it), the sampling rate,
    the kind of file, the hour at which recording began, and how the patient arrived (`columns`).

    Parameters
    ----------
    run
        The run directory.
    windows
        `phewas.schema.Windows`.
    channels
        Of the encoder, the first with plain column names.
    columns
        Columns of the encounters, without ``src_``: how patients arrive.
    most
        Windows that count: training patients may keep a larger pool than those that are scored.
    """
    rows = _rows(run)
    recordings = Recordings.read(run).filter(pl.col("channel").is_in(list(channels)))
    length = pl.col("n_samples") / pl.col("fs_hz")
    suffix = pl.col("path").str.extract(r"\.([A-Za-z0-9]+)$").str.to_lowercase()
    stored = recordings.group_by("encounter_id").agg(
        recordings=pl.len().log1p(), recorded_s=length.sum().log1p(), rate_hz=pl.col("fs_hz").mean(),
        file=suffix.drop_nulls().sort().first())
    count = pl.len() if most is None else pl.min_horizontal(pl.len(), pl.lit(most))
    suffixes = ["", *(f"_{channel}" for channel in channels[1:])]
    measured = [f"{name}{end}" for name in QUALITY for end in suffixes if f"{name}{end}" in windows.columns]
    values = {name: pl.col(name).cast(pl.Float64).fill_nan(None) for name in measured}
    means = [(value.log() if name.startswith("q_step") else value).mean() for name, value in values.items()]
    seen = windows.group_by("encounter_id").agg(count.log1p().alias("segments"), *means)
    joined = rows.join(stored, on="encounter_id", how="left", maintain_order="left").join(
        seen, on="encounter_id", how="left", maintain_order="left")
    there = [name for name in columns if f"src_{name}" in rows.columns]
    numbers, categories = _columns(joined, there)
    numbers |= {name: _number(joined[name]) for name in ("segments", "recordings", "recorded_s", "rate_hz", *measured)}
    categories["file"] = _text(joined["file"])
    moment = joined["index_time"]
    hour = (moment.dt.hour() + moment.dt.minute() / 60).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return Inputs("acquisition", numbers, categories, {"hour": hour})


def measured(run: Path, rival: str, encounters: pl.DataFrame, names: Sequence[str]) -> Inputs:
    """Return a rival of measured features.

    Parameters
    ----------
    run
        The run directory.
    rival
        Its name.
    encounters
        encounter_id and `embedding` (array of width F): each encounter's mean over its windows, NaN where none shows
        the feature.
    names
        The F features.
    """
    place: dict[str, int] = {name: k for k, name in enumerate(encounters["encounter_id"].to_list())}
    values = encounters["embedding"].to_numpy().astype(np.float64)
    at = np.array([place.get(name, -1) for name in LabelRows.read(run)["encounter_id"].to_list()], dtype=np.int64)
    found: NDArray[Any] = np.full((len(at), len(names)), np.nan)
    found[at >= 0] = values[at[at >= 0]]
    return Inputs(rival, {name: found[:, k] for k, name in enumerate(names)})
