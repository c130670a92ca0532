"""`phewas run --from RUN`: what another run has done and this one would do again alike is taken over.

The steps before the encoder (cohort, split, phenotypes, segments) are taken where their fingerprint is the one that
this run computes for itself, so that nothing is taken that it would not have made. Where another encoder wants other
windows, the choice of windows is taken all the same, because it does not depend on the encoder; the segments step
checks that it is the choice it would have made.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phewas.errors import ConfigError, RunError
from phewas.plan import Plan
from phewas.progress import say
from phewas.rundir import MANIFEST, RunDirectory

STEPS = ("cohort", "split", "phenotypes", "segments")
CHOICE = ("segments/windows-*.parquet", "segments/windows-*.json", "segments/rejects.parquet")
NOT_TAKEN = ("encoder", "weights", "workers", "device", "engine")  # settings of the machine, or of another encoder


def settings_of(run: Path, *, encoder: str | None) -> dict[str, Any]:
    """Return the settings of another run, on which this one's are laid.

    Parameters
    ----------
    run
        The other run's directory.
    encoder
        Of this run; None for the other run's, with its weights.

    Raises
    ------
    RunError
        It is no run directory.
    """
    file = run / MANIFEST
    if not file.is_file():
        raise RunError(f"{run} is no run directory", cure="give --from the folder that `phewas run` made")
    RunDirectory(run)  # tells a damaged one
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")).get("config", {})
    dropped = NOT_TAKEN if encoder is not None else NOT_TAKEN[2:]
    taken = {name: value for name, value in config.items() if name not in dropped and value is not None}
    if encoder is not None and isinstance(taken.get("segments"), dict):
        # Which recorded channel stands for another was said of the other run's encoder.
        taken["segments"] = {name: value for name, value in taken["segments"].items() if name != "channels"}
    return taken


def adopt(made: Plan, directory: RunDirectory, fingerprint_of: Callable[[str], str | None]) -> list[str]:
    """Take over the finished steps of ``made.start_from`` that this run would do alike.

    Parameters
    ----------
    made, directory
        This run.
    fingerprint_of
        Returns the fingerprint that this run computes for a step, or None while a step that it reads is missing.

    Returns
    -------
    list of str
        The steps taken over.

    Raises
    ------
    ConfigError
        The other run is this very folder.
    RunError
        It is of another cohort or of other data.
    """
    run = made.start_from
    assert run is not None
    if run.resolve() == made.out.resolve():
        raise ConfigError(f"--from names this run's own folder {run}", cure="leave --from out, or give another --out")
    other = RunDirectory(run)
    mine = made.identity()
    differ = [name for name in ("cohort", "data") if other.identity.get(name) != mine[name]]
    if differ:
        raise RunError(
            f"{run} is of another cohort, or its data have changed since: {', '.join(differ)} differ",
            expected=f"a run of {mine['cohort']} on the same data",
            cure="leave --from out",
        )
    taken = []
    for step in STEPS:
        if step in directory.manifest["steps"] or step not in other.manifest["steps"]:
            continue
        fingerprint = fingerprint_of(step)
        if fingerprint is not None and other.is_current(step, fingerprint):
            record = other.manifest["steps"][step]
            for name in record["outputs"]:
                link(run / name, made.out / name)
            directory.manifest["steps"][step] = record
            taken.append(step)
        elif step == "segments" and other.is_current(step, other.manifest["steps"][step]["fingerprint"]):
            for pattern in CHOICE:
                for file in run.glob(pattern):
                    link(file, made.out / file.relative_to(run))
    if "cohort" in taken:
        _own_data(made, run)
    directory.manifest["from"] = {"run": str(run.resolve()), "steps": taken}
    directory.save()
    if taken:
        say(f"Taken over from {run}: {', '.join(taken)}")
    return taken


def _own_data(made: Plan, run: Path) -> None:
    """Take over the recordings of a cohort that makes its own and keeps them in the run directory."""
    theirs, ours = (made.source.data_root(made.root, folder) for folder in (run, made.out))
    if ours.is_relative_to(made.out) and theirs.is_dir() and not ours.exists():
        shutil.copytree(theirs, ours, copy_function=lambda a, b: link(Path(a), Path(b)))


def link(file: Path, to: Path) -> None:
    """Give a file a second name, or copy it where that cannot be; every file of a run is replaced, never written to."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(file, to)
        return
    shutil.copy2(file, to)
