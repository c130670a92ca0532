"""Records of the Net1D family: AnyPPG (both releases), ECGFounder, and a small one without pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phewas.encoders.registry import ECG_1LEAD_500, ECG_12LEAD_500, PPG_125, EncoderSpec

_ANYPPG: Mapping[str, Any] = {
    "base_filters": 64,
    "filters": (64, 160, 160, 400, 400, 512),
    "blocks": (2, 2, 2, 3, 3, 1),
    "kernel_size": 3,
    "stride": 2,
    "group_width": 16,
    "stem_stride": 2,
    "dropout": 0.5,
}
_ANYPPG_1024: Mapping[str, Any] = {**_ANYPPG, "filters": (64, 160, 160, 400, 400, 1024)}
_ECGFOUNDER: Mapping[str, Any] = {
    "base_filters": 64,
    "filters": (64, 160, 160, 400, 400, 1024, 1024),
    "blocks": (2, 2, 2, 3, 3, 4, 4),
    "kernel_size": 16,
    "stride": 2,
    "group_width": 16,
    "stem_stride": 2,
    "dropout": 0.0,
    "use_bn": False,
    "n_classes": 150,
}
# The sets of the current paper (PulseDB is MIMIC-III with VitalDB). What the older release had met is stated nowhere:
# its records name no set, so that contamination can never be excluded.
_ANYPPG_SETS = ("MC-MED", "MIMIC-III", "VitalDB", "MESA", "HSP", "CFS")
_ANYPPG_HEADS = ("ecg_encoder.", "ppg_projector.", "ecg_projector.", "clip_loss.")
_FIRST_BN = "stage_list.0.block_list.0.bn1.*"
_STEM_CURE = (
    "Both strides load the same file without error and give other embeddings. The code of that release had a stem of "
    "stride 1 and returned the map without pooling; all code of the current release has 2."
)
_ANYPPG_OLD: Mapping[str, Any] = {
    "factory": "phewas.encoders.net1d:build",
    "contract": PPG_125,
    "width": 1024,
    "pretrained": True,
    "window_s": 10.0,
    "pooling": "mean over time, done here: the release returned the map",
    "parameters": 5_850_864,
    "source": "the older checkpoint/anyppg_ckpt.pth of the repository Ngk03/AnyPPG, whose history was rewritten",
    "file": "anyppg_ckpt.pth",
    "nesting": "flat",
    "licence": "none stated by its authors",
    "code_licence": "none stated by its authors",
    "citation": "AnyPPG, arXiv:2511.01747",
    "heads": _ANYPPG_HEADS,
    "idle": (_FIRST_BN,),
}
_FOUNDER_CARD: Mapping[str, Any] = {
    "factory": "phewas.encoders.net1d:build",
    "width": 1024,
    "pretrained": True,
    "window_s": 10.0,
    "pooling": "mean over time",
    "pretraining": ("HEEDB",),
    "source": "PKUDigitalHealth/ECGFounder on the Hugging Face hub",
    "nesting": "under state_dict, beside other entries; no prefix; the 150-class head dense.* may be missing",
    "licence": "not seen (the code is MIT, by the same group)",
    "code_licence": "MIT",
    "citation": "ECGFounder: Li et al., arXiv:2410.04133",
    "heads": ("dense.",),
}
_NO_BN = ("first_bn.*", "stage_list.*.bn?.*", "dense.*")

SPECS = (
    EncoderSpec(
        name="anyppg",
        title="AnyPPG (Net1D, 512)",
        description="Net1D pretrained on synchronous PPG and ECG by contrast between the two; mean-pooled embedding.",
        factory="phewas.encoders.net1d:build",
        contract=PPG_125,
        width=512,
        pretrained=True,
        options=_ANYPPG,
        window_s=10.0,
        tensor="last stage, before any projector; stem of stride 2 as in the released code (the paper's table says 1)",
        pooling="mean over time",
        parameters=4_044_272,
        pretraining=_ANYPPG_SETS,
        source="anyppg_ckpt.pth in the folder load_anyppg of the repository PKUDigitalHealth/AnyPPG",
        doi="10.1145/3770855.3818911",
        file="anyppg_ckpt.pth",
        nesting="flat, no prefix; of training checkpoints, ppg_encoder.* under model_state_dict",
        licence="none stated by its authors, for code or weights",
        code_licence="none stated by its authors",
        citation="AnyPPG, arXiv:2511.01747",
        sha256="99b9bb0a3c2b83a1f5d8ca2963fbd25329b6530e8d337de8825722fc6fd5f4fa",
        heads=_ANYPPG_HEADS,
        idle=(_FIRST_BN,),
    ),
    EncoderSpec(
        name="anyppg-1024.stride1",
        title="AnyPPG, older release (Net1D, 1024), stem stride 1",
        description=f"The older public release of AnyPPG, with a last stage of 1,024 channels. {_STEM_CURE}",
        options={**_ANYPPG_1024, "stem_stride": 1},
        tensor="last stage; stem of stride 1, as in the code of that release",
        **_ANYPPG_OLD,
    ),
    EncoderSpec(
        name="anyppg-1024.stride2",
        title="AnyPPG, older release (Net1D, 1024), stem stride 2",
        description=f"The older public release of AnyPPG, with a last stage of 1,024 channels. {_STEM_CURE}",
        options=_ANYPPG_1024,
        tensor="last stage; stem of stride 2, as in the code of the current release",
        **_ANYPPG_OLD,
    ),
    EncoderSpec(
        name="ecgfounder-1lead",
        title="ECGFounder, lead I (Net1D, 1024)",
        description="Net1D trained to read 150 findings from a ten-second ECG, one lead. Its normalisation layers are "
        "stored and not run, as in its authors' code.",
        contract=ECG_1LEAD_500,
        options=_ECGFOUNDER,
        tensor="last stage, before the classifier",
        parameters=30_807_750,
        idle=_NO_BN,
        **_FOUNDER_CARD,
    ),
    EncoderSpec(
        name="ecgfounder-1lead.bn",
        title="ECGFounder, lead I, normalisation layers run (Net1D, 1024)",
        description="ECGFounder's weights as AnyPPG used them for its ECG branch: the stored normalisation layers are "
        "run. The same file as ecgfounder-1lead, and other embeddings unless their statistics were never updated.",
        contract=ECG_1LEAD_500,
        options={**_ECGFOUNDER, "use_bn": True},
        tensor="last stage, before the classifier",
        parameters=30_807_750,
        idle=(_FIRST_BN, "dense.*"),
        **_FOUNDER_CARD,
    ),
    EncoderSpec(
        name="ecgfounder-12lead",
        title="ECGFounder, 12 leads (Net1D, 1024)",
        description="Net1D trained to read 150 findings from a ten-second ECG of twelve leads. Its normalisation "
        "layers are stored and not run, as in its authors' code.",
        contract=ECG_12LEAD_500,
        options={**_ECGFOUNDER, "channels": 12},
        tensor="last stage, before the classifier",
        parameters=30_819_014,
        idle=_NO_BN,
        **_FOUNDER_CARD,
    ),
    EncoderSpec(
        name="net1d-small",
        title="Net1D, small, no pretraining",
        description="A small Net1D of the same design that starts from random weights. Fine-tuned, it learns from the "
        "cohort's own training patients; frozen, it is a random projection and a floor for pretrained encoders.",
        factory="phewas.encoders.net1d:build",
        contract=PPG_125,
        width=64,
        pretrained=False,
        options={
            "base_filters": 16,
            "filters": (16, 32, 64, 64, 64),
            "blocks": (1, 1, 1, 1, 1),
            "kernel_size": 7,
            "stride": 2,
            "group_width": 16,
            "stem_stride": 2,
            "dropout": 0.0,
        },
        tensor="last stage",
        pooling="mean over time",
        idle=(_FIRST_BN,),
    ),
)
