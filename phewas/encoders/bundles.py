"""Whole models as encoders: a file, and a short TOML beside it that states the input contract. No torch is imported.

``torchscript:FILE``, ``torchexport:FILE``, ``onnx:FILE`` and ``hf:FOLDER``. The TOML is ``FILE.toml``, for a folder
``FOLDER/phewas.encoder.toml``, and for a name on the hub ``OWNER--NAME.toml`` in the working folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from phewas.encoders import registry
from phewas.encoders.registry import Band, EncoderSpec, InputContract, Notch
from phewas.errors import EncoderError, nearest

IN_FOLDER = "phewas.encoder.toml"
FACTORIES = {
    "torchscript": "phewas.encoders.whole:torchscript",
    "torchexport": "phewas.encoders.whole:torchexport",
    "onnx": "phewas.encoders.whole:onnx",
    "hf": "phewas.encoders.whole:huggingface",
}
EXTRAS = {"onnx": "onnx", "hf": "transformers"}
_NUMBER = (int, float)
# Of `InputContract`, beside channels, rate and filter.
PREPARATION: dict[str, type | tuple[type, ...]] = {
    "epsilon": _NUMBER, "steps": list, "normalise_scope": str, "normalise_over": str, "normalise_by": str, "ddof": int,
    "notch": dict, "smooth_s": _NUMBER, "baseline_s": _NUMBER, "polarity": str, "resampling": str,
    "context_s": _NUMBER, "pad_to_s": _NUMBER,
}  # fmt: skip
KEYS: dict[str, type | tuple[type, ...]] = PREPARATION | {
    "like": str, "name": str, "width": int, "channels": list, "fs_hz": _NUMBER, "filter": dict, "window_s": _NUMBER,
    "output": (int, str), "pool": str, "channels_first": bool, "batch": int, "argument": str, "layout": str,
    "pretraining": list, "licence": str, "citation": str,
}  # fmt: skip
POOLING = ("output", "pool", "channels_first", "batch")
LAYOUTS = ("samples", "samples-channels", "channels-samples")
TEMPLATE = """\
    like = "anyppg"           # rate, channels and preprocessing of a registered encoder; or instead of it:
    # channels = ["PPG"]
    # fs_hz = 125
    # filter = { order = 3, low_hz = 0.5, high_hz = 8 }
    width = 512               # length of the embedding
    # window_s = 10           # where the model takes windows of one length only
    # output = 0              # which output, by place or name
    # pool = "mean"           # or "max": over time, where the model gives one row per step
    # batch = 1               # where the model takes batches of one size only
    # pretraining = ["MIMIC-III"]  # public data sets whose patients it has met, where that is known"""


def describe(name: str) -> EncoderSpec:
    """Return the record of a whole model.

    Parameters
    ----------
    name
        ``KIND:PATH``, as in the module's description.

    Raises
    ------
    EncoderError
        There is no such file, or its TOML is missing or wrong; the message shows what to write.
    """
    kind, _, text = name.partition(":")
    path = _folder_of(text) if kind == "hf" else Path(text).expanduser()
    if not path.exists() or (kind == "hf") != path.is_dir():
        what = "folder" if kind == "hf" else "file"
        raise EncoderError(f"there is no {what} {path}", expected=f"--encoder {kind}:{what.upper()}")
    file, told = _sidecar(path, kind, text)
    contract = _contract(told, file)
    window_s = float(told["window_s"]) if "window_s" in told else None
    length = contract.length(window_s) if window_s else None
    options = {key: told[key] for key in POOLING if key in told} | {"file": path}
    if kind == "hf":
        options |= {"pool": "mean"} | {key: told[key] for key in ("argument", "layout", *POOLING) if key in told}
    return EncoderSpec(
        name=str(told.get("name", path.stem)),
        title=f"{told.get('name', path.stem)} ({kind})",
        description=f"A whole model from the file {path.name}, run as it is, described by {file.name}.",
        factory=FACTORIES[kind],
        contract=contract,
        width=told["width"],
        pretrained=True,
        options=options,
        window_s=window_s,
        samples=(length, length) if length else (1, None),
        tensor=f"output {told.get('output', 0)}",
        pooling=str(options.get("pool", "none")),
        pretraining=tuple(map(str, told.get("pretraining", ()))),
        source=str(path),
        licence=str(told.get("licence", "")),
        citation=str(told.get("citation", "")),
        bundle=path,
        frozen_only=f"{path.name} is a finished program ({kind}), whose weights are fixed in it",
        extra=EXTRAS.get(kind, ""),
    )


