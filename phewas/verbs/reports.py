"""`phewas report`, `phewas figures` and `phewas cite`: what is shown of a finished run, made again in seconds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RUN = typer.Argument(metavar="RUN", help="Folder of a run whose evaluate step is done.", show_default=False)
SMALL = typer.Option(
    min=0, help="Hide counts of 1 to this less one. Default: the run's setting; 0 for public cohorts.",
    show_default=False,
)  # fmt: skip


class Format(StrEnum):
    """Of a figure's files."""

    png = "png"
    pdf = "pdf"
    svg = "svg"


class Colours(StrEnum):
    """Of chapters."""

    safe = "safe"
    classic = "classic"


def report(
    run: Annotated[Path, RUN],
    reference: Annotated[
        Path | None,
        typer.Option(help="Published table (CSV or Parquet) to compare with, phenotype by phenotype.",
                     show_default=False),
    ] = None,
    reference_map: Annotated[
        Path | None,
        typer.Option(help="TOML that says which of its columns is which. Default: they are called phenotype, auc, "
                     "auc_low, auc_high, n_pos, n_neg.", show_default=False),
    ] = None,
    small_cell: Annotated[int | None, SMALL] = None,
) -> None:
    """Make the report of a run again: page, tables, workbook and the main figure. Nothing is computed anew.

    Figures that `phewas figures` had drawn into the report are removed; draw them again.

    Example: phewas report phewas-runs/mcmed-anyppg --reference table9.csv --reference-map table9.toml
    """
    from phewas.errors import ConfigError
    from phewas.reports.build import build
    from phewas.reports.meta import read_about
    from phewas.rundir import locked

    if reference_map is not None and reference is None:
        raise ConfigError("--reference-map is given without --reference", cure="give the table too")
    meta = read_about(run)
    threshold = meta.small_cell() if small_cell is None else small_cell
    with locked(run):
        compared = None
        if reference is not None:
            from phewas.reports.reference import Reference
            from phewas.reports.tables import protect
            from phewas.schema import PhenotypeResults
            from phewas.stats.published import compare_published, count_published, read_published

            theirs = read_published(reference, reference_map)
            both = compare_published(protect(PhenotypeResults.read(run), small_cell=threshold), theirs.table)
            compared = Reference(both, count_published(both), theirs.name, theirs.unit, theirs.citation)
        page = build(run, meta=meta, small_cell=threshold, reference=compared)
    typer.echo(f"Report: {page}")


def figures(
    run: Annotated[Path, RUN],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A figure's name; may be repeated. Default: all.")
    ] = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="May be repeated. Default: png, pdf and svg.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: RUN/report/figures.", show_default=False)
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another run, for the scatter and the Miami plot of two encoders.", show_default=False),
    ] = None,
    phenotype: Annotated[
        list[str] | None,
        typer.Option(help="Phenotype of the curve, calibration and subgroup figures; may be repeated. "
                     "Default: the best."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=400, help="Lines of the list of best phenotypes.")] = 60,
    leave_out_other: Annotated[
        bool, typer.Option("--leave-out-other", help="Leave phenotypes called “other” or NOS out of that list.")
    ] = False,
    colours: Annotated[
        Colours, typer.Option(help="Of chapters: safe for colour-blind readers and print, or those of phecode plots.")
    ] = Colours.safe,
    small_cell: Annotated[int | None, SMALL] = None,
) -> None:
    """Draw every figure of a run: PNG at 300 dpi, PDF and SVG with text as text.

    Figures: manhattan_auc, manhattan_p, overview, top, chapters, volcano, roc, precision_recall, calibration,
    subgroups, specificity, training, embedding (after phewas embed), encoders and miami (with --against). RUN may be
    the folder of a comparison (phewas compare): encoders, miami, differences, chapter_differences.

    Example: phewas figures phewas-runs/demo-net1d-small --only overview --format svg
    """
    from phewas.reports.gallery import FORMATS, Wish, write_figures
    from phewas.reports.material import read_material
    from phewas.reports.meta import read_about

    if (run / "comparison.parquet").is_file():
        _compared(run, out, only=only, formats=formats, colours=colours, small_cell=small_cell)
        return
    meta = read_about(run)
    threshold = meta.small_cell() if small_cell is None else small_cell
    other = None if against is None else read_about(against)
    wish = Wish(
        title=f"{meta.encoder} on {meta.title}", colours=colours.value, top=top, leave_out_other=leave_out_other,
        phenotypes=tuple(phenotype or ()), name=meta.encoder,
        against=None if against is None or other is None else read_material(
            against, small_cell=other.small_cell() if small_cell is None else small_cell),
        against_name="" if other is None else other.encoder,
    )
    folder = out or run / "report" / "figures"
    made = write_figures(run, folder, small_cell=threshold, wish=wish, only=only or (),
                         formats=[f.value for f in formats] if formats else FORMATS)
    typer.echo(f"Figures: {len(made)} files in {folder}")


def _compared(
    folder: Path, out: Path | None, *, only: list[str] | None, formats: list[Format] | None, colours: Colours,
    small_cell: int | None,
) -> None:
    """Draw the figures of a comparison."""
    from phewas.reports.comparison import write_comparison_figures
    from phewas.reports.gallery import FORMATS

    place = out or folder / "report" / "figures"
    made = write_comparison_figures(folder, place, small_cell=small_cell, only=only or (), colours=colours.value,
                                    formats=[f.value for f in formats] if formats else FORMATS)
    typer.echo(f"Figures: {len(made)} files in {place}")


def cite(run: Annotated[Path, RUN]) -> None:
    """Print what this run has to cite: tool, data, vocabulary, encoder and the methods that it used.

    Example: phewas cite phewas-runs/demo-net1d-small
    """
    from phewas.reports.citations import citations
    from phewas.reports.meta import read_about
    from phewas.schema import PhenotypeResults

    meta = read_about(run)
    for item in citations(meta, PhenotypeResults.read(run)):
        typer.echo(f"{item.what}: {item.text}")
