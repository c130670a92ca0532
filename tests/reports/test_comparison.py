"""What `phewas compare` shows: figures, page, and what is hidden in both."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from phewas.errors import ConfigError, RunError
from phewas.reports.comparison import (
    FIGURES,
    About,
    comparison_figures,
    protect_comparison,
    read_pairs,
    write_about,
    write_comparison,
    write_comparison_figures,
)
from phewas.schema import Comparison, ComparisonChapters

_SPEC = importlib.util.spec_from_file_location("phewas_test_figures", Path(__file__).with_name("test_figures.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
drawing = sys.modules.setdefault(_SPEC.name, importlib.util.module_from_spec(_SPEC))
_SPEC.loader.exec_module(drawing)

ABOUT = About(cohort="A cohort", encoders={"first": "anyppg", "second": "pulse"}, small_cell=11,
              command="phewas compare first second")


def paired(results, *, names=("first", "second"), seed=0, shift=0.02):
    """Return `Comparison` and `ComparisonChapters` drawn at random for the tested phenotypes."""
    random, rows = np.random.default_rng(seed), []
    for r in results.filter(pl.col("status") == "tested").iter_rows(named=True):
        se = 0.2 / math.sqrt(max(r["n_case_patients"], 1))
        gap = float(random.normal(shift, 0.03))
        q = math.erfc(abs(gap) / se / math.sqrt(2))
        rows.append({
            "run_a": names[0], "run_b": names[1], **{c: r[c] for c in (
                "phenotype", "description", "chapter", "chapter_order", "n_case_patients", "n_control_patients")},
            "auc_a": r["auc"], "low_a": r["auc_low"], "high_a": r["auc_high"], "auc_b": r["auc"] + gap,
            "low_b": r["auc"] + gap - 2 * se, "high_b": r["auc"] + gap + 2 * se, "difference": gap, "se": se,
            "low": gap - 2 * se, "high": gap + 2 * se, "p_value": q, "neg_log10_p": 1.0, "q_fdr": q, "q_maxt": q,
            "outcome": "tie" if q >= 0.05 else "b" if gap > 0 else "a"})
    table = Comparison.build(rows)
    sums = []
    named = table.select("chapter", "chapter_order").unique("chapter").sort("chapter_order").rows()
    for chapter, order in [("", 0), *named]:
        mine = table if not chapter else table.filter(pl.col("chapter") == chapter)
        sums.append({"run_a": names[0], "run_b": names[1], "chapter": chapter, "chapter_order": order,
                     "n_phenotypes": mine.height, "n_a_better": int((mine["outcome"] == "a").sum()),
                     "n_b_better": int((mine["outcome"] == "b").sum()), "mean_auc_a": mine["auc_a"].mean(),
                     "mean_auc_b": mine["auc_b"].mean(), "mean_difference": mine["difference"].mean(),
                     "low": mine["difference"].mean() - 0.01, "high": mine["difference"].mean() + 0.01})
    return table, ComparisonChapters.build(sums)


def write(folder, tables, about=ABOUT):
    Comparison.write(pl.concat([t for t, _ in tables]), folder)
    ComparisonChapters.write(pl.concat([c for _, c in tables]), folder)
    write_about(about, folder)
    return folder


CASES = {
    "three": (3, {"tested": 2.0}), "long": (14, {"description": drawing.LONG, "chapters": ("circulatory system",)}),
    "letters": (9, {"description": "糖尿病 العربية", "chapter": "循環器"}),
    "small": (6, {"n_case_patients": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_its_figures_are_readable(phenome, tmp_path, case):
    n, values = CASES[case]
    (pair,) = read_pairs(write(tmp_path, [paired(phenome(n, **values))]), small_cell=11)
    drawn = dict(comparison_figures(pair, ABOUT))
    assert set(drawn) == set(FIGURES)
    for name, figure in drawn.items():
        drawing.assert_readable(figure, name)


def test_marks_are_where_the_tables_say(row, tmp_path):
    from phewas.schema import PhenotypeResults

    results = PhenotypeResults.build([row("1.1", auc=0.8), row("2.1", auc=0.6, chapter="digestive", chapter_order=3)])
    table, sums = paired(results)
    table = table.with_columns(difference=pl.Series([0.05, -0.1]), auc_b=pl.Series([0.85, 0.5]),
                               q_fdr=pl.Series([0.01, 0.2]), outcome=pl.Series(["b", "tie"]))
    (pair,) = read_pairs(write(tmp_path, [(table, sums)]), small_cell=11)
    drawn = dict(comparison_figures(pair, ABOUT))
    offsets = {n: drawing.marks(drawn[n], "phenotypes") for n in ("encoders", "differences", "miami")}
    assert sorted(offsets["encoders"][0].get_offsets().tolist()) == [[0.6, 0.5], [0.8, 0.85]]
    assert sorted(offsets["differences"][0].get_offsets()[:, 1]) == [-0.1, 0.05]
    # The second run stands above; filled is only what it wins.
    above, below = offsets["miami"]
    assert sorted(above.get_offsets()[:, 1]) == [0.5, 0.85]
    assert sorted(below.get_offsets()[:, 1]) == [0.6, 0.8]
    assert [sum(face[:3].min() < 1 for face in half.get_facecolors()) for half in (above, below)] == [1, 0]
    legend = [t.get_text() for t in drawn["encoders"].axes[0].get_legend().get_texts()]
    assert legend == ["second better: 1", "first better: 0", "no difference shown: 1"]
    wins = [m.get_width() for m in drawing.marks(drawn["chapter_differences"], "wins")]
    assert len(wins) == 2 * sums.height


def test_small_cells_are_hidden(row):
    from phewas.schema import PhenotypeResults

    table, _ = paired(PhenotypeResults.build([row("1.1", n_case_patients=7, n_control_patients=893), row("2.1")]))
    shown = protect_comparison(table, small_cell=11)
    assert shown["n_case_patients"].to_list() == [None, 104]
    assert shown["n_control_patients"].to_list() == [890, 899]
    for column in ("auc_a", "auc_b", "difference", "low", "q_fdr", "q_maxt", "se"):
        assert shown[column].is_null().to_list() == [True, False]
    assert shown["outcome"][0] == ""
    assert protect_comparison(table, small_cell=0)["difference"].null_count() == 0


def test_the_page_holds_every_pair_and_no_hidden_number(phenome, tmp_path, monkeypatch):
    # The files of a figure are tested with the figures; here each costs seconds.
    monkeypatch.setattr("phewas.reports.comparison.png", lambda figure, dpi: b"")
    written = []
    monkeypatch.setattr("phewas.reports.comparison.write_figure", lambda figure, path, formats: written.append(path))
    results = phenome(7, seed=2, description="<script>alert(1)</script>")
    hidden = results.filter(pl.col("status") == "tested")["phenotype"][0]
    results = results.with_columns(
        n_case_patients=pl.when(pl.col("phenotype") == hidden).then(7).otherwise("n_case_patients"))
    folder = write(tmp_path, [paired(results), paired(results, names=("first", "third/../x"), seed=5)])
    page = write_comparison(folder).read_text(encoding="utf-8")
    assert "<script" not in page
    for words in ("second against first", "third/../x against first", "phewas compare first second", "&lt;11"):
        assert words in page, words
    assert page.count("data:image/png") == 2 * len(FIGURES)
    names = {path.name for path in written}
    assert len(names) == 2 * len(FIGURES)
    assert "encoders-third_.._x" in names
    assert {path.parent for path in written} == {folder / "report" / "figures"}
    csv = pl.read_csv(folder / "report" / "tables" / "comparison.csv", infer_schema=False)
    line = csv.filter(pl.col("phenotype") == hidden).row(0, named=True)
    assert line["n_case_patients"] == "<11"
    assert not line["difference"]
    assert (folder / "NOT-FOR-SHARING.txt").is_file()


def test_figures_of_a_comparison_again(phenome, tmp_path):
    folder = write(tmp_path / "c", [paired(phenome(5))])
    made = write_comparison_figures(folder, tmp_path / "out", only=["differences"], formats=["svg"])
    assert [f.name for f in made] == ["differences.svg"]
    assert ">second against first: A cohort</text>" in made[0].read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="differences"):
        write_comparison_figures(folder, tmp_path / "out", only=["diferences"])
    (folder / "comparison.json").unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        write_comparison_figures(folder, tmp_path / "out")
