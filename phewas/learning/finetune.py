"""Fine-tuning: one encoder, one head per phenotype, masked cross-entropy, tuned on patients set aside for it.

The loop is plain torch. Every random choice of a step (which encounters, which of their windows, dropout, augmentation)
is drawn from a hash of (seed, epoch, step), so that a killed run continues with the very numbers that it would have
had.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phewas.config import LearnConfig
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError
from phewas.learning import watch
from phewas.learning.augment import augmented
from phewas.learning.checkpoints import Checkpoints, Position
from phewas.learning.data import Feeder, Part, Wanted, Windows, draw_windows, shuffled_order
from phewas.learning.distributed import Group, synchronised
from phewas.learning.freezing import set_training
from phewas.learning.labels import Study, macro_auc
from phewas.learning.losses import Criterion, masked_loss
from phewas.learning.model import PhenomeModel, autocast, build_encoder, pooled, torch_seed
from phewas.learning.predict import score
from phewas.progress import progress
from phewas.segments.store import SegmentStore

__all__ = ["Criterion", "draw_windows", "fit", "learning_rate_factor", "masked_loss", "phenome_model"]

LOOK_EVERY_STEPS = 20
PART_SEGMENTS = {"cpu": 128, "cuda": 4096}


def learning_rate_factor(step: int, *, total: int, warmup: int) -> float:
    """Return the share of the peak rate at a step: linear rise over `warmup` steps, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def batch_for(encounters: int) -> int:
    """Return how many encounters a step takes where the settings do not say: a 250th, from 32 to 256.

    Small cohorts get enough steps, and large ones batches that fill a GPU: AnyPPG trains on 12,700 segments a second of
    an H200 in batches of 32 encounters with 20 segments each, and on 32,500 in batches of 256.
    """
    return min(max(encounters // 250, 32), 256)


def phenome_model(encoder: nn.Module, width: int, n_phenotypes: int, config: LearnConfig) -> PhenomeModel:
    """Return the model of these settings around an encoder."""
    return PhenomeModel(
        encoder, width, n_phenotypes, head=config.head, head_width=config.head_width, head_dropout=config.head_dropout,
        attention=config.pooling == "attention",
    )  # fmt: skip


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
    logs: Path | None = None,
    group: Group = Group(),  # noqa: B008  frozen
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
    logs
        Folder for what depends on the machine: throughput.csv, and TensorBoard's files on request.
    group
        The processes that train together; all are given the same arguments, but for the device.

    Returns
    -------
    PhenomeModel
        In eval mode on `device`.

    Raises
    ------
    LearningError
        The sides share a patient, or the loss is no number.
    """
    state = prepare(
        store, study, train=train, tuning=tuning, columns=columns, spec=spec, weights=weights, config=config, seed=seed,
        device=device, folder=folder, logs=logs, group=group,
    )  # fmt: skip
    model, watched = state.model, state.watched
    at = state.at = state.saved.load(model, state.optimizer)
    per_epoch = int(np.minimum(study.counts[train], config.segments_per_encounter).sum())
    done = at.epoch * per_epoch + per_epoch * at.step // state.steps
    with progress("training", total=config.epochs * per_epoch, unit="segments", done=done) as advance:
        while at.epoch < config.epochs and not at.stopped:
            began, first, waited = time.monotonic(), at.step, state.feeder.waited_s
            set_training(model.train().encoder, at.epoch, config)
            for part in state.feeder.parts(state.wanted(state.order(), at.step), at.epoch):
                state.accumulate(part)
                if part.last:
                    state.update()
                    advance(per_epoch * at.step // state.steps - per_epoch * (at.step - 1) // state.steps, state.note())
                    if at.step % config.save_every_steps == 0 and at.step < state.steps:
                        state.remember()
            state.end_epoch()
            done = per_epoch - per_epoch * first // state.steps
            watched.epoch(at, segments=done, seconds=time.monotonic() - began, waited=state.feeder.waited_s - waited)
            state.remember()
    group.wait()  # the leading process has written `best`
    state.saved.load_best(model)
    return model.to(device).eval()


def prepare(
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
    logs: Path | None = None,
    group: Group = Group(),  # noqa: B008  frozen
) -> Fit:
    """Return a fit that has not begun; the arguments are those of `fit`."""
    if np.intersect1d(study.patients(train), study.patients(tuning)).size:
        raise LearningError("a patient is on the training and on the tuning side", cure="this is a fault: report it")
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # the same seed, the same model; costs little here
    labels = torch.from_numpy(study.labels[:, columns].copy())
    of_train = labels[torch.from_numpy(train.copy())]
    criterion = Criterion.of(config, of_train)
    start = criterion.start(of_train)
    model = phenome_model(build_encoder(spec, weights=weights, seed=seed), spec.width, len(columns), config)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(start)
    parts = (criterion.total(start.expand(len(y), -1), y, torch.ones(len(y))) for y in torch.split(of_train, 4096))
    start_loss = float(sum(parts)) / max(1.0, float((of_train >= 0).sum()))
    model = synchronised(model.to(device), group, device)  # type: ignore[assignment]
    about = {
        "encoder": spec.name, "contract": asdict(spec.contract), "settings": config.model_dump(), "seed": seed,
        "phenotypes": [study.phenotypes[c] for c in columns],
    }  # fmt: skip
    watched = watch.Watch(folder, logs, study, group, config, start_loss)
    scratch = weights in (None, "random")
    return Fit(
        model, _optimizer(model, config), (config.head_lr if scratch else config.encoder_lr, config.head_lr),
        Windows(store, device), study, labels, criterion.to(device), train, tuning, columns, config, seed, group,
        Checkpoints(folder, about), watched,
    )  # fmt: skip


@contextlib.contextmanager
def _compiling(*, on: bool) -> Iterator[None]:
    """Tell in words that an encoder cannot be compiled, which shows at its first use."""
    if not on:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise LearningError(
            f"torch.compile cannot compile this encoder here: {str(error).splitlines()[0]}",
            expected="an encoder that it can trace, and on a CPU a C++ compiler",
            cure="[learn] compile = false",
        ) from error


def _optimizer(model: PhenomeModel, config: LearnConfig) -> torch.optim.Optimizer:
    """Return AdamW over encoder and heads, weights and the rest (biases, norms; not decayed) each in a group."""
    groups = []
    own = {id(p) for p in model.encoder.parameters()}
    for encoder in (True, False):
        for decayed in (True, False):
            some = [p for p in model.parameters() if (id(p) in own) == encoder and (p.dim() > 1) == decayed]
            decay = config.weight_decay if decayed else 0.0
            groups.append({"params": some, "weight_decay": decay, "of_encoder": encoder})
    fused = next(model.parameters()).is_cuda  # one kernel for all parameters; torch's default has several for each
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=fused)


@dataclass
class Fit:
    """What one fit holds: the tensors, the data, and where it stands."""

    model: PhenomeModel
    optimizer: torch.optim.Optimizer
    rates: tuple[float, float]
    windows: Windows
    study: Study
    labels: Tensor
    criterion: Criterion
    train: NDArray[np.int64]
    tuning: NDArray[np.int64]
    columns: NDArray[np.int64]
    config: LearnConfig
    seed: int
    group: Group
    saved: Checkpoints
    watched: watch.Watch
    at: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self.device = self.windows.device
        self.steps = -(-len(self.train) // (self.config.batch_encounters or batch_for(len(self.train))))
        if len(self.train) // self.steps < self.group.size:
            raise LearningError(
                f"a batch of {len(self.train) // self.steps} encounters cannot be shared by {self.group.size} devices",
                cure="fewer --devices, or more [learn] batch_encounters",
            )
        self.network: Any = torch.compile(self.model) if self.config.compile else self.model
        self.factor, self.loss = 0.0, math.nan
        self._loss, self._parts = torch.zeros((), device=self.device), 0
        self._pending: list[Tensor] = []
        self.on_device = self.labels.to(self.device)
        self.feeder = Feeder(
            self.windows, self.study, self.on_device, self.config.segments_per_encounter, self.seed
        )
        self.bag = self.config.bag or self.config.pooling == "attention"

    def order(self) -> NDArray[np.int64]:
        """Return the training encounters in this epoch's order; step s takes every steps-th, from the s-th on."""
        return shuffled_order(self.study, self.train, self.seed, self.at.epoch)

    def wanted(self, order: NDArray[np.int64], first: int) -> Iterator[Wanted]:
        """Yield what this process passes through the network, from a step to the end of the epoch."""
        at_once = self.config.part_segments or PART_SEGMENTS.get(self.device.type, 4096)
        for step in range(first, self.steps):
            batch = order[step :: self.steps]
            known = float((self.labels[torch.from_numpy(batch)] >= 0).sum())
            segments = int(np.minimum(self.study.counts[batch], self.config.segments_per_encounter).sum())
            parts = max(1, min(-(-segments // (at_once * self.group.size)), len(batch) // self.group.size))
            for part in range(parts):
                yield Wanted(step, part == parts - 1, self.group.mine(batch[part::parts]), known)

    def note(self) -> str:
        """Return what stands beside the progress bar."""
        memory = f", {torch.cuda.max_memory_allocated(self.device) / 1e9:.1f} GB" if self.device.type == "cuda" else ""
        return f"epoch {self.at.epoch + 1}, loss {self.loss:.4f}, rate {self.factor * self.rates[0]:.1e}{memory}"

    def accumulate(self, part: Part) -> None:
        """Add the gradients of a part of a batch."""
        at = self.at
        torch.manual_seed(torch_seed("step", self.seed, at.epoch, part.step, self._parts, self.group.rank))
        self._parts += 1
        noise = torch.Generator(self.device).manual_seed(torch.initial_seed() & (2**62 - 1))
        x = augmented(part.x, self.config, generator=noise)
        n = len(part.encounters)
        with autocast(self.device, self.config.precision), _compiling(on=self.config.compile):
            out = self.network(x)
        if self.bag:
            logits = pooled(out, part.owner, n, attention=self.config.pooling == "attention")
            total = self.criterion.total(logits, part.labels, torch.ones(n, device=self.device))
        else:
            share = 1.0 / torch.bincount(part.owner, minlength=n)
            total = self.criterion.total(out, part.labels[part.owner], share[part.owner])
        loss = total / max(part.known, 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss += loss.detach()

    def update(self) -> None:
        """Take the optimiser's step on the gradients that were added, and forget them."""
        at, total = self.at, self.steps * self.config.epochs
        self.factor = learning_rate_factor(
            at.epoch * self.steps + at.step, total=total, warmup=round(total * self.config.warmup_share)
        )
        for place in self.optimizer.param_groups:
            place["lr"] = self.factor * self.rates[0 if place["of_encoder"] else 1]
        self.group.add_gradients(self.model.parameters())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._pending.append(torch.stack([self.group.add(self._loss), norm.detach().float()]))
        self._loss, self._parts = torch.zeros((), device=self.device), 0
        at.step += 1
        # Reading a number from a GPU makes it wait; a look at the losses every few steps is soon enough.
        if self.device.type == "cpu" or len(self._pending) >= LOOK_EVERY_STEPS:
            self.look()

    def look(self) -> None:
        """Take note of the losses since the last look.

        Raises
        ------
        LearningError
            One is no number; the encounters of that step are written aside.
        """
        at = self.at
        first = at.step - len(self._pending)
        for place, row in enumerate(self._pending):
            self.loss, norm = row.tolist()
            if not math.isfinite(self.loss) or not math.isfinite(norm):
                raise self.watched.diverged(at, first + place, self.loss, self.order()[first + place :: self.steps])
            at.loss_sum += self.loss
            at.norm_sum += norm
            at.clipped += norm > self.config.clip_norm
        self._pending.clear()

    def end_epoch(self) -> None:
        """Score the tuning encounters, keep the model if it is the best so far, and write the history."""
        self.look()
        at, loss, auc = self.at, None, None
        train_loss = at.loss_sum / self.steps
        score_now = -train_loss  # without tuning encounters the training loss is all there is to go by
        if len(self.tuning):
            mine = score(
                self.model, self.windows.store, self.study, self.group.mine(self.tuning), device=self.device,
                precision=self.config.precision, windows=self.windows,
            )  # fmt: skip
            logits = self.group.gather(mine, len(self.tuning))
            y = self.study.labels[self.tuning][:, self.columns]
            loss = float(masked_loss(torch.from_numpy(logits), torch.from_numpy(y), torch.ones(len(y))))
            found = macro_auc(logits, y, self.study.patients(self.tuning), minimum=self.config.min_tuning_cases)
            auc = None if math.isnan(found) else found
            score_now = auc if auc is not None else -loss
        row = {"epoch": at.epoch, "train_loss": train_loss, "tuning_loss": loss, "tuning_auc": auc,
               "learning_rate": self.factor * self.rates[0], "head_learning_rate": self.factor * self.rates[1],
               "gradient_norm": at.norm_sum / self.steps, "clipped_share": at.clipped / self.steps}  # fmt: skip
        at.history = (*at.history, row)
        if score_now > at.best_score:
            at.best_score, at.best_epoch = score_now, at.epoch
            if self.group.leads:
                self.saved.save_best(self.model, epoch=at.epoch)
        at.stopped = at.epoch - at.best_epoch >= self.config.patience
        at.epoch, at.step, at.loss_sum, at.norm_sum, at.clipped = at.epoch + 1, 0, 0.0, 0.0, 0
        if self.group.leads:
            watch.write_history(at.history, self.saved.folder / "history.csv")

    def remember(self) -> None:
        """Write the checkpoint, once for all processes."""
        self.look()
        if self.group.leads:
            self.saved.save(self.model, self.optimizer, self.at)
