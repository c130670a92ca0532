"""The multi-label model: an encoder and one linear head per phenotype; saved as safetensors beside JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phewas.encoders import checkpoint
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError
from phewas.rundir import atomic, write_json
from phewas.seeds import generator


class PhenomeModel(nn.Module):
    """Map float32 [segments, channels, samples] to logits [segments, phenotypes]."""

    def __init__(self, encoder: nn.Module, width: int, n_phenotypes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, n_phenotypes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits float32 [segments, phenotypes]."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


def pick_device(asked: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    LearningError
        ``cuda`` was asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise LearningError(
            "this machine has no CUDA device that torch can use",
            cure="--device cpu, or install a CUDA build of torch",
        )
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return bfloat16 autocast on a GPU, and nothing on a CPU."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def torch_seed(*parts: object) -> int:
    """Return a seed for torch that is a hash of `parts`."""
    return int(generator("torch", *parts).integers(2**62))


def build_encoder(spec: EncoderSpec, *, weights: str | None, seed: int) -> nn.Module:
    """Return the encoder with the weights asked for.

    Parameters
    ----------
    spec
        Which one.
    weights
        A file or folder, or ``random``/None for random weights drawn from the seed.
    """
    torch.manual_seed(torch_seed("encoder", seed))
    return checkpoint.build(spec, weights)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as handle:
        handle.write(save(plain))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote."""
    from safetensors.torch import load_file

    return load_file(path)


def save_model(model: PhenomeModel, folder: Path, meta: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``model.json`` (encoder, phenotypes in head order, input contract, settings)."""
    save_tensors(model.state_dict(), folder / "model.safetensors")
    write_json(dict(meta), folder / "model.json")


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what ``model.json`` says."""
    meta: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return meta
