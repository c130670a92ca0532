"""The emulated hospital: published marginals, independent readers, determinism, and every trap on and off."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import wfdb
from scipy.signal import find_peaks
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from phewas.cli import app
from phewas.cohorts.emulator.codes import code_pool
from phewas.cohorts.emulator.draws import Draws, runs
from phewas.cohorts.emulator.history import history_rows
from phewas.cohorts.emulator.hospital import SEXES, Block, Hospital
from phewas.cohorts.emulator.mcmed import Emulated, emulate_mcmed, size_bytes
from phewas.cohorts.emulator.options import PRESETS, TRAPS, options
from phewas.cohorts.emulator.planted import PLANTED
from phewas.cohorts.emulator.signal import LATENTS, Heart, traits_of
from phewas.cohorts.emulator.text import append
from phewas.cohorts.emulator.traces import RATES_HZ, plan_visit, write_block
from phewas.cohorts.emulator.visits import visit_rows
from phewas.errors import CohortError, ConfigError, DiskFullError
from phewas.mappings.icd import undotted_one

Build = Callable[..., dict[str, pl.DataFrame]]
SEED = 11
END_OF_NANOSECONDS = "2262-04-11T23:47:16Z"

# As the data dictionary lists them; typed here again on purpose.
HEADERS = {
    "visits": "MRN,CSN,Visit_no,Visits,Age,Gender,Race,Ethnicity,Means_of_arrival,Triage_Temp,Triage_HR,Triage_RR,"
    "Triage_SpO2,Triage_SBP,Triage_DBP,Triage_acuity,CC,ED_dispo,Hours_to_next_visit,Dispo_class_next_visit,ED_LOS,"
    "Hosp_LOS,DC_dispo,Payor_class,Admit_service,Dx_ICD9,Dx_ICD10,Dx_name,Arrival_time,Roomed_time,Dispo_time,"
    "Admit_time,Departure_time",
    "pmh": "MRN,Noted_date,CodeType,Code,Desc10,CCS,DescCCS",
    "meds": "MRN,Med_ID,NDC,Name,Generic_name,Med_class,Med_subclass,Active,Entry_date,Start_date,End_date",
    "orders": "CSN,Order_time,Order_type,Procedure_name,Procedure_ID,First_admin_time,Result_time",
    "labs": "CSN,Order_time,Result_time,Display_name,Abnormal,Component_name,Component_result,Component_value,"
    "Component_units,Component_abnormal,Component_nml_low,Component_nml_high",
    "rads": "CSN,Order_time,Result_time,Study,Impression",
    "numerics": "CSN,Source,Measure,Value,Time",
    "waveform_summary": "CSN,Type,Segments,Duration",
}
# Every trap that is a share, often enough to be met among 60 patients; the switches stay on.
OFTEN = {name: 0.04 for name in TRAPS if isinstance(getattr(options(), name), float)} | {
    "no_dat": 0.06, "no_hea": 0.06, "malformed": 0.1, "out_of_order": 0.2, "unknown_visit": 0.1, "only_in_summary": 0.2,
    "duplicated": 0.1, "overlapping": 0.3, "missing": 0.2, "negative_gaps": 0.3,
    "motion": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def city() -> tuple[Hospital, Block, pl.DataFrame, pl.DataFrame]:
    """Return 20,000 patients of the full preset, with their visits and history, in memory."""
    hospital = Hospital(options("full", patients=20_000).effective(), seed=SEED)
    block = hospital.block(0, 20_000)
    return hospital, block, visit_rows(hospital, block), history_rows(hospital, block)


def made(tmp_path_factory: pytest.TempPathFactory, name: str, **given: object) -> Emulated:
    return emulate_mcmed(tmp_path_factory.mktemp(name) / "mc-med", options=options("tiny", **given), seed=SEED)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """Return a tree with every trap on."""
    return made(tmp_path_factory, "rough", patients=60, segments_max=4, segment_max_s=300.0, **OFTEN)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """Return a tree with every trap off."""
    return made(tmp_path_factory, "smooth", patients=60, segments_max=4, segment_max_s=300.0, traps=False)


def cells(tree: Emulated, table: str) -> list[list[str]]:
    """Return a table's data rows as the standard library's parser reads them."""
    with (tree.root / f"{table}.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle, strict=True))[1:]


def column(tree: Emulated, table: str, name: str) -> list[str]:
    place = HEADERS[table].split(",").index(name)
    return [row[place] for row in cells(tree, table) if len(row) > place]


def test_published_shares_come_out(city) -> None:
    _, block, visits, _ = city
    share = {c: {k or "": n / len(visits) for k, n in visits[c].value_counts().iter_rows()} for c in (
        "Gender", "Race", "ED_dispo", "Triage_acuity", "DC_dispo", "Means_of_arrival")}  # fmt: skip
    # (found, published, whether the patient decides: then fewer independent draws stand behind a visit)
    table = [
        (share["Gender"]["F"], 64_272 / 118_385, True),
        (share["Gender"]["M"], 54_077 / 118_385, True),
        (share["Race"]["White"], 0.4025, True),
        (share["Race"]["Other"], 0.3385, True),
        (share["Race"]["Asian"], 0.1646, True),
        (share["Race"][""], 0.003, False),
        (share["ED_dispo"]["Discharge"], 0.540, False),
        (share["ED_dispo"]["Inpatient"], 0.282, False),
        (share["ED_dispo"]["Observation"], 0.151, False),
        (share["ED_dispo"]["ICU"], 0.027, False),
        (share["Triage_acuity"]["1-Resuscitation"], 0.011, False),
        (share["Triage_acuity"]["2-Emergent"], 0.266, False),
        (share["Triage_acuity"]["3-Urgent"], 0.679, False),
        (share["Triage_acuity"]["4-Semi-Urgent"], 0.042, False),
        (share["Triage_acuity"][""], 0.01, False),
        (share["DC_dispo"]["Home/Work (includes foster care)"], 69_001 / 83_623, False),
        (share["DC_dispo"][""], 3_704 / 83_623, False),
        (share["DC_dispo"]["Expired"], 659 / 83_623, False),
        (float(block.monitored.mean()), 83_623 / 118_385, True),
        (len(np.unique(block.person[block.monitored])) / 20_000, 53_123 / 70_545, True),
        (float((block.rows == 0).mean()), 0.12, True),
    ]
    for k, (found, published, by_patient) in enumerate(table):
        n = 20_000 / 2 if by_patient else len(visits)
        assert abs(found - published) < 4 * math.sqrt(published / n) + 0.007, (k, found, published)
    assert abs(len(visits) / 20_000 - 1.68) < 0.05
    assert visits["Visits"].cast(pl.Int64).max() >= 40
    age = visits["Age"].cast(pl.Int64).to_numpy()
    assert (age.min(), age.max()) == (18, 90)
    assert abs(age.mean() - 53) < 0.7
    assert abs(age.std() - 20) < 0.7
    assert abs(age[block.monitored].mean() - 55) < 0.9
    stay = visits["ED_LOS"].cast(pl.Float64)
    assert abs(stay.median() - 5) < 0.2
    assert 22 < stay.quantile(0.95) < 26
    assert visits.select((pl.col("Arrival_time") > END_OF_NANOSECONDS).mean()).item() > 0.30
    years = visits["Arrival_time"].str.slice(0, 4).cast(pl.Int64)
    assert years.min() >= 2205
    assert years.max() <= 2295


def test_history_is_as_assumed(city) -> None:
    _, block, visits, history = city
    counts = history["MRN"].value_counts()["count"]
    assert abs(counts.median() - 25) < 2
    assert abs(counts.quantile(0.90) - 150) < 20
    assert abs(counts.quantile(0.99) - 600) < 60
    # About 3.5 million rows at the full size.
    assert 45 < len(history) / 20_000 < 60
    named = history.filter(pl.col("Code").is_not_null())
    distinct = named.group_by("MRN").agg(pl.col("Code").n_unique())["Code"].sum() / len(named)
    assert abs(distinct - 0.45) < 0.03
    exact = 1 - history.unique(["MRN", "Noted_date", "CodeType", "Code"]).height / len(history)
    assert abs(exact - 0.02) < 0.004
    assert abs((history["CodeType"] == "Dx9").mean() - 0.015) < 0.004
    # Undotted here, dotted in the visits.
    assert history["Code"].str.contains(".", literal=True).mean() < 0.005
    dotted = visits["Dx_ICD10"].str.contains(r"^[A-Z]\w\w\.")
    assert dotted.mean() > 0.85
    several = visits["Dx_ICD10"].str.count_matches(",", literal=True)
    assert abs((several == 1).sum() / len(visits) - 0.08) < 0.008
    assert abs((several == 2).sum() / len(visits) - 0.01) < 0.003
    assert abs(visits["Dx_ICD10"].null_count() / len(visits) - 0.03) < 0.005
    opening = pl.DataFrame({"MRN": block.mrn.astype(str), "day": block.opening_day.astype(np.int32)}).with_columns(
        pl.col("day").cast(pl.Date)
    )
    noted = history.join(opening, on="MRN").with_columns(pl.col("Noted_date").str.slice(0, 10).str.to_date())
    days = (noted["Noted_date"] - noted["day"]).dt.total_days()
    assert abs((days > 0).mean() - 0.20) < 0.02
    assert abs((days == 0).mean() - 0.03) < 0.01
    assert days.min() >= -12 * 366
    assert days.max() <= 2 * 366
    # A study of the reference's size: most phenotypes of the vocabulary have patients.
    pool = code_pool().table
    undotted = pool.select(pl.col("code10").str.replace_all(".", "", literal=True).alias("Code"), "phenotype")
    cases = history.join(undotted, on="Code").group_by("phenotype").agg(pl.col("MRN").n_unique())
    assert (cases["MRN"] >= 20).sum() > 1_200


def test_visits_are_consistent(city) -> None:
    _, block, visits, _ = city
    assert visits["CSN"].n_unique() == len(visits)
    assert not set(visits["MRN"]) & set(visits["CSN"])
    assert visits["MRN"].cast(pl.Int64).is_between(98_870_000, 99_999_999).all()
    assert visits["CSN"].cast(pl.Int64).is_between(98_870_000, 99_999_999).all()
    numbered = visits.group_by("MRN").agg(pl.col("Visit_no").sort(), pl.col("Visits").first(), pl.len())
    assert (numbered["Visits"].cast(pl.Int64) == numbered["len"]).all()
    runs_of = zip(numbered["Visit_no"], numbered["len"], strict=True)
    assert all(sorted(map(int, v)) == list(range(1, n + 1)) for v, n in runs_of)
    assert (np.diff(block.arrival_s)[np.diff(block.person) == 0] > 86_400).all()
    times = [block.arrival_s, block.roomed_s, block.dispo_s, block.departure_s]
    assert all((a < b).all() for a, b in pairwise(times))
    wrong = visits.select(
        (pl.col("Roomed_time") < pl.col("Arrival_time"))
        | (pl.col("Dispo_time") < pl.col("Roomed_time"))
        | (pl.col("Departure_time") < pl.coalesce("Dispo_time", "Admit_time"))
    ).to_series()
    assert abs(wrong.sum() / len(visits) - 0.005) < 0.0015
    assert visits.filter(pl.col("ED_dispo") == "Discharge")["Admit_time"].null_count() > 0
    admitted = visits.filter(pl.col("Admit_time").is_not_null())
    assert (admitted["ED_dispo"] != "Discharge").all()
    same = admitted.filter(pl.col("Dispo_time").is_not_null())
    assert (same["Dispo_time"] == same["Admit_time"]).all()
    # The season of the unshifted arrival is kept: a shift by whole years moves it by half a day at most.
    assert np.abs(block.shift_days / 365.2425 - np.rint(block.shift_days / 365.2425)).max() < 0.002


def test_splits_are_by_patient_and_of_the_published_size(city) -> None:
    hospital, block, visits, _ = city
    first_day = block.opening_day - block.shift_days - 18_506
    for kind, published in (("random", (0.80, 0.10, 0.10)), ("chrono", (0.78, 0.11, 0.11))):
        side = hospital.split_side(kind, block.index, first_day)[block.person]
        assert np.abs(np.bincount(side) / len(visits) - published).max() < 0.015, kind


def test_channels_and_overlaps_come_out() -> None:
    o = options("full", traps=False).effective()
    rng = np.random.default_rng(1)
    plans = [plan_visit(o, rng, stay_s=float(s)) for s in 3600 * np.exp(rng.normal(1.6, 0.9, 6_000))]
    kinds = Counter("+".join(c for c in ("II", "Pleth") if c in p.channels) for p in plans)
    share = {k: n / len(plans) for k, n in kinds.items()}
    for kind, assumed in (("II+Pleth", 0.80), ("II", 0.14), ("Pleth", 0.05), ("", 0.01)):
        assert abs(share[kind] - assumed) < 0.02, kind
    assert abs(np.mean(["Resp" in p.channels for p in plans]) - 50_694 / 83_623) < 0.02
    long = 0
    for plan in plans:
        if kinds and {"II", "Pleth"} <= set(plan.channels):
            firsts = [(plan.channels[c][0], RATES_HZ[c]) for c in ("II", "Pleth")]
            assert abs(firsts[0][0].start_s - firsts[1][0].start_s) <= 30
            ends = [s.start_s + s.n_samples / fs for s, fs in firsts]
            long += min(ends) - max(s.start_s for s, _ in firsts) >= 600
    assert abs(long / len(plans) - 22_256 / 83_623) < 0.02
    seconds = [s.n_samples / RATES_HZ[c] for p in plans for c, all_ in p.channels.items() for s in all_[1:]]
    assert min(seconds) >= 2
    assert max(seconds) <= 6 * 3600
    assert 180 < np.median(seconds) < 300
    assert not any(s == int(s) for s in seconds)


@pytest.mark.parametrize("tree", ["rough", "smooth"])
def test_tables_are_rfc_4180_for_an_independent_parser(tree: str, request: pytest.FixtureRequest) -> None:
    done: Emulated = request.getfixturevalue(tree)
    assert set(done.rows) == set(HEADERS)
    for name, header in HEADERS.items():
        raw = (done.root / f"{name}.csv").read_bytes()
        assert raw.decode("utf-8").startswith(header + "\n")
        assert b"\r" not in raw
        rows = cells(done, name)
        assert len(rows) == done.rows[name], name
        width = header.count(",") + 1
        short = {len(r) for r in rows} - {width}
        assert short == ({3} if (name, tree) == ("pmh", "rough") else set()), name
        # Written as the standard library would write it: quotes only where they must stand.
        if not short:
            again = "".join(
                ",".join('"' + c.replace('"', '""') + '"' if set(c) & set(',"\n') else c for c in r) + "\n"
                for r in rows
            )
            assert raw.decode() == header + "\n" + again, name
    assert any("\n" in c for r in cells(done, "rads") for c in r)
    csns = Counter(column(done, "visits", "CSN"))
    owner = dict(zip(column(done, "visits", "CSN"), column(done, "visits", "MRN"), strict=True))
    for kind in ("random", "chrono"):
        parts = [(done.root / f"split_{kind}_{p}.csv").read_text().split() for p in ("train", "val", "test")]
        assert sorted(c for p in parts for c in p) == sorted(csns)
        assert sum(len({owner[c] for c in p}) for p in parts) == len(set(owner.values()))


def test_signals_are_read_by_an_independent_reader(smooth: Emulated) -> None:
    totals: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    formats: Counter[str] = Counter()
    with_fraction = 0
    arrivals = dict(zip(column(smooth, "visits", "CSN"), column(smooth, "visits", "Roomed_time"), strict=True))
    headers = sorted((smooth.root / "waveforms").rglob("*.hea"))
    for header in headers:
        got = wfdb.rdrecord(str(header.with_suffix("")))
        csn, channel = header.parts[-3], header.parts[-2]
        assert header.parts[-4] == f"{int(csn) % 1000:03d}"
        assert got.sig_name == [channel]
        assert got.fs == RATES_HZ[channel]
        assert got.units == [{"II": "mV", "Pleth": "NU", "Resp": "ohm"}[channel]]
        words = header.read_text().split("\n")[0].split()
        assert len(words) == 6
        with_fraction += "." in words[4]
        assert got.sig_len % got.fs
        assert np.isfinite(got.p_signal).all()
        assert got.adc_gain[0] != round(got.adc_gain[0])
        roomed = dt.datetime.fromisoformat(arrivals[csn]).replace(tzinfo=None)
        assert dt.timedelta(seconds=-1) <= got.base_datetime - roomed < dt.timedelta(days=3)
        totals[csn, channel] += got.sig_len / got.fs
        counts[csn, channel] += 1
        formats[got.fmt[0]] += 1
    assert set(formats) == {"16", "212", "24", "32"}
    assert abs(formats["16"] / len(headers) - 0.9) < 0.08
    assert abs(with_fraction / len(headers) - 0.7) < 0.12
    # Without traps the summary says what the files hold, to the segment and the millisecond.
    assert {(c, k): int(n) for c, k, n, _ in cells(smooth, "waveform_summary")} == dict(counts)
    assert all(abs(float(s) - totals[c, k]) < 0.002 for c, k, _, s in cells(smooth, "waveform_summary"))


def test_channels_beat_together_and_carry_what_is_planted() -> None:
    plain = dict.fromkeys(LATENTS, 0.0)
    t = {c: np.arange(int(60 * fs)) / fs for c, fs in RATES_HZ.items()}
    for carried in ({}, {"rhythm"}, {"rate"}):
        traits = traits_of(plain, frozenset(carried), in_rhythm=False, cv=0.2)
        heart = Heart.beating(np.random.default_rng(3), duration_s=60, traits=traits)
        rng = np.random.default_rng(4)
        r, _ = find_peaks(heart.lead_ii(rng, t["II"], hum=0.02), height=0.6, distance=125)
        p, _ = find_peaks(heart.pleth(rng, t["Pleth"], hum=0.01), prominence=0.45, distance=30)
        # Every pulse follows an R wave, within the time that the pulse takes to the finger and to rise.
        lag = [x / 125 - r[r / 500 < x / 125][-1] / 500 for x in p if (r / 500 < x / 125).any()]
        assert 0.3 < np.median(lag) < 0.6
        rr = np.diff(r) / 500
        assert (np.std(rr) / np.mean(rr) > 0.12) == (carried == {"rhythm"})
        assert (60 / np.mean(rr) > 85) == (carried == {"rate"})
    base = traits_of(plain, frozenset(), in_rhythm=False, cv=0.2)
    assert traits_of(plain, frozenset({"shape"}), in_rhythm=False, cv=0.2).rise > base.rise
    assert traits_of(plain, frozenset({"notch"}), in_rhythm=False, cv=0.2).notch < base.notch
    assert traits_of(plain, frozenset({"breathing"}), in_rhythm=False, cv=0.2).breath_depth > base.breath_depth
    assert traits_of(plain, frozenset({"rhythm"}), in_rhythm=True, cv=0.2) == base
    # Ohm and breath: the rate of breathing can be read from Resp.
    spectrum = np.abs(np.fft.rfft(heart.respiration(np.random.default_rng(5), t["Resp"])))
    assert abs(spectrum[1:].argmax() + 1 - 15) <= 1


def test_what_is_planted_follows_age_and_sex_as_stated(city) -> None:
    _, block, _, history = city
    carries = {p.carries for p in PLANTED if p.kind == "effect"}
    assert {"rhythm", "rate", "shape"} <= carries
    assert {"age", "sex", "null", "rare"} <= {p.kind for p in PLANTED}
    seen = block.rows > 0
    for k, planted in enumerate(PLANTED):
        has = ~np.isnan(block.onsets[:, k])
        assert not has[~seen].any()
        if planted.sex:
            assert set(block.sex[has]) == {SEXES.index(planted.sex)}
        if planted.kind == "rare":
            assert 0 < has.mean() < 0.01
            continue
        auc = roc_auc_score(has[seen], block.age[seen])
        assert (auc > 0.7) == (planted.kind == "age" or planted.older), planted
        assert auc > 0.7 or abs(auc - 0.5) < 0.03, planted
        # Each patient who has it has a row that says so, unless that very cell is malformed; nobody else has.
        code = undotted_one(planted.code, "ICD10CM"), undotted_one(planted.icd9, "ICD9CM")
        type_of = pl.col("CodeType").replace_strict({"Dx10": code[0], "Dx9": code[1]}, default=None)
        coded = set(history.filter(pl.col("Code") == type_of)["MRN"])
        mine = set(block.mrn[has].astype(str))
        assert not coded - mine, planted
        assert len(mine - coded) < 0.02 * len(mine) + 2, planted


def test_phecodes_of_the_truth_agree_with_the_map() -> None:
    table = pl.read_parquet(Path(__file__).resolve().parents[2] / "mappings" / "data" / "phecode1.2.map.parquet")
    for planted in PLANTED:
        for code, system in ((planted.code, "ICD10CM"), (planted.icd9, "ICD9CM")):
            rows = table.filter((pl.col("vocabulary") == system) & (pl.col("code") == undotted_one(code, system)))
            assert rows["phenotype"].to_list() == [planted.phecode], (code, system)
    # Nobody's other codes make a case of a planted phenotype or of its relatives.
    pool = code_pool()
    roots = {p.phecode.split(".")[0] for p in PLANTED}
    drawn = pool.table.with_columns(pl.Series("share", pool.shares_f + pool.shares_m)).filter(pl.col("share") > 0)
    assert not roots & set(drawn["phenotype"].str.split(".").list.first())
    sexes = pl.read_parquet(Path(__file__).resolve().parents[2] / "mappings" / "data" / "phecode1.2.phenotypes.parquet")
    joined = pool.table.join(sexes, on="phenotype", how="left", maintain_order="left")["sex"].to_numpy()
    assert not pool.shares_f[joined == "M"].any()
    assert not pool.shares_m[joined == "F"].any()


def files_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_for_any_block_and_worker(rough: Emulated, tmp_path: Path) -> None:
    made = options("tiny", patients=60, segments_max=4, segment_max_s=300.0, **OFTEN)
    again = emulate_mcmed(tmp_path / "mc-med", options=made, seed=SEED, block_patients=7)
    assert files_of(again.root) == files_of(rough.root)
    assert again.marker.read_bytes() == rough.marker.read_bytes()
    other = emulate_mcmed(tmp_path / "other", options=options("tiny", patients=5, waveforms=False), seed=SEED + 1)
    assert not set(column(other, "visits", "MRN")) <= set(column(rough, "visits", "MRN"))


def test_workers_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phewas.cohorts.emulator.mcmed.SHARD_PATIENTS", 3)
    made = options("tiny", patients=27, numerics=False)
    one = emulate_mcmed(tmp_path / "a" / "x", options=made, seed=1, workers=1)
    two = emulate_mcmed(tmp_path / "b" / "x", options=made, seed=1, workers=2)
    assert files_of(one.root) == files_of(two.root)


def test_the_first_patients_do_not_depend_on_their_number(rough: Emulated, tmp_path: Path) -> None:
    made = options("tiny", patients=20, segments_max=4, segment_max_s=300.0, **OFTEN)
    fewer = emulate_mcmed(tmp_path / "mc-med", options=made, seed=SEED)
    for name in HEADERS:
        assert cells(fewer, name) == cells(rough, name)[: fewer.rows[name]], name
    all_files = files_of(rough.root)
    assert {k: v for k, v in files_of(fewer.root).items() if k.startswith("waveforms/")}.items() <= all_files.items()


def detected(tree: Emulated) -> dict[str, int]:
    """Return how often each trap is met in a tree, found by means of its files alone."""
    visits = pl.DataFrame(cells(tree, "visits"), schema=HEADERS["visits"].split(","), orient="row")
    noted = [r for r in cells(tree, "pmh") if len(r) == 7]
    found: dict[str, int] = {
        "shared_ids": sum(int(m) >= 98_870_000 for m in visits["MRN"]),
        "late_years": sum(t > END_OF_NANOSECONDS for t in visits["Arrival_time"]),
        "race_blank": sum(c == "" for c in visits["Race"]),
        "acuity_blank": sum(c == "" for c in visits["Triage_acuity"]),
        "dc_blank": sum(c == "" for c in visits["DC_dispo"]),
        "dx_blank": sum(c == "" for c in visits["Dx_ICD10"]),
        "dx_two": sum(c.count(",") == 1 for c in visits["Dx_ICD10"]),
        "dx_three": sum(c.count(",") == 2 for c in visits["Dx_ICD10"]),
        "decimal_commas": sum("," in c for c in visits["Triage_Temp"]),
        "cell_newlines": sum("\n" in c for c in visits["CC"]),
        "repeated_visits": len(visits) - visits["CSN"].n_unique(),
        "lab_newlines": sum("\n" in c for c in column(tree, "labs", "Component_result")),
        "unknown_patients": sum(r[0] == "11111111" for r in noted),
        "blank_mrn": sum(r[0] == "" for r in noted),
        "short_rows": sum(len(r) == 3 for r in cells(tree, "pmh")),
        "exact_duplicates": len(noted) - len({tuple(r) for r in noted}),
        "malformed": sum(re.fullmatch("[A-Z0-9]{3,7}", r[3]) is None for r in noted),
        "negative_gaps": visits.select(
            (pl.col("Roomed_time") < pl.col("Arrival_time"))
            | ((pl.col("Dispo_time") != "") & (pl.col("Dispo_time") < pl.col("Roomed_time")))
            | (pl.col("Departure_time") < pl.col("Arrival_time"))
            | (pl.col("Departure_time") < pl.max_horizontal("Dispo_time", "Admit_time"))
        ).to_series().sum(),
    }  # fmt: skip
    first = visits.filter(pl.col("Visits").cast(pl.Int64) > 1).with_columns(
        pl.col("Age").cast(pl.Int64), pl.col("Visit_no").cast(pl.Int64)
    )
    steps = first.sort("MRN", "Visit_no").with_columns(pl.col("Age").diff().over("MRN").alias("step"))["step"]
    found["age_jitter"] = int((steps.drop_nulls() < 0).sum())
    found |= detected_in_waves(tree, set(visits["CSN"]))
    return found


def detected_in_waves(tree: Emulated, csns: set[str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    said = {(c, k): (int(n), float(s)) for c, k, n, s in cells(tree, "waveform_summary")}
    waves = tree.root / "waveforms"
    folders = [f for f in waves.glob("*/*/*") if f.is_dir()]
    for folder in folders:
        csn, channel = folder.parts[-2:]
        found["unknown_visit"] += csn not in csns
        found["not_in_summary"] += csn in csns and (csn, channel) not in said
        starts, seconds, contents = [], [], []
        numbers = sorted({int(f.stem.split("_")[1]) for f in folder.iterdir()})
        if (csn, channel) in said:
            found["wrong_summary"] += said[csn, channel][0] != len(numbers)
        for n in numbers:
            header, data = folder / f"{csn}_{n}.hea", folder / f"{csn}_{n}.dat"
            found["no_hea"] += not header.is_file()
            found["no_dat"] += not data.is_file()
            if not (header.is_file() and data.is_file()):
                continue
            words = header.read_text().split("\n")[0].split()
            found["no_date"] += len(words) == 4
            found["unparsable"] += words[1] == "one"
            found["time_24"] += words[4:5] == ["24:00:00"]
            if len(words) < 6 or words[1] == "one" or words[4] == "24:00:00":
                continue
            found["zero_length"] += words[3] == "0"
            found["other_rate"] += float(words[2]) != RATES_HZ[channel]
            if words[3] == "0" or float(words[2]) != RATES_HZ[channel]:
                continue
            try:
                got = wfdb.rdrecord(str(header.with_suffix("")))
            except ValueError:
                found["truncated"] += 1
                continue
            x = got.p_signal[:, 0]
            found["missing"] += bool(np.isnan(x).any())
            found["flat"] += bool((np.diff(x) == 0).reshape(-1).sum() > 0.8 * got.fs and longest_run(x) >= 0.8 * got.fs)
            top = np.nanmax(x) if np.isfinite(x).any() else np.nan
            found["saturated"] += bool(np.sum(x >= top - 1.01 / got.adc_gain[0]) > 0.07 * len(x))
            spread = np.nanstd(x) if np.isfinite(x).any() else 0.0
            found["motion"] += bool(spread > 0.8 and channel == "Pleth")
            starts.append(got.base_datetime)
            seconds.append(got.sig_len / got.fs)
            contents.append(data.read_bytes())
        found["duplicated"] += len(contents) - len(set(contents))
        found["out_of_order"] += any(b < a for a, b in pairwise(starts))
        order = np.argsort(starts)
        for i, j in pairwise(order):
            gap = (starts[j] - starts[i]).total_seconds() - seconds[i]
            found["overlapping"] += gap < -2 and contents[i] != contents[j]
    held = {(f.parts[-2], f.parts[-1]) for f in folders}
    found["only_in_summary"] = len(set(said) - held)
    return dict(found)


def longest_run(x: np.ndarray) -> int:
    same = np.concatenate([[0], np.diff(x) == 0, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(same))
    return int((edges[1::2] - edges[::2]).max(initial=0)) + 1


def test_every_trap_is_there_when_on_and_gone_when_off(rough: Emulated, smooth: Emulated) -> None:
    on, off = detected(rough), detected(smooth)
    assert set(on) == set(TRAPS)
    assert {name for name in TRAPS if not on[name]} == set()
    # A breath that stands still at its turning point is no flat line; every other trap is gone.
    assert {name: n for name, n in off.items() if n} == {}


@pytest.mark.parametrize("packed", [False, True])
def test_the_adapter_accounts_for_all_rows_and_files(
    rough: Emulated, tmp_path: Path, build: Build, packed: bool
) -> None:
    root = rough.root
    if packed:
        made = options("tiny", patients=60, segments_max=4, segment_max_s=300.0, zip=True, **OFTEN)
        root = emulate_mcmed(tmp_path / "mc-med", options=made, seed=SEED).root
        names = sorted(p.name for p in root.glob("*.zip"))
        assert names == [f"waveforms_{k}xx.zip" for k in range(10)]
        inside = {n: zipfile.ZipFile(root / a).read(n) for a in names for n in zipfile.ZipFile(root / a).namelist()}
        assert inside == {k: v for k, v in files_of(rough.root).items() if k.startswith("waveforms/")}
        assert not (root / "waveforms").exists()
    t = build(root, tmp_path / "run")
    rejects = t["rejects"]
    for source, n in (("pmh", rough.rows["pmh"]), ("visits", rough.rows["visits"])):
        taken = set(t["diagnoses"].filter(pl.col("source") == source)["source_row"])
        left = set(rejects.filter(pl.col("source") == source)["source_row"])
        assert taken | left == set(range(1, n + 1)), source
    listed = set(t["recordings"]["member" if packed else "path"]) | set(rejects["path"].drop_nulls())
    headers = [k for k in files_of(rough.root) if k.endswith(".hea")]
    lone = [k for k in files_of(rough.root) if k.endswith(".dat") and k.replace(".dat", ".hea") not in headers]
    assert len(headers) > 100
    assert lone
    for name in [*headers, *lone]:
        assert any(name in place for place in listed), name
    expected = {
        "signal_missing", "header_missing", "signal_truncated", "no_date", "header_unreadable", "zero_length",
        "unexpected_rate", "not_in_summary", "summary_without_files", "summary_mismatch", "unknown_encounter",
        "several_codes", "placeholder_code", "unknown_code_system", "duplicate_row", "duplicate_encounter",
        "negative_interval", "no_diagnosis", "short_row", "unknown_patient", "blank_id",
    }  # fmt: skip
    assert expected <= set(rejects["reason"])


def test_nothing_is_lost_without_traps(smooth: Emulated, tmp_path: Path, build: Build) -> None:
    t = build(smooth.root, tmp_path / "run")
    assert t["rejects"].height == 0
    assert t["encounters"].height == smooth.rows["visits"] == smooth.n_visits
    taken = set(t["diagnoses"].filter(pl.col("source") == "pmh")["source_row"])
    assert taken == set(range(1, smooth.rows["pmh"] + 1))
    assert t["recordings"].height == len(list((smooth.root / "waveforms").rglob("*.hea")))
    assert t["recordings"]["encounter_id"].n_unique() == smooth.n_monitored_visits


def test_the_truth_stands_beside_the_tree_and_not_in_it(smooth: Emulated, rough: Emulated) -> None:
    truth = json.loads(smooth.marker.read_text())
    assert smooth.marker == smooth.root.parent / "emulated.json"
    assert truth["emulated"] is True
    assert truth["n_visits"] == smooth.n_visits
    assert truth["rows"] == smooth.rows
    assert truth["options"]["traps"] is False
    by_code = {p["code"]: p for p in truth["planted"]}
    assert by_code["I48.91"]["carries"] == "rhythm"
    assert by_code["H26.9"]["follows_age"]
    assert by_code["N40.0"]["sex"] == "M"
    noted = set(zip(column(smooth, "pmh", "MRN"), column(smooth, "pmh", "Code"), strict=True))
    assert by_code["I10"]["n_case_patients"] == len({m for m, c in noted if c in ("I10", "4019")})
    for tree in (smooth, rough):
        assert not any(b"mulat" in (tree.root / f"{n}.csv").read_bytes() for n in HEADERS)
        assert {p.suffix for p in tree.root.rglob("*") if p.is_file()} == {".csv", ".hea", ".dat"}


def test_tiny_is_tiny_and_sizes_are_foretold(tmp_path: Path) -> None:
    done = emulate_mcmed(tmp_path / "mc-med", options=options("tiny"), seed=0)
    size = sum(len(b) for b in files_of(done.root).values())
    assert size < 5e6
    assert 0.4 < size_bytes(options("tiny")) / size < 2.5
    assert PRESETS["full"]["patients"] == 70_545
    assert PRESETS["study"]["patients"] == 15_000


def test_tables_alone_keep_their_summary(tmp_path: Path, build: Build) -> None:
    given = {"patients": 30, "numerics": False}
    with_waves = emulate_mcmed(tmp_path / "a", options=options("tiny", **given), seed=2)
    alone = emulate_mcmed(tmp_path / "b", options=options("tiny", waveforms=False, **given), seed=2)
    tables = {k: v for k, v in files_of(with_waves.root).items() if k.endswith(".csv")}
    assert files_of(alone.root) == tables
    assert "numerics.csv" not in tables
    t = build(alone.root, tmp_path / "run")
    assert t["recordings"].height == 0
    reasons = t["rejects"].filter(pl.col("source") == "waveform_summary")["reason"]
    assert reasons.to_list() == ["summary_without_files"] * alone.rows["waveform_summary"]


def test_nothing_is_overwritten(smooth: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = options("tiny", patients=3, waveforms=False, numerics=False)
    with pytest.raises(CohortError, match="not an empty folder"):
        emulate_mcmed(smooth.root, options=few)
    (tmp_path / "empty").mkdir()
    assert emulate_mcmed(tmp_path / "empty", options=few).marker.name == "emulated.json"
    # A second tree in the same place has its own truth; the first one's stays.
    second = emulate_mcmed(tmp_path / "second", options=few)
    assert second.marker.name == "second.emulated.json"
    shutil.rmtree(tmp_path / "empty")
    assert emulate_mcmed(tmp_path / "empty", options=few).marker.name == "emulated.json"
    (tmp_path / "file").write_text("x")
    with pytest.raises(CohortError, match="not an empty folder"):
        emulate_mcmed(tmp_path / "file", options=few)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CohortError, match="needs about"):
        emulate_mcmed(tmp_path / "third", options=few)
    there = {p.name for p in tmp_path.iterdir()}
    assert there == {"emulated.json", "empty", "file", "second", "second.emulated.json"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(__import__("phewas.cohorts.emulator.mcmed", fromlist=["x"]).TABLES, "rads", broken)
    with pytest.raises(DiskFullError, match="no space"):
        emulate_mcmed(tmp_path / "x", options=options("tiny", patients=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["malformd=0.1"], "Did you mean malformed"),
        (["malformed"], "has no value"),
        (["malformed=2"], "malformed is 2"),
        (["malformed=-0.1"], "malformed is -0.1"),
        (["malformed=nan"], "malformed is nan"),
        (["patients=1.5"], "patients is '1.5'"),
        (["patients=0"], "0 emulated patients"),
        (["patients=300001"], "300001 emulated patients"),
        (["zip=perhaps"], "zip is 'perhaps'"),
        (["visits_mean=4"], "visits_mean is 4"),
        (["los_p95_h=2"], "los_p95_h is 2"),
        (["segments_max=0"], "segments_max"),
        (["duration_scale=0"], "duration_scale is 0"),
        (["both_channels=0", "ecg_only=0", "ppg_only=0", "resp_only=0"], "no visit has a channel"),
    ],
)
def test_impossible_options_are_told(settings: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        options("tiny", settings=settings)


def test_options_are_read_from_text() -> None:
    made = options("tiny", settings=["zip=true", "no-dat=0.5", "patients = 7"], waveforms=None)
    assert (made.zip, made.no_dat, made.patients, made.waveforms) == (True, 0.5, 7, True)
    with pytest.raises(ConfigError, match="unknown preset"):
        options("tny")
    with pytest.raises(ConfigError, match="no option 'wave'"):
        options("tiny", wave=True)
    with pytest.raises(ConfigError, match="malformed is True"):
        options("tiny", malformed=True)


def test_draws_are_uniform_independent_and_named_by_their_row() -> None:
    d = Draws(5)
    n = np.arange(200_000)
    u = d.uniform("a", n)
    assert u.min() > 0
    assert u.max() < 1
    assert np.abs(np.histogram(u, 50, (0, 1))[0] / len(n) * 50 - 1).max() < 0.07
    for v in (d.uniform("b", n), d.uniform("a", n + 1), d.uniform("a", n, 0), Draws(6).uniform("a", n)):
        assert abs(np.corrcoef(u, v)[0, 1]) < 0.01
    assert np.array_equal(d.uniform("a", n[500:600]), u[500:600])
    assert d.uniform("a", 3, 4) != d.uniform("a", 4, 3)
    assert np.bincount(d.integers(2, 5, "c", n)).tolist()[:2] == [0, 0]
    assert np.abs(np.bincount(d.pick((1, 2, 1), "d", n)) / len(n) - (0.25, 0.5, 0.25)).max() < 0.006
    assert [a.tolist() for a in runs(np.array([2, 0, 1]))] == [[0, 0, 2], [0, 1, 0]]


def test_a_row_that_ends_early_is_cut(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("wb") as handle:
        frame = pl.DataFrame({"a": ["1", "2", "3,4"], "b": ["x", "\x00", None], "c": ["y", "z", 'q"']})
        assert append(handle, frame, header=True) == 3
    assert (tmp_path / "x.csv").read_text() == 'a,b,c\n1,x,y\n2\n"3,4",,"q"""\n'


def test_a_summary_needs_no_signals() -> None:
    hospital = Hospital(options("tiny", patients=10).effective(), seed=1)
    rows = write_block(None, hospital, hospital.block(0, 10))
    assert {kind for _, kind, _, _ in rows} <= set(RATES_HZ)


def test_the_verb(tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "mc-med"
    asked = ["emulate", "mcmed", "--preset", "tiny", "--patients", "3", "--no-waveforms", "--set", "numerics=false"]
    done = runner.invoke(app, [*asked, "--out", str(out), "--seed", "4"])
    assert done.exit_code == 0, done.output
    assert "visits" in done.output
    assert "Next" not in done.output
    assert (out / "visits.csv").is_file()
    shown = runner.invoke(app, [*asked, "--show"])
    assert "malformed = 0.005    # trap" in shown.output
    assert "patients = 3\n" in shown.output
    refused = runner.invoke(app, asked)
    assert isinstance(refused.exception, ConfigError)
