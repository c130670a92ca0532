"""What a run is told: `RunConfig` and its parts, the TOML file, and where data and weights are looked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath


class Part(BaseModel):
    """A group of options; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PhenotypeConfig(Part):
    """How codes become labels (DESIGN: label rules). Every rule is an option here, with its default."""

    vocabulary: str = Field("phecode1.2", description="vocabulary name, with its version")
    label_window: Literal["history", "through_visit", "any", "future"] = Field(
        "through_visit", description="which diagnoses count, by date against the encounter"
    )
    horizon_days: int = Field(365, ge=1, le=36_525, description="label_window future: days after the visit that count")
    follow_up_until: date | None = Field(
        None,
        description="label_window future: last day on which the source would have noted a diagnosis; "
        "default: the encounters' own src_follow_up_end",
    )
    min_code_days: int | None = Field(None, ge=1, description="distinct days a case needs; default: the cohort's card")
    roll_up: bool = Field(default=True, description="codes of a phenotype also count for the phenotypes above it")
    control_exclusions: bool = Field(
        default=True,
        description="codes of related phenotypes make a non-case neither; "
        "without effect in a vocabulary that lists no related phenotypes",
    )
    sex_rule: bool = Field(default=True, description="a phenotype of one sex is assessed in that sex only")
    uncertain: Literal["exclude", "ignore", "confirm"] = Field(
        "exclude", description="uncertain diagnoses make neither case nor control, do not count, or count as confirmed"
    )
    walk_up: bool = Field(default=False, description="a code that the map lacks is read as the code above it")
    restore_zeros: bool = Field(default=False, description="zeros that ICD-9 codes have lost are put back")
    map_file: FilePath | None = Field(None, description="table that replaces the map: vocabulary, code, phenotype")
    rollup_file: FilePath | None = Field(None, description="table that replaces the roll-up: phenotype, ancestor")
    exclusions_file: FilePath | None = Field(
        None, description="table that replaces the control exclusions: phenotype, related"
    )
    sex_file: FilePath | None = Field(None, description="table that replaces the sex rule: phenotype, sex (both/F/M)")

    @property
    def replacements(self) -> dict[str, Path]:
        """Files that replace a table of the vocabulary, by table: map, rollup, exclusions, sex."""
        given = {name: getattr(self, f"{name}_file") for name in ("map", "rollup", "exclusions", "sex")}
        return {name: path for name, path in given.items() if path is not None}

    def dependencies(self) -> dict[str, Any]:
        """Return what labels depend on, JSON-ready: files by their sha256, and no option that is without effect."""
        from phewas.rundir import sha256_of

        settings = self.model_dump(mode="json")
        if self.label_window != "future":
            del settings["horizon_days"], settings["follow_up_until"]
        return settings | {f"{name}_file": sha256_of(path) for name, path in self.replacements.items()}

    def replaced(self, **options: Any) -> PhenotypeConfig:
        """Return the same options with those given in place of theirs; None means not given.

        Raises
        ------
        pydantic.ValidationError
            An option is unknown or its value cannot be.
        """
        return type(self)(**self.model_dump() | {name: value for name, value in options.items() if value is not None})


class SegmentConfig(Part):
    """Which windows are taken from the recordings."""

    window_s: float | None = Field(None, gt=0, description="window length in seconds; default: the cohort's card")
    n_segments: Annotated[int, Field(ge=1)] | Literal["all"] = Field(20, description="windows per encounter, or all")
    pool: int | None = Field(
        None, ge=1, description="windows kept of training patients, from which each epoch draws; default: n_segments"
    )
    min_segments: int = Field(1, ge=1, description="encounters with fewer usable windows are left out")
    max_invalid: float = Field(0.25, ge=0, le=1, description="largest share of missing samples in a window")
    max_gap_s: float | None = Field(
        None, ge=0, description="longest gap that is bridged by a straight line; default: any, up to max_invalid in all"
    )
    max_flat: float = Field(0.25, ge=0, le=1, description="largest share of a window that may lie in flat runs")
    flat_rule: Literal["same-value", "anyppg"] = Field(
        "same-value", description="what is flat: runs of one value, or AnyPPG's published rule in physical units"
    )
    max_saturated: float = Field(0.1, ge=0, le=1, description="largest share that may lie at the window's extremes")
    drop_wrapped: bool = Field(
        default=True, description="windows of a pulse wave with numbers that overflowed their bits are left out"
    )
    rate_range_per_min: tuple[float, float] | None = Field(
        None, description="windows whose pulse rate lies outside are left out; default: no such rule, as in the study"
    )
    min_template: float | None = Field(
        None, gt=0, lt=1, description="least mean correlation of the beats with their average (Orphanidou 2015: 0.86 "
        "for PPG, 0.66 for ECG); default: no such rule, as in the study"
    )  # fmt: skip
    channels: dict[str, str] = Field(
        default_factory=dict, description="recorded channel to take for one that the encoder asks for, such as "
        "ECG_I = \"ECG_II\" where only lead II was recorded"
    )  # fmt: skip
    mains_hz: Literal[50, 60] | None = Field(
        None, description="mains frequency of the site, for ECG encoders with a notch; default: the cohort's card"
    )
    shard_encounters: int = Field(256, ge=1, description="encounters per shard of the store")


