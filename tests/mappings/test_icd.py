from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phewas.errors import VocabularyError
from phewas.mappings import icd

SYSTEMS = st.sampled_from(icd.CODE_SYSTEMS)
TEXT = st.one_of(
    st.text(alphabet="ABEHNVXx0123456789. -\u00a0†*,/", max_size=9),
    st.from_regex(r"\A[A-Za-z][0-9][0-9A-Za-z]\.?[0-9A-Za-z]{0,4}\Z"),
    st.from_regex(r"\A[EVev]?[0-9]{2,5}(\.[0-9]{0,2})? ?\Z"),
)


def over_frame(function, pairs):
    frame = pl.DataFrame(pairs, schema={"code": pl.String, "system": pl.String}, orient="row")
    return frame.select(function(pl.col("code"), pl.col("system"))).to_series().to_list()


@pytest.mark.parametrize(
    ("raw", "system", "dotted"),
    [
        ("E119", "ICD10CM", "E11.9"),
        ("e11.9", "ICD10CM", "E11.9"),
        (" E11 .9\t", "ICD10CM", "E11.9"),
        ("I10 ", "ICD10CM", "I10"),
        ("I10.", "ICD10CM", "I10"),
        ("h40.11x1", "ICD10CM", "H40.11X1"),
        ("S72001A", "ICD10CM", "S72.001A"),
        ("C4A9", "ICD10CM", "C4A.9"),
        ("A17.0†", "ICD10", "A17.0"),
        ("G01*", "ICD10", "G01"),
        ("4019", "ICD9CM", "401.9"),
        ("25000", "ICD9CM", "250.00"),
        ("0389", "ICD9CM", "038.9"),
        ("042", "ICD9CM", "042"),
        ("V4364", "ICD9CM", "V43.64"),
        ("E8809", "ICD9CM", "E880.9"),
        ("E8809", "ICD10CM", "E88.09"),
        ("e850", "ICD9CM", "E850"),
        ("E850", "ICD10CM", "E85.0"),
        ("4019", "unknown", "401.9"),
        ("R079", "unknown", "R07.9"),
        ("E8809", "unknown", "E8809"),
        ("V10", "unknown", "V10"),
    ],
)
def test_dotted_form(raw, system, dotted):
    assert icd.normalise_one(raw, system) == dotted
    assert over_frame(icd.normalise, [(raw, system)]) == [dotted]


def test_the_dot_of_icd9_e_codes_stands_after_four_characters_and_keys_clash_across_systems_only():
    assert icd.undotted_one("E850.1", "ICD9CM") == icd.undotted_one("E85.01", "ICD10CM") == "E8501"
    assert icd.normalise_one("E8501", "ICD9CM") != icd.normalise_one("E8501", "ICD10CM")


@pytest.mark.parametrize("code", ["8.61", "1.9", "E1.19", "4.019", "25.000", "E88.09"])
def test_a_dot_in_the_wrong_place_is_left_and_reaches_no_key(code):
    # 008.61 read as a number is 8.61; without its dot it would be 861, an injury of heart and lung.
    system = "ICD10CM" if code == "E1.19" else "ICD9CM"
    assert icd.normalise_one(code, system) == code
    assert "." in icd.undotted_one(code, system)
    assert icd.looks_like_one(code, system) is not None


def test_trailing_zeros_are_neither_lost_nor_made():
    assert [icd.undotted_one(code, "ICD9CM") for code in ("250", "250.0", "250.00")] == ["250", "2500", "25000"]


