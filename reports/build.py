"""The report step: result tables in, a page, figures and tables for people out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports import beside, flow, html, training
from phewas.reports import reference as published
from phewas.reports.checklist import STATES, checklist, tally
from phewas.reports.citations import citations
from phewas.reports.gallery import SEGMENT_NOTE, write_figure
from phewas.reports.labels import label_rules
from phewas.reports.latex import write_longtable
from phewas.reports.manhattan import caption, manhattan
from phewas.reports.material import Material, read_material
from phewas.reports.meta import ReportMeta, fit_words, flat, heldout_words, methods
from phewas.reports.pagedata import as_json, cards, figure_data, licence_of, packed, plotly_script
from phewas.reports.reference import Reference
from phewas.reports.shift import shift_rows, shift_warnings
from phewas.reports.style import SCREEN_DPI, png
from phewas.reports.table1 import table1_rows
from phewas.reports.tables import as_text, estimate_text, interval_text, shown, write_phenotypes
from phewas.reports.workbook import write_workbook
from phewas.rundir import RunDirectory, digest_of, write_text
from phewas.schema import Flow, Rejects, Splits, Unmapped

PRIVATE = (
    "The tables in cohort/, phenotypes/, segments/, predictions/, embeddings/ and results/ hold rows of single\n"
    "patients or exact counts, also small ones. They are not for sharing. What may be shown is in report/, where\n"
    "small cells are hidden.\n"
)

# States of ``cohort/disjointness.json`` in which no tested patient can have been met in pretraining.
SAFE = ("excluded", "not pretrained")


def build(run: Path, *, meta: ReportMeta, small_cell: int, reference: Reference | None = None) -> Path:
    """Write ``report/``: the page, the main figure (PNG at 300 dpi, PDF), the table of phenotypes, the workbook.

    Figures that `phewas figures` had drawn there are removed, since they may show what is no longer so or now hidden.

    Everything written obeys the small-cell rule of `phewas.reports.tables.protect`. No statistic is computed. The same
    tables and the same `meta` give the same bytes.

    Parameters
    ----------
    run
        The run directory, with ``results/``, ``cohort/`` and ``phenotypes/`` complete; ``cohort/disjointness.json``,
        ``model/history.csv`` and ``run.json`` are used where they exist.
    meta
        What the page says about the run.
    small_cell
        Counts of 1 to ``small_cell - 1`` are hidden; 0 for public cohorts.
    reference
        A published table beside this run, as `phewas.stats.published` compared them.

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
    report, title = run / "report", f"{meta.encoder} on {meta.title}"
    material = read_material(run, small_cell=small_cell)
    protected = material.results
    _clear(report)
    write_phenotypes(as_text(protected, small_cell=small_cell), report / "tables")
    write_longtable(protected, report / "tables", caption=f"AUC by phenotype: {title}.", small_cell=small_cell)
    note = SEGMENT_NOTE if material.segments else ""
    beside.write_tables(material.beside, report / "tables")
    figure = manhattan(protected, title=title, note=note)
    write_figure(figure, report / "figures" / "manhattan_auc", formats=("png", "pdf"))
    parts = _people(run, material, small_cell=small_cell)
    write_workbook(run, report / "results.xlsx", meta=meta, material=material, rounded=parts["rounded"])
    write_text(PRIVATE, run / "NOT-FOR-SHARING.txt")
    colours = html.chapter_colours(protected)
    tested = html.tested_rows(protected, small_cell=small_cell, colours=colours)
    compared = shift_rows(run, small_cell=small_cell)
    sides, table1 = table1_rows(run, small_cell=small_cell)
    cited = citations(meta, protected)
    listed = checklist({"subgroups": material.subgroups.height > 0, "table1": bool(table1), "shift": bool(compared),
                        "encoder": bool(meta.encoder_card)})
    compared_with = beside.rival_rows(material.beside, material.overview)
    page = html.render(
        meta=meta, plotly=(script := plotly_script()), plotly_packed=packed(script),
        plotly_licence=licence_of(script), figure_json=as_json(figure_data(material)),
        cards_packed=packed(cards(material)), **parts,
        warnings=_warnings(meta, protected, parts["disjointness"], segments=material.segments)
        + beside.warnings(material.beside, protected) + shift_warnings(compared),
        rivals=compared_with,
        explained=beside.explained_rows(material.beside, protected), controls=beside.control_rows(material.beside),
        files=beside.files(material.beside),
        past=any(row["name"] == "utilisation" and not row["reason"] for row in compared_with)
        and not set(_distinct(protected, "label_window")) <= {"future"},
        shift=compared, table1=table1, table1_sides=sides,
        tiles=_tiles(material, parts["sides"]), fit_words=fit_words(meta.fit),
        heldout_words=heldout_words(meta.heldout),
        overview=html.overview_rows(material.overview, small_cell=small_cell, rounded=parts["rounded"]),
        manhattan=html.data_uri(png(figure, dpi=SCREEN_DPI)),
        manhattan_alt=_alt(protected, material.chapters),
        manhattan_caption=caption(protected),
        tested=tested,
        chapter_names=sorted({row["chapter"] for row in tested}),
        untested=html.untested_rows(protected, small_cell=small_cell),
        chapters=html.chapter_rows(material.chapters, protected, colours=colours),
        n_vocabulary=f"{protected.height:,}",
        training=_training(run / "model" / "history.csv"),
        reference=_reference(material, reference, report, meta=meta, note=note),
        methods=_methods(meta, protected, parts["sides"]),
        citations=cited, checklist=listed, checklist_tally=tally(listed), states=STATES,
        settings=list(flat(meta.settings)), reproduce=_reproduce(run),
        **label_rules(run, small_cell=small_cell),
        small_cell=small_cell,
        segments=material.segments,
    )
    return write_text(page, report / "index.html")


