"""`run`: the steps in order, each redone only if something that it reads has changed."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import phewas
from phewas import engine, launch, reuse
from phewas.errors import PhewasError, PhewasWarning
from phewas.plan import Plan
from phewas.progress import say
from phewas.rundir import RunDirectory, digest_of, locked

if TYPE_CHECKING:
    from phewas.encoders.registry import EncoderSpec
    from phewas.reports.meta import ReportMeta

STEPS = ("cohort", "split", "phenotypes", "segments", "learn", "evaluate", "report")

LAST_SHARDED = "segments"

# Where each step writes, below the run directory. Names that begin with a dot are unfinished work.
WRITES: dict[str, tuple[str, ...]] = {
    # official_splits is there only where the source brings a split by patient.
    "cohort": tuple(
        f"cohort/{name}.parquet"
        for name in ("patients", "encounters", "recordings", "diagnoses", "rejects", "flow", "official_splits")
    ),
    "split": ("cohort/splits.parquet", "cohort/disjointness.json", "cohort/flow_split.parquet"),
    "phenotypes": ("phenotypes/**/*",),
    "segments": ("segments/**/*",),
    "learn": ("model/**/*", "predictions/**/*"),
    "evaluate": ("results/**/*",),
    "report": ("report/**/*",),
}

# Steps whose outputs each step reads.
READS: dict[str, tuple[str, ...]] = {
    "cohort": (),
    "split": ("cohort",),
    "phenotypes": ("cohort",),
    "segments": ("cohort",),
    "learn": ("segments", "phenotypes", "split"),
    "evaluate": ("learn", "segments", "phenotypes", "split", "cohort"),
    "report": ("evaluate", "learn", "segments", "phenotypes", "split", "cohort"),
}


def run(made: Plan, *, until: str | None = None) -> Path | None:
    """Run the steps that are not current.

    Parameters
    ----------
    made
        From `phewas.plan.plan`.
    until
        Last step to run; None for all.

    Returns
    -------
    Path or None
        The report's page, if the report step was asked for.

    Raises
    ------
    PhewasError
        Whatever a step finds wrong. A run directory in which no step has finished is removed again.
    """
    from phewas import learnstep

    if launch.follows():
        learnstep.follow(made)
        return None
    with learnstep.leading():
        return _lead(made, until)


def _lead(made: Plan, until: str | None) -> Path | None:
    directory = RunDirectory(made.out)
    directory.claim(made.identity())
    fresh = not made.out.exists()
    made.out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(made.out), _warnings_told(), engine.using(made.config.engine, folder=made.out):
            for left in made.out.rglob(".*.tmp"):
                left.unlink()  # half a file of a process that was killed; nobody else writes here now
            _describe(made, directory)
            if made.start_from is not None:
                reuse.adopt(made, directory, lambda step: _fingerprint_if_known(made, directory, step))
            did = _run_steps(made, directory, until)
            if "evaluate" in directory.manifest["steps"] and not (made.out / "about.json").is_file():
                _tell_about(made)  # of a run that an earlier version has made
    except PhewasError:
        if fresh and not directory.manifest["steps"]:
            shutil.rmtree(made.out)
        raise
    if not did:
        say(f"Nothing to do: every step in {made.out} is up to date.")
    return made.out / "report" / "index.html" if until in (None, "report") else None


@contextlib.contextmanager
def _warnings_told() -> Iterator[None]:
    """Tell our own warnings as plain lines, without the place in the code that Python puts before them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PhewasWarning)
        plain = warnings.showwarning

        def told(message: Any, category: Any, *more: Any, **options: Any) -> None:
            if issubclass(category, PhewasWarning):
                say(f"Note: {message}")
            else:
                plain(message, category, *more, **options)

        warnings.showwarning = told
        yield


def is_current(made: Plan, directory: RunDirectory, step: str) -> bool:
    """Tell whether a step, and each one that it reads, is done and untouched."""
    if any(name not in directory.manifest["steps"] for name in reads(made, step)):
        return False
    return directory.is_current(step, fingerprint_of(made, directory, step))


def reads(made: Plan, step: str) -> tuple[str, ...]:
    """Return the steps whose outputs a step reads; a larger pool for training patients makes windows read the split."""
    pooled = step == "segments" and made.config.segments.pool is not None
    return (*READS[step], "split") if pooled else READS[step]


