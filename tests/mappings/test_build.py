from __future__ import annotations

import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import build as builder
from phewas.mappings.vocabulary import SHIPPED, load

FILES = {
    "phecode12.csv": (
        "phecode,ICD,flag,phecode_string,phecode_category,exclude_range,sex,phecode_unrolled\n"
        '008,001.0,9,Intestinal infection,infectious diseases,"041,008.5",Both,008\n'
        '008.5,A04.9,10,Bacterial enteritis,infectious diseases,"008,041",Both,008.5\n'
        '008.5,A04.9,10,Bacterial enteritis,infectious diseases,"008,041",Both,008\n'
        "041,A00-A09,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
        "041,H40.11x1,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
        "041,M22.2X,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
        "185,M22.2x,10,Cancer of prostate,neoplasms,,Male,185\n"
    ),
    "phecode_map_v1_2_icd10_beta.csv": (
        "ICD10,ICD10 String,PheCode,Phenotype\n"
        "A00,Cholera,008,Intestinal infection\n"
        "A04.9,Bacterial intestinal infection,008.5,Bacterial enteritis\n"
        "A04.9,Bacterial intestinal infection,041,Bacterial infection NOS\n"
        "D05.0,Lobular carcinoma in situ,,\n"
        "S07,Crushing injury of head,1006,Crushing injury\n"
    ),
    "phecodeX.csv": (
        "phecode,ICD,flag,phecode_string,category_num,phecode_category,sex,icd10_only,code_val\n"
        "CV_401,401.1,9,Hypertension,08,Cardiovascular,Both,0,401\n"
        "CV_401.1,401.1,9,Essential hypertension,08,Cardiovascular,Both,0,401.1\n"
        "CV_401,I15.0,10,Hypertension,08,Cardiovascular,Both,0,401\n"
        "CV_401.61,I15.0,10,Renovascular hypertension,08,Cardiovascular,Both,0,401.61\n"
        "CV_401,I16.0,10,Hypertension,08,Cardiovascular,Both,0,401\n"
        "CV_401.7,I16.0,10,Hypertensive crisis,08,Cardiovascular,Both,0,401.7\n"
        "CV_401.71,I16.0,10,Hypertensive urgency,08,Cardiovascular,Both,0,401.71\n"
        "GU_600,N40,10,Hyperplasia of prostate,11,Genitourinary,Male,0,600\n"
        "GU_600,51.692,9,Hyperplasia of prostate,11,Genitourinary,Male,0,600\n"
    ),
    "phecodeX_WHO.csv": (
        "phecode,ICD,flag,phecode_string,phecode_category,sex,icd10_only,code_val\n"
        "CV_401,I10,10,Hypertension,Cardiovascular,Both,0,401\n"
        "CV_401.1,I10,10,Essential hypertension,Cardiovascular,Both,0,401.1\n"
    ),
}


def put(folder: Path, monkeypatch, files=FILES) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    digests = {name: (hashlib.sha256(text.encode()).hexdigest(), "a package") for name, text in files.items()}
    monkeypatch.setattr(builder, "SOURCES", digests)
    monkeypatch.setattr(builder, "EXPECTED", {name: {} for name in builder.EXPECTED})
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    return put(tmp_path, monkeypatch)


def table(folder, name, vocabulary="phecode1.2"):
    return pl.read_parquet(folder / f"{vocabulary}.{name}.parquet").rows()


def test_phecode12_from_a_small_file(small, tmp_path):
    counts = builder.build(sources=small, out=tmp_path / "out")["phecode1.2"]
    assert counts == {
        "rows": 7, "icd9_codes": 1, "icd10_codes": 5, "direct_pairs": 6, "block_keys": 1, "malformed": 0,
        "phenotypes": 4, "chapters": 2, "male_only": 1, "female_only": 0, "exclusion_pairs": 4,
        "phenotypes_with_exclusions": 2, "rollup_pairs": 5, "dropped_block_keys": 1, "dropped_malformed": 0,
        "dropped_lower_case_twins": 1, "upper_cased": 1,
    }  # fmt: skip
    assert table(tmp_path / "out", "map") == [
        ("ICD10CM", "A049", "008.5"),
        ("ICD10CM", "H4011X1", "041"),
        ("ICD10CM", "M222X", "041"),
        ("ICD9CM", "0010", "008"),
    ]
    assert table(tmp_path / "out", "rollup") == [
        ("008", "008"), ("008.5", "008"), ("008.5", "008.5"), ("041", "041"), ("185", "185"),
    ]  # fmt: skip
    assert table(tmp_path / "out", "exclusions") == [
        ("008", "008.5"), ("008", "041"), ("008.5", "008"), ("008.5", "041"),
    ]  # fmt: skip
    assert table(tmp_path / "out", "phenotypes")[-1] == ("185", "Cancer of prostate", "neoplasms", 2, "M")


