"""Label rules: one test per rule, boundaries to the day, and each pitfall of the phecode tables."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime
from typing import Any

import polars as pl
import pytest

from phewas.errors import ConfigError, SchemaError
from phewas.mappings import icd


def diagnosis(code: str, recorded: date | None = None, **more: Any) -> dict[str, Any]:
    system = more.get("vocabulary", "ICD10CM")
    row = {
        "patient_id": "p1",
        "encounter_id": None,
        "code_raw": code,
        "code": icd.normalise_one(code, system),
        "vocabulary": system,
        "recorded": recorded,
        "certainty": None,
        "source": "pmh",
        "source_row": 1,
    }
    return row | more


def encounter(
    name: str = "e1", start: datetime | None = None, end: datetime | None = None, **more: Any
) -> dict[str, Any]:
    row = {"encounter_id": name, "patient_id": "p1", "start": start, "end": end, "index_time": start, "age": 50.0}
    return row | more


VISIT = encounter("e1", datetime(2200, 6, 10, 14), datetime(2200, 6, 10, 20))
DAY = date(2200, 6, 10)
BEFORE, AFTER, LONG_AGO = date(2200, 6, 9), date(2200, 6, 11), date(2190, 1, 1)
OVER_MIDNIGHT = encounter("e1", datetime(2200, 6, 10, 23, 50), datetime(2200, 6, 11, 3))
NO_DATES = encounter("e1")


@pytest.mark.parametrize(
    ("window", "recorded", "expected"),
    [
        ("history", BEFORE, 1),
        ("history", DAY, 0),
        ("history", AFTER, 0),
        ("history", None, 0),
        ("through_visit", LONG_AGO, 1),
        ("through_visit", DAY, 1),
        ("through_visit", AFTER, 0),
        ("through_visit", None, 0),
        ("any", AFTER, 1),
        ("any", None, 1),
    ],
)
def test_window_to_the_day(labelled, window, recorded, expected):
    made = labelled([diagnosis("E11.9", recorded)], label_window=window)
    assert made("250.2") == made("250") == expected
    assert made("401.1") == 0


@pytest.mark.parametrize(("window", "expected"), [("history", 0), ("through_visit", 1), ("any", 1)])
def test_visit_over_midnight_ends_on_the_next_day(labelled, window, expected):
    made = labelled([diagnosis("I10", AFTER)], encounters=[OVER_MIDNIGHT], label_window=window)
    assert made("401.1") == expected


def test_without_an_end_the_index_day_closes_the_window(labelled):
    visit = encounter("e1", datetime(2200, 6, 10, 23, 50))
    assert labelled([diagnosis("I10", DAY)], encounters=[visit])("401.1") == 1
    assert labelled([diagnosis("I10", AFTER)], encounters=[visit])("401.1") == 0


def test_history_ends_before_the_index_recording_not_before_arrival(labelled):
    visit = VISIT | {"start": datetime(2200, 6, 9, 22), "index_time": datetime(2200, 6, 10, 1)}
    made = labelled([diagnosis("I10", BEFORE)], encounters=[visit], label_window="history")
    assert made("401.1") == 1


@pytest.mark.parametrize("recorded", [None, AFTER, BEFORE])
def test_the_encounters_own_diagnosis_counts_through_the_visit_whatever_its_date(labelled, recorded):
    row = diagnosis("I10", recorded, encounter_id="e1")
    assert labelled([row])("401.1") == 1
    assert labelled([row], label_window="history")("401.1") == (1 if recorded == BEFORE else 0)


def test_an_undated_diagnosis_of_one_encounter_says_nothing_about_another(labelled):
    visits = [VISIT, encounter("e2", datetime(2201, 1, 1), datetime(2201, 1, 2))]
    made = labelled([diagnosis("I10", encounter_id="e1")], encounters=visits)
    assert (made("401.1", "e1"), made("401.1", "e2")) == (1, 0)


def test_dated_diagnoses_of_other_encounters_count(labelled):
    visits = [VISIT, encounter("e0", datetime(2199, 1, 1), datetime(2199, 1, 2))]
    made = labelled([diagnosis("I10", date(2199, 1, 1), encounter_id="e0")], encounters=visits)
    assert (made("401.1", "e0"), made("401.1", "e1")) == (1, 1)
    assert made.rows == ["e0", "e1"]


def test_a_diagnosis_that_names_another_patients_encounter_is_not_given_to_it(labelled):
    visits = [VISIT, encounter("e2", datetime(2200, 6, 10), None, patient_id="p2")]
    made = labelled([diagnosis("I10", encounter_id="e2"), diagnosis("E11.9", encounter_id="e9")], encounters=visits)
    assert (made("401.1", "e1"), made("401.1", "e2"), made("250.2")) == (0, 0, 0)
    assert made.summary["diagnoses"]["names_encounter_of_another_patient"] == 1
    assert made.summary["diagnoses"]["names_unknown_encounter"] == 1
    assert len(made.summary["notes"]) == 3


def test_an_encounter_without_date(labelled):
    rows = [
        diagnosis("I10", LONG_AGO),
        diagnosis("E11.9", encounter_id="e1"),
        diagnosis("N40.0", DAY, encounter_id="e1"),
    ]
    made = labelled(rows, encounters=[NO_DATES], sex={"p1": "M"})
    assert (made("401.1"), made("250.2"), made("600")) == (0, 1, 1)
    assert made.summary["encounters"]["without_date"] == 1
    assert "1 encounters have no date" in made.summary["notes"][0]
    blind = labelled(rows, encounters=[NO_DATES], label_window="history", sex={"p1": "M"})
    assert (blind.labels == -1).all()
    assert blind.summary["excluded_by"]["undated_encounter"] > 1600
    assert labelled(rows, encounters=[NO_DATES], label_window="any", sex={"p1": "M"})("401.1") == 1


# --- how many days -------------------------------------------------------------------------------------------------


def test_fewer_days_than_needed_is_neither(labelled):
    made = labelled([diagnosis("I10", BEFORE)], min_code_days=2)
    assert (made("401.1"), made("401"), made("250.2")) == (-1, -1, 0)
    assert made.summary["excluded_by"]["too_few_days"] == 2
    assert labelled([diagnosis("I10", BEFORE), diagnosis("I10", DAY)], min_code_days=2)("401.1") == 1


def test_days_of_different_codes_and_of_children_add_up(labelled):
    made = labelled([diagnosis("E11.9", BEFORE), diagnosis("E10.9", DAY)], min_code_days=2)
    assert (made("250"), made("250.1"), made("250.2")) == (1, -1, -1)


def test_rows_of_one_day_count_once(labelled):
    rows = [diagnosis("I10", DAY, source=name) for name in ("pmh", "visits", "problems")]
    assert labelled(rows, min_code_days=2)("401.1") == -1


def test_days_after_the_window_do_not_complete_a_case(labelled):
    made = labelled([diagnosis("I10", DAY), diagnosis("I10", AFTER)], min_code_days=2)
    assert made("401.1") == -1
    own = diagnosis("I10", AFTER, encounter_id="e1")
    assert labelled([diagnosis("I10", DAY), own], min_code_days=2)("401.1") == 1


def test_an_undated_own_diagnosis_is_one_day_that_of_the_visits_end(labelled):
    undated = diagnosis("I10", encounter_id="e1")
    assert labelled([undated, undated | {"code": "i10 "}], min_code_days=2)("401.1") == -1
    assert labelled([undated, diagnosis("I10", DAY)], min_code_days=2)("401.1") == -1
    assert labelled([undated, diagnosis("I10", BEFORE)], min_code_days=2)("401.1") == 1
    assert labelled([undated, diagnosis("I10", BEFORE)], min_code_days=3)("401.1") == -1


def test_in_an_encounter_without_date_an_undated_row_is_no_day_beside_a_dated_one(labelled):
    undated, dated = diagnosis("I10", encounter_id="e1"), diagnosis("I10", DAY, encounter_id="e1")
    assert labelled([undated, dated], encounters=[NO_DATES], min_code_days=2)("401.1") == -1
    assert labelled([undated], encounters=[NO_DATES], min_code_days=1)("401.1") == 1
    other = diagnosis("I10", BEFORE, encounter_id="e1")
    assert labelled([undated, dated, other], encounters=[NO_DATES], min_code_days=2)("401.1") == 1


def test_undated_rows_are_no_distinct_day_beside_dated_ones(labelled):
    rows = [diagnosis("I10"), diagnosis("I10", AFTER)]
    assert labelled(rows, label_window="any", min_code_days=2)("401.1") == -1
    assert labelled(rows[:1], label_window="any", min_code_days=1)("401.1") == 1
    assert labelled([*rows, diagnosis("I10", DAY)], label_window="any", min_code_days=2)("401.1") == 1


# --- who is no control ---------------------------------------------------------------------------------------------


def test_exclusions_make_a_non_case_neither_and_never_undo_a_case(labelled):
    made = labelled([diagnosis("E11.9", BEFORE)])
    assert (made("250.2"), made("250.1")) == (1, -1)
    assert labelled([diagnosis("E11.9", BEFORE)], control_exclusions=False)("250.1") == 0
    both = labelled([diagnosis("E11.9", BEFORE), diagnosis("E10.9", BEFORE)])
    assert (both("250.2"), both("250.1")) == (1, 1)
    assert made.summary["excluded_by"]["related_code"] > 0


def test_one_code_in_the_window_is_enough_to_exclude(labelled):
    made = labelled([diagnosis("E11.9", BEFORE)], min_code_days=2)
    assert made("250.1") == -1
    assert labelled([diagnosis("E11.9", AFTER)])("250.1") == 0


def test_the_visits_own_undated_code_excludes_too(labelled):
    assert labelled([diagnosis("E11.9", encounter_id="e1")])("250.1") == -1


def test_pitfall_exclusions_are_one_way(labelled, phecode):
    pairs = set(phecode.exclusions.rows())
    assert ("150", "145") in pairs
    assert ("145", "150") not in pairs
    mouth, gullet = diagnosis("145.9", DAY, vocabulary="ICD9CM"), diagnosis("150.9", DAY, vocabulary="ICD9CM")
    assert labelled([mouth])("150") == -1
    assert labelled([gullet])("145") == 0


def test_an_uncertain_diagnosis_is_neither_case_nor_control_and_bars_nothing_else(labelled):
    made = labelled([diagnosis("E11.9", BEFORE, certainty="uncertain")])
    assert (made("250.2"), made("250"), made("250.1")) == (-1, -1, 0)
    assert made.summary["excluded_by"]["uncertain"] == 2
    assert labelled([diagnosis("E11.9", AFTER, certainty="uncertain")])("250.2") == 0
    assert labelled([diagnosis("E11.9", AFTER, certainty="uncertain", encounter_id="e1")])("250.2") == -1
    sure = labelled([diagnosis("E11.9", BEFORE, certainty="uncertain"), diagnosis("E11.9", LONG_AGO)])
    assert sure("250.2") == 1


def test_an_uncertain_day_completes_no_case(labelled):
    rows = [diagnosis("I10", BEFORE), diagnosis("I10", DAY, certainty="uncertain")]
    assert labelled(rows, min_code_days=2)("401.1") == -1


@pytest.mark.parametrize(("sex", "prostate", "breast"), [("M", 0, -1), ("F", -1, 0), ("U", -1, -1)])
def test_sex(labelled, sex, prostate, breast):
    made = labelled([], sex={"p1": sex})
    assert (made("600"), made("174.1"), made("401.1")) == (prostate, breast, 0)


def test_a_code_of_the_other_sex_makes_no_case(labelled):
    made = labelled([diagnosis("C61", DAY)])
    assert made("185") == -1
    assert made.summary["cases_lost_to_sex"] == 1
    assert labelled([diagnosis("C61", DAY)], sex={"p1": "M"})("185") == 1


def test_a_patient_missing_from_the_patient_table_is_of_unknown_sex(labelled):
    made = labelled([diagnosis("C61", DAY)], sex={"p7": "M"})
    assert made("185") == -1
    assert made.summary["encounters"]["sex_unknown"] == 1


# --- codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["E119", "e11.9", " E11.9 ", "E11 .9", "E11.9"])
def test_pitfall_dots_case_and_blanks_do_not_matter(labelled, code):
    made = labelled([diagnosis("E11.9", DAY) | {"code": code}])
    assert made("250.2") == 1
    assert made.unmapped == {}


def test_pitfall_upper_case_x_maps(labelled):
    made = labelled([diagnosis("H40.11X1", DAY), diagnosis("h40.11x1", DAY)])
    assert made("365.11") == 1
    assert made.unmapped == {}


def test_pitfall_leading_and_trailing_zeros_are_not_guessed(labelled):
    made = labelled([diagnosis("8.61", DAY, vocabulary="ICD9CM"), diagnosis("8", DAY, vocabulary="ICD9CM")])
    assert set(made.labels[0]) == {0, -1}
    assert made.summary["cells"]["case"] == 0
    assert made.unmapped["8.61", "ICD9CM"][2].startswith("not a code")
    assert labelled([diagnosis("008.61", DAY, vocabulary="ICD9CM")])("008") == 1


def test_pitfall_e_and_v_codes_belong_to_their_own_system(labelled):
    poisoning = labelled([diagnosis("E8500", DAY, vocabulary="ICD9CM")])
    amyloid = labelled([diagnosis("E850", DAY, vocabulary="ICD10CM")])
    assert (poisoning("270.33"), amyloid("270.33")) == (0, 1)


def test_pitfall_who_codes_do_not_run_through_the_us_map(labelled):
    made = labelled([diagnosis("E11.9", DAY, vocabulary="ICD10")])
    assert made("250.2") == 0
    assert made.unmapped == {("E11.9", "ICD10"): (1, 1, "no map for ICD10 in phecode 1.2")}


def test_pitfall_one_code_never_counts_twice_for_a_parent(labelled):
    # E10.311 means 250.7 and 250.13, and both roll up to 250: still one day.
    made = labelled([diagnosis("E10.311", BEFORE)], min_code_days=2)
    assert (made("250"), made("250.7"), made("250.13"), made("250.1")) == (-1, -1, -1, -1)
    assert labelled([diagnosis("E10.311", BEFORE)])("250") == 1


def test_pitfall_roll_up_follows_the_table_not_the_decimals(labelled, phecode):
    child = phecode.code_map.filter(phenotype="250.41", vocabulary="ICD9CM")["code"][0]
    made = labelled([diagnosis(child, DAY, vocabulary="ICD9CM")], control_exclusions=False)
    assert (made("250.41"), made("250.4"), made("250")) == (1, 1, 0)


def test_pitfall_sex_of_a_parent_is_its_own(labelled):
    # 174.1 is for women only, its parent 174 (breast cancer) is for both.
    made = labelled([], sex={"p1": "M"})
    assert (made("174.1"), made("174")) == (-1, 0)


def test_pitfall_phecodes_stay_text(labelled):
    made = labelled([diagnosis("001.0", DAY, vocabulary="ICD9CM")])
    assert made("008") == 1
    assert made.phenotypes["phenotype"].dtype == pl.String
    assert made.columns == made.phenotypes["phenotype"].to_list()


def test_unmapped_codes_are_listed_with_their_reason(labelled, phecode):
    rows = [
        diagnosis("Z99.89", DAY), diagnosis("z9989", DAY, patient_id="p2") | {"code": "z9989"},
        diagnosis("A00-A09", DAY), diagnosis("IMO0001", DAY), diagnosis("", DAY), diagnosis("E11.9", DAY),
        diagnosis("I10", DAY, vocabulary="unknown"), diagnosis("38.93", DAY, vocabulary="ICD9CM"),
    ]  # fmt: skip
    made = labelled(rows)
    assert made.unmapped == {
        ("Z99.89", "ICD10CM"): (2, 2, "not in the map"),
        ("A00-A09", "ICD10CM"): (1, 1, "not a code: a block of codes such as A00-A09, not a code"),
        ("IMO0001", "ICD10CM"): (1, 1, "not a code: a placeholder for 'no code'"),
        ("", "ICD10CM"): (1, 1, "not a code: the cell is blank"),
        ("I10", "unknown"): (1, 1, "unknown code system"),
        ("38.93", "ICD9CM"): (1, 1, "not a code: a procedure code, not a diagnosis"),
    }
    coverage = made.summary["coverage"]
    assert (coverage["n_rows"], coverage["n_rows_mapped"]) == (8, 1)
    assert (coverage["n_codes"], coverage["n_codes_mapped"]) == (7, 1)
    assert (coverage["n_patients"], coverage["n_patients_mapped"]) == (2, 1)
    assert coverage["by_code_system"]["ICD9CM"]["n_rows"] == 1
    assert sum(rows for rows, _, _ in made.unmapped.values()) == coverage["n_rows"] - coverage["n_rows_mapped"]


def test_a_phenotype_without_definition_is_not_labelled_but_listed(labelled, phecode):
    extra = pl.DataFrame([("ICD10CM", "Z9989", "1019")], schema=phecode.code_map.schema, orient="row")
    wider = dataclasses.replace(phecode, code_map=pl.concat([phecode.code_map, extra]))
    made = labelled([diagnosis("Z99.89", DAY)], vocabulary=wider)
    assert made.unmapped == {("Z99.89", "ICD10CM"): (1, 1, "phenotype is outside the vocabulary's definitions")}


# --- what is written -----------------------------------------------------------------------------------------------


def test_same_as_names_the_first_with_the_same_cases(labelled):
    visits = [VISIT, encounter("e2", datetime(2200, 6, 10), None, patient_id="p2")]
    made = labelled([diagnosis("E11.9", DAY)], encounters=visits, control_exclusions=False)
    same = dict(made.phenotypes.select("phenotype", "same_as").rows())
    assert (same["250"], same["250.2"]) == (None, "250")
    assert same["401"] is None, "columns without a case are not compared"
    assert made.summary["n_same_as"] == 1
    assert made.summary["n_phenotypes_with_cases"] == 2


def test_shape_order_and_counts(labelled):
    visits = [encounter(name, datetime(2200, 1, 1), None, patient_id=name) for name in ("b", "a", "c")]
    made = labelled([diagnosis("I10", LONG_AGO, patient_id="b")], encounters=visits)
    assert made.labels.shape == (3, 1817)
    assert made.labels.dtype == "int8"
    assert made.labels.flags.c_contiguous
    assert made.rows == ["a", "b", "c"]
    cells = made.summary["cells"]
    assert cells == {
        "case": (made.labels == 1).sum(), "control": (made.labels == 0).sum(), "excluded": (made.labels == -1).sum(),
    }  # fmt: skip
    assert sum(made.summary["excluded_by"].values()) == cells["excluded"]
    assert made.phenotypes["vocabulary"].unique().to_list() == ["phecode 1.2"]


def test_no_diagnoses_and_no_encounters(labelled):
    made = labelled([])
    assert made.summary["cells"]["case"] == 0
    assert labelled([diagnosis("I10", DAY)], encounters=[]).labels.shape == (0, 1817)


def test_dates_at_the_far_ends(labelled):
    rows = [diagnosis("I10", date(9999, 12, 31)), diagnosis("E11.9", date(1, 1, 1))]
    made = labelled(rows)
    assert (made("401.1"), made("250.2")) == (0, 1)
    assert labelled(rows, label_window="any")("401.1") == 1


def test_many_blocks_are_one_matrix(labelled, monkeypatch):
    visits = [encounter(f"e{i:02}", datetime(2200, 1, 1 + i), None, patient_id=f"p{i % 5}") for i in range(20)]
    rows = [
        diagnosis(code, date(2200, 1, 1 + i), patient_id=f"p{i % 5}") for i, code in enumerate(["I10", "E11.9"] * 9)
    ]
    rows += [diagnosis("E10.9", encounter_id=f"e{i:02}", patient_id=f"p{i % 5}") for i in (3, 7, 19)]
    whole = labelled(rows, encounters=visits, min_code_days=2)
    monkeypatch.setattr("phewas.mappings.labelling._BLOCK", 3)
    blocks = labelled(rows, encounters=visits, min_code_days=2)
    for name in ("labels.npy", "phenotypes.parquet", "label_rows.parquet", "label_columns.parquet", "unmapped.parquet"):
        assert (whole.run / "phenotypes" / name).read_bytes() == (blocks.run / "phenotypes" / name).read_bytes()
    assert whole.summary == blocks.summary
    assert len(list((whole.run / "phenotypes").iterdir())) == 7, "temporary files are left"


def test_mistakes_are_told(labelled):
    with pytest.raises(ConfigError, match="min_code_days is 0"):
        labelled([], min_code_days=0)
    with pytest.raises(SchemaError):
        labelled([diagnosis("I10", DAY) | {"vocabulary": "icd10"}])


def test_definitions_are_the_whole_map_with_dotted_codes():
    from phewas.mappings import icd
    from phewas.mappings.coverage import definitions, link
    from phewas.mappings.vocabulary import load
    from phewas.schema import Definitions, Diagnoses

    vocabulary = load("phecode1.2")
    linked = link(diagnoses=Diagnoses.empty(), vocabulary=vocabulary)
    found = Definitions.check(definitions(vocabulary, linked))
    fibrillation = found.filter(phenotype="427.21", code_system="ICD10CM")["code"].to_list()
    assert {"I48.0", "I48.91"} <= set(fibrillation)
    assert found.filter(phenotype="008.5")["code"].str.contains(".", literal=True).any()
    bare = {(s, icd.undotted_one(c, s)) for s, c in found.select("code_system", "code").iter_rows()}
    defined = vocabulary.code_map.join(vocabulary.phenotypes.select("phenotype"), on="phenotype", how="semi")
    assert bare == set(defined.select("vocabulary", "code").iter_rows())


def test_definitions_of_derived_phenotypes_are_the_codes_that_were_met():
    from phewas.mappings.coverage import definitions, link
    from phewas.mappings.vocabulary import load
    from phewas.schema import Diagnoses

    rows = [{"patient_id": "p", "code_raw": c, "code": c, "vocabulary": "ICD10CM", "source": "t", "source_row": i}
            for i, c in enumerate(["I48.91", "I10", "nonsense"])]  # fmt: skip
    vocabulary = load("icd10-3")
    linked = link(diagnoses=Diagnoses.build(rows), vocabulary=vocabulary)
    found = definitions(vocabulary, linked)
    assert found.select("phenotype", "code").rows() == [("I10", "I10"), ("I48", "I48.91")]
