"""Score encounters from their windows: the mean logit, or another aggregate; the mean embedding for frozen use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from phewas.encoders.fast import fast
from phewas.errors import LearningError
from phewas.learning.data import Windows
from phewas.learning.distributed import Group
from phewas.learning.labels import Study
from phewas.learning.model import Precision, autocast
from phewas.progress import progress
from phewas.rundir import write_npy, write_parquet
from phewas.segments.store import SegmentStore

Floats = NDArray[np.float32]
Aggregate = Literal["mean", "mean_probability", "median"]
KeepSegments = Callable[[NDArray[np.int64], Floats], None]

# On a processor a small batch keeps the activations in its cache: 32 ran three times as fast as 512 (anyppg, 2 cores).
BATCH_SEGMENTS = {"cpu": 32, "cuda": 2048}
BLOCK_ENCOUNTERS = 512
HELD_SEGMENTS = 4096  # outputs that are held before they are averaged, besides those of one encounter


def batch_size(model: nn.Module, device: torch.device) -> int:
    """Return how many segments a model is given at once: its own wish `batch_segments`, or what suits the device."""
    wish: int | None = getattr(model, "batch_segments", None)
    return wish or BATCH_SEGMENTS.get(device.type, 256)


def for_inference(model: nn.Module, device: torch.device, precision: Precision = "auto") -> nn.Module:
    """Return the model in eval mode on the device, a known encoder in its faster equal form.

    On a processor that form computes in float32, and is not taken where bfloat16 is asked for.
    """
    model = model.to(device).eval()
    return model if device.type == "cpu" and precision == "bf16" else fast(model)


def score(
    model: nn.Module,
    store: SegmentStore,
    study: Study,
    encounters: NDArray[np.int64],
    *,
    device: torch.device,
    precision: Precision = "auto",
    aggregate: Aggregate = "mean",
    windows: Windows | None = None,
    keep: KeepSegments | None = None,
) -> Floats:
    """Return one row for each encounter from its windows' outputs.

    Parameters
    ----------
    model
        Maps [segments, channels, samples] to [segments, width]: a `PhenomeModel` (logits) or a bare encoder. One that
        has `may_miss` may answer NaN for a feature that a window does not show; one that has an `attention` gives the
        score of each segment as a further column.
    encounters
        int64 positions in `study`.
    precision
        Of the network's arithmetic.
    aggregate
        ``mean`` of the outputs; ``mean_probability``: logit of the mean probability; ``median``. A model with attention
        weighs by that instead.
    windows
        Where they are fetched; None opens the store anew.
    keep
        Called with store rows and their outputs (without attention scores), part by part, for whoever wants segments.

    Returns
    -------
    ndarray
        float32 [encounters, width], computed in float64; for a model that may miss, over the windows that show the
        feature, NaN where none does.

    Raises
    ------
    LearningError
        An output is NaN (unless the model may miss) or infinite.
    """
    windows = windows or Windows(store, device, keep=False)
    may_miss = bool(getattr(model, "may_miss", False))
    attention = getattr(model, "attention", None) is not None
    network = for_inference(model, device, precision)
    size = batch_size(network, device)
    done = []
    with torch.inference_mode():
        for part in _parts(study.counts, encounters):
            # A row that is asked for twice, or out of order, is no concern of the windows: they are sorted here.
            counts = study.counts[part]
            starts = np.concatenate([[0], np.cumsum(counts)])
            rows = np.repeat(study.first[part] - starts[:-1], counts) + np.arange(starts[-1])
            order = np.argsort(rows, kind="stable")
            outs = []
            for at in range(0, len(rows), size):
                x = windows.fetch(rows[order[at : at + size]])
                with autocast(device, precision):
                    outs.append(network(x).float().cpu().numpy())
            out = np.empty((len(rows), outs[0].shape[1]), dtype=np.float32)
            out[order] = np.concatenate(outs)
            good = np.isfinite(out) | (may_miss & np.isnan(out))
            if not good.all():
                raise LearningError(
                    f"{len(np.unique(np.repeat(np.arange(len(part)), counts)[~good.all(1)]))} of {len(part)} "
                    "encounters have a score that is no number",
                    cure="lower the learning rates, or look at the windows of these recordings",
                )
            if keep is not None:
                keep(rows, out[:, :-1] if attention else out)
            done.append(_aggregated(out, starts, aggregate, may_miss=may_miss, attention=attention))
    return np.concatenate(done) if done else np.empty((0, 0), dtype=np.float32)


def _parts(counts: NDArray[np.int64], encounters: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield encounters in order, as many at once as may be held."""
    which = np.cumsum(counts[encounters]) // HELD_SEGMENTS
    for part in np.split(encounters, np.flatnonzero(np.diff(which)) + 1):
        if len(part):
            yield part


