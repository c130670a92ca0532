"""The one page that says what became of a table of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from phewas.mappings import coverage, tally

if TYPE_CHECKING:
    from phewas.mappings.counting import Work

#: Lines of the two lists.
TOP = 15


def summarise(work: Work) -> dict[str, Any]:
    """Return rows, coverage, the most frequent unmapped codes and the phenotypes with the most cases.

    Returns
    -------
    dict
        ``vocabulary``; ``rules`` (what was asked, and the defaults that were taken); ``rows`` (what was met, by kind);
        ``code_systems`` (each label, what it was read as, rows); ``coverage`` (rows, codes, patients, in all and
        mapped, over everything and by code system; the rows are those of named patients); ``lost_zeros``
        (`phewas.mappings.coverage.Resolved`); ``unmapped`` and ``mapped_otherwise`` (number of codes and rows, and by
        reason); ``most_frequent_unmapped``; ``phenotypes_with_most_cases``; ``phenotypes`` (how many have a patient);
        ``counts`` (patient and phenotype pairs, and those with as many days as a case needs); ``labels`` (cells by
        state and the reasons of -1), null where no labels were made.
    """
    spelled, encoded, phenotypes = work.resolved.spelled, work.encoded, work.phenotypes()
    unmapped, noted = work.unmapped(), work.by_note()
    found = coverage.count(spelled) | {
        "n_patients": len(encoded.patients),
        "n_patients_mapped": work.patients_mapped,
    }
    by_system = {
        str(system): coverage.count(part)
        for (system,), part in sorted(spelled.group_by("vocabulary"), key=lambda item: str(item[0]))
    }
    rank = "n_cases" if work.labelled else "n_days_enough"
    most = phenotypes.filter(pl.col(rank) > 0).sort(rank, maintain_order=True, descending=True).head(TOP)
    cells = work.per_phenotype[2:].sum(axis=1)
    labels = {
        "case": int(cells[0]),
        "control": int(cells[1]),
        "neither": int(cells[2]),
        "neither_because_of": work.excluded_by,
        "cases_lost_to_sex": work.cases_lost_to_sex,
    }
    return {
        "vocabulary": work.vocabulary.label,
        "rules": {
            "code_system": work.options.code_system or "as the column says",
            "min_days": work.min_days,
            "dates": encoded.has_dates,
            "control_exclusions": work.options.control_exclusions and work.vocabulary.exclusions.height > 0,
            "sex": encoded.sex is not None,
            "walk_up": work.options.walk_up,
            "restore_zeros": work.options.restore_zeros,
        },
        "rows": encoded.counts,
        "code_systems": encoded.systems,
        "coverage": found | {"by_code_system": by_system},
        "lost_zeros": work.resolved.lost_zeros,
        "unmapped": _by_reason(unmapped),
        "mapped_otherwise": _by_reason(noted),
        "most_frequent_unmapped": unmapped.head(TOP).to_dicts(),
        "phenotypes_with_most_cases": most.select("phenotype", "description", n=rank).to_dicts(),
        "phenotypes": {"in_all": work.n, "with_a_patient": int((work.per_phenotype[0] > 0).sum())},
        "counts": {"pairs": work.n_counts, "pairs_with_enough_days": int(work.per_phenotype[1].sum())},
        "labels": labels if work.labelled else None,
    }


def _by_reason(table: pl.DataFrame) -> dict[str, Any]:
    # A reason may name the very code ("mapped by its parent X"); the kind of reason is what stands before that.
    kind = pl.col("reason").str.replace(f"^({coverage.BY_PARENT}|{coverage.BY_ZEROS}).*$", "$1").str.strip_chars(" :")
    kind = kind.str.replace(r"; \S+ is in the map: .*$", "")
    reasons = table.group_by(kind.alias("reason")).agg(pl.len().alias("n_codes"), pl.col("n_rows").sum())
    ordered = reasons.sort("n_rows", "reason", descending=[True, False])
    return {
        "n_codes": table.height,
        "n_rows": int(table["n_rows"].sum()),
        "by_reason": [{**row, "n_codes": int(row["n_codes"])} for row in ordered.to_dicts()],
    }


def text(summary: dict[str, Any]) -> str:
    """Return the summary as one page of plain text."""
    rules, rows, found = summary["rules"], summary["rows"], summary["coverage"]
    lines = [f"Phenotypes of {summary['vocabulary']}", ""]
    lines += ["Rules"]
    days = "1 code" if rules["min_days"] == 1 else f"codes on {rules['min_days']} distinct days"
    lines += [f"  case: {days} of the phenotype or of phenotypes below it; with fewer: neither case nor control"]
    lines += ["  distinct days: " + ("by date" if rules["dates"] else "there is no date column; a code is a day")]
    lines += [f"  code system: {rules['code_system']}"]
    lines += [f"  related codes bar controls: {_yes(rules['control_exclusions'])}"]
    sex = "as the column says; unknown or of two sexes: neither" if rules["sex"] else "not known here, no rule"
    lines += [f"  sex: {sex}"]
    lines += [f"  codes not in the map count as their parent: {_yes(rules['walk_up'])}"]
    lines += [f"  lost leading zeros are put back: {_yes(rules['restore_zeros'])}"]
    lines += ["  controls are patients of this table; who has no code at all is not in it", ""]
    lines += ["Rows"]
    words = {
        "rows": "in all, one code each",
        "rows_with_surplus_fields": "with more fields than the header: not used",
        "rows_without_patient": "without a patient: not used",
        "rows_with_bad_date": "whose date cannot be read: used as rows without a date",
        "rows_without_date": "without a date: no distinct day beside dated ones",
        "cells_with_several_codes": "cells that held several codes were split",
    }
    lines += [f"  {rows[name]:>13,}  {what}" for name, what in words.items() if rows[name] or name == "rows"]
    for item in summary["code_systems"]:
        lines += [f"  {item['n_rows']:>13,}  with code system {item['label']!r}, read as {item['vocabulary']}"]
    lines += ["", "Coverage                 mapped            of"]
    for name in ("rows", "codes", "patients"):
        lines += [_share(name, found[f"n_{name}_mapped"], found[f"n_{name}"])]
    for system, part in found["by_code_system"].items():
        lines += [_share(f"rows, {system}", part["n_rows_mapped"], part["n_rows"])]
    zeros = summary["lost_zeros"]
    if zeros["n_only_with_zeros"]:
        lines += ["", _zeros(zeros)]
    for title, key in (("Not mapped", "unmapped"), ("Mapped otherwise", "mapped_otherwise")):
        if summary[key]["n_codes"]:
            lines += ["", f"{title}: codes, rows, reason"]
            lines += [f"  {r['n_codes']:>9,} {r['n_rows']:>13,}  {r['reason']}" for r in summary[key]["by_reason"]]
    if summary["most_frequent_unmapped"]:
        lines += ["", "Most frequent codes not mapped: rows, code, code system, reason"]
        lines += [
            f"  {r['n_rows']:>13,}  {r['code'] or '(blank)':<10} {r['vocabulary']:<8} {r['reason']}"
            for r in summary["most_frequent_unmapped"]
        ]
    most, states = summary["phenotypes_with_most_cases"], summary["labels"]
    pairs, names = summary["counts"], summary["phenotypes"]
    lines += ["", f"Phenotypes: {names['with_a_patient']:,} of {names['in_all']:,} have a patient"]
    lines += [f"  {pairs['pairs']:>13,}  pairs of patient and phenotype"]
    lines += [f"  {pairs['pairs_with_enough_days']:>13,}  of them with enough days for a case"]
    if states:
        lines += [f"  {states['case']:>13,}  cells are cases"]
        lines += [f"  {states['control']:>13,}  controls"]
        lines += [f"  {states['neither']:>13,}  neither, because of:"]
        lines += [
            f"  {n:>13,}    {tally.EXCLUDED_BY[reason]}" for reason, n in states["neither_because_of"].items() if n
        ]
    if most:
        lines += ["", "Phenotypes with the most cases: cases, phenotype"]
        lines += [f"  {r['n']:>13,}  {r['phenotype']:<10} {r['description']}" for r in most]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _yes(value: bool) -> str:  # noqa: FBT001
    return "yes" if value else "no"


def _share(name: str, part: int, whole: int) -> str:
    share = f"{100 * part / whole:.1f} %" if whole else "-"
    return f"  {name:<16} {part:>13,} {whole:>13,}  {share}"


def _zeros(zeros: dict[str, int]) -> str:
    share = 100 * zeros["n_only_with_zeros"] / zeros["n_codes"]
    lines = [
        f"Leading zeros: {zeros['n_only_with_zeros']:,} of {zeros['n_codes']:,} ICD-9-CM codes of digits "
        f"({share:.1f} %, {zeros['n_rows']:,} rows)",
        f"  exist only with zeros put back, {zeros['n_ambiguous']:,} of them in more than one way; "
        f"{zeros['n_begin_with_zero']:,} codes of the list begin with 0.",
    ]
    if zeros["n_begin_with_zero"]:
        lines += ["  Codes with their zeros stand beside them, so these may as well be procedure codes (38.9)."]
    else:
        lines += [
            "  The list has probably been through a spreadsheet: export it as text again. Codes that became other",
            "  codes (038.9 as 389) cannot be told. --restore-zeros mends those that can be.",
        ]
    return "\n".join(lines)
