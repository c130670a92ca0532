"""`phewas probe`: one task on frozen embeddings, by the protocol of the encoders' publications."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phewas.errors import ConfigError
from phewas.verbs import embed as embedding


class Kind(StrEnum):
    """What the label is."""

    binary = "binary"
    multiclass = "multiclass"
    regression = "regression"


class Unit(StrEnum):
    """What the bootstrap draws."""

    auto = "auto"
    row = "row"


def probe(
    data: Annotated[
        Path,
        typer.Option(
            help="NPZ or Parquet with one row per window: signal (or embedding), the label under the task's name, and "
            "where known patient_id and split (train, val, test)."
        ),
    ],
    task: Annotated[str, typer.Option(help="Name of the label, such as hr.")],
    type: Annotated[Kind, typer.Option(help="What the label is.")],
    encoder: Annotated[str | None, typer.Option(help="Encoder of the signals. Default: pulse-features.")] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights: a file, or `random`.", show_default=False)] = None,
    fs_hz: Annotated[float | None, typer.Option(help="Samples per second of the signals.")] = None,
    bootstraps: Annotated[int, typer.Option(min=1, help="Samples of the bootstrap.")] = 500,
    unit: Annotated[
        Unit, typer.Option(help="The bootstrap draws patients where they are known (auto), or rows, as published.")
    ] = Unit.auto,
    seed: Annotated[int, typer.Option(help="Of the bootstrap, and of the test side where the file has no split.")] = 0,
    device: Annotated[embedding.Where, typer.Option(help="Where the encoder runs.")] = embedding.Where.auto,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Linear probe of one task: standardised embeddings, grid search over 5 folds, bootstrap on the test rows.

    Binary: logistic regression, C 0.01 to 100, by AUC. Multi-class: random forest, by accuracy, one-against-rest macro
    AUC. Regression: ridge, alpha 0.1 to 100, by mean absolute error; MAE and Pearson's r. Rows without a label (NaN,
    blank, or -1 beside 0 and 1) are left out and counted.

    Example: phewas probe --data ppg.npz --task hr --type regression --fs-hz 125 --encoder anyppg --weights FILE
    """
    import numpy as np
    import polars as pl

    from phewas.learning import linear_probe
    from phewas.rundir import write_json

    read, vectors = linear_probe.read_task(data, task=task, kind=type.value, seed=seed)
    if vectors is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "embedding.parquet"
            embedding.embed(
                array=data, fs_hz=fs_hz, encoder=encoder, weights=weights, seed=seed, out=file, device=device
            )
            vectors = pl.read_parquet(file)["embedding"].to_numpy()[read.rows]
    elif encoder or weights:
        raise ConfigError(f"{data.name} holds embeddings, and an encoder was named", cure="leave --encoder out")
    found = linear_probe.evaluate(
        read, np.asarray(vectors, dtype=np.float32), seed=seed, bootstraps=bootstraps, by_row=unit is Unit.row
    )
    chosen = ", ".join(f"{name} {value}" for name, value in found["chosen"].items())
    typer.echo(f"{task}: {found['n_train']:,} training and {found['n_test']:,} test rows ({chosen})")
    if found["n_without_label"]:
        typer.echo(f"  {found['n_without_label']:,} rows without a label were left out")
    for name, (value, low, high) in found["measures"].items():
        interval = "" if low is None else f" ({low:.3f} to {high:.3f}, bootstrap by {found['bootstrap']['unit']})"
        typer.echo(f"  {name:<9}{value:.3f}{interval}")
    if out is not None:
        write_json(found | {"encoder": encoder or "embeddings given"}, out)
        typer.echo(f"Written: {out}")
