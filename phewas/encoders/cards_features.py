"""Record of the classical pulse wave features."""

from __future__ import annotations

from phewas.encoders.registry import PPG_125, EncoderSpec

SPECS = (
    EncoderSpec(
        name="pulse-features",
        title="Classical pulse wave features",
        description="49 documented measures of the pulse wave: rate, beat-to-beat variability and irregularity, rise "
        "time, widths, augmentation, dicrotic timing, second derivative, spectrum, signal quality. No weights; "
        "the comparator that a deep encoder must beat.",
        factory="phewas.encoders.pulse_features:build",
        contract=PPG_125,
        width=49,
        pretrained=False,
        options={"fs_hz": PPG_125.fs_hz},
        frozen_only="its features are computed by formula: it has no weights to train",
    ),
)
