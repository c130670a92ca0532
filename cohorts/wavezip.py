"""Headers of waveforms that are still packed: zip archives with the tree ``.../<suffix>/<encounter>/<channel>/*``.

The last four parts of a member's name say what it is, whatever folders the archive puts before them. Sizes come from
the archive's directory; only headers are unpacked, in memory.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from phewas.cohorts.wavescan import IGNORED, MAX_HEADER_BYTES, Refused, Scan, match_files
from phewas.errors import CohortError

_ENCRYPTED = 0x1


def find_archives(base: Path, waveforms: str) -> list[Path]:
    """Return the zip archives beside the tables and in the waveform folder, sorted."""
    return sorted([*base.glob(f"{waveforms}*.zip"), *(base / waveforms).glob("*.zip")])


def opened(archive: Path) -> zipfile.ZipFile:
    """Open an archive.

    Raises
    ------
    CohortError
        It is damaged or not a zip file, as after a download that broke off.
    """
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise CohortError(
            f"the archive {archive.name} cannot be read: it is damaged, or its download broke off",
            expected="a whole zip file",
            cure="download it again, or move it out of the folder to go without its encounters",
        ) from error


def members(archive: Path) -> Iterator[tuple[str, int]]:
    """Yield name with checksum, and unpacked size in bytes, of every file in an archive."""
    with opened(archive) as packed:
        for one in packed.infolist():
            if not one.is_dir():
                yield f"{one.filename}#{one.CRC:08x}", one.file_size


def encounters_in(archive: Path) -> set[str]:
    """Return the encounters that an archive holds files of, from its directory alone."""
    with opened(archive) as packed:
        parts = (one.filename.split("/") for one in packed.infolist() if not one.is_dir())
        return {p[-3] for p in parts if len(p) >= 4}


def scan_archive(
    root: str, archive: str, *, rates_hz: dict[str, float], only: Callable[[str], bool] | None = None
) -> Scan:
    """Read every header of one archive; see `phewas.cohorts.wavescan.scan_tree`.

    `only` says by an encounter's name whether its folder is looked at; None looks at all.
    """
    out = Scan()
    base = Path(root).resolve()
    if not (base / archive).resolve().is_relative_to(base):
        out.refused.append(Refused("", archive, "out_of_root", "a link to elsewhere"))
        return out
    usual = {name.casefold(): name for name in rates_hz}
    folders: dict[str, dict[str, zipfile.ZipInfo]] = {}
    with opened(base / archive) as packed:
        for one in packed.infolist():
            parts = one.filename.split("/")
            if one.is_dir() or IGNORED.match(parts[-1]) or "__MACOSX" in parts:
                continue
            where = f"{archive}/{one.filename}"
            if one.flag_bits & _ENCRYPTED:
                out.refused.append(Refused("", where, "unsupported_format", "encrypted"))
            elif ".." in parts:
                out.refused.append(Refused("", where, "out_of_root", "a name that leaves the archive"))
            elif len(parts) < 4:
                out.refused.append(Refused("", where, "foreign_file", "not in a channel folder"))
            else:
                folders.setdefault("/".join(parts[:-1]), {})[parts[-1]] = one
        for inner, held in sorted(folders.items()):
            encounter, channel = inner.split("/")[-2:]
            if only is not None and not only(encounter):
                continue
            out.encounters.append(encounter)
            name = usual.get(channel.casefold())
            if name is None:
                detail = f"channel folders that are read: {', '.join(rates_hz)}"
                out.refused += [
                    Refused(encounter, f"{archive}/{inner}/{file}", "foreign_file", detail) for file in sorted(held)
                ]
                continue
            sizes = {file: held[file].file_size for file in sorted(held)}
            match_files(sizes, partial(_header_text, packed, held), inner=inner, encounter_id=encounter, folder=name,
                        usual_hz=rates_hz[name], out=out, archive=archive)  # fmt: skip
    return out


def _header_text(packed: zipfile.ZipFile, held: dict[str, zipfile.ZipInfo], name: str) -> str:
    try:
        with packed.open(held[name]) as handle:
            return handle.read(MAX_HEADER_BYTES).decode("latin-1")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise OSError(0, "the packed header is damaged") from error
