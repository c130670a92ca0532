"""`phewas emulate`: a made-up hospital in the file layout of a real one, for trials before the real data are there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError


class Layout(StrEnum):
    """Whose file layout is emulated."""

    mcmed = "mcmed"


class Preset(StrEnum):
    """Sizes."""

    tiny = "tiny"
    demo = "demo"
    small = "small"
    study = "study"
    full = "full"


WHAT, HOW, WHERE = "What to make", "How", "Where"


def emulate(
    layout: Annotated[Layout, typer.Argument(help="Layout.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; new or empty. The truth goes beside it.", rich_help_panel=WHERE),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            help="tiny: 40 patients, 5 MB. demo: 600, common conditions, 70 MB. small: 2,000, 1 GB. study: 15,000, "
            "9 GB. full: 70,545, tables only, 0.6 GB.",
            rich_help_panel=WHAT,
        ),
    ] = Preset.small,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Number of patients. Default: the preset's.", rich_help_panel=WHAT)
    ] = None,
    waveforms: Annotated[
        bool | None,
        typer.Option("--waveforms/--no-waveforms", help="Default: the preset's.", rich_help_panel=WHAT),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option, such as malformed=0.02 or zip=true; may be repeated.",
            rich_help_panel=HOW,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another hospital.", rich_help_panel=HOW)] = 0,
    show: Annotated[
        bool, typer.Option("--show", help="Print the options with their values and write nothing.", rich_help_panel=HOW)
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per processor.", rich_help_panel=WHERE)
    ] = None,
) -> None:
    """Write a made-up hospital: tables and waveforms as in the real files, with known effects and real faults.

    Nobody in it is real. What was planted stands in emulated.json beside the folder. Every fault is an option;
    `--set traps=false` switches all of them off.

    Example: phewas emulate mcmed --preset tiny --out trial/mc-med
    """  # fmt: skip
    import dataclasses

    from phewas.cohorts.emulator.mcmed import emulate_mcmed, size_bytes
    from phewas.cohorts.emulator.options import TRAPS, options

    made = options(preset.value, settings=settings or (), patients=patients, waveforms=waveforms)
    if show:
        for name, value in dataclasses.asdict(made).items():
            text = str(value).lower() if isinstance(value, bool) else value
            typer.echo(f"{name} = {text}" + ("    # trap" if name in TRAPS else ""))
        typer.echo(f"# about {size_bytes(made.effective()) / 1e9:.2g} GB")
        return
    if out is None:
        raise ConfigError("no folder to write to", cure=f"phewas emulate {layout.value} --out FOLDER")
    done = emulate_mcmed(out, options=made, seed=seed, workers=workers)
    rows = ", ".join(f"{name} {n:,}" for name, n in done.rows.items())
    typer.echo(f"Rows: {rows}")
    typer.echo(f"Tree: {out}   truth: {done.marker}")
    if made.waveforms:
        typer.echo(f"Next: phewas run --cohort mcmed --data {out}")
