"""What a run will do, with every default filled in and every input found, before anything is written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phewas import cohorts, settings
from phewas.config import RunConfig
from phewas.encoders import registry
from phewas.encoders.registry import EncoderSpec
from phewas.engine import default_workers
from phewas.errors import ConfigError, EncoderError, WeightsError
from phewas.progress import say
from phewas.rundir import UNDECIDED, sha256_of

if TYPE_CHECKING:
    from phewas.cohorts.base import Source

WITHOUT_WEIGHTS = "net1d-small"
PROBE_ENCODER = "pulse-features"


@dataclass(frozen=True)
class Plan:
    """A run with every default filled in and every input found.

    `root` is the data folder (None where the cohort needs none); `weights` a file, ``random`` or None; `start_from`
    another run's directory, of which finished steps are taken over; `model` the folder of a finished model that is
    applied, or None for fitting one.
    """

    config: RunConfig
    source: Source
    spec: EncoderSpec
    root: Path | None
    weights: str | None
    out: Path
    command: str
    start_from: Path | None = None
    model: Path | None = None

    @cached_property
    def model_meta(self) -> dict[str, Any]:
        """What the finished model's folder says of it; empty where the run fits its own."""
        from phewas.learning.model import read_meta

        return read_meta(self.model) if self.model is not None else {}

    @property
    def fit(self) -> Any:
        """``finetune`` or ``probe``; the latter by default for an encoder that cannot be trained."""
        if self.model is not None:
            return self.model_meta["fit"]
        return self.config.fit or ("probe" if self.spec.frozen_only else self.source.card.fit)

    @property
    def heldout(self) -> str:
        """The held-out rule."""
        if self.model is not None:
            return f"model:{self.model}"
        return self.config.heldout or self.source.card.heldout

    @property
    def window_s(self) -> float:
        """Window length in seconds."""
        return self.config.segments.window_s or self.spec.contract.window_s or self.source.card.window_s

    @property
    def min_code_days(self) -> int:
        """Distinct days that a case needs."""
        return self.config.phenotypes.min_code_days or self.source.card.min_code_days

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self.config.workers or default_workers()

    @property
    def pretrained(self) -> bool:
        """Whether the encoder starts from weights that have seen patients, or will when they are given."""
        if self.model is not None:
            return bool(self.model_meta["about"].get("pretrained", True))
        return self.spec.pretrained if self.weights is None else self.weights != "random"

    @cached_property
    def manifest(self) -> Path | None:
        """File with the encoder's pretraining patients, from ``[encoders.NAME] manifest`` in ``phewas.toml``."""
        found = settings.places("encoders", self.spec.name, "manifest")
        return Path(found) if found else None

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights; ``random`` for none, and what may still be given where none is needed yet."""
        if self.model is not None:
            return str(self.model_meta["sha256"])
        if not self.pretrained:
            return "random"
        if self.weights is None:
            return UNDECIDED
        path = Path(self.weights)
        if path.is_file():
            return sha256_of(path)
        from phewas.encoders import checkpoint

        return checkpoint.fingerprint(path)

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of what the cohort reads."""
        return self.source.fingerprint(self.root)

    def identity(self) -> dict[str, str]:
        """Return what ties a run directory to its run."""
        identity = {
            "cohort": self.config.cohort,
            "data": self.data_fingerprint,
            "encoder": self.spec.name,
            "weights": self.weights_sha256,
        }
        # Of someone else's code, what tells two versions apart.
        return identity | ({"code": self.spec.code} if self.spec.code else {})

    def settings(self, step: str) -> dict[str, Any]:
        """Return the settings that a step's result depends on."""
        config, card = self.config, self.source.card
        match step:
            case "cohort":
                return {"data": self.data_fingerprint, "index_channel": card.index_channel}
            case "split":
                rule = self.heldout
                if self.model is not None:
                    same = {"same_patients_as": [*card.same_patients_as, *config.same_patients_as]}
                    return {"heldout": "model", "model": self.weights_sha256, "seed": config.seed} | same
                manifest = Path(rule.removeprefix("manifest:")) if rule.startswith("manifest:") else self.manifest
                return {
                    "heldout": rule,
                    "manifest": sha256_of(manifest) if manifest and manifest.is_file() else None,
                    "seed": config.seed,
                    "pretrained": self.pretrained,
                    "pretraining": list(self.spec.pretraining),
                }
            case "phenotypes":
                from phewas.mappings import vocabulary

                # A file, or a vocabulary that the user has stored, is known by what is in it.
                name = vocabulary.resolve(config.phenotypes.vocabulary)
                known = name if name in vocabulary.SHIPPED else vocabulary.load(name).digest
                return config.phenotypes.dependencies() | {"min_code_days": self.min_code_days, "vocabulary": known}
            case "segments":
                shards = config.segments.model_dump() | {"window_s": self.window_s}
                return shards | {"contract": self.spec.contract.digest, "seed": config.seed}
            case "learn" if self.model is not None:
                how = {"aggregate": config.learn.aggregate, "segment_predictions": config.learn.segment_predictions}
                return how | {"model": self.weights_sha256, "device": self.device}
            case "learn":
                return config.learn.model_dump(exclude={"tensorboard"}) | {
                    "fit": self.fit,
                    "seed": config.seed,
                    "encoder": self.spec.name,
                    "weights": self.weights_sha256,
                    "device": self.device,
                    "minimum": config.evaluate.min_train_case_patients,
                    "minimum_tested": config.evaluate.min_case_patients,
                }
            case "evaluate":
                window = {"label_window": config.phenotypes.label_window, "seed": config.seed}
                told = {"card_vitals": list(card.vitals), "card_arrival": list(card.arrival)}
                return config.evaluate.dependencies() | window | told
            case _:
                return config.report.model_dump() | {"public": card.public}

    @cached_property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        from phewas.learning.model import pick_device

        return pick_device(self.config.device).type


