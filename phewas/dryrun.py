"""What ``--dry-run`` prints: the steps, what each will do, and what it will cost; nothing is written."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from phewas.encoders.registry import EncoderSpec
from phewas.pipeline import STEPS, is_current
from phewas.plan import Plan
from phewas.rundir import RunDirectory

# Measured on two cores of a 2024 server processor; orders of magnitude, not promises.
WINDOWS_PER_S = 1_500.0  # read, filter, resample, standardise, per worker
FEATURES_PER_S = 5_000.0  # pulse-features, by formula
# Arithmetic of a network per second, from AnyPPG's 0.21 GFLOP a window: about 350 windows forward and 47 in training,
# which takes three times as much. A machine is nearer to its peak in a larger network: these are on the slow side.
FORWARD_FLOPS_PER_S, TRAIN_FLOPS_PER_S, TRAIN_TIMES = 75e9, 30e9, 3.0
GPU_FACTOR = 200.0
TRAINING_SHARE = 0.6
ALL_GUESS = 100  # windows of an encounter when all are wanted

WORDS = {
    "cohort": "read patients, encounters, codes and recordings",
    "split": "decide who is tested",
    "phenotypes": "map codes to phenotypes and label every encounter",
    "segments": "choose, filter and standardise windows",
    "learn": "fit the model and score the test side",
    "evaluate": "AUCs, intervals, baseline, rivals and differences",
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
        took = seconds[step]
        told = ("unknown" if took is None else _time(took)) if stale else ""
        lines.append(f"  {step:<12}{state:<10}{told:>9}   {WORDS[step]}")
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


def flops(spec: EncoderSpec, *, window_s: float) -> float | None:
    """Return the floating-point operations of one window's embedding; None where they cannot be counted.

    The network is built without storage and nothing is computed. Whole models in a file, and modules that do other
    things than torch's matrix products and convolutions, cannot be counted.
    """
    if spec.bundle is not None or spec.unavailable:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shape = (1, len(spec.contract.channels), spec.contract.length(window_s))
    with contextlib.suppress(Exception), warnings.catch_warnings():  # anybody's module; an estimate may not end a plan
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            model = spec.build().eval()
            x = torch.empty(shape)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(x)
        return float(counter.get_total_flops()) or None
    return None


def _learning(made: Plan, encounters: int, each: int) -> float | None:
    """Return a rough time for learning and scoring; None where the encoder's cost is not known."""
    windows, speed = encounters * each, GPU_FACTOR if made.device == "cuda" else 1.0
    if made.spec.name == "pulse-features":
        return windows / FEATURES_PER_S
    cost = flops(made.spec, window_s=made.window_s)
    if cost is None:
        return None
    seconds = windows * cost / FORWARD_FLOPS_PER_S
    if made.fit == "finetune":
        drawn = TRAINING_SHARE * encounters * min(made.config.learn.segments_per_encounter, each)
        seconds += drawn * made.config.learn.epochs * TRAIN_TIMES * cost / TRAIN_FLOPS_PER_S
    return seconds / speed


def _seconds(made: Plan, encounters: int, each: int) -> dict[str, float | None]:
    """Return a rough time for each step; None where it is not known."""
    windows = encounters * each
    learn = _learning(made, encounters, each)
    return {
        "cohort": 1 + encounters / 2_000,
        "split": 1.0,
        "phenotypes": 1 + encounters / 10_000,
        "segments": 2 + windows / WINDOWS_PER_S / made.workers,
        "learn": None if learn is None else 2 + learn,
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
