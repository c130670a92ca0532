"""The four label windows to the day, follow-up, what each rule costs, and tables of one's own."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from phewas import settings
from phewas.cli import app
from phewas.config import PhenotypeConfig
from phewas.errors import ConfigError, SchemaError, VocabularyError
from phewas.mappings import icd
from phewas.mappings.labelling import by_column
from phewas.mappings.phenotypes import FOLLOW_UP, label
from phewas.mappings.replacements import replace
from phewas.mappings.rules import EXCLUDED_BY, LabelRules
from phewas.schema import LABELS_PATH, Diagnoses, Encounters, LabelRows, Patients

END = date(2200, 6, 11)  # the visit begins on the 10th and ends after midnight
HORIZON = 30
LAST = END + timedelta(days=HORIZON)
DAY = timedelta(days=1)
VISIT = {
    "encounter_id": "e1", "patient_id": "p1", "start": datetime(2200, 6, 10, 22), "end": datetime(2200, 6, 11, 3),
    "index_time": datetime(2200, 6, 10, 23), "age": 50.0,
}  # fmt: skip


def diagnosis(code: str, recorded: date | None, **more: Any) -> dict[str, Any]:
    row = {
        "patient_id": "p1", "encounter_id": None, "code_raw": code, "code": icd.normalise_one(code, "ICD10CM"),
        "vocabulary": "ICD10CM", "recorded": recorded, "certainty": None, "source": "pmh", "source_row": 1,
    }  # fmt: skip
    return row | more


@pytest.fixture
def labelled(labelled):
    """Label a cohort of the one visit over midnight unless the test names others."""

    def make(diagnoses, **options):
        return labelled(diagnoses, **{"encounters": [VISIT]} | options)

    return make


@pytest.fixture
def future(labelled):
    """Label a cohort for the 30 days after the visit, followed up as long as that unless the test says otherwise."""

    def make(diagnoses, **options):
        return labelled(
            diagnoses,
            **{"horizon_days": HORIZON, "follow_up_until": LAST, "label_window": "future"} | options,
        )

    return make


# --- the window future, to the day ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (date(2190, 1, 1), -1),
        (END - DAY, -1),
        (END, -1),
        (END + DAY, 1),
        (LAST - DAY, 1),
        (LAST, 1),
        (LAST + DAY, 0),
        (None, 0),
    ],
)
def test_first_recorded_after_the_visit_and_within_the_horizon(future, recorded, expected):
    made = future([diagnosis("E11.9", recorded)], follow_up_until=date(2210, 1, 1), control_exclusions=False)
    assert made("250.2") == made("250") == expected
    assert made("401.1") == 0
    assert made.summary["excluded_by"]["recorded_before"] == (2 if expected == -1 else 0)


@pytest.mark.parametrize(("until", "control"), [(LAST, 0), (LAST + DAY, 0)])
def test_a_control_is_followed_up_to_the_last_day_of_the_horizon(future, until, control):
    made = future([diagnosis("I10", END + DAY)], follow_up_until=until)
    assert (made("401.1"), made("250.2")) == (1, control)


def test_with_one_day_less_there_is_no_control_but_still_a_case(future):
    visits = [VISIT, VISIT | {"encounter_id": "e0", "start": datetime(2200, 1, 1), "index_time": None, "end": None}]
    made = future([diagnosis("I10", LAST - DAY)], encounters=visits, follow_up_until=LAST - DAY)
    assert (made("401.1", "e1"), made("250.2", "e1")) == (1, -1)
    assert (made("401.1", "e0"), made("250.2", "e0")) == (0, 0)
    assert made.summary["excluded_by"]["follow_up"] > 1600
    assert made.summary["notes"][:2] == [
        "Patients are followed up for 30 days after 1 of 2 encounters.",
        "The other encounters can be cases, but no controls.",
    ]


def test_what_is_noted_after_follow_up_ended_is_not_used_and_counted(future):
    visits = [VISIT, VISIT | {"encounter_id": "e0", "start": datetime(2200, 1, 1), "index_time": None, "end": None}]
    made = future([diagnosis("I10", LAST)], encounters=visits, follow_up_until=LAST - DAY)
    assert made("401.1", "e1") == -1
    assert "1 diagnoses were noted after the end of follow-up and were not used." in made.summary["notes"]


def test_follow_up_that_ends_before_the_visit_does(future):
    visits = [VISIT, VISIT | {"encounter_id": "e0", "start": datetime(2190, 1, 1), "index_time": None, "end": None}]
    rows = [diagnosis("I10", END + DAY), diagnosis("E11.9", END)]
    made = future(rows, encounters=visits, follow_up_until=date(2195, 1, 1))
    assert (made.labels[made.rows.index("e1")] == -1).all()
    assert made("250.2", "e0") == 0


def own_follow_up(tmp_path, phecode, ends, **options):
    visits = [VISIT | {"encounter_id": f"e{i}", "patient_id": f"p{i}"} for i in range(len(ends))]
    encounters = Encounters.build(visits).with_columns(pl.Series(FOLLOW_UP, ends))
    label(
        diagnoses=Diagnoses.build([]), encounters=encounters,
        patients=Patients.build({"patient_id": visit["patient_id"], "sex": "F"} for visit in visits),
        vocabulary=phecode, min_code_days=1, run=tmp_path,
        config=PhenotypeConfig(label_window="future", horizon_days=HORIZON, **options),
    )  # fmt: skip
    column = phecode.phenotypes["phenotype"].to_list().index("401.1")
    rows = LabelRows.read(tmp_path)["encounter_id"].to_list()
    labels = np.load(tmp_path / LABELS_PATH)[:, column].tolist()
    return dict(zip(rows, labels, strict=True))


def test_the_sources_own_follow_up(tmp_path, phecode):
    assert own_follow_up(tmp_path, phecode, [LAST, LAST - DAY, None]) == {"e0": 0, "e1": -1, "e2": -1}


def test_the_sources_own_follow_up_with_a_time_of_day(tmp_path, phecode):
    ends = [datetime(LAST.year, LAST.month, LAST.day, 0, 1), datetime(LAST.year, LAST.month, LAST.day - 1, 23, 59)]
    assert own_follow_up(tmp_path, phecode, ends) == {"e0": 0, "e1": -1}


def test_of_two_ends_of_follow_up_the_earlier_counts(tmp_path, phecode):
    ends = [LAST, date(2300, 1, 1), None, LAST - DAY]
    assert own_follow_up(tmp_path / "a", phecode, ends, follow_up_until=LAST) == {"e0": 0, "e1": 0, "e2": 0, "e3": -1}
    with pytest.raises(ConfigError, match="no encounter is followed up for 30 days"):
        own_follow_up(tmp_path / "b", phecode, ends, follow_up_until=LAST - DAY)
    assert not (tmp_path / "b").exists()


def test_a_follow_up_in_words_is_refused(tmp_path, phecode):
    with pytest.raises(SchemaError, match="src_follow_up_end is String"):
        own_follow_up(tmp_path, phecode, ["2201-01-01"])


def test_without_follow_up_the_future_is_refused_with_the_reason(future):
    with pytest.raises(ConfigError, match="how long patients were followed up") as caught:
        future([], follow_up_until=None)
    assert "--follow-up-until" in str(caught.value)
    assert "shifted" in str(caught.value)


@pytest.mark.parametrize("recorded", [None, END + DAY, LAST + DAY])
def test_what_the_visit_itself_was_coded_for_is_no_future_case(future, recorded):
    made = future([diagnosis("I10", recorded, encounter_id="e1"), diagnosis("I10", END + 2 * DAY)])
    assert made("401.1") == -1
    assert made.summary["excluded_by"]["recorded_before"] == 2


def test_a_code_of_a_later_visit_is_a_future_case_there_and_known_afterwards(future):
    second = datetime(2200, 6, 20, 9)
    visits = [VISIT, VISIT | {"encounter_id": "e2", "start": second, "index_time": second, "end": None}]
    rows = [diagnosis("I10", second.date(), encounter_id="e2")]
    made = future(rows, encounters=visits, follow_up_until=date(2210, 1, 1))
    assert (made("401.1", "e1"), made("401.1", "e2")) == (1, -1)


def test_a_code_below_the_phenotype_counts_as_known(future):
    made = future([diagnosis("E10.9", END), diagnosis("E11.9", END + DAY)], control_exclusions=False)
    assert (made("250"), made("250.1"), made("250.2")) == (-1, -1, 1)


def test_several_days_are_needed_inside_the_window(future):
    first, second = diagnosis("I10", END + DAY), diagnosis("I10", END + 2 * DAY)
    assert future([first, second], min_code_days=2)("401.1") == 1
    assert future([first, first], min_code_days=2)("401.1") == -1
    assert future([first], min_code_days=2).summary["excluded_by"]["too_few_days"] == 2
    late = diagnosis("I10", LAST + DAY)
    assert future([first, late], min_code_days=2, follow_up_until=date(2210, 1, 1))("401.1") == -1
    # One day before the visit is enough to know of the disease, however many days a case needs.
    assert future([diagnosis("I10", END), first, second], min_code_days=2)("401.1") == -1


def test_an_uncertain_diagnosis_in_the_window_makes_no_control_and_no_case(future):
    made = future([diagnosis("I10", END + DAY, certainty="uncertain")])
    assert made("401.1") == -1
    both = [diagnosis("I10", END + DAY, certainty="uncertain"), diagnosis("I10", END + 2 * DAY)]
    assert future(both)("401.1") == 1
    after = [diagnosis("I10", LAST + DAY, certainty="uncertain")]
    assert future(after, follow_up_until=date(2210, 1, 1))("401.1") == 0


@pytest.mark.parametrize("more", [{"recorded": END}, {"recorded": None, "encounter_id": "e1"}])
def test_a_disease_suspected_at_the_visit_is_no_future_case(future, more):
    row = diagnosis("I10", None, certainty="uncertain") | more
    made = future([row, diagnosis("I10", END + DAY)])
    assert made("401.1") == -1
    assert made.summary["excluded_by"]["suspected_before"] == 2
    assert future([row, diagnosis("I10", END + DAY)], uncertain="ignore")("401.1") == 1
    assert future([row], uncertain="ignore")("401.1") == 0
    assert future([row], uncertain="confirm").summary["excluded_by"]["recorded_before"] == 2


@pytest.mark.parametrize(
    ("recorded", "expected"), [(date(2190, 1, 1), -1), (END, -1), (END + DAY, -1), (LAST, -1), (LAST + DAY, 0)]
)
def test_a_related_code_up_to_the_end_of_the_horizon_bars_a_control(future, recorded, expected):
    assert future([diagnosis("E11.9", recorded)], follow_up_until=date(2210, 1, 1))("250.1") == expected


def test_a_related_code_does_not_undo_a_future_case(future):
    made = future([diagnosis("E11.9", END), diagnosis("E10.9", END + DAY)])
    assert made("250.1") == 1


def test_sex_in_the_window_future(future):
    made = future([diagnosis("C61", END + DAY)])
    assert (made("185"), made.summary["cases_lost_to_sex"]) == (-1, 1)
    assert future([diagnosis("C61", END + DAY)], sex={"p1": "M"})("185") == 1
    # Known before the visit: no case is lost to the sex rule.
    assert future([diagnosis("C61", END)]).summary["cases_lost_to_sex"] == 0


def test_an_encounter_without_date_has_no_future(future):
    visits = [VISIT, VISIT | {"encounter_id": "e2", "patient_id": "p2", "start": None, "end": None, "index_time": None}]
    made = future([diagnosis("I10", END + DAY, patient_id="p2")], encounters=visits)
    assert (made.labels[1] == -1).all()
    assert made.summary["excluded_by"]["undated_encounter"] > 1600
    assert "1 encounters have no date: all their labels are -1 (excluded)." in made.summary["notes"]


def test_the_far_ends_of_the_calendar(future):
    rows = [diagnosis("I10", date(9999, 12, 31)), diagnosis("E11.9", date(1, 1, 1))]
    made = future(rows, horizon_days=36_525, follow_up_until=date(9999, 12, 31))
    assert (made("401.1"), made("250.2")) == (0, -1)


# --- all windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "history", "through_visit", "anytime", "future_label"),
    [
        (date(2200, 6, 9), 1, 1, 1, -1),
        (date(2200, 6, 10), 0, 1, 1, -1),
        (date(2200, 6, 11), 0, 1, 1, -1),
        (date(2200, 6, 12), 0, 0, 1, 1),
        (None, 0, 0, 1, 0),
    ],
)
def test_one_diagnosis_in_every_window(labelled, future, recorded, history, through_visit, anytime, future_label):
    rows = [diagnosis("I10", recorded)]
    found = [labelled(rows, label_window=window)("401.1") for window in ("history", "through_visit", "any")]
    assert [*found, future(rows)("401.1")] == [history, through_visit, anytime, future_label]


def test_first_of_several_visits_with_all_diagnoses_later(labelled, future):
    starts = [datetime(2200, 1, 1), datetime(2200, 2, 1), datetime(2200, 3, 1)]
    visits = [VISIT | {"encounter_id": f"e{i}", "start": t, "index_time": t, "end": t} for i, t in enumerate(starts)]
    rows = [diagnosis("I10", date(2200, 2, 1))]

    def found(**options):
        made = labelled(rows, encounters=visits, **options)
        return [made("401.1", f"e{i}") for i in range(3)]

    assert found(label_window="history") == [0, 0, 1]
    assert found(label_window="through_visit") == [0, 1, 1]
    assert found(label_window="any") == [1, 1, 1]
    wide = {"label_window": "future", "follow_up_until": date(2201, 1, 1)}
    assert found(**wide, horizon_days=31) == [1, -1, -1]
    assert found(**wide, horizon_days=30) == [0, -1, -1]


# --- rules that can be switched ------------------------------------------------------------------------------------


def test_without_roll_up_a_form_of_the_disease_makes_neither_case_nor_control(labelled):
    rows = [diagnosis("E11.9", END)]
    assert labelled(rows)("250") == 1
    assert labelled(rows, roll_up=False)("250") == -1
    assert labelled(rows, roll_up=False)("250.2") == 1
    assert labelled(rows, roll_up=False, control_exclusions=False)("250") == 0


def test_without_roll_up_that_holds_in_a_vocabulary_without_exclusions_too(labelled, phecode):
    bare = replace(phecode, {"exclusions": phecode.exclusions.clear()})
    made = labelled([diagnosis("E11.9", END)], roll_up=False, vocabulary=bare)
    assert (made("250"), made("250.1"), made("250.2")) == (-1, 0, 1)
    assert made.summary["control_exclusions"] is True


def test_exclusions_follow_roll_up_as_in_r(labelled, phecode):
    # 714 lists 716 and not 716.9, whose codes are nonetheless codes of 716: R PheWAS rolls up first.
    pairs = set(phecode.exclusions.rows())
    assert ("714", "716") in pairs
    assert ("714", "716.9") not in pairs
    code = phecode.code_map.filter(phenotype="716.9", vocabulary="ICD10CM")["code"][0]
    assert labelled([diagnosis(code, END)])("714") == -1


def test_own_descendants_among_the_exclusions_cost_no_case(labelled, phecode):
    assert ("250", "250.2") in set(phecode.exclusions.rows())
    one, other = diagnosis("E11.9", END), diagnosis("E11.9", END - DAY)
    assert labelled([one])("250") == 1
    few = labelled([one], min_code_days=2)
    assert few("250") == -1
    assert few.summary["excluded_by"]["too_few_days"] == 2, "counted once, and under the rule that cost it"
    assert labelled([one, other], min_code_days=2)("250") == 1


def test_the_sex_rule_can_be_switched_off(labelled):
    made = labelled([diagnosis("C61", END)], sex_rule=False)
    assert made("185") == 1
    assert made.summary["excluded_by"]["sex"] == 0
    assert not [row for row in made.summary["rules"] if row["option"] == "sex_rule"]


def test_a_vocabulary_without_exclusions_says_that_there_are_none(labelled, phecode):
    bare = phecode.exclusions.clear()
    made = labelled([diagnosis("E11.9", END)], vocabulary=replace(phecode, {"exclusions": bare}))
    assert made("250.1") == 0
    assert made.summary["control_exclusions"] is False
    assert labelled([]).summary["control_exclusions"] is True


def test_codes_are_cut_short_and_lengthened_only_on_request(labelled):
    deeper, short = diagnosis("I10.99", END), diagnosis("8.61", END, vocabulary="ICD9CM")
    plain = labelled([deeper, short])
    assert (plain("401.1"), plain("008")) == (0, 0)
    made = labelled([deeper, short], walk_up=True, restore_zeros=True)
    assert (made("401.1"), made.summary["walk_up"], made.summary["restore_zeros"]) == (1, True, True)


# --- what the rules cost -------------------------------------------------------------------------------------------


def test_costs_by_phenotype_and_in_all(labelled):
    visits = [VISIT | {"encounter_id": f"e{i}", "patient_id": f"p{i}"} for i in range(1, 5)]
    rows = [
        diagnosis("I10", END), diagnosis("I10", END - DAY),  # p1: case
        diagnosis("I10", END, patient_id="p2"),  # one day only
        diagnosis("I10", END, patient_id="p3", certainty="uncertain"),
        diagnosis("I11.9", END, patient_id="p4"), diagnosis("I11.9", END - DAY, patient_id="p4"),  # related
    ]  # fmt: skip
    made = labelled(rows, encounters=visits, min_code_days=2, sex=dict.fromkeys(["p1", "p2", "p3", "p4"], "F"))
    table = LabelRules.read(made.run)
    assert table["phenotype"].to_list() == made.columns
    row = table.row(by_predicate=pl.col("phenotype") == "401.1", named=True)
    assert {name: number for name, number in row.items() if number} == {
        "phenotype": "401.1", "n_case": 1, "n_excluded": 3, "n_excluded_too_few_days": 1, "n_excluded_uncertain": 1,
        "n_excluded_related_code": 1,
    }  # fmt: skip
    assert made("401.1", "e4") == -1
    costs = {(rule["option"], rule["lost"]): rule["n"] for rule in made.summary["rules"]}
    assert costs["min_code_days", "cases"] == table["n_excluded_too_few_days"].sum() == 2
    assert costs["control_exclusions", "controls"] == table["n_excluded_related_code"].sum() > 0
    assert costs["uncertain", "controls"] == 2
    assert costs["sex_rule", "cells"] == 4 * 34, "all four are women, and 34 phenotypes are men's"
    assert costs["sex_rule", "cases"] == 0
    json.dumps(made.summary)


@pytest.mark.parametrize("height", [0, 1, 254, 255, 256, 511, 2048])
def test_counts_of_long_columns(height):
    cells = np.ones((height, 3), bool)
    cells[:, 1] = np.arange(height) % 3 == 0
    cells[:, 2] = False
    assert by_column(cells).tolist() == cells.sum(axis=0).tolist()


def test_each_reason_has_a_column(future):
    made = future([])
    assert {f"n_excluded_{reason}" for reason in EXCLUDED_BY} < set(LabelRules.read(made.run).columns)
    assert set(made.summary["excluded_by"]) == set(EXCLUDED_BY)
    rules = [rule["option"] for rule in made.summary["rules"]]
    assert rules.count("label_window") == 3
    json.dumps(made.summary)


# --- tables of one's own -------------------------------------------------------------------------------------------


def table(**columns):
    return pl.DataFrame(columns)


OWN = {
    "map": ("E11.9", {"vocabulary": ["ICD10CM"], "code": ["e11.9"], "phenotype": ["401.1"]}),
    "rollup": ("E11.9", {"phenotype": ["250.2"], "ancestor": ["401"]}),
    "exclusions": ("E11.9", {"phenotype": ["401.1"], "related": ["250.2"]}),
    "sex": ("C61", {"phenotype": ["401.1"], "sex": ["M"]}),
}


def own_label(made):
    return [made(name) for name in ("401.1", "401", "250.2", "250", "250.1", "185")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("map", [1, 1, 0, 0, 0, -1]),
        ("rollup", [-1, 1, 1, -1, -1, -1]),
        ("exclusions", [-1, 0, 1, 1, 0, -1]),
        ("sex", [-1, 0, 0, 0, 0, 1]),
    ],
)
def test_each_table_can_be_replaced_by_a_frame_or_a_file(labelled, phecode, tmp_path, name, expected):
    code, columns = OWN[name]
    frame, options = pl.DataFrame(columns), {"control_exclusions": name in ("exclusions", "rollup")}
    rows = [diagnosis(code, END)]
    own = replace(phecode, {name: frame})
    assert own.label == f"phecode 1.2 with own {name}"
    made = labelled(rows, vocabulary=own, **options)
    assert own_label(made) == expected
    frame.write_csv(tmp_path / "own.csv")
    frame.write_csv(tmp_path / "own.TSV", separator="\t")
    frame.write_parquet(tmp_path / "own.parquet")
    for file in ("own.csv", "own.TSV", "own.parquet"):
        again = labelled(rows, **{f"{name}_file": tmp_path / file}, **options)
        assert (again.labels == made.labels).all()
        assert again.phenotypes["vocabulary"][0] == f"phecode 1.2 with own {name}"


def test_label_takes_tables_which_go_before_the_files(tmp_path, phecode):
    (tmp_path / "own.csv").write_text("phenotype,related\n401.1,nonsense\n")
    run = tmp_path / "run"
    summary = label(
        diagnoses=Diagnoses.build([]), encounters=Encounters.build([VISIT]), patients=Patients.build([]),
        vocabulary=phecode, min_code_days=1, run=run, config=PhenotypeConfig(exclusions_file=tmp_path / "own.csv"),
        tables={"exclusions": phecode.exclusions},
    )  # fmt: skip
    assert summary["vocabulary"] == "phecode 1.2 with own exclusions"


def test_the_shipped_tables_given_as_ones_own_change_nothing(labelled, phecode):
    tables = {
        "map": phecode.code_map, "rollup": phecode.rollup, "exclusions": phecode.exclusions,
        "sex": phecode.phenotypes.select("phenotype", "sex"),
    }  # fmt: skip
    made = replace(phecode, tables)
    assert made.code_map.sort("vocabulary", "code", "phenotype").equals(
        phecode.code_map.sort("vocabulary", "code", "phenotype")
    )
    assert made.rollup.sort("phenotype", "ancestor").equals(phecode.rollup.sort("phenotype", "ancestor"))
    assert made.phenotypes.equals(phecode.phenotypes)
    assert made.version == "1.2 with own map and rollup and exclusions and sex"


def test_a_roll_up_is_followed_to_its_end(phecode):
    made = replace(phecode, {"rollup": table(phenotype=["250.23", "250.2"], ancestor=["250.2", "401"])})
    above = set(made.rollup.filter(phenotype="250.23")["ancestor"])
    assert above == {"250.23", "250.2", "401"}
    assert made.rollup.filter(pl.col("phenotype") == pl.col("ancestor")).height == 1817


def test_columns_as_r_names_them(phecode):
    made = replace(phecode, {
        "exclusions": table(code=["401.1"], exclusion_criteria=["250.2"]),
        "rollup": table(code=["250.2"], phecode_unrolled=["250"]),
        "map": table(vocabulary_id=["ICD9CM"], code=["401.9"], phecode=["401.1"]),
    })  # fmt: skip
    assert made.exclusions.rows() == [("401.1", "250.2")]
    assert made.code_map.rows() == [("ICD9CM", "4019", "401.1")]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("maps", {"a": ["b"]}, "no table of a vocabulary is called 'maps'. Did you mean map?"),
        ("exclusions", {"phenotype": ["401.1"]}, "table exclusions lacks related"),
        ("exclusions", {"phenotype": [401.1], "related": ["250"]}, "column phenotype holds Float64, not text"),
        ("exclusions", {"phenotype": ["401.1", " "], "related": ["250", "250"]}, "row 2: has a blank cell"),
        ("exclusions", {"phenotype": ["401.1", None], "related": ["250", "250"]}, "row 2: has a blank cell"),
        (
            "exclusions", {"phenotype": ["401.1", "8"], "related": ["250", "250"]},
            "row 2: phenotype '8' is not in phecode 1.2.",
        ),
        (
            "exclusions", {"phenotype": ["401.1"] * 3, "related": ["250.2", "250.22x", "y"]},
            r"row 2: related '250.22x' is not in phecode 1.2. Did you mean 250.22\? \(and 1 more such rows\)",
        ),
        (
            "exclusions", {"phenotype": ["401.1"] * 2, "related": ["250", "250 "]},
            r"row 1 \(phenotype 401.1, related 250\): is repeated",
        ),
        ("sex", {"phenotype": ["401.1", "185"], "sex": ["F", "men"]}, "row 2 .*: has an unknown sex"),
        ("sex", {"phenotype": ["185", "185"], "sex": ["F", "M"]}, "row 1 .*: is repeated"),
        (
            "map", {"vocabulary": ["ICD10CM", "ICD11"], "code": ["I10", "I10"], "phenotype": ["401.1"] * 2},
            "row 2 .*: has an unknown code system",
        ),
        (
            "map", {"vocabulary": ["ICD9CM"], "code": ["A00-A09"], "phenotype": ["401.1"]},
            "row 1 .*: has no code of its code system",
        ),
        (
            "map", {"vocabulary": ["ICD10CM"] * 2, "code": ["E119", "E11.9"], "phenotype": ["401.1"] * 2},
            "row 1 .*: is repeated",
        ),
        (
            "rollup", {"phenotype": ["401.1", "250.2", "250"], "ancestor": ["401", "250", "250.2"]},
            r"row 2 .*: rolls a phenotype up to itself \(and 1 more",
        ),
    ],
)  # fmt: skip
def test_a_malformed_table_is_refused_by_row(phecode, name, columns, message):
    with pytest.raises(VocabularyError, match=message):
        replace(phecode, {name: pl.DataFrame(columns)})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("own.xlsx", b"", "own.xlsx is no table that is read here"),
        ("own.csv", b"", "own.csv cannot be read"),
        ("own.csv", b"phenotype,related\n401.1,250,9\n", "own.csv cannot be read"),
        ("own.csv", b"phenotype,related\n401.1,250\n401.1,\xff\n", "own.csv"),
        ("own.parquet", b"PAR1 no", "own.parquet cannot be read"),
        ("own.csv", b"phenotype,related\n401.1,250\n250.2,9\n", r"own.csv \(table exclusions\), row 2: related '9'"),
    ],
)
def test_a_malformed_file_is_refused(phecode, tmp_path, file, content, message):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=message):
        replace(phecode, {"exclusions": path})
    with pytest.raises(VocabularyError, match="there is no file"):
        replace(phecode, {"exclusions": tmp_path / "none.csv"})


# --- the options ---------------------------------------------------------------------------------------------------


def test_labels_depend_on_the_content_of_a_file_and_on_no_idle_option(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.csv", "same.csv", "other.csv"))
    for path, text in ((one, "a"), (same, "a"), (other, "b")):
        path.write_text(text)
    assert PhenotypeConfig(sex_file=one).dependencies() == PhenotypeConfig(sex_file=same).dependencies()
    assert PhenotypeConfig(sex_file=one).dependencies() != PhenotypeConfig(sex_file=other).dependencies()
    assert PhenotypeConfig(horizon_days=7).dependencies() == PhenotypeConfig().dependencies()
    future = PhenotypeConfig(label_window="future", follow_up_until=LAST)
    assert future.dependencies() != future.replaced(horizon_days=7).dependencies()
    json.dumps(future.dependencies())


def test_options_given_later_replace_only_themselves():
    made = PhenotypeConfig(label_window="future", min_code_days=2).replaced(min_code_days=None, horizon_days=10)
    assert (made.label_window, made.min_code_days, made.horizon_days) == ("future", 2, 10)


def test_a_file_that_is_not_there_is_told_before_the_run(tmp_path):
    toml = tmp_path / "study.toml"
    toml.write_text('[phenotypes]\nsex_file = "nowhere.csv"\n')
    with pytest.raises(ConfigError, match=r"phenotypes\.sex_file is '.*nowhere\.csv': path does not point to a file"):
        settings.resolve({"cohort": "demo"}, toml)


def asked_for(monkeypatch, *words):
    """Return the options of labels that the command line comes to."""
    found = []

    def plan(config, **_):
        found.append(config.phenotypes)
        raise typer.Exit

    monkeypatch.setattr("phewas.plan.plan", plan)
    result = CliRunner().invoke(app, ["run", "--cohort", "demo", *map(str, words)])
    assert result.exit_code == 0, result.output
    return found[0]


def test_the_command_line_goes_before_the_file_option_by_option(monkeypatch, tmp_path):
    assert asked_for(monkeypatch) == PhenotypeConfig()
    toml = tmp_path / "study.toml"
    toml.write_text('[phenotypes]\nlabel_window = "future"\nhorizon_days = 90\nfollow_up_until = 2024-12-31\n')
    given = PhenotypeConfig(label_window="future", horizon_days=90, follow_up_until=date(2024, 12, 31))
    assert asked_for(monkeypatch, "--config", toml) == given
    words = ["--follow-up-until", "2023-01-02", "--min-code-days", 2, "--vocabulary", "phecode"]
    assert asked_for(monkeypatch, "--config", toml, *words) == given.replaced(
        follow_up_until=date(2023, 1, 2), min_code_days=2, vocabulary="phecode"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--label-window", "futur"), ("--follow-up-until", "31.12.2024"), ("--min-code-days", 0), ("--horizon-days", 0)],
)
def test_impossible_options_are_refused_by_the_command_line(option, value):
    result = CliRunner().invoke(app, ["run", "--cohort", "demo", option, str(value)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
