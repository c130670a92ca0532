"""The compiled fits of `phewas.stats.association`: one small regression per outcome, all rows in one pass a step.

Columns of the design lie one after another, so that every loop runs along rows and the compiler can take several rows
at once. Excluded rows stay where they are with weight 0. A column that the ones before it determine (a sex indicator in
a sex-specific phenotype) is found at the first factorisation, dropped, and reported.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

BLOCK = 1024
"""Rows taken together: a handful of such vectors stay in the first cache."""

ALIASED = 1e-9
"""Share of a column's own square that must be left once the earlier columns are taken out of it."""

CONVERGED, SEPARATED, FAILED = 0, 1, 2
"""States of a fit: done; done except for coefficients that run to infinity; no finite estimate of the predictor."""

MAX_STEPS = 40

LOG2E = 1.4426950408889634
POWERS = np.ldexp(1.0, np.arange(-1024, 1024)).astype(np.float64)
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10

FLAGS = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function: Any) -> Any:
    """Compile, keeping the machine code on disk where a folder for it can be written."""
    try:
        return njit(cache=True, nogil=True, fastmath=FLAGS)(function)
    except RuntimeError:
        return njit(nogil=True, fastmath=FLAGS)(function)


def exact(function: Any) -> Any:
    """Compile without reordering of sums, for code whose rounding matters."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@exact
def _expit(eta, out, count):  # type: ignore[no-untyped-def]
    """Fill ``out[:count]`` with 1 / (1 + exp(-eta)), to an ulp or two: a table of powers of two, the rest a polynomial.

    Arguments beyond +-700 are held there. The compiler takes several rows at once, which it does not for `math.exp`.
    """
    for i in range(count):
        x = min(max(-eta[i], -700.0), 700.0)
        whole = int(x * LOG2E + 1024.5) - 1024
        n = float(whole)
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        s = 1.0 / 479001600.0
        s = s * r + 1.0 / 39916800.0
        s = s * r + 1.0 / 3628800.0
        s = s * r + 1.0 / 362880.0
        s = s * r + 1.0 / 40320.0
        s = s * r + 1.0 / 5040.0
        s = s * r + 1.0 / 720.0
        s = s * r + 1.0 / 120.0
        s = s * r + 1.0 / 24.0
        s = s * r + 1.0 / 6.0
        s = s * r + 0.5
        s = s * r + 1.0
        s = s * r + 1.0
        out[i] = 1.0 / (1.0 + s * POWERS[whole + 1024])


@compiled
def _step_sums(  # type: ignore[no-untyped-def]
    design, outcome, use, beta, linear, gradient, hessian, work
):
    """Add up gradient [d] and lower triangle of the information [d, d] at `beta`; `work` [5, BLOCK] is room."""
    d, n_rows = design.shape
    for k in range(d):
        gradient[k] = 0.0
        for m in range(k + 1):
            hessian[k, m] = 0.0
    eta, mean, weight, residual, product = work[0], work[1], work[2], work[3], work[4]
    for start in range(0, n_rows, BLOCK):
        count = min(BLOCK, n_rows - start)
        for i in range(count):
            eta[i] = 0.0
        for k in range(d):
            b = beta[k]
            if b != 0.0:
                column = design[k, start : start + count]
                for i in range(count):
                    eta[i] += b * column[i]
        # Slices, because an index that could count from the end keeps the compiler from taking rows together.
        y, u = outcome[start : start + count], use[start : start + count]
        if linear:
            for i in range(count):
                weight[i] = u[i]
                residual[i] = u[i] * (y[i] - eta[i])
        else:
            _expit(eta, mean, count)
            for i in range(count):
                weight[i] = u[i] * mean[i] * (1.0 - mean[i])
                residual[i] = u[i] * (y[i] - mean[i])
        for k in range(d):
            column = design[k, start : start + count]
            total = 0.0
            for i in range(count):
                total += residual[i] * column[i]
            gradient[k] += total
            for i in range(count):
                product[i] = weight[i] * column[i]
            for m in range(k + 1):
                other = design[m, start : start + count]
                total = 0.0
                for i in range(count):
                    total += product[i] * other[i]
                hessian[k, m] += total


@exact
def _factor(hessian, root, alive, settle):  # type: ignore[no-untyped-def]
    """Fill `root` with the Cholesky factor over the columns that are alive; with `settle` the others are found here.

    Returns False where a column that should be alive has nothing left of its own.
    """
    d = len(hessian)
    for k in range(d):
        if not settle and not alive[k]:
            for m in range(d):
                root[k, m] = 0.0
                if m > k:
                    root[m, k] = 0.0
            root[k, k] = 1.0
            continue
        for m in range(k):
            total = hessian[k, m]
            for q in range(m):
                total -= root[k, q] * root[m, q]
            root[k, m] = total / root[m, m] if alive[m] else 0.0
        left = hessian[k, k]
        for m in range(k):
            left -= root[k, m] * root[k, m]
        if settle:
            alive[k] = left > ALIASED * hessian[k, k] and hessian[k, k] > 0.0
            if not alive[k]:
                for m in range(k):
                    root[k, m] = 0.0
                root[k, k] = 1.0
                continue
        if not left > 1e-14 * hessian[k, k] or not left > 0.0:
            return False
        root[k, k] = math.sqrt(left)
    return True


@exact
def _solve(root, alive, right, out):  # type: ignore[no-untyped-def]
    """Solve with the factor; dead columns get 0."""
    d = len(root)
    for k in range(d):
        total = right[k]
        for m in range(k):
            total -= root[k, m] * out[m]
        out[k] = total / root[k, k] if alive[k] else 0.0
    for k in range(d - 1, -1, -1):
        total = out[k]
        for m in range(k + 1, d):
            if alive[m]:
                total -= root[m, k] * out[m]
        out[k] = total / root[k, k] if alive[k] else 0.0


@exact
def log_likelihood(design, outcome, use, beta):  # type: ignore[no-untyped-def]
    """Return the log-likelihood of a logistic model over the rows in use."""
    d, n_rows = design.shape
    total = 0.0
    for i in range(n_rows):
        if use[i] != 0.0:
            eta = 0.0
            for k in range(d):
                eta += beta[k] * design[k, i]
            total += outcome[i] * eta - (eta if eta > 0 else 0.0) - math.log1p(math.exp(-abs(eta)))
    return total


@exact
def newton(  # type: ignore[no-untyped-def]
    design, outcome, use, linear, alive, beta, gradient, hessian, root, step, work, settle
):
    """Fit one model by Newton's method; the predictor is the last column. Returns its state.

    A step is halved as long as it ends beyond the maximum along its own direction by more than it began before it:
    the log-likelihood is concave, so that slopes alone tell.
    """
    d = len(beta)
    trial, fresh = beta.copy(), np.empty(d)
    _step_sums(design, outcome, use, beta, linear, gradient, hessian, work)
    if not _factor(hessian, root, alive, settle):
        return FAILED
    if not alive[0]:
        return FAILED
    for _ in range(MAX_STEPS):
        _solve(root, alive, gradient, step)
        slope, size = 0.0, 0.0
        for k in range(d):
            slope += gradient[k] * step[k]
            size = max(size, abs(step[k]))
        if size < 1e-10:
            return CONVERGED
        share = 1.0
        for _ in range(30):
            for k in range(d):
                trial[k] = beta[k] + share * step[k]
            _step_sums(design, outcome, use, trial, linear, fresh, hessian, work)
            after = 0.0
            for k in range(d):
                after += fresh[k] * step[k]
            if after >= -slope:
                break
            share *= 0.5
        for k in range(d):
            beta[k] = trial[k]
            gradient[k] = fresh[k]
        if not _factor(hessian, root, alive, False):
            break
        if linear:
            return CONVERGED
    # Likelihood flat in some direction: a covariate separates. The predictor may still have its estimate.
    largest = 0.0
    for k in range(d):
        largest = max(largest, abs(gradient[k]))
    if largest < 1e-5 and abs(step[d - 1]) < 1e-8 and _factor(hessian, root, alive, False):
        return SEPARATED
    return FAILED


@exact
def _firth_at(  # type: ignore[no-untyped-def]
    design, outcome, use, alive, beta, gradient, hessian, root, rows, work
):
    """Fill factor and modified score at `beta`; return the penalised log-likelihood, or nan where it has none.

    `rows` is float64 [d + 2, N] of room: the residual after the modification goes to its first row.
    """
    d, n_rows = design.shape
    _step_sums(design, outcome, use, beta, False, gradient, hessian, work)
    if not _factor(hessian, root, alive, False):
        return np.nan
    value = 0.0
    for k in range(d):
        gradient[k] = 0.0
        if alive[k]:
            value += math.log(root[k, k])
    z = np.empty(d)
    for i in range(n_rows):
        rows[0, i] = 0.0
        if use[i] == 0.0:
            continue
        eta = 0.0
        for k in range(d):
            eta += beta[k] * design[k, i]
        e = math.exp(-abs(eta))
        mean = 1.0 / (1.0 + e) if eta >= 0 else e / (1.0 + e)
        value += outcome[i] * eta - (eta if eta > 0 else 0.0) - math.log1p(e)
        leverage = 0.0
        for k in range(d):
            if alive[k]:
                total = design[k, i]
                for m in range(k):
                    if alive[m]:
                        total -= root[k, m] * z[m]
                z[k] = total / root[k, k]
                leverage += z[k] * z[k]
        leverage *= mean * (1.0 - mean)
        residual = outcome[i] - mean + leverage * (0.5 - mean)
        rows[0, i] = residual
        for k in range(d):
            gradient[k] += residual * design[k, i]
    return value


@exact
def firth(  # type: ignore[no-untyped-def]
    design, outcome, use, alive, beta, held, gradient, hessian, root, step, rows, work
):
    """Maximise Firth's penalised likelihood; with `held` the predictor's coefficient stays at its value in `beta`.

    Returns state and penalised log-likelihood. The penalty is that of the full model also where a coefficient is held.
    """
    d = len(beta)
    trial = beta.copy()
    moving = alive.copy()
    if held:
        moving[d - 1] = False
    inner = np.empty((d, d))
    value = _firth_at(design, outcome, use, alive, beta, gradient, hessian, root, rows, work)
    if np.isnan(value):
        return FAILED, value
    for _ in range(200):
        if held:
            if not _factor(hessian, inner, moving, False):
                return FAILED, value
            _solve(inner, moving, gradient, step)
        else:
            _solve(root, alive, gradient, step)
        size = 0.0
        for k in range(d):
            size = max(size, abs(step[k]))
        # With the coefficient held only the height of the maximum is asked for, which is flat there.
        if size < (1e-7 if held else 1e-10):
            return CONVERGED, value
        share = min(1.0, 5.0 / size)
        after = np.nan
        for _ in range(30):
            for k in range(d):
                trial[k] = beta[k] + share * step[k]
            after = _firth_at(design, outcome, use, alive, trial, gradient, hessian, root, rows, work)
            if after >= value - 1e-10 * abs(value):
                break
            share *= 0.5
        if np.isnan(after):
            return FAILED, after
        for k in range(d):
            beta[k] = trial[k]
        value = after
    return FAILED, value


@exact
def predictor_variance(root, alive, direction):  # type: ignore[no-untyped-def]
    """Fill `direction` with the predictor's row of the inverse information and return its variance."""
    d = len(root)
    unit = np.zeros(d)
    unit[d - 1] = 1.0
    _solve(root, alive, unit, direction)
    return direction[d - 1]


@exact
def clustered_variance(  # type: ignore[no-untyped-def]
    design, outcome, use, beta, linear, direction, codes, sums, seen, rows, modified
):
    """Return the sandwich variance of the predictor, the sum over clusters of squared scores, and their number.

    `sums` [C] and `seen` [C] are zeros and are left so. With `modified` the residuals are those in ``rows[0]``.
    """
    d, n_rows = design.shape
    clusters = 0
    for i in range(n_rows):
        if use[i] == 0.0:
            continue
        eta, along = 0.0, 0.0
        for k in range(d):
            eta += beta[k] * design[k, i]
            along += direction[k] * design[k, i]
        if modified:
            residual = rows[0, i]
        elif linear:
            residual = outcome[i] - eta
        elif eta >= 0:
            residual = outcome[i] - 1.0 / (1.0 + math.exp(-eta))
        else:
            e = math.exp(eta)
            residual = outcome[i] - e / (1.0 + e)
        c = codes[i]
        clusters += seen[c] == 0
        seen[c] = 1
        sums[c] += along * residual
    total = 0.0
    for i in range(n_rows):
        c = codes[i]
        total += sums[c] * sums[c]
        sums[c] = 0.0
        seen[c] = 0
    return total, clusters
