"""`phewas compare`: runs against each other on the same encounters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; each is held against the first.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("phewas-comparison"),
    seed: Annotated[int, typer.Option(help="Of the patient draws.")] = 0,
) -> None:
    """Compare encoders: paired differences of AUC per phenotype and chapter, on the very same encounters and labels.

    Writes comparison.parquet, comparison.csv and comparison_chapters.parquet with exact counts: not for sharing. In
    report/ small cells are hidden: a page, its table, and the figures encoders, miami, differences and
    chapter_differences, which `phewas figures FOLDER` draws again in other formats.

    Example: phewas compare phewas-runs/demo-anyppg phewas-runs/demo-pulse-features
    """
    for run in runs:
        if not (run / "results").is_dir():
            raise ConfigError(f"{run} holds no results", expected="a run folder whose evaluate step is done",
                              cure="phewas run --until evaluate")
    from phewas.reports.comparison import write_comparison
    from phewas.schema import Comparison, ComparisonChapters
    from phewas.stats.versus import compare_runs, in_words

    names = [run.resolve().name for run in runs]
    comparison, chapters = compare_runs(runs, names=names, seed=seed)
    Comparison.write(comparison, out)
    ComparisonChapters.write(chapters, out)
    comparison.write_csv(out / "comparison.csv")
    _about(runs, names, out, seed=seed)
    for line in in_words(chapters):
        typer.echo(line)
    typer.echo(f"Tables: {out}")
    typer.echo(f"Report: {write_comparison(out)}")


def _about(runs: list[Path], names: list[str], out: Path, *, seed: int) -> None:
    """Write what the page of the comparison says; small cells are hidden as the strictest of the runs has it."""
    import shlex

    from phewas.reports.comparison import About, write_about
    from phewas.reports.meta import read_about
    from phewas.schema import PhenotypeResults

    told = [read_about(run) for run in runs]
    results = [PhenotypeResults.read(run) for run in runs]
    chapters = results[0].select("chapter_order", "chapter").unique().sort("chapter_order", "chapter").rows()
    command = ["phewas", "compare", *map(str, runs), "--out", str(out), "--seed", str(seed)]
    write_about(About(
        cohort=told[0].title, encoders={n: meta.encoder for n, meta in zip(names, told, strict=True)},
        small_cell=max(meta.small_cell() for meta in told), command=shlex.join(command),
        segments=any("segment" in table["unit"].unique().to_list() for table in results), chapters=chapters,
    ), out)
