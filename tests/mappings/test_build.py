from __future__ import annotations

import hashlib
import re
from importlib import resources

import polars as pl
import pytest

from phewas.errors import VocabularyError
from phewas.mappings import build as builder

HEADER = "phecode,ICD,flag,phecode_string,phecode_category,exclude_range,sex,phecode_unrolled\n"
LINES = (
    '008,001.0,9,Intestinal infection,infectious diseases,"041,008.5",Both,008\n'
    '008.5,A04.9,10,Bacterial enteritis,infectious diseases,"008,041",Both,008.5\n'
    '008.5,A04.9,10,Bacterial enteritis,infectious diseases,"008,041",Both,008\n'
    "041,A00-A09,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
    "041,H40.11x1,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
    "041,M22.2X,10,Bacterial infection NOS,infectious diseases,,Both,041\n"
    "185,M22.2x,10,Cancer of prostate,neoplasms,,Male,185\n"
)
COUNTS = {
    "rows": 7, "icd9_codes": 1, "icd10_codes": 5, "direct_pairs": 6, "block_keys": 1, "phenotypes": 4, "chapters": 2,
    "male_only": 1, "female_only": 0, "exclusion_pairs": 4, "phenotypes_with_exclusions": 2, "rollup_pairs": 5,
}  # fmt: skip


@pytest.fixture
def small(tmp_path, monkeypatch):
    file = tmp_path / "phecode12.csv"
    file.write_text(HEADER + LINES, encoding="utf-8")
    monkeypatch.setattr(builder, "PHECODE12_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(builder, "EXPECTED", COUNTS)
    return file


def table(folder, name):
    return pl.read_parquet(folder / f"phecode1.2.{name}.parquet").rows()


def test_small_file(small, tmp_path):
    counts = builder.build(phecode12=small, out=tmp_path / "out")
    assert counts == COUNTS | {"dropped_block_keys": 1, "dropped_lower_case_twins": 1, "upper_cased": 1}
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


def test_same_input_same_bytes(small, tmp_path):
    for folder in ("one", "two"):
        builder.build(phecode12=small, out=tmp_path / folder)
    for name in ("map", "rollup", "exclusions", "phenotypes", "chapters"):
        first, second = (tmp_path / f / f"phecode1.2.{name}.parquet" for f in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_another_file_is_refused(small, tmp_path, capsys):
    small.write_text(HEADER + LINES[:-5], encoding="utf-8")
    with pytest.raises(VocabularyError, match="sha256"):
        builder.build(phecode12=small, out=tmp_path / "out")
    assert builder.main(["--phecode12", str(small), "--out", str(tmp_path / "out")]) == 2
    assert "Expected" in capsys.readouterr().err
    assert builder.main(["--phecode12", str(tmp_path / "none.csv"), "--out", str(tmp_path)]) == 2


def test_other_counts_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "EXPECTED", COUNTS | {"male_only": 2})
    with pytest.raises(VocabularyError, match="1 male_only"):
        builder.build(phecode12=small, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_names_the_origin_of_the_shipped_tables(phecode):
    text = (resources.files("phewas.mappings.data") / "SOURCES.md").read_text(encoding="utf-8")
    assert builder.PHECODE12_SHA256 in text
    rows = {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"phecode1\.2\.(\w+)\.parquet` \| ([\d,]+)", text)
    }
    assert rows == {
        "map": phecode.code_map.height,
        "rollup": phecode.rollup.height,
        "exclusions": phecode.exclusions.height,
        "phenotypes": phecode.phenotypes.height,
        "chapters": phecode.chapters.height,
    }
    for citation in ("Denny", "Wu", "2013", "2019", "Apache-2.0", "GPL-3"):
        assert citation in text
