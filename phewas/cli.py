"""The command `phewas`. Nothing heavy is imported before a verb runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
from datetime import datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from phewas import __version__
from phewas.errors import PhewasError, disk_full
from phewas.verbs import (
    associate,
    cohorts,
    compare,
    embed,
    emulate,
    encoders,
    evaluate,
    maps,
    predict,
    probe,
    reanalyse,
    reports,
    segments,
    vocabularies,
)
from phewas.verbs.running import Engine, Verbs, stoppable, tell_left_out

app = typer.Typer(
    name="phewas",
    cls=Verbs,
    help="Which diseases can this biosignal encoder see? Phenome-wide AUCs with honest intervals.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

USER_MISTAKE = 2


class Fit(StrEnum):
    """How the encoder is used."""

    finetune = "finetune"
    probe = "probe"


class Device(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Window(StrEnum):
    """Which diagnoses make a label, by date against the encounter."""

    history = "history"
    through_visit = "through_visit"
    any = "any"
    future = "future"


class Step(Enum):
    """The steps of a run, in order."""

    cohort = "cohort"
    split = "split"
    phenotypes = "phenotypes"
    segments = "segments"
    learn = "learn"
    evaluate = "evaluate"
    report = "report"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"phewas {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


WHAT, HOW, LABELS, WHERE = "What to run", "How", "Labels", "Where"


@app.command()
def run(
    cohort: Annotated[
        str | None, typer.Option(help="Cohort: demo needs no data; `phewas cohorts` lists all.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the cohort's data.", rich_help_panel=WHAT, show_default=False)
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder: a name from `phewas encoders`, FILE.py:NAME for your own, or torchscript:FILE, "
            "torchexport:FILE, onnx:FILE, hf:FOLDER. Default: the cohort's, or pulse-features with --fit probe.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of a pretrained encoder: a file (for some a folder), or `random`.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with settings; options given here win.", rich_help_panel=WHAT),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Another run's folder: its settings are taken, and its cohort, split, phenotypes and choice of "
            "windows where they would come out alike. For a second encoder.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="Train the encoder (finetune) or only heads on it (probe). Default: the cohort's.", rich_help_panel=HOW
        ),
    ] = None,
    heldout: Annotated[
        str | None,
        typer.Option(
            help="Who is tested: auto, manifest:FILE, no-synchronous-ppg-ecg, official:random|chrono|file, "
            "random:SHARE or crossfit:FOLDS. Default: the cohort's.",
            rich_help_panel=HOW,
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="Phenotypes: a vocabulary's name or file. Default: phecode1.2.", rich_help_panel=LABELS),
    ] = None,
    label_window: Annotated[
        Window | None,
        typer.Option(help="Which diagnoses count. Default: through_visit.", rich_help_panel=LABELS),
    ] = None,
    min_code_days: Annotated[
        int | None,
        typer.Option(
            min=1, help="Distinct days with a code that a case needs. Default: the cohort's.", rich_help_panel=LABELS
        ),
    ] = None,
    horizon_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_525, help="future: days after the visit. Default: 365.", rich_help_panel=LABELS),
    ] = None,
    follow_up_until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="future: last day on which a diagnosis would have been recorded. Default: the cohort's, if it says.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Every random choice derives from it. Default: 0.", rich_help_panel=HOW)
    ] = None,
    until: Annotated[Step | None, typer.Option(help="Last step to run.", rich_help_panel=HOW)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory. Default: phewas-runs/COHORT-ENCODER.", rich_help_panel=WHERE),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per processor.", rich_help_panel=WHERE)
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Where recordings are read: local processes, a Dask cluster, or Slurm jobs (their size is set "
            "under engine in the --config file; --dry-run prints the job script). Default: local.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="dask: its scheduler, tcp://HOST:PORT.", rich_help_panel=WHERE, show_default=False),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="slurm: number of jobs. Default: 4.", rich_help_panel=WHERE)
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="slurm: partition.", rich_help_panel=WHERE, show_default=False)
    ] = None,
    shard_limit_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="A shard of recordings that takes longer counts as stalled and is tried again. Default: no limit.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Default: auto.", rich_help_panel=WHERE)] = None,
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            help="GPUs (or processes, on a CPU) of this machine that train together. Across machines: "
            "torchrun -m phewas run ...",
            rich_help_panel=WHERE,
        ),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan (steps, counts, disk, time) and write nothing.", rich_help_panel=WHERE
        ),
    ] = False,
) -> None:
    """Run the whole study: cohort, split, phenotypes, segments, learn, evaluate, report.

    Every step can be killed; the same command continues it. A second run does only what has changed.
    Exit codes: 0 done; 2 a mistake, told in words; 3 some recordings were left out because they ended or stalled their
    worker again and again (segments/failed.parquet names them; the rest is done); 130 stopped with Ctrl-C.

    Example: phewas run --cohort demo
    """
    from phewas import launch, settings
    from phewas.plan import plan

    if devices > 1 and not launch.several() and not dry_run:
        sys.exit(launch.launch(launch.same_command(), processes=devices))
    if launch.follows():
        from phewas.progress import console

        console.quiet = True  # the first process speaks for all
    options: dict[str, Any] = {
        "cohort": cohort,
        "data": data,
        "encoder": encoder,
        "weights": weights,
        "fit": fit.value if fit else None,
        "heldout": heldout,
        "seed": seed,
        "workers": workers,
        "device": device.value if device else None,
        "engine": {
            "kind": engine.value if engine else None,
            "scheduler": scheduler,
            "jobs": jobs,
            "partition": partition,
            "limit_s": shard_limit_s,
        },
    }
    base = None
    if start_from is not None:
        from phewas.reuse import settings_of

        base = settings_of(start_from, encoder=encoder)
    asked = settings.resolve(options, config, base=base)
    labels = asked.phenotypes.replaced(
        vocabulary=vocabulary,
        label_window=label_window.value if label_window else None,
        min_code_days=min_code_days,
        horizon_days=horizon_days,
        follow_up_until=follow_up_until.date() if follow_up_until else None,
    )
    made = plan(asked.model_copy(update={"phenotypes": labels}), out=out, command=_command(), start_from=start_from)
    if dry_run:
        from phewas.dryrun import describe

        typer.echo(describe(made, until=until.value if until else None))
        return
    from phewas.pipeline import run as run_steps

    with stoppable():
        page = run_steps(made, until=until.value if until else None)
    if launch.follows():
        return
    if page is not None:
        typer.echo(f"Report: {page}")
    if until not in (Step.cohort, Step.split, Step.phenotypes):
        tell_left_out(made.out)


app.add_typer(cohorts.app, name="cohorts")
app.add_typer(encoders.app, name="encoders")
app.add_typer(encoders.weights, name="weights")
app.command("check")(cohorts.check)
app.add_typer(segments.app, name="segments")
app.add_typer(vocabularies.app, name="vocabularies")
app.command("map")(maps.map_table)
app.command("codes")(vocabularies.codes)
app.command("emulate")(emulate.emulate)
app.command("embed")(embed.embed)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("probe")(probe.probe)
app.command("associate")(associate.associate)
app.command("reanalyse")(reanalyse.reanalyse)
app.command("report")(reports.report)
app.command("figures")(reports.figures)
app.command("cite")(reports.cite)


def _command() -> str:
    """Return the command line in a form that can be typed again."""
    import shlex

    return shlex.join(["phewas", *sys.argv[1:]])


def main() -> None:
    """Run the command line: 0 done, 2 the user's mistake (told without traceback), 3 some left out, 130 interrupted."""
    try:
        app()
    except PhewasError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
            typer.echo(f"phewas: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if "PHEWAS_DEBUG" in os.environ:
            traceback.print_exc()
        full = disk_full(error)
        typer.echo(f"phewas: {full or error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(USER_MISTAKE)
