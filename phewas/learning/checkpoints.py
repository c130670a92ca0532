"""Training checkpoints: tensors as safetensors, and the JSON that says what they belong to and where they stand.

Both files are written under temporary names and renamed, tensors first; the JSON holds the sha256 of its tensors. A
process that is killed at any moment leaves a pair that fits, and the tensors of an older pair are removed only after.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim

from phewas.learning.model import load_tensors, save_tensors
from phewas.progress import say
from phewas.rundir import sha256_of, write_json

LAST, BEST = "last", "best"


@dataclass
class Position:
    """Where training stands; all that is needed, beside the tensors, to go on.

    Every random choice of a step is a function of the seed, the epoch and the step, so that these are also the state of
    the random numbers and of the sampler.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    clipped: int = 0
    best_score: float = -inf
    best_epoch: int = -1
    history: tuple[dict[str, float | None], ...] = ()
    stopped: bool = False


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one fit: ``last``, with the optimiser, and ``best``, the model alone.

    `about` says what they belong to, JSON-ready: encoder, input contract, phenotypes in head order, settings, seed. A
    checkpoint about something else is not gone on with.
    """

    folder: Path
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, model: nn.Module, optimizer: optim.Optimizer, at: Position) -> None:
        """Write ``last``."""
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        self._write(LAST, f"{at.epoch}-{at.step}", state, {"position": vars(at)})

    def load(self, model: nn.Module, optimizer: optim.Optimizer) -> Position:
        """Load ``last`` into model and optimiser and return where it stands; the beginning where there is none."""
        found = self._read(LAST)
        if found is None:
            return Position()
        tensors, content = found
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        position = content["position"]
        return Position(**position | {"history": tuple(position["history"])})

    def save_best(self, model: nn.Module, *, epoch: int) -> None:
        """Write ``best``."""
        self._write(BEST, str(epoch), dict(model.state_dict()), {"epoch": epoch})

    def load_best(self, model: nn.Module) -> None:
        """Load ``best`` into the model; without one (an epoch never ended well) the model is left as it is."""
        found = self._read(BEST)
        if found is not None:
            model.load_state_dict(found[0])

    def _write(self, kind: str, mark: str, tensors: dict[str, Tensor], more: dict[str, Any]) -> None:
        name = f"{kind}-{mark}.safetensors"
        save_tensors(tensors, self.folder / name)
        content = {"tensors": name, "sha256": sha256_of(self.folder / name), "about": self.about} | more
        write_json(content, self.folder / f"{kind}.json")
        for old in self.folder.glob(f"{kind}-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _read(self, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        file = self.folder / f"{kind}.json"
        if not file.is_file():
            return None
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tensors = self.folder / content["tensors"]
        if content["about"] != json.loads(json.dumps(self.about)):
            return None
        if not tensors.is_file() or sha256_of(tensors) != content["sha256"]:
            say(f"The checkpoint {tensors} is damaged: this fit begins anew.")
            return None
        return load_tensors(tensors), content
