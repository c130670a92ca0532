"""Twenty faults that published preprocessing of this layout has been found to have: one test each that ours does not.

Each test goes through public functions only, on a tree in the layout of MC-MED.
"""

from __future__ import annotations

import ast
import datetime as dt
import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import phewas.segments.readers as readers
from phewas.cohorts import get
from phewas.cohorts.heldout import assign
from phewas.config import SegmentConfig
from phewas.encoders.registry import PPG_125
from phewas.errors import DiskFullError, EncoderError, SignalError
from phewas.pipeline import READS, STEPS, WRITES
from phewas.schema import Encounters, PredictionRows, Recordings, Rejects, Splits, Windows
from phewas.segments import quality
from phewas.segments.extract import extract
from phewas.segments.filtering import prepare
from phewas.segments.readers import open_recording, parse_header
from phewas.segments.store import SegmentStore, windows_file
from phewas.segments.windows import candidates

CARD = get("mcmed").card
T0 = dt.datetime(2280, 1, 1, 9)
ROOT = Path(__file__).resolve().parents[2]


def pulse(seconds: float, fs_hz: float = 125.0, *, seed: int = 0, f_hz: float = 1.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * fs_hz)) / fs_hz
    wave = np.sin(2 * np.pi * f_hz * t) + 0.4 * np.sin(2 * np.pi * 2 * f_hz * t + 1)
    return np.round((wave + 0.02 * rng.standard_normal(len(t))) * 4000).astype("<i2")


class Tree:
    """A small source: `visit` adds a visit, `record` a recording; `build` and `cut` run the first steps."""

    def __init__(self, folder: Path) -> None:
        self.root, self.run = folder / "data", folder / "run"
        self.root.mkdir()
        self.visits: list[str] = []

    def visit(self, csn: int, mrn: int) -> None:
        day = T0 + dt.timedelta(days=csn % 1000)
        end = day + dt.timedelta(hours=9)
        self.visits.append(f"{mrn},{csn},50,F,,,,R07.9,{day:%Y-%m-%dT%H:%M:%SZ},{end:%Y-%m-%dT%H:%M:%SZ}")

    def record(self, csn: int, n: int, wave: np.ndarray, *, channel: str = "Pleth", fs: str = "125") -> Path:
        folder = self.root / "waveforms" / f"{csn % 1000:03d}" / str(csn) / channel
        folder.mkdir(parents=True, exist_ok=True)
        at = T0 + dt.timedelta(days=csn % 1000, minutes=30 * n)
        (folder / f"{csn}_{n}.hea").write_text(
            f"{csn}_{n} 1 {fs} {len(wave)} {at:%H:%M:%S %d/%m/%Y}\n{csn}_{n}.dat 16 1000/NU 16 0 0 0 0 {channel}\n"
        )
        (folder / f"{csn}_{n}.dat").write_bytes(wave.tobytes())
        return folder / f"{csn}_{n}.hea"

    def build(self) -> Tree:
        header = "MRN,CSN,Age,Gender,Race,Ethnicity,Dx_ICD9,Dx_ICD10,Arrival_time,Departure_time"
        (self.root / "visits.csv").write_text("\n".join([header, *self.visits]) + "\n")
        (self.root / "pmh.csv").write_text("MRN,Noted_date,CodeType,Code\n")
        get("mcmed").build(self.root, self.run, workers=1)
        return self

    def cut(self, **more: Any) -> SegmentStore:
        options: dict[str, Any] = {"window_s": 10.0, "seed": 0, "workers": 1, "config": SegmentConfig(),
                                   "fingerprint": "f" * 32}  # fmt: skip
        extract(self.run, root=self.root, contract=PPG_125, **(options | more))
        return SegmentStore.open(self.run, PPG_125)

    def split(self, rule: str = "random:0.4") -> dict[str, str]:
        assign(self.run, rule=rule, seed=0, pretraining=(), pretrained=False, card=CARD, root=self.root)
        return dict(Splits.read(self.run).select("patient_id", "split").iter_rows())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_01_a_patient_is_never_on_two_sides(tree: Tree) -> None:
    for k in range(60):
        tree.visit(1000 + k, 10 + k % 20)
        tree.record(1000 + k, 1, pulse(12, seed=k))
    sides = tree.build().split()
    assert len(sides) == 20
    of = Encounters.read(tree.run).join(Splits.read(tree.run), on="patient_id")
    assert of.group_by("patient_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 20
    proof = json.loads((tree.run / "cohort/disjointness.json").read_text())
    assert proof["intersection"] == []
    assert sum(c["encounters"] for c in proof["counts"].values()) == 60


def test_02_the_split_does_not_depend_on_the_order_of_anything(tree: Tree, tmp_path: Path) -> None:
    for k in range(40):
        tree.visit(1000 + k, 10 + k)
        tree.record(1000 + k, 1, pulse(12, seed=k))
    first = tree.build().split()
    tree.visits.reverse()
    tree.run = tmp_path / "other"
    assert tree.build().split() == first


@pytest.mark.parametrize(
    "line",
    ["x 1 125 1250 03:16:07.250 01/02/2280", "x 1 125 1250 03:16:07 01/02/2280", "x 1 125 1250 3:16:7 1/2/2280",
     "x 1 125/125(0) 1250 03:16:07 01/02/2280", "x 1 125 1250 24:00:00 01/02/2280", "x 1 125 1250"],
)  # fmt: skip
def test_03_headers_with_and_without_fraction_or_date_are_read(tree: Tree, line: str) -> None:
    tree.visit(1001, 10)
    file = tree.record(1001, 1, pulse(10))
    file.write_text(line.replace("x ", "1001_1 ", 1) + "\n1001_1.dat 16 1000/NU 16 0 0 0 0 Pleth\n")
    header = parse_header(line + "\nx.dat 16\n", name="x")
    assert header.fs_hz == 125.0
    assert header.n_samples == 1250
    assert tree.build().cut().index.height == 1


def test_04_rates_need_not_be_whole_numbers(tree: Tree) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(20, 62.5), fs="62.5")
    store = tree.build().cut()
    assert Recordings.read(tree.run)["fs_hz"].to_list() == [62.5]
    assert store.index.height == 2
    assert store.gather(np.arange(2)).shape == (2, 1, 1250)


