"""The figure: what is drawn, where names stand, and that nothing breaks it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib import colors

from phewas.reports.layout import PALETTE, chapter_widths, drawable, natural_key, parent, two_lines
from phewas.reports.manhattan import caption, manhattan
from phewas.reports.naming import drop_overlapping
from phewas.reports.style import pdf, png
from phewas.schema import PhenotypeResults

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "results" / "anyppg_table9.csv"


def texts(figure, gid="label"):
    return [t for t in figure.axes[0].texts if t.get_gid() == gid]


def boxes(figure, artists):
    renderer = figure.canvas.get_renderer()
    return [a.get_window_extent(renderer) for a in artists]


def tick_corners(figure):
    """Return corners of the chapter names in a frame turned so that the names lie level."""
    renderer, found = figure.canvas.get_renderer(), []
    for tick in figure.axes[1].get_xticklabels():
        angle = np.deg2rad(tick.get_rotation())
        x, y = tick.get_transform().transform(tick.get_position())
        turn = tick.get_rotation()
        tick.set_rotation(0)
        height = tick.get_window_extent(renderer).height
        tick.set_rotation(turn)
        across = -x * np.sin(angle) + y * np.cos(angle)
        found.append((turn, across, height, tick.get_window_extent(renderer)))
    return found


def assert_readable(figure):
    figure.canvas.draw()
    labels, width, height = texts(figure), *figure.canvas.get_width_height()
    placed = boxes(figure, labels)
    assert not [(a, b) for a, b in itertools.combinations(placed, 2) if a.overlaps(b)]
    for cloud in figure.axes[0].collections[-1:]:
        points = figure.axes[0].transData.transform(np.asarray(cloud.get_offsets()))
        assert not [p for p in points for box in placed if box.contains(*p)], "a name covers a point"
    names = tick_corners(figure)
    for first, second in itertools.pairwise(names):
        if first[0]:
            assert abs(first[1] - second[1]) >= first[2] * 0.98, "slanted names meet"
        else:
            assert not first[3].overlaps(second[3])
    everything = placed + [n[3] for n in names] + boxes(figure, figure.texts) + boxes(figure, figure.legends)
    for box in everything:
        assert box.x0 >= -0.5, box
        assert box.y0 >= -0.5, box
        assert box.x1 <= width + 0.5, box
        assert box.y1 <= height + 0.5, box
    foot = boxes(figure, [t for t in figure.texts if t.get_gid() == "caption"])[0]
    assert all(name[3].y0 >= foot.y1 for name in names)


@pytest.mark.parametrize(("n", "options"), [
    (1, {}), (3, {"tested": 2.0}), (307, {}), (1817, {}), (80, {"chapters": ("circulatory system",)}),
    (400, {"chapters": tuple(f"A chapter of diseases with a long name {i}" for i in range(40))}),
    (200, {"q_fdr": 0.5}), (120, {"description": "A sixty character description of one disease, with complications"}),
    (60, {"description": "x" * 10_000}), (60, {"description": "$\\frac{1}{$ 糖尿病 <b>"}), (30, {"chapter": "循環器"}),
])
def test_names_meet_neither_each_other_nor_the_edge(phenome, n, options):
    assert_readable(manhattan(phenome(n, **options), title="An encoder on a cohort " * 8, note="A note. " * 30))


def test_points_are_where_the_numbers_say(row):
    table = PhenotypeResults.build([
        row("250.2", auc=0.8, q_fdr=0.01, n_case_patients=1000, delta_auc=0.1, delta_q=0.2, chapter="b",
            chapter_order=2),
        row("38.1", auc=0.6, q_fdr=0.2, n_case_patients=30, delta_auc=-0.1, delta_q=0.01, chapter="a", chapter_order=1),
        row("250.11", auc=0.7, q_fdr=0.01, n_case_patients=100, chapter="b", chapter_order=2),
    ])
    upper, lower = manhattan(table).axes
    points = {round(y, 3): (x, size, face) for (x, y), size, face in zip(
        upper.collections[-1].get_offsets().data, upper.collections[-1].get_sizes(),
        upper.collections[-1].get_facecolors(), strict=True)}
    assert points[0.6][0] < points[0.7][0] < points[0.8][0]  # chapters in order, then phecodes: 250.11 before 250.2
    assert points[0.6][1] < points[0.7][1] < points[0.8][1]  # more case patients, larger
    assert colors.to_hex(points[0.6][2]) == "#ffffff"
    assert colors.to_hex(points[0.8][2]).upper() == PALETTE[1]
    assert [t.get_text() for t in lower.get_xticklabels()] == ["a", "b"]
    below = {round(y, 3): face for (_, y), face in zip(
        lower.collections[-1].get_offsets().data, lower.collections[-1].get_facecolors(), strict=True)}
    assert colors.to_hex(below[0.1]) == "#ffffff"
    assert colors.to_hex(below[-0.1]).upper() == PALETTE[0]


def test_one_name_per_parent_best_first_with_its_interval(row):
    table = PhenotypeResults.build([
        row("250.2", auc=0.8, auc_low=0.75, auc_high=0.85), row("250.1", auc=0.79), row("401.1", auc=0.7),
        row("500.1", auc=0.9, q_fdr=0.3), row("600", auc=0.3),
    ])
    figure = manhattan(table)
    assert {t.get_text() for t in texts(figure)} == {"Disease 250.2", "Disease 401.1"}
    assert len(texts(manhattan(table, labels=1))) == 1
    spans = [line.get_ydata() for line in figure.axes[0].lines if line.get_gid() == "interval"]
    assert [0.75, 0.85] in [list(s) for s in spans]
    assert len(spans) == 2


def test_names_that_would_meet_or_leave_the_panel_are_taken_back(phenome):
    figure = manhattan(phenome(3, tested=2.0), labels=0)
    ax = figure.axes[0]
    x, y = np.mean(ax.get_xlim()), np.mean(ax.get_ylim())
    placed = [ax.text(x, y, "best"), None, ax.text(x, y, "second"), ax.text(ax.get_xlim()[1], y, "outside")]
    far = ax.plot([x, ax.get_xlim()[0]], [y, y])[0]
    placed.append(ax.text(x, ax.get_ylim()[0] + 0.01, "far"))
    drop_overlapping(ax, placed, [None, None, None, None, far])
    assert [t and t.get_text() for t in placed] == ["best", None, None, None, None]
    assert [t.get_text() for t in texts(figure)] == ["best"]
    assert far not in ax.lines


def test_untested_and_empty_are_counted_not_drawn(row):
    table = PhenotypeResults.build([
        row("1"), row("2", auc=None), row("3", auc=float("nan")), row("4", status="too_few_cases"),
        row("5", status="no_cases"), row("6", status="no_cases"),
    ])
    assert len(manhattan(table).axes[0].collections[-1].get_offsets()) == 1
    words = caption(table)
    assert "1 tested phenotype drawn, in 1 chapter." in words
    assert "2 tested without an AUC" in words
    assert "3 not tested, not drawn (2 no case; 1 too few case patients)" in words


@pytest.mark.parametrize("column", ["auc", "auc_low", "q_fdr", "delta_auc", "delta_q"])
@pytest.mark.parametrize("hole", [None, float("nan")])
def test_holes_leave_out_their_mark_only(phenome, column, hole):
    table = phenome(40).with_columns(pl.lit(hole, pl.Float64).alias(column))
    figure = manhattan(table)
    assert_readable(figure)
    if column == "q_fdr":
        assert "Significance was not assessed" in caption(table)


def test_an_empty_table_makes_a_figure():
    assert_readable(manhattan(PhenotypeResults.empty()))


def test_same_table_same_bytes_whatever_its_order(phenome):
    table = phenome(120)
    once, again = manhattan(table), manhattan(table.sample(fraction=1.0, shuffle=True, seed=4))
    assert png(once, dpi=100) == png(again, dpi=100)
    assert pdf(once) == pdf(again)
    assert b"FontFile2" in pdf(once)
    assert b"CreationDate" not in pdf(once)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not here")
def test_the_published_table(row):
    raw = pl.read_csv(PUBLISHED, schema_overrides={"phecode": pl.String})
    order = {c: i for i, c in enumerate(raw["chapter"].unique(maintain_order=True))}
    table = PhenotypeResults.build(
        row(r["phecode"], description=r["description"], chapter=r["chapter"], chapter_order=order[r["chapter"]],
            auc=r["auc"], auc_low=r["auc_lo"], auc_high=r["auc_hi"], n_case_patients=r["n_pos"] // 20)
        for r in raw.iter_rows(named=True)
    )
    figure = manhattan(table)
    assert_readable(figure)
    assert len(figure.axes[0].collections[-1].get_offsets()) == 307
    assert len(texts(figure)) >= 10
    assert "Cardiogenic shock" in {t.get_text() for t in texts(figure)}


def test_neighbouring_colours_differ_in_lightness():
    def luminance(colour):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for a, b in itertools.pairwise([*PALETTE, PALETTE[0]]):
        low, high = sorted((luminance(a), luminance(b)))
        assert (high + 0.05) / (low + 0.05) > 1.5, (a, b)


def test_widths_fill_the_axis_and_leave_room_for_names():
    widths = chapter_widths([1, 2, 1000, 500], total=6.0, gap=0.05, least=0.2)
    assert widths.sum() + 3 * 0.05 == pytest.approx(6.0)
    assert widths.min() == pytest.approx(0.2)
    assert widths[2] == pytest.approx(2 * widths[3])


def test_words():
    codes = ["8", "250.11", "250.2", "1000", "CV_401"]
    backwards = codes[::-1]
    assert sorted(backwards, key=natural_key) == codes
    assert (parent("008.5"), parent("250.23"), parent("CV_401.1")) == ("8", "250", "CV_401")
    assert two_lines("one two three four", width=12).count("\n") == 1
    assert all(len(line) <= 12 for line in two_lines("word " * 400, width=12).split("\n"))
    assert drawable("糖尿病", instead="250") == "250"
    assert drawable("Ménière’s\ndisease", instead="x") == "Ménière’s disease"
