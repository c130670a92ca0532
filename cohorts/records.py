"""What a WFDB record holds of the channels that are wanted: single records, multi-segment ones, multi-rate ones.

Only headers are opened and only the sizes of signal files are asked. Channels of a multi-segment record are read from
its layout segment, or from the first segment where the layout is fixed. A multi-segment record of which some segments
were not downloaded cannot be opened as a whole; the segments that are there are then recordings of their own, with the
start that their place in the record gives them.

References
----------
WFDB header specification, https://physionet.org/physiotools/wag/header-5.htm (multi-segment records, layout segments).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from phewas.cohorts.base import Loss
from phewas.cohorts.wavescan import COMPRESSED, MAX_HEADER_BYTES
from phewas.engine import default_workers, map_shards, reraise_passing
from phewas.errors import SignalError
from phewas.schema import DATETIME
from phewas.segments.readers import BYTES_PER_SAMPLE, Header, Signal, confine, parse_header

# Signal names of bedside monitors and ECG recorders, in lower case, and the channel each is.
CHANNELS = {
    "pleth": "PPG", "plethwv": "PPG", "ppg": "PPG", "ii": "ECG_II", "mlii": "ECG_II", "ecg_ii": "ECG_II",
    "resp": "RESP",
}  # fmt: skip
# The twelve leads of a resting ECG, as MIMIC-IV-ECG names them.
LEADS = {lead.lower(): f"ECG_{lead}" for lead in ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5",
                                                  "V6")}  # fmt: skip
BATCH = 2_000  # records per piece of work
GAP = "~"  # names a stretch without signal in a list of segments


@dataclass(frozen=True, slots=True)
class Piece:
    """One channel of one record. `path` is the header, relative to the root; `start` is None without a usable date."""

    record: str
    path: str
    channel: str
    signal: str
    fs_hz: float
    n_samples: int
    start: dt.datetime | None


@dataclass
class Held:
    """What a record gives: its pieces, and why the rest is missing."""

    pieces: list[Piece]
    losses: list[Loss]


def read_records(
    root: Path,
    paths: Sequence[str],
    *,
    channels: Mapping[str, str] = CHANNELS,
    starts: Mapping[str, dt.datetime] | None = None,
    workers: int | None = None,
) -> Held:
    """Read the headers of records.

    Parameters
    ----------
    root
        Data root.
    paths
        Headers (``.hea``) of records, relative to `root`, forward slashes.
    channels
        Signal name in lower case, and channel.
    starts
        Start by path, where the source says it elsewhere too (in a record's name, in a list). It is taken where the
        header has none, or one more than a day away: some headers carry a year thousands of years off.
    workers
        Processes; None takes one per core. Few records are read in this process.

    Returns
    -------
    Held
        In the order of `paths`, the same for any number of workers. `fs_hz` and `n_samples` are each signal's own: one
        with several samples a frame has that many times the record's rate.
    """
    said = starts or {}
    batches = [[(p, said.get(p)) for p in paths[at : at + BATCH]] for at in range(0, len(paths), BATCH)]
    one = partial(read_batch, str(root.absolute()), channels=dict(channels))
    count = (workers or default_workers()) if len(batches) > 2 else 1
    parts = map_shards(one, batches, task="waveform headers", unit="batches", workers=count) if batches else []
    held = Held([], [])
    for part in parts:
        held.pieces += part.pieces
        held.losses += part.losses
    return held


def read_batch(root: str, paths: Sequence[tuple[str, dt.datetime | None]], *, channels: Mapping[str, str]) -> Held:
    """Read the headers of some records, each with the start that is said elsewhere; see `read_records`."""
    held = Held([], [])
    for path, start in paths:
        got = read_record(Path(root), path, channels=channels, start=start)
        held.pieces += got.pieces
        held.losses += got.losses
    return held


def read_record(root: Path, path: str, *, channels: Mapping[str, str], start: dt.datetime | None = None) -> Held:
    """Read one record; see `read_records`. Nothing about a damaged record raises: it comes back as a loss."""
    held = Held([], [])

    def lose(reason: str, detail: str | None = None) -> None:
        held.losses.append(Loss("recordings", "waveforms", reason, path=path, detail=detail))

    try:
        file = confine(root, path)
    except SignalError:
        lose("out_of_root")
        return held
    if not file.is_file():
        lose("missing_file")
        return held
    try:
        text = _text(file)
        header = parse_header(text, name="of this record")
        if start is not None and (header.start is None or abs(header.start - start) > dt.timedelta(days=1)):
            if header.start is not None:
                lose("bad_time", "the header's date is more than a day from the one said elsewhere, which is taken")
            header = replace(header, start=start)
        if header.n_segments > 1:
            _segmented(root, path, text, header, channels, held)
        else:
            _single(file, path, header, channels, held)
    except SignalError as error:
        lose("header_unreadable", error.found)
    except (OSError, ValueError) as error:
        reraise_passing(error)
        lose("read_failed", type(error).__name__)
    if held.pieces and held.pieces[0].start is None:
        lose("no_date")
    return held


def _text(file: Path) -> str:
    with file.open(encoding="latin-1") as handle:
        return handle.read(MAX_HEADER_BYTES * 16)


def _wanted(signals: Sequence[Signal], channels: Mapping[str, str], path: str, held: Held) -> dict[str, Signal]:
    """Return the first signal of each channel; a second one is told."""
    out: dict[str, Signal] = {}
    for signal in signals:
        channel = channels.get(signal.description.strip().lower())
        if channel is None:
            continue
        if channel in out:
            held.losses.append(
                Loss("recordings", "waveforms", "several_signals", path=path,
                     detail=f"a second {channel} signal; the first is taken")
            )  # fmt: skip
            continue
        out[channel] = signal
    if not out:
        names = sorted({s.description.strip() for s in signals if s.description.strip()})
        held.losses.append(
            Loss("recordings", "waveforms", "foreign_file", path=path,
                 detail=f"none of the wanted signals; it holds {', '.join(names[:6]) or 'no named signal'}")
        )  # fmt: skip
    return out


def _piece(path: str, channel: str, signal: Signal, header: Header, n_frames: int) -> Piece:
    """Describe one signal of a record at its own rate, which is the frames' times its samples in each."""
    per_frame = signal.samples_per_frame
    return Piece(path.removesuffix(".hea"), path, channel, signal.description, header.fs_hz * per_frame,
                 n_frames * per_frame, header.start)  # fmt: skip


def _single(file: Path, path: str, header: Header, channels: Mapping[str, str], held: Held) -> None:
    for channel, signal in _wanted(header.signals, channels, path, held).items():

        def lose(reason: str, detail: str | None = None) -> None:
            held.losses.append(Loss("recordings", "waveforms", reason, path=path, detail=detail))

        if "/" in signal.file or "\\" in signal.file or signal.file in ("", ".", ".."):
            lose("out_of_root", "the header names a signal file outside its folder")
            continue
        if signal.fmt not in BYTES_PER_SAMPLE and signal.fmt not in COMPRESSED:
            lose("unsupported_format", f"format {signal.fmt}")
            continue
        data = file.parent / signal.file
        if not data.is_file():
            lose("signal_missing")
            continue
        size = max(data.stat().st_size - signal.byte_offset, 0)
        # Signals of one file are interleaved, so its frames are as long as all of them together.
        frame = sum(BYTES_PER_SAMPLE.get(s.fmt, 0) * s.samples_per_frame
                    for s in header.signals if s.file == signal.file)  # fmt: skip
        packed = signal.fmt in COMPRESSED
        n_frames = header.n_samples or (0 if packed or not frame else math.floor(size / frame))
        if n_frames == 0 or size == 0:
            lose("zero_length")
            continue
        if not packed and size < math.floor(n_frames * frame):
            lose("signal_truncated", f"{size} bytes instead of {math.floor(n_frames * frame)}")
            continue
        held.pieces.append(_piece(path, channel, signal, header, n_frames))


def segments_of(text: str, n_segments: int) -> list[tuple[str, int]]:
    """Return name and length in frames of each segment of a multi-segment header.

    Raises
    ------
    SignalError
        Fewer segments are listed than announced, or a length is no number.
    """
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")][1:]
    try:
        listed = [(fields[0], int(fields[1])) for fields in lines[:n_segments]]
    except (IndexError, ValueError) as error:
        raise SignalError("a segment line cannot be read", expected="name length") from error
    if len(listed) < n_segments or any(length < 0 for _, length in listed):
        raise SignalError(f"the header announces {n_segments} segments and lists {len(listed)}")
    return listed


def _segmented(root: Path, path: str, text: str, header: Header, channels: Mapping[str, str], held: Held) -> None:
    folder = Path(path).parent
    listed = segments_of(text, header.n_segments)
    if any("/" in name or "\\" in name or name in (".", "..") for name, _ in listed):
        held.losses.append(
            Loss("recordings", "waveforms", "out_of_root", path=path, detail="a segment outside its folder")
        )
        return
    there = {p.name for p in confine(root, folder.as_posix()).iterdir()}
    named = [name for name, length in listed if name != GAP and length > 0]
    absent = [name for name in named if f"{name}.hea" not in there]
    n_frames = header.n_samples or sum(length for _, length in listed)
    first = next((name for name, _ in listed if name != GAP), None)
    if first is None or n_frames == 0:
        held.losses.append(Loss("recordings", "waveforms", "zero_length", path=path))
        return
    if absent:
        held.losses.append(
            Loss("recordings", "waveforms", "missing_file", path=path,
                 detail=f"{len(absent)} of {len(named)} segments; the others are read one by one")
        )  # fmt: skip
        _one_by_one(root, path, listed, there, header, channels, held)
        return
    if f"{first}.hea" not in there:
        held.losses.append(
            Loss("recordings", "waveforms", "header_missing", path=path, detail="the layout of the record")
        )
        return
    layout = parse_header(_text(confine(root, (folder / f"{first}.hea").as_posix())), name="of its first segment")
    for channel, signal in _wanted(layout.signals, channels, path, held).items():
        held.pieces.append(_piece(path, channel, signal, header, n_frames))


def _one_by_one(
    root: Path, path: str, listed: Sequence[tuple[str, int]], there: set[str], header: Header,
    channels: Mapping[str, str], held: Held,
) -> None:  # fmt: skip
    """Take the segments that are there as recordings of their own, each with the start that its place gives it."""
    at = 0
    for name, length in listed:
        if name != GAP and length and f"{name}.hea" in there:
            one = read_record(root, (Path(path).parent / f"{name}.hea").as_posix(), channels=channels)
            start = None
            if header.start is not None:
                start = header.start + dt.timedelta(seconds=at / header.fs_hz)
            held.pieces += [replace(p, record=path.removesuffix(".hea"), start=start) for p in one.pieces]
            # A segment's own header has a time without a date; the record's says when it was.
            held.losses += [loss for loss in one.losses if loss.reason != "no_date"]
        at += length


def pieces_frame(pieces: Sequence[Piece]) -> pl.DataFrame:
    """Return pieces as a table: record, path, channel, signal, fs_hz, n_samples, start."""
    kinds: dict[str, Any] = {
        "record": pl.String, "path": pl.String, "channel": pl.String, "signal": pl.String, "fs_hz": pl.Float64,
        "n_samples": pl.Int64, "start": DATETIME,
    }  # fmt: skip
    return pl.DataFrame({n: [getattr(p, n) for p in pieces] for n in kinds}, schema=kinds)
