"""The map of a cohort's embeddings, coloured by age, sex and a phenotype. It shows no identifier and no small group."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phewas.errors import ConfigError, nearest
from phewas.reports.layout import drawable, shorten
from phewas.reports.style import png
from phewas.schema import LABELS_PATH, Encounters, LabelColumns, LabelRows, Patients, Phenotypes

OLDEST = 90.0
SEXES = {"F": ("female", "#C1440E"), "M": ("male", "#1F6F8B")}
CASE, CONTROL = "#B3123B", "#B9C0C6"


@dataclass
class Drawn:
    """The picture, or None where too few people would be shown, and what was left out of it."""

    figure: Figure | None = None
    png: bytes | None = None
    notes: list[str] = field(default_factory=list)


def latest_map(run: Path) -> pl.DataFrame | None:
    """Return the places that `phewas embed` wrote last below the run's ``embeddings/``, or None."""
    made = sorted((run / "embeddings").glob("**/map.parquet"), key=lambda file: file.stat().st_mtime_ns)
    return pl.read_parquet(made[-1]) if made else None


def picture(run: Path, places: pl.DataFrame, *, phenotype: str | None, small_cell: int, title: str) -> Drawn:
    """Return `drawn` with the figure as PNG bytes."""
    made = drawn(run, places, phenotype=phenotype, small_cell=small_cell, title=title)
    if made.figure is not None:
        made.png = png(made.figure, dpi=160)
    return made


def drawn(run: Path, places: pl.DataFrame, *, phenotype: str | None, small_cell: int, title: str) -> Drawn:
    """Draw the map of a run's encounters. Points are pixels in every format, so that no exact value can be read out.

    Parameters
    ----------
    run
        Run directory, for age, sex and labels.
    places
        From `phewas.stats.embedding_map.coordinates`.
    phenotype
        Which one colours the last panel; None for the one with the most case patients.
    small_cell
        Groups of fewer patients (but not none) are not drawn.
    title
        Of the picture.

    Raises
    ------
    ConfigError
        The run has no such phenotype.
    """
    made = Drawn()
    people = places.join(Encounters.read(run).select("encounter_id", "age"), on="encounter_id", how="left")
    people = people.join(Patients.read(run).select("patient_id", "sex"), on="patient_id", how="left")
    labels, name, cases = _labels(run, people, phenotype)
    if people["patient_id"].n_unique() < max(small_cell, 3):
        made.notes.append("no picture of the embeddings: too few patients")
        return made
    panels = ["age", "sex"]
    if min(cases) < max(small_cell, 1):
        made.notes.append(f"the picture is not coloured by {name}: too few case or control patients")
    else:
        panels.append("phenotype")
    figure = Figure(figsize=(4.2 * len(panels), 4.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    figure.suptitle(shorten(drawable(f"{title}: {people.height:,} encounters",
                                     instead=f"{people.height:,} encounters"), width=110), fontsize=11)
    x, y = people["x"].to_numpy(), people["y"].to_numpy()
    size = float(np.clip(3000 / max(people.height, 1), 1.5, 14))
    _ages(figure, axes[0], x, y, people["age"].to_numpy(), size)
    _sexes(axes[1], people, size, small_cell, made)
    if "phenotype" in panels:
        for value, colour, word in ((0, CONTROL, "control"), (1, CASE, "case")):
            chosen = labels == value
            axes[2].scatter(x[chosen], y[chosen], s=size, c=colour, linewidths=0, label=word)
        axes[2].set_title(shorten(drawable(name, instead=name.partition(" ")[0]), width=44), fontsize=10)
        axes[2].legend(frameon=False, fontsize=8, markerscale=2)
    _labelled(axes, places)
    for ax in axes:
        for points in ax.collections:
            points.set_rasterized(True)
    made.figure = figure
    return made


def _ages(figure: Figure, ax: Axes, x: np.ndarray, y: np.ndarray, age: np.ndarray, size: float) -> None:
    """Colour by age; everyone above 90 has the colour of 90."""
    known = np.isfinite(age.astype(float))
    ax.scatter(x[~known], y[~known], s=size, c="#DDDDDD", linewidths=0)
    shown = np.minimum(age[known].astype(float), OLDEST)
    points = ax.scatter(x[known], y[known], s=size, c=shown, cmap="viridis", linewidths=0)
    figure.colorbar(points, ax=ax, shrink=0.8).set_label("years", fontsize=8)
    ax.set_title("age", fontsize=10)


def _sexes(ax: Axes, people: pl.DataFrame, size: float, small_cell: int, drawn: Drawn) -> None:
    """Colour by sex; a group that is too small is left out."""
    for sex, (word, colour) in SEXES.items():
        part = people.filter(pl.col("sex") == sex)
        if 0 < part["patient_id"].n_unique() < small_cell:
            drawn.notes.append(f"the picture leaves out sex {word}: too few patients")
            continue
        ax.scatter(part["x"], part["y"], s=size, c=colour, linewidths=0, label=word)
    ax.set_title("sex", fontsize=10)
    ax.legend(frameon=False, fontsize=8, markerscale=2)


def _labelled(axes: np.ndarray, places: pl.DataFrame) -> None:
    """Name the axes; a point's place has no unit."""
    method = places["method"][0]
    for ax in axes:
        for direction, share in (("x", places["share_x"][0]), ("y", places["share_y"][0])):
            words = f"{method} {'1' if direction == 'x' else '2'}"
            words += f" ({100 * share:.0f} % of the variance)" if share is not None else ""
            getattr(ax, f"set_{direction}label")(words, fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right"]].set_visible(False)


def _labels(run: Path, people: pl.DataFrame, asked: str | None) -> tuple[np.ndarray, str, tuple[int, int]]:
    """Return the labels of the people drawn for one phenotype, its name, and its case and control patients."""
    names = LabelColumns.read(run).get_column("phenotype").to_list()
    if asked is not None and asked not in names:
        raise ConfigError(
            f"the run has no phenotype {asked!r}.{nearest(asked, names)}", cure="phewas codes WORD finds one"
        )
    rows = LabelRows.read(run).with_row_index("label_row").select("encounter_id", "label_row")
    order = people.join(rows, on="encounter_id", how="left", maintain_order="left")["label_row"].to_numpy()
    labels = np.load(run / LABELS_PATH, mmap_mode="r", allow_pickle=False)[order]
    patients = people["patient_id"].to_numpy()
    if asked is None:
        asked = names[int((labels == 1).sum(0).argmax())]
    chosen = labels[:, names.index(asked)]
    words = Phenotypes.read(run).filter(pl.col("phenotype") == asked)["description"].to_list()
    cases = len(np.unique(patients[chosen == 1])), len(np.unique(patients[chosen == 0]))
    return chosen, f"{asked} {words[0] if words else ''}".strip(), cases
