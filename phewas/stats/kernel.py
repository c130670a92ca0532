"""The compiled pass over scores and labels: AUC, average precision and variance of every column without a full sort.

Only the cases of a column are sorted. A control is placed between their distinct values by a table over equal steps of
the score, which leaves a handful of values to compare; steps decide where to look, never the answer, so that ties and
neighbouring floats are told apart exactly. Everything that `phewas.stats.placement` computes with NumPy follows from
the counts per place. Columns are shared out over threads and never split, so the thread count cannot change a bit.

Import this module only where numba is there, as `phewas.stats.sweep` does: loading it takes longer than a small matrix.
"""

from __future__ import annotations

import numpy as np

from phewas.compiling import compiled

TILE = 64
"""Rows that are copied, column by column, before they are split into cases and controls: 64 x 16 scores stay in the
first cache, and a plain copy waits for many cache lines at once."""

FEW = 12
"""Values up to which the place is found one by one."""

STRIDE = 512
"""Scores whose steps are computed together, many to an instruction."""

AREA, PRECISION, SECOND, FIRST_SUM = range(4)
"""Rows of the numbers of a run: AUC, average precision, the AUC of a second score, and from here on the nine sums of
`phewas.stats.placement.SUMS`."""

CASES, CONTROLS, CASE_CLUSTERS, CONTROL_CLUSTERS, ALL_CLUSTERS = range(5)
"""Rows of the counts of a run."""


@compiled
def split(  # type: ignore[no-untyped-def]
    scores, labels, first, width, values, rows, found
):
    """Copy cases to the front and controls to the back of `values` [width, N + 2]; return the first bad column or -1.

    Both places are written for every row and the one that applies is kept: nothing to mispredict. `rows` takes the row
    numbers likewise unless it is empty.
    """
    n_rows = scores.shape[0]
    last = n_rows + 1
    bad = -1
    with_rows = rows.shape[1] > 0
    copy, marks = np.empty((width, TILE), dtype=scores.dtype), np.empty((width, TILE), dtype=np.int8)
    for c in range(width):
        found[0, c] = 0
        found[1, c] = 0
    for top in range(0, n_rows, TILE):
        size = min(TILE, n_rows - top)
        for c in range(width):
            for i in range(size):
                copy[c, i] = scores[top + i, first + c]
                marks[c, i] = labels[top + i, first + c]
        for c in range(width):
            wrong = 0
            for i in range(size):
                x, label = copy[c, i], marks[c, i]
                wrong |= ((x != x) & (label >= 0)) | (label > 1) | (label < -1)
            m, n = found[0, c], last - found[1, c]
            for i in range(size):
                x, label = copy[c, i], marks[c, i]
                values[c, m] = x
                values[c, n] = x
                if with_rows:
                    rows[c, m] = top + i
                    rows[c, n] = top + i
                m += label == 1
                n -= label == 0
            found[0, c], found[1, c] = m, last - n
            if wrong and (bad < 0 or first + c < bad):
                bad = first + c
    return bad


@compiled
def _sorted(positive, m, scratch, heads, n_steps, edge):  # type: ignore[no-untyped-def]
    """Sort the cases into `scratch`: shared out over the steps of the table, then mended by insertion.

    `heads` becomes the place of the first case of each step. Returns the most cases of a step.
    """
    for b in range(n_steps + 2):
        heads[b] = 0
    for i in range(m):
        heads[_step(positive[i], edge, n_steps) + 2] += np.int32(1)
    crowd = 0
    for b in range(2, n_steps + 2):
        crowd = max(crowd, heads[b])
        heads[b] += heads[b - 1]
    for i in range(m):
        b = _step(positive[i], edge, n_steps) + 1
        scratch[heads[b]] = positive[i]
        heads[b] += np.int32(1)
    if crowd > 32:
        scratch[:m] = np.sort(scratch[:m])
        return crowd
    for i in range(1, m):
        x = scratch[i]
        k = i
        while k > 0 and scratch[k - 1] > x:
            scratch[k] = scratch[k - 1]
            k -= 1
        scratch[k] = x
    return crowd


