"""Normalisation by stored statistics, folded into the convolution before it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from phewas.encoders.net1d import SameConv1d


def folded(conv: SameConv1d, norm: nn.Module | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight [out, in, taps] and bias [out] of a convolution with the normalisation after it, None for none."""
    weight = conv.conv.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if conv.conv.bias is None else conv.conv.bias.detach().double().cpu().numpy()
    if norm is None:
        return weight, bias
    scale, offset = affine(norm)
    return weight * scale[:, None, None], bias * scale + offset


def affine(norm: nn.Module) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and offset [channels] of a normalisation by stored statistics."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    offset = norm.bias.detach().double() - norm.running_mean.double() * scale
    return scale.cpu().numpy(), offset.cpu().numpy()
