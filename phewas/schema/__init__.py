"""Every table that one room hands to another: one class per table, one line per column.

Identifiers are strings. Times are naive local ``datetime[us]`` (never ns: MC-MED runs to the year 2295). Each class
says where the table lies below the run directory; `Table.check` is called at every boundary and raises `SchemaError`.
"""

from phewas.schema.cohort import REASONS, SPLITS, Diagnoses, Encounters, Flow, Patients, Recordings, Rejects, Splits
from phewas.schema.comparison import Comparison, ComparisonChapters, PublishedComparison
from phewas.schema.phenotypes import LABELS_PATH, Definitions, LabelColumns, LabelRows, Phenotypes, Unmapped
from phewas.schema.predictions import LOGITS_PATH, PermutationNull, PredictionColumns, PredictionRows, Windows
from phewas.schema.results import (
    AddedValue,
    AdjustedAuc,
    Calibration,
    CalibrationBins,
    ChapterResults,
    CrossAuc,
    Curves,
    Multiplicity,
    OperatingPoints,
    Overview,
    PhenotypeResults,
    Shift,
    Specificity,
    Subgroups,
    Table1,
)
from phewas.schema.rivals import Controls, ControlSummary, NetBenefit, RivalInputs, Rivals
from phewas.schema.tables import DATETIME, Chain, Column, Table

__all__ = [
    "DATETIME",
    "LABELS_PATH",
    "LOGITS_PATH",
    "REASONS",
    "SPLITS",
    "AddedValue",
    "AdjustedAuc",
    "Calibration",
    "CalibrationBins",
    "Chain",
    "ChapterResults",
    "Column",
    "Comparison",
    "ComparisonChapters",
    "ControlSummary",
    "Controls",
    "CrossAuc",
    "Curves",
    "Definitions",
    "Diagnoses",
    "Encounters",
    "Flow",
    "LabelColumns",
    "LabelRows",
    "Multiplicity",
    "NetBenefit",
    "OperatingPoints",
    "Overview",
    "Patients",
    "PermutationNull",
    "PhenotypeResults",
    "Phenotypes",
    "PredictionColumns",
    "PredictionRows",
    "PublishedComparison",
    "Recordings",
    "Rejects",
    "RivalInputs",
    "Rivals",
    "Shift",
    "Specificity",
    "Splits",
    "Subgroups",
    "Table",
    "Table1",
    "Unmapped",
    "Windows",
]