@compiled
def _step(x, edge, n_steps):  # type: ignore[no-untyped-def]
    """Return the step of a score; it never falls as the score grows. `edge` holds where steps begin and their scale."""
    t = (x - edge[0]) * edge[1]
    if not t > 0.0:
        return 0
    if t >= n_steps:
        return n_steps - 1
    return np.int64(t)


@compiled
def heads_of(distinct, d, heads, n_steps, edge):  # type: ignore[no-untyped-def]
    """Fill `heads` with the place of the first value of each step; return the most values of a step."""
    filled, crowd, alone = 0, 0, 0
    for k in range(d):
        b = _step(distinct[k], edge, n_steps)
        alone += 1
        if filled <= b:
            alone = 1
        crowd = max(crowd, alone)
        while filled <= b:
            heads[filled] = k
            filled += 1
    while filled <= n_steps:
        heads[filled] = d
        filled += 1
    return crowd


@compiled
def place_among(values, places, distinct, heads, edge, n_steps, crowd, counts):  # type: ignore[no-untyped-def]
    """Fill `places` with the number of distinct values below each value, doubled, plus the tie, and count them.

    `distinct` ends with NaN. What lies at the head of the next step is above x, so that the search stops by itself.
    Steps are computed as in `_step`, in the scores' own type.
    """
    steps = np.empty(STRIDE, dtype=np.int32)
    low, scale = edge[0], edge[1]
    bottom, top = edge[2], edge[3]
    for start in range(0, len(values), STRIDE):
        part = values[start : start + STRIDE]
        into = places[start : start + STRIDE]
        for i in range(len(part)):
            t = (part[i] - low) * scale
            t = t if t > bottom else bottom
            t = t if t < top else top
            steps[i] = np.int32(t)
        if crowd <= FEW:
            for i in range(len(part)):
                x = part[i]
                k = np.uint32(heads[np.uint32(steps[i])])
                k += np.uint32(distinct[k] < x)
                while distinct[k] < x:
                    k += np.uint32(1)
                place = np.uint32(2 * k) + np.uint32(distinct[k] == x)
                into[i] = place
                counts[place] += np.int32(1)
            continue
        for i in range(len(part)):
            x = part[i]
            k, end = heads[steps[i]], heads[steps[i] + 1]
            while k < end:
                middle = (k + end) >> 1
                if distinct[middle] < x:
                    k = middle + 1
                else:
                    end = middle
            into[i] = 2 * k + (distinct[k] == x)
            counts[into[i]] += np.int32(1)


