"""Recordings inside zip archives, read where they lie: nothing is unpacked to disk.

A study's archive holds some hundred thousand members, so its directory is read once per process and kept as arrays of
30 bytes a member. Members stored as they are give up any stretch by itself; deflated ones are inflated once, whole,
when their recording is opened, and never beyond `MAX_MEMBER_BYTES`.

References
----------
APPNOTE.TXT, .ZIP File Format Specification 6.3.10, section 4.3.7 (local file header: 30 bytes, then name and extra).
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phewas.errors import SignalError
from phewas.segments.readers import INVALID_16, Header, Samples, parse_header

MAX_MEMBER_BYTES = 512 * 2**20  # 148 hours of a 500-Hz lead in two bytes a sample
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Entry:
    """Where a member lies: offset of its local header, and its size packed and unpacked, in bytes."""

    offset: int
    packed: int
    size: int
    method: int
    crc: int


@dataclass(frozen=True)
class _Directory:
    """An archive's directory as arrays sorted by the hash of the member's name."""

    names: NDArray[np.uint64]
    places: NDArray[np.int64]  # [members, 5]: offset, packed, size, method, crc

    def find(self, name: str) -> Entry | None:
        """Return where a member lies; its name is compared once more when it is read."""
        key = _hash(name)
        at = int(np.searchsorted(self.names, key))
        if at == len(self.names) or self.names[at] != key:
            return None
        return Entry(*(int(v) for v in self.places[at]))


def _hash(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()))


# The ten archives of a study fit; the key holds size and time, so that an exchanged file is read anew.
@lru_cache(maxsize=32)
def _directory(archive: str, size: int, mtime_ns: int) -> _Directory:
    del size, mtime_ns
    with zipfile.ZipFile(archive) as packed:
        members = [m for m in packed.infolist() if not m.is_dir() and not m.flag_bits & _ENCRYPTED]
    names = np.array([_hash(m.filename) for m in members], dtype=np.uint64)
    places = np.array(
        [(m.header_offset, m.compress_size, m.file_size, m.compress_type, m.CRC) for m in members], dtype=np.int64
    ).reshape(-1, 5)
    order = np.argsort(names, kind="stable")
    return _Directory(names[order], places[order])


class Member:
    """One member of an archive. `size` is in bytes, unpacked.

    Raises
    ------
    SignalError
        The archive is damaged, has no such member, or packs it in a way or to a size that is not read.
    """

    def __init__(self, archive: Path, name: str, *, called: str) -> None:
        self._archive, self._called = archive, called
        self._whole: bytes | None = None
        stat = archive.stat()
        try:
            entry = _directory(str(archive), stat.st_size, stat.st_mtime_ns).find(name)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
            raise SignalError(f"the archive {called} is damaged", cure="download it again") from error
        if entry is None:
            raise SignalError(f"the archive {called} does not hold a file that its table names")
        if entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SignalError(f"a member of {called} is packed by method {entry.method}", expected="stored or deflated")
        if entry.size > MAX_MEMBER_BYTES:
            raise SignalError(
                f"a member of {called} holds {entry.size / 2**20:.0f} MiB",
                expected=f"at most {MAX_MEMBER_BYTES // 2**20} MiB",
                cure="unpack the archive",
            )
        self._entry, self.size = entry, entry.size
        with archive.open("rb") as handle:
            handle.seek(entry.offset)
            local = handle.read(_LOCAL.size)
            if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
                raise SignalError(f"the archive {called} is damaged: a member is not where its directory says")
            fields = _LOCAL.unpack(local)
            stored_name = handle.read(fields[9])
        if stored_name not in (name.encode("utf-8", "replace"), name.encode("cp437", "replace")):
            raise SignalError(f"the archive {called} is damaged: a member is not the one its directory names")
        self._data = entry.offset + _LOCAL.size + fields[9] + fields[10]

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes from `start` on, fewer than `length` where the member ends.

        Raises
        ------
        SignalError
            A deflated member does not unpack to what the directory says.
        """
        stop = self.size if length is None else min(start + length, self.size)
        if stop <= start:
            return b""
        if self._entry.method == zipfile.ZIP_STORED:
            with self._archive.open("rb") as handle:
                handle.seek(self._data + start)
                return handle.read(stop - start)
        if self._whole is None:
            self._whole = self._inflate()
        return self._whole[start:stop]

    def _inflate(self) -> bytes:
        with self._archive.open("rb") as handle:
            handle.seek(self._data)
            packed = handle.read(self._entry.packed)
        try:
            # One byte more than promised is enough to tell a member that lies about its size.
            whole = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.size + 1)
        except zlib.error as error:
            raise SignalError(f"a member of {self._called} cannot be unpacked") from error
        if len(whole) != self.size or zlib.crc32(whole) != self._entry.crc:
            raise SignalError(f"a member of {self._called} does not match its checksum", cure="download it again")
        return whole


