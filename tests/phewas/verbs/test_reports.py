"""`phewas report`, `figures` and `cite` on a finished run, through the command line's own functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phewas.cli import app
from phewas.errors import ConfigError, RunError
from phewas.reports.meta import ReportMeta, read_about, write_about

_SPEC = importlib.util.spec_from_file_location(
    "phewas_test_results", Path(__file__).parents[2] / "reports" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
made = sys.modules.setdefault(_SPEC.name, importlib.util.module_from_spec(_SPEC))
_SPEC.loader.exec_module(made)

META = ReportMeta(
    cohort="mcmed", cohort_title="A cohort", encoder="net", version="9.9", data_citation="Cohort et al. 2025",
    encoder_card={"name": "Net", "citation": "Encoder et al. 2024"}, settings={"report": {"small_cell": 11}},
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = made.write_run(tmp_path_factory.mktemp("reports") / "run", made.many(20, n_excluded=7))
    write_about(META, folder)
    return folder


def call(*words):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=True)


def test_what_is_told_comes_back(run):
    assert read_about(run) == META
    assert list(read_about(run).encoder_card) == ["name", "citation"]
    assert META.small_cell() == 11
    assert ReportMeta(cohort="a", encoder="b", version="1", public=True).small_cell() == 0


def test_the_report_is_made_again_with_another_threshold(run):
    old = run / "report" / "figures" / "volcano.svg"
    old.parent.mkdir(parents=True)
    old.write_text("of other results")
    assert call("report", run, "--small-cell", "0").exit_code == 0
    assert not old.exists()
    assert "<11" not in (run / "report" / "tables" / "phenotypes.csv").read_text()
    table = run / "table.csv"
    table.write_text("code,value\n8.1,0.7\n8.2,0.61\n")
    (run / "map.toml").write_text('name = "Paper"\nunit = "segments"\n[columns]\nphenotype = "code"\nauc = "value"\n')
    told = call("report", run, "--reference", table, "--reference-map", run / "map.toml")
    assert told.exit_code == 0, told.output
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "the published counts are of: segments" in page
    assert "<11" in (run / "report" / "tables" / "phenotypes.csv").read_text()
    assert (run / "report" / "figures" / "agreement.svg").is_file()
    assert "not for sharing" in (run / "NOT-FOR-SHARING.txt").read_text()
    assert "8.1" in (run / "report" / "tables" / "reference.csv").read_text()


def test_figures_and_citations(run):
    told = call("figures", run, "--only", "overview", "--format", "svg", "--out", run / "drawn")
    assert told.exit_code == 0, told.output
    assert {p.name for p in (run / "drawn").iterdir()} == {"overview.svg", "figures.csv"}
    told = call("cite", run).output
    for words in ("phewas 9.9", "Cohort et al. 2025", "Encoder et al. 2024", "Denny JC", "Benjamini", "TRIPOD+AI"):
        assert words in told, words
    assert "phecodeX" not in told


def test_what_is_no_run_is_told(tmp_path):
    assert isinstance(call("cite", tmp_path).exception, RunError)
    assert isinstance(call("figures", tmp_path / "none").exception, RunError)
    write_about(META, tmp_path)
    assert isinstance(call("report", tmp_path, "--reference-map", tmp_path / "x").exception, ConfigError)
    (tmp_path / "about.json").write_text("{")
    assert isinstance(call("report", tmp_path).exception, RunError)
