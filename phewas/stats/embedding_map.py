"""Where encounters lie in the plane that shows most of their embeddings' variance."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

MOST_FOR_UMAP = 50_000


def principal_plane(embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first two principal components.

    Parameters
    ----------
    embeddings
        float32 [encounters, width]; NaN is filled with the column's median. Columns are standardised.

    Returns
    -------
    places, share
        float64 [encounters, 2], and float64 [2]: each component's share of the variance. The sign is fixed: the
        loading that is largest in size is positive.
    """
    x = embeddings.astype(np.float64)
    known = ~np.isnan(x).all(0)
    x = x[:, known]
    missing = np.isnan(x)
    x = np.where(missing, np.nanmedian(x, axis=0) if missing.any() else 0.0, x)
    spread = x.std(0)
    x = (x - x.mean(0))[:, spread > 1e-12] / spread[spread > 1e-12]
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    values, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, ::-1][:, :2]
    axes *= np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return x @ axes, values[::-1][:2] / max(float(values.sum()), 1e-300)


def coordinates(run: Path, encounters: Path, *, seed: int) -> pl.DataFrame:
    """Return the map of a run's encounters: encounter_id, patient_id, x, y, method, share_x, share_y.

    UMAP where the optional package ``umap-learn`` is installed and there are at most 50,000 encounters, of the first
    principal components' plane otherwise (`share_x`, `share_y`: of the variance; null for UMAP).
    """
    table = pl.read_parquet(encounters)
    values = table.get_column("embedding").to_numpy()
    places, share = principal_plane(values)
    method, shares = "PCA", [float(s) for s in share]
    if find_spec("umap") is not None and 15 < len(values) <= MOST_FOR_UMAP:
        umap = import_module("umap")
        filled = np.where(np.isnan(values), np.nanmedian(values, axis=0), values)
        usable = np.isfinite(filled).all(0) & (filled.std(0) > 1e-12)
        scaled = (filled[:, usable] - filled[:, usable].mean(0)) / filled[:, usable].std(0)
        places = np.asarray(umap.UMAP(random_state=seed).fit_transform(scaled), dtype=np.float64)
        method, shares = "UMAP", []
    return table.select("encounter_id", "patient_id").with_columns(
        pl.Series("x", places[:, 0]),
        pl.Series("y", places[:, 1]),
        pl.lit(method).alias("method"),
        pl.lit(shares[0] if shares else None, dtype=pl.Float64).alias("share_x"),
        pl.lit(shares[1] if shares else None, dtype=pl.Float64).alias("share_y"),
    )
