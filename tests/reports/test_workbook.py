"""The workbook and the LaTeX table: read back, numbers as numbers, nothing that runs, small cells hidden."""

from __future__ import annotations

import re
import zipfile

import openpyxl
import polars as pl
import pytest

from phewas.reports import ReportMeta, build
from phewas.reports.latex import escape, longtable
from phewas.reports.table1 import table1_rows
from phewas.reports.tables import protect
from phewas.schema import Definitions, PhenotypeResults, Shift, Table1

HOSTILE = '=HYPERLINK("http://x","y")'


def sheet(book, name: str) -> list[dict[str, object]]:
    rows = [list(row) for row in book[name].iter_rows(values_only=True)]
    top = next(i for i, row in enumerate(rows) if sum(cell is not None for cell in row) > 1)
    return [dict(zip(rows[top], row, strict=True)) for row in rows[top + 1 :]]


def sides(run, **counts: int) -> None:
    """Write Table 1 and its differences for two sides; `counts` are women by side."""
    def one(side, variable, level="", **values):
        return {"side": side, "variable": variable, "level": level, "unit": "patients", "n": 100, "missing": 0} | values

    rows = []
    for side, women in counts.items():
        rows += [
            one(side, "age", mean=61.25, sd=10.0, median=60.0, q25=50.0, q75=70.0),
            one(side, "sex", missing=4),
            one(side, "sex", "F", count=women, missing=4), one(side, "sex", "M", count=100 - women, missing=4),
        ]  # fmt: skip
    Table1.write(Table1.build(rows), run)
    shift = {"comparison": "held_out", "unit": "patients", "n_tested": 100, "n_training": 100, "missing_tested": 0,
             "missing_training": 0}  # fmt: skip
    Shift.write(Shift.build([
        shift | {"variable": "age", "level": "", "kind": "continuous", "smd": -0.25},
        shift | {"variable": "sex", "level": "", "kind": "category", "smd": 0.5},
        shift | {"variable": "sex", "level": "F", "kind": "category", "count_tested": 5, "count_training": 50,
                 "smd": -0.5},
    ]), run)  # fmt: skip


@pytest.fixture
def run(phenome, make_run):
    results = phenome(40).with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("008")).otherwise("phenotype").alias("phenotype"),
        pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(HOSTILE)).otherwise("description").alias("description"),
    )
    run = make_run(results)
    Definitions.write(Definitions.build([
        {"phenotype": "008", "code_system": "ICD9CM", "code": "008.61"},
        {"phenotype": "008", "code_system": "ICD10CM", "code": "A08.0"},
    ]), run)  # fmt: skip
    sides(run, train=50, held_out=5)
    return run


def test_the_workbook_holds_it_all(run, about):
    file = build(run, meta=about, small_cell=11).parent / "results.xlsx"
    book = openpyxl.load_workbook(file)
    assert book.sheetnames == [
        "Read me", "Results", "Chapters", "Overview", "Table 1", "Flow", "Rejected", "Phenotypes", "Codes",
        "Not mapped", "Settings", "Columns",
    ]  # fmt: skip
    results = PhenotypeResults.read(run)
    rows = {row["phenotype"]: row for row in sheet(book, "Results")}
    assert set(rows) == set(results["phenotype"].to_list())
    seen = protect(results, small_cell=11).filter(pl.col("n_case_patients").is_not_null(), pl.col("auc").is_not_null())
    for row in seen.iter_rows(named=True):
        assert rows[row["phenotype"]]["auc"] == pytest.approx(row["auc"])
        assert rows[row["phenotype"]]["n_case_patients"] == row["n_case_patients"]
    codes = sheet(book, "Codes")
    assert [(c["phenotype"], c["code"]) for c in codes] == [("008", "008.61"), ("008", "A08.0")]
    explained = {(row["sheet"], row["column"]) for row in sheet(book, "Columns")}
    assert {("Results", column) for column in PhenotypeResults.columns()} <= explained
    assert book["Results"].freeze_panes == "B2"
    assert book["Results"].column_dimensions["B"].width > 10
    flow = sheet(book, "Flow")
    assert (flow[0]["in"], flow[0]["lost"], flow[0]["out"]) == (4321, 1111, 3210)
    assert {row["figure"]: row["value"] for row in sheet(book, "Overview")}["mean_auc"] == 0.643
    settings = {row["setting"]: row["value"] for row in sheet(book, "Settings")}
    assert settings["seed"] == "3"
    assert "version: polars" in settings


