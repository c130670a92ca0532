"""Who may be tested: every rule on cohorts small enough to know the answer, and the promises that hold under all."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phewas.cohorts import get
from phewas.cohorts.heldout import RULES, assign, contamination, in_words, parse_rule, verify
from phewas.cohorts.heldout_rules import SPLIT_TABLE, tainted_patients
from phewas.errors import ConfigError, PhewasWarning, SchemaError, SplitError
from phewas.schema import Diagnoses, Encounters, Patients, Recordings, Splits
from phewas.seeds import hashed

CARD = get("mcmed").card
T0 = dt.datetime(2264, 3, 1, 12)


def recording(name: str, encounter: str, channel: str, start_s: float | None, length_s: float = 60.0) -> dict[str, Any]:
    start = None if start_s is None else T0 + dt.timedelta(seconds=start_s)
    return {
        "recording_id": name, "encounter_id": encounter, "channel": channel, "path": f"{name}.hea", "signal": channel,
        "fs_hz": 125.0, "n_samples": int(length_s * 125), "start": start,
    }  # fmt: skip


def write(run: Path, recordings: list[dict[str, Any]], *, patients: int, visits: int = 2) -> Path:
    """Write a cohort of patients p0.. with encounters p0-0, p0-1, ..; every third is M, patient k has k % 7 codes."""
    ids = [f"p{k}" for k in range(patients)]
    Patients.write(Patients.build({"patient_id": p, "sex": "M" if k % 3 == 0 else "F"} for k, p in enumerate(ids)), run)
    pairs = [(p, f"{p}-{v}") for p in ids for v in range(visits)]
    Encounters.write(Encounters.build({"encounter_id": e, "patient_id": p} for p, e in pairs), run)
    Recordings.write(Recordings.build(recordings), run)
    codes = [
        {
            "patient_id": p,
            "code_raw": "I10",
            "code": "I10",
            "vocabulary": "ICD10CM",
            "source": "pmh",
            "source_row": k + 1,
        }
        for k, p in enumerate(ids)
        for _ in range(k % 7)
    ]
    Diagnoses.write(Diagnoses.build(codes), run)
    return run


def many(run: Path, patients: int) -> Path:
    return write(run, [recording(f"r{k}", f"p{k}-0", "PPG", 0) for k in range(patients)], patients=patients)


def split(run: Path, rule: str, *, root: Path | None = None, seed: int = 0, pretrained: bool = False,
          pretraining: tuple[str, ...] = (), manifest: Path | None = None,
          ) -> tuple[dict[str, str], dict[str, Any]]:  # fmt: skip
    assign(run, rule=rule, seed=seed, pretraining=pretraining, pretrained=pretrained, card=CARD, root=root,
           manifest=manifest)  # fmt: skip
    sides = dict(Splits.read(run).select("patient_id", "split").iter_rows())
    report: dict[str, Any] = json.loads((run / "cohort/disjointness.json").read_text())
    return sides, report


def test_whom_a_model_has_met_is_left_out_under_every_name_of_the_cohort(tmp_path: Path) -> None:
    run, model = many(tmp_path / "run", 30), tmp_path / "model"
    model.mkdir()
    marks = [f"{hashed('fitted-on', 'mcmed', f'p{k}'):032x}" for k in range(12)]
    (model / "fitted_on.json").write_text(json.dumps({"cohort": "mcmed", "patients": marks}))

    def excluded(card: Any, **more: Any) -> set[str]:
        assign(run, rule=f"model:{model}", seed=0, pretraining=(), pretrained=True, card=card, root=None, **more)
        return set(Splits.read(run).filter(pl.col("split") == "excluded")["patient_id"])

    met = {f"p{k}" for k in range(12)}
    other = replace(CARD, name="ours")
    assert excluded(CARD) == met
    assert excluded(other) == set()
    note = json.loads((run / "cohort/disjointness.json").read_text())["note"]
    assert 'same_patients_as = ["mcmed"]' in note
    assert excluded(other, same_patients_as=["elsewhere", "mcmed"]) == met
    assert "12 of whom are in this cohort" in json.loads((run / "cohort/disjointness.json").read_text())["note"]
    assert excluded(replace(other, same_patients_as=("mcmed",))) == met
    assert get("mimic4").card.same_patients_as == ("mimic4ecg",)
    assert get("mimic4ecg").card.same_patients_as == ("mimic4",)


def test_synchronous_patients_are_not_held_out(tmp_path: Path) -> None:
    run = write(
        tmp_path,
        [
            recording("a", "p0-0", "PPG", 0), recording("b", "p0-0", "ECG_II", 50),  # exactly 10 s together
            recording("c", "p1-0", "PPG", 0), recording("d", "p1-0", "ECG_II", 50.1),  # a little less
            recording("e", "p2-0", "PPG", 0), recording("f", "p2-1", "ECG_II", 0),  # in different visits
            recording("g", "p3-0", "PPG", None), recording("h", "p3-0", "ECG_II", 0),  # cannot be judged
            recording("i", "p4-0", "PPG", None),  # never an ECG
            recording("j", "p5-0", "ECG_II", 0),  # never a PPG
            recording("k", "p6-0", "PPG", 0), recording("l", "p6-0", "RESP", 0),
            recording("m", "p7-0", "PPG", 500), recording("n", "p7-1", "PPG", 0),
            recording("o", "p7-1", "ECG_II", 20, 12),
        ],
        patients=9,
    )  # fmt: skip
    sides, report = split(run, "no-synchronous-ppg-ecg")
    held = {p for p, s in sides.items() if s == "held_out"}
    assert held == {"p1", "p2", "p4", "p6"}
    assert {p for p, s in sides.items() if s in ("train", "tuning")} == {"p0", "p3", "p7"}
    assert {p for p, s in sides.items() if s == "excluded"} == {"p5", "p8"}
    assert "fewer than 11 patients cannot be judged" in report["note"]


times = st.tuples(st.sampled_from(["PPG", "ECG_II"]), st.integers(0, 40), st.integers(1, 30))


@given(st.lists(times, max_size=8))
def test_overlap_agrees_with_counting_seconds(items: list[tuple[str, int, int]]) -> None:
    frame = Recordings.build(recording(str(k), "p0-0", c, a, n) for k, (c, a, n) in enumerate(items))
    encounters = Encounters.build([{"encounter_id": "p0-0", "patient_id": "p0"}])
    spans = {c: [set(range(a, a + n)) for d, a, n in items if d == c] for c in ("PPG", "ECG_II")}
    expected = any(len(x & y) >= 10 for x in spans["PPG"] for y in spans["ECG_II"])
    assert bool(tainted_patients(encounters, frame)[0]) == expected


@pytest.mark.parametrize(
    "text", ["p1\n p3 \nstranger\n", "\ufeffMRN,x\np1,1\np3,2\nstranger,3\n", "patient_id\np1\np3\nstranger\n"]
)
def test_manifest(tmp_path: Path, text: str) -> None:
    run = many(tmp_path / "run", 12)
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    sides, report = split(run, f"manifest:{tmp_path / 'list.txt'}", pretrained=True, pretraining=("MC-MED",))
    assert {p for p, s in sides.items() if s in ("train", "tuning")} == {"p1", "p3"}
    assert {p for p, s in sides.items() if s == "held_out"} == {f"p{k}" for k in range(12)} - {"p1", "p3"}
    assert report["contamination"] == "excluded"
    assert "fewer than 11 of 3 listed identifiers" in report["note"]
    assert str(tmp_path) not in json.dumps(report)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("x\ny\n", "is a patient"), ("a,b\n1,2\n", "has the columns"), (None, "is missing")],
)
def test_bad_manifests(tmp_path: Path, text: str | None, message: str) -> None:
    run = many(tmp_path / "run", 5)
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(SplitError) as caught:
        split(run, f"manifest:{tmp_path / 'list.txt'}")
    assert message in str(caught.value)


def official(root: Path, kind: str = "random", **parts: list[str]) -> Path:
    root.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        (root / f"split_{kind}_{part}.csv").write_text("".join(f"{e}\n" for e in parts.get(part, [])))
    return root


def test_official_split_is_by_patient(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 6)
    root = official(
        tmp_path / "data", train=["p0-0", "p2-1"], val=["p1-0", "p2-0"], test=["p3-0", "p3-1", "p2-0", "p1-1", "999"]
    )
    sides, report = split(run, "official:random", root=root)
    assert sides == {"p0": "train", "p1": "tuning", "p2": "train", "p3": "held_out", "p4": "excluded", "p5": "excluded"}
    assert "fewer than 11 patients of the test file also have training" in report["note"]
    assert "fewer than 11 lines of the split files name no encounter" in report["note"]
    with pytest.raises(SplitError, match="official chrono split is not there"):
        split(run, "official:chrono", root=root)


def test_random_share_and_tuning(tmp_path: Path) -> None:
    run = many(tmp_path, 2000)
    sides, report = split(run, "random:0.3", seed=5)
    n = pl.Series(list(sides.values())).value_counts().rows()
    counts = dict(n)
    assert 520 < counts["held_out"] < 680
    assert counts["tuning"] == round(0.1 * (2000 - counts["held_out"]))
    assert report["counts"]["held_out"] == {"patients": counts["held_out"], "encounters": counts["held_out"]}
    # Who is held out does not depend on who else is there.
    fewer, _ = split(many(tmp_path / "fewer", 500), "random:0.3", seed=5)
    assert all((sides[p] == "held_out") == (s == "held_out") for p, s in fewer.items())
    other, _ = split(run, "random:0.3", seed=6)
    assert other != sides


def test_folds_are_balanced(tmp_path: Path) -> None:
    run = many(tmp_path, 203)
    sides, report = split(run, "crossfit:5")
    assert set(sides.values()) == {"crossfit"}
    folds = Splits.read(run).join(Patients.read(run), on="patient_id")
    sizes = folds.group_by("fold").agg(pl.len(), (pl.col("sex") == "M").sum().alias("men"))
    assert sorted(sizes["fold"]) == [0, 1, 2, 3, 4]
    assert sizes["len"].max() - sizes["len"].min() <= 1
    assert sizes["men"].max() - sizes["men"].min() <= 1
    codes = folds.join(Diagnoses.read(run).group_by("patient_id").len("codes"), on="patient_id", how="left")
    means = codes.group_by("fold").agg(pl.col("codes").fill_null(0).mean())["codes"]
    assert means.max() - means.min() < 0.3
    assert report["counts"]["crossfit"]["patients"] == 203


def test_auto(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 30)
    assert split(run, "auto")[1]["rule"] == "random:0.3"
    root = official(tmp_path / "data", train=[f"p{k}-0" for k in range(20)], test=[f"p{k}-0" for k in range(20, 30)])
    assert split(run, "auto", root=root)[1]["rule"] == "official:random"
    assert split(run, "auto", root=root, pretrained=True, pretraining=("MESA",))[1]["rule"] == "official:random"
    write(
        run,
        [recording("a", "p0-0", "PPG", 0), recording("b", "p0-0", "ECG_II", 0), recording("c", "p1-0", "PPG", 0)],
        patients=9,
    )
    with pytest.warns(PhewasWarning, match="pretrained on MC-MED"):
        sides, report = split(run, "auto", root=root, pretrained=True, pretraining=("VitalDB", "mc_med"))
    assert report["rule"] == "no-synchronous-ppg-ecg"
    assert report["asked"] == "auto"
    assert report["contamination"] == "cannot be excluded"
    assert sides["p1"] == "held_out"


def test_auto_takes_the_manifest_of_a_pretrained_encoder(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 30)
    (tmp_path / "met.txt").write_text("p1\np2\n")
    met = {"manifest": tmp_path / "met.txt", "pretraining": ("MC-MED",)}
    sides, report = split(run, "auto", pretrained=True, **met)
    assert report["rule"] == "manifest:met.txt"
    assert report["contamination"] == "excluded"
    assert {p for p, s in sides.items() if s != "held_out"} == {"p1", "p2"}
    assert split(run, "auto", pretrained=False, **met)[1]["rule"] == "random:0.3"


def test_the_split_of_the_source_itself(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 8)
    with pytest.raises(SplitError, match="brings no split"):
        split(run, "official:file")
    given = {f"p{k}": ("train", "tuning", "held_out", "excluded")[k % 4] for k in range(7)}
    table = pl.DataFrame({"patient_id": list(given), "split": list(given.values())})
    table.write_parquet(run / SPLIT_TABLE)
    sides, report = split(run, "auto")
    assert report["rule"] == "official:file"
    assert sides == given | {"p7": "excluded"}
    pl.concat([table, pl.DataFrame({"patient_id": ["p0"], "split": ["held_out"]})]).write_parquet(run / SPLIT_TABLE)
    with pytest.raises(SplitError, match="two sides"):
        split(run, "official:file")
    table.with_columns(split=pl.lit("test")).write_parquet(run / SPLIT_TABLE)
    with pytest.raises(SplitError, match="holds the split 'test'"):
        split(run, "official:file")
    (run / SPLIT_TABLE).write_bytes(b"x")
    with pytest.raises(SplitError, match="no table"):
        split(run, "official:file")


def test_folds_are_balanced_by_age(tmp_path: Path) -> None:
    run = many(tmp_path, 400)
    encounters = Encounters.read(run).sort("encounter_id")
    ages = [18.0 + (k * 37) % 73 for k in range(len(encounters))]
    Encounters.write(encounters.with_columns(age=pl.Series(ages)), run)
    split(run, "crossfit:5")
    of = Encounters.read(run).filter(pl.col("encounter_id").str.ends_with("-0")).join(Splits.read(run), on="patient_id")
    means = of.group_by("fold").agg(pl.col("age").mean())["age"]
    assert means.max() - means.min() < 2.5  # a fold's mean by chance: standard error 2.3, range of five about 5.5
    old = of.group_by("fold").agg((pl.col("age") >= 80).sum())["age"]
    assert old.max() - old.min() <= 3


def test_a_changed_split_is_refused(tmp_path: Path) -> None:
    run = many(tmp_path, 60)
    split(run, "random:0.3")
    verify(run)
    good = Splits.read(run)
    proof = run / "cohort/disjointness.json"
    text = proof.read_text()
    # One patient moved from training to the tested side, and one exchanged for another.
    first = good.filter(pl.col("split") == "train")["patient_id"][0]
    held = good.filter(pl.col("split") == "held_out")["patient_id"][0]
    moved = {first: "held_out"}
    for change in (moved, {first: "held_out", held: "train"}):
        new = pl.col("patient_id").replace_strict(change, default=pl.col("split"), return_dtype=pl.String)
        Splits.write(good.with_columns(split=new), run)
        with pytest.raises(SplitError, match="other patients than were proven"):
            verify(run)
    Splits.write(good.head(59), run)
    with pytest.raises(SplitError, match="proven"):
        verify(run)
    Splits.write(good, run)
    pl.concat([good, good.head(1).with_columns(split=pl.lit("tuning"))]).write_parquet(run / Splits.file)
    with pytest.raises(SchemaError, match="several rows"):
        verify(run)
    Splits.write(good, run)
    proof.write_text(text.replace('"intersection": []', '"intersection": ["x"]'))
    with pytest.raises(SplitError, match="two sides"):
        verify(run)
    for damaged in ("{", "[]", "{}"):
        proof.write_text(damaged)
        with pytest.raises(SplitError, match="missing or damaged"):
            verify(run)
    proof.write_text(text)
    verify(run)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "auto"])
def test_every_rule_is_told_in_words(rule: str) -> None:
    words = in_words(rule)
    assert "all encounters of a patient are on one side" in words
    assert len(words.split()) > 15


def test_contamination() -> None:
    def told(rule: str, pretrained: bool, pretraining: tuple[str, ...]) -> str:
        return contamination(rule=rule, pretrained=pretrained, pretraining=pretraining, card=CARD)

    assert told("random", False, ()) == "not pretrained"
    assert told("random", True, ("MESA",)) == "excluded"
    assert told("random", True, ("MESA", "MC-MED")) == "cannot be excluded"
    assert told("random", True, ()) == "cannot be excluded"
    assert told("manifest", True, ("MC-MED",)) == "excluded"
    demo = get("demo").card
    assert contamination(rule="random", pretrained=True, pretraining=(), card=demo) == "excluded"


@pytest.mark.parametrize("rule", ["random:0.4", "no-synchronous-ppg-ecg", "crossfit:3"])
def test_promises(tmp_path: Path, rule: str) -> None:
    rows = [recording(f"r{k}", f"p{k}-0", "PPG", 0) for k in range(40)]
    rows += [recording(f"e{k}", f"p{k}-0", "ECG_II", 0) for k in range(20)]
    run = write(tmp_path, rows, patients=50)
    _, report = split(run, rule, seed=3)
    table = Splits.read(run)
    assert len(table) == 50
    assert table["patient_id"].is_unique().all()
    assert report["intersection"] == []
    assert report["counts"]["excluded"] == {"patients": 10, "encounters": 0}
    assert sum(c["patients"] for c in report["counts"].values()) == 50
    assert not [p for p in table["patient_id"] if f'"{p}"' in json.dumps(report)]
    before = {f.name: f.read_bytes() for f in (run / "cohort").iterdir()}
    split(run, rule, seed=3)
    assert before == {f.name: f.read_bytes() for f in (run / "cohort").iterdir()}
    # The order of the rows plays no part.
    Patients.write(Patients.read(run).reverse(), run)
    Recordings.write(Recordings.read(run).reverse(), run)
    split(run, rule, seed=3)
    assert (run / "cohort/splits.parquet").read_bytes() == before["splits.parquet"]
    flow = pl.read_parquet(run / "cohort/flow_split.parquet")
    assert flow.row(0)[:4] == ("split", "patients", 50, 40)


def test_an_empty_side_is_an_error(tmp_path: Path) -> None:
    run = many(tmp_path, 4)
    with pytest.raises(SplitError, match="nobody is left to train on"):
        split(run, "no-synchronous-ppg-ecg")
    with pytest.raises(SplitError, match="cannot fill 5 folds"):
        split(run, "crossfit:5")
    write(run, [recording("a", "p0-0", "PPG", 0), recording("b", "p0-0", "ECG_II", 0)], patients=3)
    with pytest.raises(SplitError, match="nobody is held out"):
        split(run, "no-synchronous-ppg-ecg")
    write(run, [recording("a", "p0-0", "ECG_II", 0)], patients=3)
    with pytest.raises(SplitError, match="no patient has a readable PPG recording"):
        split(run, "random:0.3")


def test_a_cohort_must_be_built(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="missing"):
        split(tmp_path, "random:0.3")


@pytest.mark.parametrize(
    "rule",
    ["randon:0.3", "random", "random:0", "random:1", "random:x", "random:nan", "crossfit:1", "crossfit:99",
     "crossfit:2.5", "official", "official:test", "manifest:", "auto:1", ""],
)  # fmt: skip
def test_unknown_rules(rule: str) -> None:
    with pytest.raises(ConfigError):
        parse_rule(rule)
