"""What each of two processes does in `test_distributed`; started there, not collected as a test."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from phewas.config import LearnConfig
from phewas.encoders import registry
from phewas.learning import distributed, finetune
from phewas.learning.labels import load
from phewas.learning.model import save_tensors
from phewas.segments.store import SegmentStore

SPEC = registry.get("net1d-small")
NO_DROPOUT = replace(SPEC, options=dict(SPEC.options) | {"dropout": 0.0})
CONFIG = LearnConfig(epochs=1, batch_encounters=12, segments_per_encounter=2, head_lr=3e-3, part_segments=1000,
                     save_every_steps=1)  # fmt: skip


def fitted(run: Path, folder: Path, group: distributed.Group) -> dict[str, torch.Tensor]:
    """Fit on the training side, tuned on the tuning side; return the second step's gradients, and the losses.

    In the first the heads are zero, and nothing comes through them.
    """
    steps: list[dict[str, torch.Tensor]] = []
    real = distributed.Group.add_gradients

    def noted(self: distributed.Group, parameters: object) -> None:
        some = list(parameters)  # type: ignore[call-overload]
        real(self, some)
        steps.append({str(i): p.grad.clone() for i, p in enumerate(some) if p.grad is not None})

    distributed.Group.add_gradients = noted  # type: ignore[method-assign]
    store = SegmentStore.open(run, SPEC.contract)
    study = load(run, store)
    finetune.fit(
        store, study, train=study.where("train"), tuning=study.where("tuning"), columns=np.array([0, 1]),
        spec=NO_DROPOUT, weights=None, config=CONFIG, seed=0, device=torch.device("cpu"), folder=folder, group=group,
    )  # fmt: skip
    distributed.Group.add_gradients = real  # type: ignore[method-assign]
    history = (folder / "history.csv").read_text().splitlines()[1].split(",")
    second = steps[1] if len(steps) > 1 else {}  # a fit that went on from a checkpoint may have none
    return second | {"steps": torch.tensor(len(steps)), "losses": torch.tensor([float(v or "nan") for v in history])}


def beside_torchs(group: distributed.Group) -> float:
    """Return the largest difference to the gradients of torch's own wrapper, with a parameter that goes unused."""

    def network() -> nn.Module:
        torch.manual_seed(3)
        model = nn.ModuleDict({"a": nn.Linear(5, 4), "unused": nn.Linear(2, 2), "b": nn.Linear(4, 1)})
        model.forward = lambda x: model["b"](torch.tanh(model["a"](x)))
        return model

    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))[group.rank :: group.size]
    ours, theirs = network(), nn.parallel.DistributedDataParallel(network(), find_unused_parameters=True)
    (ours(x).square().sum() / 12).backward()
    group.add_gradients(ours.parameters())
    theirs(x).square().mean().backward()  # it averages over processes where we add
    pairs = zip(ours.parameters(), theirs.module.parameters(), strict=True)
    return max(
        float((a.grad - b.grad).abs().max()) for a, b in pairs if a.grad is not None and b.grad is not None
    )


def die_once(rank: int, mark: Path) -> None:
    """Let the second process be killed in its third step, the first time only."""
    real, calls = finetune.Fit.update, []

    def update(self: finetune.Fit) -> None:
        calls.append(1)
        if rank == 1 and len(calls) == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        real(self)

    finetune.Fit.update = update  # type: ignore[method-assign]


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    group = distributed.join()
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    found = {
        "gathered": group.gather(group.mine(rows), 7).tolist(),
        "told": group.told(f"from {group.rank}"),
        "torch": beside_torchs(group),
        "size": group.size,
    }
    if "dies" in sys.argv[3:]:
        die_once(group.rank, out / "died")
    state = fitted(run, out / "work", group)
    save_tensors(state, out / f"rank-{group.rank}.safetensors")
    (out / f"rank-{group.rank}.json").write_text(json.dumps(found))
    distributed.leave()


if __name__ == "__main__":
    main()
