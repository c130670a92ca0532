"""Every figure: that its marks are where the numbers say, that no text meets another, and that nothing breaks it."""

from __future__ import annotations

import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text

from phewas.errors import ConfigError
from phewas.reports import association, grids, overview, pairs, ranking, style
from phewas.reports.embedding import latest_map
from phewas.reports.gallery import FIGURES, Wish, figures, write_figures
from phewas.reports.manhattan import manhattan
from phewas.reports.material import protect_bins, protect_subgroups, read_material
from phewas.reports.naming import drop_astray
from phewas.reports.style import CLASSIC, svg
from phewas.reports.tables import protect
from phewas.schema import CalibrationBins, PhenotypeResults, Subgroups

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "results" / "anyppg_table9.csv"


def texts(figure):
    """Return every text that is drawn, with its box; slanted names are looked at by test_manhattan."""
    figure.canvas.draw()
    renderer, ticks, drawn = figure.canvas.get_renderer(), set(), []
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        ticks |= {id(label) for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)}
        drawn += [tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible() and axis.get_visible()]
    drawn += [text for text in figure.findobj(Text) if id(text) not in ticks and text.get_visible()]
    return [(text, text.get_window_extent(renderer)) for text in drawn
            if text.get_text().strip() and text.get_rotation() in (0, 90)]


def assert_readable(figure, name=""):
    found, (width, height) = texts(figure), figure.canvas.get_width_height()
    for (a, one), (b, two) in itertools.combinations(found, 2):
        shared = (min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0))
        assert min(shared) <= 1.0, f"{a.get_text()!r} meets {b.get_text()!r} in {name} {figure}"
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text


def marks(figure, gid):
    return [artist for ax in figure.axes for artist in ax.get_children() if artist.get_gid() == gid]


LONG = "A sixty character description of one disease, with complications"
CASES = {
    "three": (3, {"tested": 2.0}), "one chapter": (20, {"chapters": ("circulatory system",)}),
    "none significant": (20, {"q_fdr": 0.5, "delta_q": 0.5}), "underflow": (20, {"p_value": 0.0, "q_fdr": 0.0,
    "delta_q": 0.0, "neg_log10_p": 512.5}), "long": (20, {"description": LONG}),
    "letters": (20, {"description": "糖尿病 $\\frac{1}$ العربية", "chapter": "循環器"}),
    "blank": (30, {"auc": None, "auc_low": None}), "nan": (30, {"auc_low": float("nan"), "delta_auc": float("nan"),
                                                                "neg_log10_p": float("nan")}),
    "none": (6, {"status": "too_few_cases"}),
}  # fmt: skip


QUICK = ("overview", "top", "chapters", "subgroups", "calibration", "volcano", "manhattan_p")


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_readable(phenome, further, make_run, case):
    n, values = CASES[case]
    results = phenome(n, **values)
    run = make_run(results, **further(results, most=9))
    material = read_material(run, small_cell=11)
    wish = Wish(title="An encoder on a cohort", against=material, against_name="other", name="this")
    every = case in ("long", "none")  # names beside points cost a second a figure
    drawn = dict(figures(material, wish=wish, only=() if every else QUICK))
    assert set(drawn) == (set(FIGURES) - {"embedding"} if every else set(QUICK))
    for name, figure in drawn.items():
        assert_readable(figure, name)


def test_a_whole_vocabulary(phenome):
    results = protect(phenome(3612), small_cell=11)
    both = pairs.paired(results, results.with_columns(auc=pl.col("auc") * 0.97))
    for figure in (
        association.manhattan_p(results), ranking.top(results), association.volcano(results),
        pairs.miami(results, results, names=("a", "b"), labels=3), pairs.scatter(both, ours="a", theirs="b", labels=3),
    ):
        assert_readable(figure)


def test_marks_are_where_the_numbers_say(row):
    results = PhenotypeResults.build([
        row("1.1", auc=0.8, auc_low=0.7, auc_high=0.9, neg_log10_p=12.5, delta_auc=0.1, delta_q=1e-4, q_fdr=1e-9),
        row("2.1", auc=0.45, auc_low=0.4, auc_high=0.5, neg_log10_p=1.5, delta_auc=-0.2, delta_q=0.04, q_fdr=0.2),
    ])
    points = marks(association.manhattan_p(results), "phenotypes")[0].get_offsets()
    assert sorted(points[:, 1]) == [1.5, 12.5]
    figure = association.manhattan_p(results)
    assert [m.get_offsets()[0, 1] for m in marks(figure, "below")] == [1.5]
    assert [m.get_ydata()[0] for m in marks(figure, "q_fdr")] == [12.5]
    spots = marks(association.volcano(results), "phenotypes")[0].get_offsets()
    np.testing.assert_allclose(spots[np.argsort(spots[:, 0])], [[-0.2, -np.log10(0.04)], [0.1, 4.0]])
    listed = marks(ranking.top(results), "auc")
    assert [tuple(m.get_xydata()[0]) for m in listed] == [(0.8, 0), (0.45, 1)]
    assert [m.get_text() for m in marks(ranking.top(results), "number")] == ["0.800 (0.700–0.900)",
                                                                             "0.450 (0.400–0.500)"]
    both = pairs.paired(results, results.with_columns(auc=pl.col("auc") - 0.1))
    np.testing.assert_allclose(marks(pairs.scatter(both, ours="a", theirs="b"), "phenotypes")[0].get_offsets(),
                               [[0.7, 0.8], [0.35, 0.45]])


