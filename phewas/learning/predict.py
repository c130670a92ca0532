"""Score encounters: the mean logit over their windows, and the mean embedding for frozen use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phewas.encoders.fast import fast
from phewas.errors import LearningError
from phewas.learning.labels import Study
from phewas.learning.model import autocast
from phewas.progress import progress
from phewas.rundir import write_npy
from phewas.segments.store import SegmentStore

# On a processor a small batch keeps the activations in its cache: 32 ran three times as fast as 512 (anyppg, 2 cores).
BATCH_SEGMENTS = {"cpu": 32, "cuda": 1024}
BLOCK_ENCOUNTERS = 512


def batch_size(model: nn.Module, device: torch.device) -> int:
    """Return how many segments a model is given at once: its own wish `batch_segments`, or what suits the device."""
    wish: int | None = getattr(model, "batch_segments", None)
    return wish or BATCH_SEGMENTS.get(device.type, 256)


def for_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model in eval mode on the device; on a processor a known encoder in its faster equal form."""
    model = model.to(device).eval()
    return fast(model) if device.type == "cpu" else model


def score(
    model: nn.Module,
    store: SegmentStore,
    study: Study,
    encounters: NDArray[np.int64],
    *,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the mean output over each encounter's windows.

    Parameters
    ----------
    model
        Maps [segments, channels, samples] to [segments, width]: a `PhenomeModel` (logits) or a bare encoder. One that
        has `may_miss` may answer NaN for a feature that a window does not show.
    encounters
        int64 positions in `study`.

    Returns
    -------
    ndarray
        float32 [encounters, width], averaged in float64; for a model that may miss, over the windows that show the
        feature, NaN where none does.

    Raises
    ------
    LearningError
        An output is NaN (unless the model may miss) or infinite.
    """
    first = study.encounters.get_column("row").to_numpy()
    counts = study.encounters.get_column("n_windows").to_numpy()
    rows = np.concatenate([np.arange(first[e], first[e] + counts[e]) for e in encounters.tolist()]).astype(np.int64)
    owner = np.repeat(np.arange(len(encounters)), counts[encounters])
    model = for_inference(model, device)
    may_miss = bool(getattr(model, "may_miss", False))
    sums: NDArray[np.float64] | None = None
    shown: NDArray[np.float64] | None = None
    with torch.inference_mode():
        size = batch_size(model, device)
        for at in range(0, len(rows), size):
            part = slice(at, at + size)
            x = torch.from_numpy(store.gather(rows[part])).to(device).float()
            with autocast(device):
                out: Tensor = model(x)
            values = out.double().cpu().numpy()
            if sums is None or shown is None:
                sums, shown = (np.zeros((len(encounters), values.shape[1])) for _ in range(2))
            known = ~np.isnan(values) if may_miss else np.True_
            np.add.at(sums, owner[part], np.where(known, values, 0.0))
            np.add.at(shown, owner[part], known)
    assert sums is not None
    assert shown is not None
    means: NDArray[np.float32] = np.where(shown > 0, sums / np.maximum(shown, 1), np.nan).astype(np.float32)
    if not (np.isfinite(means) | (may_miss & np.isnan(means))).all():
        raise LearningError(
            f"{int((~np.isfinite(means)).any(1).sum())} encounters have a score that is no number",
            cure="lower the learning rates, or look at the windows of these recordings",
        )
    return means


def in_blocks(
    compute: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    encounters: NDArray[np.int64],
    *,
    folder: Path,
    task: str,
) -> NDArray[np.float32]:
    """Compute rows block by block, each kept in a file at once, so that a killed run loses one block at most.

    Parameters
    ----------
    compute
        Maps int64 positions to float32 [positions, width].
    folder
        Where the blocks lie; the caller removes it when the result is safe.
    """
    blocks = [encounters[i : i + BLOCK_ENCOUNTERS] for i in range(0, len(encounters), BLOCK_ENCOUNTERS)]
    done = []
    with progress(task, total=len(encounters), unit="encounters") as advance:
        for number, block in enumerate(blocks):
            file = folder / f"{task}-{number:05d}.npy"
            if not file.is_file():
                write_npy(compute(block), file)
            done.append(np.load(file, allow_pickle=False))
            advance(len(block), "")
    return np.concatenate(done)
