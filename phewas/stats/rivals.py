"""The encoder against rivals by name: what vital signs, earlier care or the recording itself would have told as well.

Each rival is a ridge-penalised logistic model per phenotype, fitted on training patients alone (in a cross-fitted run
on the other folds), scored on the very units of the encoder, and compared by the paired patient-clustered DeLong test.

A phenotype is *explained* by a rival where the rival sees it (AUC above 0.5 with its lower bound and with q < 0.05 over
the family) and the encoder is not shown to see more (difference at most 0, or its q >= 0.05). Explained by
``acquisition``, it gets the flag ``acquisition_explains``: what looks like a disease that the encoder sees may be the
way in which those patients are recorded. The rule errs on the side of doubt: an encoder that is not shown to see more
may do so all the same, with few cases above all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from phewas.errors import SplitError
from phewas.schema import RivalInputs, Rivals
from phewas.stats.auc import Auc, auc_matrix, inflate, tail_df
from phewas.stats.compare import Difference, compare_matrix, inflate_difference
from phewas.stats.counts import has_training, training_rows
from phewas.stats.crossfit import INFLATED, fold_ranks
from phewas.stats.estimates import BLOCK, joined, scored_block
from phewas.stats.multiplicity import benjamini_hochberg
from phewas.stats.rival_design import Design, listed
from phewas.stats.rival_inputs import Inputs
from phewas.stats.tails import Floats, t_two_sided
from phewas.stats.units import Units

ALPHA = 0.05
"""Level of both judgements of the rule above, after adjustment for the false discovery rate."""

FLAG = "acquisition_explains"


class Heads(Protocol):
    """Fitted logistic models."""

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 [rows, phenotypes]."""


class Fits(Protocol):
    """Training columns ready for any number of phenotypes."""

    def fit(self, labels: NDArray[np.int8], *, l2: float) -> Heads:
        """Minimise cross-entropy + ``l2 / 2 * |weight|^2`` for labels int8 [rows, phenotypes]: 1, 0, -1 left out."""


class Prepare(Protocol):
    """Makes training columns float32 [rows, width] ready; `phewas.learning.probe.Prepared.of` is one."""

    def __call__(self, embeddings: NDArray[np.float32]) -> Fits:
        """Return what fits."""


@dataclass(frozen=True)
class _Side:
    """One fold, or the whole of a held-out run: who learned (label rows) and who is scored (places among the units)."""

    train: NDArray[np.intp]
    scored: NDArray[np.intp]
    fits: Fits | None
    columns: NDArray[np.float32]


class Fitted:
    """One rival, ready to score any phenotypes.

    Raises
    ------
    SplitError
        A patient is among those who are learned from and those who are scored.

    Notes
    -----
    The penalty is the number of columns, each of unit variance: a prior under which the log odds of two patients differ
    by the same amount whatever the number of inputs. It is fixed beforehand, so that it needs no tuning patients and is
    the same in every fold; where cases are many it is of no weight.
    """

    def __init__(self, units: Units, inputs: Inputs, prepare: Prepare) -> None:
        self.name, self._units = inputs.rival, units
        folds = np.full(len(units.age), -1) if units.folds is None else units.folds
        self._sides: list[_Side] = []
        for fold in np.unique(folds[units.label_rows]).tolist():
            train = training_rows(units, fold=None if units.folds is None else fold, tuning=True)
            if inputs.eligible is not None:
                train = train[inputs.eligible[train]]
            scored = np.flatnonzero(folds[units.label_rows] == fold)
            if len(np.intersect1d(units.patients[train], units.patients[units.label_rows[scored]])):
                raise SplitError(f"patients are on the training and the scored side of the rival {inputs.rival}",
                                 expected="sides that share no patient", cure="make the split anew: phewas run")
            design = Design.learn(inputs, train) if len(train) else Design({})
            columns = design.columns(inputs, units.label_rows[scored])
            fits = prepare(design.columns(inputs, train)) if columns.shape[1] else None
            self._sides.append(_Side(train, scored, fits, columns))

    @property
    def knows_something(self) -> bool:
        """Whether any input varies among those who are learned from."""
        return any(side.fits is not None for side in self._sides)

    def scores(self, names: Sequence[str]) -> Floats:
        """Return logits float64 [U, len(names)]; a column is NaN where a training side has no case or no control."""
        units, result = self._units, np.zeros((len(self._units.label_rows), len(names)))
        for side in self._sides:
            labels = units.labels_of(side.train, list(names))
            good = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
            result[:, ~good] = np.nan
            if side.fits is not None and good.any():
                heads = side.fits.fit(np.ascontiguousarray(labels[:, good]), l2=float(side.columns.shape[1]))
                result[np.ix_(side.scored, np.flatnonzero(good))] += heads(side.columns)
        return result


def told(units: Units, inputs: Sequence[Inputs]) -> pl.DataFrame:
    """Return `phewas.schema.RivalInputs`."""
    rows: list[dict[str, Any]] = []
    for one in inputs:
        if one.reason is not None:
            rows.append({"rival": one.rival, "input": "", "kind": "none", "reason": one.reason})
            continue
        train = units.train_rows if units.folds is None else np.flatnonzero(units.folds >= 0)
        if one.eligible is not None:
            train = train[one.eligible[train]]
        for name, kind, values in listed(one):
            missing = values == "" if kind == "category" else np.isnan(np.asarray(values, dtype=np.float64))
            rows.append({"rival": one.rival, "input": name, "kind": kind,
                         "missing_training": float(missing[train].mean()) if len(train) else None,
                         "missing_scored": float(missing[units.label_rows].mean())})
    return RivalInputs.build(rows)


