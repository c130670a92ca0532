"""What commands that run steps share: where shards run, and how a command ends that is stopped or leaves some out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

INTERRUPTED = 130
LEFT_OUT = 3


class Engine(StrEnum):
    """Where shards run."""

    local = "local"
    dask = "dask"
    slurm = "slurm"


class Verbs(TyperGroup):
    """The verbs of the command line; Ctrl-C ends each of them with a line and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\nStopped. What was not finished lies under no final name; the same command does it again.",
                       err=True)  # fmt: skip
            raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C into a line that says how to continue, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nStopped. The same command continues where it was.", err=True)
        raise typer.Exit(INTERRUPTED) from None


def tell_left_out(run: Path) -> None:
    """End with exit code 3 where recordings were left out because they ended or stalled their worker."""
    import polars as pl

    from phewas.segments.extract import FAILED_FILE

    file = run / FAILED_FILE
    if not file.is_file():
        return
    n = pl.scan_parquet(file).select(pl.len()).collect().item()
    typer.echo(
        f"phewas: {n} recording{'s were' if n != 1 else ' was'} left out after ending or stalling the reading process; "
        f"{file} names them. Everything else is done.\n"
        "What to do: look at them; to have them tried again, delete that file and give the same command",
        err=True,
    )
    raise typer.Exit(LEFT_OUT)
