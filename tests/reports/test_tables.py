"""Small cells, decimals and harmless cells."""

from __future__ import annotations

import csv

import polars as pl
import pytest

from phewas.errors import SchemaError
from phewas.reports.tables import (
    COUNTS,
    ESTIMATES,
    METHODS,
    P_VALUES,
    csv_safe,
    hide_small,
    p_text,
    protect,
    shareable,
    shown,
    write_phenotypes,
)
from phewas.schema import PhenotypeResults


def seen(row, *, small_cell=11, **values):
    return shareable(PhenotypeResults.build([row(**values)]), small_cell=small_cell).row(0, named=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"n_cases": "133", "n_controls": "1017", "n_case_patients": "104", "counts_rounded": False}),
        ({"n_excluded": 0}, {"n_excluded": "0", "n_controls": "1017", "counts_rounded": False}),
        ({"n_excluded": 11}, {"n_excluded": "11", "n_controls": "1017", "counts_rounded": False}),
        ({"n_excluded": 1}, {"n_excluded": "<11", "n_cases": "130", "n_controls": "1020", "n_patients": "1000",
                             "counts_rounded": True, "auc": 0.712, "prevalence": None, "ap_lift": None, "df": None}),
        ({"n_case_patients": 10, "n_cases": 12},
         {"n_case_patients": "<11", "n_cases": "10", "n_controls": "1020", "n_control_patients": "900", "auc": None}),
        ({"n_case_patients": 1, "n_cases": 1, "n_excluded": 0},
         {"n_case_patients": "<11", "n_cases": "<11", "n_excluded": "0", "auc": None, "q_fdr": None}),
        ({"n_control_patients": 10}, {"n_control_patients": "<11", "auc": None, "baseline_auc": None}),
        ({"n_case_patients": 0, "n_cases": 0}, {"n_case_patients": "0", "auc": None, "counts_rounded": False}),
    ],
)
def test_the_rule(row, values, expected):
    found = seen(row, **values)
    assert {k: found[k] for k in expected} == expected


@pytest.mark.parametrize("group", ["n_case_patients", "n_control_patients"])
def test_every_estimate_is_blank_below_the_threshold(row, group):
    found = seen(row, **{group: 10})
    assert [c for c in (*ESTIMATES, *P_VALUES, *METHODS) if found[c] is not None] == []
    assert not any(str(v).startswith("0.7") for v in found.values())


def test_zero_switches_hiding_off_but_not_decimals(row):
    found = seen(row, small_cell=0, n_case_patients=1, n_cases=3)
    assert (found["n_case_patients"], found["n_cases"], found["auc"]) == ("1", "3", 0.712)
    assert not found["counts_rounded"]


def test_decimals_and_p_values(row):
    found = seen(row, delta_auc=-0.00004, p_value=0.0, auc_low=float("nan"))
    assert found["auc"] == 0.712
    assert str(found["delta_auc"]) == "0.0"
    assert found["p_value"] == 0.0
    assert found["q_fdr"] == 0.00123
    assert found["auc_low"] is None
    assert seen(row)["p_value"] == pytest.approx(1.23e-9, rel=1e-12)
    assert p_text(1e-30) == "<0.001"


def test_no_hidden_count_follows_from_the_row(row):
    # Whatever the small count, the row shows the same: so nothing in it tells one from the other.
    rows = [seen(row, n_excluded=n, n_patients=1000 + n) for n in (1, 3)]
    assert rows[0] == rows[1]


def test_untested_rows_keep_their_place(row):
    blank = dict.fromkeys((*ESTIMATES, *P_VALUES, *METHODS))
    table = PhenotypeResults.build([row("1"), row("2", status="too_few_cases", n_case_patients=4, n_cases=4, **blank)])
    found = shareable(table, small_cell=11)
    assert found["phenotype"].to_list() == ["1", "2"]
    assert found["n_case_patients"].to_list() == ["104", "<11"]
    assert found["status"].to_list() == ["tested", "too_few_cases"]


def test_rows_that_add_up_are_blurred_together():
    table = pl.DataFrame({"n": [3, 1234, 0]})
    assert hide_small(table, ["n"], small_cell=11, together=True)["n"].to_list() == [None, 1230, 0]
    assert hide_small(table, ["n"], small_cell=11)["n"].to_list() == [None, 1234, 0]


@pytest.mark.parametrize(("n", "rounded", "text"), [
    (0, True, "0"), (5, True, "<11"), (14, True, "≈10"), (15, True, "≈20"), (1234567, False, "1,234,567"),
    (None, False, "<11"),
])
def test_counts_in_words(n, rounded, text):
    assert shown(n, small_cell=11, rounded=rounded) == text


def test_results_without_contract_are_refused():
    with pytest.raises(SchemaError):
        protect(pl.DataFrame({"phenotype": ["1"]}), small_cell=11)


def test_csv_cells_are_harmless_and_codes_stay_text(row, tmp_path):
    nasty = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "糖尿病", 'say "x", y', "a=b"]
    table = PhenotypeResults.build([row(f"00{i}.10", description=d) for i, d in enumerate(nasty)])
    path, parquet = write_phenotypes(shareable(table, small_cell=11), tmp_path)
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["description"] for r in rows] == ["'" + d for d in nasty[:6]] + nasty[6:]
    assert rows[2]["phenotype"] == "002.10"
    assert '"002.10"' in path.read_text(encoding="utf-8")
    assert not any(cell.startswith(tuple("=+@\t\r")) for r in rows for cell in r.values())
    assert pl.read_parquet(parquet)["description"].to_list() == nasty


def test_numbers_keep_their_minus():
    frame = pl.DataFrame({"x": [-0.5], "t": ["-0.5"]})
    assert csv_safe(frame).row(0) == (-0.5, "'-0.5")


def test_counts_are_all_counts():
    assert set(COUNTS) == {c for c in PhenotypeResults.columns() if c.startswith("n_")}
