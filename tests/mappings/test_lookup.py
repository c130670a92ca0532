from __future__ import annotations

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import custom, lookup
from phewas.mappings import vocabulary as vocabularies


@pytest.fixture(scope="module")
def shipped() -> dict[str, vocabularies.Vocabulary]:
    return {name: vocabularies.load(name) for name in ("phecode1.2", "phecodeX1.0", "phecode1.2-who", "icd10-3")}


def answers(frame, system, vocabulary):
    part = frame.filter(pl.col("code_system") == system, pl.col("vocabulary") == vocabulary)
    return part.select("code", "phenotype", "reason").rows()


def test_a_phenotype_with_its_codes_and_relatives(phecode):
    # Atrial fibrillation and flutter in the published list (R package PheWAS, phecode_map and phecode_rollup_map).
    entry = lookup.phenotype(phecode, "427.2")
    assert (entry.description, entry.chapter, entry.sex) == (
        "Atrial fibrillation and flutter", "circulatory system", "both",
    )  # fmt: skip
    assert entry.parents.rows() == [("427", "Cardiac dysrhythmias")]
    assert entry.children["phenotype"].to_list() == ["427.21", "427.22"]
    assert entry.codes.filter(vocabulary="ICD9CM").rows() == [
        ("ICD9CM", "427.3", "427.2", "direct"),
        ("ICD9CM", "427.31", "427.21", "child"),
        ("ICD9CM", "427.32", "427.22", "child"),
    ]
    assert "426" in entry.exclusions["phenotype"].to_list()


def test_a_code_that_means_parent_and_child_is_listed_once_as_direct(phecode):
    both = phecode.code_map.join(phecode.rollup, on="phenotype").filter(pl.col("phenotype") != pl.col("ancestor"))
    twice = both.join(
        phecode.code_map, left_on=["vocabulary", "code", "ancestor"], right_on=["vocabulary", "code", "phenotype"]
    )
    assert twice.height > 0
    row = twice.row(0, named=True)
    codes = lookup.phenotype(phecode, row["ancestor"]).codes
    assert not codes.select("vocabulary", "code").is_duplicated().any()


def test_the_codes_of_a_phenotype_are_those_that_make_cases(phecode):
    entry = lookup.phenotype(phecode, "250")
    rolled = phecode.code_map.join(phecode.rollup, on="phenotype").filter(ancestor="250")
    assert entry.codes.height == rolled.select("vocabulary", "code").n_unique()


def test_names_in_any_case(shipped):
    assert lookup.phenotype(shipped["phecodeX1.0"], " cv_416.21 ").phenotype == "CV_416.21"
    assert lookup.phenotype(shipped["phecode1.2"], "8") is None  # 008 is not 8


def test_a_code_in_each_vocabulary(shipped):
    found = lookup.meanings("i4891", shipped)
    assert answers(found, "ICD10CM", "phecode1.2") == [("I48.91", "427.21", None)]
    assert answers(found, "ICD10CM", "phecodeX1.0") == [("I48.91", "CV_416.21", None)]
    assert answers(found, "ICD10CM", "icd10-3") == [("I48.91", "I48", None)]
    assert answers(found, "ICD10", "phecode1.2-who") == [("I48.91", None, lookup.NOT_IN_MAP)]
    assert answers(found, "ICD10", "phecode1.2") == [("I48.91", None, lookup.NO_MAP)]
    assert "ICD9CM" not in found["code_system"].to_list()


def test_pitfall_undotted_e_codes_are_answered_in_both_systems(shipped):
    found = lookup.meanings("E8501", shipped)
    assert answers(found, "ICD9CM", "phecode1.2")[0][:2] == ("E850.1", "965.1")
    assert answers(found, "ICD10CM", "icd10-3") == [("E85.01", "E85", None)]


def test_pitfall_several_phecodes_of_one_code_and_what_they_roll_up_to(shipped):
    found = lookup.meanings("E10.311", shipped).filter(
        pl.col("vocabulary") == "phecode1.2", pl.col("code_system") == "ICD10CM"
    )
    assert found.select("phenotype", "rolls_up_to").rows() == [("250.13", "250, 250.1"), ("250.7", "250")]


def test_a_text_that_is_phenotype_and_code(shipped):
    found = lookup.find("427.2", shipped)
    assert set(found.entries) == {"phecode1.2", "phecode1.2-who"}
    assert answers(found.codes, "ICD9CM", "phecode1.2") == [("427.2", "427.1", None)]


def test_an_unknown_code_names_its_neighbours(shipped):
    found = lookup.find("I48.99", shipped)
    assert found.near[:2] == ("I48.9 (ICD10CM, ICD10)", "I48.91 (ICD10CM)")
    assert answers(found.codes, "ICD10CM", "icd10-3") == [("I48.99", "I48", None)]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("atrial fib", "427.21 (Atrial fibrillation)"),
        ("CV_416.29", "CV_416.21"),
        ("hypertention", "401 (Hypertension)"),
        ("427.21111", "427.21"),
    ],
)
def test_an_unknown_text_names_the_nearest(shipped, text, near):
    with pytest.raises(VocabularyError, match="is no phenotype") as caught:
        lookup.find(text, shipped)
    assert near in caught.value.cure


def test_a_phenotype_that_the_vocabulary_does_not_define():
    made = vocabularies.load("phecode1.2-who")
    extra = pl.DataFrame({"vocabulary": ["ICD10"], "code": ["S07"], "phenotype": ["1006"]})
    wider = vocabularies.Vocabulary(**{**vars(made), "code_map": pl.concat([made.code_map, extra])})
    (row,) = lookup.meanings("S07", {"x": wider}).filter(code_system="ICD10").rows(named=True)
    assert row["phenotype"] == "1006"
    assert "does not define" in row["reason"]


def test_a_vocabulary_of_the_users(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("code,vocabulary,phenotype\nI10,ICD10,bp\n", encoding="utf-8")
    found = lookup.find("BP", {"mine": custom.read_file(file)})
    assert found.entries["mine"].codes["code"].to_list() == ["I10"]
