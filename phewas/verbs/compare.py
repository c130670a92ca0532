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

    Writes comparison.parquet, comparison.csv and comparison_chapters.parquet with exact counts: not for sharing.
    `phewas figures RUN --against RUN` draws scatter and Miami plot.

    Example: phewas compare phewas-runs/demo-anyppg phewas-runs/demo-pulse-features
    """
    for run in runs:
        if not (run / "results").is_dir():
            raise ConfigError(f"{run} holds no results", expected="a run folder whose evaluate step is done",
                              cure="phewas run --until evaluate")
    from phewas.schema import Comparison, ComparisonChapters
    from phewas.stats.versus import compare_runs, in_words

    comparison, chapters = compare_runs(runs, names=[run.resolve().name for run in runs], seed=seed)
    Comparison.write(comparison, out)
    ComparisonChapters.write(chapters, out)
    comparison.write_csv(out / "comparison.csv")
    for line in in_words(chapters):
        typer.echo(line)
    typer.echo(f"Tables: {out}")
