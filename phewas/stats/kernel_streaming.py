"""The compiled halves of `phewas.stats.streaming`: cases gathered from a block, and controls folded into their places.

Import only where numba is there. Sums are whole numbers throughout, so that neither the size nor the order of blocks
can change a bit of the result.
"""

from __future__ import annotations

import numpy as np

from phewas.compiling import compiled

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
def edges(distinct, d, steps, edge):  # type: ignore[no-untyped-def]
    """Fill `edge` [4] as `phewas.stats.kernel` does for so many steps; return how many there are, 1 without a range."""
    first, last = 0, d - 1
    while first < last and distinct[first] == -np.inf:
        first += 1
    while last > first and distinct[last] == np.inf:
        last -= 1
    low, high = np.float64(distinct[first]), np.float64(distinct[last])
    edge[:] = 0.0
    edge[0] = low
    edge[1] = steps / (high - low) if high > low else 0.0
    if not (edge[1] > 0.0 and edge[1] < np.inf):
        edge[0], edge[1], steps = 0.0, 0.0, 1
    edge[3] = steps - 1
    return steps


@compiled
def controls(scores, labels, slots):  # type: ignore[no-untyped-def]
    """Return scores and slots of the controls among rows [n]."""
    values, own = np.empty(len(scores) + 1, dtype=scores.dtype), np.empty(len(scores) + 1, dtype=np.int32)
    n = 0
    for i in range(len(scores)):
        values[n], own[n] = scores[i], slots[i]
        n += labels[i] == 0
    return values[:n], own[:n]


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
def fold(places, own, labels, slots, left, sums, kinds, n_local, closing, tally):  # type: ignore[no-untyped-def]
    """Add the controls of one column of a block to what is known of it.

    Parameters
    ----------
    places, own
        Of the controls: where they lie among the values of the cases (doubled, plus one on a tie), and their slots.
    labels, slots
        [n]; the slot of a row is -1 for a patient without other rows, below `n_local` for one within the block alone,
        and `n_local` plus a place in `sums` otherwise.
    left
        How many cases are at or above each value, with 0 at the end [d + 1].
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
    for i in range(len(labels)):
        if labels[i] == 1:
            slot = slots[i]
            if slot >= n_local:
                kinds[slot - n_local] |= np.int32(CASE)
            elif slot >= 0:
                here_k[slot] |= np.int32(CASE)
    zero = np.int64(0)
    high2, mixed2, low2, total, alone = zero, zero, zero, zero, zero
    for i in range(len(places)):
        k = places[i] >> 1
        doubled = np.int64(left[k]) + np.int64(left[k + (places[i] & 1)])
        slot = own[i]
        # Of those without other rows the squares are added at once, without a branch that nobody could foresee.
        single = np.int64(slot < 0)
        high, rest = doubled >> SPLIT, doubled & ((1 << SPLIT) - 1)
        high2 += single * high * high
        mixed2 += single * high * rest
        low2 += single * rest * rest
        total += single * doubled
        alone += single
        if slot >= n_local:
            sums[slot - n_local] += doubled
            kinds[slot - n_local] += np.int32(1)
        elif n_local:
            slot = max(slot, 0)
            here_s[slot] += (1 - single) * doubled
            here_k[slot] += np.int32(1 - single)
    tally[0] += high2
    tally[1] += mixed2
    tally[2] += low2
    tally[3] += total
    tally[4] += alone
    tally[5] += alone
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
