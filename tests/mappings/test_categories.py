from __future__ import annotations

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import vocabulary as vocabularies
from phewas.mappings.categories import CHAPTERS, chapter_of, derive


@pytest.fixture(scope="module")
def icd10() -> vocabularies.Vocabulary:
    return vocabularies.load("icd10-3")


def keys(*codes, system="ICD10CM"):
    return pl.DataFrame({"vocabulary": [system] * len(codes), "code": list(codes)})


# First and last category of each chapter, as ICD-10 prints them (WHO, volume 1).
PRINTED = (
    ("A00", "B99"), ("C00", "D48"), ("D50", "D89"), ("E00", "E90"), ("F00", "F99"), ("G00", "G99"), ("H00", "H59"),
    ("H60", "H95"), ("I00", "I99"), ("J00", "J99"), ("K00", "K93"), ("L00", "L99"), ("M00", "M99"), ("N00", "N99"),
    ("O00", "O99"), ("P00", "P96"), ("Q00", "Q99"), ("R00", "R99"), ("S00", "T98"), ("V01", "Y98"), ("Z00", "Z99"),
    ("U00", "U99"),
)  # fmt: skip


def test_chapters_are_those_of_icd10(icd10):
    assert len(PRINTED) == len(CHAPTERS) == icd10.chapters.height
    for number, (first, last) in enumerate(PRINTED, 1):
        assert (chapter_of(first), chapter_of(last)) == (number, number)
    assert chapter_of("D49") == 2  # ICD-10-CM alone has it


def test_the_phenotypes_are_fixed_and_in_chapter_order(icd10):
    table = icd10.phenotypes
    assert table.height == 26 * 100 + 10
    assert table["chapter_order"].is_sorted()
    assert set(table["sex"]) == {"both"}
    assert dict(table.select("phenotype", "description").rows())["I48"] == "Atrial fibrillation and flutter"
    assert dict(table.select("phenotype", "description").rows())["C7A"] == "C7A"
    assert icd10.label == "icd10 3-digit"


def test_the_rule_knows_codes_that_no_list_has(icd10):
    asked = keys("I4891", "S72001A", "V00831D", "I48", "Q1A9")
    assert asked.join(icd10.code_map, on=["vocabulary", "code"], how="anti").height > 0
    found = icd10.map_for(asked).join(asked, on=["vocabulary", "code"], how="semi")
    assert dict(found.select("code", "phenotype").rows()) == {
        "I4891": "I48", "S72001A": "S72", "V00831D": "V00", "I48": "I48", "Q1A9": "Q1A",
    }  # fmt: skip
    assert not found.is_duplicated().any()


def test_the_rule_leaves_other_systems_and_what_is_no_code_alone():
    assert derive(keys("4019", "E8501", "V434", system="ICD9CM")).height == 0
    assert derive(keys("I4891", system="unknown")).height == 0
    assert derive(keys("A00-A09", "IMO0001", "99213", "", "I")).height == 0
    assert derive(keys("I4891", "I4891", system="ICD10"))["phenotype"].to_list() == ["I48"]


def test_labels_by_category(labelled, icd10):
    row = {"patient_id": "p1", "encounter_id": "e1", "code_raw": "x", "source": "visits", "source_row": 1}
    done = labelled(
        [
            row | {"code": "I48.91", "vocabulary": "ICD10CM"},
            row | {"code": "E11.9", "vocabulary": "ICD10"},
            row | {"code": "V00.831D", "vocabulary": "ICD10CM"},  # in no list here
            row | {"code": "401.9", "vocabulary": "ICD9CM"},
        ],
        vocabulary=icd10,
    )
    assert (done("I48"), done("E11"), done("V00"), done("I10")) == (1, 1, 1, 0)
    assert done.unmapped == {("401.9", "ICD9CM"): (1, 1, "no map for ICD9CM in icd10 3-digit")}


def test_an_ordinary_vocabulary_gives_its_own_map(phecode):
    assert phecode.map_for(keys("I4891")) is phecode.code_map


def test_the_name_is_not_guessed():
    with pytest.raises(VocabularyError, match="icd10-3"):
        vocabularies.load("icd10")
