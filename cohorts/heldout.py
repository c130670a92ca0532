"""Who may be tested: every patient gets one side of the study, and the sides never share a patient.

Rules
-----
``manifest:FILE``
    FILE lists the encoder's pretraining patients. They train; everyone else is held out.
``no-synchronous-ppg-ecg``
    Held out are patients who have PPG recordings and, in no encounter, PPG and ECG lead II that overlap by ten seconds
    or more: an encoder pretrained on synchronous pairs cannot have met them. Everyone else trains.
``official:random``, ``official:chrono``
    The split files that come with the source (one encounter a line). A patient takes the side of their least tested
    encounter: one training encounter is enough not to be held out.
``official:file``
    The split that the source's adapter wrote to ``cohort/official_splits.parquet``.
``random:SHARE``
    A share of the patients, by hash of seed and identifier.
``crossfit:K``
    K folds of patients, balanced by sex, age and number of diagnoses.
``auto``
    The manifest of the encoder's pretraining patients, if one is given; else ``no-synchronous-ppg-ecg`` where the
    encoder was pretrained on this source (with a warning); else the official split where there is one (``file`` before
    ``random``); else ``random:0.3``.

Patients without a readable recording of the index channel are ``excluded`` under every rule. A tenth of the training
patients, by hash, are set aside for tuning.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from phewas.cohorts.base import CohortCard, flow_row
from phewas.cohorts.heldout_rules import (
    AUTO_SHARE,
    MIN_OVERLAP_S,
    SPLIT_TABLE,
    Cohort,
    Sides,
    by_folds,
    by_manifest,
    by_model,
    by_official_split,
    by_share,
    by_split_table,
    by_synchrony,
    official_files,
    set_tuning,
)
from phewas.errors import ConfigError, PhewasWarning, SplitError, nearest
from phewas.rundir import write_json, write_parquet
from phewas.schema import Diagnoses, Encounters, Flow, Patients, Recordings, Splits

RULES = (
    "manifest:FILE",
    "no-synchronous-ppg-ecg",
    "official:random",
    "official:chrono",
    "official:file",
    "random:0.3",
    "crossfit:5",
    "model:FOLDER",
    "auto",
)
DISJOINTNESS = "cohort/disjointness.json"
FLOW = "cohort/flow_split.parquet"


UNKNOWN = "unknown"  # pretraining_name of a card that stands for anybody's patients
SHOW = "phewas run --help lists the rules of --heldout"


def parse_rule(rule: str) -> tuple[str, str]:
    """Return a rule's name and its argument.

    Raises
    ------
    ConfigError
        The rule is unknown or its argument is missing or out of range.
    """
    name, _, argument = rule.strip().partition(":")
    known = [r.partition(":")[0] for r in RULES]
    if name not in known:
        found = f"there is no held-out rule {rule!r}.{nearest(name, known)}"
        raise ConfigError(found, expected=f"one of {', '.join(RULES)}", cure=SHOW)
    if name in ("auto", "no-synchronous-ppg-ecg") and argument:
        found = f"the held-out rule {name} takes no argument, and {argument!r} was given"
        raise ConfigError(found, cure=f"--heldout {name}")
    if name == "official" and argument not in ("random", "chrono", "file"):
        kinds = "official:random, official:chrono or official:file"
        raise ConfigError(f"the held-out rule is {rule!r}", expected=kinds, cure=SHOW)
    if name in ("manifest", "model") and not argument:
        raise ConfigError(f"the held-out rule {name} names no file", expected=f"{name}:PATH", cure=SHOW)
    if name == "random":
        try:
            share = float(argument)
        except ValueError:
            share = math.nan
        if not 0 < share < 1:
            share_words = "a share between 0 and 1, such as random:0.3"
            raise ConfigError(f"the held-out rule is {rule!r}", expected=share_words, cure=SHOW)
    if name == "crossfit" and not (re.fullmatch(r"\d{1,2}", argument) and 2 <= int(argument) <= 20):
        fold_words = "2 to 20 folds, such as crossfit:5"
        raise ConfigError(f"the held-out rule is {rule!r}", expected=fold_words, cure=SHOW)
    return name, argument


def met(pretraining: Iterable[str], card: CohortCard) -> bool:
    """Whether this source is among the sets an encoder was pretrained on; spelling of case and dashes is ignored.

    A source whose patients are in several sets names them all, separated by commas.
    """

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.casefold())

    names = {plain(n) for n in card.pretraining_name.split(",")} - {""}
    return not names.isdisjoint({plain(n) for n in pretraining})


def contamination(*, rule: str, pretrained: bool, pretraining: tuple[str, ...], card: CohortCard) -> str:
    """Return whether held-out patients can have been met in pretraining.

    Returns
    -------
    str
        ``not pretrained``; ``excluded`` (a manifest was given, or the named pretraining sets do not hold this source);
        or ``cannot be excluded`` (they hold it and no manifest was given, or they or the source's patients are not
        known).
    """
    if not pretrained:
        return "not pretrained"
    if rule == "manifest" or not card.pretraining_name:
        return "excluded"
    if card.pretraining_name == UNKNOWN:
        return "cannot be excluded"
    return "excluded" if pretraining and not met(pretraining, card) else "cannot be excluded"


def assign(
    run: Path,
    *,
    rule: str,
    seed: int,
    pretraining: tuple[str, ...],
    pretrained: bool,
    card: CohortCard,
    root: Path | None,
    tuning_share: float = 0.1,
    manifest: Path | None = None,
    same_patients_as: Sequence[str] = (),
) -> None:
    """Give every patient one side, and write splits, ``cohort/disjointness.json`` and ``cohort/flow_split.parquet``.

    Parameters
    ----------
    run
        Run directory with a built cohort.
    rule
        One of the rules above.
    seed
        Seed of every hashed choice.
    pretraining
        Names of the public sets the encoder was pretrained on; empty where unknown.
    pretrained
        Whether the encoder carries pretrained weights at all.
    card
        The source's card.
    root
        The source's data folder, for the official split files; None where there is none.
    tuning_share
        Share of the training patients set aside for tuning, in [0, 1).
    manifest
        List of the encoder's pretraining patients that ``auto`` takes; None where there is none. Other rules ignore it.
    same_patients_as
        Further cohorts whose patients have the identifiers of this one's, beside those that the card names.

    Raises
    ------
    ConfigError
        The rule is unknown or malformed.
    SplitError
        A side would be empty, a file of the rule is missing, or a patient would stand on two sides.

    Warns
    -----
    PhewasWarning
        ``auto`` met an encoder that was pretrained on this source, without a list of its patients.
    """
    name, argument = parse_rule(rule)
    if not 0 <= tuning_share < 1:
        raise ConfigError(f"tuning_share is {tuning_share}", expected="a share from 0 to below 1")
    cohort = _load(run, card)
    if name == "auto":
        name, argument = _auto(run, pretraining, pretrained, card, root, manifest)
    if name == "manifest":
        sides = by_manifest(Path(argument), cohort)
    elif name == "model":
        sides = by_model(Path(argument), cohort, [card.name, *card.same_patients_as, *same_patients_as])
    elif name == "no-synchronous-ppg-ecg":
        sides = by_synchrony(cohort)
    elif name == "official" and argument == "file":
        sides = by_split_table(run / SPLIT_TABLE, cohort)
    elif name == "official":
        sides = by_official_split(argument, root, cohort)
    elif name == "random":
        sides = by_share(float(argument), seed, cohort)
    else:
        sides = by_folds(int(argument), seed, cohort)
    if name not in ("crossfit", "model") and "tuning" not in sides.side.values():
        set_tuning(sides, seed, tuning_share)
    effective = f"{name}:{argument}" if argument else name
    _finish(run, sides, cohort, effective, rule, seed, card,
            contamination(rule=name, pretrained=pretrained, pretraining=pretraining, card=card))  # fmt: skip


def _load(run: Path, card: CohortCard) -> Cohort:
    patients, encounters, recordings = Patients.read(run), Encounters.read(run), Recordings.read(run)
    with_index = recordings.filter(pl.col("channel") == card.index_channel)["encounter_id"].unique()
    usable = (
        encounters.filter(pl.col("encounter_id").is_in(with_index.implode()))["patient_id"].unique().sort().to_list()
    )
    if not usable:
        raise SplitError(
            f"no patient has a readable {card.index_channel} recording",
            expected=f"recordings of the channel {card.index_channel}",
            cure="see cohort/rejects.parquet of the run for the reasons",
        )
    return Cohort(patients, encounters, recordings, Diagnoses.read(run), usable)


def _auto(
    run: Path, pretraining: tuple[str, ...], pretrained: bool, card: CohortCard, root: Path | None,  # noqa: FBT001
    manifest: Path | None,
) -> tuple[str, str]:  # fmt: skip
    if pretrained and manifest is not None:
        return "manifest", str(manifest)
    if pretrained and met(pretraining, card):
        warnings.warn(
            f"the encoder was pretrained on {card.pretraining_name} and its patients are not known: held out are "
            "patients without synchronous PPG and ECG. Contamination cannot be excluded; give heldout = manifest:FILE "
            "if you have the list",
            PhewasWarning,
            stacklevel=3,
        )
        return "no-synchronous-ppg-ecg", ""
    if (run / SPLIT_TABLE).is_file():
        return "official", "file"
    if root is not None and official_files("random", root) is not None:
        return "official", "random"
    return "random", str(AUTO_SHARE)


def _finish(
    run: Path, sides: Sides, cohort: Cohort, rule: str, asked: str, seed: int, card: CohortCard, contaminated: str
) -> None:
    everyone = cohort.patients["patient_id"].to_list()
    none = f"no readable {card.index_channel} recording"
    splits = pl.DataFrame(
        {
            "patient_id": everyone,
            "split": [sides.side.get(p, "excluded") for p in everyone],
            "fold": [sides.fold.get(p) for p in everyone],
            "why": [sides.why.get(p, none) for p in everyone],
        },
        schema=Splits.dtypes(),
    ).sort("patient_id")
    members = {s: sorted(rows["patient_id"]) for (s,), rows in splits.group_by("split")}
    _check_sides(members, rule)
    intersection = sorted({p for a, b in itertools.combinations(members.values(), 2) for p in set(a) & set(b)})
    if intersection or splits["patient_id"].is_duplicated().any():
        raise SplitError(f"{len(intersection)} patients stand on two sides", expected="one side for each patient")
    with_index = cohort.recordings.filter(pl.col("channel") == card.index_channel)["encounter_id"].unique()
    usable = cohort.encounters.filter(pl.col("encounter_id").is_in(with_index.implode()))
    n_encounters = dict(usable.join(splits, on="patient_id").group_by("split").len().iter_rows())
    counts = {s: {"patients": len(m), "encounters": n_encounters.get(s, 0)} for s, m in sorted(members.items())}
    notes = [*sides.notes, f"Encounters are counted where they have a {card.index_channel} recording."]
    # Salted, so that the list of one study cannot be matched with that of another by its hash alone.
    salt = f"{card.name}/{rule.partition(':')[0]}/{seed}"
    report = {
        "rule": _without_folder(rule),
        "asked": _without_folder(asked),
        "counts": counts,
        "salt": salt,
        "hashes": {s: _hash(salt, m) for s, m in sorted(members.items())},
        "intersection": intersection,
        "contamination": contaminated,
        "meaning": in_words(rule),
        "note": " ".join(notes),
    }
    n_usable, total = len(usable), len(cohort.usable)
    rows = [
        flow_row("patients", len(everyone), total, f"without a readable {card.index_channel} recording", step="split")
    ]
    for side in ("train", "tuning", "held_out", "crossfit"):
        if side in counts:
            words = f"{side.replace('_', ' ')} ({rule.partition(':')[0]})"
            rows.append(flow_row("patients", total, counts[side]["patients"], words, step="split", note=True))
            rows.append(flow_row("encounters", n_usable, counts[side]["encounters"], words, step="split", note=True))
    Splits.write(splits, run)
    write_parquet(Flow.check(Flow.build(rows)), run / FLOW)
    write_json(report, run / DISJOINTNESS)
    verify(run)


def _without_folder(rule: str) -> str:
    name, _, path = rule.partition(":")
    return f"{name}:{Path(path).name}" if name in ("manifest", "model") else rule


def _hash(salt: str, members: list[str]) -> str:
    return hashlib.sha256(f"{salt}\0{chr(10).join(members)}".encode()).hexdigest()


def verify(run: Path) -> None:
    """Refuse a split that is no longer the one that was proven disjoint.

    Reads ``cohort/splits.parquet`` and ``cohort/disjointness.json`` and compares counts and hashes of every side. Cheap
    enough to be called by each step that reads sides.

    Raises
    ------
    SchemaError
        The splits table is missing, malformed, or gives a patient two rows.
    SplitError
        The proof is missing or damaged, or a side holds other patients than it was proven with.
    """
    splits = Splits.read(run)
    try:
        proof = json.loads((run / DISJOINTNESS).read_text(encoding="utf-8"))
        counts, hashes, shared, salt = proof["counts"], proof["hashes"], proof["intersection"], proof["salt"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SplitError(
            f"the proof that nobody stands on two sides, {DISJOINTNESS}, is missing or damaged",
            cure="make the split anew: phewas run",
        ) from error
    if shared:
        raise SplitError(f"{len(shared)} patients stand on two sides", expected="one side for each patient")
    members = {str(s): sorted(rows["patient_id"]) for (s,), rows in splits.group_by("split")}
    wrong = [
        s for s in sorted({*members, *hashes})
        if s not in members or hashes.get(s) != _hash(salt, members[s])
        or counts.get(s, {}).get("patients") != len(members[s])
    ]  # fmt: skip
    if wrong:
        raise SplitError(
            f"the sides {', '.join(wrong)} of cohort/splits.parquet hold other patients than were proven disjoint",
            expected="the table as the split step wrote it",
            cure="make the split anew: phewas run",
        )


def in_words(rule: str) -> str:
    """Return what a rule means, in one or two sentences for the report."""
    name, _, argument = rule.partition(":")
    by = "Sides are by patient: all encounters of a patient are on one side."
    match name:
        case "manifest":
            return f"Patients on a list of the encoder's pretraining patients train; everyone else is tested. {by}"
        case "no-synchronous-ppg-ecg":
            return (
                "Tested are patients who have PPG and, in no encounter, PPG and ECG lead II overlapping by "
                f"{MIN_OVERLAP_S:g} s or more: an encoder pretrained on synchronous pairs should not have met them, "
                "but the list of its patients is not published. Patients tested this way were monitored differently, "
                f"so they may differ from the others in age, acuity and diseases. {by}"
            )
        case "model":
            return f"Everyone is tested whom the given model has not met; nobody here trains. {by}"
        case "official" if argument == "file":
            return f"The split that comes with the source. {by}"
        case "official":
            words = "in the order of time" if argument == "chrono" else "at random"
            return (
                f"The split that comes with the source, made {words}. A patient with any training encounter trains; "
                f"else with any validation encounter, tunes. {by}"
            )
        case "random":
            return f"A share of {argument} of the patients, drawn by hash, is tested. {by}"
        case "crossfit":
            return (
                f"Everyone is tested by a model fitted on the other {int(argument) - 1} of {argument} folds; folds are "
                f"balanced by sex, age and number of diagnoses. {by}"
            )
        case _:
            return by


def _check_sides(members: dict[str, list[str]], rule: str) -> None:
    """Refuse a study with nobody to train on or nobody to test."""
    if "crossfit" in members:
        return
    for side, words in (("held_out", "nobody is held out"), ("train", "nobody is left to train on")):
        if not members.get(side) and not (side == "train" and rule.startswith("model:")):
            raise SplitError(
                f"under the rule {rule} {words}",
                expected="patients on both sides",
                cure=f"use another rule, such as heldout = random:{AUTO_SHARE} or crossfit:5",
            )