def test_05_one_bad_file_does_not_take_the_encounter_with_it(tree: Tree) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(20))
    tree.record(1001, 2, pulse(20)).with_suffix(".dat").write_bytes(b"short")
    vanishing = tree.record(1001, 3, pulse(20)).with_suffix(".dat")
    tree.build()
    vanishing.unlink()  # readable when the headers were read, gone when the samples are
    store = tree.cut()
    assert store.index["recording_id"].unique().to_list() == ["001/1001/Pleth/1001_1"]
    told = dict(Rejects.read_all(tree.run).select("path", "reason").iter_rows())
    assert told["waveforms/001/1001/Pleth/1001_2.hea"] == "signal_truncated"
    assert told["waveforms/001/1001/Pleth/1001_3.hea"] == "read_failed"


def test_06_errors_reach_the_user(tree: Tree, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from phewas.cli import main; main()", "run", "--cohort", "mcmed", "--encoder",
         "net1d-small", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing does not exist" in done.stderr
    tree.visit(1001, 10)
    tree.record(1001, 1, np.zeros(1250, "<i2"))  # the only recording is flat
    with pytest.raises(SignalError, match="no PPG recording has a usable window"):
        tree.build().cut()


def test_07_only_drawn_windows_are_read_and_each_file_is_opened_once(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.visit(1001, 10)
    for n in range(1, 4):
        tree.record(1001, n, pulse(3000, seed=n))
        tree.record(1001, n, pulse(3000, seed=n), channel="II", fs="125")
    tree.build()
    headers: list[str] = []
    samples: list[int] = []
    parse, fromfile = readers.parse_header, np.fromfile

    def parsed(text: str, *, name: str) -> Any:
        headers.append(name)
        return parse(text, name=name)

    def read(file: Any, *, count: int, **more: Any) -> Any:
        samples.append(count)
        return fromfile(file, count=count, **more)

    monkeypatch.setattr(readers, "parse_header", parsed)
    monkeypatch.setattr(np, "fromfile", read)
    assert tree.cut().index.height == 20
    assert len(headers) == len(set(headers)) <= 3
    assert not [h for h in headers if "/II/" in h]
    assert sum(samples) == 20 * 1250  # of 1,125,000


def test_08_nothing_on_disk_needs_pickle(tree: Tree) -> None:
    for k in range(3):
        tree.visit(1000 + k, 10 + k)
        tree.record(1000 + k, 1, pulse(10 + 10 * k))
    tree.build().cut()
    arrays = list(tree.run.rglob("*.npy"))
    assert arrays
    for file in arrays:
        assert np.load(file, allow_pickle=False).dtype.kind == "f"
    assert {f.suffix for f in tree.run.rglob("*") if f.is_file()} <= {".npy", ".parquet", ".json"}
    for room in ("phewas", "cohorts", "mappings", "reports"):
        for source in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                library = called.partition(".")[0]
                assert library not in ("pickle", "joblib", "dill", "shelve", "cloudpickle"), source.name
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("allow_pickle", "False") == "False", source.name
                assert called != "torch.load" or given.get("weights_only") == "True", source.name


def test_09_recordings_come_in_the_order_of_their_numbers(tree: Tree) -> None:
    tree.visit(1001, 10)
    for n in (10, 2, 1, 11, 9):
        tree.record(1001, n, pulse(10, seed=n))
    names = [r.rsplit("_", 1)[1] for r in Recordings.read(tree.build().run)["recording_id"]]
    assert names == ["1", "2", "9", "10", "11"]


def test_10_each_header_has_its_own_rate(tree: Tree) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(10, 125))
    tree.record(1001, 2, pulse(10, 250), fs="250")
    store = tree.build().cut()
    told = Rejects.read(tree.run).filter(reason="unexpected_rate")
    assert told["detail"].to_list() == ["250 Hz instead of 125 Hz"]
    for window in store.gather(np.arange(2))[:, 0].astype(np.float64):
        spectrum = np.abs(np.fft.rfft(window))
        assert np.fft.rfftfreq(len(window), 1 / 125)[spectrum.argmax()] == pytest.approx(1.2, abs=0.06)


@pytest.mark.parametrize("seconds", [9.999, 10.0, 10.008, 29.99, 30.0, 119.984])
def test_11_one_grid_and_never_a_window_without_samples(tree: Tree, seconds: float) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(seconds))
    tree.record(1001, 2, pulse(10))
    tree.record(1001, 1, pulse(seconds, 500), channel="II", fs="500")
    store = tree.build().cut()
    assert store.index.height == int(len(pulse(seconds)) // 1250) + 1
    assert np.isfinite(store.gather(np.arange(store.index.height))).all()
    assert (store.index["start_sample"] % 1250 == 0).all()


@pytest.mark.parametrize("gain", [1.0, 1e-6, 1e9])
def test_12_flatness_does_not_depend_on_gain_or_unit(gain: float) -> None:
    wave = pulse(10).astype(np.float32)
    wave[300:600] = wave[300]
    plain = quality.measure(wave, fs_hz=125.0)
    scaled = quality.measure((wave * np.float32(gain)).astype(np.float32), fs_hz=125.0)
    assert plain.flat == scaled.flat == pytest.approx(300 / 1250, abs=0.01)
    assert quality.measure(pulse(10).astype(np.float32) * np.float32(gain), fs_hz=125.0).flat == 0.0


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_13_mains_of_either_country_are_gone(mains_hz: float) -> None:
    t = np.arange(5000) / 500
    clean = np.sin(2 * np.pi * 1.2 * t)
    hum = clean + np.sin(2 * np.pi * mains_hz * t)
    a, b = (
        prepare(x[None].astype(np.float32), fs_hz=500.0, contract=PPG_125, window_s=10.0).values[0, 375:-375]
        for x in (clean, hum)
    )
    # As strong as the pulse itself; the first and last seconds feel where the hum was cut off.
    assert np.corrcoef(a, b)[0, 1] > 0.999
    spectrum = np.abs(np.fft.rfft(b * np.hanning(len(b))))
    assert spectrum[np.fft.rfftfreq(len(b), 1 / 125) > 40].max() < 1e-3 * spectrum.max()


def test_14_missing_samples_do_not_turn_a_window_over(tree: Tree) -> None:
    wave = pulse(10)
    holed = wave.copy()
    holed[:250] = -32768
    tree.visit(1001, 10)
    tree.record(1001, 1, wave)
    tree.record(1001, 2, holed)
    store = tree.build().cut()
    whole, part = store.gather(np.arange(2))[:, 0].astype(np.float64)
    if store.index["recording_id"][0].endswith("_2"):
        whole, part = part, whole
    assert np.corrcoef(whole[400:], part[400:])[0, 1] > 0.95
    assert np.corrcoef(whole, wave)[0, 1] > 0.95


def test_15_every_step_finds_what_the_one_before_wrote(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for k, step in enumerate(STEPS):
        assert set(READS[step]) <= set(STEPS[:k])
        assert WRITES[step]
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(20))
    tree.build().cut()
    # From another working directory, and with the run directory moved.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = tree.run.rename(tmp_path / "moved")
    assert SegmentStore.open(moved, PPG_125).index.height == 2
    assert windows_file(moved, window_s=10.0, channels=("PPG",)).is_file()


def test_16_every_random_choice_is_seeded() -> None:
    code = (
        "import numpy as np; from phewas.segments.windows import candidates as c; from phewas.seeds import uniform; "
        "g = c(np.array([50000, 9000]), np.array([1250, 1250]), seed=3, encounter_id='e'); "
        "print(g.start_sample.tolist(), uniform(3, 'held_out', 'p'))"
    )
    answers = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env=os.environ | {"PYTHONHASHSEED": h}).stdout
        for h in ("1", "2")
    }  # fmt: skip
    assert len(answers) == 1
    lengths, window = np.array([50_000]), np.array([1_250])
    one = candidates(lengths, window, seed=3, encounter_id="e").start_sample.tolist()
    assert one != candidates(lengths, window, seed=4, encounter_id="e").start_sample.tolist()
    assert one != candidates(lengths, window, seed=3, encounter_id="f").start_sample.tolist()


