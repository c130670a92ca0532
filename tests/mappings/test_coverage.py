"""How a spelling finds its code: by itself, by its parent, with zeros put back, or not at all and why."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phewas.mappings import icd, zeros
from phewas.mappings.coverage import link, resolve
from phewas.mappings.vocabulary import load
from phewas.schema import Diagnoses, Unmapped


def found(vocabulary, *codes, system="ICD9CM", **options):
    spelled = pl.DataFrame({"code": list(codes), "vocabulary": [system] * len(codes), "n_rows": [1] * len(codes)})
    made = resolve(spelled, vocabulary=vocabulary, **options)
    rows = made.spelled.select("code", "key", "reason", "note").rows()
    return {row[0]: row[1:] for row in rows}, made.lost_zeros


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_short_way_and_the_long_way_agree(phecode, data):
    # A code written as in the map is found without text work; any other spelling of it by normalising.
    row = data.draw(st.integers(0, phecode.code_map.height - 1))
    system, key, _ = phecode.code_map.row(row)
    dotted = icd.normalise_one(key, system)
    spellings = {key, dotted, dotted.lower(), f" {key}\t", dotted + "."}
    short, _ = found(phecode, *spellings, system=system)
    assert {row[0] for row in short.values()} == {icd.undotted_one(one, system) for one in spellings} == {key}


def test_walking_up_is_an_option_and_says_so(phecode):
    codes = ("E11.97", "S72.001AXX", "S72.001A", "ZZZ", "E11.9X")
    plain, _ = found(phecode, *codes, system="ICD10CM")
    assert plain["E11.97"] == (None, "not in the map", None)
    walked, _ = found(phecode, *codes, system="ICD10CM", walk_up=True)
    assert walked["E11.97"] == ("E119", None, "mapped by its parent E11.9")
    assert walked["E11.9X"] == ("E119", None, "mapped by its parent E11.9")
    assert walked["S72.001A"] == plain["S72.001A"] == ("S72001A", None, None)
    assert walked["ZZZ"][0] is None
    assert walked["ZZZ"][1].startswith("not a code")


def test_walking_up_stops_at_the_category(phecode):
    assert found(phecode, "E9999", walk_up=True)[0]["E9999"][0] in (None, "E999")
    keys = set(phecode.code_map["code"])
    assert "Z99" not in keys
    assert found(phecode, "Z99.89", system="ICD10CM", walk_up=True)[0]["Z99.89"] == (None, "not in the map", None)


def test_lost_zeros_are_told_and_mended_only_on_request(phecode):
    codes = ("8.61", "42", "38.9", "389", "250.00", "41.4")
    plain, counts = found(phecode, *codes)
    assert plain["8.61"][:2] == (
        None, "not a code: has the shape of no ICD diagnosis code; 008.61 is in the map: has a leading zero been lost?"
    )  # fmt: skip
    assert counts == {"n_codes": 6, "n_begin_with_zero": 0, "n_only_with_zeros": 4, "n_ambiguous": 0, "n_rows": 4}
    mended, again = found(phecode, *codes, restore_zeros=True)
    assert again == counts
    assert mended["8.61"] == ("00861", None, "mapped with its leading zeros put back: 008.61")
    assert mended["42"] == ("042", None, "mapped with its leading zeros put back: 042")
    assert mended["389"][2] is None, "389 is a code of its own and stays one"
    assert mended["250.00"] == plain["250.00"] == ("25000", None, None)


def test_a_code_that_two_could_have_been_is_not_mended():
    lost = pl.DataFrame({"code": ["42"], "vocabulary": ["ICD9CM"]})
    known = pl.DataFrame({"vocabulary": ["ICD9CM"] * 2, "key": ["042", "0042"]})
    assert zeros.candidates(lost, known, dotted_list=False).rows() == [("42", "ICD9CM", "0042", 2)]
    assert zeros.candidates(lost, known, dotted_list=True).rows() == [("42", "ICD9CM", "042", 1)]
    assert zeros.candidates(lost.with_columns(vocabulary=pl.lit("ICD10CM")), known, dotted_list=False).height == 0


def test_a_spreadsheet_list_is_known_by_its_missing_zeros(phecode):
    keys = phecode.code_map.filter(vocabulary="ICD9CM").select("code").unique()["code"]
    dotted = [icd.normalise_one(key, "ICD9CM") for key in sorted(keys)[::20]]
    _, whole = found(phecode, *dotted)
    spoilt = {code.lstrip("0") if code.startswith("0") else code for code in dotted}
    made, counts = found(phecode, *spoilt, restore_zeros=True)
    assert whole["n_only_with_zeros"] == 0 < whole["n_begin_with_zero"]
    assert counts["n_begin_with_zero"] == 0 < counts["n_only_with_zeros"]
    assert counts["n_only_with_zeros"] == whole["n_begin_with_zero"]
    assert all(reason is None for _, reason, _ in made.values())


def test_rule_made_maps_are_asked_for_codes_that_no_table_lists():
    categories = load("icd10-3")
    made, _ = found(categories, "E11.9999", "e1197", "I10", "A00-A09", system="ICD10CM")
    assert [made[code][1] for code in ("E11.9999", "e1197", "I10")] == [None] * 3
    assert made["A00-A09"][1].startswith("not a code")
    assert found(categories, "250.00")[0]["250.00"][1] == f"no map for ICD9CM in {categories.label}"


def test_link_reports_rows_and_patients_of_codes_mapped_by_a_parent(phecode):
    rows = [
        {"patient_id": who, "code_raw": code, "code": code, "vocabulary": "ICD10CM", "source": "t", "source_row": i}
        for i, (who, code) in enumerate([("a", "E11.97"), ("b", "E11.97"), ("a", "E11.97"), ("a", "Z99.89")])
    ]
    frame = Diagnoses.build(rows)
    assert link(diagnoses=frame, vocabulary=phecode).by_note.height == 0
    made = link(diagnoses=frame, vocabulary=phecode, walk_up=True)
    assert made.by_note.rows() == [("E11.97", "ICD10CM", 3, 2, "mapped by its parent E11.9")]
    assert made.unmapped["code"].to_list() == ["Z99.89"]
    Unmapped.check(made.by_note)


def test_the_date_rule_turns_on_the_first_of_october_2015():
    frame = pl.DataFrame({"day": ["2015-09-30", "2015-10-01", None]}).with_columns(pl.col("day").str.to_date())
    assert frame.select(icd.system_by_date(pl.col("day"))).to_series().to_list() == ["ICD9CM", "ICD10CM", "unknown"]


@pytest.mark.parametrize(
    ("label", "system"),
    [
        ("ICD9CM", "ICD9CM"), ("icd-9-cm", "ICD9CM"), ("ICD9", "ICD9CM"), ("9", "ICD9CM"), (" ICD10CM ", "ICD10CM"),
        ("10", "ICD10CM"), ("ICD-10", "ICD10"), ("ICD10WHO", "ICD10"), ("SNOMED", "unknown"), ("", "unknown"),
        (None, "unknown"),
    ],
)  # fmt: skip
def test_labels_of_code_systems(label, system):
    assert icd.read_system(label) == system
