"""Rivals, controls and net benefit below report/: told on the first screen, and hidden where the cells are small."""

from __future__ import annotations

import openpyxl
import polars as pl
import pytest

from phewas.reports.build import build
from phewas.schema import Controls, ControlSummary, NetBenefit, Overview, PhenotypeResults, RivalInputs, Rivals

NAMES = ("250.2", "427.21", "911", "700")


def rival(phenotype: str, name: str, *, explains: bool) -> dict[str, object]:
    return {"phenotype": phenotype, "rival": name, "status": "fitted", "auc": 0.66666, "low": 0.61111, "high": 0.7,
            "p_value": 0.0012345, "q_fdr": 0.01, "difference": 0.01234, "difference_se": 0.02, "difference_low": -0.03,
            "difference_high": 0.05, "difference_p": 0.6, "difference_q": 0.7, "explains": explains}


@pytest.fixture
def tables() -> dict[str, pl.DataFrame]:
    seen = {"auc": 0.71, "auc_low": 0.66, "auc_high": 0.76, "q_fdr": 0.01, "delta_auc": 0.05, "delta_low": 0.01,
            "delta_high": 0.09}
    sums = {"n_listed": 3, "n_tested": 2, "n_above": 2, "share_above": 1.0, "n_significant": 2, "n_beyond_age_sex": 1,
            "median_auc": 0.7123, "median_low": 0.65, "median_high": 0.77, "p_excess": 0.001}
    return {
        "rivals": Rivals.build(rival(n, r, explains=n == "250.2" and r == "acquisition")
                               for n in NAMES for r in ("vitals", "acquisition")),
        "told": RivalInputs.build([
            {"rival": "vitals", "input": "Triage_HR", "kind": "number", "missing_training": 0.1, "missing_scored": 0.2},
            {"rival": "acquisition", "input": "q_step", "kind": "number"},
            {"rival": "utilisation", "input": "", "kind": "none", "reason": "no encounter has a date"}]),
        "controls": Controls.build(
            {"phenotype": n, "kind": k, "reason": "=because", "status": "tested"} | seen
            for n, k in (("250.2", "negative"), ("700", "negative"), ("427.21", "positive"))),
        "control_summary": ControlSummary.build([
            {"kind": "negative", "looks_seen": True} | sums, {"kind": "positive"} | sums | {"n_above": 0}]),
        "benefit": NetBenefit.build(
            {"phenotype": n, "threshold": 0.1, "status": "raw", "n_flagged": 77, "net_benefit": 0.012345, "low": 0.0,
             "high": 0.02, "treat_all": -0.01, "over_treat_all": 0.022345, "over_low": 0.0, "over_high": 0.03}
            for n in NAMES),
        "overview": Overview.build(
            {"measure": f"n_{what}_{r}", "value": v, "meaning": "as it says"}
            for r in ("vitals", "acquisition")
            for what, v in (("with", 4.0), ("beats", 3.0), ("below", 0.0), ("explained", 1.0))),
    }


@pytest.fixture
def results(phenome):
    table = phenome(4)
    small = {"n_case_patients": [104, 104, 104, 5], "n_excluded": [27, 27, 5, 27]}
    flags = ["few_cases; acquisition_explains", "", "", ""]
    return PhenotypeResults.check(table.with_columns(
        phenotype=pl.Series(NAMES), description=pl.Series([f"Disease {n}" for n in NAMES]), status=pl.lit("tested"),
        flags=pl.Series(flags), same_as=pl.lit(None, dtype=pl.String), q_fdr=pl.lit(0.01), auc=pl.lit(0.71),
        n_control_patients=pl.lit(899, dtype=pl.Int64), n_patients=pl.lit(1003, dtype=pl.Int64),
        n_cases=pl.lit(133, dtype=pl.Int64), n_controls=pl.lit(1017, dtype=pl.Int64),
        **{name: pl.Series(values, dtype=pl.Int64) for name, values in small.items()}))


def test_the_first_screen_says_what_rivals_and_controls_found(results, tables, make_run, about):
    page = build(make_run(results, **tables), meta=about, small_cell=11).read_text()
    first = page[page.index("Read this first") : page.index("Headline counts")]
    assert "1 of 4 tested phenotypes are told by how the signal was recorded" in first
    assert "Negative controls look seen: of 2 phenotypes" in first
    assert "median AUC" not in first  # hidden: that of phenotype 700 is among them
    assert "None of 2 positive controls is seen" in first
    section = page[page.index('id="rivals"') : page.index('id="flow"')]
    assert "Triage HR" in section
    assert "Not to be had: no encounter has a date." in section
    assert "acquisition explains it" in page
    assert "Disease 250.2" in section
    assert "Disease 911" not in section
    one = pl.lit(1, dtype=pl.Int64)
    quiet = {"control_summary": tables["control_summary"].with_columns(looks_seen=pl.lit(False), n_above=one)}
    page = build(make_run(results.with_columns(flags=pl.lit("")), **tables | quiet), meta=about, small_cell=11)
    text = page.read_text()
    assert "look seen" not in text
    assert "told by how" not in text


def test_small_cells_are_hidden_in_every_table(results, tables, make_run, about):
    report = build(make_run(results, **tables), meta=about, small_cell=11).parent
    read = {name: pl.read_csv(report / "tables" / f"{name}.csv", schema_overrides={"phenotype": pl.String})
            for name in ("rivals", "controls", "net_benefit")}
    assert set(read["rivals"]["phenotype"]) == {"250.2", "427.21", "911"}  # 700 has five case patients
    assert read["rivals"]["auc"][0] == 0.667
    hidden = read["controls"].filter(pl.col("phenotype") == "700")
    assert hidden.select("auc", "auc_low", "delta_auc").row(0) == (None, None, None)
    assert hidden["reason"][0] == "'=because"
    # Where a count is rounded, net benefit and that of treating all would give it away.
    assert set(read["net_benefit"]["phenotype"]) == {"250.2", "427.21"}
    assert "n_flagged" not in read["net_benefit"].columns
    book = openpyxl.load_workbook(report / "results.xlsx")
    assert {"Rivals", "Controls", "Net benefit", "Rival inputs"} <= set(book.sheetnames)
    words = {str(cell) for sheet in book.worksheets for row in sheet.iter_rows(values_only=True) for cell in row}
    assert "0.2" not in words  # the share of missing values


def test_without_these_tables_there_is_no_section(results, make_run, about):
    report = build(make_run(results), meta=about, small_cell=11).parent
    page = (report / "index.html").read_text()
    assert 'id="rivals"' not in page
    assert not (report / "tables" / "rivals.csv").exists()
