"""The five further tables of MC-MED: how they are read, and which of their values are known before the signal.

A run takes from them only vital signs of numerics.csv that were noted before the encounter's index time, as columns
``src_before_*``. Orders, laboratory results and imaging belong to the stay that the signal is part of, and home
medication is entered while it lasts; a run reads none of them, and `read_further` hands them to those who want them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl

from phewas.cohorts.csvtext import TextTable, header_of, parse_number, parse_time, read_table
from phewas.errors import CohortError, PhewasWarning, nearest

NUMERICS = "numerics.csv"
# Table -> columns of the data dictionary.
OTHER_TABLES: dict[str, tuple[str, ...]] = {
    "meds.csv": ("MRN", "Med_ID", "NDC", "Name", "Generic_name", "Med_class", "Med_subclass", "Active", "Entry_date",
                 "Start_date", "End_date"),
    "orders.csv": ("CSN", "Order_time", "Order_type", "Procedure_name", "Procedure_ID", "First_admin_time",
                   "Result_time"),
    "labs.csv": ("CSN", "Order_time", "Result_time", "Display_name", "Abnormal", "Component_name", "Component_result",
                 "Component_value", "Component_units", "Component_abnormal", "Component_nml_low", "Component_nml_high"),
    "rads.csv": ("CSN", "Order_time", "Result_time", "Study", "Impression"),
    NUMERICS: ("CSN", "Source", "Measure", "Value", "Time"),
}  # fmt: skip
NUMBERS = ("Value", "Component_value", "Component_nml_low", "Component_nml_high")
# Measure of numerics.csv -> column. Temperatures are turned into degrees Celsius.
MEASURES = {"HR": "before_HR", "RR": "before_RR", "SpO2": "before_SpO2", "SBP": "before_SBP", "DBP": "before_DBP",
            "MAP": "before_MAP", "Temp": "before_Temp_C"}  # fmt: skip
# Values are minute means: one stamped less than a minute before the signal may cover some of it.
LEAD_S = 60

# A living body is between 13 and 47 degrees Celsius; the same range in Fahrenheit does not meet it.
LOW_C, HIGH_C = 13.0, 47.0


def _fahrenheit(celsius: float) -> float:
    return celsius * 9 / 5 + 32


def temperature_unit(values: pl.Expr) -> pl.Expr:
    """Return ``C`` or ``F`` for each number, by its value alone; null where it is neither, or missing.

    The documents disagree with each other on the unit, so no document is asked.
    """
    return (
        pl.when(values.is_between(LOW_C, HIGH_C)).then(pl.lit("C"))
        .when(values.is_between(_fahrenheit(LOW_C), _fahrenheit(HIGH_C))).then(pl.lit("F"))
    )  # fmt: skip


def temperature_c(values: pl.Expr) -> pl.Expr:
    """Return body temperatures in degrees Celsius, whichever unit each was written in.

    Parameters
    ----------
    values
        Float64; 13 to 47 is taken as Celsius, 55.4 to 116.6 as Fahrenheit.

    Returns
    -------
    polars.Expr
        Float64, 13 to 47; null for anything else.
    """
    unit = temperature_unit(values)
    return pl.when(unit == "C").then(values).when(unit == "F").then((values - 32) * 5 / 9)


def read_further(base: Path, name: str) -> TextTable:
    """Read one of the further tables by column name, quoted commas and line breaks included.

    Parameters
    ----------
    base
        The folder with visits.csv.
    name
        ``meds.csv``, ``orders.csv``, ``labs.csv``, ``rads.csv`` or ``numerics.csv``.

    Returns
    -------
    TextTable
        `rows` has ``source_row`` and the columns of the data dictionary: times (``*_time``, ``*_date``, ``Time``) as
        ``datetime[us]``, numbers as Float64, null where a cell is neither; temperatures of numerics.csv in degrees
        Celsius; everything else as text.

    Raises
    ------
    CohortError
        The table is not one of these, is not there, lacks a column, or is damaged.
    """
    if name not in OTHER_TABLES:
        raise CohortError(f"there is no table {name!r}.{nearest(name, OTHER_TABLES)}", expected=", ".join(OTHER_TABLES))
    if not (base / name).is_file():
        raise CohortError(f"{name} is not in {base}", expected="a file of the download")
    got = read_table(base / name, needs=OTHER_TABLES[name], table=name.removesuffix(".csv"))
    times = [c for c in OTHER_TABLES[name] if c.lower().endswith(("_time", "_date")) or c == "Time"]
    rows = got.rows.with_columns(
        *(parse_time(pl.col(c)).alias(c) for c in times),
        *(parse_number(pl.col(c)).alias(c) for c in OTHER_TABLES[name] if c in NUMBERS),
    )
    if name == NUMERICS:
        celsius = pl.when(pl.col("Measure") == "Temp").then(temperature_c(pl.col("Value"))).otherwise(pl.col("Value"))
        rows = rows.with_columns(celsius.alias("Value"))
    return TextTable(rows, got.rejects, got.n_rows)


def vitals_before(base: Path, encounters: pl.DataFrame) -> tuple[pl.DataFrame, int | None]:
    """Add the last vital signs that were noted before each encounter's index time.

    Parameters
    ----------
    base
        The folder with visits.csv; numerics.csv may be missing.
    encounters
        With ``index_time``.

    Returns
    -------
    encounters, n
        With a Float64 column ``src_before_*`` per measure, null where nothing was noted at least `LEAD_S` seconds
        before; and how many encounters have any. Without the table nothing is added and `n` is None. The table is
        streamed: its size does not matter for memory.

    Raises
    ------
    CohortError
        The table lacks a column or is damaged.
    """
    path = base / NUMERICS
    if not path.is_file():
        return encounters, None
    names = header_of(path)
    for need in ("CSN", "Measure", "Value", "Time"):
        if need not in names:
            raise CohortError(f"{path.name} has no column {need!r}.{nearest(need, names)}",
                              expected=", ".join(OTHER_TABLES[NUMERICS]))  # fmt: skip
    index = encounters.select(pl.col("encounter_id").alias("CSN"), "index_time").drop_nulls().lazy()
    try:
        quote = None if _unclosed(path) else '"'
        if quote is None:
            warnings.warn(f"{path.name} has an unclosed quotation mark; all of its quotation marks are left out",
                          PhewasWarning, stacklevel=2)  # fmt: skip
        rows = _last_of_each(path, names, index, quote=quote)
    except pl.exceptions.PolarsError as error:
        raise CohortError(f"{path.name} is damaged: {type(error).__name__}",
                          cure="download the file again, or move it away to run without it") from error  # fmt: skip
    except OSError as error:
        raise CohortError(f"{path.name} cannot be read: {error.strerror}", cure="check its permissions") from error
    last = encounters.select(pl.col("encounter_id").alias("CSN"))
    for measure, column in MEASURES.items():
        one = rows.filter(pl.col("Measure") == measure).select("CSN", pl.col("value").alias(f"src_{column}"))
        last = last.join(one, on="CSN", how="left", maintain_order="left")
    return pl.concat([encounters, last.drop("CSN")], how="horizontal"), rows["CSN"].n_unique()


def _unclosed(path: Path) -> bool:
    """Tell whether a line has an odd number of quotation marks: the parser would take the next rows for one cell."""
    lines = pl.scan_csv(path, has_header=False, separator="\x01", quote_char=None, new_columns=["line"],
                        infer_schema=False, encoding="utf8-lossy", truncate_ragged_lines=True)  # fmt: skip
    odd = pl.col("line").str.count_matches('"', literal=True) % 2 == 1
    return bool(lines.select(odd.any()).collect(engine="streaming").item())


def _last_of_each(path: Path, names: list[str], index: pl.LazyFrame, *, quote: str | None) -> pl.DataFrame:
    """Return CSN, Measure and the last value noted at least `LEAD_S` seconds before the index time."""
    # New names by place, because a header may have blanks around them.
    scan = pl.scan_csv(path, has_header=True, new_columns=names, infer_schema=False, encoding="utf8-lossy",
                       truncate_ragged_lines=True, quote_char=quote)  # fmt: skip
    plain = {c: pl.col(c).str.strip_chars() if quote else pl.col(c).str.strip_chars(' "')
             for c in ("CSN", "Measure", "Value", "Time")}  # fmt: skip
    return (
        scan.select(**plain)
        .filter(pl.col("Measure").is_in(list(MEASURES)))
        .join(index, on="CSN")
        .with_columns(parse_time(pl.col("Time")).alias("at"), parse_number(pl.col("Value")).alias("value"))
        .filter(pl.col("at") + pl.duration(seconds=LEAD_S) <= pl.col("index_time"))
        .with_columns(pl.when(pl.col("Measure") == "Temp").then(temperature_c(pl.col("value")))
                      .otherwise(pl.col("value")).alias("value"))
        .drop_nulls("value")
        .group_by("CSN", "Measure")
        # Of two sources in the same minute the larger value counts, so that the order of the file does not.
        .agg(pl.col("value").sort_by("at", "value").last())
        .collect(engine="streaming")
    )  # fmt: skip
