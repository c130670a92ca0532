"""The demo's emulated emergency department in the layout of MC-MED: small, with common effects and every fault.

A hospital of any size, with shares close to the published ones, is made by `phewas.cohorts.emulator.mcmed`. This one
keeps its own path, because the demo's numbers hold for its very bytes.

Nothing inside the tree says that it is emulated; ``emulated.json`` beside it does, and holds the truth.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from phewas.cohorts.emulator.demo_people import Person, people
from phewas.cohorts.emulator.demo_tables import write_tables
from phewas.cohorts.emulator.demo_waves import write_waveforms
from phewas.cohorts.emulator.planted import PLANTED
from phewas.errors import CohortError
from phewas.rundir import write_json

MARKER = "emulated.json"


def truth(persons: list[Person], *, seed: int) -> dict[str, object]:
    """Return what was planted, with the shares that came out."""
    monitored = [(p, v) for p in persons for v in p.visits if v.monitored]
    rows = []
    for k, planted in enumerate(PLANTED):
        with_code = [p for p in persons if k in p.onsets]
        at_visit = sum(1 for p, v in monitored if k in p.onsets and p.onsets[k] <= v.departure.date())
        rows.append(
            {
                "code": planted.code,
                "phecode": planted.phecode,
                "kind": planted.kind,
                "sex": planted.sex or "both",
                "share_of_patients": round(len(with_code) / max(len(persons), 1), 4),
                "share_of_monitored_visits": round(at_visit / max(len(monitored), 1), 4),
                "n_case_patients": len(with_code),
            }
        )
    return {
        "emulated": True,
        "meaning": "Made-up patients and signals in the file layout of MC-MED; no figure describes a real person.",
        "seed": seed,
        "n_patients": len(persons),
        "n_visits": sum(len(p.visits) for p in persons),
        "n_monitored_visits": len(monitored),
        "planted": rows,
    }


def emulate(root: Path, *, patients: int, seed: int, waveforms: bool = True) -> None:
    """Write an emulated MC-MED tree to `root`, and the truth to ``emulated.json`` beside it.

    Parameters
    ----------
    root
        Folder to write; it must not exist. It appears under this name only when it is complete.
    patients
        Number of patients, 1 to 300,000; 600 give about 60 MB in a few seconds.
    seed
        The same seed and number give the same bytes.
    waveforms
        False writes the tables and an empty waveform folder, for trials of the tables at full size.

    Raises
    ------
    CohortError
        `root` exists already, or `patients` is out of range.
    """
    if root.exists():
        raise CohortError(
            f"{root} exists already", expected="a new folder", cure="give another folder, or remove this one"
        )
    if not 1 <= patients <= 300_000:
        raise CohortError(f"{patients} emulated patients", expected="1 to 300,000")
    persons = people(patients=patients, seed=seed)
    growing = root.with_name(f".{root.name}.growing")
    shutil.rmtree(growing, ignore_errors=True)
    (growing / "waveforms").mkdir(parents=True)
    written = write_waveforms(growing / "waveforms", persons, seed=seed) if waveforms else {}
    write_tables(growing, persons, written, seed=seed)
    write_json(truth(persons, seed=seed), root.parent / MARKER)
    growing.rename(root)
