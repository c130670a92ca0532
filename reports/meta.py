"""What the report is told about the run, besides its tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phewas.errors import RunError
from phewas.rundir import write_text


@dataclass(frozen=True, kw_only=True)
class ReportMeta:
    """Who was asked what: everything the page says that no table holds.

    Attributes
    ----------
    cohort
        The cohort's name, as given to ``--cohort``.
    cohort_title
        The cohort in words; empty: the name.
    data_description
        One or two sentences on the source.
    encoder
        The encoder's name, as given to ``--encoder``.
    encoder_card
        Its description, one line each: origin, weights, input, licence, citation, ...
    fit
        How it was fitted (``finetune``, ``probe``).
    heldout
        The rule that chose who was tested.
    seed
        The run's seed.
    version
        Version of this package.
    command
        The command line that makes the run again.
    warnings
        What the reader must know first, one sentence each; those that follow from the tables are added by the report.
    settings
        The run's configuration, nested as in its TOML file.
    data_citation, data_licence
        How the source asks to be cited, and on which terms it may be used.
    public
        Whether small counts may be shown, as the cohort's card says.
    """

    cohort: str
    encoder: str
    version: str
    cohort_title: str = ""
    data_description: str = ""
    encoder_card: Mapping[str, str] = field(default_factory=dict)
    fit: str = ""
    heldout: str = ""
    seed: int = 0
    command: str = ""
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_citation: str = ""
    data_licence: str = ""
    public: bool = False

    @property
    def title(self) -> str:
        """The cohort's title, or its name where it has none."""
        return self.cohort_title or self.cohort


    def small_cell(self) -> int:
        """Return the threshold of the small-cell rule: that of the settings, or 0 for a public cohort."""
        rule = self.settings.get("report", {})
        return 0 if self.public else int(rule.get("small_cell", 11) if isinstance(rule, Mapping) else 11)


ABOUT = "about.json"


def write_about(meta: ReportMeta, run: Path) -> Path:
    """Write what the report is told to ``about.json`` in the run directory, so that it can be made again from there."""
    # In the order given, which is the order in which the page tells it.
    return write_text(json.dumps(asdict(meta), indent=2, ensure_ascii=False) + "\n", run / ABOUT)


def read_about(run: Path) -> ReportMeta:
    """Read ``about.json``.

    Raises
    ------
    RunError
        It is missing or not as `write_about` makes it.
    """
    file, cure = run / ABOUT, "give the command of the run once more: phewas run"
    if not run.is_dir():
        raise RunError(f"there is no folder {run}", expected="the folder of a run", cure="see phewas run --out")
    if not file.is_file():
        raise RunError(f"{run} has no {ABOUT}", expected="a run whose evaluate step is done", cure=cure)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return ReportMeta(**told | {"warnings": tuple(told["warnings"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is damaged", cure=cure) from error


def flat(settings: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``(dotted.name, value)`` in sorted order; what was left to its default reads ``not set``."""
    for name in sorted(settings, key=str):
        value = settings[name]
        if isinstance(value, Mapping):
            yield from flat(value, prefix=f"{prefix}{name}.")
        elif value is None:
            yield f"{prefix}{name}", "not set"
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        else:
            yield f"{prefix}{name}", str(value)


WINDOWS = {
    "history": "diagnoses recorded before the day of the encounter",
    "through_visit": "diagnoses recorded until the end of the encounter, or for this very encounter",
    "any": "all diagnoses of the patient, whenever recorded (also after the signal)",
    "future": "diagnoses first recorded after the encounter",
}
FITS = {
    "finetune": "fine-tuned end to end as one model over all phenotypes",
    "probe": "kept as it is, with a ridge-penalised linear model per phenotype on its embeddings",
}


def fit_words(fit: str) -> str:
    """Return how the encoder was fitted, for the first screen."""
    return {"finetune": "fine-tuned (finetune)", "probe": "frozen, a linear model on top (probe)"}.get(fit, fit)


def heldout_words(rule: str) -> str:
    """Return the rule that chose who was tested, in words and as it is called; an unknown rule as it is."""
    name, _, argument = rule.partition(":")
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    told = {
        "random": f"{share:.0%} of the patients at random".replace("%", " %") if math.isfinite(share) else "",
        "crossfit": f"all, by models fitted on the other folds of {argument}", "model": "those the model has not met",
        "manifest": "those not on the encoder's list of pretraining patients",
        "official": "the split that comes with the source", "no-synchronous-ppg-ecg":
        "those never with PPG and ECG at the same time",
    }.get(name, "")
    return f"{told} ({rule})" if told else rule


def methods(
    meta: ReportMeta, *, vocabularies: Sequence[str], windows: Sequence[str], units: Sequence[str],
    intervals: Sequence[str], tests: Sequence[str], compared: bool,
) -> list[str]:
    """Return the methods as sentences, from the settings and from what the result table says was done.

    Parameters
    ----------
    meta
        The run; a setting that is not given is not mentioned.
    vocabularies, windows, units, intervals, tests
        The distinct values of the result table's vocabulary, label_window, unit, ci_method and p_test.
    compared
        Whether the table holds differences to the baseline.
    """
    parts = {name: part for name, part in meta.settings.items() if isinstance(part, Mapping)}
    labels, segments, rules = (parts.get(k, {}) for k in ("phenotypes", "segments", "evaluate"))
    text = []
    if vocabularies:
        text.append(f"Diagnosis codes were mapped to {_and(vocabularies)}.")
    for window in windows:
        words = WINDOWS.get(window, f"diagnoses in the window “{window}”")
        if window == "future" and labels.get("horizon_days"):
            words = (f"diagnoses first recorded within {labels['horizon_days']} days after the encounter; patients who "
                     "had the phenotype by then are left out, and controls are followed up that long")
        text.append(f"Labels count {words}.")
    if (days := labels.get("min_code_days")) is not None:
        text.append(f"A case needs codes on at least {days} distinct day{'' if days == 1 else 's'}.")
    if labels.get("control_exclusions"):
        text.append("Patients with a code of a related phenotype are neither case nor control.")
    if labels and labels.get("sex_rule", True):
        text.append("Sex-specific phenotypes are assessed in that sex only.")
    if (n := segments.get("n_segments")) is not None:
        length = f" of {segments['window_s']:g} s" if segments.get("window_s") is not None else ""
        text.append(f"Up to {n} segments{length} were drawn per encounter, and their scores averaged.")
    if meta.fit:
        text.append(f"The encoder was {FITS.get(meta.fit, f'fitted by the recipe “{meta.fit}”')}.")
    if meta.heldout:
        text.append(f"Tested were {heldout_words(meta.heldout)}.")
    if units:
        text.append(f"The unit of analysis is the {_and(units)}.")
    if intervals:
        text.append(f"Intervals: {'; '.join(intervals)}.")
    if tests:
        text.append(f"P-values: {'; '.join(tests)}; q-values by Benjamini and Hochberg over all tested phenotypes.")
    if (least := rules.get("min_case_patients")) is not None:
        text.append(f"A phenotype is tested with at least {least} case patients and as many control patients.")
    if compared:
        text.append("Beside each AUC stands that of age and sex on the same encounters, fitted on other patients, and "
                    "the paired difference.")
    if told := rules.get("rivals"):
        text.append(f"Rivals, where the cohort offers their inputs: {_and(told)}; ridge-penalised logistic models per "
                    "phenotype on splines of numbers and indicators of categories and of absence, fitted on training "
                    "patients, compared on the same encounters by the paired clustered DeLong test.")
    return text


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