@compiled
def _column(  # type: ignore[no-untyped-def]
    values, m, n, scratch, heads, weight, counts, v10, v01, places, with_cases, numbers, j
):
    """Place one column; fill `v10` [d] and `v01` [2 d + 1] with deviations and `places` [N + 2] with where to look.

    Returns the number of distinct values d. AUC, AP and the sums of squares over rows go to column j of `numbers`.
    """
    last = len(values) - 1
    low, high = np.inf, -np.inf
    for i in range(m):
        x = np.float64(values[i])
        if x < low and x > -np.inf:
            low = x
        if x > high and x < np.inf:
            high = x
    n_steps = 256
    while n_steps < 4 * m and n_steps < len(heads) - 2:
        n_steps *= 2
    # Where steps begin, how many there are to a unit, the first and the last; all in the type of the scores.
    edge = np.zeros(4, dtype=values.dtype)
    edge[0] = low
    edge[1] = n_steps / (high - low) if high > low else 0.0
    if not (edge[1] > 0.0 and edge[1] < np.inf):
        edge[0], edge[1], n_steps = 0.0, 0.0, 1
    edge[3] = n_steps - 1
    if n_steps == 1:
        # One step for everything: halving.
        scratch[:m] = np.sort(values[:m])
        crowd = FEW + 1
        heads[0], heads[1] = 0, m
    else:
        crowd = _sorted(values, m, scratch, heads, n_steps, edge)

    d = 0
    weight[0] = 1
    for i in range(1, m):
        if scratch[i] != scratch[d]:
            d += 1
            scratch[d] = scratch[i]
            weight[d] = 0
        weight[d] += 1
    d += 1
    if d < m:
        crowd = max(heads_of(scratch, d, heads, n_steps, edge), crowd if n_steps == 1 else 0)
    # What lies above the last value is found at d, which equals no control.
    scratch[d] = np.nan

    counts[: 2 * d + 1] = 0
    first = last - n + 1
    if with_cases:
        # Counted too, and forgotten: what is kept of a case is its place.
        place_among(values[:m], places[:m], scratch, heads, edge, n_steps, crowd, counts)
        counts[: 2 * d + 1] = 0
    place_among(values[first:], places[first:], scratch, heads, edge, n_steps, crowd, counts)

    total, below, precision, left = 0, 0, 0.0, m
    for k in range(d):
        below += int(counts[2 * k])
        doubled = 2 * below + counts[2 * k + 1]
        total += doubled * weight[k]
        precision += weight[k] * (left / (left + (n - below)))
        v10[k] = doubled / (2 * n)
        v01[2 * k] = left / m
        v01[2 * k + 1] = (2 * left - weight[k]) / (2 * m)
        left -= weight[k]
        below += counts[2 * k + 1]
    v01[2 * d] = 0.0
    # In floats: 2 m n can pass 2^53 only where the quotient is exact to the last digits anyway.
    area = total / (2.0 * m * n)
    square10, square01 = 0.0, 0.0
    for k in range(d):
        v10[k] -= area
        square10 += weight[k] * v10[k] * v10[k]
    for b in range(2 * d + 1):
        v01[b] -= area
        square01 += counts[b] * v01[b] * v01[b]
    numbers[0, j] = area
    numbers[1, j] = precision / m
    numbers[3, j] = square10
    numbers[4, j] = square01
    return d


