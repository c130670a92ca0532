"""Fine-tuning: one encoder, one linear head per phenotype, masked cross-entropy, tuned on patients set aside for it.

The loop is plain torch. Every random choice of a step (which encounters, which of their windows, dropout) is drawn
from a hash of (seed, epoch, step), so that a killed run continues with the very numbers that it would have had.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
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
    encoder = build_encoder(spec, weights=weights, seed=seed)
    model = PhenomeModel(encoder, spec.width, len(columns)).to(device)
    labels = torch.from_numpy(study.labels[:, columns].copy())
    _start_head_at_prevalence(model.head, labels[torch.from_numpy(train.copy())])
    scratch = not spec.pretrained or weights in (None, "random")
    rates = [config.head_lr if scratch else config.encoder_lr, config.head_lr]
    groups = [{"params": list(part.parameters())} for part in (model.encoder, model.head)]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    steps = -(-len(train) // config.batch_encounters)
    total, warmup = steps * config.epochs, round(steps * config.epochs * config.warmup_share)
    position = _restore(folder, model, optimizer, device)
    if position.epoch == 0 and position.step == 0:
        _remember(folder, model, optimizer, position)
    before = position.epoch * len(train) + position.step * len(train) // steps
    with progress("training", total=config.epochs * len(train), unit="encounters", done=before) as advance:
        while position.epoch < config.epochs and not position.stopped:
            order = generator("epoch", seed, position.epoch).permutation(train)
            while position.step < steps:
                batch = order[position.step :: steps]
                rows, owner = draw_windows(study, batch, config.segments_per_encounter, seed, position.epoch)
                factor = learning_rate_factor(position.epoch * steps + position.step, total=total, warmup=warmup)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                torch.manual_seed(torch_seed("step", seed, position.epoch, position.step))
                loss = _step(model, optimizer, store, labels, batch, rows, owner, config.clip_norm, device)
                position.loss_sum += loss
                position.step += 1
                if not math.isfinite(loss):
                    raise LearningError(
                        f"the training loss is {loss} in epoch {position.epoch}, step {position.step}",
                        cure="lower [learn] encoder_lr and head_lr in a --config file",
                    )
                advance(len(batch), f"loss {position.loss_sum / position.step:.4f}")
                if position.step % config.save_every_steps == 0 and position.step < steps:
                    _remember(folder, model, optimizer, position)
            _end_epoch(model, store, study, tuning, labels, columns, position, steps, config, device, folder, factor)
            _remember(folder, model, optimizer, position)
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


def _step(
    model: PhenomeModel,
    optimizer: torch.optim.Optimizer,
    store: SegmentStore,
    labels: Tensor,
    batch: NDArray[np.int64],
    rows: NDArray[np.int64],
    owner: NDArray[np.int64],
    clip_norm: float,
    device: torch.device,
) -> float:
    """Take one optimiser step and return its loss."""
    model.train()
    x = torch.from_numpy(store.gather(rows)).to(device, non_blocking=True).float()
    y = labels[torch.from_numpy(batch[owner])].to(device, non_blocking=True)
    weights = torch.from_numpy(1.0 / np.bincount(owner)[owner]).float().to(device)
    with autocast(device):
        logits = model(x)
    loss = masked_loss(logits, y, weights)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return float(loss.detach())


def _end_epoch(
    model: PhenomeModel,
    store: SegmentStore,
    study: Study,
    tuning: NDArray[np.int64],
    labels: Tensor,
    columns: NDArray[np.int64],
    position: Position,
    steps: int,
    config: LearnConfig,
    device: torch.device,
    folder: Path,
    factor: float,
) -> None:
    """Score the tuning encounters, keep the model if it is the best so far, and write the history."""
    loss = auc = None
    score_now = -position.loss_sum / steps  # without tuning encounters the last epoch is as good as the loss says
    if len(tuning):
        logits = score(model, store, study, tuning, device=device)
        y = study.labels[tuning][:, columns]
        loss = float(masked_loss(torch.from_numpy(logits), torch.from_numpy(y), torch.ones(len(y))))
        auc = macro_auc(logits, y, study.patients(tuning))
        auc = None if math.isnan(auc) else auc
        score_now = auc if auc is not None else -loss
    row = {"epoch": position.epoch, "train_loss": position.loss_sum / steps, "tuning_loss": loss, "tuning_auc": auc,
           "learning_rate": factor}  # fmt: skip
    position.history = (*position.history, row)
    if score_now > position.best_score:
        position.best_score, position.best_epoch = score_now, position.epoch
        save_tensors(model.state_dict(), folder / "best.safetensors")
    position.stopped = position.epoch - position.best_epoch >= config.patience
    position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
    lines = [",".join("" if r[name] is None else f"{r[name]:.6g}" for name in HISTORY) for r in position.history]
    write_text("\n".join([",".join(HISTORY), *lines]) + "\n", folder / "history.csv")


def _start_head_at_prevalence(head: nn.Linear, labels: Tensor) -> None:
    """Set weights to zero and biases to the log odds of the training prevalence: training starts at no skill."""
    cases, known = (labels == 1).sum(0).double(), (labels >= 0).sum(0).double()
    prevalence = (cases + 0.5) / (known + 1)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.logit(prevalence).float())


def _remember(folder: Path, model: PhenomeModel, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the checkpoint: tensors first, then the JSON that names them by step, so that the pair always fits."""
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    name = f"last-{position.epoch}-{position.step}.safetensors"
    save_tensors(state, folder / name)
    write_json({"tensors": name, **vars(position)}, folder / "last.json")
    for old in folder.glob("last-*.safetensors"):
        if old.name != name:
            old.unlink()


def _restore(folder: Path, model: PhenomeModel, optimizer: torch.optim.Optimizer, device: torch.device) -> Position:
    """Load the checkpoint of an unfinished fit, if there is one."""
    file = folder / "last.json"
    if not file.is_file():
        return Position()
    content = json.loads(file.read_text(encoding="utf-8"))
    tensors = load_tensors(folder / content.pop("tensors"))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    model.to(device)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    content["history"] = tuple(content["history"])
    return Position(**content)
