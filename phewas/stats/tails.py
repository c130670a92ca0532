"""Tail probabilities that do not underflow, and the bounds for AUCs whose variance is zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

LOG10 = math.log(10.0)


def t_two_sided(statistic: Any, df: Any) -> tuple[Floats, Floats]:
    """Return two-sided p and -log10 p of Student's t.

    Parameters
    ----------
    statistic, df
        float64, broadcast together. NaN gives NaN; a statistic of 0 gives p = 1 for any df.

    Returns
    -------
    p, neg_log10_p
        float64. p becomes 0 below 1e-308; -log10 p stays exact to about 12 digits (``scipy.stats.t.logsf`` itself
        returns -inf there), by the continued fraction of the incomplete beta function (DLMF 8.17.22).
    """
    t, nu = np.broadcast_arrays(np.abs(np.asarray(statistic, dtype=np.float64)), np.asarray(df, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        p = 2.0 * stats.t.sf(t, nu)
        logs = -(math.log(2.0) + stats.t.logsf(t, nu)) / LOG10
    p, logs = np.array(p, dtype=np.float64), np.array(logs, dtype=np.float64)
    deep = (p < 1e-290) & np.isfinite(t) & (nu > 0)
    if deep.any():
        logs[deep] = -_log_beta_tail(t[deep], nu[deep]) / LOG10
    p[t == 0], logs[t == 0] = 1.0, 0.0
    return p, np.maximum(logs, 0.0)


def _log_beta_tail(t: Floats, df: Floats) -> Floats:
    """Return log of I_x(df/2, 1/2) at x = df / (df + t^2), the two-sided p of t, by modified Lentz."""
    a, b = df / 2.0, 0.5
    x = df / (df + t**2)
    front = a * np.log(x) + b * np.log1p(-x) - np.log(a) - special.betaln(a, b)
    tiny = 1e-300
    c = np.ones_like(x)
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d.copy()
    for k in range(1, 10_000):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        step = np.ones_like(x)
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d[np.abs(d) < tiny], c[np.abs(c) < tiny] = tiny, tiny
            d = 1.0 / d
            step = step * c * d
            fraction = fraction * c * d
        if np.all(np.abs(step - 1.0) < 1e-15):
            break
    return np.asarray(front + np.log(fraction), dtype=np.float64)


def t_quantile(level: float, df: Any) -> Floats:
    """Return the two-sided t quantile for a confidence `level` in (0, 1); NaN where df is NaN."""
    return np.asarray(stats.t.ppf(0.5 + level / 2.0, df), dtype=np.float64)


def logit_bounds(auc: Floats, se: Floats, quantile: Floats) -> tuple[Floats, Floats]:
    """Return ``expit(logit(A) -+ q se / (A (1 - A)))``, float64 [P]; NaN where A is 0 or 1 or any input is NaN.

    The logit scale keeps bounds inside (0, 1) and covers best of the simple intervals (Pohar Perme and Manevski 2019,
    Stat Methods Med Res 28:3141).
    """
    inside = (auc > 0) & (auc < 1)
    safe = np.where(inside, auc, 0.5)
    half = quantile * se / (safe * (1 - safe))
    centre = special.logit(safe)
    low, high = special.expit(centre - half), special.expit(centre + half)
    return np.where(inside, low, np.nan), np.where(inside, high, np.nan)


def hanley_mcneil_variance(auc: Any, m: Any, n: Any) -> Floats:
    """Return Hanley and McNeil's 1982 variance of an AUC from the numbers of cases `m` and controls `n`.

    ``[A(1-A) + (m-1)(A/(2-A) - A^2) + (n-1)(2A^2/(1+A) - A^2)] / (mn)`` (Radiology 143:29). Broadcasts.
    """
    a = np.asarray(auc, dtype=np.float64)
    m, n = np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64)
    spread = a * (1 - a) + (m - 1) * (a / (2 - a) - a**2) + (n - 1) * (2 * a**2 / (1 + a) - a**2)
    return np.asarray(spread / (m * n), dtype=np.float64)


def _reach(se: Floats, quantile: Floats, slope: Floats, curve: Floats) -> tuple[Floats, Floats]:
    """Return the largest d and -d with ``|d| <= q sqrt(se^2 + slope d + curve d^2)``, infinite where there is none."""
    q2 = quantile**2
    left = 1.0 - q2 * curve
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum((q2 * slope) ** 2 + 4.0 * left * q2 * se**2, 0.0))
        up, down = (q2 * slope + root) / (2.0 * left), (root - q2 * slope) / (2.0 * left)
    plain = (slope == 0) & (curve == 0)
    up, down = np.where(plain, quantile * se, up), np.where(plain, quantile * se, down)
    # With so few patients in effect nothing is excluded.
    endless = (left <= 0) & ~np.isnan(se)
    return np.where(endless, np.inf, up), np.where(endless, np.inf, down)


def score_bounds(
    auc: Floats, se: Floats, quantile: Floats, *, slope: Floats, curve: Floats
) -> tuple[Floats, Floats]:
    """Return the values t that a test with the variance at t would not reject, float64 [P], on the logit scale.

    With h = A (1 - A) and u = logit(A) - logit(t) these are ``|u| <= q sqrt(v(u h)) / h``, where
    ``v(d) = se^2 + slope d + curve d^2`` (`phewas.stats.spread.Spread`): to first order d = A - t is u h. Where slope
    and curve are 0 these are the `logit_bounds`, and NaN as there.
    """
    low, high = logit_bounds(auc, se, quantile)
    some = np.flatnonzero(~np.isnan(low) & ((slope != 0) | (curve != 0)))
    a = auc[some]
    h, centre = a * (1 - a), special.logit(a)
    up, down = _reach(se[some] / h, quantile[some], slope[some] / h, curve[some])
    low[some], high[some] = special.expit(centre - up), special.expit(centre + down)
    return low, high


def difference_bounds(
    difference: Floats, se: Floats, quantile: Floats, *, slope: Floats, curve: Floats
) -> tuple[Floats, Floats]:
    """Return the values t with ``|D - t| <= q sqrt(v(D - t))``, float64 [P], clipped to [-1, 1]; v as above."""
    up, down = _reach(se, quantile, slope, curve)
    return np.maximum(difference - up, -1.0), np.minimum(difference + down, 1.0)


def newcombe_bounds(auc: float, m: int, n: int, *, z: float) -> tuple[float, float]:
    """Return Newcombe's method 5 interval, which stays informative at AUC 0 and 1.

    Solves ``|A - t| = z sqrt(V(t))`` for t on either side of A with
    ``V(t) = t(1-t)[1 + k(1-t)/(2-t) + k t/(1+t)]/(mn)`` and ``k = (m+n)/2 - 1`` (Newcombe 2006, Stat Med 25:559).

    Parameters
    ----------
    auc
        In [0, 1].
    m, n
        Numbers of independent cases and controls (patients), each at least 1.
    z
        Normal quantile of the two-sided level, such as 1.96.
    """
    k = (m + n) / 2.0 - 1.0

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t)) / (m * n)
        return (auc - t) ** 2 - z**2 * variance

    def bound(outside: float, inside: float) -> float:
        # excess is positive outside the interval and negative inside; halving to the last bit.
        for _ in range(200):
            middle = (outside + inside) / 2.0
            if excess(middle) > 0:
                outside = middle
            else:
                inside = middle
        return (outside + inside) / 2.0

    edge = 1e-15
    low = 0.0 if auc <= 0 else bound(0.0, min(auc, 1 - edge))
    high = 1.0 if auc >= 1 else bound(1.0, max(auc, edge))
    return low, high


def min_detectable_auc(m: Any, n: Any, *, alpha: float = 0.05, power: float = 0.8) -> Floats:
    """Return the AUC that a two-sided test at `alpha` finds with the given `power`.

    Solves ``A - 0.5 = z(1-alpha/2) se(0.5) + z(power) se(A)`` with Hanley and McNeil's variance.

    Parameters
    ----------
    m, n
        Numbers of independent cases and controls (patients), int [P].

    Returns
    -------
    float64 [P]
        In (0.5, 1); NaN where m or n is 0 or no AUC below 1 is detectable.
    """
    m, n = np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64)
    usable = (m > 0) & (n > 0)
    m, n = np.where(usable, m, 1.0), np.where(usable, n, 1.0)
    z_alpha, z_power = float(stats.norm.isf(alpha / 2)), float(stats.norm.ppf(power))
    null = z_alpha * np.sqrt(hanley_mcneil_variance(0.5, m, n))
    low, high = np.full(m.shape, 0.5), np.full(m.shape, 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        short = middle - 0.5 < null + z_power * np.sqrt(hanley_mcneil_variance(middle, m, n))
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(usable & (high < 1 - 1e-9), high, np.nan)
