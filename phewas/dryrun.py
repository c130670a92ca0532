"""What ``--dry-run`` prints: the steps, what each will do, and what it will cost; nothing is written."""

from __future__ import annotations

from typing import Any

from phewas.pipeline import STEPS, is_current
from phewas.plan import Plan
from phewas.rundir import RunDirectory

# Measured on two cores of a 2024 server processor; orders of magnitude, not promises.
WINDOWS_PER_S = 1_500.0  # read, filter, resample, standardise, per worker
FORWARD_PER_S = {"anyppg": 500.0, "net1d-small": 4_000.0, "pulse-features": 5_000.0}
TRAIN_PER_S = {"anyppg": 47.0, "net1d-small": 1_000.0}
SLOWEST_FORWARD, SLOWEST_TRAIN = 500.0, 47.0
GPU_FACTOR = 200.0
TRAINING_SHARE = 0.6
ALL_GUESS = 100  # windows of an encounter when all are wanted

WORDS = {
    "cohort": "read patients, encounters, codes and recordings",
    "split": "decide who is tested",
    "phenotypes": "map codes to phenotypes and label every encounter",
    "segments": "choose, filter and standardise windows",
    "learn": "fit the model and score the test side",
    "evaluate": "AUCs, intervals, baseline and differences",
    "report": "table, figures and page",
}


def describe(made: Plan, *, until: str | None) -> str:
    """Return the plan of a run in words.

    Parameters
    ----------
    made
        From `phewas.plan.plan`.
    until
        Last step, or None for all.
    """
    counts = made.source.scan(made.root)
    directory = RunDirectory(made.out)
    if directory.identity:
        directory.claim(made.identity())
    # A folder of waveforms is one encounter with signal; a source without such folders says how many it has.
    folders = int(counts.get("n_waveform_folders", 0))
    encounters = folders if folders > 1 else int(counts.get("n_encounters", 0))
    wanted = made.config.segments.n_segments
    each = ALL_GUESS if wanted == "all" else wanted
    windows = encounters * each
    samples = made.spec.contract.length(made.window_s)
    seconds = _seconds(made, encounters, each)
    engine = made.config.engine
    where = {
        "local": f"{made.workers} workers",
        "dask": f"the Dask cluster at {engine.scheduler}",
        "slurm": f"{engine.jobs} Slurm jobs of {engine.cores} workers",
    }
    lines = [
        f"phewas run: {made.source.card.title}",
        f"  encoder      {made.spec.name} ({_weights(made)})",
        f"  data         {made.root if made.root is not None else 'made by the cohort itself'}",
        f"  run folder   {made.out}",
        f"  held out by  {made.heldout}",
        f"  fit          {made.fit} on {made.device}; segments by {where[engine.kind]}",
        "  found        " + _found(counts),
        "",
        f"  {'step':<12}{'state':<10}{'about':>9}   what",
    ]
    stale = False
    for step in STEPS:
        stale = stale or not is_current(made, directory, step)
        state = "to do" if stale else "done"
        lines.append(f"  {step:<12}{state:<10}{_time(seconds[step]) if stale else '':>9}   {WORDS[step]}")
        if step == until:
            break
    disk = windows * samples * 2
    lines += [
        "",
        f"  at most {windows:,} windows of {made.window_s:g} s ({samples} samples), {disk / 1e9:.2f} GB of segments",
        "  Times are orders of magnitude. Nothing was written.",
    ]
    if engine.kind == "slurm":
        from phewas.engine_dask import job_script

        script = job_script(engine, folder=made.out.absolute())
        lines += ["", "Each Slurm job would be:", "", *(f"  {line}" for line in script.splitlines())]
    return "\n".join(lines)


def _weights(made: Plan) -> str:
    if made.pretrained:
        return f"weights {made.weights}"
    return "no weights" if made.spec.frozen_only else "random weights"


def _seconds(made: Plan, encounters: int, each: int) -> dict[str, float]:
    """Return a rough time for each step."""
    speed = GPU_FACTOR if made.device == "cuda" else 1.0
    forward = FORWARD_PER_S.get(made.spec.name, SLOWEST_FORWARD) * speed
    train = TRAIN_PER_S.get(made.spec.name, SLOWEST_TRAIN) * speed
    windows = encounters * each
    learn = windows / forward
    if made.fit == "finetune":
        drawn = min(made.config.learn.segments_per_encounter, each)
        learn += TRAINING_SHARE * encounters * drawn / train * made.config.learn.epochs
    return {
        "cohort": 1 + encounters / 2_000,
        "split": 1.0,
        "phenotypes": 1 + encounters / 10_000,
        "segments": 2 + windows / WINDOWS_PER_S / made.workers,
        "learn": 2 + learn,
        "evaluate": 2 + encounters / 2_000,
        "report": 10.0,
    }


def _time(seconds: float) -> str:
    """Return seconds, minutes or hours, rounded as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _found(counts: dict[str, Any]) -> str:
    """Return a source's quick counts in words."""
    numbers = {name.removeprefix("n_").replace("_", " "): n for name, n in counts.items() if name.startswith("n_")}
    words = [f"{n:,} {name}" for name, n in numbers.items()]
    missing = counts.get("missing") or []
    return ", ".join(words) + (f"; not there: {', '.join(missing)}" if missing else "")
