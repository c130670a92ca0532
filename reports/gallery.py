"""Every figure of a run by name, and the files of each: PNG at 300 dpi, PDF and SVG."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from phewas.errors import ConfigError, nearest
from phewas.reports import association, grids, overview, pairs, ranking, training
from phewas.reports.manhattan import manhattan
from phewas.reports.material import Material, read_material
from phewas.reports.style import PRINT_DPI, Colours, pdf, png, svg
from phewas.rundir import atomic

FORMATS = ("png", "pdf", "svg")
SEGMENT_NOTE = "Segments are counted as if they were independent patients: intervals are too narrow."


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How the figures are wanted.

    Attributes
    ----------
    title
        Above every figure.
    colours
        Of the chapters: ``safe`` or ``classic``.
    top
        Lines of the list of best phenotypes.
    leave_out_other
        Whether that list leaves out descriptions with "other".
    phenotypes
        For curves, calibration and subgroups; empty: the best.
    against, against_name
        Another run's material to compare with, and what it is called.
    name
        What this run is called beside it.
    """

    title: str = ""
    colours: Colours = "safe"
    top: int = 60
    leave_out_other: bool = False
    phenotypes: Collection[str] = ()
    against: Material | None = None
    against_name: str = "the other"
    name: str = "this run"


def _note(m: Material) -> str:
    return SEGMENT_NOTE if m.segments else ""


def _training(m: Material, _: Wish) -> Figure | None:
    file = m.run / "model" / "history.csv"
    history = training.read_history(file) if file.is_file() else None
    return None if history is None or history.is_empty() else training.training_curve(history)


def _embedding(m: Material, w: Wish) -> Figure | None:
    from phewas.reports.embedding import drawn, latest_map

    places = latest_map(m.run)
    return None if places is None else drawn(
        m.run, places, phenotype=next(iter(w.phenotypes), None), small_cell=m.small_cell, title=w.title).figure


def _pair(m: Material, w: Wish) -> Figure | None:
    if w.against is None:
        return None
    both = pairs.paired(m.results, w.against.results)
    return pairs.scatter(both, ours=w.name, theirs=w.against_name, title=w.title, note=_note(m))


FIGURES: dict[str, tuple[str, Callable[[Material, Wish], Figure | None]]] = {
    "manhattan_auc": ("AUC by chapter, and the difference to age + sex", lambda m, w: manhattan(
        m.results, title=w.title, note=_note(m), colours=w.colours)),
    "manhattan_p": ("-log10 p by chapter", lambda m, w: association.manhattan_p(
        m.results, title=w.title, note=_note(m), colours=w.colours)),
    "overview": ("the study in three panels", lambda m, w: overview.overview_figure(
        m.results, m.chapters, m.overview, veiled=m.veiled, title=w.title, note=_note(m), colours=w.colours)),
    "top": ("the best phenotypes with intervals", lambda m, w: ranking.top(
        m.results, n=w.top, leave_out_other=w.leave_out_other, title=w.title, note=_note(m), colours=w.colours)),
    "chapters": ("means by chapter", lambda m, w: ranking.chapter_forest(
        m.chapters, veiled=m.veiled, title=w.title, note=_note(m))),
    "volcano": ("difference to age + sex against its q", lambda m, w: association.volcano(
        m.results, title=w.title, note=_note(m))),
    "roc": ("ROC curves", lambda m, w: grids.curve_grid(
        m.curves, m.results, curve="roc", phenotypes=w.phenotypes, title=w.title, note=_note(m))),
    "precision_recall": ("precision-recall curves", lambda m, w: grids.curve_grid(
        m.curves, m.results, curve="pr", phenotypes=w.phenotypes, title=w.title, note=_note(m))),
    "calibration": ("observed against predicted", lambda m, w: grids.calibration_grid(
        m.bins, m.calibration, m.results, phenotypes=w.phenotypes, title=w.title, note=_note(m))),
    "subgroups": ("AUC within groups of patients", lambda m, w: ranking.subgroup_forest(
        m.subgroups, m.results, phenotypes=w.phenotypes, title=w.title, note=_note(m))),
    "specificity": ("whose score tells whose labels", lambda m, w: grids.specificity_map(
        m.cross, m.results, title=w.title, note=_note(m))),
    "training": ("loss and tuning AUC by epoch", _training),
    "embedding": ("map of the embeddings", _embedding),
    "encoders": ("AUC of two encoders against each other", _pair),
    "miami": ("Manhattan plots of two encoders", lambda m, w: None if w.against is None else pairs.miami(
        m.results, w.against.results, names=(w.name, w.against_name), title=w.title, note=_note(m),
        colours=w.colours)),
}  # fmt: skip


def figures(material: Material, *, wish: Wish, only: Collection[str] = ()) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with its name; what the run has no tables for is left out.

    Parameters
    ----------
    material
        From `phewas.reports.material.read_material`.
    wish
        How they are wanted.
    only
        Names of `FIGURES`; empty for all.

    Raises
    ------
    ConfigError
        There is no figure of a name in `only`.
    """
    for name in only:
        if name not in FIGURES:
            raise ConfigError(f"there is no figure {name!r}.{nearest(name, list(FIGURES))}",
                              expected=", ".join(FIGURES))
    for name, (_, draw) in FIGURES.items():
        if only and name not in only:
            continue
        figure = draw(material, wish)
        if figure is not None:
            yield name, figure


def write_figure(figure: Figure, path: Path, *, formats: Collection[str] = FORMATS) -> list[Path]:
    """Write a figure as `path` with the ending of each format; the same figure gives the same bytes."""
    made = []
    for kind in formats:
        content = {"png": lambda: png(figure, dpi=PRINT_DPI), "pdf": lambda: pdf(figure), "svg": lambda: svg(figure)}
        file = path.with_name(f"{path.name}.{kind}")
        with atomic(file) as handle:
            handle.write(content[kind]())
        made.append(file)
    return made


def write_figures(
    run: Path, folder: Path, *, small_cell: int, wish: Wish, only: Collection[str] = (),
    formats: Collection[str] = FORMATS,
) -> list[Path]:
    """Draw a run's figures into `folder`, and beside them ``figures.csv``: the names and what they show.

    Parameters
    ----------
    run
        Run directory with ``results/``.
    folder
        Where to.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden; 0 for public cohorts.
    wish, only
        As in `figures`.
    formats
        ``png``, ``pdf``, ``svg``.
    """
    made = []
    for name, figure in figures(read_material(run, small_cell=small_cell), wish=wish, only=only):
        made += write_figure(figure, folder / name, formats=formats)
    table = pl.DataFrame({"figure": list(FIGURES), "shows": [words for words, _ in FIGURES.values()]})
    done = {p.stem for p in made}
    with atomic(folder / "figures.csv") as handle:
        table.filter(pl.col("figure").is_in(list(done))).write_csv(handle)
    return made