def test_an_underflowed_p_has_its_place(phenome):
    figure = association.manhattan_p(phenome(40, p_value=0.0, neg_log10_p=777.0))
    assert set(marks(figure, "phenotypes")[0].get_offsets()[:, 1]) == {777.0}
    results = phenome(300, neg_log10_p=3.0)
    far = results.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(900.0).otherwise("neg_log10_p")
                               .alias("neg_log10_p"), status=pl.lit("tested"), auc=pl.lit(0.7))
    figure = association.manhattan_p(far)
    assert len(marks(figure, "folded")[0].get_offsets()) == 1
    assert "up to 900" in " ".join(t.get_text() for t in figure.legends[0].get_texts())


def test_other_is_left_out_on_request(row):
    results = PhenotypeResults.build([
        row("1.1", description="Other disease", auc=0.9), row("2.1", description="Gout NOS", auc=0.8),
        row("3.1", description="Mother's milk fever", auc=0.7)])
    names = [t.get_text() for t in ranking.top(results, leave_out_other=True).axes[0].get_yticklabels()]
    assert names == ["Mother's milk fever (3.1)"]
    assert len(ranking.top(results).axes[0].get_yticklabels()) == 3
    foot = [t.get_text() for t in ranking.top(results, leave_out_other=True).texts if t.get_gid() == "caption"]
    assert "2 with “other”" in foot[0].replace("\n", " ")


def test_the_overview_states_counts_with_their_uncertainty(phenome, make_run):
    material = read_material(make_run(phenome(60)), small_cell=11)
    figure = overview.overview_figure(material.results, material.chapters, material.overview)
    told = marks(figure, "counts")[0].get_text()
    assert "AUC > 0.5:  41 (37 to 45)" in told
    assert "AUC ≥ 0.7:  8 (4 to 10)" in told
    hidden = overview.overview_figure(material.results, material.chapters, material.overview,
                                      veiled=material.chapters["chapter"].to_list())
    assert marks(hidden, "mean") == []


def test_small_groups_and_bins_are_not_drawn(row, group):
    groups = Subgroups.build([
        group("1.1", "sex", "", 0, n_cases=75, n_case_patients=67, p_value=0.02, n_patients=507),
        group("1.1", "sex", "F", 1), group("1.1", "sex", "M", 2, n_case_patients=7, n_cases=9, n_patients=7),
    ])
    shown = protect_subgroups(groups, small_cell=11)
    assert shown["auc"].to_list() == [0.712, 0.712, None]
    assert shown["p_value"].to_list() == [None, None, None]
    assert shown["n_case_patients"].to_list() == [70, 60, None]
    assert shown["n_patients"].to_list() == [510, 500, None]
    assert protect_subgroups(groups, small_cell=0)["auc"].null_count() == 0
    results = protect(PhenotypeResults.build([row("1.1", n_case_patients=40)]), small_cell=11)
    bins = CalibrationBins.build([
        {"phenotype": "1.1", "bin": b, "n": 100, "n_cases": n, "predicted": 0.1234, "observed": n / 100, "low": 0.0,
         "high": 0.5} for b, n in enumerate((0, 5, 20, 30, 95))])
    kept = protect_bins(bins, results, small_cell=11)
    assert kept["bin"].to_list() == [0, 2, 3]
    assert set(kept["predicted"].to_list()) == {0.12}
    assert protect_bins(bins, results, small_cell=0).height == 5
    assert protect_bins(bins.head(3), results, small_cell=11).is_empty()


def test_curves_only_from_twenty_case_patients(row, further, make_run):
    results = PhenotypeResults.build([row("1.1", n_case_patients=20), row("2.1", n_case_patients=19)])
    run = make_run(results, **further(results))
    for threshold in (0, 11):
        assert set(read_material(run, small_cell=threshold).curves["phenotype"]) == {"1.1"}
    figure = grids.curve_grid(read_material(run, small_cell=11).curves, results, curve="roc")
    assert len(marks(figure, "curve")) == 1
    steps = marks(grids.curve_grid(read_material(run, small_cell=11).curves, results, curve="pr"), "curve")
    assert [line.get_drawstyle() for line in steps] == ["steps-pre"]
    assert steps[0].get_xdata()[:2].tolist() == [0.0, 0.0]


