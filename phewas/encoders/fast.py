"""Known encoders in a form that answers faster with the same outputs, for use without gradients.

For `Net1D` on a processor: normalisation that follows a convolution is folded into its weights, the squeeze's first
layer into the convolution before it; everything between two matrix products is one compiled pass
(`phewas.encoders.net1d_compiled`); windows are taken a few at a time, on one thread each, so that their activations
stay in the cache. Outputs agree with the plain module to about 1e-6 of their size; nothing is approximated. Without
numba the plain module is used. On a GPU: `phewas.encoders.fast_gpu`.
"""

from __future__ import annotations

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from phewas.encoders.fast_gpu import GpuNet1D
from phewas.encoders.folding import affine, folded
from phewas.encoders.net1d import Block, Net1D, SameConv1d
from phewas.errors import EncoderError

Floats = NDArray[np.float32]

LANES = 16
"""Channel counts and the group width must be multiples of this, and equal to it, as in every published Net1D."""

PLAIN = "PHEWAS_PLAIN_ENCODERS"
"""Environment variable: when it is set to anything, encoders run as they are written."""

SAMPLES_AT_ONCE = 32 * 1250
"""Of input per thread: what is computed for them fits the second and third cache."""

WINDOWS_PER_THREAD = 64
"""Wished for in one call, so that no thread waits long for the last."""


def fast(model: nn.Module) -> nn.Module:
    """Return an equal model in which every known encoder is replaced by its faster form.

    Parameters
    ----------
    model
        In eval mode, float32; it is left as it is, and the result has its own copies of what was folded. Later changes
        to the model's weights do not show in the result.

    Returns
    -------
    nn.Module
        The model itself where it holds no known encoder. The faster form takes no gradient. On a processor it computes
        in float32 whatever autocast says, and has the same bytes for any number of threads.

    Raises
    ------
    EncoderError
        The model is in training mode, in which normalisation may not be folded.
    """
    if PLAIN in os.environ or find_spec("numba") is None or not any(map(_known, model.modules())):
        return model
    if model.training:
        raise EncoderError("the faster form of an encoder was asked for in training", cure="call model.eval() first")
    on_gpu = any(part.is_cuda for part in model.parameters())
    if _known(model):
        return (GpuNet1D if on_gpu else FastNet1D)(model).eval()  # type: ignore[arg-type]
    twin = copy.copy(model)
    twin._modules = {name: fast(part) if part is not None else None for name, part in model._modules.items()}
    if not on_gpu:
        twin.batch_segments = WINDOWS_PER_THREAD * torch.get_num_threads()  # type: ignore[assignment]
    return twin


