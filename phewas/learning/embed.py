"""Embeddings as a product: one vector per segment and per encounter, reusable without the waveforms.

`embeddings/` in the run directory holds

* ``segments/part-00000.parquet`` ...: segment_id, encounter_id, patient_id, `embedding` (fixed-size list of float32),
  one file per shard of the segment store, in its row order;
* ``encounters.parquet``: encounter_id, patient_id, n_segments, `embedding`: the mean over the segments (where an
  encoder may miss a feature, over those that show it);
* ``embeddings.json``: encoder, weights hash, input contract, precision, and the names of the columns where they have
  names.

NaN occurs only from encoders that may miss a feature (pulse-features): the segment does not show it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError
from phewas.learning.data import Windows, on_device
from phewas.learning.model import build_encoder, torch_seed
from phewas.learning.predict import batch_size, for_inference
from phewas.progress import progress
from phewas.rundir import digest_of, write_json, write_parquet
from phewas.segments.store import SegmentStore

FOLDER = "embeddings"
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Embed:
    """What is embedded how: the run directory, the encoder with its weights, and the precision of its arithmetic."""

    run: Path
    spec: EncoderSpec
    weights: str | None
    weights_sha256: str
    seed: int
    device: torch.device
    precision: Precision

    @property
    def about(self) -> dict[str, Any]:
        """What the vectors depend on, besides the windows."""
        return {
            "encoder": self.spec.name,
            "weights_sha256": self.weights_sha256,
            "contract": asdict(self.spec.contract),
            "width": self.spec.width,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device.type,
            "torch": torch.__version__,
        }


def cast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return autocast to bfloat16 where that is the precision, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def vectors(
    model: nn.Module, windows: NDArray[Any], *, device: torch.device, precision: Precision
) -> NDArray[np.float32]:
    """Return the embeddings of windows, batch by batch.

    Parameters
    ----------
    model
        From `ready`.
    windows
        float [windows, channels, samples] that meet the encoder's contract.
    device, precision
        Where and how.

    Returns
    -------
    ndarray
        float32 [windows, width].

    Raises
    ------
    LearningError
        An output is infinite, or NaN where the encoder may not miss a feature.
    """
    size = batch_size(model, device)
    batches = (
        on_device(torch.from_numpy(np.ascontiguousarray(windows[at : at + size])), device).float()
        for at in range(0, len(windows), size)
    )
    return _forward(model, batches, device=device, precision=precision)


def store_vectors(
    model: nn.Module, windows: Windows, rows: NDArray[np.int64], *, precision: Precision
) -> NDArray[np.float32]:
    """Return the embeddings of rows of a store, float32 [rows, width]; as `vectors` of its windows."""
    size = batch_size(model, windows.device)
    batches = (windows.fetch(rows[at : at + size]) for at in range(0, len(rows), size))
    return _forward(model, batches, device=windows.device, precision=precision)


def _forward(
    model: nn.Module, batches: Iterable[torch.Tensor], *, device: torch.device, precision: Precision
) -> NDArray[np.float32]:
    # A GPU is given the next batch while it works on this one: nothing here waits for it before the end.
    with torch.inference_mode(), cast(device, precision):
        out = [model(x).float() for x in batches]
        values = torch.cat(out).cpu().numpy() if out else np.empty((0, 0), dtype=np.float32)
    good = np.isfinite(values) | (np.isnan(values) if getattr(model, "may_miss", False) else False)
    if not good.all():
        raise LearningError(
            f"{int((~good).any(1).sum())} segments have an embedding that is no number",
            cure="--precision float32, or look at these windows with phewas segments show",
        )
    return values


def ready(
    spec: EncoderSpec, *, weights: str | None, seed: int, device: torch.device, precision: Precision = "float32"
) -> nn.Module:
    """Return the encoder with its weights, in eval mode on its device, in the form that answers fastest."""
    encoder = build_encoder(spec, weights=weights, seed=seed)
    torch.manual_seed(torch_seed("embed", seed))
    return for_inference(encoder, device, precision)


def column(values: NDArray[np.float32]) -> pl.Series:
    """Return float32 [rows, width] as a column of fixed-size lists."""
    return pl.Series("embedding", np.ascontiguousarray(values), dtype=pl.Array(pl.Float32, values.shape[1]))


def embed_store(job: Embed) -> Path:
    """Embed every window of the run's segment store; a killed call goes on with the first shard that is missing.

    Returns
    -------
    Path
        The folder ``embeddings`` of the run directory.
    """
    store = SegmentStore.open(job.run, job.spec.contract)
    target = job.run / FOLDER
    fingerprint = digest_of({"about": job.about, "segments": store.index.get_column("segment_id").hash().sum()})
    about = job.about | {"fingerprint": fingerprint}
    work = job.run / f".{FOLDER}-{fingerprint[:16]}"
    if _fingerprint(target) == fingerprint:
        return target
    for stale in job.run.glob(f".{FOLDER}-*"):
        if stale != work:
            shutil.rmtree(stale)
    model = ready(job.spec, weights=job.weights, seed=job.seed, device=job.device, precision=job.precision)
    windows = Windows(store, job.device, keep=False)
    parts = list(zip(store.bounds[:-1].tolist(), store.bounds[1:].tolist(), strict=True))
    with progress("embed", total=store.index.height, unit="segments") as advance:
        for number, (first, last) in enumerate(parts):
            file = work / "segments" / f"part-{number:05d}.parquet"
            if not file.is_file():
                values = store_vectors(model, windows, np.arange(first, last), precision=job.precision)
                table = store.index.slice(first, last - first).select("segment_id", "encounter_id", "patient_id")
                write_parquet(table.with_columns(column(values)), file)
            advance(last - first, "")
    write_parquet(_encounters(work, len(parts)), work / "encounters.parquet")
    names = getattr(model, "feature_names", None)
    write_json(about | ({"columns": list(names)} if names else {}), work / "embeddings.json")
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)
    return target


def _fingerprint(folder: Path) -> str | None:
    """Return what a finished folder was made from, None for no finished folder."""
    file = folder / "embeddings.json"
    return json.loads(file.read_text(encoding="utf-8"))["fingerprint"] if file.is_file() else None


def _parts(folder: Path, count: int) -> Iterator[pl.DataFrame]:
    for number in range(count):
        yield pl.read_parquet(folder / "segments" / f"part-{number:05d}.parquet")


def _encounters(folder: Path, count: int) -> pl.DataFrame:
    """Average the segments of each encounter; an encounter lies within one shard."""
    tables = []
    for part in _parts(folder, count):
        values = part.get_column("embedding").to_numpy().astype(np.float64)
        grouped = part.with_row_index("row").group_by("encounter_id", maintain_order=True)
        people = grouped.agg(
            pl.col("patient_id").first(), pl.len().cast(pl.Int32).alias("n_segments"), pl.col("row").first()
        )
        first = people.get_column("row").to_numpy()
        known = ~np.isnan(values)
        total = np.add.reduceat(np.where(known, values, 0), first, axis=0)
        shown = np.add.reduceat(known.astype(np.int64), first, axis=0)
        mean = np.where(shown > 0, total / np.maximum(shown, 1), np.nan).astype(np.float32)
        tables.append(people.drop("row").with_columns(column(mean)))
    return pl.concat(tables)
