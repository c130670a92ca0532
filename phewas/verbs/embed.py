"""`phewas embed`: one vector per segment and encounter, of a cohort or of one's own signals."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phewas.errors import ConfigError, EncoderError, SignalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phewas.encoders.registry import EncoderSpec
    from phewas.plan import Plan

ARRAYS = (".npy", ".npz", ".parquet")
BLOCK_ROWS = 4096
COHORT, ARRAY, HOW = "A cohort", "One's own signals", "How"


class Where(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Arithmetic(StrEnum):
    """In which precision."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"


def embed(
    cohort: Annotated[str | None, typer.Option(help="Cohort, as for `phewas run`.", rich_help_panel=COHORT)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the cohort's data.", show_default=False, rich_help_panel=COHORT)
    ] = None,
    phenotype: Annotated[
        str | None,
        typer.Option(help="Phenotype that colours the picture. Default: the most frequent.", rich_help_panel=COHORT),
    ] = None,
    array: Annotated[
        Path | None,
        typer.Option(help="NPY, NPZ or Parquet with one window per row, as recorded.", rich_help_panel=ARRAY),
    ] = None,
    fs_hz: Annotated[float | None, typer.Option(help="Samples per second of --array.", rich_help_panel=ARRAY)] = None,
    mains_hz: Annotated[
        float | None,
        typer.Option(help="Mains frequency where --array was recorded, for ECG encoders that notch it.",
                     rich_help_panel=ARRAY),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder. Default: pulse-features.", rich_help_panel=HOW)] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights: a file, or `random`.", show_default=False, rich_help_panel=HOW)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.", rich_help_panel=HOW)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice of windows.", rich_help_panel=HOW)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; with --array, the Parquet file to write.", rich_help_panel=HOW),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", rich_help_panel=HOW)] = None,
    device: Annotated[Where, typer.Option(help="Where the encoder runs.", rich_help_panel=HOW)] = Where.auto,
    precision: Annotated[
        Arithmetic,
        typer.Option(help="auto: bf16 on a GPU, float32 on a processor.", rich_help_panel=HOW),
    ] = Arithmetic.auto,
) -> None:
    """Embed a cohort's segments and encounters, or one's own signals, as Parquet.

    A cohort: RUN/embeddings/segments/*.parquet and encounters.parquet (column `embedding`, a list of float32), and a
    picture, RUN/embeddings/embedding.png. A killed call continues where it was.

    Example: phewas embed --cohort demo --encoder pulse-features
    """
    options = {"encoder": encoder, "weights": weights, "seed": seed, "workers": workers, "device": device.value}
    if array is not None and cohort is None:
        if phenotype or data:
            raise ConfigError("--array has no cohort", cure="leave out --data and --phenotype")
        _array(array, fs_hz, encoder, weights, seed or 0, out, device.value, precision.value, mains_hz)
    elif cohort is not None and array is None:
        if mains_hz is not None:
            raise ConfigError("--mains-hz belongs to --array", cure="[segments] mains_hz = 50 in a --config file")
        _cohort(options | {"cohort": cohort, "data": data}, config, out, phenotype, precision.value)
    else:
        raise ConfigError(
            "there is nothing to embed" if cohort is None else "a cohort and an array cannot be embedded at once",
            cure="phewas embed --cohort demo, or phewas embed --array FILE --fs-hz 125 --out FILE.parquet",
        )


def _precision(asked: str, device: str, spec: EncoderSpec) -> Any:
    """Return float32 or bf16; an encoder without weights has nothing to round."""
    if asked == "auto":
        return "bf16" if device == "cuda" and not spec.frozen_only else "float32"
    return asked


def _cohort(
    options: dict[str, Any], config: Path | None, out: Path | None, phenotype: str | None, precision: str
) -> None:
    """Run the steps up to the segments, embed them, and draw the picture."""
    import torch

    from phewas import settings
    from phewas.learning.embed import Embed, embed_store
    from phewas.pipeline import run
    from phewas.plan import plan
    from phewas.rundir import locked

    # Embeddings are a frozen use: without an encoder named, the same default as for --fit probe.
    resolved = settings.resolve(options | {"fit": "probe"}, config)
    made = plan(resolved, out=out, command="phewas embed")
    run(made, until="segments")
    with locked(made.out):
        folder = embed_store(
            Embed(
                run=made.out,
                spec=made.spec,
                weights=made.weights,
                weights_sha256=made.weights_sha256,
                seed=made.config.seed,
                device=torch.device(made.device),
                precision=_precision(precision, made.device, made.spec),
            )
        )
        picture = _picture(made, folder, phenotype)
    typer.echo(f"Embeddings: {folder}")
    if picture is not None:
        typer.echo(f"Picture: {picture}")


def _picture(made: Plan, folder: Path, phenotype: str | None) -> Path | None:
    """Draw the map of the encounters; None, and a line that says why, where too few people would be shown."""
    from phewas.progress import say
    from phewas.reports.embedding import picture
    from phewas.rundir import atomic, write_parquet
    from phewas.stats.embedding_map import coordinates

    small = 0 if made.source.card.public else made.config.report.small_cell
    places = coordinates(made.out, folder / "encounters.parquet", seed=made.config.seed)
    write_parquet(places, folder / "map.parquet")
    drawn = picture(made.out, places, phenotype=phenotype, small_cell=small, title=made.spec.title)
    if drawn.png is not None and places.height > 15 and places["method"][0] == "PCA":
        say("Note: the picture shows principal components; UMAP needs pip install 'phewas[umap]'")
    for note in drawn.notes:
        say(f"Note: {note}")
    if drawn.png is None:
        return None
    file = folder / "embedding.png"
    with atomic(file) as handle:
        handle.write(drawn.png)
    return file


