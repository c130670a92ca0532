"""The known ways to go wrong with phecode tables, one test each, as a user of `map_codes` would meet them.

Pitfalls of the tables themselves (phecode 008, one-way exclusions, parents of sex-specific children, encoding) stand in
test_vocabulary.py, test_build.py and test_phenotypes.py.
"""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from phewas.errors import SchemaError
from phewas.mappings import icd
from phewas.mappings.counting import Options, map_codes
from phewas.mappings.mapfile import map_file
from phewas.mappings.vocabulary import load


def mapped(vocabulary, *codes, system="ICD10CM", **options):
    frame = pl.DataFrame(
        [("p", *(code if isinstance(code, tuple) else (code, system))) for code in codes],
        schema={"patient_id": pl.String, "code": pl.String, "vocabulary": pl.String}, orient="row",
    )  # fmt: skip
    return map_codes(frame, vocabulary=vocabulary, options=Options(**options))


def phenotypes(made):
    return set(made.counts["phenotype"])


def test_pitfall_1_case_of_x(phecode):
    assert phenotypes(mapped(phecode, "H40.11X1")) == phenotypes(mapped(phecode, "H40.11x1")) != set()


def test_pitfall_2_dots(phecode):
    assert phenotypes(mapped(phecode, "E119")) == phenotypes(mapped(phecode, "E11.9")) == {"250", "250.2"}
    codes = ("25000", "250.00", "V433", "V43.3", "E8500", "E850.0")
    made = [phenotypes(mapped(phecode, code, system="ICD9CM")) for code in codes]
    assert made[0::2] == made[1::2]


@pytest.mark.parametrize("codes", [[250.0], [250]])
def test_pitfall_3_codes_read_as_numbers_are_refused(phecode, codes):
    frame = pl.DataFrame({"patient_id": ["p"], "code": codes})
    with pytest.raises(SchemaError, match=r"250, 250\.0 and 250\.00 are three codes"):
        map_codes(frame, vocabulary=phecode, options=Options(code_system="ICD9CM"))


def test_pitfall_3_lost_zeros_show_in_the_summary(phecode, tmp_path):
    (tmp_path / "codes.csv").write_text("id,icd\na,8.61\na,42\na,250.00\n")
    options = Options(code_system="ICD9CM")
    map_file(tmp_path / "codes.csv", out=tmp_path / "out", vocabulary=phecode, options=options)
    page = (tmp_path / "out" / "summary.txt").read_text()
    assert "2 of 3 ICD-9-CM codes of digits" in page
    assert "has probably been through a spreadsheet" in page


def test_pitfall_5_e_and_v_codes_of_both_systems(phecode):
    amyloid, poisoning = mapped(phecode, "E850"), mapped(phecode, "E850", system="ICD9CM")
    assert phenotypes(amyloid) == {"270.33"}
    assert phenotypes(poisoning).isdisjoint(phenotypes(amyloid))
    # Where the system is not known, nothing is guessed.
    assert mapped(phecode, "E850", system="?").unmapped.rows() == [("E850", "unknown", 1, 1, "unknown code system")]


def test_pitfall_5_by_date_only_when_asked(phecode):
    days = [date(2015, 9, 30), date(2015, 10, 1), None]
    frame = pl.DataFrame({"patient_id": ["a", "b", "c"], "code": ["E850"] * 3, "date": days})
    made = map_codes(frame, vocabulary=phecode, options=Options(code_system="by_date"))
    assert made.counts.filter(phenotype="270.33")["patient_id"].to_list() == ["b"]
    assert made.unmapped.filter(vocabulary="unknown").height == 1


def test_pitfall_5_a_mislabelled_crash_code_reads_as_a_replacement_once_it_is_cut(phecode):
    whole = mapped(phecode, "V43.64XA", system="ICD9CM")
    assert whole.unmapped["reason"].to_list() == ["not a code: has the shape of the other ICD revision"]
    # Cut to five characters it is a code of ICD-9-CM (a joint replaced), and nothing in it tells otherwise; cut to
    # four, V43.31XA is a replaced heart valve, which the map has.
    assert mapped(phecode, "V4364", system="ICD9CM").unmapped["reason"].to_list() == ["not in the map"]
    assert phenotypes(mapped(phecode, "V433", system="ICD9CM")) == {"395", "395.6"}
    assert not phenotypes(mapped(phecode, "V43.64", "V43.64XA"))