def _aggregated(
    out: Floats, starts: NDArray[np.int64], aggregate: Aggregate, *, may_miss: bool, attention: bool
) -> Floats:
    """Return one row per encounter; the outputs of encounter i are rows starts[i] to starts[i + 1]."""
    first, values = starts[:-1], out.astype(np.float64)
    if attention:
        weight = np.exp(values[:, -1:])
        means = np.add.reduceat(values[:, :-1] * weight, first, axis=0) / np.add.reduceat(weight, first, axis=0)
    elif aggregate == "median":
        means = np.stack([np.median(values[a:b], axis=0) for a, b in zip(first, starts[1:], strict=True)])
    elif may_miss:
        known = ~np.isnan(values)
        shown = np.add.reduceat(known.astype(np.float64), first, axis=0)
        total = np.add.reduceat(np.where(known, values, 0), first, axis=0)
        means = np.where(shown > 0, total / np.maximum(shown, 1), np.nan)
    else:
        if aggregate == "mean_probability":
            values = 1 / (1 + np.exp(-values))
        means = np.add.reduceat(values, first, axis=0) / np.diff(starts)[:, None]
        if aggregate == "mean_probability":
            means = np.clip(means, 1e-12, 1 - 1e-12)
            means = np.log(means) - np.log1p(-means)
    result: Floats = means.astype(np.float32)
    return result


def keep_segments(run: Path, store: SegmentStore) -> KeepSegments:
    """Return what writes segments' outputs to ``predictions/segments/``: segment_id, encounter_id, `logits`."""
    folder = run / "predictions" / "segments"

    def put(rows: NDArray[np.int64], out: Floats) -> None:
        names = store.index.select("segment_id", "encounter_id").select(pl.all().gather(rows))
        column = pl.Series("logits", np.ascontiguousarray(out), dtype=pl.Array(pl.Float32, out.shape[1]))
        write_parquet(names.with_columns(column), folder / f"part-{rows[0]:09d}.parquet")

    return put


def in_blocks(
    compute: Callable[[NDArray[np.int64]], Floats],
    encounters: NDArray[np.int64],
    *,
    folder: Path,
    task: str,
    group: Group = Group(),  # noqa: B008  frozen
) -> Floats:
    """Compute rows block by block, each kept in a file at once, so that a killed run loses one block at most.

    Parameters
    ----------
    compute
        Maps int64 positions to float32 [positions, width].
    folder
        Where the blocks lie; the caller removes it when the result is safe. Processes that work together share it.
    """
    blocks = [encounters[i : i + BLOCK_ENCOUNTERS] for i in range(0, len(encounters), BLOCK_ENCOUNTERS)]
    files = [folder / f"{task}-{number:05d}.npy" for number in range(len(blocks))]
    with progress(task, total=len(encounters), unit="encounters") as advance:
        for number in range(group.rank, len(blocks), group.size):
            if not files[number].is_file():
                write_npy(compute(blocks[number]), files[number])
            advance(sum(map(len, blocks[number : number + group.size])), "")
    group.wait()
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])
