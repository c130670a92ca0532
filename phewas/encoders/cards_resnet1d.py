"""Records of the ResNet1D family: PaPaGei (three files) and Pulse-PPG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phewas.encoders.registry import PAPAGEI_125, PPG_50, EncoderSpec

# No pretraining sets are named here: the authors' README files name none, and their papers were not read for it. An
# encoder that names none is never said to be free of a cohort's patients.

_PAPAGEI: Mapping[str, Any] = {
    "base_filters": 32,
    "kernel_size": 3,
    "n_blocks": 18,
    "dropout": 0.5,
    "dense": 512,
    "output": "dense",
}
_PAPAGEI_CARD: Mapping[str, Any] = {
    "factory": "phewas.encoders.resnet1d:build",
    "contract": PAPAGEI_125,
    "width": 512,
    "pretrained": True,
    "window_s": 10.0,
    "tensor": "output 0: the dense layer after pooling",
    "pooling": "mean over time, then the dense layer",
    "source": "Zenodo record 13983110",
    "doi": "10.5281/zenodo.13983110",
    "licence": "of the Zenodo record: not seen",
    "code_licence": "BSD-3-Clause (file headers: BSD-3-Clause-Clear)",
    "citation": "PaPaGei: Pillai et al., ICLR 2025, arXiv:2410.20542",
}
_FIRST_BN = "basicblock_list.0.bn1.*"

SPECS = (
    EncoderSpec(
        name="papagei-s",
        title="PaPaGei-S (ResNet1D, 512)",
        description="ResNet1D pretrained on PPG by the shape of the pulse wave. Its two mixture heads (inflection "
        "point area, signal quality) are stored and are not part of the embedding.",
        options={**_PAPAGEI, "n_experts": 3},
        parameters=5_785_612,
        file="papagei_s.pt",
        nesting="flat, names after module.",
        md5="a4cdb32392e2a7b25999128af92813b5",
        heads=("expert_layers_1.", "expert_layers_2.", "gating_network_1.", "gating_network_2."),
        idle=(_FIRST_BN, "expert_layers_?.*", "gating_network_?.*"),
        **_PAPAGEI_CARD,
    ),
    EncoderSpec(
        name="papagei-p",
        title="PaPaGei-P (ResNet1D, 512)",
        description="ResNet1D pretrained on PPG by contrast between patients.",
        options=_PAPAGEI,
        parameters=4_993_024,
        file="papagei_p.pt",
        nesting="flat, names after module.",
        md5="052b50807465fae61e08e2b7acbb5c53",
        idle=(_FIRST_BN,),
        **_PAPAGEI_CARD,
    ),
    EncoderSpec(
        name="papagei-s-svri",
        title="PaPaGei-S, sVRI only (ResNet1D, 512)",
        description="The variant of PaPaGei-S without mixture heads, pretrained by one index of the pulse wave's shape "
        "(sVRI). It is built like papagei-p: the file's name and checksum alone tell the two apart.",
        options=_PAPAGEI,
        parameters=4_993_024,
        file="papagei_s_svri.pt",
        nesting="flat, names after module.",
        idle=(_FIRST_BN,),
        **_PAPAGEI_CARD,
    ),
    EncoderSpec(
        name="pulse-ppg",
        title="Pulse-PPG (ResNet1D, 512)",
        description="ResNet1D pretrained on four-minute stretches of wrist PPG from daily life. Each window is "
        "standardised inside the network, so that scale and offset of the input do not matter.",
        factory="phewas.encoders.resnet1d:build",
        contract=PPG_50,
        width=512,
        pretrained=True,
        options={
            "base_filters": 128,
            "kernel_size": 11,
            "n_blocks": 12,
            "dropout": 0.5,
            "normalise_input": True,
            "final_norm": False,
            "pool": "max",
        },
        window_s=240.0,
        normalised_inside="instance normalisation of each window, without parameters",
        tensor="last block, without normalisation or activation",
        pooling="maximum over time",
        parameters=28_497_920,
        source="pulseppg/experiments/out/pulseppg/checkpoint_best.pkl in the zip of Zenodo record 17345536",
        doi="10.5281/zenodo.17270930",
        file="checkpoint_best.pkl",
        nesting="under net, beside optimizer, test_loss and epoch; no prefix. Despite its name a torch archive",
        sha256="485ade5033b3baa9b82e252fc131042dda897d7bdfc0d1a030d9746a1e98857c",
        licence="of the Zenodo record: not seen",
        code_licence="MIT",
        citation="Pulse-PPG: Saha et al., arXiv:2502.01108",
        idle=(_FIRST_BN,),
    ),
)
