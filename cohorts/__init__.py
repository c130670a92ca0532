"""Sources of patients, encounters, codes and recordings: one file per source, and who may be tested.

`available` lists the sources that ship here and those that other packages offer under the entry point group
``phewas.cohorts``; `get` opens one by name.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if __name__ == "cohorts":
    raise ImportError(
        "import phewas.cohorts, not cohorts: a bare 'cohorts' would be shadowed by any folder of that name"
    )

if TYPE_CHECKING:
    from phewas.cohorts.base import Source

# name -> module that offers SOURCE. A new source is its file, its card and one line here.
BUILT_IN: dict[str, str] = {
    "demo": "phewas.cohorts.demo",
    "mcmed": "phewas.cohorts.mcmed",
    "meds": "phewas.cohorts.meds",
    "mimic3": "phewas.cohorts.mimic3",
    "mimic4": "phewas.cohorts.mimic4",
    "mimic4ecg": "phewas.cohorts.mimic4ecg",
    "omop": "phewas.cohorts.omop",
    "ppgbp": "phewas.cohorts.ppgbp",
    "tables": "phewas.cohorts.tables",
}
GROUP = "phewas.cohorts"

__all__ = ["BUILT_IN", "GROUP", "available", "get"]


def _plugins() -> dict[str, EntryPoint]:
    """Return the sources of other packages by name; a built-in name cannot be taken over."""
    return {
        e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)) if e.name not in BUILT_IN
    }


def available() -> tuple[str, ...]:
    """Return the names that `get` knows, sorted."""
    return tuple(sorted({*BUILT_IN, *_plugins()}))


def get(name: str) -> Source:
    """Return the source called `name`.

    Raises
    ------
    ConfigError
        No source has that name, or another package's source cannot be loaded.
    """
    from phewas.cohorts.base import Source
    from phewas.errors import ConfigError, nearest

    if name in BUILT_IN:
        found: object = importlib.import_module(BUILT_IN[name]).SOURCE
    else:
        plugin = _plugins().get(name)
        if plugin is None:
            raise ConfigError(
                f"there is no cohort {name!r}.{nearest(name, available())}",
                expected=f"one of {', '.join(available())}",
                cure="phewas cohorts   lists them",
            )
        try:
            found = plugin.load()
        except Exception as error:
            raise ConfigError(
                f"the cohort {name!r} of {plugin.value} cannot be loaded: {type(error).__name__}",
                expected="an importable object with card, fingerprint, scan, build and data_root",
                cure="reinstall the package that offers it",
            ) from error
        if isinstance(found, type):
            found = found()
    if not isinstance(found, Source):
        raise ConfigError(
            f"the cohort {name!r} is not a source",
            expected="an object with card, fingerprint, scan, build and data_root",
        )
    return found
