"""Embedding throughput of every registered encoder that can be built here, on random weights.

Run: python tests/benchmarks/bench_embed.py [NAME ...] [--windows 512] [--device cuda] [--clock cpu] [--floor]

plain best, plain 512   the module as it is, eager, on resident tensors, in its best batch size and in the published
                        one of 512 (AnyPPG's chunk; about 240 a second on 2 cores)
ours, resident          the form that inference uses (`for_inference`), on resident tensors, in its own batch size
differ                  largest difference between the outputs of both
store                   `store_vectors`, from a segment store on disk to vectors on the host; its share of `ours`
floor                   (with --floor) the multiplications of the module's convolutions and linear layers, at the rate
                        of a matrix product of 2048 x 512 x 512 here: what no float32 form can pass

Segments per second, the best of --passes, which take turns so that all meet the same machine. Say beside the figures
what else it was doing (`uptime`); on a busy one, OMP_NUM_THREADS=1 with --clock cpu gives segments per CPU second,
which others blur less.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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


Key = TypeVar("Key")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def rates(works: dict[Key, Callable[[], object]], count: int, passes: int) -> dict[Key, float]:
    """Return segments per second of each work's quickest pass."""
    least = dict.fromkeys(works, np.inf)
    for turn in range(passes + 1):  # the first warms up
        for name, work in works.items():
            began = clock()
            work()
            if turn:
                least[name] = min(least[name], clock() - began)
    return {name: float(count / took) for name, took in least.items()}


def multiplications(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Return the multiplications of one window's convolutions and linear layers."""
    counts: list[int] = []

    def note(part: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        steps = out.shape[-1] if isinstance(part, torch.nn.Conv1d) else out[0].numel() // out.shape[-1]
        counts.append(part.weight.numel() * steps)  # type: ignore[union-attr, operator]

    parts = [part for part in model.modules() if isinstance(part, torch.nn.Conv1d | torch.nn.Linear)]
    handles = [part.register_forward_hook(note) for part in parts]
    with torch.inference_mode():
        model(x[:1])
    for handle in handles:
        handle.remove()
    return sum(counts)


def product_rate(device: torch.device) -> float:
    """Return multiplications per second of a matrix product."""
    a, b = torch.randn(2048, 512, device=device), torch.randn(512, 512, device=device)

    def several() -> None:
        for _ in range(8):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    return rates({0: several}, 8 * 2048 * 512 * 512, 10)[0]


def stored(folder: Path, spec: registry.EncoderSpec, values: np.ndarray) -> SegmentStore:
    """Write windows as a store of one shard."""
    at = contract_folder(folder, spec.contract)
    rows = [{"segment_id": f"r:{k}", "encounter_id": f"e{k // 20}", "patient_id": f"p{k // 20}", "recording_id": "r",
             "start_sample": k, "draw": k} for k in range(len(values))]  # fmt: skip
    units = {"scale": 1.0, "offset": 0.0}  # what is not standardised is restored from these
    columns = [pl.lit(value).alias(of_channel(name, spec.contract.channels, channel))
               for channel in spec.contract.channels for name, value in units.items()]  # fmt: skip
    index = pl.DataFrame(rows, schema=Windows.dtypes(), orient="row").with_columns(columns)
    write_parquet(index, at / "index.parquet")
    for place, channel in enumerate(spec.contract.channels):
        write_npy(values[:, place].astype(np.float16), at / channel / "shard-00000.npy")
    return SegmentStore.open(folder, spec.contract)


def measure(name: str, asked: argparse.Namespace) -> str:
    spec, device, windows = registry.get(name), torch.device(asked.device), asked.windows
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

    quick = for_inference(plain, device)
    own = batch_size(quick, device)
    batches = sorted({min(size, windows) for size in asked.batches or BATCHES[device.type]} | {min(PUBLISHED, windows)})
    with torch.inference_mode():
        apart = float(np.nanmax((quick(resident[:own]) - plain(resident[:own])).abs().float().cpu().numpy()))
    with tempfile.TemporaryDirectory() as folder:
        store = stored(Path(folder), spec, values)
        rows, from_disk = np.arange(windows), DeviceWindows(store, device, keep=False)
        works: dict[str | int, Callable[[], object]] = {}
        for size in batches:
            works[size] = lambda size=size: forward(plain, size)  # type: ignore[misc]
        works["ours"] = lambda: forward(quick, own)
        works["store"] = lambda: store_vectors(quick, from_disk, rows, precision="float32")
        found = rates(works, windows, asked.passes)
    ours, best, most = found["ours"], max(batches, key=found.__getitem__), batches[-1]
    line = (
        f"{name:<18} plain best {found[best]:7,.0f} (batch {best:3}), plain {most} {found[most]:7,.0f}; "
        f"ours, resident {ours:7,.0f} (batch {own:3}; {ours / found[best]:.2f} and {ours / found[most]:.2f} times; "
        f"differ {apart:.0e}); store {found['store']:7,.0f} ({100 * found['store'] / ours:.0f} % of resident)"
    )
    if asked.floor:
        count = multiplications(plain, resident)
        limit = product_rate(device) / count
        line += f"; {count / 1e6:,.1f} M multiplications a window, floor {limit:,.0f} ({100 * ours / limit:.0f} %)"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--floor", action="store_true")
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
            print(measure(name, asked), flush=True)
        except Exception as error:  # noqa: BLE001  # one encoder whose package is not here must not end the table
            print(f"{name:<18} not measured: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
