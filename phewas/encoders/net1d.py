"""Net1D: a one-dimensional residual network with grouped convolutions and squeeze-excitation.

The family of AnyPPG (both releases) and ECGFounder; `phewas.encoders.cards_net1d` holds their records.

State-dict keys, shapes and arithmetic are those of the published checkpoint, so that its file loads unchanged. These
details carry the numbers and are easy to get wrong:

* padding depends on the input length: for kernel k and stride s the output has ceil(L / s) samples and the needed
  zeros are split left p // 2, right p - p // 2;
* the identity is max-pooled after zeros were appended on the right only;
* a growing channel count is met by zero channels around the identity, half before and half after;
* the first block of the network skips its first normalisation and activation, whose parameters exist all the same;
* ECGFounder stores its normalisation layers without running any of them; AnyPPG's copy of it runs them (`use_bn`).

References
----------
AnyPPG, arXiv:2511.01747, Table A1 (parameters per stage). Its text gives a stem of stride 1; the published code and
weights use 2, which `stem_stride` states. Both load the same file, and give different embeddings.
ECGFounder, arXiv:2410.04133.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from phewas.encoders.dropout import Dropout


class SameConv1d(nn.Module):
    """Convolution whose output has ceil(samples / stride) samples, whatever the input length.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride, groups
        As in ``nn.Conv1d``. The weights lie under the key ``conv``.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.conv = nn.Conv1d(channels_in, channels_out, kernel_size, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, samples] to [batch, channels_out, ceil(samples / stride)].

        With an axis of one between channels and samples it stays there, and channels may lie last in memory.
        """
        samples = x.shape[-1]
        out = -(-samples // self.stride)
        padding = max(0, (out - 1) * self.stride + self.kernel_size - samples)
        if x.dim() == 4:
            if padding % 2:
                x, padding = functional.pad(x, (padding // 2, padding - padding // 2)), 0
            return functional.conv2d(
                x, self.conv.weight.unsqueeze(2), self.conv.bias, (1, self.stride), (0, padding // 2), (1, 1),
                self.conv.groups,
            )  # fmt: skip
        if padding:
            x = functional.pad(x, (padding // 2, padding - padding // 2))
        return self.conv(x)  # type: ignore[no-any-return]


class TimeNorm(nn.BatchNorm1d):
    """Batch normalisation of [batch, channels, samples], or with an axis of one before the samples."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (3, 4):
            raise ValueError(f"expected 3 or 4 axes, got {x.dim()}")


def stem(conv: SameConv1d, x: Tensor) -> Tensor:
    """Apply a network's first convolution and lay out its output as the convolutions after it want it.

    Fast convolutions want channels side by side in memory, and only a tensor of four axes can say so: with three, each
    copies its input and output. A training step of AnyPPG takes half of the time with it on an H200 (bf16), and three
    quarters on a processor. `phewas.encoders.fast` does the same for use without gradients on a processor.

    Returns
    -------
    Tensor
        float [batch, channels, 1, samples] with channels last in memory on a GPU and in training, otherwise
        [batch, channels, samples].
    """
    if x.is_cuda or conv.training:
        out: Tensor = conv(x.unsqueeze(2)).contiguous(memory_format=torch.channels_last)
    else:
        out = conv(x)
    return out


