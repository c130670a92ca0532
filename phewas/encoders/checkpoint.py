"""Load published weights unchanged: any usual nesting, nothing unpickled, strict about the encoder's keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from phewas.encoders import registry
from phewas.encoders.extras import read_config
from phewas.encoders.registry import EncoderSpec
from phewas.encoders.weights_file import Found, State, fingerprint, inspect, md5_of, read_state
from phewas.errors import WeightsError

__all__ = ["Fit", "Found", "build", "candidates", "compare", "fill", "fingerprint", "from_folder", "inspect", "load",
           "looks_like", "match", "read_state", "settings_of"]  # fmt: skip

Made = TypeVar("Made", bound=nn.Module)

# What usually stands before an encoder's own names.
PREFIXES = ("", "model.", "encoder.", "ppg_encoder.", "net.", "backbone.")


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


def from_folder(
    make: Callable[[Mapping[str, Any]], Made],
    *,
    folder: Path | None,
    config: Mapping[str, Any] | None,
    published: Mapping[str, Any],
    name: str,
    heads: tuple[str, ...] = (),
    expected: str = "",
) -> Made:
    """Return an encoder of another package: as its Hugging Face folder says and with its weights, or with random ones.

    Parameters
    ----------
    make
        Builds the encoder from settings; its attribute ``model`` is the package's own module.
    folder
        With config.json and safetensors; None for random weights.
    config
        Settings for random weights; None for `published`, those of the published model.
    name, heads, expected
        As for `fill`.

    Raises
    ------
    WeightsError
        The folder holds something else.
    """
    made = make(read_config(folder) if folder else config or published)
    if folder:
        package: Any = made
        fill(package.model, folder, name=name, heads=heads, expected=expected)
    return made


def settings_of(spec: EncoderSpec, weights: str | Path | None) -> dict[str, Any] | None:
    """Return the settings that a weights folder gives its encoder; None where the record says all that there is."""
    if spec.weights_are != "folder" or weights in (None, "random"):
        return None
    return read_config(Path(str(weights)))


def build(spec: EncoderSpec, weights: str | Path | None, *, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Return an encoder with the weights asked for.

    Parameters
    ----------
    spec
        Which one.
    weights
        A file or folder; ``random`` or None for freshly drawn weights (of a bundle: its own).
    config
        With freshly drawn weights, settings from `settings_of`; None for those of the record.

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
        return spec.build(**({"config": config} if config else {}))
    if spec.weights_are == "folder":
        return spec.build(folder=Path(weights))
    model = spec.build()
    load(model, Path(weights), spec=spec)
    return model


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
            verify = f"phewas weights verify FILE --encoder {name}"
            return f"nearest is {name}: {fit.good(n)} of its {n} tensors fit ({verify})"
    if "stage_list." in names:
        return "stage_list is a Net1D, of a size that is not registered"
    if "basicblock_list." in names:
        return "basicblock_list is the ResNet1D of PaPaGei or Pulse-PPG, of a size that is not registered"
    return ""
