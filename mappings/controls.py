"""Control phenotypes: those that a pulse wave or an ECG has no business seeing, and those that it must see.

A study whose encoder "sees" broken hands sees who is recorded, who comes often or who is old; one that does not see
atrial fibrillation cannot be believed in what it does not see either. The lists are ours, with a reason for each line
(``data/controls.csv``, discussed in ``data/SOURCES.md``); `[evaluate] controls_file` replaces them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import polars as pl

from phewas.errors import VocabularyError, nearest
from phewas.mappings.vocabulary import Vocabulary

KINDS = ("negative", "positive")
COLUMNS = ("phenotype", "kind", "reason")


def controls(vocabulary: Vocabulary, *, file: Path | None = None) -> pl.DataFrame:
    """Return the control phenotypes of a vocabulary.

    Parameters
    ----------
    vocabulary
        Whose phenotypes.
    file
        CSV with the columns phenotype, kind (``negative`` or ``positive``) and, if wanted, reason, in place of the
        shipped list.

    Returns
    -------
    polars.DataFrame
        phenotype, kind, reason; empty where nothing is shipped for the vocabulary.

    Raises
    ------
    VocabularyError
        The file is missing or is no such table, a kind or a phenotype is unknown, or a phenotype has two rows.
    """
    if file is None:
        text = (files("phewas.mappings.data") / "controls.csv").read_bytes()
        shipped = pl.read_csv(text, infer_schema=False)
        # The WHO's map leads to the same phenotypes.
        return shipped.filter(pl.col("vocabulary") == vocabulary.label.removesuffix("-who")).select(COLUMNS)
    try:
        given = pl.read_csv(file, infer_schema=False)
    except FileNotFoundError:
        raise VocabularyError(f"there is no file {file}", cure="check the path") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise VocabularyError(f"{file.name} cannot be read: {str(error).splitlines()[0]}", expected="a CSV") from None
    missing = [name for name in COLUMNS[:2] if name not in given.columns]
    if missing:
        raise VocabularyError(f"{file.name} lacks {', '.join(missing)}", expected=f"the columns {', '.join(COLUMNS)}")
    if "reason" not in given.columns:
        given = given.with_columns(reason=pl.lit(""))
    given = given.select(pl.col(COLUMNS).str.strip_chars().fill_null(""))
    known = vocabulary.phenotypes["phenotype"].to_list()
    for name, kind in given.select("phenotype", "kind").iter_rows():
        if kind not in KINDS:
            raise VocabularyError(f"{file.name}: {name} has the kind {kind!r}", expected=" or ".join(KINDS))
        if name not in known:
            raise VocabularyError(f"{file.name}: {name!r} is not in {vocabulary.label}.{nearest(name, known)}",
                                  cure="mend or delete the row")  # fmt: skip
    if given["phenotype"].is_duplicated().any():
        raise VocabularyError(f"{file.name} names a phenotype twice", expected="one row each")
    return given
