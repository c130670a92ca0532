"""ResNet1D: plain pre-activation residual blocks, two convolutions each; the family of PaPaGei and Pulse-PPG.

State-dict keys, shapes and arithmetic are those of the published checkpoints, so that their files load unchanged;
`phewas.encoders.cards_resnet1d` holds the records. Padding and identity follow the same rules as in
`phewas.encoders.net1d`, from which they are taken. What differs between the two published families:

* PaPaGei ends in normalisation, ReLU, the mean over time and a dense layer, whose output is the published embedding;
* Pulse-PPG normalises each window inside the network, without parameters, and ends in the maximum over time, with
  neither normalisation nor activation before it;
* the first block skips its first normalisation and activation, whose parameters exist all the same.

References
----------
PaPaGei: Pillai et al., ICLR 2025, arXiv:2410.20542. Pulse-PPG: Saha et al., arXiv:2502.01108.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from phewas.encoders.dropout import Dropout
from phewas.encoders.net1d import SameConv1d, TimeNorm, shortcut, stem

EXPERT_WIDTH = 256
INSTANCE_EPSILON = 1e-5


class Block(nn.Module):
    """Normalise, ReLU, convolve (with the stride); normalise, ReLU, convolve; then the identity added.

    Parameters
    ----------
    channels_in, channels_out
        Channel counts; the output must not be narrower than the input.
    kernel_size, stride
        Of the convolutions; the second has stride 1.
    dropout
        Probability of zeroing before each convolution, in training only.
    first
        Whether this is the network's first block, which skips ``bn1``, its activation and dropout.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel_size: int, stride: int, dropout: float, first: bool
    ) -> None:
        super().__init__()
        self.stride, self.first = stride, first
        self.grow = channels_out - channels_in
        self.bn1 = TimeNorm(channels_in)
        self.conv1 = SameConv1d(channels_in, channels_out, kernel_size, stride=stride)
        self.bn2 = TimeNorm(channels_out)
        self.conv2 = SameConv1d(channels_out, channels_out, kernel_size)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, samples] to [batch, channels_out, ceil(samples / stride)]."""
        out = x if self.first else self.dropout(functional.relu(self.bn1(x)))
        out = self.conv1(out)
        out = self.conv2(self.dropout(functional.relu(self.bn2(out))))
        total: Tensor = out + shortcut(x, stride=self.stride, grow=self.grow)
        return total


class ResNet1D(nn.Module):
    """The whole encoder: stem, blocks, pooling over time, and a dense layer where the published model has one.

    Parameters
    ----------
    channels
        Input channels.
    base_filters
        Channels of the stem and of the first blocks; they double every `double_every` blocks.
    kernel_size
        Of every convolution.
    n_blocks
        Number of blocks. Every second one (the odd ones, counted from 0) has stride 2.
    double_every
        Blocks between two doublings of the channels.
    dropout
        Probability of zeroing before each convolution of a block, in training only.
    normalise_input
        Standardise each window and channel inside the network (instance normalisation without parameters). Scale and
        offset of the input then do not matter.
    final_norm
        Normalise and apply ReLU after the last block.
    pool
        ``mean`` or ``max`` over time.
    dense
        Outputs of the dense layer after pooling; 0 for none.
    output
        ``dense`` or ``pooled``: which of the two the embedding is.
    n_experts
        Experts in each of the two mixture heads of PaPaGei-S; 0 for none. They are stored, so that a whole file
        loads, and are not part of the embedding.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        base_filters: int,
        kernel_size: int,
        n_blocks: int,
        double_every: int = 4,
        dropout: float,
        normalise_input: bool = False,
        final_norm: bool = True,
        pool: Literal["mean", "max"] = "mean",
        dense: int = 0,
        output: Literal["dense", "pooled"] = "pooled",
        n_experts: int = 0,
    ) -> None:
        super().__init__()
        self.normalise_input, self.pool, self.output = normalise_input, pool, output
        self.first_block_conv = SameConv1d(channels, base_filters, kernel_size)
        self.first_block_bn = TimeNorm(base_filters)
        blocks, width = [], base_filters
        for number in range(n_blocks):
            channels_out = base_filters * 2 ** (number // double_every)
            stride = 2 if number % 2 else 1
            blocks.append(
                Block(width, channels_out, kernel_size=kernel_size, stride=stride, dropout=dropout, first=number == 0)
            )
            width = channels_out
        self.basicblock_list = nn.ModuleList(blocks)
        self.final_bn = TimeNorm(width) if final_norm else None
        self.dense = nn.Linear(width, dense) if dense else None
        self.width = dense if output == "dense" else width
        if n_experts:
            self.expert_layers_1 = nn.ModuleList([_expert(width, dropout=None) for _ in range(n_experts)])
            self.gating_network_1 = nn.Sequential(nn.Linear(width, n_experts))
            self.expert_layers_2 = nn.ModuleList([_expert(width, dropout=0.3) for _ in range(n_experts)])
            self.gating_network_2 = nn.Sequential(nn.Linear(width, n_experts))

    def feature_map(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to [batch, width, steps] before pooling."""
        if self.normalise_input:
            # Written out because torch's own refuses a window of one sample in training.
            centred = x - x.mean(-1, keepdim=True)
            x = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + INSTANCE_EPSILON)
        x = functional.relu(self.first_block_bn(stem(self.first_block_conv, x)))
        for block in self.basicblock_list:
            x = block(x)
        return (functional.relu(self.final_bn(x)) if self.final_bn is not None else x).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to the embedding [batch, width]."""
        steps = self.feature_map(x)
        pooled: Tensor = steps.amax(-1) if self.pool == "max" else steps.mean(-1)
        if self.dense is None or self.output == "pooled":
            return pooled
        embedding: Tensor = self.dense(pooled)
        return embedding


def _expert(width: int, *, dropout: float | None) -> nn.Sequential:
    """Return one expert of a mixture head with one output; the places of the layers give their published names."""
    middle = [nn.ReLU()] if dropout is None else [nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Linear(width, EXPERT_WIDTH), *middle, nn.Linear(EXPERT_WIDTH, 1))


def build(**options: object) -> ResNet1D:
    """Return a `ResNet1D` with random weights; the options are its arguments."""
    return ResNet1D(**options)  # type: ignore[arg-type]
