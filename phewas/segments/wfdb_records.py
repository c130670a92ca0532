"""One signal of a WFDB record, any stretch of it, at its own full rate.

Format 16 is read straight from the file, also where several signals or several samples a frame are interleaved; every
other format goes through the ``wfdb`` library. Records of several segments are put together here, segment by segment,
because the library gives signals with several samples a frame no place in them. A signal file that is missing and has
a compressed neighbour (``.gz``) is read from that, whole, into memory.

References
----------
WFDB header specification, https://physionet.org/physiotools/wag/header-5.htm (samples per frame, skew, segments).
"""

from __future__ import annotations

import gzip
import math
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phewas.errors import SignalError
from phewas.segments.readers import INVALID_16, Header, Samples, Signal, confine, padded, parse_header

MAX_UNPACKED_BYTES = 512 * 2**20  # 148 hours of a 500-Hz lead in two bytes a sample
RATE_TOLERANCE = 1e-3
Read = Callable[[int, int], Samples]


@dataclass(frozen=True)
class SignalInfo:
    """What a header says of one signal: its own rate (several samples a frame count) and length in samples."""

    name: str
    fs_hz: float
    n_samples: int | None
    units: str


def list_signals(root: Path, path: str) -> list[SignalInfo]:
    """Return the signals of a WFDB record, by its header alone.

    Parameters
    ----------
    root, path
        Data root, and the ``.hea`` file below it; of several segments, the layout or the first that is there counts.

    Raises
    ------
    SignalError
        The header cannot be read.
    """
    file = confine(root, path)
    header = _header(file, path)
    described = header
    if header.n_segments > 1:
        for name, _ in _segments(file):
            one = file.with_name(f"{name}.hea")
            if name != "~" and one.is_file():
                described = _header(one, path)
                break
    return [
        SignalInfo(
            s.description, header.fs_hz * s.samples_per_frame,
            None if header.n_samples is None else header.n_samples * s.samples_per_frame, s.units,
        )
        for s in described.signals
    ]  # fmt: skip


def wfdb_reader(root: Path, file: Path, path: str, *, signal: str, fs_hz: float, n_samples: int) -> Read:
    """Return a reader for one signal of a WFDB record, of one or several segments.

    Parameters
    ----------
    root, file, path
        Data root, the header, and what to call it in a message.
    signal
        Its name in the header; where there is just one signal, that one.
    fs_hz
        The signal's own rate; or that of the record's frames, in which case the samples of a frame are averaged.
    n_samples
        Its length at that rate.

    Returns
    -------
    callable
        ``read(start, stop)``: float32 [stop - start] in physical units, NaN where missing or past the end.

    Raises
    ------
    SignalError
        Header or signal cannot be found or read, or the rate is neither of the two.
    """
    header = _header(file, path)
    if header.n_segments == 1:
        read, length = _single(root, file, path, header, signal, fs_hz)
        return _bounded(read, min(length, n_samples) if length else n_samples)
    return _bounded(_joined(root, file, path, header, signal, fs_hz), n_samples)


def _bounded(read: Read, length: int) -> Read:
    """Return a reader that gives NaN past the end."""

    def bounded(start: int, stop: int) -> Samples:
        end = min(stop, length)
        if end <= start:
            return np.full(stop - start, np.nan, dtype=np.float32)
        return padded(read(start, end), stop - start)

    return bounded


@lru_cache(maxsize=64)
def _parsed(file: str, size: int, mtime_ns: int, path: str) -> Header:
    del size, mtime_ns
    return parse_header(Path(file).read_text(encoding="latin-1"), name=path)


def _header(file: Path, path: str) -> Header:
    stat = file.stat()
    return _parsed(str(file), stat.st_size, stat.st_mtime_ns, path)


def _segments(file: Path) -> list[tuple[str, int]]:
    """Return the segments that a header lists: name and length in frames."""
    lines = [x.strip() for x in file.read_text(encoding="latin-1").splitlines()]
    rows = [x.split() for x in lines if x and not x.startswith("#")][1:]
    try:
        return [(row[0], int(row[1])) for row in rows]
    except (ValueError, IndexError) as error:
        raise SignalError(f"the list of segments in {file.name} cannot be read") from error


