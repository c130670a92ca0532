from __future__ import annotations

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import custom, hierarchy
from phewas.mappings import vocabulary as vocabularies

HEADER = "code,vocabulary,phenotype,description,chapter,sex,parents,exclusions\n"
ROWS = (
    ",,heart,Heart disease,circulation,,,\n"
    "I48.91,ICD10CM,af,Atrial fibrillation,circulation,,heart,heart|flutter\n"
    "i4892 ,icd-10-cm,flutter,Atrial flutter,circulation,both,heart,\n"
    "427.31,ICD9CM,af,,,,,\n"
    "O80,ICD10,birth,Delivery,women,Female,,\n"
    "N40,ICD10,prostate,,,M,,\n"
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "home", lambda: tmp_path / "home" / "vocabularies")


@pytest.fixture
def write(tmp_path):
    def make(text, name="mine.csv", encoding="utf-8"):
        file = tmp_path / name
        file.write_bytes(text.encode(encoding))
        return file

    return make


def test_a_full_file(write):
    made = custom.read_file(write(HEADER + ROWS))
    assert made.name == "mine"
    assert made.version == made.digest[:8]
    assert made.phenotypes.rows() == [
        ("heart", "Heart disease", "circulation", 1, "both"),
        ("af", "Atrial fibrillation", "circulation", 1, "both"),
        ("flutter", "Atrial flutter", "circulation", 1, "both"),
        ("birth", "Delivery", "women", 2, "F"),
        ("prostate", "prostate", "other", 3, "M"),
    ]
    assert made.code_map.rows() == [
        ("ICD10", "N40", "prostate"),
        ("ICD10", "O80", "birth"),
        ("ICD10CM", "I4891", "af"),
        ("ICD10CM", "I4892", "flutter"),
        ("ICD9CM", "42731", "af"),
    ]
    assert ("af", "heart") in made.rollup.rows()
    assert made.exclusions.rows() == [("af", "flutter"), ("af", "heart")]
    assert made.chapters["chapter"].to_list() == ["circulation", "women", "other"]
    assert made.chapters["colour"].n_unique() == 3
    assert made.notes == ()


def test_the_three_required_columns_are_enough(write):
    made = custom.read_file(write("Code;Vocabulary;Phenotype\nI10;ICD10;1\n008.5;icd9cm;2\n"))
    assert made.code_map.rows() == [("ICD10", "I10", "1"), ("ICD9CM", "0085", "2")]
    assert made.phenotypes["description"].to_list() == ["1", "2"]
    assert made.exclusions.height == 0


def test_labels_by_a_file_named_in_place_of_a_vocabulary(write, labelled):
    made = vocabularies.load(str(write(HEADER + ROWS)))
    row = {"patient_id": "p1", "encounter_id": "e1", "code_raw": "x", "source": "visits", "source_row": 1}
    done = labelled([row | {"code": "I48.91", "vocabulary": "ICD10CM"}], vocabulary=made)
    assert {name: done(name) for name in done.columns} == {
        "heart": 1, "af": 1, "flutter": 0, "birth": 0, "prostate": -1,
    }  # fmt: skip


