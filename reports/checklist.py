"""The reporting checklist: which items of TRIPOD+AI and RECORD the report fills, which it fills for you to check.

The items are named in our own short words; the published checklists are the authority. Filling them makes no study
compliant, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["filled", "check", "author"]

STATES: dict[str, str] = {
    "filled": "told on this page from the run's tables",
    "check": "told on this page by a rule or in part: check it",
    "author": "for the authors to write",
}


@dataclass(frozen=True)
class Item:
    """One item: guideline and number, what it asks for, who answers it, and where (an anchor of the page) or why not.

    `needs` names a part of the page; where the run lacks that part the item falls back to the authors.
    """

    guideline: str
    number: str
    asks: str
    state: State
    where: str = ""
    told: str = ""
    needs: str = ""


# Numbers and topics were compared, item by item, with transcriptions of table 2 of TRIPOD+AI (BMJ 2024;385:e078378)
# and of the RECORD checklist (PLoS Med 2015;12:e1001885).
T, R = "TRIPOD+AI", "RECORD"
ITEMS = (
    Item(T, "1", "Title: study type, target population and outcome", "author"),
    Item(T, "2", "Abstract by the abstract's own checklist", "author"),
    Item(T, "3a", "Clinical context and rationale", "author"),
    Item(T, "3b", "Target population and intended purpose of the model", "author"),
    Item(T, "3c", "Known health inequalities between groups", "author"),
    Item(T, "4", "Objectives: development, evaluation or both", "check", "methods", "both: fitted and tested here"),
    Item(T, "5a", "Sources of data, for training and for testing", "check", "main", "as the cohort's card words it"),
    Item(T, "5b", "Dates of participants and follow-up", "author", told="dates of the source may be shifted"),
    Item(T, "6a", "Setting and number of centres", "author"),
    Item(T, "6b", "Eligibility", "filled", "flow", "every loss with its reason"),
    Item(T, "6c", "Treatments received", "author"),
    Item(T, "7", "Data preparation and quality checks", "filled", "data-quality",
         "rejected rows, windows, unmapped codes"),
    Item(T, "8a", "Outcome and time horizon", "filled", "methods",
         "codes, label window, code days; all codes in the workbook"),
    Item(T, "8b", "Qualification of outcome assessors", "author", told="codes were assigned in routine care"),
    Item(T, "8c", "Blinding of outcome assessment", "author"),
    Item(T, "9a", "Choice of predictors", "filled", "methods", "the signal alone; age and sex as baseline"),
    Item(T, "9b", "Predictors: definition and measurement", "check", "encoder",
         "input, filter, window of the encoder", needs="encoder"),
    Item(T, "9c", "Assessment of subjective predictors", "check", "methods", "none is used"),
    Item(T, "10", "Sample size and its justification", "check", "methods",
         "least cases set before; detectable AUC per phenotype"),
    Item(T, "11", "Missing data", "check", "table1", "numbers without a value; nothing is imputed for labels",
         needs="table1"),
    Item(T, "12a", "Use of the data: partition", "filled", "flow", "by patient"),
    Item(T, "12b", "Functional form and preparation of predictors", "filled", "encoder", needs="encoder"),
    Item(T, "12c", "Type of model, building, tuning and internal evaluation", "filled", "methods"),
    Item(T, "12d", "Heterogeneity between clusters", "check", "methods", "patients as clusters; sites not modelled"),
    Item(T, "12e", "Measures of performance", "filled", "phenotypes",
         "AUC, average precision; calibration in the workbook"),
    Item(T, "12f", "Model updating", "check", "methods", "none"),
    Item(T, "12g", "How predictions were calculated", "filled", "methods", "mean over segments"),
    Item(T, "13", "Class imbalance", "check", "methods", "no resampling; prevalence and lift per phenotype"),
    Item(T, "14", "Fairness: methods and rationale", "check", "cards",
         "AUC in groups of sex, age and others", needs="subgroups"),
    Item(T, "15", "Model output", "check", "methods", "one score per phenotype; no threshold is proposed"),
    Item(T, "16", "Differences between training and evaluation", "filled", "flow",
         "standardised differences", needs="shift"),
    Item(T, "17", "Ethical approval and consent", "author"),
    Item(T, "18a-d", "Funding, conflicts of interest, protocol, registration", "author"),
    Item(T, "18e", "Availability of data", "check", "reproduce", "terms of the source"),
    Item(T, "18f", "Availability of code", "filled", "reproduce"),
    Item(T, "19", "Involvement of patients and the public", "author"),
    Item(T, "20a", "Flow of participants and follow-up", "filled", "flow"),
    Item(T, "20b", "Characteristics, overall and by side", "filled", "table1", needs="table1"),
    Item(T, "20c", "Comparison of training and evaluation data", "filled", "table1", needs="shift"),
    Item(T, "21", "Participants and outcome events in each analysis", "filled", "phenotypes"),
    Item(T, "22", "Full specification of the model", "check", "reproduce", "model/ in the run directory"),
    Item(T, "23a", "Performance with intervals, also in key subgroups", "filled", "phenotypes", needs="subgroups"),
    Item(T, "23b", "Heterogeneity of performance", "check", "cards",
         "test per variable in the workbook", needs="subgroups"),
    Item(T, "24", "Results of model updating", "check", "methods", "none"),
    Item(T, "25", "Interpretation, with fairness, against other studies", "author"),
    Item(T, "26", "Limitations", "check", "main", "warnings on the first screen are a start"),
    Item(T, "27a-c", "Usability: handling of poor input, user interaction, next steps", "author"),
    Item(R, "1.1", "Type of data named in title or abstract", "author"),
    Item(R, "1.2", "Region and time frame in title or abstract", "author"),
    Item(R, "1.3", "Linkage named in title or abstract", "author"),
    Item(R, "6.1", "Selection of the population: codes or algorithms", "filled", "flow"),
    Item(R, "6.2", "Validation of the codes used", "author", told="none is done here"),
    Item(R, "6.3", "Linkage shown in a diagram",
         "author", told="signals and codes are joined by the source's identifiers"),
    Item(R, "7.1", "Complete list of codes", "filled", "phenotypes",
         "results.xlsx, sheet Codes, and each phenotype's card"),
    Item(R, "12.1", "Access of the investigators to the database", "author"),
    Item(R, "12.2", "Data cleaning", "filled", "data-quality"),
    Item(R, "12.3", "Level and quality of linkage", "author"),
    Item(R, "13.1", "Selection of persons: filtering by quality, availability, linkage", "filled", "flow"),
    Item(R, "19.1", "Implications of data not made for research", "author"),
    Item(R, "22.1", "Access to protocol, raw data and code", "check", "reproduce"),
)  # fmt: skip


def checklist(parts: Mapping[str, bool]) -> list[Item]:
    """Return the items as this run answers them.

    Parameters
    ----------
    parts
        Whether the run has ``subgroups``, ``table1``, ``shift`` and a card of its ``encoder``; an item that needs a
        part that is not there is for the authors.
    """
    return [
        item if not item.needs or parts.get(item.needs, False)
        else Item(item.guideline, item.number, item.asks, "author", told=f"the run says nothing of {item.needs}")
        for item in ITEMS
    ]


def tally(items: list[Item]) -> str:
    """Return how many items are in which state, in words."""
    count = {state: sum(item.state == state for item in items) for state in STATES}
    return ", ".join(f"{n} {state}" for state, n in count.items()) + f" of {len(items)}"
