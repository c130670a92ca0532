"""A published table beside ours: what is read, matched, subtracted and counted."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from phewas.errors import ConfigError
from phewas.stats.published import compare_published, count_published, read_published, same_code

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "results" / "anyppg_table9.csv"


def ours(*rows):
    """Return the columns that are compared of `phewas.schema.PhenotypeResults`."""
    frame = pl.DataFrame(
        {"phenotype": [r[0] for r in rows], "auc": [r[1] for r in rows], "auc_low": [r[2] for r in rows],
         "auc_high": [r[3] for r in rows]},
        schema={"phenotype": pl.String, "auc": pl.Float64, "auc_low": pl.Float64, "auc_high": pl.Float64})
    return frame.with_columns(
        description=pl.lit("words"), chapter=pl.lit("neoplasms"), chapter_order=pl.lit(2, pl.Int16),
        status=pl.lit("tested"), q_fdr=pl.lit(0.01), n_cases=pl.lit(120, pl.Int64),
        n_case_patients=pl.lit(99, pl.Int64), unit=pl.lit("encounter"))


def test_codes_are_one_with_or_without_zeros():
    assert [same_code(c) for c in ("038.10", "38.1", "250.0", "250", "CV_401.1")] == ["38.1", "38.1", "250", "250",
                                                                                     "CV_401.1"]


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not there")
def test_the_published_table_beside_ours(tmp_path):
    mapping = tmp_path / "map.toml"
    mapping.write_text('name = "A study"\nunit = "segments"\n[columns]\nphenotype = "phecode"\nauc_low = "auc_lo"\n'
                       'auc_high = "auc_hi"\n')
    published = read_published(PUBLISHED, mapping)
    assert (published.name, published.unit, published.table.height) == ("A study", "segments", 307)
    first = published.table.row(0, named=True)
    assert (first["phenotype"], first["auc"], first["n_pos"]) == ("38.1", 0.74, 280)
    both = compare_published(ours(("038.1", 0.7, 0.65, 0.75), ("999.9", 0.6, 0.5, 0.7)), published.table)
    assert both["published"].to_list() == published.table["phenotype"].to_list()
    assert both.filter(pl.col("published") == "38.1").select("phenotype", "difference", "inside").row(0) == (
        "038.1", -0.04, True)
    assert both.filter(pl.col("status") == "not in the vocabulary").height == 306


def test_counts():
    published = pl.DataFrame({"phenotype": ["1", "2", "3", "4"], "auc": [0.7, 0.9, 0.6, 0.5], "auc_low": [None] * 4,
                              "auc_high": [None] * 4, "n_pos": [None] * 4, "n_neg": [None] * 4},
                             schema_overrides=dict.fromkeys(("auc_low", "auc_high", "n_pos", "n_neg"), pl.Float64))
    both = compare_published(ours(("001", 0.71, 0.6, 0.8), ("2", 0.7, 0.6, 0.8), ("3", None, None, None)), published)
    assert both["difference"].to_list() == [0.01, -0.2, None, None]
    assert both["inside"].to_list() == [True, False, None, None]
    assert dict(count_published(both).select("measure", "value").rows()) == {
        "n_published": 4, "n_compared": 2, "n_absent": 1, "n_inside": 1}


@pytest.mark.parametrize(("text", "words"), [
    ("phenotype,auc\n1,0.5\n1,0.6\n", "more than once"), ("phenotype,auc\n1,high\n", "no number"),
    ("phenotype,AUC\n1,0.5\n", "did you mean|no column"), ("phenotype,auc\n1,1.7\n", "no number from 0 to 1"),
])
def test_a_faulty_table_is_told(tmp_path, text, words):
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.compile(words, re.IGNORECASE)):
        read_published(file)


def test_a_faulty_mapping_is_told(tmp_path):
    table, mapping = tmp_path / "t.csv", tmp_path / "m.toml"
    table.write_text("phenotype,auc\n1,0.5\n")
    for text, words in (("nonsense", "cannot be read"), ("[columns]\nacu = 'auc'\n", "acu"),
                        ("[columns]\nn_pos = 'n'\n", "'n'")):
        mapping.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_published(table, mapping)
    with pytest.raises(ConfigError, match="no file"):
        read_published(tmp_path / "none.csv")