def plan(
    config: RunConfig, *, out: Path | None, command: str, weights_needed: bool = True, start_from: Path | None = None,
    model: Path | None = None,
) -> Plan:  # fmt: skip
    """Find everything that a run needs, before anything is written.

    Parameters
    ----------
    config
        From `phewas.settings.resolve`.
    out
        Run directory; None for ``phewas-runs/COHORT-ENCODER``.
    command
        Command line, for the record.
    weights_needed
        False for steps that come before the encoder: its weights may then be given later.
    start_from
        Directory of another run whose finished steps may be taken over (`phewas.reuse`).
    model
        Folder of a finished model that is applied instead of fitting one; `config` names its encoder.

    Raises
    ------
    PhewasError
        An unknown cohort, encoder, vocabulary or rule; an engine that cannot be; missing data or weights (one message
        names all of them); or weights that do not fit the encoder.
    """
    from phewas import engine_dask
    from phewas.cohorts import heldout
    from phewas.mappings import vocabulary

    engine_dask.check(config.engine)
    source = cohorts.get(config.cohort)
    spec = registry.get(config.encoder or _usual_encoder(config, source.card.encoder))
    heldout.parse_rule(config.heldout or source.card.heldout)
    vocabulary.resolve(config.phenotypes.vocabulary)
    root = settings.data_root(config) if source.card.needs_data else None
    source = _described(source, root)
    weights = _weights(config, spec) if model is None else None
    weights_needed = weights_needed and model is None
    _complain_about_missing(config, source, spec, root, weights if weights_needed else weights or "random")
    spec = _with_channels(spec, config)
    mains_hz = config.segments.mains_hz or source.card.mains_hz
    if spec.contract.notch is not None and spec.contract.notch.hz == "site" and mains_hz is None:
        say(f"{spec.name} wants a notch at the mains frequency, and it is not known here: none is applied "
            "([segments] mains_hz = 50 or 60 in a --config file).")  # fmt: skip
    spec = replace(spec, contract=spec.contract.at_site(mains_hz))
    if weights == "random":
        say(f"{spec.name} starts from random weights, as asked for: its results are not those of the published model.")
    applied = "" if model is None else "-applied"
    folder = out or Path("phewas-runs") / f"{config.cohort}-{_for_a_folder(spec.name)}{applied}"
    made = Plan(config, source, spec, root, weights, folder, command, start_from, model)
    spec.contract.check_window(made.window_s)
    _check_encoder(made)
    return made


def _weights(config: RunConfig, spec: EncoderSpec) -> str | None:
    """Return the encoder's weights: a file or folder, ``random``, or None where none are given.

    Raises
    ------
    WeightsError
        Weights were given for an encoder that is a file with weights of its own.
    """
    given = settings.weights_of(config, spec.name)
    if spec.bundle is None:
        return given
    if given is not None:
        raise WeightsError(f"{spec.name} holds its own weights, and --weights {given} was given", cure="leave it out")
    return str(spec.bundle)


