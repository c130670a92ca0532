"""Random numbers for whole columns, each named by what it is for and by the numbers of its row.

A draw is a hash of the seed, a purpose in words and the row's integers (patient, visit, row of the patient ...), never
of the place of the row in a block: a patient keeps every value whatever else is drawn, in blocks of any size.

References
----------
Steele, Lea, Flood: Fast splittable pseudorandom number generators. OOPSLA 2014, doi:10.1145/2660193.2660195, for the
mixing function (SplitMix64). The key of a purpose is its blake2b hash (`phewas.seeds.hashed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from phewas.seeds import hashed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the SplitMix64 finaliser of 64-bit words; products wrap, as they must."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """The source of all random columns of one emulated hospital.

    Parameters
    ----------
    seed
        Any integer; another seed is another hospital.
    """

    seed: int

    def words(self, purpose: str, *keys: ArrayLike) -> NDArray[np.uint64]:
        """Return 64 random bits per row.

        Parameters
        ----------
        purpose
            What the draw is for; two purposes are independent.
        *keys
            Integer arrays that name the row, broadcast against each other; at least one.
        """
        word = np.asarray(np.uint64(hashed("emulator", self.seed, purpose) & (2**64 - 1)))
        with np.errstate(over="ignore"):
            for key in keys:
                number = np.asarray(key, dtype=np.int64).astype(np.uint64)
                word = np.asarray(_mix(word + _STEP * (number + np.uint64(1))))
        return word

    def uniform(self, purpose: str, *keys: ArrayLike) -> Floats:
        """Return float64 in the open interval (0, 1)."""
        return (np.asarray(self.words(purpose, *keys) >> np.uint64(11), dtype=np.float64) + 0.5) * 2.0**-53

    def normal(self, purpose: str, *keys: ArrayLike) -> Floats:
        """Return standard normal float64."""
        return np.asarray(ndtri(self.uniform(purpose, *keys)), dtype=np.float64)

    def exponential(self, purpose: str, *keys: ArrayLike) -> Floats:
        """Return float64 of mean 1."""
        return np.asarray(-np.log(self.uniform(purpose, *keys)), dtype=np.float64)

    def happens(self, share: float | Floats, purpose: str, *keys: ArrayLike) -> NDArray[np.bool_]:
        """Return True with probability `share` (0: never, 1: always)."""
        return np.asarray(self.uniform(purpose, *keys) < share)

    def integers(self, low: int, high: ArrayLike, purpose: str, *keys: ArrayLike) -> Ints:
        """Return int64 from `low` up to and without `high` (a number or one per row)."""
        width = np.asarray(high, dtype=np.int64) - low
        return low + np.asarray(np.floor(self.uniform(purpose, *keys) * width)).astype(np.int64)

    def pick(self, shares: Sequence[float] | Floats, purpose: str, *keys: ArrayLike) -> Ints:
        """Return the index of one of several outcomes; the shares are scaled to a sum of 1."""
        steps = np.cumsum(np.asarray(shares, dtype=np.float64))
        place = np.searchsorted(steps / steps[-1], self.uniform(purpose, *keys), side="right")
        return np.minimum(place, len(steps) - 1).astype(np.int64)


def runs(counts: Ints) -> tuple[Ints, Ints]:
    """Return, for blocks of `counts` rows each, the block's index and the row's place in it, one per row.

    Examples
    --------
    >>> [a.tolist() for a in runs(np.array([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    owner = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner), dtype=np.int64) - starts[owner]
