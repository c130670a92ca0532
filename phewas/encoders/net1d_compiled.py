"""The compiled passes of `phewas.encoders.fast` over a `Net1D`'s activations.

Activations are float32 [windows, samples, channels] with channels side by side, so that a 1x1 convolution is one matrix
product, which torch does. Everything between two products is one pass here, in vectors of 16 channels (`Lanes`): bias,
activation, grouped convolution, squeeze and identity. The vectors are spelled out in the compiler's own terms because
it does not find them in plain loops; it maps them to what the processor has (one AVX-512 register, two of AVX2, four of
NEON). Convolutions keep `TILE` neighbouring outputs in registers while they run over their inputs.

Import this module only where numba is there, as `phewas.encoders.fast` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from phewas.compiling import compiled

# What these build is code for another machine, of which a type checker sees nothing.
cgutils: Any = numba.core.cgutils
intrinsic: Any = numba.extending.intrinsic

WIDTH = 16
"""Channels per vector, and the group width of every published Net1D."""

TILE = 10
"""Outputs that a convolution computes at once; ten vectors and a weight fit the registers."""

FLOAT, INT = ir.FloatType(), ir.IntType(32)
VECTOR, WHOLE = ir.VectorType(FLOAT, WIDTH), ir.VectorType(INT, WIDTH)

LOG2E = 1.4426950408889634
ROUNDER = 12582912.0  # 1.5 * 2**23: a float32 of this size has no fraction, so that adding it rounds to an integer
EXPONENT_BITS = 23
FARTHEST = 87.0  # exp(+-87) is still a normal float32
# The Taylor series of 2**f for |f| <= 1/2, highest power first; the first term left out is below 2e-7.
POWER_TERMS = (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)


class Lanes(types.Type):
    """Sixteen float32 that are worked on together."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16")


LANES = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)  # type: ignore[no-untyped-call]


def _all(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(np.float32(value)))] * WIDTH)


def _spread(builder: Any, value: Any) -> Any:
    """Repeat one number in all lanes."""
    nothing = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(WHOLE, [0] * WIDTH))


def _call(builder: Any, name: str, *values: Any) -> Any:
    """Call an operation of the compiler on vectors."""
    form = ir.FunctionType(VECTOR, [VECTOR] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, form, f"llvm.{name}.v{WIDTH}f32"), values)


def _silu(builder: Any, x: Any) -> Any:
    """Return x / (1 + exp(-x)), to about 1e-6 of it; exp(-x) is a power of two times a polynomial."""
    z = _call(builder, "minnum", _call(builder, "maxnum", x, _all(-FARTHEST)), _all(FARTHEST))
    rounded = _call(builder, "fma", z, _all(-LOG2E), _all(ROUNDER))
    fraction = _call(builder, "fma", z, _all(-LOG2E), builder.fneg(builder.fsub(rounded, _all(ROUNDER))))
    power = _all(POWER_TERMS[0])
    for term in POWER_TERMS[1:]:
        power = _call(builder, "fma", power, fraction, _all(term))
    exponent = builder.shl(builder.bitcast(rounded, WHOLE), ir.Constant(WHOLE, [EXPONENT_BITS] * WIDTH))
    exp = builder.bitcast(builder.add(builder.bitcast(power, WHOLE), exponent), VECTOR)
    return builder.fdiv(x, builder.fadd(exp, _all(1)))


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return the address of element `at` of a contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, builder.bitcast(place, VECTOR.as_pointer()), align=4)


@intrinsic  # type: ignore[untyped-decorator]
def load(_: Any, array: Any, at: Any) -> Any:
    """Return elements at .. at + 16 of a contiguous float32 array, whatever its dimensions."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _load(builder, _place(context, builder, signature.args[0], *values))

    return LANES(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(_: Any, array: Any, at: Any, value: Any) -> Any:
    """Write sixteen elements."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store(builder, values[2], _place(context, builder, signature.args[0], values[0], values[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), generate


def _operation(count: int, emit: Callable[..., Any]) -> Any:
    """Return a function of `count` vectors to one, for use in compiled code."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    signature = LANES(*[LANES] * count)
    if count == 1:
        return intrinsic(lambda _, a: (signature, generate))
    if count == 2:
        return intrinsic(lambda _, a, b: (signature, generate))
    return intrinsic(lambda _, a, b, c: (signature, generate))


add = _operation(2, lambda builder, a, b: builder.fadd(a, b))
multiply = _operation(2, lambda builder, a, b: builder.fmul(a, b))
multiply_add = _operation(3, lambda builder, a, b, c: _call(builder, "fma", a, b, c))
larger = _operation(2, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
not_negative = _operation(1, lambda builder, a: builder.select(builder.fcmp_ordered("<", a, _all(0)), _all(0), a))
silu = _operation(1, _silu)


def _convolution(rows: int) -> Any:
    """Return what convolves `rows` neighbouring outputs of 16 channels and activates them, for use in compiled code.

    Its arguments: source and where the first output's inputs begin, elements from one output to the next, from one tap
    to the next; taps; inputs per tap; weights [.., taps, inputs, 16] and where they begin; the bias; target, where the
    first output goes and elements to the next.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, at, step, tap_step, taps, inputs, weights, first, bias, target, to, to_step = values
        kinds = signature.args
        sums = [cgutils.alloca_once_value(builder, bias) for _ in range(rows)]
        steps = [builder.mul(step, ir.Constant(step.type, row)) for row in range(rows)]
        with cgutils.for_range(builder, taps) as tap:
            start = builder.add(at, builder.mul(tap.index, tap_step))
            begin = builder.add(first, builder.mul(builder.mul(tap.index, inputs), ir.Constant(at.type, WIDTH)))
            with cgutils.for_range(builder, inputs) as one:
                here = builder.add(begin, builder.mul(one.index, ir.Constant(at.type, WIDTH)))
                weight = _load(builder, _place(context, builder, kinds[6], weights, here))
                for row in range(rows):
                    place = builder.add(builder.add(start, one.index), steps[row])
                    value = builder.load(_place(context, builder, kinds[0], source, place), align=4)
                    total = _call(builder, "fma", _spread(builder, value), weight, builder.load(sums[row]))
                    builder.store(total, sums[row])
        for row in range(rows):
            place = builder.add(to, builder.mul(to_step, ir.Constant(to.type, row)))
            _store(builder, _silu(builder, builder.load(sums[row])), _place(context, builder, kinds[9], target, place))
        return context.get_dummy_value()

    def typed(_, source, at, step, tap_step, taps, inputs, weights, first, bias, target, to, to_step):  # type: ignore[no-untyped-def]
        place = types.intp
        return types.void(
            source, place, place, place, place, place, weights, place, LANES, target, place, place
        ), generate  # fmt: skip

    return intrinsic(typed)


