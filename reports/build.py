"""The report step: result tables in, a page, figures and tables for people out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports import flow, html, training
from phewas.reports.labels import label_rules
from phewas.reports.latex import write_longtable
from phewas.reports.manhattan import caption, manhattan
from phewas.reports.meta import ReportMeta, flat, methods
from phewas.reports.shift import shift_rows, shift_warnings
from phewas.reports.style import pdf, png
from phewas.reports.tables import estimate_text, interval_text, protect, shareable, shown, write_phenotypes
from phewas.reports.workbook import write_workbook
from phewas.rundir import atomic, write_text
from phewas.schema import (
    ChapterResults,
    Flow,
    Overview,
    PhenotypeResults,
    Phenotypes,
    Rejects,
    Splits,
    Unmapped,
)

PRINT_DPI, SCREEN_DPI = 300, 200
SEGMENT_NOTE = "Segments are counted as if they were independent patients: intervals are too narrow."


# States of ``cohort/disjointness.json`` in which no tested patient can have been met in pretraining.
SAFE = ("excluded", "not pretrained")


def build(run: Path, *, meta: ReportMeta, small_cell: int) -> Path:
    """Write ``report/``: the page, the Manhattan figure (PNG at 300 dpi, PDF), the table of phenotypes, the workbook.

    Everything written obeys the small-cell rule of `phewas.reports.tables.protect`. No statistic is computed. The same
    tables and the same `meta` give the same bytes.

    Parameters
    ----------
    run
        The run directory, with ``results/``, ``cohort/`` and ``phenotypes/`` complete; ``cohort/disjointness.json`` and
        ``model/history.csv`` are used where they exist.
    meta
        What the page says about the run.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden; 0 for public cohorts.

    Returns
    -------
    pathlib.Path
        ``report/index.html``.

    Raises
    ------
    SchemaError
        A table is missing or does not keep its contract.
    """
    run = Path(run)
    results = PhenotypeResults.read(run)
    protected = protect(results, small_cell=small_cell)
    report = run / "report"
    write_phenotypes(shareable(results, small_cell=small_cell), report / "tables")
    title = f"AUC by phenotype: {meta.encoder} on {meta.title}."
    write_longtable(protected, report / "tables", caption=title, small_cell=small_cell)

    segments = "segment" in results.get_column("unit").to_list()
    figure = manhattan(protected, title=f"{meta.encoder} on {meta.title}", note=SEGMENT_NOTE if segments else "")
    _write(png(figure, dpi=PRINT_DPI), report / "figures" / "manhattan_auc.png")
    _write(pdf(figure), report / "figures" / "manhattan_auc.pdf")

    parts = _people(run, results, small_cell=small_cell)
    write_workbook(
        run, report / "results.xlsx", meta=meta, protected=protected, rounded=parts["rounded"], small_cell=small_cell
    )
    colours = html.chapter_colours(results)
    chapters, vocabulary = ChapterResults.read(run), Phenotypes.read(run)
    tested = html.tested_rows(protected, small_cell=small_cell, colours=colours)
    compared = shift_rows(run, small_cell=small_cell)
    page = html.render(
        meta=meta,
        **parts,
        warnings=_warnings(meta, protected, parts["disjointness"], segments=segments) + shift_warnings(compared),
        shift=compared,
        tiles=_tiles(chapters, parts["sides"]),
        overview=html.overview_rows(Overview.read(run), small_cell=small_cell, rounded=parts["rounded"]),
        manhattan=html.data_uri(png(figure, dpi=SCREEN_DPI)),
        manhattan_alt=_alt(protected, chapters),
        manhattan_caption=caption(protected),
        tested=tested,
        chapter_names=sorted({row["chapter"] for row in tested}),
        untested=html.untested_rows(protected, small_cell=small_cell),
        chapters=html.chapter_rows(chapters, protected, colours=colours),
        n_vocabulary=f"{vocabulary.height:,}",
        training=_training(run / "model" / "history.csv"),
        methods=methods(meta, **{name: _distinct(protected, column) for name, column in (
            ("vocabularies", "vocabulary"), ("windows", "label_window"), ("units", "unit"),
            ("intervals", "ci_method"), ("tests", "p_test"))},
            compared=protected.get_column("delta_auc").count() > 0),
        settings=list(flat(meta.settings)),
        **label_rules(run, small_cell=small_cell),
        small_cell=small_cell,
        segments=segments,
    )
    return write_text(page, report / "index.html")


def _write(content: bytes, path: Path) -> None:
    with atomic(path) as handle:
        handle.write(content)


def _distinct(protected: pl.DataFrame, column: str) -> list[str]:
    tested = protected.filter(pl.col("status") == "tested")
    return sorted(tested.get_column(column).drop_nulls().unique().to_list())


def _people(run: Path, results: pl.DataFrame, *, small_cell: int) -> dict[str, Any]:
    """Return the parts of the page that count people, rounded together where one of them is small."""
    steps, told = Flow.read_all(run), flow.read_disjointness(run / "cohort" / "disjointness.json")
    sides = flow.side_counts(Splits.read(run), told)
    rounded = flow.must_round(steps, sides, small_cell=small_cell)
    unmapped = Unmapped.read(run)

    def say(n: int | None) -> str:
        return "–" if n is None else shown(n, small_cell=small_cell, rounded=rounded)

    return {
        "rounded": rounded,
        "sides": [{**side, "patients": say(side["patients"]), "encounters": say(side["encounters"])} for side in sides],
        "flow": flow.flow_steps(steps, small_cell=small_cell, rounded=rounded),
        "rejects": flow.reject_counts(Rejects.read_all(run), small_cell=small_cell),
        "unmapped": flow.unmapped_counts(unmapped, small_cell=small_cell),
        "n_unmapped": f"{unmapped.height:,}",
        "disjointness": {
            "rule": str(told.get("rule", "")), "note": str(told.get("note", "")),
            "contamination": str(told.get("contamination", "")),
            # Never the identifiers themselves.
            "n_shared": say(len(told.get("intersection") or [])), "shared": bool(told.get("intersection")),
        },
    }


def _tiles(chapters: pl.DataFrame, sides: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the headline counts of the first screen with what they mean."""
    total = {c: int(chapters.get_column(c).sum()) for c in
             ("n_phenotypes", "n_tested", "n_significant", "n_auc_70", "n_beats_baseline")}
    tiles = [
        (f"{total['n_tested']:,}", f"of {total['n_phenotypes']:,} phenotypes had enough cases to be tested"),
        (f"{total['n_significant']:,}", "are seen better than chance (AUC above 0.5 with q < 0.05)"),
        (f"{total['n_auc_70']:,}", "have an AUC of 0.70 or more"),
        (f"{total['n_beats_baseline']:,}", "are seen better than from age and sex alone (q < 0.05)"),
    ]
    scored = [side for side in sides if side["split"] in ("held_out", "crossfit")]
    tiles += [(side["patients"], f"patients {side['words']}") for side in scored]
    return tiles