def test_nothing_in_the_workbook_runs(run, about):
    file = build(run, meta=about, small_cell=11).parent / "results.xlsx"
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            text = archive.read(name).decode("utf-8", "replace")
            assert "<f>" not in text, name
            assert "<hyperlink" not in text, name
    book = openpyxl.load_workbook(file)
    cells = [cell for row in book["Results"].iter_rows() for cell in row if cell.value == HOSTILE]
    assert len(cells) == 1
    assert cells[0].data_type == "s"
    assert cells[0].quotePrefix
    plain = next(cell for row in book["Results"].iter_rows() for cell in row if cell.value == "008")
    assert plain.data_type == "s"


def test_the_same_run_is_the_same_file(run, about):
    one = (build(run, meta=about, small_cell=11).parent / "results.xlsx").read_bytes()
    assert (build(run, meta=about, small_cell=11).parent / "results.xlsx").read_bytes() == one


def test_small_cells_are_hidden_in_every_sheet(run, about, row):
    small = PhenotypeResults.build([row(n_case_patients=7, n_cases=9, auc=0.9876)])
    PhenotypeResults.write(small, run)
    file = build(run, meta=about, small_cell=11).parent / "results.xlsx"
    found = sheet(openpyxl.load_workbook(file), "Results")[0]
    assert (found["n_case_patients"], found["n_cases"], found["auc"]) == ("<11", "<11", None)
    tex = (file.parent / "tables" / "phenotypes.tex").read_text()
    assert "0.988" not in tex
    assert "$<$11" in tex


def test_table_1_hides_what_is_small_and_what_would_give_it_away(run):
    words, rows = table1_rows(run, small_cell=11)
    assert words == ["training", "held out (tested)"]
    found = {r["what"]: r for r in rows}
    assert found["Age at the encounter, years"]["cells"] == ["61.2 (10.0)", "61.2 (10.0)"]
    assert found["Age at the encounter, years"]["smd"] == "−0.25"
    assert found["F"]["cells"][1] == "<11"
    assert found["F"]["smd"] == "–"
    assert found["M"]["cells"][1].startswith("≈")
    assert found["Sex"]["missing"] == ["<11", "<11"]
    assert found["M"]["cells"][0].startswith("≈")  # four without a value would follow from exact counts
    open_words, open_rows = table1_rows(run, small_cell=0)
    assert {r["what"]: r for r in open_rows}["F"]["cells"] == ["50 (50.0 %)", "5 (5.0 %)"]
    assert open_words == words


@pytest.mark.parametrize("text", [r"\input{/etc/passwd}", "50 % & $x_1^2$ #~", "a\x00b\u202ec", "{}" * 50, "---``''"])
def test_latex_text_cannot_act(text):
    made = escape(text)
    bare = re.sub(r"\\(textbackslash|textasciicircum|textasciitilde|textbar|textless|textgreater|textquotedbl|"
                  r"textasciigrave|textquotesingle)\{\}|\\[{}$&#%_]|\{-\}", "", made)  # fmt: skip
    assert not re.search(r"[\\{}$&#%_^~]", bare)


def test_the_latex_table_has_a_row_for_each_tested_phenotype(run):
    results = protect(PhenotypeResults.read(run), small_cell=11)
    tex = longtable(results, caption="Net on 5 % of Demo", small_cell=11)
    tested = results.filter(pl.col("status") == "tested")
    body = tex.split("\\endfoot\n")[1]
    assert body.count(" \\\\\n") == tested.height
    assert all(line.count(" & ") == 9 for line in body.splitlines() if line.endswith("\\\\"))
    assert r"5 \% of Demo" in tex


def test_a_run_without_optional_tables_has_a_workbook_all_the_same(phenome, make_run):
    meta = ReportMeta(cohort="c", encoder="e", version="0")
    file = build(make_run(phenome(3)), meta=meta, small_cell=0).parent / "results.xlsx"
    assert "Table 1" not in openpyxl.load_workbook(file).sheetnames
