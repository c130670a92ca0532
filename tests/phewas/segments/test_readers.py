"""Recordings: headers as they are met, samples against the wfdb library, and files that cannot be read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import wfdb

from phewas.errors import SignalError
from phewas.segments.readers import confine, open_recording, parse_header

LINE = "1_1.dat 16 1000.5(-12)/NU 16 0 0 0 0 Pleth"


def header(record: str, signal: str = LINE) -> str:
    return f"{record}\n{signal}\n"


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ("03:16:07 12/05/2250", dt.datetime(2250, 5, 12, 3, 16, 7)),
        ("03:16:07.5 12/05/2250", dt.datetime(2250, 5, 12, 3, 16, 7, 500_000)),
        ("3:16:7.123 01/12/2294", dt.datetime(2294, 12, 1, 3, 16, 7, 123_000)),
        ("03:16:07.1234567 12/05/2250", dt.datetime(2250, 5, 12, 3, 16, 7, 123_456)),
        ("24:00:00 12/05/2250", None),
        ("03:16:07 31/02/2250", None),
        ("03:16:07", None),
        ("", None),
        ("noon today", None),
    ],
)
def test_the_start_is_read_tolerantly(tokens, start):
    parsed = parse_header(header(f"1_1 1 125 14998 {tokens}".strip()), name="1_1.hea")
    assert parsed.start == start
    assert (parsed.n_samples, parsed.fs_hz, parsed.n_signals) == (14998, 125.0, 1)


@pytest.mark.parametrize(
    ("rate", "fs_hz"),
    [("125", 125.0), ("62.5", 62.5), ("125/125(0)", 125.0), ("62.4725/999.56", 62.4725), ("1e2", 100.0)],
)
def test_rates(rate, fs_hz):
    assert parse_header(header(f"1_1 1 {rate} 10"), name="x").fs_hz == fs_hz


def test_the_signal_line():
    (signal,) = parse_header(header("1_1 1 125 10"), name="x").signals
    assert (signal.file, signal.fmt, signal.gain, signal.baseline, signal.units, signal.description) == (
        "1_1.dat", "16", 1000.5, -12, "NU", "Pleth",
    )  # fmt: skip


def test_comments_blank_lines_and_a_missing_length_are_fine():
    parsed = parse_header("# made by hand\n\n1_1 1 125\n# more\n" + LINE + "\n", name="x")
    assert parsed.n_samples is None
    assert parsed.signals[0].description == "Pleth"


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment", "1_1", "1_1 one 125 10", "1_1 1 fast 10", "1_1 1 0 10", "1_1 1 125 -5", "1_1 1 125 10",
     header("1_1 1 125 10", "1_1.dat"), header("1_1 1 125 10", "1_1.dat sixteen 200"),
     header("1_1 1 125 10", "1_1.dat 16 gain")],
)  # fmt: skip
def test_what_is_no_header_is_told(text):
    with pytest.raises(SignalError):
        parse_header(text, name="x.hea")


def write(folder: Path, name: str, values: np.ndarray, fmt: str = "16", fs_hz: float = 125.0, **more) -> None:
    wfdb.wrsamp(
        name,
        fs=fs_hz,
        units=["NU"],
        sig_name=["Pleth"],
        p_signal=values[:, None],
        fmt=[fmt],
        write_dir=str(folder),
        **more,
    )


@pytest.mark.parametrize("fmt", ["16", "24", "32", "80", "212"])
def test_samples_are_those_of_the_wfdb_library(tmp_path, fmt):
    rng = np.random.default_rng(1)
    values = np.sin(np.arange(2000) / 20) + 0.05 * rng.standard_normal(2000)
    values[300:340] = np.nan
    write(tmp_path, "r1", values, fmt)
    expected = wfdb.rdrecord(str(tmp_path / "r1")).p_signal[:, 0]
    opened = open_recording(tmp_path, "r1.hea", signal="Pleth", fs_hz=125.0, n_samples=2000)
    for start, stop in [(0, 2000), (250, 500), (1999, 2000), (0, 1)]:
        got = opened.read(start, stop)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected[start:stop]))
        np.testing.assert_allclose(got, expected[start:stop], rtol=1e-6, atol=1e-6)
    assert np.isnan(opened.read(1900, 2100)[100:]).all()


def test_a_date_that_the_library_refuses_costs_no_sample(tmp_path):
    write(tmp_path, "r2", np.sin(np.arange(500) / 9), "212")
    expected = wfdb.rdrecord(str(tmp_path / "r2")).p_signal[:, 0]
    text = (tmp_path / "r2.hea").read_text().splitlines()
    text[0] = "r2 1 125 500 24:00:00 12/05/2250"
    (tmp_path / "r2.hea").write_text("\n".join(text) + "\n")
    with pytest.raises(Exception):  # noqa: B017
        wfdb.rdrecord(str(tmp_path / "r2"))
    got = open_recording(tmp_path, "r2.hea", signal="Pleth", fs_hz=125.0, n_samples=500).read(10, 60)
    np.testing.assert_allclose(got, expected[10:60], rtol=1e-6)


def test_text_and_numpy_arrays(tmp_path):
    values = np.array([1.5, -2.0, 3.25, 4.0])
    (tmp_path / "a.txt").write_text("1.5\t-2\t3.25\t4\n")
    (tmp_path / "b.csv").write_text("1.5\n-2\n3.25\n4\n")
    np.save(tmp_path / "c.npy", values)
    for name in ("a.txt", "b.csv", "c.npy"):
        opened = open_recording(tmp_path, name, signal="x", fs_hz=10.0, n_samples=4)
        assert opened.read(1, 4).tolist() == [-2.0, 3.25, 4.0]


def test_pickled_arrays_and_words_are_refused(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "w.txt").write_text("one two three")
    (tmp_path / "x.mat").write_text("1 2 3")
    for name in ("p.npy", "w.txt", "x.mat", "gone.txt"):
        with pytest.raises(SignalError):
            open_recording(tmp_path, name, signal="x", fs_hz=10.0, n_samples=1)


def test_paths_stay_inside_the_data_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.txt").write_text("1 2 3")
    (tmp_path / "root" / "link.txt").symlink_to(tmp_path / "secret.txt")
    for path in ("../secret.txt", str(tmp_path / "secret.txt"), "link.txt"):
        with pytest.raises(SignalError, match="leaves the data root"):
            confine(tmp_path / "root", path)
    (tmp_path / "root" / "r.hea").write_text("r 1 125 3\n../secret.txt 16 200 16 0 0 0 0 Pleth\n")
    with pytest.raises((SignalError, ValueError)):
        open_recording(tmp_path / "root", "r.hea", signal="Pleth", fs_hz=125.0, n_samples=3).read(0, 3)


def test_real_records_against_the_library(shared_data):
    root = shared_data / "wfdb"
    seen = 0
    for file in sorted(root.rglob("*.hea")):
        parsed = parse_header(file.read_text(encoding="latin-1"), name=file.name)
        frames = {s.samples_per_frame for s in parsed.signals}
        if not parsed.n_samples or parsed.n_segments > 1 or frames != {1}:
            continue
        for signal in parsed.signals:
            if not (file.parent / signal.file).is_file():
                continue
            stop = min(parsed.n_samples, 900)
            expected = wfdb.rdrecord(
                str(file.with_suffix("")), sampfrom=100, sampto=stop, channel_names=[signal.description]
            ).p_signal[:, 0]
            opened = open_recording(
                root, file.relative_to(root).as_posix(), signal=signal.description, fs_hz=parsed.fs_hz,
                n_samples=parsed.n_samples,
            )  # fmt: skip
            np.testing.assert_allclose(opened.read(100, stop), expected, rtol=1e-5, atol=1e-5)
            seen += 1
    assert seen >= 10
