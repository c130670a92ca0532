"""ICD codes as text: one spelling, one key, and what is no code at all.

A code is never read as a number: ``250``, ``250.0`` and ``250.00`` are three ICD-9-CM codes, and ``008`` is not ``8``.
Nothing is guessed either: a lost leading or trailing zero is not put back, and a dot in a place where the code system
has none leaves the code as it stands, so that it is listed as malformed instead of being read as another disease
(``8.61``, once ``008.61``, would become ``861``, an injury of heart and lung).

Two forms are used. The *dotted* form is for people: the dot stands after three characters, after four in the E codes of
ICD-9-CM. The *undotted* key is for joins; inside one code system it is unambiguous, across systems it is not
(``E8501`` is a poisoning in ICD-9-CM and an amyloidosis in ICD-10), so a key always travels with its code system.

Sources of the shapes: the ICD-9-CM and ICD-10-CM Official Guidelines for Coding and Reporting (NCHS and CMS), and WHO,
ICD-10 volume 2, for the dagger and asterisk marks.

What the text cannot show is a wrong label. An external cause of ICD-10-CM filed under ICD-9-CM (``V43.64XA``, a car
crash) has not the shape of an ICD-9-CM code and is listed as of the other system; cut to five characters (``V4364``) it
is one, a replaced hip joint, and nothing in the code betrays it. Hence the demand for a column with the code system,
and the rule by date (`system_by_date`) only where a caller asks for it.

The work is text matching, some six microseconds a code: in a table of millions of rows, apply it to the distinct codes
and join the result.

Each function exists twice: over a polars expression for tables, and over one string (``*_one``) for messages and forms.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Literal

import polars as pl

from phewas.errors import VocabularyError, nearest

CodeSystem = Literal["ICD9CM", "ICD10CM", "ICD10", "unknown"]
CODE_SYSTEMS: tuple[str, ...] = ("ICD9CM", "ICD10CM", "ICD10", "unknown")

#: Hospitals of the United States changed from ICD-9-CM to ICD-10-CM on this day.
ICD10CM_START = date(2015, 10, 1)

#: What a column of code systems may say, in capitals, letters and digits only. A bare 10 is ICD-10-CM, as MIMIC-IV and
#: PheTK use it; ICD10 is the ICD-10 of the World Health Organization, as OMOP uses it.
SYSTEM_WORDS: dict[str, CodeSystem] = {
    **dict.fromkeys(("ICD9CM", "ICD9", "9", "09", "9CM", "ICD9DX", "ICD9CMDX", "I9"), "ICD9CM"),
    **dict.fromkeys(("ICD10CM", "10", "10CM", "ICD10DX", "ICD10CMDX"), "ICD10CM"),
    **dict.fromkeys(("ICD10", "ICD10WHO", "WHO", "I10"), "ICD10"),
}

#: Why a text is no diagnosis code, in words. The keys are what `looks_like` returns.
NOT_A_CODE: dict[str, str] = {
    "blank": "the cell is blank",
    "placeholder": "a placeholder for 'no code'",
    "block_range": "a block of codes such as A00-A09, not a code",
    "procedure_code": "a procedure code, not a diagnosis",
    "other_code_system": "has the shape of the other ICD revision",
    "malformed": "has the shape of no ICD diagnosis code",
}

# Everything that looks like a space: people paste codes from web pages and spreadsheets. Spelt out, because the two
# regex engines in use here disagree about \s.
_BLANKS = "[ \t\r\n\x0b\x0c\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff]+"
# A dot with nothing behind it, and the marks of the dual classification (dagger, asterisk; '+' and '!' in national
# editions) say how a code is used, not which one it is.
_TAIL = r"[.†‡*+!]+$"

_ICD9_NUMERIC = r"[0-9]{3}(?:\.?[0-9]{1,2})?"
_ICD9_V = r"V[0-9]{2}(?:\.?[0-9]{1,2})?"
_ICD9_E = r"E[0-9]{3}(?:\.?[0-9])?"
_ICD9 = f"^(?:{_ICD9_NUMERIC}|{_ICD9_V}|{_ICD9_E})$"
_ICD9_E_ONLY = f"^{_ICD9_E}$"
_ICD10 = r"^[A-Z][0-9][0-9A-Z](?:\.?[0-9A-Z]{1,4})?$"
# In a code of unknown system E and V say nothing: both revisions use them, with the dot in different places.
_ONE_SYSTEM_ONLY = rf"^(?:{_ICD9_NUMERIC}|[A-DF-UW-Z][0-9][0-9A-Z](?:\.?[0-9A-Z]{{1,4}})?)$"

_PLACEHOLDER = (
    r"^(?:[.\-_?*#]+|0+(?:\.0*)?|X{2,}|N/?A|N\.A\.?|NAN|NULL|NIL|NONE|NOCODE|NODX|NODIAGNOSIS|UNKNOWN|UNK|UNSPECIFIED"
    r"|TBD|OTHER|INVALID|MISSING|IMO[0-9]+|<NA>)$"
)
_RANGE = r"^[A-Z]?[0-9][0-9A-Z.]*[-–—][A-Z]?[0-9][0-9A-Z.]*$"
# ICD-9-CM volume 3 (two digits, dot), CPT (five digits, or four and a letter), ICD-10-PCS (seven characters, first one
# a digit). PCS and HCPCS codes that begin with a letter have the shape of a diagnosis and cannot be told by it.
_PROCEDURE_IN_ICD9 = r"^(?:[0-9]{2}\.[0-9]{1,2}|[0-9]{4}[A-Z]|[0-9][0-9A-HJ-NP-Z]{6})$"
_PROCEDURE_IN_ICD10 = r"^(?:[0-9]{2}\.[0-9]{1,2}|[0-9]{5}|[0-9]{4}[A-Z]|[0-9][0-9A-HJ-NP-Z]{6})$"


def clean(codes: pl.Expr) -> pl.Expr:
    """Return codes in upper case, without blanks anywhere, trailing dots and dagger or asterisk marks.

    Parameters
    ----------
    codes
        String expression; null stays null.

    Returns
    -------
    polars.Expr
        String. An entry that held nothing else is ``""``.
    """
    text = codes.cast(pl.String).str.to_uppercase().str.replace_all(_BLANKS, "")
    # A cell that is nothing but such marks is a placeholder and must stay visible as one.
    return pl.when(text.str.contains(r"[^.†‡*+!]")).then(text.str.replace(_TAIL, "")).otherwise(text)


def normalise(codes: pl.Expr, vocabulary: pl.Expr) -> pl.Expr:
    """Return codes in the dotted form: trimmed, upper case, no blanks, the dot where the code system has it.

    Parameters
    ----------
    codes
        String expression, as found in the source. Null stays null.
    vocabulary
        String expression of `CODE_SYSTEMS` (``pl.lit("ICD10CM")`` for a whole column).

    Returns
    -------
    polars.Expr
        String. A text that has not the shape of a code of its system comes back cleaned (`clean`) but otherwise as it
        was, its dots untouched. Codes of system ``unknown`` (or any other word, or null) get a dot only where both
        revisions of ICD would set it at the same place. Applying the function twice changes nothing more.

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"code": ["e119 ", "4019", "E8809", "8.61"], "system": ["ICD10CM"] + ["ICD9CM"] * 3})
    >>> frame.select(normalise(pl.col("code"), pl.col("system"))).to_series().to_list()
    ['E11.9', '401.9', 'E880.9', '8.61']
    """
    text = clean(codes)
    bare = text.str.replace_all(".", "", literal=True)
    icd9, icd10 = vocabulary == "ICD9CM", vocabulary.is_in(["ICD10CM", "ICD10"])
    at_4 = icd9 & text.str.contains(_ICD9_E_ONLY)
    at_3 = (
        (icd9 & text.str.contains(_ICD9))
        | (icd10 & text.str.contains(_ICD10))
        | (~(icd9 | icd10).fill_null(value=False) & text.str.contains(_ONE_SYSTEM_ONLY))
    )
    return pl.when(at_4).then(_dotted(bare, 4)).when(at_3).then(_dotted(bare, 3)).otherwise(text)


def _dotted(bare: pl.Expr, place: int) -> pl.Expr:
    return (
        pl.when(bare.str.len_chars() > place).then(bare.str.head(place) + "." + bare.str.slice(place)).otherwise(bare)
    )


def undotted(codes: pl.Expr, vocabulary: pl.Expr) -> pl.Expr:
    """Return the join key of each code: the dotted form without its dot.

    Parameters
    ----------
    codes, vocabulary
        As in `normalise`.

    Returns
    -------
    polars.Expr
        String, null where the code is null. Only a text with the shape of a code loses its dot; anything else keeps
        it and therefore meets no key. Unambiguous inside one code system only.
    """
    text = normalise(codes, vocabulary)
    return (
        pl.when(looks_like(codes, vocabulary).is_null())
        .then(text.str.replace_all(".", "", literal=True))
        .otherwise(text)
    )


def looks_like(codes: pl.Expr, vocabulary: pl.Expr) -> pl.Expr:
    """Return why a text is no diagnosis code of its system; null where it has the shape of one.

    Parameters
    ----------
    codes, vocabulary
        As in `normalise`. A code of system ``unknown`` may have the shape of either revision.

    Returns
    -------
    polars.Expr
        String, one of the keys of `NOT_A_CODE`, or null. The shape alone is judged: a code that was never issued, or
        one that a coder cut short, may pass. A null code is ``blank``.

    Examples
    --------
    >>> frame = pl.DataFrame({"code": ["E11.9", "IMO0001", "A00-A09", "38.93", "401.9", ""]})
    >>> frame.select(looks_like(pl.col("code"), pl.lit("ICD10CM"))).to_series().to_list()
    [None, 'placeholder', 'block_range', 'procedure_code', 'other_code_system', 'blank']
    """
    text = clean(codes)
    icd9 = (vocabulary == "ICD9CM").fill_null(value=False)
    icd10 = vocabulary.is_in(["ICD10CM", "ICD10"]).fill_null(value=False)
    shape9, shape10 = text.str.contains(_ICD9), text.str.contains(_ICD10)
    fits = (shape9 & ~icd10) | (shape10 & ~icd9)
    procedure = (
        pl.when(icd9).then(text.str.contains(_PROCEDURE_IN_ICD9)).otherwise(text.str.contains(_PROCEDURE_IN_ICD10))
    )
    return (
        pl.when(text.is_null() | (text == "")).then(pl.lit("blank"))
        .when(text.str.contains(_PLACEHOLDER)).then(pl.lit("placeholder"))
        .when(fits).then(pl.lit(None, pl.String))
        .when(text.str.contains(_RANGE)).then(pl.lit("block_range"))
        .when(procedure).then(pl.lit("procedure_code"))
        .when(shape9 | shape10).then(pl.lit("other_code_system"))
        .otherwise(pl.lit("malformed"))
    )  # fmt: skip


def split_cell(cells: pl.Expr) -> pl.Expr:
    """Return the codes of cells that hold several, joined by commas, semicolons, pipes or line breaks.

    Parameters
    ----------
    cells
        String expression.

    Returns
    -------
    polars.Expr
        List of strings in the order of the cell, trimmed, without empty parts; repeated codes stay. Null, not an empty
        list, for a blank or null cell: exploding an empty list may drop the row, depending on the version of polars,
        and exploding a null never does.

    Examples
    --------
    >>> frame = pl.DataFrame({"cell": ["789.01, 338.19", "I10", " ", None]})
    >>> frame.select(split_cell(pl.col("cell"))).to_series().to_list()
    [['789.01', '338.19'], ['I10'], None, None]
    """
    one_separator = cells.cast(pl.String).str.replace_all(r"[;|\r\n]", ",")
    part = pl.element().str.replace_all(f"^{_BLANKS}|{_BLANKS}$", "")
    parts = one_separator.str.split(",").list.eval(part.filter(part != ""))
    return pl.when(parts.list.len() > 0).then(parts)


def system_by_date(recorded: pl.Expr) -> pl.Expr:
    """Return the code system that hospitals of the United States used on a day.

    Parameters
    ----------
    recorded
        Date expression.

    Returns
    -------
    polars.Expr
        String: ``ICD9CM`` before 2015-10-01, ``ICD10CM`` from that day on, ``unknown`` where the date is null. A rule
        for tables that have no column of code systems, to be asked for by name: history entered later, claims of the
        months around the change, and other countries break it.
    """
    return (
        pl.when(recorded < ICD10CM_START).then(pl.lit("ICD9CM"))
        .when(recorded.is_not_null()).then(pl.lit("ICD10CM"))
        .otherwise(pl.lit("unknown"))
    )  # fmt: skip


def read_system(label: str | None) -> CodeSystem:
    """Return the code system that a label means, in any case and with any blanks and hyphens; else ``unknown``.

    Examples
    --------
    >>> read_system("icd-9-cm"), read_system(" ICD10CM "), read_system("10"), read_system("SNOMED")
    ('ICD9CM', 'ICD10CM', 'ICD10CM', 'unknown')
    """
    return SYSTEM_WORDS.get(re.sub(r"[^A-Z0-9]", "", (label or "").upper()), "unknown")


def check_system(vocabulary: str) -> str:
    """Return `vocabulary` if it is a code system, else raise `VocabularyError` with the nearest name."""
    if vocabulary not in CODE_SYSTEMS:
        raise VocabularyError(
            f"{vocabulary!r} is no code system.{nearest(vocabulary.upper(), CODE_SYSTEMS)}",
            expected=" / ".join(CODE_SYSTEMS),
        )
    return vocabulary


def normalise_one(code: str, vocabulary: str) -> str:
    """Return one code in the dotted form; see `normalise`.

    Raises
    ------
    VocabularyError
        `vocabulary` is none of `CODE_SYSTEMS`.
    """
    check_system(vocabulary)
    text = _clean_one(code)
    bare = text.replace(".", "")
    if vocabulary == "ICD9CM":
        fits, place = re.match(_ICD9, text), 4 if text.startswith("E") else 3
    elif vocabulary == "unknown":
        fits, place = re.match(_ONE_SYSTEM_ONLY, text), 3
    else:
        fits, place = re.match(_ICD10, text), 3
    if not fits:
        return text
    return f"{bare[:place]}.{bare[place:]}" if len(bare) > place else bare


def undotted_one(code: str, vocabulary: str) -> str:
    """Return the join key of one code; see `undotted`."""
    text = normalise_one(code, vocabulary)
    return text if looks_like_one(code, vocabulary) else text.replace(".", "")


def looks_like_one(code: str | None, vocabulary: str) -> str | None:
    """Return why one text is no code of its system, or None; see `looks_like`."""
    check_system(vocabulary)
    text = _clean_one(code or "")
    icd9, icd10 = vocabulary == "ICD9CM", vocabulary in ("ICD10CM", "ICD10")
    shape9, shape10 = re.match(_ICD9, text), re.match(_ICD10, text)
    if not text:
        return "blank"
    if re.match(_PLACEHOLDER, text):
        return "placeholder"
    if (shape9 and not icd10) or (shape10 and not icd9):
        return None
    if re.match(_RANGE, text):
        return "block_range"
    if re.match(_PROCEDURE_IN_ICD9 if icd9 else _PROCEDURE_IN_ICD10, text):
        return "procedure_code"
    return "other_code_system" if shape9 or shape10 else "malformed"


def _clean_one(code: str) -> str:
    text = re.sub(_BLANKS, "", code.upper())
    return re.sub(_TAIL, "", text) if re.search(r"[^.†‡*+!]", text) else text
