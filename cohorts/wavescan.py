"""Headers of a waveform tree ``<suffix>/<encounter>/<channel>/*.hea``: what can be read, and why the rest cannot.

Only headers are opened and only sizes of signal files are asked, so that half a million recordings take minutes. The
work is shared out by suffix folder, and by archive where the tree is packed (`phewas.cohorts.wavezip`); the outcome is
sorted, so it does not depend on the number of workers. No table library is imported here: each worker process starts
in a fraction of a second.
"""

from __future__ import annotations

import datetime as dt
import math
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from phewas.errors import CohortError, SignalError
from phewas.segments.readers import BYTES_PER_SAMPLE, Header, parse_header

# Compressed formats have no fixed size; the library that reads them finds out whether a file is whole.
COMPRESSED = ("508", "516", "524")
# Left behind by download tools and file managers; they hold no signal.
IGNORED = re.compile(r"^(\.|index\.html|RECORDS|SHA256SUMS|Thumbs\.db)")
NUMBERED = re.compile(r"(\d+)\.hea$")
# Below this number of encounter folders starting processes costs more than it saves.
SERIAL_FOLDERS = 3_000
SERIAL_BYTES = 200_000_000
MAX_HEADER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """One readable recording. `path` is the header, or the archive that holds it as `member`, relative to the root."""

    encounter_id: str
    folder: str
    number: int
    path: str
    signal: str
    fs_hz: float
    n_samples: int
    start: dt.datetime | None
    member: str | None = None

    @property
    def place(self) -> str:
        """Return ``<suffix>/<encounter>/<channel>/<header>``, the same for a packed and an unpacked recording."""
        return "/".join((self.member or self.path).split("/")[-4:])


@dataclass(frozen=True, slots=True)
class Refused:
    """One file or folder that is not taken as it stands; `kept` where it is a recording all the same."""

    encounter_id: str
    path: str
    reason: str
    detail: str | None = None


@dataclass
class Scan:
    """All that a tree holds. `encounters` are the folders seen, with or without a readable recording."""

    found: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    encounters: list[str] = field(default_factory=list)
    n_headers: int = 0

    def add(self, other: Scan) -> None:
        """Take over what another part of the tree holds."""
        self.found += other.found
        self.refused += other.refused
        self.encounters += other.encounters
        self.n_headers += other.n_headers


def suffix_folders(root: Path, waveforms: str) -> list[str]:
    """Return the folders directly below the waveform folder, sorted, relative to `root`."""
    with os.scandir(root / waveforms) as entries:
        return sorted(f"{waveforms}/{e.name}" for e in entries if e.is_dir() and not IGNORED.match(e.name))