class LearnConfig(Part):
    """How the encoder and its heads are fitted; the one place where the defaults of learning stand."""

    epochs: int = Field(20, ge=1, description="passes over the training encounters")
    batch_encounters: int | None = Field(
        None, ge=1, description="encounters per step, over all devices; default: a 250th of the training encounters, "
        "at least 32 and at most 256"
    )  # fmt: skip
    segments_per_encounter: int = Field(20, ge=1, description="segments of each encounter per step")
    part_segments: int | None = Field(
        None, ge=1, description="segments that a device passes through the network at once; larger batches are cut "
        "into such parts between encounters and their gradients added, which bounds memory; batch normalisation sees "
        "one part. Default: 128 on a CPU, 4096 on a GPU"
    )  # fmt: skip
    encoder_lr: float = Field(1e-4, gt=0, description="peak learning rate of a pretrained encoder")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of the heads, and of an encoder from scratch")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay of weights; never of biases and norms")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    loss: Literal["plain", "positive_weight", "logit_adjustment", "focal"] = Field(
        "plain", description="masked cross-entropy as it is; cases weighted by controls per case; logits shifted by "
        "the log odds of the prevalence (Menon 2021); or focal (Lin 2017)"
    )  # fmt: skip
    positive_weight_cap: float = Field(20.0, ge=1, description="loss positive_weight: largest weight of a case")
    adjustment_strength: float = Field(1.0, gt=0, description="loss logit_adjustment: multiple of the log odds")
    focal_gamma: float = Field(2.0, ge=0, description="loss focal: power of the missing probability")
    head: Literal["linear", "mlp"] = Field("linear", description="a linear map per phenotype, or a hidden layer first")
    head_width: int = Field(512, ge=1, description="head mlp: hidden units, shared by all phenotypes")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the heads")
    pooling: Literal["mean", "attention"] = Field(
        "mean", description="an encounter's logits are the mean over its segments, or a mean weighted by learned "
        "attention (gated, Ilse 2018), which is trained by bag"
    )  # fmt: skip
    bag: bool = Field(default=False, description="the loss is that of the encounter's logits, not of each segment's")
    frozen_epochs: int = Field(0, ge=0, description="first epochs in which only the heads are trained")
    unfreeze_every_epochs: int | None = Field(
        None, ge=1, description="after frozen_epochs, epochs between freeing one further layer from the top; "
        "default: all at once"
    )  # fmt: skip
    frozen_layers: int = Field(0, ge=0, description="layers of the encoder, from the input, that are never trained")
    augment_crop: float = Field(0.0, ge=0, lt=1, description="largest share cut away, the rest stretched; 0: off")
    augment_scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of amplitude; 0: off")
    augment_noise: float = Field(0.0, ge=0, description="largest deviation of added white noise; 0: off")
    augment_warp: float = Field(0.0, ge=0, lt=1, description="largest relative change of speed in a window; 0: off")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="arithmetic of the network in training; auto: bf16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(default=False, description="the network goes through torch.compile")
    patience: int = Field(5, ge=1, description="epochs without a better tuning score before stopping")
    min_tuning_cases: int = Field(
        5, ge=1, description="case (and control) patients among the tuning patients for a phenotype to count in their "
        "macro-AUC, which chooses the epoch"
    )  # fmt: skip
    save_every_steps: int = Field(200, ge=1, description="steps between training checkpoints")
    aggregate: Literal["mean", "mean_probability", "median"] = Field(
        "mean", description="how an encounter's segments are scored together: mean logit, logit of the mean "
        "probability, or median logit; with pooling attention it is the attention that decides"
    )  # fmt: skip
    segment_predictions: bool = Field(default=False, description="the logits of every segment are kept, too")
    l2: float | None = Field(
        None, gt=0, description="probe: ridge strength; default: chosen for each phenotype by cross-validation"
    )
    permutations: int = Field(999, ge=99, description="cross-fitting: label permutations")
    tensorboard: bool = Field(default=False, description="also write logs/tensorboard (needs phewas[tensorboard])")


