"""Dropout whose random bits do not cost more than the convolutions around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LANES = 256  # values of a random byte


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with masks cut from whole random words on a CPU.

    There torch draws one random number per element, on one thread, which took half of the time of a training step of
    AnyPPG. Here each 64-bit word of the same generator gives eight elements. A probability that is no multiple of
    1/256, any other device, and a compiled model get torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero each element of `x` with probability `p` and scale the rest by 1 / (1 - p); in training only."""
        if not self.training or self.p == 0 or torch.compiler.is_compiling():
            return super().forward(x)
        bound = self.p * LANES
        if x.device.type != "cpu" or bound != int(bound) or self.p == 1:
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()] >= int(bound)
        # In the order of memory, whatever the layout of x. A product, because a masked fill is not vectorised.
        noise = torch.empty_like(x)
        noise.as_strided((x.numel(),), (1,)).copy_(kept)
        return x * noise.mul_(1 / (1 - self.p))
