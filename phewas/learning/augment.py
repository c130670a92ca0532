"""Augmentation of windows, on the device that they are on: crop, scale, noise, time warp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phewas.config import LearnConfig


def augmented(x: Tensor, config: LearnConfig, *, generator: torch.Generator) -> Tensor:
    """Return windows changed at random, each on its own and all its channels alike.

    Parameters
    ----------
    x
        float [windows, channels, samples].
    config
        `augment_crop`: a share between 0 and this is cut away at a random place and the rest stretched to the full
        length. `augment_warp`: speed swings by up to this share, over one period of a sine of random phase.
        `augment_scale`: amplitude times 1 +- up to this. `augment_noise`: white noise whose deviation is between 0 and
        this, in units of the window's (standardised) signal. Each is off at 0.
    generator
        Of the device of `x`; the result is a function of `x` and its state.

    Returns
    -------
    Tensor
        float [windows, channels, samples]; `x` itself where all are off.
    """
    n, samples = x.shape[0], x.shape[-1]

    def uniform() -> Tensor:
        return torch.rand((n, 1), device=x.device, generator=generator)

    if config.augment_crop or config.augment_warp:
        place = torch.linspace(0, 1, samples, device=x.device).expand(n, samples)
        if config.augment_warp:
            # Monotone for a share below 1, and fixed at both ends: time is bent, nothing is lost.
            phase, depth = 2 * math.pi * uniform(), config.augment_warp * uniform()
            place = place + depth / (2 * math.pi) * (torch.sin(2 * math.pi * place + phase) - torch.sin(phase))
        if config.augment_crop:
            kept = 1 - config.augment_crop * uniform()
            place = uniform() * (1 - kept) + kept * place
        x = _at(x, place * (samples - 1))
    if config.augment_scale:
        x = x * (1 + config.augment_scale * (2 * uniform() - 1))[..., None]
    if config.augment_noise:
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        x = x + config.augment_noise * uniform()[..., None] * noise
    return x


def _at(x: Tensor, place: Tensor) -> Tensor:
    """Return values at fractional sample numbers float [windows, samples], on straight lines between samples."""
    low = place.floor().clamp(0, x.shape[-1] - 2).long()
    share = (place - low)[:, None]
    index = low[:, None].expand(-1, x.shape[1], -1)
    left, right = x.gather(-1, index), x.gather(-1, index + 1)
    return left + share * (right - left)