class EvaluateConfig(Part):
    """How predictions become AUCs."""

    unit: Literal["encounter", "patient"] = Field("encounter", description="what a row of the analysis is")
    min_case_patients: int = Field(20, ge=20, description="case (and control) patients a test needs")
    min_train_case_patients: int = Field(10, ge=1, description="case patients a phenotype needs in training")
    few_cases: int = Field(100, ge=20, description="fewer case patients than this are flagged")
    level: float = Field(0.95, gt=0.5, lt=1, description="confidence level")
    draws: int = Field(1000, ge=200, description="bootstrap draws for counts, means and max-T")
    anchors: int = Field(4, ge=1, le=20, description="other phenotypes' scores that each AUC is held against")
    subgroups: list[str] = Field(
        ["sex", "age", "race", "ethnicity", "visit_type"],
        description="variables within whose groups AUCs are given; also src_ columns of the encounters",
    )
    rivals: list[Literal["vitals", "utilisation", "acquisition", "pulse-features"]] = Field(
        ["vitals", "utilisation", "acquisition"],
        description="what the encoder is held against besides age and sex, where the cohort offers it; pulse-features "
        "measures every window once more"
    )  # fmt: skip
    vitals: list[str] | None = Field(
        None, description="rival vitals: columns of the encounters (without src_) known when the signal begins; "
        "default: the cohort's card"
    )  # fmt: skip
    arrival: list[str] | None = Field(
        None, description="rival acquisition: columns of the encounters that say how patients arrive; default: the "
        "cohort's card"
    )  # fmt: skip
    controls_file: FilePath | None = Field(
        None, description="CSV of control phenotypes (phenotype, kind: negative or positive, reason) in place of ours"
    )
    net_benefit: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [], description="probabilities from which one would act, such as [0.05, 0.1]: net benefit at each of them"
    )
    age_bands: list[float] = Field([40, 60, 75], description="years at which age groups begin")


    def dependencies(self) -> dict[str, Any]:
        """Return what the results depend on, JSON-ready: a file by its sha256."""
        from phewas.rundir import sha256_of

        file = self.controls_file
        return self.model_dump(mode="json") | {"controls_file": None if file is None else sha256_of(file)}


class ReportConfig(Part):
    """What is shown."""

    small_cell: int = Field(11, ge=0, description="counts below this are hidden in the report; public cohorts: 0")


class EngineConfig(Part):
    """Where shards run. The results do not depend on it."""

    kind: Literal["local", "dask", "slurm"] = Field(
        "local", description="processes of this machine, the workers of a Dask cluster, or Slurm jobs of our own"
    )
    scheduler: str | None = Field(None, description="kind dask: address of the scheduler, such as tcp://HOST:8786")
    limit_s: float | None = Field(
        None, gt=0, description="seconds after which a shard counts as stalled and its worker is ended; default: none"
    )
    tries: int = Field(4, ge=1, description="deaths or stalls of a worker after which its shard is given up")
    jobs: int = Field(4, ge=1, description="kind slurm: jobs")
    cores: int = Field(4, ge=1, description="kind slurm: cores of each job, with one worker each")
    memory: str = Field("16GB", pattern=r"^[0-9]+(\.[0-9]+)?[KMGT]i?B$", description="kind slurm: memory of each job")
    walltime: str = Field(
        "04:00:00", pattern=r"^[0-9]+(-[0-9]{1,2})?(:[0-9]{2}){0,2}$", description="kind slurm: time limit of each job"
    )
    partition: str | None = Field(None, pattern=r"^[A-Za-z0-9_.,+-]+$", description="kind slurm: partition")
    account: str | None = Field(None, pattern=r"^[A-Za-z0-9_.@+-]+$", description="kind slurm: account")
    interface: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.:-]+$", description="kind slurm: network interface, such as ib0"
    )
    directives: list[str] = Field([], description="kind slurm: further #SBATCH directives, such as --qos=long")
    prologue: list[str] = Field([], description="kind slurm: shell lines before the worker, such as module load python")


class RunConfig(Part):
    """Everything a run is told. One `seed`; every random choice derives from it and from identifiers."""

    cohort: str
    data: Path | None = None
    encoder: str | None = None
    weights: str | None = None
    fit: Literal["finetune", "probe"] | None = None
    heldout: str | None = None
    # Cohorts whose patients are this one's, under the same identifiers: whom a model has met there, it has met here.
    same_patients_as: list[str] = []
    seed: int = 0
    workers: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    phenotypes: PhenotypeConfig = PhenotypeConfig()
    segments: SegmentConfig = SegmentConfig()
    learn: LearnConfig = LearnConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    engine: EngineConfig = EngineConfig()
