"""Recordings that a table lists: one row per file and channel, with what the file itself does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from phewas.cohorts.assemble import told
from phewas.cohorts.base import Loss, losses
from phewas.cohorts.csvtext import parse_number, parse_time
from phewas.cohorts.matching import file_losses, match, to_recordings
from phewas.cohorts.records import CHANNELS, read_record
from phewas.errors import SignalError
from phewas.schema import DATETIME
from phewas.segments.readers import confine

# What a recordings table may say of a file; `path` is the only one that must be there.
COLUMNS = ("recording_id", "encounter_id", "patient_id", "path", "channel", "signal", "fs_hz", "n_samples", "start")
SOURCE = "recordings"
PLAIN_CHANNELS = ("PPG", "ECG_I", "ECG_II", "RESP")
_FOUND: dict[str, Any] = {
    "row": pl.UInt32, "f_channel": pl.String, "f_path": pl.String, "f_signal": pl.String, "f_fs": pl.Float64,
    "f_n": pl.Int64, "f_start": DATETIME,
}  # fmt: skip


def take_recordings(
    root: Path,
    rows: pl.DataFrame,
    *,
    encounters: pl.DataFrame,
    patients: pl.DataFrame,
    channels: Mapping[str, str] = CHANNELS,
    read_time: Callable[[pl.Expr], pl.Expr] = parse_time,
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Judge the rows of a recordings table.

    Parameters
    ----------
    root
        Data root; `path` is relative to it.
    rows
        source_row and `COLUMNS`, all text, null where the table does not say.
    encounters, patients
        The cohort's tables. A row without an encounter goes to one of its patient by time.
    channels
        Words of the channel column, or signal names of a header, in lower case, and the channel each is. A word that
        is a channel itself (``PPG``) is taken as it is.
    read_time
        Reads the start.

    Returns
    -------
    recordings, rejects
        A WFDB header (``.hea``) says signal, rate, length and start itself; what the table says of the start wins. An
        array (``.npy``) or numbers as text (``.txt``, ``.csv``, ``.tsv``) need ``fs_hz``.
    """
    rows = rows.with_columns(source=pl.lit(SOURCE)).with_row_index("row")

    def lost(some: pl.DataFrame, reason: str, detail: str | None = None) -> pl.DataFrame:
        return told(some, table="recordings", reason=reason, detail=detail)

    nobody = pl.col("encounter_id").is_null() & pl.col("patient_id").is_null()
    rejects = [lost(rows.filter(nobody), "blank_id")]
    rows = rows.filter(~nobody)
    rejects.append(lost(rows.filter(pl.col("path").is_null()), "missing_file", "the cell of the path is blank"))
    rows = rows.filter(pl.col("path").is_not_null())
    of = encounters.select("encounter_id", pl.col("patient_id").alias("owner"))
    rows = rows.join(of, on="encounter_id", how="left", maintain_order="left")
    stray = pl.col("encounter_id").is_not_null() & pl.col("owner").is_null()
    rejects.append(lost(rows.filter(stray), "unknown_encounter"))
    rows = rows.filter(~stray)
    other = (pl.col("patient_id") != pl.col("owner")).fill_null(value=False)
    rejects.append(lost(rows.filter(other), "encounter_of_two_patients"))
    rows = rows.filter(~other)
    again = ~pl.struct("encounter_id", "patient_id", "path", "channel", "signal").is_first_distinct()
    rejects.append(lost(rows.filter(again), "duplicate_row"))
    rows = rows.filter(~again).with_columns(
        pl.col("path").str.replace_all("\\", "/", literal=True).alias("path"),
        parse_number(pl.col("fs_hz")).alias("fs"), parse_number(pl.col("n_samples")).cast(pl.Int64).alias("n"),
        read_time(pl.col("start")).alias("at"),
    )  # fmt: skip
    for column, parsed, reason in (("fs_hz", "fs", "bad_number"), ("n_samples", "n", "bad_number"),
                                   ("start", "at", "bad_time")):  # fmt: skip
        rejects.append(lost(rows.filter(pl.col(column).is_not_null() & pl.col(parsed).is_null()), reason, column))
    found, missing = _open(root, rows, channels)
    joined = rows.join(found, on="row").with_columns(
        pl.coalesce("at", "f_start").alias("start"), pl.col("f_channel").alias("channel"),
        pl.col("f_path").alias("path"), pl.col("f_signal").alias("signal"), pl.col("f_fs").alias("fs_hz"),
        pl.col("f_n").alias("n_samples"),
        pl.coalesce("recording_id", pl.col("f_path").str.replace(r"\.[^./]+$", "")).alias("recording_id"),
    )  # fmt: skip
    # A name that several channels or encounters share is made unique by what tells them apart.
    shared = pl.len().over("recording_id") > 1
    joined = joined.with_columns(
        pl.when(shared).then(pl.col("recording_id") + "/" + pl.col("channel")).otherwise(pl.col("recording_id"))
        .alias("recording_id")
    )  # fmt: skip
    twice = ~pl.col("recording_id").is_first_distinct()
    rejects += [*missing, lost(joined.filter(twice), "duplicate_row", "another row names this recording")]
    joined = joined.filter(~twice)
    sure = joined.filter(pl.col("encounter_id").is_not_null())
    timed, without = match(
        joined.filter(pl.col("encounter_id").is_null()).drop("encounter_id"), encounters=encounters, patients=patients
    )
    rejects.append(without)
    undated = sure.filter(pl.col("start").is_null())
    rejects.append(file_losses(undated, "no_date"))
    return to_recordings(pl.concat([to_recordings(sure), timed])), rejects


