"""Variances of AUCs and of their differences from sums over patients, at any supposed true value.

Obuchowski (1997, Biometrics 53:567) takes a patient's deviation to be the sum of its placements less the AUC. With X
and Y these sums for its cases and its controls, and I10, I01, I the numbers of patients with cases, controls, either::

    var = I10/(I10-1) sum X^2/m^2 + I01/(I01-1) sum Y^2/n^2 + 2 I/(I-1) sum XY/(mn)

which for independent rows is DeLong's. The AUC is a ratio, though, the sum of all placements over the number of rows:
where patients have unequal numbers of rows, deviations from the estimate shrink with the very error that large patients
have made in it, and the variance is too small just when the estimate is far off. If the true AUC is t, the sums of
placements less t are a sample with mean 0 whatever the patients' sizes are. Centred at the mean patient they are
``X + d (k - m / I10)`` with d = AUC - t and k its cases, likewise for controls; put in place of X and Y they give the
variance as a parabola in d. At t = 0.5 it is that of the test, which then is Welch's t-test of patients' sums; an
interval holds the values t that such a test would not reject. With equal numbers of rows nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ZERO_VARIANCE = 1e-26
"""Rounding noise; one tie among 100,000 cases and a million controls still gives 2e-23."""

ROUNDING = 1e-10
"""Share of a variance that its value elsewhere may be and still be rounding noise."""


@dataclass(frozen=True)
class Spread:
    """Variances of P estimates; fields are float64 [P], NaN with fewer than two clusters on a side.

    Attributes
    ----------
    variance, df
        At the estimate itself, with Satterthwaite's degrees of freedom from the parts of cases and controls. For
        independent rows these are the Brunner-Munzel df; the covariance of a patient's own cases and controls is left
        out, having no degrees of freedom of its own.
    slope, curve
        The variance is ``variance + slope d + curve d^2`` if the true value is the estimate less d; both are 0 where
        patients have equal numbers of rows.
    null_variance, null_df
        Under the null hypothesis. All patients can have the same sum by chance when they are few: then those at the
        estimate.
    """

    variance: Floats
    df: Floats
    slope: Floats
    curve: Floats
    null_variance: Floats
    null_df: Floats


def spread(numbers: Floats, counts: NDArray[Any], *, gap: Floats, clustered: bool) -> Spread:
    """Turn sums over clusters into variances.

    Parameters
    ----------
    numbers
        float64 [9, P], by `phewas.stats.placement.SUMS`.
    counts
        [5, P]: cases, controls, clusters with cases, with controls, with either.
    gap
        float64 [P], the estimate less its value under the null hypothesis.
    clustered
        False for independent rows: there are no covariances and no sizes.
    """
    m, n, i10, i01, i_all = np.asarray(counts, dtype=np.float64)
    few = (i10 < 2) | (i01 < 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale10, scale01 = i10 / (i10 - 1) / m**2, i01 / (i01 - 1) / n**2
        scale = 2.0 * i_all / np.maximum(i_all - 1, 1) / (m * n) if clustered else np.zeros(len(m))

        def at(squares: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
            part10, part01 = scale10 * np.maximum(squares[0], 0.0), scale01 * np.maximum(squares[1], 0.0)
            # Never negative in exact arithmetic: I/(I-1) is the smallest of the three factors.
            variance = np.maximum(part10 + part01 + scale * squares[2], 0.0)
            variance = np.where(variance > ZERO_VARIANCE, variance, np.where(np.isnan(variance), np.nan, 0.0))
            df = (part10 + part01) ** 2 / (part10**2 / (i10 - 1) + part01**2 / (i01 - 1))
            df = np.where(part10 + part01 > 0, df, np.nan)
            return np.where(few, np.nan, variance), np.where(few, np.nan, df)

        own, line, bend = numbers[:3], numbers[3:6], numbers[6:]
        variance, df = at((own[0], own[1], own[2]))
        if not clustered:
            zero = np.where(np.isnan(variance), np.nan, 0.0)
            return Spread(variance, df, zero, zero, variance, df)
        shifted = [own[k] + gap * ((1.0 if k == 2 else 2.0) * line[k] + gap * bend[k]) for k in range(3)]
        null_variance, null_df = at((shifted[0], shifted[1], shifted[2]))
        none = (null_variance <= ROUNDING * variance) & (variance > 0)
        slope = 2.0 * (scale10 * line[0] + scale01 * line[1]) + scale * line[2]
        curve = scale10 * bend[0] + scale01 * bend[1] + scale * bend[2]
    return Spread(variance, df, np.where(few, np.nan, slope), np.where(few, np.nan, curve),
                  np.where(none, variance, null_variance), np.where(none, df, null_df))
