"""Embedding throughput of every registered encoder that can be built here, on random weights.

Run: python tests/benchmarks/bench_embed.py [NAME ...] [--windows 512] [--device cuda] [--clock cpu]

plain best, plain 512   the module as it is, eager, on resident tensors, in its best batch size and in the published
                        one of 512 (AnyPPG's chunk; about 240 a second on 2 cores)
ours, resident          the form that inference uses (`for_inference`), on resident tensors, in its own batch size
store                   `store_vectors`, from a segment store on disk to vectors on the host; its share of `ours`

Segments per second, the best of three passes. Say beside the figures what else the machine was doing (`uptime`); on a
busy one, OMP_NUM_THREADS=1 with --clock cpu gives segments per CPU second, which others blur less.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from phewas.encoders import registry
from phewas.learning.data import Windows as DeviceWindows
from phewas.learning.embed import store_vectors
from phewas.learning.predict import batch_size, for_inference
from phewas.rundir import write_npy, write_parquet
from phewas.schema import Windows
from phewas.segments.store import SegmentStore, contract_folder, of_channel

WINDOW_S = 10.0
PUBLISHED = 512
BATCHES = {"cpu": (8, 16, 32, 64, 128, PUBLISHED), "cuda": (PUBLISHED, 1024, 2048, 4096)}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def rate(work: Callable[[], object], count: int, passes: int = 3) -> float:
    """Return segments per second of the quickest pass."""
    work()
    least = np.inf
    for _ in range(passes):
        began = clock()
        work()
        least = min(least, clock() - began)
    return float(count / least)


def stored(folder: Path, spec: registry.EncoderSpec, values: np.ndarray) -> SegmentStore:
    """Write windows as a store of one shard."""
    at = contract_folder(folder, spec.contract)
    rows = [{"segment_id": f"r:{k}", "encounter_id": f"e{k // 20}", "patient_id": f"p{k // 20}", "recording_id": "r",
             "start_sample": k, "draw": k} for k in range(len(values))]  # fmt: skip
    table = pl.DataFrame(rows, schema=Windows.dtypes(), orient="row")
    if not spec.contract.standardised:  # what the network is given is put back from these
        of_each = [of_channel(name, spec.contract.channels, c) for name in ("scale", "offset")
                   for c in spec.contract.channels]  # fmt: skip
        table = table.with_columns(pl.lit(float(name.startswith("scale"))).alias(name) for name in of_each)
    write_parquet(table, at / "index.parquet")
    for place, channel in enumerate(spec.contract.channels):
        write_npy(values[:, place].astype(np.float16), at / channel / "shard-00000.npy")
    return SegmentStore.open(folder, spec.contract)


def measure(name: str, windows: int, device: torch.device) -> str:
    spec = registry.get(name)
    torch.manual_seed(0)
    plain = spec.build().to(device).eval()
    shape = (windows, len(spec.contract.channels), spec.contract.length(WINDOW_S))
    values = np.cumsum(np.random.default_rng(0).standard_normal(shape), axis=2)
    values = ((values - values.mean(2, keepdims=True)) / values.std(2, keepdims=True)).astype(np.float16)
    resident = torch.from_numpy(values).float().to(device)

    def forward(model: torch.nn.Module, size: int) -> None:
        with torch.inference_mode():
            for at in range(0, windows, size):
                model(resident[at : at + size])
        if device.type == "cuda":
            torch.cuda.synchronize()

    rates = {size: rate(lambda size=size: forward(plain, size), windows) for size in BATCHES[device.type]}  # type: ignore[misc]
    best = max(rates, key=rates.__getitem__)
    quick = for_inference(plain, device)
    own = batch_size(quick, device)
    ours = rate(lambda: forward(quick, own), windows)
    with tempfile.TemporaryDirectory() as folder:
        store = stored(Path(folder), spec, values)
        rows, from_disk = np.arange(windows), DeviceWindows(store, device, keep=False)

        def whole() -> None:
            store_vectors(quick, from_disk, rows, precision="float32")

        from_store = rate(whole, windows)
    return (
        f"{name:<18} plain best {rates[best]:7,.0f} (batch {best:3}), plain 512 {rates[PUBLISHED]:7,.0f}; "
        f"ours, resident {ours:7,.0f} (batch {own:3}; {ours / rates[best]:.2f} and "
        f"{ours / rates[PUBLISHED]:.2f} times); "
        f"store {from_store:7,.0f} ({100 * from_store / ours:.0f} % of resident)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    asked = parser.parse_args()
    global clock
    clock = CLOCKS[asked.clock]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, {asked.device}, {asked.clock} time, load {load:.1f}")
    for name in asked.names or registry.names():
        try:
            print(measure(name, asked.windows, torch.device(asked.device)), flush=True)
        except Exception as error:  # noqa: BLE001  # one encoder whose package is not here must not end the table
            print(f"{name:<18} not measured: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