def _folder_of(text: str) -> Path:
    """Return a Hugging Face folder: the one named, or the local copy of a name on the hub."""
    folder = Path(text).expanduser()
    if folder.exists() or text.count("/") != 1 or text.startswith((".", "/", "~")):
        return folder
    from phewas.encoders.extras import hub_folder

    return hub_folder(text)


def _sidecar(path: Path, kind: str, named: str) -> tuple[Path, Mapping[str, Any]]:
    """Return the TOML file beside a model, and what it says."""
    places = [path.with_name(path.name + ".toml"), path.with_suffix(".toml")]
    if kind == "hf":
        # A model named on the hub lies in a cache folder; its description then lies in the working folder.
        here = Path(named.replace("/", "--") + ".toml")
        places = [path / IN_FOLDER, path.with_name(path.name + ".toml")] if Path(named).exists() else [here]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise EncoderError(
            f"nothing says what {path} takes: there is no {places[0]}",
            expected="a TOML file beside the model with its input contract",
            cure=f"write {places[0]}:\n{TEMPLATE}",
        )
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EncoderError(f"{file} cannot be read: {error}", expected="a TOML file", cure=f"\n{TEMPLATE}") from error
    for key, value in told.items():
        if key not in KEYS:
            raise EncoderError(f"{file} has an entry {key!r}.{nearest(key, KEYS)}", expected=", ".join(KEYS))
        if not isinstance(value, KEYS[key]) or (isinstance(value, bool) and KEYS[key] is not bool):
            raise EncoderError(f"{file}: {key} is {value!r}", expected=f"for example\n{TEMPLATE}")
    if told.get("width", 0) < 1:
        raise EncoderError(f"{file} does not say the width of the embedding", cure="width = 512, for example")
    if told.get("pool", "none") not in ("none", "mean", "max"):
        raise EncoderError(f"{file}: pool is {told['pool']!r}", expected="none, mean or max")
    if told.get("layout", LAYOUTS[0]) not in LAYOUTS:
        raise EncoderError(f"{file}: layout is {told['layout']!r}", expected=", ".join(LAYOUTS))
    return file, told


def _contract(told: Mapping[str, Any], file: Path) -> InputContract:
    """Return the input contract that a TOML file states."""
    given = [key for key in ("channels", "fs_hz", "filter", *PREPARATION) if key in told]
    if "like" in told:
        if given:
            raise EncoderError(f"{file} says both like and {given[0]}", expected="one of them")
        return replace(registry.get(told["like"]).contract, window_s=told.get("window_s"))
    if "channels" not in told or "fs_hz" not in told:
        raise EncoderError(f"{file} does not state the input contract", cure=f"write\n{TEMPLATE}")
    said: dict[str, Any] = {key: told[key] for key in ("channels", "fs_hz", "window_s", *PREPARATION) if key in told}
    try:
        said |= {"band": _band(told["filter"], file)} if "filter" in told else {}
        said |= {"notch": Notch(**told["notch"])} if "notch" in told else {}
        contract: InputContract = TypeAdapter(InputContract).validate_python(said)
    except EncoderError as error:
        raise EncoderError(f"{file}: {error.found}", expected=error.expected, cure=error.cure) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EncoderError(f"{file}: {where} is {first['input']!r}", expected=first["msg"]) from error
    except TypeError as error:
        raise EncoderError(f"{file}: {error}", cure=f"write\n{TEMPLATE}") from error
    return contract


def _band(told: Mapping[str, Any], file: Path) -> Band:
    """Return the filter that a TOML file states."""
    words: dict[str, Any] = {"kind": "butter", "low_hz": None, "high_hz": None} | dict(told)
    if "order" not in words:
        cure = "filter = { order = 3, low_hz = 0.5, high_hz = 8 }"
        raise EncoderError(f"{file}: the filter {dict(told)} is not complete", cure=cure)
    return Band(**words)
