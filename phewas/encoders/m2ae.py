"""A two-signal masked autoencoder for PPG and ECG, after the published outline of M2AE; the design is phewas's own.

What is known of M2AE (arXiv:2605.09579): one encoder per signal over patches, a shared bottleneck whose mean over time
is the "fingerprint", one decoder per signal, and complementary masking: what is hidden in one signal stays visible in
the other. Patch length, depth, width and masking share were not published in what could be read, and neither code nor
weights exist. They are chosen here, so that results of this model are not those of the paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def _layers(width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def positions(steps: int, width: int, device: torch.device) -> Tensor:
    """Return sinusoidal positions float32 [steps, width], so that any number of patches can be taken."""
    at = torch.arange(steps, device=device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(at * rates), torch.cos(at * rates)], dim=-1).flatten(1)


class M2AE(nn.Module):
    """Patch encoders, shared bottleneck, decoders.

    Parameters
    ----------
    signals
        Input channels, each with an encoder and a decoder of its own.
    patch
        Samples per patch; the last one is filled up with zeros.
    width
        Of the tokens and of the embedding; even.
    depth, shared_depth, decoder_depth
        Layers of each signal's encoder, of the bottleneck and of each decoder.
    heads
        Attention heads.
    dropout
        In training only.
    """

    def __init__(
        self,
        *,
        signals: int = 2,
        patch: int = 25,
        width: int = 256,
        depth: int = 2,
        shared_depth: int = 4,
        decoder_depth: int = 1,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.embed = nn.ModuleList([nn.Linear(patch, width) for _ in range(signals)])
        self.signal = nn.Parameter(0.02 * torch.randn(signals, width))
        self.hidden = nn.Parameter(0.02 * torch.randn(signals, width))
        self.encoders = nn.ModuleList([_layers(width, depth, heads, dropout) for _ in range(signals)])
        self.bottleneck = _layers(width, shared_depth, heads, dropout)
        self.decoders = nn.ModuleList([_layers(width, decoder_depth, heads, dropout) for _ in range(signals)])
        self.restore = nn.ModuleList([nn.Linear(width, patch) for _ in range(signals)])

    def patches(self, x: Tensor) -> Tensor:
        """Map [batch, signals, samples] to [batch, signals, patches, patch]."""
        x = functional.pad(x, (0, -x.shape[-1] % self.patch))
        return x.reshape(*x.shape[:-1], -1, self.patch)

    def tokens(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Map patches to the bottleneck's tokens.

        Parameters
        ----------
        patches
            float32 [batch, signals, patches, patch].
        hidden
            bool [batch, signals, patches]: replaced by a learned token before anything has seen them; None for none.

        Returns
        -------
        Tensor
            float32 [batch, signals * patches, width], signal after signal.
        """
        where = positions(patches.shape[2], self.width, patches.device)
        rows = []
        for number, (embed, encoder) in enumerate(zip(self.embed, self.encoders, strict=True)):
            row = embed(patches[:, number])
            if hidden is not None:
                row = torch.where(hidden[:, number, :, None], self.hidden[number], row)
            rows.append(encoder(row + where + self.signal[number]))
        tokens: Tensor = self.bottleneck(torch.cat(rows, dim=1))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, signals, samples], z-scored, to the fingerprint [batch, width]."""
        return self.tokens(self.patches(x)).mean(1)

    def reconstruct(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return every patch as the decoders see it through the bottleneck, where `hidden` ones were not shown.

        Parameters
        ----------
        x
            float32 [batch, signals, samples].
        hidden
            bool [batch, signals, patches], for example from `complementary`.

        Returns
        -------
        Tensor
            float32 [batch, signals, patches, patch], to be compared with `patches` of the same input.
        """
        patches = self.patches(x)
        rows = self.tokens(patches, hidden).reshape(*patches.shape[:3], self.width)
        where = positions(patches.shape[2], self.width, x.device)
        out = [
            restore(decoder(rows[:, number] + where))
            for number, (decoder, restore) in enumerate(zip(self.decoders, self.restore, strict=True))
        ]
        return torch.stack(out, dim=1)


def complementary(batch: int, patches: int, *, share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Draw which patches are hidden: of each moment in one signal at most, so that the other signal can tell of it.

    Parameters
    ----------
    batch, patches
        Size of the result.
    share
        Of the moments hidden in the first signal, between 0 and 1; the second hides all others.
    generator
        Source of randomness.

    Returns
    -------
    Tensor
        bool [batch, 2, patches]; every moment is hidden in exactly one of the two signals.
    """
    order = torch.rand(batch, patches, generator=generator).argsort(1).argsort(1)
    first = order < round(share * patches)
    return torch.stack([first, ~first], dim=1)


def build(**options: object) -> M2AE:
    """Return an `M2AE` with random weights; the options are its arguments."""
    return M2AE(**options)  # type: ignore[arg-type]
