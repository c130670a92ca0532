"""Load published weights unchanged: any usual nesting, nothing unpickled, strict about the encoder's keys."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from phewas.encoders import registry
from phewas.encoders.registry import EncoderSpec
from phewas.errors import WeightsError
from phewas.rundir import sha256_of

# Where training scripts put the tensors, outermost first, and what they put before the names.
NESTS = ("state_dict", "model_state_dict", "model", "net", "encoder", "weights")
PREFIXES = ("", "model.", "encoder.", "ppg_encoder.", "net.", "backbone.")
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


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit an encoder.

    `prefix` stood before the encoder's names; `state` holds what lay under it, without it; `beside` counts the tensors
    that lay elsewhere, by their first part. `missing`, `shapes` and `extra` name what does not fit; `absent_heads` the
    encoder's own tensors that the file may lack.
    """

    prefix: str
    state: State
    beside: Mapping[str, int]
    missing: tuple[str, ...]
    shapes: tuple[str, ...]
    extra: tuple[str, ...]
    absent_heads: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the file holds this encoder and nothing strange."""
        return not (self.missing or self.shapes or self.extra)

    def good(self, n: int) -> int:
        """Return how many of an encoder's `n` tensors the file gives."""
        return n - len(self.missing) - len(self.shapes) - len(self.absent_heads)


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
        cure="where you trust the file, write its tensors alone to a new file in a separate environment that has its "
        "authors' code, and give NEW.pth with --weights:\n"
        f"    python -c \"import torch; s = torch.load('{path.name}', map_location='cpu', weights_only=False); "
        "s = s.state_dict() if hasattr(s, 'state_dict') else next((s[k] for k in ('state_dict', 'model_state_dict', "
        "'model', 'net') if k in s), s); torch.save({k: v for k, v in s.items() if torch.is_tensor(v)}, 'NEW.pth')\"",
    )


def match(state: State, own: Mapping[str, Tensor], *, heads: Iterable[str] = ()) -> Fit:
    """Compare the tensors of a file with an encoder's own.

    Parameters
    ----------
    state
        Of the file, as `inspect` gives it.
    own
        The encoder's state dict; only names and shapes are looked at, so that the meta device will do.
    heads
        Prefixes of names that the file may lack, or hold in excess.

    Returns
    -------
    Fit
        For the prefix under which most tensors fit by name and shape.

    Raises
    ------
    WeightsError
        Two prefixes hold a whole encoder each, and none of them is a usual one.
    """
    heads = tuple(heads) or ("\0",)

    def fits(prefix: str) -> int:
        return sum(1 for name in own if (t := state.get(prefix + name)) is not None and t.shape == own[name].shape)

    # Any prefix is seen through; the usual ones win where several fit alike.
    probes = list(own)[:1] + list(own)[-1:]
    others = {name[: -len(probe)] for probe in probes for name in state if name.endswith("." + probe)}
    prefixes = [*PREFIXES, *sorted(others - set(PREFIXES), key=lambda p: (len(p), p))]
    scores = {prefix: fits(prefix) for prefix in prefixes}
    best = max(prefixes, key=lambda prefix: scores[prefix])
    rivals = [p for p in prefixes if scores[p] == len(own)]
    if len(rivals) > 1 and best not in PREFIXES:
        raise WeightsError(
            f"the file holds {len(rivals)} such encoders, under {' and '.join(rivals)}",
            expected="one encoder",
            cure="write the tensors of the one you want to a file of their own",
        )
    cut = {name[len(best) :]: tensor for name, tensor in state.items() if name.startswith(best)}
    beside: dict[str, int] = {}
    for name in state:
        if not name.startswith(best):
            first = name.split(".")[0]
            beside[first] = beside.get(first, 0) + 1
    lacking = [name for name in own if name not in cut]
    return Fit(
        prefix=best,
        state=cut,
        beside=beside,
        missing=tuple(name for name in lacking if not name.startswith(heads)),
        shapes=tuple(name for name in own if name in cut and cut[name].shape != own[name].shape),
        extra=tuple(name for name in cut if name not in own and not name.startswith(heads)),
        absent_heads=tuple(name for name in lacking if name.startswith(heads)),
    )


def load(model: nn.Module, path: Path, *, spec: EncoderSpec) -> Fit:
    """Load a weights file into an encoder, strictly; see `fill`.

    Parameters
    ----------
    model
        Built by ``spec.build()``; its tensors are overwritten.
    path
        The file.
    spec
        Whose weights they should be; keys that begin with one of ``spec.heads`` may be missing or left over.
    """
    published = f"the published file of {spec.title}" + (f" ({spec.source})" if spec.source else "")
    return fill(model, path, name=spec.name, heads=spec.heads, expected=published)


