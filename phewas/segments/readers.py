"""Open a recording and read any stretch of it as float32 in physical units, NaN where a sample is missing.

WFDB headers are parsed here: real headers carry times such as ``24:00:00`` or ``3:16:7`` and rates such as
``125/125(0)``, on which a strict parser gives up although nothing about the samples is in doubt. How their samples are
read stands in `phewas.segments.wfdb_records`.

References
----------
WFDB header specification, https://physionet.org/physiotools/wag/header-5.htm (record line, signal line) and
signal specification, https://physionet.org/physiotools/wag/signal-5.htm (formats, invalid-sample codes).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import SignalError

Samples = NDArray[np.float32]

# Bytes per sample of the formats whose frames are whole bytes; 212 packs two samples into three bytes.
BYTES_PER_SAMPLE: dict[str, float] = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5,
                                      "310": 4 / 3, "311": 4 / 3}  # fmt: skip
INVALID_16 = -32768  # the code for a missing sample in format 16
DEFAULT_GAIN = 200.0  # ADC units per physical unit where a header gives none or 0


@dataclass(frozen=True)
class Signal:
    """One signal line of a header."""

    file: str
    fmt: str
    samples_per_frame: int
    byte_offset: int
    gain: float
    baseline: int
    units: str
    description: str
    skew: int = 0


@dataclass(frozen=True)
class Header:
    """A parsed WFDB header. `start` is None where date or time is absent or impossible."""

    record: str
    n_segments: int
    n_signals: int
    fs_hz: float
    n_samples: int | None
    start: dt.datetime | None
    signals: tuple[Signal, ...]


_FORMAT = re.compile(r"^(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")
_GAIN = re.compile(r"^([-+0-9.eE]+)(?:\(([-+]?\d+)\))?(?:/(\S+))?$")
_RATE = re.compile(r"^([0-9.eE+-]+)(?:/[0-9.eE+-]+(?:\([-+0-9.eE]+\))?)?$")
_TIME = re.compile(r"^(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2})(?:\.(\d+))?$")
_DATE = re.compile(r"^(\d{1,2})/(\d{1,2})/(\d{1,4})$")


def parse_header(text: str, *, name: str) -> Header:
    """Parse a WFDB header.

    Parameters
    ----------
    text
        The whole header file.
    name
        What to call it in an error message (a relative path, no patient data beyond it).

    Returns
    -------
    Header
        `fs_hz` is a float (62.5 stays 62.5; 250 where absent, as the specification says); `n_samples` is None where
        absent or 0 and not a multi-segment record; `start` is naive, to the microsecond.

    Raises
    ------
    SignalError
        No record line, a number that is none, or fewer signal lines than announced.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise SignalError(f"header {name} is empty")
    fields = lines[0].split()
    try:
        record, _, n_segments = fields[0].partition("/")
        segments, n_signals = int(n_segments or 1), int(fields[1])
        rate = _RATE.match(fields[2]) if len(fields) > 2 else None
        if len(fields) > 2 and rate is None:
            raise ValueError(fields[2])
        fs_hz = float(rate.group(1)) if rate else 250.0
        n_samples = int(fields[3]) if len(fields) > 3 else None
    except (ValueError, IndexError) as error:
        raise SignalError(
            f"the record line of header {name} cannot be read", expected="name signals rate samples time date"
        ) from error
    if not (fs_hz > 0 and np.isfinite(fs_hz)) or n_signals < 0 or (n_samples is not None and n_samples < 0):
        raise SignalError(f"the record line of header {name} holds an impossible number")
    start = _start(fields[4] if len(fields) > 4 else "", fields[5] if len(fields) > 5 else "")
    if segments > 1:
        return Header(record, segments, n_signals, fs_hz, n_samples, start, ())
    if len(lines) - 1 < n_signals:
        raise SignalError(f"header {name} announces {n_signals} signals and describes {len(lines) - 1}")
    signals = tuple(_signal(line, name) for line in lines[1 : n_signals + 1])
    return Header(record, segments, n_signals, fs_hz, n_samples, start, signals)


def _start(time: str, date: str) -> dt.datetime | None:
    """Return date and time as one value, or None where either is absent or impossible (``24:00:00``)."""
    t, d = _TIME.match(time), _DATE.match(date)
    if not t or not d:
        return None
    micros = int((t.group(4) or "0")[:6].ljust(6, "0"))
    try:
        return dt.datetime(
            int(d.group(3)),
            int(d.group(2)),
            int(d.group(1)),
            int(t.group(1) or 0),
            int(t.group(2)),
            int(t.group(3)),
            micros,
        )
    except ValueError:
        return None


