from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import vocabulary as vocabularies
from phewas.mappings.build import CHAPTERS, EXPECTED


def test_counts_are_those_published(phecode):
    # From the tables of the R package PheWAS 0.99.6 (pheinfo, sex_restriction, phecode_exclude).
    sex = dict(phecode.phenotypes["sex"].value_counts().rows())
    assert phecode.phenotypes.height == 1817
    assert (sex["M"], sex["F"]) == (34, 119)
    assert phecode.exclusions.height == 30_028
    assert phecode.exclusions["phenotype"].n_unique() == 1789
    codes = phecode.code_map.select("vocabulary", "code").unique().group_by("vocabulary").len()
    assert dict(codes.rows()) == {"ICD9CM": 13_707, "ICD10CM": 57_145 - 98 - 135}
    assert phecode.rollup.height == EXPECTED["rollup_pairs"]


def test_chapters_are_numbered_as_published_and_have_a_colour(phecode):
    assert phecode.chapters.height == 17
    assert phecode.chapters["chapter_order"].to_list() == [*range(1, 16), 17, 18]
    assert phecode.chapters["colour"].str.contains("^#[0-9A-F]{6}$").all()
    assert phecode.chapters["colour"].n_unique() == 17
    sizes = dict(phecode.phenotypes["chapter"].value_counts().rows())
    assert sizes["circulatory system"] == 171
    assert sizes["endocrine/metabolic"] == 169
    assert sizes["genitourinary"] == 173
    assert sizes["digestive"] == 162
    assert phecode.chapters.rows() == list(CHAPTERS)


def test_pitfall_phecodes_stay_text(phecode):
    names = phecode.phenotypes["phenotype"].to_list()
    assert "008" in names
    assert "8" not in names
    assert sum(name.startswith("0") for name in names) == 46
    assert sum(str(float(name)) != name for name in names) == 575


def test_pitfall_lower_case_x_became_upper_without_clash(phecode):
    codes = set(phecode.code_map["code"])
    assert all(code == code.upper() for code in codes)
    assert "H4011X1" in codes
    # The list holds M22.2X (741) and M22.2x (835): the upper-case row stands.
    assert phecode.code_map.filter(code="M222X")["phenotype"].to_list() == ["741"]


def test_pitfall_block_ranges_are_no_codes(phecode):
    assert not phecode.code_map["code"].str.contains("-").any()


def test_pitfall_roll_up_is_not_cutting_decimals(phecode):
    above = {}
    for child, parent in phecode.rollup.rows():
        above.setdefault(child, set()).add(parent)
    assert above["250.13"] == {"250.13", "250.1", "250"}
    assert above["250.41"] == {"250.41", "250.4"}
    decimals = [name for name in above if "." in name]
    assert sum(name.split(".")[0] not in above[name] for name in decimals) == 131
    assert all(above[parent] <= above[child] for child in above for parent in above[child]), "not complete"


def test_pitfall_exclusions_are_one_way(phecode):
    pairs = set(phecode.exclusions.rows())
    assert sum((b, a) not in pairs for a, b in pairs) == 1458


def test_parents_come_before_children(phecode):
    place = {name: i for i, name in enumerate(phecode.phenotypes["phenotype"])}
    assert all(place[parent] <= place[child] for child, parent in phecode.rollup.rows())


@pytest.mark.parametrize("name", ["phecode", "phecode1.2", "Phecode 1.2", "PHECODE"])
def test_names(name):
    assert vocabularies.load(name).label == "phecode 1.2"
    assert "phecode1.2" in vocabularies.available()


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(VocabularyError, match=r"Did you mean phecode1\.2"):
        vocabularies.load("phecod1.2")


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ("rollup", [("250", "999.99")], "without a definition"),
        ("exclusions", [("999.99", "250")], "without a definition"),
        ("exclusions", [("250", "250.1")], "repeats a row"),
        ("code_map", [("ICD10CM", "E119", None)], "empty cells"),
        ("chapters", [("neoplasms", 2, "#000000")], "several rows"),
    ],
)
def test_contradictions_are_refused(phecode, table, rows, message):
    frame = getattr(phecode, table)
    broken = pl.concat([frame, pl.DataFrame(rows, schema=frame.schema, orient="row")])
    with pytest.raises(VocabularyError, match=message):
        vocabularies.check(dataclasses.replace(phecode, **{table: broken}))


def test_incomplete_roll_up_is_refused(phecode):
    with pytest.raises(VocabularyError, match="missing from the roll-up"):
        vocabularies.check(dataclasses.replace(phecode, rollup=phecode.rollup.filter(pl.col("phenotype") != "008")))


def test_missing_and_damaged_tables(tmp_path):
    with pytest.raises(VocabularyError, match="is missing"):
        vocabularies.read(tmp_path, prefix="mine", name="mine", version="1")
    (tmp_path / "mine.phenotypes.parquet").write_bytes(b"no parquet")
    with pytest.raises(VocabularyError, match="no readable Parquet"):
        vocabularies.read(tmp_path, prefix="mine", name="mine", version="1")
    pl.DataFrame({"phenotype": [8]}).write_parquet(tmp_path / "mine.phenotypes.parquet")
    with pytest.raises(VocabularyError, match="lacks"):
        vocabularies.read(tmp_path, prefix="mine", name="mine", version="1")
