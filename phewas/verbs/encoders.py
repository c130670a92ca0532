"""The verbs `phewas encoders`, `phewas encoders show` and `phewas weights verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from phewas.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from phewas.encoders.checkpoint import Fit, Found
    from phewas.encoders.registry import EncoderSpec

_WIDTH, _INDENT = 100, 20


class _PatternFirst(TyperGroup):
    """A group whose first word may also be a wildcard: ``phewas encoders 'papagei*'``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["list", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_PatternFirst, invoke_without_command=True, no_args_is_help=False)
weights = typer.Typer(no_args_is_help=True)


@app.callback()
def encoders(context: typer.Context) -> None:
    """List the encoders, by wildcard if wanted, or show one.

    Examples: phewas encoders; phewas encoders 'papagei*'; phewas encoders show papagei-s
    """
    if context.invoked_subcommand is None:
        listing("*")


@app.command("list")
def listing(
    pattern: Annotated[str, typer.Argument(help="Wildcard, for example 'papagei*'.")] = "*",
) -> None:
    """List the encoders whose name fits a wildcard.

    Example: phewas encoders list 'ecg*'
    """
    from phewas.encoders import registry
    from phewas.errors import EncoderError

    found = [registry.get(name) for name in registry.names(pattern)]
    if not found:
        raise EncoderError(
            f"no encoder fits {pattern!r}", expected=", ".join(registry.names()), cure="phewas encoders lists all"
        )
    rows = [("name", "input", "Hz", "window", "width", "parameters", "needs")]
    for spec in found:
        contract = spec.contract
        window = f"{spec.window_s:g} s" if spec.window_s else "any"
        size = f"{spec.parameters:,}" if spec.parameters else ""
        rows.append((spec.name, _channels(spec), f"{contract.fs_hz:g}", window, str(spec.width), size, _needs(spec)))
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {2, 3, 4, 5}
    for row in rows:
        cells = [c.rjust(n) if i in right else c.ljust(n) for i, (c, n) in enumerate(zip(row, sizes, strict=True))]
        typer.echo("  ".join(cells).rstrip())
    typer.echo("\nphewas encoders show NAME   what it is, where its weights are, and the command that uses them")
    typer.echo("--encoder FILE.py:NAME      an encoder of your own (examples/own_encoder.py)")
    typer.echo("--encoder torchscript:FILE, torchexport:FILE, onnx:FILE, hf:FOLDER   a whole model, frozen")


def _channels(spec: EncoderSpec) -> str:
    channels = spec.contract.channels
    return "+".join(channels) if len(channels) < 4 else f"{channels[0].partition('_')[0]} {len(channels)} leads"


def _needs(spec: EncoderSpec) -> str:
    if spec.unavailable:
        return "cannot be built here"
    extra = f", phewas[{spec.extra}]" if spec.extra else ""
    if spec.bundle is not None:
        return "nothing" + extra
    kind = "--weights FOLDER" if spec.weights_are == "folder" else "--weights FILE"
    return (kind if spec.pretrained else "no weights") + extra


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Encoder, as `phewas encoders` lists it.", show_default=False)],
) -> None:
    """Say what an encoder is and eats, where its weights are, and which command uses them.

    Example: phewas encoders show papagei-s
    """
    from phewas.encoders import registry

    typer.echo("\n".join(_card(registry.get(name), name)))


def _card(spec: EncoderSpec, asked: str) -> Iterable[str]:
    yield spec.title
    yield ""
    yield from _wrapped(spec.description, _WIDTH)
    yield ""
    parts = [
        ("name", spec.name),
        ("input", ", ".join(spec.contract.channels) + f" at {spec.contract.fs_hz:g} Hz"),
        ("window", _window(spec)),
        *_preparation(spec),
        ("inside the network", spec.normalised_inside or "no normalisation of the input"),
        ("embedding", f"{spec.width} numbers per window" + (f": {spec.tensor}" if spec.tensor else "")),
        ("pooling over time", spec.pooling),
        ("parameters", f"{spec.parameters:,}" if spec.parameters else ""),
        ("stored, not used", ", ".join(spec.idle)),
        ("fine-tuning", f"no: {spec.frozen_only}" if spec.frozen_only else "yes"),
        ("pretrained on", ", ".join(spec.pretraining) or ("not known" if spec.pretrained else "nothing")),
        ("weights", spec.source or ("made by training" if not spec.pretrained else "")),
        ("DOI", spec.doi),
        ("form of the file", spec.nesting),
        ("sha256", spec.sha256),
        ("md5", spec.md5),
        ("licence, weights", spec.licence),
        ("licence, code", spec.code_licence),
        ("how to cite it", spec.citation),
        ("code", spec.code),
    ]
    for title, text in parts:
        if text:
            first, *rest = _wrapped(text, _WIDTH - _INDENT - 2)
            yield f"  {title:<{_INDENT}}{first}"
            yield from (f"  {'':<{_INDENT}}{line}" for line in rest)
    yield ""
    if spec.unavailable:
        yield from _wrapped(f"phewas cannot build it: {spec.unavailable}", _WIDTH)
        return
    if spec.extra:
        yield f"pip install 'phewas[{spec.extra}]'"
    yield _command(spec, asked)


def _command(spec: EncoderSpec, asked: str) -> str:
    """Return the one command that uses an encoder."""
    cohort = "mcmed" if spec.contract.channels[0] == "PPG" else "mimic4ecg"
    given = "" if spec.bundle is not None or not spec.pretrained else f" --weights {spec.file or 'FILE'}"
    fit = " --fit probe" if spec.frozen_only else ""
    return f"phewas run --cohort {cohort} --encoder {asked}{given}{fit}"