@pytest.mark.parametrize(
    ("text", "system", "why"),
    [
        ("", "ICD10CM", "blank"),
        (" \u00a0", "ICD9CM", "blank"),
        (None, "ICD10CM", "blank"),
        ("NA", "ICD10CM", "placeholder"),
        ("n/a", "unknown", "placeholder"),
        ("IMO0001", "ICD10CM", "placeholder"),
        ("None", "ICD9CM", "placeholder"),
        ("-", "ICD9CM", "placeholder"),
        ("000.0", "ICD9CM", "placeholder"),
        ("A00-A09", "ICD10CM", "block_range"),
        ("B20-B20", "ICD10CM", "block_range"),
        ("001-009.99", "ICD9CM", "block_range"),
        ("38.93", "ICD9CM", "procedure_code"),
        ("0DTJ4ZZ", "ICD10CM", "procedure_code"),
        ("99213", "ICD10CM", "procedure_code"),
        ("0001A", "ICD9CM", "procedure_code"),
        ("401.9", "ICD10CM", "other_code_system"),
        ("R07.9", "ICD9CM", "other_code_system"),
        ("V43.64XA", "ICD9CM", "other_code_system"),
        ("chest pain", "ICD10CM", "malformed"),
        ("E11.9999999", "ICD10CM", "malformed"),
        ("401.9", "ICD9CM", None),
        ("401.9", "unknown", None),
        ("R07.9", "unknown", None),
        ("U07.1", "ICD10CM", None),
        ("Z3A.20", "ICD10CM", None),
    ],
)
def test_what_is_no_code(text, system, why):
    assert icd.looks_like_one(text, system) == why
    assert over_frame(icd.looks_like, [(text, system)]) == [why]
    assert why is None or why in icd.NOT_A_CODE


def test_every_code_of_the_published_map_keeps_its_place_for_the_dot(phecode):
    # The published list is dotted by its authors; the shipped keys lost the dot, so this reads the rule backwards.
    keys = phecode.code_map.select("vocabulary", "code").unique()
    dotted = keys.select(icd.normalise(pl.col("code"), pl.col("vocabulary")).alias("code"), "vocabulary")
    assert dotted.select(icd.looks_like(pl.col("code"), pl.col("vocabulary"))).to_series().null_count() == len(keys)
    assert {"E862.0", "V10.41", "250.00", "008.61"} <= set(dotted.filter(vocabulary="ICD9CM")["code"])
    again = dotted.select(icd.undotted(pl.col("code"), pl.col("vocabulary"))).to_series()
    assert sorted(again) == sorted(keys["code"])


@settings(max_examples=150, deadline=None)
@given(TEXT, SYSTEMS)
def test_normalise_is_idempotent_and_both_forms_agree(text, system):
    once = icd.normalise_one(text, system)
    assert icd.normalise_one(once, system) == once
    assert icd.undotted_one(once, system) == icd.undotted_one(text, system)
    assert over_frame(icd.normalise, [(text, system)]) == [once]
    assert over_frame(icd.undotted, [(text, system)]) == [icd.undotted_one(text, system)]
    assert over_frame(icd.looks_like, [(text, system)]) == [icd.looks_like_one(text, system)]


def test_null_stays_null_and_an_odd_system_is_treated_as_unknown():
    assert over_frame(icd.normalise, [(None, "ICD10CM"), ("e119", None), ("4019", "SNOMED")]) == [None, "E119", "401.9"]


def test_a_whole_column_of_one_system():
    frame = pl.DataFrame({"code": ["E119", None]})
    assert frame.select(icd.normalise(pl.col("code"), pl.lit("ICD10CM"))).to_series().to_list() == ["E11.9", None]


@pytest.mark.parametrize(
    ("cell", "codes"),
    [
        ("789.01, 338.19", ["789.01", "338.19"]),
        ("I10;E11.9|R07.9", ["I10", "E11.9", "R07.9"]),
        ("I10,,I10,", ["I10", "I10"]),
        ("I10", ["I10"]),
        (" , ;", None),
        (None, None),
    ],
)
def test_split_cell(cell, codes):
    frame = pl.DataFrame({"cell": [cell]}, schema={"cell": pl.String})
    assert frame.select(icd.split_cell(pl.col("cell"))).to_series().to_list() == [codes]


def test_exploding_a_split_cell_keeps_the_row():
    frame = pl.DataFrame({"row": [1, 2, 3], "cell": ["I10, E11.9", None, ", "]})
    exploded = frame.with_columns(icd.split_cell(pl.col("cell"))).explode("cell")
    assert exploded.rows() == [(1, "I10"), (1, "E11.9"), (2, None), (3, None)]


def test_unknown_code_system_names_the_nearest():
    with pytest.raises(VocabularyError, match="Did you mean ICD10CM"):
        icd.normalise_one("E119", "icd10cn")
