"""Training from the store: its speed beside the same step on a batch that lies ready, an epoch of the study, memory.

python tests/benchmarks/bench_train.py                                 # anyppg, 1,468 phenotypes, 20 s of each
python tests/benchmarks/bench_train.py --device cuda --batch 256      # one line says what an epoch of the study takes
python tests/benchmarks/bench_train.py --dry-run 83623 --encoder examples/own_encoder.py:tiny   # the whole learn step

The dry run writes a made-up store of that many encounters (50 kB each) into a temporary folder below --scratch, and
runs fit, choice of the epoch, prediction and writing on it; what is printed as memory is what the process itself holds,
without the pages of mapped files, which the operating system may drop at any time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from phewas.config import LearnConfig
from phewas.encoders import registry
from phewas.encoders.registry import EncoderSpec
from phewas.learning.finetune import Fit, prepare
from phewas.learning.freezing import set_training
from phewas.learning.labels import load
from phewas.learning.step import Learn, learn
from phewas.rundir import write_npy, write_parquet
from phewas.schema import LABELS_PATH, LabelColumns, LabelRows, Splits, Windows
from phewas.segments.store import SegmentStore, contract_folder

STUDY_SEGMENTS = 59_265 * 20
SHARD = 256  # encounters


def write(run: Path, spec: EncoderSpec, *, encounters: int, phenotypes: int, segments: int, samples: int) -> None:
    """Write a store of noise, labels of 1 to 30 %, and sides."""
    rng = np.random.default_rng(0)
    ids = [f"e{i:07d}" for i in range(encounters)]
    people = [f"p{i:07d}" for i in range(encounters)]
    each = pl.DataFrame({"encounter_id": ids, "patient_id": people}, schema=LabelRows.dtypes())
    rows = each.with_columns(pl.lit(list(range(segments))).alias("draw")).explode("draw")
    name = pl.col("encounter_id") + ":" + pl.col("draw").cast(pl.String)
    rows = rows.with_columns(
        name.alias("segment_id"), pl.col("encounter_id").alias("recording_id"),
        (pl.col("draw") * samples).alias("start_sample"),
    )  # fmt: skip
    folder = contract_folder(run, spec.contract)
    write_parquet(rows.select([pl.col(c).cast(t) for c, t in Windows.dtypes().items() if c in rows.columns]),
                  folder / "index.parquet")  # fmt: skip
    for number, at in enumerate(range(0, encounters, SHARD)):
        n = min(SHARD, encounters - at) * segments
        x = rng.standard_normal((n, samples), dtype=np.float32)
        for channel in spec.contract.channels:
            write_npy(x.astype(np.float16), folder / channel / f"shard-{number:05d}.npy")
    labels = np.empty((encounters, phenotypes), dtype=np.int8)
    for p, share in enumerate(rng.uniform(0.01, 0.3, phenotypes)):
        u = rng.random(encounters, dtype=np.float32)
        labels[:, p] = (u < share).astype(np.int8) - (u > 0.9)
    write_npy(labels, run / LABELS_PATH)
    LabelRows.write(each, run)
    LabelColumns.write(pl.DataFrame({"phenotype": [f"{p}" for p in range(phenotypes)]}), run)
    sides = np.array(["train"] * 6 + ["tuning"] + ["held_out"] * 3)[np.arange(encounters) % 10]
    Splits.write(pl.DataFrame({"patient_id": people, "split": sides, "fold": None, "why": "made up"},
                              schema=Splits.dtypes()), run)  # fmt: skip


def stretch(state: Fit, seconds: float, *, ready: bool) -> tuple[int, float, float]:
    """Train for a while, from the store or on the first part again and again; return segments, wall and CPU seconds."""
    parts = state.feeder.parts(state.wanted(state.order(), 0), 0)
    if ready:
        first = [next(parts)]
        while not first[-1].last:
            first.append(next(parts))
        parts.close()
        parts = (part for _ in iter(int, 1) for part in first)
    n, began, cpu = 0, 0.0, 0.0
    for part in parts:
        state.accumulate(part)
        if part.last:
            state.update()
            if not began:  # the first step pays for what is made once
                if state.device.type == "cuda":
                    torch.cuda.synchronize()
                began, cpu, n = time.perf_counter(), time.process_time(), -len(part.x)
        n += len(part.x) if began else 0
        if began and part.last and time.perf_counter() - began > seconds:
            break
    if state.device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if not ready:
        parts.close()
    return n, wall, cpu


def own_memory_gb() -> float:
    """Return what this process holds for itself, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6