def _known(part: nn.Module) -> bool:
    """Say whether this is a Net1D of the shape that the compiled passes take."""
    if type(part) is not Net1D:  # a class made from it may compute something else
        return False
    convs = [module.conv for module in part.modules() if isinstance(module, SameConv1d)]
    widths = {conv.out_channels for conv in convs}
    grouped = {conv.out_channels // conv.groups for conv in convs if conv.groups > 1}
    return all(width % LANES == 0 for width in widths) and grouped <= {LANES}


def _single(values: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float32)


class _Room(threading.local):
    """Arrays that a thread uses again and again, by name: fresh ones of this size would cost a page fault each 4 KB."""

    def __init__(self) -> None:
        self.held: dict[str, Floats] = {}

    def take(self, name: str, *shape: int) -> Floats:
        size = int(np.prod(shape))
        if name not in self.held or self.held[name].size < size:
            self.held[name] = np.empty(size, dtype=np.float32)
        return self.held[name][:size].reshape(shape)


_room = _Room()


class _Conv:
    """A convolution over several samples, as the compiled passes take it.

    Parameters
    ----------
    conv
        The convolution.
    norm
        Normalisation that follows it directly; None for none.
    """

    def __init__(self, conv: SameConv1d, norm: nn.Module | None) -> None:
        weight, bias = folded(conv, norm)
        out, inputs, taps = weight.shape
        self.weight = _single(weight.reshape(out // LANES, LANES, inputs, taps).transpose(0, 3, 2, 1))
        self.bias, self.stride, self.taps = _single(bias), conv.stride, taps

    def room(self, samples: int, channels: int) -> tuple[int, int, Floats]:
        """Return the output's length, how many zeros come first, and zeros for the padded input."""
        steps = -(-samples // self.stride)
        needed = max((steps - 1) * self.stride + self.taps, samples)
        padded = _room.take("padded", needed, channels)
        padded[:] = 0
        return steps, (needed - samples) // 2, padded


class _Block:
    """A `Block` in eval mode."""

    def __init__(self, block: Block) -> None:
        used = getattr(block, "use_bn", True)
        self.first = block.first
        scale, offset = affine(block.bn1) if used else (np.ones(block.bn1.num_features), np.zeros(1))
        self.scale, self.offset = _single(scale), _single(np.broadcast_to(offset, scale.shape))
        weight, bias = folded(block.conv1, block.bn2 if used else None)
        self.enter, self.enter_bias = torch.from_numpy(_single(weight[:, :, 0].T)), _single(bias)
        self.conv = _Conv(block.conv2, block.bn3 if used else None)
        weight, bias = folded(block.conv3, None)
        self.leave, self.leave_bias = torch.from_numpy(_single(weight[:, :, 0].T)), _single(bias)
        # The mean of a convolution's output is the convolution of its input's mean.
        squeeze, shift = (part.detach().double().numpy() for part in (block.se_fc1.weight, block.se_fc1.bias))
        self.squeeze = torch.from_numpy(_single((squeeze @ weight[:, :, 0]).T))
        self.squeeze_bias = torch.from_numpy(_single(squeeze @ bias + shift))
        self.excite = block.se_fc2.weight.detach().T.contiguous(), block.se_fc2.bias.detach().clone()

    def run(self, x: Floats, active: Floats, *, number: int, following: _Block | None) -> tuple[Floats, Floats]:
        """Return the output [windows, steps, channels] and what `following` begins with (empty for None).

        Parameters
        ----------
        x, active
            float32 [windows, samples, channels in]: the input, and it normalised and activated.
        number
            Of the block: outputs lie in the rooms of odd or even ones.
        """
        compiled = _compiled()
        windows, samples, narrow = x.shape
        channels = len(self.enter_bias)
        entered = _room.take("entered", windows * samples, channels)
        start = (x if self.first else active).reshape(windows * samples, narrow)
        torch.mm(torch.from_numpy(start), self.enter, out=torch.from_numpy(entered))
        steps, left, padded = self.conv.room(samples, channels)
        convolved, mean = _room.take("convolved", windows, steps, channels), np.empty((windows, channels), np.float32)
        compiled.middle(entered.reshape(windows, samples, channels), self.enter_bias, self.conv.weight, self.conv.bias,
                        self.conv.stride, left, padded, convolved, mean)  # fmt: skip
        left_out = _room.take("entered", windows * steps, channels)  # what had entered is used up
        torch.mm(torch.from_numpy(convolved.reshape(-1, channels)), self.leave, out=torch.from_numpy(left_out))
        hidden = functional.silu(torch.addmm(self.squeeze_bias, torch.from_numpy(mean), self.squeeze))
        gate = torch.sigmoid(torch.addmm(self.excite[1], hidden, self.excite[0])).numpy()
        out = _room.take(f"out {number % 2}", windows, steps, channels)
        after = _room.take("active", windows if following else 0, steps, channels)
        scale, offset = (following.scale, following.offset) if following else (self.leave_bias, self.leave_bias)
        compiled.finish(left_out.reshape(windows, steps, channels), self.leave_bias, gate, x, self.conv.stride, out,
                        scale, offset, after)  # fmt: skip
        return out, after


class FastNet1D(nn.Module):
    """A `Net1D` in eval mode: float32 [batch, channels, samples] to the same embedding [batch, width]."""

    def __init__(self, net: Net1D) -> None:
        super().__init__()
        self.width = net.width
        self.batch_segments = WINDOWS_PER_THREAD * torch.get_num_threads()
        self.stem = _Conv(net.first_conv, net.first_bn if getattr(net, "use_bn", True) else None)
        self.blocks = [_Block(part) for part in net.stage_list.modules() if isinstance(part, Block)]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to the embedding [batch, width]."""
        signals = x.detach().float().contiguous().numpy()
        out = np.empty((len(signals), self.width), dtype=np.float32)
        few = max(1, SAMPLES_AT_ONCE // max(signals.shape[-1], 1))
        # Where the parts begin does not depend on the number of threads: the last digits may depend on it.
        parts = [slice(at, at + few) for at in range(0, len(signals), few)]
        threads = min(torch.get_num_threads(), len(parts))
        if threads > 1:
            list(_crew(torch.get_num_threads()).map(lambda part: self._some(signals[part], out[part]), parts))
        else:
            for part in parts:
                self._some(signals[part], out[part])
        return torch.from_numpy(out)

    @torch.no_grad()
    def _some(self, signals: Floats, out: Floats) -> None:
        """Fill `out` [windows, width] from float32 [windows, channels, samples]."""
        steps, left, padded = self.stem.room(signals.shape[2], signals.shape[1])
        x = _room.take("stem", len(signals), steps, len(self.stem.bias))
        with torch.autocast("cpu", enabled=False):
            _compiled().stem(signals, self.stem.weight, self.stem.bias, self.stem.stride, left, padded, x)
            active = x
            for number, block in enumerate(self.blocks):
                following = self.blocks[number + 1] if number + 1 < len(self.blocks) else None
                x, active = block.run(x, active, number=number, following=following)
        x.mean(1, out=out)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from phewas.encoders import net1d_compiled  # numba takes a second to load

    return net1d_compiled


@lru_cache
def _crew(size: int) -> ThreadPoolExecutor:
    """Return threads in each of which torch works alone; the calling thread's number stays as it is."""
    crew, met = ThreadPoolExecutor(size, thread_name_prefix="encoder"), threading.Barrier(size + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # torch takes the number over for this thread when it is first asked
        met.wait()

    for _ in range(size):
        crew.submit(alone)
    met.wait()
    torch.set_num_threads(size)
    return crew


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crew.cache_clear)
