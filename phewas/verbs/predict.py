"""`phewas predict`: a finished model on another cohort, from the waveforms to the report."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from phewas.verbs.running import stoppable, tell_left_out


class Where(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Aggregate(StrEnum):
    """How an encounter's segments are scored together."""

    mean = "mean"
    mean_probability = "mean_probability"
    median = "median"


def predict(
    model: Annotated[Path, typer.Option(help="The folder model/ of a finished run.")],
    cohort: Annotated[str, typer.Option(help="Cohort to score: a name from `phewas cohorts`.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the cohort's data.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings of labels, windows, report.")] = None,
    aggregate: Annotated[
        Aggregate | None, typer.Option(help="An encounter's score from its segments. Default: mean (logit).")
    ] = None,
    same_patients_as: Annotated[
        list[str] | None,
        typer.Option(help="A cohort whose patients are this one's, under the same identifiers: whom the model has met "
                     "there is left out. May be given again.", show_default=False),
    ] = None,
    segments: Annotated[bool, typer.Option("--segments", help="Keep the logits of every segment, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: phewas-runs/COHORT-ENCODER-applied.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice of windows. Default: 0.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that read recordings.")] = None,
    device: Annotated[Where | None, typer.Option(help="Default: auto.")] = None,
) -> None:
    """Apply a finished model, unchanged, to any cohort: external validation.

    Patients whom the model has met are left out. Windows are prepared as the model's encoder asks; a model that does
    not fit (other phenotypes, another window length, an encoder whose input has changed) is refused. Writes
    predictions/logits.npy, results/ and report/. A killed call continues where it was.

    Example: phewas predict --model phewas-runs/mcmed-anyppg/model --cohort mimic4 --data /data/mimic-iv
    """
    from phewas import settings
    from phewas.learning.apply import Finished
    from phewas.pipeline import run
    from phewas.plan import plan

    finished = Finished.open(model)
    options: dict[str, Any] = {
        "cohort": cohort, "data": data, "encoder": finished.meta["encoder"], "seed": seed, "workers": workers,
        "device": device.value if device else None, "same_patients_as": same_patients_as or None,
        "segments": {"window_s": finished.window_s},
        "learn": {"aggregate": aggregate.value if aggregate else None, "segment_predictions": segments or None},
    }  # fmt: skip
    vocabulary = finished.meta["vocabulary"]
    asked = settings.resolve(options, config)
    own = settings.read_toml(config).get("phenotypes", {}) if config is not None else {}
    if len(vocabulary) == 1 and "vocabulary" not in own:
        asked = asked.model_copy(update={"phenotypes": asked.phenotypes.replaced(vocabulary=vocabulary[0])})
    import shlex

    made = plan(asked, out=out, command=shlex.join(["phewas", *sys.argv[1:]]), model=model)
    with stoppable():
        page = run(made)
    typer.echo(f"Predictions: {made.out / 'predictions'}")
    typer.echo(f"Report: {page}")
    tell_left_out(made.out)
