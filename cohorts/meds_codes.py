"""What the codes of a MEDS dataset say: diagnoses, visits, births, sexes; all spellings in use, and one's own.

A dataset declares its own in ``phewas-meds.toml`` beside ``data/``::

    visit_start = ["^ADMIT//.*$"]
    visit_end = ["^LEAVE//.*$"]
    [[diagnoses]]
    pattern = "^DX10:(?P<code>.+)$"
    vocabulary = "ICD10CM"

Source: MEDS 0.4 (https://github.com/Medical-Event-Data-Standard/meds), and the spellings of the published converters.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phewas.errors import CohortError, ConfigError, nearest
from phewas.mappings.icd import CODE_SYSTEMS

DECLARED = "phewas-meds.toml"
BIRTH = "MEDS_BIRTH"
# A published converter wrote the name of a column expression in place of the code, for every ICD-10 diagnosis.
BROKEN = "col("
SYSTEMS = {
    "9": "ICD9CM", "10": "ICD10CM", "icd9": "ICD9CM", "icd9cm": "ICD9CM", "icd-9-cm": "ICD9CM",
    "icd10": "ICD10", "icd10cm": "ICD10CM", "icd-10-cm": "ICD10CM", "icd-10": "ICD10", "icd-9": "ICD9CM",
}  # fmt: skip
_SYSTEM = r"ICD-?(?:9|10)(?:-?CM)?"
_DIAGNOSES = (
    re.compile(r"^(?:DIAGNOSIS|CONDITION)//ICD//(?P<system>9|10)//(?P<code>.+)$", re.IGNORECASE),
    re.compile(rf"^(?:(?:DIAGNOSIS|CONDITION)//)?(?P<system>{_SYSTEM})//?(?P<code>[^/]+)(?://start)?$", re.IGNORECASE),
)
_VISIT_START = (
    re.compile(r"^HOSPITAL_ADMISSION(?://.*)?$"),
    re.compile(r"^VISIT//?[^/]+(?://start)?$", re.IGNORECASE),
)
_VISIT_END = (re.compile(r"^HOSPITAL_DISCHARGE(?://.*)?$"), re.compile(r"^VISIT//?[^/]+//end$", re.IGNORECASE))
_PERSON = re.compile(r"^(?P<what>gender|sex|race|ethnicity)//?(?P<word>.+)$", re.IGNORECASE)
# Concept identifiers of OMOP, and the letters of the MIMIC converter.
_SEX_WORDS = {"8532": "F", "8507": "M"}
_CONCEPT = re.compile(r"^\d{6,}$")


@dataclass(frozen=True)
class Meaning:
    """What one code says. `kind` is diagnosis, concept, visit_start, visit_end, birth, sex, race, ethnicity, other."""

    kind: str
    text: str | None = None
    vocabulary: str | None = None


@dataclass(frozen=True)
class Declared:
    """Patterns of `DECLARED`; they are asked before the built-in ones."""

    diagnoses: tuple[tuple[re.Pattern[str], str], ...] = ()
    visit_start: tuple[re.Pattern[str], ...] = ()
    visit_end: tuple[re.Pattern[str], ...] = ()
    parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_declared(root: Path) -> Declared:
    """Read ``phewas-meds.toml`` where it is there.

    Raises
    ------
    ConfigError
        It is no TOML, a key is unknown, a pattern is no regular expression or has no group ``code``, or the vocabulary
        is no code system.
    """
    path = root / DECLARED
    if not path.is_file():
        return Declared()
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{DECLARED} cannot be read: {error}", expected="a TOML file") from error
    known = ("diagnoses", "visit_start", "visit_end")
    for key in values:
        if key not in known:
            raise ConfigError(f"{DECLARED} has an unknown key {key!r}.{nearest(key, known)}", expected=", ".join(known))
    diagnoses = []
    listed = values.get("diagnoses", [])
    for one in listed if isinstance(listed, list) else [listed]:
        if not isinstance(one, dict) or set(one) != {"pattern", "vocabulary"}:
            raise ConfigError(f"{DECLARED}: a section [[diagnoses]] is {one!r}", expected="pattern and vocabulary")
        pattern = _pattern(one["pattern"])
        if "code" not in pattern.groupindex:
            raise ConfigError(f"{DECLARED}: the pattern {one['pattern']!r} marks no code",
                              expected="a group (?P<code>...) around the code")  # fmt: skip
        if one["vocabulary"] not in CODE_SYSTEMS:
            raise ConfigError(f"{DECLARED}: {one['vocabulary']!r} is no code system", expected=", ".join(CODE_SYSTEMS))
        diagnoses.append((pattern, str(one["vocabulary"])))
    starts, ends = (
        tuple(_pattern(p) for p in (values.get(k, []) if isinstance(values.get(k, []), list) else [values[k]]))
        for k in ("visit_start", "visit_end")
    )
    return Declared(tuple(diagnoses), starts, ends)


def _pattern(text: object) -> re.Pattern[str]:
    try:
        if not isinstance(text, str):
            raise ConfigError(f"{DECLARED}: {text!r} is no pattern", expected="a regular expression as text")
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{DECLARED}: {text!r} is no regular expression: {error}") from error


def check_codes(codes: Iterable[str]) -> None:
    """Refuse a dataset whose codes were lost on the way.

    Raises
    ------
    CohortError
        A code is the name of a column expression, such as ``DIAGNOSIS//ICD//10//col(icd10_cm``: the converter wrote
        the expression instead of its value, so that every such diagnosis has lost its code.
    """
    broken = sorted(c for c in codes if BROKEN in c)
    if broken:
        raise CohortError(
            f"the codes of this dataset are damaged: {len(broken)} are column expressions, such as {broken[0]!r}",
            expected="a diagnosis code, such as DIAGNOSIS//ICD//10//R531",
            cure="this is a known error of an extraction script, which wrote the expression in place of the code: "
            "extract the dataset again with a release of the converter that has it mended",
        )


def meaning(code: str, declared: Declared) -> Meaning:
    """Return what a code says, by the declared patterns, then the built-in ones, then its parents."""
    for pattern, vocabulary in declared.diagnoses:
        found = pattern.search(code)
        if found:
            return Meaning("diagnosis", found.group("code"), vocabulary)
    for kind, patterns in (("visit_start", declared.visit_start), ("visit_end", declared.visit_end)):
        if any(p.search(code) for p in patterns):
            return Meaning(kind)
    own = _built_in(code)
    if own.kind in ("other", "concept"):
        # A code of another system, or a bare concept number, may name its ICD code as a parent.
        parents = [m for p in sorted(declared.parents.get(code, ())) if (m := _built_in(p)).kind == "diagnosis"]
        if parents:
            return parents[0]
    return own


def _built_in(code: str) -> Meaning:
    if code == BIRTH:
        return Meaning("birth")
    for pattern in _DIAGNOSES:
        found = pattern.match(code)
        if found:
            text = found.group("code").strip()
            if _CONCEPT.match(text):
                return Meaning("concept", text)
            return Meaning("diagnosis", text, SYSTEMS[found.group("system").lower()])
    if any(p.match(code) for p in _VISIT_END):
        return Meaning("visit_end")
    if any(p.match(code) for p in _VISIT_START):
        return Meaning("visit_start")
    person = _PERSON.match(code)
    if person:
        what, word = person.group("what").lower(), person.group("word").strip()
        return Meaning("sex", _SEX_WORDS.get(word, word)) if what in ("gender", "sex") else Meaning(what, word)
    return Meaning("other")