def fingerprint_of(made: Plan, directory: RunDirectory, step: str) -> str:
    """Return the name of a step's inputs: version, settings, and the outputs of the steps it reads."""
    read = {name: directory.outputs(name) for name in reads(made, step)}
    return digest_of({"version": phewas.__version__, "settings": made.settings(step), "reads": read})


def _fingerprint_if_known(made: Plan, directory: RunDirectory, step: str) -> str | None:
    """Return a step's fingerprint, or None while a step that it reads is not done."""
    known = all(name in directory.manifest["steps"] for name in reads(made, step))
    return fingerprint_of(made, directory, step) if known else None


def _run_steps(made: Plan, directory: RunDirectory, until: str | None) -> list[str]:
    """Run what is not current, in order, and return the names."""
    from phewas import rivalstep

    did = []
    for step in STEPS:
        fingerprint = fingerprint_of(made, directory, step)
        if not directory.is_current(step, fingerprint):
            _tell_what_changed(made, directory, step)
            began = time.monotonic()
            for name in directory.forget(step):
                (made.out / name).unlink(missing_ok=True)
            DO[step](made, fingerprint)
            seconds = time.monotonic() - began
            directory.finish(
                step,
                fingerprint=fingerprint,
                outputs=list(_outputs(made.out, step)),
                seconds=seconds,
                settings=made.settings(step),
            )
            say(f"{step}: done in {seconds:.1f} s")
            did.append(step)
        if step == "cohort":
            rivalstep.check_columns(made)  # before hours of work, and before anything of the last step is deleted
        if step == LAST_SHARDED:
            engine.release()  # learning takes hours; a cluster need not wait for it
        if step == until:
            break
    return did


def _outputs(out: Path, step: str) -> Iterator[Path]:
    """Yield the files that a step has written."""
    for pattern in WRITES[step]:
        for file in out.glob(pattern):
            hidden = any(part.startswith(".") for part in file.relative_to(out).parts)
            if file.is_file() and not hidden:
                yield file