def fill(model: nn.Module, path: Path, *, name: str, heads: tuple[str, ...] = (), expected: str = "") -> Fit:
    """Load a weights file into a module, strictly.

    Parameters
    ----------
    model
        Its tensors are overwritten.
    path
        File or folder, as `inspect` takes it.
    name, expected
        For messages: the encoder's name, and what should have been given.
    heads
        Prefixes of keys that may be missing or left over.

    Returns
    -------
    Fit
        What was found, and what was left alone.

    Raises
    ------
    WeightsError
        The file's tensors are not this architecture's; the message says which one they look like. Also what
        `inspect` raises.
    """
    own = model.state_dict()
    found = inspect(path)
    fit = match(found.state, own, heads=heads)
    if not fit.whole:
        raise WeightsError(
            f"{path.name} does not hold the weights of {name}: of {len(own)} tensors {len(fit.missing)} are "
            f"missing, {len(fit.shapes)} have another shape, and {len(fit.extra)} do not belong to it"
            + _example(fit, own),
            expected=expected or f"the weights of {name}",
            cure=looks_like(found.state, besides=name) or f"check that the file belongs to --encoder {name}",
        )
    odd = [key for key in own if key in fit.state and not torch.isfinite(fit.state[key]).all()]
    if odd:
        raise WeightsError(
            f"{path.name} holds NaN or infinity in {len(odd)} tensors, {odd[0]} among them",
            cure="obtain the file again; where it is your own, training had diverged",
        )
    model.load_state_dict({key: fit.state.get(key, own[key]) for key in own}, strict=True)
    return fit


def _example(fit: Fit, own: Mapping[str, Tensor]) -> str:
    """Return one telling case of each kind."""
    parts = []
    if fit.shapes:
        name = fit.shapes[0]
        parts.append(f"{name} is {tuple(fit.state[name].shape)} instead of {tuple(own[name].shape)}")
    parts += [f"{fit.missing[0]} is missing"] if fit.missing else []
    parts += [f"{fit.extra[0]} is unknown"] if fit.extra else []
    return f" ({'; '.join(parts)})"


def build(spec: EncoderSpec, weights: str | Path | None) -> nn.Module:
    """Return an encoder with the weights asked for.

    Parameters
    ----------
    spec
        Which one.
    weights
        A file or folder; ``random`` or None for freshly drawn weights (of a bundle: its own).

    Raises
    ------
    WeightsError
        The weights do not fit, or a bundle was given some.
    EncoderError
        The encoder cannot be built here.
    """
    if spec.bundle is not None and weights is not None and Path(weights) != spec.bundle:
        raise WeightsError(
            f"{spec.name} holds its own weights, and --weights {weights} was given",
            cure="leave --weights out",
        )
    if spec.bundle is not None or weights in (None, "random"):
        return spec.build()
    if spec.weights_are == "folder":
        return spec.build(folder=Path(weights))
    model = spec.build()
    load(model, Path(weights), spec=spec)
    return model


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


def compare(spec: EncoderSpec, path: Path, sha256: str) -> tuple[bool | None, str]:
    """Compare a weights file with what was published.

    Returns
    -------
    same, words
        True or False, or None where no sum was published; and what to tell.
    """
    if spec.sha256:
        same = sha256 == spec.sha256
        told = f"the published {spec.sha256[:12]}..."
    elif spec.md5 and path.is_file():
        found = md5_of(path)
        same = found == spec.md5
        told = f"the md5 that its source states, {spec.md5} (the file's is {found})"
    else:
        return None, f"No checksum was published for {spec.name}; the file's sha256 is {sha256}."
    if same:
        return True, f"The weights of {spec.name} are the published ones: sha256 {sha256[:12]}... agrees with {told}."
    return False, (
        f"The weights fit {spec.name}, but their sha256 {sha256[:12]}... does not go with {told}: fine for your own "
        "training, otherwise obtain the file again."
    )


def candidates(state: State) -> list[tuple[str, Fit, int]]:
    """Compare tensors with every registered encoder whose architecture is built here.

    Returns
    -------
    list of (name, fit, number of own tensors)
        Best fit first. Nothing is computed: the encoders are built without storage.
    """
    rows = []
    for name in registry.names():
        spec = registry.get(name)
        if spec.unavailable or spec.bundle is not None or spec.weights_are == "folder":
            continue
        with contextlib.suppress(Exception), torch.device("meta"):  # somebody's plug-in that cannot be built here
            own = spec.build().state_dict()
            if own:
                rows.append((name, match(state, own, heads=spec.heads), len(own)))

    def quality(row: tuple[str, Fit, int]) -> tuple[bool, float]:
        _, fit, n = row
        return fit.whole, fit.good(n) / (n + len(fit.extra))

    return sorted(rows, key=quality, reverse=True)


def looks_like(state: State, *, besides: str = "") -> str:
    """Say which architecture tensors are of; empty where nothing can be said."""
    rows = [row for row in candidates(state) if row[0] != besides]
    whole = [name for name, fit, _ in rows if fit.whole]
    if whole:
        return f"it looks like {' or '.join(whole)}: " + " or ".join(f"--encoder {name}" for name in whole)
    names = " ".join(state)
    if rows:
        name, fit, n = rows[0]
        if fit.good(n) > n / 2:
            return f"nearest is {name}: {fit.good(n)} of its {n} tensors fit (phewas weights verify FILE --encoder {name})"
    if "stage_list." in names:
        return "stage_list is a Net1D, of a size that is not registered"
    if "basicblock_list." in names:
        return "basicblock_list is the ResNet1D of PaPaGei or Pulse-PPG, of a size that is not registered"
    return ""
