"""The labels against a second implementation, slow and plain, that goes through one encounter at a time.

It shares nothing with the package but the published tables, which it reads into dictionaries by itself, and the layout
of the inputs.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phewas.errors import ConfigError
from phewas.mappings.rules import LabelRules

DEMO = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "icd" / "mimic-iii-demo-1.4"


class Published:
    """The tables as dictionaries of sets."""

    def __init__(self) -> None:
        folder = resources.files("phewas.mappings.data")
        self.means, self.above, self.barred_by = defaultdict(set), defaultdict(set), defaultdict(set)
        for system, code, phenotype in self.table(folder, "map"):
            self.means[system, code].add(phenotype)
        for phenotype, ancestor in self.table(folder, "rollup"):
            self.above[phenotype].add(ancestor)
        for phenotype, related in self.table(folder, "exclusions"):
            self.barred_by[phenotype].add(related)
        self.sex = {row[0]: row[4] for row in self.table(folder, "phenotypes")}

    @staticmethod
    def table(folder, name):
        return pl.read_parquet((folder / f"phecode1.2.{name}.parquet").read_bytes()).rows()


@pytest.fixture(scope="module")
def published():
    return Published()


def slow_labels(
    published, diagnoses, encounters, sex, *, window, min_code_days, control_exclusions,
    horizon_days=365, follow_up_until=None, roll_up=True, sex_rule=True, uncertain="exclude",
):  # fmt: skip
    """Return {(encounter, phenotype): label}, zeros left out."""
    owner = {visit["encounter_id"]: visit["patient_id"] for visit in encounters}
    ends = {}
    for visit in encounters:
        index = visit["index_time"] or visit["start"]
        last = visit["end"] or index
        ends[visit["encounter_id"]] = (index and index.date(), last and last.date())
    result = {}
    for visit in encounters:
        name, patient = visit["encounter_id"], visit["patient_id"]
        index_day, last_day = ends[name]
        known = [day for day in (visit.get("src_follow_up_end"), follow_up_until) if day is not None]
        until = min(known) if known else None
        horizon = last_day and last_day + timedelta(days=horizon_days)
        days, codes, doubtful, undated, earlier = defaultdict(set), set(), set(), set(), set()
        for row in diagnoses:
            if row["patient_id"] != patient or (uncertain == "ignore" and row["certainty"] == "uncertain"):
                continue
            for_encounter = row["encounter_id"] if owner.get(row["encounter_id"]) == patient else None
            day = row["recorded"]
            before = False
            if window == "history":
                counts = day is not None and index_day is not None and day < index_day
            elif window == "through_visit":
                counts = for_encounter == name or (day is not None and last_day is not None and day <= last_day)
            elif window == "any":
                counts = True
            else:
                before = for_encounter == name or (day is not None and last_day is not None and day <= last_day)
                after = day is not None and last_day is not None and last_day < day <= horizon
                counts = before or (after and (until is None or day <= until))
            if not counts:
                continue
            if day is None and for_encounter is not None:
                day = ends[for_encounter][1]
            direct = published.means.get((row["vocabulary"], row["code"].replace(".", "")), set())
            rolled = {ancestor for phenotype in direct for ancestor in published.above[phenotype]}
            mine = rolled if roll_up else direct
            if before:
                earlier |= mine
            elif row["certainty"] == "uncertain" and uncertain == "exclude":
                doubtful |= mine
            else:
                for phenotype in mine:
                    if day is None:
                        undated.add(phenotype)
                    else:
                        days[phenotype].add(day)
            if row["certainty"] != "uncertain" or uncertain == "confirm":
                codes |= rolled
        for phenotype, who in published.sex.items():
            n_days = max(len(days[phenotype]), int(phenotype in undated))
            barred = control_exclusions and (codes & published.barred_by[phenotype] or phenotype in codes)
            wrong_sex = sex_rule and who != "both" and who != sex.get(patient, "U")
            no_date = (window == "history" and index_day is None) or (window == "future" and last_day is None)
            too_short = window == "future" and not no_date and (until is None or until < horizon)
            if wrong_sex or no_date or phenotype in earlier:
                value = -1
            elif n_days >= min_code_days:
                value = 1
            else:
                value = -1 if n_days or phenotype in doubtful or barred or too_short else 0
            if value:
                result[name, phenotype] = value
    return result


def as_dictionary(made):
    rows, columns = np.nonzero(made.labels)
    return {
        (made.rows[i], made.columns[j]): int(made.labels[i, j])
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    }


CODES = ["E11.9", "E10.311", "E11.311", "I10", "C61", "N40.0", "C50.911", "K50.90", "Z99.89", "K51.90"]
DAYS = [None, *(date(2200, 1, 1) + timedelta(days=i) for i in range(5))]


@st.composite
def cohorts(draw):
    n_patients = draw(st.integers(1, 3))
    encounters = []
    for i in range(draw(st.integers(1, 4))):
        start = draw(st.sampled_from(DAYS))
        length = draw(st.sampled_from([None, 0, 30]))
        start = start and datetime(start.year, start.month, start.day, 20)
        end = start + timedelta(hours=length) if start and length is not None else None
        index = start + timedelta(hours=5) if start and draw(st.booleans()) else None
        encounters.append(
            {"encounter_id": f"e{i}", "patient_id": f"p{i % n_patients}", "start": start, "end": end,
             "index_time": index, "age": None, "src_follow_up_end": draw(st.sampled_from(DAYS))}
        )  # fmt: skip
    rows = st.fixed_dictionaries(
        {
            "patient_id": st.sampled_from([f"p{i}" for i in range(n_patients + 1)]),
            "encounter_id": st.sampled_from([None, None, "e0", "e1", "e9"]),
            "code": st.sampled_from(CODES),
            "code_raw": st.just("?"),
            "vocabulary": st.sampled_from(["ICD10CM", "ICD10CM", "ICD10CM", "ICD10"]),
            "recorded": st.sampled_from(DAYS),
            "certainty": st.sampled_from([None, None, "uncertain"]),
            "source": st.just("pmh"),
            "source_row": st.integers(1, 99),
        }
    )
    sex = {f"p{i}": draw(st.sampled_from("FMU")) for i in range(n_patients)}
    return draw(st.lists(rows, max_size=14)), encounters, sex


OPTIONS = st.fixed_dictionaries(
    {
        "window": st.sampled_from(["history", "through_visit", "any", "future", "future"]),
        "min_code_days": st.integers(1, 3),
        "control_exclusions": st.booleans(),
        "horizon_days": st.integers(1, 3),
        "follow_up_until": st.sampled_from([None, date(2200, 1, 5), date(2200, 1, 9)]),
        "roll_up": st.sampled_from([True, True, False]),
        "sex_rule": st.sampled_from([True, True, False]),
        "uncertain": st.sampled_from(["exclude", "exclude", "ignore", "confirm"]),
    }
)


# Half a second an example: 30 of them in the suite; raise it after a change to the rules.
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cohort=cohorts(), options=OPTIONS, block=st.integers(1, 3), shuffle=st.randoms(use_true_random=False))
def test_random_cohorts(tmp_path_factory, published, phecode, cohort, options, block, shuffle):
    diagnoses, encounters, sex = cohort
    window = options.pop("window")
    expected = slow_labels(published, diagnoses, encounters, sex, window=window, **options)
    if window == "future" and not any(followed_up(visit, **options) for visit in encounters):
        dated = any(visit["start"] for visit in encounters)
        known = options["follow_up_until"] or any(visit["src_follow_up_end"] for visit in encounters)
        if dated or not known:
            with pytest.raises(ConfigError, match="follow"):
                label_once(tmp_path_factory, phecode, diagnoses, encounters, sex, window, options)
            return
    first = label_once(tmp_path_factory, phecode, diagnoses, encounters, sex, window, options)
    assert as_dictionary(first) == expected
    # Neither the order of the rows, nor a row told twice, nor the size of a block changes a byte.
    again, visits = diagnoses + diagnoses[::2], list(encounters)
    shuffle.shuffle(again)
    shuffle.shuffle(visits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phewas.mappings.labelling._BLOCK", block)
        second = label_once(tmp_path_factory, phecode, again, visits, dict(reversed(sex.items())), window, options)
    assert second.raw == first.raw
    assert second.rules.equals(first.rules)
    for reason in ("cells", "excluded_by", "rules", "cases_lost_to_sex"):
        assert second.summary[reason] == first.summary[reason]
    check_counts(first)


def followed_up(visit, *, horizon_days, follow_up_until, **_):
    """Whether the encounter could give a control."""
    last = visit["end"] or visit["index_time"] or visit["start"]
    known = [day for day in (visit["src_follow_up_end"], follow_up_until) if day is not None]
    return bool(last and known) and min(known) >= last.date() + timedelta(days=horizon_days)


def check_counts(made):
    """The table of the rules, the summary and the matrix tell the same."""
    totals = made.rules.drop("phenotype").sum().row(0, named=True)
    for name, value in (("n_case", 1), ("n_control", 0), ("n_excluded", -1)):
        assert made.rules[name].to_list() == (made.labels == value).sum(axis=0).tolist()
    reasons = {name.removeprefix("n_excluded_"): n for name, n in totals.items() if name.startswith("n_excluded_")}
    assert reasons == made.summary["excluded_by"]
    assert sum(reasons.values()) == totals["n_excluded"] == made.summary["cells"]["excluded"]
    assert totals["n_case_lost_to_sex"] == made.summary["cases_lost_to_sex"] <= reasons["sex"]


class Written:
    def __init__(self, run: Path, summary) -> None:
        self.raw = (run / "phenotypes/labels.npy").read_bytes()
        self.labels = np.load(run / "phenotypes/labels.npy", allow_pickle=False)
        self.rows = pl.read_parquet(run / "phenotypes/label_rows.parquet")["encounter_id"].to_list()
        self.columns = pl.read_parquet(run / "phenotypes/label_columns.parquet")["phenotype"].to_list()
        self.unmapped = pl.read_parquet(run / "phenotypes/unmapped.parquet")
        self.rules = LabelRules.read(run)
        self.summary = summary


def label_once(folders, vocabulary, diagnoses, encounters, sex, window, options):
    from phewas.config import PhenotypeConfig
    from phewas.mappings.phenotypes import label
    from phewas.schema import Diagnoses, Encounters, Patients

    run = folders.mktemp("run")
    frame = Encounters.build(encounters)
    if "src_follow_up_end" in encounters[0]:
        own = [visit["src_follow_up_end"] for visit in encounters]
        frame = frame.with_columns(pl.Series("src_follow_up_end", own, dtype=pl.Date))
    summary = label(
        diagnoses=Diagnoses.build(diagnoses),
        encounters=frame,
        patients=Patients.build({"patient_id": name, "sex": value} for name, value in sex.items()),
        vocabulary=vocabulary,
        config=PhenotypeConfig(label_window=window, **{k: v for k, v in options.items() if k != "min_code_days"}),
        min_code_days=options["min_code_days"],
        run=run,
    )
    return Written(run, summary)


def demo(name):
    with (DEMO / name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def mimic():
    if not DEMO.is_dir():
        pytest.skip("the MIMIC-III demo is not at hand")
    encounters = [
        {"encounter_id": row["hadm_id"], "patient_id": row["subject_id"],
         "start": datetime.fromisoformat(row["admittime"]), "end": datetime.fromisoformat(row["dischtime"]),
         "index_time": datetime.fromisoformat(row["admittime"]), "age": None}
        for row in demo("ADMISSIONS.csv")
    ]  # fmt: skip
    left = {visit["encounter_id"]: visit["end"].date() for visit in encounters}
    diagnoses = [
        {"patient_id": row["subject_id"], "encounter_id": row["hadm_id"], "code_raw": row["icd9_code"],
         "code": row["icd9_code"], "vocabulary": "ICD9CM", "recorded": left[row["hadm_id"]], "certainty": None,
         "source": "DIAGNOSES_ICD", "source_row": i + 1}
        for i, row in enumerate(demo("DIAGNOSES_ICD.csv"))
    ]  # fmt: skip
    sex = {row["subject_id"]: row["gender"] for row in demo("PATIENTS.csv")}
    return diagnoses, encounters, sex


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize(
    ("window", "min_code_days"),
    [("through_visit", 1), ("through_visit", 2), ("history", 1), ("any", 2), ("future", 1), ("future", 2)],
)
def test_mimic_demo(tmp_path_factory, published, phecode, mimic, window, min_code_days, dated):
    diagnoses, encounters, sex = mimic
    if not dated:
        diagnoses = [row | {"recorded": None} for row in diagnoses]
    options = {"min_code_days": min_code_days, "control_exclusions": True}
    if window == "future":
        options |= {"horizon_days": 700, "follow_up_until": date(2180, 1, 1)}
    made = label_once(tmp_path_factory, phecode, diagnoses, encounters, sex, window, options)
    check_counts(made)
    expected = slow_labels(published, diagnoses, encounters, sex, window=window, **options)
    assert as_dictionary(made) == expected
    counts = Counter(expected.values())
    assert made.summary["cells"]["case"] == counts[1]
    assert made.summary["cells"]["excluded"] == counts[-1]


def test_mimic_demo_cases_are_those_of_phetk(tmp_path_factory, phecode, mimic):
    """PheTK 0.3.6 (`count_phecode`, version 1.2) on the same rows: 2,380 pairs of patient and phecode, by hash."""
    diagnoses, encounters, sex = mimic
    options = {"min_code_days": 1, "control_exclusions": False, "sex_rule": False}
    made = label_once(tmp_path_factory, phecode, diagnoses, encounters, sex, "any", options)
    owner = {visit["encounter_id"]: visit["patient_id"] for visit in encounters}
    rows, columns = np.nonzero(made.labels == 1)
    pairs = {(owner[made.rows[i]], made.columns[j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)}
    assert len(pairs) == 2380
    text = "\n".join(f"{patient} {phenotype}" for patient, phenotype in sorted(pairs))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "f2ff564e73cdfa7c23feead45b6c3adbc94582014645d90db0953f631c31e544"


def test_mimic_demo_coverage(tmp_path_factory, phecode, mimic):
    diagnoses, encounters, sex = mimic
    options = {"min_code_days": 1, "control_exclusions": True}
    made = label_once(tmp_path_factory, phecode, diagnoses, encounters, sex, "through_visit", options)
    coverage = made.summary["coverage"]
    assert coverage["n_rows"] == 1761
    assert coverage["n_rows_mapped"] / coverage["n_rows"] == pytest.approx(0.950, abs=5e-4)
    assert made.unmapped["n_rows"].sum() == coverage["n_rows"] - coverage["n_rows_mapped"]
    assert made.unmapped["code"].str.starts_with("V").any()


def test_the_reference_itself_sees_a_difference(published):
    row = {"patient_id": "p", "encounter_id": None, "code": "E11.9", "vocabulary": "ICD10CM", "certainty": None}
    visit = {"encounter_id": "e", "patient_id": "p", "start": datetime(2200, 1, 1), "end": None, "index_time": None}
    options = {"window": "through_visit", "min_code_days": 1, "control_exclusions": False}
    before, after = (row | {"recorded": date(2200, 1, day)} for day in (1, 2))
    assert slow_labels(published, [before], [visit], {"p": "F"}, **options)["e", "250.2"] == 1
    assert ("e", "250.2") not in slow_labels(published, [after], [visit], {"p": "F"}, **options)