def _tell_what_changed(made: Plan, directory: RunDirectory, step: str) -> None:
    """Say why a step that was finished before is done again."""
    record = directory.manifest["steps"].get(step)
    if record is None:
        return
    old, new = record["settings"], made.settings(step)
    changed = [f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    say(f"{step}: done again, because " + ("; ".join(changed) if changed else "something that it reads has changed"))


def _describe(made: Plan, directory: RunDirectory) -> None:
    """Write versions, settings and command into the manifest."""
    packages = ("numpy", "scipy", "polars", "torch", "wfdb", "matplotlib")
    directory.manifest["versions"] = {"phewas": phewas.__version__, "python": platform.python_version()} | {
        name: version(name) for name in packages
    }
    directory.manifest["config"] = made.config.model_dump(mode="json")
    directory.manifest["command"] = made.command
    directory.save()


def _cohort(made: Plan, _: str) -> None:
    made.source.build(made.root, made.out, workers=made.workers)


def _split(made: Plan, _: str) -> None:
    from phewas.cohorts import heldout

    heldout.assign(
        made.out,
        rule=made.heldout,
        seed=made.config.seed,
        pretraining=made.spec.pretraining,
        pretrained=made.pretrained,
        card=made.source.card,
        root=made.source.data_root(made.root, made.out),
        manifest=made.manifest,
        same_patients_as=made.config.same_patients_as,
    )


def _phenotypes(made: Plan, _: str) -> None:
    from phewas.mappings import phenotypes, vocabulary
    from phewas.rundir import write_json
    from phewas.schema import Diagnoses, Encounters, Patients

    summary = phenotypes.label(
        diagnoses=Diagnoses.read(made.out),
        encounters=Encounters.read(made.out),
        patients=Patients.read(made.out),
        vocabulary=vocabulary.load(made.config.phenotypes.vocabulary),
        config=made.config.phenotypes,
        min_code_days=made.min_code_days,
        run=made.out,
    )
    write_json(summary, made.out / "phenotypes" / "summary.json")


def _segments(made: Plan, fingerprint: str) -> None:
    from phewas.segments.extract import extract

    extract(
        made.out,
        root=made.source.data_root(made.root, made.out),
        contract=made.spec.contract,
        config=made.config.segments,
        window_s=made.window_s,
        seed=made.config.seed,
        workers=made.workers,
        fingerprint=fingerprint,
    )


def _learn(made: Plan, fingerprint: str) -> None:
    from phewas import learnstep

    learnstep.learn(made, fingerprint)


def _evaluate(made: Plan, _: str) -> None:
    from phewas import rivalstep
    from phewas.cohorts import heldout
    from phewas.learning.probe import Prepared
    from phewas.mappings import vocabulary
    from phewas.mappings.controls import controls
    from phewas.stats.evaluate import evaluate

    heldout.verify(made.out)
    evaluate(
        made.out,
        config=made.config.evaluate,
        seed=made.config.seed,
        label_window=made.config.phenotypes.label_window,
        controls=controls(vocabulary.load(made.config.phenotypes.vocabulary),
                          file=made.config.evaluate.controls_file),
        rivals=rivalstep.inputs(made),
        prepare=Prepared.of,
    )
    _tell_about(made)


def _tell_about(made: Plan) -> ReportMeta:
    """Keep what the report is told, so that `phewas report` can make it again."""
    from phewas.reports.meta import write_about

    meta = _report_meta(made)
    write_about(meta, made.out)
    return meta


def _report(made: Plan, _: str) -> None:
    from phewas.reports.build import build

    meta = _tell_about(made)
    build(made.out, small_cell=meta.small_cell(), meta=meta)


def _report_meta(made: Plan) -> ReportMeta:
    """Return what the report says that no table holds."""
    from phewas.reports.meta import ReportMeta

    spec, card = made.spec, made.source.card
    encoder = {
        "name": spec.title,
        "what it is": spec.description,
        "input": f"{made.window_s:g}-s windows, {spec.contract.words()}",
        "embedding": f"{spec.width} numbers per window" + (f": {spec.tensor}" if spec.tensor else ""),
        "pooling over time": spec.pooling,
        "inside the network": spec.normalised_inside,
        "parameters": f"{spec.parameters:,}" if spec.parameters else "",
        "weights": f"sha256 {made.weights_sha256}" if made.pretrained else _without_weights(spec),
        "pretrained on": (", ".join(spec.pretraining) or "not known") if made.pretrained else "nothing",
        "source": ", ".join(part for part in (spec.source, f"doi:{spec.doi}" if spec.doi else "") if part),
        "licence": spec.licence,
        "citation": spec.citation,
    }
    warnings = []
    if made.model is not None:
        where = made.model_meta["about"].get("cohort") or "another cohort"
        warnings.append(f"The model was fitted on {where} and is applied here unchanged: external validation.")
    if not made.pretrained and not spec.frozen_only and made.model is None:
        how = (
            "trained from scratch on this cohort's own training patients" if made.fit == "finetune" else "never trained"
        )
        named = " The published weights were not used." if spec.pretrained else ""
        warnings.append(f"The encoder {spec.name} started from random weights and was {how}.{named}")
    for wanted, recorded in made.config.segments.channels.items():
        warnings.append(f"{recorded} was given to the encoder {spec.name} in the place of {wanted}.")
    return ReportMeta(
        cohort=card.name,
        cohort_title=card.title,
        data_description=" ".join([card.description, *card.notes]),
        encoder=spec.name,
        encoder_card={name: text for name, text in encoder.items() if text},
        fit=made.fit,
        heldout=made.heldout,
        seed=made.config.seed,
        version=phewas.__version__,
        command=made.command,
        warnings=warnings,
        settings=made.config.model_dump(mode="json", exclude={"data", "weights", "workers"})
        | {"window_s": made.window_s, "min_code_days": made.min_code_days},
        data_citation=card.citation,
        data_licence=card.licence,
        public=card.public,
    )


def _without_weights(spec: EncoderSpec) -> str:
    return f"none: {spec.frozen_only}" if spec.frozen_only else "random, none loaded"


DO: dict[str, Callable[[Plan, str], None]] = {
    "cohort": _cohort,
    "split": _split,
    "phenotypes": _phenotypes,
    "segments": _segments,
    "learn": _learn,
    "evaluate": _evaluate,
    "report": _report,
}