def test_the_published_names_of_columns_and_a_second_file(write):
    codes = write("phecode,ICD,vocabulary_id\nCV_401.1,I10,ICD10CM\nCV_401,I10,ICD10CM\n", "unrolled.csv")
    text = "phecode,phecode_string,category_num,category,icd10_only\n"
    text += "NS_341.23,Brown-Séquard syndrome,06,Neurological,1\n"
    text += "CV_401,Hypertension,08,Cardiovascular,0\nCV_401.1,Essential hypertension,08,Cardiovascular,0\n"
    made = custom.read_file(codes, labels=write(text, "info.csv", encoding="latin-1"))
    assert made.phenotypes["description"].to_list() == [
        "Brown-Séquard syndrome", "Hypertension", "Essential hypertension",
    ]  # fmt: skip
    assert made.chapters["chapter"].to_list() == ["Neurological", "Cardiovascular"]
    assert any("info.csv is not UTF-8 (first seen in row 1)" in note for note in made.notes)
    assert any("category_num, icd10_only" in note for note in made.notes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_pitfall_encoding(write, encoding):
    text = "code,vocabulary,phenotype,description\nM20.02,ICD10CM,b,Boutonnière deformity\n"
    made = custom.read_file(write(text, encoding=encoding))
    assert made.phenotypes["description"].to_list() == ["Boutonnière deformity"]
    assert bool(made.notes) == (encoding == "latin-1")


def test_separators_and_parquet_give_the_same(write, tmp_path):
    text = HEADER + ROWS
    expected = custom.read_file(write(text)).digest
    assert custom.read_file(write(text.replace(",", "\t"), "mine.tsv")).digest == expected
    assert custom.read_file(write(text.replace(",", ";").replace("\n", "\r\n"), "semi.csv")).digest == expected
    frame = pl.read_csv(text.encode(), infer_schema=False)
    frame.write_parquet(tmp_path / "mine.parquet")
    assert custom.read_file(tmp_path / "mine.parquet").digest == expected


def test_pitfall_numeric_columns_are_refused_with_the_reason(tmp_path):
    frame = pl.DataFrame({"code": [250.0, 8.5], "vocabulary": ["ICD9CM"] * 2, "phenotype": ["a", "b"]})
    frame.write_parquet(tmp_path / "n.parquet")
    with pytest.raises(VocabularyError, match=r"column code of .* holds numbers") as caught:
        custom.read_file(tmp_path / "n.parquet")
    assert "008 becomes 8" in caught.value.expected


def test_repeated_rows_are_told(write):
    made = custom.read_file(write("code,vocabulary,phenotype\nI10,ICD10,a\nI10,ICD10,a\nI11,ICD10,a\n"))
    assert made.code_map.height == 2
    assert made.notes == ("1 rows repeat another row and were taken once.",)


SHORT = "code,vocabulary,phenotype,description,sex,parents,exclusions\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,system,phenotype\nI10,ICD10,a\n", r"no column vocabulary"),
        ("codes,vocabulary,phenotype\nI10,ICD10,a\n", r"no column code\. Did you mean codes"),
        ("code,ICD,vocabulary,phenotype\nI10,I10,ICD10,a\n", r"2 columns for code: code, ICD"),
        ("code,vocabulary,phenotype\n", "no rows below"),
        ("code,vocabulary,phenotype\nI10,ICD10,a\n,ICD10,b\n", r"mine\.csv, row 2: the code is blank"),
        ("code,vocabulary,phenotype\nI10,ICD10,a\nI11,ICD10,\n", r"row 2: the phenotype is blank"),
        ("code,vocabulary,phenotype\nI10,,a\n", r"row 1: '' is no code system"),
        ("code,vocabulary,phenotype\nI10,ICD10,a\n4019,icd9,a\n", r"row 2: 'icd9' is no code system"),
        ("code,vocabulary,phenotype\nI10,ICD10,a\n,,\n250,ICD10,b\n", r"row 3: '250' in ICD10: .*other ICD revision"),
        ("code,vocabulary,phenotype\nA00-A09,ICD10,a\n", r"row 1: .*a block of codes"),
        ("code,vocabulary,phenotype\n8.5,ICD9CM,a\n8.6,ICD9CM,a\n", r"row 1: '8\.5' .* \(2 such rows; next: 2\)"),
        (
            SHORT + "I10,ICD10,a,x,,,\nI11,ICD10,a,y,,,\n",
            r"row 2: phenotype 'a' has the description 'y', in row 1 .*'x'",
        ),
        (SHORT + "I10,ICD10,a,,F,,\nI11,ICD10,a,,M,,\n", r"row 2: phenotype 'a' has the sex 'M'"),
        (SHORT + "I10,ICD10,a,,W,,\n", r"row 1: 'W' is no sex"),
        (SHORT + "I10,ICD10,a,,,z,\n", r"row 1: 'z' among the parents of 'a' is no phenotype"),
        (SHORT + "I10,ICD10,a,,,,z|a\n", r"row 1: 'z' among the exclusions of 'a'"),
        (SHORT + "I10,ICD10,a,,,a,\n", r"row 1: 'a' is its own parent"),
        (SHORT + "I10,ICD10,a,,,b,\nI11,ICD10,b,,,a,\n", r"circle: a -> b -> a"),
        (SHORT + ",,a,,,,\n", "has no code"),
        ("", "cannot be read as a table"),
    ],
)
def test_mistakes_are_told_with_the_row(write, text, message):
    with pytest.raises(VocabularyError, match=message):
        custom.read_file(write(text))


