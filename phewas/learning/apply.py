"""A finished model on other encounters: opened from its folder, checked against what it is given, applied unchanged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from phewas.config import LearnConfig
from phewas.encoders import checkpoint, registry
from phewas.encoders.inputs import check_batch
from phewas.encoders.registry import EncoderSpec
from phewas.errors import LearningError, SplitError
from phewas.learning import probe
from phewas.learning.finetune import phenome_model
from phewas.learning.labels import load
from phewas.learning.model import load_tensors, pick_device, read_meta
from phewas.learning.predict import Floats, in_blocks, keep_segments, score
from phewas.learning.step import LOOKED_AT, write_predictions
from phewas.rundir import sha256_of, write_json
from phewas.schema import Phenotypes
from phewas.segments.store import SegmentStore

NEW = "fit it anew with this version: phewas run"


@dataclass(frozen=True)
class Finished:
    """A model as its folder describes it."""

    folder: Path
    meta: dict[str, Any]
    spec: EncoderSpec

    @classmethod
    def open(cls, folder: Path) -> Finished:
        """Open a model folder and check that it is whole and that its encoder is still what it was.

        Raises
        ------
        LearningError
            It is no model folder, its tensors were changed, or the encoder takes another input now.
        """
        meta = read_meta(folder)
        try:
            spec = registry.get(meta["encoder"])
            file = folder / ("model.safetensors" if meta["fit"] == "finetune" else "heads.safetensors")
            expected, contract, code = meta["sha256"], meta["contract"], meta["about"].get("code", "")
        except (KeyError, TypeError, AttributeError) as error:
            raise LearningError(f"{folder / 'model.json'} lacks {error}", cure=NEW) from error
        if not file.is_file() or sha256_of(file) != expected:
            raise LearningError(f"{file} is missing, or not the file that model.json describes", cure=NEW)
        # The mains frequency is the site's, not the model's.
        sites = (spec.contract.at_site(hz) for hz in (None, 50, 60))
        if contract not in [json.loads(json.dumps(asdict(one))) for one in sites]:
            raise LearningError(
                f"the encoder {spec.name} prepares its input differently now than when the model was fitted", cure=NEW
            )
        if code and spec.code and code != spec.code:
            raise LearningError(f"the code of the encoder {spec.name} has changed since the model was fitted", cure=NEW)
        return cls(folder, meta, spec)

    @property
    def settings(self) -> LearnConfig:
        """How it was fitted."""
        return LearnConfig(**self.meta["settings"])

    @property
    def window_s(self) -> float:
        """Length of its windows in seconds."""
        return float(self.meta["about"].get("window_s") or self.meta["samples"] / self.spec.contract.fs_hz)

    def network(self) -> tuple[nn.Module, probe.Heads | None]:
        """Return the network with its weights, and the heads where they are separate."""
        # Its weights come from the file.
        encoder = checkpoint.build(self.spec, None, config=self.meta.get("encoder_settings"))
        if self.meta["fit"] == "finetune":
            model = phenome_model(encoder, self.meta["width"], len(self.meta["phenotypes"]), self.settings)
            model.load_state_dict(load_tensors(self.folder / "model.safetensors"))
            return model.eval(), None
        file = self.folder / "encoder.safetensors"
        file = file if file.is_file() else self.folder.parent / "encoder.safetensors"  # a fold's own folder lacks it
        if self.spec.bundle is None and encoder.state_dict():
            if not file.is_file():
                raise LearningError(f"{file} is missing: the encoder's weights", cure=NEW)
            encoder.load_state_dict(load_tensors(file))
        values = {name: tensor.numpy() for name, tensor in load_tensors(self.folder / "heads.safetensors").items()}
        return encoder.eval(), probe.Heads(**values)


def apply(
    run: Path, folder: Path, *, spec: EncoderSpec, device: str, fingerprint: str, settings: LearnConfig
) -> None:
    """Score every held-out encounter of a run with a finished model, and write ``predictions/``.

    Parameters
    ----------
    run
        Run directory of another cohort, up to its segments.
    folder
        The model's.
    spec
        The encoder as it is fed at this cohort's site.
    device
        ``auto``, ``cpu`` or ``cuda``.
    fingerprint
        Names this piece of work, so that a killed one is continued.
    settings
        Of the run: `aggregate`, `segment_predictions`.

    Raises
    ------
    LearningError
        Windows or phenotypes are not the model's; an output is no number.
    SplitError
        Nobody may be scored.
    """
    finished = Finished.open(folder)
    store = SegmentStore.open(run, spec.contract)
    samples = store.shards[0][0].shape[1]
    if samples != finished.meta["samples"]:
        raise LearningError(
            f"the windows have {samples} samples, and the model was fitted on {finished.meta['samples']}",
            cure=f"[segments] window_s = {finished.window_s:g} in a --config file",
        )
    check_batch(spec, store.gather(np.arange(min(LOOKED_AT, store.index.height))))
    study = load(run, store)
    known = set(study.phenotypes)
    theirs = Phenotypes.read(run)["vocabulary"].unique().sort().to_list()
    if finished.meta["vocabulary"] and theirs != finished.meta["vocabulary"]:
        raise LearningError(
            f"the model's phenotypes are of {', '.join(finished.meta['vocabulary'])}, and the cohort's labels of "
            f"{', '.join(theirs)}",
            cure="--vocabulary of the model's run",
        )
    heads_of: NDArray[np.int64] = np.array([i for i, name in enumerate(finished.meta["phenotypes"]) if name in known])
    if not len(heads_of):
        raise LearningError("the model and the cohort's labels have no phenotype in common", cure="check --model")
    scored = study.where("held_out")
    if not len(scored):
        raise SplitError("no patient has a usable window, or the model has met them all", cure="another cohort")
    logits = _logits(finished, run, store, study, scored, pick_device(device), fingerprint, settings)
    names = tuple(finished.meta["phenotypes"][i] for i in heads_of)
    write_predictions(run, study, scored, names, logits[:, heads_of], model_ids=[finished.meta["fit"]] * len(scored))
    write_json(finished.meta | {"applied": True}, run / "model" / "model.json")


def _logits(
    finished: Finished, run: Path, store: SegmentStore, study: Any, scored: NDArray[np.int64], device: torch.device,
    fingerprint: str, settings: LearnConfig,
) -> Floats:  # fmt: skip
    """Return float32 [scored, phenotypes of the model]."""
    network, heads = finished.network()
    network = network.to(device)
    own = finished.settings
    keep = keep_segments(run, store) if settings.segment_predictions and heads is None else None

    def compute(rows: NDArray[np.int64]) -> Floats:
        if heads is not None:
            return score(network, store, study, rows, device=device)
        return score(
            network, store, study, rows, device=device, precision=own.precision, aggregate=settings.aggregate,
            keep=keep,
        )  # fmt: skip

    out = in_blocks(compute, scored, folder=run / "model" / f".work-{fingerprint[:16]}" / "blocks", task="predict")
    return out if heads is None else heads(out)
