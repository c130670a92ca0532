"""Record of phewas's own two-signal masked autoencoder."""

from __future__ import annotations

from phewas.encoders.registry import PPG_ECG_125, EncoderSpec

SPECS = (
    EncoderSpec(
        name="m2ae",
        title="M2AE-style masked autoencoder for PPG and ECG (phewas's own design)",
        description="Patch encoders for PPG and ECG, a shared bottleneck whose mean is the fingerprint, and a decoder "
        "for each signal. It follows the published outline of M2AE, whose code, weights and sizes are not public: its "
        "results are not those of the paper.",
        factory="phewas.encoders.m2ae:build",
        contract=PPG_ECG_125,
        width=256,
        pretrained=False,
        tensor="tokens of the shared bottleneck, PPG and ECG",
        pooling="mean over time and both signals",
        citation="outline: arXiv:2605.09579; design and training: phewas",
        heads=("decoders.", "restore."),
        idle=("hidden", "decoders.*", "restore.*"),
    ),
)
