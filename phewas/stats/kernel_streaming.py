"""The compiled halves of `phewas.stats.streaming`: cases gathered from a block, and controls folded into their places.

Import only where numba is there. Sums are whole numbers throughout, so that neither the size nor the order of blocks
can change a bit of the result.
"""

from __future__ import annotations

import numpy as np

from phewas.stats.kernel import FEW
from phewas.stats.kernel_rows import compiled

CASE = 1 << 30
"""Mark of a case in a patient's number of controls."""

SPLIT = 16
"""Bits of the lower half of a sum that is squared: halves multiply without overflow for 8 million patients."""

HIGH, MIXED, LOW, TIMES, SQUARED, WITH_CONTROLS = range(6)
"""Rows of a tally over patients with s = sum of doubled placements of k controls: parts of s^2, s k, k^2, and how many
have a control."""


@compiled
def gather(scores, labels, codes):  # type: ignore[no-untyped-def]
    """Return cases' scores and codes column after column, counts [2, w], and the first bad column or -1.

    `scores` and `labels` are [w, n]; `codes` [n] or empty.
    """
    width, n_rows = scores.shape
    counts = np.zeros((2, width), dtype=np.int64)
    bad = -1
    for c in range(width):
        wrong = 0
        for i in range(n_rows):
            x, label = scores[c, i], labels[c, i]
            counts[0, c] += label == 1
            counts[1, c] += label == 0
            wrong += ((x != x) & (label >= 0)) | (label > 1) | (label < -1)
        if wrong and bad < 0:
            bad = c
    total = counts[0].sum()
    values = np.empty(total, dtype=scores.dtype)
    owners = np.empty(total if len(codes) else 0, dtype=np.int32)
    at = 0
    for c in range(width):
        if counts[0, c] == 0:
            continue
        for i in range(n_rows):
            if labels[c, i] == 1:
                values[at] = scores[c, i]
                if len(codes):
                    owners[at] = codes[i]
                at += 1
    return values, owners, counts, bad


@compiled
def table(distinct, d, heads):  # type: ignore[no-untyped-def]
    """Fill `heads` with the place of the first value of each of equal steps; return where they begin and their scale.

    `heads` has a power of two and one more entries. Scale 0: one step for all.
    """
    steps = len(heads) - 1
    first, last = 0, d - 1
    while first < last and distinct[first] == -np.inf:
        first += 1
    while last > first and distinct[last] == np.inf:
        last -= 1
    low, high = np.float64(distinct[first]), np.float64(distinct[last])
    scale = steps / (high - low) if high > low else 0.0
    if not (scale > 0.0 and scale < np.inf):
        heads[0] = 0
        heads[1:] = d
        return 0.0, 0.0
    filled = 0
    for k in range(d):
        b = _step(distinct[k], low, scale, steps)
        while filled <= b:
            heads[filled] = k
            filled += 1
    while filled <= steps:
        heads[filled] = d
        filled += 1
    return low, scale


@compiled
def _step(x, low, scale, steps):  # type: ignore[no-untyped-def]
    t = (np.float64(x) - low) * scale
    if not t > 0.0:
        return 0
    if t >= steps:
        return steps - 1
    return np.int64(t)


@compiled
def _close(s, k, tally):  # type: ignore[no-untyped-def]
    """Add a patient to the tally."""
    high, low = s >> SPLIT, s & ((1 << SPLIT) - 1)
    tally[0] += high * high
    tally[1] += high * low
    tally[2] += low * low
    tally[3] += s * k
    tally[4] += k * k
    tally[5] += k > 0


@compiled
def fold(  # type: ignore[no-untyped-def]
    scores, labels, slots, distinct, left, heads, low, scale, counts, sums, kinds, n_local, closing, tally
):
    """Place the controls of one column of a block and add them to what is known of it.

    Parameters
    ----------
    scores, labels, slots
        [n]; the slot of a row is -1 for a patient without other rows, below `n_local` for one within the block alone,
        and `n_local` plus a place in `sums` otherwise.
    distinct, left
        Values of the cases, ascending [d], and how many cases are at or above each, with a 0 at the end [d + 1].
    counts
        int32 [2 d + 1], controls below, onto, between the values.
    sums, kinds
        int64 and int32, of the patients that span blocks: doubled placements added up, and number of controls.
    closing
        Places in `sums` of the patients whose last row is in this block; cleared afterwards.
    tally
        int64 [6].

    Returns
    -------
    slots, sums, numbers
        Of the patients finished here that have both cases and controls.
    """
    here_s, here_k = np.zeros(n_local, dtype=np.int64), np.zeros(n_local, dtype=np.int32)
    d, steps = len(distinct), len(heads) - 1
    for i in range(len(scores)):
        label = labels[i]
        if label == 0:
            x = scores[i]
            b = _step(x, low, scale, steps)
            k, end = heads[b], heads[b + 1]
            while end - k > FEW:
                middle = (k + end) >> 1
                if distinct[middle] < x:
                    k = middle + 1
                else:
                    end = middle
            while k < end and distinct[k] < x:
                k += 1
            tie = k < d and distinct[k] == x
            counts[2 * k + tie] += np.int32(1)
            slot = slots[i]
            doubled = np.int64(left[k]) + (left[k + 1] if tie else left[k])
            if slot < 0:
                _close(doubled, 1, tally)
            elif slot < n_local:
                here_s[slot] += doubled
                here_k[slot] += np.int32(1)
            else:
                sums[slot - n_local] += doubled
                kinds[slot - n_local] += np.int32(1)
        elif label == 1:
            slot = slots[i]
            if slot >= n_local:
                kinds[slot - n_local] |= np.int32(CASE)
            elif slot >= 0:
                here_k[slot] |= np.int32(CASE)
    mixed = 0
    for slot in range(n_local):
        mixed += here_k[slot] > CASE
    for place in closing:
        mixed += kinds[place] > CASE
    who, totals = np.empty(mixed, dtype=np.int32), np.empty(mixed, dtype=np.int64)
    numbers = np.empty(mixed, dtype=np.int32)
    at = 0
    for slot in range(n_local):
        k = here_k[slot] & (CASE - 1)
        _close(here_s[slot], np.int64(k), tally)
        if here_k[slot] > CASE:
            who[at], totals[at], numbers[at] = slot, here_s[slot], k
            at += 1
    for place in closing:
        k = kinds[place] & (CASE - 1)
        _close(sums[place], np.int64(k), tally)
        if kinds[place] > CASE:
            who[at], totals[at], numbers[at] = n_local + place, sums[place], k
            at += 1
        sums[place] = 0
        kinds[place] = 0
    return who, totals, numbers
