"""Loops over the samples of pulse waves for `pulse_features_beats`, compiled; numbers are those of NumPy's steps."""

from __future__ import annotations

import numpy as np

from phewas.compiling import compiled


@compiled
def peaks(x, short, long, offset, refractory, rows, places):  # type: ignore[no-untyped-def]
    """Fill window and sample of each systolic peak, and return how many there are.

    Parameters: x float32 [windows, samples]; odd widths of the two moving averages; the offset's share of the mean;
    samples within which no second beat can follow; rows, places int64 [enough].
    """
    windows, samples = x.shape
    # Sums up to each sample, with room at both ends for the long mean: beyond them lie zeros.
    wide, narrow = long // 2, short // 2
    total, near = np.zeros(samples + 2 * wide + 1), np.zeros(samples, dtype=np.bool_)
    found, all_found = np.empty(samples, dtype=np.int64), 0
    close = np.empty(samples, dtype=np.bool_)
    for window in range(windows):
        wave = x[window]
        so_far = 0.0
        for i in range(samples):
            positive = max(wave[i], np.float32(0))
            so_far += float(np.float32(positive * positive))
            total[wide + i + 1] = so_far
        total[wide + samples + 1 :] = so_far
        level = offset * so_far / samples
        for i in range(1, samples - 1):  # the ends are never near, so that every stretch has an end
            here = (total[i + wide + narrow + 1] - total[i + wide - narrow]) * (1 / short)
            near[i] = here > (total[i + 2 * wide + 1] - total[i]) * (1 / long) + level
        count, begin = 0, -1
        for i in range(1, samples):
            if near[i] and begin < 0:
                begin = i
            elif not near[i] and begin >= 0:
                if i - begin >= short:
                    best = -1
                    for j in range(begin, i):
                        top = wave[j] > wave[j - 1] and not wave[j + 1] > wave[j]
                        if top and (best < 0 or wave[j] > wave[best]):
                            best = j
                    if best >= 0:
                        found[count] = best
                        count += 1
                begin = -1
        while True:
            # Of two peaks closer than a heart can beat the higher stays; several in a row are settled from the left.
            any_close = False
            for i in range(count - 1):
                close[i] = found[i + 1] - found[i] < refractory
                any_close |= close[i]
            if not any_close:
                break
            kept, before, dropped = 0, False, False
            for i in range(count):
                drop = dropped  # the lower of the pair that the last peak began
                dropped = False
                if i < count - 1 and close[i] and not before:
                    if wave[found[i]] >= wave[found[i + 1]]:
                        dropped = True
                    else:
                        drop = True
                before = i < count - 1 and close[i]
                if not drop:
                    found[kept] = found[i]
                    kept += 1
            count = kept
        for i in range(count):
            rows[all_found], places[all_found] = window, found[i]
            all_found += 1
    return all_found


@compiled
def feet(x, rows, places, before, after):  # type: ignore[no-untyped-def]
    """Fill the lowest local minimum before each peak and after it, up to the next peak; -1 for none.

    Parameters: x float32 [windows, samples]; rows, places int64 [peaks], ascending; before, after int64 [peaks].
    """
    first = 0
    while first < len(rows):
        stop = first
        while stop < len(rows) and rows[stop] == rows[first]:
            stop += 1
        wave = x[rows[first]]
        start = 1
        for gap in range(first, stop + 1):
            end = places[gap] if gap < stop else len(wave) - 1
            best = -1
            for i in range(start, end):
                bottom = wave[i] < wave[i - 1] and not wave[i + 1] < wave[i]
                if bottom and (best < 0 or wave[i] < wave[best]):
                    best = i
            if gap < stop:
                before[gap] = best
            if gap > first:
                after[gap - 1] = best
            start = end + 1
        first = stop


@compiled
def drawn(x, rows, begin, period, grid, out):  # type: ignore[no-untyped-def]
    """Interpolate each pulse at shares of its period by Catmull-Rom cubics, which leave curvature smooth enough.

    Parameters: x float32 [windows, samples]; rows int64 [pulses]; begin, period float32 [pulses], in samples; grid
    float32 [points]; out float32 [pulses, points].
    """
    samples = x.shape[1]
    last, farthest = np.float32(samples - 1), max(1, samples - 3)
    half, two, three, four, five = np.float32(0.5), np.float32(2), np.float32(3), np.float32(4), np.float32(5)
    for pulse in range(len(rows)):
        wave = x[rows[pulse]]
        for k in range(len(grid)):
            at = min(max(np.float32(begin[pulse] + np.float32(grid[k] * period[pulse])), np.float32(0)), last)
            left = min(max(int(at), 1), farthest)
            t = np.float32(at - np.float32(left))
            p0, p1 = wave[left - 1], wave[left]
            p2, p3 = wave[min(left + 1, samples - 1)], wave[min(left + 2, samples - 1)]
            bend = t * (three * (p1 - p2) + p3 - p0)
            out[pulse, k] = p1 + half * t * (p2 - p0 + t * (two * p0 - five * p1 + four * p2 - p3 + bend))
