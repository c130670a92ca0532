"""ROC and precision-recall curves with few points, and sensitivity at fixed specificity."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from phewas.schema import Curves, OperatingPoints
from phewas.stats.precision import wilson
from phewas.stats.tails import Floats

MOST_POINTS = 200
SPECIFICITIES = (0.8, 0.9, 0.95)


def steps(score: NDArray[Any], case: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return cumulative numbers of cases and of controls at or above each distinct score, falling; from 0.

    Parameters
    ----------
    score
        float [N], no NaN.
    case
        bool [N].

    Returns
    -------
    true, false
        float64 [d + 1], the first entries 0.
    """
    order = np.argsort(-score, kind="stable")
    ordered, y = score[order], case[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true = np.concatenate(([0.0], np.cumsum(y)[ends]))
    return true, np.concatenate(([0.0], (ends + 1.0))) - true


def thin(x: Floats, y: Floats, *, most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Return which points of a curve to keep: the ends, and others at even distances along it.

    Distance is |dx| + |dy|, so that flat and steep parts get their points alike.
    """
    if len(x) <= most:
        return np.arange(len(x))
    along = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))))
    places = np.searchsorted(along, np.linspace(0.0, along[-1], most))
    return np.unique(np.clip(places, 0, len(x) - 1))


def curves(scores: NDArray[Any], labels: NDArray[Any], names: list[str]) -> pl.DataFrame:
    """Return `phewas.schema.Curves` for columns that have cases and controls.

    Precision-recall points stand at the distinct scores that gain cases, and begin with the first of them; precision
    between points is not linear and should be drawn as steps.
    """
    parts = [Curves.empty()]
    for j, name in enumerate(names):
        used = labels[:, j] >= 0
        case = labels[used, j] == 1
        if not case.any() or case.all():
            continue
        true, false = steps(np.asarray(scores[used, j]), case)
        fpr, tpr = false / false[-1], true / true[-1]
        gains = np.flatnonzero(np.diff(true)) + 1
        recall, precision = tpr[gains], true[gains] / (true[gains] + false[gains])
        for kind, x, y in (("roc", fpr, tpr), ("pr", recall, precision)):
            kept = thin(x, y)
            parts.append(pl.DataFrame({"phenotype": [name] * len(kept), "curve": [kind] * len(kept),
                                       "point": np.arange(len(kept), dtype=np.int16), "x": x[kept], "y": y[kept]},
                                      schema=Curves.dtypes()))
    return pl.concat(parts)


def operating_points(
    scores: NDArray[Any], labels: NDArray[Any], names: list[str], case_patients: NDArray[Any], *, level: float = 0.95
) -> pl.DataFrame:
    """Return `phewas.schema.OperatingPoints`: sensitivity where specificity is first at least 0.8, 0.9 and 0.95."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    rows = []
    for j, name in enumerate(names):
        used = labels[:, j] >= 0
        case = labels[used, j] == 1
        if not case.any() or case.all():
            continue
        true, false = steps(np.asarray(scores[used, j]), case)
        for asked in SPECIFICITIES:
            # The last step down whose false positives are still few enough.
            place = int(np.searchsorted(false, (1 - asked) * false[-1] + 1e-9, side="right")) - 1
            sensitivity = float(true[place] / true[-1])
            low, high = wilson(sensitivity, float(case_patients[j]), z=z)
            rows.append({"phenotype": name, "specificity": asked, "reached": 1 - float(false[place] / false[-1]),
                         "sensitivity": sensitivity, "low": float(low), "high": float(high)})
    return OperatingPoints.build(rows)