def list_encounters(root: Path, folders: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the encounter folders in each suffix folder, by listing alone."""
    out = {}
    for suffix in folders:
        with os.scandir(root / suffix) as entries:
            out[suffix] = sorted(e.name for e in entries if e.is_dir() and not IGNORED.match(e.name))
    return out


def encounter_folders(root: Path, waveforms: str) -> int:
    """Return how many encounter folders there are, by listing alone."""
    total = 0
    for suffix in suffix_folders(root, waveforms):
        with os.scandir(root / suffix) as entries:
            total += sum(e.is_dir() for e in entries)
    return total


def waveform_files(root: Path, waveforms: str) -> Iterator[tuple[str, int]]:
    """Yield the path relative to `root` and the size in bytes of every waveform file."""
    folders = [waveforms]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                listed = [e for e in entries if not IGNORED.match(e.name)]
        except OSError:
            continue  # reading the headers tells of it
        for entry in listed:
            path = f"{folder}/{entry.name}"
            if entry.is_dir():
                if not entry.is_symlink():
                    folders.append(path)
            else:
                broken = entry.is_symlink() and not Path(entry.path).exists()
                yield path, -1 if broken else entry.stat().st_size


def scan_tree(
    root: Path, waveforms: str, *, rates_hz: Mapping[str, float], workers: int | None = None,
    archives: Iterable[str] = (),
) -> Scan:  # fmt: skip
    """Read every header below ``root / waveforms`` and in the archives.

    Parameters
    ----------
    root
        Data root; all paths come back relative to it, with forward slashes.
    waveforms
        The folder with the suffix folders, relative to `root`; it may be missing where there are archives.
    rates_hz
        Channel folder name and usual rate in samples per second; another rate is told, and the recording kept.
    workers
        Processes; None takes one per core. A small tree is scanned in this process.
    archives
        Zip files that hold parts of the tree, relative to `root`. A recording that is also there unpacked is taken
        unpacked, and its packed copy is told.

    Returns
    -------
    Scan
        Sorted by recording (encounter, folder, number, place); the same for any number of workers.

    Raises
    ------
    CohortError
        The worker processes died, or an archive is damaged.
    """
    from phewas.cohorts.wavezip import scan_archive

    total, packed = Scan(), sorted(archives)
    there = (root / waveforms).is_dir()
    folders = suffix_folders(root, waveforms) if there else []
    if there:
        with os.scandir(root / waveforms) as entries:
            strays = sorted(e.name for e in entries if e.is_file() and not IGNORED.match(e.name))
        for name in strays:
            if f"{waveforms}/{name}" in packed:
                continue
            reason = "archive_not_unpacked" if name.endswith((".zip", ".gz", ".tar")) else "foreign_file"
            total.refused.append(Refused("", f"{waveforms}/{name}", reason, "not below a suffix folder"))
    jobs: list[Callable[[], Scan]] = [
        *(partial(scan_archive, str(root), name, rates_hz=dict(rates_hz)) for name in packed),
        *(partial(scan_suffix, str(root), folder, rates_hz=dict(rates_hz)) for folder in folders),
    ]
    count = min(workers or os.cpu_count() or 1, len(jobs))
    large = bool(packed) and sum((root / name).stat().st_size for name in packed) > SERIAL_BYTES
    if count > 1 and (large or (there and encounter_folders(root, waveforms) > SERIAL_FOLDERS)):
        try:
            with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
                for part in pool.map(_call, jobs):
                    total.add(part)
        except BrokenProcessPool as error:
            raise CohortError(
                "the processes that read waveform headers died",
                expected="enough memory, and a script whose work stands under `if __name__ == '__main__':`",
                cure="run again with --workers 1",
            ) from error
    else:
        for job in jobs:
            total.add(job())
    if packed:
        _prefer_unpacked(total)
    total.found.sort(key=lambda f: (f.encounter_id, f.folder, f.number, f.place))
    total.refused.sort(key=lambda r: (r.path, r.reason, r.detail or ""))
    total.encounters = sorted(set(total.encounters))
    return total


def _call(job: Callable[[], Scan]) -> Scan:
    return job()


def _prefer_unpacked(total: Scan) -> None:
    """Keep one copy of each recording: the unpacked one, else the one in the first archive."""
    kept: dict[str, Found] = {}
    for one in sorted(total.found, key=lambda f: (f.place, f.member is not None, f.path, f.member or "")):
        first = kept.setdefault(one.place, one)
        if first is not one:
            path = f"{one.path}/{one.member}" if one.member else one.path
            total.refused.append(Refused(one.encounter_id, path, "packed_copy"))
    total.found = list(kept.values())


def scan_suffix(root: str, folder: str, *, rates_hz: dict[str, float]) -> Scan:
    """Read every header below one suffix folder; see `scan_tree`."""
    out = Scan()
    base = Path(root).resolve()
    usual = {name.casefold(): name for name in rates_hz}
    for encounter in _entries(base, folder, out, ""):
        place = f"{folder}/{encounter.name}"
        if not encounter.is_dir():
            out.refused.append(Refused("", place, "foreign_file", "not in an encounter folder"))
            continue
        out.encounters.append(encounter.name)
        for channel in _entries(base, place, out, encounter.name):
            inner = f"{place}/{channel.name}"
            if not channel.is_dir():
                out.refused.append(Refused(encounter.name, inner, "foreign_file", "not in a channel folder"))
                continue
            name = usual.get(channel.name.casefold())
            files = _entries(base, inner, out, encounter.name)
            if name is None:
                detail = f"channel folders that are read: {', '.join(rates_hz)}"
                out.refused += [
                    Refused(encounter.name, f"{inner}/{f.name}", "foreign_file", detail) for f in files
                ]
                continue
            sizes = {f.name: f.stat().st_size for f in files if f.is_file()}
            match_files(sizes, partial(_header_text, f"{base}/{inner}"), inner=inner, encounter_id=encounter.name,
                        folder=name, usual_hz=rates_hz[name], out=out)  # fmt: skip
    return out


def _header_text(folder: str, name: str) -> str:
    # A million headers: joining paths as text and reading bytes takes half as long as pathlib and a text wrapper do.
    with open(f"{folder}/{name}", "rb") as handle:  # noqa: PTH123
        return handle.read(MAX_HEADER_BYTES).decode("latin-1")


def _entries(base: Path, folder: str, out: Scan, encounter_id: str) -> list[os.DirEntry[str]]:
    """Return a folder's entries by name, without leftovers; a link that leaves the root is refused."""
    kept = []
    with os.scandir(base / folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if IGNORED.match(entry.name):
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(base):
                out.refused.append(
                    Refused(encounter_id, f"{folder}/{entry.name}", "out_of_root", "a link to elsewhere")
                )
                continue
            kept.append(entry)
    return kept


def match_files(
    sizes: Mapping[str, int], read: Callable[[str], str], *, inner: str, encounter_id: str, folder: str,
    usual_hz: float, out: Scan, archive: str | None = None,
) -> None:  # fmt: skip
    """Match headers with signal files in one channel folder.

    Parameters
    ----------
    sizes
        File name and size in bytes of every file in the folder.
    read
        Returns the text of a header by its file name.
    inner
        The folder, relative to the root; inside an archive, relative to the archive.
    encounter_id, folder, usual_hz
        Whose folder, the channel's name, and its usual rate in samples per second.
    out
        Takes what is found and what is refused.
    archive
        The archive, relative to the root; None for files of their own.
    """
    wanted: set[str] = set()
    outer = f"{archive}/" if archive else ""
    for name in sizes:
        if not name.endswith(".hea"):
            continue
        out.n_headers += 1
        path = f"{inner}/{name}"
        wanted.add(f"{name[:-4]}.dat")
        try:
            header = parse_header(read(name), name=path)
        except SignalError as error:
            # The reader's message names the file, and its name may hold the encounter; the path column has it anyway.
            found = error.found.replace(path, "").strip()
            out.refused.append(Refused(encounter_id, outer + path, "header_unreadable", found))
            continue
        except OSError as error:
            out.refused.append(Refused(encounter_id, outer + path, "read_failed", error.strerror))
            continue
        wanted.update(s.file for s in header.signals)
        _judge(header, path, encounter_id, folder, sizes, usual_hz, out, archive)
    for name in sizes:
        if name.endswith(".hea") or name in wanted:
            continue
        reason = "header_missing" if name.endswith(".dat") else "foreign_file"
        out.refused.append(Refused(encounter_id, f"{outer}{inner}/{name}", reason))


def _judge(
    header: Header, path: str, encounter_id: str, folder: str, sizes: Mapping[str, int], usual_hz: float, out: Scan,
    archive: str | None,
) -> None:  # fmt: skip
    """Take one header, or say why not."""

    def refuse(reason: str, detail: str | None = None) -> None:
        out.refused.append(Refused(encounter_id, f"{archive}/{path}" if archive else path, reason, detail))

    if header.n_segments != 1 or len(header.signals) != 1:
        refuse("several_signals", f"{header.n_segments} segments, {header.n_signals} signals")
        return
    signal = header.signals[0]
    if "/" in signal.file or "\\" in signal.file or signal.file in ("", ".", ".."):
        refuse("out_of_root", "the header names a signal file outside its folder")
        return
    if signal.fmt not in BYTES_PER_SAMPLE and signal.fmt not in COMPRESSED:
        refuse("unsupported_format", f"format {signal.fmt}")
        return
    if signal.file not in sizes:
        refuse("signal_missing")
        return
    frame_bytes = BYTES_PER_SAMPLE.get(signal.fmt, 0) * signal.samples_per_frame
    held = max(sizes[signal.file] - signal.byte_offset, 0)
    # WFDB: a length that is absent or 0 is unspecified, and the signal file decides.
    n_samples = header.n_samples or (math.floor(held / frame_bytes) if frame_bytes else 0)
    if n_samples == 0:
        refuse("zero_length")
        return
    if held < math.ceil(n_samples * frame_bytes) or held == 0:
        refuse("signal_truncated", f"{held} bytes instead of {math.ceil(n_samples * frame_bytes)}")
        return
    if header.start is None:
        refuse("no_date")
    fs_hz = header.fs_hz * signal.samples_per_frame
    if abs(fs_hz - usual_hz) > 0.01 * usual_hz:
        refuse("unexpected_rate", f"{fs_hz:g} Hz instead of {usual_hz:g} Hz")
    number = NUMBERED.search(path)
    out.found.append(
        Found(encounter_id, folder, int(number.group(1)) if number else 0, archive or path,
              signal.description or folder, fs_hz, n_samples * signal.samples_per_frame, header.start,
              path if archive else None)
    )  # fmt: skip
