"""WFDB records against the wfdb library: every format, several rates in one record, segments, compressed files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import wfdb

from phewas.config import SegmentConfig
from phewas.errors import SignalError
from phewas.segments import quality
from phewas.segments.readers import open_recording
from phewas.segments.wfdb_records import list_signals

# Formats that the library writes; 310 and 311 are read only, so their bytes are laid out here.
BITS = {"8": 7, "16": 16, "24": 24, "32": 30, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}


def pack_310(d: np.ndarray) -> bytes:
    """Three ten-bit samples in four bytes: two in the upper bits of a word each, the third in what is left over."""
    out = []
    for a, b, c in (d.reshape(-1, 3) & 0x3FF).tolist():
        first, second = (a << 1) | ((c & 0x1F) << 11), (b << 1) | ((c >> 5) << 11)
        out += [first & 0xFF, first >> 8, second & 0xFF, second >> 8]
    return bytes(out)


def pack_311(d: np.ndarray) -> bytes:
    return b"".join((a | b << 10 | c << 20).to_bytes(4, "little") for a, b, c in (d.reshape(-1, 3) & 0x3FF).tolist())


def write(folder: Path, fmt: str, digital: np.ndarray) -> None:
    n = len(digital)
    if fmt in ("310", "311"):
        (folder / "r.dat").write_bytes((pack_310 if fmt == "310" else pack_311)(digital))
        (folder / "r.hea").write_text(f"r 1 125 {n}\nr.dat {fmt} 50(3)/NU 10 0 {digital[0]} 0 0 Pleth\n")
        return
    wfdb.wrsamp("r", fs=125, units=["NU"], sig_name=["Pleth"], d_signal=digital[:, None], fmt=[fmt], adc_gain=[50.0],
                baseline=[3], write_dir=str(folder))  # fmt: skip


@pytest.mark.parametrize("fmt", ["16", "24", "32", "80", "212", "310", "311", "516"])
def test_every_format_comes_back_from_any_stretch(tmp_path, fmt):
    rng = np.random.default_rng(int(fmt))
    half = 2 ** (BITS.get(fmt, 16) - 1) - 2
    digital = rng.integers(-half, half, 3000)
    write(tmp_path, fmt, digital)
    recording = open_recording(tmp_path, "r.hea", signal="Pleth", fs_hz=125.0, n_samples=3000)
    expected = ((digital - 3) / 50).astype(np.float32)
    for start, stop in [(0, 3000), (1, 2), (17, 1267), (1250, 2500), (2999, 3000), (2990, 3010)]:
        got = recording.read(start, stop)
        np.testing.assert_allclose(got[: 3000 - start], expected[start:stop], rtol=1e-6)
        assert np.isnan(got[3000 - start :]).all()
        library = wfdb.rdrecord(str(tmp_path / "r"), sampfrom=start, sampto=min(stop, 3000)).p_signal[:, 0]
        np.testing.assert_allclose(got[: 3000 - start], library, rtol=1e-6)


@pytest.mark.parametrize("fmt", ["16", "212"])
def test_a_compressed_signal_file_is_read(tmp_path, fmt):
    digital = np.random.default_rng(0).integers(-900, 900, 2000)
    write(tmp_path, fmt, digital)
    recording = open_recording(tmp_path, "r.hea", signal="Pleth", fs_hz=125.0, n_samples=2000)
    expected = recording.read(100, 1500)
    (tmp_path / "r.dat.gz").write_bytes(gzip.compress((tmp_path / "r.dat").read_bytes()))
    (tmp_path / "r.dat").unlink()
    packed = open_recording(tmp_path, "r.hea", signal="Pleth", fs_hz=125.0, n_samples=2000)
    assert np.array_equal(packed.read(100, 1500), expected)
    (tmp_path / "r.dat.gz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(SignalError, match="damaged"):
        open_recording(tmp_path, "r.hea", signal="Pleth", fs_hz=125.0, n_samples=2000)


@pytest.mark.parametrize("skew", [0, 7])
def test_interleaved_samples_and_several_a_frame(tmp_path, skew):
    rng = np.random.default_rng(4)
    signals = [rng.integers(-2000, 2000, 4 * 500), rng.integers(-2000, 2000, 500), rng.integers(-2000, 2000, 2 * 500)]
    frames = np.concatenate([s.reshape(500, -1) for s in signals], axis=1)
    (tmp_path / "m.dat").write_bytes(frames.astype("<i2").tobytes())
    lines = ["m 3 62.5 500"]
    for name, per_frame in (("II", 4), ("Resp", 1), ("Pleth", 2)):
        late = f":{skew}" if skew and name == "Pleth" else ""
        lines.append(f"m.dat 16x{per_frame}{late} 200/mV 16 0 0 0 0 {name}")
    (tmp_path / "m.hea").write_text("\n".join(lines) + "\n")
    assert [(s.name, s.fs_hz, s.n_samples) for s in list_signals(tmp_path, "m.hea")] == [
        ("II", 250.0, 2000), ("Resp", 62.5, 500), ("Pleth", 125.0, 1000)
    ]  # fmt: skip
    library = wfdb.rdrecord(str(tmp_path / "m"), smooth_frames=False)
    for i, info in enumerate(list_signals(tmp_path, "m.hea")):
        one = open_recording(tmp_path, "m.hea", signal=info.name, fs_hz=info.fs_hz, n_samples=info.n_samples)
        for start, stop in ((0, info.n_samples - 2 * skew), (33, 171), (101, 102)):
            np.testing.assert_allclose(one.read(start, stop), library.e_p_signal[i][start:stop], rtol=1e-6)
    with pytest.raises(SignalError, match="announced with 100 Hz"):
        open_recording(tmp_path, "m.hea", signal="II", fs_hz=100.0, n_samples=800)


def test_a_real_record_of_several_rates_at_its_full_rate(shared_data):
    root = shared_data / "wfdb"
    library = wfdb.rdrecord(str(root / "mixedsignals"), smooth_frames=False)
    smooth = wfdb.rdrecord(str(root / "mixedsignals"))
    infos = list_signals(root, "mixedsignals.hea")
    assert {s.name: s.fs_hz for s in infos} == pytest.approx(
        {"II": 249.89, "III": 249.89, "V": 249.89, "ABP": 124.945, "Pleth": 124.945, "Resp": 62.4725}
    )
    for i, info in enumerate(infos):
        n = info.n_samples
        one = open_recording(root, "mixedsignals.hea", signal=info.name, fs_hz=info.fs_hz, n_samples=n)
        assert n == len(library.e_p_signal[i])
        for start, stop in ((0, 500), (n // 2 + 1, n // 2 + 1250), (n - 300, n)):
            np.testing.assert_allclose(one.read(start, stop), library.e_p_signal[i][start:stop], rtol=1e-6)
        # Announced with the rate of the frames, it is what the library gives by default.
        framed = open_recording(root, "mixedsignals.hea", signal=info.name, fs_hz=62.4725, n_samples=14400)
        np.testing.assert_allclose(framed.read(700, 900), smooth.p_signal[700:900, i], rtol=1e-6)


@pytest.mark.parametrize("record", ["041s/041s", "p000878/p000878-2137-10-26-16-57", "fixed1/v102s"])
def test_real_records_of_several_segments(shared_data, record):
    root = shared_data / "wfdb"
    stop = 7400 if record.startswith("p000878") else None  # of its 36 segments, the first are here
    library = wfdb.rdrecord(str(root / record), sampto=stop)
    for i, name in enumerate(library.sig_name):
        n = len(library.p_signal)
        one = open_recording(root, f"{record}.hea", signal=name, fs_hz=library.fs, n_samples=n)
        for start, end in ((0, n), (n // 3, n // 3 + 1250), (990, 1010)):
            np.testing.assert_allclose(one.read(start, end)[: n - start], library.p_signal[start:end, i], rtol=1e-5,
                                       atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("path", ["v102s.hea", "fixed1/v102s.hea"])
def test_the_bad_records_are_flagged_and_not_crashed_on(shared_data, path):
    """The pulse wave of v102s left its twelve bits and came back at the other end; a103l is a plain one."""
    root = shared_data / "wfdb"

    def reasons(path: str) -> list[str | None]:
        one = open_recording(root, path, signal="PLETH", fs_hz=250.0, n_samples=75_000)
        measured = [quality.measure(one.read(at, at + 2500), fs_hz=250.0) for at in range(0, 72_500, 2500)]
        return [m.reason(SegmentConfig()) for m in measured]

    bad = reasons(path)
    assert bad.count("wrapped") >= 0.8 * len(bad)
    assert reasons("a103l.hea").count("wrapped") == 0


def test_missing_segments_and_signals_are_told(tmp_path):
    (tmp_path / "s.hea").write_text("s/2 1 125 2000\na 1000\nb 1000\n")
    write(tmp_path, "16", np.arange(1000))
    (tmp_path / "r.hea").rename(tmp_path / "a.hea")
    one = open_recording(tmp_path, "s.hea", signal="Pleth", fs_hz=125.0, n_samples=2000)
    assert one.read(0, 1000)[3] == 0
    with pytest.raises(SignalError, match="missing"):
        one.read(500, 1500)
    nothing = open_recording(tmp_path, "s.hea", signal="II", fs_hz=125.0, n_samples=2000)
    assert np.isnan(nothing.read(0, 900)).all()
