"""From the scanned waveform tree of MC-MED to recordings, and a comparison with its summary table."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from phewas.cohorts.base import Loss, lose, losses
from phewas.cohorts.csvtext import parse_number, read_table
from phewas.cohorts.wavescan import Found, Scan
from phewas.errors import CohortError
from phewas.schema import Recordings

CHANNELS = {"Pleth": "PPG", "II": "ECG_II", "Resp": "RESP"}
RATES_HZ = {"Pleth": 125.0, "II": 500.0, "Resp": 62.5}
SUMMARY = ("CSN", "Type", "Segments", "Duration")
WAVEFORMS = "waveforms"


def to_recordings(
    tree: Scan, encounters: pl.DataFrame, visits: pl.DataFrame
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the recordings of known encounters, and what became of every other file."""
    known, seen = set(encounters["encounter_id"]), set(tree.encounters)
    if seen and not seen & known:
        named = seen & set(visits["MRN"].drop_nulls())
        hint = (
            f"{len(named)} of them an MRN of visits.csv: the two columns look swapped"
            if named
            else "none a CSN of visits.csv"
        )
        raise CohortError(
            f"no waveform folder belongs to a visit: {len(seen)} folders, {hint}",
            expected="folders named by the visit's CSN",
            cure="check the column names of visits.csv, and that tables and waveforms are of one release",
        )
    lost = [f for f in tree.found if f.encounter_id not in known]
    strangers = [Loss("recordings", "waveforms", "unknown_encounter", path=_whole_path(f)) for f in lost]
    refused = [Loss("recordings", "waveforms", r.reason, path=r.path, detail=r.detail) for r in tree.refused]
    kept = [f for f in tree.found if f.encounter_id in known]
    frame = pl.DataFrame(
        {
            "recording_id": [f.place.removesuffix(".hea") for f in kept],
            "encounter_id": [f.encounter_id for f in kept],
            "channel": [CHANNELS[f.folder] for f in kept],
            "path": [f.path for f in kept],
            "member": [f.member for f in kept],
            "signal": [f.signal for f in kept],
            "fs_hz": [f.fs_hz for f in kept],
            "n_samples": [f.n_samples for f in kept],
            "start": [f.start for f in kept],
        },
        schema=Recordings.dtypes(),
    )
    return Recordings.check(frame), [losses([*strangers, *refused])]


def _whole_path(one: Found) -> str:
    """Return the header's path, through the archive where it is packed."""
    return f"{one.path}/{one.member}" if one.member else one.path


def compare_summary(path: Path, tree: Scan) -> list[pl.DataFrame]:
    """Compare waveform_summary.csv with the files. The files decide; each difference is told."""
    if not path.is_file():
        return []
    table = read_table(path, needs=SUMMARY, table="recordings")
    usual = {n.casefold(): n for n in CHANNELS}
    claims = table.rows.with_columns(
        pl.col("Type").str.to_lowercase().replace_strict(usual, default=None, return_dtype=pl.String).alias("folder"),
        parse_number(pl.col("Segments")).alias("claimed"),
        parse_number(pl.col("Duration")).alias("claimed_s"),
    )
    held = pl.DataFrame(
        {
            "CSN": [f.encounter_id for f in tree.found],
            "folder": [f.folder for f in tree.found],
            "held_s": [f.n_samples / f.fs_hz for f in tree.found],
        },
        schema={"CSN": pl.String, "folder": pl.String, "held_s": pl.Float64},
    ).group_by("CSN", "folder").agg(pl.len().alias("held"), pl.col("held_s").sum())  # fmt: skip
    both = claims.join(held, on=["CSN", "folder"], how="left", maintain_order="left")

    def lost(rows: pl.DataFrame, reason: str, detail: pl.Expr | None = None) -> pl.DataFrame:
        return lose(rows, table="recordings", source=path.stem, reason=reason, detail=detail)

    blank = pl.col("CSN").is_null()
    nothing = ~blank & pl.col("held").is_null()
    close = (pl.col("claimed_s") - pl.col("held_s")).abs() <= 0.01 * pl.col("held_s") + 0.5
    differs = pl.col("held").is_not_null() & ~((pl.col("claimed") == pl.col("held")) & close).fill_null(value=False)
    what = pl.format("{}: {} segments claimed, {} readable", "folder", "Segments", "held")
    silent = held.join(claims.select("CSN", "folder"), on=["CSN", "folder"], how="anti").sort("CSN", "folder")
    where = {(f.encounter_id, f.folder): _whole_path(f).rsplit("/", 1)[0] for f in tree.found}
    return [
        table.rejects,
        lost(both.filter(blank), "blank_id"),
        lost(both.filter(nothing), "summary_without_files", pl.col("Type")),
        lost(both.filter(differs), "summary_mismatch", what),
        losses(
            Loss("recordings", "waveforms", "not_in_summary", path=where[csn, folder])
            for csn, folder in silent.select("CSN", "folder").iter_rows()
        ),
    ]