def test_pitfall_6_ranges_are_no_codes(phecode):
    made = mapped(phecode, "A00-A09", "B20-B20")
    assert not phenotypes(made)
    assert set(made.unmapped["reason"]) == {"not a code: a block of codes such as A00-A09, not a code"}


def test_pitfall_7_cut_codes_walk_up_only_when_asked(phecode):
    assert mapped(phecode, "S72.0019").unmapped["reason"].to_list() == ["not in the map"]
    made = mapped(phecode, "E11.97", walk_up=True)
    assert "250.2" in phenotypes(made)
    assert made.by_note.rows() == [("E11.97", "ICD10CM", 1, 1, "mapped by its parent E11.9")]


def test_pitfall_8_a_code_may_mean_several_phenotypes():
    wide = load("phecodeX")
    many = wide.code_map.group_by("vocabulary", "code").len().filter(pl.col("len") > 1).sort("vocabulary", "code")
    system, code, n = many.row(0)
    leaves = wide.code_map.filter(vocabulary=system, code=code)["phenotype"].to_list()
    assert len(leaves) == n
    assert set(leaves) <= phenotypes(mapped(wide, code, system=system))


def test_pitfall_9_no_double_count_at_the_parent(phecode):
    # E10.311 means 250.7 and 250.13; both lie below 250. One row is one day, not two.
    frame = pl.DataFrame({"patient_id": ["p"], "code": ["E10.311"], "date": [date(2020, 1, 1)]})
    made = map_codes(frame, vocabulary=phecode, options=Options(code_system="ICD10CM"))
    assert made.counts.filter(phenotype="250").rows() == [("p", "250", 1, date(2020, 1, 1))]
    assert made.labels["250"].to_list() == [-1]


def test_pitfall_9_several_rows_of_a_day_are_one_day(phecode):
    days = [date(2020, 1, 1)] * 3 + [date(2020, 3, 1)]
    frame = pl.DataFrame({"patient_id": ["p"] * 4, "code": ["I10", "I10", "I11.9", "I10"], "date": days})
    made = map_codes(frame, vocabulary=phecode, options=Options(code_system="ICD10CM"))
    assert made.counts.filter(phenotype="401").rows() == [("p", "401", 2, date(2020, 1, 1))]


def test_pitfall_10_roll_up_by_the_table(phecode):
    assert phenotypes(mapped(phecode, "250.41", system="ICD9CM")).isdisjoint({"1250"})
    child = phecode.code_map.filter(phenotype="250.41", vocabulary="ICD9CM")["code"][0]
    assert {"250.41", "250.4"} <= phenotypes(mapped(phecode, child, system="ICD9CM"))
    assert "250" not in phenotypes(mapped(phecode, child, system="ICD9CM"))


def test_pitfall_14_blanks_and_the_case_of_labels(phecode):
    made = mapped(phecode, ("I10 ", "icd10cm"), ("\u00a0i10", "ICD-10-CM"), ("401.9", "icd9"))
    assert made.unmapped.height == 0
    assert phenotypes(made) == {"401", "401.1"}


def test_procedures_and_placeholders_are_named(phecode):
    made = mapped(phecode, "99213", "0DTJ4ZZ", "N/A", "IMO0001", "", "no idea")
    reasons = dict(made.unmapped.select("code", "reason").rows())
    assert reasons["99213"] == reasons["0DTJ4ZZ"] == f"not a code: {icd.NOT_A_CODE['procedure_code']}"
    assert reasons["N/A"] == reasons["IMO0001"] == f"not a code: {icd.NOT_A_CODE['placeholder']}"
    assert reasons[""] == f"not a code: {icd.NOT_A_CODE['blank']}"
    assert reasons["NOIDEA"] == f"not a code: {icd.NOT_A_CODE['malformed']}"
