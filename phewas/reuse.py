"""`phewas run --from RUN`: take finished steps from another run instead of doing them again.

A step is taken where the other run did it from the same inputs with the same settings and version, which its
fingerprint says; that a file is still the one that was written, its sha256. Files are linked, not copied, where both
runs lie on one file system: nothing ever changes a finished file in place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from phewas.errors import RunError
from phewas.rundir import MANIFEST, RunDirectory, sha256_of


def open_other(path: Path, *, identity: dict[str, str]) -> RunDirectory:
    """Open the run that steps are to be taken from.

    Parameters
    ----------
    path
        Its folder.
    identity
        Of the run that takes them: cohort and data must be the same; encoder and weights need not.

    Raises
    ------
    RunError
        There is no run, or it is one of another cohort or of other data.
    """
    if not (path / MANIFEST).is_file():
        raise RunError(f"{path} is no run directory", cure="give --from the folder of a finished run")
    other = RunDirectory(path)
    differ = [name for name in ("cohort", "data") if other.identity.get(name) != identity[name]]
    if differ:
        raise RunError(
            f"nothing can be taken from {path}: it is of {' and '.join('another ' + name for name in differ)} "
            f"({', '.join(str(other.identity.get(name))[:12] for name in differ)})",
            expected=f"a run of the cohort {identity['cohort']} on the same data",
            cure="leave --from out",
        )
    return other


def take(other: RunDirectory, step: str, *, fingerprint: str, out: Path) -> bool:
    """Put another run's outputs of a step in their place; False, and nothing done, where they are not what is needed.

    Parameters
    ----------
    other
        From `open_other`.
    step, fingerprint
        The step, and its fingerprint in the run that takes it.
    out
        Folder of the run that takes it.
    """
    record = other.manifest["steps"].get(step)
    if record is None or record["fingerprint"] != fingerprint:
        return False
    files = {name: other.path / name for name in record["outputs"]}
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in files):
        return False
    for name, file in files.items():
        if not file.is_file() or sha256_of(file) != record["outputs"][name]["sha256"]:
            return False
    for name, file in files.items():
        _link(file, out / name)
    return True


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    temporary.replace(target)
