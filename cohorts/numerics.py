"""The tables of MC-MED that do not enter the study yet: what they hold, and temperature in either unit."""

from __future__ import annotations

import polars as pl

# Table -> columns of the data dictionary. They are looked at by `phewas check`, by column name, where they are there.
OTHER_TABLES: dict[str, tuple[str, ...]] = {
    "meds.csv": ("MRN", "Med_ID", "NDC", "Name", "Generic_name", "Med_class", "Med_subclass", "Active", "Entry_date",
                 "Start_date", "End_date"),
    "orders.csv": ("CSN", "Order_time", "Order_type", "Procedure_name", "Procedure_ID", "First_admin_time",
                   "Result_time"),
    "labs.csv": ("CSN", "Order_time", "Result_time", "Display_name", "Abnormal", "Component_name", "Component_result",
                 "Component_value", "Component_units", "Component_abnormal", "Component_nml_low", "Component_nml_high"),
    "rads.csv": ("CSN", "Order_time", "Result_time", "Study", "Impression"),
    "numerics.csv": ("CSN", "Source", "Measure", "Value", "Time"),
}  # fmt: skip

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
