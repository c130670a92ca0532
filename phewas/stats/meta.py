"""Random-effects meta-analysis of one effect per site, for many phenotypes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from phewas.errors import StatisticsError
from phewas.stats.tails import Floats, t_two_sided

METHOD = "random effects, Paule-Mandel, Hartung-Knapp t with a factor of at least 1"


@dataclass(frozen=True)
class Pooled:
    """Pooled effects of P phenotypes; float64 [P] unless said otherwise, NaN where undefined.

    Attributes
    ----------
    effect, se
        Random-effects mean and its standard error after Hartung and Knapp.
    low, high
        Bounds at `level` by t with k - 1 degrees of freedom.
    p, neg_log10_p
        Two-sided against 0 by the same t.
    df
        k - 1.
    tau2
        Variance between sites (Paule and Mandel).
    q, q_p
        Cochran's Q of equal effects and its p by chi-squared with k - 1 degrees of freedom.
    i2
        Share of the variation that is not chance, max(0, (Q - (k - 1)) / Q), in [0, 1).
    prediction_low, prediction_high
        Where the effect of a further site is expected, t with k - 2 degrees of freedom; NaN for fewer than 3 sites.
    fixed_effect, fixed_se, fixed_p
        Common-effect (inverse-variance) mean, its standard error and two-sided normal p, which take all sites to have
        the same effect.
    n_sites
        int64, sites with an effect.
    weights
        [k, P], share of each site in `effect`; 0 where it has none.
    """

    effect: Floats
    se: Floats
    low: Floats
    high: Floats
    p: Floats
    neg_log10_p: Floats
    df: Floats
    tau2: Floats
    q: Floats
    q_p: Floats
    i2: Floats
    prediction_low: Floats
    prediction_high: Floats
    fixed_effect: Floats
    fixed_se: Floats
    fixed_p: Floats
    n_sites: NDArray[np.int64]
    weights: Floats


def pool(
    effects: NDArray[Any], variances: NDArray[Any], *, level: float = 0.95, at_least_one: bool = True,
    between: Literal["paule-mandel", "dersimonian-laird"] = "paule-mandel",
) -> Pooled:
    """Pool the effects of k sites for P phenotypes.

    Parameters
    ----------
    effects, variances
        float [k, P] on a scale where estimates are about normal (logit AUC, log odds ratio); NaN where a site has none.
        Variances are above 0.
    level
        Confidence level in (0, 1).
    at_least_one
        Hartung and Knapp's factor is not let fall below 1: with few sites that agree by chance the interval would
        otherwise be narrower than one that takes the effects to be equal (Jackson et al. 2017, Stat Med 36:3923).

    between
        Estimator of the variance between sites. DerSimonian and Laird's is biased downwards where it is large, and
        here to compare with older work.

    Returns
    -------
    Pooled
        With one site only its own effect and standard error with normal bounds, without heterogeneity.

    Raises
    ------
    StatisticsError
        Shapes differ, or a variance is 0 or below, or infinite.

    Notes
    -----
    tau^2 solves ``sum w_i (y_i - mu)^2 = k - 1`` with ``w_i = 1 / (v_i + tau^2)`` and mu their weighted mean; 0 if the
    left side is below k - 1 at 0. The variance of mu is ``sum w_i (y_i - mu)^2 / ((k - 1) sum w_i)``.

    References
    ----------
    Paule and Mandel 1982, J Res Natl Bur Stand 87:377. Hartung and Knapp 2001, Stat Med 20:3875. Higgins, Thompson and
    Spiegelhalter 2009, J R Stat Soc A 172:137 (prediction). Veroniki et al. 2016, Res Synth Methods 7:55 (choice of
    the estimator).

    Examples
    --------
    >>> found = pool(np.array([[0.1], [0.5], [0.9]]), np.full((3, 1), 0.04))
    >>> round(float(found.effect[0]), 6), round(float(found.tau2[0]), 6)
    (0.5, 0.12)
    """
    y, v = np.asarray(effects, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.ndim != 2 or y.shape != v.shape:
        raise StatisticsError(f"effects have shape {y.shape}, variances {v.shape}", expected="both [sites, phenotypes]")
    there = np.isfinite(y) & ~np.isnan(v)
    if (v[there] <= 0).any() or np.isinf(v[there]).any():
        raise StatisticsError("a variance is not a positive number", expected="variances above 0, NaN where a site has "
                              "no estimate")
    k = there.sum(axis=0)
    y, v = np.where(there, y, 0.0), np.where(there, v, np.inf)

    fixed, fixed_mean, q, _ = _weighted(y, v, np.zeros(y.shape[1]))
    if between == "paule-mandel":
        tau2 = _paule_mandel(y, v, k)
    else:
        total = fixed.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            tau2 = np.where(k > 1, np.maximum((q - (k - 1)) / (total - (fixed**2).sum(axis=0) / total), 0.0), 0.0)
    w, mean, rest, _ = _weighted(y, v, tau2)
    several = k > 1
    df = np.where(several, k - 1.0, np.nan)
    total = w.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = rest / df
        if at_least_one:
            factor = np.where(several, np.maximum(factor, 1.0), factor)
        se = np.sqrt(np.where(several, factor, 1.0) / total)
        fixed_se = np.sqrt(1.0 / fixed.sum(axis=0))
        i2 = np.where(several, np.maximum(0.0, (q - df) / np.where(q > 0, q, 1.0)), np.nan)
        quantile = np.where(several, stats.t.ppf(0.5 + level / 2, df), stats.norm.ppf(0.5 + level / 2))
        ahead = stats.t.ppf(0.5 + level / 2, np.where(k > 2, k - 2.0, np.nan)) * np.sqrt(tau2 + se**2)
        # A single site is judged by the normal distribution, which is t with endless degrees of freedom.
        p, logs = t_two_sided(mean / se, np.where(several, df, 1e12))
        fixed_p, _ = t_two_sided(fixed_mean / fixed_se, 1e12)
        share = w / total
    absent = k == 0

    def known(values: NDArray[Any], where: NDArray[np.bool_] = absent) -> Floats:
        return np.where(where, np.nan, values)

    alone = k < 2
    return Pooled(
        known(mean), known(se), known(mean - quantile * se), known(mean + quantile * se), known(p), known(logs), df,
        known(tau2, alone), known(q, alone), np.where(alone, np.nan, special.chdtrc(np.where(alone, 1, k - 1), q)), i2,
        mean - ahead, mean + ahead, known(fixed_mean), known(fixed_se), known(fixed_p), k.astype(np.int64),
        np.where(there & ~absent, share, 0.0))


def _weighted(y: Floats, v: Floats, tau2: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return weights, mean, the weighted sum of squares around it, and how fast that falls as tau^2 grows."""
    w = 1.0 / (v + tau2)
    with np.errstate(invalid="ignore"):
        mean = (w * y).sum(axis=0) / w.sum(axis=0)
    squares = w * (y - mean) ** 2
    return w, mean, squares.sum(axis=0), (w * squares).sum(axis=0)


def _paule_mandel(y: Floats, v: Floats, k: NDArray[Any]) -> Floats:
    """Return tau^2 by Newton's steps from 0: the sum of squares falls convexly, so that they never overshoot."""
    tau2, aim = np.zeros(len(k)), np.maximum(k - 1.0, 1.0)
    active = k > 1
    for _ in range(500):
        _, _, rest, slope = _weighted(y, v, tau2)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(active & (rest > aim) & (slope > 0), (rest - aim) / slope, 0.0)
        tau2 = tau2 + step
        active = step > 1e-15 * tau2
        if not active.any():
            break
    return tau2