def _clear(report: Path) -> None:
    """Remove figures and comparisons of an earlier report: they may show other results, or cells now hidden."""
    for file in [*(report / "figures").glob("*.*"), report / "tables" / "reference.csv"]:
        if not file.name.startswith("."):
            file.unlink(missing_ok=True)


def _methods(meta: ReportMeta, protected: pl.DataFrame, sides: list[dict[str, Any]]) -> list[str]:
    """Return the methods as sentences, and who was on which side."""
    text = methods(meta, **{name: _distinct(protected, column) for name, column in (
        ("vocabularies", "vocabulary"), ("windows", "label_window"), ("units", "unit"),
        ("intervals", "ci_method"), ("tests", "p_test"))}, compared=protected.get_column("delta_auc").count() > 0)
    told = [f"{side['patients']} {side['words']}" + (f" with {side['encounters']} encounters"
            if side["encounters"] != "–" else "") for side in sides]
    if told:
        text.insert(0, f"Patients by side of the study: {'; '.join(told)}.")
    tested = protected.filter(pl.col("status") == "tested")
    twins = tested.get_column("same_as").count()
    family = f"{tested.height:,} phenotypes were tested, and form the family for multiplicity."
    if twins:
        family = (f"{tested.height:,} phenotypes were tested; {twins:,} of them have the same labels as another, which "
                  f"stands for them, so that {tested.height - twins:,} form the family for multiplicity.")
    return [*text, family]


def _reference(
    material: Material, reference: Reference | None, report: Path, *, meta: ReportMeta, note: str
) -> dict[str, Any] | None:
    """Write the comparison with a published table and return what the page shows of it."""
    if reference is None:
        return None
    published.write_compared(reference, report / "tables", small_cell=material.small_cell)
    figure = published.agreement(reference, name=meta.encoder, note=note)
    write_figure(figure, report / "figures" / "agreement")
    return {"words": published.summary_words(reference), "citation": reference.citation,
            "image": html.data_uri(png(figure, dpi=SCREEN_DPI))}


def _reproduce(run: Path) -> list[tuple[str, str]]:
    """Return versions, the run's identity and a hash of each step's outputs, from ``run.json``."""
    manifest = RunDirectory(run).manifest
    rows = [(f"{name} (version)", str(v)) for name, v in manifest.get("versions", {}).items() if name != "phewas"]
    rows += [(str(name).replace("_", " "), str(v)) for name, v in manifest.get("identity", {}).items() if v]
    for step, record in manifest["steps"].items():
        if step != "report":
            hashes = {name: output["sha256"] for name, output in record["outputs"].items()}
            rows.append((f"outputs of {step} (hash)", digest_of(hashes)))
    return rows


def _distinct(protected: pl.DataFrame, column: str) -> list[str]:
    tested = protected.filter(pl.col("status") == "tested")
    return sorted(tested.get_column(column).drop_nulls().unique().to_list())


def _people(run: Path, material: Material, *, small_cell: int) -> dict[str, Any]:
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


def _tiles(material: Material, sides: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the headline counts of the first screen with what they mean, and their intervals where there are some."""
    chapters = material.chapters
    value = {r["measure"]: r for r in material.overview.iter_rows(named=True)}

    def between(measure: str) -> str:
        row = value.get(measure)
        if row is None or row["low"] is None or row["high"] is None:
            return ""
        return f"; with other patients {math.floor(row['low']):,} to {math.ceil(row['high']):,} (95 % interval)"

    joint = value.get("n_auc_70_joint")
    sure = "" if joint is None or not joint["value"] else f"; at least {joint['value']:,.0f} with joint confidence"
    total = {c: int(chapters.get_column(c).sum()) for c in
             ("n_phenotypes", "n_tested", "n_significant", "n_auc_70", "n_beats_baseline")}
    # Chapters count phenotypes that share their labels once, the table below shows each of them.
    listed = material.results.filter(pl.col("status") == "tested").height
    twins = "" if listed == total["n_tested"] else f", {listed:,} with those that have the same labels as another"
    tiles = [
        (f"{total['n_tested']:,}", f"of {total['n_phenotypes']:,} phenotypes had enough cases to be tested{twins}"),
        (f"{total['n_significant']:,}", "are seen better than chance (AUC above 0.5 with q < 0.05)"),
        (f"{total['n_auc_70']:,}", f"have an AUC of 0.70 or more{between('n_auc_70')}{sure}"),
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
