"""The learn step: from the segment store and labels to a model and one logit per scored encounter and phenotype."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from phewas.config import LearnConfig
from phewas.encoders.inputs import check_batch
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError, SplitError
from phewas.learning import probe
from phewas.learning.finetune import fit
from phewas.learning.labels import Study, count_patients, fittable, load
from phewas.learning.model import build_encoder, pick_device, save_model, save_tensors, torch_seed
from phewas.learning.predict import in_blocks, score
from phewas.rundir import write_json, write_npy
from phewas.schema import LOGITS_PATH, PredictionColumns, PredictionRows
from phewas.seeds import generator
from phewas.segments.store import SegmentStore

TUNING_SHARE = 0.1
LOOKED_AT = 64  # windows of a store, to see that they are what the encoder takes


@dataclass(frozen=True)
class Learn:
    """What the step is told, beside the files of the run directory.

    `weights` is a file, or ``random``/None for random weights; `minimum` is the number of case (and control) patients
    that a phenotype needs among the training patients, of each fold where there are folds; `minimum_tested` the number
    that some phenotype must have among the scored patients, so that hours of training end in at least one AUC.
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


@dataclass(frozen=True)
class Frozen:
    """Cross-fitted frozen embeddings, which permutations of the labels are refitted on.

    `embeddings` float32 [encounters, width]; `labels` int8 [encounters, phenotypes]; `folds` int8 [encounters];
    `patients` int64 [encounters]; `phenotypes` names the columns.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int8]
    folds: NDArray[np.int8]
    patients: NDArray[np.int64]
    phenotypes: tuple[str, ...]
    l2_share: float

    def scores(self, labels: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return cross-fitted logits for other labels int8 [encounters, columns]."""
        return probe.crossfit(self.embeddings, labels, self.folds, l2_share=self.l2_share)[0]


