"""What a run is told: `RunConfig` and its parts, the TOML file, and where data and weights are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A group of options; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PhenotypeConfig(Part):
    """How codes become labels (DESIGN: label rules)."""

    vocabulary: str = Field("phecode1.2", description="vocabulary name, with its version")
    label_window: Literal["history", "through_visit", "any"] = Field(
        "through_visit", description="which diagnoses count, by date against the encounter"
    )
    min_code_days: int | None = Field(None, ge=1, description="distinct days a case needs; default: the cohort's card")
    control_exclusions: bool = Field(default=True, description="codes of related phenotypes make a non-case neither")


class SegmentConfig(Part):
    """Which windows are taken from the recordings."""

    window_s: float | None = Field(None, gt=0, description="window length in seconds; default: the cohort's card")
    n_segments: int = Field(20, ge=1, description="windows per encounter")
    min_segments: int = Field(1, ge=1, description="encounters with fewer usable windows are left out")
    max_invalid: float = Field(0.25, ge=0, le=1, description="largest share of missing samples in a window")
    max_flat: float = Field(0.25, ge=0, le=1, description="largest share of a window that may lie in flat runs")
    shard_encounters: int = Field(256, ge=1, description="encounters per shard of the store")


class LearnConfig(Part):
    """How the encoder and its heads are fitted."""

    epochs: int = Field(20, ge=1, description="passes over the training encounters")
    batch_encounters: int = Field(32, ge=1, description="encounters per step")
    segments_per_encounter: int = Field(20, ge=1, description="segments of each encounter per step")
    encoder_lr: float = Field(1e-4, gt=0, description="peak learning rate of a pretrained encoder")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of the heads, and of an encoder from scratch")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    patience: int = Field(5, ge=1, description="epochs without a better tuning score before stopping")
    save_every_steps: int = Field(200, ge=1, description="steps between training checkpoints")
    l2: float | None = Field(None, gt=0, description="probe: ridge strength; default: chosen on the tuning patients")
    permutations: int = Field(999, ge=99, description="cross-fitting: label permutations")


class EvaluateConfig(Part):
    """How predictions become AUCs."""

    unit: Literal["encounter", "patient"] = Field("encounter", description="what a row of the analysis is")
    min_case_patients: int = Field(20, ge=20, description="case (and control) patients a test needs")
    min_train_case_patients: int = Field(10, ge=1, description="case patients a phenotype needs in training")
    few_cases: int = Field(100, ge=20, description="fewer case patients than this are flagged")
    level: float = Field(0.95, gt=0.5, lt=1, description="confidence level")


class ReportConfig(Part):
    """What is shown."""

    small_cell: int = Field(11, ge=0, description="counts below this are hidden in the report; public cohorts: 0")


class RunConfig(Part):
    """Everything a run is told. One `seed`; every random choice derives from it and from identifiers."""

    cohort: str
    data: Path | None = None
    encoder: str | None = None
    weights: str | None = None
    fit: Literal["finetune", "probe"] | None = None
    heldout: str | None = None
    seed: int = 0
    workers: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    phenotypes: PhenotypeConfig = PhenotypeConfig()
    segments: SegmentConfig = SegmentConfig()
    learn: LearnConfig = LearnConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
