from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from typer.testing import CliRunner

from phewas.cli import app
from phewas.errors import SchemaError
from phewas.stats.reanalyse import reanalyse

PUBLISHED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "results" / "anyppg_table9.csv"


def test_hanley_and_mcneil_by_hand():
    # A = 0.8, 50 cases and 100 controls: Q1 = 2/3, Q2 = 1.28/1.8.
    table = pl.DataFrame({"n_pos": [1000], "n_neg": [2000], "auc": [0.8]})
    found = reanalyse(table, per_patient=20).row(0, named=True)
    variance = (0.16 + 49 * (2 / 3 - 0.64) + 99 * (1.28 / 1.8 - 0.64)) / 5000
    assert found["auc_se"] == pytest.approx(np.sqrt(variance), rel=1e-12)
    half = 1.959963984540054 * np.sqrt(variance) / 0.16
    assert found["auc_low"] == pytest.approx(1 / (1 + np.exp(half - np.log(4))), rel=1e-12)
    # At 0.5 the variance is that of Mann and Whitney without ties: (m + n + 1) / (12 m n).
    z = 0.3 / np.sqrt(151 / 60_000)
    assert found["neg_log10_p"] == pytest.approx(-np.log10(2 * stats.norm.sf(z)), rel=1e-9)


def test_few_cases_have_no_interval():
    table = pl.DataFrame({"n_pos": ["100"], "n_neg": ["2000"], "auc": ["0.9"], "name": ["x"]})
    found = reanalyse(table, per_patient=20).row(0, named=True)
    assert found["status"] == "too_few_cases"
    assert found["auc_low"] is None
    assert found["q_fdr"] is None
    assert found["name"] == "x"


def test_refusals():
    with pytest.raises(SchemaError, match="lacks the columns n_neg"):
        reanalyse(pl.DataFrame({"n_pos": [1], "auc": [0.5]}), per_patient=1)
    with pytest.raises(SchemaError, match="row 2"):
        reanalyse(pl.DataFrame({"n_pos": [9, 9], "n_neg": [9, 9], "auc": [0.5, 1.5]}), per_patient=1)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not here")
def test_published_table(tmp_path):
    # Counted as segments the printed intervals come back, to their two decimals of AUC and bounds.
    raw = pl.read_csv(PUBLISHED, infer_schema=False)
    as_printed = reanalyse(raw, per_patient=1)
    low = as_printed["auc_low"].to_numpy() - raw["auc_lo"].cast(pl.Float64).to_numpy()
    assert np.median(np.abs(low)) < 0.01
    asked = ["reanalyse", str(PUBLISHED), "--per-patient", "20", "--out", str(tmp_path / "t.csv")]
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0
    assert "307 rows" in made.output
    assert pl.read_csv(tmp_path / "t.csv").height == 307