convolve_tile, convolve_one = _convolution(TILE), _convolution(1)


@compiled
def _convolve(source, start, step, tap_step, taps, inputs, weights, first, bias, target, at, count, channels):  # type: ignore[no-untyped-def]
    """Fill `count` outputs of 16 channels; the last tile goes back over outputs that are there already."""
    done = 0
    while done < count:
        if count < TILE:
            convolve_one(source, start + done * step, step, tap_step, taps, inputs, weights, first, bias, target,
                         at + done * channels, channels)  # fmt: skip
            done += 1
        else:
            done = min(done, count - TILE)
            convolve_tile(source, start + done * step, step, tap_step, taps, inputs, weights, first, bias, target,
                          at + done * channels, channels)  # fmt: skip
            done += TILE


@compiled
def stem(x, weights, bias, stride, left, padded, out):  # type: ignore[no-untyped-def]
    """Convolve and activate the signals themselves.

    Parameters: x float32 [windows, signals, samples]; weights [channels / 16, taps, signals, 16]; bias [channels];
    stride; zeros before the first sample; padded, zeros float32 [samples with padding, signals]; out [windows, steps,
    channels].
    """
    windows, signals, samples = x.shape
    steps, channels, taps = out.shape[1], out.shape[2], weights.shape[1]
    for window in range(windows):
        for signal in range(signals):
            for sample in range(samples):
                padded[left + sample, signal] = x[window, signal, sample]
        for lane in range(0, channels, WIDTH):
            _convolve(padded, 0, stride * signals, signals, taps, signals, weights, lane * taps * signals,
                      load(bias, lane), out, window * steps * channels + lane, steps, channels)  # fmt: skip


@compiled
def middle(x, bias_in, weights, bias, stride, left, padded, out, mean):  # type: ignore[no-untyped-def]
    """Add a bias and activate, convolve in groups and activate; also the mean over time.

    Parameters: x float32 [windows, samples, channels]; weights [groups, taps, 16, 16], inputs before outputs; padded,
    zeros float32 [samples with padding, channels]; out [windows, steps, channels]; mean [windows, channels].
    """
    windows, samples, channels = x.shape
    steps, taps = out.shape[1], weights.shape[1]
    for window in range(windows):
        for sample in range(samples):
            for lane in range(0, channels, WIDTH):
                value = load(x, (window * samples + sample) * channels + lane)
                store(padded, (left + sample) * channels + lane, silu(add(value, load(bias_in, lane))))
        for lane in range(0, channels, WIDTH):
            at = window * steps * channels + lane
            _convolve(padded, lane, stride * channels, channels, taps, WIDTH, weights, lane * taps * WIDTH,
                      load(bias, lane), out, at, steps, channels)  # fmt: skip
            total = load(out, at)
            for step in range(1, steps):
                total = add(total, load(out, at + step * channels))
            store(mean, window * channels + lane, total)
        for channel in range(channels):
            mean[window, channel] /= np.float32(steps)


@compiled
def finish(x, bias, squeeze, identity, stride, out, scale, offset, active):  # type: ignore[no-untyped-def]
    """Close a block: bias, squeeze, the identity added; and what the next block begins with, normalised and activated.

    Parameters: x float32 [windows, steps, channels]; bias [channels]; squeeze [windows, channels]; identity [windows,
    samples, channels of the block's input], which is pooled by the stride and lies in the middle of the channels; out
    as x; scale, offset [channels]; active as x, or of length 0 where nothing follows.
    """
    windows, steps, channels = x.shape
    samples, narrow = identity.shape[1], identity.shape[2]
    before = (channels - narrow) // 2
    for window in range(windows):
        for step in range(steps):
            row = (window * steps + step) * channels
            for lane in range(0, channels, WIDTH):
                value = add(load(x, row + lane), load(bias, lane))
                store(out, row + lane, multiply(value, load(squeeze, window * channels + lane)))
            last = min((step + 1) * stride, samples)
            for lane in range(0, narrow, WIDTH):
                value = load(identity, (window * samples + step * stride) * narrow + lane)
                for sample in range(step * stride + 1, last):
                    value = larger(value, load(identity, (window * samples + sample) * narrow + lane))
                if last < (step + 1) * stride:
                    value = not_negative(value)
                at = row + before + lane
                store(out, at, add(load(out, at), value))
            if len(active):
                for lane in range(0, channels, WIDTH):
                    value = multiply_add(load(out, row + lane), load(scale, lane), load(offset, lane))
                    store(active, row + lane, silu(value))