def _frames(one: Signal, header: Header, fs_hz: float, path: str) -> bool:
    """Tell whether a rate is that of the frames (True) or the signal's own (False)."""
    own = header.fs_hz * one.samples_per_frame
    if one.samples_per_frame == 1 or math.isclose(fs_hz, own, rel_tol=RATE_TOLERANCE):
        return False
    if math.isclose(fs_hz, header.fs_hz, rel_tol=RATE_TOLERANCE):
        return True
    raise SignalError(f"a signal of {path} was announced with {fs_hz:g} Hz", expected=f"{own:g} Hz, as its header says")


def _single(root: Path, file: Path, path: str, header: Header, signal: str, fs_hz: float) -> tuple[Read, int]:
    """Return a reader for a signal of a record of one segment, and its length at that rate (0 where not stated)."""
    names = [s.description for s in header.signals]
    index = names.index(signal) if signal in names else 0 if len(names) == 1 else -1
    if index < 0:
        raise SignalError(f"{path} has no signal {signal!r}", expected=f"one of {names}")
    one = header.signals[index]
    smoothed = _frames(one, header, fs_hz, path)
    per_frame = 1 if smoothed else one.samples_per_frame
    data = confine(root, (file.parent / one.file).relative_to(root.resolve()).as_posix())
    packed = data.with_name(data.name + ".gz")
    length = (header.n_samples or 0) * per_frame
    if one.fmt == "16" and not one.skew and not smoothed:
        if data.is_file():
            return _interleaved(data, header, index), length
        if packed.is_file():
            return _interleaved(np.frombuffer(_unpacked(packed, path), dtype=np.uint8), header, index), length
    if not data.is_file() and packed.is_file():
        return _through_copies(file, path, header, index, per_frame), length
    if not data.is_file():
        raise SignalError(f"{path} names a signal file that is missing")
    return _library(file, path, index, per_frame, smoothed=smoothed), length


def _interleaved(source: Path | NDArray[np.uint8], header: Header, index: int) -> Read:
    """Return a reader of format 16: frames of all signals of one file, two bytes a sample."""
    one = header.signals[index]
    beside = [s for s in header.signals if s.file == one.file]
    width = sum(s.samples_per_frame for s in beside)
    before = sum(s.samples_per_frame for s in header.signals[:index] if s.file == one.file)
    scale, shift, per_frame = np.float32(1 / one.gain), np.float32(one.baseline), one.samples_per_frame
    offset = beside[0].byte_offset

    def read(start: int, stop: int) -> Samples:
        first, last = start // per_frame, -(-stop // per_frame)
        at, count = offset + 2 * width * first, width * (last - first)
        if isinstance(source, Path):
            digital = np.fromfile(source, dtype="<i2", count=count, offset=at)
        else:
            digital = np.frombuffer(source[at : at + 2 * count].tobytes(), dtype="<i2")
        if width > 1:
            frames = digital[: len(digital) // width * width].reshape(-1, width)
            digital = frames[:, before : before + per_frame].reshape(-1)
        digital = digital[start - first * per_frame : stop - first * per_frame]
        if width > 1:
            # As the library does it, to the last digit; a file of one signal, the usual case, is read in less time.
            physical = ((digital - float(one.baseline)) / one.gain).astype(np.float32)
        else:
            physical = (digital.astype(np.float32) - shift) * scale
        physical[digital == INVALID_16] = np.nan
        return padded(physical, stop - start)

    return read


def _library(file: Path, path: str, index: int, per_frame: int, *, smoothed: bool) -> Read:
    """Return a reader that asks the wfdb library for each stretch."""

    def read(start: int, stop: int) -> Samples:
        import wfdb

        first, last = start // per_frame, -(-stop // per_frame)
        with tempfile.TemporaryDirectory() as scratch:
            record = file.with_suffix("")
            for attempt in (0, 1):
                try:
                    got = wfdb.rdrecord(str(record), sampfrom=first, sampto=last, physical=True, channels=[index],
                                        smooth_frames=smoothed or per_frame == 1)  # fmt: skip
                    break
                except Exception as error:
                    # The library refuses some dates; without date the same samples come out.
                    if attempt:
                        raise SignalError(f"{path} cannot be read: {type(error).__name__}") from error
                    record = _without_date(file, Path(scratch))
        values = got.p_signal[:, 0] if smoothed or per_frame == 1 else got.e_p_signal[0]
        return padded(values.astype(np.float32)[start - first * per_frame :][: stop - start], stop - start)

    return read


def _without_date(file: Path, scratch: Path) -> Path:
    """Copy a header without time and date, link the signal files beside it, and return the record's name."""
    lines = file.read_text(encoding="latin-1").splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), None)
    if first is not None:
        lines[first] = " ".join(lines[first].split()[:4])
    (scratch / file.name).write_text("\n".join(lines) + "\n", encoding="latin-1")
    for name in {s.file for s in parse_header("\n".join(lines), name=file.name).signals}:
        if Path(name).name == name and (file.parent / name).is_file():
            (scratch / name).symlink_to(file.parent / name)
    return scratch / file.stem


