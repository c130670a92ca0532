"""`phewas segments`: cut windows without going on to a model, look at one, and hand them to other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phewas.errors import ConfigError, RunError, nearest
from phewas.verbs.running import Engine, stoppable, tell_left_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phewas.encoders.registry import InputContract
    from phewas.plan import Plan

app = typer.Typer(help="Cut windows, look at one, export them.", no_args_is_help=False)

RunFolder = Annotated[Path, typer.Option("--run", help="Run directory.", show_default=False)]
EXPORTS = (".npz", ".parquet", ".edf")


@app.callback(invoke_without_command=True)
def cut(
    context: typer.Context,
    cohort: Annotated[str | None, typer.Option(help="Cohort, as for `phewas run`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the cohort's data.", show_default=False)] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder whose input contract is met.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice of windows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    engine: Annotated[Engine | None, typer.Option(help="local, dask or slurm, as for `phewas run`.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="dask: its scheduler, tcp://HOST:PORT.", show_default=False)
    ] = None,
) -> None:
    """Run the steps up to the windows, and no further. `phewas run` with the same --out continues from there.

    Example: phewas segments --cohort demo --out demo-run
    """
    if context.invoked_subcommand is not None:
        return
    from phewas import settings
    from phewas.pipeline import run
    from phewas.plan import plan

    options: dict[str, Any] = {"cohort": cohort, "data": data, "encoder": encoder, "seed": seed, "workers": workers}
    options["engine"] = {"kind": engine.value if engine else None, "scheduler": scheduler}
    resolved = settings.resolve(options, config)
    made = plan(resolved, out=out, command="phewas segments", weights_needed=False)
    with stoppable():
        run(made, until="segments")
    typer.echo(f"Windows: {made.out / 'segments'}")
    tell_left_out(made.out)


def opened(run: Path) -> tuple[Plan, InputContract]:
    """Return the plan that a run directory was made by, with its data root, and the encoder's contract."""
    import json

    from phewas.config import RunConfig
    from phewas.plan import plan
    from phewas.rundir import MANIFEST

    file = run / MANIFEST
    if not file.is_file():
        raise RunError(f"{run} is no run directory", cure="give the folder that `phewas run` or `phewas segments` made")
    config = RunConfig(**json.loads(file.read_text(encoding="utf-8"))["config"])
    made = plan(config, out=run, command="phewas segments", weights_needed=False)
    return made, made.spec.contract