class Peak:
    """The most memory that was held while this was on."""

    def __enter__(self) -> Peak:
        self.gb, self._over = own_memory_gb(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.gb = max(self.gb, own_memory_gb())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="anyppg")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encounters", type=int, default=600)
    parser.add_argument("--phenotypes", type=int, default=1_468)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1_250)
    parser.add_argument("--batch", type=int, default=32, help="encounters per step")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2, help="stretches of each kind, in turn")
    parser.add_argument("--dry-run", type=int, default=0, help="encounters")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=None)
    asked = parser.parse_args()
    spec, device = registry.get(asked.encoder), torch.device(asked.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"device: {device.type}, {name}, load {os.getloadavg()[0]:.1f}; encoder {spec.name}")
    config = LearnConfig(epochs=asked.epochs, batch_encounters=asked.batch, segments_per_encounter=asked.segments)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        run = Path(scratch)
        size = asked.dry_run or asked.encounters
        write(run, spec, encounters=size, phenotypes=asked.phenotypes, segments=asked.segments, samples=asked.samples)
        if asked.dry_run:
            store = sum(f.stat().st_size for f in contract_folder(run, spec.contract).rglob("*.npy")) / 1e9
            began = time.perf_counter()
            with Peak() as peak:
                learn(Learn(run=run, spec=spec, weights=None, kind="finetune", config=config, minimum=10,
                            minimum_tested=20, seed=0, device=asked.device, fingerprint="f" * 32))  # fmt: skip
            print(f"{size} encounters x {asked.segments}, {asked.phenotypes} phenotypes, {asked.epochs} epochs: "
                  f"{time.perf_counter() - began:.0f} s")  # fmt: skip
            print(f"store: {store:.2f} GB; peak memory without mapped files: {peak.gb:.2f} GB")
            print((run / "logs" / "learn" / "throughput.csv").read_text().strip())
            return
        store = SegmentStore.open(run, spec.contract)
        study = load(run, store)
        with Peak() as peak:
            state = prepare(
                store, study, train=study.where("train", "held_out", "tuning"), tuning=np.empty(0, np.int64),
                columns=np.arange(asked.phenotypes), spec=spec, weights=None, config=config, seed=0, device=device,
                folder=run / "work",
            )  # fmt: skip
            set_training(state.model.train().encoder, 0, config)
            found = {True: np.zeros(3), False: np.zeros(3)}
            for _ in range(asked.rounds):
                for ready in (True, False):
                    found[ready] += stretch(state, asked.seconds, ready=ready)
    (n, wall, cpu), (m, ready_wall, ready_cpu) = found[False], found[True]
    print(f"from the store: {n / wall:.1f} segments/s wall, {n / cpu:.1f} per CPU second; {n:.0f} segments")
    print(f"on a batch that lies ready: {m / ready_wall:.1f} segments/s wall, {m / ready_cpu:.1f} per CPU second")
    print(f"ratio: {n / wall / (m / ready_wall):.3f} wall, {n / cpu / (m / ready_cpu):.3f} CPU (goal: 0.95; GPU 0.90)")
    print(f"the network waited for windows {state.feeder.waited_s / (wall + ready_wall):.2%} of the time")
    print(f"an epoch of the study ({STUDY_SEGMENTS} segments) at this speed: {STUDY_SEGMENTS / (n / wall):.0f} s")
    print(f"peak memory without mapped files: {peak.gb:.2f} GB")
    if device.type == "cuda":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
