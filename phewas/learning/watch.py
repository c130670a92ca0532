"""What training shows of itself: history, throughput, and warnings that name the cause."""

from __future__ import annotations

import math
import resource
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phewas.config import LearnConfig
from phewas.errors import LearningError, PhewasWarning
from phewas.learning.checkpoints import Position
from phewas.learning.distributed import Group
from phewas.learning.labels import Study
from phewas.rundir import write_parquet, write_text

HISTORY = (
    "epoch", "train_loss", "tuning_loss", "tuning_auc", "learning_rate", "head_learning_rate", "gradient_norm",
    "clipped_share",
)  # fmt: skip
THROUGHPUT = ("epoch", "segments", "seconds", "segments_per_s", "waited_share", "peak_memory_gb", "peak_gpu_memory_gb")

WAITED_SHARE = 0.2  # of an epoch's time spent waiting for windows, from which on a warning is due
FIRST_EPOCHS, MUCH_WORSE, WORSE = 3, 1.5, 1.05  # times the loss of a model that knows prevalences only
WORTH_TELLING_S = 10.0  # an epoch shorter than this is not worth a warning about speed


class LearningRateWarning(PhewasWarning):
    """Training gets worse instead of better."""


class LoaderWarning(PhewasWarning):
    """The network waits for windows."""


class NoCasesWarning(PhewasWarning):
    """Phenotypes have no case among those trained on."""


def write_history(history: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Write one line per epoch; blank where a number is unknown."""
    lines = [",".join("" if row[name] is None else f"{row[name]:.6g}" for name in HISTORY) for row in history]
    write_text("\n".join([",".join(HISTORY), *lines]) + "\n", path)


def peak_memory_gb() -> float:
    """Return the most memory that this process has had resident, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@dataclass
class Watch:
    """Looks on at one fit.

    `folder` is the fit's own; `logs` where figures go that depend on the machine, None for nowhere; `start_loss` the
    training loss of a model that knows prevalences only.
    """

    folder: Path
    logs: Path | None
    study: Study
    group: Group
    config: LearnConfig
    start_loss: float
    _rows: list[dict[str, float]] = field(default_factory=list)
    _board: Any = None

    def diverged(self, at: Position, step: int, loss: float, batch: NDArray[np.int64]) -> LearningError:
        """Write the encounters of a step aside and return the error that names the likely cause."""
        file = self.folder / "diverged.parquet"
        if self.group.leads:
            write_parquet(self.study.encounters[batch].select("encounter_id", "patient_id"), file)
        mean = at.loss_sum / step if step else math.nan
        if mean > 1.2 * self.start_loss:
            cause = f"The loss had risen from {self.start_loss:.4f} to {mean:.4f} on average: the rate is too high."
        elif self.config.precision == "bf16":
            cause = "The losses before were sound; bf16 may be too coarse for this encoder."
        else:
            cause = "The losses before were sound: look at the windows of these encounters."
        return LearningError(
            f"the training loss is {loss} in epoch {at.epoch}, step {step}. {cause}",
            expected="a number",
            cure=f"lower [learn] encoder_lr and head_lr in a --config file; the step's encounters are in {file}",
        )

    def epoch(self, at: Position, *, segments: int, seconds: float, waited: float) -> None:
        """Take note of an epoch's speed, and warn of what is wrong."""
        if not self.group.leads:
            return
        share = waited / seconds if seconds > 0 else 0.0
        gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        last = at.history[-1]
        row = {
            "epoch": float(at.epoch - 1), "segments": float(segments), "seconds": seconds,
            "segments_per_s": segments / max(seconds, 1e-9), "waited_share": share,
            "peak_memory_gb": peak_memory_gb(), "peak_gpu_memory_gb": gpu,
        }  # fmt: skip
        self._rows.append(row)
        if self.logs is not None:
            lines = [",".join(f"{one[name]:.6g}" for name in THROUGHPUT) for one in self._rows]
            write_text("\n".join([",".join(THROUGHPUT), *lines]) + "\n", self.logs / "throughput.csv")
            if self.config.tensorboard:
                self._to_board(self.logs / "tensorboard", dict(last) | row)
        loss = last["train_loss"]
        allowed = MUCH_WORSE if at.epoch < FIRST_EPOCHS else WORSE
        if loss is not None and loss > allowed * self.start_loss:
            warnings.warn(
                f"after epoch {at.epoch} the training loss is {loss:.4f}, and {self.start_loss:.4f} for a model that "
                "knows prevalences only: the learning rate is too high ([learn] encoder_lr, head_lr)",
                LearningRateWarning, stacklevel=2,
            )  # fmt: skip
        if share > WAITED_SHARE and seconds > WORTH_TELLING_S:
            warnings.warn(
                f"the network waited {share:.0%} of epoch {at.epoch} for windows: the disk that holds the run's "
                "segments/ is the limit; a local one, or more memory for its cache, helps",
                LoaderWarning, stacklevel=2,
            )  # fmt: skip

    def _to_board(self, folder: Path, values: Mapping[str, float | None]) -> None:
        """Write an epoch's figures for TensorBoard."""
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise LearningError(
                    "[learn] tensorboard is on, and the package tensorboard is not installed",
                    cure="pip install 'phewas[tensorboard]', or tensorboard = false",
                ) from error
            self._board = SummaryWriter(str(folder))
        epoch = int(values["epoch"] or 0)
        for name, value in values.items():
            if name != "epoch" and value is not None:
                self._board.add_scalar(name, value, epoch)
        self._board.flush()


def tell_no_cases(study: Study, train: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    """Warn of phenotypes that have a head and no case among the encounters trained on."""
    without = columns[(study.labels[train][:, columns] != 1).all(0)]
    if len(without):
        names = ", ".join(study.phenotypes[c] for c in without[:5]) + (" ..." if len(without) > 5 else "")
        warnings.warn(
            f"{len(without)} phenotypes have no case among the encounters trained on ({names}): scores by chance",
            NoCasesWarning, stacklevel=2,
        )  # fmt: skip


