"""Where encounters lie in the plane that shows most of their embeddings' variance."""

from __future__ import annotations

import warnings
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
    x = _standardised(embeddings)
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    values, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, ::-1][:, :2]
    axes *= np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return x @ axes, values[::-1][:2] / max(float(values.sum()), 1e-300)


def _standardised(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the columns that vary, standardised, NaN filled with the column's median."""
    x = embeddings.astype(np.float64)
    x = x[:, ~np.isnan(x).all(0)]
    missing = np.isnan(x)
    x = np.where(missing, np.nanmedian(x, axis=0) if missing.any() else 0.0, x)
    spread = x.std(0)
    scaled: NDArray[np.float64] = (x - x.mean(0))[:, spread > 1e-12] / spread[spread > 1e-12]
    return scaled


def umap_plane(embeddings: NDArray[np.float32], *, seed: int) -> NDArray[np.float64] | None:
    """Return float64 [encounters, 2] by UMAP, the same for the same seed; None where it cannot be had.

    That is without the optional package ``umap-learn``, where this fails to import, and for fewer than 16 or more than
    50,000 encounters. Columns are standardised and filled as in `principal_plane`.
    """
    if not 15 < len(embeddings) <= MOST_FOR_UMAP or find_spec("umap") is None:
        return None
    with warnings.catch_warnings():
        # It tells of TensorFlow, which is not used here, and that a seed means one thread, which is wanted.
        warnings.simplefilter("ignore")
        try:
            make = import_module("umap").UMAP
        except (ImportError, AttributeError):  # half installed, or another package of that name
            return None
        places: NDArray[np.float64] = np.asarray(
            make(random_state=seed).fit_transform(_standardised(embeddings)), dtype=np.float64
        )
    return places


def coordinates(run: Path, encounters: Path, *, seed: int) -> pl.DataFrame:
    """Return the map of a run's encounters: encounter_id, patient_id, x, y, method, share_x, share_y.

    UMAP where `umap_plane` gives it, the first principal components' plane otherwise (`share_x`, `share_y`: of the
    variance; null for UMAP).
    """
    table = pl.read_parquet(encounters)
    values = table.get_column("embedding").to_numpy()
    found = umap_plane(values, seed=seed)
    if found is not None:
        places, method, shares = found, "UMAP", []
    else:
        places, share = principal_plane(values)
        method, shares = "PCA", [float(s) for s in share]
    return table.select("encounter_id", "patient_id").with_columns(
        pl.Series("x", places[:, 0]),
        pl.Series("y", places[:, 1]),
        pl.lit(method).alias("method"),
        pl.lit(shares[0] if shares else None, dtype=pl.Float64).alias("share_x"),
        pl.lit(shares[1] if shares else None, dtype=pl.Float64).alias("share_y"),
    )
