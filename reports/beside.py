"""What stands beside the AUCs besides age and sex: rivals, control phenotypes and net benefit, small cells hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from phewas.reports.tables import P_VALUES, ROUNDED, csv_safe, estimate_text, interval_text, p_text
from phewas.rundir import atomic
from phewas.schema import Controls, ControlSummary, NetBenefit, RivalInputs, Rivals, Table

FLAG = "acquisition_explains"
MOST_ROWS = 60
WORDS = {
    "vitals": "vital signs on arrival",
    "utilisation": "earlier encounters and diagnoses",
    "acquisition": "how the signal was recorded",
    "pulse-features": "classical measures of the pulse wave",
}
_PERCENTS = ("p_value", "q_fdr", "difference_p", "difference_q", "p_excess")


@dataclass(frozen=True)
class Beside:
    """Tables of a run as anyone may see them; one that the run does not have is empty.

    Attributes
    ----------
    rivals, controls, benefit
        `phewas.schema.Rivals`, `Controls` and `NetBenefit` of phenotypes whose estimates may be shown.
    told
        `phewas.schema.RivalInputs`, without the shares of missing values.
    summary
        `phewas.schema.ControlSummary`; medians are blank where a hidden AUC is among them.
    """

    rivals: pl.DataFrame
    told: pl.DataFrame
    controls: pl.DataFrame
    summary: pl.DataFrame
    benefit: pl.DataFrame


def read_beside(run: Path, protected: pl.DataFrame) -> Beside:
    """Read the tables and hide what `protected` (`phewas.reports.tables.protect`) hides."""
    shown = protected.filter(pl.col("auc").is_not_null())
    sure = shown["phenotype"].to_list()
    exact = shown.filter(~pl.col(ROUNDED))["phenotype"].to_list()
    controls = _read(Controls, run)
    hidden = controls.filter((pl.col("status") == "tested") & ~pl.col("phenotype").is_in(sure))
    estimates = [name for name, kind in controls.schema.items() if kind == pl.Float64]
    controls = controls.with_columns(
        pl.when(pl.col("phenotype").is_in(sure)).then(pl.col(name)).alias(name) for name in estimates)
    medians = ("median_auc", "median_low", "median_high")
    summary = _read(ControlSummary, run).with_columns(
        pl.when(~pl.col("kind").is_in(hidden["kind"].unique().to_list())).then(pl.col(name)).alias(name)
        for name in medians)
    return Beside(
        rivals=_rounded(_read(Rivals, run).filter(pl.col("phenotype").is_in(sure))),
        told=_read(RivalInputs, run).drop("missing_training", "missing_scored"),
        controls=_rounded(controls), summary=_rounded(summary),
        # Net benefit and prevalence would give the counts of a blurred row away.
        benefit=_rounded(_read(NetBenefit, run).filter(pl.col("phenotype").is_in(exact)).drop("n_flagged"), places=4),
    )


def _read(table: type[Table], run: Path) -> pl.DataFrame:
    return table.read(run) if (run / table.file).is_file() else table.empty()


def _rounded(frame: pl.DataFrame, *, places: int = 3) -> pl.DataFrame:
    small = [name for name in frame.columns if name in _PERCENTS or name in P_VALUES]
    rest = [n for n, kind in frame.schema.items() if kind == pl.Float64 and n not in small and n != "threshold"]
    return frame.with_columns(
        *(pl.col(n).round(places) + 0.0 for n in rest), *(pl.col(n).round_sig_figs(3) for n in small))


def _listed(beside: Beside) -> list[tuple[str, str, pl.DataFrame]]:
    return [("rivals", "rivals.csv", beside.rivals), ("controls", "controls.csv", beside.controls),
            ("net benefit", "net_benefit.csv", beside.benefit)]


def files(beside: Beside) -> list[tuple[str, str]]:
    """Return name and file of the tables that have rows."""
    return [(name, file) for name, file, frame in _listed(beside) if frame.height]


def write_tables(beside: Beside, folder: Path) -> None:
    """Write ``rivals.csv``, ``controls.csv`` and ``net_benefit.csv``, those that have rows; older ones are removed."""
    for _, name, frame in _listed(beside):
        if frame.height:
            with atomic(folder / name) as handle:
                csv_safe(frame).write_csv(handle, quote_style="non_numeric")
        else:
            (folder / name).unlink(missing_ok=True)


def rival_rows(beside: Beside, overview: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one row per rival: what it was told, and the counts that `phewas.schema.Overview` keeps of it."""
    figures = dict(overview.select("measure", "value").iter_rows())
    rows = []
    for (rival,), part in beside.told.group_by("rival", maintain_order=True):
        reason = part["reason"].drop_nulls().to_list()
        key = str(rival).replace("-", "_")
        counts = {what: figures.get(f"n_{what}_{key}") for what in ("with", "beats", "below", "explained")}
        rows.append({
            "name": str(rival), "words": WORDS.get(str(rival), str(rival)), "reason": reason[0] if reason else "",
            "inputs": ", ".join(_named(name) for name in part["input"].to_list() if name),
            **{what: "–" if n is None or reason else f"{n:,.0f}" for what, n in counts.items()},
        })
    return rows


