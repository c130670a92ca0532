"""The training curve: loss and tuning AUC by epoch."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phewas.errors import SchemaError
from phewas.reports.layout import PALETTE
from phewas.reports.style import RC

COLUMNS = ("epoch", "train_loss", "tuning_loss", "tuning_auc")


def read_history(path: Path) -> pl.DataFrame:
    """Read ``model/history.csv``: one row per epoch.

    Returns
    -------
    polars.DataFrame
        float64 columns epoch, train_loss, tuning_loss, tuning_auc (mean AUC on the tuning patients); null where
        the file has a blank, NaN, or something that is no number. Further columns are left out.

    Raises
    ------
    SchemaError
        A column is missing or the file cannot be read as CSV.
    """
    cure = "redo the learn step"
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} cannot be read as CSV", expected=", ".join(COLUMNS), cure=cure) from error
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise SchemaError(f"{path} lacks the columns {missing}", expected=", ".join(COLUMNS), cure=cure)
    return table.select(pl.col(c).cast(pl.Float64, strict=False).fill_nan(None) for c in COLUMNS)


def training_curve(history: pl.DataFrame) -> Figure:
    """Draw loss (training and tuning) beside the tuning AUC, by epoch.

    Parameters
    ----------
    history
        As `read_history` returns it. Missing values leave a gap.

    Returns
    -------
    matplotlib.figure.Figure
        7.2 x 2.3 inches, with an Agg canvas.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 2.3), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        epoch = history.get_column("epoch").fill_null(float("nan")).to_numpy()
        panels = (
            ("loss", (("training", "train_loss"), ("tuning", "tuning_loss"))),
            ("mean tuning AUC", (("tuning", "tuning_auc"),)),
        )
        for place, (label, lines) in enumerate(panels):
            ax = figure.add_axes((0.08 + 0.5 * place, 0.19, 0.4, 0.7))
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(length=2.5, width=0.5)
            ax.set_xlabel("epoch")
            ax.set_ylabel(label)
            for k, (name, column) in enumerate(lines):
                y = history.get_column(column).fill_null(float("nan")).to_numpy()
                ax.plot(epoch, y, color=PALETTE[(0, 4)[k]], lw=1.1, ls=("-", "--")[k], marker="o", ms=2.5, label=name)
            ax.margins(x=0.03)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(lines) > 1:
                ax.legend(frameon=False, fontsize=6)
            if not np.isfinite(np.concatenate([ax_line.get_ydata() for ax_line in ax.lines])).any():
                ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="#555555")
                ax.set_yticks([])
    return figure
