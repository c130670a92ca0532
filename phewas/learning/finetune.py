"""Fine-tuning: one encoder, one linear head per phenotype, masked cross-entropy, tuned on patients set aside for it.

The loop is plain torch. Every random choice of a step (which encounters, which of their windows, dropout) is drawn
from a hash of (seed, epoch, step), so that a killed run continues with the very numbers that it would have had.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from phewas.config import LearnConfig
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError
from phewas.learning.labels import Study, macro_auc
from phewas.learning.model import PhenomeModel, autocast, build_encoder, load_tensors, save_tensors, torch_seed
from phewas.learning.predict import score
from phewas.progress import progress
from phewas.rundir import write_json, write_text
from phewas.seeds import generator
from phewas.segments.store import SegmentStore

HISTORY = ("epoch", "train_loss", "tuning_loss", "tuning_auc", "learning_rate")


@dataclass
class Position:
    """Where training stands; all that is needed, beside the tensors, to go on."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = -1
    history: tuple[dict[str, float | None], ...] = ()
    stopped: bool = False


def masked_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the mean cross-entropy over entries that are case or control.

    Parameters
    ----------
    logits
        float [segments, phenotypes].
    labels
        int8 [segments, phenotypes]: 1 case, 0 control, -1 excluded (no loss, no gradient).
    weights
        float [segments]: 1 / segments of the encounter in the batch, so that each encounter counts once.
    """
    known = (labels >= 0).float() * weights[:, None]
    entries = functional.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0).float(), reduction="none")
    return (entries * known).sum() / known.sum().clamp(min=1e-12)


def learning_rate_factor(step: int, *, total: int, warmup: int) -> float:
    """Return the share of the peak rate at a step: linear rise over `warmup` steps, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(
    store: SegmentStore,
    study: Study,
    *,
    train: NDArray[np.int64],
    tuning: NDArray[np.int64],
    columns: NDArray[np.int64],
    spec: EncoderSpec,
    weights: str | None,
    config: LearnConfig,
    seed: int,
    device: torch.device,
    folder: Path,
) -> PhenomeModel:
    """Fine-tune and return the model of the epoch that was best on the tuning encounters.

    Parameters
    ----------
    store, study
        Windows, and labels in store order.
    train, tuning
        int64 positions of encounters; disjoint by patient.
    columns
        int64 label columns that get a head.
    spec, weights
        The encoder and where its weights come from.
    folder
        For checkpoints (``last.*``, ``best.*``) and ``history.csv``; an unfinished fit there is continued.

    Returns
    -------
    PhenomeModel
        In eval mode on `device`.

    Raises
    ------
    LearningError
        The sides share a patient, or the loss is no number.
    """
    if np.intersect1d(study.patients(train), study.patients(tuning)).size:
        raise LearningError("a patient is on the training and on the tuning side", cure="this is a fault: report it")
    model = PhenomeModel(build_encoder(spec, weights=weights, seed=seed), spec.width, len(columns)).to(device)
    labels = torch.from_numpy(study.labels[:, columns].copy())
    _start_head_at_prevalence(model.head, labels[torch.from_numpy(train.copy())])
    scratch = weights in (None, "random")
    rates = (config.head_lr if scratch else config.encoder_lr, config.head_lr)
    groups = [{"params": list(part.parameters())} for part in (model.encoder, model.head)]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    state = _Fit(model, optimizer, rates, store, study, labels, columns, tuning, config, seed, device, folder)
    at = state.restore()
    steps = -(-len(train) // config.batch_encounters)
    total, warmup = steps * config.epochs, round(steps * config.epochs * config.warmup_share)
    before = at.epoch * len(train) + at.step * len(train) // steps
    with progress("training", total=config.epochs * len(train), unit="encounters", done=before) as advance:
        while at.epoch < config.epochs and not at.stopped:
            order = generator("epoch", seed, at.epoch).permutation(train)
            while at.step < steps:
                batch = order[at.step :: steps]
                factor = learning_rate_factor(at.epoch * steps + at.step, total=total, warmup=warmup)
                at.loss_sum += state.step(batch, factor)
                at.step += 1
                if not math.isfinite(at.loss_sum):
                    raise LearningError(
                        f"the training loss is {at.loss_sum} in epoch {at.epoch}, step {at.step}",
                        cure="lower [learn] encoder_lr and head_lr in a --config file",
                    )
                advance(len(batch), f"loss {at.loss_sum / at.step:.4f}")
                if at.step % config.save_every_steps == 0 and at.step < steps:
                    state.remember()
            state.end_epoch(at.loss_sum / steps, factor)
            state.remember()
    model.load_state_dict(load_tensors(folder / "best.safetensors"))
    return model.to(device).eval()


def draw_windows(
    study: Study, batch: NDArray[np.int64], n_segments: int, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw windows of each encounter of a batch, anew each epoch.

    Returns
    -------
    rows, owner
        int64 [segments]: store rows, and the place in `batch` that each belongs to.
    """
    first = study.encounters.get_column("row").to_numpy()
    counts = study.encounters.get_column("n_windows").to_numpy()
    ids = study.encounters.get_column("encounter_id")
    rows, owner = [], []
    for place, encounter in enumerate(batch.tolist()):
        chosen = np.arange(counts[encounter])
        if counts[encounter] > n_segments:
            rng = generator("segments", seed, epoch, ids[encounter])
            chosen = np.sort(rng.choice(counts[encounter], size=n_segments, replace=False))
        rows.append(first[encounter] + chosen)
        owner.append(np.full(len(chosen), place))
    return np.concatenate(rows).astype(np.int64), np.concatenate(owner).astype(np.int64)


@dataclass
class _Fit:
    """What one fit holds: the tensors, the data, and where it stands."""

    model: PhenomeModel
    optimizer: torch.optim.Optimizer
    rates: tuple[float, float]
    store: SegmentStore
    study: Study
    labels: Tensor
    columns: NDArray[np.int64]
    tuning: NDArray[np.int64]
    config: LearnConfig
    seed: int
    device: torch.device
    folder: Path
    at: Position = field(default_factory=Position)

    def step(self, batch: NDArray[np.int64], factor: float) -> float:
        """Take one optimiser step on a batch of encounters and return its loss."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        torch.manual_seed(torch_seed("step", self.seed, self.at.epoch, self.at.step))
        rows, owner = draw_windows(self.study, batch, self.config.segments_per_encounter, self.seed, self.at.epoch)
        self.model.train()
        x = torch.from_numpy(self.store.gather(rows)).to(self.device, non_blocking=True).float()
        y = self.labels[torch.from_numpy(batch[owner])].to(self.device, non_blocking=True)
        weights = torch.from_numpy(1.0 / np.bincount(owner)[owner]).float().to(self.device)
        with autocast(self.device):
            logits = self.model(x)
        loss = masked_loss(logits, y, weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    def end_epoch(self, train_loss: float, factor: float) -> None:
        """Score the tuning encounters, keep the model if it is the best so far, and write the history."""
        at, loss, auc = self.at, None, None
        score_now = -train_loss  # without tuning encounters the training loss is all there is to go by
        if len(self.tuning):
            logits = score(self.model, self.store, self.study, self.tuning, device=self.device)
            y = self.study.labels[self.tuning][:, self.columns]
            loss = float(masked_loss(torch.from_numpy(logits), torch.from_numpy(y), torch.ones(len(y))))
            found = macro_auc(logits, y, self.study.patients(self.tuning))
            auc = None if math.isnan(found) else found
            score_now = auc if auc is not None else -loss
        row = {"epoch": at.epoch, "train_loss": train_loss, "tuning_loss": loss, "tuning_auc": auc,
               "learning_rate": factor * self.rates[0]}  # fmt: skip
        at.history = (*at.history, row)
        if score_now > at.best_score:
            at.best_score, at.best_epoch = score_now, at.epoch
            save_tensors(self.model.state_dict(), self.folder / "best.safetensors")
        at.stopped = at.epoch - at.best_epoch >= self.config.patience
        at.epoch, at.step, at.loss_sum = at.epoch + 1, 0, 0.0
        lines = [",".join("" if r[name] is None else f"{r[name]:.6g}" for name in HISTORY) for r in at.history]
        write_text("\n".join([",".join(HISTORY), *lines]) + "\n", self.folder / "history.csv")

    def remember(self) -> None:
        """Write the checkpoint: tensors first, then the JSON that names them by step, so that the pair always fits."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        name = f"last-{self.at.epoch}-{self.at.step}.safetensors"
        save_tensors(state, self.folder / name)
        write_json({"tensors": name, **vars(self.at)}, self.folder / "last.json")
        for old in self.folder.glob("last-*.safetensors"):
            if old.name != name:
                old.unlink()

    def restore(self) -> Position:
        """Load the checkpoint of an unfinished fit, if there is one, and return where it stands."""
        file = self.folder / "last.json"
        if not file.is_file():
            return self.at
        content = json.loads(file.read_text(encoding="utf-8"))
        tensors = load_tensors(self.folder / content.pop("tensors"))
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.at = Position(**content | {"history": tuple(content["history"])})
        return self.at


def _start_head_at_prevalence(head: nn.Linear, labels: Tensor) -> None:
    """Set weights to zero and biases to the log odds of the training prevalence: training starts at no skill."""
    cases, known = (labels == 1).sum(0).double(), (labels >= 0).sum(0).double()
    prevalence = (cases + 0.5) / (known + 1)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.logit(prevalence).float())