def member_reader(
    archive: Path, member: str, *, called: str, signal: str, n_samples: int
) -> Callable[[int, int], Samples]:
    """Return a reader for one signal of a WFDB record inside an archive.

    Parameters
    ----------
    archive
        The zip file, inside the data root.
    member
        Name of the header (``.hea``) inside it; its signal file must be a member of the same inner folder.
    called
        What to call the archive in messages.
    signal, n_samples
        As in the recordings table.

    Returns
    -------
    callable
        ``read(start, stop)`` gives float32 [stop - start], NaN where missing or past the end.

    Raises
    ------
    SignalError
        The member is missing, damaged, no single-segment WFDB record, or names a signal file elsewhere.
    """
    if not member.endswith(".hea"):
        raise SignalError(f"a member of {called} is of a kind that is not read inside an archive", expected=".hea")
    text = Member(archive, member, called=called).read().decode("latin-1")
    header = parse_header(text, name=f"in {called}")
    if header.n_segments > 1:
        raise SignalError(f"a record of several segments lies in {called}", cure="unpack the archive")
    names = [s.description for s in header.signals]
    index = names.index(signal) if signal in names else 0 if len(names) == 1 else -1
    if index < 0:
        raise SignalError(f"a record in {called} has no signal {signal!r}", expected=f"one of {names}")
    one = header.signals[index]
    data = Member(archive, _beside(member, one.file, called), called=called)
    if not (one.fmt == "16" and one.samples_per_frame == 1 and sum(s.file == one.file for s in header.signals) == 1):
        return _through_library(archive, member, header, index, called, n_samples)
    scale, shift = np.float32(1 / one.gain), np.float32(one.baseline)

    def read(start: int, stop: int) -> Samples:
        raw = data.read(one.byte_offset + 2 * start, 2 * (stop - start))
        digital = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2")
        physical = np.full(stop - start, np.nan, dtype=np.float32)
        physical[: len(digital)] = (digital.astype(np.float32) - shift) * scale
        physical[: len(digital)][digital == INVALID_16] = np.nan
        return physical

    return read


def _beside(member: str, file: str, called: str) -> str:
    """Return the name of a signal file in the header's own inner folder."""
    if "/" in file or "\\" in file or file in ("", ".", ".."):
        raise SignalError(f"a header in {called} names a signal file outside its folder")
    return str(PurePosixPath(member).with_name(file))


def _through_library(
    archive: Path, member: str, header: Header, index: int, called: str, n_samples: int
) -> Callable[[int, int], Samples]:
    """Read the whole signal once with the wfdb library, from copies in a scratch folder, and keep it."""
    import wfdb

    lines = [
        line
        for line in Member(archive, member, called=called).read().decode("latin-1").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    # Name, signals, rate and length; the library refuses some dates, and the samples do not depend on them.
    lines[0] = " ".join(["record", *lines[0].split()[1:4]])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file in {s.file for s in header.signals}:
            (folder / file).write_bytes(Member(archive, _beside(member, file, called), called=called).read())
        (folder / "record.hea").write_text("\n".join(lines) + "\n", encoding="latin-1")
        try:
            got: Any = wfdb.rdrecord(str(folder / "record"), physical=True, channels=[index])
        except Exception as error:
            raise SignalError(f"a record in {called} cannot be read: {type(error).__name__}") from error
    values = got.p_signal[:n_samples, 0].astype(np.float32)

    def read(start: int, stop: int) -> Samples:
        part = values[start:stop]
        return np.concatenate([part, np.full(stop - start - len(part), np.nan, dtype=np.float32)])

    return read