def test_17_a_full_disk_stops_the_run_and_leaves_no_half_store(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(20))
    tree.build()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="no space is left"):
            tree.cut()
    assert not list(tree.run.glob("segments/*/index.parquet"))
    assert tree.cut().index.height == 2


@pytest.mark.parametrize("seconds", [10, 30])
def test_18_a_few_windows_are_enough(tree: Tree, seconds: int) -> None:
    tree.visit(1001, 10)
    tree.record(1001, 1, pulse(seconds))
    assert tree.build().cut().index.height == seconds // 10


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_19_data_files_are_sorted_and_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    np.save(tmp_path / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(SignalError, match="not a plain NumPy file"):
        open_recording(tmp_path, "x.npy", signal="x", fs_hz=125.0, n_samples=1)
    torch = pytest.importorskip("torch")
    from phewas.encoders import checkpoint, registry

    spec = registry.get("net1d-small")
    torch.save({"model": Trap()}, tmp_path / "w.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("w.pth", "raw.pth"):
        with pytest.raises(EncoderError):
            checkpoint.load(spec.build(), tmp_path / name, spec=spec)
    assert not (tmp_path / "sprung").exists()


def test_20_every_row_names_its_patient(tree: Tree) -> None:
    for k in range(4):
        tree.visit(1000 + k, 10 + k % 2)
        tree.record(1000 + k, 1, pulse(20, seed=k))
    store = tree.build().cut()
    windows = Windows.check(pl.read_parquet(windows_file(tree.run, window_s=10.0, channels=("PPG",))))
    owner = dict(Encounters.read(tree.run).select("encounter_id", "patient_id").iter_rows())
    for table in (windows, store.index):
        assert len(table) == 8
        for encounter, patient in table.select("encounter_id", "patient_id").iter_rows():
            assert owner[encounter] == patient
    for contract in (Windows, PredictionRows, Splits, Encounters):
        assert not contract.columns()["patient_id"].nullable
