"""Read weights files: any usual nesting, nothing unpickled; and the sums that tell one file from another."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from phewas.errors import WeightsError
from phewas.rundir import sha256_of

# Where training scripts put the tensors, outermost first.
NESTS = ("state_dict", "model_state_dict", "model", "net", "encoder", "weights")
WRAPPERS = ("module", "_orig_mod")  # of DataParallel and torch.compile; they may stand anywhere in a name
DEPTH = 3
SAFE = ".safetensors"

State = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """Tensors of a weights file.

    `nest` names the dictionaries that they lay in, joined by dots (empty for a flat file); `state` holds the tensors
    under their names without the wrappers of DataParallel and torch.compile; `others` what lies beside them.
    """

    nest: str
    state: State
    others: tuple[str, ...]


def read_state(path: Path) -> State:
    """Return the tensors of a weights file by name, out of whatever dictionary they are nested in; see `inspect`."""
    return inspect(path).state


def inspect(path: Path) -> Found:
    """Read a weights file.

    Parameters
    ----------
    path
        ``.safetensors``; a file of ``torch.save``, which is read with ``weights_only=True`` and so executes nothing; or
        a folder with one of them, or with the parts of a Hugging Face model.

    Raises
    ------
    WeightsError
        No such file, a truncated one, one with pickled objects, or one without tensors.
    """
    files = _files(path)
    content: Any = {}
    for file in files:
        part = _read_safetensors(file) if file.suffix == SAFE else _read_torch(file)
        content = {**content, **part} if len(files) > 1 and isinstance(part, Mapping) else part
    nest: list[str] = []
    others: tuple[str, ...] = ()
    while isinstance(content, Mapping) and len(nest) < DEPTH:
        inner = next((n for n in NESTS if isinstance(content.get(n), Mapping)), None)
        if inner is None:
            break
        others += tuple(str(key) for key in content if key != inner)
        nest.append(inner)
        content = content[inner]
    state = {_plain(str(k)): v for k, v in content.items() if isinstance(v, Tensor)} if _is_map(content) else {}
    if not state:
        raise WeightsError(
            f"{path.name} holds no tensors",
            expected="a state dict (name -> tensor), alone or under " + ", ".join(NESTS),
            cure="save it with torch.save(model.state_dict(), FILE)",
        )
    return Found(".".join(nest), state, others)


def _is_map(content: Any) -> bool:
    return isinstance(content, Mapping)


def _plain(name: str) -> str:
    """Return a name without the parts that wrappers have put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _files(path: Path) -> list[Path]:
    """Return the files that hold the tensors: the path itself, or what a folder holds."""
    if path.is_dir():
        for pattern in (f"*{SAFE}", "pytorch_model*.bin", "*.pth", "*.pt"):
            found = sorted(f for f in path.glob(pattern) if f.is_file())
            if found:
                if pattern.startswith("*.") and pattern != f"*{SAFE}" and len(found) > 1:
                    raise WeightsError(f"the folder {path} holds {len(found)} weights files", cure="name one of them")
                return found
    if not path.is_file():
        what = "no weights file in the folder" if path.is_dir() else "no weights file"
        raise WeightsError(
            f"there is {what} {path}",
            expected="a .pth, .pt or .safetensors file",
            cure="give its path with --weights, or leave pretrained encoders out with --encoder net1d-small",
        )
    return [path]


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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # told below, as an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # The library raises this both for refused objects and for bytes that are no pickle at all.
        if "Unsupported" in str(error) or "GLOBAL" in str(error) or "not an allowed global" in str(error):
            raise _pickled(path) from error
        raise _damaged(path) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError, UnicodeDecodeError) as error:
        if _is_torchscript(path):
            raise WeightsError(
                f"{path.name} is a TorchScript program, not a weights file",
                expected="tensors (a state dict)",
                cure=f"use it as it is, frozen: --encoder torchscript:{path}",
            ) from error
        raise _damaged(path) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _pickled(path: Path) -> WeightsError:
    names: list[str] = []
    with contextlib.suppress(Exception):  # an aid to the message only; it reads the names and executes nothing
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return WeightsError(
        f"{path.name} holds pickled Python objects{' (' + ', '.join(names[:3]) + ')' if names else ''}, which could "
        "run code when opened; it was not opened",
        expected="tensors only (a state dict)",
        cure="where you trust its authors, open it with their own code in an environment of its own, save the tensors "
        "alone (torch.save(model.state_dict(), 'NEW.pth')), and give NEW.pth with --weights",
    )


def fingerprint(path: Path) -> str:
    """Return the sha256 of a weights file; of a folder, one sha256 over its configuration and tensors."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted({*path.glob("*.json"), *_files(path)}):
        digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def md5_of(path: Path) -> str:
    """Return the md5 of a file, for sources that publish no better sum; it tells a wrong download, not a forged one."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