def _window(spec: EncoderSpec) -> str:
    least, most = spec.samples
    learned = f"{spec.window_s:g} s in pretraining" if spec.window_s else ""
    fixed = spec.contract.window_s
    if fixed is not None:
        return f"exactly {fixed:g} s"
    if least == most:
        return f"exactly {least:,} samples ({least / spec.contract.fs_hz:g} s)"
    bounds = [f"from {least:,} samples" if least > 1 else "", f"up to {most:,} samples" if most else ""]
    return "; ".join(part for part in (learned, *bounds, "" if most else "any length runs") if part)


def _preparation(spec: EncoderSpec) -> list[tuple[str, str]]:
    """Return what phewas does to a window before the encoder sees it, in that order."""
    contract = spec.contract
    bands = dict.fromkeys(contract.band if isinstance(contract.band, tuple) else (contract.band,))
    filters = [f"{b.kind} {b.words()}, order {b.order}, zero-phase" for b in bands if b is not None]
    notch = contract.notch
    scale = "z-score" if contract.normalise_by == "zscore" else "minimum and maximum to -1 and 1"
    over = ", all channels together" if contract.normalise_over == "all" else ""
    epsilon = f" (SD + {contract.epsilon:g})" if contract.epsilon and contract.normalise_by == "zscore" else ""
    words = {
        "polarity": "" if contract.polarity == "as_recorded" else f"upright, judged by the {contract.polarity}",
        "band": " and ".join(filters),
        "notch": "" if notch is None else f"notch at {'the mains' if notch.hz == 'site' else f'{notch.hz:g} Hz'}",
        "smooth": f"moving average of {contract.smooth_s:g} s" if contract.smooth_s else "",
        "baseline": f"less the running median of {contract.baseline_s:g} s" if contract.baseline_s else "",
        "resample": f"to {contract.fs_hz:g} Hz",
        "normalise": f"{scale} by {contract.normalise_scope}{over}{epsilon}",
    }
    if contract.normalise_scope == "none":
        words["normalise"] = ""
    steps = "; ".join(words[step] for step in contract.steps if words[step])
    more = f"; shorter windows padded to {contract.pad_to_s:g} s" if contract.pad_to_s else ""
    return [("prepared by phewas", steps + more)]


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


@weights.callback()
def _weights() -> None:
    """Look at weights files."""


@weights.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="Weights file, or Hugging Face folder.", show_default=False)],
    encoder: Annotated[
        str | None, typer.Option(help="Whose weights they should be. Default: any that fits.", show_default=False)
    ] = None,
) -> None:
    """Say what is in a weights file, which encoder it fits, and whether it is the published one; nothing is unpickled.

    Ends with an error where it fits none, or not the one named, or where a published sha256 is another.

    Examples: phewas weights verify papagei_s.pt; phewas weights verify w.pth --encoder anyppg
    """
    from phewas.encoders import checkpoint, registry

    found = checkpoint.inspect(file)
    sha256 = checkpoint.fingerprint(file)
    typer.echo("\n".join(_content(file, found, sha256)))
    if encoder is not None:
        spec = registry.get(encoder)
        if spec.weights_are == "folder":
            checkpoint.build(spec, file)
            typer.echo(f"\n{spec.name}: fits.")
            return
        fit = checkpoint.load(spec.build(), file, spec=spec)
        typer.echo("\n" + "\n".join(_verdict(spec, file, sha256, fit)))
        if checkpoint.compare(spec, file, sha256)[0] is False:
            told = f"{file.name} fits {spec.name} and is not the published file"
            raise WeightsError(told, cure="obtain it again, unless it is yours")
        return
    whole = [(registry.get(name), fit) for name, fit, _ in checkpoint.candidates(found.state) if fit.whole]
    if not whole:
        raise WeightsError(
            f"{file.name} fits no encoder that phewas builds",
            cure=checkpoint.looks_like(found.state) or "phewas encoders lists them; your own is --encoder FILE.py:NAME",
        )
    for spec, _ in whole:
        fit = checkpoint.load(spec.build(), file, spec=spec)
        typer.echo("\n" + "\n".join(_verdict(spec, file, sha256, fit)))
    if len(whole) > 1:
        typer.echo("\nThese encoders store the same tensors, so that the file alone cannot tell them apart.")


def _content(file: Path, found: Found, sha256: str) -> Iterable[str]:
    size = sum(f.stat().st_size for f in ([file] if file.is_file() else file.glob("*.*")))
    numbers = sum(tensor.numel() for tensor in found.state.values())
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.state.values()})
    yield f"{file}: {size:,} bytes"
    yield f"  sha256    {sha256}"
    yield f"  tensors   {len(found.state):,} with {numbers:,} numbers ({', '.join(kinds)})"
    yield "  nesting   " + (f"under {found.nest}" if found.nest else "none")
    if found.others:
        yield f"  beside    {', '.join(found.others[:8])}"


def _verdict(spec: EncoderSpec, file: Path, sha256: str, fit: Fit) -> Iterable[str]:
    from phewas.encoders import checkpoint

    yield f"{spec.name}: fits" + (f", its names after the prefix {fit.prefix!r}" if fit.prefix else "") + "."
    if fit.beside:
        parts = ", ".join(f"{name} ({n})" for name, n in fit.beside.items())
        yield f"  Not part of the encoder, left alone: {parts}."
    if fit.absent_heads:
        head = fit.absent_heads[0].partition(".")[0]
        yield f"  Not in the file and not needed: {len(fit.absent_heads)} tensors of {head}."
    yield f"  {checkpoint.compare(spec, file, sha256)[1]}"
    yield f"  {_command(spec, spec.name).replace(spec.file or 'FILE', str(file), 1)}"
