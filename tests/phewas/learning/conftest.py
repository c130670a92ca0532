"""A run directory that is ready for learning, and an encoder whose arithmetic does not depend on the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from phewas.encoders import registry
from phewas.rundir import write_npy, write_parquet
from phewas.schema import LABELS_PATH, LabelColumns, LabelRows, Splits, Windows
from phewas.segments.store import contract_folder

SPEC = registry.get("net1d-small")


def write_run(run, *, n_patients=60, crossfit=False, windows=5, samples=250, seed=0):
    """Write a store, labels and splits: two encounters a patient; `tone` can be heard, `noise` not, `rare` is."""
    rng = np.random.default_rng(seed)
    rows, values, labels, sides = [], [], [], []
    t = np.arange(samples) / 125
    for p in range(n_patients):
        case = rng.random() < 0.4
        side = ("held_out" if p % 3 == 0 else "tuning" if p % 7 == 1 else "train") if not crossfit else "crossfit"
        sides.append({"patient_id": f"p{p:03d}", "split": side, "fold": p % 3 if crossfit else None, "why": "test"})
        for visit in range(2):
            encounter = f"e{p:03d}{visit}"
            for k in range(windows):
                tone = np.sin(2 * np.pi * (4.0 if case else 1.5) * t + rng.uniform(0, 6))
                x = tone + 0.8 * rng.standard_normal(samples)
                values.append((x - x.mean()) / x.std())
                rows.append({"segment_id": f"{encounter}:{k}", "encounter_id": encounter, "patient_id": f"p{p:03d}",
                             "recording_id": encounter, "start_sample": k * samples, "draw": k})  # fmt: skip
            labels.append((encounter, f"p{p:03d}", [int(case), rng.integers(0, 2), int(p < 4)]))
    folder = contract_folder(run, SPEC.contract)
    write_parquet(pl.DataFrame(rows, schema=Windows.dtypes(), orient="row"), folder / "index.parquet")
    half = len(values) // 2
    write_npy(np.array(values[:half], np.float16), folder / "PPG" / "shard-00000.npy")
    write_npy(np.array(values[half:], np.float16), folder / "PPG" / "shard-00001.npy")
    matrix = np.array([row[2] for row in labels], dtype=np.int8)
    matrix[rng.random(matrix.shape) < 0.1] = -1
    write_npy(matrix, run / LABELS_PATH)
    LabelRows.write(pl.DataFrame([row[:2] for row in labels], schema=LabelRows.dtypes(), orient="row"), run)
    LabelColumns.write(pl.DataFrame({"phenotype": ["tone", "noise", "rare"]}), run)
    Splits.write(Splits.build(sides), run)
    return run


@pytest.fixture(scope="session")
def make_run():
    return write_run


class Plain(torch.nn.Module):
    """No normalisation and no dropout: each window's embedding is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 8, 31, stride=4)
        self.mix = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.mix(torch.relu(self.conv(x)).mean(-1)))


@pytest.fixture(scope="session")
def plain_spec():
    return replace(SPEC, name="plain", factory=Plain, options={}, width=8)
