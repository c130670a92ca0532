"""Several processes that train one model, each on its device: who one is among them, and what is added up over all.

Data are parallel: each process passes its encounters of a batch through its copy of the network, and gradients are
added over all processes once per step, in one piece. That is what `torch.nn.parallel.DistributedDataParallel` does
(a test compares the two); done by hand it needs no wrapper around the model, so that layers may be frozen and freed
between epochs, parameters may stay unused, and a batch may be cut into parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from phewas.errors import LearningError

# Processes wait for the one that reads the cohort and cuts the windows; that may take days.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Group:
    """The processes of a run: `rank` of this one, `size` of all. A lone process needs no communication."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0

    def mine(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return every size-th row, beginning with the rank-th."""
        return rows[self.rank :: self.size]

    def add(self, value: Tensor) -> Tensor:
        """Add a tensor over all processes, in place, and return it."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the gradients over all processes; a parameter without one in any of them stays without.

        The caller divides the loss by a number of the whole batch, so that the sum is the batch's gradient.
        """
        if self.size == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        if not wanted:
            return
        given = torch.tensor([p.grad is not None for p in wanted], dtype=torch.float32, device=wanted[0].device)
        distributed.all_reduce(given)
        used = [p for p, n in zip(wanted, given.tolist(), strict=True) if n]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in used])
        distributed.all_reduce(flat)
        for p, part in zip(used, torch.split(flat, [p.numel() for p in used]), strict=True):
            p.grad = part.view_as(p)

    def gather(self, mine: NDArray[np.float32], total: int) -> NDArray[np.float32]:
        """Return the rows of all processes in their order: the inverse of `mine`.

        Parameters
        ----------
        mine
            float32 [rows of this process, width].
        total
            Rows of all.
        """
        if self.size == 1:
            return mine
        most = -(-total // self.size)
        padded = torch.zeros((most, mine.shape[1]))
        padded[: len(mine)] = torch.from_numpy(np.ascontiguousarray(mine))
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        whole: NDArray[np.float32] = torch.stack(parts, dim=1).reshape(most * self.size, -1)[:total].numpy()
        return whole

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            distributed.all_reduce(torch.zeros(1))  # a barrier over the CPU's group, whatever the device

    def told(self, text: str) -> str:
        """Return the leading process's text of at most 1,000 bytes, in every process."""
        if self.size == 1:
            return text
        room = torch.zeros(1000, dtype=torch.uint8)
        if self.leads:
            encoded = text.encode()
            room[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        distributed.broadcast(room, src=0)
        return bytes(room.tolist()).rstrip(b"\0").decode()


def asked() -> Group:
    """Return who this process is, from the variables that ``torchrun`` sets; a lone process without them."""
    return Group(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def join() -> Group:
    """Join the other processes, if there are any, and return who this one is.

    Raises
    ------
    LearningError
        They cannot be reached.
    """
    group = asked()
    if group.size == 1 or distributed.is_initialized():
        return group
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise LearningError(
            f"process {group.rank} of {group.size} cannot join the others: {error}",
            expected="MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE as torchrun sets them",
            cure="start with `phewas run --devices N`, or torchrun --nproc-per-node=N -m phewas run ...",
        ) from error
    return group


def leave() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def local_device() -> torch.device:
    """Return this process's GPU: the one of its number on its machine."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise LearningError(
            f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}",
            cure="--devices with that number at most, or --device cpu",
        )
    return torch.device("cuda", local)


def synchronised(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """Return the model with batch normalisation over the batches of all processes; the model itself for a lone one."""
    if group.size == 1:
        return model
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d):
                module._modules[name] = _Synchronised.of(child)
    return model


class _Added(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum over processes of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class _Synchronised(nn.BatchNorm1d):
    """Batch normalisation over all processes on CPUs, where torch's own is for GPUs only."""

    @classmethod
    def of(cls, plain: nn.BatchNorm1d) -> _Synchronised:
        twin = cls(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        twin.train(plain.training)
        for table in ("_parameters", "_buffers"):
            getattr(twin, table).update(getattr(plain, table))
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [rows, features] or [rows, features, samples]."""
        if not self.training:
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        count = torch.tensor([float(x.numel() // x.shape[1])])
        sums: Tensor = _Added.apply(  # type: ignore[no-untyped-call]
            torch.cat([x.sum(axes), x.square().sum(axes), count])
        )
        n = sums[-1].detach()
        mean = sums[: self.num_features] / n
        variance = sums[self.num_features : -1] / n - mean.square()
        with torch.no_grad():
            if self.running_mean is not None and self.running_var is not None:
                share = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_(variance.detach() * (n / (n - 1)), share)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        out = (x - mean.view(shape)) * torch.rsqrt(variance.view(shape).clamp(min=0) + self.eps)
        scaled: Tensor = out * self.weight.view(shape) + self.bias.view(shape) if self.affine else out
        return scaled


