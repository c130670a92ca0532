"""Libraries that only some encoders need, imported when one of these is built."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from phewas.errors import EncoderError, WeightsError

SAFE = ".safetensors"


def need(module: str, *, extra: str) -> Any:
    """Import a library, or say how to install it.

    Parameters
    ----------
    module
        What to import.
    extra
        Name of the optional dependency group of phewas that brings it.

    Raises
    ------
    EncoderError
        It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        raise EncoderError(
            f"this encoder needs the package {package}, which "
            + ("is not installed" if missing else f"cannot be imported: {error}"),
            cure=f"pip install 'phewas[{extra}]'",
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a Hugging Face folder.

    Raises
    ------
    WeightsError
        The folder has none, or it is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(
            f"{folder} is no folder of a Hugging Face model",
            expected="a folder with config.json and model.safetensors",
            cure="download it where there is a network: hf download NAME --local-dir FOLDER",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} is damaged: {error}", cure="download the folder again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} holds no settings", cure="download the folder again")
    return content


def hub_folder(name: str) -> Path:
    """Return the local folder of a model on the Hugging Face hub, fetched on first use.

    Only configuration and safetensors are fetched: no code, no pickled weights. Without a network the copy in the local
    cache is taken.

    Raises
    ------
    EncoderError
        ``huggingface_hub`` is not installed.
    WeightsError
        There is neither a network nor a local copy, or no such model.
    """
    hub = need("huggingface_hub", extra="transformers")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", f"*{SAFE}", "*.toml"]))
    except Exception as error:
        raise WeightsError(
            f"{name} cannot be had from the Hugging Face hub: {str(error).strip().splitlines()[0][:200]}",
            expected="a folder with config.json and model.safetensors, or a name on the hub and a network",
            cure=f"where there is a network: hf download {name} --local-dir FOLDER; then name FOLDER",
        ) from error