def _signal(line: str, name: str) -> Signal:
    """Parse a signal line: file, format, gain(baseline)/units, resolution, zero, first value, checksum, block, text."""
    fields = line.split(maxsplit=8)
    try:
        fmt = _FORMAT.match(fields[1])
        gain = _GAIN.match(fields[2]) if len(fields) > 2 else None
        if fmt is None or (len(fields) > 2 and gain is None):
            raise ValueError(line)
        zero = int(fields[4]) if len(fields) > 4 else 0
        factor = float(gain.group(1)) if gain else DEFAULT_GAIN
        baseline = int(gain.group(2)) if gain and gain.group(2) else zero
    except (ValueError, IndexError) as error:
        raise SignalError(
            f"a signal line of header {name} cannot be read", expected="file format gain(baseline)/units ..."
        ) from error
    return Signal(
        file=fields[0],
        fmt=fmt.group(1),
        samples_per_frame=int(fmt.group(2) or 1),
        byte_offset=int(fmt.group(4) or 0),
        gain=factor or DEFAULT_GAIN,
        baseline=baseline,
        units=(gain.group(3) if gain and gain.group(3) else "mV"),
        description=fields[8] if len(fields) > 8 else "",
        skew=int(fmt.group(3) or 0),
    )


def confine(root: Path, relative: str) -> Path:
    """Return `root` / `relative`, refusing a path that leaves the root (``..``, absolute, or through a link).

    Raises
    ------
    SignalError
        The path lies outside the root.
    """
    base = root.resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise SignalError("a recording's path leaves the data root", expected="paths below the data root")
    return path


@dataclass(frozen=True)
class Recording:
    """One signal, opened. ``read(start, stop)`` returns float32 [stop - start], NaN where missing or past the end."""

    fs_hz: float
    n_samples: int
    read: Callable[[int, int], Samples]


def open_recording(
    root: Path, path: str, *, signal: str, fs_hz: float, n_samples: int, member: str | None = None
) -> Recording:
    """Open the recording that a row of the recordings table describes.

    Parameters
    ----------
    root, path
        Data root, and the file below it: ``.hea`` (WFDB), ``.edf``, ``.npy`` (one-dimensional), ``.parquet`` (one
        column a signal), or numbers as text (``.txt``, ``.csv``, ``.tsv``: one row or one column).
    signal
        The signal's name in a WFDB or EDF header, or the Parquet column; where a WFDB header or a Parquet file has
        just one, that one.
    fs_hz, n_samples
        Rate in samples per second and length in samples, as in the table.
    member
        Name of a ``.hea`` inside the zip archive `path`; None for a file of its own.

    Raises
    ------
    SignalError
        The file is missing, leaves the root, or is not what its name says.
    """
    file = confine(root, path)
    if not file.is_file():
        raise SignalError(f"recording file {path} is missing")
    if member is not None:
        from phewas.segments.archives import member_reader

        read = member_reader(file, member, called=path, signal=signal, n_samples=n_samples)
    elif file.suffix == ".hea":
        from phewas.segments.wfdb_records import wfdb_reader

        read = wfdb_reader(root, file, path, signal=signal, fs_hz=fs_hz, n_samples=n_samples)
    elif file.suffix == ".npy":
        read = _array_reader(_load_npy(file, path))
    elif file.suffix in {".txt", ".csv", ".tsv"}:
        read = _array_reader(_load_text(file, path))
    elif file.suffix == ".parquet":
        read = _array_reader(_load_parquet(file, path, signal))
    elif file.suffix.lower() == ".edf":
        from phewas.segments.edf import edf_reader

        read = _filled(edf_reader(file, path, signal))
    else:
        kinds = ".hea, .edf, .npy, .parquet, .txt, .csv or .tsv"
        raise SignalError(f"recording file {path} is of a kind that is not read", expected=kinds)
    return Recording(fs_hz, n_samples, read)


def _array_reader(values: NDArray[Any]) -> Callable[[int, int], Samples]:
    """Return a reader over values in memory or mapped."""

    def read(start: int, stop: int) -> Samples:
        return padded(np.asarray(values[start:stop], dtype=np.float32), stop - start)

    return read


def padded(values: Samples, length: int) -> Samples:
    """Return `values` filled up with NaN to `length`."""
    if len(values) == length:
        return values
    return np.concatenate([values, np.full(length - len(values), np.nan, dtype=np.float32)])


def _filled(read: Callable[[int, int], Samples]) -> Callable[[int, int], Samples]:
    """Return a reader that fills up with NaN what the file does not hold."""
    return lambda start, stop: padded(read(start, stop), stop - start)


def _load_parquet(file: Path, path: str, signal: str) -> NDArray[Any]:
    import polars as pl

    try:
        names = list(pl.read_parquet_schema(file))
        name = signal if signal in names else names[0] if len(names) == 1 else ""
        if not name:
            raise SignalError(f"{path} has no column {signal!r}", expected=f"one of {names}")
        values = pl.read_parquet(file, columns=[name], hive_partitioning=False).get_column(name)
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SignalError(f"{path} is not a Parquet file of numbers: {type(error).__name__}") from error


def _load_npy(file: Path, path: str) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise SignalError(
            f"{path} is not a plain NumPy file", expected="a one-dimensional number array without pickle"
        ) from error
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise SignalError(
            f"{path} holds {values.dtype} of shape {values.shape}", expected="a one-dimensional number array"
        )
    return values


def _load_text(file: Path, path: str) -> NDArray[Any]:
    try:
        words = re.split(r"[\s,;]+", file.read_text(encoding="utf-8").strip())
        return np.array([float(word) for word in words if word], dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise SignalError(f"{path} is not a row or column of numbers") from error
