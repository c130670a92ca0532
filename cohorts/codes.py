"""Cells of diagnosis codes become rows of the diagnoses table, with every cell accounted for."""

from __future__ import annotations

import polars as pl

from phewas.cohorts.base import lose
from phewas.mappings.icd import looks_like, normalise, split_cell
from phewas.schema import Diagnoses, Rejects


def explode(cells: pl.DataFrame, *, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split cells into codes and bring each into its dotted form.

    Parameters
    ----------
    cells
        One row per cell: patient_id, encounter_id (null allowed), cell (String, null where blank), vocabulary,
        recorded (Date, null allowed), source_row (Int64).
    source
        Name of the source table.

    Returns
    -------
    diagnoses, rejects
        A blank cell is in `rejects` only (``no_diagnosis``), a cell of several codes in both (``several_codes``), a
        placeholder such as ``NA`` in `rejects` only. A code of no known shape stays a diagnosis: the mapping step
        counts it as unmapped, by name.
    """
    # A hospital writes some ten thousand different cells in millions of rows: the text work is done once per cell.
    split = (
        cells.select("cell", "vocabulary").drop_nulls("cell").unique()
        .with_columns(split_cell(pl.col("cell")).alias("code_raw"))
        .with_columns(pl.col("code_raw").list.len().fill_null(0).alias("n"))
    )  # fmt: skip
    on = ["cell", "vocabulary"]
    many = split.filter(pl.col("n") > 1).drop("code_raw")
    several = cells.join(many, on=on, how="inner", maintain_order="left", nulls_equal=True)
    known = split.filter(pl.col("n") > 0).drop("n").explode("code_raw").with_columns(
        normalise(pl.col("code_raw"), pl.col("vocabulary")).alias("code"),
        looks_like(pl.col("code_raw"), pl.col("vocabulary")).alias("shape"),
    )  # fmt: skip
    blank = cells.join(known.select(on).unique(), on=on, how="anti", maintain_order="left", nulls_equal=True)
    rows = cells.join(known, on=on, how="inner", maintain_order="left_right", nulls_equal=True).drop("cell")
    # A cell of nothing but separators or dots says as little as a blank one.
    empty = pl.col("shape").is_in(["placeholder", "blank"])
    placeholder = rows.filter(empty)
    diagnoses = rows.filter(~empty.fill_null(value=False)).with_columns(
        pl.lit(source).alias("source"), pl.lit(None, dtype=pl.String).alias("certainty")
    )
    rejects = pl.concat(
        [
            Rejects.empty(),
            lose(blank, table="diagnoses", source=source, reason="no_diagnosis"),
            lose(placeholder, table="diagnoses", source=source, reason="placeholder_code", detail=pl.col("code_raw")),
            lose(several, table="diagnoses", source=source, reason="several_codes",
                 detail=pl.col("n").cast(pl.String) + " codes"),
        ]
    )  # fmt: skip
    return Diagnoses.check(diagnoses.select(list(Diagnoses.columns()))), rejects