def test_what_is_no_table(tmp_path, write):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(VocabularyError, match="cannot be read as a table"):
        custom.read_file(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_bytes(b"\x00\x01")
    with pytest.raises(VocabularyError, match="is no text"):
        custom.read_file(tmp_path / "x.csv")
    with pytest.raises(VocabularyError, match="cannot be read"):
        custom.read_file(tmp_path / "none.csv")
    with pytest.raises(VocabularyError, match="cannot be read as a table"):
        custom.read_file(write("code,vocabulary,phenotype\nI10,ICD10,a,b,c\n"))


def test_braces_in_a_cell_do_no_harm(write):
    with pytest.raises(VocabularyError, match=r"row 1: '\{x\}' is no code system"):
        custom.read_file(write("code,vocabulary,phenotype\nI10,{x},a\n"))


def test_added_for_good(write):
    made = custom.add("heart-1", write(HEADER + ROWS))
    again = vocabularies.load("Heart 1")
    assert again.label == f"heart-1 {made.version}"
    assert again.digest == made.digest
    assert vocabularies.available()["heart-1"] == "yours"
    assert vocabularies.available()["phecode1.2"] == "shipped"


def test_the_same_file_is_stored_in_the_same_bytes(write, tmp_path, monkeypatch):
    stored = []
    for folder in ("one", "two"):
        monkeypatch.setattr(custom, "home", lambda folder=folder: tmp_path / folder)
        custom.add("heart", write(HEADER + ROWS))
        stored.append({f.name: f.read_bytes() for f in (tmp_path / folder / "heart").iterdir()})
    assert stored[0] == stored[1]
    assert len(stored[0]) == 6


@pytest.mark.parametrize("name", ["phecode1.2", "PhecodeX", "phecode-1.2", "icd10-3", "phecode12", "icd-103"])
def test_taken_names_are_refused(write, name):
    with pytest.raises(VocabularyError, match="is taken by the vocabulary"):
        custom.add(name, write(HEADER + ROWS))


def test_one_of_yours_is_not_overwritten(write, tmp_path):
    custom.add("heart", write(HEADER + ROWS))
    with pytest.raises(VocabularyError, match="is taken") as caught:
        custom.add("HEART", write(HEADER + ROWS))
    assert str(tmp_path / "home" / "vocabularies" / "heart") in caught.value.cure


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "1a", "mine.csv", "a b", "x" * 41])
def test_names_that_cannot_be(write, name):
    with pytest.raises(VocabularyError, match="cannot be called"):
        custom.add(name, write(HEADER + ROWS))


def test_a_malformed_file_leaves_nothing_behind(write, tmp_path):
    with pytest.raises(VocabularyError):
        custom.add("heart", write("code,vocabulary,phenotype\nI10,,a\n"))
    assert not (tmp_path / "home").exists()


def test_a_damaged_store_is_told(write, tmp_path):
    custom.add("heart", write(HEADER + ROWS))
    folder = tmp_path / "home" / "vocabularies" / "heart"
    kept = (folder / "heart.map.parquet").read_bytes()
    pl.read_parquet(folder / "heart.map.parquet").head(2).write_parquet(folder / "heart.map.parquet")
    with pytest.raises(VocabularyError, match="are not those that were stored"):
        vocabularies.load("heart")
    (folder / "heart.map.parquet").write_bytes(b"x")
    with pytest.raises(VocabularyError, match=r"damaged: .* no readable Parquet") as caught:
        vocabularies.load("heart")
    assert "add the vocabulary again" in caught.value.cure
    (folder / "heart.map.parquet").write_bytes(kept)
    (folder / "about.json").write_text("{", encoding="utf-8")
    with pytest.raises(VocabularyError, match="damaged"):
        vocabularies.load("heart")


def test_the_folder_is_the_users_own(monkeypatch):
    monkeypatch.undo()
    assert custom.home().name == "vocabularies"
    assert custom.home().is_absolute()


@pytest.mark.parametrize("name", ["phecode1.2", "phecodeX1.0"])
def test_a_whole_vocabulary_by_way_of_a_file_is_the_same(tmp_path, name):
    made = vocabularies.load(name)
    nearest = hierarchy.nearest_above(made.rollup).group_by("phenotype").agg(pl.col("parent").sort().str.join("|"))
    related = made.exclusions.group_by("phenotype").agg(pl.col("related").sort().str.join("|").alias("exclusions"))
    described = made.phenotypes.drop("chapter_order")
    described = described.join(nearest.rename({"parent": "parents"}), on="phenotype", how="left", maintain_order="left")
    described.join(related, on="phenotype", how="left", maintain_order="left").write_csv(tmp_path / "labels.csv")
    made.code_map.write_csv(tmp_path / "map.csv")
    again = custom.read_file(tmp_path / "map.csv", labels=tmp_path / "labels.csv")
    for table in ("code_map", "rollup", "exclusions"):
        columns = getattr(made, table).columns
        assert getattr(again, table).sort(columns).equals(getattr(made, table).sort(columns)), table
    columns = ["phenotype", "description", "chapter", "sex"]
    assert again.phenotypes.select(columns).equals(made.phenotypes.select(columns))
    assert again.notes == ()
