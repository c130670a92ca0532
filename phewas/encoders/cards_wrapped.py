"""Records of encoders that run in their authors' or Hugging Face's packages: Chronos-2, MOMENT, HuBERT-ECG, CSFM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phewas.encoders.registry import ECG_12LEAD_100, PPG_125_PLAIN, PPG_ECG_250, EncoderSpec

_FOLDER = "a Hugging Face folder: config.json, which also gives the size, and model.safetensors"
_MOMENT: Mapping[str, Any] = {
    "factory": "phewas.encoders.moment:build",
    "contract": PPG_125_PLAIN,
    "pretrained": True,
    "samples": (8, None),
    "normalised_inside": "each window by itself (RevIN)",
    "tensor": "T5 encoder, 8 samples a token; samples beyond the last whole patch are not seen",
    "pooling": "mean over channels and whole patches",
    "nesting": _FOLDER,
    "licence": "MIT",
    "code_licence": "MIT",
    "citation": "MOMENT: Goswami et al., ICML 2024, arXiv:2402.03885",
    "weights_are": "folder",
    "heads": ("head.",),
    "idle": ("model.encoder.embed_tokens.*",),
    "file": "FOLDER",
}
_HUBERT: Mapping[str, Any] = {
    "factory": "phewas.encoders.hubert_ecg:build",
    "contract": ECG_12LEAD_100,
    "pretrained": True,
    "window_s": 5.0,
    "samples": (500, 500),
    "normalised_inside": "the twelve leads together, by minimum and maximum, to [-1, 1]",
    "tensor": "last hidden state",
    "pooling": "mean over the flattened leads",
    "nesting": _FOLDER + ". The .pt files of the authors hold a pickled configuration and are refused",
    "licence": "CC BY-NC 4.0: not for commercial use",
    "code_licence": "CC BY-NC 4.0",
    "citation": "HuBERT-ECG: Coppola et al., medRxiv 2024.11.14.24317328",
    "weights_are": "folder",
    "heads": ("masked_spec_embed",),
    "idle": ("model.masked_spec_embed",),
    "extra": "transformers",
    "file": "FOLDER",
}
_CSFM: Mapping[str, Any] = {
    "factory": "",
    "contract": PPG_ECG_250,
    "pretrained": True,
    "window_s": 10.0,
    "samples": (2500, 2500),
    "tensor": "the CLS token, classifier removed",
    "pooling": "none",
    "source": "by e-mail from its authors, under a signed agreement (repository guxiao0822/Cardiac-Sensing-FM)",
    "nesting": "names after encoder., with mlp_head.* left out",
    "licence": "signed academic agreement",
    "code_licence": "none stated",
    "citation": "CSFM: Gu et al. 2026",
    "unavailable": "its code is in no package and carries no licence. With a copy of code and weights of your own, "
    "either write a short file for --encoder FILE.py:NAME (examples/own_encoder.py), or export the model once and give "
    "it to --encoder onnx:FILE or torchexport:FILE",
}

SPECS = (
    EncoderSpec(
        name="chronos-2",
        title="Chronos-2 (time series, 768)",
        description="A general forecasting model, as a comparator. Embedding and pooling as in the comparison of "
        "arXiv:2511.01747.",
        factory="phewas.encoders.chronos2:build",
        contract=PPG_125_PLAIN,
        width=768,
        pretrained=True,
        samples=(1, 8192),
        normalised_inside="each window by itself (instance normalisation, arcsinh)",
        tensor="last layer, 16 samples a token; the [REG] and the masked output token included",
        pooling="mean over all tokens",
        parameters=119_477_664,
        source="amazon/chronos-2 on the Hugging Face hub",
        nesting=_FOLDER,
        licence="Apache-2.0",
        code_licence="Apache-2.0",
        citation="Chronos-2, arXiv:2510.15821",
        weights_are="folder",
        idle=("model.output_patch_embedding.*",),
        extra="chronos",
        file="FOLDER",
    ),
    *(
        EncoderSpec(
            name=f"moment-{size}",
            title=f"MOMENT {size} (time series, {width})",
            description="A general time-series model, as a comparator. It needs its authors' package momentfm, whose "
            "pins fit no current environment and are not needed: pip install transformers && pip install --no-deps "
            "momentfm. Where that fails, embed in an environment of its own (Python 3.11, pip install momentfm).",
            width=width,
            options={"size": size},
            source=f"AutonLab/MOMENT-1-{size} on the Hugging Face hub",
            **_MOMENT,
        )
        for size, width in (("small", 512), ("base", 768), ("large", 1024))
    ),
    *(
        EncoderSpec(
            name=f"hubert-ecg-{size}",
            title=f"HuBERT-ECG {size} (12 leads, {width})",
            description="HuBERT over twelve ECG leads, flattened into one sequence.",
            width=width,
            options={"size": size},
            source=f"Edoardo-BS/hubert-ecg-{size} on the Hugging Face hub",
            **_HUBERT,
        )
        for size, width in (("small", 512), ("base", 768))
    ),
    *(
        EncoderSpec(
            name=f"csfm-{size}",
            title=f"CSFM {size} (ECG and PPG, {width})",
            description="A transformer over patches of ECG leads and PPG, for any subset of them.",
            width=width,
            parameters=parameters,
            **_CSFM,
        )
        for size, width, parameters in (
            ("tiny", 768, 42_511_154),
            ("base", 768, 108_629_810),
            ("large", 1024, 266_515_506),
        )
    ),
)
