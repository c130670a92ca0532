"""The learn step: from the segment store and labels to a model and one logit per scored encounter and phenotype."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from phewas.config import LearnConfig
from phewas.encoders.checkpoint import settings_of
from phewas.encoders.inputs import check_batch
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError, SplitError
from phewas.learning import distributed, probe
from phewas.learning.distributed import Group
from phewas.learning.finetune import fit
from phewas.learning.labels import Study, count_patients, fittable, load
from phewas.learning.model import PhenomeModel, build_encoder, pick_device, save_model, save_tensors, torch_seed
from phewas.learning.predict import Floats, in_blocks, keep_segments, score
from phewas.learning.stratify import iterative_stratification, patient_labels
from phewas.learning.watch import tell_no_cases
from phewas.rundir import sha256_of, write_json, write_npy
from phewas.schema import LOGITS_PATH, Phenotypes, PredictionColumns, PredictionRows
from phewas.seeds import hashed
from phewas.segments.store import SegmentStore

TUNING_SHARE = 0.1
LOOKED_AT = 64  # windows of a store, to see that they are what the encoder takes


@dataclass(frozen=True)
class Learn:
    """What the step is told, beside the files of the run directory.

    `weights` is a file, or ``random``/None for random weights; `minimum` is the number of case (and control) patients
    that a phenotype needs among the training patients, of each fold where there are folds; `minimum_tested` the number
    that some phenotype must have among the scored patients, so that hours of training end in at least one AUC.
    `about` is kept with the model: the cohort's name, the weights' hash and such.
    """

    run: Path
    spec: EncoderSpec
    weights: str | None
    kind: Literal["finetune", "probe"]
    config: LearnConfig
    minimum: int
    minimum_tested: int
    seed: int
    device: str
    fingerprint: str
    about: dict[str, Any] = field(default_factory=dict)


FITTED_ON = (
    "Hashes of the identifiers of the patients whom this model has met, so that it never scores one of them. Short "
    "identifiers can be found from their hashes by trying all: this file is only for those who may see identifiers. "
    "For anyone else, empty the list `patients` first."
)


@dataclass(frozen=True)
class Frozen:
    """Cross-fitted frozen embeddings, which permutations of the labels are refitted on.

    `embeddings` float32 [encounters, width]; `labels` int8 [encounters, phenotypes]; `folds` int8 [encounters];
    `patients` int64 [encounters]; `phenotypes` names the columns; `device` is where heads are fitted.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int8]
    folds: NDArray[np.int8]
    patients: NDArray[np.int64]
    phenotypes: tuple[str, ...]
    l2_share: float
    device: torch.device = probe.CPU

    def scores(self, labels: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return cross-fitted logits for other labels int8 [encounters, columns]."""
        return probe.crossfit(self.embeddings, labels, self.folds, l2_share=self.l2_share, device=self.device)[0]


def learn(job: Learn) -> Frozen | None:
    """Fit, predict and write ``model/`` and ``predictions/``.

    Where several processes share the work (`distributed`), each calls this with the same job, and the first writes.

    Returns
    -------
    Frozen or None
        For a cross-fitted probe, what its permutation null is computed from.

    Raises
    ------
    LearningError
        No phenotype can be fitted, training diverges, or an output is no number.
    SplitError
        There is nobody to train on or nobody to score.
    """
    group = distributed.join()
    store = SegmentStore.open(job.run, job.spec.contract)
    check_batch(job.spec, store.gather(np.arange(min(LOOKED_AT, store.index.height))))
    study = load(job.run, store)
    device = pick_device(job.device)
    if device.type == "cuda" and group.size > 1:
        device = distributed.local_device()
    work = job.run / "model" / f".work-{job.fingerprint[:16]}"
    for stale in (job.run / "model").glob(".work-*"):
        if stale != work and group.leads:
            shutil.rmtree(stale, ignore_errors=True)
    crossfitted = bool(len(study.where("crossfit")))
    run = _Run(job, store, study, device, work, group)
    frozen = None
    if job.kind == "probe" and crossfitted:
        frozen = run.probe_folds()
    elif job.kind == "probe":
        run.probe_split()
    elif crossfitted:
        run.finetune_folds()
    else:
        run.finetune_split()
    group.wait()  # nobody still reads what goes now
    if group.leads:
        shutil.rmtree(work, ignore_errors=True)
    return frozen


@dataclass(frozen=True)
class _Run:
    job: Learn
    store: SegmentStore
    study: Study
    device: torch.device
    work: Path
    group: Group = Group()  # noqa: RUF009  frozen

    def sides(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return training, tuning and scored encounters of a held-out split."""
        train, tuning = self.study.where("train"), self.study.where("tuning")
        if not len(train) or not len(self.study.where("held_out")):
            side = "training" if not len(train) else "held-out"
            raise SplitError(
                f"no {side} patient has a usable window",
                expected="encounters with windows on both sides",
                cure="another --heldout rule",
            )
        return train, tuning, self.study.where("held_out", "tuning")

    def folds(self) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
        """Return the cross-fitted encounters, their folds, and the columns that every fold's training part can fit."""
        everyone = self.study.where("crossfit")
        folds = self.study.encounters.get_column("fold").to_numpy()[everyone].astype(np.int8)
        columns: NDArray[np.int64] = np.arange(len(self.study.phenotypes))
        for fold in np.unique(folds):
            columns = np.intersect1d(columns, fittable(self.study, everyone[folds != fold], minimum=self.job.minimum))
        if not len(columns):
            raise LearningError("no phenotype can be fitted in every fold", cure="fewer folds: --heldout crossfit:3")
        self._some_testable(columns, everyone)
        return everyone, folds, columns

    def _some_testable(self, columns: NDArray[np.int64], scored: NDArray[np.int64]) -> None:
        """Stop before training where no phenotype could be tested afterwards."""
        labels, patients = self.study.labels[scored][:, columns], self.study.patients(scored)
        least = self.job.minimum_tested
        cases, controls = count_patients(labels, patients, 1), count_patients(labels, patients, 0)
        if not ((cases >= least) & (controls >= least)).any():
            raise LearningError(
                f"no fitted phenotype has {least} case patients with usable recordings on the test side "
                f"(the most frequent has {int(cases.max(initial=0))} of {len(np.unique(patients))})",
                expected=f"at least {least} case and {least} control patients for some phenotype",
                cure="a larger test side (--heldout random:0.5, or crossfit:5 with --fit probe), or a wider label "
                'window ([phenotypes] label_window = "any" in a --config file)',
            )

    def finetune_split(self) -> None:
        train, tuning, scored = self.sides()
        columns = fittable(self.study, train, minimum=self.job.minimum)
        self._some_testable(columns, self.study.where("held_out"))
        model = self._fit(train, tuning, columns, "")
        logits = self._score(model, scored, "predict")
        self._save(model, columns, "", fitted_on=np.union1d(train, tuning))
        self._write(scored, columns, logits, model_ids=["finetune"] * len(scored))

    def finetune_folds(self) -> None:
        everyone, folds, columns = self.folds()
        logits = np.empty((len(everyone), len(columns)), dtype=np.float32)
        patients = self.study.patients(everyone)
        for fold in np.unique(folds):
            inside = folds == fold
            if np.intersect1d(patients[inside], patients[~inside]).size:
                raise SplitError("a patient lies in two folds", cure="this is a fault: report it")
            model = self._fit(*self._aside(everyone[~inside], columns), columns, f"fold-{fold}")
            logits[inside] = self._score(model, everyone[inside], f"predict-{fold}")
            self._save(model, columns, f"fold-{fold}", fitted_on=everyone[~inside])
        # For other cohorts; nobody of this one is ever scored by it.
        refit = self._fit(*self._aside(everyone, columns), columns, "refit")
        self._save(refit, columns, "", fitted_on=everyone)
        self._write(everyone, columns, logits, model_ids=[f"finetune-fold-{f}" for f in folds])

    def _aside(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return training and tuning encounters: every phenotype's cases are divided among them in proportion."""
        cases, place = patient_labels(self.study.labels[rows][:, columns], self.study.patients(rows))
        part = iterative_stratification(cases, np.array([1 - TUNING_SHARE, TUNING_SHARE]), seed=self.job.seed)
        return rows[part[place] == 0], rows[part[place] == 1]

    def probe_split(self) -> None:
        train, _, scored = self.sides()
        columns = fittable(self.study, train, minimum=self.job.minimum)
        self._some_testable(columns, self.study.where("held_out"))
        needed = np.union1d(train, scored)
        embeddings = np.zeros((len(self.study.encounters), self.job.spec.width), dtype=np.float32)
        embeddings[needed] = self._embed(needed)
        labels = self.study.labels[:, columns]
        fixed, patients = self.job.config.l2, self.study.patients(train)
        l2 = fixed or probe.choose_strengths(
            embeddings[train], labels[train], patients, seed=self.job.seed, device=self.device
        )
        heads = probe.fit_heads(embeddings[train], labels[train], l2=l2, device=self.device)
        self._save_heads(heads, columns, "", train, {"l2": np.asarray(l2).tolist()})
        self._write(scored, columns, heads(embeddings[scored]), model_ids=["probe"] * len(scored))

    def probe_folds(self) -> Frozen:
        everyone, folds, columns = self.folds()
        embeddings, labels = self._embed(everyone), self.study.labels[everyone][:, columns]
        share = probe.FIXED if self.job.config.l2 is None else self.job.config.l2 / len(everyone)
        logits, heads = probe.crossfit(embeddings, labels, folds, l2_share=share, device=self.device)
        refit = probe.fit_heads(embeddings, labels, l2=share * len(everyone), device=self.device)
        about = {"l2_per_training_encounter": share}
        for fold, one in zip(np.unique(folds), heads, strict=True):
            self._save_heads(one, columns, f"fold-{fold}", everyone[folds != fold], about)
        self._save_heads(refit, columns, "", everyone, about)
        self._write(everyone, columns, logits, model_ids=[f"probe-fold-{f}" for f in folds])
        names = tuple(self.study.phenotypes[c] for c in columns)
        return Frozen(embeddings, labels, folds, self.study.patients(everyone), names, share, self.device)

    def _fit(
        self, train: NDArray[np.int64], tuning: NDArray[np.int64], columns: NDArray[np.int64], name: str
    ) -> PhenomeModel:
        tell_no_cases(self.study, train, columns)
        return fit(
            self.store, self.study, train=train, tuning=tuning, columns=columns, spec=self.job.spec,
            weights=self.job.weights, config=self.job.config, seed=self.job.seed, device=self.device,
            folder=self.work / name, logs=self.job.run / "logs" / "learn" / name, group=self.group,
        )  # fmt: skip

    def _score(self, model: PhenomeModel, rows: NDArray[np.int64], task: str) -> Floats:
        """Return each encounter's logits, and keep those of its segments where that is asked for."""
        config = self.job.config
        keep = keep_segments(self.job.run, self.store) if config.segment_predictions else None
        return in_blocks(
            lambda part: score(
                model, self.store, self.study, part, device=self.device, precision=config.precision,
                aggregate=config.aggregate, keep=keep,
            ),
            rows, folder=self.work / "blocks", task=task, group=self.group,
        )  # fmt: skip

    def _embed(self, rows: NDArray[np.int64]) -> Floats:
        """Return each encounter's mean embedding, float32 [rows, width]."""
        encoder = build_encoder(self.job.spec, weights=self.job.weights, seed=self.job.seed).to(self.device).eval()
        torch.manual_seed(torch_seed("embed", self.job.seed))
        if self.group.leads and self.job.spec.bundle is None and encoder.state_dict():
            save_tensors(encoder.state_dict(), self.job.run / "model" / "encoder.safetensors")
        return in_blocks(
            lambda part: score(encoder, self.store, self.study, part, device=self.device),
            rows, folder=self.work / "blocks", task="embed", group=self.group,
        )  # fmt: skip

    def _meta(self, columns: NDArray[np.int64], **more: object) -> dict[str, Any]:
        spec, run = self.job.spec, self.job.run
        described = (run / Phenotypes.file).is_file()
        vocabulary = Phenotypes.read(run)["vocabulary"].unique().sort().to_list() if described else []
        return {
            "encoder": spec.name,
            "encoder_settings": settings_of(spec, self.job.weights),
            "fit": self.job.kind,
            "contract": asdict(spec.contract),
            "width": spec.width,
            "samples": self.store.shards[0][0].shape[1],
            "phenotypes": [self.study.phenotypes[c] for c in columns],
            "vocabulary": vocabulary,
            "settings": self.job.config.model_dump(exclude={"tensorboard"}),
            "seed": self.job.seed,
            "torch": torch.__version__,
            "device": self.device.type,
            "devices": self.group.size,
            "threads": torch.get_num_threads(),
            "about": self.job.about,
            **more,
        }

    def _save(
        self, model: PhenomeModel, columns: NDArray[np.int64], name: str, *, fitted_on: NDArray[np.int64]
    ) -> None:
        """Write a fine-tuned model, its history, and whom it has met."""
        if not self.group.leads:
            return
        folder = self.job.run / "model" / name
        save_model(model, folder, self._meta(columns, tuned=True))
        crossfitted = bool(len(self.study.where("crossfit")))
        work = self.work / (name or ("refit" if crossfitted else ""))
        shutil.copyfile(work / "history.csv", folder / "history.csv")
        self._save_fitted_on(folder, fitted_on)

    def _save_heads(
        self, heads: probe.Heads, columns: NDArray[np.int64], name: str, fitted_on: NDArray[np.int64], more: Any
    ) -> None:
        if not self.group.leads:
            return
        tensors = {n: torch.from_numpy(np.ascontiguousarray(value)) for n, value in vars(heads).items()}
        folder = self.job.run / "model" / name
        save_tensors(tensors, folder / "heads.safetensors")
        sha256 = sha256_of(folder / "heads.safetensors")
        write_json(self._meta(columns, **more) | {"sha256": sha256}, folder / "model.json")
        self._save_fitted_on(folder, fitted_on)

    def _save_fitted_on(self, folder: Path, rows: NDArray[np.int64]) -> None:
        """Write hashes of the patients that a model has met, so that it never scores one of them elsewhere."""
        cohort = self.job.about.get("cohort", "")
        names = sorted(set(self.study.encounters.get_column("patient_id").gather(rows).to_list()))
        marks = sorted(f"{hashed('fitted-on', cohort, name):032x}" for name in names)
        write_json({"note": FITTED_ON, "cohort": cohort, "patients": marks}, folder / "fitted_on.json")

    def _write(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], logits: NDArray[np.float32], *, model_ids: list[str]
    ) -> None:
        """Write the predictions tables."""
        if not self.group.leads:
            return
        write_predictions(
            self.job.run, self.study, rows, tuple(self.study.phenotypes[c] for c in columns), logits,
            model_ids=model_ids,
        )  # fmt: skip


def write_predictions(
    run: Path, study: Study, rows: NDArray[np.int64], phenotypes: tuple[str, ...], logits: Floats, *,
    model_ids: list[str],
) -> None:  # fmt: skip
    """Write logits float32 [rows, phenotypes] of encounters and the tables that name rows and columns.

    Raises
    ------
    LearningError
        One is no number.
    """
    if not np.isfinite(logits).all():
        raise LearningError("a prediction is no number", cure="lower the learning rates")
    table = (
        study.encounters.select("encounter_id", "patient_id", "split", "fold", "n_windows")
        .select(pl.all().gather(rows))
        .with_columns(
            pl.Series("model_id", model_ids, dtype=pl.String),
            pl.col("n_windows").cast(pl.Int32).alias("n_segments"),
        )
        .drop("n_windows")
    )
    write_npy(logits.astype(np.float32), run / LOGITS_PATH)
    PredictionRows.write(table, run)
    PredictionColumns.write(pl.DataFrame({"phenotype": list(phenotypes)}, schema={"phenotype": pl.String}), run)


def shuffled(
    frozen: Frozen, permute: Any, *, permutations: int, block: int = 64
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int8]]]:
    """Refit the heads on shuffled labels, many permutations at once.

    Parameters
    ----------
    frozen
        From a cross-fitted probe.
    permute
        Maps a permutation number to labels int8 [encounters, phenotypes] with patients' rows exchanged.
    permutations, block
        How many, and how many share one pass over the embeddings.

    Yields
    ------
    number, scores, labels
        Cross-fitted logits float32 and the shuffled labels int8, both [encounters, phenotypes].
    """
    width = frozen.labels.shape[1]
    for at in range(0, permutations, block):
        numbers = range(at, min(at + block, permutations))
        labels = [permute(number) for number in numbers]
        scores = frozen.scores(np.concatenate(labels, axis=1))
        for place, number in enumerate(numbers):
            yield number, scores[:, place * width : (place + 1) * width], labels[place]
