from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import custom, icd
from phewas.mappings import vocabulary as vocabularies
from phewas.mappings.build import CHAPTERS, CHAPTERS_X, EXPECTED


def test_counts_are_those_published(phecode):
    # From the tables of the R package PheWAS 0.99.6 (pheinfo, sex_restriction, phecode_exclude).
    sex = dict(phecode.phenotypes["sex"].value_counts().rows())
    assert phecode.phenotypes.height == 1817
    assert (sex["M"], sex["F"]) == (34, 119)
    assert phecode.exclusions.height == 30_028
    assert phecode.exclusions["phenotype"].n_unique() == 1789
    codes = phecode.code_map.select("vocabulary", "code").unique().group_by("vocabulary").len()
    assert dict(codes.rows()) == {"ICD9CM": 13_707, "ICD10CM": 57_145 - 98 - 135}
    assert phecode.rollup.height == EXPECTED["phecode1.2"]["rollup_pairs"]


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


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "home", lambda: tmp_path / "vocabularies")


@pytest.fixture(scope="module")
def phecodex() -> vocabularies.Vocabulary:
    return vocabularies.load("phecodeX1.0")


@pytest.fixture(scope="module")
def who() -> vocabularies.Vocabulary:
    return vocabularies.load("phecode1.2-who")


def test_phecodex_counts_are_those_published(phecodex):
    # From the tables of the repository PheWAS/PhecodeX: labels, roll-up map, sex, and the map's codes.
    sex = dict(phecodex.phenotypes["sex"].value_counts().rows())
    assert phecodex.phenotypes.height == 3612
    assert (sex["M"], sex["F"]) == (65, 255)
    assert phecodex.rollup.height == 7956
    codes = phecodex.code_map.select("vocabulary", "code").unique().group_by("vocabulary").len()
    assert dict(codes.rows()) == {"ICD9CM": 12_666 - 1, "ICD10CM": 54_519, "ICD10": 8_560}
    assert phecodex.exclusions.height == 0


def test_phecodex_rolls_back_to_every_row_of_the_published_lists(phecodex):
    rolled = phecodex.code_map.join(phecodex.rollup, on="phenotype").select("vocabulary", "code", "ancestor").unique()
    rows = dict(rolled.group_by("vocabulary").len().rows())
    assert rows["ICD9CM"] + rows["ICD10CM"] == 156_672 - 1  # less the malformed key 51.692
    assert rows["ICD10"] == 20_255


def test_phecodex_leaves_per_code_are_85_to_15(phecodex):
    codes = phecodex.code_map.filter(pl.col("vocabulary") != "ICD10").group_by("vocabulary", "code").len()["len"]
    assert (codes == 1).mean() == pytest.approx(0.85, abs=0.005)
    assert codes.max() == 5
    assert phecodex.code_map.filter(pl.col("vocabulary") != "ICD10")["phenotype"].n_unique() == 3554


def test_phecodex_chapters_have_order_name_and_colour(phecodex):
    assert phecodex.chapters["chapter_order"].to_list() == list(range(1, 19))
    assert phecodex.chapters["colour"].n_unique() == 18
    assert dict(phecodex.chapters.select("chapter", "colour").rows())["Cardiovascular"] == "#FF00FF"
    assert phecodex.chapters.rows() == list(CHAPTERS_X)
    # The two letters of the label say the chapter.
    letters = phecodex.phenotypes.select("chapter", pl.col("phenotype").str.head(2)).unique()
    assert letters.height == 18


def test_phecodex_has_every_root_and_its_letters_are_not_broken(phecodex):
    above = set(phecodex.rollup.rows())
    names = phecodex.phenotypes["phenotype"]
    assert all((name, name.split(".")[0]) in above for name in names)
    described = dict(phecodex.phenotypes.select("phenotype", "description").rows())
    assert described["MS_709.12"] == "Boutonnière deformity"
    assert described["NS_341.23"] == "Brown-Séquard syndrome*"


def test_a_covid_code_means_two_leaves_of_phecodex(phecodex):
    found = phecodex.code_map.filter(vocabulary="ICD10CM", code="U071")["phenotype"].to_list()
    assert found == ["ID_059.1", "ID_089.2"]


def test_the_who_map_shares_everything_else_with_phecode12(phecode, who):
    assert who.label == "phecode 1.2-who"
    assert who.code_systems == ("ICD10",)
    for table in ("phenotypes", "rollup", "exclusions", "chapters"):
        assert getattr(who, table).equals(getattr(phecode, table))


def test_the_who_map_is_not_that_of_icd10cm(phecode, who):
    def meanings(vocabulary, system):
        rows = vocabulary.code_map.filter(vocabulary=system).group_by("code").agg(pl.col("phenotype").sort())
        return dict(rows.rows())

    clinical, world = meanings(phecode, "ICD10CM"), meanings(who, "ICD10")
    both = set(clinical) & set(world)
    # Counting a blank as different it is 324 of 6,422 codes; a code without a phecode has no row here.
    assert len(both) == 6_379
    assert sum(clinical[code] != world[code] for code in both) == 263
    assert clinical["S731"] == ["840"]
    assert "S731" not in world


def test_every_shipped_vocabulary_keeps_its_contract():
    for name, source in vocabularies.available().items():
        if source == "shipped":
            made = vocabularies.load(name)
            vocabularies.check(made)
            place = {phenotype: i for i, phenotype in enumerate(made.phenotypes["phenotype"])}
            assert all(place[parent] <= place[child] for child, parent in made.rollup.rows())
            assert made.chapters["colour"].n_unique() == made.chapters.height
            keys = made.code_map.select(icd.undotted(pl.col("code"), pl.col("vocabulary")).alias("key"), "code")
            assert keys.filter(pl.col("key") != pl.col("code")).height == 0


def test_the_digest_names_the_contents(phecode, who):
    assert phecode.digest == vocabularies.load("phecode").digest
    assert len({phecode.digest, who.digest, vocabularies.load("phecodeX").digest}) == 3


@pytest.mark.parametrize("name", ["phecode", "phecode1.2", "Phecode 1.2", "PHECODE"])
def test_names(name):
    assert vocabularies.load(name).label == "phecode 1.2"
    assert "phecode1.2" in vocabularies.available()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("phecodeX", "phecodeX1.0"),
        ("PhecodeX 1.0", "phecodeX1.0"),
        ("phecode1.2-WHO", "phecode1.2-who"),
        ("phecode_who", "phecode1.2-who"),
        ("ICD10-3", "icd10-3"),
    ],
)
def test_aliases(name, full):
    assert vocabularies.resolve(name) == full


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(VocabularyError, match=r"there is no vocabulary file mine.csv"):
        vocabularies.resolve("mine.csv")


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
