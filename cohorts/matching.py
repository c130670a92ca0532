"""Which encounter a recording belongs to, where the source says only whose it is and when it was made."""

from __future__ import annotations

import polars as pl

from phewas.cohorts.base import lose
from phewas.schema import Recordings, Rejects

MARGIN_H = 24.0


def match(
    recordings: pl.DataFrame, *, encounters: pl.DataFrame, patients: pl.DataFrame, margin_h: float = MARGIN_H
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give recordings to encounters by patient and time.

    Parameters
    ----------
    recordings
        recording_id, patient_id, channel, path, signal, fs_hz, n_samples, start (null allowed).
    encounters, patients
        The cohort's tables. An encounter without an end is taken as a moment.
    margin_h
        A recording that overlaps no encounter goes to the nearest one if it lies within so many hours of it.

    Returns
    -------
    recordings, rejects
        The recordings table (by encounter, start, id) and what found no encounter. Of several encounters the one with
        the longest overlap counts, of those the one that starts last (an emergency stay inside an admission). A
        recording without a start goes to the patient's encounter if there is only one.
    """
    columns = [c for c in Recordings.columns() if c in recordings.columns]
    rows = recordings.select("patient_id", *columns).with_row_index("row")
    twice = ~pl.col("recording_id").is_first_distinct()
    repeated = file_losses(rows.filter(twice), "duplicate_row", "another file of this name holds the same channel")
    rows = rows.filter(~twice)
    span = pl.duration(microseconds=(pl.col("n_samples") / pl.col("fs_hz") * 1e6).round().cast(pl.Int64))
    of = encounters.select(
        "patient_id", "encounter_id", pl.col("start").alias("from"), pl.coalesce("end", "start").alias("to")
    )
    timed = rows.filter(pl.col("start").is_not_null()).with_columns((pl.col("start") + span).alias("stop"))
    pairs = timed.select("row", "patient_id", "start", "stop").join(
        of.filter(pl.col("from").is_not_null()), on="patient_id"
    )
    shared = (pl.min_horizontal("stop", "to") - pl.max_horizontal("start", "from")).dt.total_microseconds()
    near = (
        pairs.with_columns(shared.alias("shared"))
        .filter(pl.col("shared") >= -margin_h * 3.6e9)
        .sort("row", "shared", "from", "encounter_id", descending=[False, True, True, False])
        .unique("row", keep="first", maintain_order=True)
        .select("row", "encounter_id")
    )
    only = of.filter(pl.len().over("patient_id") == 1).select("patient_id", "encounter_id")
    undated = rows.filter(pl.col("start").is_null()).join(only, on="patient_id").select("row", "encounter_id")
    joined = rows.join(pl.concat([near, undated]), on="row", how="left", maintain_order="left")
    lost = joined.filter(pl.col("encounter_id").is_null())
    known = pl.col("patient_id").is_in(patients["patient_id"].implode())
    rejects = [
        repeated,
        file_losses(lost.filter(~known), "unknown_patient"),
        file_losses(lost.filter(known & pl.col("start").is_null()), "unknown_encounter",
                    "no date, and the patient has several encounters or none"),
        file_losses(lost.filter(known & pl.col("start").is_not_null()), "unknown_encounter",
                    f"no encounter of the patient within {margin_h:g} h"),
    ]  # fmt: skip
    return to_recordings(joined.filter(pl.col("encounter_id").is_not_null())), pl.concat(rejects)


def to_recordings(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the recordings table, by encounter, start and id."""
    if "member" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, dtype=pl.String).alias("member"))
    ordered = rows.sort("encounter_id", "start", "recording_id", nulls_last=True)
    return Recordings.check(ordered.select(list(Recordings.columns())))


def file_losses(rows: pl.DataFrame, reason: str, detail: str | None = None) -> pl.DataFrame:
    """Return one rejects row for each file among `rows` (column ``path``)."""
    files = rows.select("path").unique(maintain_order=True)
    numbered = files.with_columns(pl.lit(None, dtype=pl.Int64).alias("source_row"))
    out = lose(numbered, table="recordings", source="waveforms", reason=reason, detail=detail)
    return Rejects.check(out.with_columns(files["path"].alias("path"))) if len(files) else Rejects.empty()