def _unpacked(packed: Path, path: str) -> bytes:
    """Return a compressed signal file's bytes, up to a limit that no honest one reaches."""
    try:
        with gzip.open(packed) as handle:
            whole = handle.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SignalError(f"the compressed signal file of {path} is damaged", cure="download it again") from error
    if len(whole) > MAX_UNPACKED_BYTES:
        raise SignalError(f"the compressed signal file of {path} is over {MAX_UNPACKED_BYTES // 2**20} MiB unpacked",
                          cure="unpack it")  # fmt: skip
    return whole


def _through_copies(file: Path, path: str, header: Header, index: int, per_frame: int) -> Read:
    """Read a whole signal once with the wfdb library, from unpacked copies in a scratch folder, and keep it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in {s.file for s in header.signals}:
            packed = file.parent / f"{name}.gz"
            if Path(name).name == name and packed.is_file():
                (folder / name).write_bytes(_unpacked(packed, path))
        (folder / file.name).write_bytes(file.read_bytes())
        one = header.signals[index]
        read = _library(folder / file.name, path, index, per_frame, smoothed=per_frame < one.samples_per_frame)
        if header.n_samples is None:
            raise SignalError(f"the header of {path} does not say how long its compressed signal is")
        values = read(0, header.n_samples * per_frame)
    return lambda start, stop: padded(values[start:stop], stop - start)


def _joined(root: Path, file: Path, path: str, header: Header, signal: str, fs_hz: float) -> Read:
    """Return a reader that puts the segments of a record together; what no segment holds is NaN."""
    segments = [(name, n) for name, n in _segments(file) if n > 0]
    per_frame = max(1, round(fs_hz / header.fs_hz))
    ends = np.cumsum([n * per_frame for _, n in segments])
    known: dict[str, Read | None] = {}

    def segment(name: str) -> Read | None:
        if name not in known:
            one = confine(root, (file.parent / f"{name}.hea").relative_to(root.resolve()).as_posix())
            if not one.is_file():
                raise SignalError(f"{path} names a segment that is missing")
            inner = _header(one, path)
            holds = signal in [s.description for s in inner.signals]
            known[name] = _single(root, one, path, inner, signal, fs_hz)[0] if holds else None
        return known[name]

    def read(start: int, stop: int) -> Samples:
        out = np.full(stop - start, np.nan, dtype=np.float32)
        at = int(np.searchsorted(ends, start, side="right"))
        while at < len(segments):
            name, n = segments[at]
            begin = int(ends[at]) - n * per_frame
            if begin >= stop:
                break
            lo, hi = max(start, begin), min(stop, int(ends[at]))
            part = None if name == "~" else segment(name)
            if part is not None:
                out[lo - start : hi - start] = part(lo - begin, hi - begin)
            at += 1
        return out

    return read
