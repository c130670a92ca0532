"""Where options come from: the command line, a run's TOML file, ``phewas.toml``, the environment, the cohort's card."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phewas import cohorts
from phewas.config import RunConfig
from phewas.encoders.registry import relative_to
from phewas.errors import ConfigError, nearest

PLACES_FILE = "phewas.toml"
DATA_VARIABLE = "PHEWAS_DATA"
TABLE_FILES = ("map_file", "rollup_file", "exclusions_file", "sex_file")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    ConfigError
        The file is missing or is no TOML; the message gives line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no file {path}", cure="check the path given with --config"
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder", expected="a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        cure = "mend that line; examples/study.toml shows the form"
        raise ConfigError(f"{path} cannot be read: {error}", expected="a TOML file", cure=cure) from error


def user_folder() -> Path:
    """Return the folder of the user's own settings."""
    import typer

    return Path(typer.get_app_dir("phewas"))


def places(kind: str, name: str, key: str) -> str | None:
    """Look up ``[cohorts.NAME] data`` or ``[encoders.NAME] weights`` in the working folder, then the user's folder.

    Parameters
    ----------
    kind, name, key
        ``cohorts`` or ``encoders``, which one, and the entry.

    Returns
    -------
    str or None
        A relative path is resolved against the file that names it.
    """
    for folder in (Path.cwd(), user_folder()):
        file = folder / PLACES_FILE
        if not file.is_file():
            continue
        content = read_toml(file)
        stray = [k for k in content if k not in ("cohorts", "encoders")]
        if stray:
            raise ConfigError(
                f"{file} has a section {stray[0]!r}",
                expected="[cohorts.NAME] data = ... and [encoders.NAME] weights = ...",
                cure="settings of a run belong in a file of their own, given with --config",
            )
        section = content.get(kind, {})
        entry = section.get(name, {}) if isinstance(section, Mapping) else {}
        value = entry.get(key) if isinstance(entry, Mapping) else None
        if isinstance(value, str):
            return value if value == "random" else str(folder / Path(value).expanduser())
    return None


def resolve(
    options: Mapping[str, Any], config: Path | None, *, base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Merge the command line over a run's TOML file over the cohort's own settings, and check the result.

    Parameters
    ----------
    options
        Of the command line; None means not given. A part of the settings is a mapping of its own.
    config
        TOML file with the fields of `RunConfig`.
    base
        Settings of another run, under all of these.

    Raises
    ------
    ConfigError
        An unknown cohort or option, or a value that cannot be.
    """
    merged: dict[str, Any] = read_toml(config) if config is not None else {}
    for name, value in options.items():
        if isinstance(value, Mapping):  # a part of the settings, of which the command line may give some
            wanted = {key: one for key, one in value.items() if one is not None}
            own: Any = merged.get(name, {})
            if wanted:
                merged[name] = {**own, **wanted} if isinstance(own, Mapping) else wanted
        elif value is not None:
            merged[name] = value
    if config is not None:
        # A relative path in the file is meant relative to the file, wherever the command is given.
        for key in ("data", "weights"):
            given = merged.get(key)
            if options.get(key) is None and isinstance(given, str) and given != "random":
                merged[key] = str(config.parent / Path(given).expanduser())
        judged = merged.get("evaluate")
        if isinstance(judged, Mapping) and isinstance(judged.get("controls_file"), str):
            given = str(config.parent / Path(judged["controls_file"]).expanduser())
            merged["evaluate"] = {**judged, "controls_file": given}
        labels = merged.get("phenotypes")
        if isinstance(labels, Mapping):
            files = {k: str(config.parent / Path(v).expanduser()) for k, v in labels.items() if k in TABLE_FILES}
            merged["phenotypes"] = {**labels, **files}
    for name, value in (base or {}).items():
        own = merged.get(name)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            merged[name] = {**value, **own}
        elif own is None:
            merged[name] = value
    if isinstance(merged.get("encoder"), str):
        # Kept as a whole path, so that the run can be opened from another folder.
        beside = config.parent if config is not None and options.get("encoder") is None else Path()
        merged["encoder"] = relative_to(merged["encoder"], beside.absolute())
    if "cohort" not in merged:
        raise ConfigError("no cohort was named", cure="phewas run --cohort demo runs without any data")
    for part, values in cohorts.get(str(merged["cohort"])).card.settings.items():
        own = merged.get(part, {})
        merged[part] = {**values, **own} if isinstance(own, Mapping) else own
    try:
        return RunConfig(**merged)
    except ValidationError as error:
        raise ConfigError(_in_words(error), cure="phewas run --help lists the options") from error


def _in_words(error: ValidationError) -> str:
    """Say which options are wrong and how."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"there is no option {name}.{nearest(str(item['loc'][-1]), _names(item['loc']))}")
        else:
            lines.append(f"{name} is {item['input']!r}: {item['msg'].lower()}")
    return "\n".join(lines)


def _names(location: tuple[int | str, ...]) -> list[str]:
    """Return the options that exist where an unknown one was met."""
    model: Any = RunConfig
    for part in location[:-1]:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)


def data_root(config: RunConfig) -> Path | None:
    """Return the data folder of the cohort: option, ``phewas.toml``, ``PHEWAS_DATA``, or None."""
    found = config.data or places("cohorts", config.cohort, "data") or os.environ.get(DATA_VARIABLE)
    return Path(found).expanduser() if found else None


def weights_of(config: RunConfig, encoder: str) -> str | None:
    """Return the encoder's weights: option, ``phewas.toml``, or None."""
    return config.weights or places("encoders", encoder, "weights")
