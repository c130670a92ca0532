"""The faster form of `Net1D` on a GPU: folded normalisation, channels side by side in memory, activations overwritten.

The identity is pooled by comparing neighbours. Outputs agree with the plain module to about 1e-5; nothing is
approximated. Plain torch, so that it runs on any device, is the same function under autocast, and can be tested where
there is no GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from phewas.encoders.folding import affine, folded
from phewas.encoders.net1d import Block, Net1D, SameConv1d


class FoldedConv(nn.Module):
    """A `SameConv1d`, with the normalisation after it, for inputs [batch, channels, 1, samples], channels last.

    Parameters
    ----------
    conv
        The convolution.
    norm
        Normalisation that follows it directly; None for none.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: SameConv1d, norm: nn.Module | None) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.groups = conv.kernel_size, conv.stride, conv.conv.groups
        device = conv.conv.weight.device
        weight, bias = (torch.from_numpy(part).float().to(device) for part in folded(conv, norm))
        self.register_buffer("weight", weight.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels_in, 1, samples] to [batch, channels_out, 1, ceil(samples / stride)]."""
        samples = x.shape[-1]
        padding = max(0, (-(-samples // self.stride) - 1) * self.stride + self.kernel_size - samples)
        if padding % 2:
            x, padding = functional.pad(x, (padding // 2, padding - padding // 2)), 0
        return functional.conv2d(
            x, self.weight, self.bias, (1, self.stride), (0, padding // 2), (1, 1), self.groups
        )  # fmt: skip


class GpuBlock(nn.Module):
    """A `Block` in eval mode, channels last."""

    scale: Tensor
    offset: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        used = getattr(block, "use_bn", True)
        self.first, self.normalised, self.stride, self.grow = block.first, used, block.stride, block.grow
        device = block.bn1.weight.device
        scale, offset = (torch.from_numpy(part).float().to(device)[None, :, None, None] for part in affine(block.bn1))
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self.conv1 = FoldedConv(block.conv1, block.bn2 if used else None)
        self.conv2 = FoldedConv(block.conv2, block.bn3 if used else None)
        self.conv3 = FoldedConv(block.conv3, None)
        self.se_fc1, self.se_fc2 = block.se_fc1, block.se_fc2

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels_in, 1, samples] to [batch, channels_out, 1, ceil(samples / stride)]."""
        out = x
        if not self.first:
            scale, offset = self.scale.to(x.dtype), self.offset.to(x.dtype)
            out = torch.addcmul(offset, x, scale) if self.normalised else x.clone()
            out = functional.silu(out, inplace=True)
        out = functional.silu(self.conv1(out), inplace=True)
        out = functional.silu(self.conv2(out), inplace=True)
        out = self.conv3(out)
        squeeze = functional.silu(self.se_fc1(out.mean((2, 3))))
        out.mul_(torch.sigmoid(self.se_fc2(squeeze))[:, :, None, None])
        if self.stride > 1:
            x = _pooled(x, self.stride)
        # The identity's channels lie in the middle of the wider output's.
        out.narrow(1, self.grow // 2, x.shape[1]).add_(x)
        total: Tensor = out
        return total


def _pooled(x: Tensor, stride: int) -> Tensor:
    """Return the largest of each `stride` neighbours; an odd end is compared with zero."""
    whole = x.shape[-1] // stride
    pooled = x[..., : whole * stride : stride]
    for step in range(1, stride):
        pooled = torch.maximum(pooled, x[..., step : whole * stride : stride])
    rest = x[..., whole * stride :]
    if rest.shape[-1]:
        pooled = torch.cat([pooled, rest.amax(-1, keepdim=True).clamp(min=0)], dim=-1)
    return pooled


class GpuNet1D(nn.Module):
    """A `Net1D` in eval mode: float32 [batch, channels, samples] to the same embedding [batch, width]."""

    def __init__(self, net: Net1D) -> None:
        super().__init__()
        self.width = net.width
        self.stem = FoldedConv(net.first_conv, net.first_bn if getattr(net, "use_bn", True) else None)
        self.blocks = nn.ModuleList(GpuBlock(part) for part in net.stage_list.modules() if isinstance(part, Block))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to the embedding [batch, width]."""
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        x = functional.silu(self.stem(x), inplace=True)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))
