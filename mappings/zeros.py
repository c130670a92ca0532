"""Codes that have lost their leading zeros, as every list has that was once opened in a spreadsheet.

``008.61`` becomes ``8.61``, ``042`` becomes ``42`` and ``0389`` becomes ``389``. The first two exist in no code system
and can be told; the third is another code (hearing loss) and cannot. So a list is judged as a whole, nothing is put
back unless asked, and then only where one code, and no other, fits. Trailing zeros (``250.00`` read as ``250``) are
never guessed: each of the three is a code.
"""

from __future__ import annotations

import polars as pl

#: What a code without its leading zeros looks like: one or two digits before the dot, or up to four without one.
_DOTTED = r"^[0-9]{1,2}\.[0-9]{1,2}$"
_BARE = r"^[0-9]{1,4}$"


def candidates(lost: pl.DataFrame, known: pl.DataFrame, *, dotted_list: bool) -> pl.DataFrame:
    """Return the codes of the map that an unknown text becomes with zeros put back in front.

    Parameters
    ----------
    lost
        code (cleaned text) and vocabulary, of codes that are not in the map as they stand.
    known
        vocabulary, key: the codes of the map, without dots.
    dotted_list
        Whether the list writes dots: then digits without one are a category (``42`` is 042), else they may be any code
        (``42`` is 042 or 004.2).

    Returns
    -------
    polars.DataFrame
        code, vocabulary, key (the first that fits, in the order of the alphabet), n_candidates (1: unambiguous).
        ICD-9-CM only: no code of ICD-10 begins with a zero.
    """
    numeric = lost.filter(pl.col("vocabulary") == "ICD9CM").select("code", "vocabulary").unique()
    dotted = numeric.filter(pl.col("code").str.contains(_DOTTED)).with_columns(
        pl.col("code").str.replace(".", "", literal=True).alias("key"),
        (3 - pl.col("code").str.find(".", literal=True).cast(pl.Int64)).alias("missing"),
    )
    parts = [dotted.with_columns(("0" * n + pl.col("key")).alias("key")).filter(missing=n) for n in (1, 2)]
    bare = numeric.filter(pl.col("code").str.contains(_BARE))
    parts += [bare.with_columns(("0" * n + pl.col("code")).alias("key"), missing=pl.lit(n)) for n in (1, 2)]
    if dotted_list:
        parts[2:] = [part.filter(pl.col("key").str.len_bytes() == 3) for part in parts[2:]]
    columns = ["code", "vocabulary", "key"]
    made = pl.concat([part.select(columns) for part in parts]).filter(pl.col("key").str.len_bytes() >= 3)
    fits = made.join(known, on=["vocabulary", "key"], how="semi").unique()
    return (
        fits.group_by("code", "vocabulary")
        .agg(pl.col("key").min(), pl.len().cast(pl.Int64).alias("n_candidates"))
        .sort("vocabulary", "code")
    )
