"""Recordings inside zip archives: the same samples as from files, and damage told in words."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import wfdb

from phewas.errors import SignalError
from phewas.segments import archives
from phewas.segments.readers import open_recording, parse_header

RNG = np.random.default_rng(5)


def record(folder: Path, *, fmt: str = "16", n: int = 1000) -> np.ndarray:
    """Write `x.hea` and `x.dat` with the wfdb library."""
    folder.mkdir(parents=True, exist_ok=True)
    digital = RNG.integers(-900, 900, (n, 1))
    wfdb.wrsamp("x", fs=125, units=["NU"], sig_name=["Pleth"], d_signal=digital, fmt=[fmt], adc_gain=[200.0],
                baseline=[7], write_dir=str(folder))  # fmt: skip
    return digital[:, 0]


def pack(folder: Path, archive: Path, *, method: int, inner: str = "waveforms/000/1000/Pleth") -> Path:
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.writestr("first.txt", "something before")
        for file in sorted(folder.iterdir()):
            packed.write(file, f"{inner}/{file.name}")
    return archive


def open_packed(root: Path, n: int = 1000, member: str = "waveforms/000/1000/Pleth/x.hea"):
    return open_recording(root, "w.zip", member=member, signal="Pleth", fs_hz=125.0, n_samples=n)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("fmt", ["16", "24", "32", "212", "80"])
def test_same_samples_as_from_files(tmp_path: Path, fmt: str, method: int) -> None:
    if fmt == "80":
        digital = RNG.integers(-120, 120, (1000, 1))
        (tmp_path / "f").mkdir()
        wfdb.wrsamp("x", fs=125, units=["NU"], sig_name=["Pleth"], d_signal=digital, fmt=[fmt], adc_gain=[200.0],
                    baseline=[0], write_dir=str(tmp_path / "f"))  # fmt: skip
    else:
        record(tmp_path / "f", fmt=fmt)
    pack(tmp_path / "f", tmp_path / "w.zip", method=method)
    plain = open_recording(tmp_path, "f/x.hea", signal="Pleth", fs_hz=125.0, n_samples=1000)
    packed = open_packed(tmp_path)
    for start, stop in ((0, 1000), (10, 260), (990, 1010), (1000, 1005), (0, 1)):
        np.testing.assert_array_equal(plain.read(start, stop), packed.read(start, stop))
        assert packed.read(start, stop).dtype == np.float32
    want = wfdb.rdrecord(str(tmp_path / "f" / "x")).p_signal[:, 0].astype(np.float32)
    np.testing.assert_allclose(packed.read(0, 1000), want, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_missing_samples_are_nan(tmp_path: Path, method: int) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/x.hea").write_text("x 1 125 4 24:00:00 01/01/2290\nx.dat 16 2(1)/NU 16 0 0 0 0 Pleth\n")
    (tmp_path / "f/x.dat").write_bytes(struct.pack("<4h", 1, -32768, 3, 5))
    pack(tmp_path / "f", tmp_path / "w.zip", method=method)
    np.testing.assert_array_equal(open_packed(tmp_path, 4).read(0, 6), [0, np.nan, 1, 2, np.nan, np.nan])


def test_real_records(shared_data: Path, tmp_path: Path) -> None:
    seen = 0
    for header_file in sorted(shared_data.glob("wfdb/**/*.hea"))[:40]:
        header = parse_header(header_file.read_text(encoding="latin-1"), name="x")
        files = {header_file.parent / s.file for s in header.signals}
        if header.n_segments != 1 or not header.signals or not header.n_samples or not all(f.is_file() for f in files):
            continue
        if sum(f.stat().st_size for f in files) > 20_000_000:
            continue
        with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for file in {header_file, *files}:
                packed.write(file, f"000/1/II/{file.name}")
        name = header.signals[0].description
        stop = min(header.n_samples, 5000)
        known = {"signal": name, "fs_hz": header.fs_hz, "n_samples": header.n_samples}
        folder = header_file.parent
        try:
            plain = open_recording(folder, header_file.name, **known).read(0, stop)
        except SignalError:
            continue
        got = open_recording(tmp_path, "w.zip", member=f"000/1/II/{header_file.name}", **known).read(0, stop)
        np.testing.assert_array_equal(plain, got)
        seen += 1
    assert seen >= 3


def test_damage_is_told(tmp_path: Path) -> None:
    record(tmp_path / "f")
    archive = pack(tmp_path / "f", tmp_path / "w.zip", method=zipfile.ZIP_DEFLATED)
    whole = archive.read_bytes()
    with pytest.raises(SignalError, match="does not hold"):
        open_packed(tmp_path, member="waveforms/000/1000/Pleth/y.hea")
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SignalError, match="damaged"):
        open_packed(tmp_path)
    with zipfile.ZipFile(tmp_path / "ok.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(tmp_path / "f/x.dat", "x.dat")
    info = zipfile.ZipFile(tmp_path / "ok.zip").getinfo("x.dat")
    spoiled = bytearray((tmp_path / "ok.zip").read_bytes())
    spoiled[info.header_offset + 30 + 5 + info.compress_size // 2] ^= 0xFF
    (tmp_path / "ok.zip").write_bytes(spoiled)
    with pytest.raises(SignalError, match=r"cannot be unpacked|checksum"):
        archives.Member(tmp_path / "ok.zip", "x.dat", called="ok.zip").read()


@pytest.mark.parametrize("file", ["../x.dat", "/etc/passwd", "..", "a\\b.dat"])
def test_a_signal_file_stays_beside_its_header(tmp_path: Path, file: str) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
        packed.writestr("0/1/Pleth/x.hea", f"x 1 125 4\n{file} 16\n")
        packed.writestr("0/1/x.dat", b"\0" * 8)
    with pytest.raises(SignalError, match=r"outside its folder|cannot be read"):
        open_packed(tmp_path, 4, "0/1/Pleth/x.hea")


def test_a_member_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "f")
    pack(tmp_path / "f", tmp_path / "w.zip", method=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1999)
    with pytest.raises(SignalError, match=r"holds"):
        open_packed(tmp_path)


def test_members_that_lie_about_their_size(tmp_path: Path) -> None:
    """A small size in the directory and a large one in the stream: no more than the promise is unpacked."""
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.dat", bytes(1_000_000))
    data = bytearray((tmp_path / "w.zip").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    (tmp_path / "w.zip").write_bytes(data)
    with pytest.raises(SignalError, match="checksum"):
        archives.Member(tmp_path / "w.zip", "x.dat", called="w.zip").read()


def test_an_exchanged_archive_is_read_anew(tmp_path: Path) -> None:
    for n in (4, 6):
        with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
            packed.writestr("x" * n, b"abc")
        assert archives.Member(tmp_path / "w.zip", "x" * n, called="w.zip").read() == b"abc"


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
        packed.writestr("a.npy", b"x")
        packed.writestr("m.hea", "m/2 1 125 100\na 50\nb 50\n")
    for member in ("a.npy", "m.hea"):
        with pytest.raises(SignalError, match=r"not read|several segments"):
            open_packed(tmp_path, 4, member)
