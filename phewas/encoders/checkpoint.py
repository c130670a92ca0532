"""Load published weights unchanged: any usual nesting, nothing unpickled, strict about the encoder's keys."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from phewas.encoders import registry
from phewas.encoders.registry import EncoderSpec
from phewas.errors import WeightsError

# Where training scripts put the tensors, and what they put before the names.
NESTS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "encoder.", "ppg_encoder.")

State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Return the tensors of a weights file by name, out of whatever dictionary they are nested in.

    Parameters
    ----------
    path
        ``.safetensors``, or a file of ``torch.save``; the latter is read with ``weights_only=True``, which executes
        nothing.

    Raises
    ------
    WeightsError
        No such file, a truncated one, one with pickled objects, or one without tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"there is no weights file {path}",
            expected="a .pth, .pt or .safetensors file",
            cure="give its path with --weights, or leave pretrained encoders out with --encoder net1d-small",
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for nest in NESTS:
        inner = content.get(nest) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise WeightsError(
            f"{path.name} holds no tensors",
            expected="a state dict (name -> tensor), alone or under " + ", ".join(NESTS),
            cure="save it with torch.save(model.state_dict(), FILE)",
        )
    return state


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> WeightsError:
    return WeightsError(
        f"{path.name} ({path.stat().st_size:,} bytes) is damaged or cut short",
        expected="a whole weights file",
        cure="obtain it again and compare its size and sha256 with the source's",
    )


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # The library raises this both for refused objects and for bytes that are no pickle at all.
        if "Unsupported" in str(error) or "GLOBAL" in str(error) or "not an allowed global" in str(error):
            raise WeightsError(
                f"{path.name} holds pickled Python objects, which could run code when opened; it was not opened",
                expected="tensors only (a state dict)",
                cure="where you trust the file, write its state_dict() alone to a new file in a "
                "separate environment, then give NEW with --weights",
            ) from error
        raise _damaged(path) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError, UnicodeDecodeError) as error:
        raise _damaged(path) from error


def strip_prefixes(state: State, expected: set[str]) -> State:
    """Return the tensors with the prefix removed that makes most names fit `expected`."""
    best, fits = state, sum(name in expected for name in state)
    for first in ("", *PREFIXES):
        for second in ("", *PREFIXES):
            prefix = first + second
            cut = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
            now = sum(name in expected for name in cut)
            if prefix and now > fits:
                best, fits = cut, now
    return best


def load(model: nn.Module, path: Path, *, spec: EncoderSpec) -> None:
    """Load a weights file into an encoder, strictly.

    Parameters
    ----------
    model
        Built by ``spec.build()``; its tensors are overwritten.
    path
        The file.
    spec
        Whose weights they should be; keys that begin with one of ``spec.heads`` may be left over.

    Raises
    ------
    WeightsError
        The file's tensors are not this architecture's; the message says which one they look like. Also what
        `read_state` raises.
    """
    own = model.state_dict()
    state = strip_prefixes(read_state(path), set(own))
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own and not name.startswith(spec.heads or ("\0",))]
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or extra or shapes:
        raise WeightsError(
            f"{path.name} does not hold the weights of {spec.name}: of {len(own)} tensors {len(missing)} are missing, "
            f"{len(shapes)} have another shape, and {len(extra)} do not belong to it"
            + _example(missing, shapes, extra, own, state),
            expected=f"the published file of {spec.title}" + (f" ({spec.source})" if spec.source else ""),
            cure=_looks_like(state, spec),
        )
    odd = [name for name in own if not torch.isfinite(state[name]).all()]
    if odd:
        raise WeightsError(f"{path.name} holds NaN or infinity in {len(odd)} tensors, {odd[0]} among them")
    model.load_state_dict({name: state[name] for name in own}, strict=True)


def _example(missing: list[str], shapes: list[str], extra: list[str], own: State, state: State) -> str:
    """Return one telling case of each kind."""
    parts = []
    if shapes:
        name = shapes[0]
        parts.append(f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}")
    parts += [f"{missing[0]} is missing"] if missing else []
    parts += [f"{extra[0]} is unknown"] if extra else []
    return f" ({'; '.join(parts)})"


def _looks_like(state: State, spec: EncoderSpec) -> str:
    """Say which architecture the tensors are of."""
    shapes = {tuple(t.shape) for t in state.values()}
    for name in registry.names():
        own = registry.get(name).build().state_dict()
        cut = strip_prefixes(state, set(own))
        if name != spec.name and own.keys() <= cut.keys() and all(cut[k].shape == own[k].shape for k in own):
            return f"it looks like {name}: --encoder {name}"
    names = " ".join(state)
    if "stage_list.6." in names:
        return "seven Net1D stages look like ECGFounder, an ECG encoder"
    if "stage_list.5." in names and any(len(s) == 3 and s[0] == 1024 for s in shapes):
        return "a last stage of 1,024 channels looks like the older AnyPPG release; the current one has 512"
    if "basicblock_list." in names:
        return "basicblock_list is the ResNet1D of PaPaGei or Pulse-PPG"
    return f"check that the file belongs to --encoder {spec.name}"
