"""Chronos-2, run by its authors' package ``chronos-forecasting``.

The embedding is the mean over all tokens of the encoder, the [REG] token and the masked output token included, as in
the comparison of arXiv:2511.01747. The model standardises each window by itself (instance normalisation, arcsinh).
`encode` is called instead of the pipeline's ``embed``, which gives the same tokens and no gradient.

References
----------
Chronos-2, arXiv:2510.15821. Package and weights: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phewas.encoders import checkpoint
from phewas.encoders.extras import need

# Of the published model, for random weights; with weights, their own config.json decides.
PUBLISHED: Mapping[str, Any] = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 2,
    "reg_token_id": 1,
    "chronos_config": {
        "context_length": 8192,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "output_patch_size": 16,
        "quantiles": [0.01, *(step / 20 for step in range(1, 20)), 0.99],
        "use_reg_token": True,
        "use_arcsinh": True,
        "max_output_patches": 64,
        "time_encoding_scale": 8192,
    },
}


class Chronos2(nn.Module):
    """The encoder of Chronos-2 and the mean over its tokens.

    Parameters
    ----------
    config
        Settings as in the published ``config.json``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        package = need("chronos.chronos2.model", extra="chronos")
        settings = need("chronos.chronos2.config", extra="chronos").Chronos2CoreConfig
        self.model = package.Chronos2Model(settings.from_dict(dict(config)))
        self.width = int(config["d_model"])

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to the embedding [batch, width]; channels attend to each other."""
        batch, channels, samples = x.shape
        series = torch.arange(batch, device=x.device).repeat_interleave(channels)
        encoded = self.model.encode(context=x.reshape(batch * channels, samples), group_ids=series)[0]
        tokens: Tensor = encoded[0]
        return tokens.float().mean(1).reshape(batch, channels, -1).mean(1)


def build(*, folder: Path | None = None, config: Mapping[str, Any] | None = None) -> Chronos2:
    """Return a `Chronos2`.

    Parameters
    ----------
    folder
        Hugging Face folder with the published weights; None for random ones.
    config
        Settings for random weights; None for those of the published model.

    Raises
    ------
    EncoderError
        ``chronos-forecasting`` is not installed.
    WeightsError
        The folder holds something else.
    """
    return checkpoint.from_folder(
        Chronos2, folder=folder, config=config, published=PUBLISHED, name="chronos-2",
        expected="the folder of amazon/chronos-2",
    )  # fmt: skip
