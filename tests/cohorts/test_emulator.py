"""The emulated cohort: readable by an independent reader, the same bytes for a seed, and true to its truth file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from sklearn.metrics import roc_auc_score

from phewas.cohorts import get
from phewas.cohorts.demo import Demo
from phewas.cohorts.emulator import emulate
from phewas.cohorts.emulator.demo_people import people
from phewas.cohorts.emulator.demo_tables import VISIT_COLUMNS
from phewas.cohorts.emulator.demo_waves import FOLDER_FAULTS, RECORD_FAULTS, traits_of
from phewas.cohorts.emulator.planted import PLANTED
from phewas.cohorts.emulator.pulse import FULL_SCALE, Storage, encode, storage_for, write_record
from phewas.errors import CohortError
from phewas.mappings.icd import undotted_one

Build = Callable[..., dict[str, pl.DataFrame]]
SEED = 7


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree of 40 patients: enough for every fault once."""
    root = tmp_path_factory.mktemp("emulated") / "mc-med"
    emulate(root, patients=40, seed=SEED)
    return root


@pytest.mark.parametrize("fmt", sorted(FULL_SCALE))
@pytest.mark.parametrize("n", [1, 2, 3, 1250, 1251])
def test_records_read_back_by_an_independent_reader(tmp_path: Path, fmt: str, n: int) -> None:
    import datetime as dt

    rng = np.random.default_rng(n)
    values = rng.uniform(-1, 2, n)
    values[n // 2] = np.nan if n > 2 else values[n // 2]
    storage = storage_for(rng, fmt=fmt, units="NU")
    assert storage.gain != round(storage.gain)
    start = dt.datetime(2294, 2, 3, 4, 5, 6, 789_000)
    write_record(
        tmp_path, "a_1", values, signal="Pleth", fs_hz=62.5, storage=storage, start=start, fraction="milliseconds"
    )
    got = wfdb.rdrecord(str(tmp_path / "a_1"))
    assert got.base_datetime == start
    assert (got.fs, got.sig_len, got.sig_name, got.units) == (62.5, n, ["Pleth"], ["NU"])
    np.testing.assert_array_equal(np.isnan(got.p_signal[:, 0]), np.isnan(values))
    np.testing.assert_allclose(got.p_signal[:, 0], values, atol=0.5001 / storage.gain, equal_nan=True)
    digital = wfdb.rdrecord(str(tmp_path / "a_1"), physical=False, return_res=32)
    np.testing.assert_array_equal(digital.d_signal[:, 0], encode(values, storage)[1])
    if fmt != "32":
        assert digital.calc_checksum() == [c % 65536 for c in digital.checksum]


def test_the_range_is_clipped() -> None:
    assert encode(np.array([9.0, -9.0]), Storage("212", 1000.0, 0, "NU"))[1].tolist() == [2047, -2047]


def test_every_sound_record_is_read(small: Path, tmp_path: Path, build: Build) -> None:
    recordings = build(small, tmp_path / "run")["recordings"]
    assert set(recordings["channel"]) == {"PPG", "ECG_II", "RESP"}
    undated = 0
    for row in recordings.iter_rows(named=True):
        if row["start"] is None:
            undated += 1
            continue
        got = wfdb.rdrecord(str(small / row["path"]).removesuffix(".hea"))
        assert (got.fs, got.sig_len, got.base_datetime) == (row["fs_hz"], row["n_samples"], row["start"])
    assert undated == 2


def test_every_fault_is_there_and_found(small: Path, tmp_path: Path, build: Build) -> None:
    assert len(RECORD_FAULTS) + len(FOLDER_FAULTS) == 16
    t = build(small, tmp_path / "run")
    of_files = set(t["rejects"].filter(pl.col("table") == "recordings")["reason"])
    assert of_files == {
        "signal_truncated", "signal_missing", "header_missing", "no_date", "header_unreadable", "zero_length",
        "foreign_file",
        "unexpected_rate", "several_signals", "unsupported_format", "not_in_summary", "summary_without_files",
        "unknown_encounter", "summary_mismatch",
    }  # fmt: skip
    of_rows = set(t["rejects"].filter(pl.col("table") != "recordings")["reason"])
    assert {
        "duplicate_encounter",
        "duplicate_row",
        "several_codes",
        "unknown_patient",
        "blank_id",
        "short_row",
    } <= of_rows
    # Every row of pmh.csv is a diagnosis, a reject, or both.
    rows = set(t["diagnoses"].filter(pl.col("source") == "pmh")["source_row"])
    rows |= set(t["rejects"].filter(pl.col("source") == "pmh")["source_row"])
    n = t["flow"].filter(pl.col("unit") == "rows")["n_in"][0]
    assert rows == set(range(1, n + 1))


def test_layout_is_that_of_the_data_dictionary(small: Path) -> None:
    assert len(VISIT_COLUMNS) == 33
    visits = pl.read_csv(small / "visits.csv", infer_schema=False)
    assert tuple(visits.columns) == VISIT_COLUMNS
    assert visits["Dx_ICD10"].str.contains(".", literal=True).any()
    assert not set(visits["MRN"]) & set(visits["CSN"])
    for csn in visits["CSN"]:
        folder = small / "waveforms" / csn[-3:] / csn
        assert not folder.exists() or {p.name for p in folder.iterdir()} <= {"Pleth", "II", "Resp", "ABP"}
    # Nothing inside the tree says what it is; the file beside it does.
    assert json.loads((small.parent / "emulated.json").read_text())["emulated"] is True
    assert not list(small.glob("*.json"))
    parts = [set((small / f"split_random_{p}.csv").read_text().split()) for p in ("train", "val", "test")]
    assert set.union(*parts) == set(visits["CSN"])
    owner = dict(zip(visits["CSN"], visits["MRN"], strict=True))
    assert sum(len({owner[c] for c in p}) for p in parts) == len(set(owner.values()))


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    emulate(again, patients=40, seed=SEED)
    files = sorted(p.relative_to(small) for p in small.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((small / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_more_patients_begin_with_the_same() -> None:
    assert people(patients=60, seed=SEED)[:40] == people(patients=40, seed=SEED)
    assert people(patients=5, seed=SEED) != people(patients=5, seed=SEED + 1)


def test_what_is_planted_and_what_is_not() -> None:
    persons = people(patients=1500, seed=20_205)
    seen = [(p, v) for p in persons for v in p.visits if v.monitored]
    traits = np.array([list(vars(traits_of(p, v, seed=20_205)).values()) for p, v in seen], dtype=float)
    age = np.array([v.age for _, v in seen])
    for k, planted in enumerate(PLANTED):
        y = np.array([k in p.onsets and p.onsets[k] <= v.departure.date() for p, v in seen])
        if planted.kind == "rare":
            assert y.mean() < 0.02
            continue
        best = max((roc_auc_score(y, t) for t in traits.T), key=lambda a: abs(a - 0.5))
        with_age = roc_auc_score(y, age)
        if planted.kind == "effect":
            assert y.mean() >= 0.15, planted
            assert abs(best - 0.5) > 0.35, planted
            assert abs(with_age - 0.5) < 0.06, planted
        elif planted.kind == "age":
            assert with_age > 0.75, planted
            assert abs(best - 0.5) < 0.06, planted
        else:
            assert abs(best - 0.5) < 0.08, planted
            assert abs(with_age - 0.5) < 0.08, planted
    assert sum(p.kind == "null" for p in PLANTED) >= 12
    assert sum(v.arrival.year > 2262 for _, v in seen) > 0.3 * len(seen)
    assert 1.2 < len(seen) / len(persons) < 1.4


def test_phecodes_of_the_truth_agree_with_the_map() -> None:
    path = Path(__file__).resolve().parents[2] / "mappings" / "data" / "phecode1.2.map.parquet"
    table = pl.read_parquet(path)
    for planted in PLANTED:
        for code, system in ((planted.code, "ICD10CM"), (planted.icd9, "ICD9CM")):
            rows = table.filter((pl.col("vocabulary") == system) & (pl.col("code") == undotted_one(code, system)))
            assert rows["phenotype"].to_list() == [planted.phecode], (code, system)


def test_tables_alone(tmp_path: Path, build: Build) -> None:
    emulate(tmp_path / "tables", patients=50, seed=1, waveforms=False)
    t = build(tmp_path / "tables", tmp_path / "run")
    assert len(t["patients"]) == 50
    assert len(t["recordings"]) == 0


def test_an_existing_folder_is_not_overwritten(small: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="exists already"):
        emulate(small, patients=3, seed=1)
    with pytest.raises(CohortError, match="emulated patients"):
        emulate(tmp_path / "x", patients=0, seed=1)


def test_demo_is_resumed_and_mended(tmp_path: Path) -> None:
    demo = Demo(get("demo").card, patients=12, seed=3)
    demo.build(None, tmp_path)
    tree = demo.data_root(None, tmp_path)
    assert tree == tmp_path / "demo" / "mc-med"
    first = {f.name: f.read_bytes() for f in (tmp_path / "cohort").iterdir()}
    marked = (tree / "visits.csv").stat().st_mtime_ns
    demo.build(None, tmp_path)
    assert (tree / "visits.csv").stat().st_mtime_ns == marked
    # Half a tree, as a killed run leaves it, is made anew; so is one without its mark.
    shutil.rmtree(tree / "waveforms")
    (tmp_path / "demo" / "finished.json").unlink()
    demo.build(None, tmp_path)
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "cohort").iterdir()}
    assert demo.fingerprint(None) != Demo(demo.card, patients=13, seed=3).fingerprint(None)
    assert demo.scan(None)["n_patients"] == 12