def _array(
    file: Path, fs_hz: float | None, encoder: str | None, weights: str | None, seed: int, out: Path | None,
    device: str, precision: str, mains_hz: float | None,
) -> None:  # fmt: skip
    """Embed the rows of a file through the encoder's own preprocessing."""
    from dataclasses import replace

    import numpy as np
    import polars as pl

    from phewas.encoders import registry
    from phewas.learning.embed import column, ready, vectors
    from phewas.learning.model import pick_device
    from phewas.plan import PROBE_ENCODER
    from phewas.progress import progress, say
    from phewas.rundir import write_parquet
    from phewas.segments.filtering import as_given, holds_band, prepare, survey_of
    from phewas.segments.quality import fill_gaps

    spec = registry.get(encoder or PROBE_ENCODER)
    _complain(spec, weights, fs_hz, out)
    notch = spec.contract.notch
    if notch is not None and notch.hz == "site" and mains_hz is None:
        say(f"{spec.name} wants a notch at the mains frequency, and it is not known: none is applied (--mains-hz).")
    spec = replace(spec, contract=spec.contract.at_site(mains_hz))
    assert fs_hz is not None
    assert out is not None
    values = read_windows(file)
    band = spec.contract.band_of(spec.contract.channels[0])
    if not holds_band(spec.contract, spec.contract.channels[0], fs_hz):
        edge = band.high_hz if band is not None and band.high_hz is not None else 0.0
        raise EncoderError(
            f"{file.name} is sampled at {fs_hz:g} Hz and {spec.name} wants up to {edge:g} Hz",
            expected=f"more than {2 * edge:g} Hz",
            cure="give the signal as it was recorded, before it was thinned",
        )
    where = pick_device(device)
    exactly = _precision(precision, where.type, spec)
    model = ready(spec, weights=weights, seed=seed, device=where, precision=exactly)
    window_s = values.shape[1] / fs_hz
    spec.contract.check_window(window_s)
    empty = ~np.isfinite(values).any(1)
    parts = []
    with progress("embed", total=len(values), unit="segments") as advance:
        for at in range(0, len(values), BLOCK_ROWS):
            rows = values[at : at + BLOCK_ROWS]
            whole = np.array([fill_gaps(row) if np.isfinite(row).any() else np.zeros_like(row) for row in rows])
            # A row is all that is known of its recording.
            told = [survey_of(row, fs_hz=fs_hz, contract=spec.contract) for row in whole]
            made = prepare(whole, fs_hz=fs_hz, contract=spec.contract, window_s=window_s, whole=told)
            given = as_given(made, spec.contract)[:, None]
            parts.append(vectors(model, given, device=where, precision=exactly))
            advance(len(rows), "")
    found = np.concatenate(parts)
    found[empty] = np.nan
    table = pl.DataFrame({"row": np.arange(len(found))}).with_columns(column(found))
    write_parquet(table, out)
    if empty.any():
        say(f"Note: {int(empty.sum())} rows hold no number; their embedding is NaN")
    typer.echo(f"{len(found):,} embeddings of {found.shape[1]} numbers ({window_s:g}-s windows): {out}")


def _complain(spec: EncoderSpec, weights: str | None, fs_hz: float | None, out: Path | None) -> None:
    """Say in words what is missing for one's own signals."""
    if fs_hz is None or not 0 < fs_hz < 1e6:
        raise ConfigError(
            "the samples per second of the array are not known", cure="add --fs-hz, for example --fs-hz 125"
        )
    if out is None or out.suffix != ".parquet":
        raise ConfigError("no Parquet file to write was named", cure="add --out embeddings.parquet")
    if len(spec.contract.channels) != 1:
        raise EncoderError(
            f"{spec.name} takes {'+'.join(spec.contract.channels)} together", expected="an encoder of one channel"
        )
    if spec.pretrained and weights is None:
        raise ConfigError(
            f"the weights of {spec.name} are not known",
            cure=f"--weights FILE (from {spec.source}), or --weights random",
        )


def read_windows(file: Path) -> NDArray[np.float32]:
    """Return float32 [windows, samples] from NPY, NPZ (`signal`, or the only array) or Parquet.

    Parquet: the column `signal` (lists of one length), or one column per sample. NaN and infinities are missing.

    Raises
    ------
    SignalError
        No such file, another form, or rows of unequal length.
    """
    import numpy as np
    import polars as pl

    if not file.is_file() or file.suffix not in ARRAYS:
        raise SignalError(
            f"{file} is no file of windows" if file.is_file() else f"there is no file {file}",
            expected="one window per row, in " + ", ".join(ARRAYS),
        )
    try:
        if file.suffix == ".parquet":
            table = pl.read_parquet(file)
            if "signal" in table.columns:
                values = np.stack(table.get_column("signal").to_list())
            else:
                values = table.select(pl.selectors.numeric()).to_numpy()
        else:
            found = np.load(file, allow_pickle=False)
            if file.suffix == ".npz":
                names = found.files
                found = found["signal" if "signal" in names else names[0]]
            values = found
    except (ValueError, OSError, EOFError, IndexError, pl.exceptions.PolarsError) as error:
        raise SignalError(f"{file.name} cannot be read as an array ({error})", expected="numbers only") from error
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iuf":
        raise SignalError(
            f"{file.name} holds {values.dtype} {list(values.shape)}", expected="numbers [windows, samples]"
        )
    return np.asarray(values, dtype=np.float32)
