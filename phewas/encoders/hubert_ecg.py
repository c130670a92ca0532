"""HuBERT-ECG: twelve ECG leads, flattened into one sequence, through the HuBERT of ``transformers``.

The authors cut five seconds at 500 Hz, flatten the leads into one sequence, decimate it by 5 and scale it to [-1, 1].
Here the leads arrive at 100 Hz, are scaled together and flattened; the two differ only where the decimation filter
runs across the seam between two leads. The embedding is the mean over time of the last hidden state.

References
----------
Coppola et al., HuBERT-ECG, medRxiv 2024.11.14.24317328. Weights and code: CC BY-NC 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phewas.encoders import checkpoint
from phewas.encoders.extras import need

# hidden size, layers, heads, feed-forward width
SIZES = {"small": (512, 8, 8, 2048), "base": (768, 12, 12, 3072)}


def published(size: str) -> dict[str, Any]:
    """Return the settings of a size, for random weights; with weights, their own config.json decides."""
    hidden, layers, heads, inner = SIZES[size]
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "conv_dim": [512] * 5,
        "conv_kernel": [10, 3, 3, 2, 2],
        "conv_stride": [4, 2, 2, 2, 2],
        "num_feat_extract_layers": 5,
    }


class HubertECG(nn.Module):
    """HuBERT over the flattened leads, and the mean over time.

    Parameters
    ----------
    config
        Settings as in the published ``config.json``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        transformers = need("transformers", extra="transformers")
        # SpecAugment hides parts of the input in training; fine-tuning for phenotypes has no use for it.
        settings = transformers.HubertConfig.from_dict({**config, "apply_spec_augment": False})
        self.model = transformers.HubertModel(settings)
        self.width = int(settings.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, leads, samples], of any scale, to the embedding [batch, width]."""
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        scaled = 2 * (x - low) / (high - low).clamp(min=1e-12) - 1
        steps: Tensor = self.model(scaled.flatten(1)).last_hidden_state
        return steps.mean(1)


def build(*, size: str = "small", folder: Path | None = None, config: Mapping[str, Any] | None = None) -> HubertECG:
    """Return a `HubertECG`.

    Parameters
    ----------
    size
        ``small`` or ``base``.
    folder
        Hugging Face folder with the published weights; None for random ones. Python code in it is never run.
    config
        Settings for random weights; None for those of the published model.

    Raises
    ------
    EncoderError
        ``transformers`` is not installed.
    WeightsError
        The folder holds something else.
    """
    return checkpoint.from_folder(
        HubertECG, folder=folder, config=config, published=published(size), name=f"hubert-ecg-{size}",
        heads=("masked_spec_embed", "classifier.", "projector.", "label_embedding", "final_proj"),
    )  # fmt: skip