def test_the_who_list_gives_a_map_and_titles_and_says_what_it_left_out(small, tmp_path):
    counts = builder.build(sources=small, out=tmp_path / "out")["phecode1.2-who"]
    assert table(tmp_path / "out", "map", "phecode1.2-who") == [
        ("ICD10", "A00", "008"),
        ("ICD10", "A049", "008.5"),
        ("ICD10", "A049", "041"),
    ]
    assert counts["blank_phecode"] == 1
    assert counts["undefined_phecode"] == 1  # 1006 is mapped by the list but not defined by phecode 1.2
    assert counts["codes_without_phecode"] == 2
    assert counts["rows"] == counts["pairs"] + counts["blank_phecode"] + counts["undefined_phecode"]
    assert table(tmp_path / "out", "titles", "icd10-3") == [("A00", "Cholera"), ("S07", "Crushing injury of head")]


def test_phecodex_keeps_the_leaves_and_rolls_up_by_the_label(small, tmp_path):
    counts = builder.build(sources=small, out=tmp_path / "out")["phecodeX1.0"]
    assert table(tmp_path / "out", "map", "phecodeX1.0") == [
        ("ICD10", "I10", "CV_401.1"),
        ("ICD10CM", "I150", "CV_401.61"),
        ("ICD10CM", "I160", "CV_401.71"),
        ("ICD10CM", "N40", "GU_600"),
        ("ICD9CM", "4011", "CV_401.1"),
    ]
    # CV_401.6 is not defined, so CV_401.61 stands below CV_401 alone.
    assert table(tmp_path / "out", "rollup", "phecodeX1.0") == [
        ("CV_401", "CV_401"),
        ("CV_401.1", "CV_401"),
        ("CV_401.1", "CV_401.1"),
        ("CV_401.61", "CV_401"),
        ("CV_401.61", "CV_401.61"),
        ("CV_401.7", "CV_401"),
        ("CV_401.7", "CV_401.7"),
        ("CV_401.71", "CV_401"),
        ("CV_401.71", "CV_401.7"),
        ("CV_401.71", "CV_401.71"),
        ("GU_600", "GU_600"),
    ]
    assert table(tmp_path / "out", "exclusions", "phecodeX1.0") == []
    assert counts["dropped_malformed"] == 1
    assert table(tmp_path / "out", "phenotypes", "phecodeX1.0")[-1][-2:] == (11, "M")


def test_a_phecodex_list_that_is_not_rolled_up_is_refused(tmp_path, monkeypatch):
    line = "CV_401,I10,10,Hypertension,Cardiovascular,Both,0,401\n"
    put(tmp_path, monkeypatch, FILES | {"phecodeX_WHO.csv": FILES["phecodeX_WHO.csv"].replace(line, "")})
    with pytest.raises(VocabularyError, match="1 rows lack an ancestor"):
        builder.build(sources=tmp_path, out=tmp_path / "out")


def test_same_input_same_bytes(small, tmp_path):
    for folder in ("one", "two"):
        builder.build(sources=small, out=tmp_path / folder)
    written = sorted((tmp_path / "one").iterdir())
    assert len(written) == 12
    assert all(file.read_bytes() == (tmp_path / "two" / file.name).read_bytes() for file in written)


def test_another_file_is_refused(small, tmp_path, capsys):
    (small / "phecodeX.csv").write_text(FILES["phecodeX.csv"][:-5], encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"phecodeX\.csv has sha256"):
        builder.build(sources=small, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert builder.main(["--sources", str(small), "--out", str(tmp_path / "out")]) == 2
    assert "Expected" in capsys.readouterr().err
    assert builder.main(["--sources", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "unpack phecode12.csv from a package" in capsys.readouterr().err


def test_the_command_prints_the_counts(small, tmp_path, capsys):
    assert builder.main(["--sources", str(small), "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["phecodeX1.0"]["who_codes"] == 1


def test_other_counts_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "EXPECTED", {name: {} for name in builder.EXPECTED} | {"phecode1.2": {"male_only": 2}})
    with pytest.raises(VocabularyError, match="1 male_only"):
        builder.build(sources=small, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("PHEWAS_SOURCES" not in os.environ, reason="PHEWAS_SOURCES names the folder of the four lists")
def test_the_published_lists_give_the_shipped_bytes(tmp_path):
    builder.build(sources=Path(os.environ["PHEWAS_SOURCES"]), out=tmp_path)
    shipped = resources.files("phewas.mappings.data")
    for file in sorted(tmp_path.iterdir()):
        assert file.read_bytes() == (shipped / file.name).read_bytes(), file.name


def test_sources_names_the_origin_of_the_shipped_tables():
    folder = resources.files("phewas.mappings.data")
    text = (folder / "SOURCES.md").read_text(encoding="utf-8")
    for name, (digest, package) in builder.SOURCES.items():
        assert name in text
        assert digest in text
        assert package in text
    rows = {
        file: int(number.replace(",", "")) for file, number in re.findall(r"`([\w.-]+\.parquet)` \| ([\d,]+)", text)
    }
    held = {file.name: pl.read_parquet(folder / file.name).height for file in Path(str(folder)).glob("*.parquet")}
    assert rows == held
    for citation in ("Denny", "Wu", "Shuey", "2013", "2019", "2023", "Apache-2.0", "GPL-3", "MIT", "World Health"):
        assert citation in text
    for name in SHIPPED:
        assert load(name).label in text