def _with_channels(spec: EncoderSpec, config: RunConfig) -> EncoderSpec:
    """Return the encoder's record with the recorded channels that are to stand for some of its own.

    Raises
    ------
    ConfigError
        The encoder has no such channel, or one recording would stand for two channels.
    """
    swaps, own = config.segments.channels, spec.contract.channels
    for wanted in swaps:
        if wanted not in own:
            raise ConfigError(
                f"{spec.name} has no channel {wanted!r} for another to stand for",
                expected=" or ".join(own),
                cure='[segments] channels = {OF_THE_ENCODER = "RECORDED"}',
            )
    channels = tuple(swaps.get(c, c) for c in own)
    if len(set(channels)) < len(channels):
        raise ConfigError("one recorded channel would stand for two of the encoder's",
                          expected="a channel of its own for each")  # fmt: skip
    for wanted, recorded in swaps.items():
        say(f"{recorded} stands for {wanted}, as asked for: {spec.name} was made for {wanted}.")
    return replace(spec, contract=replace(spec.contract, channels=channels)) if swaps else spec


def _for_a_folder(name: str) -> str:
    """Return an encoder's name as part of a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "encoder"


def _check_encoder(made: Plan) -> None:
    """Build the encoder where that can fail, before hours are spent on its windows.

    Raises
    ------
    EncoderError
        It cannot be built or fine-tuned, its weights do not fit, or it does not take such windows.
    """
    spec = made.spec
    if spec.unavailable:
        raise EncoderError(f"{spec.name} cannot be built: {spec.unavailable}", cure="phewas encoders lists others")
    if made.fit == "finetune" and spec.frozen_only:
        raise EncoderError(
            f"{spec.name} cannot be fine-tuned: {spec.frozen_only}", expected="frozen use", cure="--fit probe"
        )
    from phewas.encoders import inputs

    inputs.check_length(spec, spec.contract.length(made.window_s))
    if spec.window_s and not math.isclose(spec.window_s, made.window_s, rel_tol=0.05):
        say(f"{spec.name} was pretrained on windows of {spec.window_s:g} s; these have {made.window_s:g} s.")
    given = made.pretrained and made.weights is not None
    if not given and not spec.code:
        return  # phewas's own module with random weights
    from phewas.encoders import checkpoint

    model = checkpoint.build(spec, made.weights)
    inputs.try_out(spec, model, window_s=made.window_s)
    if given and spec.bundle is None and spec.pretrained:
        same, words = checkpoint.compare(spec, Path(str(made.weights)), made.weights_sha256)
        if same is not None:
            say(words)


def _usual_encoder(config: RunConfig, usual: str) -> str:
    """Return the encoder where none is named: the cohort's own, or for a frozen probe without weights the features.

    The cohort's own stays where its weights are known, by option or from ``phewas.toml``: they were given for it.
    """
    return PROBE_ENCODER if config.fit == "probe" and settings.weights_of(config, usual) is None else usual


def _described(source: Source, root: Path | None) -> Source:
    """Return the source with the card that its data folder gives it, where a source is described by its folder."""
    card_for = getattr(source, "card_for", None)
    if card_for is None or root is None or not root.is_dir():
        return source
    described: Source = replace(cast("Any", source), card=card_for(root))
    return described


def _complain_about_missing(
    config: RunConfig, source: Source, spec: EncoderSpec, root: Path | None, weights: str | None
) -> None:
    """Say in one message what the run lacks, how to give it, where to get it, and what runs without."""
    found, cure = [], []
    if source.card.needs_data and root is None:
        found.append(f"The data folder of the cohort {config.cohort} is not known.")
        cure.append(
            f"give the data folder with --data FOLDER, or once and for all in {settings.PLACES_FILE} (here or in "
            f'{settings.user_folder()}) as [cohorts.{config.cohort}] data = "FOLDER", or as {settings.DATA_VARIABLE}.\n'
            f"    Where to get it: {source.card.obtain}\n    Without data: --cohort demo"
        )
    if spec.pretrained and weights is None and not spec.unavailable:
        found.append(f"The weights of the encoder {spec.name} are not known.")
        kind = spec.weights_are.upper()
        cure.append(
            f"give the weights with --weights {kind}, or in {settings.PLACES_FILE} as [encoders.{spec.name}] "
            f'weights = "{kind}".\n    Where to get them: {spec.source} (licence: {spec.licence})\n'
            f"    Without weights: --encoder net1d-small; or --weights random for {spec.name} untrained"
        )
    if found:
        raise ConfigError(" ".join(found), cure="\n  - ".join(["", *cure]))