def _open(root: Path, rows: pl.DataFrame, channels: Mapping[str, str]) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Ask each file for what the table does not say; return one row per channel found, and what failed."""
    found: list[tuple[object, ...]] = []
    lost: list[Loss] = []
    names = {**{c.lower(): c for c in {*channels.values(), *PLAIN_CHANNELS}}, **channels}
    for row in rows.iter_rows(named=True):
        path, number = str(row["path"]), int(row["source_row"])

        lose = partial(_lose, lost, number, path)

        word = None if row["channel"] is None else str(row["channel"])
        channel = None if word is None else names.get(word.lower(), word)
        if path.lower().endswith(".hea"):
            signal = None if row["signal"] is None else str(row["signal"]).lower()
            if signal is not None:
                wanted = {signal: channel or names.get(signal, signal.upper())}
            elif channel is not None:
                wanted = {n: c for n, c in names.items() if c == channel} | {channel.lower(): channel}
            else:
                wanted = dict(names)
            held = read_record(root, path, channels=wanted)
            # Whether the time is missing is known only when the table has had its say.
            lost += [Loss(r.table, SOURCE, r.reason, source_row=number, path=r.path, detail=r.detail)
                     for r in held.losses if r.reason != "no_date"]  # fmt: skip
            found += [(row["row"], p.channel, p.path, p.signal, p.fs_hz, p.n_samples, p.start) for p in held.pieces]
            continue
        if channel is None or row["fs"] is None or not row["fs"] > 0:
            lose("unsupported_format", "a file without a header needs a channel and fs_hz above 0")
            continue
        length = _length(root, path, row["n"], lose)
        if length:
            name = row["signal"] or channel
            found.append((row["row"], channel, path, name, row["fs"], length, None))
    return pl.DataFrame(found, schema=_FOUND, orient="row"), [losses(lost)]


def _lose(lost: list[Loss], number: int, path: str, reason: str, detail: str | None = None) -> None:
    lost.append(Loss("recordings", SOURCE, reason, source_row=number, path=path, detail=detail))


def _length(root: Path, path: str, said: int | None, lose: Callable[..., None]) -> int:
    """Return the number of samples of a file without a header, or 0 after telling why there is none."""
    try:
        file = confine(root, path)
    except (SignalError, ValueError, OSError):
        lose("out_of_root")
        return 0
    suffix = file.suffix.lower()
    if suffix not in (".npy", ".txt", ".csv", ".tsv"):
        lose("unsupported_format", f"files ending in {suffix or 'nothing'} are not read")
        return 0
    if not file.is_file():
        lose("missing_file")
        return 0
    try:
        if suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if array.ndim != 1 or array.dtype.kind not in "fiu":
                lose("unsupported_format", f"{array.dtype} of {array.ndim} dimensions")
                return 0
            length = len(array)
        elif said is not None:
            # Long recordings as text are not read twice: the reader finds out whether the number is right.
            length = said
        else:
            words = file.read_text(encoding="utf-8").replace(",", " ").replace(";", " ").split()
            length = len([float(w) for w in words])
    except (OSError, ValueError, EOFError):
        lose("read_failed")
        return 0
    if said is not None and said < length:
        length = said
    if length <= 0:
        lose("zero_length")
        return 0
    return length
