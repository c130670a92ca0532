"""The multi-label model: an encoder and one head per phenotype; saved as safetensors beside JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from phewas.encoders import checkpoint
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError
from phewas.rundir import atomic, sha256_of, write_json
from phewas.seeds import generator

ATTENTION_WIDTH = 128
LARGEST_ATTENTION = 30.0  # bounds the attention score, so that its exponential is a number in any precision

Precision = Literal["auto", "float32", "bf16"]


class PhenomeModel(nn.Module):
    """Map float32 [segments, channels, samples] to logits [segments, phenotypes], and with attention a score each.

    Parameters
    ----------
    encoder
        Maps to [segments, width].
    width, n_phenotypes
        Of the embedding, and heads.
    head
        ``linear``, or ``mlp``: a hidden layer of `head_width` units that all phenotypes share.
    head_dropout
        Before the heads, in training only.
    attention
        Whether the encounter's logits are weighted by learned attention (gated; Ilse et al., ICML 2018). For linear
        heads that is the same as pooling the embeddings.
    """

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        n_phenotypes: int,
        *,
        head: str = "linear",
        head_width: int = 512,
        head_dropout: float = 0.0,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.hidden = nn.Sequential(nn.Linear(width, head_width), nn.GELU()) if head == "mlp" else None
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(head_width if head == "mlp" else width, n_phenotypes)
        self.attention = Attention(width) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [segments, phenotypes]; with attention one column more, the score by which it is weighted."""
        features = self.encoder(x)
        # The heads are cheap; in bfloat16 their logits would have ties by the hundred.
        with torch.autocast(x.device.type, enabled=False):
            features = features.float()
            hidden = features if self.hidden is None else self.hidden(features)
            logits: Tensor = self.head(self.dropout(hidden))
            return logits if self.attention is None else torch.cat([logits, self.attention(features)], dim=1)


class Attention(nn.Module):
    """Score each segment by its embedding: ``w . (tanh(V h) * sigmoid(U h))``, bounded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, ATTENTION_WIDTH)
        self.gate = nn.Linear(width, ATTENTION_WIDTH)
        self.score = nn.Linear(ATTENTION_WIDTH, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # training starts at the plain mean

    def forward(self, features: Tensor) -> Tensor:
        """Map [segments, width] to scores [segments, 1]."""
        score = self.score(torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features)))
        return LARGEST_ATTENTION * torch.tanh(score / LARGEST_ATTENTION)


def pooled(out: Tensor, owner: Tensor, n: int, *, attention: bool) -> Tensor:
    """Return the encounters' logits from their segments' outputs.

    Parameters
    ----------
    out
        float [segments, phenotypes], or with attention [segments, phenotypes + 1].
    owner
        int64 [segments], in 0 .. n - 1; every encounter has a segment.
    n
        Encounters.
    attention
        Whether the last column is a score that decides the weights.

    Returns
    -------
    Tensor
        float32 [n, phenotypes].
    """
    logits, weight = (out[:, :-1], out[:, -1].exp()) if attention else (out, torch.ones_like(out[:, 0]))
    # A product with the matrix of who belongs to whom: sums by index differ from run to run on a GPU.
    share = functional.one_hot(owner, n).T.to(out.dtype) * weight
    return (share / share.sum(1, keepdim=True)) @ logits


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


def autocast(device: torch.device, precision: Precision = "auto") -> contextlib.AbstractContextManager[Any]:
    """Return bfloat16 autocast where that is the precision (``auto``: on a GPU), else nothing."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


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
    """Write ``model.safetensors`` and ``model.json``: encoder, heads in order, input contract, settings, sha256."""
    file = folder / "model.safetensors"
    save_tensors(model.state_dict(), file)
    write_json(dict(meta) | {"sha256": sha256_of(file)}, folder / "model.json")


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what ``model.json`` says.

    Raises
    ------
    LearningError
        The folder holds no model.
    """
    file = folder / "model.json"
    if not file.is_file():
        raise LearningError(
            f"{folder} holds no model.json", expected="the folder model/ of a finished run", cure="check --model"
        )
    meta: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return meta