@app.command()
def show(
    segment: Annotated[str, typer.Argument(help="Segment id (`recording:start`), or the row number in the store.")],
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="PNG to write. Default: segment-ROW.png here.")] = None,
) -> None:
    """Draw one window, raw and as the encoder gets it, here and as a PNG.

    Example: phewas segments show 0 --run phewas-runs/demo-net1d-small
    """
    from phewas.rundir import atomic
    from phewas.segments.store import SegmentStore

    made, contract = opened(run)
    store = SegmentStore.open(run, contract)
    ids = store.index.get_column("segment_id").to_list()
    row = ids.index(segment) if segment in ids else -1
    if row < 0 and segment.isdigit() and int(segment) < len(ids):
        row = int(segment)
    if row < 0:
        raise ConfigError(
            f"the store has no segment {segment!r}.{nearest(segment, ids[:2000])}",
            expected=f"a segment id, or a row number below {len(ids)}",
            cure=f"the ids are in {run / 'segments'} in the windows table",
        )
    import numpy as np

    ready = store.gather(np.array([row]))[0].astype(np.float64)
    columns, lines = terminal_size()
    drawn = []
    for i, channel in enumerate(contract.channels):
        raw, fs_hz = raw_window(made, store.index.row(row, named=True), run, channel)
        drawn += [(f"{channel}, raw, {fs_hz:g} Hz", raw)]
        drawn += [(f"{channel}, as the encoder gets it, {contract.fs_hz:g} Hz", ready[i])]
    for title, values in drawn:
        typer.echo(f"\n{title}, {made.window_s:g} s")
        typer.echo(sketch(values, columns=columns, lines=max(4, (lines - 4 - 2 * len(drawn)) // len(drawn))))
    quality = {n: v for n, v in store.index.row(row, named=True).items() if n.startswith("q_")}
    told = (f"{n.removeprefix('q_')} {v:.3f}" for n, v in quality.items() if v is not None and not np.isnan(v))
    typer.echo("\n" + ", ".join(told))
    file = out or Path(f"segment-{row}.png")
    with atomic(file) as handle:
        handle.write(picture(drawn, made.window_s))
    typer.echo(f"Picture: {file}")


def raw_window(made: Plan, row: dict[str, Any], run: Path, channel: str) -> tuple[NDArray[np.float32], float]:
    """Return the raw samples of one channel of a window, and their rate."""
    import polars as pl

    from phewas.schema import Recordings
    from phewas.segments.opened import open_row
    from phewas.segments.store import of_channel

    name, start = (of_channel(c, made.spec.contract.channels, channel) for c in ("recording_id", "start_sample"))
    record = Recordings.read(run).filter(pl.col("recording_id") == row[name]).row(0, named=True)
    recording = open_row(made.source.data_root(made.root, run), record)
    samples = round(made.window_s * record["fs_hz"])
    return recording.read(row[start], row[start] + samples), record["fs_hz"]


def terminal_size() -> tuple[int, int]:
    """Return columns and lines of the terminal, or 80 by 24."""
    import shutil

    size = shutil.get_terminal_size()
    return size.columns, size.lines


BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def sketch(values: NDArray[Any], *, columns: int, lines: int) -> str:
    """Draw a signal in braille dots, two columns and four rows of dots a character; gaps where it is missing.

    Parameters
    ----------
    values
        float [samples]; NaN is missing.
    columns, lines
        Size in characters.
    """
    import numpy as np

    dots_x, dots_y = 2 * columns, 4 * lines
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    grid = np.zeros((lines, columns), dtype=np.int32)
    edges = np.linspace(0, len(values), dots_x + 1).astype(int)
    for x in range(dots_x):
        part = values[edges[x] : max(edges[x] + 1, edges[x + 1])]
        part = part[np.isfinite(part)]
        if not len(part):
            continue
        scale = (dots_y - 1) / max(high - low, 1e-12)
        for y in range(round((high - float(part.max())) * scale), round((high - float(part.min())) * scale) + 1):
            grid[y // 4, x // 2] |= BRAILLE[y % 4][x % 2]
    return "\n".join("".join(chr(0x2800 + cell) for cell in line).rstrip("\u2800") for line in grid.tolist())


def picture(drawn: list[tuple[str, NDArray[Any]]], seconds: float) -> bytes:
    """Return a PNG of signals of the same time below each other, each under its title."""
    import io

    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.4 + 1.8 * len(drawn)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, values) in zip(axes, drawn, strict=True):
        ax.plot(np.arange(len(values)) * seconds / len(values), values, lw=0.8, color="#1f4e79")
        ax.set_title(title, loc="left", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0)
    axes[-1].set_xlabel("seconds")
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="Where to: .npz (arrays), .parquet (one row a window) or .edf (end to end).")
    ],
    run: RunFolder,
) -> None:
    """Write all windows with their ids for other tools. Patient identifiers are left out.

    An EDF file holds the windows end to end, in the order of the store, with the row number as annotation of each.

    Example: phewas segments export windows.npz --run phewas-runs/demo-net1d-small
    """
    from phewas.segments.export import export as write
    from phewas.segments.store import SegmentStore

    if file.suffix not in EXPORTS:
        raise ConfigError(f"windows cannot be exported to {file.name}", expected=" or ".join(EXPORTS),
                          cure="phewas segments export windows.npz --run RUN")  # fmt: skip
    _, contract = opened(run)
    store = SegmentStore.open(run, contract)
    samples = write(store, file, contract=contract)
    typer.echo(f"{store.index.height:,} windows of {samples} samples: {file}")
