"""Which patients have their rows in one block and which in several, for `phewas.stats.streaming`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass
class Patients:
    """The patients of N rows in B blocks.

    Attributes
    ----------
    codes
        int32 [N], patients as 0 .. C-1; empty where rows are independent.
    single
        bool [C]: has one row.
    spanning
        bool [C]: has rows in several blocks.
    place
        int32 [C]: place of a spanning patient among those open at one time, or of another patient with several rows
        among those of its block.
    inside, closing
        Per block: patients with several rows that are all in it, and spanning patients whose last row is in it.
    n_spanning
        Most spanning patients open at one time.
    """

    codes: NDArray[np.int32]
    single: NDArray[np.bool_]
    spanning: NDArray[np.bool_]
    place: NDArray[np.int32]
    inside: list[NDArray[Any]]
    closing: list[NDArray[Any]]
    n_spanning: int

    @classmethod
    def of(cls, codes: NDArray[np.int32], sizes: list[int]) -> Patients:
        """Plan for blocks of the given numbers of rows."""
        n_blocks = len(sizes)
        if not len(codes):
            nothing = np.empty(0, dtype=np.int32)
            return cls(codes, nothing.astype(bool), nothing.astype(bool), nothing, [nothing] * n_blocks,
                       [nothing] * n_blocks, 0)
        size = int(codes.max()) + 1
        block = np.repeat(np.arange(n_blocks, dtype=np.int32), sizes)
        first, last = np.zeros((2, size), dtype=np.int32)
        last[codes] = block
        first[codes[::-1]] = block[::-1]
        single = np.bincount(codes, minlength=size) == 1
        spanning = first < last
        place = np.zeros(size, dtype=np.int32)
        within = ~single & ~spanning
        inside, opening, closing = (_by_block(chosen, of, n_blocks)
                                    for chosen, of in ((within, first), (spanning, first), (spanning, last)))
        free: list[int] = []
        most = 0
        for b in range(n_blocks):
            place[inside[b]] = np.arange(len(inside[b]))
            new = opening[b]
            again = [free.pop() for _ in range(min(len(free), len(new)))]
            place[new] = again + list(range(most, most + len(new) - len(again)))
            most += len(new) - len(again)
            free.extend(place[closing[b]].tolist())
        return cls(codes, single, spanning, place, inside, closing, most)

    def at_block(self, number: int, first_row: int, n_rows: int) -> tuple[
        NDArray[np.int32], int, NDArray[np.int32], NDArray[np.int32]
    ]:
        """Return for a block: slot of each row, number of inner slots, places closing, and the patient of each slot.

        Slots are those of `phewas.stats.kernel_streaming.fold`. The patients are those inside, then those closing, the
        latter by their place.
        """
        inside, closing = self.inside[number], self.closing[number]
        n_local = len(inside)
        if not len(self.codes):
            nothing = np.empty(0, dtype=np.int32)
            return np.full(n_rows, -1, dtype=np.int32), 0, nothing, nothing
        own = self.codes[first_row : first_row + n_rows]
        slots = np.where(self.single[own], -1, self.place[own] + np.where(self.spanning[own], n_local, 0))
        who = np.full(n_local + self.n_spanning, -1, dtype=np.int32)
        who[:n_local] = inside
        places = self.place[closing]
        who[n_local + places] = closing
        return slots.astype(np.int32), n_local, places.astype(np.int32), who


def _by_block(chosen: NDArray[np.bool_], of: NDArray[np.int32], n_blocks: int) -> list[NDArray[Any]]:
    """Return the chosen patients of each block."""
    rows = np.flatnonzero(chosen)
    order = rows[np.argsort(of[rows], kind="stable")]
    return np.split(order, np.cumsum(np.bincount(of[rows], minlength=n_blocks))[:-1])