def _warnings(meta: ReportMeta, protected: pl.DataFrame, disjointness: dict[str, Any], *, segments: bool) -> list[str]:
    """Return what the reader must know first: the run's own warnings, and those that the tables call for."""
    told = [html.clean(w, width=600) for w in meta.warnings]
    found = []
    state = disjointness["contamination"]
    if state and state not in SAFE and not any("contamination" in w.lower() for w in told):
        found.append(f"Contamination {html.clean(state, width=200)}. "
                     "Some tested patients may have been in the encoder's pretraining data.")
    if disjointness["shared"]:
        found.append(f"Patients on two sides of the study: {disjointness['n_shared']}. The AUCs are not to be trusted.")
    if segments:
        found.append(SEGMENT_NOTE)
    tested = protected.filter(pl.col("status") == "tested")
    for flag, words in (
        ("approximate_interval", "have approximate intervals and p-values"),
        ("few_cases", "have few case patients: their AUCs are uncertain; look at the intervals"),
    ):
        n = sum(flag in html.flags(row) for row in tested.get_column("flags").to_list())
        if n:
            found.append(f"{n:,} of {tested.height:,} tested phenotypes {words}.")
    if not tested.height:
        found.append("No phenotype had enough case patients to be tested.")
    return list(dict.fromkeys([*told, *found]))


def _alt(protected: pl.DataFrame, chapters: pl.DataFrame) -> str:
    """Return the figure's main numbers for those who cannot see it."""
    drawn = protected.filter((pl.col("status") == "tested") & pl.col("auc").is_not_null())
    text = f"Manhattan plot of the AUC of {drawn.height:,} phenotypes by chapter."
    if drawn.is_empty():
        return text
    significant, strong = (int(chapters.get_column(c).sum()) for c in ("n_significant", "n_auc_70"))
    best = drawn.sort(["auc", "phenotype"], descending=[True, False]).row(0, named=True)
    interval = interval_text(best["auc_low"], best["auc_high"])
    return (f"{text} {significant:,} are better than chance with q below 0.05, {strong:,} reach 0.70. The highest is "
            f"{html.clean(best['description'], width=80)} with {estimate_text(best['auc'])}"
            f"{f' (95 % interval {interval})' if interval else ''}. A lower panel shows the difference to age and sex.")


def _training(path: Path) -> dict[str, str] | None:
    """Return the training curve as image and words, or None where the run has no history."""
    if not path.is_file():
        return None
    history = training.read_history(path)
    if history.is_empty():
        return None
    best = history.drop_nulls("tuning_auc").sort(["tuning_auc", "epoch"], descending=[True, False]).head(1)
    words = f"{history.height:,} epoch{'' if history.height == 1 else 's'}"
    if best.height:
        row = best.row(0, named=True)
        words += f"; best mean tuning AUC {estimate_text(row['tuning_auc'])} in epoch {row['epoch'] or 0:g}"
    return {"image": html.data_uri(png(training.training_curve(history), dpi=SCREEN_DPI)), "words": words}
