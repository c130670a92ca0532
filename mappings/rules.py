"""What each labelling rule costs: by phenotype, in all, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from phewas.config import PhenotypeConfig
from phewas.schema import Column, Table

#: Why a cell is -1, in the order in which a cell is counted under the first that holds.
EXCLUDED_BY: dict[str, str] = {
    "sex": "phenotype of the other sex, or sex unknown",
    "undated_encounter": "the encounter has no date to place the label window",
    "recorded_before": "the phenotype was recorded before the label window began",
    "suspected_before": "an uncertain diagnosis of the phenotype stood before the label window began",
    "too_few_days": "codes of the phenotype on fewer days than a case needs",
    "uncertain": "only uncertain diagnoses of the phenotype",
    "follow_up": "no case so far, and followed up for less than the horizon",
    "related_code": "a code of a related phenotype bars the person from the controls",
}


class LabelRules(Table):
    """One row per phenotype: what each rule does to its cells (encounters), whatever side their patients are on.

    ``n_case + n_control + n_excluded`` is the number of encounters, and ``n_excluded`` the sum of the columns behind
    it, because each excluded cell is counted under the first rule of `EXCLUDED_BY` that holds.
    """

    file = "phenotypes/rules.parquet"
    key = ("phenotype",)
    phenotype = Column(pl.String, "which phenotype")
    n_case = Column(pl.Int64, "encounters labelled 1")
    n_control = Column(pl.Int64, "encounters labelled 0")
    n_excluded = Column(pl.Int64, "encounters labelled -1")
    n_excluded_sex = Column(pl.Int64, EXCLUDED_BY["sex"])
    n_excluded_undated_encounter = Column(pl.Int64, EXCLUDED_BY["undated_encounter"])
    n_excluded_recorded_before = Column(pl.Int64, EXCLUDED_BY["recorded_before"])
    n_excluded_suspected_before = Column(pl.Int64, EXCLUDED_BY["suspected_before"])
    n_excluded_too_few_days = Column(pl.Int64, EXCLUDED_BY["too_few_days"])
    n_excluded_uncertain = Column(pl.Int64, EXCLUDED_BY["uncertain"])
    n_excluded_follow_up = Column(pl.Int64, EXCLUDED_BY["follow_up"])
    n_excluded_related_code = Column(pl.Int64, EXCLUDED_BY["related_code"])
    n_case_lost_to_sex = Column(pl.Int64, "of n_excluded_sex, those that would be cases")


def costs(chosen: Mapping[str, Any], excluded: Mapping[str, int], *, cases_lost_to_sex: int) -> list[dict[str, Any]]:
    """Return what each rule costs, in words and numbers, for the report.

    Parameters
    ----------
    chosen
        The options as applied, by name.
    excluded
        Excluded cells by reason, each cell once.
    cases_lost_to_sex
        Of those excluded by sex, the cells that would be cases.

    Returns
    -------
    list of dict
        rule (a sentence), option, value, lost (``cases``, ``controls`` or ``cells``: of both kinds), n (cells). A rule
        that is off, or without meaning in this window, is left out. A case is lost to `min_code_days` where one day
        would have made it; a control is lost to a rule where no other rule had excluded it before.
    """
    days = chosen["min_code_days"]
    related = "one code of a related phenotype makes a non-case neither case nor control"
    unsure = "an uncertain diagnosis makes neither case nor control"
    sex = "a phenotype of one sex is assessed in that sex only"
    found: list[tuple[str, str, Any, str, int]] = []
    if chosen["label_window"] == "future":
        window = (
            ("recorded_before", "who had the phenotype by the end of the visit is neither case nor control"),
            ("suspected_before", "of whom it was suspected by then is neither case nor control"),
            ("follow_up", f"a control is followed up for {chosen['horizon_days']} days"),
        )
        lost = {"recorded_before": "cells", "suspected_before": "cells", "follow_up": "controls"}
        found += [(words, "label_window", "future", lost[reason], excluded[reason]) for reason, words in window]
    if excluded["undated_encounter"]:
        words = "an encounter without a date is left out"
        found.append((words, "label_window", chosen["label_window"], "cells", excluded["undated_encounter"]))
    if days > 1:
        words = f"a case needs codes on {days} distinct days"
        found.append((words, "min_code_days", days, "cases", excluded["too_few_days"]))
    if chosen["uncertain"] == "exclude":
        found.append((unsure, "uncertain", "exclude", "controls", excluded["uncertain"]))
    if chosen["control_exclusions"]:
        found.append((related, "control_exclusions", True, "controls", excluded["related_code"]))
    if chosen["sex_rule"]:
        found.append((sex, "sex_rule", True, "cells", excluded["sex"]))
        found.append((sex, "sex_rule", True, "cases", cases_lost_to_sex))
    return [dict(zip(("rule", "option", "value", "lost", "n"), row, strict=True)) for row in found]


def notes_on(
    config: PhenotypeConfig, visits: pl.DataFrame, counts: Mapping[str, int], diagnoses: pl.DataFrame
) -> list[str]:
    """Return what a reader must know of rows and encounters that could be used in part only, as sentences.

    Parameters
    ----------
    config
        label_window and horizon_days are read.
    visits
        patient_id, index_day, end_day, follow_up_day (int32 days, null where unknown).
    counts
        Diagnoses by what they lack.
    diagnoses
        `phewas.schema.Diagnoses`.
    """
    window = config.label_window
    notes = _future_notes(config, visits, diagnoses) if window == "future" else []
    undated, no_index = visits["end_day"].null_count(), visits["index_day"].null_count()
    if window == "through_visit" and undated:
        notes.append(f"{undated} encounters have no date: only diagnoses given for them count in their labels.")
    if window == "history" and no_index:
        notes.append(f"{no_index} encounters have no index date: all their labels are -1 (excluded).")
    lost = counts["undated_without_encounter"] if window == "through_visit" else counts["undated"]
    if window != "any" and lost:
        notes.append(f"{lost} diagnoses without a date lie in no label window and were not used.")
    if counts["names_encounter_of_another_patient"]:
        number = counts["names_encounter_of_another_patient"]
        notes.append(f"{number} diagnoses name an encounter of another patient; they count by their date only.")
    if counts["names_unknown_encounter"]:
        notes.append(f"{counts['names_unknown_encounter']} diagnoses name an unknown encounter; they count by date.")
    if counts["patient_without_encounter"]:
        notes.append(f"{counts['patient_without_encounter']} diagnoses belong to patients without an encounter.")
    return notes


def _future_notes(config: PhenotypeConfig, visits: pl.DataFrame, diagnoses: pl.DataFrame) -> list[str]:
    """Say how many encounters could give a control, and what lies beyond follow-up."""
    days, undated = config.horizon_days, visits["end_day"].null_count()
    long_enough = visits.filter(pl.col("follow_up_day") >= pl.col("end_day") + days).height
    notes = [f"Patients are followed up for {days} days after {long_enough} of {visits.height} encounters."]
    if long_enough < visits.height:
        notes.append("The other encounters can be cases, but no controls.")
    if undated:
        notes.append(f"{undated} encounters have no date: all their labels are -1 (excluded).")
    last = visits.group_by("patient_id").agg(pl.col("follow_up_day").max())
    late = diagnoses.lazy().select("patient_id", "recorded").join(last.lazy(), on="patient_id")
    n_late = int(late.select((pl.col("recorded").cast(pl.Int32) > pl.col("follow_up_day")).sum()).collect().item())
    if n_late:
        notes.append(f"{n_late} diagnoses were noted after the end of follow-up and were not used.")
    return notes
