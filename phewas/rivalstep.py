"""Rivals of the encoder, for the evaluate step: inputs from the run's tables and, on request, from every window."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import polars as pl

from phewas.plan import Plan
from phewas.rundir import RunDirectory, digest_of, write_json, write_parquet
from phewas.schema import Encounters, Windows

if TYPE_CHECKING:
    from phewas.encoders.registry import EncoderSpec
    from phewas.stats.rival_inputs import Inputs

FEATURES = "pulse-features"
KEPT = f"rivals/{FEATURES}.parquet"
COHORT = ("patients", "encounters", "recordings", "diagnoses", "splits")


def inputs(made: Plan) -> list[Inputs]:
    """Return what the rivals that the run asks for are told, in the order of the settings.

    All learn from encounters that have windows, as the encoder does.
    """
    from phewas.segments.store import windows_file
    from phewas.stats import rival_inputs

    config, card, contract = made.config.evaluate, made.source.card, made.spec.contract
    chosen = windows_file(made.out, window_s=made.window_s, channels=contract.channels)
    windows = Windows.check(pl.read_parquet(chosen, hive_partitioning=False))
    most = made.config.segments.n_segments
    found = []
    for rival in dict.fromkeys(config.rivals):
        match rival:
            case "vitals":
                columns = card.vitals if config.vitals is None else config.vitals
                one = rival_inputs.vitals(made.out, columns)
            case "utilisation":
                one = rival_inputs.utilisation(made.out)
            case "acquisition":
                one = rival_inputs.acquisition(
                    made.out, windows, channels=contract.channels,
                    columns=card.arrival if config.arrival is None else config.arrival,
                    most=most if isinstance(most, int) else None)
            case _:
                one = _features(made)
        found.append(one if one.reason is not None else
                     rival_inputs.restricted(one, made.out, windows["encounter_id"]))
    return found


def check_columns(made: Plan) -> None:
    """Refuse columns for vitals or arrival that the encounters do not have.

    Raises
    ------
    ConfigError
        With what there is.
    """
    from phewas.errors import ConfigError

    config, there = made.config.evaluate, Encounters.read(made.out).columns
    for option, columns in (("vitals", config.vitals), ("arrival", config.arrival)):
        missing = [name for name in columns or [] if f"src_{name}" not in there]
        if missing:
            known = sorted(name.removeprefix("src_") for name in there if name.startswith("src_"))
            raise ConfigError(f"[evaluate] {option} names {', '.join(missing)}, which the encounters do not have",
                              expected=", ".join(known) or "nothing: this cohort brings no columns of its own")


def _features(made: Plan) -> Inputs:
    """Measure the pulse wave of every window with the package's own features, whatever the run's encoder.

    The means over windows are kept in ``rivals/`` of the run directory, and used again while cohort and windows are the
    same.
    """
    from phewas.encoders import registry
    from phewas.encoders.pulse_features import NAMES
    from phewas.schema import Recordings
    from phewas.stats import rival_inputs

    if made.spec.name == FEATURES:
        return rival_inputs.absent(FEATURES, "they are the encoder itself")
    spec = registry.get(FEATURES)
    channels = spec.contract.channels
    if not Recordings.read(made.out)["channel"].is_in(list(channels)).any():
        return rival_inputs.absent(FEATURES, f"the cohort has no {' and '.join(channels)} recording")
    directory = RunDirectory(made.out)
    key = digest_of({"segments": made.settings("segments") | {"contract": spec.contract.digest},
                     "cohort": directory.outputs("cohort"), "split": directory.outputs("split")})
    kept, note = made.out / KEPT, (made.out / KEPT).with_suffix(".json")
    if not (kept.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("key") == key):
        write_parquet(_measured(made, spec, key), kept)
        write_json({"key": key, "features": list(NAMES)}, note)
    return rival_inputs.measured(made.out, FEATURES, pl.read_parquet(kept), NAMES)


def _measured(made: Plan, spec: EncoderSpec, key: str) -> pl.DataFrame:
    """Cut the windows for the features in a folder of their own, and return each encounter's means."""
    import torch

    from phewas.learning.embed import Embed, embed_store
    from phewas.reuse import CHOICE, link
    from phewas.segments.extract import extract

    work = made.out / "rivals" / f".work-{key[:16]}"
    for stale in (made.out / "rivals").glob(".work-*"):
        if stale != work:
            shutil.rmtree(stale)
    files = [made.out / "cohort" / f"{name}.parquet" for name in COHORT]
    for file in [*files, *(file for pattern in CHOICE for file in made.out.glob(pattern))]:
        link(file, work / file.relative_to(made.out))
    extract(
        work, root=made.source.data_root(made.root, made.out), contract=spec.contract, config=made.config.segments,
        window_s=made.window_s, seed=made.config.seed, workers=made.workers, fingerprint=key,
    )  # fmt: skip
    folder = embed_store(Embed(run=work, spec=spec, weights=None, weights_sha256="random", seed=made.config.seed,
                               device=torch.device("cpu"), precision="float32"))
    found = pl.read_parquet(folder / "encounters.parquet").select("encounter_id", "embedding")
    shutil.rmtree(work)
    return found