def learn(job: Learn) -> Frozen | None:
    """Fit, predict and write ``model/`` and ``predictions/``.

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
    store = SegmentStore.open(job.run, job.spec.contract)
    check_batch(job.spec, store.gather(np.arange(min(LOOKED_AT, store.index.height))))
    study = load(job.run, store)
    device = pick_device(job.device)
    work = job.run / "model" / f".work-{job.fingerprint[:16]}"
    for stale in (job.run / "model").glob(".work-*"):
        if stale != work:
            shutil.rmtree(stale)
    crossfitted = bool(len(study.where("crossfit")))
    run = _Run(job, store, study, device, work)
    frozen = None
    if job.kind == "probe" and crossfitted:
        frozen = run.probe_folds()
    elif job.kind == "probe":
        run.probe_split()
    elif crossfitted:
        run.finetune_folds()
    else:
        run.finetune_split()
    shutil.rmtree(work, ignore_errors=True)
    return frozen


@dataclass(frozen=True)
class _Run:
    job: Learn
    store: SegmentStore
    study: Study
    device: torch.device
    work: Path

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
        model = self._fit(train, tuning, columns, self.work)
        logits = in_blocks(
            lambda rows: score(model, self.store, self.study, rows, device=self.device),
            scored, folder=self.work / "blocks", task="predict",
        )  # fmt: skip
        save_model(model, self.job.run / "model", self._meta(columns))
        shutil.copyfile(self.work / "history.csv", self.job.run / "model" / "history.csv")
        self._write(scored, columns, logits, model_ids=["finetune"] * len(scored))

    def finetune_folds(self) -> None:
        everyone, folds, columns = self.folds()
        logits = np.empty((len(everyone), len(columns)), dtype=np.float32)
        patients = self.study.patients(everyone)
        for fold in np.unique(folds):
            outside = everyone[folds != fold]
            names = self.study.encounters.get_column("patient_id").gather(outside).to_list()
            draws = {n: generator("fold-tuning", self.job.seed, fold, n).random() for n in set(names)}
            aside = np.array([draws[n] < TUNING_SHARE for n in names])
            model = self._fit(outside[~aside], outside[aside], columns, self.work / f"fold-{fold}")
            if np.intersect1d(patients[folds == fold], patients[folds != fold]).size:
                raise SplitError("a patient lies in two folds", cure="this is a fault: report it")
            logits[folds == fold] = score(model, self.store, self.study, everyone[folds == fold], device=self.device)
            save_model(model, self.job.run / "model" / f"fold-{fold}", self._meta(columns))
        self._write(everyone, columns, logits, model_ids=[f"finetune-fold-{f}" for f in folds])

    def probe_split(self) -> None:
        train, tuning, scored = self.sides()
        columns = fittable(self.study, train, minimum=self.job.minimum)
        self._some_testable(columns, self.study.where("held_out"))
        needed = np.union1d(train, scored)
        embeddings = np.zeros((len(self.study.encounters), self.job.spec.width), dtype=np.float32)
        embeddings[needed] = self._embed(needed)
        labels = self.study.labels[:, columns]
        l2 = self.job.config.l2 or probe.choose_strength(embeddings, labels, train, tuning, self.study.patients(tuning))
        heads = probe.fit_heads(embeddings[train], labels[train], l2=l2)
        self._save_heads([heads], columns, {"l2": l2})
        self._write(scored, columns, heads(embeddings[scored]), model_ids=["probe"] * len(scored))

    def probe_folds(self) -> Frozen:
        everyone, folds, columns = self.folds()
        embeddings, labels = self._embed(everyone), self.study.labels[everyone][:, columns]
        share = probe.FIXED if self.job.config.l2 is None else self.job.config.l2 / len(everyone)
        logits, heads = probe.crossfit(embeddings, labels, folds, l2_share=share)
        self._save_heads(heads, columns, {"l2_per_training_encounter": share})
        self._write(everyone, columns, logits, model_ids=[f"probe-fold-{f}" for f in folds])
        names = tuple(self.study.phenotypes[c] for c in columns)
        return Frozen(embeddings, labels, folds, self.study.patients(everyone), names, share)

    def _fit(
        self, train: NDArray[np.int64], tuning: NDArray[np.int64], columns: NDArray[np.int64], folder: Path
    ) -> Any:
        return fit(
            self.store, self.study, train=train, tuning=tuning, columns=columns, spec=self.job.spec,
            weights=self.job.weights, config=self.job.config, seed=self.job.seed, device=self.device, folder=folder,
        )  # fmt: skip

    def _embed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each encounter's mean embedding, float32 [rows, width]."""
        encoder = build_encoder(self.job.spec, weights=self.job.weights, seed=self.job.seed).to(self.device).eval()
        torch.manual_seed(torch_seed("embed", self.job.seed))
        return in_blocks(
            lambda part: score(encoder, self.store, self.study, part, device=self.device),
            rows, folder=self.work / "blocks", task="embed",
        )  # fmt: skip

    def _meta(self, columns: NDArray[np.int64], **more: object) -> dict[str, Any]:
        spec = self.job.spec
        return {
            "encoder": spec.name,
            "fit": self.job.kind,
            "contract": asdict(spec.contract),
            "phenotypes": [self.study.phenotypes[c] for c in columns],
            "settings": self.job.config.model_dump(),
            "seed": self.job.seed,
            "torch": torch.__version__,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            **more,
        }

    def _save_heads(self, heads: list[probe.Heads], columns: NDArray[np.int64], more: dict[str, object]) -> None:
        tensors = {
            f"{number}.{name}": torch.from_numpy(np.ascontiguousarray(value))
            for number, head in enumerate(heads)
            for name, value in vars(head).items()
        }
        save_tensors(tensors, self.job.run / "model" / "heads.safetensors")
        write_json(self._meta(columns, **more), self.job.run / "model" / "model.json")

    def _write(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], logits: NDArray[np.float32], *, model_ids: list[str]
    ) -> None:
        """Write the predictions tables."""
        if not np.isfinite(logits).all():
            raise LearningError("a prediction is no number", cure="lower the learning rates")
        run, encounters = self.job.run, self.study.encounters
        table = (
            encounters.select("encounter_id", "patient_id", "split", "fold", "n_windows")
            .select(pl.all().gather(rows))
            .with_columns(
                pl.Series("model_id", model_ids, dtype=pl.String),
                pl.col("n_windows").cast(pl.Int32).alias("n_segments"),
            )
            .drop("n_windows")
        )
        write_npy(logits.astype(np.float32), run / LOGITS_PATH)
        PredictionRows.write(table, run)
        names = pl.DataFrame(
            {"phenotype": [self.study.phenotypes[c] for c in columns]}, schema={"phenotype": pl.String}
        )
        PredictionColumns.write(names, run)


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