def _named(column: str) -> str:
    return column.removeprefix("q_").replace("_", " ")


def explained_rows(beside: Beside, protected: pl.DataFrame) -> list[dict[str, str]]:
    """Return the phenotypes that acquisition explains, best AUC first, at most `MOST_ROWS`."""
    own = beside.rivals.filter((pl.col("rival") == "acquisition") & pl.col("explains").fill_null(value=False))
    joined = own.rename({"auc": "rival_auc", "low": "rival_low", "high": "rival_high"}).join(
        protected.select("phenotype", "description", "auc", "auc_low", "auc_high"), on="phenotype", how="inner")
    ordered = joined.sort(["auc", "phenotype"], descending=[True, False]).head(MOST_ROWS)
    return [
        {"phenotype": r["phenotype"], "description": r["description"],
         "auc": estimate_text(r["auc"]), "interval": interval_text(r["auc_low"], r["auc_high"]),
         "rival": estimate_text(r["rival_auc"]), "rival_interval": interval_text(r["rival_low"], r["rival_high"]),
         "difference": estimate_text(r["difference"], signed=True),
         "difference_interval": interval_text(r["difference_low"], r["difference_high"], signed=True),
         "q": p_text(r["difference_q"])}
        for r in ordered.iter_rows(named=True)
    ]


def control_rows(beside: Beside) -> list[dict[str, str]]:
    """Return one row per kind of control."""
    return [
        {"kind": r["kind"], "listed": f"{r['n_listed']:,}", "tested": f"{r['n_tested']:,}",
         "above": f"{r['n_above']:,}", "share": "–" if r["share_above"] is None else f"{100 * r['share_above']:.0f} %",
         "beyond": f"{r['n_beyond_age_sex']:,}", "median": estimate_text(r["median_auc"]),
         "interval": interval_text(r["median_low"], r["median_high"])}
        for r in beside.summary.filter(pl.col("n_listed") > 0).iter_rows(named=True)
    ]


def warnings(beside: Beside, protected: pl.DataFrame) -> list[str]:
    """Return what rivals and controls have to say on the first screen."""
    found = []
    tested = protected.filter(pl.col("status") == "tested")
    flagged = tested.filter(pl.col("flags").str.contains(FLAG, literal=True))
    if flagged.height:
        seen = flagged.filter((pl.col("q_fdr") < 0.05) & (pl.col("auc") > 0.5)).height
        found.append(
            f"{flagged.height:,} of {tested.height:,} tested phenotypes are told by how the signal was recorded, and "
            f"the encoder is not shown to see more; {seen:,} of them count as seen better than chance. Their flag is "
            "“acquisition explains it”; see Rivals and controls.")
    for r in beside.summary.iter_rows(named=True):
        if r["kind"] == "negative" and r["looks_seen"]:
            median = "" if r["median_auc"] is None else f", median AUC {estimate_text(r['median_auc'])}"
            found.append(
                f"Negative controls look seen: of {_of(r['n_tested'], 'phenotype')} that nothing leads to the signal "
                f"from, {r['n_above']:,} have a lower bound above 0.5 (about {0.025 * r['n_tested']:.1f} by "
                f"chance){median}. Who is recorded, age or the way of recording may lie behind other AUCs, too.")
        if r["kind"] == "positive" and r["n_tested"] and r["n_above"] == 0 and r["median_auc"] is not None:
            found.append(f"None of {_of(r['n_tested'], 'positive control')} is seen: what the encoder does not see "
                         "may still be in the signal.")
    return found



def _of(n: int, words: str) -> str:
    return f"{n:,} {words}{'' if n == 1 else 's'}"
