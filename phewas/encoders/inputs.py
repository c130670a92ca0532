"""The input contract, enforced: a window that an encoder was not made for is an error that names the conversion."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from phewas.encoders.registry import EncoderSpec
from phewas.errors import EncoderError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

RATE_TOLERANCE = 1e-3
MEAN_TOLERANCE, SPREAD_TOLERANCE = 0.25, 0.25  # of a standardised window, whatever its epsilon and rounding


def check_signal(spec: EncoderSpec, *, channels: Sequence[str] | int, fs_hz: float, samples: int | None = None) -> None:
    """Check that a signal is what an encoder takes.

    Parameters
    ----------
    spec
        The encoder.
    channels
        Channel names in order, or their number where they have no names.
    fs_hz
        Samples per second.
    samples
        Per channel and window; None where windows are still to be cut.

    Raises
    ------
    EncoderError
        Rate, channels or length are others; the message gives the conversion.
    """
    contract = spec.contract
    wanted = "+".join(contract.channels)
    given = channels if isinstance(channels, int) else len(channels)
    if given != len(contract.channels) or (not isinstance(channels, int) and tuple(channels) != contract.channels):
        told = f"{given} channels" if isinstance(channels, int) else "+".join(channels)
        raise EncoderError(
            f"the signal has {told}, and {spec.name} takes {wanted}",
            expected=f"{len(contract.channels)} channel(s) in this order: {', '.join(contract.channels)}",
            cure="choose and order the channels: x[:, [i, j], :]; or another encoder: phewas encoders",
        )
    if abs(fs_hz - contract.fs_hz) > RATE_TOLERANCE * contract.fs_hz:
        ratio = Fraction(contract.fs_hz / fs_hz).limit_denominator(10_000)
        raise EncoderError(
            f"the signal has {fs_hz:g} Hz, and {spec.name} takes {contract.fs_hz:g} Hz",
            expected=f"{contract.fs_hz:g} samples per second",
            cure=f"scipy.signal.resample_poly(x, {ratio.numerator}, {ratio.denominator}, axis=-1), or leave the "
            "conversion to phewas, which filters and resamples windows from their own rate",
        )
    if samples is not None:
        check_length(spec, samples)


def check_length(spec: EncoderSpec, samples: int) -> None:
    """Check the number of samples per channel of a window.

    Raises
    ------
    EncoderError
        There are too few or too many.
    """
    spec.contract.check_window(samples / spec.contract.fs_hz)
    least, most = spec.samples
    if least <= samples and (most is None or samples <= most):
        return
    fs_hz = spec.contract.fs_hz
    if least == most:
        words, seconds = f"exactly {least:,} samples ({least / fs_hz:g} s)", least / fs_hz
    elif samples < least:
        words, seconds = f"at least {least:,} samples ({least / fs_hz:g} s)", least / fs_hz
    else:
        assert most is not None
        words, seconds = f"at most {most:,} samples ({most / fs_hz:g} s)", most / fs_hz
    raise EncoderError(
        f"a window has {samples:,} samples ({samples / fs_hz:g} s at {fs_hz:g} Hz), and {spec.name} takes {words}",
        expected=words,
        cure=f"windows of that length: [segments] window_s = {seconds:g} in a --config file"
        + (", or zero-pad on both sides: numpy.pad(x, ((0, 0), (0, 0), (a, b)))" if samples < least else ""),
    )


def check_batch(spec: EncoderSpec, x: NDArray[Any], *, fs_hz: float | None = None) -> None:
    """Check windows that are about to be embedded: shape, finiteness, and whether they were standardised.

    Parameters
    ----------
    spec
        The encoder.
    x
        float [windows, channels, samples].
    fs_hz
        Their rate; None where it is known to be the contract's.

    Raises
    ------
    EncoderError
        The windows are not what the encoder takes; the message gives the conversion.
    """
    import numpy as np

    if x.ndim != 3:
        cure = "x[:, None, :] makes one channel of [windows, samples]"
        raise EncoderError(f"the windows have shape {x.shape}", expected="[windows, channels, samples]", cure=cure)
    check_signal(spec, channels=x.shape[1], fs_hz=fs_hz or spec.contract.fs_hz, samples=x.shape[2])
    values = np.asarray(x, dtype=np.float64)
    if not np.isfinite(values).all():
        raise EncoderError(
            "a window holds NaN or infinity",
            expected="finite samples",
            cure="leave such windows out, or fill short gaps by interpolation",
        )
    if not spec.contract.standardised or not len(values):
        return
    mean, spread = values.mean((-2, -1)), values.std((-2, -1))
    varying = spread > 0
    off = varying & ((np.abs(mean) > MEAN_TOLERANCE) | (np.abs(spread - 1) > SPREAD_TOLERANCE))
    if off.mean() > 0.5:
        first = int(np.flatnonzero(off)[0])
        raise EncoderError(
            f"{int(off.sum())} of {len(values)} windows are not standardised (window {first} has mean "
            f"{mean[first]:.3g} and standard deviation {spread[first]:.3g}), and {spec.name} takes z-scored windows",
            expected="mean 0 and standard deviation 1 in each window",
            cure="(x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + "
            f"{spec.contract.epsilon:g}), after filtering",
        )


def try_out(spec: EncoderSpec, model: nn.Module, *, window_s: float) -> None:
    """Run two windows of noise through an encoder and check what comes out.

    Raises
    ------
    EncoderError
        It fails on its own input contract, or its output is not float [windows, width], or not finite.
    """
    import torch

    samples = spec.contract.length(window_s)
    check_length(spec, samples)
    x = torch.randn(2, len(spec.contract.channels), samples, generator=torch.Generator().manual_seed(0))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            out = model(x)
    except EncoderError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise EncoderError(
            f"{spec.name} fails on windows of its own contract, float32 {list(x.shape)}: {type(error).__name__}: "
            f"{first[:300]}",
            expected=f"an embedding [2, {spec.width}]",
            cure="check `samples` and `contract` of its record, and its own code",
        ) from error
    finally:
        model.train(was_training)
    shape = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if not isinstance(out, torch.Tensor) or shape != [2, spec.width] or not out.is_floating_point():
        raise EncoderError(
            f"{spec.name} maps {list(x.shape)} to {shape}",
            expected=f"float [2, {spec.width}]: one embedding per window, of the width in its record",
            cure="pool over time in the model's forward, or mend `width` in its record",
        )
    if not torch.isfinite(out).all() and not getattr(model, "may_miss", False):
        raise EncoderError(f"{spec.name} gives NaN or infinity on noise", cure="check its weights and its arithmetic")