@compiled
def _clustered(sums, rows_of, m, n, numbers, found, shares, j):  # type: ignore[no-untyped-def]
    """Turn the sums and rows of the patients, both [2 C], into the sums of a run; clear them for the next column."""
    i10, i01, i_all = 0, 0, 0
    for c in range(len(rows_of) // 2):
        has10, has01 = rows_of[2 * c] > 0, rows_of[2 * c + 1] > 0
        i10 += has10
        i01 += has01
        i_all += has10 | has01
    square10, square01, cross = 0.0, 0.0, 0.0
    line10, line01, line_cross = 0.0, 0.0, 0.0
    bend10, bend01, bend_cross = 0.0, 0.0, 0.0
    mean10, mean01 = m / max(i10, 1), n / max(i01, 1)
    with_shares = shares.shape[0] > 0
    for c in range(len(rows_of) // 2):
        n_case, n_control = rows_of[2 * c], rows_of[2 * c + 1]
        if n_case | n_control:
            x, y = sums[2 * c], sums[2 * c + 1]
            a = n_case - mean10 if n_case else 0.0
            b = n_control - mean01 if n_control else 0.0
            square10 += x * x
            square01 += y * y
            cross += x * y
            line10 += a * x
            line01 += b * y
            line_cross += a * y + b * x
            bend10 += a * a
            bend01 += b * b
            bend_cross += a * b
            if with_shares and m > 0 and n > 0:
                shares[j, c] = x / m + y / n
            sums[2 * c] = 0.0
            sums[2 * c + 1] = 0.0
            rows_of[2 * c] = 0
            rows_of[2 * c + 1] = 0
    numbers[3, j], numbers[4, j], numbers[5, j] = square10, square01, cross
    numbers[6, j], numbers[7, j], numbers[8, j] = line10, line01, line_cross
    numbers[9, j], numbers[10, j], numbers[11, j] = bend10, bend01, bend_cross
    found[2, j], found[3, j], found[4, j] = i10, i01, i_all


def run_columns(  # type: ignore[no-untyped-def]
    scores, labels, other, codes, n_clusters, width, numbers, found, shares
):
    """Fill `numbers` float64 [12, P] and `found` int64 [5, P] for all columns; return the first bad column or -1.

    Parameters
    ----------
    scores
        float32 or float64 [N, P].
    labels
        int8 [N, P].
    other
        A second score [N, P] for a paired comparison, or [0, P]. With it the sums are those of the differences.
    codes
        int32 [N], patients as 0 .. n_clusters - 1; empty for independent rows.
    width
        Columns taken together: those that share a cache line.
    shares
        float32 [P, n_clusters], zeros, that receives each patient's share in the deviation; or [0, 0].
    """
    n_rows, size = labels.shape
    paired, grouped = other.shape[0] > 0, n_clusters > 0
    by_row = paired or grouped
    values = np.empty((width, n_rows + 2), dtype=scores.dtype)
    rows = np.empty((width, n_rows + 2 if by_row else 0), dtype=np.int32)
    second = np.empty((width, n_rows + 2 if paired else 0), dtype=other.dtype)
    places = np.empty(n_rows + 2, dtype=np.int32)
    places_b = np.empty(n_rows + 2 if paired else 0, dtype=np.int32)
    sums, rows_of = np.zeros(2 * n_clusters), np.zeros(2 * n_clusters, dtype=np.int32)
    heads = np.empty(65_538, dtype=np.int32)
    nothing = np.empty((width, 0), dtype=np.int32)
    ends = np.zeros((2, width), dtype=np.int64)
    room = 0
    scratch, scratch_b = np.empty(1, dtype=scores.dtype), np.empty(1, dtype=other.dtype)
    weight, counts = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int32)
    v10, v01, w10, w01 = np.empty(1), np.empty(1), np.empty(1), np.empty(1)
    spare = np.empty((5, 1))
    for first in range(0, size, width):
        taken = min(width, size - first)
        bad = split(scores, labels, first, taken, values, rows, ends)
        if bad >= 0:
            return bad
        if paired:
            bad = split(other, labels, first, taken, second, nothing, ends)
            if bad >= 0:
                return bad
        for c in range(taken):
            j = first + c
            m, n = ends[0, c], ends[1, c]
            found[0, j], found[1, j], found[2, j], found[3, j], found[4, j] = m, n, m, n, m + n
            if m + 2 > room:
                room = m + m // 2 + 2
                scratch, weight = np.empty(room, dtype=scores.dtype), np.empty(room, dtype=np.int64)
                scratch_b = np.empty(room, dtype=other.dtype)
                counts = np.empty(2 * room, dtype=np.int32)
                v10, v01, w10, w01 = np.empty(room), np.empty(2 * room), np.empty(room), np.empty(2 * room)
            ready = m > 0 and n > 0
            if ready:
                _column(values[c], m, n, scratch, heads, weight, counts, v10, v01, places, by_row, numbers, j)
                numbers[5:, j] = 0.0
            else:
                for k in range(numbers.shape[0]):
                    numbers[k, j] = np.nan
            if ready and paired:
                _column(second[c], m, n, scratch_b, heads, weight, counts, w10, w01, places_b, by_row, spare, 0)
                numbers[2, j] = spare[0, 0]
            if not by_row:
                continue
            last = n_rows + 1
            square10, square01 = 0.0, 0.0
            for i in range(m):
                x = 0.0
                if ready:
                    x = v10[places[i] >> 1]
                    if paired:
                        x -= w10[places_b[i] >> 1]
                if grouped:
                    code = codes[rows[c, i]]
                    sums[2 * code] += x
                    rows_of[2 * code] += np.int32(1)
                square10 += x * x
            for i in range(last, last - n, -1):
                y = 0.0
                if ready:
                    y = v01[places[i]]
                    if paired:
                        y -= w01[places_b[i]]
                if grouped:
                    code = codes[rows[c, i]]
                    sums[2 * code + 1] += y
                    rows_of[2 * code + 1] += np.int32(1)
                square01 += y * y
            numbers[3, j], numbers[4, j] = square10, square01
            if grouped:
                _clustered(sums, rows_of, m, n, numbers, found, shares, j)
                if not ready:
                    numbers[3:, j] = np.nan
    return -1