def test_files_keep_text_as_text_and_their_bytes(phenome, further, make_run, tmp_path):
    results = phenome(30)
    run = make_run(results, **further(results, most=3))
    made = write_figures(run, tmp_path / "a", small_cell=11, wish=Wish(title="A title"), only=["chapters", "overview"])
    assert {p.name for p in made} == {f"{n}.{k}" for n in ("chapters", "overview") for k in ("png", "pdf", "svg")}
    again = write_figures(run, tmp_path / "b", small_cell=11, wish=Wish(title="A title"), only=["chapters", "overview"])
    assert [p.read_bytes() for p in made] == [p.read_bytes() for p in again]
    drawing = (tmp_path / "a" / "overview.svg").read_text(encoding="utf-8")
    assert ">A title</text>" in drawing
    assert "SECRET" not in drawing
    assert b"/FontFile2" in (tmp_path / "a" / "overview.pdf").read_bytes() or b"/Type42" in (
        tmp_path / "a" / "overview.pdf").read_bytes() or b"TrueType" in (tmp_path / "a" / "overview.pdf").read_bytes()
    shows = pl.read_csv(tmp_path / "a" / "figures.csv")
    assert shows["figure"].to_list() == ["overview", "chapters"]
    with pytest.raises(ConfigError, match="volcano"):
        write_figures(run, tmp_path / "c", small_cell=11, wish=Wish(), only=["vulcano"])


def test_classic_colours_on_request(phenome, make_run):
    material = read_material(make_run(phenome(60)), small_cell=11)
    one, two = (dict(figures(material, wish=Wish(colours=c), only=["manhattan_auc"]))["manhattan_auc"]
                for c in ("safe", "classic"))
    edges = [{tuple(e) for e in marks(f, "phenotypes")[0].get_edgecolors()} for f in (one, two)]
    assert (1.0, 0.0, 0.0, 1.0) in edges[1]
    assert not edges[0] & edges[1]


def test_classic_colours_are_those_of_the_vocabulary():
    chapters = pl.read_parquet(files("phewas.mappings") / "data" / "phecode1.2.chapters.parquet")
    assert tuple(chapters.sort("chapter_order")["colour"]) == CLASSIC


def test_a_chapter_has_one_colour_in_every_figure(row):
    blank = {k: None for k, c in PhenotypeResults.columns().items() if c.nullable}
    results = PhenotypeResults.build([
        row("1.1", **{**blank, "chapter": "first", "chapter_order": 1, "status": "no_cases"}),
        row("2.1", chapter="second", chapter_order=2)])
    drawn = [manhattan(results), pairs.miami(results, results, names=("a", "b")), association.manhattan_p(results)]
    assert len({tuple(marks(f, "phenotypes")[0].get_edgecolors()[0]) for f in drawn}) == 1


def test_no_map_without_embeddings(tmp_path):
    assert latest_map(tmp_path) is None


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not there")
def test_figures_of_the_published_table(row):
    published = pl.read_csv(PUBLISHED, infer_schema=False)
    table = PhenotypeResults.build([
        row(r["phecode"], auc=float(r["auc"]), auc_low=float(r["auc_lo"]), auc_high=float(r["auc_hi"]))
        for r in published.iter_rows(named=True)])
    assert table.height == 307
    for figure in (ranking.top(table), pairs.scatter(pairs.paired(table, table), ours="a", theirs="b")):
        assert_readable(figure)
    top = [m.get_xydata()[0, 0] for m in marks(ranking.top(table), "auc")]
    assert top == sorted(table["auc"].to_list(), reverse=True)[:60]


def test_hostile_text_is_escaped_in_svg(row):
    results = PhenotypeResults.build([row(f"{i}.1", description="<script>alert(1)</script>") for i in range(5)])
    assert b"<script" not in svg(ranking.top(results))


def test_a_name_nearer_to_another_point_is_taken_back():
    figure = style.sheet(width=4, height=4)
    ax = style.panel(figure, left=0.5, bottom=0.5, width=3, height=3)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    spots = np.array([[0.5, 0.5], [0.5, 0.7], [0.2, 0.2]])
    texts = [ax.text(0.52, 0.5, "its own"), ax.text(0.52, 0.52, "another's"), ax.text(0.52, 0.54, "led")]
    leads = [None, None, ax.plot([0.2, 0.5], [0.2, 0.54])[0]]
    drop_astray(ax, texts, leads, spots)
    assert [None if t is None else t.get_text() for t in texts] == ["its own", None, "led"]