def rivals(
    units: Units, names: list[str], inputs: Sequence[Inputs], *, prepare: Prepare, family: NDArray[np.bool_],
    stand_in: NDArray[np.intp], factor: Floats | None, level: float,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Hold the encoder against each rival.

    Parameters
    ----------
    units
        The rows of the analysis.
    names
        The P tested phenotypes.
    inputs
        Of the rivals, in the order of the tables.
    prepare
        Makes columns ready for fitting.
    family, stand_in
        bool [P] and intp [P]: members of the family of tests, and who among the P stands for each.
    factor
        As `phewas.stats.estimates.infer` returns it; of the encoder, its model being the freer.
    level
        Confidence level in (0, 1).

    Returns
    -------
    rivals, inputs
        `phewas.schema.Rivals` and `phewas.schema.RivalInputs`.
    """
    frames, known = [Rivals.empty()], []
    for one in inputs:
        if one.reason is None and not has_training(units):
            known.append(replace(one, reason="there are no training patients to learn from"))
            continue
        fitted = None if one.reason is not None else Fitted(units, one, prepare)
        if fitted is not None and not fitted.knows_something:
            fitted, one = None, replace(one, reason="none of its inputs varies among the training patients")
        known.append(one)
        if fitted is not None and names:
            frames.append(_table(units, names, fitted, family=family, stand_in=stand_in, factor=factor, level=level))
    return pl.concat(frames), told(units, known)


def _table(
    units: Units, names: list[str], rival: Fitted, *, family: NDArray[np.bool_], stand_in: NDArray[np.intp],
    factor: Floats | None, level: float,
) -> pl.DataFrame:
    alone: list[Auc] = []
    gaps: list[Difference] = []
    absent: list[NDArray[np.bool_]] = []
    clusters = units.patients[units.label_rows]
    for start in range(0, len(names), BLOCK):
        mine = names[start : start + BLOCK]
        own, labels = scored_block(units, mine)
        scores = rival.scores(mine)
        without: NDArray[np.bool_] = np.asarray(np.isnan(scores).any(axis=0))
        scores[:, without] = 0.0
        if units.folds is not None:
            scores = fold_ranks(scores, labels, units.folds[units.label_rows])
        alone.append(auc_matrix(scores, labels, clusters=clusters, level=level))
        gaps.append(compare_matrix(own, scores, labels, clusters=clusters, level=level))
        absent.append(without)
    area, gap, none = joined(alone), joined(gaps), np.concatenate(absent)
    p = area.p
    if factor is not None:
        area, gap = inflate(area, factor, method=INFLATED), inflate_difference(gap, factor)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = area.statistic / factor
            p = t_two_sided(statistic, tail_df(statistic, area.null_df))[0]
        p = np.where((area.se == 0) & (area.auc == 0.5), 1.0, p)  # it says the same of everyone
    p = np.where(none, np.nan, p)
    gap_p = np.where(none, np.nan, gap.p)
    q, gap_q = (benjamini_hochberg(values, family=family)[stand_in] for values in (p, gap_p))
    judged = ~(np.isnan(q) | np.isnan(gap_q) | np.isnan(area.low))
    explains = (area.low > 0.5) & (q < ALPHA) & ~((gap.difference > 0) & (gap_q < ALPHA))

    def shown(values: Floats) -> pl.Series:
        return pl.Series(np.where(none, np.nan, values)).fill_nan(None)

    frame = pl.DataFrame({"phenotype": names}).with_columns(
        rival=pl.lit(rival.name), status=pl.Series(np.where(none, "no_training_cases", "fitted").tolist()),
        auc=shown(area.auc), low=shown(area.low), high=shown(area.high), p_value=shown(p), q_fdr=shown(q),
        difference=shown(gap.difference), difference_se=shown(gap.se), difference_low=shown(gap.low),
        difference_high=shown(gap.high), difference_p=shown(gap_p), difference_q=shown(gap_q),
        explains=pl.Series([bool(e) if j else None for e, j in zip(explains, judged, strict=True)], dtype=pl.Boolean))
    return Rivals.check(frame)


def explained(table: pl.DataFrame, *, by: str = "acquisition") -> set[str]:
    """Return the phenotypes that a rival explains."""
    return set(table.filter((pl.col("rival") == by) & pl.col("explains").fill_null(value=False))["phenotype"].to_list())


def measures(table: pl.DataFrame, family: Mapping[str, bool]) -> list[tuple[str, float, str]]:
    """Return the counts of `phewas.schema.Overview` that say how the encoder fares against each rival."""
    found: list[tuple[str, float, str]] = []
    own = table.filter(pl.col("phenotype").is_in([name for name, inside in family.items() if inside]))
    for (rival,), part in own.group_by("rival", maintain_order=True):
        significant = (pl.col("difference_q") < ALPHA).fill_null(value=False)
        key = str(rival).replace("-", "_")
        for name, condition, words in (
            (f"n_with_{key}", pl.col("status") == "fitted", f"tested for which the rival {rival} was fitted"),
            (f"n_beats_{key}", significant & (pl.col("difference") > 0),
             f"tested with AUC above that of the rival {rival} at a false discovery rate of 5 %"),
            (f"n_below_{key}", significant & (pl.col("difference") < 0),
             f"tested with AUC below that of the rival {rival} at a false discovery rate of 5 %"),
            (f"n_explained_{key}", pl.col("explains").fill_null(value=False),
             f"tested that the rival {rival} sees, and of which the encoder is not shown to see more"),
        ):
            found.append((name, float(part.select(condition.sum()).item()), words))
    return found
