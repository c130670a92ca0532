"""The verbs `phewas cohorts`, `phewas cohorts show` and `phewas check`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phewas.errors import CohortError

if TYPE_CHECKING:
    from phewas.cohorts.base import CohortCard
    from phewas.cohorts.check import Report

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)

WHAT, HOW = "What to look at", "How"
_WIDTH = 100
_MARKS = {"ok": "ok  ", "note": "note", "warning": "LOOK"}


@app.callback()
def cohorts(context: typer.Context) -> None:
    """List the cohorts, or show one.

    Example: phewas cohorts
    """
    if context.invoked_subcommand is not None:
        return
    from phewas import cohorts as room

    for name in room.available():
        card = room.get(name).card
        data = "" if card.needs_data else "  (needs no data)"
        typer.echo(f"{name:<12} {card.title}{data}")
    typer.echo("\nphewas cohorts show NAME   what it reads, needs, and where to get it")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Cohort, as `phewas cohorts` lists it.", show_default=False)],
) -> None:
    """Say what a cohort reads, what it needs, where to get it, and what a run takes from it.

    Example: phewas cohorts show mcmed
    """
    from phewas import cohorts as room

    source = room.get(name)
    typer.echo("\n".join(_card(source.card)))
    template = _template(name)
    if template:
        typer.echo(f"\nDescription file to fill in:\n\n{template}")


def _template(name: str) -> str:
    """Return the description file that a source asks its user for; empty where it needs none."""
    import importlib

    from phewas import cohorts as room

    if name not in room.BUILT_IN:
        return ""
    make = getattr(importlib.import_module(room.BUILT_IN[name]), "template", None)
    return str(make()) if callable(make) else ""


def _card(card: CohortCard) -> list[str]:
    lines = [card.title, "", *_wrapped(card.description), ""]
    rows = [
        ("name", card.name),
        ("where to get it", card.obtain),
        ("licence", card.licence),
        ("how to cite it", card.citation),
        ("small counts", "may be shown" if card.public else "are hidden in reports"),
        ("index channel", f"{card.index_channel}, in windows of {card.window_s:g} s"),
        ("mains frequency", f"{card.mains_hz} Hz" if card.mains_hz else "not known: [segments] mains_hz"),
        ("a case needs", f"{card.min_code_days} distinct day{'s' if card.min_code_days > 1 else ''} with a code"),
        ("held-out rule", card.heldout),
        ("encoder", f"{card.encoder}, {card.fit}"),
        ("covariates", ", ".join(card.covariates) or "none besides age and sex"),
    ]
    if card.pretraining_name == "unknown":
        rows.append(("contamination", "cannot be excluded for a pretrained encoder, unless its patients are listed"))
    elif card.pretraining_name:
        rows.append(("contamination", f"counted as met by encoders pretrained on {card.pretraining_name}"))
    for title, text in rows:
        first, *rest = _wrapped(text, width=_WIDTH - 18)
        lines += [f"  {title:<16}{first}", *(f"  {'':<16}{line}" for line in rest)]
    if card.notes:
        lines += ["", "What a reader of the results must know:"]
        for note in card.notes:
            first, *rest = _wrapped(note, width=_WIDTH - 4)
            lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    data = " --data FOLDER" if card.needs_data else ""
    lines += ["", f"phewas check --cohort {card.name}{data}", f"phewas run --cohort {card.name}{data}"]
    return lines


def _wrapped(text: str, *, width: int = _WIDTH) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]


def check(
    cohort: Annotated[str, typer.Option(help="Cohort; `phewas cohorts` lists all.", rich_help_panel=WHAT)],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the cohort's data.", rich_help_panel=WHAT, show_default=False)
    ] = None,
    segments: Annotated[int, typer.Option(min=1, help="Windows per encounter.", rich_help_panel=HOW)] = 20,
    window: Annotated[
        float | None,
        typer.Option(help="Window length in seconds. Default: the cohort's.", rich_help_panel=HOW, show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample of waveform folders.", rich_help_panel=HOW)] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with an error where something looks wrong.", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Look at the data for a minute before a run of many hours.

    Says what is there, what is missing, what will be lost and why, how many encounters, patients and windows to expect,
    and whether identifiers, code systems, clocks and units fit together. Writes nothing.

    Example: phewas check --cohort mcmed --data /data/mc-med
    """
    import time

    from phewas import settings
    from phewas.cohorts import get
    from phewas.cohorts.check import check as look
    from phewas.config import RunConfig
    from phewas.errors import ConfigError

    if window is not None and not window > 0:
        raise ConfigError(f"--window is {window:g}", expected="seconds above 0")
    began = time.monotonic()
    card = get(cohort).card
    root = settings.data_root(RunConfig(cohort=cohort, data=data)) if card.needs_data or data else None
    report = look(cohort, root=root, seed=seed, n_segments=segments, window_s=window)
    typer.echo("\n".join(_lines(report, time.monotonic() - began)))
    wrong = [f for f in report.findings if f.level == "warning"]
    if strict and wrong:
        raise CohortError(
            f"{len(wrong)} thing{'s look' if len(wrong) > 1 else ' looks'} wrong: {', '.join(f.title for f in wrong)}",
            cure="see the lines marked LOOK above",
        )


def _lines(report: Report, seconds: float) -> Iterable[str]:
    from phewas.schema import REASONS

    yield f"phewas check: {report.card.title}"
    yield f"  folder: {report.root if report.root is not None else 'none needed'}"
    yield ""
    yield "There"
    yield from (f"  {line}" for line in report.there)
    if report.missing:
        yield "Not there"
        yield from (f"  {line}" for line in _wrapped(", ".join(report.missing), width=_WIDTH - 2))
    yield "To expect"
    yield from (f"  {words:<46}{value:>16}" for words, value in report.expect.items())
    yield "Lost or mended" + (", from a sample" if report.sampled else "")
    for table, reason, n in report.losses:
        number = f"about {n:,}" if report.sampled else f"{n:,}"
        yield f"  {number:>16}  {table}: {REASONS[reason]}"
    if not report.losses:
        yield "  nothing"
    if report.cost:
        yield "Disk and time (orders of magnitude)"
        yield from (f"  {words:<20}{value}" for words, value in report.cost.items())
    yield "Does it fit together"
    for finding in report.findings:
        first, *rest = _wrapped(f"{finding.title}: {finding.evidence}", width=_WIDTH - 8)
        yield f"  {_MARKS[finding.level]}  {first}"
        yield from (f"        {line}" for line in rest)
        if finding.cure:
            yield from (f"        -> {line}" for line in _wrapped(finding.cure, width=_WIDTH - 11))
    yield ""
    wrong = sum(f.level == "warning" for f in report.findings)
    verdict = "Nothing looks wrong." if not wrong else f"{wrong} thing{'s' if wrong > 1 else ''} to look at first."
    yield f"{verdict} Looked for {seconds:.0f} s; nothing was written."
