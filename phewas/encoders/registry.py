"""Which encoders there are: one frozen record each, found by name, imported only when built.

`EncoderSpec` is the contract between an encoder and everything before it: the segments room filters, resamples and
normalises as the record says, the learning room asks for `width` numbers per segment. This module imports no torch.
"""

from __future__ import annotations

import fnmatch
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phewas.encoders.contract import (
    DRIFT_SAMPLES,
    ECG_1LEAD_500,
    ECG_12LEAD_100,
    ECG_12LEAD_500,
    ECG_500,
    ECG_FM_500,
    LEADS,
    PAPAGEI_125,
    PPG_40,
    PPG_50,
    PPG_125,
    PPG_125_PLAIN,
    PPG_ECG_125,
    PPG_ECG_250,
    STEPS,
    Band,
    InputContract,
    Notch,
    Step,
    resampling_ratio,
)
from phewas.errors import EncoderError, PhewasWarning, nearest

if TYPE_CHECKING:
    from torch import nn


__all__ = [
    "DRIFT_SAMPLES",
    "ECG_1LEAD_500",
    "ECG_12LEAD_100",
    "ECG_12LEAD_500",
    "ECG_500",
    "ECG_FM_500",
    "LEADS",
    "PAPAGEI_125",
    "PPG_40",
    "PPG_50",
    "PPG_125",
    "PPG_125_PLAIN",
    "PPG_ECG_125",
    "PPG_ECG_250",
    "STEPS",
    "Band",
    "EncoderSpec",
    "InputContract",
    "Notch",
    "Step",
    "as_specs",
    "get",
    "is_path",
    "names",
    "relative_to",
    "resampling_ratio",
]


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: what it is, what it eats, what comes out, and where its weights are.

    Parameters
    ----------
    name
        What ``--encoder`` takes: a family's name, with ``.tag`` where there are several of it.
    title, description
        For the report.
    factory
        ``module:function``, or the function itself (a class will do). Called with ``options``, it returns an
        ``nn.Module`` that maps float32 [batch, channels, samples] to [batch, width]. Empty where phewas knows the
        encoder and cannot build it; `unavailable` then says why.
    contract
        Its input.
    width
        Length of the embedding.
    pretrained
        Whether published weights exist; if so a run needs ``--weights``.
    options
        Keyword arguments of the factory.
    window_s
        Window that it was pretrained on, in seconds; None where that is not known or not fixed.
    samples
        Fewest and most samples per channel that it takes; None for no upper bound.
    normalised_inside
        What the network does to its input by itself; empty for nothing.
    tensor, pooling
        Which of the network's tensors the embedding is, and how time was pooled.
    parameters
        Number of trainable parameters of the published model; 0 where it is not fixed.
    pretraining
        Public data sets whose patients the published weights have seen.
    source, doi
        Where the weights are obtained; empty where there are none.
    file
        Name of the published weights file, for messages.
    nesting
        Form of that file: where the tensors lie in it and what stands before their names.
    sha256, md5
        Of that file, where known.
    licence, code_licence
        Terms of the weights, and of the authors' own code (which is not used here).
    citation
        How to cite it.
    heads
        Prefixes of checkpoint keys that are not part of the embedding; a file may hold them, or lack them.
    idle
        Wildcards of parameters that are stored and never used, so that they get no gradient.
    weights_are
        ``file``; ``folder`` for a Hugging Face folder (config.json and safetensors), which also decides the size.
    bundle
        File that holds architecture and weights at once (TorchScript, torch.export, ONNX), or folder; then there is
        nothing to give with ``--weights``.
    frozen_only
        Why it cannot be fine-tuned; empty where it can.
    unavailable
        Why phewas cannot build it; empty where it can.
    extra
        ``pip install 'phewas[EXTRA]'`` that it needs; empty for none.
    code
        What tells two versions of someone else's code apart: a file's sha256, or a package with its version.
    """

    name: str
    title: str
    description: str
    factory: str | Callable[..., nn.Module]
    contract: InputContract
    width: int
    pretrained: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    window_s: float | None = None
    samples: tuple[int, int | None] = (1, None)
    normalised_inside: str = ""
    tensor: str = ""
    pooling: str = ""
    parameters: int = 0
    pretraining: tuple[str, ...] = ()
    source: str = ""
    doi: str = ""
    file: str = ""
    nesting: str = ""
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    code_licence: str = ""
    citation: str = ""
    heads: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    weights_are: Literal["file", "folder"] = "file"
    bundle: Path | None = None
    frozen_only: str = ""
    unavailable: str = ""
    extra: str = ""
    code: str = ""

    def build(self, **more: Any) -> nn.Module:
        """Return the encoder with freshly initialised weights (a bundle: with its own).

        Parameters
        ----------
        more
            Further arguments of the factory, beside `options`.

        Raises
        ------
        EncoderError
            It cannot be built here; the message says why and what to do.
        """
        if self.unavailable:
            raise EncoderError(f"{self.name} cannot be built: {self.unavailable}", cure="phewas encoders lists others")
        make = self.factory
        if isinstance(make, str):
            module, _, function = make.partition(":")
            make = getattr(importlib.import_module(module), function)
        model: nn.Module = make(**self.options, **more)
        return model


# One module of records per architecture family; each has a tuple SPECS. None of them imports torch.
CARDS = (
    "phewas.encoders.cards_net1d",
    "phewas.encoders.cards_resnet1d",
    "phewas.encoders.cards_m2ae",
    "phewas.encoders.cards_wrapped",
    "phewas.encoders.cards_features",
)
ENTRY_POINTS = "phewas.encoders"


def _built_in() -> dict[str, EncoderSpec]:
    return {spec.name: spec for module in CARDS for spec in importlib.import_module(module).SPECS}


def _registry() -> dict[str, EncoderSpec]:
    """Return the built-in encoders and those that other packages offer under the entry point ``phewas.encoders``."""
    found = _built_in()
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            specs = as_specs(entry.load(), where=f"the plug-in {entry.name} ({entry.value})")
        except (ImportError, AttributeError, EncoderError) as error:
            # A broken plug-in must not take the others down with it.
            told = error.found if isinstance(error, EncoderError) else str(error)
            warnings.warn(f"the plug-in {entry.name} ({entry.value}) was left out: {told}", PhewasWarning, stacklevel=2)
            continue
        version = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
        for spec in specs:
            if spec.name in found:
                message = f"the plug-in {entry.name} offers {spec.name}, a name that is taken; it was left out"
                warnings.warn(message, PhewasWarning, stacklevel=2)
            else:
                found[spec.name] = replace(spec, code=spec.code or version)
    return found


def as_specs(value: object, *, where: str) -> tuple[EncoderSpec, ...]:
    """Return the records that a plug-in offers: one, several, or a function that returns one or several.

    Raises
    ------
    EncoderError
        It is something else.
    """
    if callable(value) and not isinstance(value, EncoderSpec):
        try:
            value = value()
        except Exception as error:
            raise EncoderError(f"{where} ends in {type(error).__name__}: {error}") from error
    specs = value if isinstance(value, list | tuple) else (value,)
    if not specs or not all(isinstance(spec, EncoderSpec) for spec in specs):
        raise EncoderError(
            f"{where} gives {type(value).__name__}, which is no EncoderSpec",
            expected="an EncoderSpec, a list of them, or a function without arguments that returns one",
            cure="examples/own_encoder.py is a complete one",
        )
    return tuple(specs)


def names(pattern: str = "*") -> list[str]:
    """Return the encoder names that match a shell wildcard, sorted."""
    return sorted(name for name in _registry() if fnmatch.fnmatchcase(name, pattern))


def get(name: str) -> EncoderSpec:
    """Return the encoder of that name.

    Parameters
    ----------
    name
        A registered name; a family's name where only one of it is registered; ``FILE.py:NAME`` for an encoder of one's
        own; or ``torchscript:FILE``, ``torchexport:FILE``, ``onnx:FILE`` or ``hf:FOLDER`` for a whole model
        in a file, described by a TOML file beside it.

    Raises
    ------
    EncoderError
        The name is unknown (the nearest known one is suggested), or stands for several encoders of which one must be
        chosen. Also whatever is wrong with a file.
    """
    if is_path(name):
        if name.partition(":")[0] in BUNDLES:
            from phewas.encoders import bundles

            return bundles.describe(name)
        from phewas.encoders import own

        return own.load(name)
    known = _built_in()
    if name not in known:
        known = _registry()
    if name in known:
        return known[name]
    tagged = [other for other in known if other.startswith(name + ".")]
    if len(tagged) == 1:
        return known[tagged[0]]
    if tagged:
        raise EncoderError(
            f"{name} stands for {len(tagged)} encoders, and which one is meant must be said: " + ", ".join(tagged),
            cure="; ".join(f"--encoder {other}: {known[other].title}" for other in tagged),
        )
    raise EncoderError(
        f"there is no encoder named {name!r}.{nearest(name, known)}",
        expected="one of " + ", ".join(sorted(known)),
        cure="phewas encoders lists them; an encoder of your own is --encoder FILE.py:NAME",
    )


BUNDLES = ("torchscript", "torchexport", "onnx", "hf")


def is_path(name: str) -> bool:
    """Tell whether an encoder's name points to a file or folder instead of a registered encoder."""
    kind, colon, _ = name.partition(":")
    return bool(colon and kind in BUNDLES) or name.endswith(".py") or ".py:" in name


def relative_to(name: str, folder: Path) -> str:
    """Return an encoder's name with its path, if it has one, taken relative to `folder`."""
    if not is_path(name):
        return name
    kind, _, rest = name.partition(":")
    if kind in BUNDLES:
        return f"{kind}:{folder / Path(rest).expanduser()}" if kind != "hf" or (folder / rest).is_dir() else name
    file, colon, attribute = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return f"{folder / Path(file).expanduser()}{colon}{attribute}"

