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
from phewas.errors import PhewasError
from phewas.verbs import cohorts, emulate, maps, reanalyse, segments, vocabularies

app = typer.Typer(
    name="phewas",
    help="Which diseases can this biosignal encoder see? Phenome-wide AUCs with honest intervals.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
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
        typer.Option(help="Encoder; `phewas encoders` lists all. Default: the cohort's.", rich_help_panel=WHAT),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of a pretrained encoder: a file, or `random`.", rich_help_panel=WHAT, show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with settings; options given here win.", rich_help_panel=WHAT),
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
    device: Annotated[Device | None, typer.Option(help="Default: auto.", rich_help_panel=WHERE)] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan (steps, counts, disk, time) and write nothing.", rich_help_panel=WHERE
        ),
    ] = False,
) -> None:
    """Run the whole study: cohort, split, phenotypes, segments, learn, evaluate, report.

    Every step can be killed; the same command continues it. A second run does only what has changed.

    Example: phewas run --cohort demo
    """
    from phewas import settings
    from phewas.plan import plan

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
    }
    asked = settings.resolve(options, config)
    labels = asked.phenotypes.replaced(
        vocabulary=vocabulary,
        label_window=label_window.value if label_window else None,
        min_code_days=min_code_days,
        horizon_days=horizon_days,
        follow_up_until=follow_up_until.date() if follow_up_until else None,
    )
    made = plan(asked.model_copy(update={"phenotypes": labels}), out=out, command=_command())
    if dry_run:
        from phewas.dryrun import describe

        typer.echo(describe(made, until=until.value if until else None))
        return
    from phewas.pipeline import run as run_steps

    try:
        page = run_steps(made, until=until.value if until else None)
    except KeyboardInterrupt:
        typer.echo("\nStopped. The same command continues where it was.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if page is not None:
        typer.echo(f"Report: {page}")


@app.command()
def encoders(pattern: Annotated[str, typer.Argument(help="Wildcard, for example 'net1d*'.")] = "*") -> None:
    """List the encoders."""
    from phewas.encoders import registry

    for name in registry.names(pattern):
        spec = registry.get(name)
        needs = "needs --weights" if spec.pretrained else "needs no weights"
        channels = "+".join(spec.contract.channels)
        typer.echo(f"{name:<14} {spec.title:<28} {channels} {spec.contract.fs_hz:g} Hz  {needs}")


app.add_typer(cohorts.app, name="cohorts")
app.command("check")(cohorts.check)
app.add_typer(segments.app, name="segments")
app.add_typer(vocabularies.app, name="vocabularies")
app.command("map")(maps.map_table)
app.command("codes")(vocabularies.codes)
app.command("emulate")(emulate.emulate)
app.command("reanalyse")(reanalyse.reanalyse)


def _command() -> str:
    """Return the command line in a form that can be typed again."""
    import shlex

    return shlex.join(["phewas", *sys.argv[1:]])


def main() -> None:
    """Run the command line: 0 done, 2 the user's mistake (told without traceback), 130 interrupted."""
    try:
        app()
    except PhewasError as error:
        typer.echo(f"phewas: {error}", err=True)
        sys.exit(USER_MISTAKE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if "PHEWAS_DEBUG" in os.environ:
            traceback.print_exc()
        typer.echo(f"phewas: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(USER_MISTAKE)
