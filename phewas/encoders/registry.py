"""Which encoders there are: one frozen record each, found by name, imported only when built.

`EncoderSpec` is the contract between an encoder and everything before it: the segments room filters, resamples and
normalises as the record says, the learning room asks for `width` numbers per segment. This module imports no torch.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from phewas.errors import EncoderError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Band:
    """A zero-phase filter applied to the window at its native rate."""

    kind: Literal["butter"]
    order: int
    low_hz: float
    high_hz: float


@dataclass(frozen=True)
class InputContract:
    """What an encoder wants to be fed. Two encoders with the same contract share one segment store.

    Parameters
    ----------
    channels
        Channel names of the recordings table, in the order of the model's input channels.
    fs_hz
        Samples per second after resampling.
    band
        Filter before resampling; None for none.
    epsilon
        Added to the standard deviation when a window is z-scored (population standard deviation).
    """

    channels: tuple[str, ...]
    fs_hz: float
    band: Band | None
    epsilon: float = 1e-5

    @property
    def digest(self) -> str:
        """Eight hex digits that name the contract's folder in the segment store."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=4).hexdigest()

    def length(self, window_s: float) -> int:
        """Return the samples of a window of `window_s` seconds, rounded to the nearest."""
        return round(window_s * self.fs_hz)


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder.

    Parameters
    ----------
    name
        What ``--encoder`` takes.
    title, description
        For the report.
    factory
        ``module:function``; called with ``options``, returns an ``nn.Module`` that maps float32 [batch, channels,
        samples] to [batch, width].
    options
        Keyword arguments of the factory.
    contract
        Its input.
    width
        Length of the embedding.
    pretrained
        Whether published weights exist; if so a run needs ``--weights``.
    parameters
        Number of trainable parameters of the published model; 0 where it is not fixed.
    pretraining
        Public data sets whose patients the published weights have seen.
    source, licence, citation
        Where the weights are obtained and on what terms; empty where there are none.
    sha256
        Of the published weights file, where known.
    heads
        Prefixes of checkpoint keys that are not part of the encoder and may be left out.
    frozen_only
        Why it cannot be fine-tuned; empty where it can.
    """

    name: str
    title: str
    description: str
    factory: str
    contract: InputContract
    width: int
    pretrained: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    pretraining: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    citation: str = ""
    sha256: str = ""
    heads: tuple[str, ...] = ()
    frozen_only: str = ""

    def build(self) -> nn.Module:
        """Return the encoder with freshly initialised weights."""
        module, _, function = self.factory.partition(":")
        model: nn.Module = getattr(importlib.import_module(module), function)(**self.options)
        return model


PPG_125 = InputContract(channels=("PPG",), fs_hz=125.0, band=Band("butter", 3, 0.5, 8.0))

_BUILT_IN = (
    EncoderSpec(
        name="anyppg",
        title="AnyPPG (Net1D, 512)",
        description="Net1D pretrained on synchronous PPG and ECG by contrast between the two; mean-pooled embedding.",
        factory="phewas.encoders.net1d:build",
        contract=PPG_125,
        width=512,
        pretrained=True,
        options={
            "base_filters": 64,
            "filters": (64, 160, 160, 400, 400, 512),
            "blocks": (2, 2, 2, 3, 3, 1),
            "kernel_size": 3,
            "stride": 2,
            "group_width": 16,
            "stem_stride": 2,
            "dropout": 0.5,
        },
        parameters=4_044_272,
        pretraining=("MC-MED", "MIMIC-III", "VitalDB", "MESA", "HSP", "CFS"),
        source="anyppg_ckpt.pth in the folder load_anyppg of the repository PKUDigitalHealth/AnyPPG",
        licence="none stated by its authors, for code or weights",
        citation="AnyPPG, arXiv:2511.01747",
        sha256="99b9bb0a3c2b83a1f5d8ca2963fbd25329b6530e8d337de8825722fc6fd5f4fa",
        heads=("ecg_encoder.", "ppg_projector.", "ecg_projector.", "clip_loss."),
    ),
    EncoderSpec(
        name="net1d-small",
        title="Net1D, small, no pretraining",
        description="A small Net1D of the same design that starts from random weights. Fine-tuned, it learns from the "
        "cohort's own training patients; frozen, it is a random projection and a floor for pretrained encoders.",
        factory="phewas.encoders.net1d:build",
        contract=PPG_125,
        width=64,
        pretrained=False,
        options={
            "base_filters": 16,
            "filters": (16, 32, 64, 64, 64),
            "blocks": (1, 1, 1, 1, 1),
            "kernel_size": 7,
            "stride": 2,
            "group_width": 16,
            "stem_stride": 2,
            "dropout": 0.0,
        },
    ),
    EncoderSpec(
        name="pulse-features",
        title="Classical pulse wave features",
        description="49 documented measures of the pulse wave: rate, beat-to-beat variability and irregularity, rise "
        "time, widths, augmentation, dicrotic timing, second derivative, spectrum, signal quality. No weights; "
        "the comparator that a deep encoder must beat.",
        factory="phewas.encoders.pulse_features:build",
        contract=PPG_125,
        width=49,
        pretrained=False,
        options={"fs_hz": PPG_125.fs_hz},
        frozen_only="its features are computed by formula: it has no weights to train",
    ),
)


def _registry() -> dict[str, EncoderSpec]:
    """Return the built-in encoders and those that other packages offer under the entry point ``phewas.encoders``."""
    found = {spec.name: spec for spec in _BUILT_IN}
    for entry in entry_points(group="phewas.encoders"):
        spec = entry.load()
        if not isinstance(spec, EncoderSpec):
            raise EncoderError(f"the plug-in {entry.name} is not an EncoderSpec", expected="an EncoderSpec object")
        found.setdefault(spec.name, spec)
    return found


def names(pattern: str = "*") -> list[str]:
    """Return the encoder names that match a shell wildcard, sorted."""
    return sorted(name for name in _registry() if fnmatch.fnmatchcase(name, pattern))


def get(name: str) -> EncoderSpec:
    """Return the encoder of that name.

    Raises
    ------
    EncoderError
        The name is unknown; the nearest known one is suggested.
    """
    known = _registry()
    if name not in known:
        raise EncoderError(
            f"there is no encoder named {name!r}.{nearest(name, known)}",
            expected="one of " + ", ".join(sorted(known)),
            cure="phewas encoders lists them",
        )
    return known[name]