def shortcut(identity: Tensor, *, stride: int, grow: int) -> Tensor:
    """Fit a block's identity to its output: max-pooled by the stride, and widened by zero channels.

    Parameters
    ----------
    identity
        float [batch, channels, samples].
    stride
        Of the block. One zero on the right lets an odd length keep its last sample, as max(sample, 0).
    grow
        Channels that the block adds: half of them before and the rest after the identity's own.

    Returns
    -------
    Tensor
        float [batch, channels + grow, ceil(samples / stride)].
    """
    flat = identity.dim() == 4
    if stride > 1:
        identity = functional.pad(identity, (0, stride - 1))
        identity = functional.max_pool2d(identity, (1, stride)) if flat else functional.max_pool1d(identity, stride)
    if grow:
        identity = functional.pad(identity, (0, 0, *((0, 0) if flat else ()), grow // 2, grow - grow // 2))
    return identity


class Block(nn.Module):
    """Pre-activation bottleneck: 1x1, grouped kxk (with the stride), 1x1, squeeze-excitation, then the identity added.

    Parameters
    ----------
    channels_in, channels_out
        Channel counts; the output must not be narrower than the input.
    first
        Whether this is the network's first block, which skips ``bn1`` and the first activation.
    use_bn
        Whether the normalisation layers, which are stored in any case, are run.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int,
        group_width: int,
        dropout: float,
        first: bool,
        use_bn: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.first, self.use_bn = stride, first, use_bn
        self.grow = channels_out - channels_in
        self.bn1 = TimeNorm(channels_in)
        self.conv1 = SameConv1d(channels_in, channels_out, 1)
        self.bn2 = TimeNorm(channels_out)
        self.conv2 = SameConv1d(
            channels_out, channels_out, kernel_size, stride=stride, groups=channels_out // group_width
        )
        self.bn3 = TimeNorm(channels_out)
        self.conv3 = SameConv1d(channels_out, channels_out, 1)
        self.se_fc1 = nn.Linear(channels_out, channels_out // 2)
        self.se_fc2 = nn.Linear(channels_out // 2, channels_out)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, samples] to [batch, channels_out, ceil(samples / stride)]."""
        out = x if self.first else self._activated(self.bn1, x)
        out = self.conv1(out)
        out = self.conv2(self._activated(self.bn2, out))
        out = self.conv3(self._activated(self.bn3, out))
        squeeze = functional.silu(self.se_fc1(out.flatten(2).mean(-1)))
        gate = torch.sigmoid(self.se_fc2(squeeze))
        out = out * gate.view(*gate.shape, *[1] * (out.dim() - 2))
        total: Tensor = out + shortcut(x, stride=self.stride, grow=self.grow)
        return total

    def _activated(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Normalise if that is done here, activate, and drop in training."""
        active: Tensor = self.dropout(functional.silu(norm(x) if self.use_bn else x))
        return active


class Stage(nn.Module):
    """Blocks of one width; only the first has the stride."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks in order."""
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    """The whole encoder: stem, stages, mean over time.

    Parameters
    ----------
    channels
        Input channels.
    base_filters
        Channels of the stem.
    filters, blocks
        Channels and number of blocks of each stage.
    kernel_size, stride
        Of the stem and of each stage's first block.
    group_width
        Channels per group of the middle convolution.
    stem_stride
        Stride of the first convolution: 2 in the published model. A wrong value loads without error and gives other
        embeddings, so it has no default.
    dropout
        Probability of zeroing before each convolution of a block, in training only.
    use_bn
        Whether the normalisation layers are run; they are built and stored in any case.
    n_classes
        Outputs of the published classifier ``dense``; 0 for none. It is stored, so that a whole file loads, and is not
        part of the embedding.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        base_filters: int,
        filters: Sequence[int],
        blocks: Sequence[int],
        kernel_size: int,
        stride: int,
        group_width: int,
        stem_stride: int,
        dropout: float,
        use_bn: bool = True,
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        self.use_bn = use_bn
        self.first_conv = SameConv1d(channels, base_filters, kernel_size, stride=stem_stride)
        self.first_bn = TimeNorm(base_filters)
        stages, width = [], base_filters
        for stage, (channels_out, count) in enumerate(zip(filters, blocks, strict=True)):
            row = []
            for position in range(count):
                row.append(
                    Block(
                        width,
                        channels_out,
                        kernel_size=kernel_size,
                        stride=stride if position == 0 else 1,
                        group_width=group_width,
                        dropout=dropout,
                        first=stage == 0 and position == 0,
                        use_bn=use_bn,
                    )
                )
                width = channels_out
            stages.append(Stage(row))
        self.stage_list = nn.ModuleList(stages)
        self.width = width
        if n_classes:
            self.dense = nn.Linear(width, n_classes)

    def feature_map(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to [batch, width, steps] before pooling."""
        x = stem(self.first_conv, x)
        x = functional.silu(self.first_bn(x) if self.use_bn else x)
        for stage in self.stage_list:
            x = stage(x)
        return x.flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples], z-scored, to the embedding [batch, width]."""
        pooled: Tensor = self.feature_map(x).mean(-1)
        return pooled


def build(**options: object) -> Net1D:
    """Return a `Net1D` with random weights; the options are its arguments."""
    return Net1D(**options)  # type: ignore[arg-type]
