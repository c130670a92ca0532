"""Columns of the emulated tables as text, and the file that grows by blocks of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.cohorts.emulator.draws import Floats, Ints

Flags = NDArray[np.bool_]

# Stands in a cell where the row is to end; `append` cuts the line there.
CUT = "\x00"


def stamps(seconds: Ints) -> pl.Series:
    """Return times as the source writes them (``2264-03-01T07:05:09Z``) from int64 seconds since 1970."""
    times = pl.Series("time", seconds * 1_000_000).cast(pl.Datetime("us"))
    return times.dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def midnights(days: Ints) -> pl.Series:
    """Return dates written as midnight from int64 days since 1970."""
    return pl.Series("day", days.astype(np.int32)).cast(pl.Date).dt.strftime("%Y-%m-%dT00:00:00Z")


def number(values: Floats, digits: int) -> pl.Series:
    """Return numbers with a fixed count of decimals."""
    scaled = pl.Series("number", np.round(values, digits))
    return scaled.round(0).cast(pl.Int64).cast(pl.String) if digits == 0 else scaled.cast(pl.String)


def take(words: Sequence[str | None] | pl.Series, places: Ints) -> pl.Series:
    """Return ``words[place]`` for every place; an empty word is null, so that it is written without quotes."""
    series = words if isinstance(words, pl.Series) else pl.Series("word", [w or None for w in words], dtype=pl.String)
    return series.gather(pl.Series(places, dtype=pl.UInt32))


def blank(column: pl.Series, where: Flags) -> pl.Series:
    """Return the column with null where `where` is True."""
    return pl.select(pl.when(pl.Series(where)).then(None).otherwise(column)).to_series().cast(column.dtype)


def instead(column: pl.Series, where: Flags, other: pl.Series | str) -> pl.Series:
    """Return the column with `other` where `where` is True."""
    new = pl.lit(other, dtype=pl.String) if isinstance(other, str) else other
    return pl.select(pl.when(pl.Series(where)).then(new).otherwise(column)).to_series()


def append(handle: IO[Any], frame: pl.DataFrame, *, header: bool) -> int:
    """Write rows as RFC 4180 text with Unix line ends, cells quoted where they must be, and return their number.

    A cell that begins with `CUT` ends its line: such rows have fewer fields than the header.
    """
    buffer = io.BytesIO()
    frame.write_csv(buffer, include_header=header, quote_style="necessary", null_value="", line_terminator="\n")
    data = buffer.getvalue()
    if CUT.encode() in data:
        lines = data.split(b"\n")
        data = b"\n".join(line.split(b"," + CUT.encode())[0] for line in lines)
    handle.write(data)
    return len(frame)
