"""MOMENT, run by its authors' package ``momentfm``.

That package pins releases of numpy, transformers and huggingface-hub that no current environment can hold, and runs
with newer ones all the same: it is therefore no dependency of an extra, and is installed without its pins
(``pip install --no-deps momentfm``). The embedding is the package's own: the mean over channels and whole patches of 8
samples. The model standardises each window by itself (RevIN).

References
----------
MOMENT: Goswami et al., ICML 2024, arXiv:2402.03885. Package and weights: MIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phewas.encoders import checkpoint
from phewas.encoders.extras import need
from phewas.errors import EncoderError

# d_model, d_ff, layers, heads of the T5 encoders behind the three sizes.
SIZES = {"small": (512, 1024, 8, 6), "base": (768, 2048, 12, 12), "large": (1024, 2816, 24, 16)}
INSTALL = "pip install transformers && pip install --no-deps momentfm"


def published(size: str) -> dict[str, Any]:
    """Return the settings of the published model of a size, as its ``config.json`` would give them."""
    width, inner, layers, heads = SIZES[size]
    return {
        "model_name": "MOMENT",
        "transformer_type": "encoder_only",
        "transformer_backbone": f"google/flan-t5-{size}",
        "d_model": width,
        "seq_len": 512,
        "patch_len": 8,
        "patch_stride_len": 8,
        "t5_config": {
            "d_model": width,
            "d_ff": inner,
            "d_kv": 64,
            "num_layers": layers,
            "num_heads": heads,
            "vocab_size": 32_128,
            "feed_forward_proj": "gated-gelu",
            "is_gated_act": True,
            "dense_act_fn": "gelu_new",
            "tie_word_embeddings": False,
            "model_type": "t5",
        },
    }


class Moment(nn.Module):
    """The encoder of MOMENT.

    Parameters
    ----------
    config
        Settings as in the published ``config.json``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            package = need("momentfm", extra="moment")
        except EncoderError as error:
            raise EncoderError(
                error.found,
                cure=f"{INSTALL}\n    (its own pins, numpy 1.25 and transformers 4.33, fit no current environment "
                "and are not needed); or export it to ONNX in an environment of its own: --encoder onnx:FILE",
            ) from error
        asked = {
            "task_name": "embedding",
            "randomly_initialize_backbone": True,
            "enable_gradient_checkpointing": False,
            "freeze_encoder": False,
            "freeze_embedder": False,
        }
        self.model = package.MOMENTPipeline({**config, **asked}, model_kwargs=asked)
        self.model.init()
        self.width = int(self.model.config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, channels, samples] to the embedding [batch, width]."""
        embedding: Tensor = self.model.embed(x_enc=x).embeddings
        return embedding


def build(*, size: str = "small", folder: Path | None = None, config: Mapping[str, Any] | None = None) -> Moment:
    """Return a `Moment`.

    Parameters
    ----------
    size
        ``small``, ``base`` or ``large``.
    folder
        Hugging Face folder with the published weights; None for random ones.
    config
        Settings for random weights; None for those of the published model.

    Raises
    ------
    EncoderError
        ``momentfm`` is not installed.
    WeightsError
        The folder holds something else.
    """
    standard = published(size)  # a config.json may leave out what is usual
    return checkpoint.from_folder(
        lambda told: Moment({**standard, **told}), folder=folder, config=config, published=standard,
        name=f"moment-{size}", heads=("head.",), expected=f"the folder of MOMENT-1-{size}",
    )  # fmt: skip
